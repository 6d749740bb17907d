/* The heartbeat: a thread that renews the clocks in the control page every 10 ms. */
#define _GNU_SOURCE 1
#include <string.h>

#include "agent.h"

#define INTERVAL_NS 10000000

uint64_t heartbeat_renew_clocks(struct agent *agent)
{
	volatile uint64_t *control = agent->control;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	uint64_t seen = control[CONTROL_MONOTONIC_NS];

	/*
	 * A thread that was held up since it read the time does not set the clock back. There is no lock,
	 * since a holder that waits for a CPU would keep all others from renewing it.
	 */
	while (now > seen)
		if (__atomic_compare_exchange_n(&control[CONTROL_MONOTONIC_NS], &seen, now, false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
			control[CONTROL_REALTIME_NS] = clock_ns(CLOCK_REALTIME);
			break;
		}
	return now;
}

static void *heartbeat_main(void *argument)
{
	struct agent *agent = argument;
	volatile uint64_t *control = agent->control;
	const struct timespec interval = {.tv_nsec = INTERVAL_NS};
	uint64_t last = clock_ns(CLOCK_MONOTONIC);

	for (;;) {
		uint64_t now = clock_ns(CLOCK_MONOTONIC);

		if (atomic_exchange(&agent->heartbeat_reset, false))
			control[CONTROL_LONGEST_GAP_NS] = 0;
		else if (now - last > control[CONTROL_LONGEST_GAP_NS])
			control[CONTROL_LONGEST_GAP_NS] = now - last;
		last = now;
		heartbeat_renew_clocks(agent);
		control[CONTROL_HEARTBEATS]++;
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
