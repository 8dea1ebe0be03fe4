/* See vec_gen.h. */
#include "vec_gen.h"

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
	static const uint8_t ranges[][2] = { { 0x10, 0x17 }, { 0x28, 0x2f }, { 0x50, 0x7f }, { 0xc2, 0xc6 }, { 0xd0, 0xff } };
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
bool wanted(const ZydisDecodedInstruction *zi)
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

void random_encoding(uint8_t bytes[32])
{
	memset(bytes, 0x90, 32);
	switch (pick(16)) {
	case 0: put_state(bytes); break;
	case 1:
	case 2:
	case 3: put_x87(bytes); break;
	default: put_simd(bytes); break;
	}
}

static bool step_make(struct step *s, unsigned at)
{
	uint8_t bytes[32];
	bool need_more;

	for (;;) {
		random_encoding(bytes);
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

static void note_writes(const struct step *s, struct usage *u)
{
	for (unsigned i = 0; i < s->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &s->ops[i];
		ZydisRegisterClass class;
		int reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		class = ZydisRegisterGetClass(op->reg.value);
		if (class < ZYDIS_REGCLASS_GPR8 || class > ZYDIS_REGCLASS_GPR64)
			continue;
		reg = ZydisRegisterGetId(op->reg.value);
		u->written |= 1u << reg;
	}
}

bool is_xsave_family(const struct step *s)
{
	return s->zi.meta.category == ZYDIS_CATEGORY_XSAVE || s->zi.meta.category == ZYDIS_CATEGORY_XSAVEOPT;
}

bool is_fxsave(const struct step *s)
{
	return s->zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE || s->zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
}

bool is_restore(const struct step *s)
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
		/* The host's AVX-512, where it has that, and protection keys. */
		if (host_has_avx512()) {
			image[IMG_BV] &= 0x1f;
			image[IMG_COMP] &= 0x1f;
		}
		image[IMG_BV + 1] &= 0xfd;
		image[IMG_COMP + 1] &= 0xfd;
		memcpy(o->window + at, image, IMG_SIZE);
	}
}

void fill_memory(struct outcome *o)
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

bool program_prepare(struct program *p, struct outcome *start)
{
	struct usage u = { 0 };
	bool restores = false;

	memset(&start->cpu, 0, sizeof(start->cpu));
	random_xstate(start->cpu.xstate, p->count == 1);
	for (unsigned r = 0; r < 16; r++)
		start->cpu.gpr[r] = operand();
	start->cpu.flags = 0x202 | (rnd() & RFLAGS_STATUS) | (pick(12) ? 0 : RFLAGS_AC);
	for (unsigned i = 0; i < p->count; i++) {
		if (!place(&p->step[i], &start->cpu, &u, p->count == 1))
			return false;
		note_writes(&p->step[i], &u);
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

/* ---- programs ---- */

void program_make(struct program *p)
{
	p->count = pick(3) ? 1 : 2 + pick(PROGRAM_MAX - 1);
	p->length = 0;
	for (unsigned i = 0; i < p->count; i++) {
		step_make(&p->step[i], p->length);
		p->length += p->step[i].in.length;
	}
	oracle_end(&host, p->length);
}
