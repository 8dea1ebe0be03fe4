/*
 * What is known of the guest's registers between accesses in windows (64-bit code of tier 2), so that not each of
 * them has to look up its delta.
 *
 * A register's home, a member of struct bt_cpu, holds the delta of the slot that the register's value is in, or has
 * been in a moment ago: its drift is how far the value may be from that slot. Constants added to it add to the drift,
 * an access takes it back (had the value left the slot, the access would have met a guard zone), and any other change
 * ends the knowledge. Homes are kept in memory only, so whoever comes back from C finds them as they were; C sets
 * all of them anew when it has opened or closed a window.
 *
 * Knowledge passes from block to block: an exit says which homes are good there, a block which ones it needs, and a
 * jump from the one to the other enters behind the code that sets them.
 */
#ifndef ACCEL_BT_KNOWN_H
#define ACCEL_BT_KNOWN_H

#include "accel/bt/guest.h"

struct tr;

/* Bytes: how far a value may be from its home's slot when a block is entered, and when an access counts from it. */
#define KNOWN_NEAR (1u << 20)
#define KNOWN_FAR (16u << 20)
/* What an index that is known to have been 32 bits may add, scaled by 8. */
#define KNOWN_INDEX (UINT64_C(8) << 32)

/* Beside the registers' bits: the vector unit is the guest's, its AVX part as well. */
#define KNOWN_FP (1u << 16)
#define KNOWN_AVX (1u << 17)
#define KNOWN_REGISTERS 0xffffu
#define KNOWN_ALL (KNOWN_REGISTERS | KNOWN_FP | KNOWN_AVX)

/*
 * In a loop that is a block's own, sums of two registers have homes as well: R10's and R11's, who have none themselves.
 * Such a home holds what leads from index and displacement to the host's address, the base's value and the delta of the
 * sum's slot together; it ends when the base changes. When the index changes by a register, but a comparison at the loop's
 * end sees to it that it is a number of 32 bits when it goes round, the slot is the base's.
 */
#define PAIR_HOME R10
#define PAIR_HOMES (3u << R10)

struct known {
	uint16_t home;      /* a bit for each guest register whose home is good */
	uint16_t small;     /* whose value is a number of 32 bits, with or without sign */
	uint32_t drift[16];
};

/* Looks at each instruction, before the rest is asked for. */
void known_look(struct tr *t);
/* What the block needs: the homes used often, or again and again; the vector unit. */
uint32_t known_needs(const struct tr *t);
/* Sums that the block's accesses count from again and again, when it is a loop; what its scratch registers should hold. */
void known_loop(struct tr *t);
/* The last instruction that leads back to the block's beginning, or -1. */
int known_loop_end(const struct tr *t);
/* The instruction's sum, or -1. */
int known_pair(const struct tr *t, unsigned i);
/* Whether all that is known within the loop is known here. */
bool known_loops(const struct tr *t);
/* The state behind the entries. */
void known_begin(struct tr *t);
/* The instruction has been emitted; constant changes of RSP by the stack's instructions are told by known_drift. */
void known_step(struct tr *t, const struct guest_insn *g);
void known_drift(struct tr *t, unsigned guest, int64_t by);
/* The register changes: the homes of its sums are gone. */
void known_pairs_lose(struct tr *t, unsigned guest);
/* An access at the register's value and disp is made by way of its home's delta. */
void known_touch(struct tr *t, unsigned guest, int32_t disp);
void known_set(struct tr *t, unsigned guest);
/* Behind a call: whoever returned has seen to RSP's home. */
void known_landing(struct tr *t);
/* Whether setting the home pays: the register is used again before it changes. */
bool known_wanted(const struct tr *t, unsigned guest);
/* In the block's loop, the register is a pointer that leads to the next. */
bool known_chased(const struct tr *t, unsigned guest);
/* Whether the instruction may change the register; of RSP, otherwise than as the stack's pointer. */
bool known_writes(const struct guest_insn *g, unsigned guest);
/* A constant is added to a register of 64 bits. */
bool known_adds(const struct guest_insn *g, unsigned *reg, int64_t *by);
/* Whether an access after this instruction counts from the register before it changes. */
bool known_used_later(const struct tr *t, unsigned guest);
/* What an exit here may promise. */
uint32_t known_here(const struct tr *t);

/* The level of the vector unit (struct bt_cpu) that a set tells of. */
static inline uint8_t known_level(uint32_t set) { return set & KNOWN_AVX ? 2 : set & KNOWN_FP ? 1 : 0; }
static inline bool known_bit(uint32_t set, unsigned guest) { return set >> guest & 1; }

#endif
