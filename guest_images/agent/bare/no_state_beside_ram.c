/* For processors whose machines keep nothing beside RAM that a program can store and load by a place. */
#include "processor.h"

/* Weak, since the file of a processor that has such state replaces them. */
__attribute__((weak)) bool processor_put_beside_ram(uint64_t place, uint64_t value)
{
	(void)place;
	(void)value;
	return false;
}

__attribute__((weak)) bool processor_get_beside_ram(uint64_t place, uint64_t *value)
{
	(void)place;
	(void)value;
	return false;
}
