/*
 * Exchanges (Intel SDM volume 2): XCHG (locked by itself when memory takes part), XADD, CMPXCHG,
 * CMPXCHG8B, CMPXCHG16B.
 */
#include "accel/interp/int_ops.h"

FLAGS_EACH_SIZE(FLAGS_OP2, add)
FLAGS_EACH_SIZE(FLAGS_OP2, cmp)

#define XCHG(op, SZ, T, sfx)                                                                               \
	static void xchg_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T d = dst_get_##SZ(cpu, in), s = src_get_##SZ(cpu, in);                                    \
		dst_set_##SZ(cpu, in, s);                                                                  \
		src_set_##SZ(cpu, in, d);                                                                  \
	}                                                                                                  \
	/* bind has made the memory operand the first one */                                               \
	static void xchg_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		T s = src_get_##SZ(cpu, in), got;                                                          \
		T *p = cpu_rmw_ptr(cpu, lin, SZ);                                                          \
		if (p) {                                                                                   \
			got = s;                                                                           \
			__asm__ volatile("xchg" sfx " %[v], %[m]" : [v] "+r"(got), [m] "+m"(*p) : : "memory"); \
			cpu_rmw_done(cpu);                                                                 \
		} else {                                                                                   \
			cpu_check_write(cpu, lin, SZ);                                                     \
			got = (T)cpu_load(cpu, lin, SZ);                                                   \
			cpu_store(cpu, lin, SZ, s);                                                        \
		}                                                                                          \
		src_set_##SZ(cpu, in, got);                                                                \
	}                                                                                                  \
	static void xadd_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T d = dst_get_##SZ(cpu, in), s = src_get_##SZ(cpu, in);                                    \
		src_set_##SZ(cpu, in, d);                                                                  \
		dst_set_##SZ(cpu, in, fl_add_##SZ(d, s, &cpu->s.rflags));                                  \
	}                                                                                                  \
	static void xadd_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		T s = src_get_##SZ(cpu, in), before;                                                       \
		MEM_RMW(SZ, T, (before = old, res = fl_add_##SZ(old, s, &f)));                             \
		src_set_##SZ(cpu, in, before);                                                             \
	}                                                                                                  \
	static void cmpxchg_m_##SZ(struct icpu *cpu, const struct insn *in)                                \
	{                                                                                                  \
		uint64_t lin = cpu_ea(cpu, in, SZ, true);                                                  \
		T s = src_get_##SZ(cpu, in), a = (T)cpu->s.gpr[RAX], before;                               \
		/* Memory is written in either case (SDM 2A, CMPXCHG). */                                  \
		MEM_RMW(SZ, T, (before = old, fl_cmp_##SZ(a, old, &f), res = old == a ? s : old));         \
		if (before != a)                                                                           \
			gpr_set(cpu, RAX, SZ, before);                                                     \
	}
FLAGS_EACH_SIZE(XCHG, x)

/* On whole registers: whether a failed CMPXCHG r32 clears its destination's upper half differs between
 * makers, and a guest must see its own CPU's habit. */
#define CMPXCHG_REG(SZ, T, mod, sfx)                                                                       \
	static void cmpxchg_r_##SZ(struct icpu *cpu, const struct insn *in)                                \
	{                                                                                                  \
		uint64_t a = cpu->s.gpr[RAX], s = src_get(cpu, in, SZ);                                    \
		uint64_t d = SZ == 1 ? dst_get(cpu, in, 1) : cpu->s.gpr[in->dst_reg];                      \
		bool alias = SZ != 1 && in->dst_reg == RAX;                                                \
		fl_cmp_##SZ((T)a, (T)d, &cpu->s.rflags);                                                   \
		__asm__("cmpxchg" sfx " %" mod "[s], %" mod "[d]" : [d] "+r"(d), "+a"(a) : [s] "r"(s) : "cc"); \
		if (!alias)                                                                                \
			cpu->s.gpr[RAX] = a;                                                               \
		if (SZ == 1)                                                                               \
			dst_set_1(cpu, in, (uint8_t)d);                                                    \
		else                                                                                       \
			cpu->s.gpr[in->dst_reg] = d;                                                       \
	}
CMPXCHG_REG(1, uint8_t, "b", "b")
CMPXCHG_REG(2, uint16_t, "w", "w")
CMPXCHG_REG(4, uint32_t, "k", "l")
CMPXCHG_REG(8, uint64_t, "q", "q")

static void do_cmpxchg8b(struct icpu *cpu, const struct insn *in)
{
	uint64_t lin = cpu_ea(cpu, in, 8, true), before;
	uint64_t want = cpu->s.gpr[RDX] << 32 | (uint32_t)cpu->s.gpr[RAX];
	uint64_t value = cpu->s.gpr[RCX] << 32 | (uint32_t)cpu->s.gpr[RBX];

	MEM_RMW(8, uint64_t, (before = old, res = old == want ? value : old));
	if (before == want) {
		cpu->s.rflags |= RFLAGS_ZF;
		return;
	}
	cpu->s.rflags &= ~(uint64_t)RFLAGS_ZF;
	cpu->s.gpr[RAX] = (uint32_t)before;
	cpu->s.gpr[RDX] = before >> 32;
}

static void do_cmpxchg16b(struct icpu *cpu, const struct insn *in)
{
	uint64_t lin = cpu_ea(cpu, in, 16, true), pair[2];
	uint64_t a = cpu->s.gpr[RAX], d = cpu->s.gpr[RDX];
	bool equal;

	if (lin & 15)
		cpu_raise_error(cpu, EXC_GP, 0);
	void *p = cpu_rmw_ptr(cpu, lin, 16);
	if (p) {
		__asm__ volatile("lock cmpxchg16b %[m]\n\tsete %[ok]"
				 : [m] "+m"(*(char(*)[16])p), "+a"(a), "+d"(d), [ok] "=q"(equal)
				 : "b"(cpu->s.gpr[RBX]), "c"(cpu->s.gpr[RCX]) : "cc", "memory");
		cpu_rmw_done(cpu);
	} else {
		cpu_load_bytes(cpu, lin, pair, 16);
		equal = pair[0] == a && pair[1] == d;
		a = pair[0];
		d = pair[1];
		if (equal) {
			pair[0] = cpu->s.gpr[RBX];
			pair[1] = cpu->s.gpr[RCX];
		}
		cpu_store_bytes(cpu, lin, pair, 16);
	}
	cpu->s.rflags = equal ? cpu->s.rflags | RFLAGS_ZF : cpu->s.rflags & ~(uint64_t)RFLAGS_ZF;
	if (!equal) {
		cpu->s.gpr[RAX] = a;
		cpu->s.gpr[RDX] = d;
	}
}

#define PAIR(op) { { op##_r_1, op##_m_1 }, { op##_r_2, op##_m_2 }, { op##_r_4, op##_m_4 }, { op##_r_8, op##_m_8 } }
static const insn_fn xchg_table[3][4][2] = { PAIR(xchg), PAIR(xadd), PAIR(cmpxchg) };

bool int_xchg_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned row;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_XCHG:
		row = 0;
		if (in->src_kind == OPD_MEM) {
			in->src_kind = in->dst_kind;
			in->src_reg = in->dst_reg;
			in->dst_kind = OPD_MEM;
		}
		break;
	case ZYDIS_MNEMONIC_XADD: row = 1; break;
	case ZYDIS_MNEMONIC_CMPXCHG: row = 2; break;
	case ZYDIS_MNEMONIC_CMPXCHG8B: in->fn = do_cmpxchg8b; return true;
	case ZYDIS_MNEMONIC_CMPXCHG16B: in->fn = int_feature(cpu, "cx16") ? do_cmpxchg16b : int_undefined; return true;
	default: return false;
	}
	in->fn = xchg_table[row][size_log(ops[0].size / 8u)][in->dst_kind == OPD_MEM];
	return true;
}
