/*
 * Windows: guest linear memory as the host's own page tables show it, for hot code (tier 2).
 *
 * A guest address's bits 39 to 46 pick one of 256 slots of 512 GiB. For each slot and view (supervisor, user) `delta`
 * in struct bt_cpu holds what leads from a guest address to the host's: into a reservation of 512 GiB, the slot's
 * window, whose pages are guest RAM mapped exactly as the guest's tables allow, or nothing at all. A slot without a
 * window leads to a reservation in which nothing is ever mapped. Beside each there are guard zones, so that an
 * operand's displacement leads nowhere either; and the sum of an address of the other half, or of none that is
 * canonical, is no address of a process.
 *
 * Windows are a TLB: pages come by faults, and go by what flushes a TLB. Pages that hold translated code are
 * mapped without the right to write.
 */
#ifndef ACCEL_BT_WINDOW_H
#define ACCEL_BT_WINDOW_H

#include "accel/bt/bt.h"

/* A site that has been sent here takes no more than this many bytes at once. */
#define WINDOW_ACCESS_MAX 64u

/* Leaves b->windows NULL when the host gives no room for them; then there is no tier 2. */
void windows_init(struct bt_cpu *b, unsigned cpus);
void windows_finish(struct bt_cpu *b);
/* Maps what an access of this vCPU needs; false when it is not RAM, not allowed, or a store to code. */
bool windows_fill(struct bt_cpu *b, uint64_t lin, unsigned size, bool write, enum mmu_view view);
/* What leads from lin to its window. */
uint64_t windows_delta(const struct bt_cpu *b, enum mmu_view view, uint64_t lin);
/* Sets all registers' homes for their present values: due when windows_fill may have opened or closed a window. */
void windows_home(struct bt_cpu *b, enum mmu_view view);
/* Drops what a TLB would. */
void windows_flush(struct bt_cpu *b, enum flush_kind kind, uint64_t lin);
/* The vCPU is in another address space: its own windows are shown again, those of the one it left are kept aside. */
void windows_switch(struct bt_cpu *b, unsigned from, unsigned to);
/* What is aside of an address space goes. */
void windows_drop_space(struct bt_cpu *b, unsigned space);
/* From when this returns, stores of all vCPUs to the page at gpa fault. Any thread. */
void windows_protect(struct bt *bt, uint64_t gpa);
/* Drops everything of all vCPUs: they will ask again. Any thread. */
void windows_forget(struct bt *bt);

struct window_stats {
	uint64_t fills, pages, large, dropped, evicted, protected;
	unsigned now; /* pages mapped */
};
struct window_stats windows_stats(const struct bt_cpu *b);

#endif
