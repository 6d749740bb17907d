/*
 * Fuzzes the native core: an input is 16 bytes of parameters, then the bytes of a RAM section.
 *
 * Built by fuzz_core.py with sanitizers, with libFuzzer (LLVMFuzzerTestOneInput) or with the mutating driver below
 * (-DOWN_DRIVER). Each array has exactly the length that the core is told, so that any access beyond it is seen.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core.h"

enum { PARAMETERS = 16, MOST_PAGES = 64, MOST_BYTES = 1 << 17 };

static void require(int right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "The core broke its promise: %s.\n", what);
	abort();
}

static void *exactly(size_t bytes)
{
	void *space = malloc(bytes ? bytes : 1);

	require(space != NULL, "no memory");
	memset(space, 0, bytes);
	return space;
}

static void fuzz_walk(const uint8_t *parameters, const uint8_t *bytes, size_t length)
{
	struct walk walk = { .page_size = 1024u << (parameters[0] % 7), .named = parameters[1] & 1 };
	uint8_t *window = exactly(length);
	uint64_t at = parameters[5] < length ? parameters[5] : length, before, rounds = 0;
	uint32_t stop;

	memcpy(window, bytes, length);
	walk.pages = parameters[2];
	walk.sources = parameters[1] & 2 ? exactly(8 * walk.pages) : NULL;
	walk.event_limit = 2 + parameters[3] % 8;
	walk.events = exactly(8 * EVENT_WORDS * walk.event_limit);
	walk.small_left = parameters[4];
	walk.name_length = parameters[6];
	walk.note_limit = 1 + parameters[15] % 5;
	walk.noted = parameters[1] & 4 ? exactly(8 * NOTE_WORDS * walk.note_limit) : NULL;
	memcpy(walk.name, bytes, walk.name_length < length ? walk.name_length : length);
	do {
		before = at;
		stop = core_walk(&walk, window, length, 100, &at);
		require(at >= before && at <= length, "a place outside of the bytes");
		require(walk.event_count <= walk.event_limit, "more events than there is room for");
		require(walk.note_count <= walk.note_limit, "more notes than there is room for");
		require(stop == STOP_ELSE || walk.event_count || walk.note_count, "events without an event");
		walk.event_count = walk.note_count = 0;
		require(rounds++ <= length, "no end");
	} while (stop == STOP_EVENTS);
	free(walk.sources);
	free(walk.events);
	free(walk.noted);
	free(window);
}

static void fuzz_pages(const uint8_t *parameters, const uint8_t *bytes, size_t length)
{
	static int file = -1, other = -1;
	const uint64_t size = 1024u << (parameters[0] % 7), count = 1 + parameters[7] % MOST_PAGES;
	int64_t *places = exactly(8 * count), *numbers = exactly(8 * count), error;
	uint64_t *keys = exactly(size + 8), *digests = exactly(16 * count), *heads = exactly(48 * count);
	uint8_t *flags = exactly(count), *kinds = exactly(count), unread;
	struct pages pages = { .places = places, .count = count, .size = size };
	uint64_t step = parameters[8] ? size + parameters[8] % 32 : parameters[9] * 64u, i;

	if (file < 0) {
		file = memfd_create("file", 0);
		other = memfd_create("other", 0);
	}
	require(!ftruncate(file, 0) && pwrite(file, bytes, length, 0) == (ssize_t)length, "no file");
	require(!ftruncate(other, (off_t)(length / (1 + parameters[10] % 3))), "no other file");
	pages.file = file;
	pages.threads = 1 + (parameters[11] & 1);
	if (parameters[11] & 2 && length) {
		/* A mapping that may be longer than the file, as after it shrank. */
		pages.map_bytes = length + (parameters[11] & 4 ? 8192 : 0);
		pages.present = parameters[11] & 8;
		pages.map = mmap(NULL, pages.map_bytes, PROT_READ, MAP_SHARED, file, 0);
		require(pages.map != MAP_FAILED, "no mapping");
		core_guard();
	}
	for (i = 0; i < count; i++) {
		places[i] = (int64_t)(parameters[12] * 16u + i * step);
		numbers[i] = (int64_t)(parameters[13] & 1 ? i : (i * 7) % count);
	}
	if (parameters[13] & 2) {
		int64_t swapped = places[0];

		places[0] = places[count - 1];
		places[count - 1] = swapped;
	}
	require(core_digest(&pages, keys, digests) <= count, "more digests than pages");
	require(core_nonzero(&pages, flags) <= count, "more flags than pages");
	require(core_differing(&pages, numbers, other, flags, &unread) <= count, "more comparisons than pages");
	require(core_copy(&pages, numbers, other, &error) <= count, "more copies than pages");
	if (size == 4096)
		require(core_agent(&pages, kinds, heads, flags) <= count, "more agent pages than pages");
	if (pages.map)
		munmap((void *)pages.map, pages.map_bytes);
	free(places);
	free(numbers);
	free(keys);
	free(digests);
	free(heads);
	free(flags);
	free(kinds);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	if (length < PARAMETERS || length > MOST_BYTES)
		return 0;
	fuzz_walk(data, data + PARAMETERS, length - PARAMETERS);
	/* System calls take longer than walks. */
	if (data[14] % 16 == 0)
		fuzz_pages(data, data + PARAMETERS, length - PARAMETERS);
	return 0;
}

#ifdef OWN_DRIVER
static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below ? state % below : 0;
}

static size_t mutate(uint8_t *data, size_t length)
{
	static const uint8_t flags[] = { 0x28, 0x22, 0x08, 0x02, 0x10, 0x04, 0x20, 0x80, 0xff, 0x00 };
	size_t at = draw(length), span = draw(64), from;

	switch (draw(7)) {
	case 0:
		data[at] ^= (uint8_t)(1u << draw(8));
		break;
	case 1:
		data[at] = (uint8_t)draw(256);
		break;
	case 2:
		data[at] = flags[draw(sizeof flags)];
		break;
	case 3: /* lose bytes */
		if (at + span < length && length - span > PARAMETERS) {
			memmove(data + at, data + at + span, length - at - span);
			length -= span;
		}
		break;
	case 4: /* put bytes in */
		if (length + span <= MOST_BYTES) {
			memmove(data + at + span, data + at, length - at);
			memset(data + at, (int)draw(256), span);
			length += span;
		}
		break;
	case 5: /* copy bytes to another place */
		from = draw(length);
		if (from + span <= length && at + span <= length)
			memmove(data + at, data + from, span);
		break;
	default: /* cut */
		if (at > PARAMETERS)
			length = at;
	}
	return length;
}

int main(int count, char **arguments)
{
	static uint8_t data[MOST_BYTES + 64];
	const time_t end = time(NULL) + (count > 1 ? atoi(arguments[1]) : 0);
	uint64_t executions = 0;
	size_t length;
	FILE *seed;
	int i;

	state ^= (uint64_t)time(NULL) << 20 | 1;
	for (i = 2; i < count || time(NULL) < end; i++) {
		if (count < 3)
			break;
		seed = fopen(arguments[i < count ? i : 2 + (int)draw((uint64_t)count - 2)], "rb");
		require(seed != NULL, "no such seed");
		length = fread(data, 1, MOST_BYTES, seed);
		fclose(seed);
		LLVMFuzzerTestOneInput(data, length);
		executions++;
		/* Mutations pile up, and the seed comes again after some. */
		for (int turn = 0; i >= count && turn < 200 && length > PARAMETERS; turn++, executions++) {
			length = mutate(data, length);
			data[14] = (uint8_t)draw(256);
			LLVMFuzzerTestOneInput(data, length);
		}
	}
	printf("%llu executions\n", (unsigned long long)executions);
	return 0;
}
#endif
