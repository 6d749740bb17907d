/*
 * Entry of the bare agent on s390x: in 64-bit mode without address translation, as QEMU's machine
 * s390-ccw-virtio starts an ELF by -kernel. z/Architecture Principles of Operation (SA22-7832) describes all of it.
 */
#include "bare/limits.h"

/* Chapter 3, assigned storage locations: the restart-new PSW, and the second half of it. */
#define RESTART_NEW_MASK 0x1a0
#define RESTART_NEW_ADDRESS 0x1a8
/* Chapter 4: the value at reset, and the controls of AFP and vector registers, which compilers use. */
#define CONTROL_0 0x600e0
/* Chapter 4: the bits EA and BA of the PSW, and nothing else. */
#define PSW_64_BIT 0x0000000180000000
/* The ABI's register save area, which the caller has on its stack. */
#define SAVE_AREA 160

	.section .entry, "ax"
	.globl agent_entry
agent_entry:
	larl %r1, restart_mask
	lg %r0, 0(%r1)
	stg %r0, RESTART_NEW_MASK
	larl %r1, other_cpu_entry
	stg %r1, RESTART_NEW_ADDRESS
	lghi %r7, 0
	brasl %r14, set_up
	brasl %r14, first_cpu_main

/* The other vCPUs begin here, one after the other. */
other_cpu_entry:
	larl %r1, cpu_to_start
	llgf %r7, 0(%r1)
	brasl %r14, set_up
	larl %r1, cpus_running
	lgr %r2, %r7
	ahi %r2, 1
	st %r2, 0(%r1)
	llgfr %r2, %r7
	brasl %r14, other_cpu_main

/* Prepares a vCPU, whose number is in %r7, for C. */
set_up:
	larl %r1, control_0
	lctlg %c0, %c0, 0(%r1)
	larl %r15, stacks
	lgr %r1, %r7
	aghi %r1, 1
	msgfi %r1, STACK_BYTES
	agr %r15, %r1
	aghi %r15, -SAVE_AREA
	br %r14

	.data
	.balign 8
control_0:
	.quad CONTROL_0
restart_mask:
	.quad PSW_64_BIT
	.globl cpu_to_start, cpus_running
cpu_to_start:
	.long 0
cpus_running:
	.long 1

	.bss
	.balign 16
stacks:	.skip MAX_CPUS * STACK_BYTES
