/* Spreads work on pages over threads; each reads slices of the file into a buffer of its own. */
#ifndef SLICES_H
#define SLICES_H

#include "core.h"

enum {
	SLICE_BYTES = 256 << 10, /* fits in a processor's second-level cache, with what is made of it */
	MOST_GAP = 16 << 10,     /* so many bytes between two pages are read rather than skipped */
	SLICES_AT_ONCE = 4,      /* taken by a thread in one go */
};

/*
 * Works on `count` pages from number `first` on, whose bytes are at slice + places[i] - places[first]. `spare` has
 * SLICE_BYTES bytes for the work's own use. Returns how many pages it has done; fewer stops everything.
 */
typedef uint64_t slice_work(void *context, const struct pages *pages, uint64_t first, uint64_t count,
			    const uint8_t *slice, uint8_t *spare);

/* Does the work on all pages; returns the number of the first page that failed, `count` if none did. */
uint64_t spread_slices(const struct pages *pages, slice_work *work, void *context);

/* Reads exactly `length` bytes; tells whether they were there. */
int read_all(int file, uint8_t *buffer, uint64_t length, int64_t offset);

#endif
