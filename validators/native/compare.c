/* Compares pages with those of another file, and with zero. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "core.h"
#include "slices.h"

struct comparison {
	const int64_t *numbers;
	int64_t image;
	uint8_t *differs;
	_Atomic uint8_t other;
};

static uint64_t compare_slice(void *context, struct slice *slice)
{
	struct comparison *comparison = context;
	const uint64_t size = slice->pages->size, end = slice->first + slice->count;
	uint64_t first, count, i;

	if (!read_slice(slice))
		return 0;
	for (first = slice->first; first < end; first += count) {
		count = run_of(comparison->numbers, first, end);
		if (!read_all(comparison->image, slice->spare, count * size,
			      comparison->numbers[first] * (int64_t)size)) {
			comparison->other = 1;
			return first - slice->first;
		}
		for (i = 0; i < count; i++)
			comparison->differs[first + i] =
				memcmp(page_of(slice, first + i), slice->spare + i * size, size) != 0;
	}
	return slice->count;
}

uint64_t core_differing(const struct pages *pages, const int64_t *numbers, int64_t image, uint8_t *differs,
			uint8_t *other)
{
	struct comparison comparison = { numbers, image, differs, 0 };
	uint64_t done = spread_slices(pages, compare_slice, &comparison);

	*other = comparison.other;
	return done;
}

static bool is_zero(const uint8_t *page, uint64_t size)
{
	return !page[0] && !memcmp(page, page + 1, size - 1);
}

/* Tells whether the file has a hole where the slice is. */
static bool is_hole(const struct slice *slice)
{
	const int64_t start = slice->pages->places[slice->first];
	off_t data = lseek((int)slice->pages->file, start, SEEK_DATA);

	return data < 0 ? errno == ENXIO : data >= start + (off_t)slice->length;
}

static uint64_t find_nonzero(void *context, struct slice *slice)
{
	uint8_t *nonzero = context;
	uint64_t i;

	if (is_hole(slice)) {
		memset(nonzero + slice->first, 0, slice->count);
		return slice->count;
	}
	if (!read_slice(slice))
		return 0;
	for (i = slice->first; i < slice->first + slice->count; i++)
		nonzero[i] = !is_zero(page_of(slice, i), slice->pages->size);
	return slice->count;
}

uint64_t core_nonzero(const struct pages *pages, uint8_t *nonzero)
{
	return spread_slices(pages, find_nonzero, nonzero);
}
