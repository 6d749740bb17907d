/* The self-check: one page against one write, and all pages against the step count. */
#include "check.h"

#include "format.h"
#include "mix.h"
#include "page.h"

bool check_page(const struct writer *writer, const struct page_write *write,
		struct mismatch *mismatch)
{
	const struct word *page = writer_data(writer, write->index);
	struct page_image image =
		page_image_of(writer->nonce, writer->number, writer->schedule.pattern, write);
	unsigned word = page_difference(page, &image);

	if (word == PAGE_WORDS)
		return true;
	*mismatch = (struct mismatch){
		.thread = writer->number,
		.index = write->index,
		.frame = writer_frame(writer, write->index),
		.expected_generation = write->generation,
		.found_generation = word_read(&page[DATA_GENERATION]),
		.expected_step = write->step,
		.found_step = word_read(&page[DATA_STEP]),
		.word = word,
	};
	return false;
}

static void check_hole(const struct writer *writer, uint64_t index, struct check_result *result)
{
	unsigned word = page_first_nonzero(writer_hole(writer, index));

	if (word != PAGE_WORDS)
		mismatch_add(&result->log, &(struct mismatch){.hole = true,
							      .thread = writer->number,
							      .index = index,
							      .word = word});
	result->holes++;
}

void check_writer(const struct writer *writer, struct check_result *result)
{
	uint64_t steps = word_get(&writer->page[THREAD_STEPS]);

	for (uint64_t index = 0; index < writer->schedule.pages; index++) {
		struct page_write write = schedule_latest(&writer->schedule, index, steps);
		struct mismatch mismatch;

		if (!check_page(writer, &write, &mismatch))
			mismatch_add(&result->log, &mismatch);
		result->checksum =
			mix(result->checksum +
			    word_read(&writer_data(writer, index)[DATA_CHECKSUM]));
		if (pattern_stride(writer->schedule.pattern) > 1)
			check_hole(writer, index, result);
	}
}
