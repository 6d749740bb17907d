/* The storage keys of s390x, one for each 4 KiB of RAM. */
#include "bare/processor.h"

/*
 * z/Architecture Principles of Operation (SA22-7832), chapter 3, storage key: access-control bits and fetch
 * protection. The other bits say whether the page was used and changed, which any access to it sets.
 */
#define KEPT_BITS 0xf8

/* Chapter 10, SET STORAGE KEY EXTENDED, without conditions: bits 56 to 62 of the first operand are the key. */
bool processor_put_beside_ram(uint64_t place, uint64_t value)
{
	uint64_t key = value & KEPT_BITS;

	__asm__ volatile("sske %0, %1" ::"d"(key), "a"(place) : "memory");
	return true;
}

/* Chapter 10, INSERT STORAGE KEY EXTENDED. */
bool processor_get_beside_ram(uint64_t place, uint64_t *value)
{
	uint64_t key = 0;

	__asm__ volatile("iske %0, %1" : "+d"(key) : "a"(place) : "memory");
	*value = key & KEPT_BITS;
	return true;
}
