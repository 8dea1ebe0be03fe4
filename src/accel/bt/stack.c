/* PUSH, POP and their kin. Runs of them share one probe. */
#include "accel/bt/translate.h"

static unsigned opcode_register(const struct guest_insn *g) { return (g->op & 7u) | (g->rex & 1u) << 3; }

static void stack_move(struct tr *t, int disp)
{
	emit_lea(&t->e, !t->code32, HOST_SP, (struct host_mem){ HOST_SP, -1, 0, disp });
	known_drift(t, RSP, disp);
}

static void store_imm(struct tr *t, struct host_mem m, uint32_t v)
{
	emit_op_mem(&t->e, !t->code32, 0xc7, 0, m);
	e4(&t->e, v);
}

#define RUN_MAX 8

static unsigned run_length(const struct tr *t, enum guest_kind a, enum guest_kind b)
{
	unsigned n = 0;

	while (n < RUN_MAX && t->at + n < t->count && (t->insn[t->at + n].kind == a || t->insn[t->at + n].kind == b)) {
		/* PUSH RSP and POP RSP stand alone. */
		if ((t->insn[t->at + n].ops & GO_OPREG) && opcode_register(&t->insn[t->at + n]) == RSP)
			return n ? n : 1;
		n++;
	}
	return n;
}

unsigned emit_push_run(struct tr *t)
{
	unsigned n = run_length(t, G_PUSH_REG, G_PUSH_IMM), size = word(t);
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	access_clobbers(t);
	rec = rec_new(t, &id);
	rec->count = (uint8_t)n;
	m = emit_frame(t, rec, id, FRAME_RSP, -(int)(n * size), n * size, true, true);
	access_begin(t, rec);
	for (unsigned i = 0; i < n; i++) {
		const struct guest_insn *g = &t->insn[t->at + i];
		struct host_mem at = m;

		at.disp += (int)((n - 1 - i) * size);
		if (g->kind == G_PUSH_IMM)
			store_imm(t, at, (uint32_t)g->imm);
		else
			emit_op_mem(&t->e, !t->code32, 0x89, register_get(t, opcode_register(g), TEMP1), at);
	}
	stack_move(t, -(int)(n * size));
	access_end(t, rec);
	rec_goes_on(t, rec);
	return n;
}

unsigned emit_pop_run(struct tr *t)
{
	unsigned n = run_length(t, G_POP_REG, G_POP_REG), size = word(t);
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	access_clobbers(t);
	rec = rec_new(t, &id);
	rec->count = (uint8_t)n;
	m = emit_frame(t, rec, id, FRAME_RSP, 0, n * size, false, true);
	access_begin(t, rec);
	for (unsigned i = 0; i < n; i++) {
		unsigned guest = opcode_register(&t->insn[t->at + i]);
		int host = host_register(guest);
		struct host_mem at = m;

		at.disp += (int)(i * size);
		emit_op_mem(&t->e, !t->code32, 0x8b, host >= 0 ? (unsigned)host : TEMP1, at);
		if (host < 0)
			register_put(t, guest, TEMP1);
	}
	access_end(t, rec);
	if (opcode_register(&t->insn[t->at]) != RSP)
		stack_move(t, (int)(n * size));
	rec_goes_on(t, rec);
	return n;
}

void emit_push_mem(struct tr *t, const struct guest_insn *g)
{
	unsigned size = word(t);
	struct host_mem m;
	struct bt_rec *rec, *second;
	uint32_t id, id2;

	access_clobbers(t);
	rec = rec_new(t, &id);
	if (guest_mem(g)) {
		m = emit_operand(t, g, rec, id, size, false, false);
		access_begin(t, rec);
		emit_op_mem(&t->e, !t->code32, 0x8b, TEMP1, m);
		access_end(t, rec);
		temp_used(t, TEMP1);
		emit_store_gs(&t->e, TEMP1, GS_OF(scratch));
	} else {
		emit_store_gs(&t->e, register_get(t, g->rm, TEMP1), GS_OF(scratch));
	}
	second = rec_new(t, &id2);
	m = emit_frame(t, second, id2, FRAME_RSP, -(int)size, size, true, true);
	temp_used(t, TEMP1);
	emit_load_gs(&t->e, TEMP1, GS_OF(scratch));
	access_begin(t, second);
	emit_op_mem(&t->e, !t->code32, 0x89, TEMP1, m);
	access_end(t, second);
	stack_move(t, -(int)size);
	rec_goes_on(t, second);
	rec_goes_on(t, rec);
}

void emit_push_return(struct tr *t, struct bt_rec *rec, uint32_t id, bool kept)
{
	uint64_t back = next_lin(t);
	unsigned size = word(t);
	struct host_mem m;
	bool small = t->code32 || back == (uint64_t)(int64_t)(int32_t)back;

	m = emit_frame(t, rec, id, FRAME_RSP, -(int)size, size, true, !small || kept);
	access_begin(t, rec);
	if (kept) {
		temp_used(t, TEMP1);
		emit_op_mem(&t->e, true, 0x8b, TEMP1, m);
		emit_store_gs(&t->e, TEMP1, GS_OF(overwritten));
	}
	if (small) {
		store_imm(t, m, (uint32_t)back);
		if (t->code32)
			reloc_add(t, RELOC_LIN32, 4);
		else
			t->block->fixed = true;
	} else {
		emit_lin(t, TEMP1, back);
		emit_op_mem(&t->e, true, 0x89, TEMP1, m);
	}
	access_end(t, rec);
	stack_move(t, -(int)size);
}

/* Status flags come from the image, the others from the register in memory, where no status bit is set. */
void emit_pushf(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned size = word(t);
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_saved(t, &id);
	m = emit_frame(t, rec, id, FRAME_RSP, -(int)size, size, true, true);
	/* movzx r11d, byte gs:[flags + 1]; and r11d, 0xd5 */
	e1(e, 0x65), e1(e, 0x44), e1(e, 0x0f), e1(e, 0xb6);
	emit_modrm_mem(e, TEMP1, (struct host_mem){ -1, -1, 0, GS_OF(flags) + 1 });
	emit_op_reg(e, false, 0x81, 4, TEMP1);
	e4(e, 0xd5);
	/* test byte gs:[flags], 1; jz +7; or r11d, OF */
	e1(e, 0x65), e1(e, 0xf6);
	emit_modrm_mem(e, 0, (struct host_mem){ -1, -1, 0, GS_OF(flags) });
	e1(e, 1);
	e1(e, 0x74), e1(e, 7);
	emit_op_reg(e, false, 0x81, 1, TEMP1);
	e4(e, RFLAGS_OF);
	emit_op_gs(e, true, 0x0b, TEMP1, GS_OF(cpu.s.rflags));
	access_begin(t, rec);
	emit_op_mem(e, !t->code32, 0x89, TEMP1, m);
	access_end(t, rec);
	stack_move(t, -(int)size);
	rec_goes_on(t, rec);
}

void emit_leave(struct tr *t)
{
	unsigned size = word(t);
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	access_clobbers(t);
	rec = rec_new(t, &id);
	m = emit_frame(t, rec, id, FRAME_RBP, 0, size, false, false);
	access_begin(t, rec);
	emit_op_mem(&t->e, !t->code32, 0x8b, TEMP0, m);
	access_end(t, rec);
	temp_used(t, TEMP0);
	emit_lea(&t->e, !t->code32, HOST_SP, (struct host_mem){ RBP, -1, 0, (int)size });
	emit_op_reg(&t->e, !t->code32, 0x8b, RBP, TEMP0);
	rec_goes_on(t, rec);
}
