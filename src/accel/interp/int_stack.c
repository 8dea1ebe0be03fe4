/*
 * Stack instructions (Intel SDM volume 2): PUSH and POP of general registers, memory and
 * immediates, PUSHA POPA, ENTER LEAVE.
 */
#include "accel/interp/int_ops.h"

static void push_r_8(struct icpu *cpu, const struct insn *in) { cpu_push(cpu, 8, cpu->s.gpr[in->dst_reg]); }
static void push_any(struct icpu *cpu, const struct insn *in) { cpu_push(cpu, in->opsize, dst_get(cpu, in, in->opsize)); }
static void push_imm(struct icpu *cpu, const struct insn *in) { cpu_push(cpu, in->opsize, in->imm & mask_bytes(in->opsize)); }

static void pop_r_8(struct icpu *cpu, const struct insn *in) { cpu->s.gpr[in->dst_reg] = cpu_pop(cpu, 8); }
static void pop_r(struct icpu *cpu, const struct insn *in) { gpr_set(cpu, in->dst_reg, in->opsize, cpu_pop(cpu, in->opsize)); }

static inline uint64_t stack_linear(struct icpu *cpu, uint64_t sp, unsigned len, bool write)
{
	return cpu_linear(cpu, SEG_SS, sp & mask_bytes(stack_size(cpu)), len, write);
}

/* An address based on RSP is computed with the RSP after the pop (SDM 2B, POP); RSP itself moves
 * only when the store has succeeded. */
static void pop_m(struct icpu *cpu, const struct insn *in)
{
	uint64_t rsp = cpu->s.gpr[RSP];
	uint64_t v = cpu_load(cpu, stack_linear(cpu, rsp, in->opsize, false), in->opsize);
	struct insn moved = *in;

	if (in->base == RSP)
		moved.disp += in->opsize;
	cpu_store(cpu, cpu_ea(cpu, &moved, in->opsize, true), in->opsize, v);
	gpr_set(cpu, RSP, stack_size(cpu), rsp + in->opsize);
}

static void do_pusha(struct icpu *cpu, const struct insn *in)
{
	uint64_t sp = cpu->s.gpr[RSP], lin[8];

	for (unsigned i = 0; i < 8; i++) {
		lin[i] = stack_linear(cpu, sp - (i + 1) * in->opsize, in->opsize, true);
		cpu_check_write(cpu, lin[i], in->opsize);
	}
	for (unsigned i = 0; i < 8; i++)
		cpu_store(cpu, lin[i], in->opsize, gpr_get(cpu, i, in->opsize));
	gpr_set(cpu, RSP, stack_size(cpu), sp - 8 * in->opsize);
}

static void do_popa(struct icpu *cpu, const struct insn *in)
{
	uint64_t sp = cpu->s.gpr[RSP], v[8];

	for (unsigned i = 0; i < 8; i++)
		v[i] = cpu_load(cpu, stack_linear(cpu, sp + i * in->opsize, in->opsize, false), in->opsize);
	for (unsigned i = 0; i < 8; i++) {
		if (7 - i != RSP)
			gpr_set(cpu, 7 - i, in->opsize, v[i]);
	}
	gpr_set(cpu, RSP, stack_size(cpu), sp + 8 * in->opsize);
}

/* SDM 2A, ENTER: imm is the frame's size, aux the nesting level. */
static void do_enter(struct icpu *cpu, const struct insn *in)
{
	unsigned len = in->opsize, level = in->aux & 31;
	uint64_t rsp = cpu->s.gpr[RSP], sp = rsp - len, bp = cpu->s.gpr[RBP];
	uint64_t frame = sp, end = frame - level * len - in->imm;

	/* Everything is tried before the first store. */
	for (unsigned i = 1; i < level; i++)
		cpu_load(cpu, stack_linear(cpu, bp - i * len, len, false), len);
	for (unsigned i = 0; i <= level; i++)
		cpu_check_write(cpu, stack_linear(cpu, rsp - (i + 1) * len, len, true), len);
	cpu_check_write(cpu, stack_linear(cpu, end, len, true), len);

	cpu_store(cpu, stack_linear(cpu, sp, len, true), len, gpr_get(cpu, RBP, len));
	for (unsigned i = 1; i <= level; i++) {
		/* The old display may overlap what is being pushed: read it entry by entry. */
		uint64_t v = i == level ? frame : cpu_load(cpu, stack_linear(cpu, bp - i * len, len, false), len);
		sp -= len;
		cpu_store(cpu, stack_linear(cpu, sp, len, true), len, v & mask_bytes(len));
	}
	gpr_set(cpu, RBP, len, frame);
	gpr_set(cpu, RSP, stack_size(cpu), end);
}

static void do_leave(struct icpu *cpu, const struct insn *in)
{
	uint64_t bp = cpu->s.gpr[RBP];
	uint64_t v = cpu_load(cpu, stack_linear(cpu, bp, in->opsize, false), in->opsize);

	gpr_set(cpu, RSP, stack_size(cpu), bp + in->opsize);
	gpr_set(cpu, RBP, in->opsize, v);
}

static bool push_pop_bind(struct insn *in, bool push, const ZydisDecodedOperand *ops)
{
	if (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
		ZydisRegisterClass c = ZydisRegisterGetClass(ops[0].reg.value);
		if (c < ZYDIS_REGCLASS_GPR8 || c > ZYDIS_REGCLASS_GPR64)
			return false;
		if (push)
			in->fn = in->opsize == 8 ? push_r_8 : push_any;
		else
			in->fn = in->opsize == 8 ? pop_r_8 : pop_r;
	} else if (ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		in->imm = ops[0].imm.is_signed ? (uint64_t)ops[0].imm.value.s : ops[0].imm.value.u;
		in->fn = push_imm;
	} else {
		in->fn = push ? push_any : pop_m;
	}
	return true;
}

bool int_stack_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	uint8_t width = (uint8_t)(zi->operand_width / 8u);

	/* 64-bit code has no 32-bit stack operations. */
	if (cpu->code_bits == 64 && width != 2)
		width = 8;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		in->opsize = width;
		return push_pop_bind(in, zi->mnemonic == ZYDIS_MNEMONIC_PUSH, ops);
	case ZYDIS_MNEMONIC_PUSHA: in->fn = do_pusha; width = 2; break;
	case ZYDIS_MNEMONIC_PUSHAD: in->fn = do_pusha; width = 4; break;
	case ZYDIS_MNEMONIC_POPA: in->fn = do_popa; width = 2; break;
	case ZYDIS_MNEMONIC_POPAD: in->fn = do_popa; width = 4; break;
	case ZYDIS_MNEMONIC_ENTER:
		in->fn = do_enter;
		in->imm = ops[0].imm.value.u & 0xffff;
		in->aux = ops[1].imm.value.u;
		break;
	case ZYDIS_MNEMONIC_LEAVE: in->fn = do_leave; break;
	default: return false;
	}
	in->opsize = width;
	return true;
}
