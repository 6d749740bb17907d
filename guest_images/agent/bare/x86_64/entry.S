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
#include "layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define USER_DATA 0x23
#define USER_CODE64 0x2b

#define CR0_PE 0x00000001
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define FLAGS_USER 0x002

#define PRESENT_WRITABLE_USER 0x007
#define LARGE_PAGE 0x087
#define LARGE_PAGE_BYTES 0x200000
#define GIBS_MAPPED 4

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.quad agent_entry

	/* At the first address behind the control page, where firmware.S expects it. */
	.section .entry, "ax"
	.code32
	.globl agent_entry
agent_entry:
	cli
	cld
	/* An identity map of the first 4 GiB. */
	movl $directories, %edi
	movl $LARGE_PAGE, %eax
	movl $(GIBS_MAPPED * 512), %ecx
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $LARGE_PAGE_BYTES, %eax
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
enter_long_mode:
	movl %cr4, %eax
	orl $CR4_PAE, %eax
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

/* The other vCPUs begin here, in real mode; processor.c copies the code to TRAMPOLINE. */
	.code16
	.globl trampoline_begin, trampoline_end
trampoline_begin:
	cli
	cld
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt - trampoline_begin + TRAMPOLINE
	movl %cr0, %eax
	orl $CR0_PE, %eax
	movl %eax, %cr0
	ljmpl $CODE32, $other_start
	.align 4
trampoline_gdt:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

	.code32
other_start:
	movl $DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $1, %esi
	lock xaddl %esi, cpus_started
	/* More vCPUs than writers: the rest waits for ever. */
	cmpl cpus_wanted, %esi
	jae 4f
	jmp enter_long_mode
4:	hlt
	jmp 4b

	.data
	.align 8
gdt:	.quad 0
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
	.quad 0x00cf9b000000ffff
	.quad 0x00cff3000000ffff
	.quad 0x00affb000000ffff
gdt_end:
	.align 4
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
	.align 4
	.globl cpus_started, cpus_wanted
/* The first one counts itself. */
cpus_started:
	.long 1
cpus_wanted:
	.long 0

	.bss
	.align 4096
top:	.skip 4096
pointers:
	.skip 4096
directories:
	.skip GIBS_MAPPED * 4096
stacks:
	.skip MAX_CPUS * STACK_BYTES
