/* The few system instructions that are done in place, and the way to the interpreter for all others. */
#include "accel/bt/translate.h"

/* The whole instruction is a helper's. */
static struct bt_rec *emit_helped(struct tr *t, uint32_t stub)
{
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_saved(t, &id);
	e1(&t->e, 0x68);
	e4(&t->e, id);
	emit_jmp(&t->e, stub);
	return rec;
}

void emit_interp(struct tr *t, bool ends)
{
	struct bt_rec *rec = emit_helped(t, t->b->stub_insn);

	if (!ends)
		rec_goes_on(t, rec);
}

/* and, or dword gs:[rflags], imm32 */
static void change_rflags(struct tr *t, unsigned op, uint32_t imm)
{
	e1(&t->e, 0x65), e1(&t->e, 0x81);
	emit_modrm_mem(&t->e, op, (struct host_mem){ -1, -1, 0, GS_OF(cpu.s.rflags) });
	e4(&t->e, imm);
}
#define AND 4
#define OR 1

static void emit_sti(struct tr *t)
{
	struct bt_rec *rec;
	uint32_t id;

	flags_clobber(t);
	/* Something waits, or may: the interpreter knows of the shadow. */
	flags_in_image(t);
	rec = rec_new(t, &id);
	emit_cmp_gs8(&t->e, GS_OF(cpu.irq), 0);
	later_add(t, LATER_INSN, emit_jcc(&t->e, CC_NE, 0), id, 0, 0);
	change_rflags(t, OR, RFLAGS_IF);
	rec_goes_on(t, rec);
}

/* Every so many of them the interpreter's gives way to the vCPU that is waited for. */
static void emit_pause(struct tr *t)
{
	struct emit *e = &t->e;
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_saved(t, &id);
	e1(e, 0x65), e1(e, 0x83); /* sub dword gs:[pauses], 1 */
	emit_modrm_mem(e, 5, (struct host_mem){ -1, -1, 0, GS_OF(cpu.pauses) });
	e1(e, 1);
	later_add(t, LATER_INSN, emit_jcc(e, CC_E, 0), id, 0, 0);
	e1(e, 0xf3), e1(e, 0x90);
	rec_goes_on(t, rec);
}

static void emit_swapgs(struct tr *t)
{
	int32_t base = GS_OF(cpu.s.seg) + SEG_GS * (int)sizeof(struct x86_segment), other = GS_OF(cpu.s.kernel_gs_base);

	emit_load_gs(&t->e, TEMP0, base);
	emit_load_gs(&t->e, TEMP1, other);
	emit_store_gs(&t->e, TEMP0, other);
	emit_store_gs(&t->e, TEMP1, base);
}

/*
 * RDTSC, RDTSCP: the host's, moved. CR4.TSD may keep it from user mode. RDTSCP waits for the loads before it (SDM 2B), or
 * systems that compare their processors' counters under a lock see one run backwards.
 */
static void emit_rdtsc(struct tr *t, const struct guest_insn *g)
{
	struct emit *e = &t->e;
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_saved(t, &id);
	if (t->mode & MODE_USER) {
		e1(e, 0x65), e1(e, 0xf6); /* test byte gs:[cr4], TSD */
		emit_modrm_mem(e, 0, (struct host_mem){ -1, -1, 0, GS_OF(cpu.s.cr4) });
		e1(e, CR4_TSD);
		later_add(t, LATER_INSN, emit_jcc(e, CC_NE, 0), id, 0, 0);
	}
	if (g->modrm_present)
		e1(e, 0x0f), e1(e, 0xae), e1(e, 0xe8); /* lfence */
	e1(e, 0x0f), e1(e, 0x31);
	emit_op_reg(e, true, 0xc1, 4, RDX); /* shl rdx, 32 */
	e1(e, 32);
	emit_op_reg(e, true, 0x0b, RDX, RAX);
	emit_op_gs(e, true, 0x03, RDX, GS_OF(cpu.s.tsc_offset));
	emit_op_reg(e, false, 0x8b, RAX, RDX);
	emit_op_reg(e, true, 0xc1, 5, RDX);
	e1(e, 32);
	if (g->modrm_present)
		emit_op_gs(e, false, 0x8b, RCX, GS_OF(cpu.s.tsc_aux));
	rec_goes_on(t, rec);
}

#define SEG_AT(n, member) (GS_OF(cpu.s.seg) + (int)(n) * (int)sizeof(struct x86_segment) + (int)offsetof(struct x86_segment, member))

/* MOV from a segment register. */
static void emit_read_seg(struct tr *t, const struct guest_insn *g)
{
	int host = host_register(g->rm);
	unsigned to = host >= 0 ? (unsigned)host : TEMP0;

	if (g->opsize == 2 && host < 0)
		emit_load_gs(&t->e, to, gs_gpr(g->rm));
	e1(&t->e, 0x65); /* mov r16, or movzx r32, word gs:[selector] */
	if (g->opsize == 2)
		e1(&t->e, 0x66);
	if (to >= 8)
		e1(&t->e, 0x44);
	if (g->opsize == 2)
		e1(&t->e, 0x8b);
	else
		e1(&t->e, 0x0f), e1(&t->e, 0xb7);
	emit_modrm_mem(&t->e, to, (struct host_mem){ -1, -1, 0, SEG_AT(g->reg & 7, selector) });
	if (host < 0)
		emit_store_gs(&t->e, to, gs_gpr(g->rm));
}

/* MOV from CR0, CR2, CR3 or CR4. */
static void emit_read_cr(struct tr *t, const struct guest_insn *g)
{
	static const int32_t at[] = { GS_OF(cpu.s.cr0), 0, GS_OF(cpu.s.cr2), GS_OF(cpu.s.cr3), GS_OF(cpu.s.cr4) };
	int host = host_register(g->rm);
	unsigned to = host >= 0 ? (unsigned)host : TEMP0;

	emit_op_gs(&t->e, !t->code32, 0x8b, to, at[g->reg]);
	if (host < 0)
		emit_store_gs(&t->e, to, gs_gpr(g->rm));
}

static uint8_t string_kind(const struct guest_insn *g)
{
	switch (g->op & ~1u) {
	case 0xa4: return STRING_MOVES;
	case 0xa6: return STRING_COMPARES;
	case 0xac: return STRING_LOADS;
	case 0xae: return STRING_SCANS;
	default: return 0;
	}
}

static void emit_string(struct tr *t, const struct guest_insn *g)
{
	struct bt_rec *rec = emit_helped(t, t->b->stub_string);

	rec->size = g->op & 1 ? g->opsize : 1;
	rec->string = string_kind(g) | (g->rep ? STRING_REPEATS : 0) | (g->rep == 0xf2 ? STRING_UNEQUAL : 0);
	rec_goes_on(t, rec);
}

static void emit_syscall(struct tr *t)
{
	struct bt_rec *rec = emit_helped(t, t->b->stub_syscall);

	rec->disp = t->offset[t->at + 1];
	rec->moves = true;
}

/* RDFSBASE and its like; CR4.FSGSBASE may forbid them, and a base must be canonical. */
static void emit_base(struct tr *t, const struct guest_insn *g)
{
	struct emit *e = &t->e;
	int32_t base = SEG_AT(g->reg & 1 ? SEG_GS : SEG_FS, base);
	bool wide = g->rex & 8;
	unsigned reg;
	struct bt_rec *rec;
	uint32_t id;

	rec = rec_saved(t, &id);
	e1(e, 0x65), e1(e, 0xf6); /* test byte gs:[cr4 + 2], FSGSBASE */
	emit_modrm_mem(e, 0, (struct host_mem){ -1, -1, 0, GS_OF(cpu.s.cr4) + 2 });
	e1(e, CR4_FSGSBASE >> 16);
	later_add(t, LATER_INSN, emit_jcc(e, CC_E, 0), id, 0, 0);
	if (g->kind == G_READ_BASE) {
		int host = host_register(g->rm);

		reg = host >= 0 ? (unsigned)host : TEMP0;
		emit_op_gs(e, wide, 0x8b, reg, base);
		if (host < 0)
			emit_store_gs(e, reg, gs_gpr(g->rm));
	} else {
		reg = register_get(t, g->rm, TEMP0);
		emit_op_reg(e, wide, 0x8b, TEMP0, reg);
		emit_canonical(t, id);
		emit_store_gs(e, TEMP0, base);
	}
	rec_goes_on(t, rec);
}

bool emit_system(struct tr *t, const struct guest_insn *g)
{
	switch (g->kind) {
	case G_CLI:
		flags_clobber(t);
		change_rflags(t, AND, ~RFLAGS_IF);
		return true;
	case G_STI: emit_sti(t); return true;
	case G_CLD:
	case G_STD:
		flags_clobber(t);
		change_rflags(t, g->kind == G_CLD ? AND : OR, g->kind == G_CLD ? ~RFLAGS_DF : RFLAGS_DF);
		return true;
	case G_STAC:
	case G_CLAC:
		flags_clobber(t);
		change_rflags(t, g->kind == G_CLAC ? AND : OR, g->kind == G_CLAC ? ~RFLAGS_AC : RFLAGS_AC);
		if (t->mode & MODE_SMAP)
			t->mode = g->kind == G_STAC ? t->mode | MODE_AC : t->mode & ~(uint32_t)MODE_AC;
		return true;
	case G_SWAPGS: emit_swapgs(t); return true;
	case G_PAUSE: emit_pause(t); return true;
	case G_SYSCALL: emit_syscall(t); return true;
	case G_SYSRET: emit_helped(t, t->b->stub_sysret); return true;
	case G_IRET: emit_helped(t, t->b->stub_iret); return true;
	case G_RDTSC: emit_rdtsc(t, g); return true;
	case G_READ_CR: emit_read_cr(t, g); return true;
	case G_STRING: emit_string(t, g); return true;
	case G_READ_SEG: emit_read_seg(t, g); return true;
	case G_READ_BASE:
	case G_WRITE_BASE: emit_base(t, g); return true;
	default: return false;
	}
}
