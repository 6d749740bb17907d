/* The allocation tags of aarch64's Memory Tagging Extension, one for each 16 bytes of RAM. */
#include "bare/processor.h"

/* Arm ARM DDI 0487, D19.2: ID_AA64PFR1_EL1.MTE is 2 or more where there is memory for tags. */
#define MTE_SHIFT 8
#define MTE_MASK 0xf
#define MTE_WITH_MEMORY 2
/* MAIR_EL1: attribute 0 as entry.S has it, attribute 1 normal write-back memory with tags. */
#define MEMORY_ATTRIBUTES_TAGGED 0xf000
/* SCTLR_EL1.ATA: EL1 may access tags. Its TCF stays 0, so nothing is checked against them. */
#define ACCESS_TAGS (UINT64_C(1) << 43)
/* A logical tag is in bits 56 to 59 of an address. */
#define TAG_SHIFT 56
#define TAG_MASK 0xf

/* Maps RAM as memory with tags, and lets this vCPU access them. */
static bool enable_tags(void)
{
	uint64_t features, control;

	__asm__("mrs %0, id_aa64pfr1_el1" : "=r"(features));
	if ((features >> MTE_SHIFT & MTE_MASK) < MTE_WITH_MEMORY)
		return false;
	__asm__("mrs %0, sctlr_el1" : "=r"(control));
	if (control & ACCESS_TAGS)
		return true;
	__asm__ volatile("msr mair_el1, %0\n\t"
			 "msr sctlr_el1, %1\n\t"
			 "isb\n\ttlbi vmalle1\n\tdsb sy\n\tisb" ::"r"(UINT64_C(MEMORY_ATTRIBUTES_TAGGED)),
			 "r"(control | ACCESS_TAGS)
			 : "memory");
	return true;
}

bool processor_put_beside_ram(uint64_t place, uint64_t value)
{
	uint64_t tagged = place | (value & TAG_MASK) << TAG_SHIFT;

	if (!enable_tags())
		return false;
	/* Only the base register is an address: with its top byte 0 it needs no TBI. */
	__asm__ volatile(".arch_extension memtag\n\tstg %0, [%1]" ::"r"(tagged), "r"(place)
			 : "memory");
	return true;
}

bool processor_get_beside_ram(uint64_t place, uint64_t *value)
{
	uint64_t tagged = place;

	if (!enable_tags())
		return false;
	__asm__ volatile(".arch_extension memtag\n\tldg %0, [%1]"
			 : "+r"(tagged)
			 : "r"(place)
			 : "memory");
	*value = tagged >> TAG_SHIFT & TAG_MASK;
	return true;
}
