/*
 * Arithmetic with x86 status flags, computed by the host's own instructions, so that results
 * and even flags the SDM calls undefined equal a real CPU's. Flags travel by LAHF and SETO
 * (about a nanosecond) rather than by PUSHF and POPF.
 */
#ifndef ACCEL_INTERP_FLAGS_H
#define ACCEL_INTERP_FLAGS_H

#include "x86/cpu_state.h"

/* ax as LAHF and SETO AL leave it, into rflags. */
static inline uint64_t flags_merge(uint64_t rflags, uint32_t ax)
{
	return (rflags & ~(uint64_t)RFLAGS_STATUS) | ((ax >> 8) & 0xd5) | (uint64_t)(ax & 1) << 11;
}

/* The inverse: for "addb $0x7f, %al; sahf" in front of an instruction that reads or keeps flags. */
static inline uint32_t flags_ax(uint64_t rflags)
{
	return (uint32_t)((rflags & 0xff) << 8 | ((rflags >> 11) & 1));
}

#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

/* d = d op s, all status flags written. */
#define FLAGS_OP2(op, SZ, T, sfx)                                                                          \
	static inline T fl_##op##_##SZ(T d, T s, uint64_t *f)                                              \
	{                                                                                                  \
		uint32_t ax;                                                                               \
		__asm__(#op sfx " %[s], %[d]" FLAGS_SAVE : [d] "+r"(d), "=&a"(ax) : [s] "r"(s) : "cc");    \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}

/* The same with carry in. */
#define FLAGS_OP2_CARRY(op, SZ, T, sfx)                                                                    \
	static inline T fl_##op##_##SZ(T d, T s, uint64_t *f)                                              \
	{                                                                                                  \
		uint32_t ax;                                                                               \
		__asm__("btl $0, %k[f]\n\t" #op sfx " %[s], %[d]" FLAGS_SAVE                               \
			: [d] "+r"(d), "=&a"(ax) : [s] "r"(s), [f] "r"(*f) : "cc");                        \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}

/* One operand; carry goes through unless the instruction writes it. */
#define FLAGS_OP1(op, SZ, T, sfx)                                                                          \
	static inline T fl_##op##_##SZ(T d, uint64_t *f)                                                   \
	{                                                                                                  \
		uint32_t ax;                                                                               \
		__asm__("btl $0, %k[f]\n\t" #op sfx " %[d]" FLAGS_SAVE                                     \
			: [d] "+r"(d), "=&a"(ax) : [f] "r"(*f) : "cc");                                    \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}

/* Shifts and rotates: the count in CL, flags kept where the instruction keeps them. */
#define FLAGS_SHIFT(op, SZ, T, sfx)                                                                        \
	static inline T fl_##op##_##SZ(T d, uint8_t count, uint64_t *f)                                    \
	{                                                                                                  \
		uint32_t ax = flags_ax(*f);                                                                \
		__asm__(FLAGS_LOAD #op sfx " %%cl, %[d]" FLAGS_SAVE                                        \
			: [d] "+r"(d), "+&a"(ax) : "c"(count) : "cc");                                     \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}

/* Two operands, flags in and out: BT and its family, bit scans. d keeps what op does not write. */
#define FLAGS_OP2_INOUT(op, SZ, T, sfx)                                                                    \
	static inline T fl_##op##_##SZ(T d, T s, uint64_t *f)                                              \
	{                                                                                                  \
		uint32_t ax = flags_ax(*f);                                                                \
		__asm__(FLAGS_LOAD #op sfx " %[s], %[d]" FLAGS_SAVE                                        \
			: [d] "+r"(d), "+&a"(ax) : [s] "r"(s) : "cc");                                     \
		*f = flags_merge(*f, ax);                                                                  \
		return d;                                                                                  \
	}

#define FLAGS_EACH_SIZE(M, op) M(op, 1, uint8_t, "b") M(op, 2, uint16_t, "w") M(op, 4, uint32_t, "l") M(op, 8, uint64_t, "q")
#define FLAGS_EACH_WIDE(M, op) M(op, 2, uint16_t, "w") M(op, 4, uint32_t, "l") M(op, 8, uint64_t, "q")

/* Condition codes as encoded in Jcc, SETcc and CMOVcc (SDM 1, appendix B). */
static inline bool cond_true(unsigned cond, uint64_t f)
{
	bool v;

	switch (cond >> 1) {
	case 0: v = f & RFLAGS_OF; break;
	case 1: v = f & RFLAGS_CF; break;
	case 2: v = f & RFLAGS_ZF; break;
	case 3: v = f & (RFLAGS_CF | RFLAGS_ZF); break;
	case 4: v = f & RFLAGS_SF; break;
	case 5: v = f & RFLAGS_PF; break;
	case 6: v = ((f >> 7) ^ (f >> 11)) & 1; break;
	default: v = (((f >> 7) ^ (f >> 11)) & 1) || (f & RFLAGS_ZF); break;
	}
	return v != (cond & 1);
}

#endif
