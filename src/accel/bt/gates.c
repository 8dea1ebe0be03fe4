/*
 * Ways between user and supervisor code of 64-bit systems in few steps: SYSCALL, SYSRET, IRETQ and page faults, as far
 * as they go the way that operating systems go (SDM 2; SDM 3A 6.14). What a helper cannot do without a second look, it
 * leaves to the interpreter before it has changed anything. Compiled without vector registers: the guest's stay in them.
 */
#include "accel/bt/run.h"
#include "accel/bt/window.h"
#include "accel/interp/sys.h"
#include "base/log.h"

/* Goes on at rip, in 64-bit code of privilege cpl. */
static uint8_t *arrive(struct bt_cpu *b, unsigned cpl, uint64_t rip)
{
	struct icpu *cpu = &b->cpu;
	const struct bt_jumps *j;
	unsigned i = bt_jump_index(rip);

	cpu->cpl = (uint8_t)cpl;
	cpu->code_bits = cpu->stack_bits = 64;
	cpu->s.rip = rip;
	b->stats.gates++;
	if (cpu->stepping || bt_interrupted(b))
		return NULL;
	bt_mode_update(b);
	j = &b->jump[b->mode & MODE_USER];
	if (!(b->mode & (MODE_AC | MODE_NONE)) && (j->tag[i] ^ rip ^ b->salt[cpl == 3]) <= JUMP_FLAGS &&
	    !atomic_load_explicit(&cpu->poll, memory_order_acquire)) {
		if (b->windows)
			b->home[RSP] = windows_delta(b, mode_view(b->mode), cpu->s.gpr[RSP]);
		return j->target[i];
	}
	return bt_continue(b);
}

/* ---- system calls ---- */

uint8_t *bt_help_syscall(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	struct cpu_state *s = &b->cpu.s;
	uint64_t flags = bt_flags(b);
	uint16_t selector = (uint16_t)(s->star >> 32 & 0xfffc);

	if (!(s->efer & EFER_SCE) || !b->cpu.long_mode || (flags & ~s->fmask & RFLAGS_TF))
		return bt_interp_rec(b, rec);
	s->gpr[RCX] = bt_rec_lin(bt_rec_block(b, rec), rec);
	s->gpr[R11] = flags & ~(uint64_t)RFLAGS_RF;
	bt_flags_set(b, flags & ~s->fmask);
	s->seg[SEG_CS] = segment_flat(selector, FLAT_CODE64);
	s->seg[SEG_SS] = segment_flat((uint16_t)(selector + 8), FLAT_DATA);
	return arrive(b, 0, s->lstar);
}

uint8_t *bt_help_sysret(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	struct cpu_state *s = &b->cpu.s;
	uint64_t rip = s->gpr[RCX];
	uint16_t selector = (uint16_t)(s->star >> 48);

	if (!(s->efer & EFER_SCE) || b->cpu.cpl || !is_canonical(rip) || (s->gpr[R11] & RFLAGS_TF))
		return bt_interp_rec(b, rec);
	bt_flags_set(b, s->gpr[R11] & SYSRET_FLAGS);
	s->seg[SEG_CS] = segment_flat((uint16_t)((selector + 16) | 3), FLAT_CODE64 | 3 << 5);
	s->seg[SEG_SS] = segment_flat((uint16_t)((selector + 8) | 3), FLAT_DATA | 3 << 5);
	return arrive(b, 3, rip);
}

/* ---- descriptors that the soft TLB knows, and that have been used before ---- */

static bool segment_find(struct icpu *cpu, uint16_t selector, struct descriptor *d)
{
	const uint8_t *p;

	if (!(selector & ~3u) || !desc_find(cpu, selector, d) || !(p = mmu_hit(cpu, d->address, 8, ACCESS_READ, VIEW_SUPERVISOR)))
		return false;
	desc_parse(d, ld64le(p));
	return (d->attr & (SEG_ATTR_P | SEG_ATTR_S | 1)) == (SEG_ATTR_P | SEG_ATTR_S | 1);
}

/* A code segment of 64-bit code for that privilege. */
static bool code_find(struct icpu *cpu, uint16_t selector, unsigned cpl, struct x86_segment *cs)
{
	struct descriptor d;

	if (!segment_find(cpu, selector, &d) || !desc_code(&d) || desc_conforming(&d) || DESC_DPL(&d) != cpl ||
	    (d.attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
		return false;
	desc_to_segment(&d, (uint16_t)((selector & ~3u) | cpl), cs);
	return true;
}

static struct x86_segment null_stack(uint16_t selector, unsigned cpl)
{
	return (struct x86_segment){ .selector = selector, .attr = (uint16_t)(SEG_UNUSABLE | cpl << 5) };
}

static bool stack_find(struct icpu *cpu, uint16_t selector, unsigned cpl, struct x86_segment *ss)
{
	struct descriptor d;

	if ((selector & 3) != cpl)
		return false;
	if (!(selector & ~3u)) {
		*ss = null_stack(selector, cpl);
		return cpl != 3;
	}
	if (!segment_find(cpu, selector, &d) || DESC_DPL(&d) != cpl || !desc_writable_data(&d))
		return false;
	desc_to_segment(&d, selector, ss);
	return true;
}

/* ---- IRETQ ---- */

/* Whether no data segment is above what the outer privilege may use. */
static bool segments_stay(const struct cpu_state *s, unsigned cpl)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < sizeof(data); i++) {
		uint16_t attr = s->seg[data[i]].attr;

		if (!(attr & SEG_UNUSABLE) && (attr & 0xc) != 0xc && SEG_ATTR_DPL(attr) < cpl)
			return false;
		if (cpl && (attr & SEG_UNUSABLE) && (s->seg[data[i]].selector & 3))
			return false; /* a null one loses its privilege bits */
	}
	return true;
}

uint8_t *bt_help_iret(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	struct icpu *cpu = &b->cpu;
	struct cpu_state *s = &cpu->s;
	const uint8_t *frame = mmu_hit(cpu, s->gpr[RSP], 40, ACCESS_READ, mmu_view(cpu));
	uint64_t rip, flags, old = bt_flags(b);
	struct x86_segment cs, ss;
	uint16_t selector;
	unsigned cpl;
	uint8_t *to;

	if (cpu->cpl || !cpu->long_mode || (old & RFLAGS_NT) || !frame)
		return bt_interp_rec(b, rec);
	rip = ld64le(frame);
	selector = ld16le(frame + 8);
	flags = ld64le(frame + 16);
	cpl = selector & 3;
	if (!is_canonical(rip) || (flags & RFLAGS_TF) || !segments_stay(s, cpl) || !code_find(cpu, selector, cpl, &cs) ||
	    !stack_find(cpu, ld16le(frame + 32), cpl, &ss))
		return bt_interp_rec(b, rec);
	bt_flags_set(b, (old & ~(uint64_t)IRET_FLAGS_SYSTEM) | (flags & IRET_FLAGS_SYSTEM));
	s->gpr[RSP] = ld64le(frame + 24);
	s->seg[SEG_CS] = cs;
	s->seg[SEG_SS] = ss;
	s->nmi_masked = false;
	bt_fresh_look(b);
	to = arrive(b, cpl, rip);
	/* Whoever comes before the next instruction still finds RF; no breakpoint is enabled, or this would not be translated. */
	if (!to)
		s->rflags |= flags & RFLAGS_RF;
	return to;
}

/* ---- page faults ---- */

struct gate {
	uint64_t offset;
	struct x86_segment cs;
	bool trap;
};

/* To 64-bit code of ring 0, on no stack of its own. */
static bool gate_find(struct icpu *cpu, uint8_t vector, struct gate *g)
{
	const uint8_t *p;
	uint64_t low;
	unsigned type;

	if (vector * 16u + 15 > cpu->s.idtr.limit ||
	    !(p = mmu_hit(cpu, cpu->s.idtr.base + vector * 16u, 16, ACCESS_READ, VIEW_SUPERVISOR)))
		return false;
	low = ld64le(p);
	type = low >> 40 & 0x1f;
	g->offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | ld64le(p + 8) << 32;
	g->trap = type == SYS_TRAP32;
	return (low >> 47 & 1) && (type == SYS_INT32 || type == SYS_TRAP32) && !(low >> 32 & 7) && is_canonical(g->offset) &&
	       code_find(cpu, (uint16_t)(low >> 16), 0, &g->cs);
}

#define FRAME_BYTES 48u

/* Where the frame with an error code goes: the guest's address into *sp, the host's returned, or NULL. */
static uint8_t *frame_place(struct icpu *cpu, uint64_t *sp)
{
	const uint8_t *p;
	uint32_t error;

	*sp = cpu->s.gpr[RSP];
	if (cpu->cpl) {
		if (cpu->s.tr.limit < 11 || !(p = mmu_hit(cpu, cpu->s.tr.base + 4, 8, ACCESS_READ, VIEW_SUPERVISOR)))
			return NULL;
		*sp = ld64le(p);
	}
	*sp = (*sp & ~UINT64_C(15)) - FRAME_BYTES;
	if (!mmu_hit(cpu, *sp, FRAME_BYTES, ACCESS_WRITE, VIEW_SUPERVISOR) && is_canonical(*sp))
		mmu_fill(cpu, *sp, ACCESS_WRITE, VIEW_SUPERVISOR, &error);
	return mmu_hit(cpu, *sp, FRAME_BYTES, ACCESS_WRITE, VIEW_SUPERVISOR);
}

/* The address of a run's first access: a run of PUSH goes down from the other end. */
static uint64_t first_access(const struct bt_cpu *b, const struct bt_rec *rec, uint64_t lin)
{
	unsigned word = bt_rec_block(b, rec)->mode & MODE_CODE32 ? 4 : 8;

	return rec->count > 1 && rec->write ? lin + rec->size - word : lin;
}

uint8_t *bt_page_fault(struct bt_cpu *b, struct bt_rec *rec, uint64_t lin, uint32_t error)
{
	struct icpu *cpu = &b->cpu;
	struct cpu_state *s = &cpu->s;
	uint64_t flags = bt_flags(b), sp;
	struct gate g;
	uint8_t *frame;

	/* A misaligned operand of a vector instruction has another fault; runs of PUSH and POP have none. */
	if (!cpu->long_mode || (cpu->code_bits != 64 && cpu->cpl != 3) || (rec->size >= 16 && rec->frame == FRAME_NONE && (lin & 15)) ||
	    trace_on(TRACE_INT) || !gate_find(cpu, EXC_PF, &g) || !(frame = frame_place(cpu, &sp)))
		return bt_interp_rec(b, rec);
	b->unit.last = bt_rip_of(b, rec) - b->unit.lin;
	st64le(frame, error);
	st64le(frame + 8, bt_rip_of(b, rec));
	st64le(frame + 16, s->seg[SEG_CS].selector);
	st64le(frame + 24, flags | RFLAGS_RF);
	st64le(frame + 32, s->gpr[RSP]);
	st64le(frame + 40, s->seg[SEG_SS].selector);
	s->cr2 = first_access(b, rec, lin);
	s->gpr[RSP] = sp;
	flags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | (g.trap ? 0 : RFLAGS_IF));
	bt_flags_set(b, flags);
	if (cpu->cpl)
		s->seg[SEG_SS] = null_stack(0, 0);
	s->seg[SEG_CS] = g.cs;
	b->stats.faults++;
	return arrive(b, 0, g.offset);
}
