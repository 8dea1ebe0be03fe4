/* Guest registers, flags and memory operands in host code. */
#include "accel/bt/translate.h"

int host_register(unsigned guest)
{
	switch (guest) {
	case RSP: return HOST_SP;
	case R10: case R11: case R15: return -1;
	default: return (int)guest;
	}
}

unsigned register_get(struct tr *t, unsigned guest, unsigned temp)
{
	int host = host_register(guest);

	if (host >= 0)
		return (unsigned)host;
	if (t->value && t->value == value_of(guest))
		return TEMP1;
	temp_used(t, temp);
	emit_load_gs(&t->e, temp, gs_gpr(guest));
	if (temp == TEMP1)
		t->value = (uint8_t)value_of(guest);
	return temp;
}

void register_put(struct tr *t, unsigned guest, unsigned temp)
{
	emit_store_gs(&t->e, temp, gs_gpr(guest));
	if (temp == TEMP1) {
		temp_used(t, TEMP1);
		t->value = (uint8_t)value_of(guest);
	} else if (t->value == value_of(guest)) {
		t->value = VALUE_NONE;
	}
}

unsigned value_of(unsigned guest)
{
	switch (guest) {
	case R10: return VALUE_R10;
	case R11: return VALUE_R11;
	case R15: return VALUE_R15;
	default: return VALUE_NONE;
	}
}

/* ---- homes in scratch registers ---- */

#define TEMPS 0xff
static unsigned held_shift(unsigned reg) { return reg == TEMP0 ? 0 : 4; }

void temp_used(struct tr *t, unsigned reg)
{
	if (reg == TEMP0 || reg == TEMP1)
		t->held &= (uint8_t)~(15u << held_shift(reg));
	if (reg == TEMP1)
		t->value = VALUE_NONE;
}

static unsigned held_by(const struct tr *t, unsigned reg) { return t->held >> held_shift(reg) & 15; }

void temps_used(struct tr *t) { t->held = t->value = 0; }

/* A register holds a guest register's home; no other has an older one. */
static void temp_holds(struct tr *t, unsigned reg, unsigned guest)
{
	unsigned other = reg == TEMP0 ? TEMP1 : TEMP0;

	if (held_by(t, other) == guest + 1)
		temp_used(t, other);
	temp_used(t, reg);
	t->held |= (uint8_t)((guest + 1) << held_shift(reg));
}

struct bt_rec *rec_new(struct tr *t, uint32_t *id)
{
	struct bt_rec *r = &t->rec[t->block->recs];

	*id = bt_rec_first(t->b, t->block) + t->block->recs;
	*r = (struct bt_rec){ .id = *id, .guest = (uint16_t)(t->lin - t->block->lin), .count = 1, .retry = code_at(t), .next = code_at(t),
				.held = { t->held }, .value_retry = t->value & 3 };
	t->block->recs++;
	return r;
}

void rec_goes_on(struct tr *t, struct bt_rec *rec)
{
	rec->next = code_at(t);
	rec->goes_on = true;
	rec->held[1] = t->held;
	rec->value_next = t->value & 3;
}

void emit_lin(struct tr *t, unsigned reg, uint64_t lin)
{
	temp_used(t, reg);
	emit_imm(&t->e, reg, lin);
	if (lin == (uint32_t)lin || lin == (uint64_t)(int32_t)lin)
		t->block->fixed = true;
	else
		reloc_add(t, RELOC_LIN, 8);
}

void emit_note(struct tr *t, int32_t member, uint32_t id)
{
	e1(&t->e, 0x65), e1(&t->e, 0xc7);
	emit_modrm_mem(&t->e, 0, (struct host_mem){ -1, -1, 0, member });
	e4(&t->e, id);
}

void emit_canonical(struct tr *t, uint32_t id)
{
	struct emit *e = &t->e;

	temp_used(t, TEMP1);
	emit_mov(e, TEMP1, TEMP0);
	emit_op_reg(e, true, 0xc1, 4, TEMP1); /* shl, sar */
	e1(e, 16);
	emit_op_reg(e, true, 0xc1, 7, TEMP1);
	e1(e, 16);
	emit_op_reg(e, true, 0x3b, TEMP1, TEMP0);
	later_add(t, LATER_INSN, emit_jcc(e, CC_NE, 0), id, 0, 0);
}

void later_add(struct tr *t, enum later_kind kind, uint32_t site, uint32_t id, uint64_t lin, uint32_t back)
{
	t->later[t->laters++] = (struct later){ site, id, back, lin, kind };
}

/* RAX is moved about: the checker follows its home no further. */
static void flags_move(struct tr *t)
{
	temp_used(t, TEMP1);
	if (held_by(t, TEMP0) == RAX + 1)
		temp_used(t, TEMP0);
	known_pairs_lose(t, RAX);
}

void emit_save(struct tr *t)
{
	flags_move(t);
	if (t->calls)
		emit_call(&t->e, t->b->stub_flags_save);
	else
		emit_flags_save(&t->e);
}

void emit_load(struct tr *t)
{
	flags_move(t);
	if (t->calls)
		emit_call(&t->e, t->b->stub_flags_load);
	else
		emit_flags_load(&t->e);
}

void flags_in_image(struct tr *t)
{
	if (t->flags != FLAGS_HOST)
		return;
	emit_save(t);
	t->flags = FLAGS_BOTH;
}

struct bt_rec *rec_saved(struct tr *t, uint32_t *id)
{
	flags_in_image(t);
	t->flags = FLAGS_IMAGE;
	return rec_new(t, id);
}

void flags_clobber(struct tr *t)
{
	if (live_before(t))
		flags_in_image(t);
	t->flags = FLAGS_IMAGE;
}

void flags_need(struct tr *t)
{
	if (t->flags != FLAGS_IMAGE)
		return;
	emit_load(t);
	t->flags = FLAGS_BOTH;
}

/* The segment whose base counts, or -1. */
static int based_segment(const struct guest_insn *g)
{
	return g->seg == SEG_FS || g->seg == SEG_GS ? g->seg : -1;
}

bool constant_address(const struct tr *t, const struct guest_insn *g, uint64_t *lin)
{
	if (g->base >= 0 || g->index >= 0 || based_segment(g) >= 0)
		return false;
	*lin = (uint64_t)(int64_t)g->disp;
	if (g->rip_relative)
		*lin += t->lin + g->length;
	if (t->code32 || g->addrsize == 4)
		*lin = (uint32_t)*lin;
	return true;
}

/* Whether an operand's constant address moves with the block; half of one cannot. */
static bool moves(struct tr *t, const struct guest_insn *g)
{
	t->block->fixed |= g->rip_relative && g->addrsize == 4;
	return g->rip_relative;
}

/* Notes an operand's constant address; false when it is too far away from the block. */
static bool rec_constant(struct tr *t, struct bt_rec *rec, const struct guest_insn *g)
{
	int64_t from = g->disp;

	if (g->rip_relative)
		from += (int64_t)(t->lin - t->block->lin) + g->length;
	if (from != (int32_t)from)
		return false;
	rec->disp = (int32_t)from;
	rec->moves = moves(t, g);
	rec->narrow = t->code32 || g->addrsize == 4;
	return true;
}

void operands_apart(struct tr *t, const struct guest_insn *g)
{
	if (g->base >= 0 && g->index >= 0 && host_register((unsigned)g->base) < 0 && host_register((unsigned)g->index) < 0 && g->base != g->index)
		temp_used(t, TEMP1);
}

/* The address in its segment into TEMP0. */
static void emit_offset(struct tr *t, const struct guest_insn *g)
{
	bool wide = !t->code32 && g->addrsize == 8;
	struct host_mem m = { -1, -1, g->scale, g->disp };

	temp_used(t, TEMP0);
	operands_apart(t, g);
	if (g->base < 0 && g->index < 0) {
		uint64_t v = (uint64_t)(int64_t)g->disp + (g->rip_relative ? t->lin + g->length : 0);

		if (moves(t, g) && wide)
			emit_lin(t, TEMP0, v);
		else
			emit_imm(&t->e, TEMP0, wide ? v : (uint32_t)v);
	} else {
		if (g->base >= 0)
			m.base = (int8_t)register_get(t, (unsigned)g->base, TEMP0);
		if (g->index >= 0)
			m.index = (int8_t)register_get(t, (unsigned)g->index, TEMP1);
		if (m.index < 0 && !m.disp)
			emit_op_reg(&t->e, wide, 0x8b, TEMP0, (unsigned)m.base);
		else
			emit_lea(&t->e, wide, TEMP0, m);
	}
}

/* From there to the linear address. */
static void emit_base(struct tr *t, const struct guest_insn *g)
{
	int seg = based_segment(g);

	if (seg < 0)
		return;
	if (t->window) { /* the flags stay */
		temp_used(t, TEMP1);
		emit_load_gs(&t->e, TEMP1, GS_OF(cpu.s.seg) + seg * (int)sizeof(struct x86_segment));
		emit_lea(&t->e, !t->code32, TEMP0, (struct host_mem){ TEMP0, TEMP1, 0, 0 });
	} else {
		emit_op_gs(&t->e, !t->code32, 0x03, TEMP0, GS_OF(cpu.s.seg) + seg * (int)sizeof(struct x86_segment));
	}
}

void emit_address(struct tr *t, const struct guest_insn *g)
{
	emit_offset(t, g);
	emit_base(t, g);
}

/*
 * An access that begins below an offset of 4 GiB and ends above it faults. Where a segment begins at 0 it leaves its page;
 * where it has a base nothing else tells.
 */
static bool may_wrap(const struct tr *t, const struct guest_insn *g, unsigned size)
{
	return t->code32 && size > 1 && based_segment(g) >= 0 && (g->base >= 0 || g->index >= 0);
}

/* The linear address of an access into TEMP0; one that wraps is the interpreter's. The flags are destroyed if it may. */
static void emit_linear(struct tr *t, const struct guest_insn *g, uint32_t id, unsigned size)
{
	emit_offset(t, g);
	if (may_wrap(t, g, size)) {
		emit_op_reg(&t->e, false, 0x81, 7, TEMP0); /* cmp */
		e4(&t->e, (uint32_t)-size);
		later_add(t, LATER_INSN, emit_jcc(&t->e, CC_A, 0), id, 0, 0);
	}
	emit_base(t, g);
}

/* ---- in a window ---- */

void access_clobbers(struct tr *t)
{
	if (!t->window)
		flags_clobber(t);
}

void access_begin(struct tr *t, struct bt_rec *rec)
{
	rec->window = t->window;
	rec->flags_host = t->window && t->flags == FLAGS_HOST;
}

void access_end(struct tr *t, struct bt_rec *rec) { rec->next = code_at(t); }

static int32_t delta_at(const struct tr *t, uint64_t lin)
{
	return delta_table(mode_view(t->mode)) + (int32_t)(lin >> 39 & (WINDOW_SLOTS - 1)) * 8;
}

/* temp = the delta for the address in a register. */
static void emit_delta(struct tr *t, unsigned temp, unsigned reg) { emit_window_delta(&t->e, mode_view(t->mode), temp, reg); }

/* The operand as a single register, when it has to leave the other free. */
static struct host_mem folded(struct tr *t, struct host_mem m, bool fold)
{
	if (!fold)
		return m;
	temp_used(t, TEMP0);
	emit_lea(&t->e, true, TEMP0, m);
	return (struct host_mem){ TEMP0, -1, 0, 0 };
}

/* The address is in a register, and disp away from there. */
static struct host_mem window_at(struct tr *t, unsigned reg, int32_t disp, bool fold)
{
	unsigned temp = reg == TEMP0 ? TEMP1 : TEMP0;

	temp_used(t, temp);
	emit_delta(t, temp, reg);
	return folded(t, (struct host_mem){ (int8_t)reg, (int8_t)temp, 0, disp }, fold && (reg == TEMP0 || reg == TEMP1));
}

static int32_t home_at(unsigned guest) { return GS_OF(home) + (int32_t)guest * 8; }

void emit_homes(struct tr *t, uint32_t set)
{
	for (unsigned r = 0; r < 16; r++) {
		if (!known_bit(set, r))
			continue;
		if (t->block->small) {
			emit_call(&t->e, t->b->stub_home[mode_view(t->mode)][r]);
		} else {
			emit_delta(t, TEMP0, (unsigned)host_register(r));
			emit_store_gs(&t->e, TEMP0, home_at(r));
		}
	}
}

void emit_return_home(struct tr *t)
{
	if (!t->b->windows || t->code32 || (t->mode & MODE_AC) || (known_bit(t->known.home, RSP) && t->known.drift[RSP] <= KNOWN_NEAR))
		return;
	temp_used(t, TEMP0);
	emit_delta(t, TEMP0, HOST_SP);
	emit_store_gs(&t->e, TEMP0, home_at(RSP));
}

/* Which scratch register takes another home: TEMP1 when TEMP0's is used again, and the access leaves it. */
static unsigned temp_for_home(const struct tr *t, bool fold)
{
	unsigned held = held_by(t, TEMP0);

	bool kept = held && !fold && known_bit(t->known.home, held - 1) && known_used_later(t, held - 1);

	return kept && !(t->value && t->value == t->loop_value) ? TEMP1 : TEMP0;
}

/* A home that is good, into a scratch register unless one holds it: which. */
static unsigned home_of(struct tr *t, unsigned home, bool fold)
{
	unsigned temp;

	if (held_by(t, TEMP0) == home + 1)
		return TEMP0;
	if (held_by(t, TEMP1) == home + 1 && !fold)
		return TEMP1;
	temp = temp_for_home(t, fold);
	emit_load_gs(&t->e, temp, home_at(home));
	temp_holds(t, temp, home);
	return temp;
}

/*
 * The delta of a pointer that was just loaded, from its home: the one of the pointer before will do, mostly, and the
 * comparison that tells does not keep the access waiting, as a look-up would. Destroys the flags.
 */
static void emit_guess(struct tr *t, unsigned guest)
{
	struct emit *e = &t->e;
	uint8_t *over;

	temps_used(t);
	emit_load_gs(e, TEMP0, home_at(guest));
	emit_slot(e, TEMP1, (unsigned)host_register(guest));
	emit_op_delta(e, mode_view(t->mode), 0x3b, TEMP0, TEMP1);
	e1(e, 0x70 | CC_E), e1(e, 0);
	over = e->p;
	emit_op_delta(e, mode_view(t->mode), 0x8b, TEMP0, TEMP1);
	emit_store_gs(e, TEMP0, home_at(guest));
	over[-1] = (uint8_t)(e->p - over);
	t->flags = FLAGS_IMAGE;
	known_set(t, guest);
	temp_holds(t, TEMP0, guest);
}

/* The delta for the value of a register that the host keeps in one: the scratch register it is in; TEMP0 when `fold`. */
static unsigned delta_of(struct tr *t, unsigned guest, bool fold)
{
	if (known_bit(t->known.home, guest))
		return home_of(t, guest, fold);
	if (!live_before(t) && !t->value && known_chased(t, guest)) {
		emit_guess(t, guest);
		return TEMP0;
	}
	temp_used(t, TEMP0);
	emit_delta(t, TEMP0, (unsigned)host_register(guest));
	if (!known_wanted(t, guest))
		return TEMP0;
	emit_store_gs(&t->e, TEMP0, home_at(guest));
	known_set(t, guest);
	temp_holds(t, TEMP0, guest);
	return TEMP0;
}

/* disp away from where a register points. */
static struct host_mem window_base(struct tr *t, unsigned guest, int32_t disp, bool fold)
{
	int host = host_register(guest);
	unsigned temp;

	if (host < 0)
		return window_at(t, register_get(t, guest, TEMP1), disp, fold);
	temp = delta_of(t, guest, fold);
	known_touch(t, guest, disp);
	return (struct host_mem){ (int8_t)host, (int8_t)temp, 0, disp };
}

/* From the home of a loop's sum. */
static bool window_pair(struct tr *t, const struct guest_insn *g, struct host_mem *m, bool fold)
{
	int n = known_pair(t, t->at);
	unsigned temp;

	if (n < 0)
		return false;
	temp = home_of(t, PAIR_HOME + (unsigned)n, fold);
	known_touch(t, PAIR_HOME + (unsigned)n, g->disp);
	*m = (struct host_mem){ (int8_t)temp, (int8_t)host_register((unsigned)t->pair[n].index), g->scale, g->disp };
	return true;
}

/* The interpreter does the block's first instruction when the register is no number of 32 bits. Destroys the flags, which are dead. */
static void emit_bound(struct tr *t, unsigned guest)
{
	unsigned host = (unsigned)host_register(guest);
	uint32_t id;

	t->lin = t->block->lin;
	rec_new(t, &id);
	emit_op_reg(&t->e, false, 0x8b, TEMP0, host);
	emit_op_reg(&t->e, true, 0x3b, TEMP0, host);
	later_add(t, LATER_INSN, emit_jcc(&t->e, CC_NE, 0), id, 0, 0);
	t->known.small |= (uint16_t)(1u << guest);
}

/* TEMP1 = the delta of the sum of base and index, TEMP0 = base and delta; into its home. The flags stay. */
static void emit_pair(struct tr *t, unsigned n)
{
	const struct bt_pair *p = &t->pair[n];
	int8_t base = -1;

	if (p->bounded)
		emit_bound(t, (unsigned)p->index);
	if (p->base >= 0)
		base = (int8_t)register_get(t, (unsigned)p->base, TEMP0);
	if (p->bounded && base != TEMP0)
		emit_mov(&t->e, TEMP0, (unsigned)base);
	else if (!p->bounded)
		emit_lea(&t->e, true, TEMP0, (struct host_mem){ base, (int8_t)host_register((unsigned)p->index), p->scale, 0 });
	emit_delta(t, TEMP1, TEMP0);
	if (p->base >= 0)
		base = (int8_t)register_get(t, (unsigned)p->base, TEMP0);
	emit_lea(&t->e, true, TEMP0, base < 0 ? (struct host_mem){ TEMP1, -1, 0, 0 } : (struct host_mem){ base, TEMP1, 0, 0 });
	emit_store_gs(&t->e, TEMP0, home_at(PAIR_HOME + n));
	t->known.home |= (uint16_t)(1u << (PAIR_HOME + n));
	t->known.drift[PAIR_HOME + n] = KNOWN_NEAR;
}

void emit_loop(struct tr *t)
{
	for (unsigned n = 0; n < PAIRS; n++) {
		if (t->pair[n].used)
			emit_pair(t, n);
	}
	t->block->loop = code_at(t);
	for (unsigned temp = 0; temp < 2; temp++) {
		unsigned held = t->loop_held >> (4 * temp) & 15;

		if (!held && !(temp && t->loop_value))
			continue;
		emit_load_gs(&t->e, temp ? TEMP1 : TEMP0, held ? home_at(held - 1) : gs_gpr(bt_value_register(t->loop_value)));
		t->block->loop_loads++;
	}
	t->held = t->loop_held;
	t->value = t->loop_value;
}

/* An index of 32 bits leads no further than the guard zones reach: the base's delta, or that of the slot of disp, serves. */
static bool window_index(struct tr *t, const struct guest_insn *g, struct host_mem *m)
{
	int index = g->index < 0 ? -1 : host_register((unsigned)g->index);
	unsigned temp;

	if (index < 0 || g->addrsize != 8 || based_segment(g) >= 0 || !known_bit(t->known.small, (unsigned)g->index))
		return false;
	if (g->base < 0) {
		temp_used(t, TEMP0);
		emit_load_gs(&t->e, TEMP0, delta_at(t, (uint64_t)(int64_t)g->disp));
		*m = (struct host_mem){ TEMP0, (int8_t)index, g->scale, g->disp };
		return true;
	}
	if (host_register((unsigned)g->base) < 0)
		return false;
	temp = delta_of(t, (unsigned)g->base, false);
	temp_used(t, TEMP0);
	emit_lea(&t->e, true, TEMP0, (struct host_mem){ (int8_t)temp, (int8_t)index, g->scale, 0 });
	*m = (struct host_mem){ (int8_t)host_register((unsigned)g->base), TEMP0, 0, g->disp };
	return true;
}

/* All of 32-bit code's memory is in one slot. TEMP0 holds the address. */
static struct host_mem window_32(struct tr *t, bool fold)
{
	temp_used(t, TEMP1);
	emit_load_gs(&t->e, TEMP1, delta_at(t, 0));
	return folded(t, (struct host_mem){ TEMP0, TEMP1, 0, 0 }, fold);
}

static struct host_mem window_constant(struct tr *t, struct bt_rec *rec, uint64_t lin, bool fold)
{
	bool small = lin == (uint64_t)(int64_t)(int32_t)lin;

	rec->constant = true;
	temp_used(t, TEMP0);
	if (!small)
		temp_used(t, TEMP1);
	if (rec->moves && !small)
		emit_lin(t, TEMP1, lin);
	else if (!small)
		emit_imm(&t->e, TEMP1, lin);
	t->block->fixed |= rec->moves && small;
	emit_load_gs(&t->e, TEMP0, delta_at(t, lin));
	if (rec->moves && !small)
		reloc_add(t, RELOC_SLOT, 4);
	if (small)
		return (struct host_mem){ TEMP0, -1, 0, (int32_t)lin };
	return folded(t, (struct host_mem){ TEMP0, TEMP1, 0, 0 }, fold);
}

static struct host_mem window_operand(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id, bool fold)
{
	struct host_mem m;
	uint64_t lin;

	if (constant_address(t, g, &lin) && rec_constant(t, rec, g)) {
		return window_constant(t, rec, lin, fold);
	}
	if (!t->code32 && g->addrsize == 8 && g->base >= 0 && g->index < 0 && based_segment(g) < 0)
		return window_base(t, (unsigned)g->base, g->disp, fold);
	if (!t->code32 && (window_pair(t, g, &m, fold) || window_index(t, g, &m)))
		return m;
	if (may_wrap(t, g, rec->size))
		flags_clobber(t);
	emit_linear(t, g, id, rec->size);
	return t->code32 ? window_32(t, fold) : window_at(t, TEMP0, 0, fold);
}

/* ---- through the soft TLB ---- */

struct host_mem emit_probe(struct tr *t, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold)
{
	struct emit *e = &t->e;

	int called = t->calls ? bt_probe(size, write, mode_view(t->mode), fold) : -1;

	temps_used(t);
	rec->size = (uint8_t)size;
	rec->write = write;
	if (called >= 0) {
		emit_call(e, t->b->stub_probe[called]);
		rec->next = (uint16_t)(code_at(t) + 1); /* who misses finds the record by where it was called from */
		return fold ? (struct host_mem){ TEMP0, -1, 0, 0 } : (struct host_mem){ TEMP0, TEMP1, 0, 0 };
	}
	emit_tag_compare(e, t->bmi2, size, write, mode_view(t->mode));
	later_add(t, LATER_FILL, emit_jcc(e, CC_A, 0), id, 0, 0);
	emit_entry_host(e, fold);
	return fold ? (struct host_mem){ TEMP0, -1, 0, 0 } : (struct host_mem){ TEMP0, TEMP1, 0, 0 };
}

/* The entry is known: only its tag is to be compared. */
static struct host_mem constant_probe(struct tr *t, struct bt_rec *rec, uint32_t id, uint64_t lin, unsigned size, bool write)
{
	struct emit *e = &t->e;
	uint64_t page = lin & ~(uint64_t)(PAGE_SIZE - 1);
	int32_t entry = (int32_t)((lin >> PAGE_SHIFT) % TLB_SIZE * sizeof(struct tlb_entry));
	struct host_mem tag = { -1, -1, 0, entry + tag_at(mode_view(t->mode), write) };

	temps_used(t);
	rec->size = (uint8_t)size;
	rec->write = write;
	if (page == (uint64_t)(int64_t)(int32_t)page) {
		e1(e, 0x65);
		emit_op_mem(e, true, 0x81, 7, tag);
		e4(e, (uint32_t)page);
		t->block->fixed |= rec->moves;
	} else {
		if (rec->moves)
			emit_lin(t, TEMP1, page);
		else
			emit_imm(e, TEMP1, page);
		e1(e, 0x65);
		emit_op_mem(e, true, 0x39, TEMP1, tag);
		if (rec->moves)
			reloc_add(t, RELOC_ENTRY, 4);
	}
	later_add(t, LATER_FILL_LIN, emit_jcc(e, CC_NE, 0), id, lin, 0);
	emit_load_gs(e, TEMP0, entry + HOST_AT);
	if (rec->moves)
		reloc_add(t, RELOC_ENTRY, 4);
	return (struct host_mem){ TEMP0, -1, 0, (int32_t)(lin & (PAGE_SIZE - 1)) };
}

struct host_mem emit_operand(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold)
{
	uint64_t lin;

	rec->size = (uint8_t)size;
	rec->write = write;
	if (t->window)
		return window_operand(t, g, rec, id, fold);
	if (!t->calls && constant_address(t, g, &lin) && (lin & (PAGE_SIZE - 1)) + size <= PAGE_SIZE && rec_constant(t, rec, g))
		return constant_probe(t, rec, id, lin, size, write);
	emit_linear(t, g, id, size);
	return emit_probe(t, rec, id, size, write, fold);
}

struct host_mem emit_frame(struct tr *t, struct bt_rec *rec, uint32_t id, enum bt_frame frame, int disp, unsigned size, bool write, bool fold)
{
	unsigned reg = frame == FRAME_RSP ? HOST_SP : RBP;

	rec->frame = frame & 3;
	rec->disp = disp;
	rec->size = (uint8_t)size;
	rec->write = write;
	if (t->window && !t->code32)
		return window_base(t, frame == FRAME_RSP ? RSP : RBP, disp, fold);
	temp_used(t, TEMP0);
	if (disp)
		emit_lea(&t->e, !t->code32, TEMP0, (struct host_mem){ (int8_t)reg, -1, 0, disp });
	else
		emit_op_reg(&t->e, !t->code32, 0x8b, TEMP0, reg);
	return t->window ? window_32(t, fold) : emit_probe(t, rec, id, size, write, fold);
}
