/*
 * The least firmware there can be: takes the first vCPU from its reset vector to the agent's entry.
 *
 * SeaBIOS needs 4.5 s of processor time where KVM emulates privileged code, and 0.1 to 0.3 s under TCG. RAM is
 * as QEMU made it, but for the agent that -kernel has loaded. The image is the last 64 KiB below 1 MiB.
 */
#include "layout.h"

#define IMAGE 0xf0000
#define BEGIN 0xff00
#define RESET 0xfff0
/* Its own table of segments, since it has no other memory. */
#define FIRMWARE_CODE 0x08
#define FIRMWARE_DATA 0x10

	.code16
	.text
	.globl firmware_begin
	.org BEGIN
firmware_begin:
	cli
	cld
	lgdtl %cs:gdt_pointer - firmware_begin + BEGIN
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $FIRMWARE_CODE, $(IMAGE + BEGIN + protected_mode - firmware_begin)
	.code32
protected_mode:
	movl $FIRMWARE_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $ENTRY, %eax
	jmp *%eax

	.align 8
gdt:	.quad 0
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
gdt_pointer:
	.word . - gdt - 1
	.long IMAGE + BEGIN + gdt - firmware_begin

	/* Intel SDM volume 3, 11.1.4: the first instruction is 16 bytes below the end. */
	.org RESET
	.code16
	ljmpw $(IMAGE >> 4), $BEGIN
	.org 0xffff
	.byte 0
