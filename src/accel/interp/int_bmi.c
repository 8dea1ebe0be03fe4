/*
 * BMI1, BMI2 and ADX (Intel SDM volume 2). VEX-encoded ones have up to three operands: the third one's
 * register is in aux, and the memory operand may be the second or the third.
 */
#include "accel/interp/int_ops.h"

/* An operand by what Zydis says; memory through the common fields. */
static inline uint64_t third_get(struct icpu *cpu, const struct insn *in, unsigned size)
{
	return in->aux & 0x80 ? cpu_load(cpu, cpu_ea(cpu, in, size, false), size) : gpr_get(cpu, in->aux & 15, size);
}

/* a: second operand, b: third operand, as AT&T order wants them: op b, a, d or op a, b, d. */
#define BMI3(op, order)                                                                                    \
	static void do_##op(struct icpu *cpu, const struct insn *in)                                       \
	{                                                                                                  \
		uint64_t a = src_get(cpu, in, in->opsize), b = third_get(cpu, in, in->opsize), d;          \
		uint32_t ax = flags_ax(cpu->s.rflags);                                                     \
		if (in->opsize == 8)                                                                       \
			__asm__(FLAGS_LOAD #op " " order("q") FLAGS_SAVE                                   \
				: [d] "=&r"(d), "+&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");                \
		else                                                                                       \
			__asm__(FLAGS_LOAD #op " " order("k") FLAGS_SAVE                                   \
				: [d] "=&r"(d), "+&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");                \
		gpr_set(cpu, in->dst_reg, in->opsize, d);                                                  \
		cpu->s.rflags = flags_merge(cpu->s.rflags, ax);                                            \
	}
#define ORDER_BA(m) "%" m "[b], %" m "[a], %" m "[d]"
BMI3(andn, ORDER_BA)
BMI3(bextr, ORDER_BA)
BMI3(bzhi, ORDER_BA)
BMI3(pdep, ORDER_BA)
BMI3(pext, ORDER_BA)

#define BMI2OP(op)                                                                                         \
	static void do_##op(struct icpu *cpu, const struct insn *in)                                       \
	{                                                                                                  \
		uint64_t a = src_get(cpu, in, in->opsize), d;                                              \
		uint32_t ax = flags_ax(cpu->s.rflags);                                                     \
		if (in->opsize == 8)                                                                       \
			__asm__(FLAGS_LOAD #op " %q[a], %q[d]" FLAGS_SAVE                                  \
				: [d] "=&r"(d), "+&a"(ax) : [a] "r"(a) : "cc");                            \
		else                                                                                       \
			__asm__(FLAGS_LOAD #op " %k[a], %k[d]" FLAGS_SAVE                                  \
				: [d] "=&r"(d), "+&a"(ax) : [a] "r"(a) : "cc");                            \
		gpr_set(cpu, in->dst_reg, in->opsize, d);                                                  \
		cpu->s.rflags = flags_merge(cpu->s.rflags, ax);                                            \
	}
BMI2OP(blsi)
BMI2OP(blsmsk)
BMI2OP(blsr)

static void do_rorx(struct icpu *cpu, const struct insn *in)
{
	unsigned bits = in->opsize * 8u, n = in->imm & (bits - 1);
	uint64_t v = src_get(cpu, in, in->opsize);

	gpr_set(cpu, in->dst_reg, in->opsize, n ? v >> n | v << (bits - n) : v);
}

static void do_shlx(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = src_get(cpu, in, in->opsize);

	gpr_set(cpu, in->dst_reg, in->opsize, v << (third_get(cpu, in, in->opsize) & (in->opsize * 8u - 1)));
}

static void do_shrx(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = src_get(cpu, in, in->opsize);

	gpr_set(cpu, in->dst_reg, in->opsize, v >> (third_get(cpu, in, in->opsize) & (in->opsize * 8u - 1)));
}

static void do_sarx(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = src_get(cpu, in, in->opsize);
	unsigned n = third_get(cpu, in, in->opsize) & (in->opsize * 8u - 1);

	gpr_set(cpu, in->dst_reg, in->opsize, in->opsize == 8 ? (uint64_t)((int64_t)v >> n) : (uint64_t)((int32_t)v >> n));
}

/* First operand: high half, second: low half (the high one wins when they are the same). */
static void do_mulx(struct icpu *cpu, const struct insn *in)
{
	unsigned __int128 p = gpr_get(cpu, RDX, in->opsize);

	p *= third_get(cpu, in, in->opsize);
	gpr_set(cpu, in->src_reg, in->opsize, (uint64_t)p);
	gpr_set(cpu, in->dst_reg, in->opsize, (uint64_t)(p >> (in->opsize * 8u)));
}

/* ADCX and ADOX: aux is the flag's bit number. */
static void add_extended(struct icpu *cpu, const struct insn *in)
{
	unsigned __int128 sum = src_get(cpu, in, in->opsize);

	sum += gpr_get(cpu, in->dst_reg, in->opsize);
	sum += (cpu->s.rflags >> in->aux) & 1;
	gpr_set(cpu, in->dst_reg, in->opsize, (uint64_t)sum);
	cpu->s.rflags &= ~(UINT64_C(1) << in->aux);
	cpu->s.rflags |= (uint64_t)((sum >> (in->opsize * 8u)) & 1) << in->aux;
}

static const struct {
	uint16_t mnemonic;
	const char *feature;
	insn_fn fn;
} bmi_table[] = {
	{ ZYDIS_MNEMONIC_ANDN, "bmi1", do_andn },   { ZYDIS_MNEMONIC_BEXTR, "bmi1", do_bextr },
	{ ZYDIS_MNEMONIC_BLSI, "bmi1", do_blsi },   { ZYDIS_MNEMONIC_BLSMSK, "bmi1", do_blsmsk },
	{ ZYDIS_MNEMONIC_BLSR, "bmi1", do_blsr },   { ZYDIS_MNEMONIC_BZHI, "bmi2", do_bzhi },
	{ ZYDIS_MNEMONIC_MULX, "bmi2", do_mulx },   { ZYDIS_MNEMONIC_PDEP, "bmi2", do_pdep },
	{ ZYDIS_MNEMONIC_PEXT, "bmi2", do_pext },   { ZYDIS_MNEMONIC_RORX, "bmi2", do_rorx },
	{ ZYDIS_MNEMONIC_SARX, "bmi2", do_sarx },   { ZYDIS_MNEMONIC_SHLX, "bmi2", do_shlx },
	{ ZYDIS_MNEMONIC_SHRX, "bmi2", do_shrx },   { ZYDIS_MNEMONIC_ADCX, "adx", add_extended },
	{ ZYDIS_MNEMONIC_ADOX, "adx", add_extended },
};

bool int_bmi_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned i = 0;

	while (i < ARRAY_LEN(bmi_table) && bmi_table[i].mnemonic != zi->mnemonic)
		i++;
	if (i == ARRAY_LEN(bmi_table))
		return false;
	in->opsize = (uint8_t)(ops[0].size / 8u);
	in->aux = 0;
	if (zi->operand_count_visible >= 3) {
		if (ops[2].type == ZYDIS_OPERAND_TYPE_REGISTER)
			in->aux = (uint8_t)ZydisRegisterGetId(ops[2].reg.value);
		else if (ops[2].type == ZYDIS_OPERAND_TYPE_MEMORY)
			in->aux = 0x80;
		else
			in->imm = ops[2].imm.value.u;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_ADOX)
		in->aux = 11;
	in->fn = int_feature(cpu, bmi_table[i].feature) ? bmi_table[i].fn : int_undefined;
	return true;
}
