/*
 * The x87 environment and state in memory, as FSTENV, FLDENV, FSAVE and FRSTOR have it: 14 or 28 bytes by
 * operand size, in a real-address and a protected form (SDM 1, 8.1.10).
 */
#include "accel/interp/vec.h"

struct env {
	uint16_t fcw, fsw, ftw, fop, fcs, fds;
	uint32_t fip, fdp;
};
enum form { FORM_REAL16, FORM_PROTECTED16, FORM_REAL32, FORM_PROTECTED32 };
#define ENV_MAX 28

static enum form form_of(const struct icpu *cpu, const struct insn *in)
{
	bool real = !(cpu->s.cr0 & CR0_PE) || (cpu->s.rflags & RFLAGS_VM);

	return in->opsize == 2 ? (real ? FORM_REAL16 : FORM_PROTECTED16) : real ? FORM_REAL32 : FORM_PROTECTED32;
}

static unsigned form_size(enum form form) { return form <= FORM_PROTECTED16 ? 14 : 28; }

/* ---- between the image and struct env ---- */

static void env_get(const struct icpu *cpu, struct env *e)
{
	const uint8_t *x = cpu->s.xsave;

	e->fcw = ld16le(x + IMG_FCW);
	e->fsw = ld16le(x + IMG_FSW);
	e->ftw = x87_full_tags(&cpu->s);
	e->fop = ld16le(x + IMG_FOP) & 0x7ff;
	e->fip = ld32le(x + IMG_FIP);
	e->fdp = ld32le(x + IMG_FDP);
	e->fcs = ld16le(x + IMG_FCS);
	e->fds = ld16le(x + IMG_FDS);
}

static void env_set(struct icpu *cpu, const struct env *e)
{
	uint8_t *x = cpu->s.xsave;
	uint16_t before = ld16le(x + IMG_FSW);

	x87_set_top(&cpu->s, fsw_top(e->fsw));
	st16le(x + IMG_FCW, (e->fcw & 0x1f3f) | 0x40);
	st16le(x + IMG_FSW, e->fsw);
	x[IMG_FTW] = x87_abridged_tags(e->ftw);
	st16le(x + IMG_FOP, e->fop);
	st64le(x + IMG_FIP, e->fip);
	st64le(x + IMG_FDP, e->fdp);
	st16le(x + IMG_FCS, e->fcs);
	st16le(x + IMG_FDS, e->fds);
	x87_update_es(&cpu->s);
	vec_error_gone(cpu, before);
}

/* ---- between struct env and memory ---- */

/* A word in a doubleword's place; what is reserved reads as ones. */
static void put_word(uint8_t *p, uint16_t v) { st32le(p, 0xffff0000u | v); }

static void env_write(const struct env *e, enum form form, uint8_t *p)
{
	uint32_t ip = e->fip, dp = e->fdp;

	if (form == FORM_REAL16 || form == FORM_REAL32) {
		ip += (uint32_t)e->fcs << 4;
		dp += (uint32_t)e->fds << 4;
	}
	switch (form) {
	case FORM_REAL16:
	case FORM_PROTECTED16:
		st16le(p, e->fcw);
		st16le(p + 2, e->fsw);
		st16le(p + 4, e->ftw);
		st16le(p + 6, (uint16_t)ip);
		st16le(p + 8, form == FORM_REAL16 ? (uint16_t)((ip >> 4 & 0xf000) | e->fop) : e->fcs);
		st16le(p + 10, (uint16_t)dp);
		st16le(p + 12, form == FORM_REAL16 ? (uint16_t)(dp >> 4 & 0xf000) : e->fds);
		break;
	case FORM_REAL32:
	case FORM_PROTECTED32:
		put_word(p, e->fcw);
		put_word(p + 4, e->fsw);
		put_word(p + 8, e->ftw);
		if (form == FORM_PROTECTED32) {
			st32le(p + 12, ip);
			st32le(p + 16, e->fcs | (uint32_t)e->fop << 16);
			st32le(p + 20, dp);
			put_word(p + 24, e->fds);
		} else {
			put_word(p + 12, (uint16_t)ip);
			st32le(p + 16, (ip >> 4 & 0x0ffff000) | e->fop);
			put_word(p + 20, (uint16_t)dp);
			st32le(p + 24, dp >> 4 & 0x0ffff000);
		}
		break;
	}
}

static void env_read(struct env *e, enum form form, const uint8_t *p)
{
	bool small = form <= FORM_PROTECTED16;
	unsigned step = small ? 2 : 4;

	*e = (struct env){ .fcw = ld16le(p), .fsw = ld16le(p + step), .ftw = ld16le(p + 2 * step) };
	switch (form) {
	case FORM_REAL16:
		e->fip = ld16le(p + 6) | (ld16le(p + 8) & 0xf000u) << 4;
		e->fop = ld16le(p + 8) & 0x7ff;
		e->fdp = ld16le(p + 10) | (ld16le(p + 12) & 0xf000u) << 4;
		break;
	case FORM_PROTECTED16:
		e->fip = ld16le(p + 6);
		e->fcs = ld16le(p + 8);
		e->fdp = ld16le(p + 10);
		e->fds = ld16le(p + 12);
		break;
	case FORM_REAL32:
		e->fip = ld16le(p + 12) | (ld32le(p + 16) & 0x0ffff000u) << 4;
		e->fop = ld16le(p + 16) & 0x7ff;
		e->fdp = ld16le(p + 20) | (ld32le(p + 24) & 0x0ffff000u) << 4;
		break;
	case FORM_PROTECTED32:
		e->fip = ld32le(p + 12);
		e->fcs = ld16le(p + 16);
		e->fop = ld16le(p + 18) & 0x7ff;
		e->fdp = ld32le(p + 20);
		e->fds = ld16le(p + 24);
		break;
	}
}

/* ---- instructions ---- */

static void do_fnstenv(struct icpu *cpu, const struct insn *in)
{
	enum form form = form_of(cpu, in);
	uint8_t buf[ENV_MAX];
	struct env e;
	uint64_t lin;

	vec_require_x87(cpu);
	lin = cpu_ea(cpu, in, form_size(form), true);
	vec_check_alignment(cpu, lin, in->opsize, true);
	env_get(cpu, &e);
	env_write(&e, form, buf);
	cpu_store_bytes(cpu, lin, buf, form_size(form));
	st16le(cpu->s.xsave + IMG_FCW, e.fcw | 0x3f); /* all exceptions are masked then */
	x87_update_es(&cpu->s);
	vec_error_gone(cpu, e.fsw);
}

static void do_fldenv(struct icpu *cpu, const struct insn *in)
{
	enum form form = form_of(cpu, in);
	uint8_t buf[ENV_MAX];
	struct env e;
	uint64_t lin;

	if (!vec_require_x87_ready(cpu))
		return;
	lin = cpu_ea(cpu, in, form_size(form), false);
	vec_check_alignment(cpu, lin, in->opsize, false);
	cpu_load_bytes(cpu, lin, buf, form_size(form));
	env_read(&e, form, buf);
	env_set(cpu, &e);
}

static void do_fnsave(struct icpu *cpu, const struct insn *in)
{
	enum form form = form_of(cpu, in);
	unsigned head = form_size(form);
	uint8_t buf[ENV_MAX + 80], *x = cpu->s.xsave;
	struct env e;
	uint64_t lin;

	vec_require_x87(cpu);
	lin = cpu_ea(cpu, in, head + 80, true);
	vec_check_alignment(cpu, lin, in->opsize, true);
	env_get(cpu, &e);
	env_write(&e, form, buf);
	for (unsigned i = 0; i < 8; i++)
		memcpy(buf + head + 10 * i, x + IMG_ST + 16 * i, 10);
	cpu_store_bytes(cpu, lin, buf, head + 80);
	x87_reset(&cpu->s);
	vec_error_gone(cpu, e.fsw);
}

static void do_frstor(struct icpu *cpu, const struct insn *in)
{
	enum form form = form_of(cpu, in);
	unsigned head = form_size(form);
	uint8_t buf[ENV_MAX + 80], *x = cpu->s.xsave;
	struct env e;
	uint64_t lin;

	if (!vec_require_x87_ready(cpu))
		return;
	lin = cpu_ea(cpu, in, head + 80, false);
	vec_check_alignment(cpu, lin, in->opsize, false);
	cpu_load_bytes(cpu, lin, buf, head + 80);
	env_read(&e, form, buf);
	env_set(cpu, &e);
	for (unsigned i = 0; i < 8; i++)
		memcpy(x + IMG_ST + 16 * i, buf + head + 10 * i, 10);
}

bool vec_env_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	insn_fn fn;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV: fn = do_fnstenv; break;
	case ZYDIS_MNEMONIC_FLDENV: fn = do_fldenv; break;
	case ZYDIS_MNEMONIC_FNSAVE: fn = do_fnsave; break;
	case ZYDIS_MNEMONIC_FRSTOR: fn = do_frstor; break;
	default: return false;
	}
	in->opsize = zi->operand_width == 16 ? 2 : 4;
	in->fn = vec_feature(cpu, "fpu") ? fn : vec_undefined;
	return true;
}
