/*
 * The native core of the validator: what touches every record and every page of a vmstate file.
 *
 * It judges nothing and has no messages: it fills arrays that Python has allocated, and stops where Python has to
 * go on. Every length is checked against the bytes that are there; no allocation depends on the file. A file is read
 * in its mapping where the kernel has put the bytes there, else into small buffers. guard.c has the rest: a file that
 * shrinks or a disk that fails ends no process. library.py has the same structures and numbers.
 */
#ifndef CORE_H
#define CORE_H

#include <stdint.h>

/* Walking over page records: records.c. */

enum walk_event { EVENT_AGAIN = 1, EVENT_OUTSIDE = 2, EVENT_FILL = 3 };

enum { EVENT_WORDS = 4, NOTE_WORDS = 2, NAME_BYTES = 255 };

enum walk_stop {
	STOP_ELSE = 0,   /* at something that Python has to read: another word, or the end of the bytes */
	STOP_EVENTS = 1, /* the events, or the pages noted, have to be taken first */
	STOP_UNREADABLE = 2, /* the bytes are no longer there, or the disk fails */
};

/* What the walk knows between calls. Numbers of 64 bits only, so that both sides agree on the layout. */
struct walk {
	uint64_t page_size;    /* a power of two, 1 KiB to 64 KiB */
	int64_t *sources;      /* page_source of the RAMBlock named last, NULL if it is unknown or none */
	uint64_t pages;        /* its length */
	uint64_t named;        /* whether a RAMBlock has been named */
	uint64_t data_records; /* records of pages with data, counted */
	uint64_t zero_records; /* records of zero pages, counted */
	uint64_t small_left;   /* so many records may still name a RAMBlock */
	int64_t *events;       /* event_limit times EVENT_WORDS: enum walk_event, and what it is about */
	uint64_t event_limit;  /* at least 2 */
	uint64_t event_count;
	int64_t *noted;        /* NULL, or note_limit times NOTE_WORDS: number and place of a page with data */
	uint64_t note_limit;   /* at least 1 */
	uint64_t note_count;
	uint64_t name_length;
	uint8_t name[NAME_BYTES + 1]; /* of the RAMBlock named last */
};

/*
 * Reads records from bytes[*at] on, of which there are `filled`; bytes[0] is at offset `base` of the file.
 * Leaves in *at where it stopped, which is the start of a record.
 */
uint32_t core_walk(struct walk *walk, const uint8_t *bytes, uint64_t filled, uint64_t base, uint64_t *at);

/*
 * Work on pages: slices.c spreads it over threads. `places` has the file offset of each page, in any order; the
 * nearer to the order of the file, the fewer the reads. All return how many pages could be read: fewer than
 * `count` is the number of the first that could not.
 */

struct pages {
	int64_t file;          /* descriptor */
	const int64_t *places; /* file offset of each page */
	uint64_t count;
	uint64_t size;         /* of a page: a power of two, 1 KiB to 64 KiB */
	uint64_t threads;      /* at most MOST_THREADS */
	const uint8_t *map;    /* NULL, or where the file is mapped */
	uint64_t map_bytes;    /* so many of its bytes */
	uint64_t present;      /* whether the kernel has put the pages there already, and the caller takes them away */
};

enum { MOST_THREADS = 16 };

/* Digests pages into 2 words each; `keys` has a word more than a page. */
uint64_t core_digest(const struct pages *pages, const uint64_t *keys, uint64_t *digests);

enum agent_kind { AGENT_NONE = 0, AGENT_DATA = 1, AGENT_OTHER = 2 };

enum { HEAD_WORDS = 6 };

/*
 * Finds the agent's pages, which have PAGE_BYTES: of each page its agent_kind; of a data page the HEAD_WORDS before
 * its body, and whether body and checksum agree with them.
 */
uint64_t core_agent(const struct pages *pages, uint8_t *kinds, uint64_t *heads, uint8_t *intact);

/*
 * Compares pages with those of another file, where page `numbers[i]` is at numbers[i] * size. If that one cannot be
 * read, *other is set.
 */
uint64_t core_differing(const struct pages *pages, const int64_t *numbers, int64_t image, uint8_t *differs,
			uint8_t *other);

/* Tells which pages are not all zero; holes of the file are not read. */
uint64_t core_nonzero(const struct pages *pages, uint8_t *nonzero);

/* Writes each page to numbers[i] * size of another file. If that fails, *error is the errno, else 0. */
uint64_t core_copy(const struct pages *pages, const int64_t *numbers, int64_t target, int64_t *error);

/* Installs what turns a SIGBUS in this library into an error, once for a process; any other one goes on as before. */
void core_guard(void);

#endif
