/*
 * Single-bit and bit-scan instructions (Intel SDM volume 2): BT BTS BTR BTC with bit strings in
 * memory, BSF BSR LZCNT TZCNT POPCNT, BSWAP, MOVBE, CRC32.
 */
#include "accel/interp/int_ops.h"

FLAGS_EACH_WIDE(FLAGS_OP2_INOUT, bt)
FLAGS_EACH_WIDE(FLAGS_OP2_INOUT, bts)
FLAGS_EACH_WIDE(FLAGS_OP2_INOUT, btr)
FLAGS_EACH_WIDE(FLAGS_OP2_INOUT, btc)

/* With a register bit number the operand is a bit string: the word that holds the bit. The number is
 * signed; the address is computed in the address size (SDM 2A, BT). */
#define BIT_EA(SZ, T, sT, write)                                                                           \
	static inline uint64_t bit_ea_##write##_##SZ(struct icpu *cpu, const struct insn *in, T *bit)      \
	{                                                                                                  \
		if (in->src_kind == OPD_IMM) {                                                             \
			*bit = (T)in->imm;                                                                 \
			return cpu_ea(cpu, in, SZ, write);                                                 \
		}                                                                                          \
		*bit = src_get_##SZ(cpu, in);                                                              \
		struct insn moved = *in;                                                                   \
		moved.disp += (int64_t)((sT)*bit >> (SZ == 2 ? 4 : SZ == 4 ? 5 : 6)) * SZ;                 \
		return cpu_ea(cpu, &moved, SZ, write);                                                     \
	}
BIT_EA(2, uint16_t, int16_t, false)
BIT_EA(4, uint32_t, int32_t, false)
BIT_EA(8, uint64_t, int64_t, false)
BIT_EA(2, uint16_t, int16_t, true)
BIT_EA(4, uint32_t, int32_t, true)
BIT_EA(8, uint64_t, int64_t, true)

#define BT_TEST(op, SZ, T, sfx)                                                                            \
	static void op##_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T s = in->src_kind == OPD_IMM ? (T)in->imm : src_get_##SZ(cpu, in);                        \
		fl_##op##_##SZ(dst_get_##SZ(cpu, in), s, &cpu->s.rflags);                                  \
	}                                                                                                  \
	static void op##_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T bit;                                                                                     \
		uint64_t lin = bit_ea_false_##SZ(cpu, in, &bit);                                           \
		fl_##op##_##SZ((T)cpu_load(cpu, lin, SZ), bit, &cpu->s.rflags);                            \
	}
#define BT_WRITE(op, SZ, T, sfx)                                                                           \
	static void op##_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T s = in->src_kind == OPD_IMM ? (T)in->imm : src_get_##SZ(cpu, in);                        \
		dst_set_##SZ(cpu, in, fl_##op##_##SZ(dst_get_##SZ(cpu, in), s, &cpu->s.rflags));           \
	}                                                                                                  \
	static void op##_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T bit;                                                                                     \
		uint64_t lin = bit_ea_true_##SZ(cpu, in, &bit);                                            \
		MEM_RMW(SZ, T, res = fl_##op##_##SZ(old, bit, &f));                                        \
	}
FLAGS_EACH_WIDE(BT_TEST, bt)
FLAGS_EACH_WIDE(BT_WRITE, bts)
FLAGS_EACH_WIDE(BT_WRITE, btr)
FLAGS_EACH_WIDE(BT_WRITE, btc)

/* Scans and counts work on whole 64-bit registers: a BSF of zero keeps what the host keeps. */
#define SCAN(op, SZ, mod, sfx)                                                                             \
	static void op##_##SZ(struct icpu *cpu, const struct insn *in)                                     \
	{                                                                                                  \
		uint64_t s = src_get(cpu, in, SZ), d = cpu->s.gpr[in->dst_reg];                            \
		uint32_t ax = flags_ax(cpu->s.rflags);                                                     \
		__asm__(FLAGS_LOAD #op sfx " %" mod "[s], %" mod "[d]" FLAGS_SAVE                          \
			: [d] "+r"(d), "+&a"(ax) : [s] "r"(s) : "cc");                                     \
		cpu->s.gpr[in->dst_reg] = d;                                                               \
		cpu->s.rflags = flags_merge(cpu->s.rflags, ax);                                            \
	}
#define SCANS(op) SCAN(op, 2, "w", "w") SCAN(op, 4, "k", "l") SCAN(op, 8, "q", "q")
SCANS(bsf)
SCANS(bsr)
SCANS(lzcnt)
SCANS(tzcnt)
SCANS(popcnt)

static void bswap_4(struct icpu *cpu, const struct insn *in) { dst_set_4(cpu, in, __builtin_bswap32(dst_get_4(cpu, in))); }
static void bswap_8(struct icpu *cpu, const struct insn *in) { dst_set_8(cpu, in, __builtin_bswap64(dst_get_8(cpu, in))); }
/* Undefined by the SDM; real CPUs clear the word. */
static void bswap_2(struct icpu *cpu, const struct insn *in) { dst_set_2(cpu, in, 0); }

#define MOVBE(SZ, T, SWAP)                                                                                 \
	static void movbe_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		if (in->dst_kind == OPD_MEM)                                                               \
			cpu_store(cpu, cpu_ea(cpu, in, SZ, true), SZ, SWAP(src_get_##SZ(cpu, in)));        \
		else                                                                                       \
			dst_set_##SZ(cpu, in, SWAP((T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ)));     \
	}
MOVBE(2, uint16_t, __builtin_bswap16)
MOVBE(4, uint32_t, __builtin_bswap32)
MOVBE(8, uint64_t, __builtin_bswap64)

#define CRC32(SZ, mod, sfx)                                                                                \
	static void crc32_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		uint64_t s = src_get(cpu, in, SZ), d = cpu->s.gpr[in->dst_reg];                            \
		__asm__("crc32" sfx " %" mod "[s], %q[d]" : [d] "+r"(d) : [s] "r"(s));                     \
		cpu->s.gpr[in->dst_reg] = (uint32_t)d;                                                     \
	}
#define CRC32_NARROW(SZ, mod, sfx)                                                                         \
	static void crc32_##SZ(struct icpu *cpu, const struct insn *in)                                    \
	{                                                                                                  \
		uint64_t s = src_get(cpu, in, SZ), d = cpu->s.gpr[in->dst_reg];                            \
		__asm__("crc32" sfx " %" mod "[s], %k[d]" : [d] "+r"(d) : [s] "r"(s));                     \
		cpu->s.gpr[in->dst_reg] = (uint32_t)d;                                                     \
	}
CRC32_NARROW(1, "b", "b")
CRC32_NARROW(2, "w", "w")
CRC32_NARROW(4, "k", "l")
CRC32(8, "q", "q")

#define WIDE_ROW(op) { NULL, op##_2, op##_4, op##_8 }
#define BT_ROW(op) { { NULL, NULL }, { op##_r_2, op##_m_2 }, { op##_r_4, op##_m_4 }, { op##_r_8, op##_m_8 } }
static const insn_fn bt_table[][4][2] = { BT_ROW(bt), BT_ROW(bts), BT_ROW(btr), BT_ROW(btc) };
static const insn_fn wide_table[][4] = {
	WIDE_ROW(bsf), WIDE_ROW(bsr), WIDE_ROW(lzcnt), WIDE_ROW(tzcnt), WIDE_ROW(popcnt), WIDE_ROW(bswap), WIDE_ROW(movbe),
};
static const insn_fn crc32_table[4] = { crc32_1, crc32_2, crc32_4, crc32_8 };

/* The row of wide_table, after what a CPU without the extension does with the same bytes. */
static int wide_row(struct icpu *cpu, unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_BSF: return 0;
	case ZYDIS_MNEMONIC_BSR: return 1;
	case ZYDIS_MNEMONIC_LZCNT: return int_feature(cpu, "abm") ? 2 : 1;
	case ZYDIS_MNEMONIC_TZCNT: return int_feature(cpu, "bmi1") ? 3 : 0;
	case ZYDIS_MNEMONIC_POPCNT: return 4;
	case ZYDIS_MNEMONIC_BSWAP: return 5;
	case ZYDIS_MNEMONIC_MOVBE: return 6;
	default: return -1;
	}
}

bool int_bits_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned log = size_log(ops[0].size / 8u);
	int row;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_BT: in->fn = bt_table[0][log][in->dst_kind == OPD_MEM]; return true;
	case ZYDIS_MNEMONIC_BTS: in->fn = bt_table[1][log][in->dst_kind == OPD_MEM]; return true;
	case ZYDIS_MNEMONIC_BTR: in->fn = bt_table[2][log][in->dst_kind == OPD_MEM]; return true;
	case ZYDIS_MNEMONIC_BTC: in->fn = bt_table[3][log][in->dst_kind == OPD_MEM]; return true;
	case ZYDIS_MNEMONIC_CRC32:
		in->fn = int_feature(cpu, "sse4_2") ? crc32_table[size_log(ops[1].size / 8u)] : int_undefined;
		return true;
	default:
		break;
	}
	row = wide_row(cpu, zi->mnemonic);
	if (row < 0)
		return false;
	in->fn = wide_table[row][log];
	if ((row == 4 && !int_feature(cpu, "popcnt")) || (row == 6 && !int_feature(cpu, "movbe")))
		in->fn = int_undefined;
	return in->fn != NULL;
}
