/*
 * Entry of the bare agent on aarch64: at EL1, the MMU off, as QEMU's machine virt starts an ELF by -kernel.
 *
 * The MMU is turned on, since exclusive accesses need normal memory (Arm ARM DDI 0487, B2.9): an identity map of
 * 512 GiB in blocks of 1 GiB, the first of them devices, all others normal memory.
 */
#include "bare/limits.h"

/* D19.2: CPACR_EL1.FPEN, which some compilers need though told to do without; SCTLR_EL1 bits M, C and I. */
#define FPEN 0x300000
#define SCTLR_MMU_CACHES 0x1005
/* MAIR_EL1: attribute 0 is Device-nGnRnE, attribute 1 normal write-back. */
#define MEMORY_ATTRIBUTES 0xff00
/* TCR_EL1: T0SZ 25 (39 bits of address), write-back inner shareable walks, 4 KiB granule, no TTBR1, 40 bits. */
#define TRANSLATION 0x200803519
/* D8.3: a block, accessed; device with execute-never; normal and inner shareable. */
#define DEVICE_BLOCK 0x0060000000000401
#define NORMAL_BLOCK 0x0000000000000705
#define BLOCK_BYTES 0x40000000
#define BLOCKS 512
#define CACHE_LINE 64

	.section .entry, "ax"
	.globl agent_entry, other_cpu_entry
agent_entry:
	adr x0, table
	ldr x1, =DEVICE_BLOCK
	str x1, [x0]
	ldr x1, =NORMAL_BLOCK
	mov x2, #BLOCK_BYTES
	mov x3, #1
1:	add x1, x1, x2
	str x1, [x0, x3, lsl #3]
	add x3, x3, #1
	cmp x3, #BLOCKS
	b.lo 1b
	/* They were written past the caches, which may hold the host's zeros. */
	mov x3, #(BLOCKS * 8 / CACHE_LINE)
2:	dc ivac, x0
	add x0, x0, #CACHE_LINE
	subs x3, x3, #1
	b.ne 2b
	dsb sy
	mov x19, #0
	b enter

/* The other vCPUs begin here; the context is the number of the vCPU. */
other_cpu_entry:
	mov x19, x0
enter:
	mov x0, #FPEN
	msr cpacr_el1, x0
	ldr x0, =MEMORY_ATTRIBUTES
	msr mair_el1, x0
	ldr x0, =TRANSLATION
	msr tcr_el1, x0
	adr x0, table
	msr ttbr0_el1, x0
	isb
	tlbi vmalle1
	dsb sy
	mrs x0, sctlr_el1
	mov x1, #SCTLR_MMU_CACHES
	orr x0, x0, x1
	msr sctlr_el1, x0
	isb
	mov x1, #STACK_BYTES
	add x2, x19, #1
	ldr x0, =stacks
	madd x0, x2, x1, x0
	mov sp, x0
	mov x29, #0
	cbnz x19, 3f
	bl first_cpu_main
3:	mov x0, x19
	bl other_cpu_main
	.ltorg

	.balign 4096
table:	.skip BLOCKS * 8

	.bss
	.balign 16
stacks:	.skip MAX_CPUS * STACK_BYTES
