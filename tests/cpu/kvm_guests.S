/*
 * Small guests for kvm_test.c, each a flat image loaded at GUEST_BASE. A guest ends with a write to
 * port 0xf4; a write to port 0xf1 marks the place where the test may move it to another engine.
 */
#define GUEST_BASE 0x8000
#define AT(label, guest) (GUEST_BASE + label - guest)
/* Where the long-mode guest has its kernel a second time. */
#define HIGH 0xffffffff80000000
#define PORT_MOVE 0xf1
#define PORT_END 0xf4

.section .rodata

.macro GUEST name
	.balign 16
	.globl \name
\name:
.endm

.macro GUEST_END name
	.globl \name\()_end
\name\()_end:
.endm

/* The block ends with the write, whatever the engine. */
.macro FINISH
	outb %al, $PORT_END
99:	jmp 99b
.endm

/* A stub of 16 bytes for each of 32 vectors: its number and an error code on the stack, then to `fault`. */
.macro FAULT_STUBS fault
	.balign 16, 0x90
.set vector, 0
.rept 32
	.balign 16, 0x90
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	push $0x5a5a
	.endif
	push $vector
	jmp \fault
.set vector, vector + 1
.endr
.endm

/* ---- real mode: arithmetic, strings, interrupts, ports, MMIO, ROM ---- */
.code16
GUEST guest_real
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7000, %sp
	/* Interrupt 0x21 and the division error. */
	movw $AT(real_int21, guest_real), 0x21 * 4
	movw %ax, 0x21 * 4 + 2
	movw $AT(real_divide, guest_real), 0
	movw %ax, 2
	movw $0x1234, %ax
	int $0x21
	movw $5, %bx
	divb %bh
	movw $1000, %cx
	xorl %edx, %edx
1:	addl %ecx, %edx
	rorl $3, %edx
	loop 1b
	/* A run of bytes with every string instruction. */
	movw $GUEST_BASE, %si
	movw $0x3000, %di
	movw $64, %cx
	cld
	rep movsb
	movw $0x3000, %si
	movw $GUEST_BASE, %di
	movw $64, %cx
	repe cmpsb
	setz %bl
	movw $0x3100, %di
	movw $16, %cx
	movl $0xdeadbeef, %eax
	rep stosl
	outb %al, $PORT_MOVE
	/* Ports, one by one and as strings. */
	movw $0x300, %dx
	inb %dx, %al
	incw %dx
	inw %dx, %ax
	incw %dx
	inl %dx, %eax
	outl %eax, %dx
	outw %ax, %dx
	outb %al, %dx
	movw $0x3200, %di
	movw $5, %cx
	rep insw
	movw $0x3200, %si
	movw $5, %cx
	rep outsw
	/* The VGA window is a hole here. */
	movw $0xa000, %ax
	movw %ax, %fs
	movb %fs:0x10, %al
	movw %fs:0x20, %bx
	movl %fs:0x30, %ecx
	movb %al, %fs:0x40
	movw %bx, %fs:0x50
	movl %ecx, %fs:0x60
	incw %fs:0x70
	/* A write to ROM goes out and leaves it as it is. */
	movw $0xc000, %ax
	movw %ax, %gs
	movb $0x77, %gs:5
	movb %gs:5, %ah
	pushf
	popw %bp
	FINISH
real_int21:
	xchgb %ah, %al
	movw $0x21, 0x3ff0
	iret
real_divide:
	/* Past the two bytes of the instruction. */
	pushw %bp
	movw %sp, %bp
	addw $2, 2(%bp)
	popw %bp
	incw 0x3ff2
	iret
GUEST_END guest_real

/* ---- 32-bit protected mode with paging: faults, rings, a task's stack ---- */
.code16
GUEST guest_protected
	cli
	lgdtl %cs:AT(prot_gdtr, guest_protected)
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $AT(prot_32, guest_protected)
.code32
prot_32:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movl $0x7f00, %esp
	/* Paging, IRET and ring 3 are asked for at 0x500. */
	cmpb $0, 0x500
	je prot_flat
	/* Identity page tables for 4 MiB; the page at 0x5000 is not there, 0x6000 is read-only. */
	movl $0x10000, %edi
	movl $0x11007, (%edi)
	movl $0x11000, %edi
	movl $7, %eax
1:	movl %eax, (%edi)
	addl $4, %edi
	addl $0x1000, %eax
	cmpl $0x400007, %eax
	jne 1b
	movl $0, 0x11000 + 5 * 4
	movl $0x6005, 0x11000 + 6 * 4
	movl $0x10000, %eax
	movl %eax, %cr3
	movl %cr0, %eax
	orl $0x80010000, %eax
	movl %eax, %cr0
prot_flat:
	/* All vectors lead to stubs of 16 bytes. */
	movl $0x2000, %edi
	movl $AT(prot_stubs, guest_protected), %eax
	xorl %ecx, %ecx
2:	movw %ax, (%edi)
	movw $8, 2(%edi)
	movw $0x8e00, 4(%edi)
	movw $0, 6(%edi)
	addl $8, %edi
	addl $16, %eax
	incl %ecx
	cmpl $32, %ecx
	jne 2b
	/* Interrupt 0x80 for ring 3. */
	movw $AT(prot_syscall, guest_protected), 0x2000 + 0x80 * 8
	movw $8, 0x2002 + 0x80 * 8
	movw $0xee00, 0x2004 + 0x80 * 8
	movw $0, 0x2006 + 0x80 * 8
	lidtl AT(prot_idtr, guest_protected)
	movl $0x7800, 0x3004
	movl $16, 0x3008
	movl $0x680000, 0x3064
	movw $0x28, %ax
	ltr %ax
	movl $0x4000, %ebp
	/* Each faulting instruction leaves its continuation in esi. */
	movl $AT(3f, guest_protected), %esi
	ud2
3:	cmpb $0, 0x500
	je 5f
	movl $AT(4f, guest_protected), %esi
	movl 0x5678, %eax
4:	movl $AT(5f, guest_protected), %esi
	movl $1, 0x6004
5:	movl $AT(6f, guest_protected), %esi
	movw $0x1234, %ax
	movw %ax, %ds
6:	movl $AT(7f, guest_protected), %esi
	xorl %edx, %edx
	xorl %ecx, %ecx
	divl %ecx
7:	cmpb $0, 0x500
	je 8f
	movl $AT(8f, guest_protected), %esi
	int3
8:	outb %al, $PORT_MOVE
	cmpb $0, 0x500
	jne 1f
	FINISH
1:	cmpb $0, 0x501
	je 2f
	andb $0xfd, AT(prot_tss, guest_protected) + 5
	movw $0x28, %ax
	ltr %ax
2:	/* To ring 3 and back. */
	pushl $0x23
	pushl $0x7400
	pushl $0x2
	pushl $0x1b
	pushl $AT(prot_user, guest_protected)
	iret
prot_user:
	movl $0x23, %eax
	movw %ax, %ds
	movl $AT(9f, guest_protected), %esi
	cli
9:	movl $77, %ebx
	pushl %ebx
	popl %ecx
	int $0x80
prot_syscall:
	movl (%esp), %edi
	movl 12(%esp), %edx
	pushfl
	popl %eax
	FINISH
	.balign 16, 0x90
prot_stubs:
	FAULT_STUBS prot_fault
	.balign 16, 0x90
prot_fault:
	/* A record of vector, error code, eip, cs and cr2. */
	popl (%ebp)
	popl 4(%ebp)
	/* Not every emulation sets RF. */
	andl $~0x10000, 8(%esp)
	movl (%esp), %eax
	movl %eax, 8(%ebp)
	movl 4(%esp), %eax
	movl %eax, 12(%ebp)
	movl %cr2, %eax
	movl %eax, 16(%ebp)
	addl $20, %ebp
	cmpb $0, %ss:0x500
	jne 1f
	addl $12, %esp
	jmp *%esi
1:	/* Ring 3 goes on through the frame as well. */
	movl %esi, (%esp)
	iret
	.balign 8
prot_gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
prot_tss:
	.quad 0x0000890030000067
prot_gdtr:
	.word prot_gdtr - prot_gdt - 1
	.long AT(prot_gdt, guest_protected)
prot_idtr:
	.word 0x81 * 8 - 1
	.long 0x2000
GUEST_END guest_protected

/* ---- long mode: paging, system calls, MSRs, faults, x87 and SSE ---- */
.code16
GUEST guest_long
	cli
	lgdtl %cs:AT(long_gdtr, guest_long)
	movl $0x10000, %edi
	xorl %eax, %eax
	movl %eax, %ds
	movl %eax, %ss
	movw $0x1000, %ax
	movw %ax, %es
	xorl %eax, %eax
	xorw %di, %di
	movw $0x1000, %cx
	cld
	rep stosl
	movl $0x11007, %es:0
	movl $0x11007, %es:511 * 8
	movl $0x12007, %es:0x1000
	movl $0x12007, %es:0x1000 + 510 * 8
	/* The first 2 MiB by small pages, without 0x5000, the next by a large one. */
	movl $0x13007, %es:0x2000
	movl $0x200087, %es:0x2008
	movw $0x3000, %di
	movl $7, %eax
1:	movl %eax, %es:(%di)
	addw $8, %di
	addl $0x1000, %eax
	cmpl $0x200007, %eax
	jb 1b
	movl $0, %es:0x3000 + 5 * 8
	movl $0x10000, %eax
	movl %eax, %cr3
	movl $0x6a0, %eax
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax
	wrmsr
	movl %cr0, %eax
	orl $0x80010001, %eax
	andl $0x9fffffff, %eax
	movl %eax, %cr0
	ljmpl $0x10, $AT(long_64, guest_long)
.code64
long_64:
	movl $0x18, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $0x7000, %esp
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $0x2000, %edi
	movl $AT(long_stubs, guest_long), %eax
	xorl %ecx, %ecx
2:	movw %ax, (%rdi)
	movw $0x10, 2(%rdi)
	movl $0x80008e00, 4(%rdi)
	movl $0xffffffff, 8(%rdi)
	movl $0, 12(%rdi)
	addq $16, %rdi
	addl $16, %eax
	incl %ecx
	cmpl $32, %ecx
	jne 2b
	movw $AT(long_int, guest_long), 0x2000 + 0x80 * 16
	movw $0x10, 0x2002 + 0x80 * 16
	movl $0x8000ee00, 0x2004 + 0x80 * 16
	movl $0xffffffff, 0x2008 + 0x80 * 16
	movl $0, 0x200c + 0x80 * 16
	lidt AT(long_idtr, guest_long)
	movl $0x7800, 0x3004
	movl $0x680000, 0x3064
	movl $0x40, %eax
	ltr %ax
	/* GS base, kernel GS base, SYSCALL's registers. */
	movl $0xc0000101, %ecx
	movl $0x1000, %eax
	xorl %edx, %edx
	wrmsr
	movl $0xc0000102, %ecx
	movl $0x2000, %eax
	wrmsr
	swapgs
	movl $0xc0000081, %ecx
	xorl %eax, %eax
	movl $0x00230010, %edx
	wrmsr
	movl $0xc0000082, %ecx
	movl $0x80000000 + AT(long_syscall, guest_long), %eax
	movl $0xffffffff, %edx
	wrmsr
	movl $0xc0000084, %ecx
	movl $0x47fd5, %eax
	xorl %edx, %edx
	wrmsr
	rdmsr
	movl %eax, 0x3f00
	movq $HIGH + AT(1f, guest_long), %rax
	jmp *%rax
1:	movl $0x4000, %ebp
	leaq 3f(%rip), %rsi
	ud2
3:	leaq 4f(%rip), %rsi
	movq 0x5678, %rax
4:	leaq 5f(%rip), %rsi
	movq $0x123456789abcdef0, %rbx
	movabsq $0x8000000000000000, %rax
	movq (%rax), %rax
5:	leaq 6f(%rip), %rsi
	movl $0x12345678, %ecx
	wrmsr
6:	movl $0x200100, %eax
	movq %rbx, (%rax)
	lock xaddq %rbx, (%rax)
	movl $0x10, %eax
	movl %eax, %r8d
	/* To ring 3 by IRET. It comes back by faults, or when 0x500 asks for it by SYSCALL and interrupt 0x80. */
	movl $0x2b, %eax
	movl %eax, %ds
	movl %eax, %es
	pushq $0x2b
	pushq $0x6f00
	pushq $0x202
	pushq $0x33
	pushq $AT(long_user, guest_long)
	iretq
long_user:
	/* x87 and SSE. */
	fninit
	fldpi
	fld1
	fadd %st(1), %st
	fstpl 0x3f10
	movl $0x1f80, 0x3f20
	ldmxcsr 0x3f20
	movl $7, %eax
	cvtsi2sd %eax, %xmm0
	sqrtsd %xmm0, %xmm1
	mulsd %xmm1, %xmm1
	movsd %xmm1, 0x3f28
	movdqa %xmm1, %xmm15
	pshufd $0x1b, %xmm15, %xmm14
	movl $0x12345, %edi
	cmpb $0, 0x500
	jne 1f
	leaq 2f(%rip), %rsi
	hlt
1:	syscall
2:
	/* What was in registers before the move must be there after it. */
	addsd %xmm1, %xmm0
	movsd %xmm0, 0x3f30
	fadd %st, %st
	fstpl 0x3f38
	movq %xmm14, %r14
	leaq 7f(%rip), %rsi
	movq %rax, %cr3
7:	movl $0x99, %edx
	pushq %rdx
	popq %r13
	xorl %ecx, %ecx
	movl $0x54321, %edi
	cmpb $0, 0x500
	jne 1f
	hlt
1:	int $0x80
long_syscall:
	outb %al, $PORT_MOVE
	movl $0x202, %r11d
	sysretq
long_int:
	movl $0x7000, %esp
	/* What SYSCALL and faults leave there. */
	xorl %eax, %eax
	xorl %r11d, %r11d
	FINISH
	.balign 16, 0x90
long_stubs:
	FAULT_STUBS long_fault
	.balign 16, 0x90
long_fault:
	popq (%rbp)
	popq 8(%rbp)
	andl $~0x10000, 16(%rsp)
	movq (%rsp), %rax
	movq %rax, 16(%rbp)
	movq 8(%rsp), %rax
	movq %rax, 24(%rbp)
	movq %cr2, %rax
	movq %rax, 32(%rbp)
	addq $40, %rbp
	cmpl $0x54321, %edi
	je long_int
	cmpl $0x12345, %edi
	jne 1f
	outb %al, $PORT_MOVE
	xorl %edi, %edi
1:	movq %rsi, (%rsp)
	iretq
	.balign 8
	/* Laid out as Linux's: emulations of ring 0 have it in mind. */
long_gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff
	.quad 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0
	.quad 0x0000890030000067, 0
long_gdtr:
	.word long_gdtr - long_gdt - 1
	.long AT(long_gdt, guest_long)
long_idtr:
	.word 0x81 * 16 - 1
	.quad 0x2000
GUEST_END guest_long

/* ---- two processors: INIT and start-up messages, locked additions ---- */
.code16
GUEST guest_smp
	cli
	/* Flat 32-bit data segments reach the local APIC. */
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl AT(smp_gdtr, guest_smp)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	movw $8, %bx
	movw %bx, %ds
	andb $0xfe, %al
	movl %eax, %cr0
	xorw %ax, %ax
	movw %ax, %ds
	/* What other processors start with lies at 0x9000. */
	movl $0xfee00300, %ebx
	addr32 movl $0x000c4500, (%ebx)
	addr32 movl $0x000c4609, (%ebx)
1:	pause
	cmpl $0, 0x3010
	je 1b
	movw $20000, %cx
2:	lock incl 0x3000
	loop 2b
3:	pause
	cmpl $2, 0x3010
	jne 3b
	movl 0x3000, %eax
	FINISH
	.balign 8
smp_gdt:
	.quad 0, 0x00cf93000000ffff
smp_gdtr:
	.word smp_gdtr - smp_gdt - 1
	.long AT(smp_gdt, guest_smp)
	.org guest_smp + 0x1000
	xorw %ax, %ax
	movw %ax, %ds
	movl $1, 0x3010
	movw $20000, %cx
4:	lock incl 0x3000
	loop 4b
	movl $2, 0x3010
5:	cli
	hlt
	jmp 5b
GUEST_END guest_smp

/* ---- interrupts from outside: vectors 0x20 (PIC), 0x40 (level-triggered message), NMI ---- */
.code16
GUEST guest_interrupts
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7000, %sp
	movw $AT(irq_pic, guest_interrupts), 0x20 * 4
	movw %ax, 0x20 * 4 + 2
	movw $AT(irq_message, guest_interrupts), 0x40 * 4
	movw %ax, 0x40 * 4 + 2
	movw $AT(irq_nmi, guest_interrupts), 2 * 4
	movw %ax, 2 * 4 + 2
	lgdtl AT(irq_gdtr, guest_interrupts)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	movw $8, %bx
	movw %bx, %ds
	andb $0xfe, %al
	movl %eax, %cr0
	xorw %ax, %ax
	movw %ax, %ds
	/* The APIC on, LINT0 for the PIC. */
	movl $0xfee000f0, %ebx
	addr32 movl $0x1ff, (%ebx)
	movl $0xfee00350, %ebx
	addr32 movl $0x700, (%ebx)
	outb %al, $PORT_MOVE
1:	sti
	hlt
	cli
	movw 0x3000, %ax
	addw 0x3002, %ax
	addw 0x3004, %ax
	cmpw $30, %ax
	jb 1b
	FINISH
irq_pic:
	incw 0x3000
	outb %al, $0xe0
	iret
irq_message:
	incw 0x3002
	movl $0xfee000b0, %ebx
	addr32 movl $0, (%ebx)
	outb %al, $0xe1
	iret
irq_nmi:
	incw 0x3004
	outb %al, $0xe2
	iret
	.balign 8
irq_gdt:
	.quad 0, 0x00cf93000000ffff
irq_gdtr:
	.word irq_gdtr - irq_gdt - 1
	.long AT(irq_gdt, guest_interrupts)
GUEST_END guest_interrupts

/* ---- a busy loop, for kicks and the dirty log ---- */
.code16
GUEST guest_busy
	xorw %ax, %ax
	movw %ax, %ds
	movw $0x2000, %ax
	movw %ax, %es
	incw %es:0
	movw $0x4000, %ax
	movw %ax, %es
	incw %es:0x123
	outb %al, $PORT_MOVE
1:	incl %ebx
	jmp 1b
GUEST_END guest_busy

.section .note.GNU-stack, "", @progbits
