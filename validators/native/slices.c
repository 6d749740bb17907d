/* Spreads work on pages over threads; see slices.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guard.h"
#include "slices.h"

struct job {
	const struct pages *pages;
	slice_work *work;
	void *context;
	uint64_t step;          /* pages that a thread takes in one go */
	_Atomic uint64_t next;  /* the first that no thread has taken */
	_Atomic uint64_t wrong; /* the first that failed, `count` if none did */
};

bool read_all(int64_t file, uint8_t *buffer, uint64_t length, int64_t offset)
{
	ssize_t done;

	while (length) {
		done = pread((int)file, buffer, length, offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		buffer += done;
		offset += done;
		length -= (uint64_t)done;
	}
	return true;
}

/* Linux 5.14 include/uapi/asm-generic/mman-common.h; an older C library has no name for it. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Gives the kernel an advice on the pages that have some bytes of the file; tells whether it took it. */
static bool advise(const struct pages *pages, uint64_t start, uint64_t end, int advice)
{
	const uint64_t before = start & ((uint64_t)sysconf(_SC_PAGESIZE) - 1);

	return !madvise((void *)(pages->map + start - before), end - start + before, advice);
}

/* Tells whether the bytes are in the mapping; the kernel puts them there, or says that it cannot. */
static bool is_mapped(const struct slice *slice)
{
	const struct pages *pages = slice->pages;
	const int64_t place = pages->places[slice->first];
	uint64_t start;

	if (!pages->map || slice->unmapped || place < 0)
		return false;
	start = (uint64_t)place;
	if (start > pages->map_bytes || pages->map_bytes - start < slice->length)
		return false;
	return pages->present || advise(pages, start, start + slice->length, MADV_POPULATE_READ);
}

bool read_slice(struct slice *slice)
{
	const struct pages *pages = slice->pages;

	if (is_mapped(slice)) {
		slice->bytes = pages->map + pages->places[slice->first];
		return true;
	}
	slice->bytes = slice->buffer;
	return read_all(pages->file, slice->buffer, slice->length, pages->places[slice->first]);
}

uint64_t run_of(const int64_t *numbers, uint64_t first, uint64_t end)
{
	uint64_t next = first + 1;

	while (next < end && numbers[next] == numbers[next - 1] + 1)
		next++;
	return next - first;
}

/*
 * Returns how many pages from `first` on, and before `end`, can be read in one go. Pages that overlap are not, so that
 * those of a slice have no more bytes than it has.
 */
static uint64_t slice_of(const struct pages *pages, uint64_t first, uint64_t end)
{
	const int64_t *places = pages->places;
	const int64_t size = (int64_t)pages->size;
	uint64_t next = first + 1;

	while (next < end && places[next] >= places[next - 1] + size &&
	       places[next] - places[next - 1] <= size + MOST_GAP &&
	       places[next] - places[first] <= SLICE_BYTES - size)
		next++;
	return next - first;
}

static void fail_at(struct job *job, uint64_t number)
{
	uint64_t seen = atomic_load(&job->wrong);

	while (number < seen && !atomic_compare_exchange_weak(&job->wrong, &seen, number))
		;
}

/* Works on a slice; after a SIGBUS in its mapping once more, on bytes that are read, which says what is wrong. */
static uint64_t work_on(const struct job *job, struct slice *slice)
{
	sigjmp_buf escape;
	uint64_t done;

	slice->unmapped = false;
	if (sigsetjmp(escape, 0))
		slice->unmapped = true;
	guard_escape = slice->unmapped ? NULL : &escape;
	done = job->work(job->context, slice);
	guard_escape = NULL;
	return done;
}

/* The bytes of the file that a thread has had mapped, from `start` to before `end`. */
struct mapped {
	uint64_t start;
	uint64_t end;
};

/* Takes mapped pages away again, so that a large file needs little memory. */
static void take_away(const struct pages *pages, struct mapped *mapped)
{
	if (mapped->start < mapped->end)
		advise(pages, mapped->start, mapped->end, MADV_DONTNEED);
	mapped->start = mapped->end = 0;
}

static void note_mapped(const struct slice *slice, struct mapped *mapped)
{
	const uint64_t place = (uint64_t)slice->pages->places[slice->first];

	if (slice->bytes == slice->buffer || slice->pages->present)
		return;
	if (place < mapped->start || place > mapped->end + MOST_GAP)
		take_away(slice->pages, mapped);
	if (mapped->start == mapped->end)
		mapped->start = place;
	mapped->end = place + slice->length;
}

static void take_slices(struct job *job, uint8_t *space)
{
	const struct pages *pages = job->pages;
	struct slice slice = { .pages = pages, .buffer = space, .spare = space + SLICE_BYTES };
	struct mapped mapped = { 0, 0 };
	uint64_t first, end, done;

	/* After a failure nothing behind it is begun; what is before it has been begun already. */
	while ((first = atomic_fetch_add(&job->next, job->step)) < atomic_load(&job->wrong)) {
		end = pages->count - first < job->step ? pages->count : first + job->step;
		for (; first < end; first += slice.count) {
			slice.first = first;
			slice.count = slice_of(pages, first, end);
			slice.length = (uint64_t)(pages->places[first + slice.count - 1] -
						  pages->places[first]) + pages->size;
			slice.bytes = slice.buffer;
			done = work_on(job, &slice);
			if (done < slice.count) {
				fail_at(job, first + done);
				break;
			}
			note_mapped(&slice, &mapped);
		}
		/* Other threads have the pages beside these. */
		take_away(pages, &mapped);
	}
}

static void *run(void *argument)
{
	uint8_t *space = malloc(2 * SLICE_BYTES);

	/* The thread that called does what is left, in a buffer of its own. */
	if (space)
		take_slices(argument, space);
	free(space);
	return NULL;
}

uint64_t spread_slices(const struct pages *pages, slice_work *work, void *context)
{
	/* Not on the stack, which may be small. */
	uint8_t *space = malloc(2 * SLICE_BYTES);
	struct job job = { .pages = pages, .work = work, .context = context };
	pthread_t threads[MOST_THREADS];
	uint64_t started = 0, wanted = pages->threads < MOST_THREADS ? pages->threads : MOST_THREADS;

	if (!space)
		return 0;
	job.step = (pages->map ? MAPPED_SLICES : SLICES_AT_ONCE) * SLICE_BYTES / pages->size;
	atomic_store(&job.wrong, pages->count);
	while (started + 1 < wanted && started * job.step < pages->count &&
	       !pthread_create(&threads[started], NULL, run, &job))
		started++;
	take_slices(&job, space);
	while (started)
		pthread_join(threads[--started], NULL);
	free(space);
	return atomic_load(&job.wrong);
}
