/* The order of writes: which page a thread writes at which step, and the other way round. */
#ifndef AGENT_SCHEDULE_H
#define AGENT_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* The order in which one thread writes its pages. It holds no progress. */
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

/* Returns a pattern's name on the command line and in replies, NULL if there is no such pattern. */
const char *pattern_name(unsigned pattern);

/* Pages of memory for each data page: pattern "sparse" leaves every other one untouched. */
#define MAX_STRIDE 2
static inline size_t pattern_stride(enum pattern pattern)
{
	return pattern == PATTERN_SPARSE ? MAX_STRIDE : 1;
}

struct schedule schedule_of(enum pattern pattern, uint64_t seed, uint64_t thread, uint64_t pages);

/* Returns the write that step number `step` (from 0) makes. */
struct page_write schedule_at(const struct schedule *schedule, uint64_t step);

/* Returns the write of the same page before `write`, generation 0 if there is none. */
struct page_write schedule_before(const struct schedule *schedule, const struct page_write *write);

/* Returns the latest write of page `index` in the first `steps` steps, generation 0 if none. */
struct page_write schedule_latest(const struct schedule *schedule, uint64_t index, uint64_t steps);

#endif
