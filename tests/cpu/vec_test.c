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

#include <Zydis/Zydis.h>

#include "accel/interp/core.h"
#include "accel/interp/vec.h"
#include "oracle.h"

#define VARIANTS 6       /* operand sets for each program */
#define PROGRAM_MAX 6    /* instructions in a sequence */
#define MIDDLE 4096u     /* offset in the area where its two pages meet */
#define WINDOW 2048u     /* bytes around it that are watched */
#define TAIL 256u        /* and at the area's end */

static struct oracle host;
static struct icpu *cpu;
static ZydisDecoder decoder;

struct step {
	struct insn in;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	unsigned at; /* offset in the code */
	uint64_t to; /* where the memory operand was placed */
};
struct program {
	struct step step[PROGRAM_MAX];
	unsigned count, length;
};
struct outcome {
	struct oracle_cpu cpu;
	uint8_t window[WINDOW], tail[TAIL];
};

/* ---- encodings ---- */

static uint8_t *put_modrm(uint8_t *p, bool mem, int reg)
{
	uint8_t rm = (uint8_t)pick(8);

	if (reg < 0)
		reg = (int)pick(8);
	if (!mem) {
		*p++ = (uint8_t)(0xc0 | reg << 3 | rm);
		return p;
	}
	if (!pick(12)) { /* rip-relative: the displacement is filled in later */
		*p++ = (uint8_t)(reg << 3 | 5);
		st32le(p, 0);
		return p + 4;
	}
	*p++ = (uint8_t)(0x80 | reg << 3 | rm);
	if (rm == 4)
		*p++ = (uint8_t)rnd();
	st32le(p, pick(4096) - 2048);
	return p + 4;
}

static uint8_t opcode_0f(void)
{
	static const uint8_t ranges[][2] = { { 0x10, 0x17 }, { 0x28, 0x2f }, { 0x50, 0x7f }, { 0xc2, 0xc6 }, { 0xd0, 0xff }, { 0x5a, 0x5b }, { 0xe6, 0xe6 } };
	const uint8_t *r = ranges[pick(ARRAY_LEN(ranges))];

	return (uint8_t)(r[0] + pick(r[1] - r[0] + 1u));
}

static void put_simd(uint8_t *p)
{
	static const uint8_t pps[] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned map = 1 + pick(3), pp = pick(4);
	bool mem = pick(2);
	uint8_t opcode = map == 1 ? opcode_0f() : (uint8_t)rnd();

	if (map > 1 && pick(4))
		pp = 1;
	if (pick(2)) {
		if (map == 1 && pick(2)) {
			*p++ = 0xc5;
			*p++ = (uint8_t)((rnd() & 0xfc) | pp);
		} else {
			*p++ = 0xc4;
			*p++ = (uint8_t)((rnd() & 0xe0) | map);
			*p++ = (uint8_t)((rnd() & 0xfc) | pp);
		}
		if (pick(2))
			p[-1] |= 0x78; /* no second source */
	} else {
		if (pps[pp])
			*p++ = pps[pp];
		if (pick(2))
			*p++ = (uint8_t)(0x40 | (rnd() & 15));
		*p++ = 0x0f;
		if (map > 1)
			*p++ = map == 2 ? 0x38 : 0x3a;
	}
	*p++ = opcode;
	p = put_modrm(p, mem, -1);
	*p = (uint8_t)rnd();
}

static void put_x87(uint8_t *p)
{
	if (!pick(16)) {
		*p = 0x9b;
		return;
	}
	if (!pick(12))
		*p++ = 0x66;
	if (!pick(4))
		*p++ = (uint8_t)(0x40 | (rnd() & 15));
	*p++ = (uint8_t)(0xd8 + pick(8));
	put_modrm(p, pick(2), -1);
}

/* FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, XSAVE, XRSTOR, XSAVEOPT in 0f ae; XSAVEC in 0f c7. */
static void put_state(uint8_t *p)
{
	static const uint8_t ext[] = { 0, 1, 2, 3, 4, 5, 6 };

	if (pick(2))
		*p++ = (uint8_t)(0x40 | (rnd() & 15));
	*p++ = 0x0f;
	if (!pick(6)) {
		*p++ = 0xc7;
		put_modrm(p, true, 4);
	} else {
		*p++ = 0xae;
		put_modrm(p, true, ext[pick(ARRAY_LEN(ext))]);
	}
}

/* What this test is about; the rest of the opcode maps is others' business. */
static bool wanted(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return false;
	default: break;
	}
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return false;
	switch (zi->meta.isa_ext) {
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX2GATHER:
	case ZYDIS_ISA_EXT_AVXAES:
	case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_FMA:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_XSAVE:
	case ZYDIS_ISA_EXT_XSAVEC:
	case ZYDIS_ISA_EXT_XSAVEOPT: return true;
	default: return false;
	}
}

static bool step_make(struct step *s, unsigned at)
{
	uint8_t bytes[32];
	bool need_more;

	for (;;) {
		memset(bytes, 0x90, sizeof(bytes));
		switch (pick(16)) {
		case 0: put_state(bytes); break;
		case 1:
		case 2:
		case 3: put_x87(bytes); break;
		default: put_simd(bytes); break;
		}
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &s->zi, s->ops)) || !wanted(&s->zi))
			continue;
		s->at = at;
		memcpy(host.code + at, bytes, s->zi.length);
		return insn_decode(cpu, bytes, s->zi.length, &s->in, &need_more);
	}
}

/* ---- operands ---- */

static uint32_t float32(void)
{
	static const uint32_t edge[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001,
					 0xffbfffff, 1, 0x80000001, 0x7fffff, 0x807fffff, 0x800000, 0x7f7fffff, 0xff7fffff, 0x3f000000,
					 0x4f000000, 0xcf000000, 0x5f000000, 0x4b000001, 0x34000000, 0x3effffff, 0x40490fdb };
	return pick(3) ? edge[pick(ARRAY_LEN(edge))] : (uint32_t)rnd();
}

static uint64_t float64(void)
{
	static const uint64_t edge[] = { 0, 1ull << 63, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
					 0x7ff8000000000000, 0xfff8000000000001, 0x7ff0000000000001, 0xfff7ffffffffffff, 1, 0x800fffffffffffff,
					 0x0010000000000000, 0x7fefffffffffffff, 0xffefffffffffffff, 0x3fe0000000000000, 0x41e0000000000000,
					 0xc1e0000000000000, 0x43e0000000000000, 0xc3e0000000000000, 0x4330000000000001, 0x3ca0000000000000,
					 0x47efffffe0000000, 0x36a0000000000000, 0x380fffffffffffff, 0x400921fb54442d18 };
	return pick(3) ? edge[pick(ARRAY_LEN(edge))] : rnd();
}

static void float80(uint8_t *p)
{
	static const uint16_t exponents[] = { 0, 0, 1, 0x3ffe, 0x3fff, 0x4000, 0x401d, 0x401e, 0x403d, 0x403e, 0x3f80, 0x407e, 0x43fe, 0x3c00, 0x7ffe, 0x7fff };
	static const uint64_t mantissas[] = { 0, 1ull << 63, 3ull << 62, UINT64_MAX, 0x8000000000000001, 1, 0xc000000000000001, 0x4000000000000000,
					      0xffffff0000000000, 0x8000008000000000, 0xfffffffffffff800 };
	uint16_t e = pick(3) ? exponents[pick(ARRAY_LEN(exponents))] : (uint16_t)(0x3fff - 40 + pick(80));
	uint64_t m = pick(3) ? mantissas[pick(ARRAY_LEN(mantissas))] : rnd();

	if (pick(4))
		m = e ? m | 1ull << 63 : m & INT64_MAX;
	st64le(p, m);
	st16le(p + 8, (uint16_t)(e | (rnd() & 0x8000)));
	memset(p + 10, 0, 6);
}

/* 16 bytes of one kind. */
static void vector16(uint8_t *p)
{
	switch (pick(5)) {
	case 0:
	case 1:
		for (unsigned i = 0; i < 4; i++)
			st32le(p + 4 * i, float32());
		break;
	case 2:
		st64le(p, float64());
		st64le(p + 8, float64());
		break;
	case 3:
		for (unsigned i = 0; i < 2; i++)
			st64le(p + 8 * i, operand());
		break;
	default:
		for (unsigned i = 0; i < 8; i++)
			st16le(p + 2 * i, (uint16_t)operand());
		break;
	}
}

static uint32_t random_mxcsr(void)
{
	uint32_t v = 0x1f80;

	if (pick(2))
		v |= rnd() & 0x3f;
	if (!pick(3))
		v |= rnd() & 0xe040; /* rounding, FTZ, DAZ */
	if (!pick(6))
		v &= ~(rnd() & 0x1f80);
	return v;
}

static void random_x87(uint8_t *x)
{
	uint16_t fcw = 0x37f, fsw = (uint16_t)(rnd() & 0x4700);

	if (!pick(3))
		fcw = (uint16_t)(0x7f | (rnd() & 0xf00));
	if (!pick(6))
		fcw &= (uint16_t)~(rnd() & 0x3f);
	fsw |= (uint16_t)(pick(3) ? 0 : pick(8) << 11);
	fsw |= (uint16_t)(rnd() & 0x7f & fcw);
	if (!(fsw & 1))
		fsw &= (uint16_t)~0x40; /* no stack fault without an invalid operation */
	if (!pick(40))
		fsw |= (uint16_t)(rnd() & 0x3f);
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memset(x, 0, IMG_MXCSR);
	st16le(x + IMG_FCW, fcw);
	st16le(x + IMG_FSW, fsw);
	x[IMG_FTW] = (uint8_t)(pick(3) ? 0xff : pick(2) ? rnd() : pick(2) ? 0 : ~(1u << pick(8)));
	st16le(x + IMG_FOP, (uint16_t)(rnd() & 0x7ff));
	st64le(x + IMG_FIP, rnd() >> 17);
	st64le(x + IMG_FDP, rnd() >> 17);
	for (unsigned i = 0; i < 8; i++)
		float80(x + IMG_ST + 16 * i);
}

/* `initial`: some components may be in their initial state, and marked so. */
static void random_xstate(uint8_t *x, bool initial)
{
	random_x87(x);
	st32le(x + IMG_MXCSR, random_mxcsr());
	st32le(x + IMG_MXCSR_MASK, 0);
	memset(x + IMG_XMM + 256, 0, IMG_YMM - IMG_XMM - 256);
	for (unsigned i = 0; i < 16; i++) {
		vector16(x + IMG_XMM + 16 * i);
		vector16(x + IMG_YMM + 16 * i);
	}
	memset(x + IMG_BV, 0, 64);
	x[IMG_BV] = 7;
	for (unsigned i = 0; i < 3; i++) { /* components in their initial state */
		if (!initial || pick(16))
			continue;
		x[IMG_BV] &= (uint8_t)~(1u << i);
		if (i == 0) {
			memset(x, 0, IMG_MXCSR);
			st16le(x, FCW_INIT);
			memset(x + IMG_ST, 0, 128);
		} else {
			memset(x + (i == 1 ? IMG_XMM : IMG_YMM), 0, 256);
		}
	}
}

/* Where a memory operand of `size` bytes goes: an address in the watched parts of the area. */
static uint64_t target(unsigned size)
{
	uint64_t middle = (uint64_t)(uintptr_t)host.area + MIDDLE, end = (uint64_t)(uintptr_t)host.area + ORACLE_AREA;

	if (size >= 512)
		return middle - 1024 + 64 * pick(18) + (pick(16) ? 0 : 16);
	switch (pick(16)) {
	case 0: return end - pick(64);
	case 1: return middle - pick(40);
	case 2:
	case 3: return middle - 512 + pick(900);
	default: return middle - 512 + 32 * pick(28);
	}
}

static int gpr_of(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(r);
}

static bool is_vsib(const ZydisDecodedOperand *op)
{
	ZydisRegisterClass c = ZydisRegisterGetClass(op->mem.index);

	return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM;
}

static void small_indices(uint8_t *x, const struct step *s, const ZydisDecodedOperand *op)
{
	int reg = ZydisRegisterGetId(op->mem.index);
	bool wide = s->zi.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || s->zi.mnemonic == ZYDIS_MNEMONIC_VGATHERQPD ||
		    s->zi.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || s->zi.mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ;

	x[IMG_BV] |= XSTATE_SSE | XSTATE_AVX;
	for (unsigned half = 0; half < 2; half++) {
		uint8_t *p = x + (half ? IMG_YMM : IMG_XMM) + 16 * reg;

		for (unsigned i = 0; i < (wide ? 2 : 4); i++) {
			int64_t v = (int64_t)pick(16) - 8;

			st_le(p + (wide ? 8 : 4) * i, wide ? 8 : 4, (uint64_t)v);
		}
	}
}

/* Registers that a program's memory operands depend on, and those it writes. */
struct usage {
	uint32_t fixed, written;
};

static void place_rip_relative(struct step *s, uint64_t to)
{
	bool need_more;
	uint64_t next = (uint64_t)(uintptr_t)host.code + s->at + s->zi.length;

	st32le(host.code + s->at + s->zi.raw.disp.offset, (uint32_t)(to - next));
	insn_decode(cpu, host.code + s->at, s->zi.length, &s->in, &need_more);
}

static bool is_sha(const struct step *s) { return s->zi.meta.isa_ext == ZYDIS_ISA_EXT_SHA; }

static bool is_ldmxcsr(const struct step *s)
{
	return s->zi.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || s->zi.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
}

/* Whether bytes that the mask leaves out may fault depends on the processor (SDM 2, MASKMOVQ). */
static bool is_maskmov(const struct step *s)
{
	return s->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || s->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	       s->zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/* Makes one step's memory operand lie in the area. False: the program cannot be run with such operands. */
static bool place(struct step *s, struct oracle_cpu *start, struct usage *u, bool alone)
{
	for (unsigned i = 0; i < s->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &s->ops[i];
		uint64_t to;
		int base, index;

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		to = target(op->size / 8u);
		if (is_sha(s)) /* SDM 2 has them aligned, AMD's processors do not insist */
			to &= ~UINT64_C(15);
		if (is_ldmxcsr(s) || is_maskmov(s))
			to = (uint64_t)(uintptr_t)host.area + MIDDLE - 512 + pick(900);
		s->to = to;
		base = gpr_of(op->mem.base);
		index = is_vsib(op) ? -1 : gpr_of(op->mem.index);
		if (is_vsib(op)) {
			if (!alone)
				return false;
			small_indices(start->xstate, s, op);
		}
		if (op->mem.base == ZYDIS_REGISTER_RIP) {
			place_rip_relative(s, to);
			continue;
		}
		if (base < 0 || base == index || op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS)
			return false;
		if (((u->fixed | u->written) >> base & 1) || (index >= 0 && (u->written | (alone ? 0 : u->fixed)) >> index & 1))
			return false;
		start->gpr[base] = to - (uint64_t)op->mem.disp.value;
		if (index >= 0) {
			start->gpr[index] = pick(16);
			start->gpr[base] -= start->gpr[index] * op->mem.scale;
			u->fixed |= 1u << index;
		}
		u->fixed |= 1u << base;
	}
	return true;
}

static bool writes_ok(const struct step *s, struct usage *u)
{
	for (unsigned i = 0; i < s->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &s->ops[i];
		int reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (ZydisRegisterGetClass(op->reg.value) < ZYDIS_REGCLASS_GPR8 || ZydisRegisterGetClass(op->reg.value) > ZYDIS_REGCLASS_GPR64)
			continue;
		reg = ZydisRegisterGetId(op->reg.value);
		u->written |= 1u << reg;
	}
	return true;
}

static bool is_xsave_family(const struct step *s)
{
	return s->zi.meta.category == ZYDIS_CATEGORY_XSAVE || s->zi.meta.category == ZYDIS_CATEGORY_XSAVEOPT;
}

static bool is_fxsave(const struct step *s)
{
	return s->zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE || s->zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
}

static bool is_restore(const struct step *s)
{
	switch (s->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64: return true;
	default: return false;
	}
}

#define HOST_COMPONENTS UINT64_C(0xfffffffffffffff8) /* that a guest here does not have */

/* Memory that restoring instructions accept most of the time, whichever place they read it from. */
static void plausible_state(struct outcome *o, const struct program *p)
{
	uint64_t from = (uint64_t)(uintptr_t)host.area + MIDDLE - WINDOW / 2;

	for (unsigned i = 0; i < p->count; i++) {
		uint64_t at = p->step[i].to - from;
		uint8_t image[IMG_SIZE];

		if (is_ldmxcsr(&p->step[i]) && at <= WINDOW - 4)
			st32le(o->window + at, random_mxcsr() | (pick(8) ? 0 : 0x10000u << pick(16) & ~0x20000u));
		if (!is_restore(&p->step[i]))
			continue;
		if (at > WINDOW - IMG_SIZE) {
			if (at + IMG_MXCSR + 4 <= WINDOW)
				o->window[at + IMG_MXCSR + 2] &= 0xfd; /* AMD's misaligned mode */
			continue;
		}
		random_xstate(image, true);
		memset(image + IMG_BV, 0, 64);
		image[IMG_BV] = (uint8_t)pick(8);
		if (pick(2))
			st64le(image + IMG_COMP, 1ull << 63 | pick(8) | image[IMG_BV]);
		if (!pick(8))
			image[IMG_BV + pick(64)] = (uint8_t)rnd();
		image[IMG_BV + 1] &= 0xfd; /* the host's protection keys */
		image[IMG_COMP + 1] &= 0xfd;
		memcpy(o->window + at, image, IMG_SIZE);
	}
}

static void fill_memory(struct outcome *o)
{
	for (unsigned i = 0; i < WINDOW; i += 16)
		vector16(o->window + i);
	for (unsigned i = 0; i < TAIL; i += 16)
		vector16(o->tail + i);
}

/* New values where an operand lies. */
static void refresh_memory(struct outcome *o, uint64_t to)
{
	uint64_t at = to - ((uint64_t)(uintptr_t)host.area + MIDDLE - WINDOW / 2);

	if (at > WINDOW - 64)
		return;
	for (unsigned i = 0; i < 64; i += 16) {
		if (i % 32 == 0 && !pick(3))
			float80(o->window + at + i);
		else
			vector16(o->window + at + i);
	}
}

static bool prepare(struct program *p, struct outcome *start)
{
	struct usage u = { 0 };
	bool restores = false;

	memset(&start->cpu, 0, sizeof(start->cpu));
	random_xstate(start->cpu.xstate, p->count == 1);
	for (unsigned r = 0; r < 16; r++)
		start->cpu.gpr[r] = operand();
	start->cpu.flags = 0x202 | (rnd() & RFLAGS_STATUS) | (pick(12) ? 0 : RFLAGS_AC);
	for (unsigned i = 0; i < p->count; i++) {
		if (!place(&p->step[i], &start->cpu, &u, p->count == 1) || !writes_ok(&p->step[i], &u))
			return false;
		if (is_maskmov(&p->step[i]))
			start->cpu.flags &= ~(uint64_t)RFLAGS_AC; /* whether they check alignment depends on the mask */
		if (is_restore(&p->step[i]) || is_ldmxcsr(&p->step[i])) {
			if (restores) /* their memory might overlap */
				return false;
			restores = true;
		}
		/* What is saved must not be loaded again: it differs in MXCSR_MASK. */
		if (i + 1 < p->count && (is_fxsave(&p->step[i]) || is_xsave_family(&p->step[i])))
			return false;
		if (is_xsave_family(&p->step[i])) {
			/* Whether a component loaded with its initial values counts as in use is the processor's business. */
			if (p->count > 1 && restores)
				return false;
			if ((u.fixed | u.written) & (1u << RAX | 1u << RDX))
				return false;
			start->cpu.gpr[RAX] &= ~HOST_COMPONENTS;
			start->cpu.gpr[RDX] = 0;
			start->cpu.flags &= ~(uint64_t)RFLAGS_AC; /* their order of #AC among the faults differs by model */
			u.fixed |= 1u << RAX | 1u << RDX;
		}
	}
	for (unsigned i = 0; i < p->count; i++)
		refresh_memory(start, p->step[i].to);
	if (restores)
		plausible_state(start, p);
	return true;
}

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

static void program_make(struct program *p)
{
	p->count = pick(3) ? 1 : 2 + pick(PROGRAM_MAX - 1);
	p->length = 0;
	for (unsigned i = 0; i < p->count; i++) {
		step_make(&p->step[i], p->length);
		p->length += p->step[i].in.length;
	}
	oracle_end(&host, p->length);
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
		if (same(native, interp))
			return true;
	}
	return false;
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
			if (!prepare(&p, &start))
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
	return failed != 0;
}
