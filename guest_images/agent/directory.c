/* The directory: which guest page frame each data page lies in, from /proc/self/pagemap. */
#define _GNU_SOURCE 1
#include <unistd.h>

#include "agent.h"

/* Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bits 0-54 the frame number. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)
#define MAX_STRIDE 2

/* Looks up the frames of `count` data pages from `first` on; 0 where one is not known. */
static void frames_now(const struct writer *writer, uint64_t first, unsigned count,
		       uint64_t *frames)
{
	uint64_t entries[DIRECTORY_ENTRIES * MAX_STRIDE];
	size_t bytes = count * writer->stride * sizeof(entries[0]);
	uintptr_t page = (uintptr_t)writer_data(writer, first) / PAGE_BYTES;
	ssize_t got = pread(writer->agent->pagemap, entries, bytes,
			    (off_t)(page * sizeof(entries[0])));

	for (unsigned i = 0; i < count; i++) {
		uint64_t entry = got == (ssize_t)bytes ? entries[i * writer->stride] : 0;

		frames[i] = entry & PAGEMAP_PRESENT ? entry & PAGEMAP_FRAME : 0;
	}
}

static unsigned entries_from(const struct writer *writer, uint64_t first)
{
	uint64_t left = writer->schedule.pages - first;

	return left < DIRECTORY_ENTRIES ? (unsigned)left : DIRECTORY_ENTRIES;
}

static uint64_t *page_of(const struct writer *writer, uint64_t index)
{
	return writer->directory + index / DIRECTORY_ENTRIES * PAGE_WORDS;
}

uint64_t directory_frame(const struct writer *writer, uint64_t index)
{
	return page_of(writer, index)[DIRECTORY_FRAMES + index % DIRECTORY_ENTRIES];
}

static void build_page(struct writer *writer, uint64_t first)
{
	uint64_t *page = page_of(writer, first);
	unsigned count = entries_from(writer, first);

	page[W_MAGIC] = MAGIC_DIRECTORY;
	page[W_NONCE] = writer->agent->nonce;
	page[DIRECTORY_THREAD] = writer->number;
	page[DIRECTORY_FIRST] = first;
	page[DIRECTORY_COUNT] = count;
	frames_now(writer, first, count, page + DIRECTORY_FRAMES);
	page[DIRECTORY_CHECKSUM] = page_checksum(page);
}

void directory_build(struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++) {
		struct writer *writer = &agent->writers[i];

		for (uint64_t first = 0; first < writer->schedule.pages; first += DIRECTORY_ENTRIES)
			build_page(writer, first);
	}
	agent->frames_known = directory_frame(&agent->writers[0], 0) != 0;
}

uint64_t directory_moved(const struct agent *agent)
{
	uint64_t frames[DIRECTORY_ENTRIES];
	uint64_t moved = 0;

	for (unsigned i = 0; i < agent->options.threads; i++) {
		const struct writer *writer = &agent->writers[i];

		for (uint64_t first = 0; first < writer->schedule.pages;
		     first += DIRECTORY_ENTRIES) {
			unsigned count = entries_from(writer, first);
			const uint64_t *known = page_of(writer, first) + DIRECTORY_FRAMES;

			frames_now(writer, first, count, frames);
			for (unsigned at = 0; at < count; at++)
				moved += frames[at] != known[at];
		}
	}
	return moved;
}
