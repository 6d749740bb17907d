/*
 * RAM below and above the hole in front of 4 GiB, mapped a second time, in one piece.
 *
 * The agent takes its memory as if RAM had no hole. It runs in user mode, in which it may write to the page tables:
 * entries that were not present need no invalidation (Intel SDM volume 3, 5.10.4.3).
 */
#include "bare/processor.h"

#define LARGE_PAGE_BYTES (UINT64_C(1) << 21)
#define ENTRIES 512
#define GIB (UINT64_C(1) << 30)
/* Intel SDM volume 3, 5.5.4: present, writable, user; a large page that is accessed already. */
#define TABLE 0x007
#define LARGE_PAGE 0x0a7

/* Behind all that entry.S maps, in the same table of pointers. */
#define JOINED_GIB UINT64_C(256)
#define JOINED (JOINED_GIB * GIB)
#define MOST_GIBS 64

extern uint64_t pointers[ENTRIES];

static uint64_t directories[MOST_GIBS][ENTRIES] __attribute__((aligned(ENTRIES * 8)));
static uint64_t low_bytes, above;

uintptr_t processor_join_ram(uint64_t low, uint64_t high_start, uint64_t high)
{
	uint64_t all = low + high;

	if (low % LARGE_PAGE_BYTES || high_start % LARGE_PAGE_BYTES || all > MOST_GIBS * GIB)
		return 0;
	low_bytes = low;
	above = high_start;
	for (uint64_t at = 0; at < all; at += LARGE_PAGE_BYTES)
		directories[at / GIB][at % GIB / LARGE_PAGE_BYTES] =
			(at < low ? at : high_start + at - low) | LARGE_PAGE;
	for (uint64_t gib = 0; gib * GIB < all; gib++)
		pointers[JOINED_GIB + gib] = (uintptr_t)directories[gib] | TABLE;
	return JOINED;
}

uint64_t processor_physical(const volatile void *address)
{
	uint64_t at = (uintptr_t)address;

	if (at < JOINED)
		return at;
	at -= JOINED;
	return at < low_bytes ? at : above + at - low_bytes;
}
