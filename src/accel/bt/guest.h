/*
 * A guest instruction as the translator sees it: the encoding taken apart, and what must be known to put it
 * together again around other operands: which operands are general registers, how memory is accessed,
 * which status flags are read and written. Intel SDM volume 2, appendix A.
 */
#ifndef ACCEL_BT_GUEST_H
#define ACCEL_BT_GUEST_H

#include <stdbool.h>
#include <stdint.h>

/* How an instruction is translated. */
enum guest_kind {
	G_INTERP,   /* by the interpreter */
	G_PLAIN,    /* copied, operands replaced */
	G_NOP,
	G_LEA,
	G_JCC, G_LOOP, G_JMP, G_JMP_IND, G_CALL, G_CALL_IND, G_RET,
	G_PUSH_REG, G_PUSH_IMM, G_PUSH_MEM, G_POP_REG, G_LEAVE,
	G_BIT_STRING, /* BT, BTS, BTR, BTC with a memory operand and a bit number in a register */
	G_CLI, G_STI, G_CLD, G_STD, G_STAC, G_CLAC, G_PUSHF, G_STRING, G_SWAPGS, G_PAUSE, G_SYSCALL, G_SYSRET, G_IRET, G_RDTSC, G_READ_SEG, G_READ_CR, G_READ_BASE, G_WRITE_BASE,
};

/* Status flags, one bit each. */
enum { GF_C = 1, GF_P = 2, GF_A = 4, GF_Z = 8, GF_S = 16, GF_O = 32, GF_ALL = 63 };

enum {
	GO_RM_R = 1 << 0, GO_RM_W = 1 << 1,   /* the r/m operand */
	GO_RM_GPR = 1 << 2,                   /* in register form it is a general register */
	GO_REG_R = 1 << 3, GO_REG_W = 1 << 4, /* the reg operand, a general register */
	GO_REG_GPR = 1 << 5,
	GO_OPREG = 1 << 6,                    /* register in the opcode, as RM_R, RM_W say */
	GO_BYTE = 1 << 7,                     /* general register operands are bytes */
	GO_RM_BYTE = 1 << 8,                  /* only r/m is a byte (MOVZX) */
	GO_VVVV_R = 1 << 9, GO_VVVV_W = 1 << 10, /* VEX.vvvv is a general register */
	GO_X87 = 1 << 11, GO_SIMD = 1 << 12, GO_AVX = 1 << 13, /* needs the unit */
	GO_TRAPS = 1 << 14,                   /* may fault without a memory operand */
	GO_ENDS = 1 << 15,                    /* ends the block */
	GO_ACC = 1 << 16,                     /* implicit accumulator forms: nothing to replace */
	GO_RM_W32 = 1 << 17,                  /* the register r/m is written whole whatever the operand size */
};

struct guest_insn {
	uint8_t length, map, op, kind;
	uint8_t rex;            /* W 8, R 4, X 2, B 1 */
	bool has_rex, vex, vex_l, modrm_present, lock, p66, p67, rip_relative;
	uint8_t rep;            /* 0, 0xf2, 0xf3 */
	uint8_t mod, reg, rm;   /* extended by REX or VEX */
	uint8_t vvvv;
	int8_t seg;             /* override: enum x86_seg, or -1 */
	int8_t base, index;     /* -1 none */
	uint8_t scale;
	uint8_t opsize, addrsize;
	uint8_t mem_size;       /* bytes at the memory operand */
	uint8_t imm_size;
	uint8_t flags_read, flags_written; /* GF_; written: surely overwritten */
	bool flags_touched;     /* the flags register changes in some way */
	uint32_t ops;           /* GO_ */
	int32_t disp;
	uint64_t imm;           /* sign-extended */
};

/* Of a string instruction. */
static inline bool string_reads_rsi(const struct guest_insn *g) { return g->op < 0xa8 || (g->op & 0xfe) == 0xac; }
static inline bool string_uses_rdi(const struct guest_insn *g) { return (g->op & 0xfe) != 0xac; }

static inline bool guest_mem(const struct guest_insn *g) { return g->modrm_present && g->mod != 3; }

/* Takes the instruction apart; code_bits is 32 or 64. False when it needs more than `left` bytes. Never fails
 * otherwise: what it does not know is G_INTERP with length 0. */
bool guest_decode(struct guest_insn *g, const uint8_t *bytes, unsigned left, unsigned code_bits);

#endif
