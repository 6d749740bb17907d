/* A writer thread: checks each page against the past, overwrites it, and times the write. */
#define _GNU_SOURCE 1
#include <time.h>

#include "agent.h"

/* A throttled writer looks up this often, so that `pause` need not wait for a slow rate. */
#define NAP_NS 20000000
/* A throttled writer that fell behind by more than this does not catch up. */
#define MAX_LAG_NS 100000000
/* A few milliseconds of steps. The heartbeat's own thread was seen to wait for 17 s: a stall that it had the
 * bad luck to be charged for counts as processor time that it has had. Whoever writes tells the time too. */
#define TELL_TIME_STEPS 256

static void note_error(struct writer *writer, const struct page_write *expected,
		       const uint64_t *page, unsigned word)
{
	struct mismatch mismatch = {
		.thread = writer->number,
		.index = expected->index,
		.frame = directory_frame(writer, expected->index),
		.expected_generation = expected->generation,
		.found_generation = page[DATA_GENERATION],
		.expected_step = expected->step,
		.found_step = page[DATA_STEP],
		.word = word,
	};

	if (writer->page[THREAD_ERRORS] == 0)
		writer->page[THREAD_FIRST_ERROR] = expected->index;
	writer->page[THREAD_ERRORS]++;
	pthread_mutex_lock(&writer->agent->lock);
	mismatch_add(&writer->agent->errors, &mismatch);
	pthread_mutex_unlock(&writer->agent->lock);
}

/* So that whoever knows when a save resumed the guest can tell what came before that. */
static void note_long_gap(struct writer *writer, uint64_t ns)
{
	volatile uint64_t *page = writer->page;
	uint64_t slot = THREAD_LONG_GAP + page[THREAD_LONG_GAPS] % LONG_GAPS_KEPT * 2;

	page[slot] = clock_ns(CLOCK_MONOTONIC);
	page[slot + 1] = ns;
	page[THREAD_LONG_GAPS]++;
}

static void count_gap(struct writer *writer, uint64_t ticks)
{
	const struct counter *counter = &writer->agent->counter;

	if (ticks > writer->max_gap_ticks) {
		writer->max_gap_ticks = ticks;
		writer->page[THREAD_MAX_GAP] = counter_ns(counter, ticks);
	}
	if (ticks >= counter->long_gap)
		note_long_gap(writer, counter_ns(counter, ticks));
}

static void count_write(struct writer *writer, uint64_t begin, uint64_t end)
{
	const struct counter *counter = &writer->agent->counter;
	uint64_t ticks = end > begin ? end - begin : 0;
	uint64_t ns = counter_ns(counter, ticks);
	unsigned bucket = 0;

	if (ticks >= counter->two_us) {
		uint64_t us = ns / 1000;

		while (us >> (bucket + 1) != 0 && bucket < HISTOGRAM_BUCKETS - 1)
			bucket++;
	}
	writer->page[THREAD_HISTOGRAM + bucket]++;
	writer->page[THREAD_FINE + fine_bucket(ns)]++;
	writer->page[THREAD_TIMED]++;
	if (ticks > writer->max_ticks) {
		writer->max_ticks = ticks;
		writer->page[THREAD_MAX_STALL] = ns;
	}
	if (writer->last_end != 0 && end > writer->last_end)
		count_gap(writer, end - writer->last_end);
	writer->last_end = end;
}

static void step(struct writer *writer)
{
	struct agent *agent = writer->agent;
	enum pattern pattern = agent->options.pattern;
	struct page_write write = schedule_at(&writer->schedule, writer->steps);
	struct page_write before = schedule_before(&writer->schedule, &write);
	uint64_t *page = writer_data(writer, write.index);
	struct page_image old = page_image_of(agent->nonce, writer->number, pattern, &before);
	struct page_image new = page_image_of(agent->nonce, writer->number, pattern, &write);
	unsigned word = page_difference(page, &old);
	uint64_t begin, end;

	if (word != PAGE_WORDS)
		note_error(writer, &before, page, word);
	begin = counter_now(&agent->counter);
	page_store(page, &new);
	end = counter_now(&agent->counter);
	/* Volatile like the page's words, so it follows them in program order; at T0 the vCPU
	 * stands between two instructions, hence memory holds a prefix of that order. */
	writer->page[THREAD_STEPS] = ++writer->steps;
	count_write(writer, begin, end);
	if (writer->steps % TELL_TIME_STEPS == 0)
		heartbeat_tell_time(agent);
}

/* Waits until the next step is due, or until something wants the writer's attention. */
static void pace(struct writer *writer)
{
	uint64_t interval = 1000000000 / writer->agent->options.rate;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (writer->due_ns + MAX_LAG_NS < now)
		writer->due_ns = now;
	while (now < writer->due_ns && !atomic_load(&writer->attention)) {
		uint64_t left = writer->due_ns - now;
		struct timespec nap = {.tv_nsec = left < NAP_NS ? (long)left : NAP_NS};

		nanosleep(&nap, NULL);
		now = clock_ns(CLOCK_MONOTONIC);
	}
	if (now >= writer->due_ns)
		writer->due_ns += interval;
}

void *writer_main(void *argument)
{
	struct writer *writer = argument;
	bool paced = writer->agent->options.rate != 0;

	crew_pin(writer->number);
	for (;;) {
		if (paced)
			pace(writer);
		if (atomic_load_explicit(&writer->attention, memory_order_relaxed)) {
			crew_attend(writer);
			continue;
		}
		step(writer);
	}
	return NULL;
}
