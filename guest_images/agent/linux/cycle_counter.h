/* A cheap clock for timing single page writes: the CPU's cycle counter where it is usable. */
#ifndef AGENT_CYCLE_COUNTER_H
#define AGENT_CYCLE_COUNTER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "core/statistics.h"

struct cycle_counter {
	bool usable;             /* false: CLOCK_MONOTONIC takes its place, with ticks of 1 ns */
	struct tick_scale scale;
};

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Reads the CPU's counter; 0 on an architecture without one here. */
static inline uint64_t cpu_ticks(void)
{
#if defined(__x86_64__)
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
#elif defined(__aarch64__)
	uint64_t ticks;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
	return ticks;
#else
	return 0;
#endif
}

/* Returns the time in ticks of `scale`. */
static inline uint64_t cycle_counter_now(const struct cycle_counter *counter)
{
	return counter->usable ? cpu_ticks() : clock_ns(CLOCK_MONOTONIC);
}

/* Measures the CPU's counter against CLOCK_MONOTONIC for about 50 ms. */
struct cycle_counter cycle_counter_calibrate(void);

#endif
