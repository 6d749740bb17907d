/* A log of pages that did not hold what they should: their number, and the first 64 in detail. */
#ifndef AGENT_MISMATCH_H
#define AGENT_MISMATCH_H

#include <stdbool.h>
#include <stdint.h>

#define MISMATCH_DETAILS 64

struct mismatch {
	bool hole;                    /* a page to stay untouched; it has no generations */
	uint64_t thread;
	uint64_t index;
	uint64_t frame;               /* guest page frame number, 0 = unknown */
	uint64_t expected_generation; /* 0: never written, all zero */
	uint64_t found_generation;    /* word DATA_GENERATION of the page, whatever it is */
	uint64_t expected_step;
	uint64_t found_step;          /* word DATA_STEP of the page, likewise */
	unsigned word;                /* the first word that differs */
};

struct mismatch_log {
	uint64_t count;
	unsigned kept;
	struct mismatch details[MISMATCH_DETAILS];
};

/* Adds a mismatch: beyond the first 64 it is only counted. */
void mismatch_add(struct mismatch_log *log, const struct mismatch *mismatch);

/* Appends `from` to `log`. */
void mismatch_merge(struct mismatch_log *log, const struct mismatch_log *from);

#endif
