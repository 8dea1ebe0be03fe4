/*
 * Inside of the interpreter: one virtual CPU, its memory access functions, its faults, and
 * the decoded instruction that all instruction families work on.
 *
 * A handler runs with s.rip still at the instruction's start; the loop advances rip by
 * insn->length after it returns, unless it has set cpu->next_rip itself (the loop sets
 * next_rip = rip + length before the call, and stores it after). Faults leave by
 * cpu_raise(), which never returns; so a handler must change nothing before its last possible
 * fault. Loads and stores fault by themselves.
 */
#ifndef ACCEL_INTERP_CPU_H
#define ACCEL_INTERP_CPU_H

#include <setjmp.h>
#include <stdatomic.h>

#include <Zydis/Zydis.h>

#include "accel/accel.h"
#include "base/bytes.h"

struct icpu;
struct insn;
typedef void (*insn_fn)(struct icpu *cpu, const struct insn *in);

enum operand_kind { OPD_NONE, OPD_REG, OPD_REG_HIGH /* AH..BH: reg is 0..3 */, OPD_MEM, OPD_IMM };

/* A decoded instruction: compact, cached in blocks, re-executed many times. */
struct insn {
	insn_fn fn;
	uint64_t imm;      /* immediate, sign-extended to 64 bits as the encoding says */
	int64_t disp;      /* memory displacement (rip-relative: base is INSN_RIP) */
	uint64_t aux;      /* the family's own (second immediate, far selector, thunk pointer …) */
	uint16_t mnemonic; /* ZydisMnemonic */
	uint8_t length;    /* bytes, 1..15 */
	uint8_t opsize;    /* effective operand size in bytes: 1, 2, 4, 8 (of the explicit operands) */
	uint8_t addrsize;  /* 2, 4, 8 */
	uint8_t dst_kind, dst_reg; /* first explicit operand: enum operand_kind, register number */
	uint8_t src_kind, src_reg; /* second explicit operand */
	uint8_t mem_size;  /* bytes of the memory operand */
	uint8_t seg;       /* enum x86_seg of the memory operand, with override applied */
	int8_t base, index; /* register number, -1 none, INSN_RIP */
	uint8_t scale;     /* shift 0..3 */
	uint8_t prefixes;  /* PFX_* */
	uint8_t cond;      /* Jcc, SETcc, CMOVcc */
	uint8_t flags;     /* INSN_* */
	uint8_t bytes[15]; /* the encoding itself */
};
#define INSN_RIP 16
#define PFX_REP 1
#define PFX_REPNE 2
#define PFX_LOCK 4
#define PFX_OPSIZE 8
#define INSN_ENDS_BLOCK 1 /* control may go elsewhere, or state that decoding depends on may change */

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

#define PAUSES_A_TURN 64u
struct icpu {
	struct vcpu vcpu; /* must be first */
	struct cpu_state s;
	uint64_t next_rip;
	sigjmp_buf fault; /* use __builtin_setjmp-like cheap jumps: sigsetjmp(…, 0) */
	struct accel_host const *host;
	struct mem *mem;
	const struct cpu_model *model;
	_Atomic uint32_t irq; /* enum vcpu_irq bits waiting */
	uint32_t pauses;      /* PAUSE instructions up to the one that gives way, of PAUSES_A_TURN */
	_Atomic uint32_t poll; /* set with every change that a vCPU inside of translated code must look at */
	/* Whose stores may go unnoticed (core.h, "Pages become code"). */
	_Atomic uint32_t stores_epoch; /* to pages that became code later than this */
	_Atomic bool away;             /* outside of run(): it does not store, and looks at the epoch when it comes back */
	_Atomic uint32_t waits_for;    /* pokes it when everyone has come to this epoch; 0: it does not wait */
	/* What is being raised. */
	uint8_t exc_vector;
	bool exc_has_error, exc_soft; /* soft: INT n, INT3, INTO, INT1: return address is after */
	uint32_t exc_error;
	bool block_ends;  /* a handler asks the loop to leave the block (mode or mapping changed) */
	bool shutdown;    /* triple fault */
	uint64_t rmw_gpa; /* what cpu_rmw_ptr has been asked for, when the page may hold code: rmw_len bytes */
	unsigned rmw_len;
	bool stepping;    /* set_step */
	bool debug_on;    /* a breakpoint of the debug registers is enabled (debug.c) */
	uint32_t debug_hit; /* breakpoints met by the instruction in progress: DR6 bits */
	struct interp *interp;
	struct mmu *mmu;       /* core's: the soft TLB */
	bool mmu_owned;        /* allocated by mmu_init */
	struct blocks *blocks; /* core's: decoded-block cache */
	/* decoding mode, recomputed by cpu_mode_changed: 16, 32 or 64 */
	uint8_t code_bits;
	uint8_t stack_bits; /* 16, 32, 64 */
	uint8_t cpl;
	bool long_mode; /* EFER.LMA */
	uint8_t *vec_code; /* vector family's thunks */
	void *vec;
};

/* ---- faults (fault.c) ---- */
_Noreturn void cpu_raise(struct icpu *cpu, enum x86_vector v);
_Noreturn void cpu_raise_error(struct icpu *cpu, enum x86_vector v, uint32_t error);

/* ---- memory (mmu.c): linear addresses, already checked against segments by ea(). ---- */
uint64_t cpu_load(struct icpu *cpu, uint64_t lin, unsigned len);             /* 1, 2, 4, 8; CPL rights */
void cpu_store(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value);
/* Any length up to 4096, fully checked (all pages) before the first byte is touched. */
void cpu_load_bytes(struct icpu *cpu, uint64_t lin, void *buf, unsigned len);
void cpu_store_bytes(struct icpu *cpu, uint64_t lin, const void *buf, unsigned len);
/* Raises the fault a store of len would raise (read-modify-write, before computing). */
void cpu_check_write(struct icpu *cpu, uint64_t lin, unsigned len);
/* The host address for an atomic read-modify-write within one page, writable and marked
 * dirty, or NULL when the bytes cross a page or are MMIO. Faults like a store. Who has written
 * there calls cpu_rmw_done: only then others may hear that code has changed. */
void *cpu_rmw_ptr(struct icpu *cpu, uint64_t lin, unsigned len);
static inline void cpu_rmw_done(struct icpu *cpu);
/* The host address of bytes to read within one page, or NULL when they cross a page or are MMIO. Faults like a load. */
const void *cpu_read_ptr(struct icpu *cpu, uint64_t lin, unsigned len);
/* As supervisor whatever the CPL (descriptor tables, TSS, IDT). */
uint64_t cpu_load_system(struct icpu *cpu, uint64_t lin, unsigned len);
void cpu_store_system(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value);
/* As user (cpl 3 rights) or supervisor by `user`; for pushes to inner stacks. */
uint64_t cpu_load_as(struct icpu *cpu, uint64_t lin, unsigned len, bool user);
void cpu_store_as(struct icpu *cpu, uint64_t lin, unsigned len, uint64_t value, bool user);
void mmu_flush_all(struct icpu *cpu);    /* global pages too */
void mmu_flush_nonglobal(struct icpu *cpu); /* of the present address space */
/* CR3 is loaded: with `keep` what is known of its PCID stays good (SDM 3A 4.10.4.1). */
void mmu_load_cr3(struct icpu *cpu, uint64_t value, bool keep);
/* What is known of a PCID, of all, goes; global pages may stay. */
void mmu_flush_pcid(struct icpu *cpu, unsigned pcid);
void mmu_flush_pcids(struct icpu *cpu);
void mmu_flush_page(struct icpu *cpu, uint64_t lin);
/* Linear to physical without side effects (monitor): false when not mapped. */
bool mmu_probe(struct icpu *cpu, uint64_t lin, uint64_t *gpa);

/* ---- addressing (core): effective linear address of the memory operand with every segment,
 * limit and canonical check for an access of `len` bytes; #GP or #SS. ---- */
uint64_t cpu_ea(struct icpu *cpu, const struct insn *in, unsigned len, bool write);
/* The offset alone (LEA). */
uint64_t cpu_offset(struct icpu *cpu, const struct insn *in);
/* Any segment + offset: same checks. */
uint64_t cpu_linear(struct icpu *cpu, enum x86_seg seg, uint64_t offset, unsigned len, bool write);

/* ---- breakpoints (debug.c) ---- */
#define DR6_SINGLE_STEP 0x4000u
/* After DR7, DR0 to DR3 or all state changed. */
void debug_changed(struct icpu *cpu);
bool debug_watches_page(const struct icpu *cpu, uint64_t lin);
/* Notes a data or port access; the trap comes after the instruction. */
void debug_access(struct icpu *cpu, uint64_t lin, unsigned len, bool write);
void debug_port(struct icpu *cpu, uint16_t port, unsigned len);
/* Raises the fault of an instruction breakpoint. */
void debug_before(struct icpu *cpu);
_Noreturn void debug_raise(struct icpu *cpu, uint32_t causes);

/* ---- stack (core): by the current stack size, with checks; RSP moves only after success. ---- */
void cpu_push(struct icpu *cpu, unsigned len, uint64_t value);
uint64_t cpu_pop(struct icpu *cpu, unsigned len);

/* ---- system (sys_*.c) ---- */
/* Loads a segment register by selector: descriptor checks, accessed bit, faults. In real and
 * v8086 mode: base = selector << 4. SEG_CS is not allowed here. */
void seg_load(struct icpu *cpu, enum x86_seg seg, uint16_t selector);
/* Delivers an exception, software or hardware interrupt through the IDT (real mode: IVT), gates
 * and task gates; nested faults become #DF and shutdown (cpu->shutdown). Sets rip etc.
 * Called by the loop, outside a handler. */
enum event_source { EVENT_EXTERNAL, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFT };
void deliver_event(struct icpu *cpu, uint8_t vector, bool has_error, uint32_t error, enum event_source source);
/* Recomputes code_bits, stack_bits, cpl, long_mode after CR0, EFER, CS or SS changed. */
void cpu_mode_changed(struct icpu *cpu);
bool msr_read(struct icpu *cpu, uint32_t msr, uint64_t *value);
bool msr_write(struct icpu *cpu, uint32_t msr, uint64_t value);
uint64_t cpu_tsc(struct icpu *cpu);
/* #GP unless I/O privilege or the TSS's bitmap allows the ports. */
void cpu_check_io(struct icpu *cpu, uint16_t port, unsigned len);
/* What the instruction asks of a device at a port; the block ends when that has changed code or the memory map. */
uint64_t cpu_port_in(struct icpu *cpu, uint16_t port, unsigned len);
void cpu_port_out(struct icpu *cpu, uint16_t port, unsigned len, uint64_t value);

/* The segment of a memory operand. */
static inline enum x86_seg insn_segment(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES: return SEG_ES;
	case ZYDIS_REGISTER_CS: return SEG_CS;
	case ZYDIS_REGISTER_SS: return SEG_SS;
	case ZYDIS_REGISTER_FS: return SEG_FS;
	case ZYDIS_REGISTER_GS: return SEG_GS;
	default: return SEG_DS;
	}
}

/*
 * ---- instruction families: each looks at the Zydis decode once, at decode time, and either fills
 * in->fn (and aux) and returns true, or returns false when the mnemonic is not its own. ----
 */
bool integer_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
		  const ZydisDecodedOperand *ops); /* core */
bool string_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops); /* core */
bool system_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops); /* system: far transfers, INT, IRET, segments, CR, DR, MSR, IN/OUT, HLT … */
bool vector_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops); /* vector: x87, MMX, SSE, AVX, XSAVE family */
int vector_init(struct icpu *cpu);
void vector_finish(struct icpu *cpu);
/* After cpu->s.xsave was replaced: completes it as XSTATE_BV says, and drops what the registers cannot hold. */
void vector_load_state(struct icpu *cpu);
/* XCR0's components that are not in their initial state (XINUSE). */
uint64_t vector_in_use(const struct cpu_state *s);

/* Invalidates decoded blocks that hold bytes of [gpa, gpa + len) (core; all vCPUs see it). */
void blocks_written(struct icpu *cpu, uint64_t gpa, unsigned len);

static inline void cpu_rmw_done(struct icpu *cpu)
{
	if (__builtin_expect(cpu->rmw_len, 0))
		blocks_written(cpu, cpu->rmw_gpa, cpu->rmw_len);
}

#endif
