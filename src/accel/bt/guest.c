/* Taking guest instructions apart; the opcode tables of the one-byte and the 0F map. */
#include "accel/bt/guest.h"

#include <string.h>

#include "accel/bt/guest_simd.h"
#include "base/bytes.h"
#include "x86/cpu_state.h"

/* Immediates. */
enum { I_NONE, I_8, I_Z, I_V, I_16 };

struct entry {
	uint8_t kind, imm;
	bool modrm;
	uint8_t read, written;
	uint32_t ops;
};

#define RM (GO_RM_GPR)
#define RG (GO_RM_GPR | GO_REG_GPR)
#define E_G (RG | GO_RM_R | GO_RM_W | GO_REG_R)   /* op Ev, Gv */
#define E_G_CMP (RG | GO_RM_R | GO_REG_R)
#define G_E (RG | GO_RM_R | GO_REG_R | GO_REG_W)  /* op Gv, Ev */
#define G_E_MOV (RG | GO_RM_R | GO_REG_W)
#define E_RW (RM | GO_RM_R | GO_RM_W)
#define E_W (RM | GO_RM_W)
#define E_R (RM | GO_RM_R)
#define B GO_BYTE

#define ALU(base, rd, cmp)                                                                                 \
	[base + 0] = { G_PLAIN, I_NONE, true, rd, GF_ALL, (cmp ? E_G_CMP : E_G) | B },                     \
	[base + 1] = { G_PLAIN, I_NONE, true, rd, GF_ALL, (cmp ? E_G_CMP : E_G) },                         \
	[base + 2] = { G_PLAIN, I_NONE, true, rd, GF_ALL, (cmp ? E_G_CMP : G_E) | B },                     \
	[base + 3] = { G_PLAIN, I_NONE, true, rd, GF_ALL, (cmp ? E_G_CMP : G_E) },                         \
	[base + 4] = { G_PLAIN, I_8, false, rd, GF_ALL, GO_ACC | B },                                      \
	[base + 5] = { G_PLAIN, I_Z, false, rd, GF_ALL, GO_ACC }

static const struct entry one_byte[256] = {
	ALU(0x00, 0, false), ALU(0x08, 0, false), ALU(0x10, GF_C, false), ALU(0x18, GF_C, false),
	ALU(0x20, 0, false), ALU(0x28, 0, false), ALU(0x30, 0, false), ALU(0x38, 0, true),
	[0x50 ... 0x57] = { G_PUSH_REG, 0, false, 0, 0, GO_OPREG | E_R },
	[0x58 ... 0x5f] = { G_POP_REG, 0, false, 0, 0, GO_OPREG | E_W },
	[0x63] = { G_PLAIN, 0, true, 0, 0, G_E_MOV },
	[0x68] = { G_PUSH_IMM, I_Z }, [0x6a] = { G_PUSH_IMM, I_8 },
	[0x69] = { G_PLAIN, I_Z, true, 0, GF_C | GF_O, G_E_MOV }, [0x6b] = { G_PLAIN, I_8, true, 0, GF_C | GF_O, G_E_MOV },
	[0x70 ... 0x7f] = { G_JCC, I_8, false, 0, 0, GO_ENDS },
	[0x80] = { G_PLAIN, I_8, true, 0, GF_ALL, E_RW | B }, [0x81] = { G_PLAIN, I_Z, true, 0, GF_ALL, E_RW },
	[0x83] = { G_PLAIN, I_8, true, 0, GF_ALL, E_RW },
	[0x84] = { G_PLAIN, 0, true, 0, GF_ALL, E_G_CMP | B }, [0x85] = { G_PLAIN, 0, true, 0, GF_ALL, E_G_CMP },
	[0x86] = { G_PLAIN, 0, true, 0, 0, E_G | GO_REG_W | B }, [0x87] = { G_PLAIN, 0, true, 0, 0, E_G | GO_REG_W },
	[0x88] = { G_PLAIN, 0, true, 0, 0, RG | GO_RM_W | GO_REG_R | B }, [0x89] = { G_PLAIN, 0, true, 0, 0, RG | GO_RM_W | GO_REG_R },
	[0x8a] = { G_PLAIN, 0, true, 0, 0, G_E_MOV | B }, [0x8b] = { G_PLAIN, 0, true, 0, 0, G_E_MOV },
	[0x8c] = { G_INTERP, 0, true }, [0x8e] = { G_INTERP, 0, true }, [0x8f] = { G_INTERP, 0, true },
	[0x8d] = { G_LEA, 0, true, 0, 0, RG | GO_REG_W },
	[0x90 ... 0x97] = { G_PLAIN, 0, false, 0, 0, GO_OPREG | E_RW },
	[0x98 ... 0x99] = { G_PLAIN, 0, false, 0, 0, GO_ACC },
	[0x9b] = { G_INTERP },
	[0x9c] = { G_PUSHF, 0, false, GF_ALL }, [0x9d] = { G_INTERP, 0, false, 0, 0, GO_ENDS },
	[0x9e] = { G_PLAIN, 0, false, 0, GF_ALL & ~GF_O, GO_ACC }, [0x9f] = { G_PLAIN, 0, false, GF_ALL & ~GF_O, 0, GO_ACC },
	[0xa4 ... 0xa7] = { G_STRING, 0, false, GF_ALL }, [0xaa ... 0xaf] = { G_STRING, 0, false, GF_ALL }, /* may be interrupted half-way */
	[0xa8] = { G_PLAIN, I_8, false, 0, GF_ALL, GO_ACC | B }, [0xa9] = { G_PLAIN, I_Z, false, 0, GF_ALL, GO_ACC },
	[0xb0 ... 0xb7] = { G_PLAIN, I_8, false, 0, 0, GO_OPREG | E_W | B },
	[0xb8 ... 0xbf] = { G_PLAIN, I_V, false, 0, 0, GO_OPREG | E_W },
	[0xc0] = { G_PLAIN, I_8, true, 0, 0, E_RW | B }, [0xc1] = { G_PLAIN, I_8, true, 0, 0, E_RW },
	[0xc2] = { G_RET, I_16, false, 0, 0, GO_ENDS }, [0xc3] = { G_RET, 0, false, 0, 0, GO_ENDS },
	[0xc6] = { G_PLAIN, I_8, true, 0, 0, E_W | B }, [0xc7] = { G_PLAIN, I_Z, true, 0, 0, E_W },
	[0xc9] = { G_LEAVE },
	[0xcc ... 0xce] = { G_INTERP, 0, false, 0, 0, GO_ENDS }, [0xcf] = { G_IRET, 0, false, GF_ALL, 0, GO_ENDS }, [0xf1] = { G_INTERP, 0, false, 0, 0, GO_ENDS },
	[0xd0 ... 0xd1] = { G_PLAIN, 0, true, 0, 0, E_RW }, [0xd2 ... 0xd3] = { G_PLAIN, 0, true, 0, 0, E_RW },
	[0xd7] = { G_INTERP },
	[0xd8 ... 0xdf] = { G_PLAIN, 0, true, 0, 0, GO_X87 },
	[0xe0 ... 0xe3] = { G_LOOP, I_8, false, 0, 0, GO_ENDS },
	[0xe4 ... 0xe7] = { G_INTERP, I_8 }, [0xec ... 0xef] = { G_INTERP },
	[0xe8] = { G_CALL, I_Z, false, 0, 0, GO_ENDS }, [0xe9] = { G_JMP, I_Z, false, 0, 0, GO_ENDS },
	[0xeb] = { G_JMP, I_8, false, 0, 0, GO_ENDS },
	[0xf4] = { G_INTERP, 0, false, 0, 0, GO_ENDS },
	[0xf5] = { G_PLAIN, 0, false, GF_C, GF_C, GO_ACC }, [0xf8 ... 0xf9] = { G_PLAIN, 0, false, 0, GF_C, GO_ACC },
	[0xf6] = { G_PLAIN, 0, true, 0, 0, RM | B }, [0xf7] = { G_PLAIN, 0, true, 0, 0, RM },
	[0xfa] = { G_CLI }, [0xfb] = { G_STI }, [0xfc] = { G_CLD }, [0xfd] = { G_STD },
	[0xfe] = { G_PLAIN, 0, true, 0, GF_ALL & ~GF_C, E_RW | B }, [0xff] = { G_PLAIN, 0, true, 0, 0, RM },
};

static const struct entry two_byte[256] = {
	[0x00] = { G_INTERP, 0, true }, [0x01] = { G_INTERP, 0, true }, [0x02 ... 0x03] = { G_INTERP, 0, true },
	[0x05] = { G_SYSCALL, 0, false, GF_ALL, 0, GO_ENDS }, [0x06] = { G_INTERP }, [0x07] = { G_SYSRET, 0, false, GF_ALL, 0, GO_ENDS },
	[0x08 ... 0x09] = { G_INTERP }, [0x0b] = { G_INTERP, 0, false, 0, 0, GO_ENDS },
	[0x0d] = { G_NOP, 0, true }, [0x18 ... 0x1f] = { G_NOP, 0, true },
	[0x20 ... 0x23] = { G_INTERP, 0, true },
	[0x30] = { G_INTERP }, [0x31] = { G_RDTSC }, [0x32 ... 0x33] = { G_INTERP }, [0x34 ... 0x35] = { G_INTERP, 0, false, 0, 0, GO_ENDS },
	[0x40 ... 0x4f] = { G_PLAIN, 0, true, 0, 0, G_E },
	[0x80 ... 0x8f] = { G_JCC, I_Z, false, 0, 0, GO_ENDS },
	[0x90 ... 0x9f] = { G_PLAIN, 0, true, 0, 0, E_W | B },
	[0xa0 ... 0xa1] = { G_INTERP }, [0xa8 ... 0xa9] = { G_INTERP }, [0xa2] = { G_INTERP },
	[0xa3] = { G_BIT_STRING, 0, true, 0, GF_C, E_G_CMP }, [0xab] = { G_BIT_STRING, 0, true, 0, GF_C, E_G },
	[0xb3] = { G_BIT_STRING, 0, true, 0, GF_C, E_G }, [0xbb] = { G_BIT_STRING, 0, true, 0, GF_C, E_G },
	[0xa4] = { G_PLAIN, I_8, true, 0, 0, E_G }, [0xac] = { G_PLAIN, I_8, true, 0, 0, E_G },
	[0xa5] = { G_PLAIN, 0, true, 0, 0, E_G }, [0xad] = { G_PLAIN, 0, true, 0, 0, E_G },
	[0xae] = { G_INTERP, 0, true }, [0xaf] = { G_PLAIN, 0, true, 0, GF_C | GF_O, G_E },
	[0xb0] = { G_PLAIN, 0, true, 0, GF_ALL, E_G | B }, [0xb1] = { G_PLAIN, 0, true, 0, GF_ALL, E_G },
	[0xb2] = { G_INTERP, 0, true }, [0xb4 ... 0xb5] = { G_INTERP, 0, true },
	[0xb6] = { G_PLAIN, 0, true, 0, 0, G_E_MOV | GO_RM_BYTE }, [0xbe] = { G_PLAIN, 0, true, 0, 0, G_E_MOV | GO_RM_BYTE },
	[0xb7] = { G_PLAIN, 0, true, 0, 0, G_E_MOV }, [0xbf] = { G_PLAIN, 0, true, 0, 0, G_E_MOV },
	[0xb8] = { G_PLAIN, 0, true, 0, GF_ALL, G_E_MOV },
	[0xb9] = { G_INTERP, 0, true, 0, 0, GO_ENDS },
	[0xba] = { G_PLAIN, I_8, true, 0, GF_C, E_RW },
	[0xbc ... 0xbd] = { G_PLAIN, 0, true, 0, GF_Z, G_E },
	[0xc0] = { G_PLAIN, 0, true, 0, GF_ALL, E_G | GO_REG_W | B }, [0xc1] = { G_PLAIN, 0, true, 0, GF_ALL, E_G | GO_REG_W },
	[0xc3] = { G_PLAIN, 0, true, 0, 0, RG | GO_RM_W | GO_REG_R },
	[0xc7] = { G_INTERP, 0, true },
	[0xc8 ... 0xcf] = { G_PLAIN, 0, false, 0, 0, GO_OPREG | E_RW },
};

/* ---- bytes ---- */

struct reader {
	const uint8_t *p;
	unsigned at, left;
	bool short_of;
};

static uint8_t take(struct reader *r)
{
	if (r->at >= r->left) {
		r->short_of = true;
		return 0;
	}
	return r->p[r->at++];
}

static int64_t take_signed(struct reader *r, unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)take(r) << (8 * i);
	if (!size || size == 8)
		return (int64_t)v;
	return (int64_t)(v << (64 - 8 * size)) >> (64 - 8 * size);
}

/* Legacy and REX prefixes; returns the opcode byte. */
static uint8_t take_prefixes(struct reader *r, struct guest_insn *g, unsigned bits)
{
	for (;;) {
		uint8_t b = take(r);

		switch (b) {
		case 0x66: g->p66 = true; break;
		case 0x67: g->p67 = true; break;
		case 0xf0: g->lock = true; break;
		case 0xf2: case 0xf3: g->rep = b; break;
		/* In 64-bit code these count for nothing, not even against FS or GS before them. */
		case 0x26: case 0x2e: case 0x36: case 0x3e:
			if (bits != 64)
				g->seg = (int8_t)(b == 0x26 ? SEG_ES : b == 0x2e ? SEG_CS : b == 0x36 ? SEG_SS : SEG_DS);
			break;
		case 0x64: g->seg = SEG_FS; break;
		case 0x65: g->seg = SEG_GS; break;
		default:
			if (bits == 64 && (b & 0xf0) == 0x40) {
				uint8_t next = r->at < r->left ? r->p[r->at] : 0x90;

				/* A REX that is not last counts for nothing: left to the interpreter by its odd length. */
				g->rex = b & 15;
				g->has_rex = true;
				if ((next & 0xf0) == 0x40 || next == 0x66 || next == 0x67 || next == 0xf0 || next == 0xf2 || next == 0xf3 ||
				    next == 0x26 || next == 0x2e || next == 0x36 || next == 0x3e || next == 0x64 || next == 0x65)
					r->at = r->left, g->length = 0xff;
				return take(r);
			}
			return b;
		}
		if (r->short_of || r->at > 14)
			return 0;
	}
}

static bool take_vex(struct reader *r, struct guest_insn *g, uint8_t lead, unsigned bits)
{
	uint8_t b = r->at < r->left ? r->p[r->at] : 0, pp;

	if (bits != 64 && (b & 0xc0) != 0xc0)
		return false;
	b = take(r);
	g->vex = true;
	g->rex = b & 0x80 ? 0 : 4;
	g->map = 1;
	if (lead == 0xc4) {
		g->rex |= (b & 0x40 ? 0 : 2) | (b & 0x20 ? 0 : 1);
		g->map = b & 31;
		b = take(r);
		g->rex |= b & 0x80 ? 8 : 0;
	}
	if (bits != 64)
		g->rex &= 8;
	g->vvvv = (~b >> 3) & (bits == 64 ? 15 : 7);
	g->vex_l = b & 4;
	pp = b & 3;
	g->p66 = pp == 1;
	g->rep = pp == 2 ? 0xf3 : pp == 3 ? 0xf2 : 0;
	g->op = take(r);
	return true;
}

static void take_modrm(struct reader *r, struct guest_insn *g, unsigned bits)
{
	uint8_t b = take(r);

	g->modrm_present = true;
	g->mod = b >> 6;
	g->reg = (uint8_t)((b >> 3 & 7) | (g->rex & 4) << 1);
	g->rm = (uint8_t)((b & 7) | (g->rex & 1) << 3);
	g->base = g->index = -1;
	/* MOV with a control or debug register takes any mod for a register (SDM 2B, MOV). */
	if (g->map == 1 && !g->vex && (g->op & 0xfc) == 0x20)
		g->mod = 3;
	if (g->mod == 3)
		return;
	if (g->addrsize == 2) { /* only its length counts: it is the interpreter's */
		take_signed(r, g->mod == 1 ? 1 : g->mod == 2 || (b & 7) == 6 ? 2 : 0);
		return;
	}
	g->base = (int8_t)g->rm;
	if ((b & 7) == 4) {
		uint8_t s = take(r);

		g->scale = s >> 6;
		g->index = (int8_t)((s >> 3 & 7) | (g->rex & 2) << 2);
		g->base = (int8_t)((s & 7) | (g->rex & 1) << 3);
		if (g->index == 4)
			g->index = -1;
		if ((s & 7) == 5 && g->mod == 0) {
			g->base = -1;
			g->disp = (int32_t)take_signed(r, 4);
		}
	} else if ((b & 7) == 5 && g->mod == 0) {
		g->base = -1;
		g->rip_relative = bits == 64;
		g->disp = (int32_t)take_signed(r, 4);
	}
	if (g->mod == 1)
		g->disp = (int32_t)take_signed(r, 1);
	else if (g->mod == 2)
		g->disp = (int32_t)take_signed(r, 4);
}

/* ---- groups ---- */

static void interp(struct guest_insn *g, bool ends)
{
	g->kind = G_INTERP;
	g->ops = ends ? GO_ENDS : 0;
}

static void shift_group(struct guest_insn *g, bool by_cl, unsigned count)
{
	bool rotate = (g->reg & 7) < 4;

	g->flags_touched = true;
	if ((g->reg & 7) == 6)
		interp(g, false);
	if ((g->reg & 7) == 2 || (g->reg & 7) == 3)
		g->flags_read = GF_C;
	if (by_cl)
		return;
	count &= g->opsize == 8 ? 63 : 31;
	if (count)
		g->flags_written = rotate ? GF_C : GF_ALL & ~GF_A;
	if (count == 1)
		g->flags_written |= GF_O;
	else if (!rotate)
		g->flags_written &= (uint8_t)~GF_O;
}

static void group_3(struct reader *r, struct guest_insn *g)
{
	static const uint8_t written[8] = { GF_ALL, GF_ALL, 0, GF_ALL, GF_C | GF_O, GF_C | GF_O, 0, 0 };
	unsigned n = g->reg & 7;

	g->flags_touched = n != 2;
	g->flags_written = written[n];
	g->ops |= GO_RM_R;
	if (n < 2) {
		g->imm_size = g->op == 0xf6 ? 1 : g->opsize == 2 ? 2 : 4;
		g->imm = (uint64_t)take_signed(r, g->imm_size);
	} else if (n < 4) {
		g->ops |= GO_RM_W;
	} else if (n > 5) {
		g->ops |= GO_TRAPS;
	}
}

static void group_5(struct guest_insn *g, unsigned bits)
{
	switch (g->reg & 7) {
	case 0: case 1:
		g->ops |= E_RW;
		g->flags_touched = true;
		g->flags_written = GF_ALL & ~GF_C;
		return;
	case 2: g->kind = G_CALL_IND; break;
	case 4: g->kind = G_JMP_IND; break;
	case 6:
		g->kind = G_PUSH_MEM;
		g->ops |= GO_RM_R;
		if (bits == 64)
			g->opsize = g->p66 ? 2 : 8;
		return;
	default: interp(g, true); return;
	}
	g->ops |= GO_RM_R | GO_ENDS;
	if (bits == 64)
		g->opsize = 8;
	else if (g->p66)
		interp(g, true);
}

static void one_byte_fixups(struct reader *r, struct guest_insn *g, unsigned bits)
{
	unsigned op = g->op;

	switch (op) {
	case 0x06: case 0x07: case 0x0e: case 0x16: case 0x17: case 0x1e: case 0x1f: case 0x27: case 0x2f: case 0x37: case 0x3f:
	case 0x60: case 0x61: case 0x62: case 0x82: case 0xd6: case 0xc4: case 0xc5: case 0x9a: case 0xea: case 0xc8: case 0xca: case 0xcb:
	case 0x6c ... 0x6f: case 0xd4: case 0xd5:
		interp(g, false);
		g->length = 0xff;
		break;
	case 0x40 ... 0x4f: /* INC and DEC of 32-bit code: as FF /0, /1 */
		g->kind = G_PLAIN;
		g->modrm_present = true;
		g->mod = 3;
		g->rm = op & 7;
		g->reg = op >> 3 & 1;
		g->op = 0xff;
		g->ops = E_RW;
		g->flags_touched = true;
		g->flags_written = GF_ALL & ~GF_C;
		break;
	case 0x63:
		if (bits != 64)
			interp(g, false);
		g->mem_size = 4; /* with an operand size of 16 bits some read 2, some 4 */
		break;
	case 0x80: case 0x81: case 0x83:
		if ((g->reg & 7) == 7)
			g->ops &= ~(uint32_t)GO_RM_W;
		if ((g->reg & 7) == 2 || (g->reg & 7) == 3)
			g->flags_read = GF_C;
		break;
	case 0x90:
		if (!(g->rex & 1)) {
			g->kind = g->rep == 0xf3 ? G_PLAIN : G_NOP;
			g->ops = GO_ACC;
		}
		break;
	case 0xa0 ... 0xa3: { /* MOV with an absolute address: as 8A, 8B, 88, 89 */
		uint64_t where = (uint64_t)take_signed(r, g->addrsize);

		g->kind = G_PLAIN;
		g->op = (op < 0xa2 ? 0x8a : 0x88) | (op & 1);
		g->ops = one_byte[g->op].ops;
		g->modrm_present = true;
		g->base = g->index = -1;
		g->disp = (int32_t)where;
		if (bits == 64 && (g->addrsize != 8 || (uint64_t)(int64_t)g->disp != where))
			interp(g, false);
		break;
	}
	case 0x8c:
		if (g->mod == 3 && (g->reg & 7) < 6)
			g->kind = G_READ_SEG;
		break;
	case 0xc0: case 0xc1:
		shift_group(g, false, (unsigned)g->imm);
		break;
	case 0xd0: case 0xd1:
		g->ops |= op == 0xd0 ? B : 0;
		shift_group(g, false, 1);
		break;
	case 0xd2: case 0xd3:
		g->ops |= op == 0xd2 ? B : 0;
		shift_group(g, true, 0);
		break;
	case 0xc6: case 0xc7: case 0x8f:
		if (g->reg & 7 || op == 0x8f)
			interp(g, false);
		break;
	case 0x70 ... 0x7f: g->flags_read = GF_ALL; break;
	case 0xe0: case 0xe1: g->flags_read = GF_Z; break;
	case 0xf6: case 0xf7: group_3(r, g); break;
	case 0xfe:
		if ((g->reg & 7) > 1)
			interp(g, true);
		break;
	case 0xff: group_5(g, bits); break;
	case 0xd8 ... 0xdf: guest_x87(g); break;
	default: break;
	}
}

static void two_byte_fixups(struct guest_insn *g)
{
	unsigned n = g->reg & 7;

	switch (g->op) {
	case 0x01:
		if (g->mod == 3 && g->reg == 7 && g->rm < 2)
			g->kind = g->rm ? G_RDTSC : G_SWAPGS;
		else if (g->mod == 3 && g->reg == 1 && g->rm == 2)
			g->kind = G_CLAC;
		else if (g->mod == 3 && g->reg == 1 && g->rm == 3)
			g->kind = G_STAC;
		break;
	case 0x20:
		if (!g->lock && (g->reg == 0 || g->reg == 2 || g->reg == 3 || g->reg == 4))
			g->kind = G_READ_CR;
		break;
	case 0x1f: case 0x0d: case 0x18 ... 0x1e: break;
	case 0xc3: /* MOVNTI */
		if (g->mod == 3 || g->p66 || g->rep)
			interp(g, true);
		break;
	case 0x40 ... 0x4f: case 0x80 ... 0x8f: case 0x90 ... 0x9f: g->flags_read = GF_ALL; break;
	case 0xa4: case 0xac: /* SHLD, SHRD */
		g->flags_touched = true;
		if (g->imm & (g->opsize == 8 ? 63 : 31))
			g->flags_written = GF_C | GF_P | GF_Z | GF_S;
		break;
	case 0xa5: case 0xad: g->flags_touched = true; break;
	case 0xa3: case 0xab: case 0xb3: case 0xbb:
		if (g->mod == 3)
			g->kind = G_PLAIN;
		break;
	case 0xae:
		if (g->mod == 3 && n >= 5 && !g->rep && !g->p66)
			g->kind = G_PLAIN, g->ops = GO_ACC; /* fences */
		else if (g->mod == 3 && n < 4 && g->rep == 0xf3 && !g->p66)
			g->kind = n < 2 ? G_READ_BASE : G_WRITE_BASE;
		break;
	case 0xb6: case 0xbe: g->mem_size = 1; break;
	case 0xb7: case 0xbf: g->mem_size = 2; break;
	case 0xb8:
		if (g->rep != 0xf3)
			interp(g, true);
		break;
	case 0xba:
		if (n < 4)
			interp(g, true);
		else if (n == 4)
			g->ops &= ~(uint32_t)GO_RM_W;
		break;
	case 0xbc: case 0xbd: /* BSF keeps the register when there is no bit; TZCNT writes CF and ZF */
		if (g->rep == 0xf3)
			g->flags_written = GF_C | GF_Z;
		break;
	case 0xc7:
		if (n == 1 && g->mod != 3) { /* CMPXCHG8B, CMPXCHG16B */
			g->kind = G_PLAIN;
			g->ops = GO_RM_R | GO_RM_W;
			g->mem_size = g->rex & 8 ? 16 : 8;
			g->flags_touched = true;
			g->flags_written = GF_Z;
		}
		break;
	default: break;
	}
}

/* ---- the whole ---- */

static unsigned imm_bytes(const struct guest_insn *g, unsigned kind)
{
	switch (kind) {
	case I_8: return 1;
	case I_16: return 2;
	case I_Z: return g->opsize == 2 ? 2 : 4;
	case I_V: return g->opsize;
	default: return 0;
	}
}

static void general(struct reader *r, struct guest_insn *g, const struct entry *e, unsigned bits)
{
	g->kind = e->kind;
	g->ops = e->ops;
	g->flags_read = e->read;
	g->flags_written = e->written;
	g->flags_touched = e->written != 0;
	if (e->modrm)
		take_modrm(r, g, bits);
	g->mem_size = e->ops & (GO_BYTE | GO_RM_BYTE) ? 1 : g->opsize;
	/* Near branches of 64-bit code have no 16-bit form. */
	if (bits == 64 && (e->kind == G_CALL || e->kind == G_JMP || e->kind == G_JCC))
		g->opsize = 8;
	g->imm_size = (uint8_t)imm_bytes(g, e->imm);
	g->imm = (uint64_t)take_signed(r, g->imm_size);
}

static void finish(struct guest_insn *g, unsigned bits)
{
	if (bits == 64 && (g->kind == G_PUSH_REG || g->kind == G_POP_REG || g->kind == G_PUSH_IMM || g->kind == G_LEAVE ||
			   g->kind == G_RET || g->kind == G_PUSHF)) {
		if (g->opsize == 2 && g->kind != G_RET)
			interp(g, false);
		g->opsize = 8;
	}
	if (bits == 32 && g->opsize == 2 && g->kind != G_PLAIN && g->kind != G_NOP && g->kind != G_BIT_STRING && g->kind != G_LEA &&
	    g->kind != G_STRING && g->kind != G_READ_SEG)
		interp(g, g->ops & GO_ENDS);
	if (g->lock && (!guest_mem(g) || !(g->ops & GO_RM_W) || g->vex))
		interp(g, true);
	if (g->addrsize == 2 || (guest_mem(g) && g->addrsize != bits / 8 && bits != 64))
		interp(g, g->ops & GO_ENDS);
}

bool guest_decode(struct guest_insn *g, const uint8_t *bytes, unsigned left, unsigned bits)
{
	struct reader r = { bytes, 0, left > 15 ? 15 : left, false };
	uint8_t b;

	memset(g, 0, sizeof(*g));
	g->seg = g->base = g->index = -1;
	b = take_prefixes(&r, g, bits);
	g->opsize = g->rex & 8 ? 8 : g->p66 ? 2 : 4;
	g->addrsize = (uint8_t)(bits == 64 ? (g->p67 ? 4 : 8) : (g->p67 ? 2 : 4));
	g->op = b;
	if (g->length == 0xff) {
		interp(g, true);
		g->length = 0;
		return true;
	}
	if ((b == 0xc4 || b == 0xc5) && !g->has_rex && !g->p66 && !g->rep && !g->lock && take_vex(&r, g, b, bits)) {
		if (!r.short_of && !(g->map == 1 && g->op == 0x77)) /* VZEROUPPER */
			take_modrm(&r, g, bits);
		guest_vex(g);
		if (g->imm_size)
			g->imm = (uint64_t)take_signed(&r, 1);
	} else if (b == 0x0f) {
		g->map = 1;
		g->op = take(&r);
		if (g->op == 0x38 || g->op == 0x3a) {
			g->map = g->op == 0x38 ? 2 : 3;
			g->op = take(&r);
			take_modrm(&r, g, bits);
			guest_three_byte(g);
			if (g->imm_size)
				g->imm = (uint64_t)take_signed(&r, 1);
		} else if (guest_is_simd(g->op)) {
			if (g->op != 0x77)
				take_modrm(&r, g, bits);
			guest_simd(g);
			if (g->imm_size)
				g->imm = (uint64_t)take_signed(&r, 1);
		} else {
			general(&r, g, &two_byte[g->op], bits);
			if (!two_byte[g->op].modrm && two_byte[g->op].kind == G_INTERP && !two_byte[g->op].ops)
				g->length = g->op == 0x30 || g->op == 0x31 || g->op == 0x32 || g->op == 0xa2 || g->op == 0x06 || g->op == 0x08 ||
					    g->op == 0x09 || g->op == 0xa0 || g->op == 0xa1 || g->op == 0xa8 || g->op == 0xa9 ? 0 : 0xff;
			two_byte_fixups(g);
		}
	} else {
		bool known = one_byte[b].kind != G_INTERP || one_byte[b].modrm || one_byte[b].imm || one_byte[b].ops || b == 0xd7 ||
			     b == 0x9b || (b >= 0xec && b <= 0xef) || (b >= 0xa0 && b <= 0xa3) || (bits == 32 && (b & 0xf0) == 0x40);

		general(&r, g, &one_byte[b], bits);
		one_byte_fixups(&r, g, bits);
		if (!known)
			g->length = 0xff;
	}
	if (r.short_of)
		return false;
	if (g->length == 0xff) { /* an encoding whose length we do not know */
		g->length = 0;
		interp(g, true);
		return true;
	}
	g->length = (uint8_t)r.at;
	finish(g, bits);
	if (g->kind == G_INTERP) {
		g->flags_read = GF_ALL;
		g->flags_written = 0;
		g->flags_touched = true;
	}
	return true;
}
