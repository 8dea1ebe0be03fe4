/*
 * MOVS and STOS for translated code: runs within RAM pages that the soft TLB knows go by the host's own REP MOVS and REP
 * STOS. What else there is (downward, a device, a page with code, an element across pages, a fault) is the interpreter's,
 * from where the registers stand. Compiled without vector registers: the guest's stay in them.
 */
#include "accel/bt/run.h"
#include "accel/interp/repeat.h"

/* The host's page for the access, or NULL. */
static uint8_t *find(struct icpu *cpu, uint64_t lin, unsigned len, enum access access, enum mmu_view view)
{
	uint8_t *p = mmu_hit(cpu, lin, len, access, view);
	uint32_t error;

	if (p || !bt_canonical(lin) || mmu_fill(cpu, lin, access, view, &error) != FILL_DONE)
		return p;
	return mmu_hit(cpu, lin, len, access, view);
}

static uint64_t room(uint64_t lin) { return PAGE_SIZE - (lin & (PAGE_SIZE - 1)); }

/* One run upwards; how many elements, 0 when it is not for us. */
static uint64_t run(struct icpu *cpu, const struct bt_rec *rec, uint64_t count, uint64_t mask)
{
	struct cpu_state *s = &cpu->s;
	uint64_t to = s->gpr[RDI] & mask, from = s->gpr[RSI] & mask, bytes = room(to), n;
	enum mmu_view view = mmu_view(cpu);
	const uint8_t *source = NULL;
	uint8_t *p;

	if (rec->string & STRING_MOVES)
		bytes = MIN(bytes, room(from));
	n = MIN(bytes / rec->size, count);
	bytes = n * rec->size;
	if (!n || ((rec->string & STRING_MOVES) && !(source = find(cpu, from, (unsigned)bytes, ACCESS_READ, view))))
		return 0;
	p = find(cpu, to, (unsigned)bytes, ACCESS_WRITE, view);
	if (!p)
		return 0;
	if (source) {
		host_movs(p, source, n, rec->size);
		s->gpr[RSI] = (from + bytes) & mask;
	} else {
		host_stos(p, s->gpr[RAX], n, rec->size);
	}
	s->gpr[RDI] = (to + bytes) & mask;
	return n;
}

uint8_t *bt_help_string(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = &b->recs[id];
	struct cpu_state *s = &b->cpu.s;
	uint64_t mask = rec->block->mode & MODE_CODE32 ? UINT32_MAX : UINT64_MAX;
	uint64_t count = rec->string & STRING_REPEATS ? s->gpr[RCX] & mask : 1, n;

	b->stats.strings++;
	if (s->rflags & RFLAGS_DF)
		return bt_interp_rec(b, rec);
	for (; count; count -= n) {
		n = run(&b->cpu, rec, count, mask);
		if (rec->string & STRING_REPEATS)
			s->gpr[RCX] = count - n;
		if (!n || (n < count && atomic_load_explicit(&b->cpu.poll, memory_order_relaxed)))
			return bt_interp_rec(b, rec);
	}
	return b->rx + rec->next;
}
