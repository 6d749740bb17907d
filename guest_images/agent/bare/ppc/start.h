/* The first instructions in the agent's own byte order, at once behind the entry; r3 is the number of the vCPU. */
#include "bare/limits.h"

/* Power ISA 3.1, book III, 4.2.1: bits of the MSR that C code needs: 64-bit mode, and all registers. */
#define MSR_SF_SHIFT 63
#define MSR_REGISTERS_HIGH 0x0280
#define MSR_FP 0x2000
/* ELF V2 ABI, 2.2.3: the smallest stack frame. */
#define FRAME 32

	mfmsr 4
	li 5, 1
	sldi 5, 5, MSR_SF_SHIFT
	or 4, 4, 5
	oris 4, 4, MSR_REGISTERS_HIGH
	ori 4, 4, MSR_FP
	mtmsrd 4
	isync
	lis 2, .TOC.@ha
	addi 2, 2, .TOC.@l
	lis 1, stacks@ha
	addi 1, 1, stacks@l
	addi 4, 3, 1
	mulli 4, 4, STACK_BYTES
	add 1, 1, 4
	li 0, 0
	stdu 0, -FRAME(1)
	cmpwi 3, 0
	bne 1f
	bl first_cpu_main
	nop
1:	bl other_cpu_main
	nop

	.bss
	.balign 16
stacks:	.skip MAX_CPUS * STACK_BYTES
