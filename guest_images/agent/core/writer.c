/* A writer's step: checks the page before it is overwritten, and counts the write after it. */
#include "writer.h"

#include "check.h"
#include "meta_pages.h"

uint64_t writer_frame(const struct writer *writer, uint64_t index)
{
	return word_read(&writer_directory(writer, index)[DIRECTORY_FRAMES + index % DIRECTORY_ENTRIES]);
}

bool writer_prepare(struct writer *writer, struct step *step, struct mismatch *mismatch)
{
	struct page_write write = schedule_at(&writer->schedule, writer->steps);
	struct page_write before = schedule_before(&writer->schedule, &write);

	step->page = writer_data(writer, write.index);
	step->image =
		page_image_of(writer->nonce, writer->number, writer->schedule.pattern, &write);
	if (check_page(writer, &before, mismatch))
		return true;
	if (word_get(&writer->page[THREAD_ERRORS]) == 0)
		word_put(&writer->page[THREAD_FIRST_ERROR], before.index);
	word_add(&writer->page[THREAD_ERRORS], 1);
	return false;
}

void writer_complete(struct writer *writer)
{
	/*
	 * Volatile like the page's words, so it follows them in program order; at T0 the vCPU stands
	 * between two instructions, hence memory holds a prefix of that order.
	 */
	word_put(&writer->page[THREAD_STEPS], ++writer->steps);
}

void writer_wipe(const struct writer *writer)
{
	uint64_t pages = writer->schedule.pages;

	for (uint64_t index = 0; index < pages; index++)
		page_wipe(writer_data(writer, index));
	for (uint64_t first = 0; first < pages; first += DIRECTORY_ENTRIES)
		page_wipe(writer_directory(writer, first));
	page_wipe(writer->page);
}
