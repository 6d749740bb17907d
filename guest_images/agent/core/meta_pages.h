/* Meta pages: control, thread and directory pages, which describe the agent and its data pages. */
#ifndef AGENT_META_PAGES_H
#define AGENT_META_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* What an agent is; its control page says the same. */
struct agent_description {
	uint64_t nonce;
	enum pattern pattern;
	uint64_t seed;
	uint64_t threads;
	uint64_t data_pages;
	uint64_t guest_ram; /* bytes */
};

/* Each fills a page of zeros, the magic last: a reader that finds it finds a complete page. */
void control_page_fill(volatile uint64_t *page, const struct agent_description *agent);
void thread_page_fill(volatile uint64_t *page, uint64_t nonce, uint64_t thread, uint64_t pages);

/* Makes a control page invalid, so that a later agent's is the only one in RAM. */
void control_page_wipe(volatile uint64_t *page);

/* The number of directory pages that a thread with so many data pages has. */
size_t directory_pages(uint64_t data_pages);

/* The number of data pages that the directory page beginning with index `first` lists. */
unsigned directory_count(uint64_t data_pages, uint64_t first);

/* Completes a directory page whose frame numbers are there already: its head and checksum. */
void directory_page_complete(uint64_t *page, uint64_t nonce, uint64_t thread, uint64_t first,
			     unsigned count);

#endif
