/* A cheap clock for timing single page writes: the CPU's cycle counter where it is usable. */
#ifndef AGENT_COUNTER_H
#define AGENT_COUNTER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "format.h"

struct counter {
	bool cycles;        /* false: the counter is CLOCK_MONOTONIC in ns */
	uint64_t ns_scale;  /* ns per tick, times 2^32 */
	uint64_t two_us;    /* ticks in two microseconds */
	uint64_t long_gap;  /* ticks in LONG_GAP_NS */
};

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static inline uint64_t counter_cycles(void)
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

static inline uint64_t counter_now(const struct counter *counter)
{
	return counter->cycles ? counter_cycles() : clock_ns(CLOCK_MONOTONIC);
}

/* Ticks in ns. Cannot overflow for spans under 500 years. */
static inline uint64_t counter_ns(const struct counter *counter, uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * counter->ns_scale >> 32);
}

/* Measures the cycle counter against CLOCK_MONOTONIC for about 50 ms. */
struct counter counter_calibrate(void);

#endif
