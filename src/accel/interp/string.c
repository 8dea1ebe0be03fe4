/*
 * String instructions (Intel SDM volume 2): MOVS STOS LODS CMPS SCAS INS OUTS with every repeat
 * prefix, operand and address size. The registers are current after every element, so a fault or
 * an interrupt in the middle leaves a state from which the instruction simply starts again.
 * Runs of MOVS and STOS within RAM pages go by the host's own REP MOVS and REP STOS.
 */
#include <Zydis/Zydis.h>

#include "accel/interp/int_ops.h"
#include "accel/interp/repeat.h"

/* Elements done before we look for interrupts. */
#define STRING_BUDGET 4096u
/* Below this many bytes a run is not worth its probe. */
#define RUN_MIN 32u

enum { OP_MOVS, OP_STOS, OP_LODS, OP_CMPS, OP_SCAS, OP_INS, OP_OUTS };

static inline void index_add(struct icpu *cpu, unsigned reg, const struct insn *in, uint64_t n)
{
	gpr_set(cpu, reg, in->addrsize, cpu->s.gpr[reg] + n);
}

static inline uint64_t index_linear(struct icpu *cpu, const struct insn *in, unsigned reg, bool write)
{
	return cpu_linear(cpu, reg == RDI ? SEG_ES : in->seg, gpr_get(cpu, reg, in->addrsize), in->opsize, write);
}

static inline uint64_t string_step(const struct icpu *cpu, const struct insn *in)
{
	return cpu->s.rflags & RFLAGS_DF ? -(uint64_t)in->opsize : in->opsize;
}

/* The elements of CMPS and SCAS: flags as CMP a, b gives them. */
static void string_compare(struct icpu *cpu, unsigned size, uint64_t a, uint64_t b)
{
	unsigned shift = 64 - 8 * size;
	uint64_t wide_a = a << shift, wide_b = b << shift, diff = (a - b) & mask_bytes(size), f = cpu->s.rflags;

	f &= ~(uint64_t)RFLAGS_STATUS;
	f |= a < b ? RFLAGS_CF : 0;
	f |= __builtin_parity((uint8_t)diff) ? 0 : RFLAGS_PF;
	f |= (a ^ b ^ diff) & RFLAGS_AF;
	f |= diff ? 0 : RFLAGS_ZF;
	f |= (diff << shift) >> 63 ? RFLAGS_SF : 0;
	f |= ((wide_a ^ wide_b) & (wide_a ^ (diff << shift))) >> 63 ? RFLAGS_OF : 0;
	cpu->s.rflags = f;
}

/* One element each; everything that can fault comes before anything changes. */
static inline void element(struct icpu *cpu, const struct insn *in, unsigned op)
{
	unsigned size = in->opsize;
	uint16_t port = (uint16_t)cpu->s.gpr[RDX];
	uint64_t step = string_step(cpu, in), lin, v;

	switch (op) {
	case OP_MOVS:
		v = cpu_load(cpu, index_linear(cpu, in, RSI, false), size);
		cpu_store(cpu, index_linear(cpu, in, RDI, true), size, v);
		break;
	case OP_STOS: cpu_store(cpu, index_linear(cpu, in, RDI, true), size, gpr_get(cpu, RAX, size)); break;
	case OP_LODS: gpr_set(cpu, RAX, size, cpu_load(cpu, index_linear(cpu, in, RSI, false), size)); break;
	case OP_CMPS:
		v = cpu_load(cpu, index_linear(cpu, in, RSI, false), size);
		string_compare(cpu, size, v, cpu_load(cpu, index_linear(cpu, in, RDI, false), size));
		break;
	case OP_SCAS:
		v = cpu_load(cpu, index_linear(cpu, in, RDI, false), size);
		string_compare(cpu, size, gpr_get(cpu, RAX, size), v);
		break;
	case OP_INS:
		cpu_check_io(cpu, port, size);
		lin = index_linear(cpu, in, RDI, true);
		cpu_check_write(cpu, lin, size);
		debug_port(cpu, port, size);
		cpu_store(cpu, lin, size, cpu_port_in(cpu, port, size));
		break;
	default:
		cpu_check_io(cpu, port, size);
		v = cpu_load(cpu, index_linear(cpu, in, RSI, false), size);
		debug_port(cpu, port, size);
		cpu_port_out(cpu, port, size, v);
		break;
	}
	if (op == OP_MOVS || op == OP_LODS || op == OP_CMPS || op == OP_OUTS)
		index_add(cpu, RSI, in, step);
	if (op != OP_LODS && op != OP_OUTS)
		index_add(cpu, RDI, in, step);
}

/* How many bytes from the index register on stay in its page, its segment and its address size. */
static uint64_t run_room(struct icpu *cpu, const struct insn *in, unsigned reg, uint64_t lin)
{
	const struct x86_segment *s = &cpu->s.seg[reg == RDI ? SEG_ES : in->seg];
	uint64_t offset = gpr_get(cpu, reg, in->addrsize), room = PAGE_SIZE - (lin & (PAGE_SIZE - 1));
	uint64_t last = mask_bytes(in->addrsize);

	if (cpu->code_bits != 64) {
		bool expand_down = (s->attr & 0xc) == 4;
		uint64_t limit = expand_down ? (s->attr & SEG_ATTR_DB ? UINT32_MAX : 0xffff) : s->limit;
		last = last < limit ? last : limit;
	}
	if (last - offset < room - 1) /* offset itself has been checked: it is not above last */
		room = last - offset + 1;
	return room;
}

/*
 * Does a run of up to `count` elements upwards within one page each, and returns how many: 0 when it
 * must go element by element (short, MMIO, crossing).
 */
static uint64_t string_run(struct icpu *cpu, const struct insn *in, unsigned op, uint64_t count)
{
	uint64_t dst = index_linear(cpu, in, RDI, true), room = run_room(cpu, in, RDI, dst), n;
	const void *from = NULL;
	uint64_t src = 0;

	if (op == OP_MOVS) {
		uint64_t src_room;

		src = index_linear(cpu, in, RSI, false);
		src_room = run_room(cpu, in, RSI, src);
		room = src_room < room ? src_room : room;
	}
	n = room / in->opsize;
	n = n < count ? n : count;
	if (n * in->opsize < RUN_MIN)
		return 0;
	/* The source's fault comes before the destination's. */
	if (op == OP_MOVS && !(from = cpu_read_ptr(cpu, src, (unsigned)(n * in->opsize))))
		return 0;
	void *to = cpu_rmw_ptr(cpu, dst, (unsigned)(n * in->opsize));
	if (!to)
		return 0;
	if (op == OP_MOVS) {
		host_movs(to, from, n, in->opsize);
		index_add(cpu, RSI, in, n * in->opsize);
	} else {
		host_stos(to, cpu->s.gpr[RAX], n, in->opsize);
	}
	cpu_rmw_done(cpu);
	index_add(cpu, RDI, in, n * in->opsize);
	return n;
}

static inline void string_repeat(struct icpu *cpu, const struct insn *in, unsigned op)
{
	unsigned budget = (cpu->s.rflags & RFLAGS_TF) || cpu->debug_on ? 1 : STRING_BUDGET;
	bool compares = op == OP_CMPS || op == OP_SCAS;
	bool runs = (op == OP_MOVS || op == OP_STOS) && !(cpu->s.rflags & (RFLAGS_DF | RFLAGS_TF)) && !cpu->debug_on;
	uint64_t count = gpr_get(cpu, RCX, in->addrsize);

	while (count) {
		uint64_t done = 0;
		if (runs && count * in->opsize >= RUN_MIN)
			done = string_run(cpu, in, op, count);
		if (!done) {
			element(cpu, in, op);
			done = 1;
		}
		count -= done;
		gpr_set(cpu, RCX, in->addrsize, count);
		if (compares && !!(cpu->s.rflags & RFLAGS_ZF) != !!(in->prefixes & PFX_REP))
			return;
		budget -= done > 1 && budget > 64 ? 64 : 1;
		bool look = done > 1 || budget % 64 == 0;
		/* A device that changes the memory map ends the instruction's turn, as an interrupt does. */
		if (count && (!budget || cpu->block_ends || (look && atomic_load_explicit(&cpu->irq, memory_order_relaxed)))) {
			cpu->next_rip = cpu->s.rip;
			return;
		}
	}
}

#define STRING(name, op)                                                                                   \
	static void name(struct icpu *cpu, const struct insn *in) { element(cpu, in, op); }                \
	static void name##_rep(struct icpu *cpu, const struct insn *in) { string_repeat(cpu, in, op); }
STRING(movs, OP_MOVS)
STRING(stos, OP_STOS)
STRING(lods, OP_LODS)
STRING(cmps, OP_CMPS)
STRING(scas, OP_SCAS)
STRING(ins, OP_INS)
STRING(outs, OP_OUTS)

#define PAIR(name) { name, name##_rep }
static const insn_fn string_table[][2] = { PAIR(movs), PAIR(stos), PAIR(lods), PAIR(cmps), PAIR(scas), PAIR(ins), PAIR(outs) };

static int string_op(unsigned mnemonic, unsigned *size)
{
#define WIDTHS(NAME, op)                                                                                   \
	case ZYDIS_MNEMONIC_##NAME##B: *size = 1; return op;                                               \
	case ZYDIS_MNEMONIC_##NAME##W: *size = 2; return op;                                               \
	case ZYDIS_MNEMONIC_##NAME##D: *size = 4; return op;
	switch (mnemonic) {
	WIDTHS(MOVS, OP_MOVS)
	WIDTHS(STOS, OP_STOS)
	WIDTHS(LODS, OP_LODS)
	WIDTHS(CMPS, OP_CMPS)
	WIDTHS(SCAS, OP_SCAS)
	WIDTHS(INS, OP_INS)
	WIDTHS(OUTS, OP_OUTS)
	case ZYDIS_MNEMONIC_MOVSQ: *size = 8; return OP_MOVS;
	case ZYDIS_MNEMONIC_STOSQ: *size = 8; return OP_STOS;
	case ZYDIS_MNEMONIC_LODSQ: *size = 8; return OP_LODS;
	case ZYDIS_MNEMONIC_CMPSQ: *size = 8; return OP_CMPS;
	case ZYDIS_MNEMONIC_SCASQ: *size = 8; return OP_SCAS;
	default: return -1;
	}
#undef WIDTHS
}

bool string_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned size = 0;
	int op;

	/* MOVSD and CMPSD are SSE instructions too. */
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	op = string_op(zi->mnemonic, &size);
	if (op < 0)
		return false;
	in->opsize = (uint8_t)size;
	in->addrsize = (uint8_t)(zi->address_width / 8u);
	in->seg = SEG_DS;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		ZydisRegister base = ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY ? ops[i].mem.base : ZYDIS_REGISTER_NONE;
		if (base == ZYDIS_REGISTER_RSI || base == ZYDIS_REGISTER_ESI || base == ZYDIS_REGISTER_SI)
			in->seg = (uint8_t)insn_segment(ops[i].mem.segment);
	}
	in->prefixes &= (uint8_t)~(PFX_REP | PFX_REPNE);
	for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
		if (zi->raw.prefixes[i].value == 0xf3)
			in->prefixes = (uint8_t)((in->prefixes & ~PFX_REPNE) | PFX_REP);
		else if (zi->raw.prefixes[i].value == 0xf2)
			in->prefixes = (uint8_t)((in->prefixes & ~PFX_REP) | PFX_REPNE);
	}
	in->fn = string_table[op][!!(in->prefixes & (PFX_REP | PFX_REPNE))];
	return true;
}
