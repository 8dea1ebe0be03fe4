/*
 * What the integer instruction files share: register access by size, read-modify-write of memory
 * with and without LOCK, branches, and the sub-families' bind functions.
 */
#ifndef ACCEL_INTERP_INT_OPS_H
#define ACCEL_INTERP_INT_OPS_H

#include <Zydis/Zydis.h>

#include "accel/interp/cpu.h"
#include "accel/interp/flags.h"

typedef bool int_bind_fn(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops);
int_bind_fn int_alu_bind, int_shift_bind, int_bits_bind, int_mul_bind, int_move_bind, int_xchg_bind, int_branch_bind,
	int_stack_bind, int_bcd_bind, int_bmi_bind, int_misc_bind;

/* Whether the guest's CPU model has the feature (all of them when there is no model). */
bool int_feature(struct icpu *cpu, const char *name);
void int_undefined(struct icpu *cpu, const struct insn *in);
void int_nop(struct icpu *cpu, const struct insn *in);

/* log2 of an operand size of 1, 2, 4 or 8 bytes. */
static inline unsigned size_log(unsigned size) { return (unsigned)__builtin_ctz(size | 8); }

static inline bool is_gpr_kind(uint8_t kind) { return kind == OPD_REG || kind == OPD_REG_HIGH; }

/* ---- registers ---- */

static inline uint8_t *reg8(struct icpu *cpu, uint8_t kind, uint8_t reg)
{
	return (uint8_t *)&cpu->s.gpr[reg] + (kind == OPD_REG_HIGH);
}

static inline uint8_t dst_get_1(struct icpu *cpu, const struct insn *in) { return *reg8(cpu, in->dst_kind, in->dst_reg); }
static inline uint8_t src_get_1(struct icpu *cpu, const struct insn *in) { return *reg8(cpu, in->src_kind, in->src_reg); }
static inline uint16_t dst_get_2(struct icpu *cpu, const struct insn *in) { return (uint16_t)cpu->s.gpr[in->dst_reg]; }
static inline uint16_t src_get_2(struct icpu *cpu, const struct insn *in) { return (uint16_t)cpu->s.gpr[in->src_reg]; }
static inline uint32_t dst_get_4(struct icpu *cpu, const struct insn *in) { return (uint32_t)cpu->s.gpr[in->dst_reg]; }
static inline uint32_t src_get_4(struct icpu *cpu, const struct insn *in) { return (uint32_t)cpu->s.gpr[in->src_reg]; }
static inline uint64_t dst_get_8(struct icpu *cpu, const struct insn *in) { return cpu->s.gpr[in->dst_reg]; }
static inline uint64_t src_get_8(struct icpu *cpu, const struct insn *in) { return cpu->s.gpr[in->src_reg]; }
static inline void dst_set_1(struct icpu *cpu, const struct insn *in, uint8_t v) { *reg8(cpu, in->dst_kind, in->dst_reg) = v; }
static inline void src_set_1(struct icpu *cpu, const struct insn *in, uint8_t v) { *reg8(cpu, in->src_kind, in->src_reg) = v; }
static inline void dst_set_2(struct icpu *cpu, const struct insn *in, uint16_t v) { memcpy(&cpu->s.gpr[in->dst_reg], &v, 2); }
static inline void src_set_2(struct icpu *cpu, const struct insn *in, uint16_t v) { memcpy(&cpu->s.gpr[in->src_reg], &v, 2); }
static inline void dst_set_4(struct icpu *cpu, const struct insn *in, uint32_t v) { cpu->s.gpr[in->dst_reg] = v; }
static inline void src_set_4(struct icpu *cpu, const struct insn *in, uint32_t v) { cpu->s.gpr[in->src_reg] = v; }
static inline void dst_set_8(struct icpu *cpu, const struct insn *in, uint64_t v) { cpu->s.gpr[in->dst_reg] = v; }
static inline void src_set_8(struct icpu *cpu, const struct insn *in, uint64_t v) { cpu->s.gpr[in->src_reg] = v; }

/* By a size known only at run time. */
static inline uint64_t gpr_get(struct icpu *cpu, unsigned reg, unsigned size) { return cpu->s.gpr[reg] & mask_bytes(size); }
static inline void gpr_set(struct icpu *cpu, unsigned reg, unsigned size, uint64_t v)
{
	if (size >= 4)
		cpu->s.gpr[reg] = v & mask_bytes(size);
	else
		memcpy(&cpu->s.gpr[reg], &v, size);
}
static inline uint64_t src_get(struct icpu *cpu, const struct insn *in, unsigned size)
{
	switch (in->src_kind) {
	case OPD_REG_HIGH: return src_get_1(cpu, in);
	case OPD_REG: return gpr_get(cpu, in->src_reg, size);
	case OPD_IMM: return in->imm & mask_bytes(size);
	default: return cpu_load(cpu, cpu_ea(cpu, in, size, false), size);
	}
}
static inline uint64_t dst_get(struct icpu *cpu, const struct insn *in, unsigned size)
{
	switch (in->dst_kind) {
	case OPD_REG_HIGH: return dst_get_1(cpu, in);
	case OPD_REG: return gpr_get(cpu, in->dst_reg, size);
	default: return cpu_load(cpu, cpu_ea(cpu, in, size, false), size);
	}
}

/* ---- read-modify-write of memory ---- */

#define DEFINE_CAS(SZ, T, sfx)                                                                             \
	static inline bool cas_##SZ(void *p, T *old, T value)                                              \
	{                                                                                                  \
		bool done;                                                                                 \
		__asm__ volatile("lock cmpxchg" sfx " %[v], %[m]\n\tsete %[ok]"                            \
				 : [m] "+m"(*(T *)p), "+a"(*old), [ok] "=q"(done)                          \
				 : [v] "r"(value) : "cc", "memory");                                       \
		return done;                                                                               \
	}
DEFINE_CAS(1, uint8_t, "b")
DEFINE_CAS(2, uint16_t, "w")
DEFINE_CAS(4, uint32_t, "l")
DEFINE_CAS(8, uint64_t, "q")

/*
 * Runs EXPR, which computes `res` from `old` (and `f`, a copy of rflags), on the memory at lin.
 * Under LOCK the host's compare-exchange makes it atomic; RAM that crosses a page and MMIO are
 * read, then written.
 */
#define MEM_RMW(SZ, T, EXPR)                                                                               \
	do {                                                                                               \
		void *p_ = cpu_rmw_ptr(cpu, lin, SZ);                                                      \
		T old, res;                                                                                \
		uint64_t f;                                                                                \
		if (p_ && (in->prefixes & PFX_LOCK)) {                                                     \
			memcpy(&old, p_, SZ);                                                              \
			do {                                                                               \
				f = cpu->s.rflags;                                                         \
				EXPR;                                                                      \
			} while (!cas_##SZ(p_, &old, res));                                                \
			cpu_rmw_done(cpu);                                                                 \
		} else if (p_) {                                                                           \
			memcpy(&old, p_, SZ);                                                              \
			f = cpu->s.rflags;                                                                 \
			EXPR;                                                                              \
			memcpy(p_, &res, SZ);                                                              \
			cpu_rmw_done(cpu);                                                                 \
		} else {                                                                                   \
			cpu_check_write(cpu, lin, SZ);                                                     \
			old = (T)cpu_load(cpu, lin, SZ);                                                   \
			f = cpu->s.rflags;                                                                 \
			EXPR;                                                                              \
			cpu_store(cpu, lin, SZ, res);                                                      \
		}                                                                                          \
		cpu->s.rflags = f;                                                                         \
	} while (0)

/* ---- control flow ---- */

static inline bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* #GP(0) unless the near target, already truncated to the operand size, may be jumped to. */
static inline void branch_check(struct icpu *cpu, uint64_t target)
{
	if (cpu->code_bits == 64 ? !canonical(target) : target > cpu->s.seg[SEG_CS].limit)
		cpu_raise_error(cpu, EXC_GP, 0);
}

/* The stack pointer's width in bytes. */
static inline unsigned stack_size(const struct icpu *cpu) { return cpu->stack_bits / 8u; }

#endif
