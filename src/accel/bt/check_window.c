/*
 * The checker's view of windows (window.h): a delta is looked up with the very address that it is added to, in the
 * table of the code's privilege, and what is accessed is that sum, or no further from it than the guard zones reach.
 */
#include "accel/bt/check_state.h"
#include "accel/bt/window.h"

#define SLOT_SHIFT 39

static int host_of(int guest) { return guest == RSP ? R15 : guest; }

static int32_t table(const struct checker *c)
{
	return GS_OF(delta) + (int32_t)(mode_view(c->block->mode & ~(uint32_t)MODE_AC) * WINDOW_SLOTS * 8);
}

bool check_window_value(const struct checker *c, const struct value *from, struct value *v)
{
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_RORX:
		v->kind = V_TURNED;
		v->origin = from->number;
		return c->op[0].size == 64 && c->op[2].imm.value.u == SLOT_SHIFT && check_readable(from);
	case ZYDIS_MNEMONIC_MOVZX:
		v->kind = V_SLOT;
		v->origin = from->origin;
		return c->op[0].size == 32 && c->op[1].size == 8 && from->kind == V_TURNED &&
		       ZydisRegisterGetId(c->op[1].reg.value) != ZydisRegisterGetId(ZYDIS_REGISTER_AH);
	default: return false;
	}
}

/* cmp TEMP0, gs:[slot * 8 + delta] */
static bool guess(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int index = check_register(m->mem.index), reg = c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(c->op[0].reg.value) : -1;
	const struct value *slot = index < 0 ? NULL : &s->reg[index];

	if (reg != TEMP0 || m->size != 64 || m->mem.disp.value != table(c) || m->mem.scale != 8 || s->ac || s->reg[TEMP0].kind != V_GUESS || !slot ||
	    slot->kind != V_SLOT || slot->origin != s->reg[host_of((int)s->reg[TEMP0].imm)].number)
		return check_fail(c, "compares another register's home");
	s->test = (struct test){ .kind = T_GUESS, .imm = s->reg[TEMP0].imm };
	return true;
}

void check_guessed(struct state *s, unsigned guest)
{
	s->reg[TEMP0] = check_home_value((int)guest);
	s->facts.home |= (uint16_t)(1u << guest);
	s->facts.drift[guest] = 0;
}

bool check_window_delta(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int to = c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(c->op[0].reg.value) : -1;
	int64_t at = m->mem.disp.value - table(c);
	struct value v = check_data(c, 0);

	if (c->in.mnemonic == ZYDIS_MNEMONIC_CMP && m == &c->op[1])
		return guess(c, s, m);
	if (c->in.mnemonic != ZYDIS_MNEMONIC_MOV || m != &c->op[1] || m->size != 64 || (to != TEMP0 && to != TEMP1) || s->ac)
		return check_fail(c, "uses the windows in no known way");
	if (m->mem.index == ZYDIS_REGISTER_NONE) {
		v.kind = V_DELTA_AT;
		v.imm = (uint64_t)at / 8;
		if (at < 0 || at >= (int64_t)WINDOW_SLOTS * 8 || at % 8)
			return check_fail(c, "another privilege's windows");
	} else {
		const struct value *slot = &s->reg[check_register(m->mem.index)];

		v.kind = V_DELTA;
		v.origin = slot->origin;
		if (at || m->mem.scale != 8 || slot->kind != V_SLOT)
			return check_fail(c, "a window that no address leads to");
	}
	s->reg[to] = v;
	return true;
}

/* ---- homes ---- */

int check_guest_register(int host)
{
	switch (host) {
	case R15: return RSP;
	case RSP: case R10: case R11: return -1;
	default: return host;
	}
}

uint32_t check_known(const struct state *s)
{
	uint32_t set = (s->level ? KNOWN_FP : 0) | (s->level > 1 ? KNOWN_AVX : 0);

	for (unsigned r = 0; r < 16; r++) {
		if (known_bit(s->facts.home & ~PAIR_HOMES, r) && s->facts.drift[r] <= KNOWN_NEAR)
			set |= 1u << r;
	}
	return set;
}

bool check_pair(const struct checker *c, unsigned n, struct bt_pair *p)
{
	if (n >= PAIRS || !c->block->loop || !c->block->recs)
		return false;
	*p = bt_pair_of(&c->recs[0], n);
	return p->used;
}

static const struct value *check_guest_value(const struct state *s, int guest)
{
	switch (guest) {
	case R10: return &s->slot[SLOT_R10];
	case R11: return &s->slot[SLOT_R11];
	case R15: return &s->slot[SLOT_R15];
	default: return &s->reg[host_of(guest)];
	}
}

void check_pairs_lose(const struct checker *c, struct state *s, int guest)
{
	for (unsigned n = 0; n < PAIRS; n++) {
		struct bt_pair p;

		if (check_pair(c, n, &p) && p.base == guest)
			s->facts.home &= (uint16_t)~(1u << (PAIR_HOME + n));
	}
	check_homes_gone(s, (uint16_t)~s->facts.home);
}

/* Whether the value is the base, and the delta, of the block's sum n of the registers as they are. */
static bool is_sum(const struct checker *c, const struct state *s, unsigned n, const struct value *v)
{
	struct bt_pair p;

	if (check_pair(c, n, &p) && p.bounded)
		return v->kind == V_WINDOW && v->origin && v->origin == check_guest_value(s, p.base)->number;
	return check_pair(c, n, &p) && v->kind == V_SUM_BASE && v->origin == s->sum.number && s->sum.scale == p.scale &&
	       s->sum.index == s->reg[host_of(p.index)].number && s->sum.base == (p.base < 0 ? 0 : check_guest_value(s, p.base)->number);
}

bool check_loops(const struct checker *c, const struct state *s, bool held)
{
	const struct bt_rec *loop = &c->recs[0];
	static const uint8_t temps[] = { TEMP0, TEMP1 };
	struct bt_pair p;

	if (!c->block->loop || (c->block->needs & ~check_known(s)) || s->ac)
		return false;
	for (unsigned n = 0; n < PAIRS; n++) {
		if (check_pair(c, n, &p) && (!known_bit(s->facts.home, PAIR_HOME + n) || s->facts.drift[PAIR_HOME + n] > KNOWN_NEAR))
			return false;
		if (check_pair(c, n, &p) && p.bounded && !known_bit(s->facts.small, (unsigned)p.index))
			return false;
	}
	for (unsigned i = 0; held && i < 2; i++) {
		const struct value *v = &s->reg[temps[i]];
		unsigned code = loop->held[0] >> (4 * i) & 15;

		if (code && (v->kind != V_HOME || v->extended || v->imm != code - 1))
			return false;
	}
	if (held && loop->value_retry && !check_readable(&s->reg[TEMP1]))
		return false;
	return true;
}

struct value check_home_value(int guest) { return (struct value){ .kind = V_HOME, .imm = (uint64_t)guest }; }

void check_homes_gone(struct state *s, uint16_t gone)
{
	static const uint8_t temps[] = { TEMP0, TEMP1 };

	for (unsigned i = 0; i < sizeof(temps); i++) {
		struct value *v = &s->reg[temps[i]];

		if (v->kind == V_HOME && !v->extended && (gone >> v->imm & 1))
			*v = (struct value){ .kind = V_NOTHING };
	}
}

/* It has been found anew, and is in the scratch register as well. */
static void home_set(struct state *s, int reg, int guest)
{
	check_homes_gone(s, (uint16_t)(1u << guest));
	s->facts.home |= (uint16_t)(1u << guest);
	s->facts.drift[guest] = 0;
	s->reg[reg] = check_home_value(guest);
}

bool check_home_set(struct checker *c, struct state *s, int guest)
{
	if (s->ac || (c->block->mode & MODE_CODE32) || !check_readable(&s->reg[host_of(guest)]))
		return check_fail(c, "a home of what is no address");
	home_set(s, TEMP0, guest);
	return true;
}

bool check_home(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int64_t at = m->mem.disp.value - GS_OF(home);
	int guest = (int)(at / 8), host = host_of(guest);
	bool store = m == &c->op[0];
	const ZydisDecodedOperand *o = &c->op[store];
	int reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(o->reg.value) : -1;

	bool pair = guest >= PAIR_HOME && guest < PAIR_HOME + (int)PAIRS;

	if (c->in.mnemonic != ZYDIS_MNEMONIC_MOV || m->mem.index != ZYDIS_REGISTER_NONE || m->size != 64 || at % 8 || (reg != TEMP0 && (store || reg != TEMP1)) ||
	    (!pair && check_guest_register(host) != guest) || s->ac || (c->block->mode & MODE_CODE32))
		return check_fail(c, "uses a home in no known way");
	if (store) {
		const struct value *v = &s->reg[reg];

		if (pair ? !is_sum(c, s, (unsigned)(guest - PAIR_HOME), v) : v->kind != V_DELTA || v->origin != s->reg[host].number)
			return check_fail(c, "a home that is not the register's");
		home_set(s, reg, guest);
		return true;
	}
	s->reg[reg] = check_home_value(guest);
	if (!(s->facts.home >> guest & 1)) {
		s->reg[reg].kind = V_GUESS;
		return !pair || check_fail(c, "a home that nothing has set");
	}
	return true;
}

/* By how much a constant changes the register; false when it is something else that does. */
static bool adds_constant(const struct checker *c, int host, uint32_t *by)
{
	const ZydisDecodedOperand *o = &c->op[1];
	int64_t v;

	if (c->op[0].size != 64)
		return false;
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_INC: case ZYDIS_MNEMONIC_DEC: v = 1; break;
	case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_SUB:
		if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return false;
		v = o->imm.value.s;
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (check_register(o->mem.base) != host || o->mem.index != ZYDIS_REGISTER_NONE || c->in.address_width != 64)
			return false;
		v = o->mem.disp.value;
		break;
	default: return false;
	}
	*by = (uint32_t)(v < 0 ? -v : v);
	return true;
}

/* Whether the value that the instruction leaves in the register is a number of 32 bits. */
static bool leaves_small(const struct checker *c, const ZydisDecodedOperand *o)
{
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_BSF: case ZYDIS_MNEMONIC_BSR: case ZYDIS_MNEMONIC_CMPXCHG: case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		return false;
	default: break;
	}
	return o->size == 32 || c->in.mnemonic == ZYDIS_MNEMONIC_MOVSXD || c->in.mnemonic == ZYDIS_MNEMONIC_CDQE ||
	       c->in.mnemonic == ZYDIS_MNEMONIC_MOVZX;
}

/* RAX makes way for the flags, with a copy in TEMP1, and comes back. */
static bool rax_returns(const struct checker *c, const struct state *s, const struct value *before)
{
	const struct facts *f = &s->facts;

	return f->rax && f->rax == s->reg[TEMP1].number && c->in.mnemonic == ZYDIS_MNEMONIC_MOV && s->reg[RAX].number == f->rax &&
	       before->number != f->rax;
}

static void note_rax(struct state *s, const struct value *before)
{
	struct facts *f = &s->facts;

	if (s->reg[RAX].number == before->number || s->reg[TEMP1].number != before->number)
		return;
	f->rax = before->number;
	f->rax_home = f->home & 1;
	f->rax_small = f->small & 1;
}

static void drift(struct facts *f, unsigned home, uint64_t by)
{
	if (f->drift[home] + by > KNOWN_FAR)
		f->home &= (uint16_t)~(1u << home);
	else
		f->drift[home] += (uint32_t)by;
}

void check_facts(const struct checker *c, struct state *s, const struct value *rax_before)
{
	struct facts *f = &s->facts;

	note_rax(s, rax_before);
	if (rax_returns(c, s, rax_before)) {
		f->home = (uint16_t)((f->home & ~1) | f->rax_home);
		f->small = (uint16_t)((f->small & ~1) | f->rax_small);
		f->rax = 0;
		return;
	}

	for (unsigned i = 0; i < c->in.operand_count; i++) {
		const ZydisDecodedOperand *o = &c->op[i];
		int host = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(o->reg.value) : -1, guest = check_guest_register(host);
		uint16_t bit = (uint16_t)(guest < 0 ? 0 : 1u << guest);
		uint32_t by;

		if (guest < 0 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (leaves_small(c, o))
			f->small |= bit;
		else
			f->small &= (uint16_t)~bit;
		if (i != 0 || !adds_constant(c, host, &by) || by > KNOWN_FAR)
			by = UINT32_MAX;
		drift(f, (unsigned)guest, by);
		for (unsigned n = 0; n < PAIRS; n++) {
			struct bt_pair p;

			if (!check_pair(c, n, &p))
				continue;
			if (p.base == guest)
				f->home &= (uint16_t)~(1u << (PAIR_HOME + n));
			else if (p.index == guest && !p.bounded)
				drift(f, PAIR_HOME + n, (uint64_t)by << p.scale);
		}
	}
	check_homes_gone(s, (uint16_t)~f->home);
}

/* An access of the register's value and disp was made: had its slot been left, it would have faulted. */
static void touch_home(struct state *s, int guest, int64_t disp)
{
	uint64_t near = (uint64_t)(disp < 0 ? -disp : disp) + 64;

	if (guest >= 0 && s->facts.drift[guest] > near)
		s->facts.drift[guest] = (uint32_t)near;
}

static void touch(struct state *s, int host, int64_t disp) { touch_home(s, check_guest_register(host), disp); }

static bool is_small(const struct state *s, int host)
{
	int guest = check_guest_register(host);

	return guest >= 0 && (s->facts.small >> guest & 1);
}

/* ---- accesses ---- */

/* The record that the instruction in hand belongs to, when it is for windows. */
static const struct bt_rec *record(const struct checker *c)
{
	uint32_t at = c->at;

	for (unsigned i = c->block->recs; i-- > 0;) {
		const struct bt_rec *r = &c->recs[i];

		if (r->retry <= at && at < r->next)
			return r->window ? r : NULL;
	}
	return NULL;
}

/* A slot's delta and an address that the record knows. */
static bool constant(const struct checker *c, const struct value *delta, uint64_t lin)
{
	const struct bt_rec *r = record(c);

	return delta->kind == V_DELTA_AT && r && r->constant && bt_rec_lin(c->block, r) == lin && delta->imm == (lin >> SLOT_SHIFT & (WINDOW_SLOTS - 1));
}

/* Whether [base + index * scale] is the home of a sum of the block's, and its index. */
static int pair_sum(const struct checker *c, const struct state *s, const ZydisDecodedOperand *m)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	struct bt_pair p;

	if ((base != TEMP0 && base != TEMP1) || index < 0 || s->reg[base].kind != V_HOME || s->reg[base].extended || s->reg[base].imm < PAIR_HOME ||
	    !check_pair(c, (unsigned)s->reg[base].imm - PAIR_HOME, &p) || check_guest_register(index) != p.index || m->mem.scale != 1 << p.scale || (p.bounded && !known_bit(s->facts.small, (unsigned)p.index)))
		return -1;
	return (int)s->reg[base].imm;
}

/* Whether [base + index + disp] is a guest address and its own delta. */
static bool sum(const struct checker *c, const struct state *s, const ZydisDecodedOperand *m)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	int64_t disp = m->mem.disp.value;
	const struct value *a, *d;

	if (base < 0 || base == RSP)
		return false;
	a = &s->reg[base];
	if (index < 0) /* a constant address is the displacement */
		return constant(c, a, (uint64_t)disp);
	d = &s->reg[index];
	if (a->kind == V_DELTA_AT && is_small(s, index) && !(c->block->mode & MODE_CODE32)) /* from the slot of the displacement */
		return a->imm == ((uint64_t)disp >> SLOT_SHIFT & (WINDOW_SLOTS - 1));
	if (m->mem.scale > 1)
		return false;
	if (a->kind == V_DELTA_AT && d->kind == V_CONST)
		return !disp && constant(c, a, d->imm);
	if (d->kind == V_DELTA_AT) /* 32-bit code: all of its memory is in the first slot */
		return !disp && !d->imm && check_readable(a) && a->narrow;
	if (d->kind == V_HOME && !d->extended)
		return check_readable(a) && check_guest_register(base) == (int)d->imm;
	return (d->kind == V_DELTA || d->kind == V_HOME) && check_readable(a) && a->number == d->origin;
}

/* lea TEMP0, [TEMP0 + index * scale] of a delta: it serves the same register and the index together. */
static bool indexed(const struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	struct value *v = &s->reg[TEMP0], from;

	if ((base != TEMP0 && base != TEMP1) || index < 0 || m->mem.disp.value)
		return false;
	from = s->reg[base];
	if ((from.kind != V_DELTA && from.kind != V_HOME) || from.extended || !is_small(s, index))
		return false;
	*v = check_data(c, 0);
	v->kind = V_HOME;
	v->extended = true;
	v->origin = from.kind == V_DELTA ? from.origin : s->reg[host_of((int)from.imm)].number;
	return true;
}

/* lea TEMP0, [base + TEMP1], or [TEMP1], of the delta of a sum: what its home holds. Of a sum itself it is noted what it is of. */
static bool sum_base(const struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index), delta = index < 0 ? base : index;
	bool alone = index < 0;

	if (delta == TEMP1 && s->reg[TEMP1].kind == V_DELTA && s->sum.number && s->reg[TEMP1].origin == s->sum.number && !m->mem.disp.value && m->mem.scale <= 1 &&
	    s->sum.base == (alone ? 0 : s->reg[base].number)) {
		s->reg[TEMP0] = check_data(c, 0);
		s->reg[TEMP0].kind = V_SUM_BASE;
		s->reg[TEMP0].origin = s->sum.number;
		return true;
	}
	if (index < 0 || m->mem.disp.value || !check_readable(&s->reg[index]) || (base >= 0 && !check_readable(&s->reg[base])))
		return false;
	s->sum.base = base < 0 ? 0 : s->reg[base].number;
	s->sum.index = s->reg[index].number;
	s->sum.scale = (uint8_t)(m->mem.scale == 8 ? 3 : m->mem.scale == 4 ? 2 : m->mem.scale == 2 ? 1 : 0);
	s->reg[TEMP0] = check_data(c, 0);
	s->sum.number = s->reg[TEMP0].number;
	return true;
}

bool check_window_lea(struct checker *c, struct state *s, bool *handled)
{
	const ZydisDecodedOperand *m = &c->op[1];

	bool to = c->op[0].size == 64 && check_register(c->op[0].reg.value) == TEMP0 && c->in.address_width == 64;

	*handled = to && (indexed(c, s, m) || sum_base(c, s, m));
	if (*handled)
		return true;
	*handled = to && sum(c, s, m);
	if (*handled) {
		int base = check_register(m->mem.base), index = check_register(m->mem.index);
		/* Where the base is, exactly. */
		uint32_t origin = index >= 0 && s->reg[index].kind == V_DELTA && !m->mem.disp.value ? s->reg[base].number : 0;

		s->reg[TEMP0] = check_data(c, 0);
		s->reg[TEMP0].kind = V_WINDOW;
		s->reg[TEMP0].origin = origin;
	}
	return true;
}

/* mov TEMP1, [...] and mov gs:[overwritten], TEMP1: what a return address is about to be stored over. */
static bool keeps(const struct checker *c)
{
	static const uint8_t store[] = { 0x65, 0x4c, 0x89, 0x1c, 0x25 };
	const uint8_t *next = c->b->rw + c->block->host + c->at + c->in.length;
	int32_t disp;

	memcpy(&disp, next + sizeof(store), sizeof(disp));
	return c->in.mnemonic == ZYDIS_MNEMONIC_MOV && c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && check_register(c->op[0].reg.value) == TEMP1 &&
	       !memcmp(next, store, sizeof(store)) && disp == GS_OF(overwritten);
}

bool check_window_operand(struct checker *c, struct state *s, const ZydisDecodedOperand *m, bool *handled)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE, folded = base >= 0 && s->reg[base].kind == V_WINDOW;
	int64_t from = m->mem.disp.value, size = m->size / 8;
	const struct bt_rec *r = record(c);

	int pair = folded ? -1 : pair_sum(c, s, m);

	*handled = folded ? index < 0 : pair >= 0 || sum(c, s, m);
	if (!*handled)
		return true;
	/* Several accesses of one record lie side by side: in a frame, or from where its address was folded to. */
	if (r && !folded)
		from = r->frame == FRAME_NONE || (c->block->mode & MODE_CODE32) ? 0 : from - r->disp;
	if (!r || from < 0 || !size || from + size > r->size || (write != r->write && !keeps(c)))
		return check_fail(c, "a window without a record of the access");
	if (pair >= 0)
		touch_home(s, pair, m->mem.disp.value);
	else if (!folded && index >= 0 && m->mem.scale <= 1 && !s->reg[index].extended)
		touch(s, base, m->mem.disp.value);
	return true;
}
