/*
 * x87: what lies around the arithmetic that runs in thunks. Control and status words, waiting, the
 * instruction and operand pointers (SDM 1, chapter 8).
 */
#include "accel/interp/vec.h"

void x87_update_es(struct cpu_state *s)
{
	uint16_t fsw = ld16le(s->xsave + IMG_FSW), fcw = ld16le(s->xsave + IMG_FCW);

	fsw &= (uint16_t)~(FSW_ES | FSW_B);
	if (fsw & ~fcw & 0x3f)
		fsw |= FSW_ES | FSW_B;
	st16le(s->xsave + IMG_FSW, fsw);
}

void x87_note(struct icpu *cpu, uint16_t fop)
{
	uint8_t *x = cpu->s.xsave;

	st16le(x + IMG_FOP, fop);
	st64le(x + IMG_FIP, cpu->s.rip);
	st16le(x + IMG_FCS, cpu->s.seg[SEG_CS].selector);
}

void x87_note_operand(struct icpu *cpu, const struct insn *in, uint64_t offset)
{
	st64le(cpu->s.xsave + IMG_FDP, offset);
	st16le(cpu->s.xsave + IMG_FDS, cpu->s.seg[in->seg].selector);
}

void x87_set_top(struct cpu_state *s, unsigned top)
{
	uint16_t fsw = ld16le(s->xsave + IMG_FSW);
	unsigned by = (fsw_top(fsw) - top) & 7;
	uint8_t old[8][16];

	if (!by)
		return;
	memcpy(old, s->xsave + IMG_ST, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(s->xsave + IMG_ST + 16 * ((i + by) & 7), old[i], 16);
	st16le(s->xsave + IMG_FSW, (uint16_t)((fsw & 0xc7ff) | top << 11));
}

static unsigned tag_of(const uint8_t *st)
{
	uint16_t exponent = ld16le(st + 8) & 0x7fff;
	uint64_t mantissa = ld64le(st);

	if (exponent == 0x7fff)
		return 2;
	if (!exponent)
		return mantissa ? 2 : 1;
	return mantissa >> 63 ? 0 : 2;
}

uint16_t x87_full_tags(const struct cpu_state *s)
{
	unsigned top = fsw_top(ld16le(s->xsave + IMG_FSW)), tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		unsigned tag = 3;

		if (s->xsave[IMG_FTW] >> i & 1)
			tag = tag_of(s->xsave + IMG_ST + 16 * ((i - top) & 7));
		tags |= tag << (2 * i);
	}
	return (uint16_t)tags;
}

uint8_t x87_abridged_tags(uint16_t full)
{
	uint8_t tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		if ((full >> (2 * i) & 3) != 3)
			tags |= (uint8_t)(1u << i);
	}
	return tags;
}

/* ---- control ---- */

static void do_fwait(struct icpu *cpu, const struct insn *in)
{
	if ((cpu->s.cr0 & (CR0_TS | CR0_MP)) == (CR0_TS | CR0_MP))
		cpu_raise(cpu, EXC_NM);
	vec_error_ready(cpu);
}

/* FNINIT: the registers keep what they hold. */
void x87_reset(struct cpu_state *s)
{
	x87_set_top(s, 0);
	st16le(s->xsave + IMG_FCW, FCW_INIT);
	st16le(s->xsave + IMG_FSW, 0);
	s->xsave[IMG_FTW] = 0;
	st16le(s->xsave + IMG_FOP, 0);
	memset(s->xsave + IMG_FIP, 0, 16);
	memset(s->xsave + IMG_FCS, 0, 4);
}

static void do_fninit(struct icpu *cpu, const struct insn *in)
{
	uint16_t before = ld16le(cpu->s.xsave + IMG_FSW);

	vec_require_x87(cpu);
	x87_reset(&cpu->s);
	vec_error_gone(cpu, before);
}

static void do_fnclex(struct icpu *cpu, const struct insn *in)
{
	uint16_t before = ld16le(cpu->s.xsave + IMG_FSW);

	vec_require_x87(cpu);
	st16le(cpu->s.xsave + IMG_FSW, before & 0x7f00);
	vec_error_gone(cpu, before);
}

/* The coprocessor's interrupt and mode switches of the 8087 and 80287. */
static void do_x87_nop(struct icpu *cpu, const struct insn *in) { vec_require_x87(cpu); }

static void store_word(struct icpu *cpu, const struct insn *in, uint16_t v)
{
	uint64_t lin = cpu_ea(cpu, in, 2, true);

	vec_check_alignment(cpu, lin, 2, true);
	cpu_store(cpu, lin, 2, v);
}

static void do_fnstcw(struct icpu *cpu, const struct insn *in)
{
	vec_require_x87(cpu);
	store_word(cpu, in, ld16le(cpu->s.xsave + IMG_FCW));
}

static void do_fnstsw(struct icpu *cpu, const struct insn *in)
{
	uint16_t fsw = ld16le(cpu->s.xsave + IMG_FSW);

	vec_require_x87(cpu);
	if (in->dst_kind == OPD_MEM)
		store_word(cpu, in, fsw);
	else
		st16le(&cpu->s.gpr[RAX], fsw);
}

static void do_fldcw(struct icpu *cpu, const struct insn *in)
{
	uint16_t before = ld16le(cpu->s.xsave + IMG_FSW);
	uint64_t lin;

	if (!vec_require_x87_ready(cpu))
		return;
	lin = cpu_ea(cpu, in, 2, false);
	vec_check_alignment(cpu, lin, 2, false);
	st16le(cpu->s.xsave + IMG_FCW, (uint16_t)((cpu_load(cpu, lin, 2) & 0x1f3f) | 0x40));
	x87_update_es(&cpu->s);
	vec_error_gone(cpu, before);
}

static void do_emms(struct icpu *cpu, const struct insn *in)
{
	if (!vec_require_mmx(cpu))
		return;
	vec_enter_mmx(cpu);
	cpu->s.xsave[IMG_FTW] = 0;
}

static insn_fn control_fn(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT: return do_fwait;
	case ZYDIS_MNEMONIC_FNINIT: return do_fninit;
	case ZYDIS_MNEMONIC_FNCLEX: return do_fnclex;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: return do_x87_nop;
	case ZYDIS_MNEMONIC_FNSTCW: return do_fnstcw;
	case ZYDIS_MNEMONIC_FNSTSW: return do_fnstsw;
	case ZYDIS_MNEMONIC_FLDCW: return do_fldcw;
	default: return NULL;
	}
}

/* ---- arithmetic ---- */

static void run(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	uint64_t pointer = ld64le(cpu->s.xsave + IMG_FDP);

	if (op->stack_at && stack_run(cpu, op, mem))
		return;
	op->thunk(&cpu->s, mem);
	st64le(cpu->s.xsave + IMG_FDP, pointer); /* FXSAVE may not have kept it */
}

static void execute(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	uint8_t *x = cpu->s.xsave;

	if (__builtin_expect(ld16le(x + IMG_FSW) & FSW_ES, 0)) {
		/* An error is pending that the board lets pass: as if all were masked. */
		uint16_t fcw = ld16le(x + IMG_FCW);

		st16le(x + IMG_FCW, fcw | 0x3f);
		x87_update_es(&cpu->s);
		run(cpu, op, mem);
		st16le(x + IMG_FCW, fcw);
		x87_update_es(&cpu->s);
	} else {
		run(cpu, op, mem);
	}
	x87_note(cpu, op->fop);
}

static void do_x87(struct icpu *cpu, const struct insn *in)
{
	if (!vec_require_x87_ready(cpu))
		return;
	execute(cpu, vec_op_of(cpu, in), NULL);
}

static uint64_t operand_address(struct icpu *cpu, const struct insn *in, const struct vec_op *op, uint64_t offset,
				bool write)
{
	uint64_t lin = cpu_linear(cpu, in->seg, offset, op->mem_size, write);

	if (__builtin_expect(lin & 15, 0))
		vec_check_alignment(cpu, lin, vec_natural_alignment(op->mem_size), write);
	return lin;
}

static void do_x87_load(struct icpu *cpu, const struct insn *in)
{
	const struct vec_op *op = vec_op_of(cpu, in);
	uint64_t offset, lin;
	uint8_t buf[16];
	const void *p;

	if (!vec_require_x87_ready(cpu))
		return;
	offset = cpu_offset(cpu, in);
	lin = operand_address(cpu, in, op, offset, false);
	p = cpu_read_ptr(cpu, lin, op->mem_size);
	if (!p) {
		vec_load(cpu, lin, buf, op->mem_size);
		p = buf;
	}
	execute(cpu, op, (void *)(uintptr_t)p);
	x87_note_operand(cpu, in, offset);
}

static void do_x87_store(struct icpu *cpu, const struct insn *in)
{
	const struct vec_op *op = vec_op_of(cpu, in);
	uint64_t offset, lin;
	uint8_t buf[16];
	void *p;

	if (!vec_require_x87_ready(cpu))
		return;
	offset = cpu_offset(cpu, in);
	lin = operand_address(cpu, in, op, offset, true);
	p = cpu_rmw_ptr(cpu, lin, op->mem_size);
	if (!p)
		cpu_check_write(cpu, lin, op->mem_size);
	execute(cpu, op, p ? p : buf);
	if (p)
		cpu_rmw_done(cpu);
	x87_note_operand(cpu, in, offset);
	/* An unmasked exception other than inexact leaves memory as it is (SDM 1, 8.6). */
	if (!p && !(ld16le(cpu->s.xsave + IMG_FSW) & ~ld16le(cpu->s.xsave + IMG_FCW) & 0x1f))
		vec_store(cpu, lin, buf, op->mem_size);
}

bool vec_x87_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	struct vec_op op = { .flags = VEC_X87 };
	struct code c = { 0 };

	if (zi->mnemonic == ZYDIS_MNEMONIC_EMMS) {
		in->fn = vec_feature(cpu, "mmx") ? do_emms : vec_undefined;
		return true;
	}
	if (zi->meta.isa_ext != ZYDIS_ISA_EXT_X87 && zi->mnemonic != ZYDIS_MNEMONIC_FISTTP)
		return false;
	in->fn = vec_undefined;
	if (!vec_feature(cpu, "fpu") || (zi->mnemonic == ZYDIS_MNEMONIC_FISTTP && !vec_feature(cpu, "sse3")))
		return true;
	in->fn = control_fn(zi);
	if (in->fn)
		return true;
	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			op.mem_size = (uint8_t)(ops[i].size / 8);
			if (ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
				op.flags |= VEC_STORE;
		}
	}
	op.fop = (uint16_t)((zi->opcode & 7) << 8 | in->bytes[zi->raw.modrm.offset]);
	emit_x87(&c, in, zi);
	stack_emit(&c, &op, in, zi);
	in->aux = vec_pool_handle(cpu, vec_pool_add(cpu, &c, &op));
	in->fn = !op.mem_size ? do_x87 : op.flags & VEC_STORE ? do_x87_store : do_x87_load;
	return true;
}
