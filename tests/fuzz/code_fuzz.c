/*
 * Random code in every mode on both software engines: random bytes and streams that look like code, with random
 * registers, segments, control bits and page tables. Nothing may crash or hang, and the translator must end where the
 * interpreter ends: registers, vector state and memory. What differs is cut to the shortest run that differs.
 *
 *	code_fuzz [cases [seed]]      the seed of a case that is shown runs it alone: code_fuzz 1 SEED
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

#include "accel/accel.h"
#include "base/bytes.h"

#define RAM_SIZE 0x30000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define PT 0x4000u
#define OLD_PD 0x5000u
#define OLD_PT 0x6000u
#define IDT32 0x8000u
#define IDT64 0x9000u
#define GDT 0xa000u
#define TSS 0xb000u
#define HANDLERS 0xd000u
#define CODE 0x10000u
#define DATA 0x14000u
#define STACK 0x28000u
#define CODE_MAX 96u
#define MAX_SHOWN 12u
#define PROGRESS 100000u

/* The sanitizer's runtime uses the vector registers, which hold the guest's state while C code is said not to: there
 * it is only crashes and hangs that count. */
#ifdef __SANITIZE_ADDRESS__
#define COMPARED false
#else
#define COMPARED true
#endif

enum mode { REAL, V86, PROT16, PROT32, PAGED32, PAE32, LONG64, COMPAT32, COMPAT16, MODES };
static const char *const mode_name[MODES] = { "real", "v86", "prot16", "prot32", "paged32", "pae32", "long64", "compat32", "compat16" };

/* Selectors of the descriptor table, each a ring 0 and a ring 3 one. */
enum { SEL_CODE64 = 0x08, SEL_CODE32 = 0x18, SEL_CODE16 = 0x28, SEL_DATA = 0x38, SEL_TSS = 0x48, SEL_GATE = 0x58 };

static uint64_t rng;

static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned pick(unsigned n) { return (unsigned)((rnd() >> 33) % n); }
static bool one_in(unsigned n) { return pick(n) == 0; }

/* ---- the engine's surroundings ---- */

static uint64_t port_read(void *o, unsigned cpu, uint16_t port, unsigned len) { return port * UINT64_C(0x010001); }
static void port_write(void *o, unsigned cpu, uint16_t port, unsigned len, uint64_t v) { }
static uint64_t mmio_read(void *o, unsigned cpu, uint64_t gpa, unsigned len) { return gpa * UINT64_C(0x0101010101010101); }
static void mmio_write(void *o, unsigned cpu, uint64_t gpa, unsigned len, uint64_t v) { }
static int interrupt_ack(void *o, unsigned cpu) { return -1; }
static bool msr_read(void *o, unsigned cpu, uint32_t msr, uint64_t *v) { return false; }
static bool msr_write(void *o, unsigned cpu, uint32_t msr, uint64_t v) { return false; }
static uint8_t tpr_read(void *o, unsigned cpu) { return 3; }
static void tpr_write(void *o, unsigned cpu, uint8_t cr8) { }
static int64_t clock_ns(void *o) { return 0; }
static bool fpu_error(void *o, unsigned cpu, bool pending) { return true; }
static void tsc_adjusted(void *o, unsigned cpu, uint64_t adjust) { }
static void ioapic_eoi(void *o, uint8_t vector) { }

static const struct accel_host host = {
	.port_read = port_read, .port_write = port_write, .mmio_read = mmio_read, .mmio_write = mmio_write,
	.interrupt_ack = interrupt_ack, .apic_msr_read = msr_read, .apic_msr_write = msr_write, .tpr_read = tpr_read,
	.tpr_write = tpr_write, .clock_ns = clock_ns, .fpu_error = fpu_error, .tsc_adjusted = tsc_adjusted, .ioapic_eoi = ioapic_eoi,
};

struct machine {
	const struct accel_ops *ops;
	struct mem *mem;
	struct ram *ram;
	struct accel *accel;
	struct vcpu *vcpu;
};

struct fuzz_case {
	uint64_t seed;
	enum mode mode;
	bool user;
	unsigned start, length; /* of the code, an address in RAM */
	struct cpu_state state;
	uint8_t ram[RAM_SIZE];
};

static void machine_make(struct machine *m, const struct accel_ops *ops)
{
	static struct cpu_model model;
	uint32_t words[CPUID_WORDS];
	GError *error = NULL;
	struct accel_config cfg = { .host = &host, .cpu = &model, .cpus = 1 };

	interp_supported_words(words);
	m->ops = ops;
	m->mem = cfg.mem = mem_create();
	m->ram = ram_create("ram", RAM_SIZE, &error);
	if (!m->ram || !cpu_model_parse("max", words, 1, &model, &error))
		g_error("%s", error->message);
	mem_map(m->mem, 0, RAM_SIZE, m->ram, 0, false);
	m->accel = ops->open(&cfg, &error);
	m->vcpu = m->accel ? ops->vcpu_create(m->accel, 0, &error) : NULL;
	if (!m->vcpu)
		g_error("%s", error->message);
}

static void machine_free(struct machine *m)
{
	m->ops->vcpu_destroy(m->vcpu);
	m->ops->close(m->accel);
	mem_destroy(m->mem);
	ram_destroy(m->ram);
}

/* ---- code that loops is told to leave; what does not is a bug ---- */

#define LOOP_NS 200000   /* of processor time: long for so few instructions */
#define LOOK_NS 250000
#define HANG_LOOKS 40000u /* told so often, and still there */

static struct {
	struct vcpu *volatile running;
	volatile unsigned looks;
	uint64_t runs, seed, start;
	timer_t timer;
} watch;

static uint64_t thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void on_look(int sig)
{
	struct vcpu *v = watch.running;

	if (!v || thread_ns() - watch.start < LOOP_NS)
		return;
	v->ops->kick(v);
	if (++watch.looks > HANG_LOOKS) {
		printf("# hang: %s, seed %#lx\nnot ok 1 - random code\n", v->ops->name, (unsigned long)watch.seed);
		fflush(stdout);
		abort();
	}
}

static void watch_begin(void)
{
	const struct itimerspec every = { { 0, LOOK_NS }, { 0, LOOK_NS } };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	struct sigaction sa = { .sa_handler = on_look, .sa_flags = SA_ONSTACK | SA_RESTART };

	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	sigaction(SIGALRM, &sa, NULL);
	if (timer_create(CLOCK_MONOTONIC, &ev, &watch.timer) || timer_settime(watch.timer, 0, &every, NULL))
		g_error("no timer");
}

/* ---- the world ---- */

static void put64(struct fuzz_case *c, uint64_t at, uint64_t v) { st64le(c->ram + at, v); }

/* Mostly pages that show themselves with all rights; some with fewer, elsewhere, or with reserved bits. */
static uint64_t page_entry(unsigned page, bool wide)
{
	uint64_t e = (uint64_t)page << 12 | 7;

	if (page >= RAM_SIZE >> 12)
		e = one_in(4) ? 0 : one_in(8) ? (uint64_t)(0xd0000 + (page & 15) * 0x1000) | 7 : (uint64_t)pick(RAM_SIZE >> 12) << 12 | 7;
	if (page < 0x10 || !one_in(24))
		return e;
	switch (pick(6)) {
	case 0: return e & ~UINT64_C(1);
	case 1: return e & ~UINT64_C(2);
	case 2: return e & ~UINT64_C(4);
	case 3: return wide ? e | UINT64_C(1) << 63 : e;
	case 4: return wide ? e | UINT64_C(1) << (45 + pick(7)) : e;
	default: return e | (rnd() & 0x178);
	}
}

static void make_tables(struct fuzz_case *c)
{
	put64(c, PML4, PDPT | 7);
	put64(c, PML4 + 8 * 511, PDPT | 7);
	put64(c, PDPT, PD | (c->mode == PAE32 ? 1 : 7));
	put64(c, PDPT + 8 * 3, PD | (c->mode == PAE32 ? 1 : 7));
	put64(c, PD, PT | 7);
	put64(c, PD + 8, one_in(2) ? 0x87 : PT | 7);
	st32le(c->ram + OLD_PD, OLD_PT | 7);
	st32le(c->ram + OLD_PD + 4, 0x87);
	st32le(c->ram + OLD_PD + 4092, OLD_PT | 7);
	for (unsigned i = 0; i < 512; i++)
		put64(c, PT + 8 * i, page_entry(i, true));
	for (unsigned i = 0; i < 1024; i++)
		st32le(c->ram + OLD_PT + 4 * i, (uint32_t)page_entry(i, false));
}

static bool is_long(enum mode m) { return m >= LONG64; }

static void make_descriptors(struct fuzz_case *c)
{
	static const uint64_t code[] = { 0x00af9b000000ffff, 0x00cf9b000000ffff, 0x008f9b000000ffff, 0x00cf93000000ffff };
	bool wide = is_long(c->mode);
	unsigned target = wide ? SEL_CODE64 : SEL_CODE32;

	for (unsigned i = 0; i < 4; i++) {
		put64(c, GDT + 8 + 16 * i, code[i]);
		put64(c, GDT + 16 + 16 * i, code[i] | UINT64_C(3) << 45);
	}
	put64(c, GDT + SEL_TSS, UINT64_C(0x00008b0000000fff) | (uint64_t)TSS << 16);
	put64(c, GDT + SEL_GATE, UINT64_C(0x0000ec0000000000) | (uint64_t)target << 16 | HANDLERS);
	/* Descriptors of any kind, for whatever selector is loaded. */
	for (unsigned at = 0x70; at < 0x100; at += 8)
		put64(c, GDT + at, one_in(3) ? rnd() : (rnd() & UINT64_C(0x00c0ff000000ffff)) | UINT64_C(1) << 47);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = HANDLERS + v * 4;
		uint64_t gate = (at & 0xffff) | (uint64_t)target << 16 | (v & 7 && v > 32 ? UINT64_C(0xee00) : UINT64_C(0x8e00)) << 32;

		if (v > 32 && one_in(6))
			gate = rnd();
		st32le(c->ram + v * 4, (uint32_t)(HANDLERS >> 4) << 16 | v * 4);
		put64(c, IDT32 + v * 8, gate);
		put64(c, IDT64 + v * 16, gate | (v < 32 && one_in(8) ? UINT64_C(1) << 32 : 0));
		c->ram[at] = 0xf4;
	}
	st32le(c->ram + TSS + 4, STACK - 0x400);
	st16le(c->ram + TSS + 8, SEL_DATA);
	if (wide) {
		st64le(c->ram + TSS + 4, STACK - 0x400);
		st64le(c->ram + TSS + 0x24, STACK - 0x600);
	}
	st16le(c->ram + TSS + 0x66, 0x88);
	for (unsigned i = 0; i < 64; i++)
		c->ram[TSS + 0x68 + i] = (uint8_t)rnd();
}

/* ---- code ---- */

static const uint8_t prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
static const uint8_t far_and_flags[] = { 0x9a, 0x9c, 0x9d, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xc4, 0xc5, 0xc8, 0xc9, 0xe4, 0xe6, 0xea, 0xec,
					 0xee, 0x6c, 0x6e, 0xa4, 0xa5, 0xa6, 0xaa, 0xab, 0xae, 0xf1, 0xfa, 0xfb, 0x07, 0x17, 0x1f, 0x8c, 0x8e };
static const uint8_t system_ops[] = { 0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x32, 0x34, 0x35,
				      0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xae, 0xb2, 0xb4, 0xb5, 0xc7 };

static unsigned put_rest(uint8_t *p, unsigned n)
{
	/* A small displacement or immediate keeps more of what follows alive. */
	for (unsigned i = 0; i < n; i++)
		p[i] = (uint8_t)(one_in(3) ? pick(16) : rnd());
	return n;
}

static unsigned put_insn(uint8_t *p, enum mode mode)
{
	unsigned n = 0;

	while (one_in(4) && n < 3)
		p[n++] = prefixes[pick(sizeof(prefixes))];
	if (mode == LONG64 && one_in(2))
		p[n++] = (uint8_t)(0x40 | pick(16));
	switch (pick(12)) {
	case 0: return n + put_rest(p + n, 1 + pick(8));
	case 1: p[n++] = far_and_flags[pick(sizeof(far_and_flags))]; break;
	case 2:
		p[n++] = 0x0f;
		p[n++] = system_ops[pick(sizeof(system_ops))];
		break;
	case 3:
	case 4:
		p[n++] = 0x0f;
		p[n++] = (uint8_t)rnd();
		break;
	case 5:
		p[n++] = 0x0f;
		p[n++] = one_in(2) ? 0x38 : 0x3a;
		p[n++] = (uint8_t)rnd();
		break;
	case 6: p[n++] = (uint8_t)(0xd8 + pick(8)); break;
	case 7:
		p[n++] = one_in(2) ? 0xc5 : 0xc4;
		p[n++] = (uint8_t)(rnd() & 0xe3);
		p[n++] = (uint8_t)rnd();
		p[n++] = (uint8_t)rnd();
		break;
	default: p[n++] = (uint8_t)(one_in(2) ? pick(0x40) : rnd()); break;
	}
	p[n++] = (uint8_t)(one_in(2) ? 0xc0 | rnd() : rnd() & 0x3f);
	return n + put_rest(p + n, pick(3) ? pick(3) : pick(9));
}

static void make_code(struct fuzz_case *c)
{
	uint8_t *p = c->ram + c->start;

	if (one_in(6)) {
		c->length = 16 + pick(CODE_MAX - 32);
		for (unsigned i = 0; i < c->length; i++)
			p[i] = (uint8_t)rnd();
	} else {
		unsigned insns = 1 + pick(10);

		c->length = 0;
		while (insns-- && c->length < CODE_MAX - 24)
			c->length += put_insn(p + c->length, c->mode);
	}
	memset(p + c->length, 0xf4, CODE_MAX);
}

/* ---- registers ---- */

static uint64_t register_value(enum mode mode)
{
	switch (pick(6)) {
	case 0: return pick(64);
	case 1: return rnd();
	case 2: return CODE + pick(0x2000);
	case 3: return is_long(mode) && one_in(2) ? UINT64_C(0xffffff8000000000) + DATA + pick(0x1000) : pick(RAM_SIZE);
	default: return DATA + pick(0xc000);
	}
}

static void make_segments(struct fuzz_case *c)
{
	struct cpu_state *s = &c->state;
	unsigned dpl = c->user ? 3 : 0;
	struct x86_segment data = { 0, UINT32_MAX, (uint16_t)((SEL_DATA + (c->user ? 8 : 0)) | dpl), (uint16_t)(0xc93 | dpl << 5) }, code = data;

	if (c->mode == REAL || c->mode == V86) {
		for (unsigned i = 0; i < SEG_COUNT; i++) {
			uint16_t sel = (uint16_t)(i == SEG_CS ? (c->start & ~15u) >> 4 : i == SEG_SS ? (STACK - 0x8000) >> 4 : (pick(RAM_SIZE) >> 4));

			s->seg[i] = (struct x86_segment){ (uint64_t)sel << 4, 0xffff, sel, (uint16_t)(c->mode == V86 ? 0xf3 : i == SEG_CS ? 0x9b : 0x93) };
		}
		s->rip = c->start & 15;
		return;
	}
	code.attr = (uint16_t)(c->mode == LONG64 ? 0xa9b : c->mode == PROT16 || c->mode == COMPAT16 ? 0x89b : 0xc9b) | (uint16_t)(dpl << 5);
	code.selector = (uint16_t)((c->mode == LONG64 ? SEL_CODE64 : code.attr & SEG_ATTR_DB ? SEL_CODE32 : SEL_CODE16) + (c->user ? 8 : 0)) | (uint16_t)dpl;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		s->seg[i] = data;
		if (i == SEG_CS || i == SEG_SS || c->mode == LONG64 || !one_in(6))
			continue;
		switch (pick(4)) {
		case 0: s->seg[i] = (struct x86_segment){ .attr = SEG_UNUSABLE }; break;
		case 1: s->seg[i].limit = pick(RAM_SIZE); break;
		case 2: s->seg[i].base = pick(RAM_SIZE); break;
		default: s->seg[i].attr ^= one_in(2) ? 2 : 4; break;
		}
	}
	/* A 16-bit instruction pointer does not reach the code without a base. */
	if (c->mode == PROT16 || c->mode == COMPAT16)
		code.base = CODE;
	s->seg[SEG_CS] = code;
	if (one_in(4))
		s->seg[SEG_FS].base = DATA + pick(0x2000);
	if (c->mode != LONG64 && one_in(8))
		s->seg[SEG_SS].attr &= (uint16_t)~SEG_ATTR_DB;
	s->rip = c->start - code.base;
}

static void make_state(struct fuzz_case *c)
{
	struct cpu_state *s = &c->state;
	bool paged = c->mode >= PAGED32 || (c->mode == V86 && one_in(2));

	cpu_state_reset(s, true);
	make_segments(c);
	s->cr0 = CR0_ET | CR0_NE | CR0_MP | (c->mode == REAL ? 0 : CR0_PE) | (paged ? CR0_PG : 0) | (one_in(2) ? CR0_WP : 0);
	s->cr0 |= (one_in(16) ? CR0_TS : 0) | (one_in(16) ? CR0_EM : 0) | (one_in(8) ? CR0_AM : 0);
	s->cr4 = (one_in(12) ? 0 : CR4_OSFXSR | CR4_OSXMMEXCPT) | (one_in(6) ? 0 : CR4_OSXSAVE) | CR4_PSE | (one_in(2) ? CR4_PGE : 0);
	s->cr4 |= (one_in(6) ? CR4_UMIP : 0) | (one_in(4) ? CR4_FSGSBASE : 0) | (one_in(6) ? CR4_VME : 0) | (one_in(8) ? CR4_PVI : 0) | CR4_TSD;
	if (c->mode >= PAE32)
		s->cr4 |= CR4_PAE;
	s->cr3 = c->mode == PAE32 ? PDPT : is_long(c->mode) ? PML4 : OLD_PD;
	s->efer = is_long(c->mode) ? EFER_LME | EFER_LMA | EFER_NXE : c->mode == PAE32 ? EFER_NXE : 0;
	s->efer |= one_in(2) ? EFER_SCE : 0;
	s->xcr0 = one_in(6) ? 3 : 7;
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = register_value(c->mode) & (c->mode == LONG64 ? UINT64_MAX : i < 8 ? UINT32_MAX : 0);
	s->gpr[RSP] = c->mode == REAL || c->mode == V86 ? 0x7f00 : one_in(10) ? s->gpr[RSP] : STACK - 0x1000 - pick(0x200);
	s->rflags = 2 | (rnd() & (RFLAGS_STATUS | RFLAGS_DF)) | (one_in(3) ? RFLAGS_IF : 0) | (one_in(4) ? RFLAGS_IOPL : 0);
	s->rflags |= (one_in(24) ? RFLAGS_TF : 0) | (one_in(16) ? RFLAGS_AC : 0) | (one_in(24) ? RFLAGS_NT : 0) | (c->mode == V86 ? RFLAGS_VM : 0);
	s->gdtr = (struct x86_dtable){ GDT, 0xff };
	s->idtr = (struct x86_dtable){ is_long(c->mode) ? IDT64 : c->mode == REAL ? 0 : IDT32, one_in(12) ? (uint16_t)pick(0x100) : 0xfff };
	s->tr = (struct x86_segment){ TSS, 0xfff, SEL_TSS, SEG_ATTR_P | 0xb };
	s->lstar = s->cstar = s->sysenter_eip = HANDLERS + 0x3f0;
	s->star = (uint64_t)SEL_CODE32 << 48 | (uint64_t)SEL_CODE64 << 32;
	s->sysenter_cs = SEL_CODE64;
	s->sysenter_esp = STACK - 0x800;
	if (one_in(12)) {
		s->dr[0] = c->start + pick(16);
		s->dr[1] = DATA + pick(0x1000);
		s->dr7 = 0x400 | (rnd() & 0x00ff000f);
	}
	for (unsigned i = 32; i < 416; i++)
		s->xsave[i] = (uint8_t)(i < 160 && (i & 15) > 9 ? 0 : rnd());
	st32le(s->xsave + 24, one_in(6) ? (uint32_t)rnd() & 0xffff : 0x1f80);
	st16le(s->xsave, one_in(6) ? (uint16_t)(0x40 | (rnd() & 0xf3f)) : 0x37f);
	s->xsave[512] = 7;
}

/* Data, tables and descriptors are expensive to make: some cases in a row share them, by the upper bits of their number. */
#define WORLD_SHIFT 9
#define SEED_STEP UINT64_C(0x9e3779b97f4a7c15)
#define SEED_UNSTEP UINT64_C(0xf1de83e19937733d) /* its inverse */

static void take_world(struct fuzz_case *c)
{
	static struct { bool made; uint64_t number; uint8_t ram[RAM_SIZE]; } worlds[MODES];
	uint64_t number = c->seed * SEED_UNSTEP >> WORLD_SHIFT, own = rng;

	if (!worlds[c->mode].made || worlds[c->mode].number != number) {
		rng = (number * MODES + c->mode) * SEED_STEP | 1;
		for (unsigned i = 0; i < 4; i++)
			rnd();
		memset(c->ram, 0, sizeof(c->ram));
		for (unsigned at = DATA; at < DATA + 0xc000; at += 8)
			put64(c, at, one_in(4) ? DATA + pick(0x8000) : rnd());
		make_tables(c);
		make_descriptors(c);
		memcpy(worlds[c->mode].ram, c->ram, RAM_SIZE);
		worlds[c->mode].made = true;
		worlds[c->mode].number = number;
		rng = own;
	}
	memcpy(c->ram, worlds[c->mode].ram, RAM_SIZE);
}

static void case_make(struct fuzz_case *c, uint64_t seed)
{
	rng = seed ? seed : 1;
	for (unsigned i = 0; i < 4; i++)
		rnd();
	c->seed = seed;
	c->mode = (enum mode)pick(MODES);
	c->user = c->mode == V86 || (c->mode != REAL && one_in(2));
	/* Near the end of a page now and then. */
	c->start = one_in(4) ? CODE + 0x1000 - pick(24) : CODE + 0x100 + pick(64);
	take_world(c);
	make_code(c);
	make_state(c);
}

/* ---- running and comparing ---- */

static enum vcpu_exit_kind run(struct machine *m, const struct fuzz_case *c, struct cpu_state *end)
{
	struct vcpu_exit exit = { 0 };

	mem_write(m->mem, 0, c->ram, RAM_SIZE);
	if (m->ops->set_state(m->vcpu, &c->state)) {
		*end = c->state;
		return VCPU_EXIT_DEBUG;
	}
	m->ops->set_irq(m->vcpu, VCPU_KICK, false);
	watch.runs++;
	watch.looks = 0;
	watch.start = thread_ns();
	watch.running = m->vcpu;
	m->ops->run(m->vcpu, &exit);
	watch.running = NULL;
	if (exit.kind == VCPU_EXIT_ERROR) {
		printf("# %s, seed %#lx: %s\n", m->ops->name, (unsigned long)c->seed, exit.message);
		abort();
	}
	m->ops->get_state(m->vcpu, end);
	return exit.kind;
}

#define DIFFERS(field) (a->field != b->field ? #field : NULL)

/* What is different first, or NULL. The last instruction's and data's address of the x87 are not compared, nor the
 * status flags, which may be undefined. */
static const char *state_difference(const struct cpu_state *a, const struct cpu_state *b)
{
	static const char *const reg[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	const uint64_t flags = ~(uint64_t)RFLAGS_STATUS;

	if (a->rip != b->rip)
		return "rip";
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			return reg[i];
	if ((a->rflags & flags) != (b->rflags & flags))
		return "rflags";
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (a->seg[i].base != b->seg[i].base || a->seg[i].limit != b->seg[i].limit || a->seg[i].selector != b->seg[i].selector ||
		    a->seg[i].attr != b->seg[i].attr)
			return "segments";
	if (memcmp(a->xsave, b->xsave, 5))
		return "x87 words";
	if (memcmp(a->xsave + 24, b->xsave + 24, 4))
		return "mxcsr";
	if (memcmp(a->xsave + 32, b->xsave + 32, 128))
		return "x87 registers";
	if (memcmp(a->xsave + 160, b->xsave + 160, 256) || memcmp(a->xsave + 576, b->xsave + 576, 256))
		return "vector registers";
	return DIFFERS(cr0) ?: DIFFERS(cr2) ?: DIFFERS(cr3) ?: DIFFERS(cr4) ?: DIFFERS(efer) ?: DIFFERS(xcr0) ?: DIFFERS(dr6) ?: DIFFERS(dr7) ?:
	       DIFFERS(kernel_gs_base) ?: DIFFERS(gdtr.base) ?: DIFFERS(idtr.base) ?: DIFFERS(mp_state) ?: DIFFERS(interrupt_shadow) ?:
	       memcmp(&a->tr, &b->tr, sizeof(a->tr)) ? "tr" : NULL;
}

/* The translator may set accessed bits early, and dirty ones of a store that then faults. Saved flags may differ in
 * the undefined ones, in either byte of a word. */
static bool byte_matters(unsigned at, uint8_t ours, uint8_t theirs)
{
	uint8_t change = ours ^ theirs, tables = at >= PML4 && at < OLD_PT + 0x1000 ? (theirs & 0x60) | 0x20 : 0;

	return (change & ~tables) && (change & ~0xd5) && change != 0x08;
}

/* Whether the tables have changed but for accessed and dirty bits: then it is the processor's choice which ones it has
 * looked at before, and which it still remembers. */
static bool tables_changed(const struct machine *m, const struct fuzz_case *c)
{
	for (unsigned i = PML4; i < OLD_PT + 0x1000; i++) {
		uint8_t ignored = i < OLD_PD ? (i & 7 ? 0 : 0x60) : i & 3 ? 0 : 0x60;

		if ((m->ram->host[i] ^ c->ram[i]) & ~ignored)
			return true;
	}
	return false;
}

static const char *memory_difference(const struct machine *a, const struct machine *b, unsigned *where)
{
	for (unsigned i = 0; i < RAM_SIZE; i++) {
		while (!(i & 255) && i < RAM_SIZE && !memcmp(a->ram->host + i, b->ram->host + i, 256))
			i += 256;
		if (i < RAM_SIZE && a->ram->host[i] != b->ram->host[i] && byte_matters(i, a->ram->host[i], b->ram->host[i])) {
			*where = i;
			return "memory";
		}
	}
	return NULL;
}

struct verdict {
	const char *what;
	unsigned where;
	enum vcpu_exit_kind kind[2];
	struct cpu_state end[2];
};

/* True when the engines agree, or when nothing can be said: code that loops, or that reads the clock. */
static bool agree(struct machine m[2], const struct fuzz_case *c, struct verdict *v)
{
	v->where = 0;
	for (unsigned i = 0; i < 2; i++) {
		v->kind[i] = run(&m[i], c, &v->end[i]);
		if (v->kind[i] == VCPU_EXIT_KICKED)
			return true;
	}
	v->what = v->kind[0] != v->kind[1] ? "exit" : state_difference(&v->end[0], &v->end[1]);
	if (!v->what)
		v->what = memory_difference(&m[0], &m[1], &v->where);
	return !v->what || tables_changed(&m[0], c) || tables_changed(&m[1], c);
}

/* Whether the code may have looked at flags that are undefined, by what it decodes to from the start. */
static bool flags_undefined(const struct fuzz_case *c)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction insn;
	unsigned at = 0;

	if (c->mode == LONG64)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (c->mode == REAL || c->mode == V86 || c->mode == PROT16 || c->mode == COMPAT16)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	while (at < c->length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, c->ram + c->start + at, 15, &insn)))
			insn.length = 1;
		else if (insn.cpu_flags && insn.cpu_flags->undefined)
			return true;
		at += insn.length;
	}
	return false;
}

static bool repeats(struct machine *m, const struct fuzz_case *c)
{
	static struct cpu_state first, second;
	static uint8_t ram[RAM_SIZE];

	run(m, c, &first);
	memcpy(ram, m->ram->host, RAM_SIZE);
	run(m, c, &second);
	return !state_difference(&first, &second) && !memcmp(ram, m->ram->host, RAM_SIZE);
}

/* Whether engines that have run nothing yet end the same: says whose memory of earlier cases is at fault. */
static void compare_fresh(const struct machine m[2], const struct fuzz_case *c, const struct verdict *v)
{
	for (unsigned i = 0; i < 2; i++) {
		static struct cpu_state end;
		struct machine fresh;

		machine_make(&fresh, m[i].ops);
		run(&fresh, c, &end);
		if (state_difference(&end, &v->end[i]))
			printf("# %s ends otherwise after what it ran before\n", m[i].ops->name);
		machine_free(&fresh);
	}
}

/* Cuts the code to the shortest that still differs. */
static void shorten(struct machine m[2], struct fuzz_case *c, struct verdict *v)
{
	static struct fuzz_case cut;
	struct verdict now;

	for (unsigned n = 1; n < c->length; n++) {
		cut = *c;
		cut.length = n;
		memset(cut.ram + c->start + n, 0xf4, CODE_MAX);
		if (!agree(m, &cut, &now) && repeats(&m[0], &cut)) {
			*c = cut;
			*v = now;
			return;
		}
	}
}

static void show(const struct fuzz_case *c, const struct verdict *v)
{
	const struct cpu_state *s = &c->state, *a = &v->end[0], *b = &v->end[1];

	printf("# seed %#lx %s cpl %u: %s differs", (unsigned long)c->seed, mode_name[c->mode], c->user ? 3 : 0, v->what);
	if (v->where)
		printf(" at %x", v->where);
	printf("; exits %d %d; code at %x:", v->kind[0], v->kind[1], c->start);
	for (unsigned i = 0; i < c->length; i++)
		printf(" %02x", c->ram[c->start + i]);
	printf("\n#   cr0 %lx cr4 %lx efer %lx flags %lx; ends at %lx %lx flags %lx %lx cr2 %lx %lx dr6 %lx %lx\n", s->cr0, s->cr4, s->efer, s->rflags,
	       a->rip, b->rip, a->rflags, b->rflags, a->cr2, b->cr2, a->dr6, b->dr6);
	printf("#   starts with");
	for (unsigned i = 0; i < 16; i++)
		printf(" %lx", s->gpr[i]);
	printf("; ds %lx+%x %x\n", s->seg[SEG_DS].base, s->seg[SEG_DS].limit, s->seg[SEG_DS].attr);
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			printf("#   r%u: from %lx to %lx %lx\n", i, s->gpr[i], a->gpr[i], b->gpr[i]);
}

int main(int argc, char **argv)
{
	uint64_t cases = argc > 1 ? strtoull(argv[1], NULL, 0) : 6000, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 300;
	uint64_t ends[8] = { 0 }, clocked = 0, undefined = 0;
	static struct fuzz_case c;
	static struct verdict v, again;
	struct machine m[2];
	unsigned shown = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	machine_make(&m[0], &accel_interp_ops);
	machine_make(&m[1], &accel_bt_ops);
	watch_begin();
	for (uint64_t n = 0; n < cases && shown < MAX_SHOWN; n++) {
		uint64_t own = cases == 1 ? seed : (seed + n) * SEED_STEP;

		watch.seed = own;
		if (n && n % PROGRESS == 0)
			printf("# %lu executions so far\n", (unsigned long)watch.runs);
		case_make(&c, own);
		if (agree(m, &c, &v) || !COMPARED) {
			ends[v.kind[0] & 7]++;
		} else if (!repeats(&m[0], &c)) {
			clocked++;
		} else {
			bool once = false;

			again = v;
			if (agree(m, &c, &again)) {
				once = true;
			} else {
				v = again;
				compare_fresh(m, &c, &v);
				shorten(m, &c, &v);
			}
			if (flags_undefined(&c)) {
				undefined++;
				continue;
			}
			printf("%s", once ? "# only the first time:\n" : "");
			show(&c, &v);
			shown++;
		}
	}
	timer_delete(watch.timer);
	machine_free(&m[1]);
	machine_free(&m[0]);
	printf("# %lu executions\n", (unsigned long)watch.runs);
	printf("# halted %lu, shut down %lu, looped %lu, refused %lu, clock %lu, undefined flags %lu\n", (unsigned long)ends[VCPU_EXIT_HALT],
	       (unsigned long)ends[VCPU_EXIT_SHUTDOWN], (unsigned long)ends[VCPU_EXIT_KICKED], (unsigned long)ends[VCPU_EXIT_DEBUG],
	       (unsigned long)clocked, (unsigned long)undefined);
	printf("1..1\n%sok 1 - random code\n", shown ? "not " : "");
	return shown ? 1 : 0;
}
