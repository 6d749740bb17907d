/* A record of pages that did not hold what they should: a count and the first 64 in detail. */
#ifndef AGENT_MISMATCH_H
#define AGENT_MISMATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

#define MISMATCH_DETAILS 64

struct mismatch {
	bool hole;                    /* a page that must never have been touched */
	uint64_t thread;
	uint64_t index;
	uint64_t frame;               /* guest page frame number, 0 = unknown */
	uint64_t expected_generation; /* 0: never written, all zero */
	uint64_t found_generation;    /* the page's word 4, whatever it is */
	uint64_t expected_step;
	uint64_t found_step;          /* the page's word 5 */
	unsigned word;                /* the first word that differs */
};

struct mismatch_log {
	uint64_t count;
	unsigned kept;
	struct mismatch details[MISMATCH_DETAILS];
};

void mismatch_add(struct mismatch_log *log, const struct mismatch *mismatch);

/* Appends `from` to `log`; details beyond the first 64 are only counted. */
void mismatch_merge(struct mismatch_log *log, const struct mismatch_log *from);

/* Appends the details as a JSON array. */
void mismatch_print(struct text *text, const struct mismatch_log *log);

#endif
