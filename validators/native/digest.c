/*
 * Digests pages with NH, the universal hash of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway, CRYPTO 1999), twice
 * with shifted keys. With random keys two different pages have the same digest with a probability of at most
 * 2^-64, for any content: no file can be made to collide.
 */
#include <string.h>

#include "core.h"
#include "slices.h"

struct digesting {
	const uint64_t *keys;
	uint64_t *digests;
};

static uint64_t product(uint64_t word, uint64_t key)
{
	uint32_t low = (uint32_t)word + (uint32_t)key;
	uint32_t high = (uint32_t)(word >> 32) + (uint32_t)(key >> 32);

	return (uint64_t)low * high;
}

static void digest_page(const uint8_t *page, uint64_t words, const uint64_t *keys, uint64_t *digest)
{
	uint64_t first = 0, second = 0, word, i;

	for (i = 0; i < words; i++) {
		memcpy(&word, page + 8 * i, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
		word = __builtin_bswap64(word);
#endif
		first += product(word, keys[i]);
		second += product(word, keys[i + 1]);
	}
	digest[0] = first;
	digest[1] = second;
}

static uint64_t digest_slice(void *context, struct slice *slice)
{
	const struct digesting *digesting = context;
	uint64_t i;

	if (!read_slice(slice))
		return 0;
	for (i = slice->first; i < slice->first + slice->count; i++)
		digest_page(page_of(slice, i), slice->pages->size / 8, digesting->keys,
			    digesting->digests + 2 * i);
	return slice->count;
}

uint64_t core_digest(const struct pages *pages, const uint64_t *keys, uint64_t *digests)
{
	struct digesting digesting = { keys, digests };

	return spread_slices(pages, digest_slice, &digesting);
}
