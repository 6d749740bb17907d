/* Finds the agent's pages, and checks the bodies of its data pages; docs/agent-format.md has the format. */
#include <stdbool.h>
#include <string.h>

#include "core.h"
#include "core/format.h"
#include "core/mix.h"
#include "slices.h"

enum { BODY_WORDS = DATA_CHECKSUM - DATA_BODY };

/* The sum of all body words is BODY_WORDS keys, and this. */
#define STEP_SUM (BODY_STRIDE * ((uint64_t)BODY_WORDS * (DATA_BODY + DATA_CHECKSUM - 1) / 2))

struct scan {
	uint8_t *kinds;
	uint64_t *heads;
	uint8_t *intact;
};

static inline uint64_t word_at(const uint8_t *page, unsigned number)
{
	struct word word;

	memcpy(&word, page + sizeof word * number, sizeof word);
	return word_read(&word);
}

/* Tells whether each word of the body is what the key says. */
static bool has_body(const uint8_t *page, uint64_t key)
{
	uint64_t expected = key + BODY_STRIDE * DATA_BODY, wrong = 0;
	unsigned i;

	for (i = DATA_BODY; i < DATA_CHECKSUM; i++) {
		wrong |= word_at(page, i) ^ expected;
		expected += BODY_STRIDE;
	}
	return !wrong;
}

static bool is_intact(const uint8_t *page, const uint64_t *head)
{
	uint64_t key, sum = 0;
	unsigned i;

	key = mix(mix(mix(head[PAGE_NONCE] ^ head[DATA_THREAD]) ^ head[DATA_INDEX]) ^ head[DATA_STEP]);
	for (i = 0; i < DATA_BODY; i++)
		sum += head[i];
	sum += key * BODY_WORDS + STEP_SUM;
	return mix(sum) == word_at(page, DATA_CHECKSUM) && has_body(page, key);
}

static void scan_page(const struct scan *scan, uint64_t number, const uint8_t *page)
{
	uint64_t *head = scan->heads + HEAD_WORDS * number;
	unsigned i;

	scan->intact[number] = 0;
	switch (word_at(page, PAGE_MAGIC)) {
	case MAGIC_DATA:
		for (i = 0; i < DATA_BODY; i++)
			head[i] = word_at(page, i);
		scan->kinds[number] = AGENT_DATA;
		scan->intact[number] = is_intact(page, head);
		break;
	case MAGIC_CONTROL:
	case MAGIC_THREAD:
	case MAGIC_DIRECTORY:
		scan->kinds[number] = AGENT_OTHER;
		break;
	default:
		scan->kinds[number] = AGENT_NONE;
	}
}

static uint64_t scan_slice(void *context, struct slice *slice)
{
	uint64_t i;

	if (!read_slice(slice))
		return 0;
	for (i = slice->first; i < slice->first + slice->count; i++)
		scan_page(context, i, page_of(slice, i));
	return slice->count;
}

uint64_t core_agent(const struct pages *pages, uint8_t *kinds, uint64_t *heads, uint8_t *intact)
{
	struct scan scan = { kinds, heads, intact };

	_Static_assert((int)HEAD_WORDS == (int)DATA_BODY, "the words before a data page's body");
	return spread_slices(pages, scan_slice, &scan);
}
