/* Addresses and segments that C, assembly and the firmware of the bare agent on x86 agree on. */
#ifndef AGENT_BARE_X86_LAYOUT_H
#define AGENT_BARE_X86_LAYOUT_H

/* Where the other vCPUs begin: below 1 MiB, on a page boundary, in memory that no firmware needs any more. */
#define TRAMPOLINE 0x8000

/* The entry, in the page behind the control page; link.ld loads the program one page below. */
#define ENTRY 0x101000

/* Selectors of the table in segments.S. */
#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define USER_DATA 0x23
#define USER_CODE64 0x2b
#define USER_CODE32 0x33

/* Intel SDM volume 3, 2.5: bits of CR0; the flags of user mode, without interrupts. */
#define CR0_PE 0x00000001
#define CR0_PG 0x80000000
#define FLAGS_USER 0x002

#endif
