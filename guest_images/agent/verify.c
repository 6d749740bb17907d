/* `verify`: compares all data pages with what each writer's step count implies. */
#define _GNU_SOURCE 1
#include <stdlib.h>
#include <string.h>

#include "commands.h"

/* What one checking thread, one per writer, finds out. */
struct check {
	struct writer *writer;
	pthread_t thread;
	uint64_t holes;
	uint64_t checksum;
	struct mismatch_log log;
};

static void check_hole(struct check *check, uint64_t index)
{
	unsigned word = page_first_nonzero(writer_hole(check->writer, index));

	if (word != PAGE_WORDS)
		mismatch_add(&check->log, &(struct mismatch){.hole = true,
							     .thread = check->writer->number,
							     .index = index,
							     .word = word});
	check->holes++;
}

static void check_page(struct check *check, uint64_t index)
{
	const struct writer *writer = check->writer;
	const struct agent *agent = writer->agent;
	struct page_write write =
		schedule_latest(&writer->schedule, index, writer->page[THREAD_STEPS]);
	struct page_image image =
		page_image_of(agent->nonce, writer->number, agent->options.pattern, &write);
	const uint64_t *page = writer_data(writer, index);
	unsigned word = page_difference(page, &image);

	if (word != PAGE_WORDS)
		mismatch_add(&check->log, &(struct mismatch){
						  .thread = writer->number,
						  .index = index,
						  .frame = directory_frame(writer, index),
						  .expected_generation = write.generation,
						  .found_generation = page[DATA_GENERATION],
						  .expected_step = write.step,
						  .found_step = page[DATA_STEP],
						  .word = word,
					  });
	check->checksum = mix(check->checksum + page[DATA_CHECKSUM]);
}

static void *check_main(void *argument)
{
	struct check *check = argument;

	crew_pin(check->writer->number);
	for (uint64_t index = 0; index < check->writer->schedule.pages; index++) {
		check_page(check, index);
		if (check->writer->stride > 1)
			check_hole(check, index);
	}
	return NULL;
}

/* Runs all checks at once; where a thread cannot be had, the check runs right here. */
static void run_checks(struct agent *agent, struct check *checks)
{
	uint64_t threads = agent->options.threads;
	bool started[MAX_THREADS];

	for (uint64_t i = 0; i < threads; i++) {
		checks[i].writer = &agent->writers[i];
		started[i] = pthread_create(&checks[i].thread, NULL, check_main, &checks[i]) == 0;
	}
	for (uint64_t i = 0; i < threads; i++)
		if (started[i])
			pthread_join(checks[i].thread, NULL);
		else
			check_main(&checks[i]);
}

static void print_checks(const struct agent *agent, const struct check *checks,
			 const struct mismatch_log *all, struct text *reply)
{
	uint64_t holes = 0;

	for (uint64_t i = 0; i < agent->options.threads; i++)
		holes += checks[i].holes;
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
		text_number(reply, "steps", writer->page[THREAD_STEPS]);
		text_number(reply, "checksum", checks[i].checksum);
		text_add(reply, "}");
	}
	text_add(reply, "]}");
}

void verify_print(struct agent *agent, struct text *reply)
{
	struct check *checks = calloc(agent->options.threads, sizeof(*checks));
	struct mismatch_log all = {.count = 0};

	if (!checks) {
		text_error(reply, "There is no memory left to verify with.");
		return;
	}
	run_checks(agent, checks);
	for (uint64_t i = 0; i < agent->options.threads; i++)
		mismatch_merge(&all, &checks[i].log);
	print_checks(agent, checks, &all, reply);
	free(checks);
}
