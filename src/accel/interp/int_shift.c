/*
 * Shifts, rotates and double shifts (Intel SDM volume 2). The host's own instruction masks the
 * count and keeps or writes the flags.
 */
#include "accel/interp/int_ops.h"

FLAGS_EACH_SIZE(FLAGS_SHIFT, rol)
FLAGS_EACH_SIZE(FLAGS_SHIFT, ror)
FLAGS_EACH_SIZE(FLAGS_SHIFT, rcl)
FLAGS_EACH_SIZE(FLAGS_SHIFT, rcr)
FLAGS_EACH_SIZE(FLAGS_SHIFT, shl)
FLAGS_EACH_SIZE(FLAGS_SHIFT, shr)
FLAGS_EACH_SIZE(FLAGS_SHIFT, sar)

#define SHIFT(op, SZ, T, sfx)                                                                              \
	static void op##_ri_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), (uint8_t)in->imm, &cpu->s.rflags)); \
	}                                                                                                  \
	static void op##_rc_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		uint8_t count = (uint8_t)cpu->s.gpr[RCX];                                                  \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), count, &cpu->s.rflags));       \
	}                                                                                                  \
	static void op##_mi_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, (uint8_t)in->imm, &f));                           \
	}                                                                                                  \
	static void op##_mc_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		uint8_t count = (uint8_t)cpu->s.gpr[RCX];                                                  \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, count, &f));                                      \
	}

FLAGS_EACH_SIZE(SHIFT, rol)
FLAGS_EACH_SIZE(SHIFT, ror)
FLAGS_EACH_SIZE(SHIFT, rcl)
FLAGS_EACH_SIZE(SHIFT, rcr)
FLAGS_EACH_SIZE(SHIFT, shl)
FLAGS_EACH_SIZE(SHIFT, shr)
FLAGS_EACH_SIZE(SHIFT, sar)

#define DOUBLE_SHIFT(op, SZ, T, sfx)                                                                       \
	static inline T fl_##op##_##SZ(T d, T s, uint8_t count, uint64_t *f)                               \
	{                                                                                                  \
		uint32_t ax = flags_ax(*f);                                                                \
		__asm__(FLAGS_LOAD #op sfx " %%cl, %[s], %[d]" FLAGS_SAVE                                  \
			: [d] "+r"(d), "+&a"(ax) : [s] "r"(s), "c"(count) : "cc");                         \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}                                                                                                  \
	static void op##_##SZ(struct icpu *cpu, const struct insn *in)                                     \
	{                                                                                                  \
		uint8_t count = in->aux ? (uint8_t)cpu->s.gpr[RCX] : (uint8_t)in->imm;                     \
		T s = src_get_##SZ(cpu, in);                                                               \
		if (in->dst_kind == OPD_MEM) {                                                             \
			uint64_t lin = cpu_ea(cpu, in, SZ, true);                                          \
			MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, s, count, &f));                           \
			return;                                                                            \
		}                                                                                          \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), s, count, &cpu->s.rflags));    \
	}

FLAGS_EACH_WIDE(DOUBLE_SHIFT, shld)
FLAGS_EACH_WIDE(DOUBLE_SHIFT, shrd)

enum { FORM_RI, FORM_RC, FORM_MI, FORM_MC, FORM_COUNT };
#define FORMS(op, SZ) { op##_ri_##SZ, op##_rc_##SZ, op##_mi_##SZ, op##_mc_##SZ }
#define ROW(op) { FORMS(op, 1), FORMS(op, 2), FORMS(op, 4), FORMS(op, 8) }
static const insn_fn shift_table[][4][FORM_COUNT] = {
	ROW(rol), ROW(ror), ROW(rcl), ROW(rcr), ROW(shl), ROW(shr), ROW(sar),
};
static const insn_fn double_table[2][4] = { { NULL, shld_2, shld_4, shld_8 }, { NULL, shrd_2, shrd_4, shrd_8 } };

bool int_shift_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned log = size_log(ops[0].size / 8u), row;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_ROL: row = 0; break;
	case ZYDIS_MNEMONIC_ROR: row = 1; break;
	case ZYDIS_MNEMONIC_RCL: row = 2; break;
	case ZYDIS_MNEMONIC_RCR: row = 3; break;
	case ZYDIS_MNEMONIC_SHL: row = 4; break;
	case ZYDIS_MNEMONIC_SHR: row = 5; break;
	case ZYDIS_MNEMONIC_SAR: row = 6; break;
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		in->aux = ops[2].type == ZYDIS_OPERAND_TYPE_REGISTER;
		if (!in->aux)
			in->imm = ops[2].imm.value.u;
		in->fn = double_table[zi->mnemonic == ZYDIS_MNEMONIC_SHRD][log];
		return in->fn != NULL;
	default:
		return false;
	}
	bool by_cl = ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (!by_cl)
		in->imm = ops[1].imm.value.u;
	in->fn = shift_table[row][log][(in->dst_kind == OPD_MEM ? FORM_MI : FORM_RI) + by_cl];
	return true;
}
