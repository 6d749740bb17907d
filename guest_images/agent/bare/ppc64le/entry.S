/*
 * Entry of the bare agent on ppc64le: as on ppc64, since all vCPUs of the machine pseries start big-endian. So the
 * first instructions are words in the other byte order, which return from an interrupt that there was not into
 * little-endian mode (Power ISA 3.1, book III, 4.3.1 and 4.4.1).
 */
#define OTHER_ORDER(word)                                                                                  \
	((word) >> 24 & 0xff) | ((word) >> 8 & 0xff00) | ((word) << 8 & 0xff0000) | ((word) << 24 & 0xff000000)
/* From the entry, which the linker script puts at 0x400000. */
#define START 0x100

	.section .entry, "ax"
	.globl agent_entry, other_cpu_entry
agent_entry:
	.long OTHER_ORDER(0x38600000)         /* li 3, 0 */
/* The other vCPUs begin here; RTAS starts them big-endian as well. */
other_cpu_entry:
	.long OTHER_ORDER(0x3c800040)         /* lis 4, 0x40 */
	.long OTHER_ORDER(0x60840000 | START) /* ori 4, 4, START */
	.long OTHER_ORDER(0x7c9a03a6)         /* mtsrr0 4 */
	.long OTHER_ORDER(0x7c8000a6)         /* mfmsr 4 */
	.long OTHER_ORDER(0x38a00001)         /* li 5, 1: of 64-bit mode */
	.long OTHER_ORDER(0x78a5f806)         /* sldi 5, 5, 63 */
	.long OTHER_ORDER(0x7c842b78)         /* or 4, 4, 5 */
	.long OTHER_ORDER(0x60840001)         /* ori 4, 4, 1: little-endian */
	.long OTHER_ORDER(0x7c9b03a6)         /* mtsrr1 4 */
	.long OTHER_ORDER(0x4c000024)         /* rfid */
	.org START
#include "bare/ppc/start.h"
