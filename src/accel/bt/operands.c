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
	emit_load_gs(&t->e, temp, gs_gpr(guest));
	return temp;
}

struct bt_rec *rec_new(struct tr *t, uint32_t *id)
{
	struct bt_rec *r = &t->b->recs[*id = t->b->rec_count++];

	*r = (struct bt_rec){ .block = t->block, .guest = (uint16_t)(t->lin - t->block->lin), .count = 1, .retry = emit_at(&t->e) };
	t->block->recs++;
	return r;
}

void later_add(struct tr *t, enum later_kind kind, uint32_t site, uint32_t id, uint64_t lin, uint32_t back)
{
	t->later[t->laters++] = (struct later){ site, id, back, lin, kind };
}

void flags_in_image(struct tr *t)
{
	if (t->flags != FLAGS_HOST)
		return;
	emit_flags_save(&t->e);
	t->flags = FLAGS_BOTH;
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
	emit_flags_load(&t->e);
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

void emit_address(struct tr *t, const struct guest_insn *g)
{
	bool wide = !t->code32 && g->addrsize == 8;
	struct host_mem m = { -1, -1, g->scale, g->disp };
	int seg = based_segment(g);

	if (g->base < 0 && g->index < 0) {
		uint64_t v = (uint64_t)(int64_t)g->disp + (g->rip_relative ? t->lin + g->length : 0);

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
	if (seg >= 0)
		emit_op_gs(&t->e, !t->code32, 0x03, TEMP0, GS_OF(cpu.s.seg) + seg * (int)sizeof(struct x86_segment));
}

/* The displacement of a tag within an entry of the soft TLB. */
static int32_t tag_at(const struct tr *t, bool write)
{
	return (int32_t)mode_view(t->mode) * 16 + (write ? 8 : 0);
}
#define HOST_AT ((int32_t)offsetof(struct tlb_entry, host))
_Static_assert(sizeof(struct tlb_entry) == 64, "the probe's index is scaled by 64");

struct host_mem emit_probe(struct tr *t, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold)
{
	struct emit *e = &t->e;
	struct host_mem entry = { TEMP1, -1, 0, 0 };

	rec->size = (uint8_t)size;
	rec->write = write;
	if (t->bmi2) {
		static const uint8_t rorx[] = { 0xc4, 0x43, 0x7b, 0xf0, 0xda, PAGE_SHIFT - 6 };

		memcpy(e->p, rorx, sizeof(rorx));
		e->p += sizeof(rorx);
	} else {
		emit_op_reg(e, false, 0x8b, TEMP1, TEMP0);
		emit_op_reg(e, false, 0xc1, 5, TEMP1);
		e1(e, PAGE_SHIFT - 6);
	}
	emit_op_reg(e, false, 0x81, 4, TEMP1); /* and */
	e4(e, (TLB_SIZE - 1) << 6);
	entry.disp = tag_at(t, write);
	e1(e, 0x65);
	emit_op_mem(e, true, 0x2b, TEMP0, entry); /* sub: the offset in the page */
	emit_op_reg(e, true, 0x81, 7, TEMP0); /* cmp */
	e4(e, PAGE_SIZE - size);
	later_add(t, LATER_FILL, emit_jcc(e, CC_A, 0), id, 0, 0);
	entry.disp = HOST_AT;
	e1(e, 0x65);
	emit_op_mem(e, true, fold ? 0x03 : 0x8b, fold ? TEMP0 : TEMP1, entry);
	return fold ? (struct host_mem){ TEMP0, -1, 0, 0 } : (struct host_mem){ TEMP0, TEMP1, 0, 0 };
}

/* The entry is known: only its tag is to be compared. */
static struct host_mem constant_probe(struct tr *t, struct bt_rec *rec, uint32_t id, uint64_t lin, unsigned size, bool write)
{
	struct emit *e = &t->e;
	uint64_t page = lin & ~(uint64_t)(PAGE_SIZE - 1);
	int32_t entry = (int32_t)((lin >> PAGE_SHIFT) % TLB_SIZE * sizeof(struct tlb_entry));
	struct host_mem tag = { -1, -1, 0, entry + tag_at(t, write) };

	rec->size = (uint8_t)size;
	rec->write = write;
	rec->lin = lin;
	if (page == (uint64_t)(int64_t)(int32_t)page) {
		e1(e, 0x65);
		emit_op_mem(e, true, 0x81, 7, tag);
		e4(e, (uint32_t)page);
	} else {
		emit_imm(e, TEMP1, page);
		e1(e, 0x65);
		emit_op_mem(e, true, 0x39, TEMP1, tag);
	}
	later_add(t, LATER_FILL_LIN, emit_jcc(e, CC_NE, 0), id, lin, 0);
	emit_load_gs(e, TEMP0, entry + HOST_AT);
	return (struct host_mem){ TEMP0, -1, 0, (int32_t)(lin & (PAGE_SIZE - 1)) };
}

struct host_mem emit_operand(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold)
{
	uint64_t lin;

	if (constant_address(t, g, &lin) && (lin & (PAGE_SIZE - 1)) + size <= PAGE_SIZE)
		return constant_probe(t, rec, id, lin, size, write);
	emit_address(t, g);
	return emit_probe(t, rec, id, size, write, fold);
}
