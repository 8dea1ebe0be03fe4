/* Inside of the translator: one block under construction. */
#ifndef ACCEL_BT_TRANSLATE_H
#define ACCEL_BT_TRANSLATE_H

#include "accel/bt/emit.h"
#include "accel/bt/guest.h"
#include "accel/bt/known.h"

#define BLOCK_LATER 160
/* No block's code is longer. */
#define BLOCK_CODE_MAX 16384u
#define BLOCK_RELOCS 160u

/* Where the guest's status flags are. IMAGE also stands for dead ones that nothing may read. */
enum flags_place { FLAGS_HOST, FLAGS_IMAGE, FLAGS_BOTH };

/* Code that stands behind the block: what a failed test jumps to. */
enum later_kind { LATER_FILL, LATER_FILL_LIN, LATER_INSN, LATER_FP, LATER_EXIT, LATER_EXIT_FLAGS, LATER_PAGE, LATER_POLL, LATER_MISS, LATER_SALTED,
		  LATER_CROSS, LATER_CALL_MISS, LATER_CALL_SALTED, LATER_LANDING, LATER_RETURNED };
/* How flags are made again: remake.c. b: a register, or REMAKE_IMM; moved: how far they have gone since, by constants. */
enum { REMAKE_NONE, REMAKE_ZERO, REMAKE_ADD, REMAKE_SUB, REMAKE_COMPARE, REMAKE_TEST };
#define REMAKE_IMM 0xffu
struct remake {
	uint8_t kind, size, a, b;
	int32_t imm, moved_a, moved_b;
};

struct later {
	uint32_t site;  /* of the jump's displacement; 0: only an exit's stub */
	uint32_t id;    /* record or exit */
	uint32_t back;  /* where a call goes on */
	uint64_t lin;
	enum later_kind kind;
};

struct tr {
	struct bt_cpu *b;
	struct emit e;
	struct bt_block *block;
	uint32_t mode;    /* at this instruction */
	bool code32, bmi2;
	bool tier2;       /* memory operands in windows, but for instructions that are better off without */
	unsigned count, at;
	uint64_t lin;     /* of this instruction */
	enum flags_place flags;
	bool window;      /* this instruction's memory operand is in a window */
	bool calls;       /* user code of tier 1: probes and moves of the flags are called */
	bool homes;       /* 64-bit code of tier 2: registers' homes are used */
	struct known known;
	struct bt_pair pair[PAIRS];
	bool loop;        /* it is one, with an entry of its own */
	uint16_t loop_writes; /* registers that it changes */
	uint8_t loop_held, loop_value; /* what the scratch registers hold there */
	uint8_t held;     /* whose homes TEMP0 (low half) and TEMP1 hold, as bt_rec has it */
	uint8_t value;    /* enum bt_value: the register in memory whose value TEMP1 holds */
	uint8_t fp_checked;
	struct remake remake; /* of the flags, where its last instruction leads when they are needed */
	unsigned laters;

	/* From here on nothing is set before it is used. */
	struct guest_insn insn[BLOCK_INSNS];
	uint16_t offset[BLOCK_INSNS + 1];
	bool serves[BLOCK_INSNS];      /* accesses memory in a window, unless AC is set where it is */
	uint16_t writes[BLOCK_INSNS], changes[BLOCK_INSNS]; /* tier 2: general registers; otherwise than by a constant */
	uint8_t live[BLOCK_INSNS + 1]; /* GF_ that matter before each instruction */
	struct bt_rec rec[RECS_MAX];
	struct later later[BLOCK_LATER];
};

static inline uint8_t live_before(const struct tr *t) { return t->live[t->at]; }
static inline uint8_t live_after(const struct tr *t) { return t->live[t->at + 1]; }
static inline unsigned word(const struct tr *t) { return t->code32 ? 4 : 8; }
/* The segment of its memory operand. */
static inline unsigned guest_segment(const struct guest_insn *g)
{
	return g->seg >= 0 ? (unsigned)g->seg : g->base == RSP || g->base == RBP ? SEG_SS : SEG_DS;
}
static inline uint64_t next_lin(const struct tr *t)
{
	uint64_t n = t->lin + t->insn[t->at].length;

	return t->code32 ? (uint32_t)n : n;
}

/* The offset in the block's code of what comes next. */
static inline uint16_t code_at(const struct tr *t) { return (uint16_t)(emit_at(&t->e) - t->block->host); }

/* The last `bytes` bytes of code depend on where the block is. */
static inline void reloc_add(struct tr *t, enum bt_reloc_kind kind, unsigned bytes)
{
	t->b->relocs[t->b->reloc_count++] = (struct bt_reloc){ kind, (uint16_t)(code_at(t) - bytes) };
	t->block->relocs++;
}

/* ---- translate.c ---- */
/* Whether the block's instruction i accesses memory in a window. */
static inline bool window_serves(const struct tr *t, unsigned i) { return t->serves[i] && !(t->mode & MODE_AC); }

/* ---- operands.c ---- */
/* A linear address into a register, one that counts from the block's own: it moves with it. */
void emit_lin(struct tr *t, unsigned reg, uint64_t lin);
/* The host register that always holds a guest register, or -1. */
int host_register(unsigned guest);
/* The guest register in a host one: its own, or temp with the value loaded. */
unsigned register_get(struct tr *t, unsigned guest, unsigned temp);
struct bt_rec *rec_new(struct tr *t, uint32_t *id);
static inline struct bt_rec *rec_of(struct tr *t, uint32_t id) { return &t->rec[id - bt_rec_first(t->b, t->block)]; }
/* The same of an instruction that destroys the flags register: they are in the image. */
struct bt_rec *rec_saved(struct tr *t, uint32_t *id);
/* C may go on behind the record's instruction, which ends here. */
void rec_goes_on(struct tr *t, struct bt_rec *rec);
/* A scratch register is used otherwise than for a home or a value. */
void temp_used(struct tr *t, unsigned reg);
void temps_used(struct tr *t);
/* From a scratch register into a guest register in memory; TEMP1 holds its value then. */
void register_put(struct tr *t, unsigned guest, unsigned temp);
/* As enum bt_value has it. */
unsigned value_of(unsigned guest);
/* A record's number into a member. */
void emit_note(struct tr *t, int32_t member, uint32_t id);
/* The interpreter does the record's instruction when TEMP0 is not canonical. Destroys TEMP1 and the flags. */
void emit_canonical(struct tr *t, uint32_t id);
void later_add(struct tr *t, enum later_kind kind, uint32_t site, uint32_t id, uint64_t lin, uint32_t back);
/* The flags into the image, and back. Destroys TEMP1. */
void emit_save(struct tr *t);
void emit_load(struct tr *t);
/* The flags register may be destroyed: what is live is put into the image first. */
void flags_clobber(struct tr *t);
/* The flags register holds the guest's. Destroys TEMP1. */
void flags_need(struct tr *t);
/* The image holds the guest's flags. */
void flags_in_image(struct tr *t);
/* Base and index, both in memory, need a scratch register each. */
void operands_apart(struct tr *t, const struct guest_insn *g);
/* The linear address of the memory operand into TEMP0 (TEMP1 is destroyed). */
void emit_address(struct tr *t, const struct guest_insn *g);
/* Whether it is the same wherever the block runs, and what. */
bool constant_address(const struct tr *t, const struct guest_insn *g, uint64_t *lin);
/* The flags register may be destroyed by an access; in a window none is. */
void access_clobbers(struct tr *t);
/* The record's instruction accesses memory with the code that follows, up to access_end. */
void access_begin(struct tr *t, struct bt_rec *rec);
void access_end(struct tr *t, struct bt_rec *rec);
/* TEMP0 from a linear address to a host operand; TEMP1 is free afterwards when `fold`. */
struct host_mem emit_probe(struct tr *t, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold);
/* Address and probe of the instruction's memory operand. */
struct host_mem emit_operand(struct tr *t, const struct guest_insn *g, struct bt_rec *rec, uint32_t id, unsigned size, bool write, bool fold);

/* Sets homes at the block's entries. Destroys TEMP0. */
void emit_homes(struct tr *t, uint32_t set);

/* Sets the homes of the loop's sums, and loads the scratch registers at the entry of its own jumps. */
void emit_loop(struct tr *t);

/* Sets RSP's home, as all who return or go by the jump cache do. Destroys TEMP0. */
void emit_return_home(struct tr *t);

/* The same for what is at a frame's register and a displacement. */
struct host_mem emit_frame(struct tr *t, struct bt_rec *rec, uint32_t id, enum bt_frame frame, int disp, unsigned size, bool write, bool fold);

/* ---- plain.c ---- */
bool plain_supported(const struct guest_insn *g);
/* Whether its memory operand may be in a window: nothing has been changed when it faults. */
bool plain_windowed(const struct guest_insn *g);
void emit_plain(struct tr *t, const struct guest_insn *g);
void emit_lea_insn(struct tr *t, const struct guest_insn *g);
void emit_bit_string(struct tr *t, const struct guest_insn *g);

/* ---- remake.c ---- */
/* Whether the flags, in the host's register now, can be had again behind the instruction in hand. */
bool remake_find(const struct tr *t, struct remake *r);
/* There: the host's flags register holds them. Destroys TEMP1. */
void emit_remake(struct tr *t, const struct remake *r);

/* ---- stack.c ---- */
/* How many instructions it has taken. */
unsigned emit_push_run(struct tr *t);
unsigned emit_pop_run(struct tr *t);
void emit_push_mem(struct tr *t, const struct guest_insn *g);
void emit_pushf(struct tr *t);
void emit_leave(struct tr *t);
/* The return address onto the guest's stack; `kept`: what was there before can be put back. */
void emit_push_return(struct tr *t, struct bt_rec *rec, uint32_t id, bool kept);

/* ---- control.c ---- */
/* What of the flags matters is found by looking ahead, no more than so many bytes. */
#define BT_LOOK_AHEAD 96u
/* And behind so many jumps and calls. */
#define BT_LOOK_JUMPS 2u
/* Pieces of a page that tell what of the flags matters behind a way out. */
struct bt_look {
	unsigned count;
	uint16_t at[1 + BT_LOOK_JUMPS], length[1 + BT_LOOK_JUMPS];
};
/* What of the flags matters at a place of a page, by what there is on that page, and what told it. */
uint8_t bt_live_on_page(const uint8_t *page, unsigned at, bool code32, struct bt_look *look);
/* What of the flags matters at lin, by looking ahead. */
uint8_t bt_live_at(struct bt_cpu *b, uint64_t lin, bool code32);
uint8_t live_at(struct tr *t, uint64_t lin);
void emit_exit(struct tr *t, uint64_t lin, bool poll, uint8_t live);
/* Whether a block goes on behind a conditional branch: tier 2's do. */
bool jcc_inside(const struct tr *t, const struct guest_insn *g);
/* Where the branch that is the block's instruction i leads. */
uint64_t branch_target_at(const struct tr *t, unsigned i);
void emit_control(struct tr *t, const struct guest_insn *g);

/* ---- system.c ---- */
void emit_interp(struct tr *t, bool ends);
bool emit_system(struct tr *t, const struct guest_insn *g);

#endif
