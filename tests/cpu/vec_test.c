/*
 * Vector and x87 instructions of the interpreter against the host CPU: random 64-bit encodings and short
 * sequences of them, with edge-weighted operands, on paged memory that ends at a hole. Registers, flags, MXCSR,
 * the x87 state, memory and faults (vector, error code, address) must be equal.
 *
 *	cpu-vec [cases [seed]]
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include "vec_gen.h"

#define VARIANTS 6 /* operand sets for each program */

struct oracle host;
struct icpu *cpu;
ZydisDecoder decoder;

/* ---- running ---- */

static void memory_set(const struct outcome *o)
{
	memcpy(host.area + MIDDLE - WINDOW / 2, o->window, WINDOW);
	memcpy(host.area + ORACLE_AREA - TAIL, o->tail, TAIL);
}

static void memory_get(struct outcome *o)
{
	memcpy(o->window, host.area + MIDDLE - WINDOW / 2, WINDOW);
	memcpy(o->tail, host.area + ORACLE_AREA - TAIL, TAIL);
}

static void run_native(struct outcome *o)
{
	memory_set(o);
	oracle_run(&host, &o->cpu);
	memory_get(o);
}

static void run_interp(struct outcome *o, const struct program *p)
{
	struct oracle_cpu *c = &o->cpu;

	memory_set(o);
	memcpy(cpu->s.gpr, c->gpr, sizeof(c->gpr));
	memcpy(cpu->s.xsave, c->xstate, IMG_BV);
	memcpy(cpu->s.xsave + IMG_YMM, c->xstate + IMG_YMM, 256);
	cpu->s.rflags = c->flags;
	c->fault = -1;
	c->cr2 = c->error = 0;
	if (sigsetjmp(cpu->fault, 0)) {
		c->fault = cpu->exc_vector;
		c->rip = cpu->s.rip;
		if (c->fault == EXC_PF) {
			c->cr2 = cpu->s.cr2;
			c->error = cpu->exc_error;
		}
	} else {
		for (unsigned i = 0; i < p->count; i++) {
			const struct insn *in = &p->step[i].in;

			cpu->s.rip = (uint64_t)(uintptr_t)host.code + p->step[i].at;
			cpu->next_rip = cpu->s.rip + in->length;
			in->fn(cpu, in);
		}
	}
	memcpy(c->gpr, cpu->s.gpr, sizeof(c->gpr));
	memcpy(c->xstate, cpu->s.xsave, IMG_SIZE);
	c->flags = cpu->s.rflags;
	memory_get(o);
}

/* ---- comparing ---- */

/* Reserved parts out of the way. */
static void normalize(struct oracle_cpu *c)
{
	uint8_t *x = c->xstate;

	x[IMG_FTW + 1] = 0;
	memset(x + IMG_MXCSR_MASK, 0, 4);
	memset(x + IMG_BV, 0, 64);
	for (unsigned i = 0; i < 8; i++)
		memset(x + IMG_ST + 16 * i + 10, 0, 6);
	memset(x + IMG_XMM + 256, 0, IMG_YMM - IMG_XMM - 256);
}

/* AMD's processors save the last operation's pointers for a pending exception only. */
static void drop_pointers(uint8_t *host_x, uint8_t *interp_x)
{
	static const uint8_t none[IMG_MXCSR - IMG_FOP];

	if (!(ld16le(host_x + IMG_FSW) & FSW_ES) && !memcmp(host_x + IMG_FOP, none, sizeof(none)))
		memset(interp_x + IMG_FOP, 0, sizeof(none));
}

/* Pointers of processors that know linear addresses of 57 bits are as wide; the guest's have 48. */
static void narrow_pointers(uint8_t *host_x, const uint8_t *interp_x)
{
	for (unsigned at = IMG_FIP; at <= IMG_FDP; at += IMG_FDP - IMG_FIP) {
		uint64_t narrow = (uint64_t)((int64_t)(ld64le(host_x + at) << 16) >> 16);

		if (narrow == ld64le(interp_x + at))
			st64le(host_x + at, narrow);
	}
}

/* Microcoded accesses of many bytes do not go from the lowest to the highest: only the page is compared. */
static bool same_page_fault(const struct oracle_cpu *a, const struct oracle_cpu *b)
{
	uint64_t differ = a->cr2 ^ b->cr2;

	return a->error == b->error && !(differ & ~UINT64_C(0xfff));
}

static bool same(struct outcome *a, struct outcome *b)
{
	normalize(&a->cpu);
	normalize(&b->cpu);
	narrow_pointers(a->cpu.xstate, b->cpu.xstate);
	drop_pointers(a->cpu.xstate, b->cpu.xstate);
	if (a->cpu.fault != b->cpu.fault || memcmp(a->cpu.gpr, b->cpu.gpr, sizeof(a->cpu.gpr)) ||
	    memcmp(a->cpu.xstate, b->cpu.xstate, IMG_SIZE) || memcmp(a->window, b->window, WINDOW) || memcmp(a->tail, b->tail, TAIL))
		return false;
	if ((a->cpu.flags ^ b->cpu.flags) & RFLAGS_STATUS)
		return false;
	if (a->cpu.fault >= 0 && a->cpu.rip != b->cpu.rip)
		return false;
	return a->cpu.fault != EXC_PF || same_page_fault(&a->cpu, &b->cpu);
}

/* Where the program's last instruction has saved the state, in the window; false when it has not. */
static bool saved_at(const struct program *p, uint64_t *at)
{
	const struct step *s = &p->step[p->count - 1];

	*at = s->to - ((uint64_t)(uintptr_t)host.area + MIDDLE - WINDOW / 2);
	return (is_fxsave(s) || (is_xsave_family(s) && !is_restore(s))) && *at <= WINDOW - IMG_SIZE;
}

static bool is_wide(const struct step *s) { return (s->zi.attributes & ZYDIS_ATTRIB_HAS_REX) && s->zi.raw.rex.W; }

/* An image's component, in one or two parts. */
static const struct { uint16_t at[2], len[2]; } component[3] = {
	{ { 0, IMG_ST }, { IMG_MXCSR, 128 } }, { { IMG_MXCSR, IMG_XMM }, { 8, 256 } }, { { IMG_YMM }, { 256 } },
};

/* MXCSR is a part of the SSE component in the compacted form only. */
static bool component_initial(const uint8_t *x, unsigned n, bool compacted)
{
	uint8_t image[IMG_SIZE] = { 0 };

	st16le(image + IMG_FCW, FCW_INIT);
	st32le(image + IMG_MXCSR, compacted ? MXCSR_INIT : ld32le(x + IMG_MXCSR));
	st32le(image + IMG_MXCSR_MASK, ld32le(x + IMG_MXCSR_MASK));
	for (unsigned i = 0; i < 2; i++) {
		if (memcmp(image + component[n].at[i], x + component[n].at[i], component[n].len[i]))
			return false;
	}
	return true;
}

/*
 * Whether a component with its initial values counts as in use is the processor's business (SDM 1, 13.6): one that
 * counts as such here only is saved there as well.
 */
static void same_use(const struct outcome *start, uint8_t *in, uint8_t *out, uint64_t at, unsigned n, bool compacted)
{
	if (!component_initial(in + at, n, compacted))
		return;
	for (unsigned i = 0; i < 2; i++) {
		uint64_t from = at + component[n].at[i];
		unsigned len = component[n].len[i];

		/* Not written there, or with the same values. */
		if (!memcmp(out + from, start->window + from, len))
			memcpy(out + from, in + from, len);
	}
	out[at + IMG_BV] |= (uint8_t)(1u << n);
}

/* What a saved state tells of the processor and not of the guest's. */
static void level_saved(const struct program *p, const struct outcome *start, struct outcome *native, struct outcome *interp)
{
	uint16_t by = p->step[p->count - 1].zi.mnemonic;
	bool compacted = by == ZYDIS_MNEMONIC_XSAVEC || by == ZYDIS_MNEMONIC_XSAVEC64;
	uint8_t *n = native->window, *i = interp->window;
	uint64_t at;

	if (!saved_at(p, &at))
		return;
	if (is_wide(&p->step[p->count - 1]))
		narrow_pointers(n + at, i + at);
	if (is_fxsave(&p->step[p->count - 1]))
		return;
	for (unsigned c = 0; c < 3; c++) {
		uint8_t differ = (uint8_t)((n[at + IMG_BV] ^ i[at + IMG_BV]) & 1u << c);

		if (differ & n[at + IMG_BV])
			same_use(start, n, i, at, c, compacted);
		else if (differ)
			same_use(start, i, n, at, c, compacted);
	}
}

/* AMD's misaligned mode, which no guest is offered: what was loaded is a fault there. */
#define MXCSR_MM 0x20000u

/* The host's MXCSR_MASK may have AMD's misaligned mode besides (bit 17), which no guest is offered. */
static void drop_mxcsr_mask(const struct program *p, struct outcome *n, const struct outcome *interp)
{
	uint64_t from = (uint64_t)(uintptr_t)host.area + MIDDLE - WINDOW / 2;

	for (unsigned i = 0; i < p->count; i++) {
		uint64_t at = p->step[i].to + IMG_MXCSR_MASK - from;

		if ((is_fxsave(&p->step[i]) || is_xsave_family(&p->step[i])) && at < WINDOW - 4 && ld32le(n->window + at) == 0x2ffff &&
		    ld32le(interp->window + at) == MXCSR_MASK)
			st32le(n->window + at, MXCSR_MASK);
	}
}

static void print_bytes(const char *what, const uint8_t *p, unsigned n)
{
	printf(" %s ", what);
	for (unsigned i = n; i--;)
		printf("%02x", p[i]);
}

static void report_bytes(const char *name, const uint8_t *s, const uint8_t *n, const uint8_t *i, unsigned len)
{
	if (!memcmp(n, i, len))
		return;
	printf("  %s:", name);
	print_bytes("from", s, len);
	print_bytes("host", n, len);
	print_bytes("interp", i, len);
	printf("\n");
}

static void report(const struct program *p, const struct outcome *s, const struct outcome *n, const struct outcome *i)
{
	char text[128], name[32];

	printf("not equal:\n");
	for (unsigned k = 0; k < p->count; k++) {
		insn_print(cpu, &p->step[k].in, (uint64_t)(uintptr_t)host.code + p->step[k].at, text, sizeof(text));
		printf("  %s;", text);
		for (unsigned b = 0; b < p->step[k].in.length; b++)
			printf(" %02x", p->step[k].in.bytes[b]);
		printf("\n");
	}
	printf("  fault host %d at +%lx error %x cr2 %lx, interp %d at +%lx error %x cr2 %lx; flags %lx host %lx interp %lx\n", n->cpu.fault,
	       n->cpu.fault < 0 ? 0 : n->cpu.rip - (uint64_t)(uintptr_t)host.code, n->cpu.error, n->cpu.cr2, i->cpu.fault,
	       i->cpu.fault < 0 ? 0 : i->cpu.rip - (uint64_t)(uintptr_t)host.code, i->cpu.error, i->cpu.cr2, s->cpu.flags & 0x40cd5,
	       n->cpu.flags & 0x40cd5, i->cpu.flags & 0x40cd5);
	printf("  start fcw %04x fsw %04x ftw %02x mxcsr %08x\n", ld16le(s->cpu.xstate), ld16le(s->cpu.xstate + 2), s->cpu.xstate[4],
	       ld32le(s->cpu.xstate + IMG_MXCSR));
	for (unsigned r = 0; r < 16; r++) {
		if (n->cpu.gpr[r] != i->cpu.gpr[r])
			printf("  r%u: from %lx host %lx interp %lx\n", r, s->cpu.gpr[r], n->cpu.gpr[r], i->cpu.gpr[r]);
	}
	for (unsigned k = 0; k < p->count; k++) {
		uint64_t at = p->step[k].to - ((uint64_t)(uintptr_t)host.area + MIDDLE - WINDOW / 2);

		if (is_restore(&p->step[k]) && at <= WINDOW - IMG_YMM) {
			print_bytes("  restored header", s->window + at + IMG_BV, 64);
			print_bytes("mxcsr", s->window + at + IMG_MXCSR, 4);
			printf(" edx:eax %lx:%lx\n", s->cpu.gpr[RDX], s->cpu.gpr[RAX]);
		}
	}
	static const struct { const char *name; uint16_t at, len; } parts[] = {
		{ "fcw", 0, 2 }, { "fsw", 2, 2 }, { "ftw", 4, 1 }, { "fop", 6, 2 }, { "fip", 8, 8 }, { "fdp", 16, 8 }, { "mxcsr", 24, 4 },
	};
	for (unsigned k = 0; k < ARRAY_LEN(parts); k++)
		report_bytes(parts[k].name, s->cpu.xstate + parts[k].at, n->cpu.xstate + parts[k].at, i->cpu.xstate + parts[k].at, parts[k].len);
	for (unsigned k = 0; k < 40; k++) {
		unsigned at = k < 24 ? IMG_ST + 16 * k : IMG_YMM + 16 * (k - 24);

		snprintf(name, sizeof(name), k < 8 ? "st%u" : k < 24 ? "xmm%u" : "ymm%u high", k < 8 ? k : k < 24 ? k - 8 : k - 24);
		report_bytes(name, s->cpu.xstate + at, n->cpu.xstate + at, i->cpu.xstate + at, 16);
	}
	report_bytes("bv", s->cpu.xstate + 512, n->cpu.xstate + 512, i->cpu.xstate + 512, 16);
	for (unsigned a = 0; a < WINDOW; a += 8) {
		snprintf(name, sizeof(name), "memory %+d", (int)a - (int)WINDOW / 2);
		report_bytes(name, s->window + a, n->window + a, i->window + a, 8);
	}
	for (unsigned a = 0; a < TAIL; a += 8) {
		snprintf(name, sizeof(name), "memory end%+d", (int)a - (int)TAIL);
		report_bytes(name, s->tail + a, n->tail + a, i->tail + a, 8);
	}
}

/* ---- set-up ---- */

static uint64_t no_read(void *o, unsigned c, uint64_t gpa, unsigned len) { return 0; }
static void no_write(void *o, unsigned c, uint64_t gpa, unsigned len, uint64_t v) { }

/* Four levels that map the oracle's pages to themselves, except the hole behind the area. */
static void build_tables(void)
{
	uint64_t base = (uint64_t)(uintptr_t)host.base, hole = (uint64_t)(uintptr_t)host.area + ORACLE_AREA;
	uint64_t *table[4];

	for (unsigned i = 0; i < 4; i++)
		table[i] = (uint64_t *)(void *)(host.spare + i * PAGE_SIZE);
	table[0][base >> 39 & 511] = (uint64_t)(uintptr_t)table[1] | 7;
	table[1][base >> 30 & 511] = (uint64_t)(uintptr_t)table[2] | 7;
	table[2][base >> 21 & 511] = (uint64_t)(uintptr_t)table[3] | 7;
	for (unsigned i = 0; i < ORACLE_PAGES; i++) {
		uint64_t page = base + i * PAGE_SIZE;

		if (page != hole)
			table[3][page >> 12 & 511] = page | 7;
	}
}

static void user_state(struct cpu_state *s)
{
	cpu_state_reset(s, true);
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s->cr3 = (uint64_t)(uintptr_t)host.spare;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s->xcr0 = 7;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = 0xffffffff, .selector = 0x2b, .attr = 0xcf3 };
	s->seg[SEG_CS].attr = 0xafb;
	s->seg[SEG_CS].selector = 0x33;
	s->seg[SEG_DS].selector = s->seg[SEG_ES].selector = s->seg[SEG_FS].selector = s->seg[SEG_GS].selector = 0;
}

static bool setup(void)
{
	static const struct accel_host stubs = { .mmio_read = no_read, .mmio_write = no_write };
	static struct ram flat = { .name = (char *)"flat", .fd = -1, .size = ORACLE_PAGES * PAGE_SIZE };
	static uint8_t dirty[ORACLE_PAGES];
	static struct cpu_model model;
	static struct accel_config cfg = { .host = &stubs, .cpu = &model, .cpus = 1 };
	uint32_t words[CPUID_WORDS];
	struct cpu_state s;
	struct accel *a;

	interp_supported_words(words);
	cfg.mem = mem_create();
	if (!cpu_model_parse("host", words, 1, &model, NULL) || !(a = accel_interp_ops.open(&cfg, NULL)))
		return false;
	cpu = (struct icpu *)accel_interp_ops.vcpu_create(a, 0, NULL);
	if (!cpu || !oracle_init(&host, true))
		return false;
	flat.host = host.base;
	flat.dirty = dirty;
	if (mem_map(cfg.mem, (uint64_t)(uintptr_t)host.base, flat.size, &flat, 0, false) < 0)
		return false;
	build_tables();
	user_state(&s);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return !accel_interp_ops.set_state(&cpu->vcpu, &s);
}

/* A difference must be there three times: when the kernel switches tasks in the middle, AMD's processors lose the
 * last operation's pointers. */
static bool equal(const struct program *p, const struct outcome *start, struct outcome *native, struct outcome *interp)
{
	for (unsigned i = 0; i < 3; i++) {
		*native = *interp = *start;
		run_native(native);
		run_interp(interp, p);
		drop_mxcsr_mask(p, native, interp);
		level_saved(p, start, native, interp);
		if (same(native, interp) || (ld32le(native->cpu.xstate + IMG_MXCSR) & MXCSR_MM))
			return true;
	}
	return false;
}

/* VPERMQ and VPERMPD exist with VEX.W only (SDM 2); AMD's processors ignore W. */
/* The instructions of AVX-512's mask registers, with bits that a host may not look at. */
static bool is_mask_instruction(const uint8_t *bytes)
{
	unsigned map = bytes[0] == 0xc5 ? 1 : bytes[0] == 0xc4 ? bytes[1] & 0x1f : 0, op = bytes[0] == 0xc5 ? bytes[2] : bytes[3];

	if (map == 3)
		return op >= 0x30 && op <= 0x33;
	return map == 1 && ((op >= 0x41 && op <= 0x4b) || (op >= 0x90 && op <= 0x93) || op == 0x98 || op == 0x99);
}

static bool executes_anyway(const uint8_t *bytes)
{
	if (host_has_avx512() && is_mask_instruction(bytes))
		return true;
	return bytes[0] == 0xc4 && (bytes[1] & 0x1f) == 3 && !(bytes[2] & 0x80) && bytes[3] <= 1;
}

/* What is no instruction must not be one for the host: how many encodings differ. */
static unsigned check_undefined(unsigned long count)
{
	unsigned differ = 0;

	while (count) {
		struct oracle_cpu c = { .flags = 0x202 };
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;
		uint8_t bytes[32];

		random_encoding(bytes);
		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &zi, ops)) || executes_anyway(bytes))
			continue;
		count--;
		st16le(c.xstate + IMG_FCW, FCW_INIT);
		st32le(c.xstate + IMG_MXCSR, MXCSR_INIT);
		for (unsigned r = 0; r < 16; r++)
			c.gpr[r] = (uint64_t)(uintptr_t)host.area + MIDDLE;
		memcpy(host.code, bytes, 15);
		oracle_end(&host, 15);
		oracle_run(&host, &c);
		if (c.fault == EXC_UD)
			continue;
		differ++;
		printf("the host executes");
		for (unsigned i = 0; i < 10; i++)
			printf(" %02x", bytes[i]);
		printf(" (vector %d)\n", c.fault);
	}
	return differ;
}

int main(int argc, char **argv)
{
	unsigned long cases = argc > 1 ? strtoul(argv[1], NULL, 0) : 250000, passed = 0, failed = 0, faults = 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15ull;
	static struct outcome start, native, interp;
	static struct program p;

	if (!__builtin_cpu_supports("avx")) {
		printf("skipped: the host has no AVX\n");
		return 77;
	}
	printf("seed %#lx\n", seed);
	oracle_seed(seed);
	if (!setup()) {
		perror("setting up");
		return 1;
	}
	while (passed + failed < cases && failed < 20) {
		program_make(&p);
		fill_memory(&start);
		for (unsigned v = 0; v < VARIANTS; v++) {
			if (!program_prepare(&p, &start))
				break;
			if (equal(&p, &start, &native, &interp)) {
				faults += native.cpu.fault >= 0;
				passed++;
				continue;
			}
			failed++;
			report(&p, &start, &native, &interp);
			break;
		}
	}
	printf("%lu passed (%lu of them faults), %lu failed\n", passed, faults, failed);
	failed += check_undefined(cases / 10);
	return failed != 0;
}
