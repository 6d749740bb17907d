/* The self-check: whether data pages hold what the order of writes and the step count say. */
#ifndef AGENT_CHECK_H
#define AGENT_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "mismatch.h"
#include "schedule.h"
#include "writer.h"

/* What a check of all pages of a writer found. */
struct check_result {
	uint64_t holes;    /* holes checked */
	uint64_t checksum; /* chained over the last words of all pages, by index */
	struct mismatch_log log;
};

/* Checks that a page holds exactly what `write` left there. Fills `mismatch` if not. */
bool check_page(const struct writer *writer, const struct page_write *write,
		struct mismatch *mismatch);

/* Checks all data pages and holes of a writer that does not write meanwhile. */
void check_writer(const struct writer *writer, struct check_result *result);

#endif
