/*
 * The translator's own parts. A vCPU is the interpreter's with a code cache beside it; translated code runs with
 * the guest's registers in the host's and with the GS base at the soft TLB, the first member of struct mmu, so
 * that an inline probe needs no base register.
 *
 * Registers in translated code: every guest register sits in the host register of the same number, but for
 * RSP (host R15) and R10, R11, R15 (in struct cpu_state, at GS). Host R10 and R11 are scratch, host RSP is the
 * return stack: a guest call is a host call, and a guest return checks that it lands where it was expected.
 */
#ifndef ACCEL_BT_BT_H
#define ACCEL_BT_BT_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "accel/interp/core.h"

/* AddressSanitizer's runtime uses vector registers in any C code: fp.c. */
#ifdef __SANITIZE_ADDRESS__
#define BT_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BT_SANITIZED true
#endif
#endif
#ifndef BT_SANITIZED
#define BT_SANITIZED false
#endif

#define HOST_SP R15
#define TEMP0 R10
#define TEMP1 R11

/* What translated code depends on besides its bytes and its address. */
enum bt_mode {
	MODE_USER = 1 << 0,
	MODE_CODE32 = 1 << 1,
	MODE_AC = 1 << 2,   /* supervisor with EFLAGS.AC set and SMAP on */
	MODE_SMAP = 1 << 3,
	MODE_LASTING = 1 << 12, /* user code of an address space that is worth windows: see tier.h */
	MODE_SEG = 1 << 4,  /* << enum x86_seg: 32-bit code may use the segment (flat, but for FS and GS) */
	MODE_NONE = 1 << 30, /* not translated: 16-bit code, odd segments */
};

/*
 * Blocks, their records and their exits are many, and each cache line of them is one less for code: they name one another
 * by number, 0 for none, and places in a block's code by the offset from its first byte.
 */

/* A way out of a block to a known guest address; a jump of the block is patched when it is linked. */
struct bt_exit {
	uint32_t block, target; /* target 0: not linked */
	uint32_t next;       /* in the target's list of incoming ones */
	int32_t ahead;       /* where to, from the block's linear address */
	uint16_t site;       /* of the 32-bit displacement */
	uint16_t stub;       /* where an unlinked jump goes */
	uint32_t knows : 18; /* registers whose homes are good here, and more: see known.h */
	uint32_t loops : 1;  /* back to the block's own beginning, with all that is known there within a loop; held: and in the scratch registers */
	uint32_t held : 1;
	uint32_t live : 6;   /* what of the flags was found to matter there: GF_ (guest.h) */
	uint32_t saved_flags : 1; /* linked to the target's indirect entry: flags are in the image */
	uint32_t looks : 1;  /* before the jump, at `mapped`: target and block share no page */
	uint32_t stands : 4; /* parts of the block's page by whose bytes `live` was found: LOOK_PART */
};
#define LOOK_PART (PAGE_SIZE / 4)

/* How far before its site an exit's look at `mapped` has its displacement: disp32, imm32; jne rel32; the jump's opcode. */
#define LOOK_BEFORE 15u

/* Registers that are in memory. */
enum bt_value { VALUE_NONE, VALUE_R10, VALUE_R11, VALUE_R15 };
static inline unsigned bt_value_register(unsigned v) { return v == VALUE_R15 ? R15 : v == VALUE_R11 ? R11 : R10; }

/* An access that no operand of the instruction names. */
enum bt_frame { FRAME_NONE, FRAME_RSP, FRAME_RBP };

/* An instruction of a block that may need C. Kept packed: records.c. */
struct bt_rec {
	uint32_t id;         /* its block's number, and which of its records it is */
	int32_t disp;        /* of its access from the frame's register; a constant address, from the block's if it moves, or from 0 */
	uint16_t retry, next; /* its code: to start over, and where it ends */
	uint16_t guest;      /* offset in the block's guest code */
	union {
		uint16_t x87;      /* what FOP becomes */
		uint16_t released; /* by a return, of the stack behind the address */
		uint16_t leaves;   /* where an indirect jump leaves for the stub's look-up: a JNE */
	};
	uint8_t size;        /* of the access */
	uint8_t useless;     /* misses that windows could not help; in tier 1, accesses across pages */
	union {
		uint8_t string; /* STRING_ */
		uint8_t align;  /* a store faults, and touches no page, when its address has a bit of these */
	};
	uint8_t held[2];     /* whose homes TEMP0 (low half) and TEMP1 hold at retry and at next: guest register + 1, or 0 */
	uint8_t goes_on : 1; /* at next, when C has done it */
	uint8_t value_retry : 2, value_next : 2; /* the register in memory whose value TEMP1 holds there: enum bt_value */
	uint8_t decoded : 1; /* some of its instructions are in b->decoded */
	unsigned count : 4;  /* instructions that this one stands for */
	unsigned level : 2;  /* of the vector unit that it needs */
	unsigned frame : 2;  /* enum bt_frame: what its address counts from */
	unsigned write : 1;
	unsigned window : 1; /* its access is in a window */
	unsigned flags_host : 1; /* and the guest's flags are in the flags register then */
	unsigned is_return : 1;
	unsigned is_jump : 1, is_call : 1; /* indirect, by way of the jump cache */
	unsigned constant : 1; /* disp tells of the address of an access in a window */
	unsigned moves : 1;  /* it counts from the block's address */
	unsigned narrow : 1; /* it has 32 bits */
};

/* What a string instruction does, or STOS; and how it repeats, for CMPS and SCAS while ZF is 0 (or 1). */
enum { STRING_MOVES = 1, STRING_LOADS = 2, STRING_COMPARES = 4, STRING_SCANS = 8, STRING_REPEATS = 16, STRING_UNEQUAL = 32 };
#define REC_NONE UINT32_MAX
#define REC_SHIFT 7u
#define RECS_MAX (1u << REC_SHIFT)  /* of a block */
#define BLOCKS_MAX (1u << 24)       /* an id is pushed as a signed number */
#define REC_BYTES_MAX 24u           /* packed */
/* Those that were needed last. */
#define RECS_OPEN 1024u

/*
 * Blocks with one hash are chained by links: a block's number, and above it some bits that are of its address and mode
 * alone, so that others need not even be looked at.
 */
#define LINK_BLOCK 0xffffffu
_Static_assert(BLOCKS_MAX == LINK_BLOCK + 1, "numbers fit");

struct bt_block {
	uint64_t lin;
	uint32_t page;              /* number of its physical page, which it starts in where lin starts in its own */
	uint32_t hash_next;         /* link; the same code for other linear addresses is in one chain with it */
	uint32_t page_next;
	uint32_t incoming;          /* exit */
	uint32_t host;              /* offset of its code in the cache */
	uint32_t first_rec, first_exit;
	union {
		uint32_t first_reloc;
		uint32_t tail_next; /* of one that crosses: it is fixed */
	};
	uint32_t moved;             /* when it was last: see move.c */
	uint32_t needs : 18;
	uint32_t dead : 1, uses_fp : 1;
	uint32_t tier2 : 1;         /* memory operands in windows */
	uint32_t refused : 1;       /* but for some */
	uint32_t fixed : 1;         /* some of its code has no form for other addresses */
	uint32_t crosses : 1;       /* one instruction across pages; disp of its first record is the number of the second page */
	uint32_t small : 1;         /* rather than fast */
	uint32_t loop_loads : 2;    /* scratch registers that are loaded at `loop` */
	uint16_t mode;
	uint16_t size;              /* of its code */
	uint8_t direct, indirect;   /* entries: flags in the flags register, or in the image */
	uint8_t known_direct, known_indirect; /* the same when all that it needs is known */
	uint16_t loop;              /* entry of its own jumps, or 0; its first record tells of its sums and what is held */
	uint16_t length;            /* guest bytes */
	uint8_t recs, exits, relocs;
	uint8_t insns;
};

/* Bytes of each load at a block's `loop`. */
#define LOOP_LOAD 9u
/* A sum of registers that a loop's accesses count from, see known.h: packed into halves of its record's disp. */
#define PAIRS 2u
struct bt_pair {
	int8_t base, index;  /* guest registers; base -1: none */
	uint8_t scale;
	bool used;
	bool bounded;        /* the index is a number of 32 bits in each round, however it changes */
};
static inline int32_t bt_pair_pack(const struct bt_pair *p)
{
	return p->used ? p->bounded << 13 | 1 << 12 | (p->scale & 3) << 10 | (p->index & 15) << 5 | ((p->base + 1) & 31) : 0;
}
static inline struct bt_pair bt_pair_of(const struct bt_rec *loop, unsigned n)
{
	unsigned v = (uint32_t)loop->disp >> (16 * n) & 0xffff;

	return (struct bt_pair){ (int8_t)((int)(v & 31) - 1), (int8_t)(v >> 5 & 15), (uint8_t)(v >> 10 & 3), v >> 12 & 1, v >> 13 & 1 };
}

/* What of a block's code depends on its linear address: kind, and offset from its first byte of host code. */
enum bt_reloc_kind {
	RELOC_LIN,    /* a linear address, 64 bits */
	RELOC_LIN32,  /* 32 bits: in 32-bit code only */
	RELOC_ENTRY,  /* displacement of a soft TLB entry for a page that moves with the block */
	RELOC_SLOT,   /* displacement of the window's delta for the RELOC_LIN before it */
};
struct bt_reloc {
	uint16_t kind : 2, at : 14;
};

/* Of the guest pages that blocks stand on. */
struct bt_page {
	struct bt_page *next; /* of its hash chain, or of the unused ones */
	uint64_t gpa;
	uint64_t seen;        /* the eviction that it was last looked through for */
	uint64_t lines; /* a bit for each 64 bytes that hold translated code */
	uint32_t blocks, tails; /* that start here; whose second part is here */
};

/* Where indirect jumps have led to: the indirect entries, by the address's lower bits. */
#define JUMP_SIZE 65536u
struct bt_jumps {
	uint64_t tag[JUMP_SIZE]; /* linear address ^ salt, ^ JUMP_FLAGS */
	uint8_t *target[JUMP_SIZE];
};
/* Which entry an address uses; salts leave these bits alone. */
static inline unsigned bt_jump_index(uint64_t lin) { return (unsigned)lin & (JUMP_SIZE - 1); }
/* No address equals it in entry i, with JUMP_FLAGS or without, whatever the salt: it belongs to another entry (zero to the first). */
static inline uint64_t bt_jump_empty(unsigned i) { return i > 1 ? 0 : 2; }
/* Of targets that need the flags, so that only those find them who have saved the flags. */
#define JUMP_FLAGS UINT64_C(1)

/*
 * A page that code was fetched from. Whether it is still mapped so is said by `mapped`, at its number's place: the
 * number, while it is. Jumps from page to page look there, so they outlive flushes and the switch to another address
 * space: one look at the map makes all jumps to a page good again.
 */
#define EXEC_SIZE 16384u
#define EXEC_RECENT 1024u
#define BT_NO_EXEC UINT32_MAX
struct bt_exec {
	struct bt_exec *next; /* of its hash chain */
	uint64_t lin;         /* page, | 1 for user */
	uint64_t gpa;
	uint8_t *host;
	uint32_t id;          /* 0: unused */
	bool global, large;
};

/* The numbers of those that hold, so that a flush costs no more than they did. */
#define EXEC_LOG 1024u
struct bt_exec_log {
	unsigned count;
	bool overflow;
	uint32_t id[EXEC_LOG];
};

/* Indirect jumps that the next look at `poll` is to be made at: each now misses, until the run loop has been reached. */
#define DIVERTED 16u

/* What is known of an address space, by its number in the soft TLB. */
struct bt_space {
	struct bt_exec_log held; /* pages that are not global */
	bool supervisor;   /* code of whose ran from such pages */
	uint64_t salt;     /* of its user code's jumps; 0: they are forgotten */
};

/*
 * The cache is made of regions, each with its part of the code, blocks, records, exits and relocations. When all are
 * full, one of them is emptied.
 */
#define REGIONS 32u
struct bt_region {
	uint32_t code, block, rec, exit, reloc;  /* where its parts begin; of region REGIONS, where the last one's end */
	uint32_t blocks;                         /* how many it holds, once it is full */
	uint64_t used;                           /* how much has been found in it lately */
};

/* Which block a place in the cache belongs to is found from here. */
#define HINT 256u

/* Words of the set of blocks that went; it is emptied after so many evictions. */
#define GONE_WORDS 16384u
#define GONE_EVICTIONS 64u

/* Instructions of records, decoded for the interpreter when they were last needed. */
#define DECODED 2048u
struct bt_decoded {
	uint32_t rec, n;    /* n: of the instructions that the record stands for */
	struct insn insn;   /* length 0: none */
};

/* A page that became code a moment ago: see fresh.c. */
#define FRESH_PAGES 64u
struct bt_fresh {
	uint64_t gpa;
	const uint8_t *host;
	uint32_t epoch; /* that all others have to come to */
	uint8_t bytes[PAGE_SIZE]; /* that were translated */
};

#define RETURN_STACK (256u << 10)
/* One for the supervisor's code, one for the user's; each a guard page, the stack, and some room above its first entry. */
#define RETURN_SPACE (RETURN_STACK + 2 * PAGE_SIZE)

struct bt_stats {
	uint64_t blocks, guest_bytes, host_bytes, flushes, invalidated, links, relinks, misses, slow_fill, slow_interp,
		enters, gates, strings, fp_loads, fp_saves, faults, native_faults, polls, interp_blocks, pages, lasting, promoted, demoted, window_faults;
	uint64_t moved, unmoved; /* blocks, to other linear addresses; that stayed in turns, or did not fit */
	uint64_t evictions; /* of a region, or of everything */
	uint64_t translate_tsc, later_bytes, records, ways_out; /* of bt_translate: its time, what it made */
	uint64_t by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/* Changes of code that others made, waiting for this vCPU. */
#define INBOX_SIZE 64u
struct bt_inbox {
	GMutex lock;
	unsigned count; /* INBOX_SIZE + 1: overflow, everything */
	struct { uint64_t gpa, len; } change[INBOX_SIZE];
};

/* While the host steps: the block that has been entered, to know how many instructions were done when it is left. */
/* More than BLOCK_USUAL are only in a block that is a loop. */
#define BLOCK_INSNS 64
#define BLOCK_USUAL 32
struct bt_unit {
	uint64_t lin;
	unsigned insns;               /* 0: none, or the interpreter has counted */
	uint16_t offset[BLOCK_INSNS]; /* where each instruction starts */
	uint64_t last;                /* offset of the last one begun; UNIT_WHOLE: up to the block's end */
};
#define UNIT_WHOLE UINT64_MAX

/* Where time is spent: see tier.h. */
#define HEAT_WORDS 4096u
#define HEAT_PAGES 4096u
#define HEAT_SPACES 64u
#define HEAT_SAMPLES 16u
struct bt_heat {
	/* Sets of bits by a hash: block starts; instructions that windows do not serve, and that were too dear. */
	uint64_t hot[HEAT_WORDS], cold[HEAT_WORDS], poor[HEAT_WORDS];
	uint8_t page[HEAT_PAGES];                   /* samples by a hash of the page of code */
	uint64_t lasting[HEAT_SPACES];              /* a set of bits by a hash of CR3 */
	unsigned fast_left;                         /* blocks of the program that was met last that are fast without */
	_Atomic uint32_t count;                     /* written by the signal's handler, emptied by the vCPU */
	uint32_t sample[HEAT_SAMPLES];              /* offsets in the cache */
	uint64_t taken, taken_hot;                  /* samples; of them in tier 2 */
	uint64_t dropped, pages;                    /* pages dropped and mapped, up to the last miss */
	uint64_t displaced;                         /* pages from the soft TLB, up to the last sample */
	bool any_poor;
	int credit;                                 /* misses that windows may still have */
	uint32_t last_rec;                          /* what was given a window last */
	uint64_t last_lin;
	timer_t timer;
	pid_t tid;                                  /* that the timer belongs to; 0: none */
};

/*
 * User code of tier 1 calls its probes: it is large, and runs little. They differ in the access's size, whether it writes,
 * the view, and whether address and page are folded into one register.
 */
#define PROBE_SIZES 19u
#define PROBES (PROBE_SIZES * 2 * VIEW_COUNT * 2)
static inline int bt_probe_size(unsigned size)
{
	static const uint8_t odd[] = { 1, 2, 10 };

	for (unsigned i = 0; i < sizeof(odd); i++) {
		if (size == odd[i])
			return (int)i;
	}
	return size % 4 || !size || size > 64 ? -1 : (int)(sizeof(odd) + size / 4 - 1);
}
/* Its number, or -1. */
static inline int bt_probe(unsigned size, bool write, enum mmu_view view, bool fold)
{
	int n = bt_probe_size(size);

	return n < 0 ? -1 : ((n * 2 + write) * VIEW_COUNT + (int)view) * 2 + fold;
}

/* Slots of 512 GiB: see window.h. */
#define WINDOW_SLOTS 256u
struct bt_windows;

struct bt_cpu {
	struct icpu cpu; /* must be first */
	struct mmu mmu;

	/* Read by translated code and the stubs. */
	uint32_t fp_level;   /* 0: the guest's vector state is in memory; 1: x87 and SSE usable in place; 2: AVX too */
	uint32_t flags;      /* the image: AH and AL as LAHF and SETO AL leave them */
	uint64_t salt[2];    /* supervisor, user */
	uint64_t scratch;
	uint64_t resume;
	uint64_t kept[2];    /* TEMP0 and TEMP1, on the way back from C */
	uint32_t branch;     /* the record of the indirect jump that is looked up; REC_NONE: a return, known by */
	uint64_t returned;   /* where in its block it called from */
	uint32_t x87_last;   /* of the last x87 instruction since the state was loaded, or REC_NONE */
	uint64_t x87_data;   /* the address of the last operand of one in memory, */
	uint32_t x87_segment; /* and in which segment; SEG_COUNT: none since then */
	uint64_t overwritten; /* what was on the stack where the last indirect call has put its return address */
	uint64_t c_rsp, return_sp;
	uint8_t *lookup;     /* the mode's indirect look-up */
	uint32_t mapped[EXEC_SIZE]; /* by a page's number: the number while the page is where it was */
	uint32_t diverted[DIVERTED], diverted_count; /* blocks */
	bool landings_gone;  /* since the return stacks were forgotten, blocks have gone that returns may lead to */
	_Atomic uint32_t poked; /* while C was running: the chain that is gone on with has to end soon */

	uint64_t delta[2][WINDOW_SLOTS]; /* by view and slot: from a guest address to the host's */
	uint64_t home[16];               /* by guest register: the delta for its value, see known.h */

	/* The code cache: one memory, written through rw and executed at rx. */
	uint8_t *rw, *rx;
	size_t code_size;
	struct bt_region region[REGIONS + 1];
	unsigned filling;        /* the region that is being filled: what follows is in it */
	size_t region_bytes;     /* what one of them may take, of all kinds together */
	uint32_t at, code_start; /* next free byte, first behind the stubs */
	struct bt_block *blocks;
	uint8_t *recs;                               /* packed */
	struct bt_exit *exits;
	struct bt_reloc *relocs;
	uint32_t block_count, rec_at, exit_count, reloc_count; /* of the next one */
	uint32_t page_count, page_free;              /* ever used; of them unused now */
	uint32_t block_max, rec_max, exit_max, reloc_max, page_max;
	uint32_t *hash;                              /* of blocks: links */
	uint32_t *block_hint;                        /* by HINT bytes of code: the block that the first one is in */
	struct bt_rec open[RECS_OPEN];               /* unpacked, by a hash of their ids */
	struct bt_decoded *decoded;
	uint64_t *gone;                              /* a set of bits by a hash: blocks that went with their regions */
	uint32_t made, again;                        /* blocks of the region that is being filled; of them, those in `gone` */
	uint32_t hash_size;
	struct bt_page **page_hash;
	struct bt_page *pages, *free_pages;
	struct bt_exec exec[EXEC_SIZE], *exec_hash[EXEC_SIZE], *exec_recent[EXEC_RECENT];
	struct bt_exec_log exec_global;
	struct bt_space space[SPACES];
	uint64_t salt_last[2];
	uint32_t exec_last;             /* number */
	uint64_t exec_large[8];         /* by a hash of the region of 4 MiB: pieces of large pages hold */
	bool exec_huge;                 /* pieces of a 1 GiB page hold */

	uint8_t *return_stack;      /* both */
	uint64_t returns_sp[2];     /* of the one that is not in use */
	uint32_t returns_mode[2];   /* of the code that landings on it are in */
	bool returns_user;          /* which is */
	_Atomic uint32_t in_code; /* translated code is about to run, or runs, or has called C */
	pthread_t thread;
	pid_t tid;
	void *alt_stack;
	bool entered;        /* by a thread, whose GS base was: */
	uint64_t outer_gs;
	uint32_t mode;
	bool flags_in_image;   /* or in cpu.s.rflags */
	bool left_code;        /* cs:rip is where translated code ended: status flags that nobody reads there may be stale */
	uint8_t xsave_bv;      /* the image's own, while the state is in the registers */
	uint32_t stub_enter, stub_fill, stub_fill_lin, stub_insn, stub_fp, stub_exit, stub_exit_flags, stub_poll,
		stub_window, stub_unchain, stub_miss, stub_cross, stub_bottom, stub_reload, stub_syscall, stub_sysret, stub_iret, stub_string, stub_contended,
		stub_lookup[4], stub_flags_save, stub_flags_load, stub_returned, stub_nothing, stub_probe[PROBES], stub_home[2][16];
	uint32_t stub_called;  /* the stubs from here on are called by blocks, and return to them */
	struct bt_inbox inbox;
	unsigned fresh_count;
	struct bt_fresh fresh[FRESH_PAGES];
	struct bt_jumps jump[4]; /* by MODE_USER | MODE_CODE32 */
	struct bt_heat heat;
	struct bt_windows *windows; /* NULL: no tier 2 */
	struct bt_unit unit;
	struct bt_stats stats;
};

#define BT_FAULTS 4
#define BT_SAMPLE_SIGNAL (SIGRTMIN + 4)
#define BT_POKE_SIGNAL (SIGRTMIN + 5)
struct bt {
	struct interp interp; /* must be first */
	const struct accel_host *outer; /* the machine's callbacks */
	struct accel_host inner;        /* ours around them */
	bool avx, bmi2, xsave; /* of the host */
	bool check;            /* every block, as it is made */
	unsigned pauses;       /* PAUSE instructions that a vCPU waits when it has not got a lock */
	enum bt_tier2 { TIER2_OFF, TIER2_AUTO, TIER2_ALWAYS } tier2;
	struct sigaction old_action[BT_FAULTS], old_sample, old_poke;
};

static inline bool bt_canonical(uint64_t lin) { return (uint64_t)((int64_t)(lin << 16) >> 16) == lin; }

static inline uint32_t bt_number(const struct bt_cpu *b, const struct bt_block *k) { return (uint32_t)(k - b->blocks); }
static inline struct bt_block *bt_rec_block(const struct bt_cpu *b, const struct bt_rec *r) { return &b->blocks[r->id >> REC_SHIFT]; }
static inline uint32_t bt_rec_first(const struct bt_cpu *b, const struct bt_block *k) { return bt_number(b, k) << REC_SHIFT; }
/* Physical address. A block of another address than these is not made. */
#define BLOCK_GPA_MAX (UINT64_C(1) << 44)
static inline uint64_t bt_block_page(const struct bt_block *k) { return (uint64_t)k->page << PAGE_SHIFT; }
static inline uint64_t bt_block_gpa(const struct bt_block *k) { return bt_block_page(k) | (k->lin & (PAGE_SIZE - 1)); }
static inline uint64_t bt_exit_lin(const struct bt_block *k, const struct bt_exit *e)
{
	uint64_t lin = k->lin + (uint64_t)(int64_t)e->ahead;

	return k->mode & MODE_CODE32 ? (uint32_t)lin : lin;
}
/* The record's constant address. */
static inline uint64_t bt_rec_lin(const struct bt_block *k, const struct bt_rec *r)
{
	uint64_t lin = (r->moves ? k->lin : 0) + (uint64_t)(int64_t)r->disp;

	return r->narrow ? (uint32_t)lin : lin;
}
/* ---- records.c ---- */
/* The block's records go behind those that there are. */
void bt_recs_pack(struct bt_cpu *b, struct bt_block *block, const struct bt_rec *recs);
/* All of them, and one. */
void bt_recs_unpack(const struct bt_cpu *b, const struct bt_block *block, struct bt_rec *recs);
struct bt_rec bt_rec_read(const struct bt_cpu *b, uint32_t id);
/* The record of the instruction at a host address of translated code, or NULL; one that a stub has been told of, by its
 * id or by where it was called from. What is returned is good until the next is asked for. */
struct bt_rec *bt_rec_at(struct bt_cpu *b, const uint8_t *host);
struct bt_rec *bt_rec_of(struct bt_cpu *b, uint64_t id);
/* The record of a return whose code for landings called from there. */
struct bt_rec *bt_rec_returned(struct bt_cpu *b, uint64_t from);
/* Blocks are gone: ids mean others from now on. */
void bt_recs_forget(struct bt_cpu *b);
/* The page of the second part of an instruction across pages. */
static inline uint64_t bt_block_tail(const struct bt_cpu *b, const struct bt_block *k)
{
	return (uint64_t)(uint32_t)bt_rec_read(b, bt_rec_first(b, k)).disp << PAGE_SHIFT;
}

/* Where its code is executed, from an offset. */
static inline uint8_t *bt_code(const struct bt_cpu *b, const struct bt_block *k, uint32_t at) { return b->rx + k->host + at; }
static inline uint8_t *bt_rec_code(struct bt_cpu *b, const struct bt_rec *r, uint32_t at, uint8_t held, unsigned value)
{
	b->kept[0] = held & 15 ? b->home[(held & 15) - 1] : 0;
	b->kept[1] = value ? b->cpu.s.gpr[bt_value_register(value)] : held >> 4 ? b->home[(held >> 4) - 1] : 0;
	return bt_code(b, bt_rec_block(b, r), at);
}
/* Where C goes on with a record: once more, or behind it. */
static inline uint8_t *bt_retry(struct bt_cpu *b, const struct bt_rec *r) { return bt_rec_code(b, r, r->retry, r->held[0], r->value_retry); }
static inline uint8_t *bt_next(struct bt_cpu *b, const struct bt_rec *r) { return bt_rec_code(b, r, r->next, r->held[1], r->value_next); }

/* Of a call, and of a jump with 32 bits. */
#define CALL_BYTES 5u

/*
 * Bytes of what sets a home, where it is no call. RSP's is the first to be set at a block's entries, and they are one when no flags matter there:
 * who knows RSP's home alone enters behind it.
 */
#define HOME_BYTES 28u
static inline uint32_t bt_behind_rsp(const struct bt_block *k) { return (k->needs >> RSP & 1) && k->direct == k->indirect ? (k->small ? CALL_BYTES : HOME_BYTES) : 0; }
/* Where the jump cache leads: flags are in the image, RSP's home is good. */
static inline uint8_t *bt_jump_entry(const struct bt_cpu *b, const struct bt_block *k) { return b->rx + k->host + k->indirect + bt_behind_rsp(k); }

/* Where a linked jump enters: offset in the cache. */
static inline uint32_t bt_entry(const struct bt_cpu *b, const struct bt_exit *e, const struct bt_block *to)
{
	if (e->loops && to == &b->blocks[e->block])
		return to->host + to->loop + (e->held ? to->loop_loads * LOOP_LOAD : 0);
	if (to->needs & ~e->knows)
		return to->host + (e->saved_flags ? to->indirect : to->direct) + (e->knows >> RSP & 1 ? bt_behind_rsp(to) : 0);
	return to->host + (e->saved_flags ? to->known_indirect : to->known_direct);
}

/* GS displacement of a member. */
#define GS_OF(member) ((int32_t)(offsetof(struct bt_cpu, member) - offsetof(struct bt_cpu, mmu)))

static inline struct bt *bt_of(const struct bt_cpu *b) { return (struct bt *)b->cpu.interp; }
static inline enum mmu_view mode_view(uint32_t mode)
{
	return mode & MODE_USER ? VIEW_USER : mode & MODE_AC ? VIEW_SUPERVISOR_AC : VIEW_SUPERVISOR;
}

/* ---- cache.c ---- */
int bt_cache_init(struct bt_cpu *b, size_t bytes);
void bt_cache_finish(struct bt_cpu *b);
void bt_cache_flush(struct bt_cpu *b);
/* Makes room for another block; what goes for that is counted in stats.evictions. */
void bt_cache_reserve(struct bt_cpu *b);
/* Bytes of code in it. */
uint64_t bt_cache_bytes(const struct bt_cpu *b);
struct bt_block *bt_block_find(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode);
/* The blocks for gpa and mode at whatever linear address: the first, and the one behind k, or NULL. */
struct bt_block *bt_block_first(struct bt_cpu *b, uint64_t gpa, uint32_t mode);
struct bt_block *bt_block_next(struct bt_cpu *b, const struct bt_block *k);
void bt_block_add(struct bt_cpu *b, struct bt_block *block);
void bt_block_kill(struct bt_cpu *b, struct bt_block *block);
/* No jump leads to it or from it any more. */
void bt_block_unlink(struct bt_cpu *b, struct bt_block *block);
/* The first of the blocks that start on the page at gpa, by page_next. */
uint32_t bt_page_blocks(struct bt_cpu *b, uint64_t gpa);
/* Which lines of the page hold translated code, a bit for each 64 bytes. */
uint64_t bt_page_lines(struct bt_cpu *b, uint64_t gpa);
/* Drops the translations of [gpa, gpa + len). */
void bt_code_changed(struct bt_cpu *b, uint64_t gpa, uint64_t len);
void bt_link(struct bt_cpu *b, struct bt_exit *e, struct bt_block *target);
void bt_jump_set(struct bt_cpu *b, const struct bt_block *block);
void bt_jumps_forget(struct bt_cpu *b);
/* The block at a host address of translated code, or NULL. */
struct bt_block *bt_block_at(struct bt_cpu *b, const uint8_t *host);
/* The block was of use just now. */
void bt_block_used(struct bt_cpu *b, const struct bt_block *block);
/* The exit that a stub has been told of: by its number, or by where it was called from. */
struct bt_exit *bt_exit_of(struct bt_cpu *b, uint64_t id);
/* The return stack of a privilege holds nothing any more. */
void bt_returns_forget(struct bt_cpu *b, bool user);
/* To the one of the present mode. */
void bt_returns_switch(struct bt_cpu *b);

/* ---- exec.c: where code is, and what is known of the map ---- */
/* The page of code at lin for the present privilege; raises the fetch's faults. */
const struct bt_exec *bt_exec_page(struct bt_cpu *b, uint64_t lin);
/* The same without faults and side effects, for looking ahead; NULL when it is not known. */
const uint8_t *bt_exec_peek(struct bt_cpu *b, uint64_t lin);
const struct bt_exec *bt_exec_known(struct bt_cpu *b, uint64_t lin);
/* Jumps and returns of a privilege lead nowhere any more. */
void bt_forget_jumps(struct bt_cpu *b, bool user);
void bt_flushed(struct icpu *cpu, enum flush_kind kind, uint64_t lin);
void bt_switched(struct icpu *cpu, unsigned from, unsigned to, bool kept);
void bt_dropped(struct icpu *cpu, unsigned space);
uint32_t bt_mode_now(struct bt_cpu *b);
/* Follows the vCPU's state: mode, look-up, return stack. */
void bt_mode_update(struct bt_cpu *b);

/* ---- fresh.c ---- */
/* Stores to the page at gpa, which is at `host`, are noticed from now on. Its bytes to translate from; NULL when too much
 * is waited for. */
const uint8_t *bt_code_page(struct bt_cpu *b, uint64_t gpa, const uint8_t *host);
/* Looks for what others have changed unnoticed. After an instruction that serializes, and between chains. */
void bt_fresh_look(struct bt_cpu *b);
/* Whether the page is one of which something may have been. */
bool bt_fresh(const struct bt_cpu *b, uint64_t gpa);

/* ---- move.c ---- */
/* A block for gpa and mode that stands at another linear address is made to stand at lin; never `keep`. NULL when there is none to have. */
struct bt_block *bt_block_move(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode, const struct bt_block *keep);

/* ---- translate.c ---- */
struct bt_block *bt_translate(struct bt_cpu *b, uint64_t lin, const struct bt_exec *page);

/* ---- stubs.c ---- */
void bt_stubs_make(struct bt_cpu *b);

/* ---- run.c: called by the stubs; each returns where to go on, or NULL to leave translated code. ---- */
typedef uint8_t *bt_helper(struct bt_cpu *b, uint64_t id, uint64_t temp0, uint64_t temp1);
uint8_t *bt_help_fill(struct bt_cpu *b, uint64_t id, uint64_t offset, uint64_t index);
uint8_t *bt_help_fill_lin(struct bt_cpu *b, uint64_t id, uint64_t lin, uint64_t unused);
uint8_t *bt_help_window(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_insn(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_fp(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_exit(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_poll(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_unchain(struct bt_cpu *b, uint64_t to, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_miss(struct bt_cpu *b, uint64_t id, uint64_t lin, uint64_t unused2);
uint8_t *bt_help_cross(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
void bt_run(struct vcpu *v, struct vcpu_exit *exit);

/* ---- strings.c: the same ---- */
uint8_t *bt_help_string(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);

/* ---- gates.c: the same, for ways from privilege to privilege ---- */
uint8_t *bt_help_syscall(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_sysret(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);
uint8_t *bt_help_iret(struct bt_cpu *b, uint64_t id, uint64_t unused, uint64_t unused2);

/* ---- host.c ---- */
void bt_host_make(struct bt *bt, const struct accel_host *host);

/* ---- fp.c ---- */
/* The guest's vector state into the host's registers if it may be used in place; the level reached. */
unsigned bt_fp_load(struct bt_cpu *b);
void bt_fp_save(struct bt_cpu *b);
/* Another helper, for which the vector state is put away. */
uint8_t *bt_help_sanitized(struct bt_cpu *b, uint64_t id, uint64_t temp0, uint64_t temp1, bt_helper *helper);

/* ---- signals.c ---- */
int bt_signals_init(struct bt *bt);
void bt_signals_finish(struct bt *bt);
int bt_thread_init(struct bt_cpu *b);
/* Before translated code runs on this thread. */
void bt_thread_enter(struct bt_cpu *b);
/* `poll` has been set: translated code without polls of its own is made to leave. Any thread. */
void bt_poked(struct icpu *cpu);
/* The chain of blocks around a place in the cache ends at its next link; so does that of the call it is in. */
void bt_unchain(struct bt_cpu *b, const uint8_t *at, const uint64_t *return_sp);
/* Indirect jumps of blocks that were unchained lead by the jump cache again. */
void bt_rechain(struct bt_cpu *b);
/* Before it is freed: on the thread that ran it, or when that has ended. */
void bt_thread_leave(struct bt_cpu *b);

/* ---- step.c: single steps, whose unit is a block ---- */
void bt_set_step(struct vcpu *v, bool on);
void bt_unit_begin(struct bt_cpu *b, const struct bt_block *block);
/* Counts what has been done of the unit. */
void bt_unit_end(struct bt_cpu *b);

/* ---- trace.c ---- */
void bt_trace_block(struct bt_cpu *b, const struct bt_block *block, const uint8_t *code);

#endif
