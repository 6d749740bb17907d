/* The bare agent's memory: its pages lie at the end of RAM, on both sides of a hole where they need to. */
#include "agent.h"
#include "core/meta_pages.h"
#include "processor.h"

/*
 * Left to firmware at the end of RAM: SeaBIOS has its tables there, and QEMU's hw/riscv/boot.c puts the device
 * tree, of up to 2 MiB, at a multiple of 2 MiB. Holes of pattern "sparse" must be memory that nobody has used.
 */
#define RESERVED_AT_END (4 * 1024 * 1024)
#define NS_PER_S 1000000000
/* RAM begins at a multiple of this: at 0 on x86, at 1 or 2 GiB elsewhere. */
#define RAM_ALIGNMENT (1024 * 1024 * 1024)
/* The thread page and the report page of a writer. */
#define PAGES_PER_CPU 2
/* How often the clocks are renewed, which is also the heartbeat. */
#define RENEW_NS 5000000

static struct word *next_page;

/* Takes pages that follow one another. They may hold what firmware has left there. */
static struct word *take_pages(uint64_t count)
{
	struct word *pages = next_page;

	next_page += count * PAGE_WORDS;
	return pages;
}

static void clear(volatile struct word *page)
{
	for (unsigned word = 0; word < PAGE_WORDS; word++)
		word_put(&page[word], 0);
}

static volatile struct word *take_cleared_page(void)
{
	volatile struct word *page = take_pages(1);

	clear(page);
	return page;
}

static void build_writer(unsigned number, uint64_t pages)
{
	struct cpu *cpu = &agent.cpus[number];
	struct writer *writer = &cpu->writer;

	*writer = (struct writer){
		.nonce = agent.nonce,
		.number = number,
		.schedule = schedule_of(agent.pattern, agent.seed, number, pages),
		.page = take_cleared_page(),
	};
	cpu->number = number;
	cpu->jobs_done = agent.job_number;
	cpu->statistics = (struct statistics){.page = writer->page};
	cpu->report = take_cleared_page();
	thread_page_fill(writer->page, agent.nonce, number, pages);
}

static void fill_directory(struct writer *writer)
{
	uint64_t pages = writer->schedule.pages;

	for (uint64_t first = 0; first < pages; first += DIRECTORY_ENTRIES) {
		struct word *page = writer_directory(writer, first);
		unsigned count = directory_count(pages, first);

		clear(page);
		for (unsigned i = 0; i < count; i++)
			word_put(&page[DIRECTORY_FRAMES + i],
				 processor_physical(writer_data(writer, first + i)) / PAGE_BYTES);
		directory_page_complete(page, writer->nonce, writer->number, first, count);
	}
}

/* Holes are not touched, nor read: the host is to find memory there that never was used. */
static void take_data(struct writer *writer)
{
	uint64_t pages = writer->schedule.pages;

	writer->data = (char *)take_pages(pages * pattern_stride(agent.pattern));
}

static void clear_data(const struct writer *writer)
{
	for (uint64_t index = 0; index < writer->schedule.pages; index++) {
		struct word *page = writer_data(writer, index);

		/* Written first, for one page fault of the host in place of two. */
		word_put(page, 0);
		if (page_first_nonzero(page) != PAGE_WORDS)
			clear(page);
	}
}

static uint64_t pages_of(uint64_t number)
{
	return agent.data_pages / agent.threads + (number < agent.data_pages % agent.threads);
}

/* Returns the number of all pages at the end of RAM. */
static uint64_t all_pages(void)
{
	uint64_t pages = agent.data_at ? 0 : agent.data_pages * pattern_stride(agent.pattern);

	for (unsigned i = 0; i < agent.threads; i++)
		pages += PAGES_PER_CPU + directory_pages(pages_of(i));
	return pages;
}

/*
 * Returns where the pages begin that end at the end of RAM; 0 if they do not fit in. Those that describe the
 * agent come first: what a save gets wrong by time shows in the data pages, against the counters before them.
 */
static uintptr_t block_start(const volatile struct word *arguments)
{
	uint64_t ram_start = (uintptr_t)agent.control & ~(uintptr_t)(RAM_ALIGNMENT - 1);
	uint64_t low = word_get(&arguments[SERVE_LOW_RAM]), most = processor_ram_limit();
	uint64_t high_start = word_get(&arguments[SERVE_HIGH_START]);
	uint64_t high = high_start ? word_get(&arguments[SERVE_GUEST_RAM]) - low : 0;
	uint64_t joined = high ? processor_join_ram(low, high_start, high) : 0;
	uint64_t base = joined ? joined : ram_start;
	uint64_t end = base + (joined ? low + high : low < most ? low : most) - RESERVED_AT_END;
	uint64_t bytes = all_pages() * PAGE_BYTES;
	uint64_t described = agent.threads * PAGES_PER_CPU * PAGE_BYTES, hole = base + low;
	uint64_t start = end - bytes;

	if ((uintptr_t)image_end - ram_start + bytes > end - base)
		return 0;
	/* The host takes the thread and report pages to follow one another. */
	if (start < hole && start + described > hole)
		start = hole - described;
	return (uintptr_t)start;
}

static void take_all_pages(void)
{
	for (unsigned i = 0; i < agent.threads; i++)
		build_writer(i, pages_of(i));
	for (unsigned i = 0; i < agent.threads; i++)
		agent.cpus[i].writer.directory = take_pages(directory_pages(pages_of(i)));
	if (agent.data_at)
		next_page = (struct word *)(uintptr_t)agent.data_at;
	for (unsigned i = 0; i < agent.threads; i++) {
		take_data(&agent.cpus[i].writer);
		fill_directory(&agent.cpus[i].writer);
		clear_data(&agent.cpus[i].writer);
	}
}

static void take_plan(const volatile struct word *arguments)
{
	uint64_t rate = word_get(&arguments[SERVE_RATE]);

	agent.nonce = word_get(&arguments[SERVE_NONCE]);
	agent.pattern = (enum pattern)word_get(&arguments[SERVE_PATTERN]);
	agent.seed = word_get(&arguments[SERVE_SEED]);
	agent.threads = word_get(&arguments[SERVE_THREADS]);
	agent.realtime_ns = word_get(&arguments[SERVE_REALTIME_NS]);
	agent.scale = tick_scale_of(word_get(&arguments[SERVE_NS_PER_TICK]));
	agent.renew_ticks = agent.scale.long_gap / (LONG_GAP_NS / RENEW_NS);
	agent.step_ticks = rate ? agent.scale.long_gap * (NS_PER_S / LONG_GAP_NS) / rate : 0;
	agent.data_pages =
		word_get(&arguments[SERVE_BYTES]) / PAGE_BYTES / pattern_stride(agent.pattern);
	agent.data_at = word_get(&arguments[SERVE_DATA]);
}

static bool plan_is_possible(const volatile struct word *arguments)
{
	uint64_t threads = word_get(&arguments[SERVE_THREADS]);

	return pattern_name((unsigned)word_get(&arguments[SERVE_PATTERN])) && threads >= 1 &&
	       threads <= MAX_CPUS && word_get(&arguments[SERVE_DATA]) % PAGE_BYTES == 0 &&
	       word_get(&arguments[SERVE_NS_PER_TICK]) != 0 &&
	       word_get(&arguments[SERVE_BYTES]) / PAGE_BYTES >= 2 * MAX_STRIDE * threads;
}

enum bare_result memory_build(const volatile struct word *arguments)
{
	if (!plan_is_possible(arguments))
		return BARE_WRONG_ARGUMENT;
	take_plan(arguments);
	next_page = (struct word *)block_start(arguments);
	if (!next_page) {
		agent.threads = 0;
		return BARE_NO_MEMORY;
	}
	take_all_pages();
	control_page_fill(agent.control, &(struct agent_description){
						 .nonce = agent.nonce,
						 .pattern = agent.pattern,
						 .seed = agent.seed,
						 .threads = agent.threads,
						 .data_pages = agent.data_pages,
						 .guest_ram = word_get(&arguments[SERVE_GUEST_RAM]),
					 });
	word_put(&agent.control[CONTROL_META], processor_physical(agent.cpus[0].writer.page));
	return BARE_DONE;
}
