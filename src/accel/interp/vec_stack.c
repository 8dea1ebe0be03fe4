/*
 * x87 instructions on just the stack registers they name. Exchanging the whole FPU state around each instruction
 * costs hundreds of cycles; when all exceptions are masked and no register is empty that must not be, or in use that
 * is to be pushed, it is enough to load one or two registers, execute, and store them (SDM 1, chapter 8).
 * FPREM, FSINCOS and FPTAN are not among them: what they leave in the stack and the condition codes depends on the
 * operand.
 */
#include "accel/interp/vec.h"

#define C0 0x100u
#define C1 0x200u
#define C2 0x400u
#define C3 0x4000u
#define FSW_FLAGS 0x7fu /* sticky: exceptions and the stack fault */

/* st0 and other: the images of ST(0) and ST(i); out: 16 bytes for each register left. Returns FSW. */
typedef uint32_t stack_thunk(const uint8_t *st0, void *mem, const uint8_t *other, uint8_t *out, uint64_t *rflags);

struct shape {
	uint16_t mnemonic, conditions;
	uint8_t loads; /* STACK_OTHER is meant for the register form only */
	int8_t pushes;
	bool keeps;
	uint8_t index; /* of ST(i) when implied */
};
#define BOTH (STACK_TOP | STACK_OTHER)
#define M(name) ZYDIS_MNEMONIC_##name
#define COMPARE (C0 | C1 | C2 | C3)

static const struct shape shapes[] = {
	{ M(FADD), C1, BOTH, 0 }, { M(FMUL), C1, BOTH, 0 }, { M(FSUB), C1, BOTH, 0 }, { M(FSUBR), C1, BOTH, 0 },
	{ M(FDIV), C1, BOTH, 0 }, { M(FDIVR), C1, BOTH, 0 }, { M(FADDP), C1, BOTH, -1 }, { M(FMULP), C1, BOTH, -1 },
	{ M(FSUBP), C1, BOTH, -1 }, { M(FSUBRP), C1, BOTH, -1 }, { M(FDIVP), C1, BOTH, -1 }, { M(FDIVRP), C1, BOTH, -1 },
	{ M(FIADD), C1, BOTH, 0 }, { M(FIMUL), C1, BOTH, 0 }, { M(FISUB), C1, BOTH, 0 }, { M(FISUBR), C1, BOTH, 0 },
	{ M(FIDIV), C1, BOTH, 0 }, { M(FIDIVR), C1, BOTH, 0 },
	{ M(FCOM), COMPARE, BOTH, 0, true }, { M(FCOMP), COMPARE, BOTH, -1, true }, { M(FICOM), COMPARE, BOTH, 0, true },
	{ M(FICOMP), COMPARE, BOTH, -1, true }, { M(FUCOM), COMPARE, BOTH, 0, true }, { M(FUCOMP), COMPARE, BOTH, -1, true },
	{ M(FCOMPP), COMPARE, BOTH, -2, true, 1 }, { M(FUCOMPP), COMPARE, BOTH, -2, true, 1 },
	{ M(FCOMI), 0, BOTH, 0, true }, { M(FUCOMI), 0, BOTH, 0, true }, { M(FCOMIP), 0, BOTH, -1, true },
	{ M(FUCOMIP), 0, BOTH, -1, true },
	{ M(FLD), C1, STACK_OTHER, 1 }, { M(FILD), C1, 0, 1 }, { M(FBLD), C1, 0, 1 }, { M(FLD1), C1, 0, 1 }, { M(FLDZ), C1, 0, 1 },
	{ M(FLDPI), C1, 0, 1 }, { M(FLDL2E), C1, 0, 1 }, { M(FLDL2T), C1, 0, 1 }, { M(FLDLG2), C1, 0, 1 }, { M(FLDLN2), C1, 0, 1 },
	{ M(FXCH), C1, BOTH, 0 }, { M(FST), C1, BOTH, 0 }, { M(FSTP), C1, BOTH, -1 }, { M(FIST), C1, STACK_TOP, 0, true },
	{ M(FISTP), C1, STACK_TOP, -1 }, { M(FISTTP), C1, STACK_TOP, -1 }, { M(FBSTP), C1, STACK_TOP, -1 },
	{ M(FCHS), C1, STACK_TOP, 0 }, { M(FABS), C1, STACK_TOP, 0 }, { M(FTST), COMPARE, STACK_TOP, 0, true },
	{ M(FXAM), COMPARE, STACK_TOP, 0, true }, { M(FSQRT), C1, STACK_TOP, 0 }, { M(FRNDINT), C1, STACK_TOP, 0 },
	{ M(F2XM1), C1, STACK_TOP, 0 }, { M(FSIN), C1 | C2, STACK_TOP, 0 }, { M(FCOS), C1 | C2, STACK_TOP, 0 },
	{ M(FXTRACT), C1, STACK_TOP, 1 },
	{ M(FSCALE), C1, BOTH, 0, false, 1 }, { M(FYL2X), C1, BOTH, -1, false, 1 }, { M(FYL2XP1), C1, BOTH, -1, false, 1 },
	{ M(FPATAN), C1, BOTH, -1, false, 1 },
	{ M(FCMOVB), 0, BOTH, 0 }, { M(FCMOVE), 0, BOTH, 0 }, { M(FCMOVBE), 0, BOTH, 0 }, { M(FCMOVU), 0, BOTH, 0 },
	{ M(FCMOVNB), 0, BOTH, 0 }, { M(FCMOVNE), 0, BOTH, 0 }, { M(FCMOVNBE), 0, BOTH, 0 }, { M(FCMOVNU), 0, BOTH, 0 },
};

static const struct shape *shape_of(const ZydisDecodedInstruction *zi)
{
	for (unsigned i = 0; i < ARRAY_LEN(shapes); i++) {
		if (shapes[i].mnemonic == zi->mnemonic)
			return &shapes[i];
	}
	return NULL;
}

static unsigned registers_loaded(const struct vec_op *op) { return (op->loads & 1) + (op->loads >> 1); }

/* The registers left on the host's stack: stored to [rcx], or dropped when they cannot have changed. */
static void put_out(struct code *c, const struct vec_op *op)
{
	int left = (int)registers_loaded(op) + op->pushes;

	for (int i = 0; i < left; i++) {
		if (op->keeps)
			PUT(c, 0xdd, 0xd8); /* fstp st(0) */
		else
			PUT(c, 0xdb, 0x79, (uint8_t)(16 * i)); /* fstp tbyte [rcx + 16 i] */
	}
}

static void put_compare_flags(struct code *c)
{
	PUT(c, 0x9c, 0x58, 0x25, 0xd5, 0x08, 0, 0);                   /* pushfq; pop rax; and eax, status */
	PUT(c, 0x45, 0x8b, 0x08);                                     /* mov r9d, [r8] */
	PUT(c, 0x41, 0x81, 0xe1, 0x2a, 0xf7, 0xff, 0xff);             /* and r9d, ~status */
	PUT(c, 0x41, 0x09, 0xc1, 0x45, 0x89, 0x08);                   /* or r9d, eax; mov [r8], r9d */
}

void stack_emit(struct code *c, struct vec_op *op, const struct insn *in, const ZydisDecodedInstruction *zi)
{
	const struct shape *s = shape_of(zi);
	uint8_t modrm = in->bytes[zi->raw.modrm.offset];
	bool mem = op->mem_size;

	/* ST(0) as the destination of an operation that pops it: its value stays in the empty register. */
	if (!s || (!mem && zi->opcode == 0xde && !s->keeps && !(modrm & 7)))
		return;
	op->loads = mem ? s->loads & STACK_TOP : s->loads;
	op->index = s->index ? s->index : modrm & 7;
	if (op->loads == BOTH && !op->index)
		op->loads = STACK_TOP;
	op->pushes = s->pushes;
	op->keeps = s->keeps || (mem && (s->mnemonic == M(FST)));
	op->conditions = s->conditions;
	op->stack_at = (uint16_t)c->n;
	if (op->loads & STACK_OTHER)
		PUT(c, 0xdb, 0x2a); /* fld tbyte [rdx] */
	if (op->loads & STACK_TOP)
		PUT(c, 0xdb, 0x2f); /* fld tbyte [rdi] */
	if (zi->cpu_flags && zi->cpu_flags->tested)
		PUT(c, 0x41, 0x8b, 0x00, 0x86, 0xc4, 0x9e); /* mov eax, [r8]; xchg ah, al; sahf */
	if (mem)
		modrm = (modrm & 0x38) | 6;
	else if (s->loads & STACK_OTHER && !s->index)
		modrm = (uint8_t)((modrm & 0xf8) | (op->loads == BOTH));
	PUT(c, zi->opcode, modrm);
	if (zi->cpu_flags && (zi->cpu_flags->modified | zi->cpu_flags->set_0))
		put_compare_flags(c);
	PUT(c, 0xdf, 0xe0); /* fnstsw ax */
	put_out(c, op);
	PUT(c, 0xc3);
}

/* ---- running ---- */

static void load_control(uint16_t fcw) { __asm__ volatile("fldcw %0" : : "m"(fcw)); }

static uint32_t call(struct icpu *cpu, const struct vec_op *op, void *mem, uint8_t *out)
{
	stack_thunk *thunk = (stack_thunk *)((uintptr_t)op->thunk + op->stack_at);
	const uint8_t *st = cpu->s.xsave + IMG_ST;

	return thunk(st, mem, st + 16 * op->index, out, &cpu->s.rflags);
}

/*
 * The host's sticky flags stay from one call to the next. That is right as long as the guest's are set too; a flag
 * that is new to the guest may be another instruction's, and only a second call with none set will tell.
 */
static uint32_t call_exact(struct icpu *cpu, const struct vec_op *op, void *mem, uint8_t *out, uint16_t fcw, uint16_t fsw)
{
	bool other = (fcw ^ FCW_INIT) & 0xf3f;
	uint32_t after;

	if (other)
		load_control(fcw);
	after = call(cpu, op, mem, out);
	if (after & FSW_FLAGS & ~(uint32_t)fsw) {
		__asm__ volatile("fnclex");
		after = call(cpu, op, mem, out);
	}
	if (other)
		load_control(FCW_INIT);
	return after;
}

bool stack_run(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	uint8_t *x = cpu->s.xsave, out[32], tags = x[IMG_FTW];
	uint16_t fcw = ld16le(x + IMG_FCW), fsw = ld16le(x + IMG_FSW);
	unsigned top = fsw_top(fsw), other = (top + op->index) & 7, below = (top - 1) & 7;
	int left = (int)registers_loaded(op) + op->pushes, last;
	uint32_t after;

	if ((fcw & 0x3f) != 0x3f || ((op->loads & STACK_TOP) && !(tags >> top & 1)) ||
	    ((op->loads & STACK_OTHER) && !(tags >> other & 1)) || (op->pushes > 0 && (tags >> below & 1)))
		return false;
	after = call_exact(cpu, op, mem, out, fcw, fsw);
	st16le(x + IMG_FSW, (uint16_t)((fsw & ~op->conditions) | (after & (op->conditions | FSW_FLAGS))));
	if (op->pushes > 0)
		x[IMG_FTW] = (uint8_t)(tags | 1u << below);
	for (int i = 0; i > op->pushes; i--)
		x[IMG_FTW] &= (uint8_t)~(1u << ((top - (unsigned)i) & 7));
	if (op->pushes)
		x87_set_top(&cpu->s, (top - (unsigned)op->pushes) & 7);
	if (op->keeps || !left)
		return true;
	/* The deepest register that was loaded, or the one pushed, is the last that was stored. */
	last = (op->loads & STACK_OTHER ? op->index : op->loads & STACK_TOP ? 0 : -1) + op->pushes;
	memcpy(x + IMG_ST + 16 * (unsigned)last, out + 16 * (left - 1), 10);
	if (left == 2)
		memcpy(x + IMG_ST, out, 10);
	return true;
}
