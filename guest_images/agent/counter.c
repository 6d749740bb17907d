/* Calibration of the cycle counter against CLOCK_MONOTONIC. */
#define _GNU_SOURCE 1
#include "counter.h"

#define HALF_NS 25000000
#define TRIES 5
#define ONE_NS (UINT64_C(1) << 32)

struct instant {
	uint64_t ns;
	uint64_t ticks;
};

/* Reads both clocks; of some tries the one with the least time in between counts. */
static struct instant instant_now(void)
{
	struct instant best = {0, 0};
	uint64_t shortest = UINT64_MAX;

	for (int try = 0; try < TRIES; try++) {
		uint64_t before = clock_ns(CLOCK_MONOTONIC);
		uint64_t ticks = counter_cycles();
		uint64_t after = clock_ns(CLOCK_MONOTONIC);

		if (after - before < shortest) {
			shortest = after - before;
			best = (struct instant){before + shortest / 2, ticks};
		}
	}
	return best;
}

/* ns per tick times 2^32, 0 where the counter stood still, ran backwards or is absurdly slow. */
static uint64_t scale_between(const struct instant *from, const struct instant *to)
{
	uint64_t ns = to->ns - from->ns;

	/* Under one tick per microsecond the counter cannot time a page write. */
	if (to->ticks <= from->ticks || (to->ticks - from->ticks) < ns / 1000 || ns >> 32)
		return 0;
	return (ns << 32) / (to->ticks - from->ticks);
}

struct counter counter_calibrate(void)
{
	const struct timespec half = {.tv_nsec = HALF_NS};
	struct counter counter = {.cycles = false, .ns_scale = ONE_NS, .two_us = 2000, .long_gap = LONG_GAP_NS};
	struct instant first = instant_now();
	struct instant middle, last;
	uint64_t scale, halves[2];

	nanosleep(&half, NULL);
	middle = instant_now();
	nanosleep(&half, NULL);
	last = instant_now();
	halves[0] = scale_between(&first, &middle);
	halves[1] = scale_between(&middle, &last);
	scale = scale_between(&first, &last);
	/* Halves that differ by more than an eighth show a counter that does not tick evenly. */
	if (scale > 0 && halves[0] > 0 && halves[0] - halves[0] / 8 < halves[1] &&
	    halves[1] - halves[1] / 8 < halves[0]) {
		counter.cycles = true;
		counter.ns_scale = scale;
		counter.two_us = (2000 * ONE_NS) / scale;
		counter.long_gap = (uint64_t)(((unsigned __int128)LONG_GAP_NS * ONE_NS) / scale);
	}
	return counter;
}
