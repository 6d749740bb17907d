/* Statistics of a writer: histograms of its writes, and the gaps between them. */
#include "statistics.h"

#include "format.h"

/* The last fine bucket also counts all durations from 2^37 ns on. */
#define FINE_LIMIT_BITS 37

_Static_assert(FINE_BUCKETS == (FINE_LIMIT_BITS - FINE_BUCKET_BITS + 1) << FINE_BUCKET_BITS,
	       "the fine buckets end at the limit");

struct tick_scale tick_scale_of(uint64_t ns_per_tick)
{
	return (struct tick_scale){
		.ns_per_tick = ns_per_tick,
		.two_us = (UINT64_C(2000) << 32) / ns_per_tick,
		.long_gap = ((uint64_t)LONG_GAP_NS << 32) / ns_per_tick,
	};
}

/* Multiplies in halves, since targets of 32 bits have no integer of 128 bits. */
uint64_t ticks_to_ns(const struct tick_scale *scale, uint64_t ticks)
{
	uint64_t high = ticks >> 32, low = (uint32_t)ticks;
	uint64_t whole = scale->ns_per_tick >> 32, fraction = (uint32_t)scale->ns_per_tick;

	return high * scale->ns_per_tick + low * whole + (low * fraction >> 32);
}

/* Powers of two of microseconds; all below 2 us are in bucket 0. */
static unsigned bucket_of(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned bucket = 0;

	while (us >> (bucket + 1) != 0 && bucket < HISTOGRAM_BUCKETS - 1)
		bucket++;
	return bucket;
}

/* Up to 15 ns one bucket for each; from 2^k ns on eight of equal width up to 2^(k+1). */
static unsigned fine_bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns >> FINE_BUCKET_BITS == 0)
		return (unsigned)ns;
	if (ns >> FINE_LIMIT_BITS != 0)
		return FINE_BUCKETS - 1;
	shift = 63 - FINE_BUCKET_BITS - (unsigned)__builtin_clzll(ns);
	return (shift << FINE_BUCKET_BITS) + (unsigned)(ns >> shift);
}

static uint64_t add_gap(struct statistics *statistics, const struct tick_scale *scale,
			uint64_t ticks)
{
	if (ticks > statistics->longest_gap) {
		statistics->longest_gap = ticks;
		word_put(&statistics->page[THREAD_LONGEST_GAP_NS], ticks_to_ns(scale, ticks));
	}
	return ticks >= scale->long_gap ? ticks_to_ns(scale, ticks) : 0;
}

uint64_t statistics_add_write(struct statistics *statistics, const struct tick_scale *scale,
			      uint64_t begin, uint64_t end)
{
	volatile struct word *page = statistics->page;
	uint64_t ticks = end > begin ? end - begin : 0;
	uint64_t ns = ticks_to_ns(scale, ticks);
	uint64_t last_end = statistics->last_end;

	/* Nearly all writes are shorter than 2 us, and need no division. */
	word_add(&page[THREAD_HISTOGRAM + (ticks >= scale->two_us ? bucket_of(ns) : 0)], 1);
	word_add(&page[THREAD_FINE_HISTOGRAM + fine_bucket_of(ns)], 1);
	word_add(&page[THREAD_WRITES_TIMED], 1);
	if (ticks > statistics->longest_write) {
		statistics->longest_write = ticks;
		word_put(&page[THREAD_LONGEST_WRITE_NS], ns);
	}
	statistics->last_end = end;
	return last_end != 0 && end > last_end ? add_gap(statistics, scale, end - last_end) : 0;
}

void statistics_add_long_gap(struct statistics *statistics, uint64_t end_ns, uint64_t length_ns)
{
	volatile struct word *page = statistics->page;
	uint64_t slot = THREAD_LONG_GAP_TIMES + word_get(&page[THREAD_LONG_GAPS]) % LONG_GAPS_KEPT * 2;

	word_put(&page[slot], end_ns);
	word_put(&page[slot + 1], length_ns);
	/* Last, so that a reader never counts a gap without its times. */
	word_add(&page[THREAD_LONG_GAPS], 1);
}

void statistics_clear(struct statistics *statistics)
{
	volatile struct word *page = statistics->page;

	word_put(&page[THREAD_LONGEST_WRITE_NS], 0);
	word_put(&page[THREAD_WRITES_TIMED], 0);
	word_put(&page[THREAD_LONGEST_GAP_NS], 0);
	word_put(&page[THREAD_LONG_GAPS], 0);
	for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++)
		word_put(&page[THREAD_HISTOGRAM + bucket], 0);
	for (unsigned bucket = 0; bucket < FINE_BUCKETS; bucket++)
		word_put(&page[THREAD_FINE_HISTOGRAM + bucket], 0);
	*statistics = (struct statistics){.page = page};
}
