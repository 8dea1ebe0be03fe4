/*
 * Data movement (Intel SDM volume 2): MOV between general registers, memory and immediates,
 * MOVZX MOVSX MOVSXD, LEA, CMOVcc, SETcc, CBW and CWD families, XLAT, LAHF and SAHF.
 */
#include "accel/interp/int_ops.h"

#define MOV(op, SZ, T, sfx)                                                                                \
	static void mov_rr_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, src_get_##SZ(cpu, in));                                              \
	}                                                                                                  \
	static void mov_ri_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, (T)in->imm);                                                         \
	}                                                                                                  \
	static void mov_rm_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		dst_set_##SZ(cpu, in, (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ));                   \
	}                                                                                                  \
	static void mov_mr_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		cpu_store(cpu, cpu_ea(cpu, in, SZ, true), SZ, src_get_##SZ(cpu, in));                      \
	}                                                                                                  \
	static void mov_mi_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		cpu_store(cpu, cpu_ea(cpu, in, SZ, true), SZ, (T)in->imm);                                 \
	}
FLAGS_EACH_SIZE(MOV, mov)

/* MOVZX, MOVSX, MOVSXD: from FROM bytes; U is the type the value is widened through. */
#define EXTEND(name, TO, TT, FROM, FT)                                                                     \
	static void name##_r_##FROM##_##TO(struct icpu *cpu, const struct insn *in)                        \
	{                                                                                                  \
		dst_set_##TO(cpu, in, (TT)(FT)src_get_##FROM(cpu, in));                                    \
	}                                                                                                  \
	static void name##_m_##FROM##_##TO(struct icpu *cpu, const struct insn *in)                        \
	{                                                                                                  \
		dst_set_##TO(cpu, in, (TT)(FT)cpu_load(cpu, cpu_ea(cpu, in, FROM, false), FROM));          \
	}
#define EXTEND_TO(TO, TT)                                                                                  \
	EXTEND(movzx, TO, TT, 1, uint8_t)                                                                  \
	EXTEND(movzx, TO, TT, 2, uint16_t)                                                                 \
	EXTEND(movsx, TO, TT, 1, int8_t)                                                                   \
	EXTEND(movsx, TO, TT, 2, int16_t)
EXTEND_TO(2, uint16_t)
EXTEND_TO(4, uint32_t)
EXTEND_TO(8, uint64_t)
EXTEND(movsx, 8, uint64_t, 4, int32_t)

static void lea_2(struct icpu *cpu, const struct insn *in) { dst_set_2(cpu, in, (uint16_t)cpu_offset(cpu, in)); }
static void lea_4(struct icpu *cpu, const struct insn *in) { dst_set_4(cpu, in, (uint32_t)cpu_offset(cpu, in)); }
static void lea_8(struct icpu *cpu, const struct insn *in) { dst_set_8(cpu, in, cpu_offset(cpu, in)); }
/* The two shapes compilers emit, with 64-bit addresses. */
static void lea_base_8(struct icpu *cpu, const struct insn *in)
{
	dst_set_8(cpu, in, cpu->s.gpr[in->base] + (uint64_t)in->disp);
}
static void lea_index_8(struct icpu *cpu, const struct insn *in)
{
	dst_set_8(cpu, in, cpu->s.gpr[in->base] + (cpu->s.gpr[in->index] << in->scale) + (uint64_t)in->disp);
}

#define CMOV(op, SZ, T, sfx)                                                                               \
	static void cmov_r_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		bool take = cond_true(in->cond, cpu->s.rflags);                                            \
		dst_set_##SZ(cpu, in, take ? src_get_##SZ(cpu, in) : dst_get_##SZ(cpu, in));               \
	}                                                                                                  \
	/* The memory is read whether or not the condition holds. */                                       \
	static void cmov_m_##SZ(struct icpu *cpu, const struct insn *in)                                   \
	{                                                                                                  \
		T v = (T)cpu_load(cpu, cpu_ea(cpu, in, SZ, false), SZ);                                    \
		dst_set_##SZ(cpu, in, cond_true(in->cond, cpu->s.rflags) ? v : dst_get_##SZ(cpu, in));     \
	}
FLAGS_EACH_WIDE(CMOV, x)

static void setcc_r(struct icpu *cpu, const struct insn *in) { dst_set_1(cpu, in, cond_true(in->cond, cpu->s.rflags)); }
static void setcc_m(struct icpu *cpu, const struct insn *in)
{
	cpu_store(cpu, cpu_ea(cpu, in, 1, true), 1, cond_true(in->cond, cpu->s.rflags));
}

static void do_cbw(struct icpu *cpu, const struct insn *in) { gpr_set(cpu, RAX, 2, (uint16_t)(int8_t)cpu->s.gpr[RAX]); }
static void do_cwde(struct icpu *cpu, const struct insn *in) { gpr_set(cpu, RAX, 4, (uint32_t)(int16_t)cpu->s.gpr[RAX]); }
static void do_cdqe(struct icpu *cpu, const struct insn *in) { cpu->s.gpr[RAX] = (uint64_t)(int32_t)cpu->s.gpr[RAX]; }
static void do_cwd(struct icpu *cpu, const struct insn *in)
{
	gpr_set(cpu, RDX, 2, (cpu->s.gpr[RAX] >> 15) & 1 ? UINT64_MAX : 0);
}
static void do_cdq(struct icpu *cpu, const struct insn *in)
{
	gpr_set(cpu, RDX, 4, (cpu->s.gpr[RAX] >> 31) & 1 ? UINT64_MAX : 0);
}
static void do_cqo(struct icpu *cpu, const struct insn *in) { cpu->s.gpr[RDX] = (uint64_t)((int64_t)cpu->s.gpr[RAX] >> 63); }

static void do_xlat(struct icpu *cpu, const struct insn *in)
{
	uint64_t offset = (cpu->s.gpr[RBX] + (uint8_t)cpu->s.gpr[RAX]) & mask_bytes(in->addrsize);

	gpr_set(cpu, RAX, 1, cpu_load(cpu, cpu_linear(cpu, in->seg, offset, 1, false), 1));
}

static void do_lahf(struct icpu *cpu, const struct insn *in)
{
	*reg8(cpu, OPD_REG_HIGH, RAX) = (uint8_t)((cpu->s.rflags & 0xd5) | 2);
}
static void do_sahf(struct icpu *cpu, const struct insn *in)
{
	cpu->s.rflags = (cpu->s.rflags & ~UINT64_C(0xd5)) | (*reg8(cpu, OPD_REG_HIGH, RAX) & 0xd5);
}

#define MOV_ROW(SZ) { mov_rr_##SZ, mov_ri_##SZ, mov_rm_##SZ, mov_mr_##SZ, mov_mi_##SZ }
static const insn_fn mov_table[4][5] = { MOV_ROW(1), MOV_ROW(2), MOV_ROW(4), MOV_ROW(8) };
#define EXTEND_ROW(name, FROM) { { NULL, NULL }, { name##_r_##FROM##_2, name##_m_##FROM##_2 },                 \
	{ name##_r_##FROM##_4, name##_m_##FROM##_4 }, { name##_r_##FROM##_8, name##_m_##FROM##_8 } }
static const insn_fn extend_table[2][2][4][2] = {
	{ EXTEND_ROW(movzx, 1), EXTEND_ROW(movzx, 2) }, { EXTEND_ROW(movsx, 1), EXTEND_ROW(movsx, 2) },
};
static const insn_fn cmov_table[4][2] = { { NULL, NULL }, { cmov_r_2, cmov_m_2 }, { cmov_r_4, cmov_m_4 }, { cmov_r_8, cmov_m_8 } };

static bool mov_bind(struct insn *in, const ZydisDecodedOperand *ops)
{
	unsigned log = size_log(ops[0].size / 8u);

	for (int i = 0; i < 2; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		ZydisRegisterClass c = ZydisRegisterGetClass(ops[i].reg.value);
		if (c < ZYDIS_REGCLASS_GPR8 || c > ZYDIS_REGCLASS_GPR64)
			return false; /* segment, control and debug registers are the system family's */
	}
	if (in->dst_kind == OPD_MEM)
		in->fn = mov_table[log][in->src_kind == OPD_IMM ? 4 : 3];
	else
		in->fn = mov_table[log][in->src_kind == OPD_IMM ? 1 : in->src_kind == OPD_MEM ? 2 : 0];
	return true;
}

static bool extend_bind(struct insn *in, bool sign, const ZydisDecodedOperand *ops)
{
	unsigned to = size_log(ops[0].size / 8u), from = size_log(ops[1].size / 8u);
	bool mem = in->src_kind == OPD_MEM;

	if (from == to) /* MOVSXD without REX.W, MOVSX r16, r/m16 */
		in->fn = mov_table[to][mem ? 2 : 0];
	else if (from == 2 && to == 3)
		in->fn = mem ? movsx_m_4_8 : movsx_r_4_8;
	else if (from < 2)
		in->fn = extend_table[sign][from][to][mem];
	else
		in->fn = mov_table[1][mem ? 2 : 0]; /* MOVSXD r16 */
	return in->fn != NULL;
}

static void lea_bind(struct insn *in, const ZydisDecodedOperand *ops)
{
	static const insn_fn table[4] = { lea_2, lea_2, lea_4, lea_8 };
	unsigned log = size_log(ops[0].size / 8u);

	in->fn = table[log];
	if (log == 3 && in->addrsize == 8 && in->base >= 0 && in->base < INSN_RIP)
		in->fn = in->index >= 0 ? lea_index_8 : lea_base_8;
}

/* XLAT's memory operand is implied; only its segment can be chosen. */
static void xlat_bind(struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	in->seg = SEG_DS;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[i].mem.segment >= ZYDIS_REGISTER_ES)
			in->seg = (uint8_t)(ops[i].mem.segment - ZYDIS_REGISTER_ES);
	}
	in->fn = do_xlat;
}

bool int_move_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return mov_bind(in, ops);
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_MOVDIRI: in->fn = mov_table[size_log(ops[0].size / 8u)][3]; return true;
	case ZYDIS_MNEMONIC_MOVZX: return extend_bind(in, false, ops);
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD: return extend_bind(in, true, ops);
	case ZYDIS_MNEMONIC_LEA: lea_bind(in, ops); return true;
	case ZYDIS_MNEMONIC_CBW: in->fn = do_cbw; return true;
	case ZYDIS_MNEMONIC_CWDE: in->fn = do_cwde; return true;
	case ZYDIS_MNEMONIC_CDQE: in->fn = do_cdqe; return true;
	case ZYDIS_MNEMONIC_CWD: in->fn = do_cwd; return true;
	case ZYDIS_MNEMONIC_CDQ: in->fn = do_cdq; return true;
	case ZYDIS_MNEMONIC_CQO: in->fn = do_cqo; return true;
	case ZYDIS_MNEMONIC_XLAT: xlat_bind(in, zi, ops); return true;
	case ZYDIS_MNEMONIC_LAHF: in->fn = do_lahf; return true;
	case ZYDIS_MNEMONIC_SAHF: in->fn = do_sahf; return true;
	default: break;
	}
	/* SETcc 0f 90..9f, CMOVcc 0f 40..4f. */
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_0F || zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	in->cond = zi->opcode & 15;
	if ((zi->opcode & 0xf0) == 0x90)
		in->fn = in->dst_kind == OPD_MEM ? setcc_m : setcc_r;
	else if ((zi->opcode & 0xf0) == 0x40)
		in->fn = cmov_table[size_log(ops[0].size / 8u)][in->src_kind == OPD_MEM];
	else
		return false;
	return in->fn != NULL;
}
