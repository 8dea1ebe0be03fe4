/*
 * The run loop, and what translated code leaves to the interpreter. Compiled without vector registers: the
 * guest's vector state stays in them while handlers run that have no use for it.
 */
#include "accel/bt/guest.h"
#include "accel/bt/run.h"
#include "accel/bt/tier.h"
#include "accel/bt/translate.h"

#include "base/log.h"

/* ---- the status flags: in the image while translated code runs, in rflags for everyone else ---- */

static void flags_to_cpu(struct bt_cpu *b)
{
	if (!b->flags_in_image)
		return;
	b->cpu.s.rflags = bt_flags(b);
	b->flags_in_image = false;
}

static void flags_to_image(struct bt_cpu *b)
{
	if (b->flags_in_image)
		return;
	bt_flags_set(b, b->cpu.s.rflags);
	b->flags_in_image = true;
}

static void fp_leave(struct bt_cpu *b)
{
	if (b->fp_level)
		bt_fp_save(b);
}

/* All state where the interpreter looks for it. */
static void settle(struct bt_cpu *b)
{
	fp_leave(b);
	flags_to_cpu(b);
}

/* ---- the interpreter's part ---- */

static const struct insn *fetch_insn(struct bt_cpu *b, struct insn *local)
{
	uint64_t lin = b->cpu.s.rip;
	const struct bt_exec *x = bt_exec_page(b, lin);
	unsigned offset = (unsigned)(lin & (PAGE_SIZE - 1)), room = PAGE_SIZE - offset;
	uint8_t joined[15];
	bool more;

	if (!x->host)
		return NULL;
	if (insn_decode(&b->cpu, x->host + offset, room < 15 ? room : 15, local, &more))
		return local;
	for (unsigned i = 0; i < room && i < sizeof(joined); i++)
		joined[i] = x->host[offset + i];
	x = bt_exec_page(b, b->cpu.code_bits == 64 ? lin + room : (uint32_t)(lin + room));
	if (!x->host)
		return NULL;
	for (unsigned i = room; i < sizeof(joined); i++)
		joined[i] = x->host[i - room];
	return insn_decode(&b->cpu, joined, sizeof(joined), local, &more) ? local : NULL;
}

/* Whether the instruction goes on in the next page, whose changes its block does not hear of. */
static bool crosses_unwatched(const struct bt_block *k, uint64_t lin, const struct insn *in)
{
	return (lin & (PAGE_SIZE - 1)) + in->length > PAGE_SIZE && !k->crosses;
}

/* Where the record's n-th instruction is kept. */
static struct bt_decoded *decoded_place(struct bt_cpu *b, const struct bt_rec *rec, unsigned n)
{
	uint32_t id = rec->id;

	return &b->decoded[(id + n * 97) % DECODED];
}

static const struct insn *decoded_find(struct bt_cpu *b, const struct bt_rec *rec, unsigned n)
{
	const struct bt_decoded *d = decoded_place(b, rec, n);

	return rec->decoded && d->rec == rec->id && d->n == n && d->insn.length ? &d->insn : NULL;
}

static const struct insn *decoded_keep(struct bt_cpu *b, struct bt_rec *rec, unsigned n, const struct insn *in)
{
	struct bt_decoded *d = decoded_place(b, rec, n);

	/* What is left of another block's record of this number. */
	for (unsigned i = 0; !rec->decoded && i < rec->count; i++)
		decoded_place(b, rec, i)->insn.length = 0;
	rec->decoded = true;
	*d = (struct bt_decoded){ rec->id, n, *in };
	return &d->insn;
}

/* The record's i-th instruction, at cs:rip, in *local when it cannot be kept. NULL when it cannot be fetched. */
static const struct insn *rec_insn(struct bt_cpu *b, struct bt_rec *rec, unsigned i, struct insn *local)
{
	const struct insn *in = decoded_find(b, rec, i);
	const struct bt_block *k = bt_rec_block(b, rec);

	if (in)
		return in;
	fp_leave(b);
	if (!fetch_insn(b, local))
		return NULL;
	if (crosses_unwatched(k, b->cpu.s.rip, local) || bt_fresh(b, bt_block_page(k)) || (k->crosses && bt_fresh(b, bt_block_tail(b, k))))
		return local;
	return decoded_keep(b, rec, i, local);
}

/* Handlers compiled without vector registers that reach nothing that is not, but for the machine (host.c). */
static bool is_quiet(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		/* CR0 and CR4 ask the CPU model by names; CR3 is the frequent one. */
		return !(in->flags & INSN_ENDS_BLOCK) || in->aux == 3;
	case ZYDIS_MNEMONIC_MOVZX: case ZYDIS_MNEMONIC_MOVSX: case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_ADC: case ZYDIS_MNEMONIC_SUB: case ZYDIS_MNEMONIC_SBB: case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_AND: case ZYDIS_MNEMONIC_OR: case ZYDIS_MNEMONIC_XOR: case ZYDIS_MNEMONIC_TEST: case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC: case ZYDIS_MNEMONIC_XCHG: case ZYDIS_MNEMONIC_XADD: case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_PUSH: case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_CALL: case ZYDIS_MNEMONIC_RET: case ZYDIS_MNEMONIC_JMP: case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_STOSB: case ZYDIS_MNEMONIC_STOSW: case ZYDIS_MNEMONIC_STOSD: case ZYDIS_MNEMONIC_STOSQ:
	case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSQ: case ZYDIS_MNEMONIC_SCASB:
	case ZYDIS_MNEMONIC_CMPSB: case ZYDIS_MNEMONIC_LODSB: case ZYDIS_MNEMONIC_LODSD: case ZYDIS_MNEMONIC_LODSQ:
	case ZYDIS_MNEMONIC_SYSCALL: case ZYDIS_MNEMONIC_SYSRET: case ZYDIS_MNEMONIC_SYSENTER: case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ: case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_POPFQ: case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ: case ZYDIS_MNEMONIC_INVLPG: case ZYDIS_MNEMONIC_INVPCID: case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_HLT: case ZYDIS_MNEMONIC_IN: case ZYDIS_MNEMONIC_OUT: case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE: case ZYDIS_MNEMONIC_WRFSBASE: case ZYDIS_MNEMONIC_WRGSBASE: case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_SWAPGS: case ZYDIS_MNEMONIC_PAUSE:
		return true;
	default:
		return false;
	}
}

static uint64_t rip_mask(const struct icpu *cpu) { return cpu->code_bits == 64 ? UINT64_MAX : UINT32_MAX; }

/* Whether the vCPU may go straight on in translated code. */
static bool may_go_on(struct bt_cpu *b)
{
	struct icpu *cpu = &b->cpu;

	if (cpu->debug_on || cpu->shutdown || cpu->s.mp_state != MP_RUNNING || cpu->s.interrupt_shadow || (cpu->s.rflags & RFLAGS_TF))
		return false;
	/* Something may have been changed that others have told of: this instruction may have serialized. */
	if (atomic_load_explicit(&cpu->poll, memory_order_acquire))
		return false;
	return !bt_interrupted(b) && mem_generation(cpu->mem) == cpu->mmu->generation;
}

/* After the interpreter: on in the block when nothing has changed, or wherever cs:rip is. */
static uint8_t *go_on(struct bt_cpu *b, const struct bt_rec *rec, uint64_t expected, bool fp)
{
	struct icpu *cpu = &b->cpu;
	uint64_t rf = cpu->s.rflags & RFLAGS_RF;
	uint32_t mode = b->mode;
	uint8_t *to;

	if (!may_go_on(b))
		return NULL;
	mmu_sync(cpu);
	bt_mode_update(b);
	flags_to_image(b);
	if (rec && rec->goes_on && cpu->s.rip == expected && !cpu->block_ends && !bt_rec_block(b, rec)->dead && mode == b->mode &&
	    (!bt_rec_block(b, rec)->uses_fp || (fp && bt_fp_load(b) >= 1))) {
		b->unit.last = UNIT_WHOLE;
		return bt_next(b, rec);
	}
	to = bt_continue(b);
	/* Loaded by IRET, and no instruction comes here that would end it. */
	if (!to)
		cpu->s.rflags |= rf;
	return to;
}

/* `alone`: what follows it in the block is found anew. */
static uint8_t *interp_rec(struct bt_cpu *b, struct bt_rec *rec, bool alone)
{
	struct icpu *cpu = &b->cpu;
	bool fp = b->fp_level, serializes = false;
	uint64_t expected = 0;
	struct insn local;

	flags_to_cpu(b);
	cpu->s.rip = bt_rip_of(b, rec);
	cpu->block_ends = false;
	b->stats.slow_interp++;
	for (unsigned i = 0; i < rec->count; i++) {
		const struct insn *in = rec_insn(b, rec, i, &local);

		if (!in)
			return NULL;
		b->unit.last = cpu->s.rip - bt_rec_block(b, rec)->lin;
		expected = cpu->next_rip = (cpu->s.rip + in->length) & rip_mask(cpu);
		b->stats.by_mnemonic[in->mnemonic]++;
		if (b->fp_level && !is_quiet(in))
			bt_fp_save(b);
		in->fn(cpu, in);
		cpu->s.rip = cpu->next_rip;
		serializes |= in->flags & INSN_ENDS_BLOCK;
		if (cpu->s.rip != expected || cpu->block_ends)
			break;
	}
	if (serializes)
		bt_fresh_look(b);
	return go_on(b, alone ? NULL : rec, expected, fp);
}

uint8_t *bt_interp_rec(struct bt_cpu *b, struct bt_rec *rec) { return interp_rec(b, rec, false); }

uint8_t *bt_help_insn(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	return bt_interp_rec(b, bt_rec_of(b, id));
}

uint8_t *bt_help_fp(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);

	if (bt_fp_load(b) >= rec->level)
		return bt_retry(b, rec);
	/* The following ones count on the unit as well. */
	return interp_rec(b, rec, true);
}

uint8_t *bt_help_cross(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2)
{
	struct bt_rec *rec = bt_rec_of(b, id);
	struct bt_block *k = bt_rec_block(b, rec);
	uint64_t lin = k->lin;
	struct insn local;

	settle(b);
	b->cpu.s.rip = lin;
	/* The fault of the second part's fetch if there is one, or its page is known for the translation to come. */
	fetch_insn(b, &local);
	bt_block_kill(b, k);
	b->cpu.block_ends = false;
	b->stats.interp_blocks++;
	b->unit.insns = 0;
	if (!icpu_run_block(&b->cpu))
		return NULL;
	return go_on(b, NULL, 0, false);
}

struct bt_block *bt_make(struct bt_cpu *b)
{
	uint64_t lin = b->cpu.s.rip;
	const struct bt_exec *x;
	struct bt_exec page;

	if (b->mode & MODE_NONE || !bt_canonical(lin))
		return NULL;
	if (b->fp_level)
		bt_fp_save(b);
	x = bt_exec_page(b, lin);
	if (!x->host || x->gpa >= BLOCK_GPA_MAX)
		return NULL;
	page = *x;
	page.host = (uint8_t *)bt_code_page(b, x->gpa, x->host);
	return page.host ? bt_translate(b, lin, &page) : NULL;
}

/* ---- the loop ---- */

static void take_inbox(struct bt_cpu *b)
{
	struct bt_inbox *in = &b->inbox;

	fp_leave(b);
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

/* Instructions that may pass before status flags of which nothing is known have been written or read: looking ahead goes no further. */
#define CATCH_UP_MAX ((1 + BT_LOOK_JUMPS) * BT_LOOK_AHEAD + BLOCK_INSNS)

/*
 * Translated code leaves out status flags that are overwritten ahead; who is interrupted shows them all. So the
 * interpreter goes on before, until each has been written, or is read, and so was right all the time.
 */
static void catch_up(struct bt_cpu *b)
{
	struct icpu *cpu = &b->cpu;
	unsigned bits = b->mode & MODE_CODE32 ? 32 : 64;
	uint8_t unknown = GF_ALL;

	settle(b);
	for (unsigned n = 0; n < CATCH_UP_MAX && !(b->mode & MODE_NONE) && !cpu->s.interrupt_shadow; n++) {
		struct guest_insn g;
		struct insn in;

		if (!fetch_insn(b, &in) || !guest_decode(&g, in.bytes, in.length, bits) || !g.length)
			return;
		unknown &= (uint8_t)~g.flags_read;
		if (!unknown || ((g.ops & GO_ENDS) && g.kind != G_JMP && g.kind != G_CALL))
			return;
		icpu_step(cpu, &in);
		unknown &= (uint8_t)~g.flags_written;
		if (!unknown)
			return;
		bt_mode_update(b);
	}
}

static bool steps(const struct bt_cpu *b)
{
	const struct icpu *cpu = &b->cpu;

	return (b->mode & MODE_NONE) || (cpu->s.rflags & RFLAGS_TF) || cpu->s.interrupt_shadow || cpu->debug_on ||
	       trace_on(TRACE_EXEC | TRACE_CPU);
}

/* One stretch of translated code, or of interpreted when there is none. False without memory. */
static bool run_once(struct bt_cpu *b)
{
	void (*enter)(uint8_t *target) = (void (*)(uint8_t *))(b->rx + b->stub_enter);
	uint8_t *target;

	/* From here on who sets `poll` also sends a signal. */
	atomic_store_explicit(&b->in_code, 1, memory_order_seq_cst);
	atomic_store_explicit(&b->poked, 0, memory_order_seq_cst);
	target = steps(b) ? NULL : bt_find_code(b);
	if (target) {
		flags_to_image(b);
		b->stats.enters++;
		enter(target);
		atomic_store_explicit(&b->in_code, 0, memory_order_relaxed);
		flags_to_cpu(b);
		b->left_code = true;
		if (b->unit.insns)
			bt_unit_end(b);
		return true;
	}
	atomic_store_explicit(&b->in_code, 0, memory_order_relaxed);
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
	mmu_arrive(cpu);
	if (sigsetjmp(cpu->fault, 0)) {
		atomic_store_explicit(&b->in_code, 0, memory_order_relaxed);
		flags_to_cpu(b);
		b->stats.faults++;
		b->unit.last = cpu->s.rip - b->unit.lin;
		if (b->unit.insns)
			bt_unit_end(b);
		if (trace_on(TRACE_INT))
			fp_leave(b);
		icpu_deliver_fault(cpu);
		stepped = true;
	}
	for (;;) {
		if (cpu->stepping && stepped && !cpu->shutdown) {
			exit->kind = VCPU_EXIT_DEBUG;
			break;
		}
		atomic_store_explicit(&cpu->poll, 0, memory_order_seq_cst);
		bt_rechain(b);
		if (b->inbox.count)
			take_inbox(b);
		bt_fresh_look(b);
		if (b->heat.count) {
			fp_leave(b);
			tier_work(b);
		}
		if (trace_on(TRACE_INT))
			fp_leave(b);
		/* RF: IRET has just loaded them all. */
		if (b->left_code && !cpu->stepping && !(cpu->s.rflags & RFLAGS_RF) && bt_interrupted(b)) {
			b->left_code = false;
			catch_up(b);
		}
		b->left_code = false;
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
	mmu_leave(cpu);
}
