/* Meta pages: control, thread and directory pages, which describe the agent and its data pages. */
#ifndef AGENT_META_PAGES_H
#define AGENT_META_PAGES_H

#include <stddef.h>
#include <stdint.h>

#include "format.h"

/* The constant words of an agent's control page. */
struct agent_description {
	uint64_t nonce;
	enum pattern pattern;
	uint64_t seed;
	uint64_t threads;
	uint64_t data_pages;
	uint64_t guest_ram; /* bytes */
};

/* Fill a page of zeros, the magic last: a reader that finds the magic finds a complete page. */
void control_page_fill(volatile struct word *page, const struct agent_description *agent);
void thread_page_fill(volatile struct word *page, uint64_t nonce, uint64_t thread, uint64_t pages);

/* Makes any page of the agent one of nobody's: it loses the words that all of them begin with. */
void page_wipe(volatile struct word *page);

/* Returns how many directory pages a thread with so many data pages has. */
size_t directory_pages(uint64_t data_pages);

/* Returns how many data pages the directory page lists that begins with index `first`. */
unsigned directory_count(uint64_t data_pages, uint64_t first);

/* Adds head and checksum to a directory page that has its frame numbers already. */
void directory_page_complete(struct word *page, uint64_t nonce, uint64_t thread, uint64_t first,
			     unsigned count);

#endif
