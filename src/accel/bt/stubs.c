/* The code that stands once at the start of a cache: the way in, the ways to C and back, the look-ups. */
#include "accel/bt/translate.h"

static const uint8_t kept[] = { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R12, R13, R14 };

static void emit_spill(struct emit *e)
{
	for (unsigned i = 0; i < sizeof(kept); i++)
		emit_store_gs(e, kept[i], gs_gpr(kept[i]));
	emit_store_gs(e, HOST_SP, gs_gpr(RSP));
}

/* Leaves translated code: back to whom the way in was called by. The stack pointer is C's. */
static void emit_leave_code(struct emit *e)
{
	static const uint8_t code[] = { 0x48, 0x83, 0xc4, 8, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3 };

	memcpy(e->p, code, sizeof(code));
	e->p += sizeof(code);
}

/* Goes on at the address in RAX with all registers as in memory. */
static void emit_reload(struct emit *e)
{
	emit_store_gs(e, RAX, GS_OF(resume));
	emit_op_gs(e, false, 0x8b, RAX, GS_OF(flags));
	e1(e, 0x04), e1(e, 0x7f), e1(e, 0x9e); /* add al, 0x7f; sahf */
	for (unsigned i = 0; i < sizeof(kept); i++)
		emit_load_gs(e, kept[i], gs_gpr(kept[i]));
	emit_load_gs(e, HOST_SP, gs_gpr(RSP));
	emit_load_gs(e, RSP, GS_OF(return_sp));
	emit_load_gs(e, TEMP0, GS_OF(kept[0]));
	emit_load_gs(e, TEMP1, GS_OF(kept[1]));
	emit_op_gs(e, false, 0xff, 4, GS_OF(resume));
}

static void emit_enter(struct emit *e, struct bt_cpu *b, uint32_t reload)
{
	static const uint8_t code[] = { 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57, 0x48, 0x83, 0xec, 8 };

	memcpy(e->p, code, sizeof(code));
	e->p += sizeof(code);
	emit_store_gs(e, RSP, GS_OF(c_rsp));
	emit_mov(e, RAX, RDI);
	/* Asked for since `poll` was looked at. */
	emit_cmp_gs8(e, GS_OF(poked), 0);
	emit_jcc(e, CC_NE, b->stub_unchain);
	emit_jmp(e, reload);
}

/* Calls the helper, whose arguments are in their registers. */
static void emit_call_helper(struct emit *e, bt_helper *fn)
{
	if (BT_SANITIZED) {
		emit_imm(e, R8, (uintptr_t)fn);
		fn = (bt_helper *)(uintptr_t)bt_help_sanitized;
	}
	emit_imm(e, RAX, (uintptr_t)fn);
	e1(e, 0xff), e1(e, 0xd0); /* call rax */
}

/* To C on C's stack, with what the block has pushed as `id`. */
static uint32_t emit_helper(struct emit *e, struct bt_cpu *b, bt_helper *fn, bool id, uint32_t reload)
{
	uint32_t at = emit_at(e), over;

	emit_spill(e);
	if (id)
		e1(e, 0x5e); /* pop rsi */
	emit_store_gs(e, RSP, GS_OF(return_sp));
	emit_load_gs(e, RSP, GS_OF(c_rsp));
	emit_mov(e, RDX, TEMP0);
	emit_mov(e, RCX, TEMP1);
	emit_imm(e, RDI, (uintptr_t)b);
	emit_call_helper(e, fn);
	emit_op_reg(e, true, 0x85, RAX, RAX);
	over = emit_jcc(e, CC_NE, 0);
	emit_leave_code(e);
	emit_patch(e->base, over, emit_at(e));
	emit_cmp_gs8(e, GS_OF(poked), 0);
	emit_jcc(e, CC_NE, b->stub_unchain);
	emit_jmp(e, reload);
	return at;
}

/* Something was asked for while C ran: what is gone on with, at RAX, ends soon. */
static uint32_t emit_unchain(struct emit *e, struct bt_cpu *b, uint32_t reload)
{
	uint32_t at = emit_at(e);

	emit_imm(e, RDI, (uintptr_t)b);
	emit_mov(e, RSI, RAX);
	emit_call_helper(e, bt_help_unchain);
	emit_jmp(e, reload);
	return at;
}

static uint32_t emit_saving(struct emit *e, uint32_t to)
{
	uint32_t at = emit_at(e);

	emit_flags_save(e);
	emit_jmp(e, to);
	return at;
}

/* The mode's look-up of the guest address in TEMP0; the flags are saved. */
static uint32_t emit_lookup(struct emit *e, struct bt_cpu *b, unsigned mode)
{
	int32_t salt = GS_OF(salt) + (mode & MODE_USER ? 8 : 0);
	uint32_t at = emit_at(e), missed, found;

	emit_cmp_gs8(e, GS_OF(cpu.poll), 0);
	emit_jcc(e, CC_NE, b->stub_miss);
	if (b->windows && !(mode & MODE_CODE32)) {
		emit_window_delta(e, mode_view(mode), TEMP1, HOST_SP);
		emit_store_gs(e, TEMP1, GS_OF(home) + RSP * 8);
	}
	emit_jump_compare(e, mode);
	found = emit_jcc(e, CC_E, 0);
	emit_op_reg(e, true, 0x83, 6, TEMP0); /* xor */
	e1(e, JUMP_FLAGS);
	emit_jump_tag(e, mode);
	missed = emit_jcc(e, CC_NE, 0);
	emit_patch(e->base, found, emit_at(e));
	emit_jump_go(e, mode, false);
	emit_patch(e->base, missed, emit_at(e));
	emit_op_reg(e, true, 0x83, 6, TEMP0);
	e1(e, JUMP_FLAGS);
	emit_op_gs(e, true, 0x33, TEMP0, salt);
	emit_jmp(e, b->stub_miss);
	return at;
}

/* A block's probe: on a miss, the helper is told where it was called from. */
static void emit_called_probe(struct emit *e, struct bt_cpu *b, unsigned size, bool write, enum mmu_view view, bool fold)
{
	b->stub_probe[bt_probe(size, write, view, fold)] = emit_at(e);
	emit_tag_compare(e, bt_of(b)->bmi2, size, write, view);
	emit_jcc(e, CC_A, b->stub_fill);
	emit_entry_host(e, fold);
	e1(e, 0xc3);
}

/* Called by a block that has not got a lock; changes nothing. */
static uint32_t emit_contended(struct emit *e, const struct bt_cpu *b)
{
	uint32_t at = emit_at(e);

	for (unsigned i = 0; i < bt_of(b)->pauses; i++)
		e1(e, 0xf3), e1(e, 0x90);
	e1(e, 0xc3);
	return at;
}

/* The way of a return that is looked up (see control.c) is noted: where this was called from. */
static void emit_returned(struct emit *e)
{
	emit_op_mem(e, true, 0x8b, TEMP1, (struct host_mem){ RSP, -1, 0, 0 });
	emit_store_gs(e, TEMP1, GS_OF(returned));
	e1(e, 0x65), e1(e, 0xc7);
	emit_modrm_mem(e, 0, (struct host_mem){ -1, -1, 0, GS_OF(branch) });
	e4(e, REC_NONE);
	e1(e, 0xc3);
}

/* Sets the home of a guest register that the host keeps in one. */
static void emit_called_home(struct emit *e, struct bt_cpu *b, enum mmu_view view, unsigned guest)
{
	int host = host_register(guest);

	if (host < 0)
		return;
	b->stub_home[view][guest] = emit_at(e);
	emit_window_delta(e, view, TEMP0, (unsigned)host);
	emit_store_gs(e, TEMP0, GS_OF(home) + (int32_t)guest * 8);
	e1(e, 0xc3);
}

static void emit_called(struct emit *e, struct bt_cpu *b)
{
	b->stub_called = b->stub_flags_save = emit_at(e);
	emit_flags_save(e);
	e1(e, 0xc3);
	b->stub_nothing = emit_at(e) - 1;
	b->stub_returned = emit_at(e);
	emit_returned(e);
	b->stub_flags_load = emit_at(e);
	emit_flags_load(e);
	e1(e, 0xc3);
	b->stub_contended = emit_contended(e, b);
	for (unsigned n = 0; bt_of(b)->bmi2 && n < 2 * 16; n++)
		emit_called_home(e, b, n / 16 ? VIEW_USER : VIEW_SUPERVISOR, n % 16);
	for (unsigned size = 1; size <= 64; size++) {
		for (unsigned n = 0; bt_probe_size(size) >= 0 && n < 2 * VIEW_COUNT * 2; n++)
			emit_called_probe(e, b, size, n & 1, (enum mmu_view)(n / 4), n & 2);
	}
}

void bt_stubs_make(struct bt_cpu *b)
{
	struct emit em = { b->rw, b->rw }, *e = &em;
	uint32_t reload = b->stub_reload = emit_at(e);

	emit_reload(e);
	b->stub_unchain = emit_unchain(e, b, reload);
	b->stub_enter = emit_at(e);
	emit_enter(e, b, reload);
	b->stub_fill = emit_helper(e, b, bt_help_fill, true, reload);
	b->stub_fill_lin = emit_helper(e, b, bt_help_fill_lin, true, reload);
	b->stub_window = emit_helper(e, b, bt_help_window, true, reload);
	b->stub_insn = emit_helper(e, b, bt_help_insn, true, reload);
	b->stub_string = emit_helper(e, b, bt_help_string, true, reload);
	b->stub_syscall = emit_helper(e, b, bt_help_syscall, true, reload);
	b->stub_sysret = emit_helper(e, b, bt_help_sysret, true, reload);
	b->stub_iret = emit_helper(e, b, bt_help_iret, true, reload);
	b->stub_fp = emit_helper(e, b, bt_help_fp, true, reload);
	b->stub_exit = emit_helper(e, b, bt_help_exit, true, reload);
	b->stub_exit_flags = emit_saving(e, b->stub_exit);
	b->stub_poll = emit_helper(e, b, bt_help_poll, true, reload);
	b->stub_miss = emit_helper(e, b, bt_help_miss, false, reload);
	b->stub_cross = emit_helper(e, b, bt_help_cross, true, reload);
	for (unsigned mode = 0; mode < 4; mode++)
		b->stub_lookup[mode] = emit_lookup(e, b, mode);
	/* Below the last return: it stays there. */
	b->stub_bottom = emit_at(e);
	emit_lea(e, true, RSP, (struct host_mem){ RSP, -1, 0, -8 });
	emit_call_reg(e, TEMP1);
	emit_op_gs(e, false, 0xff, 4, GS_OF(lookup));
	emit_called(e, b);
	b->code_start = (emit_at(e) + 63) & ~63u;
}
