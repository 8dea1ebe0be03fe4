/* Real-mode code that runs the video BIOS and goes on to a protected-mode entry point. */
#include "fw/video_init.h"

#include <string.h>

#include "base/bytes.h"
#include "fw/boot.h"

#define STUB_GPA 0x5c00u /* its stack grows down from here */
#define ROM_GPA 0xc0000u
#define ROM_ROOM 0x10000u

/* Where the code below wants its numbers. */
enum {
	AT_PCI = 9,
	AT_GDTR = 28,
	AT_FLAT = 42,
	FLAT = 48, /* the first 32-bit instruction */
	AT_ESP = 66,
	AT_EAX = 71,
	AT_EBX = 76,
	AT_ECX = 81,
	AT_EDX = 86,
	AT_ESI = 91,
	AT_EDI = 96,
	AT_ENTRY = 103,
	GDTR = 108,
	SIZE = 114,
};

static const uint8_t code[SIZE] = {
	0xfa,                               /* cli */
	0x31, 0xc0,                         /* xor ax, ax */
	0x8e, 0xd0, 0x8e, 0xd8,             /* mov ss, ax; mov ds, ax */
	0x90, 0xb8, 0, 0,                   /* nop; mov ax, PCI address */
	0xbc, 0x00, 0x5c,                   /* mov sp, STUB_GPA */
	0x9a, 0x03, 0x00, 0x00, 0xc0,       /* call 0xc000:0x0003 */
	0xb8, 0x03, 0x00, 0xcd, 0x10, 0xfa, /* mov ax, 3; int 0x10; cli */
	0x0f, 0x01, 0x16, 0, 0,             /* lgdt [GDTR]: 24 bits of base are enough */
	0x0f, 0x20, 0xc0,                   /* mov eax, cr0 */
	0x66, 0x83, 0xc8, 0x21,             /* or eax, PE | NE */
	0x0f, 0x22, 0xc0,                   /* mov cr0, eax */
	0x66, 0xea, 0, 0, 0, 0, 0x10, 0x00, /* jmp 0x10:FLAT */
	0xb8, 0x18, 0x00, 0x00, 0x00,       /* mov eax, 0x18 */
	0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, /* mov ds, ax; mov es, ax; mov ss, ax */
	0x8e, 0xe0, 0x8e, 0xe8,             /* mov fs, ax; mov gs, ax */
	0x31, 0xed,                         /* xor ebp, ebp */
	0xbc, 0, 0, 0, 0,                   /* mov esp */
	0xb8, 0, 0, 0, 0,                   /* mov eax */
	0xbb, 0, 0, 0, 0,                   /* mov ebx */
	0xb9, 0, 0, 0, 0,                   /* mov ecx */
	0xba, 0, 0, 0, 0,                   /* mov edx */
	0xbe, 0, 0, 0, 0,                   /* mov esi */
	0xbf, 0, 0, 0, 0,                   /* mov edi */
	0xfc, 0xfa, 0xe9, 0, 0, 0, 0,       /* cld; cli; jmp entry */
};

static void put(uint8_t *stub, unsigned at, uint64_t value)
{
	st32le(stub + at, (uint32_t)value);
}

bool video_init_boot(struct mem *mem, const void *rom, size_t len, uint16_t pci_address, struct cpu_state *s, GError **error)
{
	uint8_t stub[SIZE];
	struct cpu_state real;

	memcpy(stub, code, sizeof(stub));
	st16le(stub + AT_PCI, pci_address);
	st16le(stub + AT_GDTR, STUB_GPA + GDTR);
	put(stub, AT_FLAT, STUB_GPA + FLAT);
	put(stub, AT_ESP, s->gpr[RSP]);
	put(stub, AT_EAX, s->gpr[RAX]);
	put(stub, AT_EBX, s->gpr[RBX]);
	put(stub, AT_ECX, s->gpr[RCX]);
	put(stub, AT_EDX, s->gpr[RDX]);
	put(stub, AT_ESI, s->gpr[RSI]);
	put(stub, AT_EDI, s->gpr[RDI]);
	put(stub, AT_ENTRY, s->rip - (STUB_GPA + AT_ENTRY + 4));
	st16le(stub + GDTR, s->gdtr.limit);
	put(stub, GDTR + 2, s->gdtr.base);
	if (!boot_write(mem, ROM_GPA, rom, MIN(len, (size_t)ROM_ROOM), "the video BIOS", error) ||
	    !boot_write(mem, STUB_GPA, stub, sizeof(stub), "the start-up code", error))
		return false;
	cpu_state_reset(&real, true);
	real.seg[SEG_CS].selector = 0;
	real.seg[SEG_CS].base = 0;
	real.rip = STUB_GPA;
	*s = real;
	return true;
}
