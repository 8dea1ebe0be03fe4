/*
 * Tier 2: which code is hot, and which instructions are better off without windows. Hot code is found by samples: a
 * timer of the vCPU thread's processor time looks where it is. The blocks of a page that is met again, and those that
 * they lead to, are translated once more with their memory operands in windows (window.h). An instruction that keeps
 * missing goes back to the soft TLB.
 */
#ifndef ACCEL_BT_TIER_H
#define ACCEL_BT_TIER_H

#include "accel/bt/bt.h"

/* GUISE_BT_TIER2 in the environment: off, always (everything is hot), or found out. */
void tier_init(struct bt *bt);
/* The samples of the thread that is about to run this vCPU. */
void tier_thread_enter(struct bt_cpu *b);
void tier_thread_leave(struct bt_cpu *b);
/* What has been sampled makes blocks hot. From the run loop. */
void tier_work(struct bt_cpu *b);
/* The sets of struct bt_heat. */
static inline uint64_t tier_hash(uint64_t gpa, uint32_t mode) { return (gpa ^ (uint64_t)mode << 48) * UINT64_C(0x9e3779b97f4a7c15) >> 40; }
static inline bool tier_bit(const uint64_t *set, uint64_t n) { return set[n / 64 % HEAT_WORDS] >> (n % 64) & 1; }
/* Whether the block that starts at gpa is to be translated with windows. */
static inline bool tier_is_hot(const struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	if (!b->windows || (mode & MODE_AC))
		return false;
	return bt_of(b)->tier2 == TIER2_ALWAYS || tier_bit(b->heat.hot, tier_hash(gpa, mode));
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
