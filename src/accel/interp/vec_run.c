/*
 * Running bound vector instructions: availability (SDM 3A table 2-2, 13.1), alignment, the memory operand, the thunk,
 * and the exceptions that come of it.
 */
#include "accel/interp/vec.h"

void vec_undefined(struct icpu *cpu, const struct insn *in) { cpu_raise(cpu, EXC_UD); }

/* ---- availability ---- */

static inline void require_sse(struct icpu *cpu)
{
	if (__builtin_expect((cpu->s.cr0 & (CR0_EM | CR0_TS)) || !(cpu->s.cr4 & CR4_OSFXSR), 0))
		cpu_raise(cpu, !(cpu->s.cr0 & CR0_EM) && (cpu->s.cr4 & CR4_OSFXSR) ? EXC_NM : EXC_UD);
}

static inline void require_avx(struct icpu *cpu)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE) || (cpu->s.xcr0 & 6) != 6 || !(cpu->s.cr0 & CR0_PE) || (cpu->s.rflags & RFLAGS_VM))
		cpu_raise(cpu, EXC_UD);
	if (cpu->s.cr0 & CR0_TS)
		cpu_raise(cpu, EXC_NM);
}

void vec_require_sse(struct icpu *cpu) { require_sse(cpu); }
void vec_require_avx(struct icpu *cpu) { require_avx(cpu); }

/* FERR# and IGNNE# (SDM 1, appendix D). */
bool vec_error_ready(struct icpu *cpu)
{
	if (__builtin_expect(!(ld16le(cpu->s.xsave + IMG_FSW) & FSW_ES), 1))
		return true;
	if (cpu->s.cr0 & CR0_NE)
		cpu_raise(cpu, EXC_MF);
	if (cpu->host->fpu_error(cpu->host->opaque, cpu->vcpu.index, true))
		return true;
	cpu->next_rip = cpu->s.rip; /* again, after the interrupts that wait */
	cpu->block_ends = true;
	return false;
}

void vec_error_gone(struct icpu *cpu, uint16_t before)
{
	if ((before & FSW_ES) && !(ld16le(cpu->s.xsave + IMG_FSW) & FSW_ES) && !(cpu->s.cr0 & CR0_NE))
		cpu->host->fpu_error(cpu->host->opaque, cpu->vcpu.index, false);
}

bool vec_require_mmx(struct icpu *cpu)
{
	if (cpu->s.cr0 & CR0_EM)
		cpu_raise(cpu, EXC_UD);
	if (cpu->s.cr0 & CR0_TS)
		cpu_raise(cpu, EXC_NM);
	return vec_error_ready(cpu);
}

void vec_require_x87(struct icpu *cpu)
{
	if (cpu->s.cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, EXC_NM);
}

bool vec_require_x87_ready(struct icpu *cpu)
{
	vec_require_x87(cpu);
	return vec_error_ready(cpu);
}

static inline bool require(struct icpu *cpu, unsigned flags)
{
	if (flags & VEC_SSE)
		require_sse(cpu);
	else if (flags & VEC_AVX)
		require_avx(cpu);
	return !(flags & VEC_MMX) || vec_require_mmx(cpu);
}

_Noreturn void vec_raise_simd(struct icpu *cpu)
{
	cpu_raise(cpu, cpu->s.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
}

void vec_check_alignment(struct icpu *cpu, uint64_t lin, unsigned align, bool write)
{
	if (!(lin & (align - 1)) || cpu->cpl != 3 || !(cpu->s.cr0 & CR0_AM) || !(cpu->s.rflags & RFLAGS_AC))
		return;
	/* A page fault at the first byte goes before it, one at a second page after it. */
	if (write)
		cpu_check_write(cpu, lin, 1);
	else
		cpu_read_ptr(cpu, lin, 1);
	cpu_raise_error(cpu, EXC_AC, 0);
}

/* Operands are aligned by their size, up to 16 bytes; the 80-bit ones by 8. */
unsigned vec_natural_alignment(unsigned size) { return size > 16 ? 16 : size == 10 ? 8 : size; }

/* ---- MMX over x87 (SDM 1, 9.5) ---- */

void vec_enter_mmx(struct icpu *cpu)
{
	x87_set_top(&cpu->s, 0);
	cpu->s.xsave[IMG_FTW] = 0xff;
}

/* ---- execution ---- */

static void call_rare(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	int trapped;

	if (op->flags & VEC_MMX)
		vec_enter_mmx(cpu);
	if ((op->flags & VEC_FP) && (ld32le(cpu->s.xsave + IMG_MXCSR) & 0x1f80) != 0x1f80)
		trapped = vec_call_unmasked(cpu, op, mem);
	else
		trapped = op->thunk(&cpu->s, mem);
	if (trapped)
		vec_raise_simd(cpu);
}

static inline void call(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	if (op->flags & (VEC_MMX | VEC_FP)) {
		if ((op->flags & VEC_MMX) || (ld32le(cpu->s.xsave + IMG_MXCSR) & 0x1f80) != 0x1f80) {
			call_rare(cpu, op, mem);
			return;
		}
	}
	op->thunk(&cpu->s, mem);
}

void vec_load(struct icpu *cpu, uint64_t lin, void *buf, unsigned len)
{
	if (len <= 8 && !(len & (len - 1)))
		st_le(buf, len, cpu_load(cpu, lin, len));
	else
		cpu_load_bytes(cpu, lin, buf, len);
}

void vec_store(struct icpu *cpu, uint64_t lin, const void *buf, unsigned len)
{
	if (len <= 8 && !(len & (len - 1)))
		cpu_store(cpu, lin, len, ld_le(buf, len));
	else
		cpu_store_bytes(cpu, lin, buf, len);
}

static inline uint64_t address(struct icpu *cpu, const struct insn *in, const struct vec_op *op, bool write)
{
	uint64_t lin = cpu_ea(cpu, in, op->mem_size, write);

	if (__builtin_expect(lin & 15, 0)) {
		if (lin & op->align)
			cpu_raise_error(cpu, EXC_GP, 0);
		vec_check_alignment(cpu, lin, vec_natural_alignment(op->mem_size), write);
	} else if (__builtin_expect(lin & op->align, 0)) {
		cpu_raise_error(cpu, EXC_GP, 0);
	}
	return lin;
}

static void do_registers(struct icpu *cpu, const struct insn *in)
{
	const struct vec_op *op = vec_op_of(cpu, in);

	if (!require(cpu, op->flags))
		return;
	call(cpu, op, NULL);
}

static __attribute__((noinline)) void call_loading(struct icpu *cpu, const struct vec_op *op, uint64_t lin)
{
	uint8_t buf[32] __attribute__((aligned(32)));

	vec_load(cpu, lin, buf, op->mem_size);
	call(cpu, op, buf);
}

static void do_load(struct icpu *cpu, const struct insn *in)
{
	const struct vec_op *op = vec_op_of(cpu, in);
	const void *p;
	uint64_t lin;

	if (!require(cpu, op->flags))
		return;
	lin = address(cpu, in, op, false);
	p = cpu_read_ptr(cpu, lin, op->mem_size);
	if (__builtin_expect(p != NULL, 1))
		call(cpu, op, (void *)(uintptr_t)p);
	else
		call_loading(cpu, op, lin);
}

static __attribute__((noinline)) void call_storing(struct icpu *cpu, const struct vec_op *op, uint64_t lin)
{
	uint8_t buf[32] __attribute__((aligned(32)));

	cpu_check_write(cpu, lin, op->mem_size);
	call(cpu, op, buf);
	vec_store(cpu, lin, buf, op->mem_size);
}

static void do_store(struct icpu *cpu, const struct insn *in)
{
	const struct vec_op *op = vec_op_of(cpu, in);
	uint64_t lin;
	void *p;

	if (!require(cpu, op->flags))
		return;
	lin = address(cpu, in, op, true);
	p = cpu_rmw_ptr(cpu, lin, op->mem_size);
	if (__builtin_expect(p != NULL, 1)) {
		call(cpu, op, p);
		cpu_rmw_done(cpu);
	} else {
		call_storing(cpu, op, lin);
	}
}

/* ---- binding ---- */

static const struct {
	uint8_t set;
	const char *name;
} isa_sets[] = {
	{ ZYDIS_ISA_SET_PENTIUMMMX, "mmx" }, { ZYDIS_ISA_SET_SSE, "sse" }, { ZYDIS_ISA_SET_SSE2, "sse2" },
	{ ZYDIS_ISA_SET_SSE2MMX, "sse2" }, { ZYDIS_ISA_SET_SSE3, "sse3" }, { ZYDIS_ISA_SET_SSSE3, "ssse3" },
	{ ZYDIS_ISA_SET_SSSE3MMX, "ssse3" }, { ZYDIS_ISA_SET_SSE4, "sse4_1" }, { ZYDIS_ISA_SET_SSE42, "sse4_2" },
	{ ZYDIS_ISA_SET_AES, "aes" }, { ZYDIS_ISA_SET_PCLMULQDQ, "pclmulqdq" }, { ZYDIS_ISA_SET_SHA, "sha_ni" },
	{ ZYDIS_ISA_SET_AVX, "avx" }, { ZYDIS_ISA_SET_AVX2, "avx2" }, { ZYDIS_ISA_SET_AVXAES, "aes" },
	{ ZYDIS_ISA_SET_F16C, "f16c" }, { ZYDIS_ISA_SET_FMA, "fma" }, { ZYDIS_ISA_SET_VAES, "vaes" },
	{ ZYDIS_ISA_SET_VPCLMULQDQ, "vpclmulqdq" }, { ZYDIS_ISA_SET_GFNI, "gfni" }, { ZYDIS_ISA_SET_AVX_GFNI, "gfni" },
};

static const char *isa_feature(const ZydisDecodedInstruction *zi)
{
	for (unsigned i = 0; i < ARRAY_LEN(isa_sets); i++) {
		if (isa_sets[i].set == zi->meta.isa_set)
			return isa_sets[i].name;
	}
	return NULL;
}

static bool needs_alignment(const ZydisDecodedInstruction *zi, unsigned size)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM: return false;
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
	default: return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && size >= 16;
	}
}

static bool uses_mxcsr(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11: return true;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
	case ZYDIS_MNEMONIC_VCVTPH2PS:
	case ZYDIS_MNEMONIC_VCVTPS2PH: return true;
	default: return false;
	}
}

bool vec_simd_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	const char *feature = isa_feature(zi);
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, xmm = false;
	struct vec_op op = { .flags = vex ? VEC_AVX : 0 };
	struct code c = { 0 };

	if (!feature || (!vex && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY))
		return false;
	in->fn = vec_undefined;
	if (!vec_feature(cpu, feature) || (vex && !vec_feature(cpu, "avx")))
		return true;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		ZydisRegisterClass class = ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(ops[i].reg.value)
										       : ZYDIS_REGCLASS_INVALID;

		xmm |= class == ZYDIS_REGCLASS_XMM;
		if (class == ZYDIS_REGCLASS_MMX)
			op.flags |= VEC_MMX;
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			op.mem_size = (uint8_t)(ops[i].size / 8);
			if (ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
				op.flags |= VEC_STORE;
		}
	}
	if (xmm && !vex)
		op.flags |= VEC_SSE;
	if (uses_mxcsr(zi))
		op.flags |= VEC_FP;
	if (op.mem_size && needs_alignment(zi, op.mem_size))
		op.align = op.mem_size - 1;
	emit_simd(&c, in, zi, ops, op.flags);
	in->aux = vec_pool_handle(cpu, vec_pool_add(cpu, &c, &op));
	in->fn = !op.mem_size ? do_registers : op.flags & VEC_STORE ? do_store : do_load;
	return true;
}

bool vector_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	static vec_bind_fn *const family[] = { vec_xsave_bind, vec_env_bind, vec_x87_bind, vec_masked_bind, vec_simd_bind };

	for (unsigned i = 0; i < ARRAY_LEN(family); i++) {
		if (family[i](cpu, in, zi, ops))
			return true;
	}
	return false;
}
