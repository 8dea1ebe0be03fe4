/* Far transfers: JMP, CALL, RET and IRET through segments, call gates and tasks (SDM 3A 5.8, SDM 2). */
#include <string.h>

#include "accel/interp/sys.h"

static uint64_t operand_mask(const struct insn *in)
{
	return mask_bytes(in->opsize);
}

/* The pointer: immediate (in->imm, in->aux) or in memory. */
static void far_pointer(struct icpu *cpu, const struct insn *in, uint16_t *selector, uint64_t *offset)
{
	if (in->dst_kind == OPD_MEM) {
		uint64_t lin = cpu_ea(cpu, in, in->opsize + 2u, false);

		*offset = cpu_load(cpu, lin, in->opsize);
		*selector = (uint16_t)cpu_load(cpu, lin + in->opsize, 2);
	} else {
		*offset = in->imm & operand_mask(in);
		*selector = (uint16_t)in->aux;
	}
}

static void far_real(struct icpu *cpu, uint16_t selector, uint64_t offset)
{
	struct x86_segment cs = cpu->s.seg[SEG_CS];

	segment_set_real(&cs, selector, in_v8086(cpu));
	if (offset > cs.limit)
		raise_gp(cpu, 0);
	cpu->s.seg[SEG_CS] = cs;
	cpu->next_rip = offset;
	cpu_mode_changed(cpu);
}

/* A code segment as the direct target of JMP or CALL. */
static void check_code_target(struct icpu *cpu, uint16_t selector, const struct descriptor *d)
{
	if (desc_conforming(d) ? DESC_DPL(d) > cpu->cpl : (selector & 3u) > cpu->cpl || DESC_DPL(d) != cpu->cpl)
		raise_selector(cpu, EXC_GP, selector);
	if (cpu->long_mode && (d->attr & SEG_ATTR_L) && (d->attr & SEG_ATTR_DB))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, selector);
}

struct call_gate {
	uint16_t selector;
	uint64_t offset;
	unsigned parameters;
	bool wide; /* 32-bit (64-bit in long mode) */
};

static void read_call_gate(struct icpu *cpu, uint16_t selector, const struct descriptor *d, struct call_gate *g)
{
	if (DESC_DPL(d) < cpu->cpl || (selector & 3u) > DESC_DPL(d))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, selector);
	g->selector = (uint16_t)(d->low >> 16);
	g->offset = (d->low & 0xffff) | (d->high & 0xffff0000);
	g->parameters = d->high & 31;
	g->wide = DESC_TYPE(d) == SYS_CALL32;
	if (!g->wide)
		g->offset &= 0xffff;
	if (cpu->long_mode)
		g->offset |= desc_base_high(cpu, d);
}

static void read_gate_target(struct icpu *cpu, const struct call_gate *g, bool jump, struct descriptor *d)
{
	if (!(g->selector & ~3u))
		raise_gp(cpu, 0);
	if (!desc_read(cpu, g->selector, d) || !desc_code(d) || DESC_DPL(d) > cpu->cpl)
		raise_selector(cpu, EXC_GP, g->selector);
	if (jump && !desc_conforming(d) && DESC_DPL(d) != cpu->cpl)
		raise_selector(cpu, EXC_GP, g->selector);
	if (cpu->long_mode && (!(d->attr & SEG_ATTR_L) || (d->attr & SEG_ATTR_DB)))
		raise_selector(cpu, EXC_GP, g->selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, g->selector);
}

static void jump_through_gate(struct icpu *cpu, const struct call_gate *g)
{
	struct descriptor d;
	struct x86_segment cs;

	read_gate_target(cpu, g, true, &d);
	desc_to_segment(&d, g->selector, &cs);
	check_new_rip(cpu, &cs, g->offset);
	desc_set_accessed(cpu, &d);
	set_cs(cpu, &cs, cpu->cpl, g->offset);
}

static void call_through_gate(struct icpu *cpu, const struct call_gate *g)
{
	unsigned width = cpu->long_mode ? 8 : g->wide ? 4 : 2;
	uint64_t parameter[31], return_rip = cpu->next_rip;
	struct descriptor d;
	struct x86_segment cs;
	struct new_stack st;
	unsigned new_cpl;

	read_gate_target(cpu, g, false, &d);
	desc_to_segment(&d, g->selector, &cs);
	check_new_rip(cpu, &cs, g->offset);
	new_cpl = desc_conforming(&d) ? cpu->cpl : DESC_DPL(&d);
	if (new_cpl == cpu->cpl) {
		st = (struct new_stack){ cpu->s.seg[SEG_SS], cpu->s.gpr[RSP], cpu->cpl == 3, false };
	} else {
		unsigned count = cpu->long_mode ? 0 : g->parameters;

		for (unsigned i = 0; i < count; i++)
			parameter[i] = cpu_load(cpu, cpu_linear(cpu, SEG_SS, (cpu->s.gpr[RSP] + i * width) & mask_bytes(cpu->stack_bits / 8u), width, false), width);
		stack_from_tss(cpu, new_cpl, &st);
		new_stack_push(cpu, &st, width, cpu->s.seg[SEG_SS].selector);
		new_stack_push(cpu, &st, width, cpu->s.gpr[RSP]);
		for (unsigned i = count; i-- > 0;)
			new_stack_push(cpu, &st, width, parameter[i]);
	}
	new_stack_push(cpu, &st, width, cpu->s.seg[SEG_CS].selector);
	new_stack_push(cpu, &st, width, return_rip);
	desc_set_accessed(cpu, &d);
	if (new_cpl != cpu->cpl)
		cpu->s.seg[SEG_SS] = st.ss;
	set_cs(cpu, &cs, new_cpl, g->offset);
	set_stack_pointer(cpu, st.sp);
}

/* A system descriptor as target: call gate, task gate or TSS. */
static void far_system(struct icpu *cpu, uint16_t selector, const struct descriptor *d, bool call)
{
	unsigned type = DESC_TYPE(d);
	struct call_gate g;

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !cpu->long_mode)) {
		read_call_gate(cpu, selector, d, &g);
		if (call)
			call_through_gate(cpu, &g);
		else
			jump_through_gate(cpu, &g);
		return;
	}
	if (cpu->long_mode || (type != SYS_TASK_GATE && type != SYS_TSS16 && type != SYS_TSS32))
		raise_selector(cpu, EXC_GP, selector);
	if (DESC_DPL(d) < cpu->cpl || DESC_DPL(d) < (selector & 3u))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, selector);
	if (type == SYS_TASK_GATE)
		selector = (uint16_t)(d->low >> 16);
	task_switch(cpu, selector, call ? TASK_CALL : TASK_JMP, cpu->next_rip, false, 0);
}

static void far_transfer(struct icpu *cpu, const struct insn *in, bool call)
{
	struct descriptor d;
	struct x86_segment cs;
	uint16_t selector;
	uint64_t offset;

	far_pointer(cpu, in, &selector, &offset);
	if (!in_protected_mode(cpu)) {
		uint64_t sp = cpu->s.gpr[RSP];

		if (offset > 0xffff)
			raise_gp(cpu, 0);
		if (call) {
			uint64_t mask = cpu->stack_bits == 32 ? 0xffffffffu : 0xffffu;

			/* Both pushes are checked before either is seen. */
			cpu_check_write(cpu, cpu_linear(cpu, SEG_SS, (sp - 2u * in->opsize) & mask, in->opsize, true), in->opsize);
			cpu_push(cpu, in->opsize, cpu->s.seg[SEG_CS].selector);
			cpu_push(cpu, in->opsize, cpu->next_rip);
		}
		far_real(cpu, selector, offset);
		return;
	}
	if (!(selector & ~3u))
		raise_gp(cpu, 0);
	if (!desc_read(cpu, selector, &d))
		raise_selector(cpu, EXC_GP, selector);
	if (desc_system(&d)) {
		far_system(cpu, selector, &d, call);
		return;
	}
	if (!desc_code(&d))
		raise_selector(cpu, EXC_GP, selector);
	check_code_target(cpu, selector, &d);
	desc_to_segment(&d, selector, &cs);
	check_new_rip(cpu, &cs, offset);
	if (call) {
		struct new_stack st = { cpu->s.seg[SEG_SS], cpu->s.gpr[RSP], cpu->cpl == 3, false };

		if (cpu->code_bits == 64) {
			new_stack_push(cpu, &st, in->opsize, cpu->s.seg[SEG_CS].selector);
			new_stack_push(cpu, &st, in->opsize, cpu->next_rip);
			desc_set_accessed(cpu, &d);
			cpu->s.gpr[RSP] = st.sp;
		} else {
			uint64_t sp = cpu->s.gpr[RSP];

			cpu_check_write(cpu, cpu_linear(cpu, SEG_SS, (sp - 2u * in->opsize) & mask_bytes(cpu->stack_bits / 8u), in->opsize, true),
					in->opsize);
			cpu_push(cpu, in->opsize, cpu->s.seg[SEG_CS].selector);
			cpu_push(cpu, in->opsize, cpu->next_rip);
			desc_set_accessed(cpu, &d);
		}
	} else {
		desc_set_accessed(cpu, &d);
	}
	set_cs(cpu, &cs, cpu->cpl, offset);
}

static void do_jmp_far(struct icpu *cpu, const struct insn *in) { far_transfer(cpu, in, false); }
static void do_call_far(struct icpu *cpu, const struct insn *in) { far_transfer(cpu, in, true); }

/* ---- returns ---- */

/* Reads the stack without moving RSP. */
static uint64_t peek(struct icpu *cpu, uint64_t *at, unsigned len)
{
	uint64_t mask = mask_bytes(cpu->stack_bits / 8u);
	uint64_t v = cpu_load(cpu, cpu_linear(cpu, SEG_SS, (cpu->s.gpr[RSP] + *at) & mask, len, false), len);

	*at += len;
	return v;
}

/* The code segment that a RET or IRET returns to. */
static void read_return_code(struct icpu *cpu, uint16_t selector, struct descriptor *d)
{
	unsigned rpl = selector & 3;

	if (!(selector & ~3u))
		raise_gp(cpu, 0);
	if (!desc_read(cpu, selector, d) || !desc_code(d) || rpl < cpu->cpl)
		raise_selector(cpu, EXC_GP, selector);
	if (desc_conforming(d) ? DESC_DPL(d) > rpl : DESC_DPL(d) != rpl)
		raise_selector(cpu, EXC_GP, selector);
	if (cpu->long_mode && (d->attr & SEG_ATTR_L) && (d->attr & SEG_ATTR_DB))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, selector);
}

/* The stack segment of an outer privilege. `wide` code may return to a null one outside of ring 3. */
static void read_return_stack(struct icpu *cpu, uint16_t selector, unsigned rpl, const struct descriptor *code,
			      struct x86_segment *out)
{
	struct descriptor d;

	if (!(selector & ~3u)) {
		if (!cpu->long_mode || !(code->attr & SEG_ATTR_L) || rpl == 3)
			raise_gp(cpu, 0);
		*out = (struct x86_segment){ .selector = selector, .attr = (uint16_t)(SEG_UNUSABLE | rpl << 5) };
		return;
	}
	if (!desc_read(cpu, selector, &d) || (selector & 3u) != rpl || DESC_DPL(&d) != rpl || !desc_writable_data(&d))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_SS, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, out);
}

/* Segments that the outer privilege may not use become null. */
static void drop_inner_segments(struct icpu *cpu, unsigned cpl)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < sizeof(data); i++) {
		struct x86_segment *s = &cpu->s.seg[data[i]];
		bool conforming = (s->attr & 0xc) == 0xc;

		/* What is null already loses its privilege bits. */
		if ((s->attr & SEG_UNUSABLE) && s->selector < 4)
			s->selector = 0;
		if (!(s->attr & SEG_UNUSABLE) && !conforming && SEG_ATTR_DPL(s->attr) < cpl) {
			s->selector = 0;
			s->attr = SEG_UNUSABLE;
			if (!cpu->long_mode)
				s->base = 0;
		}
	}
}

static void move_stack(struct icpu *cpu, uint64_t by)
{
	set_stack_pointer(cpu, cpu->s.gpr[RSP] + by);
}

static void do_ret_far(struct icpu *cpu, const struct insn *in)
{
	unsigned size = in->opsize;
	uint64_t at = 0, rip = peek(cpu, &at, size), release = in->dst_kind == OPD_IMM ? in->imm & 0xffff : 0;
	uint16_t selector = (uint16_t)peek(cpu, &at, size), ss_selector;
	struct x86_segment cs, ss;
	struct descriptor d;
	unsigned rpl = selector & 3;
	uint64_t sp;

	if (!in_protected_mode(cpu)) {
		if (rip > 0xffff)
			raise_gp(cpu, 0);
		far_real(cpu, selector, rip);
		move_stack(cpu, at + release);
		return;
	}
	read_return_code(cpu, selector, &d);
	desc_to_segment(&d, selector, &cs);
	check_new_rip(cpu, &cs, rip);
	if (rpl == cpu->cpl) {
		desc_set_accessed(cpu, &d);
		move_stack(cpu, at + release);
		set_cs(cpu, &cs, rpl, rip);
		return;
	}
	at += release;
	sp = peek(cpu, &at, size);
	ss_selector = (uint16_t)peek(cpu, &at, size);
	read_return_stack(cpu, ss_selector, rpl, &d, &ss);
	desc_set_accessed(cpu, &d);
	cpu->s.seg[SEG_SS] = ss;
	set_cs(cpu, &cs, rpl, rip);
	set_stack_pointer(cpu, sp + release);
	drop_inner_segments(cpu, rpl);
}

/* ---- IRET ---- */

static void iret_flags(struct icpu *cpu, uint64_t flags, unsigned size, unsigned old_cpl, unsigned iopl)
{
	uint64_t change = IRET_FLAGS_USER;

	if (old_cpl <= iopl)
		change |= RFLAGS_IF;
	if (old_cpl == 0)
		change |= RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP;
	if (size == 2)
		change &= 0xffff;
	cpu->s.rflags = (cpu->s.rflags & ~change) | (flags & change) | 2;
}

static void iret_real(struct icpu *cpu, const struct insn *in)
{
	unsigned size = in->opsize;
	uint64_t at = 0, rip = peek(cpu, &at, size), flags;
	uint16_t selector = (uint16_t)peek(cpu, &at, size);

	flags = peek(cpu, &at, size);
	if (in_v8086(cpu) && cpu_iopl(cpu) < 3)
		raise_gp(cpu, 0);
	if (rip > 0xffff)
		raise_gp(cpu, 0);
	move_stack(cpu, at);
	if (in_v8086(cpu)) {
		uint64_t change = IRET_FLAGS_USER | RFLAGS_IF;

		if (size == 2)
			change &= 0xffff;
		cpu->s.rflags = (cpu->s.rflags & ~change) | (flags & change) | 2;
	} else {
		iret_flags(cpu, flags, size, 0, 3);
	}
	far_real(cpu, selector, rip);
}

static void iret_to_v8086(struct icpu *cpu, uint64_t at, uint64_t rip, uint16_t selector, uint64_t flags)
{
	uint64_t sp = peek(cpu, &at, 4);
	uint16_t values[5];
	static const uint8_t order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < 5; i++)
		values[i] = (uint16_t)peek(cpu, &at, 4);
	cpu->s.rflags = (flags & (IRET_FLAGS_SYSTEM | RFLAGS_VM)) | 2;
	for (unsigned i = 0; i < 5; i++)
		segment_set_real(&cpu->s.seg[order[i]], values[i], true);
	segment_set_real(&cpu->s.seg[SEG_CS], selector, true);
	cpu->s.gpr[RSP] = sp & 0xffffffff;
	cpu->next_rip = rip & 0xffff;
	cpu_mode_changed(cpu);
}

static void iret_protected(struct icpu *cpu, const struct insn *in)
{
	unsigned size = in->opsize, old_cpl = cpu->cpl, rpl, iopl = cpu_iopl(cpu);
	uint64_t at = 0, rip = peek(cpu, &at, size), flags, sp = 0;
	uint16_t selector = (uint16_t)peek(cpu, &at, size);
	bool with_stack;
	struct descriptor d;
	struct x86_segment cs, ss = { 0 };

	flags = peek(cpu, &at, size);
	if ((flags & RFLAGS_VM) && size == 4 && !cpu->long_mode && old_cpl == 0) {
		iret_to_v8086(cpu, at, rip, selector, flags);
		return;
	}
	read_return_code(cpu, selector, &d);
	rpl = selector & 3;
	/* 64-bit code always returns with a stack. */
	with_stack = rpl != old_cpl || cpu->code_bits == 64;
	if (with_stack) {
		uint16_t ss_selector;

		sp = peek(cpu, &at, size);
		ss_selector = (uint16_t)peek(cpu, &at, size);
		read_return_stack(cpu, ss_selector, rpl, &d, &ss);
	}
	desc_to_segment(&d, selector, &cs);
	check_new_rip(cpu, &cs, rip);
	desc_set_accessed(cpu, &d);
	iret_flags(cpu, flags, size, old_cpl, iopl);
	if (!with_stack) {
		move_stack(cpu, at);
		set_cs(cpu, &cs, rpl, rip);
		return;
	}
	cpu->s.seg[SEG_SS] = ss;
	set_cs(cpu, &cs, rpl, rip);
	set_stack_pointer(cpu, sp);
	if (rpl != old_cpl)
		drop_inner_segments(cpu, rpl);
}

static void do_iret(struct icpu *cpu, const struct insn *in)
{
	if (!in_protected_mode(cpu)) {
		iret_real(cpu, in);
	} else if (cpu->s.rflags & RFLAGS_NT) {
		if (cpu->long_mode)
			raise_gp(cpu, 0);
		task_switch(cpu, (uint16_t)cpu_load_system(cpu, cpu->s.tr.base, 2), TASK_IRET, cpu->next_rip, false, 0);
	} else {
		iret_protected(cpu, in);
	}
	cpu->s.nmi_masked = false;
	cpu->block_ends = true;
}

bool sys_far_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
		if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
			return false;
		in->fn = zi->mnemonic == ZYDIS_MNEMONIC_JMP ? do_jmp_far : do_call_far;
		break;
	case ZYDIS_MNEMONIC_RET:
		if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
			return false;
		in->fn = do_ret_far;
		break;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		in->fn = do_iret;
		break;
	default:
		return false;
	}
	in->opsize = (uint8_t)(zi->operand_width / 8);
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}
