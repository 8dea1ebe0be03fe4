/* Finding hot code, and what becomes of instructions that windows do not serve. See tier.h. */
#include "accel/bt/guest.h"
#include "accel/bt/known.h"
#include "accel/bt/tier.h"
#include "accel/bt/window.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define SAMPLE_NS 1000000
/* A page of code is hot when it has been met this often. */
#define PAGE_HOT 2
/* Blocks made hot by one sample: what it hit, and where that leads; and with those on the same page. */
#define SPREAD_NEXT 48
#define SPREAD 256
/* Samples after which pages cool down; sites get another chance, and address spaces have to show again that they last. */
#define COOL_AFTER 512
#define FORGIVE_AFTER 512
/* Misses that a vCPU may have at once, and that a sample, some milliseconds of its time, allows for: a miss and what
 * comes after it is some 20 µs, so they cost no more than a seventh. */
#define CREDIT_MAX 2000
#define CREDIT_PER_SAMPLE 30
/* Pages that the soft TLB had no room for since the last sample, that have cost as much as a miss: what is lost without
 * windows may be spent on them. */
#define DISPLACED_PER_MISS 512
/* Dropped pages, and pages mapped beside the one that missed, that cost as much as a miss. */
#define DROPS_PER_MISS 4
#define PAGES_PER_MISS 128
/* Instructions that there was no allowance for try again when so much is in hand, looked at after so many samples. */
#define RICH 400
#define RICH_AFTER 2
/* Accesses of one instruction that windows can never serve. */
#define USELESS_MAX 7

/* ---- sampling ---- */

void tier_init(struct bt *bt)
{
	const char *how = getenv("GUISE_BT_TIER2");

	bt->tier2 = !bt->bmi2 || (how && !strcmp(how, "off")) ? TIER2_OFF : how && !strcmp(how, "always") ? TIER2_ALWAYS : TIER2_AUTO;
}

static bool timer_make(struct bt_cpu *b, pid_t tid)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = BT_SAMPLE_SIGNAL };

	ev._sigev_un._tid = tid;
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &b->heat.timer))
		return false;
	b->heat.tid = tid;
	return true;
}

void tier_thread_leave(struct bt_cpu *b)
{
	if (b->heat.tid)
		timer_delete(b->heat.timer);
	b->heat.tid = 0;
}

void tier_thread_enter(struct bt_cpu *b)
{
	const struct itimerspec every = { { 0, SAMPLE_NS }, { 0, SAMPLE_NS } };

	if (bt_of(b)->tier2 != TIER2_AUTO || !b->windows || b->tid == b->heat.tid)
		return;
	tier_thread_leave(b);
	if (timer_make(b, b->tid))
		timer_settime(b->heat.timer, 0, &every, NULL);
}

/* ---- heat ---- */

static void bit_set(uint64_t *set, uint64_t n) { set[n / 64 % HEAT_WORDS] |= UINT64_C(1) << (n % 64); }

bool tier_is_cold(const struct bt_cpu *b, uint64_t gpa)
{
	uint64_t n = tier_hash(gpa, 0);

	return tier_bit(b->heat.cold, n) || tier_bit(b->heat.poor, n);
}

static bool may_be_hot(const struct bt_cpu *b, const struct bt_block *k)
{
	return !k->dead && !k->tier2 && !k->crosses && !(k->mode & MODE_AC) && !tier_bit(b->heat.hot, tier_hash(bt_block_gpa(k), k->mode));
}

/* What there is of a block, at whatever addresses, goes. */
static void kill_all(struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	for (struct bt_block *k = bt_block_first(b, gpa, mode), *next; k; k = next) {
		next = bt_block_next(b, k);
		if (!k->tier2)
			bt_block_kill(b, k);
	}
}

/*
 * The block, those it leads to, nearest first, and the others on its page: what is hot lies close together, and samples
 * are few. They are made anew when they are next looked for.
 */
static void make_hot(struct bt_cpu *b, struct bt_block *first)
{
	struct bt_block *queue[SPREAD];
	unsigned count = 0;

	if (may_be_hot(b, first)) {
		bit_set(b->heat.hot, tier_hash(bt_block_gpa(first), first->mode));
		queue[count++] = first;
	}
	for (unsigned i = 0; i < count; i++) {
		for (unsigned x = 0; x < queue[i]->exits && count < SPREAD_NEXT; x++) {
			uint32_t n = b->exits[queue[i]->first_exit + x].target;
			struct bt_block *to = &b->blocks[n];

			if (!n || !may_be_hot(b, to))
				continue;
			bit_set(b->heat.hot, tier_hash(bt_block_gpa(to), to->mode));
			queue[count++] = to;
		}
	}
	for (uint32_t n = bt_page_blocks(b, bt_block_page(first)); n && count < SPREAD; n = b->blocks[n].page_next) {
		struct bt_block *k = &b->blocks[n];

		if (!may_be_hot(b, k))
			continue;
		bit_set(b->heat.hot, tier_hash(bt_block_gpa(k), k->mode));
		queue[count++] = k;
	}
	for (unsigned i = 0; i < count; i++)
		kill_all(b, bt_block_gpa(queue[i]), queue[i]->mode);
	b->stats.promoted += count;
}

/* User code of this address space: the next that is looked for is made anew, unless there is some of its mode already. */
static void make_lasting(struct bt_cpu *b)
{
	uint64_t n = tier_hash(b->cpu.s.cr3 & ~(uint64_t)(PAGE_SIZE - 1), 0);

	if (tier_lasts(b, b->cpu.s.cr3))
		return;
	b->heat.lasting[n / 64 % HEAT_SPACES] |= UINT64_C(1) << (n % 64);
	b->stats.lasting++;
	b->heat.fast_left = FAST_FIRST;
	bt_forget_jumps(b, true);
}

static void warm_up(struct bt_cpu *b, struct bt_block *k)
{
	if (k->mode & MODE_USER)
		make_lasting(b);
	else
		make_hot(b, k);
}

void tier_crossed(struct bt_cpu *b, const struct bt_rec *rec)
{
	struct bt_block *k = bt_rec_block(b, rec);

	if (bt_of(b)->tier2 == TIER2_AUTO && b->windows && !k->tier2 && !k->dead)
		warm_up(b, k);
}

static void cool_down(struct bt_cpu *b)
{
	struct bt_heat *h = &b->heat;

	if (h->taken % COOL_AFTER == 0) {
		for (unsigned i = 0; i < ARRAY_LEN(h->page); i++)
			h->page[i] /= 2;
	}
	if (h->taken % FORGIVE_AFTER == 0) {
		for (unsigned i = 0; i < HEAT_WORDS; i++)
			h->cold[i] = 0;
		for (unsigned i = 0; i < HEAT_SPACES; i++)
			h->lasting[i] = 0;
	}
	if (h->any_poor && h->taken % RICH_AFTER == 0 && h->credit >= RICH) {
		for (unsigned i = 0; i < HEAT_WORDS; i++)
			h->poor[i] = 0;
		h->any_poor = false;
	}
}

/* A hot block some of whose instructions were refused a window, and all of them may have one now. */
static bool may_warm_up(const struct bt_cpu *b, const struct bt_block *k)
{
	struct bt_rec recs[RECS_MAX];

	if (!k->refused)
		return false;
	bt_recs_unpack(b, k, recs);
	for (unsigned i = 0; i < k->recs; i++) {
		if (tier_is_cold(b, bt_block_gpa(k) + recs[i].guest))
			return false;
	}
	return true;
}

static void take_sample(struct bt_cpu *b, uint32_t host)
{
	struct bt_block *k = bt_block_at(b, b->rx + host);
	uint8_t *page;

	b->heat.taken++;
	b->heat.credit += CREDIT_PER_SAMPLE + (int)MIN((b->mmu.displaced - b->heat.displaced) / DISPLACED_PER_MISS, CREDIT_MAX);
	b->heat.credit = MIN(b->heat.credit, CREDIT_MAX);
	b->heat.displaced = b->mmu.displaced;
	cool_down(b);
	if (!k || k->dead)
		return;
	bt_block_used(b, k);
	if (k->tier2) {
		b->heat.taken_hot++;
		if (k->small)
			bit_set(b->heat.hot, tier_hash(bt_block_gpa(k), k->mode));
		if (k->small || may_warm_up(b, k))
			bt_block_kill(b, k);
		return;
	}
	page = &b->heat.page[tier_hash(bt_block_page(k), 0) % ARRAY_LEN(b->heat.page)];
	if (*page < UINT8_MAX)
		(*page)++;
	if (k->mode & MODE_USER || *page >= PAGE_HOT)
		warm_up(b, k);
}

void tier_work(struct bt_cpu *b)
{
	unsigned n = atomic_load_explicit(&b->heat.count, memory_order_acquire);

	for (unsigned i = 0; i < n; i++)
		take_sample(b, b->heat.sample[i]);
	atomic_store_explicit(&b->heat.count, 0, memory_order_release);
}

/* ---- misses ---- */

/* Its instructions are made anew, this one with the soft TLB. */
static void make_cold(struct bt_cpu *b, struct bt_rec *rec, uint64_t *set)
{
	struct bt_block *k = bt_rec_block(b, rec);

	bit_set(set, tier_hash(bt_block_gpa(k) + rec->guest, 0));
	bt_block_kill(b, k);
	b->stats.demoted++;
}

bool tier_address(struct bt_cpu *b, const struct bt_rec *rec, uint64_t *lin)
{
	const struct cpu_state *s = &b->cpu.s;
	const struct bt_block *k = bt_rec_block(b, rec);
	uint64_t gpa = bt_block_gpa(k) + rec->guest, v = 0;
	unsigned bits = k->mode & MODE_CODE32 ? 32 : 64;
	const struct mem_slot *slot = mem_find(b->cpu.mem, gpa);
	struct guest_insn g;

	if (rec->frame != FRAME_NONE) {
		v = s->gpr[rec->frame == FRAME_RSP ? RSP : RBP] + (uint64_t)(int64_t)rec->disp;
	} else {
		if (!slot || !guest_decode(&g, mem_slot_host(slot, gpa), PAGE_SIZE - (unsigned)(gpa & (PAGE_SIZE - 1)), bits) || !guest_mem(&g))
			return false;
		v = (uint64_t)(int64_t)g.disp + (g.rip_relative ? k->lin + rec->guest + g.length : 0);
		if (g.base >= 0)
			v += s->gpr[g.base];
		if (g.index >= 0)
			v += s->gpr[g.index] << g.scale;
		if (g.addrsize == 4)
			v = (uint32_t)v;
		if (g.seg == SEG_FS || g.seg == SEG_GS)
			v += s->seg[g.seg].base;
	}
	*lin = bits == 32 ? (uint32_t)v : v;
	return true;
}

/* For the miss, for the pages that came with it, and for what was dropped since the last. */
static void pay(struct bt_cpu *b)
{
	const struct window_stats w = windows_stats(b);
	struct bt_heat *h = &b->heat;

	h->credit -= 1 + (int)((w.dropped - h->dropped) / DROPS_PER_MISS) + (int)((w.pages - h->pages) / PAGES_PER_MISS);
	h->dropped = w.dropped;
	h->pages = w.pages;
	if (h->credit < -CREDIT_MAX)
		h->credit = -CREDIT_MAX;
}

/* The homes of the loop's sums, for the registers' present values. */
static void pairs_home(struct bt_cpu *b, const struct bt_block *k)
{
	const struct cpu_state *s = &b->cpu.s;
	const struct bt_rec loop = bt_rec_read(b, bt_rec_first(b, k));

	for (unsigned n = 0; n < PAIRS; n++) {
		struct bt_pair p = bt_pair_of(&loop, n);
		uint64_t base = p.base < 0 ? 0 : s->gpr[p.base];

		if (p.used)
			b->home[PAIR_HOME + n] = base + windows_delta(b, mode_view(k->mode), p.bounded ? base : base + (s->gpr[p.index] << p.scale));
	}
}

bool tier_fault(struct bt_cpu *b, struct bt_rec *rec, const uint64_t *lin)
{
	const struct bt_block *k = bt_rec_block(b, rec);
	struct bt_heat *h = &b->heat;
	bool ok;

	b->stats.window_faults++;
	ok = lin && !(*lin & rec->align) && !(rec->id == h->last_rec && *lin == h->last_lin) &&
	     windows_fill(b, *lin, rec->size, rec->write, mode_view(k->mode));
	windows_home(b, mode_view(k->mode));
	if (k->loop)
		pairs_home(b, k);
	/* What a window has just been given must not miss again: whatever it is, the interpreter knows. */
	h->last_rec = ok ? rec->id : REC_NONE;
	h->last_lin = lin ? *lin : 0;
	if (k->dead)
		return ok;
	pay(b);
	if (!ok && ++rec->useless > USELESS_MAX) {
		make_cold(b, rec, h->cold);
	} else if (h->credit <= 0 && bt_of(b)->tier2 == TIER2_AUTO) {
		make_cold(b, rec, h->poor);
		h->any_poor = true;
	}
	return ok;
}
