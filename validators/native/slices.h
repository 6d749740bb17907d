/* Spreads work on pages over threads; each reads slices of the file into a buffer of its own. */
#ifndef SLICES_H
#define SLICES_H

#include <stdbool.h>

#include "core.h"

enum {
	SLICE_BYTES = 256 << 10, /* fits in a processor's second-level cache, with what is made of it */
	MOST_GAP = 16 << 10,     /* so many bytes between two pages are read rather than skipped */
	SLICES_AT_ONCE = 4,      /* taken by a thread in one go */
	MAPPED_SLICES = 16,      /* the same for a mapped file, where each time stops all threads to take pages away */
};

/* Some neighbours in the file, from number `first` on. */
struct slice {
	const struct pages *pages;
	uint64_t first;
	uint64_t count;
	uint64_t length; /* bytes of the file from the first page to the end of the last, at most SLICE_BYTES */
	const uint8_t *bytes; /* where they are, once they have been read: in the mapping or in `buffer` */
	bool unmapped;   /* whether the mapping is not to be used */
	uint8_t *buffer; /* room for them */
	uint8_t *spare;  /* SLICE_BYTES more, for the work's own use */
};

/*
 * Works on a slice. Returns how many of its pages it has done; fewer stops everything. It may be left at any access to
 * the slice's bytes, and is then begun once more, so it must hold nothing.
 */
typedef uint64_t slice_work(void *context, struct slice *slice);

/* Does the work on all pages; returns the number of the first page that failed, `count` if none did. */
uint64_t spread_slices(const struct pages *pages, slice_work *work, void *context);

/* Reads the bytes of a slice, or finds them in the mapping; tells whether they were there. */
bool read_slice(struct slice *slice);

/* Returns where a page of a slice is, once it has been read. */
static inline const uint8_t *page_of(const struct slice *slice, uint64_t number)
{
	return slice->bytes + (slice->pages->places[number] - slice->pages->places[slice->first]);
}

/* Returns how many pages, from number `first` on and before `end`, have numbers that follow one another. */
uint64_t run_of(const int64_t *numbers, uint64_t first, uint64_t end);

/* Reads exactly `length` bytes; tells whether they were there. */
bool read_all(int64_t file, uint8_t *buffer, uint64_t length, int64_t offset);

#endif
