/* The run loop, and what translated code leaves to the interpreter. */
#include "accel/bt/run.h"

#include "accel/interp/flags.h"
#include "base/log.h"

/* ---- the status flags: in the image while translated code runs, in rflags for everyone else ---- */

static void flags_to_cpu(struct bt_cpu *b)
{
	if (!b->flags_in_image)
		return;
	b->cpu.s.rflags = flags_merge(b->cpu.s.rflags, b->flags);
	b->flags_in_image = false;
}

static void flags_to_image(struct bt_cpu *b)
{
	if (b->flags_in_image)
		return;
	b->flags = flags_ax(b->cpu.s.rflags);
	b->cpu.s.rflags &= ~(uint64_t)(RFLAGS_STATUS | RFLAGS_RF);
	b->flags_in_image = true;
}

/* All state where the interpreter looks for it. */
static void settle(struct bt_cpu *b)
{
	if (b->fp_level)
		bt_fp_save(b);
	flags_to_cpu(b);
}

/* ---- the interpreter's part ---- */

static const struct insn *fetch_insn(struct bt_cpu *b, struct insn *local)
{
	uint64_t lin = b->cpu.s.rip;
	const struct bt_exec *x = bt_exec_page(b, lin);
	unsigned offset = (unsigned)(lin & (PAGE_SIZE - 1)), room = PAGE_SIZE - offset;
	bool more;

	if (!x->host || !insn_decode(&b->cpu, x->host + offset, room < 15 ? room : 15, local, &more))
		return NULL;
	return local;
}

static uint64_t rip_mask(const struct icpu *cpu) { return cpu->code_bits == 64 ? UINT64_MAX : UINT32_MAX; }

/* Whether the vCPU may go straight on in translated code. */
static bool may_go_on(struct bt_cpu *b)
{
	struct icpu *cpu = &b->cpu;
	uint32_t irq = atomic_load_explicit(&cpu->irq, memory_order_relaxed);

	if (cpu->debug_on || cpu->shutdown || cpu->s.mp_state != MP_RUNNING || cpu->s.interrupt_shadow || (cpu->s.rflags & RFLAGS_TF))
		return false;
	if (irq && (irq != VCPU_INTR || (cpu->s.rflags & RFLAGS_IF)))
		return false;
	return mem_generation(cpu->mem) == cpu->mmu->generation;
}

/* After the interpreter: on in the block when nothing has changed, or wherever cs:rip is. */
static uint8_t *go_on(struct bt_cpu *b, const struct bt_rec *rec, uint64_t expected, bool fp)
{
	struct icpu *cpu = &b->cpu;
	uint32_t mode = b->mode;

	if (!may_go_on(b))
		return NULL;
	mmu_sync(cpu);
	bt_mode_update(b);
	flags_to_image(b);
	if (rec && rec->next && cpu->s.rip == expected && !cpu->block_ends && !rec->block->dead && mode == b->mode &&
	    (!rec->block->uses_fp || (fp && bt_fp_load(b) >= 1)))
		return b->rx + rec->next;
	return bt_continue(b);
}

uint8_t *bt_interp_rec(struct bt_cpu *b, struct bt_rec *rec)
{
	struct icpu *cpu = &b->cpu;
	bool fp = b->fp_level;
	uint64_t expected = 0;
	struct insn local;

	settle(b);
	cpu->s.rip = (rec->block->lin + rec->guest) & rip_mask(cpu);
	cpu->block_ends = false;
	b->stats.slow_interp++;
	for (unsigned i = 0; i < rec->count; i++) {
		const struct insn *in = rec->count == 1 ? rec->insn : NULL;

		if (!in) {
			in = fetch_insn(b, &local);
			if (!in)
				return NULL;
			if (rec->count == 1) {
				rec->insn = malloc(sizeof(local));
				if (rec->insn)
					*rec->insn = local;
			}
		}
		expected = cpu->next_rip = (cpu->s.rip + in->length) & rip_mask(cpu);
		b->stats.by_mnemonic[in->mnemonic]++;
		in->fn(cpu, in);
		cpu->s.rip = cpu->next_rip;
		if (cpu->s.rip != expected || cpu->block_ends)
			break;
	}
	return go_on(b, rec, expected, fp);
}

uint8_t *bt_help_insn(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	return bt_interp_rec(b, &b->recs[id]);
}

uint8_t *bt_help_fp(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = &b->recs[id];
	struct bt_rec alone = *rec;
	uint8_t *to;

	if (bt_fp_load(b) >= rec->level)
		return b->rx + rec->retry;
	/* The following ones count on the unit as well: they are found anew. */
	alone.next = 0;
	alone.insn = NULL;
	to = bt_interp_rec(b, &alone);
	free(alone.insn);
	return to;
}

uint8_t *bt_help_cross(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = &b->recs[id];

	settle(b);
	b->cpu.s.rip = rec->block->lin;
	b->cpu.block_ends = false;
	b->stats.interp_blocks++;
	if (!icpu_run_block(&b->cpu))
		return NULL;
	return go_on(b, NULL, 0, false);
}

struct bt_block *bt_make(struct bt_cpu *b)
{
	uint64_t lin = b->cpu.s.rip;
	const struct bt_exec *x;

	if (b->mode & MODE_NONE || (uint64_t)((int64_t)(lin << 16) >> 16) != lin)
		return NULL;
	if (b->fp_level)
		bt_fp_save(b);
	x = bt_exec_page(b, lin);
	if (!x->host)
		return NULL;
	blocks_watch_page(&b->cpu, x->gpa);
	return bt_translate(b, lin, x);
}

/* ---- the loop ---- */

static void take_inbox(struct bt_cpu *b)
{
	struct bt_inbox *in = &b->inbox;

	g_mutex_lock(&in->lock);
	if (in->count > INBOX_SIZE) {
		bt_cache_flush(b);
	} else {
		for (unsigned i = 0; i < in->count; i++)
			bt_code_changed(b, in->change[i].gpa, in->change[i].len);
	}
	in->count = 0;
	g_mutex_unlock(&in->lock);
}

static bool steps(const struct bt_cpu *b)
{
	const struct icpu *cpu = &b->cpu;

	return (b->mode & MODE_NONE) || (cpu->s.rflags & RFLAGS_TF) || cpu->s.interrupt_shadow || cpu->stepping || cpu->debug_on ||
	       trace_on(TRACE_EXEC | TRACE_CPU);
}

/* One stretch of translated code, or of interpreted when there is none. False without memory. */
static bool run_once(struct bt_cpu *b)
{
	void (*enter)(uint8_t *target) = (void (*)(uint8_t *))(b->rx + b->stub_enter);
	uint8_t *target = steps(b) ? NULL : bt_continue(b);

	if (target) {
		flags_to_image(b);
		b->stats.enters++;
		enter(target);
		settle(b);
		return true;
	}
	settle(b);
	b->stats.interp_blocks++;
	return icpu_run_block(&b->cpu);
}

void bt_run(struct vcpu *v, struct vcpu_exit *exit)
{
	struct bt_cpu *b = (struct bt_cpu *)v;
	struct icpu *cpu = &b->cpu;
	volatile bool stepped = false;

	memset(exit, 0, sizeof(*exit));
	bt_thread_enter(b);
	if (sigsetjmp(cpu->fault, 0)) {
		settle(b);
		b->stats.faults++;
		icpu_deliver_fault(cpu);
		stepped = true;
	}
	for (;;) {
		if (cpu->stepping && stepped && !cpu->shutdown) {
			exit->kind = VCPU_EXIT_DEBUG;
			break;
		}
		atomic_store_explicit(&cpu->poll, 0, memory_order_seq_cst);
		if (b->inbox.count)
			take_inbox(b);
		if (icpu_stopped(cpu, exit))
			break;
		mmu_sync(cpu);
		bt_mode_update(b);
		if (!run_once(b)) {
			exit->kind = VCPU_EXIT_ERROR;
			g_strlcpy(exit->message, "no memory for decoded code", sizeof(exit->message));
			break;
		}
		stepped = true;
	}
	settle(b);
}
