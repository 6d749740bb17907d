/*
 * A word of a page as it lies in memory: little-endian whatever the processor's own order is, and stored and
 * loaded in one piece on processors of 32 bits as well. It is a type of its own, so that no access forgets that.
 */
#ifndef AGENT_WORD_H
#define AGENT_WORD_H

#include <stdbool.h>
#include <stdint.h>

/* Aligned, since a 64-bit integer is not in the ABI of 32-bit x86, and is then not stored in one piece. */
struct word {
	uint64_t stored __attribute__((aligned(8)));
};

/* Converts a number to a word's order, and back. */
static inline uint64_t word_order(uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return value;
#else
	return __builtin_bswap64(value);
#endif
}

/* Reads a word that others may change. Stays in program order with other such accesses. */
static inline uint64_t word_get(const volatile struct word *word)
{
	return word_order(__atomic_load_n(&word->stored, __ATOMIC_RELAXED));
}

/* Stores a word that others may read, likewise. */
static inline void word_put(volatile struct word *word, uint64_t value)
{
	__atomic_store_n(&word->stored, word_order(value), __ATOMIC_RELAXED);
}

/* Adds to a word that nobody else changes. */
static inline void word_add(volatile struct word *word, uint64_t value)
{
	word_put(word, word_get(word) + value);
}

/* Raises a word to a number, though others raise it at the same time. Tells whether it was lower. */
static inline bool word_raise(volatile struct word *word, uint64_t value)
{
	uint64_t seen = __atomic_load_n(&word->stored, __ATOMIC_RELAXED);

	while (value > word_order(seen))
		if (__atomic_compare_exchange_n(&word->stored, &seen, word_order(value), false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return true;
	return false;
}

/* Reads a word that nobody changes meanwhile: the compiler may join such reads. */
static inline uint64_t word_read(const struct word *word)
{
	return word_order(word->stored);
}

#endif
