/*
 * Operand sizes and roles of vector and x87 instructions (Intel SDM volume 2). A memory operand's size may be
 * told too large, never too small: an access that then seems to cross a page is left to the interpreter.
 */
#include "accel/bt/guest_simd.h"

bool guest_is_simd(uint8_t op)
{
	return (op >= 0x10 && op <= 0x17) || (op >= 0x28 && op <= 0x2f) || (op >= 0x50 && op <= 0x77) || (op >= 0x7c && op <= 0x7f) ||
	       op == 0xc2 || (op >= 0xc4 && op <= 0xc6) || (op >= 0xd0 && op <= 0xfe);
}

static void give_up(struct guest_insn *g)
{
	g->kind = G_INTERP;
	g->ops = GO_ENDS;
}

/* Packed single, packed double, scalar single, scalar double, by prefix. */
static unsigned by_prefix(const struct guest_insn *g)
{
	return g->rep == 0xf3 ? 4 : g->rep == 0xf2 ? 8 : 16;
}

static void store(struct guest_insn *g, unsigned size)
{
	g->mem_size = (uint8_t)size;
	g->ops = (g->ops & ~(uint32_t)GO_RM_R) | GO_RM_W;
}

static void from_gpr(struct guest_insn *g, unsigned size)
{
	g->mem_size = (uint8_t)size;
	g->ops |= GO_RM_GPR;
}

static void to_gpr(struct guest_insn *g)
{
	g->ops |= GO_REG_GPR | GO_REG_W;
}

static unsigned wide(const struct guest_insn *g) { return g->rex & 8 ? 8 : 4; }

/* The 0F map up to 5F: floating point. */
static void simd_low(struct guest_insn *g)
{
	switch (g->op) {
	case 0x10: g->mem_size = (uint8_t)by_prefix(g); break;
	case 0x11: store(g, by_prefix(g)); break;
	case 0x12: g->mem_size = g->rep == 0xf3 ? 16 : 8; break;
	case 0x16: g->mem_size = g->rep == 0xf3 ? 16 : 8; break;
	case 0x13: case 0x17:
		store(g, 8);
		break;
	case 0x29: case 0x2b:
		store(g, g->rep ? 8 : 16);
		break;
	case 0x2a:
		if (g->rep)
			from_gpr(g, wide(g));
		else
			g->mem_size = 8;
		break;
	case 0x2c: case 0x2d:
		g->mem_size = (uint8_t)by_prefix(g);
		if (g->rep)
			to_gpr(g);
		break;
	case 0x2e: case 0x2f:
		g->mem_size = g->p66 ? 8 : 4;
		g->flags_written = GF_ALL;
		g->flags_touched = true;
		break;
	case 0x50:
		to_gpr(g);
		break;
	case 0x5a: g->mem_size = g->rep ? (uint8_t)by_prefix(g) : g->p66 ? 16 : 8; break;
	case 0x51 ... 0x59: case 0x5c ... 0x5f: g->mem_size = (uint8_t)by_prefix(g); break;
	default: g->mem_size = 16; break;
	}
}

/* From 60 on: integers, moves, MMX when there is no prefix. */
static void simd_high(struct guest_insn *g)
{
	bool mmx = !g->p66 && !g->rep;

	g->mem_size = mmx ? 8 : 16;
	switch (g->op) {
	case 0x6e: from_gpr(g, wide(g)); break;
	case 0x70 ... 0x73:
		g->imm_size = 1;
		if (g->op != 0x70 && g->mod != 3)
			give_up(g);
		break;
	case 0x77: g->mod = 3; break;
	case 0x7e:
		if (g->rep == 0xf3) {
			g->mem_size = 8;
		} else {
			store(g, wide(g));
			g->ops |= GO_RM_GPR;
		}
		break;
	case 0x7f: store(g, mmx ? 8 : 16); break;
	case 0xc2:
		g->mem_size = (uint8_t)by_prefix(g);
		g->imm_size = 1;
		break;
	case 0xc4:
		from_gpr(g, 2);
		g->imm_size = 1;
		break;
	case 0xc5:
		to_gpr(g);
		g->imm_size = 1;
		if (g->mod != 3)
			give_up(g);
		break;
	case 0xc6:
		g->mem_size = 16;
		g->imm_size = 1;
		break;
	case 0xd6:
		store(g, 8);
		break;
	case 0xd7:
		to_gpr(g);
		if (g->mod != 3)
			give_up(g);
		break;
	case 0xe6: g->mem_size = g->rep == 0xf3 ? 8 : 16; break;
	case 0xe7: store(g, mmx ? 8 : 16); break;
	case 0xf7: give_up(g); break;
	default: break;
	}
}

enum { P_NONE = 1, P_66 = 2, P_F3 = 4, P_F2 = 8, P_INT = P_NONE | P_66, P_ALL = 15 };

/* The mandatory prefixes with which an opcode of the 0F map is an instruction; 0: P_INT. */
static const uint8_t prefixes_0f[256] = {
	[0x10 ... 0x12] = P_ALL, [0x16] = P_INT | P_F3, [0x2a] = P_ALL, [0x2c ... 0x2d] = P_ALL, [0x51] = P_ALL,
	[0x52 ... 0x53] = P_NONE | P_F3, [0x58 ... 0x5a] = P_ALL, [0x5b] = P_INT | P_F3, [0x5c ... 0x5f] = P_ALL, [0x6c ... 0x6d] = P_66,
	[0x6f] = P_INT | P_F3, [0x70] = P_ALL, [0x77] = P_NONE, [0x7c ... 0x7d] = P_66 | P_F2, [0x7e ... 0x7f] = P_INT | P_F3,
	[0xc2] = P_ALL, [0xd0] = P_66 | P_F2, [0xd6] = P_66 | P_F3 | P_F2, [0xe6] = P_66 | P_F3 | P_F2, [0xf0] = P_F2,
};

static unsigned prefix_of(const struct guest_insn *g)
{
	return g->rep == 0xf3 ? P_F3 : g->rep == 0xf2 ? P_F2 : g->p66 ? P_66 : P_NONE;
}

static bool valid_0f(const struct guest_insn *g)
{
	unsigned allowed = prefixes_0f[g->op] ? prefixes_0f[g->op] : P_INT, n = g->reg & 7;

	if ((g->rep && g->p66) || !(allowed & prefix_of(g)))
		return false;
	switch (g->op) {
	case 0x13: case 0x17: case 0x2b: case 0xe7: case 0xf0: return g->mod != 3;
	case 0x12: case 0x16: return g->mod != 3 || !g->p66;
	case 0x50: return g->mod == 3;
	case 0xd6: return g->mod == 3 || g->p66;
	case 0x71: case 0x72: return n == 2 || n == 4 || n == 6;
	case 0x73: return n == 2 || n == 6 || ((n == 3 || n == 7) && g->p66);
	default: return true;
	}
}

void guest_simd(struct guest_insn *g)
{
	if (!valid_0f(g)) {
		give_up(g);
		g->length = 0xff;
		return;
	}
	g->kind = G_PLAIN;
	g->ops = GO_SIMD | GO_RM_R;
	if (g->op < 0x60)
		simd_low(g);
	else
		simd_high(g);
	if (g->op == 0x77)
		g->modrm_present = false, g->ops = GO_SIMD | GO_ACC;
}

/* PMOVSX and PMOVZX read a half, a quarter or an eighth. */
static unsigned extending(uint8_t op)
{
	static const uint8_t size[6] = { 8, 4, 2, 8, 4, 8 };

	return size[op & 7];
}

static void map_38(struct guest_insn *g)
{
	bool mmx = !g->p66 && !g->rep && g->op < 0x1f;

	g->mem_size = mmx ? 8 : 16;
	switch (g->op) {
	case 0x00 ... 0x0b: case 0x10: case 0x14: case 0x15: case 0x1c ... 0x1e: case 0x28 ... 0x2b: case 0x37 ... 0x41:
	case 0xc8 ... 0xcd: case 0xcf: case 0xdb ... 0xdf:
		break;
	case 0x17:
		g->flags_written = GF_ALL;
		g->flags_touched = true;
		break;
	case 0x20 ... 0x25: case 0x30 ... 0x35: g->mem_size = (uint8_t)extending(g->op); break;
	default: give_up(g); break;
	}
}

/* MOVBE, CRC32, ADCX, ADOX: no vector registers. */
static void map_38_general(struct guest_insn *g)
{
	g->mem_size = g->opsize;
	g->ops = GO_RM_GPR | GO_REG_GPR | GO_RM_R | GO_REG_W;
	if (g->op == 0xf6) {
		if (!g->p66 && g->rep != 0xf3) {
			give_up(g);
			return;
		}
		g->mem_size = (uint8_t)wide(g);
		g->ops |= GO_REG_R;
		g->flags_read = g->flags_written = g->rep == 0xf3 ? GF_O : GF_C;
		g->flags_touched = true;
	} else if (g->rep == 0xf2) {
		g->ops |= GO_REG_R | (g->op == 0xf0 ? GO_RM_BYTE : 0);
		g->mem_size = g->op == 0xf0 ? 1 : g->opsize;
	} else if (g->mod == 3) {
		give_up(g);
	} else if (g->op == 0xf1) {
		g->ops = GO_RM_GPR | GO_REG_GPR | GO_RM_W | GO_REG_R;
	}
}

static void map_3a(struct guest_insn *g)
{
	g->imm_size = 1;
	g->mem_size = 16;
	switch (g->op) {
	case 0x0a: g->mem_size = 4; break;
	case 0x0b: g->mem_size = 8; break;
	case 0x0f: g->mem_size = g->p66 ? 16 : 8; break;
	case 0x14 ... 0x17:
		store(g, g->op == 0x14 ? 1 : g->op == 0x15 ? 2 : g->op == 0x16 ? wide(g) : 4);
		g->ops |= GO_RM_GPR | GO_RM_W32;
		break;
	case 0x20: from_gpr(g, 1); break;
	case 0x21: g->mem_size = 4; break;
	case 0x22: from_gpr(g, wide(g)); break;
	case 0x60 ... 0x63:
		g->flags_written = GF_ALL;
		g->flags_touched = true;
		break;
	case 0x08: case 0x09: case 0x0c ... 0x0e: case 0x40 ... 0x42: case 0x44: case 0xcc: case 0xce: case 0xcf: case 0xdf: break;
	default: give_up(g); break;
	}
}

static bool valid_three_byte(const struct guest_insn *g)
{
	unsigned p = prefix_of(g), op = g->op;

	if (g->map == 2 && (op == 0xf0 || op == 0xf1))
		return g->rep != 0xf3;
	if (g->rep && g->p66)
		return false;
	if (g->map == 2 && op == 0xf6)
		return p == P_66 || p == P_F3;
	if ((g->map == 2 && op >= 0xc8 && op <= 0xcd) || (g->map == 3 && op == 0xcc))
		return p == P_NONE;
	if (g->map == 2 ? op < 0x0c || (op >= 0x1c && op <= 0x1e) : op == 0x0f)
		return p == P_NONE || p == P_66;
	return p == P_66 && !(g->map == 2 && op == 0x2a && g->mod == 3);
}

void guest_three_byte(struct guest_insn *g)
{
	if (!valid_three_byte(g)) {
		give_up(g);
		g->length = 0xff;
		return;
	}
	g->kind = G_PLAIN;
	g->ops = GO_SIMD | GO_RM_R;
	if (g->map == 3)
		map_3a(g);
	else if (g->op == 0xf0 || g->op == 0xf1 || g->op == 0xf6)
		map_38_general(g);
	else
		map_38(g);
	/* The interpreter needs the right length when it goes on behind. */
	if (g->kind == G_INTERP)
		g->length = 0xff;
}

/* ---- VEX ---- */

static void bmi(struct guest_insn *g)
{
	uint32_t all = GO_RM_GPR | GO_REG_GPR | GO_RM_R | GO_REG_W | GO_VVVV_R;

	g->mem_size = (uint8_t)wide(g);
	g->ops = all;
	switch (g->op) {
	case 0xf2:
		g->flags_written = GF_C | GF_O | GF_S | GF_Z;
		break;
	case 0xf3: /* BLSR, BLSMSK, BLSI: the destination is vvvv */
		if ((g->reg & 7) < 1 || (g->reg & 7) > 3)
			give_up(g);
		else
			g->ops = GO_RM_GPR | GO_RM_R | GO_VVVV_W;
		g->flags_written = GF_C | GF_O | GF_S | GF_Z;
		break;
	case 0xf5:
		if (!g->rep)
			g->flags_written = GF_C | GF_O | GF_S | GF_Z;
		break;
	case 0xf6: g->ops = GO_RM_GPR | GO_REG_GPR | GO_RM_R | GO_REG_W | GO_VVVV_W; break;
	case 0xf7:
		if (!g->rep && !g->p66)
			g->flags_written = GF_C | GF_O | GF_Z;
		break;
	default: break;
	}
	g->flags_touched = g->flags_written != 0;
}

static void vex_38(struct guest_insn *g)
{
	unsigned full = g->vex_l ? 32 : 16;

	switch (g->op) {
	case 0x18: case 0x58: g->mem_size = 4; break;
	case 0x19: case 0x59: g->mem_size = 8; break;
	case 0x1a: case 0x5a: g->mem_size = 16; break;
	case 0x78: g->mem_size = 1; break;
	case 0x79: g->mem_size = 2; break;
	case 0x13: g->mem_size = (uint8_t)(full / 2); break;
	case 0x0e: case 0x0f:
		g->mem_size = (uint8_t)full;
		g->flags_written = GF_ALL;
		g->flags_touched = true;
		break;
	case 0x0c: case 0x0d: case 0x16: case 0x36: case 0x45 ... 0x47: g->mem_size = (uint8_t)full; break;
	case 0x96 ... 0x9f: case 0xa6 ... 0xaf: case 0xb6 ... 0xbf: {
		unsigned low = g->op & 15;

		g->mem_size = (uint8_t)(low >= 9 && (low & 1) ? wide(g) : full);
		break;
	}
	default:
		map_38(g);
		if (g->op < 0x10 && !g->p66)
			give_up(g);
		if (g->vex_l)
			g->mem_size = (uint8_t)(g->mem_size * 2);
		break;
	}
}

static void vex_3a(struct guest_insn *g)
{
	unsigned full = g->vex_l ? 32 : 16;

	g->imm_size = 1;
	switch (g->op) {
	case 0x00 ... 0x02: case 0x04 ... 0x06: case 0x46: case 0x4a ... 0x4c: g->mem_size = (uint8_t)full; break;
	case 0x18: case 0x38: g->mem_size = 16; break;
	case 0x19: case 0x39: store(g, 16); break;
	case 0x1d: store(g, full / 2); break;
	default:
		map_3a(g);
		if (g->mem_size == 16)
			g->mem_size = (uint8_t)full;
		break;
	}
}

static void vex_0f(struct guest_insn *g)
{
	if (!guest_is_simd(g->op)) {
		give_up(g);
		return;
	}
	if (g->op < 0x60)
		simd_low(g);
	else
		simd_high(g);
	if (g->op == 0x77) { /* VZEROUPPER, VZEROALL: no ModRM */
		g->modrm_present = false;
		g->ops = GO_SIMD | GO_AVX | GO_ACC;
		return;
	}
	/* No MMX registers here. */
	if (!g->p66 && !g->rep && ((g->op >= 0x60 && g->op != 0xc2 && g->op != 0xc6) || g->op == 0x2a || g->op == 0x2c || g->op == 0x2d))
		give_up(g);
	if (g->vex_l && (g->mem_size == 16 || (g->mem_size == 8 && (g->op == 0x12 || g->op == 0x5a || g->op == 0xe6))))
		g->mem_size = (uint8_t)(g->mem_size * 2);
}

void guest_vex(struct guest_insn *g)
{
	g->kind = G_PLAIN;
	g->ops = GO_SIMD | GO_AVX | GO_RM_R;
	if (g->map == 2 && g->op >= 0xf2 && g->op <= 0xf7)
		bmi(g);
	else if (g->map == 3 && g->op == 0xf0) {
		g->ops = GO_RM_GPR | GO_REG_GPR | GO_RM_R | GO_REG_W;
		g->mem_size = (uint8_t)wide(g);
		g->imm_size = 1;
	} else if (g->map == 1)
		vex_0f(g);
	else if (g->map == 2)
		vex_38(g);
	else if (g->map == 3)
		vex_3a(g);
	else
		give_up(g);
	/* What else may be wrong with it, the host finds. */
	g->ops |= GO_TRAPS;
	if (g->kind == G_INTERP)
		g->length = 0xff;
}

/* ---- x87 ---- */

/* By opcode and reg: bytes of the memory operand, 0x80 for a store, 0 for what the interpreter does. */
static const uint8_t x87_memory[8][8] = {
	{ 4, 4, 4, 4, 4, 4, 4, 4 },
	{ 4, 0, 0x84, 0x84, 0, 0, 0, 0x82 },
	{ 4, 4, 4, 4, 4, 4, 4, 4 },
	{ 4, 0x84, 0x84, 0x84, 0, 10, 0, 0x8a },
	{ 8, 8, 8, 8, 8, 8, 8, 8 },
	{ 8, 0x88, 0x88, 0x88, 0, 0, 0, 0x82 },
	{ 2, 2, 2, 2, 2, 2, 2, 2 },
	{ 2, 0x82, 0x82, 0x82, 10, 8, 0x8a, 0x88 },
};

/* By opcode: which register forms exist, a byte for each reg with a bit for each rm. */
static const uint64_t x87_registers[8] = {
	UINT64_MAX,
	0xffff7f33ff01ffff,
	0x00000200ffffffff,
	0x00ffff04ffffffff,
	UINT64_MAX,
	0x0000ffffffffffff,
	0xffffffff02ffffff,
	0x00ffff01ffffffff,
};

void guest_x87(struct guest_insn *g)
{
	unsigned n = g->reg & 7;

	g->ops = GO_X87 | GO_TRAPS;
	if (g->mod != 3) {
		uint8_t m = x87_memory[g->op & 7][n];

		if (!m) {
			g->kind = G_INTERP;
			return;
		}
		g->mem_size = m & 0x7f;
		g->ops |= m & 0x80 ? GO_RM_W : GO_RM_R;
		return;
	}
	if (!(x87_registers[g->op & 7] >> (n * 8 + (g->rm & 7)) & 1)) {
		g->kind = G_INTERP;
	} else if ((g->op == 0xda || g->op == 0xdb) && n < 4) {
		g->flags_read = GF_ALL; /* FCMOV */
	} else if ((g->op == 0xdb || g->op == 0xdf) && (n == 5 || n == 6)) {
		g->flags_written = GF_C | GF_P | GF_Z; /* FCOMI */
		g->flags_touched = true;
	}
}
