/* Segment registers and descriptors: loads with every check, MOV, PUSH, POP and the far-pointer loads
 * (SDM 3A 5.6 to 5.8; SDM 2). */
#include <string.h>

#include "accel/interp/sys.h"

bool desc_find(const struct icpu *cpu, uint16_t selector, struct descriptor *d)
{
	uint64_t table;
	uint32_t limit;

	if (selector & 4) {
		if ((cpu->s.ldtr.attr & SEG_UNUSABLE) || !(cpu->s.ldtr.selector & ~3u))
			return false;
		table = cpu->s.ldtr.base;
		limit = cpu->s.ldtr.limit;
	} else {
		table = cpu->s.gdtr.base;
		limit = cpu->s.gdtr.limit;
	}
	if ((selector | 7u) > limit)
		return false;
	d->address = table + (selector & ~7u);
	if (!cpu->long_mode)
		d->address = (uint32_t)d->address;
	return true;
}

void desc_parse(struct descriptor *d, uint64_t raw)
{
	d->low = (uint32_t)raw;
	d->high = (uint32_t)(raw >> 32);
	d->base = d->low >> 16 | (d->high & 0xff) << 16 | (d->high & 0xff000000);
	d->limit = (d->low & 0xffff) | (d->high & 0xf0000);
	if (d->high & 0x800000)
		d->limit = d->limit << 12 | 0xfff;
	d->attr = (uint16_t)((d->high >> 8 & 0xff) | (d->high >> 12 & 0xf00));
}

bool desc_read(struct icpu *cpu, uint16_t selector, struct descriptor *d)
{
	if (!desc_find(cpu, selector, d))
		return false;
	desc_parse(d, cpu_load_system(cpu, d->address, 8));
	return true;
}

uint64_t desc_base_high(struct icpu *cpu, const struct descriptor *d)
{
	return cpu_load_system(cpu, d->address + 8, 4) << 32;
}

void desc_set_accessed(struct icpu *cpu, struct descriptor *d)
{
	if (!(d->attr & SEG_ATTR_S) || (d->attr & 1))
		return;
	d->attr |= 1;
	d->high |= 0x100;
	cpu_store_system(cpu, d->address + 5, 1, d->high >> 8 & 0xff);
}

void desc_to_segment(const struct descriptor *d, uint16_t selector, struct x86_segment *s)
{
	*s = (struct x86_segment){ .base = d->base, .limit = d->limit, .selector = selector, .attr = d->attr };
	if (d->attr & SEG_ATTR_S)
		s->attr |= 1;
}

static void load_stack_segment(struct icpu *cpu, uint16_t selector)
{
	struct descriptor d;

	if (!(selector & ~3u)) {
		/* 64-bit code of rings 0 to 2 may load null. */
		if (cpu->code_bits != 64 || cpu->cpl == 3 || (selector & 3) != cpu->cpl)
			raise_gp(cpu, 0);
		cpu->s.seg[SEG_SS] = (struct x86_segment){ .selector = selector, .attr = (uint16_t)(SEG_UNUSABLE | cpu->cpl << 5) };
		return;
	}
	if (!desc_read(cpu, selector, &d) || (selector & 3) != cpu->cpl || DESC_DPL(&d) != cpu->cpl || !desc_writable_data(&d))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_SS, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &cpu->s.seg[SEG_SS]);
	cpu_mode_changed(cpu);
}

static void load_data_segment(struct icpu *cpu, enum x86_seg seg, uint16_t selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (!(selector & ~3u)) {
		/* The base of FS and GS survives on AMD; Intel clears it, and so do we. */
		cpu->s.seg[seg] = (struct x86_segment){ .selector = selector, .attr = SEG_UNUSABLE };
		return;
	}
	if (!desc_read(cpu, selector, &d) || desc_system(&d) || (desc_code(&d) && !(d.attr & 2)))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_conforming(&d) && (rpl > DESC_DPL(&d) || cpu->cpl > DESC_DPL(&d)))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &cpu->s.seg[seg]);
}

void seg_load(struct icpu *cpu, enum x86_seg seg, uint16_t selector)
{
	if (!in_protected_mode(cpu)) {
		segment_set_real(&cpu->s.seg[seg], selector, in_v8086(cpu));
		return;
	}
	if (seg == SEG_SS)
		load_stack_segment(cpu, selector);
	else
		load_data_segment(cpu, seg, selector);
}

/* ---- MOV, PUSH, POP ---- */

static void mov_to_seg_reg(struct icpu *cpu, const struct insn *in)
{
	seg_load(cpu, (enum x86_seg)in->aux, (uint16_t)cpu->s.gpr[in->src_reg]);
	if (in->aux == SEG_SS)
		cpu->s.interrupt_shadow = true, cpu->block_ends = true;
}

static void mov_to_seg_mem(struct icpu *cpu, const struct insn *in)
{
	seg_load(cpu, (enum x86_seg)in->aux, (uint16_t)cpu_load(cpu, cpu_ea(cpu, in, 2, false), 2));
	if (in->aux == SEG_SS)
		cpu->s.interrupt_shadow = true, cpu->block_ends = true;
}

static void mov_from_seg_reg(struct icpu *cpu, const struct insn *in)
{
	uint16_t v = cpu->s.seg[in->aux].selector;

	if (in->opsize == 2)
		memcpy(&cpu->s.gpr[in->dst_reg], &v, 2);
	else
		cpu->s.gpr[in->dst_reg] = v;
}

static void mov_from_seg_mem(struct icpu *cpu, const struct insn *in)
{
	cpu_store(cpu, cpu_ea(cpu, in, 2, true), 2, cpu->s.seg[in->aux].selector);
}

/* A 32-bit push writes two bytes on processors of today; the slot's other bytes stay. */
static void push_seg(struct icpu *cpu, const struct insn *in)
{
	if (in->opsize == 4) {
		uint64_t mask = cpu->stack_bits == 64 ? UINT64_MAX : cpu->stack_bits == 32 ? 0xffffffffu : 0xffffu;
		uint64_t sp = (cpu->s.gpr[RSP] - 4) & mask;

		cpu_store(cpu, cpu_linear(cpu, SEG_SS, sp, 4, true), 2, cpu->s.seg[in->aux].selector);
		set_stack_pointer(cpu, sp);
	} else {
		cpu_push(cpu, in->opsize, cpu->s.seg[in->aux].selector);
	}
}

static void pop_seg(struct icpu *cpu, const struct insn *in)
{
	uint64_t mask = cpu->stack_bits == 64 ? UINT64_MAX : cpu->stack_bits == 32 ? 0xffffffffu : 0xffffu;
	uint64_t sp = cpu->s.gpr[RSP] & mask;
	uint16_t selector = (uint16_t)cpu_load(cpu, cpu_linear(cpu, SEG_SS, sp, 2, false), 2);
	unsigned stack_bits = cpu->stack_bits;

	seg_load(cpu, (enum x86_seg)in->aux, selector);
	/* RSP moves by the width of the stack that was popped from. */
	sp += in->opsize;
	if (stack_bits == 16)
		memcpy(&cpu->s.gpr[RSP], &sp, 2);
	else
		cpu->s.gpr[RSP] = sp & mask;
	if (in->aux == SEG_SS)
		cpu->s.interrupt_shadow = true, cpu->block_ends = true;
}

/* LDS, LES, LFS, LGS, LSS. */
static void load_far_pointer(struct icpu *cpu, const struct insn *in)
{
	unsigned size = in->opsize;
	uint64_t lin = cpu_ea(cpu, in, size + 2, false);
	uint64_t offset = cpu_load(cpu, lin, size);
	uint16_t selector = (uint16_t)cpu_load(cpu, lin + size, 2);

	seg_load(cpu, (enum x86_seg)in->aux, selector);
	if (size == 2)
		memcpy(&cpu->s.gpr[in->dst_reg], &offset, 2);
	else
		cpu->s.gpr[in->dst_reg] = offset;
}

static bool is_segment(const ZydisDecodedOperand *op, uint64_t *seg)
{
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->reg.value < ZYDIS_REGISTER_ES || op->reg.value > ZYDIS_REGISTER_GS)
		return false;
	*seg = (uint64_t)ZydisRegisterGetId(op->reg.value);
	return true;
}

static bool bind_mov(struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	uint64_t seg;

	if (is_segment(&ops[0], &seg)) {
		if (seg == SEG_CS)
			return false;
		in->aux = seg;
		in->fn = ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY ? mov_to_seg_mem : mov_to_seg_reg;
		in->mem_size = 2;
		if (seg == SEG_SS)
			in->flags |= INSN_ENDS_BLOCK;
		return true;
	}
	if (!is_segment(&ops[1], &seg))
		return false;
	in->aux = seg;
	in->fn = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? mov_from_seg_mem : mov_from_seg_reg;
	in->opsize = (uint8_t)(zi->operand_width / 8);
	return true;
}

static bool bind_far_pointer(struct insn *in, const ZydisDecodedInstruction *zi, enum x86_seg seg)
{
	in->fn = load_far_pointer;
	in->aux = seg;
	in->opsize = (uint8_t)(zi->operand_width / 8);
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}

bool sys_segment_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	uint64_t seg;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return bind_mov(in, zi, ops);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		if (!is_segment(&ops[0], &seg))
			return false;
		in->aux = seg;
		in->opsize = (uint8_t)(zi->operand_width / 8);
		in->fn = zi->mnemonic == ZYDIS_MNEMONIC_PUSH ? push_seg : pop_seg;
		if (zi->mnemonic == ZYDIS_MNEMONIC_POP)
			in->flags |= INSN_ENDS_BLOCK;
		return true;
	case ZYDIS_MNEMONIC_LDS: return bind_far_pointer(in, zi, SEG_DS);
	case ZYDIS_MNEMONIC_LES: return bind_far_pointer(in, zi, SEG_ES);
	case ZYDIS_MNEMONIC_LFS: return bind_far_pointer(in, zi, SEG_FS);
	case ZYDIS_MNEMONIC_LGS: return bind_far_pointer(in, zi, SEG_GS);
	case ZYDIS_MNEMONIC_LSS: return bind_far_pointer(in, zi, SEG_SS);
	default: return false;
	}
}
