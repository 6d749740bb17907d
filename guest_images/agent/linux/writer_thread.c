/* A writer thread: makes one step after the other, times each, and keeps to the rate. */
#define _GNU_SOURCE 1
#include <time.h>

#include "agent.h"

/* A throttled writer looks for requests this often: `pause` need not wait for a slow rate. */
#define MAX_SLEEP_NS 20000000
/* A throttled writer that fell behind by more than this does not catch up. */
#define MAX_LAG_NS 100000000
/*
 * A few milliseconds of steps. The heartbeat thread alone does not keep the clocks up to date: it was
 * seen to wait 17 s for a CPU after a stall that the guest's scheduler had charged to it as CPU time.
 */
#define RENEW_CLOCKS_STEPS 256

static void log_error(struct agent *agent, const struct mismatch *mismatch)
{
	pthread_mutex_lock(&agent->lock);
	mismatch_add(&agent->errors, mismatch);
	pthread_mutex_unlock(&agent->lock);
}

/* Its own time last: at T0 no thread page may have a later time than the control page. */
static void renew_clocks(struct writer_thread *thread)
{
	volatile struct word *page = thread->writer.page;

	word_put(&page[THREAD_MONOTONIC_NS], heartbeat_renew_clocks(thread->agent));
	if (thread->agent->counter.usable)
		word_put(&page[THREAD_COUNTER], cpu_ticks());
}

static void step(struct writer_thread *thread)
{
	struct agent *agent = thread->agent;
	struct mismatch mismatch;
	struct step step;
	uint64_t begin, end, long_gap_ns;

	if (!writer_prepare(&thread->writer, &step, &mismatch))
		log_error(agent, &mismatch);
	begin = cycle_counter_now(&agent->counter);
	page_store(step.page, &step.image);
	end = cycle_counter_now(&agent->counter);
	writer_complete(&thread->writer);
	long_gap_ns = statistics_add_write(&thread->statistics, &agent->counter.scale, begin, end);
	if (long_gap_ns)
		statistics_add_long_gap(&thread->statistics, clock_ns(CLOCK_MONOTONIC),
					long_gap_ns);
	if (agent->options.rate != 0 || thread->writer.steps % RENEW_CLOCKS_STEPS == 0)
		renew_clocks(thread);
}

/* Waits until the next step is due, or until there is a request. */
static void wait_for_rate(struct writer_thread *thread)
{
	uint64_t interval = 1000000000 / thread->agent->options.rate;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (thread->due_ns + MAX_LAG_NS < now)
		thread->due_ns = now;
	while (now < thread->due_ns && !atomic_load(&thread->request)) {
		uint64_t left = thread->due_ns - now;
		uint64_t ns = left < MAX_SLEEP_NS ? left : MAX_SLEEP_NS;
		struct timespec sleep = {.tv_nsec = (long)ns};

		nanosleep(&sleep, NULL);
		now = clock_ns(CLOCK_MONOTONIC);
	}
	if (now >= thread->due_ns)
		thread->due_ns += interval;
}

void *writer_thread_main(void *argument)
{
	struct writer_thread *thread = argument;
	bool throttled = thread->agent->options.rate != 0;

	thread_pin(thread->writer.number);
	for (;;) {
		if (throttled)
			wait_for_rate(thread);
		if (atomic_load_explicit(&thread->request, memory_order_relaxed)) {
			thread_handle_request(thread);
			renew_clocks(thread);
			continue;
		}
		step(thread);
	}
	return NULL;
}
