/*
 * Saving and restoring the extended state: FXSAVE, FXRSTOR, the XSAVE family (SDM 1, 10.5 and chapter 13), MXCSR,
 * VZEROUPPER and VZEROALL. What counts as in use is found by looking for the initial values.
 */
#include "accel/interp/vec.h"

#define HEADER 64u
#define COMPACTED (UINT64_C(1) << 63)

static bool all_zero(const uint8_t *p, unsigned n)
{
	for (unsigned i = 0; i < n; i += 8) {
		if (ld64le(p + i))
			return false;
	}
	return true;
}

uint64_t vector_in_use(const struct cpu_state *s)
{
	const uint8_t *x = s->xsave;
	uint64_t v = 0;

	if (ld64le(x) != FCW_INIT || !all_zero(x + IMG_FIP, 16) || !all_zero(x + IMG_ST, 128))
		v |= XSTATE_X87;
	if (!all_zero(x + IMG_XMM, 256))
		v |= XSTATE_SSE;
	if (!all_zero(x + IMG_YMM, 256))
		v |= XSTATE_AVX;
	return v & s->xcr0;
}

static void init_component(uint8_t *x, uint64_t component)
{
	switch (component) {
	case XSTATE_X87:
		memset(x, 0, IMG_MXCSR);
		memset(x + IMG_ST, 0, 128);
		st16le(x + IMG_FCW, FCW_INIT);
		break;
	case XSTATE_SSE: memset(x + IMG_XMM, 0, 256); break;
	default: memset(x + IMG_YMM, 0, 256); break;
	}
}

void vector_load_state(struct icpu *cpu)
{
	uint8_t *x = cpu->s.xsave;
	uint64_t bv = ld64le(x + IMG_BV);
	/* Nothing marked and not the initial values: a state that was never saved by XSAVE, such as power-up's. */
	bool marked = bv || ld64le(x + IMG_COMP);

	for (uint64_t bit = XSTATE_X87; marked && bit <= XSTATE_AVX; bit <<= 1) {
		if (!(bv & bit))
			init_component(x, bit);
	}
	st16le(x + IMG_FCW, (ld16le(x + IMG_FCW) & 0x1f3f) | 0x40);
	st32le(x + IMG_MXCSR, ld32le(x + IMG_MXCSR) & MXCSR_MASK);
	x87_update_es(&cpu->s);
	memset(x + IMG_BV, 0, HEADER);
	x[IMG_BV] = vec_feature(cpu, "avx") ? 7 : 3;
}

/* ---- FXSAVE and FXRSTOR ---- */

static unsigned xmm_bytes(const struct icpu *cpu) { return cpu->code_bits == 64 ? 256 : 128; }

static uint64_t area(struct icpu *cpu, const struct insn *in, unsigned len, unsigned align, bool write)
{
	uint64_t lin = cpu_ea(cpu, in, len, write);

	if (lin & (align - 1))
		cpu_raise_error(cpu, EXC_GP, 0);
	return lin;
}

/* AMD's processors save the pointers of the last operation only for a pending exception, otherwise zeros. */
static bool hides_pointers(const struct icpu *cpu)
{
	return cpu->model && !strcmp(cpu->model->vendor, "AuthenticAMD") && !(ld16le(cpu->s.xsave + IMG_FSW) & FSW_ES);
}

/* Bytes 0 to 159 but for MXCSR; the pointers as 64-bit offsets or as 32-bit ones with selectors. */
static void save_x87(struct icpu *cpu, uint8_t *to, bool wide)
{
	const uint8_t *x = cpu->s.xsave;

	memcpy(to, x, IMG_MXCSR);
	to[IMG_FTW + 1] = 0;
	if (!wide) {
		st32le(to + IMG_FIP + 4, ld16le(x + IMG_FCS));
		st32le(to + IMG_FDP + 4, ld16le(x + IMG_FDS));
	}
	if (hides_pointers(cpu))
		memset(to + IMG_FOP, 0, IMG_MXCSR - IMG_FOP);
	for (unsigned i = 0; i < 8; i++) {
		memcpy(to + IMG_ST + 16 * i, x + IMG_ST + 16 * i, 10);
		memset(to + IMG_ST + 16 * i + 10, 0, 6);
	}
}

static void take_x87(struct icpu *cpu, const uint8_t *from, bool wide)
{
	uint8_t *x = cpu->s.xsave;
	uint16_t before = ld16le(x + IMG_FSW);

	memcpy(x, from, IMG_MXCSR);
	st16le(x + IMG_FCW, (ld16le(x + IMG_FCW) & 0x1f3f) | 0x40);
	st16le(x + IMG_FTW, x[IMG_FTW]);
	st16le(x + IMG_FOP, ld16le(x + IMG_FOP) & 0x7ff);
	st16le(x + IMG_FCS, wide ? 0 : ld16le(from + IMG_FIP + 4));
	st16le(x + IMG_FDS, wide ? 0 : ld16le(from + IMG_FDP + 4));
	if (wide) { /* made canonical */
		st64le(x + IMG_FIP, (uint64_t)((int64_t)(ld64le(from + IMG_FIP) << 16) >> 16));
		st64le(x + IMG_FDP, (uint64_t)((int64_t)(ld64le(from + IMG_FDP) << 16) >> 16));
	} else {
		st32le(x + IMG_FIP + 4, 0);
		st32le(x + IMG_FDP + 4, 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		memcpy(x + IMG_ST + 16 * i, from + IMG_ST + 16 * i, 10);
		memset(x + IMG_ST + 16 * i + 10, 0, 6);
	}
	x87_update_es(&cpu->s);
	vec_error_gone(cpu, before);
}

static void require_fxsr(struct icpu *cpu)
{
	if (cpu->s.cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, EXC_NM);
}

/* #AC goes before #GP here. */
static uint64_t fx_area(struct icpu *cpu, const struct insn *in, bool write)
{
	vec_check_alignment(cpu, cpu_ea(cpu, in, 512, write), 4, write);
	return area(cpu, in, 512, 16, write);
}

static void do_fxsave(struct icpu *cpu, const struct insn *in)
{
	unsigned len = IMG_XMM + xmm_bytes(cpu);
	uint8_t buf[IMG_XMM + 256];
	uint64_t lin;

	require_fxsr(cpu);
	lin = fx_area(cpu, in, true);
	cpu_check_write(cpu, lin, 512);
	memcpy(buf, cpu->s.xsave, len);
	st32le(buf + IMG_MXCSR_MASK, MXCSR_MASK);
	save_x87(cpu, buf, in->opsize == 8);
	cpu_store_bytes(cpu, lin, buf, len);
}

static void do_fxrstor(struct icpu *cpu, const struct insn *in)
{
	uint8_t buf[512];
	uint64_t lin;

	require_fxsr(cpu);
	lin = fx_area(cpu, in, false);
	cpu_load_bytes(cpu, lin, buf, 512);
	if (ld32le(buf + IMG_MXCSR) & ~MXCSR_MASK)
		cpu_raise_error(cpu, EXC_GP, 0);
	take_x87(cpu, buf, in->opsize == 8);
	memcpy(cpu->s.xsave + IMG_MXCSR, buf + IMG_MXCSR, 4);
	memcpy(cpu->s.xsave + IMG_XMM, buf + IMG_XMM, xmm_bytes(cpu));
}

/* ---- XSAVE and its kin ---- */

static void require_xsave(struct icpu *cpu)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, EXC_UD);
	if (cpu->s.cr0 & CR0_TS)
		cpu_raise(cpu, EXC_NM);
}

static uint64_t requested(const struct icpu *cpu)
{
	return ((uint32_t)cpu->s.gpr[RAX] | cpu->s.gpr[RDX] << 32) & cpu->s.xcr0;
}

/* Which components go to memory, and how its header tells. */
struct saving {
	uint64_t mask, write, bv;
	bool mxcsr, compacted;
};

static void save_to(struct icpu *cpu, uint64_t lin, const struct saving *s, bool wide)
{
	uint8_t *x = cpu->s.xsave, buf[IMG_XMM];

	if (s->write & XSTATE_X87) {
		save_x87(cpu, buf, wide);
		cpu_store_bytes(cpu, lin, buf, IMG_MXCSR);
		cpu_store_bytes(cpu, lin + IMG_ST, buf + IMG_ST, 128);
	}
	if (s->mxcsr)
		cpu_store(cpu, lin + IMG_MXCSR, 8, ld32le(x + IMG_MXCSR) | (uint64_t)MXCSR_MASK << 32);
	if (s->write & XSTATE_SSE)
		cpu_store_bytes(cpu, lin + IMG_XMM, x + IMG_XMM, xmm_bytes(cpu));
	if (s->write & XSTATE_AVX)
		cpu_store_bytes(cpu, lin + IMG_YMM, x + IMG_YMM, xmm_bytes(cpu));
	if (s->compacted) {
		cpu_store(cpu, lin + IMG_BV, 8, s->bv);
		cpu_store(cpu, lin + IMG_COMP, 8, s->mask | COMPACTED);
	} else {
		cpu_store(cpu, lin + IMG_BV, 8, s->bv);
	}
}

static unsigned area_size(uint64_t mask) { return mask & XSTATE_AVX ? IMG_SIZE : IMG_YMM; }

static void do_xsave(struct icpu *cpu, const struct insn *in)
{
	struct saving s = { 0 };
	uint64_t lin, in_use = vector_in_use(&cpu->s);
	bool optimized = in->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT || in->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64;

	require_xsave(cpu);
	s.mask = requested(cpu);
	s.write = optimized ? s.mask & in_use : s.mask;
	s.mxcsr = s.mask & (XSTATE_SSE | XSTATE_AVX);
	lin = area(cpu, in, area_size(s.mask), 64, true);
	cpu_check_write(cpu, lin, area_size(s.mask));
	s.bv = (cpu_load(cpu, lin + IMG_BV, 8) & ~s.mask) | (in_use & s.mask);
	save_to(cpu, lin, &s, in->opsize == 8);
}

/* XSAVEC and XSAVES: MXCSR is a part of the SSE component. No supervisor component exists. */
static void save_compacted(struct icpu *cpu, const struct insn *in)
{
	struct saving s = { .compacted = true };
	uint64_t lin, in_use = vector_in_use(&cpu->s);

	if (ld32le(cpu->s.xsave + IMG_MXCSR) != MXCSR_INIT)
		in_use |= XSTATE_SSE;
	s.mask = requested(cpu);
	s.write = s.bv = s.mask & in_use;
	s.mxcsr = s.write & XSTATE_SSE;
	lin = area(cpu, in, area_size(s.mask), 64, true);
	cpu_check_write(cpu, lin, area_size(s.mask));
	save_to(cpu, lin, &s, in->opsize == 8);
}

static void do_xsavec(struct icpu *cpu, const struct insn *in)
{
	require_xsave(cpu);
	save_compacted(cpu, in);
}

static void require_supervisor(struct icpu *cpu)
{
	require_xsave(cpu);
	if (cpu->cpl)
		cpu_raise_error(cpu, EXC_GP, 0);
}

static void do_xsaves(struct icpu *cpu, const struct insn *in)
{
	require_supervisor(cpu);
	save_compacted(cpu, in);
}

/* Whether XRSTOR accepts the header (SDM 1, 13.8.2). */
static bool header_valid(struct icpu *cpu, const uint8_t *header)
{
	uint64_t bv = ld64le(header), comp = ld64le(header + 8), listed = comp & ~COMPACTED;

	if (!(comp & COMPACTED))
		return !comp && !ld64le(header + 16) && !(bv & ~cpu->s.xcr0);
	return ((const struct vec_pool_head *)cpu->vec)->xsavec && !(listed & ~cpu->s.xcr0) && !(bv & ~listed) && all_zero(header + 16, 48);
}

static void restore_from(struct icpu *cpu, uint64_t lin, const uint8_t *header, bool wide)
{
	uint64_t mask = requested(cpu), bv = ld64le(header), load = mask & bv, init = mask & ~bv;
	bool compacted = ld64le(header + 8) & COMPACTED;
	uint8_t buf[IMG_SIZE], *x = cpu->s.xsave;
	unsigned len = load & XSTATE_AVX ? IMG_SIZE : IMG_BV;
	bool mxcsr = compacted ? load & XSTATE_SSE : mask & (XSTATE_SSE | XSTATE_AVX);

	cpu_load_bytes(cpu, lin, buf, len);
	if (mxcsr && (ld32le(buf + IMG_MXCSR) & ~MXCSR_MASK))
		cpu_raise_error(cpu, EXC_GP, 0);
	if (load & XSTATE_X87)
		take_x87(cpu, buf, wide);
	if (load & XSTATE_SSE)
		memcpy(x + IMG_XMM, buf + IMG_XMM, xmm_bytes(cpu));
	if (load & XSTATE_AVX)
		memcpy(x + IMG_YMM, buf + IMG_YMM, xmm_bytes(cpu));
	if (init & XSTATE_X87)
		init_component(x, XSTATE_X87);
	if (init & XSTATE_SSE)
		memset(x + IMG_XMM, 0, xmm_bytes(cpu));
	if (init & XSTATE_AVX)
		memset(x + IMG_YMM, 0, xmm_bytes(cpu));
	if (mxcsr)
		memcpy(x + IMG_MXCSR, buf + IMG_MXCSR, 4);
	else if (compacted && (init & XSTATE_SSE))
		st32le(x + IMG_MXCSR, MXCSR_INIT);
}

static void do_xrstor(struct icpu *cpu, const struct insn *in)
{
	uint8_t header[HEADER];
	uint64_t lin;
	bool supervisor = in->mnemonic == ZYDIS_MNEMONIC_XRSTORS || in->mnemonic == ZYDIS_MNEMONIC_XRSTORS64;

	if (supervisor)
		require_supervisor(cpu);
	else
		require_xsave(cpu);
	lin = area(cpu, in, IMG_YMM, 64, false);
	cpu_load_bytes(cpu, lin + IMG_BV, header, HEADER);
	if (!header_valid(cpu, header) || (supervisor && !(ld64le(header + 8) & COMPACTED)))
		cpu_raise_error(cpu, EXC_GP, 0);
	restore_from(cpu, lin, header, in->opsize == 8);
}

/* ---- MXCSR and whole registers ---- */

static void do_ldmxcsr(struct icpu *cpu, const struct insn *in)
{
	uint64_t lin;
	uint32_t v;

	if (in->bytes[0] == 0xc4 || in->bytes[0] == 0xc5)
		vec_require_avx(cpu);
	else
		vec_require_sse(cpu);
	lin = cpu_ea(cpu, in, 4, false);
	vec_check_alignment(cpu, lin, 4, false);
	v = (uint32_t)cpu_load(cpu, lin, 4);
	if (v & ~MXCSR_MASK)
		cpu_raise_error(cpu, EXC_GP, 0);
	st32le(cpu->s.xsave + IMG_MXCSR, v);
}

static void do_stmxcsr(struct icpu *cpu, const struct insn *in)
{
	uint64_t lin;

	if (in->bytes[0] == 0xc4 || in->bytes[0] == 0xc5)
		vec_require_avx(cpu);
	else
		vec_require_sse(cpu);
	lin = cpu_ea(cpu, in, 4, true);
	vec_check_alignment(cpu, lin, 4, true);
	cpu_store(cpu, lin, 4, ld32le(cpu->s.xsave + IMG_MXCSR));
}

static void do_vzeroupper(struct icpu *cpu, const struct insn *in)
{
	vec_require_avx(cpu);
	memset(cpu->s.xsave + IMG_YMM, 0, xmm_bytes(cpu));
}

static void do_vzeroall(struct icpu *cpu, const struct insn *in)
{
	vec_require_avx(cpu);
	memset(cpu->s.xsave + IMG_YMM, 0, xmm_bytes(cpu));
	memset(cpu->s.xsave + IMG_XMM, 0, xmm_bytes(cpu));
}

static const struct {
	uint16_t mnemonic;
	insn_fn fn;
	const char *feature;
} table[] = {
	{ ZYDIS_MNEMONIC_FXSAVE, do_fxsave, "fxsr" }, { ZYDIS_MNEMONIC_FXSAVE64, do_fxsave, "fxsr" },
	{ ZYDIS_MNEMONIC_FXRSTOR, do_fxrstor, "fxsr" }, { ZYDIS_MNEMONIC_FXRSTOR64, do_fxrstor, "fxsr" },
	{ ZYDIS_MNEMONIC_XSAVE, do_xsave, "xsave" }, { ZYDIS_MNEMONIC_XSAVE64, do_xsave, "xsave" },
	{ ZYDIS_MNEMONIC_XSAVEOPT, do_xsave, "xsaveopt" }, { ZYDIS_MNEMONIC_XSAVEOPT64, do_xsave, "xsaveopt" },
	{ ZYDIS_MNEMONIC_XSAVEC, do_xsavec, "xsavec" }, { ZYDIS_MNEMONIC_XSAVEC64, do_xsavec, "xsavec" },
	{ ZYDIS_MNEMONIC_XSAVES, do_xsaves, "xsaves" }, { ZYDIS_MNEMONIC_XSAVES64, do_xsaves, "xsaves" },
	{ ZYDIS_MNEMONIC_XRSTOR, do_xrstor, "xsave" }, { ZYDIS_MNEMONIC_XRSTOR64, do_xrstor, "xsave" },
	{ ZYDIS_MNEMONIC_XRSTORS, do_xrstor, "xsaves" }, { ZYDIS_MNEMONIC_XRSTORS64, do_xrstor, "xsaves" },
	{ ZYDIS_MNEMONIC_LDMXCSR, do_ldmxcsr, "sse" }, { ZYDIS_MNEMONIC_VLDMXCSR, do_ldmxcsr, "avx" },
	{ ZYDIS_MNEMONIC_STMXCSR, do_stmxcsr, "sse" }, { ZYDIS_MNEMONIC_VSTMXCSR, do_stmxcsr, "avx" },
	{ ZYDIS_MNEMONIC_VZEROUPPER, do_vzeroupper, "avx" }, { ZYDIS_MNEMONIC_VZEROALL, do_vzeroall, "avx" },
};

bool vec_xsave_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].mnemonic != zi->mnemonic)
			continue;
		in->opsize = zi->attributes & ZYDIS_ATTRIB_HAS_REX && zi->raw.rex.W ? 8 : 4;
		in->fn = vec_feature(cpu, table[i].feature) ? table[i].fn : vec_undefined;
		return true;
	}
	return false;
}
