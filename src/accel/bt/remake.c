/*
 * Status flags made again. An indirect jump compares its target, which destroys the flags that the host's register holds;
 * almost always the target overwrites them before it reads any. So they are not saved before: on the way that needs them
 * the last instruction that set them is done once more, by the values that it had, if those are still to be had.
 */
#include "accel/bt/translate.h"

enum { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST };

static unsigned opcode_byte_register(const struct guest_insn *g, unsigned reg, bool *ok)
{
	*ok &= g->has_rex || reg < 4;
	return reg;
}

/* Its operation, as far as it is one of those above; registers, or an immediate; false when it is another instruction. */
static bool take_apart(const struct guest_insn *g, struct remake *r, unsigned *operation, bool *source_memory)
{
	unsigned form = g->op & 7;
	bool group = (g->op & 0xfc) == 0x80, ok = true;

	*source_memory = false;
	if (g->kind != G_PLAIN || g->map || g->vex || g->lock)
		return false;
	r->size = g->ops & GO_BYTE ? 1 : g->opsize;
	if (g->op < 0x40 && form < 6)
		*operation = g->op >> 3;
	else if (group && g->op != 0x82)
		*operation = g->reg & 7;
	else if ((g->op & 0xfe) == 0x84 || (g->op & 0xfe) == 0xa8 || ((g->op & 0xfe) == 0xf6 && (g->reg & 7) < 2))
		*operation = TEST;
	else
		return false;
	if (*operation == ADC || *operation == SBB)
		return false;
	r->b = REMAKE_IMM;
	r->imm = (int32_t)g->imm;
	if ((g->op < 0x40 && form > 3) || (g->op & 0xfe) == 0xa8) {
		r->a = RAX;
		return true;
	}
	if (group || (g->op & 0xfe) == 0xf6) {
		r->a = g->rm;
		ok = !guest_mem(g);
	} else if (g->op < 0x40 && form > 1) {
		r->a = g->reg;
		r->b = g->rm;
		*source_memory = guest_mem(g);
	} else {
		r->a = g->rm;
		r->b = g->reg;
		ok = !guest_mem(g);
	}
	if (r->size == 1 && ok) {
		r->a = (uint8_t)opcode_byte_register(g, r->a, &ok);
		if (r->b != REMAKE_IMM && !*source_memory)
			r->b = (uint8_t)opcode_byte_register(g, r->b, &ok);
	}
	return ok;
}

/* By how much the stack's pointer has moved with the instruction. */
static int32_t pushed(const struct tr *t, const struct guest_insn *g)
{
	switch (g->kind) {
	case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_PUSHF: case G_CALL_IND: return -(int32_t)word(t);
	case G_POP_REG: return (int32_t)word(t);
	case G_RET: return (int32_t)(word(t) + (g->imm & 0xffff));
	default: return 0;
	}
}

/* How far the register has moved since instruction i has set it; false when it holds something else. */
static bool moved(const struct tr *t, unsigned i, unsigned guest, int32_t *by)
{
	int64_t far = 0;

	for (unsigned n = i + 1; n <= t->at; n++) {
		const struct guest_insn *g = &t->insn[n];
		unsigned reg;
		int64_t more;

		if (guest == RSP)
			far += pushed(t, g);
		if (n == t->at)
			break;
		if (known_bit(t->changes[n], guest))
			return false;
		if (known_adds(g, &reg, &more) && reg == guest)
			far += more;
	}
	*by = (int32_t)far;
	return far == (int16_t)far;
}

/* Whether the register can be an operand as it stands. */
static bool direct(unsigned guest, int32_t by) { return guest == REMAKE_IMM || (host_register(guest) >= 0 && !by); }

bool remake_find(const struct tr *t, struct remake *r)
{
	unsigned i = t->at, operation;
	bool memory;

	*r = (struct remake){ 0 };
	if (!t->tier2 || t->flags != FLAGS_HOST)
		return false;
	while (i && !t->insn[i - 1].flags_touched)
		i--;
	if (!i-- || !take_apart(&t->insn[i], r, &operation, &memory))
		return false;
	if ((operation == XOR || operation == SUB) && r->a == r->b && !memory) {
		r->kind = REMAKE_ZERO;
		return true;
	}
	if (operation == OR || operation == AND || operation == XOR) {
		/* All that they tell is of the result. */
		r->kind = REMAKE_TEST;
		r->b = r->a;
	} else {
		r->kind = operation == TEST ? REMAKE_TEST : operation == CMP ? REMAKE_COMPARE : operation == ADD ? REMAKE_ADD : REMAKE_SUB;
		if (memory)
			return false;
	}
	if (!moved(t, i, r->a, &r->moved_a) || (r->b != REMAKE_IMM && !moved(t, i, r->b, &r->moved_b)))
		return false;
	if (r->kind == REMAKE_ADD || r->kind == REMAKE_SUB)
		return r->size >= 4 && r->a != r->b && direct(r->b, r->moved_b) && (int64_t)r->imm == (int16_t)r->imm;
	return r->a == r->b || direct(r->a, r->moved_a) || direct(r->b, r->moved_b);
}

/* The register as it was, less `less`, into TEMP1. */
static void take_back(struct tr *t, const struct remake *r, unsigned guest, int32_t by, int32_t less)
{
	int host = host_register(guest);

	if (host < 0)
		emit_load_gs(&t->e, TEMP1, gs_gpr(guest));
	emit_lea(&t->e, r->size == 8, TEMP1, (struct host_mem){ (int8_t)(host < 0 ? TEMP1 : host), -1, 0, -by - less });
}

static unsigned operand(struct tr *t, const struct remake *r, unsigned guest, int32_t by)
{
	if (direct(guest, by))
		return (unsigned)host_register(guest);
	take_back(t, r, guest, by, 0);
	return TEMP1;
}

static void emit_operation(struct tr *t, unsigned size, unsigned op, unsigned reg, unsigned rm)
{
	if (size == 2)
		e1(&t->e, 0x66);
	e1(&t->e, 0x40 | (size == 8 ? 8u : 0) | (reg >> 3 & 1) << 2 | (rm >> 3 & 1));
	e1(&t->e, size == 1 ? op & ~1u : op);
	e1(&t->e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void emit_immediate(struct tr *t, unsigned size, uint32_t v)
{
	unsigned bytes = size > 4 ? 4 : size;

	memcpy(t->e.p, &v, bytes);
	t->e.p += bytes;
}

void emit_remake(struct tr *t, const struct remake *r)
{
	bool imm = r->b == REMAKE_IMM;
	unsigned a, b;

	switch (r->kind) {
	case REMAKE_ZERO: emit_operation(t, 4, 0x39, RAX, RAX); break; /* equal */
	case REMAKE_ADD: case REMAKE_SUB:
		a = r->kind == REMAKE_ADD ? 0 : 5;
		take_back(t, r, r->a, r->moved_a, !imm ? 0 : a ? -r->imm : r->imm);
		if (imm) {
			emit_operation(t, r->size, 0x81, a, TEMP1);
			emit_immediate(t, r->size, (uint32_t)r->imm);
			break;
		}
		b = (unsigned)host_register(r->b);
		emit_operation(t, r->size, a ? 0x01 : 0x29, b, TEMP1);
		emit_operation(t, r->size, a ? 0x29 : 0x01, b, TEMP1);
		break;
	default:
		a = operand(t, r, r->a, r->moved_a);
		b = imm ? 0 : r->a == r->b ? a : operand(t, r, r->b, r->moved_b);
		if (!imm) {
			emit_operation(t, r->size, r->kind == REMAKE_TEST ? 0x85 : 0x39, b, a);
			break;
		}
		emit_operation(t, r->size, r->kind == REMAKE_TEST ? 0xf7 : 0x81, r->kind == REMAKE_TEST ? 0 : 7, a);
		emit_immediate(t, r->size, (uint32_t)r->imm);
	}
}
