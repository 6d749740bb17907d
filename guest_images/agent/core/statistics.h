/* Statistics of a writer, kept in its thread page: the times of its writes and of the gaps. */
#ifndef AGENT_STATISTICS_H
#define AGENT_STATISTICS_H

#include <stdint.h>

/* How long a tick is, of the clock that times page writes. */
struct tick_scale {
	uint64_t ns_per_tick; /* times 2^32 */
	uint64_t two_us;      /* ticks in two microseconds */
	uint64_t long_gap;    /* ticks in LONG_GAP_NS */
};

struct statistics {
	volatile struct word *page; /* the writer's thread page */
	uint64_t last_end;       /* end of the last write in ticks, 0 = none to measure a gap from */
	uint64_t longest_write;  /* ticks */
	uint64_t longest_gap;    /* ticks */
};

/* Returns the scale of a clock whose tick is `ns_per_tick` / 2^32 ns. */
struct tick_scale tick_scale_of(uint64_t ns_per_tick);

/* Converts ticks to ns. Cannot overflow for spans under 500 years. */
uint64_t ticks_to_ns(const struct tick_scale *scale, uint64_t ticks);

/*
 * Counts a page write from `begin` to `end`, both in ticks. If the gap that ends with it is a long one,
 * returns its length in ns, for statistics_add_long_gap; else 0.
 */
uint64_t statistics_add_write(struct statistics *statistics, const struct tick_scale *scale,
			      uint64_t begin, uint64_t end);

/* Keeps a long gap: its length, and its end by CLOCK_MONOTONIC. */
void statistics_add_long_gap(struct statistics *statistics, uint64_t end_ns, uint64_t length_ns);

/* Starts all statistics again from zero. */
void statistics_clear(struct statistics *statistics);

#endif
