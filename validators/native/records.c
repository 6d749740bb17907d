/* Walks over the page records of RAM sections; see core.h and QEMU 10.0 migration/ram.c, save_page_header(). */
#include <stdbool.h>
#include <string.h>

#include "core.h"
#include "guard.h"

enum { FLAG_ZERO = 0x02, FLAG_PAGE = 0x08, FLAG_CONTINUE = 0x20 };
enum { WORD_BYTES = 8, MOST_EVENTS_OF_A_RECORD = 2 };

static uint64_t big_endian(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	return word;
}

static void add_event(struct walk *walk, enum walk_event kind, int64_t a, int64_t b, int64_t c)
{
	int64_t *event = walk->events + EVENT_WORDS * walk->event_count++;

	event[0] = kind;
	event[1] = a;
	event[2] = b;
	event[3] = c;
}

/* Enters one record: `source` is its value of page_source, `fill` the place of a zero page's byte. */
static void enter(struct walk *walk, uint64_t word, int64_t source, uint8_t fill, uint64_t fill_place)
{
	uint64_t page = word / walk->page_size;
	int64_t earlier, *note;

	if (source < 0) {
		walk->zero_records++;
		if (fill)
			add_event(walk, EVENT_FILL, fill, (int64_t)fill_place,
				  (int64_t)(page * walk->page_size));
	} else {
		walk->data_records++;
	}
	if (!walk->sources)
		return;
	if (page >= walk->pages) {
		add_event(walk, EVENT_OUTSIDE, (int64_t)page, source, 0);
		return;
	}
	earlier = walk->sources[page];
	walk->sources[page] = source;
	if (walk->noted && source > 0) {
		note = walk->noted + NOTE_WORDS * walk->note_count++;
		note[0] = (int64_t)page;
		note[1] = source;
	}
	if (earlier)
		add_event(walk, EVENT_AGAIN, (int64_t)page, earlier, source);
}

/* Tells whether the record names the RAMBlock that was named last. */
static bool same_name(const struct walk *walk, const uint8_t *name, uint64_t length)
{
	return walk->named && walk->sources && length == walk->name_length &&
	       !memcmp(name, walk->name, length);
}

static uint32_t walk_on(struct walk *walk, const uint8_t *bytes, uint64_t filled, uint64_t base, uint64_t *at)
{
	const uint64_t mask = walk->page_size - 1;
	uint64_t here = *at, word, flags, head, body;
	bool is_page;

	while (here <= filled && filled - here >= WORD_BYTES) {
		word = big_endian(bytes + here);
		flags = word & mask;
		if ((flags & ~(uint64_t)FLAG_CONTINUE) != FLAG_PAGE &&
		    (flags & ~(uint64_t)FLAG_CONTINUE) != FLAG_ZERO)
			break;
		if (walk->event_count + MOST_EVENTS_OF_A_RECORD > walk->event_limit ||
		    (walk->noted && walk->note_count >= walk->note_limit)) {
			*at = here;
			return STOP_EVENTS;
		}
		is_page = flags & FLAG_PAGE;
		body = is_page ? walk->page_size : 1;
		head = WORD_BYTES;
		if (!(flags & FLAG_CONTINUE)) {
			if (filled - here <= WORD_BYTES)
				break;
			head += 1 + bytes[here + WORD_BYTES];
		}
		if (filled - here < head + body)
			break;
		if (flags & FLAG_CONTINUE) {
			if (!walk->named)
				break;
		} else {
			if (!walk->small_left ||
			    !same_name(walk, bytes + here + WORD_BYTES + 1, head - WORD_BYTES - 1))
				break;
			walk->small_left--;
		}
		/* A zero page's place is that of its header word, where a person finds the record. */
		enter(walk, word, is_page ? (int64_t)(base + here + head) : -(int64_t)(base + here),
		      bytes[here + head], base + here + head);
		here += head + body;
	}
	*at = here;
	return STOP_ELSE;
}

uint32_t core_walk(struct walk *walk, const uint8_t *bytes, uint64_t filled, uint64_t base, uint64_t *at)
{
	sigjmp_buf escape;
	uint32_t stop;

	if (sigsetjmp(escape, 0))
		return STOP_UNREADABLE;
	guard_escape = &escape;
	stop = walk_on(walk, bytes, filled, base, at);
	guard_escape = NULL;
	return stop;
}
