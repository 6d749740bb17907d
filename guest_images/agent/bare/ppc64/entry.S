/*
 * Entry of the bare agent on ppc64: in real mode at the kernel's first address, as the firmware VOF of QEMU's
 * machine pseries (x-vof=on) starts an ELF by -kernel. It does not say in which mode, of 32 or of 64 bits.
 */
	.section .entry, "ax"
	.globl agent_entry, other_cpu_entry
agent_entry:
	li 3, 0
/* The other vCPUs begin here. */
other_cpu_entry:
#include "bare/ppc/start.h"
