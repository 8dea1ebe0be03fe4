/*
 * Near control flow (Intel SDM volume 2): Jcc, JMP, CALL, RET, LOOPcc, JCXZ. Far transfers are the
 * system family's. A target outside the code segment, or not canonical, is #GP(0) of the branch
 * itself, with nothing changed.
 */
#include "accel/interp/int_ops.h"

static inline void branch_relative(struct icpu *cpu, const struct insn *in)
{
	uint64_t target = (cpu->s.rip + in->length + in->imm) & in->aux;

	branch_check(cpu, target);
	cpu->next_rip = target;
}

#define JCC(N)                                                                                             \
	static void jcc_##N(struct icpu *cpu, const struct insn *in)                                       \
	{                                                                                                  \
		if (cond_true(N, cpu->s.rflags))                                                           \
			branch_relative(cpu, in);                                                          \
	}
JCC(0) JCC(1) JCC(2) JCC(3) JCC(4) JCC(5) JCC(6) JCC(7)
JCC(8) JCC(9) JCC(10) JCC(11) JCC(12) JCC(13) JCC(14) JCC(15)

static const insn_fn jcc_table[16] = {
	jcc_0, jcc_1, jcc_2, jcc_3, jcc_4, jcc_5, jcc_6, jcc_7, jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15,
};

static void jmp_relative(struct icpu *cpu, const struct insn *in) { branch_relative(cpu, in); }

static void jmp_indirect(struct icpu *cpu, const struct insn *in)
{
	uint64_t target = dst_get(cpu, in, in->opsize);

	branch_check(cpu, target);
	cpu->next_rip = target;
}

static inline void call_to(struct icpu *cpu, const struct insn *in, uint64_t target)
{
	branch_check(cpu, target);
	cpu_push(cpu, in->opsize, (cpu->s.rip + in->length) & mask_bytes(in->opsize));
	cpu->next_rip = target;
}

static void call_relative(struct icpu *cpu, const struct insn *in)
{
	call_to(cpu, in, (cpu->s.rip + in->length + in->imm) & in->aux);
}

static void call_indirect(struct icpu *cpu, const struct insn *in) { call_to(cpu, in, dst_get(cpu, in, in->opsize)); }

static void ret_near(struct icpu *cpu, const struct insn *in)
{
	uint64_t rsp = cpu->s.gpr[RSP], target = cpu_pop(cpu, in->opsize);

	if (cpu->code_bits == 64 ? !canonical(target) : target > cpu->s.seg[SEG_CS].limit) {
		cpu->s.gpr[RSP] = rsp;
		cpu_raise_error(cpu, EXC_GP, 0);
	}
	if (in->imm)
		gpr_set(cpu, RSP, stack_size(cpu), cpu->s.gpr[RSP] + in->imm);
	cpu->next_rip = target;
}

static void jcxz(struct icpu *cpu, const struct insn *in)
{
	if (!gpr_get(cpu, RCX, in->addrsize))
		branch_relative(cpu, in);
}

/* cond: 0 LOOPNE, 1 LOOPE, 2 LOOP */
static void loop(struct icpu *cpu, const struct insn *in)
{
	uint64_t count = (cpu->s.gpr[RCX] - 1) & mask_bytes(in->addrsize);
	bool zf = cpu->s.rflags & RFLAGS_ZF;

	if (count && (in->cond == 2 || in->cond == zf))
		branch_relative(cpu, in); /* its fault comes before the count is written */
	gpr_set(cpu, RCX, in->addrsize, count);
}

/* Jcc by opcode: 70..7f, 0f 80..8f. */
static bool jcc_bind(struct insn *in, const ZydisDecodedInstruction *zi)
{
	bool shorter = zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xf0) == 0x70;
	bool nearer = zi->opcode_map == ZYDIS_OPCODE_MAP_0F && (zi->opcode & 0xf0) == 0x80;

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || !(shorter || nearer))
		return false;
	in->cond = zi->opcode & 15;
	in->fn = jcc_table[in->cond];
	return true;
}

bool int_branch_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool relative = ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
		if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return false;
		if (zi->mnemonic == ZYDIS_MNEMONIC_JMP)
			in->fn = relative ? jmp_relative : jmp_indirect;
		else
			in->fn = relative ? call_relative : call_indirect;
		break;
	case ZYDIS_MNEMONIC_RET:
		if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return false;
		in->fn = ret_near;
		in->imm = relative && zi->operand_count_visible ? ops[0].imm.value.u & 0xffff : 0;
		relative = false;
		break;
	case ZYDIS_MNEMONIC_JCXZ: in->fn = jcxz; in->addrsize = 2; break;
	case ZYDIS_MNEMONIC_JECXZ: in->fn = jcxz; in->addrsize = 4; break;
	case ZYDIS_MNEMONIC_JRCXZ: in->fn = jcxz; in->addrsize = 8; break;
	case ZYDIS_MNEMONIC_LOOPNE: in->fn = loop; in->cond = 0; break;
	case ZYDIS_MNEMONIC_LOOPE: in->fn = loop; in->cond = 1; break;
	case ZYDIS_MNEMONIC_LOOP: in->fn = loop; in->cond = 2; break;
	default:
		if (!jcc_bind(in, zi))
			return false;
	}
	in->flags |= INSN_ENDS_BLOCK;
	in->opsize = cpu->code_bits == 64 ? 8 : (uint8_t)(zi->operand_width / 8u);
	in->aux = mask_bytes(in->opsize);
	if (relative)
		in->imm = (uint64_t)ops[0].imm.value.s;
	return true;
}
