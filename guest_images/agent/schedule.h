/* The write schedule: which page a thread writes at which step, and the way back. */
#ifndef AGENT_SCHEDULE_H
#define AGENT_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum pattern {
	PATTERN_SEQUENTIAL = 0,
	PATTERN_RANDOM = 1,
	PATTERN_HOT = 2,
	PATTERN_SPARSE = 3,
	PATTERN_ZERO = 4,
	PATTERN_COUNT = 5
};

/* The order in which one thread writes its pages; a pure value, it holds no progress. */
struct schedule {
	enum pattern pattern;
	uint64_t pages;
	uint64_t round_key;
	unsigned half_bits;
};

/* One write of one page. Generation 0 (and step 0) stands for "never written". */
struct page_write {
	uint64_t index;
	uint64_t generation;
	uint64_t step;
};

/* The word for a pattern on the command line and in replies. */
const char *pattern_name(enum pattern pattern);

struct schedule schedule_of(enum pattern pattern, uint64_t seed, uint64_t thread, uint64_t pages);

/* The write that step number `step` (from 0) makes. */
struct page_write schedule_at(const struct schedule *schedule, uint64_t step);

/* The write of the same page before `write`, generation 0 where there was none. */
struct page_write schedule_before(const struct schedule *schedule, const struct page_write *write);

/* The latest write of page `index` once `steps` steps are done, generation 0 if there is none. */
struct page_write schedule_latest(const struct schedule *schedule, uint64_t index, uint64_t steps);

#endif
