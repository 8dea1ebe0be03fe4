/* Guest pages in the host's own page tables: what is mapped where, and how it goes again. See window.h. */
#include "accel/bt/window.h"
#include "accel/bt/known.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_SHIFT 39
#define SLOT_SIZE (UINT64_C(1) << SLOT_SHIFT)
/* Above and below: more than a displacement of 32 bits, an index and a drift (known.h) and the widest access. */
#define GUARD ((UINT64_C(2) << 30) + KNOWN_INDEX + 2 * KNOWN_FAR)
#define LARGE (UINT64_C(1) << 21)
/* Nothing is ever mapped on the page that begins here: an access of 32-bit code that goes over its end must miss. */
#define END_32 (UINT64_C(1) << 32)
#define WINDOWS_MAX 32u
/* Of all vCPUs together, but no fewer than PAGES_MIN for each: 1 GiB and more of small pages. */
#define PAGES_MAX 327680u
#define PAGES_MIN 49152u
#define HASH 131072u
/* Neighbours that are mapped with a page: those of its aligned group, and from the third fill in a region of 2 MiB on
 * those of the region. */
#define GROUP 32u
#define GROUP_MAX 512u
#define REGION_DENSE 2u
#define REGION_COUNTS 4096u
/* Mappings of the process that are left to everyone else. */
#define MAPS_SPARE 8192u
/* What is mapped, dropped or protected in the middle of something splits it in three. */
#define MAPS_PER_CHANGE 2u

struct window {
	uint8_t *base;  /* of the slot; NULL: not reserved yet */
	uint64_t lin;   /* of the slot's first byte */
	uint32_t first[2]; /* of its pages, those that are global apart, or 0 */
	uint32_t count;
	uint64_t low, high; /* host offsets that have ever been mapped since it was empty */
	uint64_t left;  /* when it was put aside, counted in switches */
	uint8_t view;
	uint8_t space;  /* whose pages it shows, but for those that are global */
	bool used;
	bool aside;     /* of another address space than the present one: nothing leads here */
};

/* One mapping of a guest page, of 4 KiB or 2 MiB. Number 0 is nobody. */
struct page {
	uint64_t lin, gpa;
	uint32_t lin_next, gpa_next; /* hash chains */
	uint32_t prev, next;         /* of the window */
	uint8_t window;
	bool used, writable, global, large;
};

struct bt_windows {
	GMutex lock;
	uint8_t *nowhere;
	struct window window[WINDOWS_MAX];
	uint8_t which[2][WINDOW_SLOTS]; /* window's number + 1 */
	struct page *page;
	uint32_t at, pages_max;         /* where the next one goes; how many there are */
	uint8_t fills[REGION_COUNTS];   /* by a hash of the region of 2 MiB, since everything was dropped */
	uint32_t maps, maps_max;        /* mappings of the process that there may be, and how many are allowed */
	uint32_t lin_hash[HASH], gpa_hash[HASH];
	unsigned windows_max, victim;
	bool huge;                      /* pieces of 1 GiB pages may be mapped */
	struct window_stats stats;
};

/* ---- reservations ---- */

static uint8_t *reserve(void)
{
	uint8_t *p = ram_reserve(SLOT_SIZE + 2 * GUARD);

	return p ? p + GUARD : NULL;
}

_Static_assert(GUARD % LARGE == 0, "a slot begins where huge pages can");

static void release(uint8_t *base)
{
	if (base)
		munmap(base - GUARD, SLOT_SIZE + 2 * GUARD);
}

static unsigned slot_of(uint64_t lin) { return lin >> SLOT_SHIFT & (WINDOW_SLOTS - 1); }

static void lead_nowhere(struct bt_cpu *b, unsigned view, unsigned slot)
{
	b->delta[view][slot] = (uintptr_t)b->windows->nowhere - ((uint64_t)slot << SLOT_SHIFT);
}

static unsigned maps_budget(unsigned cpus)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
	unsigned maps = 65530;

	if (f) {
		if (fscanf(f, "%u", &maps) != 1)
			maps = 65530;
		fclose(f);
	}
	return maps > MAPS_SPARE ? (maps - MAPS_SPARE) / cpus : 0;
}

void windows_init(struct bt_cpu *b, unsigned cpus)
{
	struct bt_windows *ws = calloc(1, sizeof(*ws));

	if (!ws)
		return;
	ws->maps_max = maps_budget(cpus);
	ws->windows_max = cpus > 2 ? WINDOWS_MAX / 2 : WINDOWS_MAX;
	ws->pages_max = MAX(PAGES_MAX / cpus, PAGES_MIN);
	ws->page = ws->maps_max ? calloc(ws->pages_max, sizeof(*ws->page)) : NULL;
	ws->nowhere = ws->page ? reserve() : NULL;
	if (!ws->nowhere) {
		free(ws->page);
		free(ws);
		return;
	}
	ws->at = 1;
	g_mutex_init(&ws->lock);
	b->windows = ws;
	for (unsigned view = 0; view < 2; view++) {
		for (unsigned slot = 0; slot < WINDOW_SLOTS; slot++)
			lead_nowhere(b, view, slot);
	}
}

void windows_finish(struct bt_cpu *b)
{
	struct bt_windows *ws = b->windows;

	if (!ws)
		return;
	for (unsigned i = 0; i < WINDOWS_MAX; i++)
		release(ws->window[i].base);
	release(ws->nowhere);
	g_mutex_clear(&ws->lock);
	free(ws->page);
	free(ws);
	b->windows = NULL;
}

/* ---- the pages' index ---- */

static unsigned hash_lin(unsigned window, uint64_t lin)
{
	return (unsigned)(((lin >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 40) + window * 0x9e37u) % HASH;
}

static unsigned hash_gpa(uint64_t gpa) { return (unsigned)((gpa >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % HASH; }

static uint32_t page_at(const struct bt_windows *ws, unsigned window, uint64_t lin)
{
	uint32_t n = ws->lin_hash[hash_lin(window, lin)];

	while (n && (ws->page[n].window != window || ws->page[n].lin != lin))
		n = ws->page[n].lin_next;
	return n;
}

static void chain_remove(struct bt_windows *ws, uint32_t *head, uint32_t n, bool gpa)
{
	while (*head != n)
		head = gpa ? &ws->page[*head].gpa_next : &ws->page[*head].lin_next;
	*head = gpa ? ws->page[n].gpa_next : ws->page[n].lin_next;
}

static void page_forget(struct bt_windows *ws, uint32_t n)
{
	struct page *p = &ws->page[n];
	struct window *w = &ws->window[p->window];

	chain_remove(ws, &ws->lin_hash[hash_lin(p->window, p->lin)], n, false);
	chain_remove(ws, &ws->gpa_hash[hash_gpa(p->gpa)], n, true);
	if (p->next)
		ws->page[p->next].prev = p->prev;
	if (p->prev)
		ws->page[p->prev].next = p->next;
	else
		w->first[p->global] = p->next;
	w->count--;
	p->used = false;
	ws->stats.now--;
	ws->stats.dropped++;
}

static uint64_t page_size(const struct page *p) { return p->large ? LARGE : PAGE_SIZE; }
static uint8_t *page_host(const struct bt_windows *ws, const struct page *p)
{
	const struct window *w = &ws->window[p->window];

	return w->base + (p->lin - w->lin);
}

static bool unmap(struct window *w, uint64_t offset, uint64_t len)
{
	return mmap(w->base + offset, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static void window_empty(struct bt_windows *ws, struct window *w)
{
	if (!w->count)
		return;
	/* The budget of mappings keeps this from failing; what the guest may no longer reach must not stay. */
	if (!unmap(w, w->low, w->high - w->low))
		g_error("the host refuses to unmap guest memory: %s", g_strerror(errno));
	while (w->first[0] || w->first[1])
		page_forget(ws, w->first[!w->first[0]]);
	w->low = SLOT_SIZE;
	w->high = 0;
}

/* A host without room for one more mapping cannot split one: then all of the window goes. */
static void page_drop(struct bt_windows *ws, uint32_t n)
{
	struct page *p = &ws->page[n];
	struct window *w = &ws->window[p->window];

	ws->maps += MAPS_PER_CHANGE;
	if (unmap(w, p->lin - w->lin, page_size(p)))
		page_forget(ws, n);
	else
		window_empty(ws, w);
}

static void empty_all(struct bt_windows *ws)
{
	for (unsigned i = 0; i < WINDOWS_MAX; i++)
		window_empty(ws, &ws->window[i]);
	for (unsigned i = 0; i < REGION_COUNTS; i++)
		ws->fills[i] = 0;
	ws->maps = 0;
}

/* Before the host runs out of mappings everything goes: what is in use comes back. */
static void keep_budget(struct bt_windows *ws)
{
	if (ws->maps <= ws->maps_max)
		return;
	ws->stats.evicted += ws->stats.now;
	empty_all(ws);
}

static uint32_t page_new(struct bt_windows *ws, unsigned window, const struct mmu_page *m, bool large, bool writable)
{
	struct window *w = &ws->window[window];
	uint32_t n = ws->at, *head;
	struct page *p = &ws->page[n];

	ws->at = n + 1 < ws->pages_max ? n + 1 : 1;
	if (p->used) {
		page_drop(ws, n);
		ws->stats.evicted++;
	}
	*p = (struct page){ .lin = m->lin, .gpa = m->gpa, .window = (uint8_t)window, .used = true, .writable = writable,
			    .global = m->global, .large = large, .next = w->first[m->global] };
	head = &ws->lin_hash[hash_lin(window, p->lin)];
	p->lin_next = *head;
	*head = n;
	head = &ws->gpa_hash[hash_gpa(p->gpa)];
	p->gpa_next = *head;
	*head = n;
	if (p->next)
		ws->page[p->next].prev = n;
	w->first[p->global] = n;
	w->count++;
	ws->stats.now++;
	ws->stats.pages++;
	ws->stats.large += large;
	return n;
}

/* ---- windows ---- */

static void window_close(struct bt_cpu *b, struct window *w)
{
	window_empty(b->windows, w);
	if (!w->aside) {
		b->windows->which[w->view][slot_of(w->lin)] = 0;
		lead_nowhere(b, w->view, slot_of(w->lin));
	}
	w->used = w->aside = false;
}

static void window_lead(struct bt_cpu *b, unsigned n)
{
	const struct window *w = &b->windows->window[n];

	b->windows->which[w->view][slot_of(w->lin)] = (uint8_t)(n + 1);
	b->delta[w->view][slot_of(w->lin)] = (uintptr_t)w->base - w->lin;
}

/* One that makes room: put aside longest ago, or whichever is next. */
static unsigned window_victim(struct bt_windows *ws)
{
	unsigned best = ws->windows_max;

	for (unsigned n = 0; n < ws->windows_max; n++) {
		if (ws->window[n].aside && (best == ws->windows_max || ws->window[n].left < ws->window[best].left))
			best = n;
	}
	return best < ws->windows_max ? best : ws->victim++ % ws->windows_max;
}

/* The window for an address: its number, or -1 when its slot serves the other half, or there is no room. */
static int window_for(struct bt_cpu *b, uint64_t lin, unsigned view)
{
	struct bt_windows *ws = b->windows;
	unsigned n = ws->which[view][slot_of(lin)];
	uint64_t start = lin & ~(SLOT_SIZE - 1);
	struct window *w;

	if (n)
		return ws->window[n - 1].lin == start ? (int)n - 1 : -1;
	for (n = 0; n < ws->windows_max && ws->window[n].used;)
		n++;
	if (n == ws->windows_max)
		window_close(b, &ws->window[n = window_victim(ws)]);
	w = &ws->window[n];
	if (!w->base)
		w->base = reserve();
	if (!w->base)
		return -1;
	w->lin = start;
	w->low = SLOT_SIZE;
	w->high = 0;
	w->view = (uint8_t)view;
	w->used = true;
	window_lead(b, n);
	return (int)n;
}

uint64_t windows_delta(const struct bt_cpu *b, enum mmu_view view, uint64_t lin) { return b->delta[view][slot_of(lin)]; }

void windows_home(struct bt_cpu *b, enum mmu_view view)
{
	for (unsigned r = 0; r < ARRAY_LEN(b->home); r++)
		b->home[r] = windows_delta(b, view, b->cpu.s.gpr[r]);
}

/* ---- filling ---- */

static bool is_code(const struct bt_cpu *b, uint64_t gpa)
{
	const struct interp *in = b->cpu.interp;

	return gpa >> PAGE_SHIFT >= in->pages || atomic_load(&in->code[gpa >> PAGE_SHIFT]);
}

static bool in_slot(const struct mmu_page *m, uint64_t size)
{
	return m->slot->size >= size && m->gpa >= m->slot->gpa && m->gpa - m->slot->gpa <= m->slot->size - size;
}

static bool map(struct bt_windows *ws, struct window *w, const struct mmu_page *m, uint64_t size, bool writable)
{
	struct ram *ram = m->slot->ram;
	uint64_t offset = m->slot->ram_offset + (m->gpa - m->slot->gpa), at = m->lin - w->lin;
	/* What lies in a large page may never have been touched: it must not be asked for. */
	int flags = MAP_SHARED | MAP_FIXED | (size == LARGE ? 0 : MAP_POPULATE);

	if (mmap(w->base + at, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, flags, ram->fd, (off_t)offset) == MAP_FAILED) {
		empty_all(ws);
		return false;
	}
	ws->maps += MAPS_PER_CHANGE;
	if (writable)
		ram_mark_dirty(ram, offset, size);
	if (at < w->low)
		w->low = at;
	if (at + size > w->high)
		w->high = at + size;
	return true;
}

/* Code in a large page keeps its pages from being written. */
static void protect_code(struct bt_cpu *b, const struct window *w, const struct mmu_page *m)
{
	uint64_t first = 0;

	for (uint64_t i = 0; i <= LARGE; i += PAGE_SIZE) {
		bool code = i < LARGE && is_code(b, m->gpa + i);

		if (code)
			continue;
		if (i > first)
			b->windows->maps += MAPS_PER_CHANGE;
		if (i > first)
			mprotect(w->base + (m->lin - w->lin) + first, i - first, PROT_READ);
		first = i + PAGE_SIZE;
	}
}

static bool fill_large(struct bt_cpu *b, unsigned window, const struct mmu_page *m)
{
	struct bt_windows *ws = b->windows;

	if (!map(ws, &ws->window[window], m, LARGE, m->writable))
		return false;
	page_new(ws, window, m, true, m->writable);
	if (m->writable)
		protect_code(b, &ws->window[window], m);
	ws->huge |= m->huge;
	return true;
}

/* Whether the page beside belongs to the same mapping. */
static bool joins(struct bt_cpu *b, unsigned window, const struct mmu_page *m, int64_t pages, bool write, bool writable, struct mmu_page *next)
{
	uint64_t lin = m->lin + (uint64_t)(pages * (int64_t)PAGE_SIZE);

	return lin != END_32 && mmu_page(&b->cpu, lin, write ? ACCESS_WRITE : ACCESS_READ, (enum mmu_view)b->windows->window[window].view, false, next) &&
	       next->size == PAGE_SIZE && next->gpa == m->gpa + (uint64_t)(pages * (int64_t)PAGE_SIZE) && next->slot == m->slot &&
	       next->global == m->global && (next->writable && !is_code(b, next->gpa)) == writable && !page_at(b->windows, window, lin);
}

/* How many neighbours to look at: where much is asked for, much is mapped at once. */
static unsigned group_for(struct bt_windows *ws, unsigned window, uint64_t lin)
{
	uint8_t *count = &ws->fills[hash_lin(window, lin & ~(LARGE - 1)) % REGION_COUNTS];

	if (*count < REGION_DENSE) {
		(*count)++;
		return GROUP;
	}
	return GROUP_MAX;
}

/* A page, and its neighbours as far as one mapping serves them all. */
static bool fill_small(struct bt_cpu *b, unsigned window, const struct mmu_page *m, bool write)
{
	struct bt_windows *ws = b->windows;
	bool writable = m->writable && !is_code(b, m->gpa);
	unsigned group = group_for(ws, window, m->lin), at = m->lin >> PAGE_SHIFT & (group - 1), before = 0, count = 1;
	struct mmu_page run[GROUP_MAX], next;

	while (before < at && joins(b, window, m, -(int64_t)before - 1, write, writable, &next))
		run[at - ++before] = next;
	run[at] = *m;
	while (at + count < group && joins(b, window, m, count, write, writable, &next))
		run[at + count++] = next;
	if (!map(ws, &ws->window[window], &run[at - before], (uint64_t)(before + count) * PAGE_SIZE, writable))
		return false;
	for (unsigned i = at - before; i < at + count; i++)
		page_new(ws, window, &run[i], false, writable);
	return true;
}

/* A page that is mapped already is to be written, or has been protected in between. */
static bool allow_store(struct bt_cpu *b, uint32_t n, uint64_t lin)
{
	struct page *p = &b->windows->page[n];
	uint8_t *host = page_host(b->windows, p) + ((lin - p->lin) & ~(uint64_t)(PAGE_SIZE - 1));

	b->windows->maps += MAPS_PER_CHANGE;
	p->writable |= !p->large;
	return !mprotect(host, PAGE_SIZE, PROT_READ | PROT_WRITE);
}

static bool fill_page(struct bt_cpu *b, uint64_t lin, bool write, enum mmu_view view)
{
	struct bt_windows *ws = b->windows;
	struct mmu_page m;
	int window;
	uint32_t n;

	if (!bt_canonical(lin) || !mmu_page(&b->cpu, lin, write ? ACCESS_WRITE : ACCESS_READ, view, true, &m) || m.slot->ram->log_dirty)
		return false;
	if ((write && is_code(b, m.gpa + (lin - m.lin))) || lin >> PAGE_SHIFT == END_32 >> PAGE_SHIFT)
		return false;
	ram_touch(m.slot->ram, m.slot->ram_offset + (m.gpa + (lin - m.lin) - m.slot->gpa));
	if (m.size == LARGE && (!in_slot(&m, LARGE) || (m.gpa & (LARGE - 1)) || m.lin == END_32)) {
		m.gpa += (lin - m.lin) & ~(uint64_t)(PAGE_SIZE - 1);
		m.lin = lin & ~(uint64_t)(PAGE_SIZE - 1);
		m.size = PAGE_SIZE;
	}
	window = window_for(b, lin, view);
	if (window < 0)
		return false;
	n = page_at(ws, (unsigned)window, m.lin);
	if (n && ws->page[n].large == (m.size == LARGE) && ws->page[n].gpa == m.gpa) {
		if (!write)
			return true;
		if (!ws->page[n].large || ws->page[n].writable) {
			ram_mark_dirty(m.slot->ram, m.slot->ram_offset + (m.gpa - m.slot->gpa), m.size);
			return allow_store(b, n, lin);
		}
	}
	if (n)
		page_drop(ws, n);
	ws->stats.fills++;
	return m.size == LARGE ? fill_large(b, (unsigned)window, &m) : fill_small(b, (unsigned)window, &m, write);
}

bool windows_fill(struct bt_cpu *b, uint64_t lin, unsigned size, bool write, enum mmu_view view)
{
	uint64_t last = lin + size - 1;
	bool ok;

	if (b->mode & MODE_CODE32)
		last = (uint32_t)last;
	g_mutex_lock(&b->windows->lock);
	keep_budget(b->windows);
	ok = fill_page(b, lin, write, view) && ((last ^ lin) < PAGE_SIZE || fill_page(b, last, write, view));
	g_mutex_unlock(&b->windows->lock);
	return ok;
}

/* ---- dropping ---- */

/* All of the large pages that an INVLPG may mean: 4 MiB in the old form, 1 GiB at most. */
static void drop_large(struct bt_windows *ws, unsigned window, uint64_t lin)
{
	uint64_t span = ws->huge ? UINT64_C(1) << 30 : 2 * LARGE;

	for (uint64_t i = 0; i < span; i += LARGE) {
		uint32_t n = page_at(ws, window, (lin & ~(span - 1)) + i);

		if (n && ws->page[n].large)
			page_drop(ws, n);
	}
}

static void drop_page(struct bt_windows *ws, uint64_t lin)
{
	uint64_t page = lin & ~(uint64_t)(PAGE_SIZE - 1);

	for (unsigned view = 0; view < 2; view++) {
		unsigned window = ws->which[view][slot_of(lin)];
		uint32_t n;

		if (!window-- || ws->window[window].lin != (lin & ~(SLOT_SIZE - 1)))
			continue;
		n = page_at(ws, window, page);
		if (n)
			page_drop(ws, n);
		drop_large(ws, window, lin);
	}
}

static void drop_local(struct bt_windows *ws, struct window *w)
{
	if (!w->first[1])
		window_empty(ws, w);
	while (w->first[0])
		page_drop(ws, w->first[0]);
}

void windows_flush(struct bt_cpu *b, enum flush_kind kind, uint64_t lin)
{
	struct bt_windows *ws = b->windows;

	if (!ws->stats.now)
		return;
	g_mutex_lock(&ws->lock);
	if (kind == FLUSH_PAGE) {
		drop_page(ws, lin);
	} else {
		for (unsigned i = 0; i < ws->windows_max; i++) {
			if (kind == FLUSH_ALL)
				window_empty(ws, &ws->window[i]);
			else if (!ws->window[i].aside)
				drop_local(ws, &ws->window[i]);
		}
	}
	g_mutex_unlock(&ws->lock);
}

/* What the present address space sees there goes out of sight, but for global pages. */
static void put_aside(struct bt_cpu *b, struct window *w, unsigned space)
{
	struct bt_windows *ws = b->windows;

	if (w->first[1]) {
		drop_local(ws, w);
		return;
	}
	if (!w->count)
		return;
	ws->which[w->view][slot_of(w->lin)] = 0;
	lead_nowhere(b, w->view, slot_of(w->lin));
	w->aside = true;
	w->space = (uint8_t)space;
	w->left = b->mmu.switches;
}

/* Global pages that have come to its slot since, as those of the other half, were in use last. */
static void bring_back(struct bt_cpu *b, unsigned n)
{
	struct bt_windows *ws = b->windows;
	struct window *w = &ws->window[n];
	unsigned other = ws->which[w->view][slot_of(w->lin)];

	if (other && ws->window[other - 1].count) {
		window_close(b, w);
		return;
	}
	if (other)
		window_close(b, &ws->window[other - 1]);
	w->aside = false;
	window_lead(b, n);
}

void windows_switch(struct bt_cpu *b, unsigned from, unsigned to)
{
	struct bt_windows *ws = b->windows;

	if (!ws->stats.now)
		return;
	g_mutex_lock(&ws->lock);
	for (unsigned i = 0; i < ws->windows_max; i++) {
		if (ws->window[i].used && !ws->window[i].aside)
			put_aside(b, &ws->window[i], from);
	}
	for (unsigned i = 0; i < ws->windows_max; i++) {
		if (ws->window[i].aside && ws->window[i].space == to)
			bring_back(b, i);
	}
	g_mutex_unlock(&ws->lock);
}

void windows_drop_space(struct bt_cpu *b, unsigned space)
{
	struct bt_windows *ws = b->windows;

	g_mutex_lock(&ws->lock);
	for (unsigned i = 0; i < ws->windows_max; i++) {
		if (ws->window[i].aside && ws->window[i].space == space)
			window_close(b, &ws->window[i]);
	}
	g_mutex_unlock(&ws->lock);
}

/* ---- from other threads ---- */

static void protect_in(struct bt_windows *ws, uint64_t gpa)
{
	uint64_t large = gpa & ~(LARGE - 1);

	for (uint32_t n = ws->gpa_hash[hash_gpa(gpa)]; n; n = ws->page[n].gpa_next) {
		struct page *p = &ws->page[n];

		if (p->gpa != gpa || p->large || !p->writable)
			continue;
		mprotect(page_host(ws, p), PAGE_SIZE, PROT_READ);
		p->writable = false;
		ws->maps += MAPS_PER_CHANGE;
		ws->stats.protected++;
	}
	for (uint32_t n = ws->gpa_hash[hash_gpa(large)]; n; n = ws->page[n].gpa_next) {
		const struct page *p = &ws->page[n];

		if (p->gpa != large || !p->large || !p->writable)
			continue;
		mprotect(page_host(ws, p) + (gpa - large), PAGE_SIZE, PROT_READ);
		ws->maps += MAPS_PER_CHANGE;
		ws->stats.protected++;
	}
}

void windows_protect(struct bt *bt, uint64_t gpa)
{
	for (unsigned i = 0; i < bt->interp.cfg.cpus; i++) {
		struct bt_cpu *b = (struct bt_cpu *)bt->interp.cpus[i];

		if (!b || !b->windows)
			continue;
		g_mutex_lock(&b->windows->lock);
		protect_in(b->windows, gpa);
		keep_budget(b->windows);
		g_mutex_unlock(&b->windows->lock);
	}
}

void windows_forget(struct bt *bt)
{
	for (unsigned i = 0; i < bt->interp.cfg.cpus; i++) {
		struct bt_cpu *b = (struct bt_cpu *)bt->interp.cpus[i];

		if (!b || !b->windows)
			continue;
		g_mutex_lock(&b->windows->lock);
		empty_all(b->windows);
		g_mutex_unlock(&b->windows->lock);
	}
}

struct window_stats windows_stats(const struct bt_cpu *b)
{
	return b->windows ? b->windows->stats : (struct window_stats){ 0 };
}
