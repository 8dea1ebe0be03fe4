/*
 * The most frequent ways from translated code to C: soft TLB misses and jumps that are not linked yet.
 * Compiled without vector registers, since they may hold the guest's.
 */
#include "accel/bt/run.h"
#include "accel/bt/tier.h"

static enum mmu_view view_now(const struct icpu *cpu)
{
	if (cpu->cpl == 3)
		return VIEW_USER;
	return (cpu->s.cr4 & CR4_SMAP) && (cpu->s.rflags & RFLAGS_AC) ? VIEW_SUPERVISOR_AC : VIEW_SUPERVISOR;
}

static uint8_t *fill(struct bt_cpu *b, struct bt_rec *rec, uint64_t lin, enum mmu_view view)
{
	bool whole = (lin & (PAGE_SIZE - 1)) + rec->size <= PAGE_SIZE;
	uint32_t error;

	b->stats.slow_fill++;
	if (!whole && ++rec->useless >= CROSSINGS_HOT) {
		rec->useless = 0;
		if (b->fp_level)
			bt_fp_save(b);
		tier_crossed(b, rec);
	}
	if (!whole || (lin & rec->align) || !bt_canonical(lin))
		return bt_interp_rec(b, rec);
	switch (mmu_fill(&b->cpu, lin, rec->write ? ACCESS_WRITE : ACCESS_READ, view, &error)) {
	case FILL_DONE: return bt_retry(b, rec);
	case FILL_FAULT: return bt_page_fault(b, rec, lin, error);
	default: return bt_interp_rec(b, rec);
	}
}

uint8_t *bt_help_fill(struct bt_cpu *b, uint64_t id, uint64_t offset, uint64_t index)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	const struct tlb_entry *e = (const struct tlb_entry *)((const uint8_t *)b->mmu.tlb + index);
	enum mmu_view view = view_now(&b->cpu);

	return fill(b, rec, offset + e->tag[view][rec->write], view);
}

uint8_t *bt_help_fill_lin(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);

	return fill(b, rec, bt_rec_lin(bt_rec_block(b, rec), rec), view_now(&b->cpu));
}

/* What no window serves may be a page fault of the guest's. */
static uint8_t *not_served(struct bt_cpu *b, struct bt_rec *rec, uint64_t lin)
{
	uint32_t error;

	if ((lin & (PAGE_SIZE - 1)) + rec->size > PAGE_SIZE || (lin & rec->align) || !bt_canonical(lin) ||
	    mmu_fill(&b->cpu, lin, rec->write ? ACCESS_WRITE : ACCESS_READ, mode_view(bt_rec_block(b, rec)->mode), &error) != FILL_FAULT)
		return bt_interp_rec(b, rec);
	return bt_page_fault(b, rec, lin, error);
}

uint8_t *bt_help_window(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	bool fp = b->fp_level, known;
	uint64_t lin;

	if (fp)
		bt_fp_save(b);
	known = tier_address(b, rec, &lin);
	if (!tier_fault(b, rec, known ? &lin : NULL))
		return known ? not_served(b, rec, lin) : bt_interp_rec(b, rec);
	if (fp)
		bt_fp_load(b);
	return bt_retry(b, rec);
}

/* The block at cs:rip if there is one already, or can be moved there; perhaps it is `likely`. `from` stays where it is. */
static struct bt_block *find(struct bt_cpu *b, struct bt_block *likely, const struct bt_block *from)
{
	uint64_t lin = b->cpu.s.rip, gpa;
	const struct bt_exec *x;
	struct bt_block *block;

	if (b->mode & MODE_NONE || !bt_canonical(lin))
		return NULL;
	x = bt_exec_page(b, lin);
	gpa = x->gpa + (lin & (PAGE_SIZE - 1));
	if (!x->host)
		return NULL;
	if (likely && bt_block_gpa(likely) == gpa && likely->mode == b->mode) {
		bt_block_used(b, likely);
		return likely;
	}
	block = bt_block_find(b, lin, gpa, b->mode);
	return block ? block : bt_block_move(b, lin, gpa, b->mode, from);
}

uint8_t *bt_find_code(struct bt_cpu *b)
{
	struct bt_block *block;

	if (atomic_load_explicit(&b->cpu.poll, memory_order_acquire))
		return NULL;
	bt_mode_update(b);
	block = find(b, NULL, NULL);
	if (!block)
		block = bt_make(b);
	if (!block)
		return NULL;
	if (b->cpu.stepping)
		bt_unit_begin(b, block);
	else
		bt_jump_set(b, block);
	return bt_code(b, block, block->indirect);
}

uint8_t *bt_continue(struct bt_cpu *b)
{
	return b->cpu.stepping ? NULL : bt_find_code(b);
}

uint8_t *bt_help_exit(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_exit *e = bt_exit_of(b, id);
	uint64_t evictions = b->stats.evictions;
	struct bt_block *from = &b->blocks[e->block], *likely = e->target ? &b->blocks[e->target] : NULL, *block;

	b->cpu.s.rip = bt_exit_lin(from, e);
	if (b->cpu.stepping || atomic_load_explicit(&b->cpu.poll, memory_order_acquire))
		return NULL;
	bt_mode_update(b);
	block = find(b, likely, from);
	if (block && block == likely)
		b->stats.relinks++;
	if (!block)
		block = bt_make(b);
	if (!block)
		return NULL;
	if (b->stats.evictions == evictions) {
		bt_link(b, e, block);
		b->stats.links++;
	}
	return bt_code(b, block, block->indirect);
}

static void undo_push(struct bt_cpu *b, const struct bt_rec *rec)
{
	struct cpu_state *s = &b->cpu.s;

	s->gpr[RSP] += 8;
	s->rip = bt_rip_of(b, rec);
	cpu_store(&b->cpu, s->gpr[RSP] - 8, 8, b->overwritten);
}

/* The branch faults, not what is fetched: it is undone and left to the interpreter. */
static uint8_t *branch_out(struct bt_cpu *b)
{
	struct bt_rec *rec = b->branch == REC_NONE ? bt_rec_returned(b, b->returned) : bt_rec_of(b, b->branch);

	if (rec->is_return)
		b->cpu.s.gpr[RSP] -= 8u + rec->released;
	else if (rec->is_call)
		undo_push(b, rec);
	return bt_interp_rec(b, rec);
}

uint8_t *bt_help_unchain(struct bt_cpu *b, uint64_t to, uint64_t unused, uint64_t unused2)
{
	atomic_store_explicit(&b->poked, 0, memory_order_seq_cst);
	bt_unchain(b, (const uint8_t *)to, (const uint64_t *)b->return_sp);
	return (uint8_t *)to;
}

uint8_t *bt_help_miss(struct bt_cpu *b, uint64_t id, uint64_t lin, uint64_t unused)
{
	if (!(b->mode & MODE_CODE32) && !bt_canonical(lin))
		return branch_out(b);
	b->cpu.s.rip = lin;
	b->stats.misses++;
	return bt_continue(b);
}

uint8_t *bt_help_poll(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	b->cpu.s.rip = bt_exit_lin(&b->blocks[b->exits[id].block], &b->exits[id]);
	b->stats.polls++;
	return NULL;
}
