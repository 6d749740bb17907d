/* `status`: the agent, the progress of its writers, and the duration of their writes. */
#define _GNU_SOURCE 1
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"

const char *state_name(const struct agent *agent)
{
	static const char *const names[] = {"idle", "running", "paused", "ending"};

	return names[word_get(&agent->control[CONTROL_STATE])];
}

/* Appends the kernel's boot id, 36 characters; "unknown" where there is none. */
static void print_boot_id(struct text *reply)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	char id[37] = "unknown";

	if (file) {
		if (!fgets(id, sizeof(id), file))
			strcpy(id, "unknown");
		fclose(file);
	}
	id[strcspn(id, "\n")] = '\0';
	text_add(reply, ",\"boot_id\":\"%s\"", id);
}

static void print_histogram(const struct writer *writer, struct text *reply)
{
	text_add(reply, ",\"hist\":[");
	for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++)
		text_add(reply, "%s%" PRIu64, bucket ? "," : "",
			 word_get(&writer->page[THREAD_HISTOGRAM + bucket]));
	text_add(reply, "]");
}

static void print_writer(const struct writer *writer, struct text *reply)
{
	static const char *const states[] = {"not started", "writing", "parked"};
	uint64_t errors = word_get(&writer->page[THREAD_ERRORS]);
	uint64_t longest = word_get(&writer->page[THREAD_LONGEST_WRITE_NS]);
	uint64_t gap = word_get(&writer->page[THREAD_LONGEST_GAP_NS]);

	text_add(reply, "%s{\"thread\":%u", writer->number ? "," : "", writer->number);
	text_number(reply, "pages", writer->schedule.pages);
	text_number(reply, "steps", word_get(&writer->page[THREAD_STEPS]));
	text_number(reply, "errors", errors);
	if (errors)
		text_number(reply, "first_error", word_get(&writer->page[THREAD_FIRST_ERROR]));
	else
		text_add(reply, ",\"first_error\":null");
	text_add(reply, ",\"state\":\"%s\"", states[word_get(&writer->page[THREAD_STATE])]);
	text_number(reply, "timed", word_get(&writer->page[THREAD_WRITES_TIMED]));
	text_add(reply, ",\"max_stall_us\":%" PRIu64 ".%03" PRIu64, longest / 1000, longest % 1000);
	text_add(reply, ",\"max_gap_us\":%" PRIu64 ".%03" PRIu64, gap / 1000, gap % 1000);
	print_histogram(writer, reply);
	text_add(reply, "}");
}

static void print_agent(const struct agent *agent, struct text *reply)
{
	const struct options *options = &agent->options;

	text_add(reply, "{\"state\":\"%s\",\"version\":%d", state_name(agent), FORMAT_VERSION);
	text_number(reply, "pid", (uint64_t)getpid());
	text_number(reply, "nonce", agent->nonce);
	text_add(reply, ",\"pattern\":\"%s\"", pattern_name(options->pattern));
	text_number(reply, "seed", options->seed);
	text_number(reply, "rate", options->rate);
	text_number(reply, "guest_ram", options->guest_ram);
	text_number(reply, "data_pages", agent->data_pages);
	text_number(reply, "meta_pages", agent->meta_pages);
	text_number(reply, "bytes", options->bytes);
	text_truth(reply, "locked", agent->locked);
	text_truth(reply, "pfn_known", agent->frames_known);
	text_number(reply, "moved", pagemap_count_moved(agent));
	text_truth(reply, "huge", options->huge);
	text_number(reply, "huge_kib", agent->huge_kib);
	text_add(reply, ",\"counter\":\"%s\"", agent->counter.usable ? "cycles" : "clock");
	text_number(reply, "monotonic_ns", clock_ns(CLOCK_MONOTONIC));
	text_number(reply, "realtime_ns", clock_ns(CLOCK_REALTIME));
	text_number(reply, "heartbeats", word_get(&agent->control[CONTROL_HEARTBEATS]));
	print_boot_id(reply);
}

void status_print(struct agent *agent, struct text *reply)
{
	print_agent(agent, reply);
	text_add(reply, ",\"threads\":[");
	for (unsigned i = 0; i < agent->options.threads; i++)
		print_writer(&agent->threads[i].writer, reply);
	text_add(reply, "],\"mismatches\":");
	pthread_mutex_lock(&agent->lock);
	mismatch_print(reply, &agent->errors);
	pthread_mutex_unlock(&agent->lock);
	text_add(reply, "}");
}
