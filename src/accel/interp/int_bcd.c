/*
 * Decimal adjustment and other instructions that 64-bit mode has dropped (Intel SDM volume 2): AAA AAS
 * AAM AAD DAA DAS, SALC, BOUND.
 */
#include "accel/interp/int_ops.h"

static inline uint64_t flags_szp(uint64_t f, uint8_t v)
{
	f &= ~(uint64_t)(RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF | RFLAGS_OF);
	return f | (v & 0x80 ? RFLAGS_SF : 0) | (v ? 0 : RFLAGS_ZF) | (__builtin_parity(v) ? 0 : RFLAGS_PF);
}

/* AAA and AAS: imm is 1 or -1. */
static void ascii_adjust(struct icpu *cpu, const struct insn *in)
{
	uint64_t f = cpu->s.rflags;
	uint16_t ax = (uint16_t)cpu->s.gpr[RAX];

	if ((ax & 15) > 9 || (f & RFLAGS_AF)) {
		ax = (uint16_t)(ax + (int)in->imm * 0x106);
		f |= RFLAGS_AF | RFLAGS_CF;
	} else {
		f &= ~(uint64_t)(RFLAGS_AF | RFLAGS_CF);
	}
	ax &= 0xff0f;
	gpr_set(cpu, RAX, 2, ax);
	cpu->s.rflags = flags_szp(f, (uint8_t)ax);
}

/* DAA and DAS: imm is 1 or -1. */
static void decimal_adjust(struct icpu *cpu, const struct insn *in)
{
	uint64_t f = cpu->s.rflags;
	uint8_t old = (uint8_t)cpu->s.gpr[RAX], al = old;
	bool carry = f & RFLAGS_CF, out = false;
	int sign = (int)in->imm;

	if ((old & 15) > 9 || (f & RFLAGS_AF)) {
		out = carry || (sign > 0 ? old > 0xf9 : old < 6);
		al = (uint8_t)(al + sign * 6);
		f |= RFLAGS_AF;
	} else {
		f &= ~(uint64_t)RFLAGS_AF;
	}
	if (old > 0x99 || carry) {
		al = (uint8_t)(al + sign * 0x60);
		out = true;
	}
	f = out ? f | RFLAGS_CF : f & ~(uint64_t)RFLAGS_CF;
	gpr_set(cpu, RAX, 1, al);
	cpu->s.rflags = flags_szp(f, al);
}

static void do_aam(struct icpu *cpu, const struct insn *in)
{
	uint8_t al = (uint8_t)cpu->s.gpr[RAX], base = (uint8_t)in->imm;

	if (!base)
		cpu_raise(cpu, EXC_DE);
	gpr_set(cpu, RAX, 2, (unsigned)(al / base) << 8 | al % base);
	cpu->s.rflags = flags_szp(cpu->s.rflags & ~(uint64_t)(RFLAGS_AF | RFLAGS_CF), al % base);
}

static void do_aad(struct icpu *cpu, const struct insn *in)
{
	uint16_t ax = (uint16_t)cpu->s.gpr[RAX];
	uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)in->imm);

	gpr_set(cpu, RAX, 2, al);
	cpu->s.rflags = flags_szp(cpu->s.rflags & ~(uint64_t)(RFLAGS_AF | RFLAGS_CF), al);
}

static void do_salc(struct icpu *cpu, const struct insn *in)
{
	gpr_set(cpu, RAX, 1, cpu->s.rflags & RFLAGS_CF ? 0xff : 0);
}

static void do_bound(struct icpu *cpu, const struct insn *in)
{
	unsigned len = in->opsize, shift = 64 - 8 * len;
	uint64_t lin = cpu_ea(cpu, in, 2 * len, false);
	int64_t low = (int64_t)(cpu_load(cpu, lin, len) << shift) >> shift;
	int64_t high = (int64_t)(cpu_load(cpu, lin + len, len) << shift) >> shift;
	int64_t i = (int64_t)(cpu->s.gpr[in->dst_reg] << shift) >> shift;

	if (i < low || i > high)
		cpu_raise(cpu, EXC_BR);
}

bool int_bcd_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_AAA: in->fn = ascii_adjust; in->imm = 1; return true;
	case ZYDIS_MNEMONIC_AAS: in->fn = ascii_adjust; in->imm = (uint64_t)-1; return true;
	case ZYDIS_MNEMONIC_DAA: in->fn = decimal_adjust; in->imm = 1; return true;
	case ZYDIS_MNEMONIC_DAS: in->fn = decimal_adjust; in->imm = (uint64_t)-1; return true;
	case ZYDIS_MNEMONIC_AAM: in->fn = do_aam; in->imm = ops[0].imm.value.u; return true;
	case ZYDIS_MNEMONIC_AAD: in->fn = do_aad; in->imm = ops[0].imm.value.u; return true;
	case ZYDIS_MNEMONIC_SALC: in->fn = do_salc; return true;
	case ZYDIS_MNEMONIC_BOUND: in->fn = do_bound; in->opsize = (uint8_t)(ops[0].size / 8u); return true;
	default: return false;
	}
}
