/*
 * Guest page frame numbers: which frame each data page lies in, from /proc/self/pagemap. A frame of ours has the
 * size of a data page; where the kernel's pages are larger, each of them is several frames in a row.
 */
#define _GNU_SOURCE 1
#include <unistd.h>

#include "agent.h"
#include "core/meta_pages.h"

/* Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bits 0-54 the frame number. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)

/* Looks up the frames of `count` data pages from `first` on; 0 where one is not known. */
static void read_frames(int pagemap, const struct writer *writer, uint64_t first, unsigned count,
			uint64_t *frames)
{
	size_t stride = pattern_stride(writer->schedule.pattern);
	/* One more, since pages that begin within one of the kernel's may end within another. */
	uint64_t entries[DIRECTORY_ENTRIES * MAX_STRIDE + 1];
	size_t each = kernel_page_bytes() / PAGE_BYTES;
	uintptr_t page = (uintptr_t)writer_data(writer, first) / PAGE_BYTES;
	uintptr_t last = page + (count - 1) * stride;
	size_t bytes = (last / each - page / each + 1) * sizeof(entries[0]);
	ssize_t got = pread(pagemap, entries, bytes, (off_t)(page / each * sizeof(entries[0])));

	for (unsigned i = 0; i < count; i++) {
		uintptr_t at = page + i * stride;
		uint64_t entry = got == (ssize_t)bytes ? entries[at / each - page / each] : 0;

		frames[i] = entry & PAGEMAP_PRESENT ? (entry & PAGEMAP_FRAME) * each + at % each : 0;
	}
}

static void fill_page(int pagemap, const struct writer *writer, uint64_t first)
{
	struct word *page = writer_directory(writer, first);
	uint64_t frames[DIRECTORY_ENTRIES];
	unsigned count = directory_count(writer->schedule.pages, first);

	read_frames(pagemap, writer, first, count, frames);
	for (unsigned at = 0; at < count; at++)
		word_put(&page[DIRECTORY_FRAMES + at], frames[at]);
	directory_page_complete(page, writer->nonce, writer->number, first, count);
}

void pagemap_fill_directory(struct agent *agent)
{
	for (unsigned i = 0; i < agent->options.threads; i++) {
		const struct writer *writer = &agent->threads[i].writer;

		for (uint64_t first = 0; first < writer->schedule.pages; first += DIRECTORY_ENTRIES)
			fill_page(agent->pagemap, writer, first);
	}
	agent->frames_known = writer_frame(&agent->threads[0].writer, 0) != 0;
}

uint64_t pagemap_count_moved(const struct agent *agent)
{
	uint64_t frames[DIRECTORY_ENTRIES];
	uint64_t moved = 0;

	for (unsigned i = 0; i < agent->options.threads; i++) {
		const struct writer *writer = &agent->threads[i].writer;

		for (uint64_t first = 0; first < writer->schedule.pages;
		     first += DIRECTORY_ENTRIES) {
			unsigned count = directory_count(writer->schedule.pages, first);
			const struct word *known = writer_directory(writer, first) + DIRECTORY_FRAMES;

			read_frames(agent->pagemap, writer, first, count, frames);
			for (unsigned at = 0; at < count; at++)
				moved += frames[at] != word_read(&known[at]);
		}
	}
	return moved;
}
