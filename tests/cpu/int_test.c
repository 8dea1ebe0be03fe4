/*
 * Integer and string instructions of the interpreter against the host CPU: random 64-bit encodings with
 * random operands run natively in a small thunk and by the handlers over flat memory; registers, status
 * flags, memory, branches and #DE must be equal.
 *
 *	cpu-int [cases [seed]]
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <Zydis/Zydis.h>

#include "accel/interp/cpu.h"
#include "oracle.h"

#define AREA 1024u /* the memory operands' playground */
#define VARIANTS 8 /* operand sets for each encoding */

static struct oracle host;
static uint8_t *area; /* AREA bytes of the host's */
static struct icpu icpu;

/* ---- flat memory and faults in place of the interpreter's own ---- */

_Noreturn void cpu_raise(struct icpu *cpu, enum x86_vector v)
{
	cpu->exc_vector = v;
	siglongjmp(cpu->fault, 1);
}
_Noreturn void cpu_raise_error(struct icpu *cpu, enum x86_vector v, uint32_t error) { cpu_raise(cpu, v); }
uint64_t cpu_load(struct icpu *cpu, uint64_t lin, unsigned len) { return ld_le((void *)lin, len); }
void cpu_store(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t v) { st_le((void *)lin, len, v); }
void cpu_load_bytes(struct icpu *cpu, uint64_t lin, void *buf, unsigned len) { memcpy(buf, (void *)lin, len); }
void cpu_store_bytes(struct icpu *cpu, uint64_t lin, const void *buf, unsigned len) { memcpy((void *)lin, buf, len); }
void cpu_check_write(struct icpu *cpu, uint64_t lin, unsigned len) { }
/* Both ways of a read-modify-write must be right: odd 64-byte lines have no pointer. */
void *cpu_rmw_ptr(struct icpu *cpu, uint64_t lin, unsigned len) { return lin & 64 ? NULL : (void *)lin; }
void blocks_written(struct icpu *cpu, uint64_t gpa, unsigned len) { }
/* Runs of MOVS: only half of the time from RAM, by the address. */
const void *cpu_read_ptr(struct icpu *cpu, uint64_t lin, unsigned len) { return lin & 8 ? (const void *)lin : NULL; }
uint64_t cpu_offset(struct icpu *cpu, const struct insn *in)
{
	uint64_t a = (uint64_t)in->disp;
	if (in->base == INSN_RIP)
		a += cpu->s.rip + in->length;
	else if (in->base >= 0)
		a += cpu->s.gpr[in->base];
	if (in->index >= 0)
		a += cpu->s.gpr[in->index] << in->scale;
	return a & mask_bytes(in->addrsize);
}
uint64_t cpu_ea(struct icpu *cpu, const struct insn *in, unsigned len, bool write) { return cpu_offset(cpu, in); }
uint64_t cpu_linear(struct icpu *cpu, enum x86_seg seg, uint64_t offset, unsigned len, bool write) { return offset; }
void cpu_push(struct icpu *cpu, unsigned len, uint64_t v)
{
	cpu->s.gpr[RSP] -= len;
	st_le((void *)cpu->s.gpr[RSP], len, v);
}
uint64_t cpu_pop(struct icpu *cpu, unsigned len)
{
	uint64_t v = ld_le((void *)cpu->s.gpr[RSP], len);
	cpu->s.gpr[RSP] += len;
	return v;
}
void cpu_check_io(struct icpu *cpu, uint16_t port, unsigned len);
void cpu_check_io(struct icpu *cpu, uint16_t port, unsigned len) { }
uint64_t cpu_port_in(struct icpu *cpu, uint16_t port, unsigned len) { return 0; }
void cpu_port_out(struct icpu *cpu, uint16_t port, unsigned len, uint64_t value) { }
void debug_port(struct icpu *cpu, uint16_t port, unsigned len) { }

static uint8_t *put32(uint8_t *p, uint64_t v) { st32le(p, (uint32_t)v); return p + 4; }

/* ---- encodings ---- */

enum {
	M = 1, I8 = 2, IZ = 4, BYTE = 8, MEM_ONLY = 16, REG_ONLY = 32, LOCKS = 64, BITS = 128, STRING = 256, STACK = 512,
	BRANCH = 1024, NO_FLAGS = 2048, VEX = 4096, NO16 = 8192, IV = 16384, NO_W = 32768, NO_RSP = 65536, LOW_REG = 1 << 17,
	XLAT = 1 << 18, ENTER = 1 << 19, RET = 1 << 20,
};
struct shape {
	uint8_t map, prefix, op, op_last; /* a range of opcodes */
	int ext;                          /* /digit, or -1: a register */
	unsigned flags;
};
static const struct shape shapes[] = {
	{ 0, 0, 0x88, 0x88, -1, M | BYTE }, { 0, 0, 0x89, 0x89, -1, M }, { 0, 0, 0x8a, 0x8a, -1, M | BYTE },
	{ 0, 0, 0x8b, 0x8b, -1, M }, { 0, 0, 0xc6, 0xc6, 0, M | BYTE | I8 }, { 0, 0, 0xc7, 0xc7, 0, M | IZ },
	{ 0, 0, 0xb0, 0xb7, -1, BYTE | I8 }, { 0, 0, 0xb8, 0xbf, -1, IV }, { 0, 0, 0x63, 0x63, -1, M | NO16 },
	{ 0, 0, 0x84, 0x84, -1, M | BYTE }, { 0, 0, 0x85, 0x85, -1, M }, { 0, 0, 0xa8, 0xa8, -1, BYTE | I8 }, { 0, 0, 0xa9, 0xa9, -1, IZ },
	{ 0, 0, 0xf6, 0xf6, 0, M | BYTE | I8 }, { 0, 0, 0xf7, 0xf7, 0, M | IZ },
	{ 0, 0, 0xf6, 0xf6, 2, M | BYTE | LOCKS }, { 0, 0, 0xf7, 0xf7, 2, M | LOCKS }, { 0, 0, 0xf6, 0xf6, 3, M | BYTE | LOCKS },
	{ 0, 0, 0xf7, 0xf7, 3, M | LOCKS }, { 0, 0, 0xf6, 0xf6, 4, M | BYTE }, { 0, 0, 0xf7, 0xf7, 4, M }, { 0, 0, 0xf6, 0xf6, 5, M | BYTE },
	{ 0, 0, 0xf7, 0xf7, 5, M }, { 0, 0, 0xf6, 0xf6, 6, M | BYTE | NO_FLAGS }, { 0, 0, 0xf7, 0xf7, 6, M | NO_FLAGS },
	{ 0, 0, 0xf6, 0xf6, 7, M | BYTE | NO_FLAGS }, { 0, 0, 0xf7, 0xf7, 7, M | NO_FLAGS }, { 0, 0, 0xfe, 0xfe, 0, M | BYTE | LOCKS },
	{ 0, 0, 0xff, 0xff, 0, M | LOCKS }, { 0, 0, 0xfe, 0xfe, 1, M | BYTE | LOCKS }, { 0, 0, 0xff, 0xff, 1, M | LOCKS },
	{ 0, 0, 0x69, 0x69, -1, M | IZ }, { 0, 0, 0x6b, 0x6b, -1, M | I8 }, { 1, 0, 0xaf, 0xaf, -1, M },
	{ 0, 0, 0x8d, 0x8d, -1, M | MEM_ONLY }, { 0, 0, 0x86, 0x86, -1, M | BYTE }, { 0, 0, 0x87, 0x87, -1, M }, { 0, 0, 0x90, 0x97, -1, 0 },
	{ 0, 0, 0x98, 0x99, -1, 0 }, { 0, 0, 0x9e, 0x9f, -1, 0 }, { 0, 0, 0xf8, 0xf9, -1, 0 }, { 0, 0, 0xf5, 0xf5, -1, 0 },
	{ 0, 0, 0x50, 0x57, -1, STACK | NO_W }, { 0, 0, 0x58, 0x5f, -1, STACK | NO_W }, { 0, 0, 0x68, 0x68, -1, STACK | IZ | NO_W },
	{ 0, 0, 0x6a, 0x6a, -1, STACK | I8 | NO_W }, { 0, 0, 0xff, 0xff, 6, STACK | M | NO_W | NO_RSP }, { 0, 0, 0x8f, 0x8f, 0, STACK | M | NO_W },
	{ 0, 0, 0xc9, 0xc9, -1, STACK | NO_W | LOW_REG }, { 0, 0, 0x70, 0x7f, -1, BRANCH | I8 }, { 1, 0, 0x80, 0x8f, -1, BRANCH | IZ | NO16 },
	{ 0, 0, 0xe0, 0xe3, -1, BRANCH | I8 }, { 0, 0, 0xe9, 0xe9, -1, BRANCH | IZ | NO16 }, { 0, 0, 0xe8, 0xe8, -1, BRANCH | STACK | IZ | NO16 },
	{ 0, 0, 0xc3, 0xc3, -1, STACK | RET | NO16 }, { 0, 0, 0xc2, 0xc2, -1, STACK | RET | NO16 },
	{ 0, 0, 0xc8, 0xc8, -1, STACK | ENTER | NO_W | LOW_REG | NO16 }, { 0, 0, 0xd7, 0xd7, -1, XLAT },
	{ 1, 0, 0x40, 0x4f, -1, M }, { 1, 0, 0x90, 0x9f, 0, M | BYTE }, { 1, 0, 0xb6, 0xb7, -1, M }, { 1, 0, 0xbe, 0xbf, -1, M },
	{ 1, 0, 0xa3, 0xa3, -1, M | BITS }, { 1, 0, 0xab, 0xab, -1, M | BITS | LOCKS }, { 1, 0, 0xb3, 0xb3, -1, M | BITS | LOCKS },
	{ 1, 0, 0xbb, 0xbb, -1, M | BITS | LOCKS }, { 1, 0, 0xba, 0xba, 4, M | I8 }, { 1, 0, 0xba, 0xba, 5, M | I8 | LOCKS }, { 1, 0, 0xba, 0xba, 6, M | I8 | LOCKS },
	{ 1, 0, 0xba, 0xba, 7, M | I8 | LOCKS }, { 1, 0, 0xa4, 0xa4, -1, M | I8 }, { 1, 0, 0xa5, 0xa5, -1, M }, { 1, 0, 0xac, 0xac, -1, M | I8 },
	{ 1, 0, 0xad, 0xad, -1, M }, { 1, 0, 0xbc, 0xbd, -1, M }, { 1, 0xf3, 0xbc, 0xbd, -1, M }, { 1, 0xf3, 0xb8, 0xb8, -1, M },
	{ 1, 0, 0xc8, 0xcf, -1, 0 }, { 2, 0, 0xf0, 0xf1, -1, M | MEM_ONLY }, { 2, 0xf2, 0xf0, 0xf0, -1, M | BYTE }, { 2, 0xf2, 0xf1, 0xf1, -1, M },
	{ 1, 0, 0xb0, 0xb0, -1, M | BYTE | LOCKS }, { 1, 0, 0xb1, 0xb1, -1, M | LOCKS }, { 1, 0, 0xc0, 0xc0, -1, M | BYTE | LOCKS },
	{ 1, 0, 0xc1, 0xc1, -1, M | LOCKS }, { 1, 0, 0xc7, 0xc7, 1, M | MEM_ONLY | LOCKS }, { 1, 0, 0xc3, 0xc3, -1, M | MEM_ONLY | NO16 },
	{ 2, 0x66, 0xf6, 0xf6, -1, M | NO16 }, { 2, 0xf3, 0xf6, 0xf6, -1, M | NO16 }, { 1, 0, 0x1f, 0x1f, 0, M },
	{ 2, 0, 0xf2, 0xf2, -1, M | VEX }, { 2, 0, 0xf7, 0xf7, -1, M | VEX }, { 2, 0, 0xf3, 0xf3, 1, M | VEX }, { 2, 0, 0xf3, 0xf3, 2, M | VEX },
	{ 2, 0, 0xf3, 0xf3, 3, M | VEX }, { 2, 0, 0xf5, 0xf5, -1, M | VEX }, { 2, 0xf2, 0xf5, 0xf5, -1, M | VEX }, { 2, 0xf3, 0xf5, 0xf5, -1, M | VEX },
	{ 2, 0xf2, 0xf6, 0xf6, -1, M | VEX }, { 2, 0x66, 0xf7, 0xf7, -1, M | VEX }, { 2, 0xf3, 0xf7, 0xf7, -1, M | VEX }, { 2, 0xf2, 0xf7, 0xf7, -1, M | VEX },
	{ 3, 0xf2, 0xf0, 0xf0, -1, M | VEX | I8 },
	{ 0, 0, 0xa4, 0xa4, -1, STRING | BYTE }, { 0, 0, 0xa5, 0xa5, -1, STRING }, { 0, 0, 0xa6, 0xa6, -1, STRING | BYTE }, { 0, 0, 0xa7, 0xa7, -1, STRING },
	{ 0, 0, 0xaa, 0xaa, -1, STRING | BYTE }, { 0, 0, 0xab, 0xab, -1, STRING }, { 0, 0, 0xac, 0xac, -1, STRING | BYTE }, { 0, 0, 0xad, 0xad, -1, STRING },
	{ 0, 0, 0xae, 0xae, -1, STRING | BYTE }, { 0, 0, 0xaf, 0xaf, -1, STRING },
};

/* The regular parts of the one-byte map: arithmetic 00..3d, group 1, shifts. */
static struct shape shape_pick(void)
{
	static const uint8_t shift_ops[] = { 0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3 };
	struct shape s = { 0, 0, 0, 0, -1, M };

	switch (pick(6)) {
	case 0:
		s.op = s.op_last = (uint8_t)(pick(8) << 3 | pick(6));
		s.flags = (s.op & 7) < 4 ? M | ((s.op & 7) < 2 && s.op < 0x38 ? LOCKS : 0) : (s.op & 1) ? IZ : I8;
		s.flags |= s.op & 1 ? 0 : BYTE;
		return s;
	case 1: {
		static const uint8_t op[] = { 0x80, 0x81, 0x83 };
		s.op = s.op_last = op[pick(3)];
		s.ext = (int)pick(8);
		s.flags |= (s.op == 0x81 ? IZ : I8) | (s.op == 0x80 ? BYTE : 0) | (s.ext < 7 ? LOCKS : 0);
		return s;
	}
	case 2:
		s.op = s.op_last = shift_ops[pick(6)];
		s.ext = (int)pick(8);
		s.flags |= (s.op < 0xd0 ? I8 : 0) | (s.op & 1 ? 0 : BYTE);
		return s;
	default:
		s = shapes[pick(ARRAY_LEN(shapes))];
		s.op = (uint8_t)(s.op + pick(s.op_last - s.op + 1u));
		return s;
	}
}

static uint8_t *put_modrm(uint8_t *p, const struct shape *s, bool mem)
{
	uint8_t reg = (uint8_t)(s->ext >= 0 ? (unsigned)s->ext : pick(8));

	if (!mem) {
		*p++ = (uint8_t)(0xc0 | reg << 3 | pick(8));
		return p;
	}
	uint8_t rm = (uint8_t)pick(8);
	*p++ = (uint8_t)(0x80 | reg << 3 | rm);
	if (rm == 4)
		*p++ = (uint8_t)rnd();
	return put32(p, (uint64_t)(int64_t)((int)pick(4096) - 2048));
}

/* Writes one random instruction; its length. */
static unsigned encode(struct shape *s, uint8_t *out)
{
	static const uint8_t maps[] = { 0, 0, 0x38, 0x3a };
	uint8_t *p = out;
	bool wide = pick(2) && !(s->flags & NO_W), small = !wide && !(s->flags & (NO16 | BYTE | VEX)) && !(s->flags & BRANCH) && !pick(3);
	bool mem = (s->flags & MEM_ONLY) || (!(s->flags & REG_ONLY) && pick(2));

	if (s->flags & VEX) {
		uint8_t pp = s->prefix == 0x66 ? 1 : s->prefix == 0xf3 ? 2 : s->prefix == 0xf2 ? 3 : 0;
		uint8_t vvvv = s->map == 3 ? 15 : (uint8_t)pick(16);
		*p++ = 0xc4;
		*p++ = (uint8_t)((rnd() & 0xe0) | s->map);
		*p++ = (uint8_t)(wide << 7 | vvvv << 3 | pp);
		*p++ = s->op;
		p = put_modrm(p, s, mem);
		if (s->flags & I8)
			*p++ = (uint8_t)rnd();
		return (unsigned)(p - out);
	}
	if ((s->flags & LOCKS) && mem && !pick(4))
		*p++ = 0xf0;
	if (small)
		*p++ = 0x66;
	if (s->flags & STRING && pick(3))
		*p++ = pick(2) ? 0xf3 : 0xf2;
	if (s->prefix)
		*p++ = s->prefix;
	if (wide || pick(2))
		*p++ = (uint8_t)(0x40 | wide << 3 | (rnd() & 7));
	if (s->map)
		*p++ = 0x0f;
	if (s->map > 1)
		*p++ = maps[s->map];
	*p++ = s->op;
	if (s->flags & M)
		p = put_modrm(p, s, mem);
	if (s->flags & BRANCH) { /* to the second jump behind the instruction */
		if (s->flags & I8)
			*p++ = 5;
		else
			p = put32(p, 5);
		return (unsigned)(p - out);
	}
	if (s->flags & ENTER) {
		st16le(p, (uint16_t)pick(64));
		p[2] = (uint8_t)pick(5);
		return (unsigned)(p + 3 - out);
	}
	if ((s->flags & RET) && s->op == 0xc2)
		s->flags |= IZ, small = true; /* a 16-bit immediate */
	unsigned imm = s->flags & I8 ? 1 : s->flags & IZ ? small ? 2 : 4 : s->flags & IV ? wide ? 8 : small ? 2 : 4 : 0;
	st_le(p, imm, operand());
	return (unsigned)(p + imm - out);
}

/* What decode.c does for the interpreter, for 64-bit code. */
static int reg_number(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? -1 : r == ZYDIS_REGISTER_RIP ? INSN_RIP : ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

static void fill_operand(struct insn *in, const ZydisDecodedOperand *o, uint8_t *kind, uint8_t *reg)
{
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		*kind = OPD_REG;
		*reg = (uint8_t)reg_number(o->reg.value);
		if (o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH) {
			*kind = OPD_REG_HIGH;
			*reg = (uint8_t)(o->reg.value - ZYDIS_REGISTER_AH);
		}
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		*kind = OPD_MEM;
		in->mem_size = (uint8_t)(o->size / 8);
		in->base = (int8_t)reg_number(o->mem.base);
		in->index = (int8_t)reg_number(o->mem.index);
		in->scale = o->mem.scale ? (uint8_t)__builtin_ctz(o->mem.scale) : 0;
		in->disp = o->mem.disp.value;
		break;
	default:
		*kind = OPD_IMM;
		in->imm = o->imm.value.u;
		break;
	}
}

static bool decode(const ZydisDecoder *d, const uint8_t *code, unsigned len, struct insn *in)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code, len, &zi, ops)) || zi.length != len)
		return false;
	memset(in, 0, sizeof *in);
	in->base = in->index = -1;
	in->mnemonic = (uint16_t)zi.mnemonic;
	in->length = zi.length;
	in->addrsize = (uint8_t)(zi.address_width / 8);
	in->opsize = zi.operand_count_visible ? (uint8_t)(ops[0].size / 8) : 0;
	in->prefixes = zi.attributes & ZYDIS_ATTRIB_HAS_LOCK ? PFX_LOCK : 0;
	if (zi.operand_count_visible > 0)
		fill_operand(in, &ops[0], &in->dst_kind, &in->dst_reg);
	if (zi.operand_count_visible > 1)
		fill_operand(in, &ops[1], &in->src_kind, &in->src_reg);
	if (zi.operand_count_visible > 2 && ops[2].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		uint8_t kind, reg;
		fill_operand(in, &ops[2], &kind, &reg);
	}
	return integer_bind(&icpu, in, &zi, ops) || string_bind(&icpu, in, &zi, ops);
}

/* ---- one case ---- */

struct outcome {
	uint64_t gpr[16], flags, taken;
	int fault; /* vector, or -1 */
	uint8_t area[AREA];
};

/* Operands of a case, such that all memory it touches is in the area. False: try others. */
static bool prepare(const struct shape *s, const struct insn *in, uint64_t gpr[16])
{
	bool mem = in->dst_kind == OPD_MEM || in->src_kind == OPD_MEM || in->mem_size;
	uint64_t middle = (uint64_t)area + AREA / 2;

	for (unsigned r = 0; r < 16; r++)
		gpr[r] = operand();
	if (s->flags & STACK) {
		gpr[RSP] = middle + pick(64);
		gpr[RBP] = s->flags & LOW_REG ? middle + pick(64) : gpr[RBP];
		if (mem && (in->base == RSP || in->index == RSP))
			return false;
	}
	if (s->flags & XLAT)
		gpr[RBX] = (uint64_t)area + pick(AREA - 256);
	if (s->flags & STRING) {
		gpr[RSI] = middle + pick(64) - 32;
		gpr[RDI] = middle + pick(64) - 32;
		gpr[RCX] = pick(30);
		return true;
	}
	if (!mem || (s->op == 0x8d && !s->map) || (s->op == 0x1f && s->map))
		return true;
	if (in->base < 0 || in->base == INSN_RIP || in->base == in->index)
		return false;
	if (s->flags & BITS) {
		if (in->src_reg == in->base || in->src_reg == in->index)
			return false;
		gpr[in->src_reg] = (uint64_t)((int64_t)pick(3000) - 1500);
	}
	if (in->index >= 0)
		gpr[in->index] = pick(16);
	gpr[in->base] = (middle & ~UINT64_C(15)) - (uint64_t)in->disp + (pick(2) ? pick(8) * 16 : pick(128));
	if (in->index >= 0)
		gpr[in->base] -= gpr[in->index] << in->scale;
	if (in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
		gpr[in->base] -= (gpr[in->base] + (uint64_t)in->disp + (in->index >= 0 ? gpr[in->index] << in->scale : 0)) & 15;
	return true;
}

static void run_native(struct outcome *o, uint64_t flags)
{
	struct oracle_cpu cpu = { .flags = flags | 0x202 };

	memcpy(cpu.gpr, o->gpr, sizeof cpu.gpr);
	memcpy(area, o->area, AREA);
	oracle_run(&host, &cpu);
	o->fault = cpu.fault;
	if (o->fault < 0) {
		memcpy(o->gpr, cpu.gpr, sizeof o->gpr);
		o->flags = cpu.flags;
		o->taken = cpu.exit;
	}
	memcpy(o->area, area, AREA);
}

static void run_interp(struct outcome *o, uint64_t flags, const struct insn *in)
{
	memcpy(icpu.s.gpr, o->gpr, sizeof o->gpr);
	memcpy(area, o->area, AREA);
	icpu.s.rflags = flags | 0x202;
	icpu.s.rip = (uint64_t)host.code;
	icpu.next_rip = icpu.s.rip + in->length;
	o->fault = -1;
	if (!sigsetjmp(icpu.fault, 0))
		in->fn(&icpu, in);
	else
		o->fault = icpu.exc_vector;
	memcpy(o->gpr, icpu.s.gpr, sizeof o->gpr);
	memcpy(o->area, area, AREA);
	o->flags = icpu.s.rflags;
	o->taken = icpu.next_rip != icpu.s.rip + in->length;
}

/* Undefined flags that the handlers do not take from the host: those of DIV and IDIV. */
static bool same(const struct outcome *a, const struct outcome *b, const struct shape *s)
{
	uint64_t mask = s->flags & NO_FLAGS ? 0 : RFLAGS_STATUS | RFLAGS_DF;

	if (a->fault != b->fault || memcmp(a->gpr, b->gpr, sizeof a->gpr) || memcmp(a->area, b->area, AREA))
		return false;
	return a->fault >= 0 || (a->taken == b->taken && !((a->flags ^ b->flags) & mask));
}

static void report(const struct outcome *start, const struct outcome *n, const struct outcome *i, const struct insn *in, uint64_t flags)
{
	printf("not equal: %s:", ZydisMnemonicGetString(in->mnemonic));
	for (unsigned b = 0; b < in->length; b++)
		printf(" %02x", host.code[b]);
	printf("\n  flags %lx -> native %lx, interp %lx; fault %d %d; taken %lu %lu\n", flags, n->flags & 0xcd5, i->flags & 0xcd5,
	       n->fault, i->fault, n->taken, i->taken);
	for (unsigned r = 0; r < 16; r++) {
		if (n->gpr[r] != i->gpr[r])
			printf("  r%u %lx -> native %lx, interp %lx\n", r, start->gpr[r], n->gpr[r], i->gpr[r]);
	}
	for (unsigned a = 0; a < AREA; a++) {
		if (n->area[a] != i->area[a])
			printf("  area+%u %02x -> native %02x, interp %02x\n", a, start->area[a], n->area[a], i->area[a]);
	}
}

static bool setup(void)
{
	static struct ram flat = { .name = (char *)"flat", .fd = -1, .size = ORACLE_PAGES * PAGE_SIZE };

	if (!oracle_init(&host, false))
		return false;
	area = host.area;
	flat.host = host.base;
	icpu.mem = mem_create();
	if (mem_map(icpu.mem, (uint64_t)(uintptr_t)host.base, flat.size, &flat, 0, false) < 0)
		return false;
	icpu.code_bits = icpu.stack_bits = 64;
	icpu.long_mode = true;
	return true;
}

int main(int argc, char **argv)
{
	unsigned long cases = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000000, passed = 0, failed = 0;
	static struct outcome start, native, interp;
	unsigned long faults = 0;
	ZydisDecoder decoder;

	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15ull;

	printf("seed %#lx\n", seed);
	oracle_seed(seed);
	if (!setup()) {
		perror("low memory for the thunk");
		return 1;
	}
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < AREA; i++)
		start.area[i] = (uint8_t)rnd();
	while (passed + failed < cases && failed < 20) {
		struct shape s = shape_pick();
		struct insn in;
		unsigned len = encode(&s, host.code);
		if (!decode(&decoder, host.code, len, &in))
			continue;
		oracle_end(&host, len);
		for (unsigned v = 0; v < VARIANTS; v++) {
			uint64_t flags = rnd() & (RFLAGS_STATUS | (s.flags & STRING ? RFLAGS_DF : 0));
			if (!prepare(&s, &in, start.gpr))
				break;
			for (unsigned i = 0; i < 32; i++)
				st64le(&start.area[AREA / 2 - 64 + 8 * i], operand());
			if (s.flags & RET)
				st64le(&start.area[start.gpr[RSP] - (uint64_t)area], (uint64_t)(host.code + len + 5));
			native = interp = start;
			run_native(&native, flags);
			run_interp(&interp, flags, &in);
			if (same(&native, &interp, &s)) {
				passed++;
				faults += native.fault >= 0;
				continue;
			}
			failed++;
			report(&start, &native, &interp, &in, flags);
			break;
		}
	}
	printf("%lu passed (%lu of them faults), %lu failed\n", passed, faults, failed);
	mem_destroy(icpu.mem);
	return failed != 0;
}
