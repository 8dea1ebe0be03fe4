/*
 * Linear memory: soft TLBs in front of the guest's page tables (SDM 3A chapter 4), MMIO beyond
 * RAM, and the notice taken of stores to pages that hold decoded code.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "accel/interp/tlb.h"

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_PS 0x80u
#define PTE_G 0x100u
#define PTE_NX (UINT64_C(1) << 63)
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u
#define ADDRESS_MASK UINT64_C(0x000ffffffffff000)

/* ---- flushing ---- */

static void entry_clear_large(struct mmu *m, struct tlb_entry *e)
{
	if (e->info & TLB_LARGE)
		tlb_entry_clear(m, e);
}

static void entry_clear_stores(struct mmu *m, struct tlb_entry *e)
{
	for (unsigned v = 0; v < VIEW_COUNT; v++)
		e->tag[v][ACCESS_WRITE] = tlb_no_tag(m, e);
}

int mmu_init(struct icpu *cpu)
{
	if (!cpu->mmu) {
		cpu->mmu = aligned_alloc(64, sizeof(struct mmu));
		if (!cpu->mmu)
			return -ENOMEM;
		memset(cpu->mmu, 0, sizeof(*cpu->mmu));
		cpu->mmu_owned = true;
	}
	for (unsigned i = 0; i < TLB_SIZE; i++)
		tlb_entry_clear(cpu->mmu, &cpu->mmu->tlb[i]);
	cpu->mmu->generation = mem_generation(cpu->mem);
	cpu->mmu->space[0].used = true;
	return 0;
}

void mmu_finish(struct icpu *cpu)
{
	if (cpu->mmu_owned)
		free(cpu->mmu);
}

static void flushed(struct icpu *cpu, enum flush_kind kind, uint64_t lin)
{
	cpu->mmu->map_epoch++;
	cpu->mmu->walk_epoch++;
	cpu->block_ends = true;
	cpu->interp->hooks->flushed(cpu, kind, lin);
}

static void forget_large(struct mmu *m)
{
	for (unsigned i = 0; i < sizeof(m->large) / sizeof(m->large[0]); i++)
		m->large[i] = 0;
}

void mmu_flush_all(struct icpu *cpu)
{
	struct mmu *m = cpu->mmu;

	tlb_set_walk(m, &m->local, tlb_entry_clear);
	tlb_set_walk(m, &m->global, tlb_entry_clear);
	tlb_set_empty(&m->local);
	tlb_set_empty(&m->global);
	forget_large(m);
	m->huge_seen = false;
	spaces_forget(cpu);
	flushed(cpu, FLUSH_ALL, 0);
}

void mmu_flush_nonglobal(struct icpu *cpu)
{
	struct mmu *m = cpu->mmu;

	tlb_set_walk(m, &m->local, tlb_entry_clear);
	tlb_set_empty(&m->local);
	flushed(cpu, FLUSH_LOCAL, 0);
}

void mmu_flush_page(struct icpu *cpu, uint64_t lin)
{
	struct mmu *m = cpu->mmu;
	unsigned hash = tlb_large_hash(lin);

	tlb_entry_clear(m, &m->tlb[(lin >> PAGE_SHIFT) % TLB_SIZE]);
	/* Large pages are cached as their 4 KiB pieces: one INVLPG may concern many of them. */
	if (m->huge_seen || m->large[hash / 64] >> (hash % 64) & 1) {
		tlb_set_walk(m, &m->local, entry_clear_large);
		tlb_set_walk(m, &m->global, entry_clear_large);
		forget_large(m);
		m->huge_seen = false;
	}
	flushed(cpu, FLUSH_PAGE, lin);
}

/* Who waits for this vCPU, and for no other one any more, is told. */
static void tell_waiting(struct icpu *cpu)
{
	struct interp *in = cpu->interp;

	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		struct icpu *other = in->cpus[i];
		uint32_t epoch = other && other != cpu ? atomic_load(&other->waits_for) : 0;

		if (epoch && blocks_settled(other, epoch))
			icpu_poke(other);
	}
}

void mmu_sync_stores(struct icpu *cpu)
{
	struct mmu *m = cpu->mmu;
	uint32_t epoch = atomic_load(&cpu->interp->code_epoch);

	if (m->code_epoch == epoch)
		return;
	m->code_epoch = epoch;
	tlb_set_walk(m, &m->local, entry_clear_stores);
	tlb_set_walk(m, &m->global, entry_clear_stores);
	/* Sequentially consistent, for the stores that are weakly ordered too. */
	atomic_store(&cpu->stores_epoch, epoch);
	tell_waiting(cpu);
}

void mmu_arrive(struct icpu *cpu)
{
	atomic_store(&cpu->away, false);
	mmu_sync_stores(cpu);
}

void mmu_leave(struct icpu *cpu)
{
	atomic_store(&cpu->away, true);
	tell_waiting(cpu);
}

void mmu_sync(struct icpu *cpu)
{
	struct mmu *m = cpu->mmu;
	uint64_t generation = mem_generation(cpu->mem);

	if (m->generation != generation) {
		m->generation = generation;
		mmu_flush_all(cpu);
	}
	mmu_sync_stores(cpu);
}

/* ---- the page walk ---- */

struct walk {
	uint64_t page;   /* physical address of the 4 KiB page */
	bool writable, user, nx, accessed, dirty, global;
	unsigned level;  /* of the leaf: 1 for a 4 KiB page */
	unsigned depth;  /* entries below, top first; those of a remembered table are left out */
	uint64_t where[4];
	uint8_t *at[4];
	uint32_t above;  /* WALK_: what the levels above the last allow */
};

#define WALK_WRITABLE 1u
#define WALK_USER 2u
#define WALK_NX 4u

/* Page tables mostly share a slot, and so do pages: the last one is tried first. Good until the layout changes. */
static const struct mem_slot *slot_of(struct icpu *cpu, uint64_t gpa, const struct mem_slot **last)
{
	struct mmu *m = cpu->mmu;
	uint64_t generation = mem_generation(cpu->mem);

	if (m->slot_generation != generation) {
		m->slot_generation = generation;
		m->table_slot = m->data_slot = NULL;
	}
	if (!*last || gpa - (*last)->gpa >= (*last)->size)
		*last = mem_find(cpu->mem, gpa);
	return *last;
}

static uint8_t *table_entry(struct icpu *cpu, uint64_t gpa)
{
	const struct mem_slot *s = slot_of(cpu, gpa, &cpu->mmu->table_slot);

	return s ? mem_slot_host(s, gpa) : NULL;
}

static uint64_t entry_load(const uint8_t *p, unsigned size)
{
	return size == 8 ? __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED)
			 : __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static void entry_set(struct icpu *cpu, uint64_t gpa, uint8_t *p, uint32_t bits)
{
	const struct mem_slot *s = mem_find(cpu->mem, gpa);
	uint64_t page = gpa >> PAGE_SHIFT;

	if (!s || s->readonly)
		return;
	__atomic_fetch_or((uint32_t *)p, bits, __ATOMIC_SEQ_CST);
	ram_mark_dirty(s->ram, s->ram_offset + (gpa - s->gpa), 4);
	/* A table may be code as well. */
	if (page < cpu->interp->pages && atomic_load(&cpu->interp->code[page])) {
		blocks_written_unseen(cpu->interp, gpa, 4);
		cpu->block_ends = true;
	}
}

static uint32_t page_fault_error(const struct icpu *cpu, enum access access, bool user, uint32_t bits)
{
	uint32_t error = bits;

	if (access == ACCESS_WRITE)
		error |= PF_W;
	if (user)
		error |= PF_U;
	if (access == ACCESS_EXEC && ((cpu->s.efer & EFER_NXE) || (cpu->s.cr4 & CR4_SMEP)))
		error |= PF_I;
	return error;
}

static _Noreturn void page_fault(struct icpu *cpu, uint64_t lin, enum access access, bool user, uint32_t bits)
{
	cpu->s.cr2 = lin;
	cpu_raise_error(cpu, EXC_PF, page_fault_error(cpu, access, user, bits));
}

/* Reserved bits of an entry: above the physical width, NX without EFER.NXE, misaligned large pages. */
static uint64_t reserved_bits(const struct icpu *cpu, unsigned entry_size, bool leaf, unsigned level)
{
	unsigned phys = cpu->model ? cpu->model->phys_bits : 40;
	uint64_t bits = 0;

	if (entry_size == 4)
		return 0;
	bits = ~((UINT64_C(1) << phys) - 1) & ADDRESS_MASK;
	if (!(cpu->s.efer & EFER_NXE))
		bits |= PTE_NX;
	if (!cpu->long_mode)
		bits |= UINT64_C(0x7ff0000000000000);
	if (leaf && level == 2)
		bits |= 0x1fe000;
	if (leaf && level == 3)
		bits |= 0x3fffe000;
	return bits;
}

/* Field by field: clearing the whole would call memset, which may use vector registers. */
static void walk_start(struct walk *w)
{
	w->page = 0;
	w->writable = w->user = true;
	w->nx = w->accessed = w->dirty = w->global = false;
	w->level = w->depth = 0;
}

/* ---- tables that walks have come to ---- */

static unsigned region_shift(const struct icpu *cpu) { return cpu->s.cr4 & CR4_PAE ? 21 : 22; }

static struct walk_entry *walk_place(struct icpu *cpu, uint64_t region)
{
	return &cpu->mmu->walk[(region ^ region >> 9 ^ region >> 18) % WALK_CACHE];
}

/* The leaf is in a table that is remembered: where, or NULL. */
static uint8_t *walk_recall(struct icpu *cpu, uint64_t lin, struct walk *w)
{
	uint64_t region = lin >> region_shift(cpu);
	const struct walk_entry *e = walk_place(cpu, region);
	unsigned offset = cpu->s.cr4 & CR4_PAE ? (lin >> 12 & 511) * 8 : (lin >> 12 & 1023) * 4;

	if (e->region != region || e->epoch != cpu->mmu->walk_epoch)
		return NULL;
	w->above = (uint32_t)(e->gpa & (PAGE_SIZE - 1));
	w->writable = w->above & WALK_WRITABLE;
	w->user = w->above & WALK_USER;
	w->nx = w->above & WALK_NX;
	w->where[0] = (e->gpa & ~(uint64_t)(PAGE_SIZE - 1)) + offset;
	return e->host + offset;
}

/* All accessed bits on the way are set. */
static void walk_remember(struct icpu *cpu, uint64_t lin, const struct walk *w)
{
	uint64_t region = lin >> region_shift(cpu), leaf = w->where[w->depth - 1];
	struct walk_entry *e = walk_place(cpu, region);

	e->region = region;
	e->epoch = cpu->mmu->walk_epoch;
	e->gpa = (leaf & ~(uint64_t)(PAGE_SIZE - 1)) | w->above;
	e->host = w->at[w->depth - 1] - (leaf & (PAGE_SIZE - 1));
}

/* 0 when mapped, otherwise the fault's P and RSVD bits. */
static int walk_tables(struct icpu *cpu, uint64_t lin, struct walk *w)
{
	unsigned entry_size = cpu->s.cr4 & CR4_PAE ? 8 : 4;
	unsigned index_bits = entry_size == 8 ? 9 : 10;
	unsigned level = cpu->long_mode ? 4 : entry_size == 8 ? 3 : 2;
	uint64_t table = cpu->s.cr3 & (cpu->long_mode ? ADDRESS_MASK : entry_size == 8 ? 0xffffffe0 : 0xfffff000);
	unsigned depth = 0;
	uint8_t *last;

	walk_start(w);
	last = walk_recall(cpu, lin, w);
	if (last)
		level = 1;
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * index_bits;
		uint64_t index = (lin >> shift) & ((1u << index_bits) - 1);
		bool pdpte = level == 3 && !cpu->long_mode;
		uint64_t e;
		bool leaf;

		if (pdpte)
			index &= 3;
		if (!last)
			w->where[depth] = table + index * entry_size;
		w->at[depth] = last ? last : table_entry(cpu, w->where[depth]);
		e = w->at[depth] ? entry_load(w->at[depth], entry_size) : 0;
		if (!(e & PTE_P))
			return -1;
		leaf = level == 1 || ((e & PTE_PS) && !pdpte && level < 4 && (entry_size == 8 || (cpu->s.cr4 & CR4_PSE)));
		if (pdpte) {
			table = e & ADDRESS_MASK;
			continue;
		}
		if ((e & reserved_bits(cpu, entry_size, leaf && level > 1, level)) || (level == 4 && (e & PTE_PS)))
			return PF_P | PF_RSVD;
		if (level == 1)
			w->above = (w->writable ? WALK_WRITABLE : 0) | (w->user ? WALK_USER : 0) | (w->nx ? WALK_NX : 0);
		w->writable &= (e & PTE_W) != 0;
		w->user &= (e & PTE_U) != 0;
		w->nx |= entry_size == 8 && (e & PTE_NX);
		depth++;
		if (leaf) {
			uint64_t size = UINT64_C(1) << shift;
			uint64_t base = e & (entry_size == 8 ? ADDRESS_MASK : 0xfffff000) & ~(size - 1);

			if (entry_size == 4 && level == 2)
				base |= (e & 0x1fe000) << 19;
			w->page = base | (lin & (size - 1) & ~(uint64_t)(PAGE_SIZE - 1));
			w->accessed = (e & PTE_A) != 0;
			w->dirty = (e & PTE_D) != 0;
			w->global = (e & PTE_G) && (cpu->s.cr4 & CR4_PGE);
			w->level = level;
			w->depth = depth;
			return 0;
		}
		table = e & (entry_size == 8 ? ADDRESS_MASK : 0xfffff000);
	}
}

/* Sets accessed (and dirty) bits. */
static void walk_mark(struct icpu *cpu, uint64_t lin, bool write, struct walk *w)
{
	unsigned entry_size = cpu->s.cr4 & CR4_PAE ? 8 : 4;

	for (unsigned i = 0; i < w->depth; i++) {
		uint32_t need = PTE_A | (write && i == w->depth - 1 ? PTE_D : 0);

		if ((entry_load(w->at[i], entry_size) & need) != need)
			entry_set(cpu, w->where[i], w->at[i], need);
	}
	w->dirty |= write;
	if (w->depth > 1 && w->level == 1)
		walk_remember(cpu, lin, w);
}

/* Whether the rights of a mapped page allow the access (SDM 3A 4.6). */
static bool rights_allow(const struct icpu *cpu, const struct walk *w, enum access access, enum mmu_view view)
{
	bool user = view == VIEW_USER;

	if (user && !w->user)
		return false;
	if (access == ACCESS_EXEC)
		return !(w->nx && (cpu->s.efer & EFER_NXE)) && (user || !w->user || !(cpu->s.cr4 & CR4_SMEP));
	if (!user && w->user && (cpu->s.cr4 & CR4_SMAP) && view != VIEW_SUPERVISOR_AC)
		return false;
	if (access == ACCESS_WRITE && !w->writable)
		return !user && !(cpu->s.cr0 & CR0_WP);
	return true;
}

static void find_target(struct icpu *cpu, uint64_t gpa, enum access access, struct mmu_target *t)
{
	const struct mem_slot *s = slot_of(cpu, gpa, &cpu->mmu->data_slot);

	t->gpa = gpa;
	t->slot = s;
	t->host = s && !(access == ACCESS_WRITE && s->readonly) ? mem_slot_host(s, gpa) : NULL;
	if (s)
		ram_touch(s->ram, s->ram_offset + (gpa - s->gpa));
}

/* Stores to the page need no notice: it holds no code, and counts as written to for everyone. */
static bool store_unnoticed(const struct icpu *cpu, enum access access, const struct walk *w, const struct mmu_target *t)
{
	uint64_t page = t->gpa >> PAGE_SHIFT;

	if (page < cpu->interp->pages && atomic_load_explicit(&cpu->interp->code[page], memory_order_relaxed))
		return false;
	return access == ACCESS_WRITE || (w->dirty && !t->slot->readonly && ram_is_dirty(t->slot->ram, t->slot->ram_offset + (t->gpa - t->slot->gpa)));
}

static void entry_allow(struct tlb_entry *e, enum access access, uint64_t tag, bool supervisor, bool user, bool ac)
{
	if (supervisor)
		e->tag[VIEW_SUPERVISOR][access] = tag;
	if (user)
		e->tag[VIEW_USER][access] = tag;
	if (ac)
		e->tag[VIEW_SUPERVISOR_AC][access] = tag;
}

/* The page's tags for each view whose rights allow it, as rights_allow. Without paging a walk allows everything. */
static void entry_tag(const struct icpu *cpu, struct tlb_entry *e, uint64_t tag, const struct walk *w, bool store)
{
	bool paging = cpu->s.cr0 & CR0_PG, write = w->writable || !(cpu->s.cr0 & CR0_WP);
	bool supervisor = !paging || !w->user || !(cpu->s.cr4 & CR4_SMAP);

	entry_allow(e, ACCESS_READ, tag, supervisor, w->user, true);
	if (store)
		entry_allow(e, ACCESS_WRITE, tag, supervisor && write, w->user && w->writable, write);
}

/*
 * Remembers a page of RAM for every view whose rights allow it; for stores only when its dirty bit is set and nobody
 * wants to notice them.
 */
static void fill(struct icpu *cpu, uint64_t lin, enum access access, const struct walk *w, const struct mmu_target *t)
{
	struct mmu *m = cpu->mmu;
	struct tlb_entry *e = &m->tlb[(lin >> PAGE_SHIFT) % TLB_SIZE];
	/* Who reads with AC set may read whatever an entry is for. */
	uint64_t tag = lin & ~(uint64_t)(PAGE_SIZE - 1), was = e->tag[VIEW_SUPERVISOR_AC][ACCESS_READ];
	uint8_t *host = t->host ? t->host - (lin & (PAGE_SIZE - 1)) : NULL;
	bool global = !(cpu->s.cr0 & CR0_PG) || w->global;

	if (!t->host || access == ACCESS_EXEC || (cpu->debug_on && debug_watches_page(cpu, lin)))
		return;
	if (was != tag || e->host != host || !(e->info & TLB_GLOBAL) == global) {
		m->displaced += was != tag && was != tlb_no_tag(m, e);
		tlb_entry_take(m, lin, global);
	}
	m->fills++;
	e->host = host;
	e->info = global ? TLB_GLOBAL : 0;
	entry_tag(cpu, e, tag, w, store_unnoticed(cpu, access, w, t));
	if (w->level > 1) {
		e->info |= w->level > 2 ? TLB_LARGE | TLB_HUGE : TLB_LARGE;
		tlb_note_large(m, lin, w->level > 2);
	}
	if (access == ACCESS_WRITE)
		ram_mark_dirty(t->slot->ram, t->slot->ram_offset + (t->gpa - t->slot->gpa), 1);
}

/* ---- pages of devices ---- */

static uint8_t io_right(enum access access, enum mmu_view view)
{
	return (uint8_t)(1u << (2 * view + (access == ACCESS_WRITE)));
}

static struct io_page *io_entry(struct mmu *m, uint64_t lin)
{
	return &m->io[(lin >> PAGE_SHIFT) % IO_PAGES];
}

static bool io_same(const struct mmu *m, const struct io_page *io, uint64_t lin)
{
	return io->lin == (lin & ~(uint64_t)(PAGE_SIZE - 1)) + 1 && io->epoch == m->map_epoch;
}

/* A device's page to which such an access has been allowed, or NULL. */
static const struct io_page *io_find(struct mmu *m, uint64_t lin, enum access access, enum mmu_view view)
{
	const struct io_page *io = io_entry(m, lin);

	return io_same(m, io, lin) && (io->allowed & io_right(access, view)) ? io : NULL;
}

static void io_add(struct mmu *m, uint64_t lin, enum access access, enum mmu_view view, uint64_t gpa)
{
	struct io_page *io = io_entry(m, lin);

	if (!io_same(m, io, lin))
		*io = (struct io_page){ (lin & ~(uint64_t)(PAGE_SIZE - 1)) + 1, gpa & ~(uint64_t)(PAGE_SIZE - 1), m->map_epoch, 0 };
	io->allowed |= io_right(access, view);
}

void mmu_translate(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, struct mmu_target *t)
{
	struct walk w;
	uint64_t gpa = lin;

	walk_start(&w);
	if (cpu->s.cr0 & CR0_PG) {
		int bad = walk_tables(cpu, lin, &w);

		if (bad)
			page_fault(cpu, lin, access, view == VIEW_USER, bad < 0 ? 0 : (uint32_t)bad);
		if (!rights_allow(cpu, &w, access, view))
			page_fault(cpu, lin, access, view == VIEW_USER, PF_P);
		walk_mark(cpu, lin, access == ACCESS_WRITE, &w);
		gpa = w.page | (lin & (PAGE_SIZE - 1));
	}
	t->global = !(cpu->s.cr0 & CR0_PG) || w.global;
	t->level = w.level;
	find_target(cpu, gpa, access, t);
	fill(cpu, lin, access, &w, t);
}

enum mmu_filled mmu_fill(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, uint32_t *error)
{
	struct walk w;
	struct mmu_target t;
	uint64_t gpa = lin;

	if (access != ACCESS_EXEC && io_find(cpu->mmu, lin, access, view))
		return FILL_SLOW;
	walk_start(&w);
	if (cpu->s.cr0 & CR0_PG) {
		int bad = walk_tables(cpu, lin, &w);

		if (bad || !rights_allow(cpu, &w, access, view)) {
			*error = page_fault_error(cpu, access, view == VIEW_USER, bad < 0 ? 0 : bad ? (uint32_t)bad : PF_P);
			return FILL_FAULT;
		}
		walk_mark(cpu, lin, access == ACCESS_WRITE, &w);
		gpa = w.page | (lin & (PAGE_SIZE - 1));
	}
	find_target(cpu, gpa, access, &t);
	fill(cpu, lin, access, &w, &t);
	return mmu_hit(cpu, lin, 1, access, view) ? FILL_DONE : FILL_SLOW;
}

bool mmu_page(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, bool mark, struct mmu_page *p)
{
	bool paging = cpu->s.cr0 & CR0_PG;
	uint64_t size = PAGE_SIZE;
	struct walk w;

	walk_start(&w);
	if (paging) {
		if (walk_tables(cpu, lin, &w) || !rights_allow(cpu, &w, access, view))
			return false;
		if (!mark && !(w.accessed && (w.dirty || access != ACCESS_WRITE)))
			return false;
		if (mark)
			walk_mark(cpu, lin, access == ACCESS_WRITE, &w);
	} else {
		w.page = lin & ~(uint64_t)(PAGE_SIZE - 1);
		w.dirty = w.global = true;
	}
	if (!paging || w.level > 1)
		size = UINT64_C(1) << 21;
	p->lin = lin & ~(size - 1);
	p->gpa = w.page - ((lin & (size - 1)) & ~(uint64_t)(PAGE_SIZE - 1));
	p->size = size;
	p->slot = mem_find(cpu->mem, w.page);
	p->writable = w.dirty && (!paging || rights_allow(cpu, &w, ACCESS_WRITE, view));
	p->global = w.global;
	p->huge = w.level > 2;
	return p->slot && !p->slot->readonly;
}

bool mmu_probe(struct icpu *cpu, uint64_t lin, uint64_t *gpa)
{
	struct walk w;

	if (!(cpu->s.cr0 & CR0_PG)) {
		*gpa = lin;
		return true;
	}
	if (walk_tables(cpu, lin, &w))
		return false;
	*gpa = w.page | (lin & (PAGE_SIZE - 1));
	return true;
}

/* memcpy could use vector registers. */
static void copy_bytes(void *to, const void *from, unsigned len)
{
	uint64_t n = len;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* ---- access ---- */

/* A store reached a page that holds, or held, decoded code. */
static void note_store(struct icpu *cpu, uint64_t gpa, unsigned len)
{
	for (uint64_t page = gpa >> PAGE_SHIFT; page <= (gpa + len - 1) >> PAGE_SHIFT; page++) {
		struct interp *in = cpu->interp;
		uint8_t left, then;

		if (page >= in->pages || !(left = atomic_load(&in->code[page])))
			continue;
		/* Who fills all of it at once has other plans with it. */
		then = len >= PAGE_SIZE ? 0 : left - 1;
		if (!atomic_compare_exchange_strong(&in->code[page], &left, then))
			then = 1;
		/* Behind the release: who has seen this number has marked the page after it. */
		atomic_fetch_add(&in->written[page], 1);
		cpu->block_ends = true;
		in->hooks->code_stored(cpu, gpa, len, !then);
	}
}

void blocks_written(struct icpu *cpu, uint64_t gpa, unsigned len)
{
	cpu->rmw_len = 0;
	note_store(cpu, gpa, len);
}

/* Notes a data breakpoint; the hits of an instruction that faults are forgotten. */
static void watch(struct icpu *cpu, uint64_t lin, unsigned len, bool write)
{
	if (cpu->debug_on)
		debug_access(cpu, lin, len, write);
}

/* A data access within a page: a device's page that was found before needs no walk. */
static void translate_data(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, struct mmu_target *t)
{
	const struct io_page *io = io_find(cpu->mmu, lin, access, view);

	if (io) {
		*t = (struct mmu_target){ .gpa = io->gpa | (lin & (PAGE_SIZE - 1)) };
		return;
	}
	mmu_translate(cpu, lin, access, view, t);
	if (!t->slot)
		io_add(cpu->mmu, lin, access, view, t->gpa);
}

static uint64_t load_mmio(struct icpu *cpu, uint64_t gpa, unsigned len)
{
	uint32_t begun = device_begins(cpu);
	uint64_t value = cpu->host->mmio_read(cpu->host->opaque, cpu->vcpu.index, gpa, len);

	device_ends(cpu, begun);
	return value;
}

static uint64_t load_slow(struct icpu *cpu, uint64_t lin, unsigned len, enum mmu_view view)
{
	struct mmu_target t;
	unsigned first = PAGE_SIZE - (lin & (PAGE_SIZE - 1));

	watch(cpu, lin, len, false);

	if (first < len) {
		uint8_t bytes[8];
		struct mmu_target u;
		uint64_t next = lin + first;

		if (cpu->code_bits != 64)
			next = (uint32_t)next;
		mmu_translate(cpu, lin, ACCESS_READ, view, &t);
		mmu_translate(cpu, next, ACCESS_READ, view, &u);
		for (unsigned i = 0; i < len; i++) {
			const struct mmu_target *from = i < first ? &t : &u;
			unsigned at = i < first ? i : i - first;

			bytes[i] = from->host ? from->host[at]
					      : (uint8_t)load_mmio(cpu, from->gpa + at, 1);
		}
		return ld_le(bytes, len);
	}
	translate_data(cpu, lin, ACCESS_READ, view, &t);
	if (t.host)
		return ld_le(t.host, len);
	return load_mmio(cpu, t.gpa, len) & mask_bytes(len);
}

static inline uint64_t load_view(struct icpu *cpu, uint64_t lin, unsigned len, enum mmu_view view)
{
	const uint8_t *p = mmu_hit(cpu, lin, len, ACCESS_READ, view);

	if (__builtin_expect(!p, 0))
		return load_slow(cpu, lin, len, view);
	switch (len) {
	case 1: return *p;
	case 2: return ld16le(p);
	case 4: return ld32le(p);
	default: return ld64le(p);
	}
}

static void store_mmio(struct icpu *cpu, uint64_t gpa, unsigned len, uint64_t value)
{
	uint32_t begun = device_begins(cpu);

	cpu->host->mmio_write(cpu->host->opaque, cpu->vcpu.index, gpa, len, value);
	device_ends(cpu, begun);
}

static void put_bytes(struct icpu *cpu, const struct mmu_target *t, const uint8_t *from, unsigned len)
{
	if (!t->host) {
		for (unsigned i = 0; i < len; i++)
			store_mmio(cpu, t->gpa + i, 1, from[i]);
		return;
	}
	copy_bytes(t->host, from, len);
	ram_mark_dirty(t->slot->ram, t->slot->ram_offset + (t->gpa - t->slot->gpa), len);
	note_store(cpu, t->gpa, len);
}

static void store_slow(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value, enum mmu_view view)
{
	struct mmu_target t;
	unsigned first = PAGE_SIZE - (lin & (PAGE_SIZE - 1));

	watch(cpu, lin, len, true);

	if (first < len) {
		struct mmu_target u;
		uint8_t bytes[8];
		uint64_t next = lin + first;

		if (cpu->code_bits != 64)
			next = (uint32_t)next;
		st64le(bytes, value);
		mmu_translate(cpu, lin, ACCESS_WRITE, view, &t);
		mmu_translate(cpu, next, ACCESS_WRITE, view, &u);
		put_bytes(cpu, &t, bytes, first);
		put_bytes(cpu, &u, bytes + first, len - first);
		return;
	}
	translate_data(cpu, lin, ACCESS_WRITE, view, &t);
	if (!t.host) {
		store_mmio(cpu, t.gpa, len, value & mask_bytes(len));
		return;
	}
	st_le(t.host, len, value);
	ram_mark_dirty(t.slot->ram, t.slot->ram_offset + (t.gpa - t.slot->gpa), len);
	note_store(cpu, t.gpa, len);
}

static inline void store_view(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value, enum mmu_view view)
{
	uint8_t *p = mmu_hit(cpu, lin, len, ACCESS_WRITE, view);

	if (__builtin_expect(!p, 0)) {
		store_slow(cpu, lin, len, value, view);
		return;
	}
	switch (len) {
	case 1: *p = (uint8_t)value; break;
	case 2: st16le(p, (uint16_t)value); break;
	case 4: st32le(p, (uint32_t)value); break;
	default: st64le(p, value); break;
	}
}

uint64_t cpu_load(struct icpu *cpu, uint64_t lin, unsigned len) { return load_view(cpu, lin, len, mmu_view(cpu)); }

void cpu_store(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value)
{
	store_view(cpu, lin, len, value, mmu_view(cpu));
}

uint64_t cpu_load_system(struct icpu *cpu, uint64_t lin, unsigned len)
{
	return load_view(cpu, lin, len, VIEW_SUPERVISOR);
}

void cpu_store_system(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value)
{
	store_view(cpu, lin, len, value, VIEW_SUPERVISOR);
}

uint64_t cpu_load_as(struct icpu *cpu, uint64_t lin, unsigned len, bool user)
{
	return load_view(cpu, lin, len, user ? VIEW_USER : VIEW_SUPERVISOR);
}

void cpu_store_as(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value, bool user)
{
	store_view(cpu, lin, len, value, user ? VIEW_USER : VIEW_SUPERVISOR);
}

void cpu_load_bytes(struct icpu *cpu, uint64_t lin, void *buf, unsigned len)
{
	struct mmu_target t[2];
	unsigned first = PAGE_SIZE - (lin & (PAGE_SIZE - 1));
	const uint8_t *hit = len <= PAGE_SIZE ? mmu_hit(cpu, lin, len, ACCESS_READ, mmu_view(cpu)) : NULL;
	uint8_t *to = buf;

	if (hit) {
		copy_bytes(to, hit, len);
		return;
	}
	watch(cpu, lin, len, false);
	if (first > len)
		first = len;
	mmu_translate(cpu, lin, ACCESS_READ, mmu_view(cpu), &t[0]);
	if (first < len)
		mmu_translate(cpu, cpu->code_bits == 64 ? lin + first : (uint32_t)(lin + first), ACCESS_READ, mmu_view(cpu), &t[1]);
	for (unsigned i = 0, done = 0; done < len; i++) {
		unsigned n = i ? len - first : first;

		if (t[i].host) {
			copy_bytes(to + done, t[i].host, n);
		} else {
			for (unsigned b = 0; b < n; b++)
				to[done + b] = (uint8_t)load_mmio(cpu, t[i].gpa + b, 1);
		}
		done += n;
	}
}

void cpu_store_bytes(struct icpu *cpu, uint64_t lin, const void *buf, unsigned len)
{
	struct mmu_target t[2];
	unsigned first = PAGE_SIZE - (lin & (PAGE_SIZE - 1));
	uint8_t *hit = len <= PAGE_SIZE ? mmu_hit(cpu, lin, len, ACCESS_WRITE, mmu_view(cpu)) : NULL;

	if (hit) {
		copy_bytes(hit, buf, len);
		return;
	}
	watch(cpu, lin, len, true);
	if (first > len)
		first = len;
	mmu_translate(cpu, lin, ACCESS_WRITE, mmu_view(cpu), &t[0]);
	if (first < len)
		mmu_translate(cpu, cpu->code_bits == 64 ? lin + first : (uint32_t)(lin + first), ACCESS_WRITE, mmu_view(cpu), &t[1]);
	put_bytes(cpu, &t[0], buf, first);
	if (first < len)
		put_bytes(cpu, &t[1], (const uint8_t *)buf + first, len - first);
}

void cpu_check_write(struct icpu *cpu, uint64_t lin, unsigned len)
{
	enum mmu_view view = mmu_view(cpu);
	unsigned first = PAGE_SIZE - (lin & (PAGE_SIZE - 1));
	struct mmu_target t;

	if (mmu_hit(cpu, lin, len, ACCESS_WRITE, view))
		return;
	mmu_translate(cpu, lin, ACCESS_WRITE, view, &t);
	if (first < len)
		mmu_translate(cpu, cpu->code_bits == 64 ? lin + first : (uint32_t)(lin + first), ACCESS_WRITE, view, &t);
}

const void *cpu_read_ptr(struct icpu *cpu, uint64_t lin, unsigned len)
{
	enum mmu_view view = mmu_view(cpu);
	const uint8_t *p = mmu_hit(cpu, lin, len, ACCESS_READ, view);
	struct mmu_target t;

	if (p || (lin & (PAGE_SIZE - 1)) + len > PAGE_SIZE)
		return p;
	mmu_translate(cpu, lin, ACCESS_READ, view, &t);
	if (t.host)
		watch(cpu, lin, len, false);
	return t.host;
}

void *cpu_rmw_ptr(struct icpu *cpu, uint64_t lin, unsigned len)
{
	enum mmu_view view = mmu_view(cpu);
	uint8_t *p = mmu_hit(cpu, lin, len, ACCESS_WRITE, view);
	struct mmu_target t;

	cpu->rmw_len = 0;
	if (p)
		return p;
	if ((lin & (PAGE_SIZE - 1)) + len > PAGE_SIZE) {
		cpu_check_write(cpu, lin, len);
		return NULL;
	}
	mmu_translate(cpu, lin, ACCESS_WRITE, view, &t);
	if (!t.host)
		return NULL;
	watch(cpu, lin, len, true);
	ram_mark_dirty(t.slot->ram, t.slot->ram_offset + (t.gpa - t.slot->gpa), len);
	cpu->rmw_gpa = t.gpa;
	cpu->rmw_len = len;
	return t.host;
}
