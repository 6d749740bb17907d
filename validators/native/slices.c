/* Spreads work on pages over threads; see slices.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

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

bool read_slice(const struct slice *slice)
{
	const struct pages *pages = slice->pages;

	return read_all(pages->file, slice->bytes, slice->length, pages->places[slice->first]);
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

static void take_slices(struct job *job, uint8_t *space)
{
	const struct pages *pages = job->pages;
	struct slice slice = { .pages = pages, .bytes = space, .spare = space + SLICE_BYTES };
	uint64_t first, end, done;

	/* After a failure nothing behind it is begun; what is before it has been begun already. */
	while ((first = atomic_fetch_add(&job->next, job->step)) < atomic_load(&job->wrong)) {
		end = pages->count - first < job->step ? pages->count : first + job->step;
		for (; first < end; first += slice.count) {
			slice.first = first;
			slice.count = slice_of(pages, first, end);
			slice.length = (uint64_t)(pages->places[first + slice.count - 1] -
						  pages->places[first]) + pages->size;
			done = job->work(job->context, &slice);
			if (done < slice.count) {
				fail_at(job, first + done);
				break;
			}
		}
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
	uint8_t space[2 * SLICE_BYTES];
	struct job job = { .pages = pages, .work = work, .context = context };
	pthread_t threads[MOST_THREADS];
	uint64_t started = 0, wanted = pages->threads < MOST_THREADS ? pages->threads : MOST_THREADS;

	job.step = SLICES_AT_ONCE * SLICE_BYTES / pages->size;
	atomic_store(&job.wrong, pages->count);
	while (started + 1 < wanted && started * job.step < pages->count &&
	       !pthread_create(&threads[started], NULL, run, &job))
		started++;
	take_slices(&job, space);
	while (started)
		pthread_join(threads[--started], NULL);
	return atomic_load(&job.wrong);
}
