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

static void store_zeros(volatile uint64_t *page)
{
	for (unsigned word = 0; word < PAGE_WORDS; word += GROUP) {
		volatile uint64_t *at = page + word;

		at[0] = 0;
		at[1] = 0;
		at[2] = 0;
		at[3] = 0;
		at[4] = 0;
		at[5] = 0;
		at[6] = 0;
		at[7] = 0;
	}
}

void page_store(volatile uint64_t *page, const struct page_image *image)
{
	uint64_t value = image->key + DATA_BODY * BODY_STRIDE;

	if (image->zero) {
		store_zeros(page);
		return;
	}
	for (unsigned word = 0; word < DATA_BODY; word++)
		page[word] = image->head[word];
	page[DATA_BODY] = value;
	for (volatile uint64_t *at = page + DATA_BODY + 1; at < page + DATA_CHECKSUM; at += GROUP) {
		at[0] = value += BODY_STRIDE;
		at[1] = value += BODY_STRIDE;
		at[2] = value += BODY_STRIDE;
		at[3] = value += BODY_STRIDE;
		at[4] = value += BODY_STRIDE;
		at[5] = value += BODY_STRIDE;
		at[6] = value += BODY_STRIDE;
		at[7] = value += BODY_STRIDE;
	}
	page[DATA_CHECKSUM] = image->checksum;
}

unsigned page_first_nonzero(const uint64_t *page)
{
	uint64_t seen = 0;
	unsigned word = 0;

	for (unsigned at = 0; at < PAGE_WORDS; at++)
		seen |= page[at];
	if (seen == 0)
		return PAGE_WORDS;
	while (page[word] == 0)
		word++;
	return word;
}

static uint64_t image_word(const struct page_image *image, unsigned word)
{
	if (word < DATA_BODY)
		return image->head[word];
	return word == DATA_CHECKSUM ? image->checksum : image->key + word * BODY_STRIDE;
}

unsigned page_difference(const uint64_t *page, const struct page_image *image)
{
	uint64_t value = image->key + DATA_BODY * BODY_STRIDE;
	uint64_t seen = page[DATA_CHECKSUM] ^ image->checksum;
	unsigned word = 0;

	if (image->zero)
		return page_first_nonzero(page);
	for (unsigned at = 0; at < DATA_BODY; at++)
		seen |= page[at] ^ image->head[at];
	for (unsigned at = DATA_BODY; at < DATA_CHECKSUM; at++, value += BODY_STRIDE)
		seen |= page[at] ^ value;
	if (seen == 0)
		return PAGE_WORDS;
	while (page[word] == image_word(image, word))
		word++;
	return word;
}

uint64_t page_checksum(const uint64_t *page)
{
	uint64_t sum = 0;

	for (unsigned word = 0; word < PAGE_WORDS - 1; word++)
		sum += page[word];
	return mix(sum);
}
