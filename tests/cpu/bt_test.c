/*
 * The translator against the interpreter: random sequences of instructions in loops, in 64-bit and 32-bit code,
 * with operands in registers and in memory, across pages, with faults in the middle, code that changes itself.
 * Registers, flags, vector state and memory must be equal in the end.
 *
 *	cpu-bt [cases [seed]] [--shrink]
 *
 * With --shrink a case that differs is made as small as it gets, and listed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include <Zydis/Zydis.h>

#include "accel/accel.h"
#include "base/bytes.h"
#include "base/log.h"

#define RAM_SIZE (16u << 20)
#define TABLES 0x1000u
#define IDT 0x8000u
#define GDT 0x9000u
#define HANDLERS 0xa000u
#define CODE 0x100000u
#define CODE_LATE (CODE + 0xf80u) /* sequences that start here cross a page */
#define DATA 0x200000u
#define DATA_SIZE 0x6000u
#define HOLE (DATA + 0x4000u) /* a page that is not there */
#define READ_ONLY (DATA + 0x5000u)
#define STACK 0x210000u
#define COUNTER 0x211000u

static uint64_t seed;
static unsigned code_at;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull;
}
static unsigned pick(unsigned n) { return (unsigned)((rnd() >> 33) % n); }

/* ---- a machine without devices ---- */

static uint64_t none_read(void *opaque, unsigned cpu, uint16_t port, unsigned len) { return 0x5a; }
static void none_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value) { }
static uint64_t mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len) { return gpa * 0x0101010101010101u; }
static void mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value) { }
static int no_interrupt(void *opaque, unsigned cpu) { return -1; }
static bool no_msr(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value) { return false; }
static bool no_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value) { return false; }
static uint8_t no_tpr(void *opaque, unsigned cpu) { return 0; }
static void no_tpr_write(void *opaque, unsigned cpu, uint8_t v) { }
static int64_t no_clock(void *opaque) { return 0; }
static void tsc_adjusted(void *opaque, unsigned cpu, uint64_t adjust) { }
static void no_eoi(void *opaque, uint8_t vector) { }

static const struct accel_host host = {
	.port_read = none_read, .port_write = none_write, .mmio_read = mmio_read, .mmio_write = mmio_write,
	.interrupt_ack = no_interrupt, .apic_msr_read = no_msr, .apic_msr_write = no_msr_write, .tpr_read = no_tpr,
	.tpr_write = no_tpr_write, .clock_ns = no_clock, .tsc_adjusted = tsc_adjusted, .ioapic_eoi = no_eoi,
};

/* Instead of the host's, for tests that look at what the engine asks for. */
static const struct accel_host *machine_host = &host;

struct machine {
	struct mem *mem;
	struct ram *ram;
	struct accel *accel;
	struct vcpu *vcpu;
};

static uint64_t cache_size; /* 0: as it is by default */
static unsigned machine_cpus = 1; /* that the engine is told of; there is one */

static void machine_make(struct machine *m, const struct accel_ops *ops)
{
	GError *error = NULL;
	struct accel_config cfg = { .host = machine_host, .cpus = machine_cpus, .bt_cache = cache_size };

	m->mem = mem_create();
	m->ram = ram_create("test", RAM_SIZE, &error);
	mem_map(m->mem, 0, RAM_SIZE, m->ram, 0, false);
	cfg.mem = m->mem;
	m->accel = ops->open(&cfg, &error);
	m->vcpu = m->accel ? ops->vcpu_create(m->accel, 0, &error) : NULL;
	if (!m->vcpu) {
		printf("Bail out! %s\n", error->message);
		exit(1);
	}
}

static void machine_free(struct machine *m)
{
	const struct accel_ops *ops = m->accel->ops;

	ops->vcpu_destroy(m->vcpu);
	for (int i = 0; i < MEM_MAX_SLOTS; i++)
		mem_unmap(m->mem, i);
	ops->close(m->accel);
	ram_destroy(m->ram);
	mem_destroy(m->mem);
}

/* ---- the world that a sequence runs in ---- */

static void put64(struct machine *m, uint64_t at, uint64_t v) { st64le(m->ram->host + at, v); }

static void make_tables(struct machine *m, bool wide)
{
	unsigned top = wide ? 0x1000 : 0x2000;

	memset(m->ram->host + TABLES, 0, 0x6000);
	if (wide)
		put64(m, top, 0x2000 | 7);
	put64(m, 0x2000, 0x3000 | (wide ? 7 : 1));
	for (unsigned i = 0; i < 2; i++) {
		put64(m, 0x3000 + 8 * i, (0x4000u + i * 0x1000) | 7);
		for (unsigned k = 0; k < 512; k++) {
			uint64_t page = (uint64_t)(i * 512 + k) << 12;

			put64(m, 0x4000 + i * 0x1000 + 8 * k, page == HOLE ? 0 : page == READ_ONLY ? page | 5 : page | 7);
		}
	}
	/* Beyond: large pages, also of memory that does not exist. */
	for (unsigned k = 2; k < 64; k++)
		put64(m, 0x3000 + 8 * k, (uint64_t)k << 21 | 0x87);
}

static void make_gates(struct machine *m, bool wide)
{
	for (unsigned v = 0; v < 32; v++) {
		uint64_t at = HANDLERS + v * 16;
		uint64_t low = (at & 0xffff) | (uint64_t)0x08 << 16 | UINT64_C(0x8e00) << 32 | (at & 0xffff0000) << 32;

		if (wide) {
			put64(m, IDT + v * 16, low);
			put64(m, IDT + v * 16 + 8, 0);
		} else {
			put64(m, IDT + v * 8, low);
		}
		m->ram->host[at] = 0xf4;
	}
	put64(m, GDT + 8, wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
	put64(m, GDT + 16, 0x00cf93000000ffff);
}

static void start_state(struct cpu_state *s, bool wide)
{
	struct x86_segment data = { 0, UINT32_MAX, 0x10, 0xc93 }, code = { 0, UINT32_MAX, 8, wide ? 0xa9b : 0xc9b };

	cpu_state_reset(s, true);
	s->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s->cr3 = wide ? 0x1000 : 0x2000;
	s->xcr0 = 7;
	s->efer = wide ? EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE : EFER_NXE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[SEG_CS] = code;
	s->seg[SEG_FS].base = DATA + 0x100;
	s->idtr = (struct x86_dtable){ IDT, 0xfff };
	s->gdtr = (struct x86_dtable){ GDT, 0x17 };
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = pick(3) ? rnd() : rnd() >> 40;
	if (!wide) {
		for (unsigned i = 0; i < 16; i++)
			s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
	}
	s->gpr[RBX] = DATA + 0x1000;
	s->gpr[R13] = wide ? DATA + 0x1800 : 0;
	s->gpr[R10] = wide ? DATA + 0x2000 : 0;
	s->gpr[R15] = wide ? DATA + 0x0f00 : 0;
	s->gpr[RBP] = pick(256);
	s->gpr[RSP] = STACK - 0x800;
	s->rip = code_at;
	s->rflags = 2 | (rnd() & RFLAGS_STATUS);
	for (unsigned i = 0; i < 256; i++)
		s->xsave[160 + i] = (uint8_t)rnd();
	s->xsave[0] = 0x7f; /* all exceptions masked */
	s->xsave[1] = 3;
	s->xsave[512] = 7;
}

/* ---- sequences ---- */

enum { M = 1, I8 = 2, IZ = 4, BYTE = 8, MEM = 16, IV = 32, W0 = 64, SSE = 128, EXT = 256, NO32 = 512, REGONLY = 1024 };
struct shape {
	uint8_t prefix, map, op, op_last;
	uint8_t ext; /* with EXT: /digit */
	unsigned flags;
};
static const struct shape shapes[] = {
	{ 0, 0, 0x00, 0x00, 0, M | BYTE }, { 0, 0, 0x01, 0x01, 0, M }, { 0, 0, 0x02, 0x02, 0, M | BYTE }, { 0, 0, 0x03, 0x03, 0, M },
	{ 0, 0, 0x10, 0x13, 0, M }, { 0, 0, 0x18, 0x1b, 0, M }, { 0, 0, 0x20, 0x23, 0, M }, { 0, 0, 0x28, 0x2b, 0, M },
	{ 0, 0, 0x30, 0x33, 0, M }, { 0, 0, 0x38, 0x3b, 0, M }, { 0, 0, 0x08, 0x0b, 0, M }, { 0, 0, 0x05, 0x05, 0, IZ }, { 0, 0, 0x3d, 0x3d, 0, IZ },
	{ 0, 0, 0x69, 0x69, 0, M | IZ }, { 0, 0, 0x6b, 0x6b, 0, M | I8 }, { 0, 0, 0x81, 0x81, 0, M | IZ | EXT }, { 0, 0, 0x83, 0x83, 0, M | I8 | EXT },
	{ 0, 0, 0x81, 0x81, 7, M | IZ | EXT }, { 0, 0, 0x83, 0x83, 2, M | I8 | EXT }, { 0, 0, 0x80, 0x80, 5, M | I8 | EXT | BYTE },
	{ 0, 0, 0x84, 0x89, 0, M }, { 0, 0, 0x8a, 0x8b, 0, M }, { 0, 0, 0x88, 0x88, 0, M | BYTE }, { 0, 0, 0x8a, 0x8a, 0, M | BYTE },
	{ 0, 0, 0x8b, 0x8b, 0, M | MEM }, { 0, 0, 0x89, 0x89, 0, M | MEM }, { 0, 0, 0x8d, 0x8d, 0, M | MEM }, { 0, 0, 0x63, 0x63, 0, M | NO32 },
	{ 0, 0, 0x98, 0x99, 0, 0 }, { 0, 0, 0x9e, 0x9f, 0, 0 }, { 0, 0, 0xa8, 0xa8, 0, I8 | BYTE }, { 0, 0, 0xb8, 0xbf, 0, IV },
	{ 0, 0, 0xc1, 0xc1, 0, M | I8 | EXT }, { 0, 0, 0xc1, 0xc1, 4, M | I8 | EXT }, { 0, 0, 0xc1, 0xc1, 2, M | I8 | EXT }, { 0, 0, 0xd3, 0xd3, 5, M | EXT },
	{ 0, 0, 0xd3, 0xd3, 1, M | EXT }, { 0, 0, 0xd1, 0xd1, 3, M | EXT }, { 0, 0, 0xc6, 0xc6, 0, M | I8 | EXT | BYTE }, { 0, 0, 0xc7, 0xc7, 0, M | IZ | EXT },
	{ 0, 0, 0xf7, 0xf7, 0, M | IZ | EXT }, { 0, 0, 0xf7, 0xf7, 2, M | EXT }, { 0, 0, 0xf7, 0xf7, 3, M | EXT }, { 0, 0, 0xf7, 0xf7, 4, M | EXT },
	{ 0, 0, 0xf7, 0xf7, 5, M | EXT }, { 0, 0, 0xff, 0xff, 0, M | EXT }, { 0, 0, 0xff, 0xff, 1, M | EXT }, { 0, 0, 0xfe, 0xfe, 0, M | EXT | BYTE },
	{ 0, 0, 0xf5, 0xf5, 0, 0 }, { 0, 0, 0xf8, 0xf9, 0, 0 }, { 0, 0, 0x50, 0x57, 0, W0 }, { 0, 0, 0x68, 0x68, 0, IZ | W0 }, { 0, 0, 0x6a, 0x6a, 0, I8 | W0 },
	{ 0, 0, 0xff, 0xff, 6, M | EXT | W0 }, { 0, 0, 0x9c, 0x9c, 0, W0 }, { 0, 0, 0x86, 0x87, 0, M }, { 0, 0, 0x91, 0x91, 0, 0 },
	{ 0, 1, 0x40, 0x4f, 0, M }, { 0, 1, 0x90, 0x9f, 0, M | BYTE | EXT }, { 0, 1, 0xa3, 0xa3, 0, M }, { 0, 1, 0xab, 0xab, 0, M | REGONLY }, { 0, 1, 0xba, 0xba, 5, M | I8 | EXT },
	{ 0, 1, 0xa4, 0xa4, 0, M | I8 }, { 0, 1, 0xac, 0xac, 0, M | I8 }, { 0, 1, 0xad, 0xad, 0, M }, { 0, 1, 0xaf, 0xaf, 0, M }, { 0, 1, 0xb0, 0xb1, 0, M }, { 0, 1, 0xb6, 0xb7, 0, M },
	{ 0, 1, 0xbe, 0xbf, 0, M }, { 0xf3, 1, 0xb8, 0xb8, 0, M }, { 0, 1, 0xbc, 0xbd, 0, M }, { 0xf3, 1, 0xbc, 0xbd, 0, M }, { 0, 1, 0xc0, 0xc1, 0, M },
	{ 0, 1, 0xc8, 0xcf, 0, 0 }, { 0, 1, 0xc7, 0xc7, 1, M | EXT | MEM }, { 0, 1, 0x1f, 0x1f, 0, M | EXT },
	{ 0, 1, 0x10, 0x11, 0, M | SSE }, { 0xf3, 1, 0x10, 0x11, 0, M | SSE }, { 0xf2, 1, 0x58, 0x59, 0, M | SSE }, { 0x66, 1, 0xef, 0xef, 0, M | SSE },
	{ 0x66, 1, 0x6e, 0x6e, 0, M | SSE }, { 0x66, 1, 0x7e, 0x7e, 0, M | SSE }, { 0xf3, 1, 0x6f, 0x6f, 0, M | SSE }, { 0xf3, 1, 0x7f, 0x7f, 0, M | SSE },
	{ 0xf2, 1, 0x2a, 0x2a, 0, M | SSE }, { 0xf2, 1, 0x2c, 0x2d, 0, M | SSE }, { 0x66, 1, 0x2e, 0x2e, 0, M | SSE }, { 0, 1, 0x28, 0x29, 0, M | SSE },
	{ 0x66, 1, 0xd6, 0xd6, 0, M | SSE }, { 0x66, 1, 0xfe, 0xfe, 0, M | SSE }, { 0x66, 1, 0x70, 0x70, 0, M | I8 | SSE }, { 0, 1, 0x50, 0x50, 0, M | SSE | REGONLY },
	{ 0x66, 2, 0x00, 0x00, 0, M | SSE }, { 0x66, 3, 0x0f, 0x0f, 0, M | I8 | SSE }, { 0x66, 3, 0x22, 0x22, 0, M | I8 | SSE }, { 0x66, 3, 0x16, 0x16, 0, M | I8 | SSE },
	{ 0x66, 2, 0x17, 0x17, 0, M | SSE }, { 0xf2, 2, 0xf1, 0xf1, 0, M }, { 0, 2, 0xf0, 0xf1, 0, M | MEM }, { 0x66, 2, 0xf6, 0xf6, 0, M },
};

struct code {
	uint8_t *p;
	uint8_t *start;
	bool wide;
};

static void put(struct code *c, unsigned b) { *c->p++ = (uint8_t)b; }
static void put_n(struct code *c, uint64_t v, unsigned n) { memcpy(c->p, &v, n); c->p += n; }

/* Registers that may be changed at will; the others lead into the data. */
static unsigned free_reg(bool wide)
{
	static const uint8_t r64[] = { RAX, RCX, RDX, RSI, RDI, R8, R9, R11, R12, R14 };

	return r64[pick(wide ? 10 : 5)];
}

static void put_modrm_mem(struct code *c, unsigned reg, unsigned *rex)
{
	static const uint8_t bases[] = { RBX, R10, R13, R15, RSP };
	unsigned base = c->wide ? bases[pick(5)] : (pick(5) ? RBX : RSP), form = pick(6);
	int32_t disp = (int32_t)pick(0x1800) - 0xc00;

	if (pick(40) == 0)
		disp = (int32_t)(HOLE - DATA - 0x1000) + (int32_t)pick(0x20) - 0x10;
	if (form == 0 && pick(3) == 0) { /* absolute, or RIP-relative */
		put(c, (reg & 7) << 3 | 5);
		put_n(c, c->wide ? (uint64_t)(DATA + 0x900 + pick(0x800)) - (uint64_t)(code_at + (c->p - c->start) + 8) : DATA + 0x900 + pick(0x800), 4);
		return;
	}
	*rex |= base >> 3;
	if (form < 3) {
		unsigned index = RBP;

		put(c, 0x84 | (reg & 7) << 3);
		put(c, pick(4) << 6 | index << 3 | (base & 7));
	} else {
		put(c, 0x80 | (reg & 7) << 3 | ((base & 7) == 4 ? 4 : (base & 7)));
		if ((base & 7) == 4)
			put(c, 0x24);
	}
	put_n(c, (uint32_t)disp, 4);
}

static void put_insn(struct code *c, bool stack)
{
	const struct shape *s = &shapes[pick(G_N_ELEMENTS(shapes))];
	unsigned op = s->op + pick((unsigned)(s->op_last - s->op) + 1), reg, rm, rex = 0, opsize = 4;
	bool mem = (s->flags & MEM) || ((s->flags & M) && !(s->flags & REGONLY) && pick(2));
	bool sse = s->flags & SSE, byte = (s->flags & BYTE) || (s->map == 0 && !(op & 1) && op < 0x40) || ((s->flags & M) && s->map == 0 && !(op & 1) && op >= 0x84 && op < 0x8c);
	uint8_t *rex_at = NULL, *fs_at = NULL;

	if (((s->flags & NO32) && !c->wide) || ((s->flags & W0) && !stack))
		return;
	if (mem && pick(10) == 0) {
		fs_at = c->p;
		put(c, 0x64);
	}
	if (s->prefix == 0x66)
		put(c, 0x66);
	else if (!sse && !byte && s->map < 2 && !(s->flags & W0) && pick(6) == 0 && op != 0xc7 && op != 0x63 && !(s->map == 1 && (op & 0xf8) == 0xc8)) {
		put(c, 0x66);
		opsize = 2;
	}
	if (s->prefix && s->prefix != 0x66)
		put(c, s->prefix);
	reg = s->flags & EXT ? s->ext : sse ? pick(8) : free_reg(c->wide);
	if (sse && reg == RSP)
		reg = RAX;
	rm = free_reg(c->wide);
	if (c->wide) {
		rex_at = c->p;
		put(c, 0x40);
		if (!(s->flags & W0) && pick(2) && !byte) {
			rex |= 8;
			opsize = 8;
		}
	} else if (byte && (reg > 3 || rm > 3)) {
		reg &= 3, rm &= 3;
	}
	if (byte && pick(4) == 0 && rex_at && !(rex & 8)) { /* high bytes: no REX */
		c->p = rex_at;
		rex_at = NULL;
		reg = s->flags & EXT ? reg : 4 + pick(3);
		rm = pick(3);
		mem = false;
	}
	if (s->map)
		put(c, 0x0f);
	if (s->map > 1)
		put(c, s->map == 2 ? 0x38 : 0x3a);
	if (!(s->flags & M) && ((s->map == 0 && (op >= 0x50 && op < 0x60)) || (s->map == 0 && op >= 0xb8 && op < 0xc0) || s->map == 1)) {
		unsigned r = op >= 0x50 && op < 0x58 && s->map == 0 ? pick(c->wide ? 16 : 8) : free_reg(c->wide);

		put(c, (op & ~7u) | (r & 7));
		rex |= r >> 3;
	} else {
		put(c, op);
	}
	if (s->flags & M) {
		if (!(s->flags & EXT))
			rex |= reg >> 3 << 2;
		if (mem) {
			put_modrm_mem(c, reg, &rex);
		} else {
			put(c, 0xc0 | (reg & 7) << 3 | (rm & 7));
			rex |= rm >> 3;
		}
	}
	if (fs_at && rex_at && rex & 1)
		rex |= 0;
	if (s->flags & I8)
		put(c, (unsigned)rnd() & 0xff);
	if (s->flags & IZ)
		put_n(c, rnd(), opsize == 2 ? 2 : 4);
	if (s->flags & IV)
		put_n(c, rnd(), opsize);
	if (rex_at)
		*rex_at = (uint8_t)(0x40 | rex);
}

/* BMI: three general registers, in any combination. */
static void put_bmi(struct code *c)
{
	static const struct { uint8_t op, pp; } shape[] = {
		{ 0xf2, 0 }, { 0xf3, 0 }, { 0xf5, 0 }, { 0xf5, 2 }, { 0xf5, 3 }, { 0xf6, 3 }, { 0xf7, 0 }, { 0xf7, 1 }, { 0xf7, 2 }, { 0xf7, 3 },
	};
	unsigned kind = pick(G_N_ELEMENTS(shape)), other = free_reg(c->wide), rm = pick(3) ? free_reg(c->wide) : other;
	unsigned reg = shape[kind].op == 0xf3 ? 1 + pick(3) : pick(3) ? free_reg(c->wide) : other;

	put(c, 0xc4);
	put(c, (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | 2);
	put(c, (c->wide && pick(2) ? 0x80 : 0) | (~other & 15) << 3 | shape[kind].pp);
	put(c, shape[kind].op);
	put(c, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* String instructions of all sizes, up and down, over pages, over themselves, and now and then into the hole. */
static void put_string(struct code *c)
{
	static const uint8_t kinds[] = { 0xa4, 0xa6, 0xaa, 0xac, 0xae };
	bool down = pick(6) == 0, wide = c->wide && pick(3) == 0;
	uint32_t from = DATA + 0x1100 + pick(0x400), to = pick(3) ? DATA + 0x1800 + pick(0x600) : from + pick(64) - 32;

	if (pick(8) == 0)
		to = from; /* CMPS finds them equal */
	if (pick(12) == 0)
		*(pick(2) ? &from : &to) = down ? HOLE + PAGE_SIZE + pick(0x100) : HOLE - pick(0x200);
	put(c, 0x50 | RCX), put(c, 0xb8 | RSI), put_n(c, from, 4);
	put(c, 0xb8 | RDI), put_n(c, to, 4), put(c, 0xb8 | RCX), put_n(c, pick(300), 4);
	if (down)
		put(c, 0xfd);
	if (pick(4) == 0)
		put(c, 0x66);
	if (pick(5))
		put(c, 0xf2 + pick(2));
	if (wide)
		put(c, 0x48);
	put(c, kinds[pick(sizeof(kinds))] + pick(2));
	put(c, 0xfc);
	put(c, 0x58 | RCX);
}

static void put_data_operand(struct code *c, unsigned reg)
{
	put(c, 0x80 | reg << 3 | RBX);
	put_n(c, 8 * pick(0x80), 4);
}

/* A number through the x87, and whole vectors. */
static void put_wide(struct code *c)
{
	static const struct { uint8_t pp, op; } shape[] = { { 1, 0x58 }, { 1, 0xef }, { 0, 0x59 }, { 1, 0xfe }, { 0, 0x57 }, { 1, 0xdb } };
	unsigned kind = pick(G_N_ELEMENTS(shape));

	if (pick(2)) {
		put(c, 0xdd), put_data_operand(c, 0); /* FLD m64 */
		put(c, 0xd8 + 4 * pick(2)), put_data_operand(c, (unsigned[]){ 0, 1, 4, 5 }[pick(4)]); /* FADD, FMUL, FSUB, FSUBR */
		put(c, 0xdd), put_data_operand(c, 3); /* FSTP m64 */
		return;
	}
	put(c, 0xc5), put(c, 0xfe), put(c, 0x6f), put_data_operand(c, pick(8)); /* VMOVDQU ymm, m256 */
	put(c, 0xc5), put(c, 0x80 | (15 - pick(8)) << 3 | 4 | shape[kind].pp), put(c, shape[kind].op), put(c, 0xc0 | pick(64));
	put(c, 0xc5), put(c, 0xfe), put(c, 0x7f), put_data_operand(c, pick(8));
}

/* Sequences may read the time stamp counter, and clear what they have read. */
static bool clocked = true;

/* Instructions that the table has no room for. */
static void put_special(struct code *c)
{
	uint8_t *at;

	switch (pick(11)) {
	case 10:
		put_wide(c);
		break;
	case 9:
		put_bmi(c);
		break;
	case 0: /* a run of pushes and pops */
		for (unsigned i = 0, n = 1 + pick(5); i < n; i++)
			put(c, 0x50 | (unsigned[]){ RAX, RCX, RDX, RSI }[pick(4)]);
		for (unsigned i = 0, n = 1 + pick(5); i < n; i++)
			put(c, 0x58 | (unsigned[]){ RAX, RCX, RDX, RSI }[pick(4)]);
		break;
	case 1: /* forward over a little */
		put(c, 0x70 | pick(16));
		put(c, 0);
		at = c->p;
		put_insn(c, false);
		at[-1] = (uint8_t)(c->p - at);
		break;
	case 2: /* a call and its return */
		put(c, 0xe8);
		put_n(c, 2, 4);
		put(c, 0xeb), put(c, 0);
		at = c->p;
		put_insn(c, false);
		put(c, 0xc3);
		at[-1] = (uint8_t)(c->p - at);
		break;
	case 3: /* REP MOVS and its kin */
		put_string(c);
		break;
	case 4: /* a division that may fail */
		put(c, 0x31), put(c, 0xd2);
		put(c, 0xf7), put(c, 0xf0 | RCX), put(c, 0x31), put(c, 0xd2); /* its flags are undefined */
		break;
	case 5: /* an indirect jump to the next instruction but one */
		if (c->wide)
			put(c, 0x48), put(c, 0x8d), put(c, 0x05), put_n(c, 3, 4);
		else
			put(c, 0xb8), put_n(c, (uint64_t)(code_at + (c->p - c->start) + 7), 4);
		put(c, 0xff), put(c, 0xe0);
		put(c, 0x90);
		break;
	case 6: /* changes an immediate ahead of itself */
		put(c, 0xc6), put(c, 0x04 | 0), put(c, 0x25);
		put_n(c, (uint64_t)(code_at + (c->p - c->start) + 6), 4);
		put(c, pick(256));
		put(c, 0xb0), put(c, 0x11);
		break;
	case 7: put(c, 0xfc + pick(1)); put(c, 0x0f), put(c, clocked ? 0x31 : 0xc8), put(c, 0x31), put(c, 0xc0), put(c, 0x31), put(c, 0xd2); break;
	default: /* LEAVE */
		put(c, 0x55), put(c, 0x89 - (c->wide ? 0 : 0)), put(c, 0xe5), put(c, 0xc9);
		break;
	}
}

/* The count at which the sequence's end writes to a port; 0: it never does. */
static unsigned port_at;

static unsigned make_sequence(struct machine *m, bool wide)
{
	struct code c = { m->ram->host + code_at, m->ram->host + code_at, wide };
	unsigned n = 8 + pick(24);
	uint8_t *top = c.p, *jump;

	for (unsigned i = 0; i < n; i++) {
		if (pick(12) == 0)
			put_special(&c);
		else if (pick(200) == 0) /* long, without flags */
			for (unsigned k = 60 + pick(36); k; k--)
				put(&c, 0x90);
		else
			put_insn(&c, true);
	}
	if (port_at) { /* cmp dword [COUNTER], port_at; jne +2; out 0x99, al */
		put(&c, 0x83), put(&c, 0x3c), put(&c, 0x25), put_n(&c, COUNTER, 4), put(&c, port_at);
		put(&c, 0x75), put(&c, 2), put(&c, 0xe6), put(&c, 0x99);
	}
	/* dec dword [COUNTER]; jnz top; hlt, for good. RSP comes back first. */
	if (wide)
		put(&c, 0x48);
	put(&c, 0xc7), put(&c, 0xc4), put_n(&c, STACK - 0x800, 4);
	put(&c, 0xff), put(&c, 0x0c), put(&c, 0x25), put_n(&c, COUNTER, 4);
	put(&c, 0x0f), put(&c, 0x85);
	jump = c.p;
	put_n(&c, (uint64_t)(top - (jump + 4)), 4);
	put(&c, 0xf4), put(&c, 0xeb), put(&c, 0xfd);
	return (unsigned)(c.p - c.start);
}

/* ---- comparison ---- */

static int different(const struct cpu_state *a, const struct cpu_state *b, bool faulted)
{
	/* In a handler: the status flags at a fault may be stale when they were dead. */
	uint64_t mask = faulted ? ~(uint64_t)RFLAGS_STATUS : UINT64_MAX;

	if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)) || a->rip != b->rip || (a->rflags & mask) != (b->rflags & mask) || a->cr2 != b->cr2)
		return 1;
	return memcmp(a->xsave + 160, b->xsave + 160, 256) ? 2 : 0;
}

/*
 * A sequence that writes over its page tables says nothing: it is the processor's choice what it still remembers of them.
 * The two pages that are missing may come and go.
 */
static uint8_t first_tables[IDT - TABLES];

static uint32_t page_entry_at(uint32_t page) { return 0x4000 + (page >> 21) * 0x1000 + 8 * (page >> 12 & 511); }
static void keep_tables(const struct machine *m) { memcpy(first_tables, m->ram->host + TABLES, sizeof(first_tables)); }

static bool tables_changed(const struct machine *m)
{
	for (uint32_t i = TABLES; i < IDT; i++) {
		uint32_t entry = i & ~7u;

		if (entry != page_entry_at(HOLE) && entry != page_entry_at(READ_ONLY) && ((m->ram->host[i] ^ first_tables[i - TABLES]) & (i & 7 ? 0xff : 0x9f)))
			return true;
	}
	return false;
}

/* The frame of a fault holds flags, which may differ. */
static int memory_different(struct machine *a, struct machine *b, bool faulted)
{
	for (unsigned i = DATA; i < COUNTER + 8; i++) {
		if (a->ram->host[i] == b->ram->host[i])
			continue;
		if (faulted && i >= STACK - 0x900 && i < STACK)
			continue;
		return (int)i;
	}
	return 0;
}

static void show(const struct cpu_state *a, const struct cpu_state *b, struct machine *m, unsigned length)
{
	printf("# rip %lx %lx flags %lx %lx cr2 %lx %lx\n", a->rip, b->rip, a->rflags, b->rflags, a->cr2, b->cr2);
	for (unsigned i = 0; i < 16; i++)
		printf("# r%u %lx %lx%s\n", i, a->gpr[i], b->gpr[i], a->gpr[i] != b->gpr[i] ? " *" : "");
	for (unsigned i = 0; i < 16; i++) {
		if (memcmp(a->xsave + 160 + 16 * i, b->xsave + 160 + 16 * i, 16))
			printf("# xmm%u differs\n", i);
	}
	if (!length)
		return;
	printf("# code");
	for (unsigned i = 0; i < length; i++)
		printf(" %02x", m->ram->host[code_at + i]);
	printf("\n");
}

/* A sequence may run for ever: it is given up then. */
static struct vcpu *running;
static unsigned limit_us = 500000;

static void on_alarm(int sig)
{
	running->ops->kick(running);
}

static void run(struct vcpu *v, struct vcpu_exit *exit)
{
	const struct itimerval limit = { .it_value = { .tv_usec = limit_us } }, off = { 0 };

	running = v;
	setitimer(ITIMER_VIRTUAL, &limit, NULL);
	v->ops->run(v, exit);
	setitimer(ITIMER_VIRTUAL, &off, NULL);
}

/* What a case is made of, from one machine to the other, up to `end`; `all` when both may have had something else before. */
static void copy_world(struct machine *from, struct machine *to, uint64_t end, bool all)
{
	if (all) {
		mem_write(to->mem, 0, from->ram->host, 0x220000);
	} else {
		mem_write(to->mem, TABLES, from->ram->host + TABLES, 0xf000);
		mem_write(to->mem, CODE, from->ram->host + CODE, 0x2000);
		mem_write(to->mem, DATA, from->ram->host + DATA, end - DATA);
	}
	mem_write(from->mem, CODE, from->ram->host + CODE, 0x2000);
}

/* ---- one case ---- */

struct compared {
	struct cpu_state a, b; /* interpreter, translator */
	struct vcpu_exit ea, eb;
	bool faulted, says_nothing, ended;
	int state, where; /* what differs: 0, nothing */
	bool bad;
};

static void run_both(struct machine *in, struct machine *bt, const struct cpu_state *start, struct compared *o)
{
	accel_interp_ops.set_state(in->vcpu, start);
	accel_bt_ops.set_state(bt->vcpu, start);
	run(in->vcpu, &o->ea);
	run(bt->vcpu, &o->eb);
	accel_interp_ops.get_state(in->vcpu, &o->a);
	accel_bt_ops.get_state(bt->vcpu, &o->b);
}

static void run_case(struct machine *in, struct machine *bt, const struct cpu_state *start, struct compared *o)
{
	keep_tables(in);
	run_both(in, bt, start, o);
	o->faulted = o->a.rip < CODE || o->ea.kind != VCPU_EXIT_HALT;
	o->says_nothing = o->ea.kind == VCPU_EXIT_KICKED || tables_changed(in);
	o->ended = !o->says_nothing && o->eb.kind != VCPU_EXIT_KICKED;
	o->state = different(&o->a, &o->b, o->faulted);
	o->where = memory_different(in, bt, o->faulted);
	o->bad = !o->says_nothing && (o->ea.kind != o->eb.kind || o->state || o->where);
}

static unsigned make_case(struct machine *in, struct cpu_state *start, bool wide)
{
	unsigned length;

	make_tables(in, wide);
	make_gates(in, wide);
	start_state(start, wide);
	for (unsigned i = 0; i < 0x12000; i += 8)
		put64(in, DATA + i, rnd());
	length = make_sequence(in, wide);
	put64(in, COUNTER, 1 + pick(4));
	return length;
}

/* ---- the smallest case ---- */

#define WORLD 0x220000u
/* HLT and the jump back to it: without them data would become code, of which engines keep a memory. */
#define ENDING 3u

/* Both engines on the same world, with other code in it. */
static bool still_bad(struct machine *in, struct machine *bt, const uint8_t *world, const struct cpu_state *start, struct compared *o)
{
	mem_write(in->mem, 0, world, WORLD);
	mem_write(bt->mem, 0, world, WORLD);
	run_case(in, bt, start, o);
	return o->bad;
}

static unsigned insn_at(const uint8_t *code, unsigned left, bool wide, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	ZydisDecoder d;

	if (wide)
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else
		ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, code, left, zi, op)) ? zi->length : 1;
}

static void list(const uint8_t *code, unsigned length, bool wide)
{
	ZydisFormatter f;

	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned at = 0, n; at < length; at += n) {
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi = { 0 };
		char text[96] = "?";

		n = insn_at(code + at, length - at, wide, &zi, op);
		if (n == 1 && code[at] == 0x90)
			continue;
		if (zi.length)
			ZydisFormatterFormatInstruction(&f, &zi, op, zi.operand_count_visible, text, sizeof(text), code_at + at, NULL);
		printf("# %x:", code_at + at);
		for (unsigned i = 0; i < n; i++)
			printf(" %02x", code[at + i]);
		printf("\t%s\n", text);
	}
}

/*
 * Instructions become NOPs of the same length, from many at once to single ones, as long as the engines go on to
 * differ; the rest stays where it was, so addresses in the code keep their meaning.
 */
static void shrink(struct machine *in, struct machine *bt, uint8_t *world, const struct cpu_state *start, unsigned length, bool wide)
{
	static struct compared o;
	uint8_t *code = world + code_at, kept[512];
	unsigned at[512], count = 0;

	for (unsigned i = 0; i < length - ENDING && count < 511; count++) {
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;

		at[count] = i;
		i += insn_at(code + i, length - i, wide, &zi, op);
	}
	at[count] = length - ENDING;
	for (unsigned n = count / 2; n; n /= 2) {
		for (unsigned i = 0; i < count; i += n) {
			unsigned from = at[i], len = at[MIN(i + n, count)] - from;

			memcpy(kept, code + from, len);
			memset(code + from, 0x90, len);
			if (memcmp(kept, code + from, len) && !still_bad(in, bt, world, start, &o))
				memcpy(code + from, kept, len);
		}
	}
	for (unsigned rounds = 1; rounds < ld32le(world + COUNTER); rounds++) {
		uint32_t was = ld32le(world + COUNTER);

		st32le(world + COUNTER, rounds);
		if (still_bad(in, bt, world, start, &o))
			break;
		st32le(world + COUNTER, was);
	}
	if (!still_bad(in, bt, world, start, &o)) {
		printf("# does not come again\n");
		return;
	}
	printf("# what is left, %u times round: exit %d %d, state %d, memory at %x\n", ld32le(world + COUNTER), o.ea.kind, o.eb.kind, o.state, o.where);
	list(code, length, wide);
	show(&o.a, &o.b, in, 0);
}

int main(int argc, char **argv)
{
	unsigned bad = 0, faults = 0, skipped = 0, cases;
	bool small = argc > 1 && !strcmp(argv[argc - 1], "--shrink");
	const char *traced = getenv("BT_TRACE");
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	uint8_t *world = g_malloc(WORLD);
	struct machine in, bt;
	GString *stats = g_string_new(NULL);
	bool ended = false;

	argc -= small;
	cases = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 4000;
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15;
	sigaction(SIGVTALRM, &sa, NULL);
	if (traced)
		trace_open((unsigned)strtoul(traced, NULL, 0), stdout);
	machine_make(&in, &accel_interp_ops);
	machine_make(&bt, &accel_bt_ops);
	for (unsigned n = 0; n < cases && bad < 5; n++) {
		uint64_t was = seed;
		bool wide = pick(3);
		static struct cpu_state start;
		static struct compared o;
		unsigned length;

		code_at = pick(2) ? CODE : CODE_LATE;
		length = make_case(&in, &start, wide);
		copy_world(&in, &bt, DATA + 0x12000, !ended || n % 256 == 0);
		if (small)
			memcpy(world, in.ram->host, WORLD);
		run_case(&in, &bt, &start, &o);
		ended = o.ended;
		skipped += o.says_nothing;
		faults += !o.says_nothing && o.faulted;
		if (!o.bad)
			continue;
		printf("# case %u seed %#lx %s: exit %d %d, state %d, memory at %x\n", n, was, wide ? "64" : "32", o.ea.kind, o.eb.kind, o.state, o.where);
		show(&o.a, &o.b, &in, length);
		if (small)
			shrink(&in, &bt, world, &start, length, wide);
		bad++;
	}
	accel_bt_ops.print_stats(bt.accel, stats);
	printf("# %u cases, %u ended in a fault, %u say nothing\n", cases, faults, skipped);
	if (getenv("BT_STATS"))
		printf("%s", stats->str);
	g_string_free(stats, TRUE);
	g_free(world);
	machine_free(&in);
	machine_free(&bt);
	printf("1..1\n%s 1 - random sequences\n", bad ? "not ok" : "ok");
	return bad ? 1 : 0;
}
