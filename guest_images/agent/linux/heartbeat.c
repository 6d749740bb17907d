/* The heartbeat: a thread that renews the clocks in the control page every 10 ms. */
#define _GNU_SOURCE 1
#include <string.h>

#include "agent.h"

#define INTERVAL_NS 10000000

uint64_t heartbeat_renew_clocks(struct agent *agent)
{
	volatile struct word *control = agent->control;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	/*
	 * A thread that was held up since it read the time does not set the clock back. There is no lock,
	 * since a holder that waits for a CPU would keep all others from renewing it.
	 */
	if (word_raise(&control[CONTROL_MONOTONIC_NS], now))
		word_put(&control[CONTROL_REALTIME_NS], clock_ns(CLOCK_REALTIME));
	if (agent->counter.usable)
		word_put(&control[CONTROL_COUNTER], cpu_ticks());
	return now;
}

static void *heartbeat_main(void *argument)
{
	struct agent *agent = argument;
	volatile struct word *control = agent->control;
	const struct timespec interval = {.tv_nsec = INTERVAL_NS};
	uint64_t last = clock_ns(CLOCK_MONOTONIC);

	for (;;) {
		uint64_t now = clock_ns(CLOCK_MONOTONIC);

		if (atomic_exchange(&agent->heartbeat_reset, false))
			word_put(&control[CONTROL_LONGEST_GAP_NS], 0);
		else if (now - last > word_get(&control[CONTROL_LONGEST_GAP_NS]))
			word_put(&control[CONTROL_LONGEST_GAP_NS], now - last);
		last = now;
		heartbeat_renew_clocks(agent);
		word_add(&control[CONTROL_HEARTBEATS], 1);
		nanosleep(&interval, NULL);
	}
	return NULL;
}

bool heartbeat_launch(struct agent *agent)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, heartbeat_main, agent);

	if (error != 0)
		print_error("The agent cannot start its heartbeat: %s.", strerror(error));
	return error == 0;
}
