/* Writes pages to their places in another file. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core.h"
#include "slices.h"

struct copying {
	const int64_t *numbers;
	int64_t target;
	_Atomic int64_t error;
};

static bool write_all(int64_t file, const uint8_t *bytes, uint64_t length, int64_t offset)
{
	ssize_t done;

	while (length) {
		done = pwrite((int)file, bytes, length, offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		bytes += done;
		offset += done;
		length -= (uint64_t)done;
	}
	return true;
}

static uint64_t copy_slice(void *context, struct slice *slice)
{
	struct copying *copying = context;
	const uint64_t size = slice->pages->size, end = slice->first + slice->count;
	uint64_t first, count, i;

	if (!read_slice(slice))
		return 0;
	for (first = slice->first; first < end; first += count) {
		count = run_of(copying->numbers, first, end);
		/* Pages that follow one another in RAM have a record's header between them in the file. */
		for (i = 0; i < count; i++)
			__builtin_memcpy(slice->spare + i * size, page_of(slice, first + i), size);
		if (!write_all(copying->target, slice->spare, count * size,
			       copying->numbers[first] * (int64_t)size)) {
			copying->error = errno ? errno : EIO;
			return first - slice->first;
		}
	}
	return slice->count;
}

uint64_t core_copy(const struct pages *pages, const int64_t *numbers, int64_t target, int64_t *error)
{
	struct copying copying = { numbers, target, 0 };
	uint64_t done = spread_slices(pages, copy_slice, &copying);

	*error = copying.error;
	return done;
}
