/* The agent's memory: mapped, locked, and touched so that every page has a frame of its own. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "core/meta_pages.h"

#define HUGE_BYTES (2 * 1024 * 1024)
/* From linux/mman.h; musl has no name for it. */
#define LOCK_ON_FAULT 1
/* What must be left for an SSH login and a shell beside the agent; at 0 the kernel killed dropbear
 * (Linux 6.12, 512 MiB guest). */
#define RESERVE_KIB 1024

size_t kernel_page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* Reads a number of kB from a file like /proc/meminfo; UINT64_MAX where there is none. */
static uint64_t kib_from(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	uint64_t kib = UINT64_MAX;
	char line[128];

	if (!file)
		return UINT64_MAX;
	while (kib == UINT64_MAX && fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			sscanf(line + strlen(name), ": %" SCNu64, &kib);
	fclose(file);
	return kib;
}

/* Sets how the kernel chooses the agent when memory runs out: 1000 first, -1000 never. */
static void set_oom_score(const char *score)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (file >= 0) {
		/* Best effort: only root may lower it. */
		if (write(file, score, strlen(score)) < 0)
			errno = 0;
		close(file);
	}
}

/* Maps whole pages, aligned for huge pages where they are wanted. NULL after a sentence. */
static char *map_pages(struct agent *agent, size_t pages, bool huge)
{
	size_t bytes = pages * PAGE_BYTES;
	size_t slack = huge ? HUGE_BYTES : 0;
	/* MAP_NORESERVE: the holes of pattern "sparse" are address space that is never backed. */
	char *map = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED) {
		print_error("The agent cannot map %zu bytes: %s.", bytes, strerror(errno));
		return NULL;
	}
	if (huge)
		map += -(uintptr_t)map & (HUGE_BYTES - 1);
	/* EINVAL: a kernel without transparent huge pages; replies report how many there are. */
	if (madvise(map, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
		print_error("The agent cannot choose the page size: %s.", strerror(errno));
		return NULL;
	}
	/* On fault, not at once: holes must stay untouched. */
	if (syscall(SYS_mlock2, map, bytes, LOCK_ON_FAULT) != 0)
		agent->locked = false;
	return map;
}

/* Writes a zero to each page, which gives it a frame of its own. */
static void touch(char *base, uint64_t pages, size_t stride)
{
	for (uint64_t page = 0; page < pages; page++)
		word_put((struct word *)(base + page * stride * PAGE_BYTES), 0);
}

static bool map_writer(struct agent *agent, unsigned number)
{
	const struct options *options = &agent->options;
	struct writer_thread *thread = &agent->threads[number];
	uint64_t share = agent->data_pages / options->threads;
	uint64_t pages = share + (number < agent->data_pages % options->threads);
	size_t stride = pattern_stride(options->pattern);

	thread->agent = agent;
	thread->writer.nonce = agent->nonce;
	thread->writer.number = number;
	thread->writer.schedule = schedule_of(options->pattern, options->seed, number, pages);
	thread->writer.data = map_pages(agent, pages * stride, options->huge);
	if (!thread->writer.data)
		return false;
	touch(thread->writer.data, pages, stride);
	agent->meta_pages += directory_pages(pages);
	return true;
}

static void fill_thread_pages(struct agent *agent)
{
	size_t directory = 1 + agent->options.threads;

	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer_thread *thread = &agent->threads[i];
		struct writer *writer = &thread->writer;

		writer->page = agent->meta + (1 + i) * PAGE_WORDS;
		writer->directory = agent->meta + directory * PAGE_WORDS;
		thread->statistics.page = writer->page;
		directory += directory_pages(writer->schedule.pages);
		thread_page_fill(writer->page, agent->nonce, i, writer->schedule.pages);
		if (agent->counter.usable)
			word_put(&writer->page[THREAD_NS_PER_TICK], agent->counter.scale.ns_per_tick);
	}
}

static void fill_control_page(struct agent *agent)
{
	const struct options *options = &agent->options;
	const struct agent_description description = {
		.nonce = agent->nonce,
		.pattern = options->pattern,
		.seed = options->seed,
		.threads = options->threads,
		.data_pages = agent->data_pages,
		.guest_ram = options->guest_ram,
	};

	control_page_fill(agent->control, &description);
	if (agent->counter.usable)
		word_put(&agent->control[CONTROL_NS_PER_TICK], agent->counter.scale.ns_per_tick);
}

/* Checks that memory is left for the rest of the guest once `wanted_kib` more are taken. */
static bool check_available(uint64_t wanted_kib)
{
	uint64_t available = kib_from("/proc/meminfo", "MemAvailable");

	if (available >= wanted_kib + RESERVE_KIB)
		return true;
	if (wanted_kib > 0)
		print_error("The agent cannot take %" PRIu64 " KiB: %" PRIu64
			    " KiB of memory are available, and it leaves %d KiB to others.",
			    wanted_kib, available, RESERVE_KIB);
	else
		print_error("The agent's memory is too large: it would leave %" PRIu64
			    " KiB to others, who need %d KiB.",
			    available, RESERVE_KIB);
	return false;
}

bool memory_build(struct agent *agent)
{
	if (!check_available(agent->options.bytes / 1024))
		return false;
	/* While the agent takes its memory it is the process to kill, later the last one. */
	set_oom_score("1000");
	agent->locked = true;
	agent->meta_pages = 1 + agent->options.threads;
	for (unsigned i = 0; i < agent->options.threads; i++)
		if (!map_writer(agent, i))
			return false;
	agent->meta = (struct word *)map_pages(agent, agent->meta_pages, false);
	if (!agent->meta)
		return false;
	touch((char *)agent->meta, agent->meta_pages, 1);
	/* Again, since page tables and the directory have taken memory too. */
	if (!check_available(0))
		return false;
	agent->control = agent->meta;
	fill_thread_pages(agent);
	fill_control_page(agent);
	agent->huge_kib = kib_from("/proc/self/smaps_rollup", "AnonHugePages");
	if (agent->huge_kib == UINT64_MAX)
		agent->huge_kib = 0;
	set_oom_score("-1000");
	return true;
}
