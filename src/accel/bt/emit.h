/* Writing host instructions. */
#ifndef ACCEL_BT_EMIT_H
#define ACCEL_BT_EMIT_H

#include <string.h>

#include "accel/bt/bt.h"

struct emit {
	uint8_t *p;      /* where the next byte goes */
	uint8_t *base;   /* rw start of the cache */
};

/* A host memory operand: [base + index << scale + disp]; base -1: absolute at GS. */
struct host_mem {
	int8_t base, index;
	uint8_t scale;
	int32_t disp;
};

static inline void e1(struct emit *e, unsigned b) { *e->p++ = (uint8_t)b; }
static inline void e4(struct emit *e, uint32_t v) { memcpy(e->p, &v, 4); e->p += 4; }
static inline void e8(struct emit *e, uint64_t v) { memcpy(e->p, &v, 8); e->p += 8; }
static inline uint32_t emit_at(const struct emit *e) { return (uint32_t)(e->p - e->base); }

/* ModRM, SIB and displacement; the REX bits are the caller's. */
static inline void emit_modrm_mem(struct emit *e, unsigned reg, struct host_mem m)
{
	unsigned r = (reg & 7) << 3;

	if (m.base < 0) {
		e1(e, 4 | r);
		e1(e, (unsigned)m.scale << 6 | (m.index < 0 ? 4u : (unsigned)m.index & 7) << 3 | 5);
		e4(e, (uint32_t)m.disp);
		return;
	}
	bool sib = m.index >= 0 || (m.base & 7) == 4;
	bool none = m.disp == 0 && (m.base & 7) != 5, small = m.disp == (int8_t)m.disp;

	e1(e, (none ? 0 : small ? 0x40u : 0x80u) | r | (sib ? 4 : (unsigned)m.base & 7));
	if (sib)
		e1(e, (unsigned)m.scale << 6 | (m.index < 0 ? 4u : (unsigned)m.index & 7) << 3 | ((unsigned)m.base & 7));
	if (none)
		return;
	if (small)
		e1(e, (uint8_t)m.disp);
	else
		e4(e, (uint32_t)m.disp);
}

static inline unsigned rex_of(bool w, unsigned reg, struct host_mem m)
{
	return (w ? 8u : 0) | (reg >> 3 & 1) << 2 | (m.index >= 8 ? 2u : 0) | (m.base >= 8 ? 1u : 0);
}

/* op reg, [m] for a one-byte opcode. */
static inline void emit_op_mem(struct emit *e, bool w, unsigned op, unsigned reg, struct host_mem m)
{
	unsigned rex = rex_of(w, reg, m);

	if (rex)
		e1(e, 0x40 | rex);
	e1(e, op);
	emit_modrm_mem(e, reg, m);
}

static inline void emit_op_reg(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm)
{
	unsigned rex = (w ? 8u : 0) | (reg >> 3 & 1) << 2 | (rm >> 3 & 1);

	if (rex)
		e1(e, 0x40 | rex);
	e1(e, op);
	e1(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* op reg, gs:[disp] */
static inline void emit_op_gs(struct emit *e, bool w, unsigned op, unsigned reg, int32_t disp)
{
	e1(e, 0x65);
	emit_op_mem(e, w, op, reg, (struct host_mem){ -1, -1, 0, disp });
}

static inline void emit_load_gs(struct emit *e, unsigned reg, int32_t disp) { emit_op_gs(e, true, 0x8b, reg, disp); }
static inline void emit_store_gs(struct emit *e, unsigned reg, int32_t disp) { emit_op_gs(e, true, 0x89, reg, disp); }
static inline void emit_mov(struct emit *e, unsigned to, unsigned from) { emit_op_reg(e, true, 0x8b, to, from); }
static inline void emit_lea(struct emit *e, bool w, unsigned reg, struct host_mem m) { emit_op_mem(e, w, 0x8d, reg, m); }
static inline int32_t gs_gpr(unsigned guest) { return GS_OF(cpu.s.gpr) + (int32_t)guest * 8; }

static inline void emit_imm(struct emit *e, unsigned reg, uint64_t v)
{
	if (v == (uint32_t)v) {
		if (reg >= 8)
			e1(e, 0x41);
		e1(e, 0xb8 | (reg & 7));
		e4(e, (uint32_t)v);
	} else if (v == (uint64_t)(int32_t)v) {
		e1(e, 0x48 | reg >> 3);
		e1(e, 0xc7);
		e1(e, 0xc0 | (reg & 7));
		e4(e, (uint32_t)v);
	} else {
		e1(e, 0x48 | reg >> 3);
		e1(e, 0xb8 | (reg & 7));
		e8(e, v);
	}
}

/* cmp dword gs:[disp], imm8 */
static inline void emit_cmp_gs8(struct emit *e, int32_t disp, unsigned imm)
{
	e1(e, 0x65), e1(e, 0x83);
	emit_modrm_mem(e, 7, (struct host_mem){ -1, -1, 0, disp });
	e1(e, imm);
}

/* Jumps to an offset in the cache, or with the displacement to be filled in: returns where it stands. */
static inline uint32_t emit_jmp(struct emit *e, uint32_t to)
{
	e1(e, 0xe9);
	e4(e, to - (emit_at(e) + 4));
	return emit_at(e) - 4;
}
static inline uint32_t emit_jcc(struct emit *e, unsigned cond, uint32_t to)
{
	e1(e, 0x0f), e1(e, 0x80 | cond);
	e4(e, to - (emit_at(e) + 4));
	return emit_at(e) - 4;
}
static inline uint32_t emit_call(struct emit *e, uint32_t to)
{
	e1(e, 0xe8);
	e4(e, to - (emit_at(e) + 4));
	return emit_at(e) - 4;
}
static inline void emit_call_reg(struct emit *e, unsigned reg)
{
	if (reg >= 8)
		e1(e, 0x41);
	e1(e, 0xff), e1(e, 0xd0 | (reg & 7));
}
/* op reg, [rip + disp] with 64 bits; the displacement is to be filled in: where it stands. */
static inline uint32_t emit_op_rip(struct emit *e, unsigned op, unsigned reg)
{
	e1(e, 0x48 | (reg >> 3 & 1) << 2), e1(e, op), e1(e, (reg & 7) << 3 | 5);
	e4(e, 0);
	return emit_at(e) - 4;
}
static inline void emit_patch(uint8_t *base, uint32_t site, uint32_t to)
{
	uint32_t v = to - (site + 4);

	memcpy(base + site, &v, 4);
}

/* Flags into the image, and back; RAX is kept by way of TEMP1. */
static inline void emit_flags_save(struct emit *e)
{
	emit_mov(e, TEMP1, RAX);
	e1(e, 0x9f);                               /* lahf */
	e1(e, 0x0f), e1(e, 0x90), e1(e, 0xc0);     /* seto al */
	emit_op_gs(e, false, 0x89, RAX, GS_OF(flags));
	emit_mov(e, RAX, TEMP1);
}
static inline void emit_flags_load(struct emit *e)
{
	emit_mov(e, TEMP1, RAX);
	emit_op_gs(e, false, 0x8b, RAX, GS_OF(flags));
	e1(e, 0x04), e1(e, 0x7f);                  /* add al, 0x7f */
	e1(e, 0x9e);                               /* sahf */
	emit_mov(e, RAX, TEMP1);
}

/* The displacement of a tag within an entry of the soft TLB, and of its page's host address. */
static inline int32_t tag_at(enum mmu_view view, bool write) { return (int32_t)view * 16 + (write ? 8 : 0); }
#define HOST_AT ((int32_t)offsetof(struct tlb_entry, host))
_Static_assert(sizeof(struct tlb_entry) == 64, "the probe's index is scaled by 64");

/* TEMP1 = the index of the entry for the address in TEMP0, TEMP0 = the offset in the entry's page: above when it is not in it. */
static inline void emit_tag_compare(struct emit *e, bool bmi2, unsigned size, bool write, enum mmu_view view)
{
	static const uint8_t rorx[] = { 0xc4, 0x43, 0x7b, 0xf0, 0xda, PAGE_SHIFT - 6 };

	if (bmi2) {
		memcpy(e->p, rorx, sizeof(rorx));
		e->p += sizeof(rorx);
	} else {
		emit_op_reg(e, false, 0x8b, TEMP1, TEMP0);
		emit_op_reg(e, false, 0xc1, 5, TEMP1);
		e1(e, PAGE_SHIFT - 6);
	}
	emit_op_reg(e, false, 0x81, 4, TEMP1); /* and */
	e4(e, (TLB_SIZE - 1) << 6);
	e1(e, 0x65);
	emit_op_mem(e, true, 0x2b, TEMP0, (struct host_mem){ TEMP1, -1, 0, tag_at(view, write) });
	emit_op_reg(e, true, 0x81, 7, TEMP0); /* cmp */
	e4(e, PAGE_SIZE - size);
}
/* The page of the entry added to TEMP0, or into TEMP1. */
static inline void emit_entry_host(struct emit *e, bool fold)
{
	e1(e, 0x65);
	emit_op_mem(e, true, fold ? 0x03 : 0x8b, fold ? TEMP0 : TEMP1, (struct host_mem){ TEMP1, -1, 0, HOST_AT });
}

/* Where a privilege's table of windows' deltas is. */
static inline int32_t delta_table(enum mmu_view view) { return GS_OF(delta) + (int32_t)view * (int32_t)(WINDOW_SLOTS * 8); }
/* temp = the number of the slot that the address in a register is in: rorx temp, reg, 39; movzx. */
static inline void emit_slot(struct emit *e, unsigned temp, unsigned reg)
{
	e1(e, 0xc4), e1(e, (temp >= 8 ? 0 : 0x80u) | 0x40 | (reg >= 8 ? 0 : 0x20u) | 3), e1(e, 0xfb), e1(e, 0xf0);
	e1(e, 0xc0 | (temp & 7) << 3 | (reg & 7)), e1(e, 39);
	e1(e, 0x45), e1(e, 0x0f), e1(e, 0xb6), e1(e, 0xc0 | (temp & 7) << 3 | (temp & 7));
}
/* op reg, gs:[slot * 8 + delta] */
static inline void emit_op_delta(struct emit *e, enum mmu_view view, unsigned op, unsigned reg, unsigned slot)
{
	e1(e, 0x65);
	emit_op_mem(e, true, op, reg, (struct host_mem){ -1, (int8_t)slot, 3, delta_table(view) });
}
/* temp = the delta for the address in a register. */
static inline void emit_window_delta(struct emit *e, enum mmu_view view, unsigned temp, unsigned reg)
{
	emit_slot(e, temp, reg);
	emit_op_delta(e, view, 0x8b, temp, temp);
}

/*
 * TEMP0, a guest address, looked up in a mode's jump cache: equal when the entry that TEMP1 then leads to is its own.
 * TEMP0 is salted then. A target that needs the flags is not found so.
 */
static inline void emit_jump_tag(struct emit *e, unsigned mode)
{
	int32_t table = GS_OF(jump) + (int32_t)(mode * sizeof(struct bt_jumps));

	e1(e, 0x65);
	emit_op_mem(e, true, 0x3b, TEMP0, (struct host_mem){ -1, TEMP1, 3, table });
}
static inline void emit_jump_compare(struct emit *e, unsigned mode)
{
	e1(e, 0x45), e1(e, 0x0f), e1(e, 0xb7), e1(e, 0xda); /* movzx TEMP1, word TEMP0 */
	emit_op_gs(e, true, 0x33, TEMP0, GS_OF(salt) + (mode & MODE_USER ? 8 : 0));
	emit_jump_tag(e, mode);
}
/* jmp or call to where the entry leads */
static inline void emit_jump_go(struct emit *e, unsigned mode, bool call)
{
	int32_t target = GS_OF(jump) + (int32_t)(mode * sizeof(struct bt_jumps) + offsetof(struct bt_jumps, target));

	e1(e, 0x65);
	emit_op_mem(e, false, 0xff, call ? 2 : 4, (struct host_mem){ -1, TEMP1, 3, target });
}

#define CC_B 2
#define CC_E 4
#define CC_NE 5
#define CC_A 7

#endif
