/* The segments of the bare agent on x86, and where its other vCPUs begin. */
#include "layout.h"

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
	jmp enter_user_mode
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
	.quad 0x00cffb000000ffff
gdt_end:
	.align 4
	.globl gdt_pointer
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
