/* The functions that a compiler may call though there is no C library. */
#include <stddef.h>

void *memset(void *target, int value, size_t count)
{
	volatile unsigned char *byte = target;

	while (count-- > 0)
		*byte++ = (unsigned char)value;
	return target;
}

void *memcpy(void *restrict target, const void *restrict source, size_t count)
{
	volatile unsigned char *to = target;
	const unsigned char *from = source;

	while (count-- > 0)
		*to++ = *from++;
	return target;
}
