/* A writer: the data pages of one thread, the order in which it writes them, and how far it is. */
#ifndef AGENT_WRITER_H
#define AGENT_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "mismatch.h"
#include "page.h"
#include "schedule.h"

struct writer {
	uint64_t nonce;
	unsigned number;
	struct schedule schedule;
	char *data;              /* the memory of its data pages */
	volatile struct word *page; /* its thread page */
	struct word *directory;     /* the first of its directory pages */
	uint64_t steps;          /* completed, as in the thread page */
};

/* The write that a writer makes next. */
struct step {
	struct word *page;          /* the data page to store to */
	struct page_image image; /* its new content */
};

/* Returns data page `index`. */
static inline struct word *writer_data(const struct writer *writer, uint64_t index)
{
	size_t stride = pattern_stride(writer->schedule.pattern);

	return (struct word *)(writer->data + index * stride * PAGE_BYTES);
}

/* Returns the page behind data page `index`, which must stay untouched (pattern "sparse"). */
static inline struct word *writer_hole(const struct writer *writer, uint64_t index)
{
	return writer_data(writer, index) + PAGE_WORDS;
}

/* Returns the directory page that lists data page `index`. */
static inline struct word *writer_directory(const struct writer *writer, uint64_t index)
{
	return writer->directory + index / DIRECTORY_ENTRIES * PAGE_WORDS;
}

/* Returns the guest page frame number of data page `index`, 0 where it is not known. */
uint64_t writer_frame(const struct writer *writer, uint64_t index);

/*
 * Prepares the next step, and checks that its page is still as its last write left it. If it is not,
 * counts an error in the thread page, fills `mismatch` and returns false.
 */
bool writer_prepare(struct writer *writer, struct step *step, struct mismatch *mismatch);

/* Counts a step whose content has been stored completely. */
void writer_complete(struct writer *writer);

/* Wipes all pages of a writer that is parked for good, its thread page last. */
void writer_wipe(const struct writer *writer);

#endif
