/*
 * Tier 2: which code is hot, and which instructions are better off without windows (window.h). It is found by samples: a
 * timer of the vCPU thread's processor time looks where it is.
 *
 * A program of its own address space that lasts long enough to be met is worth windows with all of its code: what it
 * runs from then on is of another mode, MODE_LASTING, and translated with its memory operands in windows at once. The
 * many that live for a millisecond never are, and share what is translated of libraries with the soft TLB, to which a
 * new page is a fraction of a microsecond, to windows ten.
 *
 * Of a large program there is much, and most of it runs little: behind the first blocks it is made small. A block that a sample
 * has met is made once more, to be fast.
 *
 * Of supervisor code, which serves them all, the blocks of a page that is met again, and those that they lead to, are
 * translated once more. An instruction that keeps missing goes back to the soft TLB.
 */
#ifndef ACCEL_BT_TIER_H
#define ACCEL_BT_TIER_H

#include "accel/bt/bt.h"

/* GUISE_BT_TIER2 in the environment: off, always (everything is hot), or found out. */
void tier_init(struct bt *bt);
/* The samples of the thread that is about to run this vCPU. */
void tier_thread_enter(struct bt_cpu *b);
void tier_thread_leave(struct bt_cpu *b);
/* Blocks of a program that are made fast before any sample has met them: small programs are so as a whole. */
#define FAST_FIRST 4096u
/* What has been sampled makes blocks hot. From the run loop. */
void tier_work(struct bt_cpu *b);
/* The sets of struct bt_heat. */
static inline uint64_t tier_hash(uint64_t gpa, uint32_t mode) { return (gpa ^ (uint64_t)mode << 48) * UINT64_C(0x9e3779b97f4a7c15) >> 40; }
static inline bool tier_bit(const uint64_t *set, uint64_t n) { return set[n / 64 % HEAT_WORDS] >> (n % 64) & 1; }
/* Whether an address space's user code is to run in windows. */
static inline bool tier_lasts(const struct bt_cpu *b, uint64_t cr3)
{
	uint64_t n = tier_hash(cr3 & ~(uint64_t)(PAGE_SIZE - 1), 0);

	return b->heat.lasting[n / 64 % HEAT_SPACES] >> (n % 64) & 1;
}
/* Whether code of this mode becomes tier 2's when it is hot. */
static inline bool tier_may_come(const struct bt_cpu *b, uint32_t mode) { return b->windows && !(mode & MODE_AC) && bt_of(b)->tier2 != TIER2_OFF; }
/* Whether the block that starts at gpa is to be translated with windows. */
static inline bool tier_is_hot(const struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	if (!b->windows || (mode & MODE_AC))
		return false;
	return bt_of(b)->tier2 == TIER2_ALWAYS || (mode & MODE_USER ? mode & MODE_LASTING : tier_bit(b->heat.hot, tier_hash(gpa, mode)));
}
/* Whether what is translated with windows is to be small rather than fast: a program's code that no sample has met. */
static inline bool tier_is_small(const struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	if (bt_of(b)->tier2 == TIER2_ALWAYS)
		return gpa >> 4 & 1; /* both are tried */
	return (mode & MODE_USER) && !b->heat.fast_left && !tier_bit(b->heat.hot, tier_hash(gpa, mode));
}
/* Whether the instruction at gpa is to use the soft TLB even so. */
bool tier_is_cold(const struct bt_cpu *b, uint64_t gpa);
/* The linear address of the record's access in a window. */
bool tier_address(struct bt_cpu *b, const struct bt_rec *rec, uint64_t *lin);
/* An access of the record's instruction, at *lin if that is known, is not in a window yet; false when none can serve it. */
bool tier_fault(struct bt_cpu *b, struct bt_rec *rec, const uint64_t *lin);

/* An instruction of tier 1 goes across pages again and again: a frame lies so, and windows would not mind. */
#define CROSSINGS_HOT 32
void tier_crossed(struct bt_cpu *b, const struct bt_rec *rec);

#endif
