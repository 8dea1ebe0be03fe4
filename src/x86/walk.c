/* A side-effect-free page walk, one recursive function for every paging mode. */
#include "x86/walk.h"

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_D 0x40u
#define PTE_PS 0x80u
#define PTE_G 0x100u
#define PTE_NX (UINT64_C(1) << 63)
#define WALK_LIMIT 100000

struct walk {
	struct mem *mem;
	const struct cpu_state *s;
	unsigned entry_size; /* 4 or 8 */
	unsigned index_bits; /* 10 or 9 */
	bool merge;
	void (*fn)(void *opaque, const struct walk_range *r);
	void *opaque;
	struct walk_range run;
	bool have_run;
	unsigned emitted;
};

static unsigned levels(const struct cpu_state *s)
{
	if (s->efer & EFER_LMA)
		return 4;
	return s->cr4 & CR4_PAE ? 3 : 2;
}

static void walk_init(struct walk *w, struct mem *m, const struct cpu_state *s)
{
	*w = (struct walk){ .mem = m, .s = s };
	w->entry_size = s->cr4 & CR4_PAE ? 8 : 4;
	w->index_bits = s->cr4 & CR4_PAE ? 9 : 10;
}

static uint64_t table_root(const struct cpu_state *s)
{
	if (s->efer & EFER_LMA)
		return s->cr3 & UINT64_C(0x000ffffffffff000);
	return s->cr4 & CR4_PAE ? s->cr3 & 0xffffffe0 : s->cr3 & 0xfffff000;
}

/* Whether an entry at `level` maps a page itself. */
static bool is_leaf(const struct walk *w, unsigned level, uint64_t e)
{
	if (level == 1)
		return true;
	if (!(e & PTE_PS) || level == 4 || (level == 3 && !(w->s->efer & EFER_LMA)))
		return false;
	return w->entry_size == 8 || (w->s->cr4 & CR4_PSE);
}

static uint64_t leaf_address(const struct walk *w, uint64_t e, uint64_t size)
{
	uint64_t gpa = e & (w->entry_size == 8 ? UINT64_C(0x000ffffffffff000) : 0xfffff000) & ~(size - 1);

	if (w->entry_size == 4 && size > PAGE_SIZE)
		gpa |= (e & 0x1fe000) << 19; /* PSE-36 */
	return gpa;
}

bool walk_address(struct mem *m, const struct cpu_state *s, uint64_t lin, uint64_t *gpa)
{
	struct walk w;
	uint64_t table;

	if (!(s->cr0 & CR0_PG)) {
		*gpa = lin;
		return true;
	}
	walk_init(&w, m, s);
	table = table_root(s);
	for (unsigned level = levels(s); level; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * w.index_bits;
		uint64_t size = UINT64_C(1) << shift, e = 0;
		uint64_t index = (lin >> shift) & ((1u << w.index_bits) - 1);

		if (level == 3 && !(s->efer & EFER_LMA))
			index &= 3;
		if (!mem_read(m, table + index * w.entry_size, &e, w.entry_size) || !(e & PTE_P))
			return false;
		if (is_leaf(&w, level, e)) {
			*gpa = leaf_address(&w, e, size) | (lin & (size - 1));
			return true;
		}
		table = e & (w.entry_size == 8 ? UINT64_C(0x000ffffffffff000) : 0xfffff000);
	}
	return false;
}

static void flush_run(struct walk *w)
{
	if (w->have_run && w->emitted++ < WALK_LIMIT)
		w->fn(w->opaque, &w->run);
	w->have_run = false;
}

static void emit(struct walk *w, const struct walk_range *r)
{
	if (w->merge && w->have_run && w->run.lin + w->run.size == r->lin && w->run.user == r->user &&
	    w->run.writable == r->writable) {
		w->run.size += r->size;
		return;
	}
	flush_run(w);
	w->run = *r;
	w->have_run = true;
}

static void walk_table(struct walk *w, unsigned level, uint64_t table, uint64_t lin, uint64_t rights)
{
	unsigned shift = PAGE_SHIFT + (level - 1) * w->index_bits;
	unsigned count = level == 3 && !(w->s->efer & EFER_LMA) ? 4 : 1u << w->index_bits;
	uint64_t size = UINT64_C(1) << shift;

	for (unsigned i = 0; i < count && w->emitted < WALK_LIMIT; i++) {
		uint64_t at = lin + i * size, e = 0, both;

		if (!mem_read(w->mem, table + (uint64_t)i * w->entry_size, &e, w->entry_size) || !(e & PTE_P))
			continue;
		if (level == 4 && (at >> 47 & 1))
			at |= UINT64_C(0xffff) << 48;
		/* PAE page-directory pointers carry no rights. */
		both = level == 3 && count == 4 ? rights : (rights & e & (PTE_W | PTE_U)) | ((rights | e) & PTE_NX);
		if (is_leaf(w, level, e)) {
			emit(w, &(struct walk_range){ at, leaf_address(w, e, size), size, both & PTE_W, both & PTE_U,
						      (both & PTE_NX) != 0, e & PTE_G, e & PTE_D });
		} else {
			walk_table(w, level - 1, e & (w->entry_size == 8 ? UINT64_C(0x000ffffffffff000) : 0xfffff000), at, both);
		}
	}
}

bool walk_all(struct mem *m, const struct cpu_state *s, bool merge, void (*fn)(void *opaque, const struct walk_range *r),
	      void *opaque)
{
	struct walk w;

	if (!(s->cr0 & CR0_PG))
		return false;
	walk_init(&w, m, s);
	w.merge = merge;
	w.fn = fn;
	w.opaque = opaque;
	walk_table(&w, levels(s), table_root(s), 0, PTE_W | PTE_U);
	flush_run(&w);
	return true;
}
