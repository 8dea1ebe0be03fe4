/*
 * Translated code at another linear address. Programs are loaded at addresses of their own each time, with the same
 * physical pages behind them; so what was translated for one process is made to fit the next: all in its code that
 * counts from the block's address is patched by the relocations that were written down when it was emitted.
 *
 * Two processes that take turns would move a block to and fro. A block that was moved a short while ago is left where
 * it is, and there will be one more, up to some number of them.
 *
 * Compiled without vector registers, since they may hold the guest's.
 */
#include <x86intrin.h>

#include "accel/bt/check.h"
#include "accel/bt/tier.h"
#include "accel/bt/translate.h"
#include "base/log.h"

/* The unit of `moved`: some third of a millisecond. It wraps after weeks, and then a block may stay that could go. */
#define TICK_SHIFT 20
/* A turn of a process is not longer, as a part of a second. */
#define TURNS 32
#define COPIES_MAX 4

static uint32_t ticks_now(void) { return (uint32_t)(__rdtsc() >> TICK_SHIFT); }

static uint64_t page_of(uint64_t lin) { return lin & ~(uint64_t)(PAGE_SIZE - 1); }

/* ---- patching ---- */

static void patch(const struct bt_block *k, uint8_t *p, unsigned kind, uint64_t by, uint64_t *lin)
{
	uint64_t wide;
	uint32_t v;

	if (kind == RELOC_LIN) {
		memcpy(&wide, p, 8);
		*lin = wide += by;
		memcpy(p, &wide, 8);
		return;
	}
	memcpy(&v, p, 4);
	switch (kind) {
	case RELOC_LIN32: v += (uint32_t)by; break;
	case RELOC_ENTRY:
		v = v % sizeof(struct tlb_entry) +
		    (uint32_t)((v / sizeof(struct tlb_entry) + (by >> PAGE_SHIFT)) % TLB_SIZE * sizeof(struct tlb_entry));
		break;
	case RELOC_SLOT:
		v = (uint32_t)GS_OF(delta) + (mode_view(k->mode) * WINDOW_SLOTS + (unsigned)(*lin >> 39 & (WINDOW_SLOTS - 1))) * 8;
		break;
	default: return;
	}
	memcpy(p, &v, 4);
}

/* The block, whose jumps lead nowhere now, is at lin from here on. */
static void relocate(struct bt_cpu *b, struct bt_block *k, uint64_t lin)
{
	uint64_t by = lin - k->lin, last = 0;

	for (unsigned i = 0; i < k->relocs; i++) {
		const struct bt_reloc *r = &b->relocs[k->first_reloc + i];

		patch(k, b->rw + k->host + r->at, r->kind, by, &last);
	}
	k->lin = lin;
}

/* ---- what may be moved ---- */

/*
 * A jump to another page was made knowing which flags matter there, as far as was known: not more may matter at the
 * new place. It goes back or forward as before, since only ways back look whether something waits.
 */
static bool exit_fits(struct bt_cpu *b, const struct bt_block *k, const struct bt_exit *e, uint64_t lin)
{
	bool code32 = k->mode & MODE_CODE32;
	uint64_t was = bt_exit_lin(k, e), to = was + (lin - k->lin);

	if (code32)
		to = (uint32_t)to;
	else if (!bt_canonical(to))
		return false;
	if ((to > lin) != (was > k->lin))
		return false;
	if (page_of(to) == page_of(lin) || e->live == GF_ALL)
		return true;
	if (b->fp_level)
		bt_fp_save(b);
	return !(bt_live_at(b, to, code32) & ~e->live);
}

static bool fits(struct bt_cpu *b, const struct bt_block *k, uint64_t lin)
{
	if (k->fixed || k->tier2 != tier_is_hot(b, bt_block_gpa(k), k->mode))
		return false;
	for (unsigned i = 0; i < k->exits; i++) {
		if (!exit_fits(b, k, &b->exits[k->first_exit + i], lin))
			return false;
	}
	return true;
}

/* The one that has been where it is longest. */
static struct bt_block *choose(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode, const struct bt_block *keep, unsigned *copies)
{
	struct bt_block *best = NULL;
	uint32_t now = ticks_now();

	*copies = 0;
	for (struct bt_block *k = bt_block_first(b, gpa, mode); k; k = bt_block_next(b, k)) {
		++*copies;
		if (k != keep && (!best || now - k->moved > now - best->moved) && fits(b, k, lin))
			best = k;
	}
	return best;
}

/* ---- the whole ---- */

static bool moved_lately(const struct bt_cpu *b, const struct bt_block *k)
{
	return ticks_now() - k->moved < b->cpu.interp->tsc_hz / TURNS >> TICK_SHIFT;
}

/* The x87's last instruction stays where it was executed. */
static void settle_x87(struct bt_cpu *b, const struct bt_block *k)
{
	if (b->fp_level && b->x87_last != REC_NONE && b->x87_last >> REC_SHIFT == bt_number(b, k))
		bt_fp_save(b);
}

static void show(struct bt_cpu *b, const struct bt_block *k)
{
	const uint8_t *guest;

	if (!bt_of(b)->check && !trace_on(TRACE_BT))
		return;
	if (b->fp_level)
		bt_fp_save(b);
	guest = bt_exec_peek(b, k->lin);
	if (bt_of(b)->check && guest)
		bt_check_emitted(b, k, guest);
	if (trace_on(TRACE_BT) && guest)
		bt_trace_block(b, k, guest);
}

struct bt_block *bt_block_move(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode, const struct bt_block *keep)
{
	struct bt_block *k;
	unsigned copies;

	if (b->cpu.stepping)
		return NULL;
	k = choose(b, lin, gpa, mode, keep, &copies);
	if (!k || (copies < COPIES_MAX && moved_lately(b, k))) {
		b->stats.unmoved += copies != 0;
		return NULL;
	}
	settle_x87(b, k);
	bt_block_unlink(b, k);
	relocate(b, k, lin);
	k->moved = ticks_now();
	bt_block_used(b, k);
	b->stats.moved++;
	show(b, k);
	return k;
}
