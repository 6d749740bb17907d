/* The heartbeat: refreshes the clocks in the control page every 10 ms. */
#define _GNU_SOURCE 1
#include <string.h>

#include "agent.h"

#define INTERVAL_NS 10000000

void heartbeat_tell_time(struct agent *agent)
{
	volatile uint64_t *control = agent->control;

	control[CONTROL_MONOTONIC] = clock_ns(CLOCK_MONOTONIC);
	control[CONTROL_REALTIME] = clock_ns(CLOCK_REALTIME);
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
			control[CONTROL_MAX_GAP] = 0;
		else if (now - last > control[CONTROL_MAX_GAP])
			control[CONTROL_MAX_GAP] = now - last;
		last = now;
		heartbeat_tell_time(argument);
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
		complain("The agent cannot start its heartbeat: %s.", strerror(error));
	return error == 0;
}
