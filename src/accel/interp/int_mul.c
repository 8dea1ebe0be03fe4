/*
 * Multiplication and division (Intel SDM volume 2): MUL, IMUL with one to three operands, DIV,
 * IDIV. Quotients are checked before the host divides, since its own #DE would kill us.
 */
#include "accel/interp/int_ops.h"

/* The one-operand forms: the host's partial register writes are the guest's, and so are the flags
 * it writes (some CPUs keep SF ZF AF PF, others change them). */
#define MUL_WIDE(op, SZ, mod, sfx)                                                                         \
	static void op##_wide_##SZ(struct icpu *cpu, const struct insn *in)                                \
	{                                                                                                  \
		uint64_t s = dst_get(cpu, in, SZ), lo = cpu->s.gpr[RAX], d = cpu->s.gpr[RDX];              \
		uint64_t a = flags_ax(cpu->s.rflags);                                                      \
		__asm__(FLAGS_LOAD "movq %[lo], %%rax\n\t" #op sfx " %" mod "[s]\n\tmovq %%rax, %[lo]" FLAGS_SAVE \
			: "+&a"(a), "+&d"(d), [lo] "+&r"(lo) : [s] "r"(s) : "cc");                         \
		cpu->s.gpr[RAX] = lo;                                                                      \
		cpu->s.gpr[RDX] = d;                                                                       \
		cpu->s.rflags = flags_merge(cpu->s.rflags, (uint32_t)a);                                   \
	}
#define MUL_WIDES(op) MUL_WIDE(op, 1, "b", "b") MUL_WIDE(op, 2, "w", "w") MUL_WIDE(op, 4, "k", "l") MUL_WIDE(op, 8, "q", "q")
MUL_WIDES(mul)
MUL_WIDES(imul)

FLAGS_EACH_WIDE(FLAGS_OP2_INOUT, imul)

#define IMUL(op, SZ, T, sfx)                                                                               \
	static void imul2_r_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, fl_imul_##SZ(dst_get_##SZ(cpu, in), src_get_##SZ(cpu, in), &cpu->s.rflags)); \
	}                                                                                                  \
	static void imul2_m_##SZ(struct icpu *cpu, const struct insn *in)                                  \
	{                                                                                                  \
		T s = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		dst_set_##SZ(cpu, in, fl_imul_##SZ(dst_get_##SZ(cpu, in), s, &cpu->s.rflags));             \
	}                                                                                                  \
	static void imul3_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		T s = (T)src_get(cpu, in, SZ);                                                             \
		dst_set_##SZ(cpu, in, fl_imul_##SZ(s, (T)in->imm, &cpu->s.rflags));                        \
	}
FLAGS_EACH_WIDE(IMUL, x)

static void div_1(struct icpu *cpu, const struct insn *in)
{
	unsigned n = (uint16_t)cpu->s.gpr[RAX], d = (unsigned)dst_get(cpu, in, 1);

	if (!d || n / d > 0xff)
		cpu_raise(cpu, EXC_DE);
	gpr_set(cpu, RAX, 2, n / d | n % d << 8);
}

static void idiv_1(struct icpu *cpu, const struct insn *in)
{
	int n = (int16_t)cpu->s.gpr[RAX], d = (int8_t)dst_get(cpu, in, 1);

	if (!d || n / d != (int8_t)(n / d))
		cpu_raise(cpu, EXC_DE);
	gpr_set(cpu, RAX, 2, (uint8_t)(n / d) | (unsigned)(uint8_t)(n % d) << 8);
}

#define DIV(SZ, T, sT, WT, sWT, BITS)                                                                      \
	static void div_##SZ(struct icpu *cpu, const struct insn *in)                                      \
	{                                                                                                  \
		WT d = (T)dst_get(cpu, in, SZ);                                                            \
		WT n = (WT)(T)cpu->s.gpr[RDX] << BITS | (T)cpu->s.gpr[RAX];                                \
		if (!d || (n >> BITS) >= d)                                                                \
			cpu_raise(cpu, EXC_DE);                                                            \
		gpr_set(cpu, RAX, SZ, n / d);                                                              \
		gpr_set(cpu, RDX, SZ, n % d);                                                              \
	}                                                                                                  \
	static void idiv_##SZ(struct icpu *cpu, const struct insn *in)                                     \
	{                                                                                                  \
		sWT d = (sT)dst_get(cpu, in, SZ);                                                          \
		sWT n = (sWT)((WT)(T)cpu->s.gpr[RDX] << BITS | (T)cpu->s.gpr[RAX]);                        \
		/* The most negative dividend by -1 overflows the host's division too. */                  \
		if (!d || (d == -1 && n == (sWT)((WT)1 << (2 * BITS - 1))) || n / d != (sT)(n / d))        \
			cpu_raise(cpu, EXC_DE);                                                            \
		gpr_set(cpu, RAX, SZ, (T)(n / d));                                                         \
		gpr_set(cpu, RDX, SZ, (T)(n % d));                                                         \
	}
DIV(2, uint16_t, int16_t, uint32_t, int32_t, 16)
DIV(4, uint32_t, int32_t, uint64_t, int64_t, 32)

static void div_8(struct icpu *cpu, const struct insn *in)
{
	uint64_t d = dst_get(cpu, in, 8), a = cpu->s.gpr[RAX], hi = cpu->s.gpr[RDX];

	if (hi >= d)
		cpu_raise(cpu, EXC_DE);
	__asm__("divq %[d]" : "+a"(a), "+d"(hi) : [d] "r"(d) : "cc");
	cpu->s.gpr[RAX] = a;
	cpu->s.gpr[RDX] = hi;
}

static void idiv_8(struct icpu *cpu, const struct insn *in)
{
	uint64_t d = dst_get(cpu, in, 8);
	unsigned __int128 n = (unsigned __int128)cpu->s.gpr[RDX] << 64 | cpu->s.gpr[RAX];
	bool n_neg = n >> 127, d_neg = d >> 63;
	uint64_t limit = n_neg != d_neg ? UINT64_C(1) << 63 : INT64_MAX;

	if (n_neg)
		n = -n;
	if (d_neg)
		d = -d;
	if ((uint64_t)(n >> 64) >= d)
		cpu_raise(cpu, EXC_DE);
	uint64_t q = (uint64_t)n, r = (uint64_t)(n >> 64);
	__asm__("divq %[d]" : "+a"(q), "+d"(r) : [d] "r"(d) : "cc");
	if (q > limit)
		cpu_raise(cpu, EXC_DE);
	cpu->s.gpr[RAX] = n_neg != d_neg ? -q : q;
	cpu->s.gpr[RDX] = n_neg ? -r : r;
}

#define ROW(op) { op##_1, op##_2, op##_4, op##_8 }
static const insn_fn wide_table[][4] = { ROW(mul_wide), ROW(imul_wide), ROW(div), ROW(idiv) };
static const insn_fn imul_table[][4] = {
	{ NULL, imul2_r_2, imul2_r_4, imul2_r_8 },
	{ NULL, imul2_m_2, imul2_m_4, imul2_m_8 },
	{ NULL, imul3_2, imul3_4, imul3_8 },
};

bool int_mul_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned log = size_log(ops[0].size / 8u);

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MUL: in->fn = wide_table[0][log]; break;
	case ZYDIS_MNEMONIC_DIV: in->fn = wide_table[2][log]; break;
	case ZYDIS_MNEMONIC_IDIV: in->fn = wide_table[3][log]; break;
	case ZYDIS_MNEMONIC_IMUL:
		if (zi->operand_count_visible == 1) {
			in->fn = wide_table[1][log];
		} else if (zi->operand_count_visible == 2) {
			in->fn = imul_table[in->src_kind == OPD_MEM][log];
		} else {
			in->imm = ops[2].imm.value.u;
			in->fn = imul_table[2][log];
		}
		break;
	default:
		return false;
	}
	return in->fn != NULL;
}
