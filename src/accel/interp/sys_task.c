/* Hardware task switching (SDM 3A 7.3): 16-bit and 32-bit TSSs, by JMP, CALL, IRET and task gates. */
#include "accel/interp/core.h"
#include "accel/interp/sys.h"

/* A task's registers as a TSS holds them. */
struct task_image {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[SEG_COUNT], ldt, link;
	bool trap;
};

static uint64_t tss_get(struct icpu *cpu, const struct x86_segment *tss, uint32_t offset, unsigned len)
{
	return cpu_load_system(cpu, tss->base + offset, len);
}

static void tss_put(struct icpu *cpu, const struct x86_segment *tss, uint32_t offset, unsigned len, uint64_t v)
{
	cpu_store_system(cpu, tss->base + offset, len, v);
}

static void save_task(struct icpu *cpu, uint64_t rip, uint64_t flags)
{
	const struct x86_segment *tss = &cpu->s.tr;
	bool wide = tss->attr & 8;
	unsigned width = wide ? 4 : 2, segs = wide ? SEG_COUNT : 4;
	uint32_t at = wide ? 0x20 : 0x0e, seg_at = wide ? 0x48 : 0x22;

	tss_put(cpu, tss, at, width, rip);
	tss_put(cpu, tss, at + width, width, flags);
	for (unsigned i = 0; i < 8; i++)
		tss_put(cpu, tss, at + (2 + i) * width, width, cpu->s.gpr[i]);
	for (unsigned i = 0; i < segs; i++)
		tss_put(cpu, tss, seg_at + i * width, 2, cpu->s.seg[i].selector);
}

static void read_task(struct icpu *cpu, const struct x86_segment *tss, struct task_image *t)
{
	bool wide = tss->attr & 8;
	unsigned width = wide ? 4 : 2, segs = wide ? SEG_COUNT : 4;
	uint32_t at = wide ? 0x20 : 0x0e, seg_at = wide ? 0x48 : 0x22;

	*t = (struct task_image){ 0 };
	t->cr3 = wide ? (uint32_t)tss_get(cpu, tss, 0x1c, 4) : 0;
	t->eip = (uint32_t)tss_get(cpu, tss, at, width);
	t->eflags = (uint32_t)tss_get(cpu, tss, at + width, width);
	for (unsigned i = 0; i < 8; i++) {
		t->gpr[i] = (uint32_t)tss_get(cpu, tss, at + (2 + i) * width, width);
		if (!wide)
			t->gpr[i] |= 0xffff0000;
	}
	for (unsigned i = 0; i < segs; i++)
		t->seg[i] = (uint16_t)tss_get(cpu, tss, seg_at + i * width, 2);
	t->ldt = (uint16_t)tss_get(cpu, tss, wide ? 0x60 : 0x2a, 2);
	t->trap = wide && (tss_get(cpu, tss, 0x64, 2) & 1);
}

static void set_busy(struct icpu *cpu, uint16_t selector, bool busy)
{
	struct descriptor d;
	uint8_t access;

	if (!desc_read(cpu, selector, &d))
		return;
	access = (uint8_t)(d.high >> 8);
	cpu_store_system(cpu, d.address + 5, 1, busy ? access | 2u : access & ~2u);
}

static void find_tss(struct icpu *cpu, uint16_t selector, enum task_source source, struct x86_segment *out)
{
	enum x86_vector v = source == TASK_IRET ? EXC_TS : EXC_GP;
	bool back = source == TASK_IRET;
	struct descriptor d;
	unsigned type;

	if ((selector & 4) || !(selector & ~3u) || !desc_read(cpu, selector, &d) || !desc_system(&d))
		raise_selector(cpu, v, selector);
	type = DESC_TYPE(&d);
	if (back ? (type != SYS_TSS16_BUSY && type != SYS_TSS32_BUSY) : (type != SYS_TSS16 && type != SYS_TSS32))
		raise_selector(cpu, v, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	if (d.limit < (type & 8 ? 0x67u : 0x2bu))
		raise_selector(cpu, EXC_TS, selector);
	desc_to_segment(&d, selector, out);
	out->attr |= 2;
}

/* ---- the incoming task's segments: faults are its own, #TS ---- */

static void task_ldt(struct icpu *cpu, uint16_t selector)
{
	struct descriptor d;

	cpu->s.ldtr = (struct x86_segment){ .selector = selector, .attr = SEG_UNUSABLE };
	if (!(selector & ~3u))
		return;
	if ((selector & 4) || !desc_read(cpu, selector, &d) || !desc_system(&d) || DESC_TYPE(&d) != SYS_LDT || !desc_present(&d))
		raise_selector(cpu, EXC_TS, selector);
	desc_to_segment(&d, selector, &cpu->s.ldtr);
}

static void task_code(struct icpu *cpu, uint16_t selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (!(selector & ~3u) || !desc_read(cpu, selector, &d) || !desc_code(&d) ||
	    (desc_conforming(&d) ? DESC_DPL(&d) > rpl : DESC_DPL(&d) != rpl))
		raise_selector(cpu, EXC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &cpu->s.seg[SEG_CS]);
}

static void task_stack(struct icpu *cpu, uint16_t selector, unsigned cpl)
{
	struct descriptor d;

	if (!(selector & ~3u) || !desc_read(cpu, selector, &d) || (selector & 3u) != cpl || DESC_DPL(&d) != cpl ||
	    !desc_writable_data(&d))
		raise_selector(cpu, EXC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_SS, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &cpu->s.seg[SEG_SS]);
}

static void task_data(struct icpu *cpu, enum x86_seg seg, uint16_t selector, unsigned cpl)
{
	struct descriptor d;

	if (!(selector & ~3u))
		return;
	if (!desc_read(cpu, selector, &d) || desc_system(&d) || (desc_code(&d) && !(d.attr & 2)) ||
	    (!desc_conforming(&d) && (cpl > DESC_DPL(&d) || (selector & 3u) > DESC_DPL(&d))))
		raise_selector(cpu, EXC_TS, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	desc_set_accessed(cpu, &d);
	desc_to_segment(&d, selector, &cpu->s.seg[seg]);
}

static void load_segments(struct icpu *cpu, const struct task_image *t)
{
	unsigned cpl = t->seg[SEG_CS] & 3;

	task_ldt(cpu, t->ldt);
	if (cpu->s.rflags & RFLAGS_VM) {
		for (unsigned i = 0; i < SEG_COUNT; i++)
			segment_set_real(&cpu->s.seg[i], t->seg[i], true);
		cpu_mode_changed(cpu);
		return;
	}
	task_code(cpu, t->seg[SEG_CS]);
	task_stack(cpu, t->seg[SEG_SS], cpl);
	cpu_mode_changed(cpu);
	task_data(cpu, SEG_ES, t->seg[SEG_ES], cpl);
	task_data(cpu, SEG_DS, t->seg[SEG_DS], cpl);
	task_data(cpu, SEG_FS, t->seg[SEG_FS], cpl);
	task_data(cpu, SEG_GS, t->seg[SEG_GS], cpl);
}

static void take_registers(struct icpu *cpu, const struct x86_segment *tss, const struct task_image *t)
{
	cpu->s.tr = *tss;
	if ((tss->attr & 8) && (cpu->s.cr0 & CR0_PG) && cpu->s.cr3 != t->cr3) {
		cpu->s.cr3 = t->cr3;
		mmu_flush_nonglobal(cpu);
	}
	cpu->s.cr0 |= CR0_TS;
	cpu->s.rip = cpu->next_rip = t->eip;
	cpu->s.rflags = (t->eflags & (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF |
				      RFLAGS_VM | RFLAGS_AC | RFLAGS_ID)) | 2;
	for (unsigned i = 0; i < 8; i++)
		cpu->s.gpr[i] = t->gpr[i];
	/* Until each is loaded, the segments are null with the new task's selectors. */
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->s.seg[i] = (struct x86_segment){ .selector = t->seg[i],
						      .attr = (uint16_t)(SEG_UNUSABLE | (t->seg[SEG_CS] & 3) << 5) };
	cpu->s.dr7 &= ~UINT64_C(0x55);
	debug_changed(cpu);
}

void task_switch(struct icpu *cpu, uint16_t selector, enum task_source source, uint64_t resume_rip, bool has_error,
		 uint32_t error)
{
	uint16_t old_selector = cpu->s.tr.selector;
	uint64_t flags = cpu->s.rflags;
	struct x86_segment tss;
	struct task_image t;

	find_tss(cpu, selector, source, &tss);
	if (cpu->s.tr.limit < (cpu->s.tr.attr & 8 ? 0x5fu : 0x29u))
		raise_selector(cpu, EXC_TS, old_selector);
	read_task(cpu, &tss, &t);
	if (source == TASK_IRET)
		flags &= ~(uint64_t)RFLAGS_NT;
	save_task(cpu, resume_rip, flags);
	if (source == TASK_JMP || source == TASK_IRET)
		set_busy(cpu, old_selector, false);
	if (source != TASK_IRET)
		set_busy(cpu, selector, true);
	if (source == TASK_CALL || source == TASK_EVENT) {
		tss_put(cpu, &tss, 0, 2, old_selector);
		t.eflags |= RFLAGS_NT;
	}
	take_registers(cpu, &tss, &t);
	load_segments(cpu, &t);
	if (has_error)
		cpu_push(cpu, tss.attr & 8 ? 4 : 2, error);
	if (t.eip > cpu->s.seg[SEG_CS].limit)
		raise_gp(cpu, 0);
	cpu->next_rip = cpu->s.rip;
	cpu->block_ends = true;
	if (t.trap) {
		cpu->s.dr6 |= 0x8000;
		cpu_raise(cpu, EXC_DB);
	}
}
