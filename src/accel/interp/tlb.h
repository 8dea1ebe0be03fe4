/* The soft TLB's entries one by one, for those who fill, flush and put them aside. */
#ifndef ACCEL_INTERP_TLB_H
#define ACCEL_INTERP_TLB_H

#include "accel/interp/core.h"

/* A tag no address can match: one of a page that belongs into another entry. */
static inline uint64_t tlb_no_tag(const struct mmu *m, const struct tlb_entry *e)
{
	return e == m->tlb ? TLB_NONE + PAGE_SIZE : TLB_NONE;
}

static inline void tlb_entry_clear(struct mmu *m, struct tlb_entry *e)
{
	for (unsigned v = 0; v < VIEW_COUNT; v++)
		e->tag[v][ACCESS_READ] = e->tag[v][ACCESS_WRITE] = tlb_no_tag(m, e);
}

typedef void tlb_entry_fn(struct mmu *m, struct tlb_entry *e);

static inline void tlb_set_walk(struct mmu *m, const struct tlb_set *set, tlb_entry_fn *fn)
{
	for (unsigned a = 0; a < ARRAY_LEN(set->any); a++) {
		for (uint64_t words = set->any[a]; words; words &= words - 1) {
			unsigned w = a * 64 + (unsigned)__builtin_ctzll(words);

			for (uint64_t bits = set->bits[w]; bits; bits &= bits - 1)
				fn(m, &m->tlb[w * 64 + (unsigned)__builtin_ctzll(bits)]);
		}
	}
}

static inline void tlb_set_empty(struct tlb_set *set)
{
	for (unsigned a = 0; a < ARRAY_LEN(set->any); a++) {
		for (uint64_t words = set->any[a]; words; words &= words - 1)
			set->bits[a * 64 + (unsigned)__builtin_ctzll(words)] = 0;
		set->any[a] = 0;
	}
}

static inline void tlb_set_add(struct tlb_set *set, unsigned index)
{
	set->bits[index / 64] |= UINT64_C(1) << (index % 64);
	set->any[index / 4096] |= UINT64_C(1) << (index / 64 % 64);
}

static inline void tlb_set_remove(struct tlb_set *set, unsigned index)
{
	set->bits[index / 64] &= ~(UINT64_C(1) << (index % 64));
}

/* Whose bit in `large` tells of pieces of the large page around an address. */
static inline unsigned tlb_large_hash(uint64_t lin)
{
	uint64_t region = lin >> 22; /* large pages of 2 and of 4 MiB alike */

	return (unsigned)(region ^ region >> 9) & 511;
}

static inline void tlb_note_large(struct mmu *m, uint64_t lin, bool huge)
{
	unsigned hash = tlb_large_hash(lin);

	m->large[hash / 64] |= UINT64_C(1) << (hash % 64);
	m->huge_seen |= huge;
}

/* An entry for another page than before, without tags yet. */
static inline struct tlb_entry *tlb_entry_take(struct mmu *m, uint64_t lin, bool global)
{
	unsigned index = (lin >> PAGE_SHIFT) % TLB_SIZE;

	tlb_entry_clear(m, &m->tlb[index]);
	tlb_set_remove(global ? &m->local : &m->global, index);
	tlb_set_add(global ? &m->global : &m->local, index);
	return &m->tlb[index];
}

/* Of the address spaces only the present one is left, with the PCID that CR3 has. */
void spaces_forget(struct icpu *cpu);

#endif
