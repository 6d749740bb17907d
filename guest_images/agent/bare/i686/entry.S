/*
 * Entry of the bare agent on i686: in 32-bit protected mode without paging, as on x86_64. It runs in user mode
 * for the same reason.
 */
#include "bare/limits.h"
#include "bare/x86/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* Intel SDM volume 3, 2.5: large pages; the registers of SSE2, which store a word in one piece. */
#define CR0_MP 0x00000002
#define CR0_EM_TS 0x0000000c
#define CR4_PSE 0x010
#define CR4_OSFXSR 0x200

#define LARGE_PAGE 0x087
#define LARGE_PAGE_BYTES 0x400000
#define ENTRIES 1024

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long agent_entry

	/* At the first address behind the control page, where firmware.S expects it. */
	.section .entry, "ax"
	.code32
	.globl agent_entry, enter_user_mode
agent_entry:
	cli
	cld
	/* An identity map of all 4 GiB. */
	movl $directory, %edi
	movl $LARGE_PAGE, %eax
	movl $ENTRIES, %ecx
1:	movl %eax, (%edi)
	addl $4, %edi
	addl $LARGE_PAGE_BYTES, %eax
	loop 1b
	xorl %esi, %esi

/* %esi is the number of the vCPU. */
enter_user_mode:
	movl %cr4, %eax
	orl $(CR4_PSE | CR4_OSFXSR), %eax
	movl %eax, %cr4
	movl $directory, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	andl $~CR0_EM_TS, %eax
	orl $(CR0_PG | CR0_PE | CR0_MP), %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $CODE32, $2f
2:	movl $USER_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl $DATA, %eax
	movl %eax, %ss
	leal 1(%esi), %ecx
	imull $STACK_BYTES, %ecx, %ecx
	addl $stacks, %ecx
	movl %ecx, %esp
	pushl $USER_DATA
	pushl %ecx
	pushl $FLAGS_USER
	pushl $USER_CODE32
	pushl $user_mode
	iretl

user_mode:
	xorl %ebp, %ebp
	testl %esi, %esi
	jnz 3f
	call first_cpu_main
3:	subl $12, %esp
	pushl %esi
	call other_cpu_main

	.bss
	.align 4096
directory:
	.skip ENTRIES * 4
	.align 16
stacks:	.skip MAX_CPUS * STACK_BYTES
