/* Calibration of the cycle counter against CLOCK_MONOTONIC. */
#define _GNU_SOURCE 1
#include "cycle_counter.h"

#define HALF_NS 25000000
#define TRIES 5
#define ONE_NS (UINT64_C(1) << 32)

struct instant {
	uint64_t ns;
	uint64_t ticks;
};

/* Reads both clocks TRIES times, and returns the pair with the least time in between. */
static struct instant instant_now(void)
{
	struct instant best = {0, 0};
	uint64_t shortest = UINT64_MAX;

	for (int try = 0; try < TRIES; try++) {
		uint64_t before = clock_ns(CLOCK_MONOTONIC);
		uint64_t ticks = cpu_ticks();
		uint64_t after = clock_ns(CLOCK_MONOTONIC);

		if (after - before < shortest) {
			shortest = after - before;
			best = (struct instant){before + shortest / 2, ticks};
		}
	}
	return best;
}

/* Returns ns per tick times 2^32; 0 if the counter stopped, ran backwards or is too slow. */
static uint64_t scale_between(const struct instant *from, const struct instant *to)
{
	uint64_t ns = to->ns - from->ns;

	/* Under one tick per microsecond the counter cannot time a page write. */
	if (to->ticks <= from->ticks || (to->ticks - from->ticks) < ns / 1000 || ns >> 32)
		return 0;
	return (ns << 32) / (to->ticks - from->ticks);
}

struct cycle_counter cycle_counter_calibrate(void)
{
	const struct timespec half = {.tv_nsec = HALF_NS};
	struct cycle_counter counter = {.usable = false, .scale = tick_scale_of(ONE_NS)};
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
		counter.usable = true;
		counter.scale = tick_scale_of(scale);
	}
	return counter;
}
