/*
 * String instructions for translated code, INS and OUTS apart: runs within RAM pages that the soft TLB knows go by the
 * host's own. What else there is (downward, a device, a store to a page with code, an element across pages, a fault) is
 * the interpreter's, from where the registers stand. Compiled without vector registers: the guest's stay in them.
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

static uint64_t loaded(uint64_t rax, const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1: return (rax & ~UINT64_C(0xff)) | *p;
	case 2: return (rax & ~UINT64_C(0xffff)) | ld16le(p);
	case 4: return ld32le(p);
	default: return ld64le(p);
	}
}

/* What one run works on; the pointers that the instruction has no use for are NULL. */
struct run {
	const uint8_t *from;
	uint8_t *to;
	uint64_t n;
};

/* The elements themselves; how many were done. */
static uint64_t work(struct bt_cpu *b, const struct bt_rec *rec, const struct run *r)
{
	struct cpu_state *s = &b->cpu.s;
	bool unequal = rec->string & STRING_UNEQUAL;

	if (rec->string & STRING_COMPARES)
		return host_cmps(r->from, r->to, r->n, rec->size, unequal, &b->flags);
	if (rec->string & STRING_SCANS)
		return host_scas(s->gpr[RAX], r->to, r->n, rec->size, unequal, &b->flags);
	if (rec->string & STRING_LOADS)
		s->gpr[RAX] = loaded(s->gpr[RAX], r->from + (r->n - 1) * rec->size, rec->size);
	else if (rec->string & STRING_MOVES)
		host_movs(r->to, r->from, r->n, rec->size);
	else
		host_stos(r->to, s->gpr[RAX], r->n, rec->size);
	return r->n;
}

/* One run upwards; how many elements, 0 when it is not for us. */
static uint64_t run(struct bt_cpu *b, const struct bt_rec *rec, uint64_t count, uint64_t mask)
{
	struct icpu *cpu = &b->cpu;
	struct cpu_state *s = &cpu->s;
	bool reads = rec->string & (STRING_MOVES | STRING_COMPARES | STRING_LOADS), second = !(rec->string & STRING_LOADS);
	enum access access = rec->string & (STRING_COMPARES | STRING_SCANS) ? ACCESS_READ : ACCESS_WRITE;
	uint64_t to = s->gpr[RDI] & mask, from = s->gpr[RSI] & mask, bytes = PAGE_SIZE;
	enum mmu_view view = mmu_view(cpu);
	struct run r = { 0 };

	if (reads)
		bytes = MIN(bytes, room(from));
	if (second)
		bytes = MIN(bytes, room(to));
	r.n = MIN(bytes / rec->size, count);
	bytes = r.n * rec->size;
	if (!r.n || (reads && !(r.from = find(cpu, from, (unsigned)bytes, ACCESS_READ, view))))
		return 0;
	if (second && !(r.to = find(cpu, to, (unsigned)bytes, access, view)))
		return 0;
	r.n = work(b, rec, &r);
	if (reads)
		s->gpr[RSI] = (from + r.n * rec->size) & mask;
	if (second)
		s->gpr[RDI] = (to + r.n * rec->size) & mask;
	return r.n;
}

/* CMPS and SCAS may have met what they look for: ZF in the image. */
static bool met(const struct bt_cpu *b, const struct bt_rec *rec)
{
	return (rec->string & (STRING_COMPARES | STRING_SCANS)) && (b->flags >> 8 & RFLAGS_ZF) == (rec->string & STRING_UNEQUAL ? RFLAGS_ZF : 0);
}

uint8_t *bt_help_string(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	struct cpu_state *s = &b->cpu.s;
	uint64_t mask = bt_rec_block(b, rec)->mode & MODE_CODE32 ? UINT32_MAX : UINT64_MAX;
	uint64_t count = rec->string & STRING_REPEATS ? s->gpr[RCX] & mask : 1, n;

	b->stats.strings++;
	if (s->rflags & RFLAGS_DF)
		return bt_interp_rec(b, rec);
	for (; count; count -= n) {
		n = run(b, rec, count, mask);
		if (rec->string & STRING_REPEATS)
			s->gpr[RCX] = count - n;
		if (n && met(b, rec))
			break;
		if (!n || (n < count && atomic_load_explicit(&b->cpu.poll, memory_order_relaxed)))
			return bt_interp_rec(b, rec);
	}
	return bt_next(b, rec);
}
