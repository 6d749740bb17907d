/*
 * Entry of the bare agent on riscv64: in machine mode, as QEMU's machine virt starts an ELF by -bios none. All
 * vCPUs start at once, at the first address of RAM; those beside the first wait until they are wanted.
 */
#include "bare/limits.h"

	.section .entry, "ax"
	.globl agent_entry
agent_entry:
	csrr s0, mhartid
	li t0, MAX_CPUS
	bgeu s0, t0, 4f
	la sp, stacks
	li t1, STACK_BYTES
	addi t2, s0, 1
	mul t1, t1, t2
	add sp, sp, t1
	bnez s0, 1f
	call first_cpu_main
1:	la t0, cpus_wanted
2:	lw t1, 0(t0)
	fence
	bgtu t1, s0, 3f
	/* A hint to the emulator (Zihintpause). */
	.word 0x0100000f
	j 2b
3:	mv a0, s0
	call other_cpu_main
4:	wfi
	j 4b

	.data
	.balign 4
	.globl cpus_wanted
cpus_wanted:
	.word 1

	.bss
	.balign 16
stacks:	.skip MAX_CPUS * STACK_BYTES
