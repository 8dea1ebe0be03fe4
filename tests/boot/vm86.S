/*
 * A boot disk that calls the video BIOS in virtual-8086 mode, as X servers for VESA screens do on kernels that offer
 * it: paging on, IOPL 0, and a monitor for what traps (Intel SDM 3A, 20.2 and 20.3). It asks for VBE's modes, takes one
 * of 1024x768x32, fills the upper half by the banked window and the lower half by the linear frame buffer, and after
 * a key goes back to text mode. What it does it tells the debug console.
*/
#define PAGE_DIRECTORY 0x11000
#define TSS 0x12000
#define TSS_SIZE (104 + 8192 + 1)
#define IDT 0x15000
#define BUFFER_SEGMENT 0x3000
#define BUFFER (BUFFER_SEGMENT << 4)
#define MODE 0x144 /* 1024x768, 32 bits */
#define UPPER 0x00c08040
#define LOWER 0x002060a0
#define HALF (384 * 4096)
#define EFLAGS_IF 0x200
#define EFLAGS_VM 0x20000
#define ARITHMETIC 0xcd5

	.code16
	.globl _start
_start:
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movw $0x0208, %ax
	movw $0x7e00, %bx
	movw $2, %cx
	movb $0, %dh
	int $0x13
	cli
	lgdt gdt_register
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmp $8, $protected

	.balign 8
gdt:
	.quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
	.word TSS_SIZE - 1, TSS & 0xffff, 0x8900 | TSS >> 16, 0
gdt_register:
	.word gdt_register - gdt - 1
	.long gdt
idt_register:
	.word 256 * 8 - 1
	.long IDT
	.org 510
	.word 0xaa55

	.code32
protected:
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x10000, %esp
	cld
	movl $PAGE_DIRECTORY, %edi
	xorl %eax, %eax
	movl $(0x18000 - PAGE_DIRECTORY) / 4, %ecx
	rep stosl
	/* The first 4 MiB as they are, for the user as well. */
	movl $0x87, PAGE_DIRECTORY
	movl $PAGE_DIRECTORY, %eax
	movl %eax, %cr3
	movl $0x10, %eax
	movl %eax, %cr4
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	/* All ports are the BIOS's: the bitmap of the task is clear. */
	movl $0x10000, TSS + 4
	movw $0x10, TSS + 8
	movw $104, TSS + 102
	movb $0xff, TSS + 104 + 8192
	movw $0x18, %ax
	ltr %ax
	movl $IDT, %edi
	movl $unexpected, %eax
	movl $256, %ecx
1:	movw %ax, (%edi)
	movl $0x8e000008, 2(%edi)
	addl $8, %edi
	loop 1b
	movl $general_protection, %eax
	movw %ax, IDT + 13 * 8
	lidt idt_register

	movl $0x32454256, BUFFER /* "VBE2" */
	movl $0x4f00, %eax
	movl $BUFFER_SEGMENT, %edx
	xorl %edi, %edi
	call video_bios
	call check
	cmpl $0x41534556, BUFFER /* "VESA" */
	jne unexpected
	movl $0x4f01, %eax
	movl $MODE, %ecx
	call video_bios
	call check
	cmpw $1024, BUFFER + 0x12
	jne unexpected
	cmpw $768, BUFFER + 0x14
	jne unexpected
	cmpb $32, BUFFER + 0x19
	jne unexpected
	cmpw $4096, BUFFER + 0x10
	jne unexpected
	movl BUFFER + 0x28, %ebp
	movl $0x4f02, %eax
	movl $MODE, %ebx
	call video_bios
	call check

	movl $0, bank
1:	movl $0x4f05, %eax
	xorl %ebx, %ebx
	movl bank, %edx
	call video_bios
	call check
	movl $0xa0000, %edi
	movl $UPPER, %eax
	movl $0x4000, %ecx
	rep stosl
	incl bank
	cmpl $HALF / 0x10000, bank
	jne 1b

	movl $0x4f02, %eax
	movl $(MODE | 0xc000), %ebx
	call video_bios
	call check
	movl %ebp, %eax
	shrl $22, %eax
	movl %ebp, %ecx
	andl $0xffc00000, %ecx
	orl $0x83, %ecx
	movl %ecx, PAGE_DIRECTORY(, %eax, 4)
	leal HALF(%ebp), %edi
	movl $LOWER, %eax
	movl $HALF / 4, %ecx
	rep stosl
	movl $0x4f03, %eax
	call video_bios
	call check
	andl $0x1ff, %ebx
	cmpl $MODE, %ebx
	jne unexpected
	movl $drawn, %esi
	call tell

1:	inb $0x64, %al
	testb $1, %al
	jz 1b
	inb $0x60, %al
	movl $3, %eax
	call video_bios
	movl $text, %esi
1:	lodsb
	testb %al, %al
	jz 2f
	movb $0x0e, %ah
	xorl %ebx, %ebx
	call video_bios
	jmp 1b
2:	movl $done, %esi
	call tell
	cmpl $100, traps
	jb unexpected
	hlt

/* VBE's answer in AX. */
check:
	cmpw $0x004f, %ax
	jne unexpected
	ret

unexpected:
	movl $wrong, %esi
	call tell
	cli
	hlt

tell:
	movw $0x402, %dx
1:	lodsb
	testb %al, %al
	jz 2f
	outb %al, %dx
	jmp 1b
2:	ret

/* INT 10h in virtual-8086 mode with these EAX to EDX and EDI, and EDX in ES: EAX and EBX are the answer. */
video_bios:
	pushl %ecx
	pushl %edx
	pushl %esi
	pushl %edi
	pushl %ebp
	movl %esp, monitor_stack
	pushl $0
	pushl $0
	pushl $0
	pushl %edx
	pushl $0x2000
	pushl $0xfffe
	pushl $(EFLAGS_VM | 2)
	pushl $0
	pushl $called
	movl %esp, %ebp
	/* What traps uses the stack below. */
	movl %esp, TSS + 4
	iret

	.code16
called:
	int $0x10
	hlt
	.code32

#define IP 36
#define CS 40
#define FLAGS 44
#define SP 48
#define SS 52

general_protection:
	pusha
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	cld
	testl $EFLAGS_VM, FLAGS(%esp)
	jz unexpected
	incl traps
	movl %esp, %ebp
	movzwl CS(%ebp), %ebx
	shll $4, %ebx
	addl IP(%ebp), %ebx
	movl $2, %edx /* the operand's size */
	cmpb $0x66, (%ebx)
	jne 1f
	movl $4, %edx
	incl %ebx
	incl IP(%ebp)
1:	incl IP(%ebp)
	movzwl SS(%ebp), %esi
	shll $4, %esi
	movb (%ebx), %al
	cmpb $0xf4, %al
	je finished
	cmpb $0xcd, %al
	je software_interrupt
	cmpb $0xcf, %al
	je interrupt_return
	cmpb $0x9c, %al
	je push_flags
	cmpb $0x9d, %al
	je pop_flags
	cmpb $0xfa, %al
	je clear_interrupt
	cmpb $0xfb, %al
	jne unexpected
	movl $EFLAGS_IF, virtual_if
	jmp resume
clear_interrupt:
	movl $0, virtual_if
	jmp resume
push_flags:
	call flags_seen
	call push
	jmp resume
pop_flags:
	call pop
	call set_flags
	jmp resume
interrupt_return:
	call pop
	movzwl %ax, %eax
	movl %eax, IP(%ebp)
	call pop
	movzwl %ax, %eax
	movl %eax, CS(%ebp)
	call pop
	call set_flags
	jmp resume
software_interrupt:
	incl IP(%ebp)
	movzbl 1(%ebx), %ebx
	call flags_seen
	call push
	movl CS(%ebp), %eax
	call push
	movl IP(%ebp), %eax
	call push
	movzwl (, %ebx, 4), %eax
	movl %eax, IP(%ebp)
	movzwl 2(, %ebx, 4), %eax
	movl %eax, CS(%ebp)
	movl $0, virtual_if
resume:
	popa
	addl $4, %esp
	iret
finished:
	movl 28(%ebp), %eax
	movl 16(%ebp), %ebx
	movl monitor_stack, %esp
	popl %ebp
	popl %edi
	popl %esi
	popl %edx
	popl %ecx
	ret

flags_seen:
	movl FLAGS(%ebp), %eax
	andl $ARITHMETIC, %eax
	orl virtual_if, %eax
	orl $2, %eax
	ret
set_flags:
	movl %eax, %ecx
	andl $EFLAGS_IF, %ecx
	movl %ecx, virtual_if
	andl $ARITHMETIC, %eax
	orl $(EFLAGS_VM | 2), %eax
	movl %eax, FLAGS(%ebp)
	ret
/* EAX, EDX bytes of it, to and from the stack at ESI. */
push:
	subw %dx, SP(%ebp)
	movzwl SP(%ebp), %ecx
	cmpl $4, %edx
	je 1f
	movw %ax, (%esi, %ecx)
	ret
1:	movl %eax, (%esi, %ecx)
	ret
pop:
	movzwl SP(%ebp), %ecx
	addw %dx, SP(%ebp)
	movl (%esi, %ecx), %eax
	ret

monitor_stack: .long 0
virtual_if: .long 0
traps: .long 0
bank: .long 0
drawn: .asciz "DRAWN\n"
done: .asciz "DONE\n"
wrong: .asciz "UNEXPECTED\n"
text: .asciz "text by vm86"
	.org 512 * 9
