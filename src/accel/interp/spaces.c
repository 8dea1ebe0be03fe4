/*
 * Address spaces by PCID (SDM 3A 4.10.1). The TLB holds the present one's pages and global ones; those of the spaces
 * that were left last are kept aside and put back when a load of CR3 asks for it. So translated code looks at one
 * table without tags for spaces, and a switch costs what the space had in use.
 */
#include "accel/interp/tlb.h"

static unsigned pcid_of(const struct icpu *cpu, uint64_t cr3) { return cpu->s.cr4 & CR4_PCIDE ? cr3 & 0xfff : 0; }

/* ---- aside and back ---- */

static void page_save(const struct mmu *m, struct space *s, const struct tlb_entry *e)
{
	uint64_t lin = e->tag[VIEW_SUPERVISOR_AC][ACCESS_READ];
	struct space_page *p = &s->page[s->count];

	/* Pieces of 1 GiB pages would make every INVLPG to come look for them. */
	if (lin == tlb_no_tag(m, e) || (e->info & TLB_HUGE) || s->count == SPACE_PAGES)
		return;
	p->lin = lin | e->info;
	p->host = e->host;
	p->tags = 0;
	for (unsigned v = 0; v < VIEW_COUNT; v++) {
		for (unsigned a = 0; a < 2; a++)
			p->tags |= (uint32_t)(e->tag[v][a] == lin) << (v * 2 + a);
	}
	s->count++;
}

static void leave(struct mmu *m, struct space *s)
{
	s->count = 0;
	s->code_epoch = m->code_epoch;
	s->left = ++m->switches;
	for (unsigned w = 0; w < ARRAY_LEN(m->local.bits); w++) {
		for (uint64_t bits = m->local.bits[w]; bits; bits &= bits - 1)
			page_save(m, s, &m->tlb[w * 64 + (unsigned)__builtin_ctzll(bits)]);
	}
	tlb_set_walk(m, &m->local, tlb_entry_clear);
	tlb_set_empty(&m->local);
}

static void page_restore(struct mmu *m, const struct space_page *p, uint32_t allowed)
{
	uint64_t lin = p->lin & ~(uint64_t)(PAGE_SIZE - 1);
	struct tlb_entry *e = &m->tlb[(lin >> PAGE_SHIFT) % TLB_SIZE];

	/* A global page that has come to its place was in use last. */
	if (e->tag[VIEW_SUPERVISOR_AC][ACCESS_READ] != tlb_no_tag(m, e))
		return;
	tlb_entry_take(m, lin, false);
	e->host = p->host;
	e->info = p->lin & (PAGE_SIZE - 1);
	for (unsigned v = 0; v < VIEW_COUNT; v++) {
		for (unsigned a = 0; a < 2; a++) {
			if (p->tags & allowed & 1u << (v * 2 + a))
				e->tag[v][a] = lin;
		}
	}
	if (e->info & TLB_LARGE)
		tlb_note_large(m, lin, false);
}

/* Since it was left a page may have become code: then stores have to be noticed anew. */
static void enter(struct mmu *m, const struct space *s)
{
	uint32_t loads = 0x15, allowed = s->code_epoch == m->code_epoch ? loads | loads << 1 : loads;

	for (unsigned i = 0; i < s->count; i++)
		page_restore(m, &s->page[i], allowed);
}

/* ---- which ---- */

static void drop(struct icpu *cpu, unsigned n)
{
	struct mmu *m = cpu->mmu;

	if (n == m->space_now || !m->space[n].used)
		return;
	m->space[n].used = false;
	cpu->interp->hooks->dropped(cpu, n);
}

void spaces_forget(struct icpu *cpu)
{
	struct mmu *m = cpu->mmu;

	for (unsigned n = 0; n < SPACES; n++)
		drop(cpu, n);
	m->space[m->space_now].used = true;
	m->space[m->space_now].pcid = (uint16_t)pcid_of(cpu, cpu->s.cr3);
}

static unsigned find(const struct mmu *m, unsigned pcid)
{
	unsigned n = 0;

	while (n < SPACES && !(m->space[n].used && m->space[n].pcid == pcid))
		n++;
	return n;
}

/* A number for another space: an unused one, or that of the one left longest ago. */
static unsigned choose(struct icpu *cpu)
{
	const struct mmu *m = cpu->mmu;
	unsigned best = !m->space_now;

	for (unsigned n = 0; n < SPACES; n++) {
		if (n == m->space_now)
			continue;
		if (!m->space[n].used)
			return n;
		if (m->space[n].left < m->space[best].left)
			best = n;
	}
	drop(cpu, best);
	return best;
}

void mmu_load_cr3(struct icpu *cpu, uint64_t value, bool keep)
{
	struct mmu *m = cpu->mmu;
	unsigned pcid = pcid_of(cpu, value), from = m->space_now, to;
	bool same = value == cpu->s.cr3;

	cpu->s.cr3 = value;
	if (pcid == m->space[from].pcid) {
		/* Nothing has to go; but what is known of other tables is of no use. */
		if (!keep || !same)
			mmu_flush_nonglobal(cpu);
		return;
	}
	to = find(m, pcid);
	if (to == SPACES)
		keep = false, to = choose(cpu);
	else if (!keep)
		drop(cpu, to);
	leave(m, &m->space[from]);
	m->space[to].used = true;
	m->space[to].pcid = (uint16_t)pcid;
	m->space_now = to;
	if (keep)
		enter(m, &m->space[to]);
	m->kept += keep;
	m->map_epoch++;
	m->walk_epoch++;
	cpu->block_ends = true;
	cpu->interp->hooks->switched(cpu, from, to, keep);
}

void mmu_flush_pcid(struct icpu *cpu, unsigned pcid)
{
	unsigned n = find(cpu->mmu, pcid);

	if (n == cpu->mmu->space_now)
		mmu_flush_nonglobal(cpu);
	else if (n < SPACES)
		drop(cpu, n);
}

void mmu_flush_pcids(struct icpu *cpu)
{
	spaces_forget(cpu);
	mmu_flush_nonglobal(cpu);
}
