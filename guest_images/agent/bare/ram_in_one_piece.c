/* RAM at its own addresses, for processors without a mapping of RAM on both sides of a hole. */
#include "processor.h"

/* Weak, since the file of a processor that has such a mapping replaces them. */
__attribute__((weak)) uintptr_t processor_join_ram(uint64_t low, uint64_t high_start, uint64_t high)
{
	(void)low;
	(void)high_start;
	(void)high;
	return 0;
}

__attribute__((weak)) uint64_t processor_physical(const volatile void *address)
{
	return (uintptr_t)address;
}
