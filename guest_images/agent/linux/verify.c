/* `verify`: compares all data pages with the content that each writer's step count implies. */
#define _GNU_SOURCE 1
#include <stdlib.h>

#include "commands.h"
#include "core/check.h"

/* A thread that checks the pages of one writer. */
struct check_thread {
	const struct writer *writer;
	pthread_t thread;
	struct check_result result;
};

static void *check_main(void *argument)
{
	struct check_thread *check = argument;

	thread_pin(check->writer->number);
	check_writer(check->writer, &check->result);
	return NULL;
}

/* Runs all checks in parallel; a check whose thread cannot be started runs in this thread. */
static void run_checks(const struct agent *agent, struct check_thread *checks)
{
	uint64_t threads = agent->options.threads;
	bool started[MAX_THREADS];

	for (uint64_t i = 0; i < threads; i++) {
		checks[i].writer = &agent->threads[i].writer;
		started[i] = pthread_create(&checks[i].thread, NULL, check_main, &checks[i]) == 0;
	}
	for (uint64_t i = 0; i < threads; i++)
		if (started[i])
			pthread_join(checks[i].thread, NULL);
		else
			check_main(&checks[i]);
}

static void print_checks(const struct agent *agent, const struct check_thread *checks,
			 const struct mismatch_log *all, struct text *reply)
{
	uint64_t holes = 0;

	for (uint64_t i = 0; i < agent->options.threads; i++)
		holes += checks[i].result.holes;
	text_add(reply, "{\"ok\":%s", all->count == 0 ? "true" : "false");
	text_number(reply, "pages_checked", agent->data_pages);
	text_number(reply, "holes_checked", holes);
	text_number(reply, "mismatch_count", all->count);
	text_add(reply, ",\"mismatches\":");
	mismatch_print(reply, all);
	text_add(reply, ",\"threads\":[");
	for (uint64_t i = 0; i < agent->options.threads; i++) {
		const struct writer *writer = checks[i].writer;

		text_add(reply, "%s{\"thread\":%u", i ? "," : "", writer->number);
		text_number(reply, "pages", writer->schedule.pages);
		text_number(reply, "steps", word_get(&writer->page[THREAD_STEPS]));
		text_number(reply, "checksum", checks[i].result.checksum);
		text_add(reply, "}");
	}
	text_add(reply, "]}");
}

void verify_print(const struct agent *agent, struct text *reply)
{
	struct check_thread *checks = calloc(agent->options.threads, sizeof(*checks));
	struct mismatch_log all = {.count = 0};

	if (!checks) {
		text_error(reply, "There is no memory left to verify with.");
		return;
	}
	run_checks(agent, checks);
	for (uint64_t i = 0; i < agent->options.threads; i++)
		mismatch_merge(&all, &checks[i].result.log);
	print_checks(agent, checks, &all, reply);
	free(checks);
}
