/*
 * The checker's view of windows (window.h): a delta is looked up with the very address that it is added to, in the
 * table of the code's privilege, and what is accessed is that sum, or no further from it than the guard zones reach.
 */
#include "accel/bt/check_state.h"
#include "accel/bt/window.h"

#define SLOT_SHIFT 39

static int32_t table(const struct checker *c)
{
	return GS_OF(delta) + (int32_t)(mode_view(c->block->mode) * WINDOW_SLOTS * 8);
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

bool check_window_delta(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int to = c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(c->op[0].reg.value) : -1;
	int64_t at = m->mem.disp.value - table(c);
	struct value v = check_data(c, 0);

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

/* The record that the instruction in hand belongs to, when it is for windows. */
static const struct bt_rec *record(const struct checker *c)
{
	uint32_t at = c->block->host + c->at;

	for (unsigned i = c->block->recs; i-- > 0;) {
		const struct bt_rec *r = &c->b->recs[c->block->first_rec + i];

		if (r->retry <= at && at < (r->next ? r->next : r->end))
			return r->window ? r : NULL;
	}
	return NULL;
}

/* A slot's delta and an address that the record knows. */
static bool constant(const struct checker *c, const struct value *delta, uint64_t lin)
{
	const struct bt_rec *r = record(c);

	return delta->kind == V_DELTA_AT && r && r->constant && r->lin == lin && delta->imm == (lin >> SLOT_SHIFT & (WINDOW_SLOTS - 1));
}

/* Whether [base + index + disp] is a guest address and its own delta. */
static bool sum(const struct checker *c, const struct state *s, const ZydisDecodedOperand *m)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	int64_t disp = m->mem.disp.value;
	const struct value *a, *d;

	if (base < 0 || base == RSP || (index >= 0 && m->mem.scale > 1))
		return false;
	a = &s->reg[base];
	if (index < 0) /* a constant address is the displacement */
		return constant(c, a, (uint64_t)disp);
	d = &s->reg[index];
	if (a->kind == V_DELTA_AT && d->kind == V_CONST)
		return !disp && constant(c, a, d->imm);
	if (d->kind == V_DELTA_AT) /* 32-bit code: all of its memory is in the first slot */
		return !disp && !d->imm && check_readable(a) && a->narrow;
	return d->kind == V_DELTA && check_readable(a) && a->number == d->origin;
}

bool check_window_lea(struct checker *c, struct state *s, bool *handled)
{
	const ZydisDecodedOperand *m = &c->op[1];

	*handled = c->op[0].size == 64 && check_register(c->op[0].reg.value) == TEMP0 && sum(c, s, m);
	if (*handled) {
		s->reg[TEMP0] = check_data(c, 0);
		s->reg[TEMP0].kind = V_WINDOW;
	}
	return true;
}

bool check_window_operand(struct checker *c, const struct state *s, const ZydisDecodedOperand *m, bool *handled)
{
	int base = check_register(m->mem.base), index = check_register(m->mem.index);
	bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE, folded = base >= 0 && s->reg[base].kind == V_WINDOW;
	int64_t from = m->mem.disp.value, size = m->size / 8;
	const struct bt_rec *r = record(c);

	*handled = folded ? index < 0 : sum(c, s, m);
	if (!*handled)
		return true;
	/* Several accesses of one record lie side by side: in a frame, or from where its address was folded to. */
	if (r && !folded)
		from = r->frame == FRAME_NONE || (c->block->mode & MODE_CODE32) ? 0 : from - r->disp;
	if (!r || from < 0 || !size || from + size > r->size || write != r->write)
		return check_fail(c, "a window without a record of the access");
	return true;
}
