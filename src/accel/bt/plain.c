/* Instructions that are copied with other operands: the great majority. */
#include "accel/bt/translate.h"

/* The register named in the opcode. */
static unsigned opcode_register(const struct guest_insn *g) { return (g->op & 7u) | (g->rex & 1u) << 3; }

static bool in_memory(unsigned guest) { return host_register(guest) < 0; }

/* AH, CH, DH or BH. */
static bool high_byte(const struct guest_insn *g, unsigned reg, bool byte)
{
	return byte && !g->has_rex && !g->vex && reg >= 4 && reg < 8;
}
static bool reg_high(const struct guest_insn *g)
{
	return (g->ops & GO_REG_GPR) && high_byte(g, g->reg, g->ops & GO_BYTE);
}
static bool rm_high(const struct guest_insn *g)
{
	if (g->ops & GO_OPREG)
		return high_byte(g, opcode_register(g), g->ops & GO_BYTE);
	return !guest_mem(g) && (g->ops & GO_RM_GPR) && high_byte(g, g->rm, g->ops & (GO_BYTE | GO_RM_BYTE));
}

bool plain_windowed(const struct guest_insn *g)
{
	return !reg_high(g);
}

/* Their operand must be aligned, which not every host enforces. */
static bool sha_memory(const struct guest_insn *g)
{
	return guest_mem(g) && !g->vex && ((g->map == 2 && g->op >= 0xc8 && g->op <= 0xcd) || (g->map == 3 && g->op == 0xcc));
}

bool plain_supported(const struct guest_insn *g)
{
	bool mem = guest_mem(g), high = reg_high(g) || rm_high(g);
	unsigned temps = mem ? 1 : 2, guest[3], n = 0;

	if (g->ops & GO_REG_GPR && !reg_high(g))
		guest[n++] = g->reg;
	if (!mem && (g->ops & (GO_RM_GPR | GO_OPREG)) && !rm_high(g))
		guest[n++] = g->ops & GO_OPREG ? opcode_register(g) : g->rm;
	if (g->ops & (GO_VVVV_R | GO_VVVV_W))
		guest[n++] = g->vvvv;
	for (unsigned i = 0; i < n; i++) {
		bool again = false;

		/* ESP sits in a register that cannot be named beside AH. */
		if (high && guest[i] == RSP)
			return false;
		for (unsigned k = 0; k < i; k++)
			again |= guest[k] == guest[i];
		if (in_memory(guest[i]) && !again && !temps--)
			return false;
	}
	if (sha_memory(g))
		return false;
	/* The trick for high bytes beside memory would disturb CMPXCHG's own AL, and a LOCK that the host refuses would leave it half done. */
	return !(high && mem && (g->lock || (g->map == 1 && g->op == 0xb0)));
}

/* Where an instruction's register operands are to be found. */
struct placed {
	unsigned reg, rm, vvvv; /* host numbers for the encoding */
	unsigned used[2], guests;
	bool written[2];
	unsigned temp[2];
};

/*
 * TEMP0 rather keeps a home, TEMP1 the value of a loop's register. An operand in memory, and another of the instruction's
 * registers, have taken theirs.
 */
static unsigned temp_for_register(const struct tr *t, const struct placed *p, unsigned guest, bool mem)
{
	bool here = t->value == value_of(guest);

	if (p->guests)
		return p->temp[0] == TEMP1 ? TEMP0 : TEMP1;
	if (mem || here)
		return TEMP1;
	return t->value && t->value == t->loop_value ? TEMP0 : TEMP1;
}

/* A general register operand: its host register; registers in memory are loaded into a temporary. */
static unsigned place(struct tr *t, struct placed *p, unsigned guest, bool read, bool write, bool mem)
{
	int host = host_register(guest);
	unsigned temp;

	if (host >= 0)
		return (unsigned)host;
	for (unsigned i = 0; i < p->guests; i++) {
		if (p->used[i] == guest) {
			p->written[i] |= write;
			return p->temp[i];
		}
	}
	p->used[p->guests] = guest;
	p->written[p->guests] = write;
	temp = p->temp[p->guests] = temp_for_register(t, p, guest, mem);
	if (temp == TEMP1 && t->value == value_of(guest)) {
		/* There it is. */
	} else if (read) {
		temp_used(t, temp);
		register_get(t, guest, temp);
	} else {
		temp_used(t, temp);
	}
	p->guests++;
	return temp;
}

static void place_all(struct tr *t, const struct guest_insn *g, struct placed *p)
{
	bool mem = guest_mem(g);
	/* A write of less than 32 bits keeps the rest. */
	bool partial = g->opsize == 2 || (g->ops & GO_BYTE);

	*p = (struct placed){ .reg = g->reg, .rm = g->ops & GO_OPREG ? opcode_register(g) : g->rm, .vvvv = g->vvvv };
	if ((g->ops & GO_REG_GPR) && !reg_high(g)) {
		bool rm_too = !mem && (g->ops & GO_RM_R) && (g->ops & GO_RM_GPR) && g->rm == g->reg;
		bool vvvv_too = (g->ops & GO_VVVV_R) && g->vvvv == g->reg;

		p->reg = place(t, p, g->reg, (g->ops & GO_REG_R) || partial || rm_too || vvvv_too, g->ops & GO_REG_W, mem);
	}
	if ((!mem && (g->ops & GO_RM_GPR) && !rm_high(g)) || ((g->ops & GO_OPREG) && !rm_high(g)))
		p->rm = place(t, p, p->rm, (g->ops & GO_RM_R) || (partial && !(g->ops & GO_RM_W32)), g->ops & GO_RM_W, mem);
	if (g->ops & (GO_VVVV_R | GO_VVVV_W)) {
		bool rm_too = !mem && g->rm == g->vvvv;

		p->vvvv = place(t, p, g->vvvv, (g->ops & GO_VVVV_R) || rm_too, g->ops & GO_VVVV_W, mem);
	}
}

static void store_back(struct tr *t, const struct placed *p)
{
	for (unsigned i = 0; i < p->guests; i++) {
		if (p->written[i])
			register_put(t, p->used[i], p->temp[i]);
	}
}

static void emit_imm_bytes(struct emit *e, const struct guest_insn *g)
{
	memcpy(e->p, &g->imm, g->imm_size);
	e->p += g->imm_size;
}

/* Prefixes, opcode and operands; the reg and rm numbers are the host's. */
static void encode(struct emit *e, const struct guest_insn *g, unsigned reg, unsigned rm, unsigned vvvv, const struct host_mem *m)
{
	bool oprm = g->ops & GO_OPREG, modrm = g->modrm_present;
	unsigned r = modrm ? reg : 0, b = m || !(modrm || oprm) ? 0 : rm;
	unsigned rex = (g->rex & 8u) | (r >> 3 & 1) << 2 | (b >> 3 & 1);

	if (m)
		rex = (g->rex & 8u) | (rex_of(false, r, *m) & 7);
	if (g->vex) {
		e1(e, 0xc4);
		e1(e, ((rex & 4 ? 0u : 0x80u) | (rex & 2 ? 0u : 0x40u) | (rex & 1 ? 0u : 0x20u)) | g->map);
		e1(e, (g->rex & 8u) << 4 | (~vvvv & 15) << 3 | (g->vex_l ? 4u : 0) | (g->rep == 0xf3 ? 2u : g->rep == 0xf2 ? 3u : g->p66 ? 1u : 0));
	} else {
		if (g->p66)
			e1(e, 0x66);
		if (g->rep)
			e1(e, g->rep);
		if (g->lock)
			e1(e, 0xf0);
		if (rex || (g->has_rex && (g->ops & (GO_BYTE | GO_RM_BYTE))))
			e1(e, 0x40 | rex);
		if (g->map)
			e1(e, 0x0f);
		if (g->map >= 2)
			e1(e, g->map == 2 ? 0x38 : 0x3a);
	}
	e1(e, oprm ? (g->op & ~7u) | (rm & 7) : g->op);
	if (modrm && m)
		emit_modrm_mem(e, reg, *m);
	else if (modrm)
		e1(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
	emit_imm_bytes(e, g);
}

/* The vector unit must be the guest's by now. */
static void fp_check(struct tr *t, const struct guest_insn *g, uint32_t id)
{
	uint8_t level = g->ops & GO_AVX ? 2 : 1;

	if (!(g->ops & (GO_X87 | GO_SIMD)) || t->fp_checked >= level)
		return;
	emit_cmp_gs8(&t->e, GS_OF(fp_level), level);
	later_add(t, LATER_FP, emit_jcc(&t->e, CC_B, 0), id, 0, 0);
	t->fp_checked = level;
	t->block->uses_fp = true;
}

/* XCHG of a register's two low bytes. */
static void swap_bytes(struct emit *e, unsigned reg)
{
	e1(e, 0x86);
	e1(e, 0xc0 | (reg + 4) << 3 | reg);
}

static uint8_t store_alignment(const struct guest_insn *g)
{
	bool aligned = g->op == 0x29 || g->op == 0x2b || g->op == 0xe7 || (g->op == 0x7f && g->rep != 0xf3);

	return (g->ops & GO_SIMD) && (g->ops & GO_RM_W) && g->map == 1 && aligned && g->mem_size >= 16 ? (uint8_t)(g->mem_size - 1) : 0;
}

/* All but the control instructions set the x87's pointers (SDM 1, 8.1.8). */
static bool sets_pointers(const struct guest_insn *g)
{
	/* FNSTCW and FNSTSW; FNSTSW AX, FNCLEX */
	bool control = guest_mem(g) ? (g->op == 0xd9 || g->op == 0xdd) && (g->reg & 7) == 7 : (g->op == 0xdf || g->op == 0xdb) && (g->reg & 7) == 4;

	return (g->ops & GO_X87) && !control;
}

static void emit_x87_note(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id)
{
	rec->x87 = (uint16_t)((g->op & 7) << 8 | g->mod << 6 | (g->reg & 7) << 3 | (g->rm & 7));
	if (guest_mem(g)) {
		struct guest_insn offset = *g;

		offset.seg = -1;
		emit_address(t, &offset);
		emit_store_gs(&t->e, TEMP0, GS_OF(x87_data));
		emit_note(t, GS_OF(x87_segment), guest_segment(g));
	}
	emit_note(t, GS_OF(x87_last), id);
}

/* The last to write EAX has made it zero. */
static bool expects_zero(const struct tr *t)
{
	for (unsigned i = t->at; i-- > 0;) {
		const struct guest_insn *g = &t->insn[i];

		if (!known_writes(g, RAX))
			continue;
		if (g->kind != G_PLAIN || g->map || g->vex || g->opsize != 4)
			return false;
		return (g->op & ~7u) == 0xb8 ? !g->imm : (g->op | 2) == 0x33 && g->mod == 3 && g->reg == RAX && g->rm == RAX;
	}
	return false;
}

/*
 * A program that exchanges zero for something else takes a lock. When it was not free another vCPU is in the middle of
 * what it protects: to leave the line to that one for a moment is cheaper for both than to ask for it again, by way of
 * the guest's kernel. The kernel's own locks have queues and do better without.
 */
static void emit_contended(struct tr *t, const struct guest_insn *g)
{
	if (!g->lock || g->map != 1 || (g->op | 1) != 0xb1 || !(t->mode & MODE_USER) || t->b->cpu.interp->cfg.cpus < 2 || !expects_zero(t))
		return;
	e1(&t->e, 0x70 | CC_E), e1(&t->e, CALL_BYTES);
	emit_call(&t->e, t->b->stub_contended);
}

void emit_plain(struct tr *t, const struct guest_insn *g)
{
	bool mem = guest_mem(g), fp = (g->ops & (GO_X87 | GO_SIMD)) && t->fp_checked < (g->ops & GO_AVX ? 2 : 1);
	bool wants_flags = g->flags_read || (g->flags_touched && (live_after(t) & ~g->flags_written));
	bool high = mem && reg_high(g);
	struct host_mem m = { 0 };
	struct bt_rec *rec = NULL;
	struct placed p;
	uint32_t id;

	if ((mem && !t->window) || fp)
		flags_clobber(t);
	else if ((g->ops & GO_TRAPS) && live_before(t))
		flags_in_image(t);
	if (mem || fp || (g->ops & (GO_TRAPS | GO_X87)))
		rec = rec_new(t, &id);
	if (fp) {
		rec->level = g->ops & GO_AVX ? 2 : 1;
		fp_check(t, g, id);
	}
	if (mem) {
		bool fold = wants_flags || ((g->ops & GO_REG_GPR) && in_memory(g->reg)) ||
			    ((g->ops & (GO_VVVV_R | GO_VVVV_W)) && in_memory(g->vvvv));

		rec->align = store_alignment(g);
		m = emit_operand(t, g, rec, id, g->mem_size, g->ops & GO_RM_W, fold);
	}
	if (wants_flags)
		flags_need(t);
	place_all(t, g, &p);
	if (high)
		swap_bytes(&t->e, g->reg - 4u);
	if (mem)
		access_begin(t, rec);
	encode(&t->e, g, high ? g->reg - 4u : p.reg, p.rm, p.vvvv, mem ? &m : NULL);
	if (mem)
		access_end(t, rec);
	if (high)
		swap_bytes(&t->e, g->reg - 4u);
	store_back(t, &p);
	emit_contended(t, g);
	if (g->flags_touched)
		t->flags = FLAGS_HOST;
	if (sets_pointers(g))
		emit_x87_note(t, g, rec, id);
	if (rec)
		rec_goes_on(t, rec);
}

void emit_lea_insn(struct tr *t, const struct guest_insn *g)
{
	int host = host_register(g->reg);
	unsigned to = host >= 0 ? (unsigned)host : TEMP1;
	bool wide = g->opsize == 8 && g->addrsize == 8;
	struct guest_insn flat = *g;
	uint64_t v;

	flat.seg = -1;
	operands_apart(t, g);
	if (constant_address(t, &flat, &v)) {
		if (g->rip_relative && g->opsize == 8 && g->addrsize == 8)
			emit_lin(t, to, v);
		else
			emit_imm(&t->e, to, g->opsize == 8 ? v : (uint32_t)v);
		t->block->fixed |= g->rip_relative && (g->opsize != 8 || g->addrsize != 8);
	} else {
		struct host_mem m = { -1, -1, g->scale, g->disp };

		if (g->base >= 0)
			m.base = (int8_t)register_get(t, (unsigned)g->base, TEMP0);
		if (g->index >= 0)
			m.index = (int8_t)register_get(t, (unsigned)g->index, TEMP1);
		emit_lea(&t->e, wide, to, m);
	}
	temp_used(t, to);
	if (host < 0)
		register_put(t, g->reg, to);
}

/* The bit number counts from the operand's address, and may lead far away from it. */
void emit_bit_string(struct tr *t, const struct guest_insn *g)
{
	bool wide = g->opsize == 8, write = g->ops & GO_RM_W;
	unsigned reg;
	struct host_mem m;
	struct bt_rec *rec;
	uint32_t id;

	flags_clobber(t);
	rec = rec_new(t, &id);
	emit_address(t, g);
	reg = register_get(t, g->reg, TEMP1);
	temp_used(t, TEMP1);
	emit_op_reg(&t->e, true, wide ? 0x8b : 0x63, TEMP1, reg); /* mov, movsxd */
	emit_op_reg(&t->e, true, 0xc1, 7, TEMP1);                  /* sar: words from there */
	e1(&t->e, wide ? 6 : 5);
	emit_lea(&t->e, !t->code32 && g->addrsize == 8, TEMP0, (struct host_mem){ TEMP0, TEMP1, wide ? 3 : 2, 0 });
	emit_probe(t, rec, id, g->opsize, write, true);
	/* Back to where the host's instruction starts to count. */
	reg = register_get(t, g->reg, TEMP1);
	temp_used(t, TEMP1);
	emit_op_reg(&t->e, true, wide ? 0x8b : 0x63, TEMP1, reg);
	emit_op_reg(&t->e, true, 0xc1, 7, TEMP1);
	e1(&t->e, wide ? 6 : 5);
	emit_op_reg(&t->e, true, 0xf7, 3, TEMP1); /* neg */
	emit_lea(&t->e, true, TEMP0, (struct host_mem){ TEMP0, TEMP1, wide ? 3 : 2, 0 });
	if (live_after(t) & ~g->flags_written)
		flags_need(t);
	reg = register_get(t, g->reg, TEMP1);
	m = (struct host_mem){ TEMP0, -1, 0, 0 };
	encode(&t->e, g, reg, 0, 0, &m);
	t->flags = FLAGS_HOST;
	rec_goes_on(t, rec);
}
