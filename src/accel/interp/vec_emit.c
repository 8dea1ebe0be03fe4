/*
 * Builds thunks. The instruction keeps its vector registers; a general register becomes RAX, the memory
 * operand becomes [rsi], and RDI points to struct cpu_state (its XSAVE image first). R8..R10 are scratch.
 */
#include <stddef.h>

#include "accel/interp/vec.h"

void code_put(struct code *c, const uint8_t *bytes, unsigned n)
{
	memcpy(c->b + c->n, bytes, n);
	c->n += n;
}

static void put32(struct code *c, uint32_t v)
{
	st32le(c->b + c->n, v);
	c->n += 4;
}

/* The ModRM byte and displacement of [rdi + at]. */
static void put_state(struct code *c, unsigned reg, size_t at)
{
	PUT(c, (uint8_t)(0x87 | (reg & 7) << 3));
	put32(c, (uint32_t)at);
}

static size_t gpr_at(unsigned reg) { return offsetof(struct cpu_state, gpr) + 8 * reg; }

/* ---- registers in and out ---- */

static void put_gpr(struct code *c, uint8_t opcode, unsigned host, unsigned guest)
{
	PUT(c, (uint8_t)(0x48 | (host >> 3) << 2), opcode);
	put_state(c, host, gpr_at(guest));
}

/* movups (or vmovups) between xmm and the image: opcode 10 loads, 11 stores. */
static void put_xmm(struct code *c, uint8_t opcode, unsigned reg, bool vex)
{
	if (vex)
		PUT(c, 0xc5, reg & 8 ? 0x78 : 0xf8, opcode);
	else if (reg & 8)
		PUT(c, 0x44, 0x0f, opcode);
	else
		PUT(c, 0x0f, opcode);
	put_state(c, reg, IMG_XMM + 16 * reg);
}

static void put_ymm_load(struct code *c, unsigned reg)
{
	put_xmm(c, 0x10, reg, true);
	/* vinsertf128 ymm, ymm, [high], 1 */
	PUT(c, 0xc4, reg & 8 ? 0x63 : 0xe3, (uint8_t)(0x05 | (~reg & 15) << 3), 0x18);
	put_state(c, reg, IMG_YMM + 16 * reg);
	PUT(c, 1);
}

/* A VEX instruction writes the whole register: what lies above the vector becomes zero. */
static void put_ymm_store(struct code *c, unsigned reg)
{
	put_xmm(c, 0x11, reg, true);
	/* vextractf128 [high], ymm, 1 */
	PUT(c, 0xc4, reg & 8 ? 0x63 : 0xe3, 0x7d, 0x19);
	put_state(c, reg, IMG_YMM + 16 * reg);
	PUT(c, 1);
}

static void put_mmx(struct code *c, uint8_t opcode, unsigned reg)
{
	PUT(c, 0x0f, opcode);
	put_state(c, reg, IMG_ST + 16 * reg);
	if (opcode == 0x7f) { /* a written register's exponent becomes all ones */
		PUT(c, 0x66, 0xc7);
		put_state(c, 0, IMG_ST + 16 * reg + 8);
		PUT(c, 0xff, 0xff);
	}
}

enum reg_class { CLASS_NONE, CLASS_GPR, CLASS_MMX, CLASS_XMM, CLASS_YMM, CLASS_FLAGS };

static enum reg_class class_of(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return CLASS_GPR;
	case ZYDIS_REGCLASS_MMX: return CLASS_MMX;
	case ZYDIS_REGCLASS_XMM: return CLASS_XMM;
	case ZYDIS_REGCLASS_YMM: return CLASS_YMM;
	case ZYDIS_REGCLASS_FLAGS: return CLASS_FLAGS;
	default: return CLASS_NONE;
	}
}

static bool is_register(const ZydisDecodedOperand *op) { return op->type == ZYDIS_OPERAND_TYPE_REGISTER; }

/* Explicit general registers are renamed to RAX, implicit ones keep their place. */
static unsigned host_gpr(const ZydisDecodedOperand *op)
{
	return op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ? (unsigned)ZydisRegisterGetId(op->reg.value) : 0;
}

static void put_load(struct code *c, const ZydisDecodedOperand *op, bool vex)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(op->reg.value);
	bool read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;

	switch (class_of(op->reg.value)) {
	case CLASS_GPR:
		if (read)
			put_gpr(c, 0x8b, host_gpr(op), reg);
		break;
	case CLASS_MMX:
		put_mmx(c, 0x6f, reg);
		break;
	/* The decoder calls destinations that keep their upper part written only: those of legacy instructions
	 * are always loaded. */
	case CLASS_XMM:
		if (read || !vex)
			put_xmm(c, 0x10, reg, vex);
		break;
	case CLASS_YMM:
		if (read)
			put_ymm_load(c, reg);
		break;
	default: break;
	}
}

static void put_store(struct code *c, const ZydisDecodedOperand *op, bool vex)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(op->reg.value);

	if (!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return;
	switch (class_of(op->reg.value)) {
	case CLASS_GPR: put_gpr(c, 0x89, host_gpr(op), reg); break;
	case CLASS_MMX: put_mmx(c, 0x7f, reg); break;
	case CLASS_XMM:
		if (!vex) {
			put_xmm(c, 0x11, reg, false);
			break;
		}
		/* fall through */
	case CLASS_YMM: put_ymm_store(c, reg); break;
	case CLASS_FLAGS:
		/* r10 holds the flags after the instruction; only the status flags are its own */
		PUT(c, 0x41, 0x81, 0xe2);                                 /* and r10d, status */
		put32(c, RFLAGS_STATUS);
		PUT(c, 0x44, 0x8b);                                       /* mov r9d, [rflags] */
		put_state(c, 9, offsetof(struct cpu_state, rflags));
		PUT(c, 0x41, 0x81, 0xe1);                                 /* and r9d, ~status */
		put32(c, ~RFLAGS_STATUS);
		PUT(c, 0x45, 0x09, 0xd1, 0x44, 0x89);                     /* or r9d, r10d; mov [rflags], r9d */
		put_state(c, 9, offsetof(struct cpu_state, rflags));
		break;
	default: break;
	}
}

/* ---- the instruction itself ---- */

/* Instructions whose VEX.W chooses a general register's size, which only 64-bit code can. */
static bool w_sizes_gpr(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI: return true;
	default: return false;
	}
}

/* Always the three-byte form; outside of 64-bit code there are eight registers. */
static void put_vex(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi, uint8_t clear)
{
	const uint8_t *raw = in->bytes + zi->raw.vex.offset;
	uint8_t rxb, last;

	if (zi->raw.vex.size == 3) {
		rxb = raw[1];
		last = raw[2];
	} else {
		rxb = (uint8_t)((raw[1] & 0x80) | 0x61);
		last = raw[1] & 0x7f;
	}
	if (zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
		rxb |= 0xe0;
		last |= 0x40;
		if (w_sizes_gpr(zi))
			last &= 0x7f;
	}
	PUT(c, 0xc4, (uint8_t)(rxb | clear), last);
}

static void put_legacy_prefixes(struct code *c, const ZydisDecodedInstruction *zi, uint8_t clear)
{
	for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
		uint8_t p = zi->raw.prefixes[i].value;

		if (p == 0x66 || p == 0xf2 || p == 0xf3)
			PUT(c, p);
	}
	if (zi->attributes & ZYDIS_ATTRIB_HAS_REX)
		PUT(c, (uint8_t)(0x40 | zi->raw.rex.W << 3 | ((zi->raw.rex.R << 2 | zi->raw.rex.X << 1 | zi->raw.rex.B) & ~(clear >> 5))));
	PUT(c, 0x0f);
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		PUT(c, 0x38);
	else if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		PUT(c, 0x3a);
}

/* What follows ModRM, SIB and displacement. */
static void put_immediate(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi)
{
	unsigned at = zi->raw.modrm.offset + 1u;

	if (zi->raw.sib.offset >= at)
		at = zi->raw.sib.offset + 1u;
	if (zi->raw.disp.size)
		at = zi->raw.disp.offset + zi->raw.disp.size / 8u;
	code_put(c, in->bytes + at, in->length - at);
}

static void put_insn(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops)
{
	uint8_t reg = zi->raw.modrm.reg, rm = zi->raw.modrm.rm, clear = 0; /* clear: R, X, B as 80, 40, 20 */
	bool mem = zi->raw.modrm.mod != 3;

	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		if (!is_register(&ops[i]) || class_of(ops[i].reg.value) != CLASS_GPR)
			continue;
		if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
			reg = 0;
			clear |= 0x80;
		} else {
			rm = 0;
			clear |= 0x20;
		}
	}
	if (mem) {
		rm = 6;
		clear |= 0x60;
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		put_vex(c, in, zi, clear);
	else
		put_legacy_prefixes(c, zi, clear);
	PUT(c, zi->opcode, (uint8_t)((mem ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7)));
	put_immediate(c, in, zi);
	/* A register in an immediate: bit 7 counts in 64-bit code only. */
	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 && zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
			c->b[c->n - 1] &= 0x7f;
	}
}

static bool writes_flags(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned i = zi->operand_count_visible; i < zi->operand_count; i++) {
		if (is_register(&ops[i]) && class_of(ops[i].reg.value) == CLASS_FLAGS)
			return true;
	}
	return false;
}

/* Operands in, the instruction, its flags into r10. */
static void put_execution(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *ops)
{
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

	/* Whole YMM registers last: the load of an XMM operand in the same register would clear the upper half. */
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (is_register(&ops[i]) && class_of(ops[i].reg.value) != CLASS_YMM)
			put_load(c, &ops[i], vex);
	}
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (is_register(&ops[i]) && class_of(ops[i].reg.value) == CLASS_YMM)
			put_load(c, &ops[i], vex);
	}
	put_insn(c, in, zi, ops);
	if (writes_flags(zi, ops))
		PUT(c, 0x9c, 0x41, 0x5a); /* pushfq; pop r10 */
}

static void put_results(struct code *c, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, mmx = false, ymm = false;

	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (!is_register(&ops[i]))
			continue;
		put_store(c, &ops[i], vex);
		mmx |= class_of(ops[i].reg.value) == CLASS_MMX;
		ymm |= class_of(ops[i].reg.value) == CLASS_YMM;
	}
	if (mmx)
		PUT(c, 0x0f, 0x77); /* emms */
	if (ymm)
		PUT(c, 0xc5, 0xf8, 0x77); /* vzeroupper */
}

static void put_return(struct code *c) { PUT(c, 0x31, 0xc0, 0xc3); } /* xor eax, eax; ret */

/* The host's MXCSR again: the calling convention's initial value. */
static void put_host_mxcsr(struct code *c)
{
	PUT(c, 0x68);
	put32(c, MXCSR_INIT);
	PUT(c, 0x0f, 0xae, 0x14, 0x24, 0x59); /* push; ldmxcsr [rsp]; pop rcx */
}

/* A jump whose distance is filled in by land(). */
static unsigned put_jump(struct code *c, uint8_t cc)
{
	PUT(c, 0x0f, cc);
	put32(c, 0);
	return c->n;
}
static void land(struct code *c, unsigned after) { st32le(c->b + after - 4, c->n - after); }

/*
 * Loading MXCSR costs as much as ten instructions. So first the host's own is used, if the guest's
 * differs from it in the sticky flags only; that is right unless the host's MXCSR then shows a flag
 * that the guest's lacks, which may be this instruction's: nothing has been stored yet, and it is
 * executed again under the guest's MXCSR.
 */
static void emit_fp(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned other, more;

	PUT(c, 0x44, 0x8b);                                       /* mov r8d, [mxcsr] */
	put_state(c, 8, IMG_MXCSR);
	PUT(c, 0x45, 0x89, 0xc1, 0x41, 0x81, 0xe1);               /* mov r9d, r8d; and r9d, controls */
	put32(c, 0xffc0);
	PUT(c, 0x41, 0x81, 0xf9);                                 /* cmp r9d, initial */
	put32(c, MXCSR_INIT);
	other = put_jump(c, 0x85);
	put_execution(c, in, zi, ops);
	PUT(c, 0x0f, 0xae, 0x5c, 0x24, 0xf8);                     /* stmxcsr [rsp - 8] */
	PUT(c, 0x41, 0xf7, 0xd0, 0x44, 0x23, 0x44, 0x24, 0xf8);   /* not r8d; and r8d, [rsp - 8] */
	PUT(c, 0x41, 0xf6, 0xc0, 0x3f);                           /* test r8b, flags */
	more = put_jump(c, 0x85);
	put_results(c, zi, ops);
	put_return(c);
	land(c, other);
	land(c, more);
	PUT(c, 0x0f, 0xae);                                       /* ldmxcsr */
	put_state(c, 2, IMG_MXCSR);
	put_execution(c, in, zi, ops);
	PUT(c, 0x0f, 0xae);                                       /* stmxcsr */
	put_state(c, 3, IMG_MXCSR);
	put_results(c, zi, ops);
	put_host_mxcsr(c);
	put_return(c);
}

void emit_simd(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
	       unsigned flags)
{
	if (flags & VEC_FP) {
		emit_fp(c, in, zi, ops);
		return;
	}
	put_execution(c, in, zi, ops);
	put_results(c, zi, ops);
	put_return(c);
}

void emit_trap_exit(struct code *c, bool avx)
{
	PUT(c, 0x0f, 0xae);
	put_state(c, 3, IMG_MXCSR);
	put_host_mxcsr(c);
	PUT(c, 0x0f, 0x77); /* emms: operands in MMX registers */
	if (avx)
		PUT(c, 0xc5, 0xf8, 0x77);
	PUT(c, 0xb8, 1, 0, 0, 0, 0xc3);
}

/* ---- x87 ---- */

void emit_x87(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi)
{
	uint8_t opcode = zi->opcode, modrm = in->bytes[zi->raw.modrm.offset];
	bool mem = zi->raw.modrm.mod != 3;

	PUT(c, 0x48, 0x0f, 0xae, 0x0f);                           /* fxrstor64 [rdi] */
	if (zi->cpu_flags && zi->cpu_flags->tested) {             /* FCMOVcc: CF, PF and ZF through AH */
		PUT(c, 0x8b);
		put_state(c, 0, offsetof(struct cpu_state, rflags));
		PUT(c, 0x86, 0xc4, 0x9e);                         /* xchg ah, al; sahf */
	}
	PUT(c, opcode, (uint8_t)(mem ? (modrm & 0x38) | 6 : modrm));
	if (zi->cpu_flags && (zi->cpu_flags->modified | zi->cpu_flags->set_0)) { /* FCOMI and kin */
		PUT(c, 0x9c, 0x58, 0x25);                         /* pushfq; pop rax; and eax, status */
		put32(c, RFLAGS_STATUS);
		PUT(c, 0x8b);                                     /* mov ecx, [rflags] */
		put_state(c, 1, offsetof(struct cpu_state, rflags));
		PUT(c, 0x81, 0xe1);
		put32(c, ~RFLAGS_STATUS);
		PUT(c, 0x09, 0xc8, 0x89);                         /* or eax, ecx; mov [rflags], eax */
		put_state(c, 0, offsetof(struct cpu_state, rflags));
	}
	PUT(c, 0x48, 0x0f, 0xae, 0x07, 0xdb, 0xe3);               /* fxsave64 [rdi]; fninit */
	put_host_mxcsr(c);
	put_return(c);
}
