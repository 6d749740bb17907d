/* Meta pages: the constant words of control, thread and directory pages. */
#include "meta_pages.h"

#include "page.h"

void control_page_fill(volatile uint64_t *page, const struct agent_description *agent)
{
	page[PAGE_NONCE] = agent->nonce;
	page[CONTROL_VERSION] = FORMAT_VERSION;
	page[CONTROL_PATTERN] = agent->pattern;
	page[CONTROL_SEED] = agent->seed;
	page[CONTROL_THREADS] = agent->threads;
	page[CONTROL_PAGE_SIZE] = PAGE_BYTES;
	page[CONTROL_DATA_PAGES] = agent->data_pages;
	page[CONTROL_STATE] = AGENT_IDLE;
	page[CONTROL_GUEST_RAM] = agent->guest_ram;
	page[PAGE_MAGIC] = MAGIC_CONTROL;
}

void thread_page_fill(volatile uint64_t *page, uint64_t nonce, uint64_t thread, uint64_t pages)
{
	page[PAGE_NONCE] = nonce;
	page[THREAD_NUMBER] = thread;
	page[THREAD_PAGES] = pages;
	page[PAGE_MAGIC] = MAGIC_THREAD;
}

void control_page_wipe(volatile uint64_t *page)
{
	page[PAGE_MAGIC] = 0;
	page[PAGE_NONCE] = 0;
}

size_t directory_pages(uint64_t data_pages)
{
	return (data_pages + DIRECTORY_ENTRIES - 1) / DIRECTORY_ENTRIES;
}

unsigned directory_count(uint64_t data_pages, uint64_t first)
{
	uint64_t left = data_pages - first;

	return left < DIRECTORY_ENTRIES ? (unsigned)left : DIRECTORY_ENTRIES;
}

void directory_page_complete(uint64_t *page, uint64_t nonce, uint64_t thread, uint64_t first,
			     unsigned count)
{
	page[PAGE_MAGIC] = MAGIC_DIRECTORY;
	page[PAGE_NONCE] = nonce;
	page[DIRECTORY_THREAD] = thread;
	page[DIRECTORY_FIRST_INDEX] = first;
	page[DIRECTORY_COUNT] = count;
	page[DIRECTORY_CHECKSUM] = page_checksum(page);
}
