/* Inside of the checker: what is known of registers and flags at an instruction. */
#ifndef ACCEL_BT_CHECK_STATE_H
#define ACCEL_BT_CHECK_STATE_H

#include "accel/bt/check.h"
#include "accel/bt/translate.h"

/*
 * What a register holds. From V_DATA to V_CANONICAL it is the guest's own data, or computed from them: it may go
 * anywhere that the guest may. V_NOTHING is what nobody may look at: a left-over, which may be a host address.
 */
enum value_kind {
	V_NOTHING,
	V_DATA,     /* origin: of 32 bits, the value that they are the lower half of (signed: extended) */
	V_CONST,    /* imm */
	V_MASKED,   /* no bits but those of imm */
	V_ROTATED,  /* the page number of `origin` at the place where the soft TLB's index stands */
	V_INDEX,    /* the soft TLB's index for `origin` */
	V_OFFSET,   /* an address less the tag of the entry `origin`, for reading or writing */
	V_CHECKED,  /* the same, found to be in the page with `end` bytes behind it */
	V_BITS,     /* the word that a bit string's bit `origin` is in; end: bytes of a word */
	V_NEG_BITS,
	V_TURNED,   /* the address `origin`, the number of its window's slot lowest */
	V_SLOT,     /* the slot of `origin` */
	V_SHIFTED,  /* `origin`, 16 bits up */
	V_CANONICAL, /* the same, and down again: equal to it if that is a canonical address */
	V_SALTED,   /* a guest address as the jump cache's tags are */
	V_PAGE,     /* the host's page for the checked offset `origin` */
	V_HOST,     /* host address: [start, end) from it may be accessed */
	V_BIT_HOST, /* the same, moved back by `origin`'s words of a bit string */
	V_DELTA,    /* what leads from `origin` to its window */
	V_DELTA_AT, /* what leads from addresses of slot imm to their window */
	V_WINDOW,   /* host address in a window, or one of its guard zones */
	V_SUM_BASE, /* a base, and the delta of the sum `origin` */
	V_BACK,     /* where a landing calls whoever has returned there */
	V_GUESS,    /* what the home of guest register imm holds: perhaps the delta for its value */
	V_HOME,     /* the home of guest register imm; extended: the delta for the value `origin`, and an index of 32 bits */
};

struct value {
	uint8_t kind;
	bool write, extended, narrow; /* narrow: 32 bits, the upper half is zero */
	uint16_t start, end;
	uint32_t number; /* equal numbers, equal values */
	uint32_t origin;
	uint64_t imm;
};

/* What the last comparison compared. */
enum test_kind { T_NONE, T_OFFSET, T_TAG, T_LEVEL, T_PAGE, T_POLL, T_LANDING, T_JUMP, T_TSD, T_BASES, T_CANONICAL, T_IRQ, T_PAUSES, T_BIT, T_GUESS, T_SMALL, T_BOUND };
struct test {
	uint8_t kind;
	bool write;
	uint32_t number;
	int32_t at;
	uint64_t imm;
};

enum { SLOT_R10, SLOT_R11, SLOT_R15, SLOTS };

/*
 * Of the guest's registers, by their numbers, what C cannot change when it does an instruction and comes back: which
 * homes (known.h) are good with which drift, and whose values are numbers of 32 bits.
 */
struct facts {
	uint16_t home, small;
	uint32_t drift[16];
	/* Of RAX, while TEMP1 keeps it from the moves of the flags; rax: its value's number, or 0. */
	uint32_t rax;
	bool rax_home, rax_small;
};

struct state {
	bool seen, ac, polled, landing, no_tsd, bases, tag_write;
	bool noted;         /* the branch whose target is about to be looked up */
	bool back;          /* called by a landing: all registers but TEMP1 stay as they are */
	uint8_t level;      /* of the vector unit, that is surely the guest's */
	int32_t pushed;     /* an id on the host's stack, or -1 */
	int32_t page;       /* the exit whose page was found to be where it was, or -1 */
	int32_t tag_at;     /* an entry of the soft TLB whose tag has been compared, or -1 */
	uint16_t tag_start, tag_end;
	uint32_t expect;    /* the stub that a failed test or an exit was found to lead to */
	uint32_t jump;      /* the value that leads to an entry of the jump cache whose tag is right */
	struct test test;
	struct value reg[16], slot[SLOTS];
	struct { uint32_t number, base, index; uint8_t scale; } sum; /* the last LEA of a sum of registers: the values' numbers */
	struct facts facts;
};

/* Where control comes from outside, by a helper, a return or an entry: no more is known there than this. */
struct root {
	bool seen, ac, landing, back;
	bool loop;     /* from the block itself: the homes of its sums are good as well */
	bool entry;    /* from other blocks: no more homes are good than they know of */
	uint8_t held, value; /* what C puts into the scratch registers: see struct bt_rec */
	uint8_t level;
	uint32_t knows;
};

struct checker {
	const struct bt_cpu *b;
	const struct bt_block *block;
	const struct bt_rec *recs; /* the block's */
	uint32_t first_rec;        /* the first one's id */
	const uint8_t *code;      /* of the block */
	uint32_t size;
	struct state *state;      /* before the instruction at each offset, by jumps and from the instruction before */
	struct root *root;
	bool *start;              /* an instruction starts at the offset */
	bool again;               /* a root has changed */
	int32_t table;            /* of the jump cache for this mode */
	GString *why;
	/* The instruction in hand. */
	uint32_t at;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* Notes what is wrong, and returns false. */
bool check_fail(struct checker *c, const char *what);

/* ---- check_insn.c ---- */
/* The instruction in hand, when it is none that goes elsewhere: changes `s` to what is known behind it. */
bool check_insn(struct checker *c, struct state *s);
/* Whether it may fault on the host: it has a memory operand of the guest's, divides, or uses the vector unit. */
bool check_may_fault(const struct checker *c);
/* The number of a general register's whole, or -1. */
int check_register(ZydisRegister reg);
/* Reading it is no leak. */
bool check_readable(const struct value *v);
/* A value that nothing is known of. */
struct value check_data(const struct checker *c, unsigned n);
static inline int32_t check_tag(const struct checker *c, const struct state *s, bool write)
{
	uint32_t mode = (c->block->mode & ~(uint32_t)MODE_AC) | (s->ac ? MODE_AC : 0);

	return (int32_t)mode_view(mode) * 16 + (write ? 8 : 0);
}
#define CHECK_HOST_AT ((int32_t)offsetof(struct tlb_entry, host))
#define CHECK_TLB_MASK ((uint64_t)(TLB_SIZE - 1) * sizeof(struct tlb_entry))

/* ---- check_window.c ---- */
/* The delta in TEMP0 was found to be that for the value of guest register n: its home is good. */
void check_guessed(struct state *s, unsigned guest);
/* The results of turning an address until its slot is lowest, and of taking that out; false when it is neither. */
bool check_window_value(const struct checker *c, const struct value *from, struct value *v);
/* mov TEMP, gs:[delta] */
bool check_window_delta(struct checker *c, struct state *s, const ZydisDecodedOperand *m);
/* mov TEMP0, gs:[home] and mov gs:[home], TEMP0 */
bool check_home(struct checker *c, struct state *s, const ZydisDecodedOperand *m);
/* A stub has set the register's home, by TEMP0. */
bool check_home_set(struct checker *c, struct state *s, int guest);
/* A guest register's home in a scratch register; and those of these registers are no homes any more. */
struct value check_home_value(int guest);
void check_homes_gone(struct state *s, uint16_t gone);
/* The guest register that a host register holds, or -1. */
int check_guest_register(int host);
/* What of the facts is left behind the instruction in hand. */
void check_facts(const struct checker *c, struct state *s, const struct value *rax_before);
/* What of known.h's is good enough for another block. */
uint32_t check_known(const struct state *s);
/* The block's own sum, or NULL. */
bool check_pair(const struct checker *c, unsigned n, struct bt_pair *p);
/* A guest register in memory changes: the homes of sums with it as the base are gone. */
void check_pairs_lose(const struct checker *c, struct state *s, int guest);
/* All that is known in the block's loop is known here. */
bool check_loops(const struct checker *c, const struct state *s, bool held);
/* LEA of an address in a window. */
bool check_window_lea(struct checker *c, struct state *s, bool *handled);
/* A memory operand, when it is in a window: whether its record tells of it. */
bool check_window_operand(struct checker *c, struct state *s, const ZydisDecodedOperand *m, bool *handled);

/* ---- check_flow.c ---- */
/* The instruction in hand, when it goes elsewhere. `handled` says whether it does. */
bool check_flow(struct checker *c, struct state *s, bool *handled);

/* ---- check.c ---- */
/* Control may reach `at`, an offset in the cache behind the instruction in hand, with s. */
bool check_reach(struct checker *c, uint32_t at, const struct state *s);
/* Control may come there from outside, with no more of s than a root has. */
bool check_resume(struct checker *c, uint32_t at, const struct state *s);
/* The same by way of C with a record: behind it or once more. */
bool check_resume_next(struct checker *c, const struct bt_rec *r, const struct state *s);
bool check_resume_retry(struct checker *c, const struct bt_rec *r, const struct state *s);
bool check_inside(const struct checker *c, uint32_t at);

#endif
