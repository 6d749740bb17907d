/* The order of writes: each pattern as functions of the step number. */
#include "schedule.h"

#include <stdbool.h>

#include "mix.h"

#define ROUNDS 4

/* Pattern "hot": of ten steps nine write the hot class, the tenth writes the cold class. */
#define HOT_PERIOD 10
#define HOT_SHARE 9

const char *pattern_name(unsigned pattern)
{
	static const char *const names[] = {
		[PATTERN_SEQUENTIAL] = "sequential",
		[PATTERN_RANDOM] = "random",
		[PATTERN_HOT] = "hot",
		[PATTERN_SPARSE] = "sparse",
		[PATTERN_ZERO] = "zero",
	};

	return pattern < sizeof(names) / sizeof(names[0]) ? names[pattern] : NULL;
}

struct schedule schedule_of(enum pattern pattern, uint64_t seed, uint64_t thread, uint64_t pages)
{
	struct schedule schedule = {
		.pattern = pattern,
		.pages = pages,
		.round_key = mix(seed ^ mix(thread + 1)),
		.half_bits = 1,
	};

	while (UINT64_C(1) << 2 * schedule.half_bits < pages)
		schedule.half_bits++;
	return schedule;
}

static uint64_t round_value(const struct schedule *schedule, unsigned round, uint64_t half)
{
	uint64_t mask = (UINT64_C(1) << schedule->half_bits) - 1;

	return mix(schedule->round_key ^ (uint64_t)round << 56 ^ half) & mask;
}

/* A Feistel network permutes 2^(2h) numbers; it is repeated until the result is below `pages`. */
static uint64_t permute(const struct schedule *schedule, uint64_t number)
{
	unsigned bits = schedule->half_bits;

	do {
		uint64_t left = number >> bits;
		uint64_t right = number & ((UINT64_C(1) << bits) - 1);

		for (unsigned round = 0; round < ROUNDS; round++) {
			uint64_t next = left ^ round_value(schedule, round, right);

			left = right;
			right = next;
		}
		number = left << bits | right;
	} while (number >= schedule->pages);
	return number;
}

/* Inverts permute: the rounds backwards, along the same cycle. */
static uint64_t unpermute(const struct schedule *schedule, uint64_t number)
{
	unsigned bits = schedule->half_bits;

	do {
		uint64_t left = number >> bits;
		uint64_t right = number & ((UINT64_C(1) << bits) - 1);

		for (unsigned round = ROUNDS; round-- > 0;) {
			uint64_t previous = right ^ round_value(schedule, round, left);

			right = left;
			left = previous;
		}
		number = left << bits | right;
	} while (number >= schedule->pages);
	return number;
}

static uint64_t hot_pages(const struct schedule *schedule)
{
	return schedule->pages >= 10 ? schedule->pages / 10 : 1;
}

static uint64_t class_size(const struct schedule *schedule, bool cold)
{
	if (schedule->pattern != PATTERN_HOT)
		return schedule->pages;
	return cold ? schedule->pages - hot_pages(schedule) : hot_pages(schedule);
}

/* Returns how many of the first `steps` steps write this class. */
static uint64_t class_writes(const struct schedule *schedule, bool cold, uint64_t steps)
{
	if (schedule->pattern != PATTERN_HOT)
		return steps;
	if (cold)
		return steps / HOT_PERIOD;
	return steps / HOT_PERIOD * HOT_SHARE + steps % HOT_PERIOD;
}

/* Returns the step that makes write number `number` (from 0) of this class. */
static uint64_t class_step(const struct schedule *schedule, bool cold, uint64_t number)
{
	if (schedule->pattern != PATTERN_HOT)
		return number;
	if (cold)
		return number * HOT_PERIOD + HOT_SHARE;
	return number / HOT_SHARE * HOT_PERIOD + number % HOT_SHARE;
}

struct page_write schedule_at(const struct schedule *schedule, uint64_t step)
{
	bool cold = schedule->pattern == PATTERN_HOT && step % HOT_PERIOD == HOT_SHARE;
	uint64_t size = class_size(schedule, cold);
	uint64_t number = class_writes(schedule, cold, step);
	uint64_t element = number % size;
	struct page_write write = {.index = element, .generation = number / size + 1, .step = step};

	if (schedule->pattern == PATTERN_RANDOM)
		write.index = permute(schedule, element);
	else if (cold)
		write.index = hot_pages(schedule) + element;
	return write;
}

struct page_write schedule_before(const struct schedule *schedule, const struct page_write *write)
{
	bool cold = schedule->pattern == PATTERN_HOT && write->index >= hot_pages(schedule);
	struct page_write before = {.index = write->index, .generation = write->generation - 1};

	if (before.generation > 0)
		before.step = class_step(schedule, cold,
					 class_writes(schedule, cold, write->step) -
						 class_size(schedule, cold));
	return before;
}

struct page_write schedule_latest(const struct schedule *schedule, uint64_t index, uint64_t steps)
{
	bool cold = schedule->pattern == PATTERN_HOT && index >= hot_pages(schedule);
	uint64_t size = class_size(schedule, cold);
	uint64_t done = class_writes(schedule, cold, steps);
	uint64_t element = index;
	struct page_write latest = {.index = index};

	if (schedule->pattern == PATTERN_RANDOM)
		element = unpermute(schedule, index);
	else if (cold)
		element = index - hot_pages(schedule);
	if (done > element) {
		latest.generation = (done - element - 1) / size + 1;
		latest.step = class_step(schedule, cold, element + (latest.generation - 1) * size);
	}
	return latest;
}
