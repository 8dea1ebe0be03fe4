/*
 * Delivery of interrupts and exceptions: vectors in real mode, gates in protected and long mode,
 * double faults and shutdown (SDM 3A chapter 6).
 */
#include <string.h>

#include "accel/interp/core.h"
#include "accel/interp/sys.h"

void cpu_mode_changed(struct icpu *cpu)
{
	const struct x86_segment *cs = &cpu->s.seg[SEG_CS], *ss = &cpu->s.seg[SEG_SS];

	cpu->long_mode = cpu->s.efer & EFER_LMA;
	if (cpu->long_mode && (cs->attr & SEG_ATTR_L)) {
		cpu->code_bits = 64;
		cpu->stack_bits = 64;
	} else {
		cpu->code_bits = cs->attr & SEG_ATTR_DB ? 32 : 16;
		cpu->stack_bits = ss->attr & SEG_ATTR_DB ? 32 : 16;
	}
	if (!(cpu->s.cr0 & CR0_PE))
		cpu->cpl = 0;
	else if (cpu->s.rflags & RFLAGS_VM)
		cpu->cpl = 3;
	else
		cpu->cpl = (uint8_t)SEG_ATTR_DPL(ss->attr);
	cpu->block_ends = true;
}

void segment_set_real(struct x86_segment *s, uint16_t selector, bool v8086)
{
	s->selector = selector;
	s->base = (uint64_t)selector << 4;
	if (v8086) {
		s->limit = 0xffff;
		s->attr = SEG_ATTR_P | SEG_ATTR_S | 3 | 3 << 5;
	} else if (s->attr & SEG_UNUSABLE) {
		/* A null left over from protected mode; anything else keeps its limit ("unreal mode"). */
		s->limit = 0xffff;
		s->attr = SEG_ATTR_P | SEG_ATTR_S | 3;
	}
}

void check_new_rip(struct icpu *cpu, const struct x86_segment *cs, uint64_t rip)
{
	if (cpu->long_mode && (cs->attr & SEG_ATTR_L)) {
		if (!is_canonical(rip))
			raise_gp(cpu, 0);
	} else if ((uint32_t)rip > cs->limit) {
		raise_gp(cpu, 0);
	}
}

void set_cs(struct icpu *cpu, const struct x86_segment *cs, unsigned cpl, uint64_t rip)
{
	if (!cpu->long_mode || !(cs->attr & SEG_ATTR_L))
		rip = (uint32_t)rip;
	cpu->s.seg[SEG_CS] = *cs;
	cpu->s.seg[SEG_CS].selector = (uint16_t)((cs->selector & ~3u) | cpl);
	cpu->next_rip = rip;
	cpu->s.rip = rip;
	cpu_mode_changed(cpu);
}

void set_stack_pointer(struct icpu *cpu, uint64_t sp)
{
	if (cpu->stack_bits == 64)
		cpu->s.gpr[RSP] = sp;
	else if (cpu->stack_bits == 32)
		cpu->s.gpr[RSP] = (uint32_t)sp;
	else
		memcpy(&cpu->s.gpr[RSP], &sp, 2);
}

/* ---- stacks ---- */

static uint64_t tss_field(struct icpu *cpu, uint32_t offset, unsigned len)
{
	if ((uint64_t)offset + len - 1 > cpu->s.tr.limit)
		raise_selector(cpu, EXC_TS, cpu->s.tr.selector);
	return cpu_load_system(cpu, cpu->s.tr.base + offset, len);
}

void stack_from_tss(struct icpu *cpu, unsigned dpl, struct new_stack *out)
{
	bool wide = (cpu->s.tr.attr & SEG_ATTR_TYPE) & 8;
	struct descriptor d;
	uint16_t selector;

	out->user = dpl == 3;
	out->inner = true;
	if (cpu->long_mode) {
		out->sp = tss_field(cpu, 4 + 8 * dpl, 8);
		if (!is_canonical(out->sp))
			cpu_raise_error(cpu, EXC_SS, 0);
		out->ss = (struct x86_segment){ .selector = (uint16_t)dpl, .attr = (uint16_t)(SEG_UNUSABLE | dpl << 5) };
		return;
	}
	out->sp = wide ? tss_field(cpu, 4 + 8 * dpl, 4) : tss_field(cpu, 2 + 4 * dpl, 2);
	selector = (uint16_t)(wide ? tss_field(cpu, 8 + 8 * dpl, 2) : tss_field(cpu, 4 + 4 * dpl, 2));
	if (!(selector & ~3))
		raise_selector(cpu, EXC_TS, selector);
	if (!desc_read(cpu, selector, &d) || (selector & 3) != dpl || DESC_DPL(&d) != dpl || !desc_writable_data(&d))
		raise_selector(cpu, EXC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_SS, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &out->ss);
}

void new_stack_push(struct icpu *cpu, struct new_stack *st, unsigned len, uint64_t value)
{
	uint64_t sp = st->sp - len, lin;

	if (cpu->long_mode) {
		if (!is_canonical(sp))
			cpu_raise_error(cpu, EXC_SS, 0);
		lin = sp;
	} else {
		bool wide = st->ss.attr & SEG_ATTR_DB;
		bool down = (st->ss.attr & 0xc) == 4;
		uint32_t at = wide ? (uint32_t)sp : (uint16_t)sp;
		uint64_t last = (uint64_t)at + len - 1;

		if (down ? (at <= st->ss.limit || last > (wide ? 0xffffffffu : 0xffffu)) : last > st->ss.limit)
			cpu_raise_error(cpu, EXC_SS, st->inner ? st->ss.selector & 0xfffcu : 0);
		sp = wide ? at : (st->sp & ~UINT64_C(0xffff)) | at;
		lin = (uint32_t)(st->ss.base + at);
	}
	cpu_store_as(cpu, lin, len, value, st->user);
	st->sp = sp;
}

/* ---- real mode ---- */

static void deliver_real(struct icpu *cpu, uint8_t vector, uint64_t rip)
{
	uint32_t entry;
	uint16_t flags = (uint16_t)cpu->s.rflags;
	struct x86_segment cs = cpu->s.seg[SEG_CS];

	if (vector * 4u + 3 > cpu->s.idtr.limit)
		raise_gp(cpu, vector * 8u + 2);
	entry = (uint32_t)cpu_load_system(cpu, (uint32_t)(cpu->s.idtr.base + vector * 4u), 4);
	cpu_push(cpu, 2, flags);
	cpu_push(cpu, 2, cs.selector);
	cpu_push(cpu, 2, rip);
	cpu->s.rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
	segment_set_real(&cs, (uint16_t)(entry >> 16), false);
	cpu->s.seg[SEG_CS] = cs;
	cpu->s.rip = cpu->next_rip = entry & 0xffff;
}

/* ---- protected and long mode ---- */

struct gate {
	unsigned type, dpl, ist;
	bool present;
	uint16_t selector;
	uint64_t offset;
};

static void read_gate(struct icpu *cpu, uint8_t vector, struct gate *g)
{
	unsigned size = cpu->long_mode ? 16 : 8;
	uint64_t at = cpu->s.idtr.base + (uint64_t)vector * size, low, high = 0;

	if (vector * size + size - 1 > cpu->s.idtr.limit)
		raise_gp(cpu, vector * 8u + 2);
	low = cpu_load_system(cpu, at, 8);
	if (cpu->long_mode)
		high = cpu_load_system(cpu, at + 8, 8);
	g->type = low >> 40 & 0x1f; /* with the S bit: must be 0 */
	g->dpl = low >> 45 & 3;
	g->present = low >> 47 & 1;
	g->ist = cpu->long_mode ? low >> 32 & 7 : 0;
	g->selector = (uint16_t)(low >> 16);
	g->offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
}

static void check_gate(struct icpu *cpu, uint8_t vector, const struct gate *g, bool soft)
{
	bool known = g->type == SYS_INT32 || g->type == SYS_TRAP32 ||
		     (!cpu->long_mode && (g->type == SYS_INT16 || g->type == SYS_TRAP16 || g->type == SYS_TASK_GATE));

	if (!known || (soft && g->dpl < cpu->cpl))
		raise_gp(cpu, vector * 8u + 2);
	if (!g->present)
		cpu_raise_error(cpu, EXC_NP, vector * 8u + 2);
}

static void read_gate_code(struct icpu *cpu, uint16_t selector, struct descriptor *d)
{
	if (!(selector & ~3))
		raise_gp(cpu, 0);
	if (!desc_read(cpu, selector, d) || !desc_code(d) || DESC_DPL(d) > cpu->cpl)
		raise_selector(cpu, EXC_GP, selector);
	if (cpu->long_mode && (!(d->attr & SEG_ATTR_L) || (d->attr & SEG_ATTR_DB)))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(d))
		raise_selector(cpu, EXC_NP, selector);
}

/* The stack to push on: an IST entry, the inner one from the TSS, or the current one. */
static void choose_stack(struct icpu *cpu, const struct gate *g, bool inner, unsigned dpl, struct new_stack *st)
{
	if (inner) {
		stack_from_tss(cpu, dpl, st);
	} else {
		uint64_t sp = cpu->s.gpr[RSP];

		*st = (struct new_stack){ cpu->s.seg[SEG_SS], sp, cpu->cpl == 3, false };
		if (cpu->stack_bits == 32)
			st->sp = (uint32_t)sp;
		/* Code of compatibility mode keeps its segment, which long mode then ignores. */
		if (cpu->long_mode && cpu->code_bits != 64)
			st->sp = (uint32_t)sp;
	}
	if (g->ist) {
		st->sp = tss_field(cpu, 36 + 8 * (g->ist - 1), 8);
		if (!is_canonical(st->sp))
			cpu_raise_error(cpu, EXC_SS, 0);
	}
	if (cpu->long_mode)
		st->sp &= ~UINT64_C(15);
}

static void push_frame(struct icpu *cpu, struct new_stack *st, unsigned width, bool with_stack, uint64_t flags, uint64_t rip,
		       bool has_error, uint32_t error)
{
	if (in_v8086(cpu)) {
		new_stack_push(cpu, st, width, cpu->s.seg[SEG_GS].selector);
		new_stack_push(cpu, st, width, cpu->s.seg[SEG_FS].selector);
		new_stack_push(cpu, st, width, cpu->s.seg[SEG_DS].selector);
		new_stack_push(cpu, st, width, cpu->s.seg[SEG_ES].selector);
	}
	if (with_stack) {
		new_stack_push(cpu, st, width, cpu->s.seg[SEG_SS].selector);
		new_stack_push(cpu, st, width, cpu->s.gpr[RSP]);
	}
	new_stack_push(cpu, st, width, flags);
	new_stack_push(cpu, st, width, cpu->s.seg[SEG_CS].selector);
	new_stack_push(cpu, st, width, rip);
	if (has_error)
		new_stack_push(cpu, st, width, error);
}

static void deliver_gate(struct icpu *cpu, uint8_t vector, bool has_error, uint32_t error, bool soft, uint64_t rip,
			 uint64_t flags)
{
	struct descriptor code;
	struct x86_segment cs;
	struct new_stack st;
	unsigned new_cpl, width;
	bool inner, from_v8086 = in_v8086(cpu);
	struct gate g;

	read_gate(cpu, vector, &g);
	check_gate(cpu, vector, &g, soft);
	if (g.type == SYS_TASK_GATE) {
		task_switch(cpu, g.selector, TASK_EVENT, rip, has_error, error);
		return;
	}
	read_gate_code(cpu, g.selector, &code);
	new_cpl = desc_conforming(&code) ? cpu->cpl : DESC_DPL(&code);
	inner = new_cpl < cpu->cpl;
	if (from_v8086 && new_cpl != 0)
		raise_selector(cpu, EXC_GP, g.selector);
	choose_stack(cpu, &g, inner, new_cpl, &st);
	desc_to_segment(&code, g.selector, &cs);
	check_new_rip(cpu, &cs, g.offset);
	width = cpu->long_mode ? 8 : g.type & 8 ? 4 : 2;
	push_frame(cpu, &st, width, inner || cpu->long_mode, flags, rip, has_error, error);
	desc_set_accessed(cpu, &code);

	/* Nothing can fail from here on. */
	cpu->s.rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF);
	if (!(g.type & 1))
		cpu->s.rflags &= ~(uint64_t)RFLAGS_IF;
	if (from_v8086) {
		for (unsigned i = 0; i < SEG_COUNT; i++) {
			if (i != SEG_CS && i != SEG_SS)
				cpu->s.seg[i] = (struct x86_segment){ .attr = SEG_UNUSABLE };
		}
	}
	if (inner || cpu->long_mode) {
		if (inner)
			cpu->s.seg[SEG_SS] = st.ss;
	}
	set_cs(cpu, &cs, new_cpl, g.offset);
	set_stack_pointer(cpu, st.sp);
}

/* ---- the whole ---- */

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE };

static enum fault_class class_of(uint8_t vector)
{
	switch (vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
		return CLASS_CONTRIBUTORY;
	case EXC_PF:
		return CLASS_PAGE;
	default:
		return CLASS_BENIGN;
	}
}

/* A fault in delivering: what is delivered instead (SDM 3A table 6-5); false for a shutdown. */
static bool escalate(struct icpu *cpu, uint8_t *vector, bool *has_error, uint32_t *error, enum event_source source)
{
	enum fault_class first = source == EVENT_EXCEPTION ? class_of(*vector) : CLASS_BENIGN;
	enum fault_class second = class_of(cpu->exc_vector);

	if (source == EVENT_EXCEPTION && *vector == EXC_DF)
		return false;
	if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) || (first == CLASS_PAGE && second != CLASS_BENIGN)) {
		*vector = EXC_DF;
		*has_error = true;
		*error = 0;
		return true;
	}
	*vector = cpu->exc_vector;
	*has_error = cpu->exc_has_error;
	*error = cpu->exc_error;
	/* The EXT bit: not the program's own doing. */
	if (source != EVENT_SOFT && second == CLASS_CONTRIBUTORY && *has_error)
		*error |= 1;
	return true;
}

static bool fault_sets_rf(uint8_t vector, enum event_source source)
{
	return source == EVENT_EXCEPTION && vector != EXC_DB && vector != EXC_BP && vector != EXC_OF && vector != EXC_DF;
}

void deliver_event(struct icpu *cpu, uint8_t vector_in, bool has_error_in, uint32_t error_in, enum event_source source_in)
{
	/* Changed between sigsetjmp and siglongjmp. */
	volatile uint8_t vector = vector_in;
	volatile bool has_error = has_error_in;
	volatile uint32_t error = error_in;
	volatile enum event_source source = source_in;
	sigjmp_buf outer;

	memcpy(&outer, &cpu->fault, sizeof(outer));
	if (sigsetjmp(cpu->fault, 0)) {
		uint8_t v = vector;
		bool h = has_error;
		uint32_t e = error;

		if (!escalate(cpu, &v, &h, &e, source)) {
			cpu->shutdown = true;
			goto out;
		}
		vector = v;
		has_error = h;
		error = e;
		source = EVENT_EXCEPTION;
	}
	{
		uint64_t rip = source == EVENT_SOFT ? cpu->next_rip : cpu->s.rip;
		uint64_t flags = cpu->s.rflags | (fault_sets_rf(vector, source) ? RFLAGS_RF : 0);

		if (source == EVENT_EXCEPTION && vector == EXC_DB)
			cpu->s.dr7 &= ~UINT64_C(0x2000);
		if (!(cpu->s.cr0 & CR0_PE))
			deliver_real(cpu, vector, rip);
		else
			deliver_gate(cpu, vector, has_error, error, source == EVENT_SOFT, rip, flags);
	}
out:
	memcpy(&cpu->fault, &outer, sizeof(outer));
	cpu->s.interrupt_shadow = false;
	cpu->block_ends = true;
}

_Noreturn void raise_soft(struct icpu *cpu, uint8_t vector)
{
	cpu->exc_vector = vector;
	cpu->exc_has_error = false;
	cpu->exc_soft = true;
	cpu->exc_error = 0;
	siglongjmp(cpu->fault, 1);
}
