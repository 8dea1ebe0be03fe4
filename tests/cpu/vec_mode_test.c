/*
 * When vector and x87 instructions are there at all: CR0, CR4, XCR0, mode and CPU model, the exceptions they raise,
 * and the forms that only 16- and 32-bit code has. Expected values are the manual's (SDM 1 8.1.10, SDM 3A 2.5, 13.1).
 */
#include <glib.h>
#include <setjmp.h>

#include "accel/interp/core.h"
#include "accel/interp/vec.h"

#define NONE (-1)
#define DATA 0x2000u /* where rsi/esi/si points */

struct machine {
	struct cpu_model model;
	struct mem *mem;
	struct ram *ram;
	struct accel *accel;
	struct icpu *cpu;
};

static uint64_t no_read(void *o, unsigned c, uint64_t gpa, unsigned len) { return 0; }
static void no_write(void *o, unsigned c, uint64_t gpa, unsigned len, uint64_t v) { }

static bool fpu_error_seen, ignne;

static bool fpu_error(void *opaque, unsigned cpu, bool pending)
{
	fpu_error_seen = pending;
	return ignne;
}

static void machine_init(struct machine *m, const char *model)
{
	static const struct accel_host stubs = { .mmio_read = no_read, .mmio_write = no_write, .fpu_error = fpu_error };
	struct accel_config cfg = { .host = &stubs, .cpu = &m->model, .cpus = 1 };
	uint32_t words[CPUID_WORDS];

	interp_supported_words(words);
	g_assert_true(cpu_model_parse(model, words, 1, &m->model, NULL));
	cfg.mem = m->mem = mem_create();
	m->ram = ram_create("test", 0x10000, NULL);
	g_assert_cmpint(mem_map(m->mem, 0, 0x10000, m->ram, 0, false), >=, 0);
	m->accel = accel_interp_ops.open(&cfg, NULL);
	m->cpu = (struct icpu *)accel_interp_ops.vcpu_create(m->accel, 0, NULL);
	g_assert_nonnull(m->cpu);
}

static void machine_finish(struct machine *m)
{
	accel_interp_ops.vcpu_destroy(&m->cpu->vcpu);
	accel_interp_ops.close(m->accel);
	mem_destroy(m->mem);
	ram_destroy(m->ram);
}

/* Everything enabled, in flat code of `bits` at CPL 3 (16: real mode), x87 initialised. */
static void machine_reset(struct machine *m, unsigned bits)
{
	struct cpu_state s;

	cpu_state_reset(&s, true);
	s.cr0 = CR0_ET | CR0_NE | (bits == 16 ? 0 : CR0_PE);
	s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s.xcr0 = 7;
	s.efer = bits == 64 ? EFER_LME | EFER_LMA : 0;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = (struct x86_segment){ .limit = 0xffffffff, .attr = (uint16_t)(bits == 16 ? 0x93 : 0xcf3) };
	if (bits != 16)
		s.seg[SEG_CS].attr = bits == 64 ? 0xafb : 0xcfb;
	s.gpr[RSI] = DATA;
	st16le(s.xsave + IMG_FCW, FCW_INIT);
	s.xsave[IMG_FTW] = 0;
	g_assert_cmpint(accel_interp_ops.set_state(&m->cpu->vcpu, &s), ==, 0);
}

/* Executes one instruction; the vector it raised or NONE. */
static int execute(struct machine *m, const char *hex)
{
	uint8_t bytes[15];
	unsigned n = 0;
	bool need_more;
	struct insn in;
	struct icpu *cpu = m->cpu;

	for (const char *p = hex; *p; p += 2) {
		g_assert_cmpuint(n, <, sizeof(bytes));
		bytes[n++] = (uint8_t)(g_ascii_xdigit_value(p[0]) << 4 | g_ascii_xdigit_value(p[1]));
	}
	g_assert_true(insn_decode(cpu, bytes, n, &in, &need_more));
	cpu->next_rip = cpu->s.rip + in.length;
	if (sigsetjmp(cpu->fault, 0))
		return cpu->exc_vector;
	in.fn(cpu, &in);
	return NONE;
}

static uint8_t *data(struct machine *m) { return m->ram->host + DATA; }

/* ---- availability ---- */

struct availability {
	const char *hex;
	uint64_t cr0_set, cr4_clear;
	int xcr0; /* 0: as it is */
	uint16_t fsw;
	int expect;
};

#define ADDPS "0f58c1"
#define PADDB "0ffcc1"
#define VADDPS "c5f458c1"
#define FADD "d8c1"
#define FXSAVE "0fae06"
#define XSAVE "0fae26"

static const struct availability availabilities[] = {
	{ ADDPS, 0, 0, 0, 0, NONE }, { ADDPS, CR0_EM, 0, 0, 0, EXC_UD }, { ADDPS, 0, CR4_OSFXSR, 0, 0, EXC_UD },
	{ ADDPS, CR0_TS, 0, 0, 0, EXC_NM }, { ADDPS, CR0_TS | CR0_EM, 0, 0, 0, EXC_UD }, { ADDPS, 0, CR4_OSXSAVE, 0, 0, NONE },
	{ PADDB, 0, 0, 0, 0, NONE }, { PADDB, CR0_EM, 0, 0, 0, EXC_UD }, { PADDB, CR0_TS, 0, 0, 0, EXC_NM },
	{ PADDB, 0, CR4_OSFXSR, 0, 0, NONE }, { PADDB, 0, 0, 0, 0x8081, EXC_MF },
	{ VADDPS, 0, 0, 0, 0, NONE }, { VADDPS, CR0_EM, 0, 0, 0, NONE }, { VADDPS, 0, CR4_OSXSAVE, 0, 0, EXC_UD },
	{ VADDPS, 0, 0, 3, 0, EXC_UD }, { VADDPS, CR0_TS, 0, 0, 0, EXC_NM }, { VADDPS, 0, CR4_OSFXSR, 0, 0, NONE },
	{ FADD, 0, 0, 0, 0, NONE }, { FADD, CR0_EM, 0, 0, 0, EXC_NM }, { FADD, CR0_TS, 0, 0, 0, EXC_NM },
	{ FADD, CR0_MP, 0, 0, 0, NONE }, { FADD, 0, 0, 0, 0x8081, EXC_MF },
	{ "9b", CR0_TS, 0, 0, 0, NONE }, { "9b", CR0_TS | CR0_MP, 0, 0, 0, EXC_NM }, { "9b", CR0_EM, 0, 0, 0, NONE },
	{ "9b", 0, 0, 0, 0x8081, EXC_MF },
	{ "dbe3", CR0_TS, 0, 0, 0, EXC_NM }, { "dbe3", 0, 0, 0, 0x8081, NONE }, { "dbe2", 0, 0, 0, 0x8081, NONE },
	{ "dfe0", 0, 0, 0, 0x8081, NONE }, { "d936", 0, 0, 0, 0x8081, NONE }, { "d92e", 0, 0, 0, 0x8081, EXC_MF },
	{ FXSAVE, 0, 0, 0, 0, NONE }, { FXSAVE, CR0_TS, 0, 0, 0, EXC_NM }, { FXSAVE, CR0_EM, 0, 0, 0, EXC_NM },
	{ FXSAVE, 0, 0, 0, 0x8081, NONE }, { "0fae4604", 0, 0, 0, 0, EXC_GP },
	{ XSAVE, 0, 0, 0, 0, NONE }, { XSAVE, 0, CR4_OSXSAVE, 0, 0, EXC_UD }, { XSAVE, CR0_TS, 0, 0, 0, EXC_NM },
	{ "0fae6610", 0, 0, 0, 0, EXC_GP }, { "0fc726", 0, 0, 0, 0, NONE }, { "0fc72e", 0, 0, 0, 0, EXC_GP }, /* XSAVEC, XSAVES */
	{ "0fae1e", 0, CR4_OSFXSR, 0, 0, EXC_UD }, { "c5f8ae1e", 0, CR4_OSXSAVE, 0, 0, EXC_UD }, { "0fae1e", CR0_TS, 0, 0, 0, EXC_NM },
	{ "0f2806", 0, 0, 0, 0, NONE }, { "0f284604", 0, 0, 0, 0, EXC_GP }, { "0f104604", 0, 0, 0, 0, NONE },
	{ "c5f8284604", 0, 0, 0, 0, EXC_GP }, { "c5f8584604", 0, 0, 0, 0, NONE }, { "0f584604", 0, 0, 0, 0, EXC_GP },
	{ "660f3a63460400", 0, 0, 0, 0, NONE }, { "c4e271900c86", 0, 0, 0, 0, EXC_UD }, /* a gather into its own mask */
	{ "0f77", CR0_EM, 0, 0, 0, EXC_UD }, { "62f17c4858c1", 0, 0, 0, 0, EXC_UD }, /* AVX-512 */
};

static void test_availability(void)
{
	struct machine m;

	machine_init(&m, "host");
	for (unsigned bits = 32; bits <= 64; bits += 32) {
		for (unsigned i = 0; i < ARRAY_LEN(availabilities); i++) {
			const struct availability *a = &availabilities[i];
			int got;

			machine_reset(&m, bits);
			m.cpu->s.cr0 |= a->cr0_set;
			m.cpu->s.cr4 &= ~a->cr4_clear;
			if (a->xcr0)
				m.cpu->s.xcr0 = (uint64_t)a->xcr0;
			st16le(m.cpu->s.xsave + IMG_FSW, a->fsw);
			got = execute(&m, a->hex);
			if (got != a->expect)
				g_error("%s in %u-bit code, case %u: vector %d, not %d", a->hex, bits, i, got, a->expect);
		}
	}
	machine_finish(&m);
}

/* VEX is not recognised in real and virtual-8086 mode; SSE and x87 are. */
static void test_real_mode(void)
{
	struct machine m;

	machine_init(&m, "host");
	machine_reset(&m, 16);
	g_assert_cmpint(execute(&m, ADDPS), ==, NONE);
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE);
	g_assert_cmpint(execute(&m, VADDPS), ==, EXC_UD);
	machine_reset(&m, 32);
	m.cpu->s.rflags |= RFLAGS_VM;
	g_assert_cmpint(execute(&m, ADDPS), ==, NONE);
	g_assert_cmpint(execute(&m, VADDPS), ==, EXC_UD);
	machine_finish(&m);
}

/* What the model lacks is undefined, whatever the host has. */
static void test_features(void)
{
	static const struct { const char *model, *hex; } cases[] = {
		{ "host,-avx2", "c5f5fec1" }, { "host,-avx", VADDPS }, { "host,-fma", "c4e27198c1" }, { "host,-f16c", "c4e27913c1" },
		{ "host,-aes", "660f38dcc1" }, { "host,-pclmulqdq", "660f3a44c100" }, { "host,-sha_ni", "0f38c8c1" },
		{ "host,-sse4_1", "660f3810c1" }, { "host,-sse4_2", "660f3837c1" }, { "host,-ssse3", "0f3800c1" },
		{ "host,-sse3", "f20f7cc1" }, { "host,-sse3", "db0e" }, { "host,-xsave", XSAVE }, { "host,-xsaveopt", "0fae36" },
		{ "host,-xsavec", "0fc726" }, { "host,-mmx", PADDB }, { "host,-fxsr", FXSAVE }, { "x86-64-v1", "f20f7cc1" },
		{ "x86-64-v2", VADDPS }, { "qemu64", VADDPS },
	};

	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct machine m;
		int got;

		machine_init(&m, cases[i].model);
		machine_reset(&m, 64);
		got = execute(&m, cases[i].hex);
		if (got != EXC_UD)
			g_error("%s with %s: vector %d", cases[i].hex, cases[i].model, got);
		machine_finish(&m);
	}
}

/* An unmasked division by zero: #XM, or #UD where the system does not know it; the registers keep their values. */
static void test_unmasked(void)
{
	struct machine m;

	machine_init(&m, "host");
	for (unsigned enabled = 0; enabled < 2; enabled++) {
		uint8_t *x = m.cpu->s.xsave;

		machine_reset(&m, 64);
		if (!enabled)
			m.cpu->s.cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
		st32le(x + IMG_MXCSR, MXCSR_INIT & ~0x200u);
		st32le(x + IMG_XMM, 0x3f800000);
		g_assert_cmpint(execute(&m, "f30f5ec1"), ==, enabled ? EXC_XM : EXC_UD);
		g_assert_cmphex(ld32le(x + IMG_MXCSR), ==, (MXCSR_INIT & ~0x200u) | 4);
		g_assert_cmphex(ld32le(x + IMG_XMM), ==, 0x3f800000);
	}
	/* x87: the exception is pending until the next waiting instruction. */
	machine_reset(&m, 64);
	st16le(m.cpu->s.xsave + IMG_FCW, 0x37b);
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE); /* FLD1 */
	g_assert_cmpint(execute(&m, "d9ee"), ==, NONE); /* FLDZ */
	g_assert_cmpint(execute(&m, "dcf9"), ==, NONE); /* FDIV ST1, ST0 */
	g_assert_cmphex(ld16le(m.cpu->s.xsave + IMG_FSW) & 0x8084, ==, 0x8084);
	g_assert_cmpint(execute(&m, "dfe0"), ==, NONE); /* FNSTSW AX */
	g_assert_cmphex(m.cpu->s.gpr[RAX] & 0x8084, ==, 0x8084);
	g_assert_cmpint(execute(&m, "d9e8"), ==, EXC_MF);
	g_assert_cmpint(execute(&m, "dbe2"), ==, NONE); /* FNCLEX */
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE);
	machine_finish(&m);
}

/* With CR0.NE clear the board is told, and the instruction waits until IGNNE# or until the error is gone. */
static void test_board_error(void)
{
	struct machine m;

	machine_init(&m, "host");
	machine_reset(&m, 16);
	m.cpu->s.cr0 &= ~(uint64_t)CR0_NE;
	st16le(m.cpu->s.xsave + IMG_FCW, 0x37b);
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE);
	g_assert_cmpint(execute(&m, "d9ee"), ==, NONE);
	g_assert_cmpint(execute(&m, "dcf9"), ==, NONE);
	g_assert_false(fpu_error_seen);
	ignne = false;
	m.cpu->s.rip = 0x100;
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE);
	g_assert_true(fpu_error_seen);
	g_assert_cmphex(m.cpu->next_rip, ==, 0x100);
	g_assert_cmphex(m.cpu->s.xsave[IMG_FTW], ==, 0xc0);
	g_assert_cmpint(execute(&m, "9b"), ==, NONE);
	g_assert_cmphex(m.cpu->next_rip, ==, 0x100);
	ignne = true;
	g_assert_cmpint(execute(&m, "d9e8"), ==, NONE);
	g_assert_cmphex(m.cpu->next_rip, ==, 0x102);
	g_assert_cmphex(m.cpu->s.xsave[IMG_FTW], ==, 0xe0);
	g_assert_cmphex(ld16le(m.cpu->s.xsave + IMG_FSW) & 0x8084, ==, 0x8084);
	g_assert_cmpint(execute(&m, "dbe2"), ==, NONE);
	g_assert_false(fpu_error_seen);
	machine_finish(&m);
}

/* ---- environments ---- */

/* An FLD1 at 1234:00056789 (offset as far as the mode has it) leaves its place in FIP and FCS. */
static void run_fld1(struct machine *m, unsigned bits)
{
	machine_reset(m, bits);
	m->cpu->s.seg[SEG_CS].selector = 0x1234;
	m->cpu->s.seg[SEG_DS].selector = 0x4321;
	m->cpu->s.rip = bits == 16 ? 0x6789 : 0x56789;
	g_assert_cmpint(execute(m, bits == 16 ? "d904" : "d906"), ==, NONE); /* FLD m32 */
	memset(data(m), 0xcc, 256);
}

static void test_environment(void)
{
	/* FNSTENV [si] or [esi] in each form: 16-bit real, 32-bit real, 16-bit protected, 32-bit protected. The stack's
	 * top is 7, its tag says zero (the operand is). */
	static const struct { unsigned bits; const char *hex; unsigned size; uint8_t expect[28]; } cases[] = {
		/* linear addresses: 0x12340 + 0x6789 = 0x18ac9, 0x43210 + 0x2000 = 0x45210 */
		{ 16, "d934", 14, { 0x7f, 3, 0, 0x38, 0xff, 0x7f, 0xc9, 0x8a, 0x04, 0x11, 0x10, 0x52, 0x00, 0x40 } },
		{ 16, "66d934", 28, { 0x7f, 3, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xc9, 0x8a, 0xff, 0xff, 0x04, 0x11, 0, 0,
				      0x10, 0x52, 0xff, 0xff, 0, 0x40, 0, 0 } },
		{ 32, "66d936", 14, { 0x7f, 3, 0, 0x38, 0xff, 0x7f, 0x89, 0x67, 0x34, 0x12, 0x00, 0x20, 0x21, 0x43 } },
		{ 32, "d936", 28, { 0x7f, 3, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0x89, 0x67, 5, 0, 0x34, 0x12, 0x06, 0x01,
				    0, 0x20, 0, 0, 0x21, 0x43, 0xff, 0xff } },
	};
	struct machine m;

	machine_init(&m, "host");
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		memset(data(&m), 0, 256);
		run_fld1(&m, cases[i].bits);
		g_assert_cmpint(execute(&m, cases[i].hex), ==, NONE);
		g_assert_cmpmem(data(&m), cases[i].size, cases[i].expect, cases[i].size);
		g_assert_cmphex(data(&m)[cases[i].size], ==, 0xcc);
	}
	machine_finish(&m);
}

/* FNSAVE and FRSTOR in each form give the registers back. */
static void test_save_restore(void)
{
	static const struct { unsigned bits; const char *save, *restore; unsigned size; } cases[] = {
		{ 16, "dd34", "dd24", 94 }, { 16, "66dd34", "66dd24", 108 }, { 32, "66dd36", "66dd26", 94 }, { 32, "dd36", "dd26", 108 },
		{ 64, "66dd36", "66dd26", 94 }, { 64, "dd36", "dd26", 108 },
	};
	struct machine m;

	machine_init(&m, "host");
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t before[160], *x = m.cpu->s.xsave;

		machine_reset(&m, cases[i].bits);
		execute(&m, "d9eb"); /* FLDPI */
		execute(&m, "d9e8");
		execute(&m, "d9e9"); /* FLDL2T */
		memcpy(before, x, sizeof(before));
		memset(data(&m), 0xcc, 256);
		g_assert_cmpint(execute(&m, cases[i].save), ==, NONE);
		g_assert_cmphex(data(&m)[cases[i].size - 1], !=, 0xcc);
		g_assert_cmphex(data(&m)[cases[i].size], ==, 0xcc);
		g_assert_cmphex(ld16le(x + IMG_FSW), ==, 0);
		g_assert_cmphex(x[IMG_FTW], ==, 0);
		execute(&m, "d9ee");
		g_assert_cmpint(execute(&m, cases[i].restore), ==, NONE);
		g_assert_cmpmem(x, 5, before, 5);
		for (unsigned r = 0; r < 3; r++)
			g_assert_cmpmem(x + IMG_ST + 16 * r, 10, before + IMG_ST + 16 * r, 10);
	}
	machine_finish(&m);
}

/* ---- 32-bit code ---- */

/* Outside of 64-bit code FXSAVE has eight XMM registers and leaves the rest of its area alone. */
static void test_fxsave_32(void)
{
	struct machine m;

	machine_init(&m, "host");
	for (unsigned bits = 32; bits <= 64; bits += 32) {
		unsigned end = bits == 32 ? 288 : 416;

		machine_reset(&m, bits);
		memset(m.cpu->s.xsave + IMG_XMM, 0x11, 256);
		memset(data(&m), 0xcc, 512);
		g_assert_cmpint(execute(&m, FXSAVE), ==, NONE);
		g_assert_cmphex(data(&m)[end - 1], ==, 0x11);
		g_assert_cmphex(data(&m)[end], ==, 0xcc);
		memset(m.cpu->s.xsave + IMG_XMM, 0x22, 256);
		g_assert_cmpint(execute(&m, "0fae0e"), ==, NONE);
		g_assert_cmphex(m.cpu->s.xsave[IMG_XMM + 127], ==, 0x11);
		g_assert_cmphex(m.cpu->s.xsave[IMG_XMM + 128], ==, bits == 32 ? 0x22 : 0x11);
	}
	machine_finish(&m);
}

/* Register bits that only 64-bit code has are ignored in VEX prefixes; W does not widen general registers. */
static void test_vex_32(void)
{
	struct machine m;
	uint8_t *x;

	machine_init(&m, "host");
	machine_reset(&m, 32);
	x = m.cpu->s.xsave;
	for (unsigned r = 0; r < 16; r++)
		st32le(x + IMG_XMM + 16 * r, 0x3f800000 + (r << 20));
	/* VADDSS xmm1, xmm2 (vvvv says 10), xmm3 (B says 11) */
	g_assert_cmpint(execute(&m, "c4c12a58cb"), ==, NONE);
	g_assert_cmphex(ld32le(x + IMG_XMM + 16), ==, 0x40280000); /* 1.25 + 1.375 is 2.625 */
	m.cpu->s.gpr[RAX] = 0x123456789abcdef0;
	g_assert_cmpint(execute(&m, "c4e1f96ec0"), ==, NONE); /* VMOVD xmm0, eax with W set */
	g_assert_cmphex(ld64le(x + IMG_XMM), ==, 0x9abcdef0);
	machine_finish(&m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	if (!__builtin_cpu_supports("avx2")) {
		g_print("1..0 # SKIP the host has no AVX2\n");
		return 77;
	}
	g_test_add_func("/vec/availability", test_availability);
	g_test_add_func("/vec/real-mode", test_real_mode);
	g_test_add_func("/vec/features", test_features);
	g_test_add_func("/vec/unmasked", test_unmasked);
	g_test_add_func("/vec/board-error", test_board_error);
	g_test_add_func("/vec/environment", test_environment);
	g_test_add_func("/vec/save-restore", test_save_restore);
	g_test_add_func("/vec/fxsave-32", test_fxsave_32);
	g_test_add_func("/vec/vex-32", test_vex_32);
	return g_test_run();
}
