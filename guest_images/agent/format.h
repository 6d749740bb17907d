/* The memory format, version 1: page kinds, word numbers and the mixing function. */
#ifndef AGENT_FORMAT_H
#define AGENT_FORMAT_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

#define PAGE_BYTES 4096
#define PAGE_WORDS 512
#define FORMAT_VERSION 1

/* Eight ASCII bytes as they lie in memory, read as one little-endian word. */
#define MAGIC(a, b, c, d, e, f, g, h)                                                              \
	((uint64_t)(a) | (uint64_t)(b) << 8 | (uint64_t)(c) << 16 | (uint64_t)(d) << 24 |          \
	 (uint64_t)(e) << 32 | (uint64_t)(f) << 40 | (uint64_t)(g) << 48 | (uint64_t)(h) << 56)
#define MAGIC_DATA MAGIC('S', 'N', 'A', 'P', 'P', 'A', 'G', 'E')
#define MAGIC_DIRECTORY MAGIC('S', 'N', 'A', 'P', 'D', 'I', 'R', 'Y')
#define MAGIC_CONTROL MAGIC('S', 'N', 'A', 'P', 'C', 'T', 'R', 'L')
#define MAGIC_THREAD MAGIC('S', 'N', 'A', 'P', 'T', 'H', 'R', 'D')

/* Words that every kind of page has. */
enum { W_MAGIC = 0, W_NONCE = 1 };

/* Data page: a head, a linear body, and a checksum over all words before it. */
enum {
	DATA_THREAD = 2,
	DATA_INDEX = 3,
	DATA_GENERATION = 4,
	DATA_STEP = 5,
	DATA_BODY = 6,
	DATA_CHECKSUM = 511
};
#define BODY_STRIDE UINT64_C(0x9E3779B97F4A7C15)

/* Thread page: what one writer has done; it changes all the time and has no checksum. */
enum {
	THREAD_NUMBER = 2,
	THREAD_PAGES = 3,
	THREAD_STEPS = 4,
	THREAD_ERRORS = 5,
	THREAD_FIRST_ERROR = 6,
	THREAD_STATE = 7,
	THREAD_MAX_STALL = 8,  /* ns */
	THREAD_TIMED = 9,      /* writes timed */
	THREAD_MAX_GAP = 10,   /* ns between two steps' ends; an extension of version 1 */
	THREAD_LONG_GAPS = 11, /* gaps of LONG_GAP_NS and more; 11 and 16.. are an extension of version 1 */
	THREAD_LONG_GAP = 16,  /* for each of the last ones: its end by CLOCK_MONOTONIC, and its length, in ns */
	LONG_GAPS_KEPT = 16,
	THREAD_HISTOGRAM = 64, /* bucket b: writes that took [2^b, 2^(b+1)) microseconds */
	HISTOGRAM_BUCKETS = 32,
	THREAD_FINE = 128      /* the same writes by fine_bucket(); an extension of version 1 */
};
#define LONG_GAP_NS 50000000
enum { THREAD_NOT_STARTED = 0, THREAD_WRITING = 1, THREAD_PARKED = 2 };

/* Control page: one per agent. */
enum {
	CONTROL_VERSION = 2,
	CONTROL_PATTERN = 3,
	CONTROL_SEED = 4,
	CONTROL_THREADS = 5,
	CONTROL_PAGE_SIZE = 6,
	CONTROL_DATA_PAGES = 7,
	CONTROL_MONOTONIC = 8, /* ns */
	CONTROL_REALTIME = 9,  /* ns */
	CONTROL_HEARTBEATS = 10,
	CONTROL_STATE = 11,
	CONTROL_GUEST_RAM = 12, /* bytes, as told by the host */
	CONTROL_MAX_GAP = 13    /* ns between two heartbeats; an extension of version 1 */
};
enum { STATE_IDLE = 0, STATE_RUNNING = 1, STATE_PAUSED = 2 };

/* Directory page: where up to 500 data pages of one thread lie in guest RAM. */
enum {
	DIRECTORY_THREAD = 2,
	DIRECTORY_FIRST = 3,
	DIRECTORY_COUNT = 4,
	DIRECTORY_FRAMES = 8,
	DIRECTORY_CHECKSUM = 511,
	DIRECTORY_ENTRIES = 500
};

/* Fine histogram: buckets as wide as an eighth of the power of two that they are in, up to 2^37 ns. */
#define FINE_BITS 3
#define FINE_OCTAVES 37
enum { FINE_BUCKETS = ((FINE_OCTAVES - FINE_BITS) << FINE_BITS) + (1 << FINE_BITS) };

/* The bucket of a duration: up to 15 ns one for each; from 2^k ns on eight up to 2^(k+1). */
static inline unsigned fine_bucket(uint64_t ns)
{
	unsigned shift;

	if (ns >> FINE_BITS == 0)
		return (unsigned)ns;
	if (ns >> FINE_OCTAVES != 0)
		return FINE_BUCKETS - 1;
	shift = 63 - FINE_BITS - (unsigned)__builtin_clzll(ns);
	return (shift << FINE_BITS) + (unsigned)(ns >> shift);
}

/* The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014). */
static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	x ^= x >> 31;
	return x;
}

#endif
