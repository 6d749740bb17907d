/* Data pages: what a page holds after a given write; storing it and comparing with it. */
#ifndef AGENT_PAGE_H
#define AGENT_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "format.h"
#include "schedule.h"

/* The exact content of a page: all zero, or a head, a linear body and a checksum. */
struct page_image {
	bool zero;
	uint64_t head[DATA_BODY];
	uint64_t key;
	uint64_t checksum;
};

/* Returns what a page holds after `write`; generation 0 stands for a page never written. */
struct page_image page_image_of(uint64_t nonce, uint64_t thread, enum pattern pattern,
				const struct page_write *write);

/* Stores the content word by word in strictly ascending order. */
void page_store(volatile struct word *page, const struct page_image *image);

/* Returns the number of the first word that differs from the content, PAGE_WORDS if none does. */
unsigned page_difference(const struct word *page, const struct page_image *image);

/* Returns the number of the first word that is not zero, PAGE_WORDS if all are. */
unsigned page_first_nonzero(const struct word *page);

/* Returns the checksum of a directory page: mix of the sum of words 0 to 510. */
uint64_t page_checksum(const struct word *page);

#endif
