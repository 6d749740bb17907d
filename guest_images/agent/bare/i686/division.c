/* Division of numbers of 64 bits, which compilers call functions for on processors of 32 bits. */
#include <stdint.h>

/* By a divisor of 32 bits: two instructions, each with the rest of the one before it. */
static uint64_t divide_short(uint64_t number, uint32_t divisor, uint64_t *rest)
{
	uint32_t high = (uint32_t)(number >> 32), low = (uint32_t)number;
	uint32_t high_rest = high % divisor, low_quotient, low_rest;

	__asm__("divl %4"
		: "=a"(low_quotient), "=d"(low_rest)
		: "0"(low), "1"(high_rest), "r"(divisor)
		: "cc");
	*rest = low_rest;
	return (uint64_t)(high / divisor) << 32 | low_quotient;
}

/* Bit by bit: its quotient has less than 32 bits. */
static uint64_t divide_long(uint64_t number, uint64_t divisor, uint64_t *rest)
{
	uint64_t quotient = 0;

	for (int bit = __builtin_clzll(divisor); bit >= 0; bit--)
		if (number >> bit >= divisor) {
			number -= divisor << bit;
			quotient |= UINT64_C(1) << bit;
		}
	*rest = number;
	return quotient;
}

uint64_t __udivmoddi4(uint64_t number, uint64_t divisor, uint64_t *rest)
{
	uint64_t unwanted;

	if (!rest)
		rest = &unwanted;
	if (divisor >> 32 == 0)
		return divide_short(number, (uint32_t)divisor, rest);
	return divide_long(number, divisor, rest);
}

uint64_t __udivdi3(uint64_t number, uint64_t divisor)
{
	return __udivmoddi4(number, divisor, 0);
}

uint64_t __umoddi3(uint64_t number, uint64_t divisor)
{
	uint64_t rest;

	__udivmoddi4(number, divisor, &rest);
	return rest;
}
