/*
 * What the vector family's files share. Vector and x87 instructions run on the host's own unit in
 * thunks: small functions that load the registers an instruction names from the XSAVE image in struct
 * cpu_state, execute it with its memory operand at [rsi], and store what it wrote.
 *
 * The image in cpu->s.xsave always holds every component in full (XSTATE_BV says so), in the 64-bit
 * form, with FSW.ES as FSW and FCW imply and without reserved MXCSR bits.
 */
#ifndef ACCEL_INTERP_VEC_H
#define ACCEL_INTERP_VEC_H

#include <Zydis/Zydis.h>

#include "accel/interp/cpu.h"

/* Places in the XSAVE image (SDM 1, 10.5.1 and 13.4). */
enum {
	IMG_FCW = 0, IMG_FSW = 2, IMG_FTW = 4 /* abridged: a bit for each register in use */, IMG_FOP = 6, IMG_FIP = 8,
	IMG_FDP = 16, IMG_MXCSR = 24, IMG_MXCSR_MASK = 28, IMG_ST = 32, IMG_XMM = 160,
	/* The selectors that the 64-bit form has no place for: in the bytes left to software. */
	IMG_FCS = 464, IMG_FDS = 466, IMG_BV = 512, IMG_COMP = 520, IMG_YMM = 576,
	IMG_SIZE = 832,
};
#define FSW_ES 0x80u
#define FSW_C1 0x200u
#define FSW_B 0x8000u
#define FCW_INIT 0x37fu
#define MXCSR_INIT 0x1f80u
#define MXCSR_MASK 0xffffu
#define XSTATE_X87 1u
#define XSTATE_SSE 2u
#define XSTATE_AVX 4u
static inline unsigned fsw_top(uint16_t fsw) { return fsw >> 11 & 7; }

/* A bit-wise or of what an instruction needs and may raise. */
enum {
	VEC_SSE = 1, VEC_MMX = 2, VEC_AVX = 4, VEC_X87 = 8,
	VEC_FP = 16,    /* SIMD floating point: reads MXCSR, may raise #XM */
	VEC_STORE = 32, /* the memory operand is written */
};

/* Returns 1 when a SIMD floating-point exception that MXCSR does not mask stopped it; nothing but MXCSR changed then. */
typedef int vec_thunk(struct cpu_state *s, void *mem);

/* An instruction made ready to run; alike instructions share one. */
struct vec_op {
	vec_thunk *thunk;
	uint16_t fop;      /* x87: FOP as the instruction sets it */
	uint8_t flags;     /* VEC_ */
	uint8_t mem_size;  /* bytes, 0 none */
	uint8_t align;     /* #GP unless the address is a multiple of align + 1 */
	/* x87, vec_stack.c: the form for named registers. */
	uint16_t stack_at;   /* where in the thunk it starts, 0: there is none */
	uint16_t conditions; /* FSW's condition codes that it sets */
	uint8_t loads;       /* STACK_ */
	uint8_t index;       /* of ST(i) */
	int8_t pushes;       /* what becomes of the stack: +1, 0, -1, -2 */
	bool keeps;          /* no stack register changes */
};
#define STACK_TOP 1u   /* ST(0) is read */
#define STACK_OTHER 2u /* ST(i) is read */

#define CODE_MAX 400
/* Machine code under construction. */
struct code {
	unsigned n;
	uint8_t b[CODE_MAX];
};

struct vec; /* pool.c */

/* ---- vec_pool.c ---- */
/* Installs the code and returns the index of the op, shared with an equal earlier one. */
uint32_t vec_pool_add(struct icpu *cpu, const struct code *c, const struct vec_op *op);
/* What in->aux of an instruction bound to an op is. */
uint64_t vec_pool_handle(struct icpu *cpu, uint32_t index);
/* The op of a bound instruction; binds it anew when the pool was emptied since. */
const struct vec_op *vec_op_again(struct icpu *cpu, const struct insn *in);
/* Calls a thunk that may trap: guest MXCSR with exceptions unmasked. */
int vec_call_unmasked(struct icpu *cpu, const struct vec_op *op, void *mem);
/* Whether the guest's model has the feature and the engine can execute it here. */
bool vec_feature(struct icpu *cpu, const char *name);

/* The start of struct vec, for the fast path of vec_op_of. */
struct vec_pool_head {
	const struct vec_op *ops;
	uint32_t generation;
	bool xsavec; /* XRSTOR accepts the compacted form: asked at every switch of the guest's tasks */
};
static inline const struct vec_op *vec_op_of(struct icpu *cpu, const struct insn *in)
{
	const struct vec_pool_head *h = cpu->vec;

	return __builtin_expect(in->aux >> 32 == h->generation, 1) ? &h->ops[(uint32_t)in->aux] : vec_op_again(cpu, in);
}

/* ---- vec_emit.c ---- */
void emit_simd(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
	       unsigned flags);
void emit_x87(struct code *c, const struct insn *in, const ZydisDecodedInstruction *zi);
void code_put(struct code *c, const uint8_t *bytes, unsigned n);
#define PUT(c, ...) code_put(c, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
/* Where a SIMD thunk that trapped is made to go on. */
void emit_trap_exit(struct code *c, bool avx);

/* ---- availability and faults, vec_run.c ---- */
void vec_require_sse(struct icpu *cpu);
void vec_require_avx(struct icpu *cpu);
/* False: an x87 error is pending that CR0.NE gives to the board; the instruction waits and is to be left. */
bool vec_require_mmx(struct icpu *cpu);
/* x87: #NM by EM and TS. */
void vec_require_x87(struct icpu *cpu);
/* Of waiting instructions: also #MF, or false as above. */
bool vec_require_x87_ready(struct icpu *cpu);
/* Whether no error is pending, or one that may be passed over; #MF. */
bool vec_error_ready(struct icpu *cpu);
/* Tells the board when the error that it was given is gone. `before` is FSW before the instruction. */
void vec_error_gone(struct icpu *cpu, uint16_t before);
/* The image as an MMX instruction leaves it: TOP 0, all registers in use. */
void vec_enter_mmx(struct icpu *cpu);
/* Raises #AC if alignment is checked now and lin is not a multiple of align (a power of two). */
void vec_check_alignment(struct icpu *cpu, uint64_t lin, unsigned align, bool write);
/* What a memory operand of that size must be a multiple of when alignment is checked. */
unsigned vec_natural_alignment(unsigned size);
/* Any memory; parts that a device may be asked for at once stay whole. */
void vec_load(struct icpu *cpu, uint64_t lin, void *buf, unsigned len);
void vec_store(struct icpu *cpu, uint64_t lin, const void *buf, unsigned len);
/* Raises #XM, or #UD when the system has not enabled it. */
_Noreturn void vec_raise_simd(struct icpu *cpu);


/* ---- vec_stack.c ---- */
/* Adds the form for named registers to an x87 thunk, if the instruction has one. */
void stack_emit(struct code *c, struct vec_op *op, const struct insn *in, const ZydisDecodedInstruction *zi);
/* Runs it; false when the state asks for the whole one. */
bool stack_run(struct icpu *cpu, const struct vec_op *op, void *mem);

void vec_undefined(struct icpu *cpu, const struct insn *in);

/* As FNINIT leaves it. */
void x87_reset(struct cpu_state *s);
/* Sets FSW.ES and B by FSW and FCW. */
void x87_update_es(struct cpu_state *s);
/* An instruction's last operation, as FOP, FIP and FDP tell it. */
void x87_note(struct icpu *cpu, uint16_t fop);
/* The same of its memory operand. */
void x87_note_operand(struct icpu *cpu, const struct insn *in, uint64_t offset);
/* Another TOP: what is numbered from the top of the stack is then found elsewhere in the image. */
void x87_set_top(struct cpu_state *s, unsigned top);
/* Full tag word from the abridged one and the registers, and back. */
uint16_t x87_full_tags(const struct cpu_state *s);
uint8_t x87_abridged_tags(uint16_t full);

typedef bool vec_bind_fn(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops);
vec_bind_fn vec_simd_bind, vec_masked_bind, vec_x87_bind, vec_env_bind, vec_xsave_bind;

#endif
