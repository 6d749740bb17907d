/* The hash page table of pseries, which the hypervisor keeps. The agent runs in real mode and does not use it. */
#include "bare/processor.h"

/* PAPR+ 2.7, 14.5.4.1: hypercalls, and the flag by which H_ENTER takes the entry of that number and no other. */
#define H_REMOVE 0x4
#define H_ENTER 0x8
#define H_READ 0xc
#define H_EXACT (UINT64_C(1) << 39)
#define H_SUCCESS 0
/* Power ISA 3.0, book III, 5.7.9.2: an entry is valid; the value is in its abbreviated virtual page number. */
#define VALID UINT64_C(1)
#define VALUE_SHIFT 12
/* The second half: memory coherence required, of real page 0. */
#define COHERENT UINT64_C(0x10)

/* Calls the hypervisor; `first` gets the first word of its answer. */
static int64_t hypercall(uint64_t call, uint64_t flags, uint64_t entry, uint64_t high, uint64_t low,
			 uint64_t *first)
{
	register uint64_t r3 __asm__("r3") = call;
	register uint64_t r4 __asm__("r4") = flags;
	register uint64_t r5 __asm__("r5") = entry;
	register uint64_t r6 __asm__("r6") = high;
	register uint64_t r7 __asm__("r7") = low;

	__asm__ volatile("sc 1"
			 : "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7)::"r0", "r8", "r9", "r10",
			 "r11", "r12", "lr", "ctr", "xer", "cr0", "cr1", "cr5", "cr6", "cr7",
			 "memory");
	*first = r4;
	return (int64_t)r3;
}

bool processor_put_beside_ram(uint64_t place, uint64_t value)
{
	uint64_t unused;

	/* There may be no entry to remove. */
	hypercall(H_REMOVE, 0, place, 0, 0, &unused);
	return hypercall(H_ENTER, H_EXACT, place, value << VALUE_SHIFT | VALID, COHERENT, &unused) ==
	       H_SUCCESS;
}

/* An entry that is not valid has the value 0. */
bool processor_get_beside_ram(uint64_t place, uint64_t *value)
{
	uint64_t high;

	if (hypercall(H_READ, 0, place, 0, 0, &high) != H_SUCCESS)
		return false;
	*value = high & VALID ? high >> VALUE_SHIFT : 0;
	return true;
}
