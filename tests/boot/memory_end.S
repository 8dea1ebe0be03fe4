/*
 * A boot disk that writes to the last bytes of memory, by PAE's 2 MiB pages (Intel SDM 3A, 4.4), and reads them again.
 * Debug-exit tells how many bits physical addresses have, or 0 when the bytes differ. LAST_PAGE is defined outside.
 */
#define POINTERS 0x1000
#define LOW_DIRECTORY 0x2000  /* linear 0: itself */
#define HIGH_DIRECTORY 0x3000 /* linear 1 GiB: the last page */
#define PRESENT 1
#define LARGE_PAGE 0x83

	.code16
	.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movl $(LOW_DIRECTORY | PRESENT), POINTERS
	movl $0, POINTERS + 4
	movl $(HIGH_DIRECTORY | PRESENT), POINTERS + 8
	movl $0, POINTERS + 12
	movl $LARGE_PAGE, LOW_DIRECTORY
	movl $0, LOW_DIRECTORY + 4
	movl $((LAST_PAGE & 0xffffffff) | LARGE_PAGE), HIGH_DIRECTORY
	movl $(LAST_PAGE >> 32), HIGH_DIRECTORY + 4
	movl $POINTERS, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orb $0x20, %al
	movl %eax, %cr4
	lgdtl %cs:table
	movl %cr0, %eax
	orl $0x80000001, %eax
	movl %eax, %cr0
	jmp 1f
1:	movw $8, %cx
	movw %cx, %ds
	movl $0x401ffff8, %edi
	movl $0x12345678, %ds:(%edi)
	/* Where a shorter address would have got to. */
	movl $0x001ffff8, %esi
	movl $0x9abcdef0, %ds:(%esi)
	cmpl $0x12345678, %ds:(%edi)
	movl $0, %eax
	jne 2f
	movl $0x80000008, %eax
	cpuid
2:	movw $0xf4, %dx
	outb %al, %dx
	hlt
	.balign 4
table:	.word 15
	.long descriptors
	.balign 8
descriptors:
	.quad 0
	.quad 0x00cf92000000ffff
	.org _start + 510
	.word 0xaa55
