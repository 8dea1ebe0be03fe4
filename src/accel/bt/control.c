/* Branches, calls and returns, and the ways out of a block. */
#include "accel/bt/translate.h"

static uint64_t page_of(uint64_t lin) { return lin & ~(uint64_t)(PAGE_SIZE - 1); }

/* Where a displacement of the block's stands, as its exit knows it. */
static uint16_t emit_site(const struct tr *t, uint32_t at) { return (uint16_t)(at - t->block->host); }

/* `live`: the flags that matter at lin; `saved`: they are in the image. */
static struct bt_exit *exit_new(struct tr *t, uint64_t lin, uint8_t live, bool saved, uint32_t *id)
{
	struct bt_exit *x = &t->b->exits[*id = t->b->exit_count++];

	*x = (struct bt_exit){ .block = bt_number(t->b, t->block), .ahead = (int32_t)(lin - t->block->lin), .saved_flags = saved, .live = live & GF_ALL, .knows = known_here(t) & KNOWN_ALL };
	if (x->ahead == 0 && !saved && known_loops(t)) {
		x->loops = true;
		x->held = t->held == t->loop_held && t->value == t->loop_value;
	}
	t->block->exits++;
	return x;
}

/* Another page's address may lead elsewhere after the map has changed: jumps to it look whether it has not. */
static uint32_t page_check(struct tr *t, struct bt_exit *x, uint32_t id)
{
	struct emit *e = &t->e;

	e1(e, 0x65), e1(e, 0x81);
	emit_modrm_mem(e, 7, (struct host_mem){ -1, -1, 0, GS_OF(mapped) + (int32_t)(BT_NO_EXEC % EXEC_SIZE * 4) });
	x->looks = true;
	e4(e, BT_NO_EXEC);
	later_add(t, LATER_PAGE, emit_jcc(e, CC_NE, 0), id, 0, 0);
	return t->laters - 1;
}

/* Leaves for lin; `live`: the flags that matter there. */
void emit_exit(struct tr *t, uint64_t lin, bool poll, uint8_t live)
{
	bool cross = page_of(lin) != page_of(t->block->lin), host;
	struct bt_exit *x;
	uint32_t id;

	poll &= !t->tier2;
	if (live && (poll || cross))
		flags_in_image(t);
	if (poll || cross)
		t->flags = FLAGS_IMAGE;
	host = t->flags != FLAGS_IMAGE;
	x = exit_new(t, lin, live, live && !host, &id);
	if (poll) {
		emit_cmp_gs8(&t->e, GS_OF(cpu.poll), 0);
		later_add(t, LATER_POLL, emit_jcc(&t->e, CC_NE, 0), id, 0, 0);
	}
	if (cross)
		page_check(t, x, id);
	x->site = emit_site(t, emit_jmp(&t->e, 0));
	later_add(t, live && t->flags == FLAGS_HOST ? LATER_EXIT_FLAGS : LATER_EXIT, t->block->host + x->site, id, 0, 0);
}

/*
 * Of the flags in `need`; those that are neither read nor written stay in it, and `on` says where a jump or call leads with
 * them. `used`: the bytes that tell it.
 */
static uint8_t live_in(const uint8_t *p, unsigned room, bool code32, uint8_t *need, uint64_t *on, unsigned *used)
{
	const uint8_t *start = p;
	uint8_t live = 0;

	if (room > BT_LOOK_AHEAD)
		room = BT_LOOK_AHEAD;
	*on = 0;
	*used = room;
	while (*need && room) {
		struct guest_insn g;

		if (!guest_decode(&g, p, room, code32 ? 32 : 64) || !g.length)
			return live;
		live |= *need & g.flags_read;
		*need &= (uint8_t)~g.flags_written;
		p += g.length;
		room -= g.length;
		if (g.kind == G_JMP || g.kind == G_CALL)
			*on = (uint64_t)(p - start) + g.imm;
		if (g.ops & GO_ENDS)
			break;
	}
	*used = (unsigned)(p - start);
	return live;
}

uint8_t bt_live_on_page(const uint8_t *page, unsigned at, bool code32, struct bt_look *look)
{
	uint8_t need = GF_ALL, live = 0;

	look->count = 0;
	while (need && look->count <= BT_LOOK_JUMPS) {
		unsigned used;
		uint64_t on;

		live |= live_in(page + at, PAGE_SIZE - at, code32, &need, &on, &used);
		look->at[look->count] = (uint16_t)at;
		look->length[look->count++] = (uint16_t)used;
		if (!on || at + on >= PAGE_SIZE)
			break;
		at += (unsigned)on;
	}
	return live | need;
}

uint8_t bt_live_at(struct bt_cpu *b, uint64_t lin, bool code32)
{
	uint8_t need = GF_ALL, live = 0;

	/* Who looks at each block's end sees them all. */
	for (unsigned jumps = 0; need && jumps <= BT_LOOK_JUMPS && !b->cpu.stepping; jumps++) {
		const uint8_t *p;
		unsigned used;
		uint64_t on;

		if (code32)
			lin = (uint32_t)lin;
		p = bt_exec_peek(b, lin);
		if (!p)
			break;
		live |= live_in(p, PAGE_SIZE - (lin & (PAGE_SIZE - 1)), code32, &need, &on, &used);
		if (!on)
			break;
		lin += on;
	}
	return live | need;
}

uint8_t live_at(struct tr *t, uint64_t lin) { return bt_live_at(t->b, lin, t->code32); }

static uint64_t branch_target(const struct tr *t, const struct guest_insn *g)
{
	uint64_t to = t->lin + g->length + g->imm;

	return t->code32 ? (uint32_t)to : to;
}

bool jcc_inside(const struct tr *t, const struct guest_insn *g)
{
	return t->tier2 && g->kind == G_JCC && g + 1 < &t->insn[t->count] && !t->b->cpu.stepping;
}

uint64_t branch_target_at(const struct tr *t, unsigned i)
{
	uint64_t to = t->block->lin + t->offset[i + 1] + t->insn[i].imm;

	return t->code32 ? (uint32_t)to : to;
}

static void emit_jcc_insn(struct tr *t, const struct guest_insn *g)
{
	uint64_t to = branch_target(t, g), on = next_lin(t);
	uint8_t live_to = live_at(t, to), live_on = live_at(t, on);
	unsigned cond = g->op & 15;
	enum flags_place here;
	uint8_t held, value;

	flags_need(t);
	here = t->flags;
	held = t->held;
	value = t->value;
	if (page_of(to) == page_of(t->block->lin) && (to > t->lin || t->tier2)) {
		uint32_t id;
		struct bt_exit *x = exit_new(t, to, live_to, false, &id);

		x->site = emit_site(t, emit_jcc(&t->e, cond, 0));
		later_add(t, live_to && here == FLAGS_HOST ? LATER_EXIT_FLAGS : LATER_EXIT, t->block->host + x->site, id, 0, 0);
	} else {
		uint32_t over = emit_jcc(&t->e, cond ^ 1, 0);

		emit_exit(t, to, to <= t->lin, live_to);
		emit_patch(t->e.base, over, emit_at(&t->e));
		t->flags = here;
		t->held = held;
		t->value = value;
	}
	if (!jcc_inside(t, g))
		emit_exit(t, on, false, live_on);
}

/* LOOP, JCXZ: the host's own, around a jump. */
static void emit_loop_insn(struct tr *t, const struct guest_insn *g)
{
	uint64_t to = branch_target(t, g), on = next_lin(t);
	uint8_t live_to = live_at(t, to), live_on = live_at(t, on), *taken;
	enum flags_place here;

	if (g->op < 0xe2)
		flags_need(t);
	here = t->flags;
	if (g->addrsize == 4)
		e1(&t->e, 0x67);
	e1(&t->e, g->op);
	e1(&t->e, 0);
	taken = t->e.p;
	/* The count is down already: an interrupt on this way out finds the instruction done. */
	emit_exit(t, on, false, live_on);
	taken[-1] = (uint8_t)(t->e.p - taken);
	t->flags = here;
	emit_exit(t, to, to <= t->lin, live_to);
}

static unsigned lookup_index(const struct tr *t) { return t->mode & (MODE_USER | MODE_CODE32); }

/* Code that may use the jump cache and the return stack. */
static bool paired(const struct tr *t) { return !(t->mode & MODE_AC); }

/*
 * Where a call's return arrives, with what came off the guest's stack in TEMP0. TEMP1 leads to code of whoever returned that
 * saves the flags and notes which return it was: called when the flags may be read here, and when it is another return.
 */
static void emit_landing(struct tr *t)
{
	uint64_t back = next_lin(t), literal = 0;
	bool cross = page_of(back) != page_of(t->block->lin);
	uint8_t live = live_at(t, back);
	uint32_t id, compared = 0;
	struct bt_exit *x;

	known_landing(t);
	if (live)
		emit_call_reg(&t->e, TEMP1);
	if (t->code32 || back == (uint64_t)(int64_t)(int32_t)back) {
		emit_op_reg(&t->e, !t->code32, 0x81, 7, TEMP0);
		e4(&t->e, (uint32_t)back);
		if (t->code32)
			reloc_add(t, RELOC_LIN32, 4);
		else
			t->block->fixed = true;
	} else {
		compared = emit_op_rip(&t->e, 0x3b, TEMP0);
		literal = back;
	}
	/* `id`: whether it has been called. */
	later_add(t, LATER_LANDING, emit_jcc(&t->e, CC_NE, 0), live != 0, literal, compared);
	x = exit_new(t, back, live, live, &id);
	if (cross)
		page_check(t, x, id);
	x->site = emit_site(t, emit_jmp(&t->e, 0));
	later_add(t, LATER_EXIT, t->block->host + x->site, id, 0, 0);
}

/* Goes to the guest address in TEMP0; as a call, back to the landing behind. A jump's record is noted when it is looked up. */
static void emit_indirect(struct tr *t, bool call, uint32_t id)
{
	struct emit *e = &t->e;
	struct bt_rec *rec = rec_of(t, id);
	unsigned mode = lookup_index(t);
	uint32_t polled = 0, missed;

	if (!paired(t)) {
		if (!t->code32)
			emit_note(t, GS_OF(branch), id);
		emit_jmp(e, t->b->stub_miss);
		return;
	}
	if (t->calls) {
		if (!t->code32)
			emit_note(t, GS_OF(branch), id);
		if (call)
			emit_call(e, t->b->stub_lookup[mode]);
		else
			emit_jmp(e, t->b->stub_lookup[mode]);
		if (call)
			emit_landing(t);
		return;
	}
	if (!t->tier2) {
		emit_cmp_gs8(e, GS_OF(cpu.poll), 0);
		polled = emit_jcc(e, CC_NE, 0);
	}
	emit_jump_compare(e, mode);
	missed = emit_jcc(e, CC_NE, 0);
	emit_jump_go(e, mode, call);
	rec->is_jump = true;
	rec->leaves = (uint16_t)(missed - 2 - t->block->host);
	if (polled)
		later_add(t, call ? LATER_CALL_MISS : LATER_MISS, polled, id, 0, emit_at(e));
	later_add(t, call ? LATER_CALL_SALTED : LATER_SALTED, missed, id, 0, emit_at(e));
	if (call)
		emit_landing(t);
}

static void emit_call_insn(struct tr *t, const struct guest_insn *g)
{
	uint64_t to = branch_target(t, g);
	bool cross = page_of(to) != page_of(t->block->lin), back = to <= t->lin && !t->tier2;
	uint8_t live = live_at(t, to);
	struct bt_rec *rec;
	struct bt_exit *x;
	uint32_t id, xid, polled = 0, stale = 0;

	if (live)
		flags_in_image(t);
	t->flags = FLAGS_IMAGE;
	rec = rec_new(t, &id);
	emit_push_return(t, rec, id, false);
	if (!paired(t)) {
		emit_exit(t, to, back, live);
		return;
	}
	x = exit_new(t, to, live, live, &xid);
	if (back) {
		emit_cmp_gs8(&t->e, GS_OF(cpu.poll), 0);
		later_add(t, LATER_POLL, emit_jcc(&t->e, CC_NE, 0), xid, 0, 0);
		polled = t->laters;
	}
	if (cross)
		stale = page_check(t, x, xid) + 1;
	x->site = emit_site(t, emit_call(&t->e, 0));
	later_add(t, LATER_EXIT, t->block->host + x->site, xid, 0, 0);
	if (polled)
		t->later[polled - 1].back = emit_at(&t->e);
	if (stale)
		t->later[stale - 1].back = emit_at(&t->e);
	emit_landing(t);
}

/* TEMP0 = the r/m operand. */
static void emit_target(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id)
{
	bool wide = !t->code32;

	if (guest_mem(g)) {
		struct host_mem m = emit_operand(t, g, rec, id, word(t), false, false);

		access_begin(t, rec);
		emit_op_mem(&t->e, wide, 0x8b, TEMP0, m);
		access_end(t, rec);
		temp_used(t, TEMP0);
	} else {
		int host = host_register(g->rm);

		temp_used(t, TEMP0);
		if (host < 0)
			emit_load_gs(&t->e, TEMP0, gs_gpr(g->rm));
		else
			emit_op_reg(&t->e, wide, 0x8b, TEMP0, (unsigned)host);
	}
}

/* The record of an indirect jump or a return: the flags are saved, unless they can be made again where they are needed. */
static struct bt_rec *rec_branch(struct tr *t, uint32_t *id)
{
	const struct guest_insn *g = &t->insn[t->at];
	bool intact = t->window || (g->kind == G_JMP_IND && !guest_mem(g));

	if (intact && paired(t) && remake_find(t, &t->remake))
		return rec_new(t, id);
	t->remake.kind = REMAKE_NONE;
	return rec_saved(t, id);
}

static void emit_call_ind(struct tr *t, const struct guest_insn *g)
{
	struct bt_rec *rec, *second;
	bool wide = !t->code32;
	uint32_t id, id2;

	rec = rec_branch(t, &id);
	rec->is_call = true;
	emit_target(t, g, rec, id);
	/* To an address that is not canonical it faults before it pushes; in a window, what was there is put back. */
	if (wide && !t->window)
		emit_canonical(t, id);
	emit_store_gs(&t->e, TEMP0, GS_OF(scratch));
	second = rec_new(t, &id2);
	emit_push_return(t, second, id2, wide && t->window);
	if (!t->calls)
		emit_return_home(t);
	temp_used(t, TEMP0);
	emit_load_gs(&t->e, TEMP0, GS_OF(scratch));
	emit_indirect(t, true, id);
}

static void emit_jmp_ind(struct tr *t, const struct guest_insn *g)
{
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_branch(t, &id);
	if (!t->calls)
		emit_return_home(t);
	emit_target(t, g, rec, id);
	emit_indirect(t, false, id);
}

/* TEMP1 leads to what a landing may call. */
static void emit_returned(struct tr *t)
{
	uint32_t site = emit_op_rip(&t->e, 0x8d, TEMP1);

	if (t->code32 && !t->remake.kind)
		emit_patch(t->e.base, site, t->b->stub_nothing);
	else
		later_add(t, LATER_RETURNED, site, 0, 0, 0);
}

static void emit_ret(struct tr *t, const struct guest_insn *g)
{
	unsigned size = word(t);
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_branch(t, &id);
	rec->is_return = true;
	rec->released = (uint16_t)g->imm;
	if (!t->window)
		emit_return_home(t);
	m = emit_frame(t, rec, id, FRAME_RSP, 0, size, false, false);
	access_begin(t, rec);
	emit_op_mem(&t->e, !t->code32, 0x8b, TEMP0, m);
	access_end(t, rec);
	emit_lea(&t->e, !t->code32, HOST_SP, (struct host_mem){ HOST_SP, -1, 0, (int)(size + (g->imm & 0xffff)) });
	if (!paired(t)) {
		if (!t->code32)
			emit_note(t, GS_OF(branch), id);
		emit_jmp(&t->e, t->b->stub_miss);
		return;
	}
	emit_returned(t);
	e1(&t->e, 0xc3);
}

void emit_control(struct tr *t, const struct guest_insn *g)
{
	switch (g->kind) {
	case G_JCC: emit_jcc_insn(t, g); break;
	case G_LOOP: emit_loop_insn(t, g); break;
	case G_JMP: emit_exit(t, branch_target(t, g), branch_target(t, g) <= t->lin, live_at(t, branch_target(t, g))); break;
	case G_JMP_IND: emit_jmp_ind(t, g); break;
	case G_CALL: emit_call_insn(t, g); break;
	case G_CALL_IND: emit_call_ind(t, g); break;
	default: emit_ret(t, g); break;
	}
}
