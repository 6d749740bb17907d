/* Addresses that C, assembly and the firmware of the bare agent on x86_64 agree on. */
#ifndef AGENT_BARE_X86_64_LAYOUT_H
#define AGENT_BARE_X86_64_LAYOUT_H

/* Where the other vCPUs begin: below 1 MiB, on a page boundary, in memory that no firmware needs any more. */
#define TRAMPOLINE 0x8000

/* The entry, in the page behind the control page; link.ld loads the program one page below. */
#define ENTRY 0x101000

#endif
