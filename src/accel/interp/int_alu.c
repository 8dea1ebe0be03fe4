/*
 * Integer arithmetic and logic (Intel SDM volume 2): ADD OR ADC SBB AND SUB XOR CMP TEST and
 * INC DEC NEG NOT, one handler per operation, size and operand form, because these are the
 * instructions a guest runs most.
 */
#include "accel/interp/int_ops.h"

FLAGS_EACH_SIZE(FLAGS_OP2, add)
FLAGS_EACH_SIZE(FLAGS_OP2, or)
FLAGS_EACH_SIZE(FLAGS_OP2, and)
FLAGS_EACH_SIZE(FLAGS_OP2, sub)
FLAGS_EACH_SIZE(FLAGS_OP2, xor)
FLAGS_EACH_SIZE(FLAGS_OP2, cmp)
FLAGS_EACH_SIZE(FLAGS_OP2, test)
FLAGS_EACH_SIZE(FLAGS_OP2_CARRY, adc)
FLAGS_EACH_SIZE(FLAGS_OP2_CARRY, sbb)
FLAGS_EACH_SIZE(FLAGS_OP1, inc)
FLAGS_EACH_SIZE(FLAGS_OP1, dec)
FLAGS_EACH_SIZE(FLAGS_OP1, neg)

/* Operations that write their first operand. */
#define ALU_WRITE(op, SZ, T, sfx)                                                                          \
	static void op##_rr_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), src_get_##SZ(cpu, in), &cpu->s.rflags)); \
	}                                                                                                  \
	static void op##_ri_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), (T)in->imm, &cpu->s.rflags));  \
	}                                                                                                  \
	static void op##_rm_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		T s = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), s, &cpu->s.rflags));           \
	}                                                                                                  \
	static void op##_mr_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		T s = src_get_##SZ(cpu, in);                                                               \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, s, &f));                                          \
	}                                                                                                  \
	static void op##_mi_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, (T)in->imm, &f));                                 \
	}

/* CMP and TEST: flags only. */
#define ALU_COMPARE(op, SZ, T, sfx)                                                                        \
	static void op##_rr_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		fl_##op##_##SZ(dst_get_##SZ(cpu, in), src_get_##SZ(cpu, in), &cpu->s.rflags);              \
	}                                                                                                  \
	static void op##_ri_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		fl_##op##_##SZ(dst_get_##SZ(cpu, in), (T)in->imm, &cpu->s.rflags);                         \
	}                                                                                                  \
	static void op##_rm_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		T s = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		fl_##op##_##SZ(dst_get_##SZ(cpu, in), s, &cpu->s.rflags);                                  \
	}                                                                                                  \
	static void op##_mr_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		T d = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		fl_##op##_##SZ(d, src_get_##SZ(cpu, in), &cpu->s.rflags);                                  \
	}                                                                                                  \
	static void op##_mi_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		T d = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		fl_##op##_##SZ(d, (T)in->imm, &cpu->s.rflags);                                             \
	}

FLAGS_EACH_SIZE(ALU_WRITE, add)
FLAGS_EACH_SIZE(ALU_WRITE, or)
FLAGS_EACH_SIZE(ALU_WRITE, adc)
FLAGS_EACH_SIZE(ALU_WRITE, sbb)
FLAGS_EACH_SIZE(ALU_WRITE, and)
FLAGS_EACH_SIZE(ALU_WRITE, sub)
FLAGS_EACH_SIZE(ALU_WRITE, xor)
FLAGS_EACH_SIZE(ALU_COMPARE, cmp)
FLAGS_EACH_SIZE(ALU_COMPARE, test)

#define ALU_UNARY(op, SZ, T, sfx)                                                                          \
	static void op##_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), &cpu->s.rflags));              \
	}                                                                                                  \
	static void op##_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, &f));                                             \
	}
#define ALU_NOT(op, SZ, T, sfx)                                                                            \
	static void not_r_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, (T)~dst_get_##SZ(cpu, in));                                          \
	}                                                                                                  \
	static void not_m_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		MEM_RMW(SZ, T, res = (T)~old);                                                             \
	}

FLAGS_EACH_SIZE(ALU_UNARY, inc)
FLAGS_EACH_SIZE(ALU_UNARY, dec)
FLAGS_EACH_SIZE(ALU_UNARY, neg)
FLAGS_EACH_SIZE(ALU_NOT, not)

/* The zeroing idiom, with the flags it always gives (AF, undefined, is clear on every CPU known). */
static void zero_4(struct icpu *cpu, const struct insn *in)
{
	cpu->s.gpr[in->dst_reg] = 0;
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)RFLAGS_STATUS) | RFLAGS_ZF | RFLAGS_PF;
}

enum { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_COUNT };

#define FORMS(op, SZ) { op##_rr_##SZ, op##_ri_##SZ, op##_rm_##SZ, op##_mr_##SZ, op##_mi_##SZ }
#define ALU_ROW(op) { FORMS(op, 1), FORMS(op, 2), FORMS(op, 4), FORMS(op, 8) }
static const insn_fn alu_table[][4][FORM_COUNT] = {
	ALU_ROW(add), ALU_ROW(or), ALU_ROW(adc), ALU_ROW(sbb), ALU_ROW(and), ALU_ROW(sub), ALU_ROW(xor), ALU_ROW(cmp),
	ALU_ROW(test),
};

#define UNARY_ROW(op) { { op##_r_1, op##_m_1 }, { op##_r_2, op##_m_2 }, { op##_r_4, op##_m_4 }, { op##_r_8, op##_m_8 } }
static const insn_fn unary_table[][4][2] = { UNARY_ROW(inc), UNARY_ROW(dec), UNARY_ROW(neg), UNARY_ROW(not) };

static int alu_row(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADD: return 0;
	case ZYDIS_MNEMONIC_OR: return 1;
	case ZYDIS_MNEMONIC_ADC: return 2;
	case ZYDIS_MNEMONIC_SBB: return 3;
	case ZYDIS_MNEMONIC_AND: return 4;
	case ZYDIS_MNEMONIC_SUB: return 5;
	case ZYDIS_MNEMONIC_XOR: return 6;
	case ZYDIS_MNEMONIC_CMP: return 7;
	case ZYDIS_MNEMONIC_TEST: return 8;
	default: return -1;
	}
}

static int unary_row(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_INC: return 0;
	case ZYDIS_MNEMONIC_DEC: return 1;
	case ZYDIS_MNEMONIC_NEG: return 2;
	case ZYDIS_MNEMONIC_NOT: return 3;
	default: return -1;
	}
}

bool int_alu_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	int row = alu_row(zi->mnemonic);
	unsigned log = size_log(ops[0].size / 8u);

	if (row >= 0) {
		unsigned form;

		if (in->dst_kind == OPD_MEM)
			form = in->src_kind == OPD_IMM ? FORM_MI : FORM_MR;
		else
			form = in->src_kind == OPD_IMM ? FORM_RI : in->src_kind == OPD_MEM ? FORM_RM : FORM_RR;
		in->fn = alu_table[row][log][form];
		if (in->fn == xor_rr_4 && in->dst_reg == in->src_reg)
			in->fn = zero_4;
		return true;
	}
	row = unary_row(zi->mnemonic);
	if (row < 0)
		return false;
	in->fn = unary_table[row][log][in->dst_kind == OPD_MEM];
	return true;
}
