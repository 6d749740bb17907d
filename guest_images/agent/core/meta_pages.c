/* Meta pages: the constant words of control, thread and directory pages. */
#include "meta_pages.h"

#include "page.h"

void control_page_fill(volatile struct word *page, const struct agent_description *agent)
{
	word_put(&page[PAGE_NONCE], agent->nonce);
	word_put(&page[CONTROL_VERSION], FORMAT_VERSION);
	word_put(&page[CONTROL_PATTERN], agent->pattern);
	word_put(&page[CONTROL_SEED], agent->seed);
	word_put(&page[CONTROL_THREADS], agent->threads);
	word_put(&page[CONTROL_PAGE_SIZE], PAGE_BYTES);
	word_put(&page[CONTROL_DATA_PAGES], agent->data_pages);
	word_put(&page[CONTROL_STATE], AGENT_IDLE);
	word_put(&page[CONTROL_GUEST_RAM], agent->guest_ram);
	word_put(&page[PAGE_MAGIC], MAGIC_CONTROL);
}

void thread_page_fill(volatile struct word *page, uint64_t nonce, uint64_t thread, uint64_t pages)
{
	word_put(&page[PAGE_NONCE], nonce);
	word_put(&page[THREAD_NUMBER], thread);
	word_put(&page[THREAD_PAGES], pages);
	word_put(&page[PAGE_MAGIC], MAGIC_THREAD);
}

void page_wipe(volatile struct word *page)
{
	word_put(&page[PAGE_MAGIC], 0);
	word_put(&page[PAGE_NONCE], 0);
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

void directory_page_complete(struct word *page, uint64_t nonce, uint64_t thread, uint64_t first,
			     unsigned count)
{
	word_put(&page[PAGE_MAGIC], MAGIC_DIRECTORY);
	word_put(&page[PAGE_NONCE], nonce);
	word_put(&page[DIRECTORY_THREAD], thread);
	word_put(&page[DIRECTORY_FIRST_INDEX], first);
	word_put(&page[DIRECTORY_COUNT], count);
	word_put(&page[DIRECTORY_CHECKSUM], page_checksum(page));
}
