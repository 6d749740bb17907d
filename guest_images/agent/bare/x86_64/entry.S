/*
 * Entry of the bare agent on x86_64: in 32-bit protected mode without paging, from our firmware.S or from
 * any that knows PVH (QEMU's -kernel for an ELF with this note, on pc, q35 and microvm).
 *
 * The agent runs in user mode. It needs no privilege, and a KVM that emulates privileged code (module
 * kvm_pvm) runs user mode at full speed: 0.9 million instructions per second against thousands of millions.
 *
 * Xen docs/misc/pvh.pandoc describes the state at the entry, xen/include/public/elfnote.h the note.
 */
#include "bare/limits.h"
#include "bare/x86/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* The latter for compilers that use SSE though told to do without. */
#define CR4_PAE 0x20
#define CR4_OSFXSR 0x200
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

#define PRESENT_WRITABLE_USER 0x007
#define LARGE_PAGE 0x087
#define LARGE_PAGE_BYTES 0x200000
/* The last of them has the memory that is plugged in, where RAM is so small that it lies there. */
#define GIBS_MAPPED 5

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.quad agent_entry

	/* At the first address behind the control page, where firmware.S expects it. */
	.section .entry, "ax"
	.code32
	.globl agent_entry, enter_user_mode
agent_entry:
	cli
	cld
	/* An identity map of the first GiBs; %edx has the upper half of the address. */
	movl $directories, %edi
	movl $LARGE_PAGE, %eax
	xorl %edx, %edx
	movl $(GIBS_MAPPED * 512), %ecx
1:	movl %eax, (%edi)
	movl %edx, 4(%edi)
	addl $8, %edi
	addl $LARGE_PAGE_BYTES, %eax
	adcl $0, %edx
	loop 1b
	movl $(directories + PRESENT_WRITABLE_USER), %eax
	movl $pointers, %edi
	movl $GIBS_MAPPED, %ecx
2:	movl %eax, (%edi)
	addl $8, %edi
	addl $4096, %eax
	loop 2b
	movl $(pointers + PRESENT_WRITABLE_USER), top
	xorl %esi, %esi

/* Goes to 64-bit code in user mode; %esi is the number of the vCPU. */
enter_user_mode:
	movl %cr4, %eax
	orl $(CR4_PAE | CR4_OSFXSR), %eax
	movl %eax, %cr4
	movl $top, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl %cr0, %eax
	orl $(CR0_PG | CR0_PE), %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $CODE64, $long_mode

	.code64
long_mode:
	movl $USER_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	leal 1(%rsi), %eax
	imull $STACK_BYTES, %eax, %eax
	leaq stacks(%rax), %rsp
	movq %rsp, %rcx
	pushq $USER_DATA
	pushq %rcx
	pushq $FLAGS_USER
	pushq $USER_CODE64
	pushq $user_mode
	iretq

user_mode:
	xorl %ebp, %ebp
	testl %esi, %esi
	jnz 3f
	call first_cpu_main
3:	movl %esi, %edi
	call other_cpu_main

	.bss
	.align 4096
	.globl pointers
top:	.skip 4096
pointers:
	.skip 4096
directories:
	.skip GIBS_MAPPED * 4096
stacks:
	.skip MAX_CPUS * STACK_BYTES
