/* Data pages. The loops take few instructions per word, which matters under emulation (TCG). */
#include "page.h"

#include "mix.h"

/* Words 6..510: one by itself, then 63 groups of eight. */
#define BODY_WORDS (DATA_CHECKSUM - DATA_BODY)
#define GROUP 8
_Static_assert(BODY_WORDS % GROUP == 1, "the body is one word and whole groups");

struct page_image page_image_of(uint64_t nonce, uint64_t thread, enum pattern pattern,
				const struct page_write *write)
{
	struct page_image image = {
		.zero = write->generation == 0 ||
			(pattern == PATTERN_ZERO && write->generation % 2 == 0),
		.head = {MAGIC_DATA, nonce, thread, write->index, write->generation, write->step},
		.key = mix(mix(mix(nonce ^ thread) ^ write->index) ^ write->step),
	};
	/* The body is linear, so its sum needs no loop: 505 keys and 6 + 7 + ... + 510 strides. */
	uint64_t sum = BODY_WORDS * image.key +
		       BODY_STRIDE * ((DATA_BODY + DATA_CHECKSUM - 1) * BODY_WORDS / 2);

	for (unsigned word = 0; word < DATA_BODY; word++)
		sum += image.head[word];
	image.checksum = mix(sum);
	return image;
}

static void store_zeros(volatile struct word *page)
{
	for (unsigned word = 0; word < PAGE_WORDS; word += GROUP) {
		volatile struct word *at = page + word;

		word_put(&at[0], 0);
		word_put(&at[1], 0);
		word_put(&at[2], 0);
		word_put(&at[3], 0);
		word_put(&at[4], 0);
		word_put(&at[5], 0);
		word_put(&at[6], 0);
		word_put(&at[7], 0);
	}
}

void page_store(volatile struct word *page, const struct page_image *image)
{
	uint64_t value = image->key + DATA_BODY * BODY_STRIDE;

	if (image->zero) {
		store_zeros(page);
		return;
	}
	for (unsigned word = 0; word < DATA_BODY; word++)
		word_put(&page[word], image->head[word]);
	word_put(&page[DATA_BODY], value);
	for (volatile struct word *at = page + DATA_BODY + 1; at < page + DATA_CHECKSUM; at += GROUP) {
		word_put(&at[0], value += BODY_STRIDE);
		word_put(&at[1], value += BODY_STRIDE);
		word_put(&at[2], value += BODY_STRIDE);
		word_put(&at[3], value += BODY_STRIDE);
		word_put(&at[4], value += BODY_STRIDE);
		word_put(&at[5], value += BODY_STRIDE);
		word_put(&at[6], value += BODY_STRIDE);
		word_put(&at[7], value += BODY_STRIDE);
	}
	word_put(&page[DATA_CHECKSUM], image->checksum);
}

unsigned page_first_nonzero(const struct word *page)
{
	uint64_t seen = 0;
	unsigned word = 0;

	for (unsigned at = 0; at < PAGE_WORDS; at++)
		seen |= word_read(&page[at]);
	if (seen == 0)
		return PAGE_WORDS;
	while (word_read(&page[word]) == 0)
		word++;
	return word;
}

static uint64_t image_word(const struct page_image *image, unsigned word)
{
	if (word < DATA_BODY)
		return image->head[word];
	return word == DATA_CHECKSUM ? image->checksum : image->key + word * BODY_STRIDE;
}

unsigned page_difference(const struct word *page, const struct page_image *image)
{
	uint64_t value = image->key + DATA_BODY * BODY_STRIDE;
	uint64_t seen = word_read(&page[DATA_CHECKSUM]) ^ image->checksum;
	unsigned word = 0;

	if (image->zero)
		return page_first_nonzero(page);
	for (unsigned at = 0; at < DATA_BODY; at++)
		seen |= word_read(&page[at]) ^ image->head[at];
	for (unsigned at = DATA_BODY; at < DATA_CHECKSUM; at++, value += BODY_STRIDE)
		seen |= word_read(&page[at]) ^ value;
	if (seen == 0)
		return PAGE_WORDS;
	while (word_read(&page[word]) == image_word(image, word))
		word++;
	return word;
}

uint64_t page_checksum(const struct word *page)
{
	uint64_t sum = 0;

	for (unsigned word = 0; word < PAGE_WORDS - 1; word++)
		sum += word_read(&page[word]);
	return mix(sum);
}
