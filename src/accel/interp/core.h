/*
 * The interpreter's own parts: shared code tracking, soft TLBs, the decoded-block cache.
 */
#ifndef ACCEL_INTERP_CORE_H
#define ACCEL_INTERP_CORE_H

#include <Zydis/Zydis.h>

#include "accel/interp/cpu.h"

/* One for all vCPUs: which guest pages hold decoded code. */
struct interp {
	struct accel accel; /* must be first */
	struct accel_config cfg;
	uint64_t pages; /* guest physical pages covered by the arrays below */
	/* Per page: non-zero while stores must be noticed; it counts down with stores that hit no
	 * freshly verified code, so that pages that became data are released. */
	_Atomic uint8_t *code;
	/* Per page: grows with every noticed store. */
	_Atomic uint32_t *written;
	/* Grows when a page becomes a code page: vCPUs then drop their fast store entries. */
	_Atomic uint32_t code_epoch;
	struct icpu **cpus;
	uint64_t tsc_hz; /* of the host's TSC, measured at open */
};

/* Fast store entries for a page would hide writes to code; this many quiet stores release it. */
#define CODE_PAGE_PATIENCE 64

enum mmu_view { VIEW_SUPERVISOR, VIEW_USER, VIEW_SUPERVISOR_AC, VIEW_COUNT };

/* The fast entry: a hit gives host = lin + delta. */
struct tlb_entry {
	uint64_t page; /* linear page address, or TLB_NONE */
	uintptr_t delta;
};
#define TLB_NONE UINT64_C(1)

struct mmu {
	struct tlb_entry tlb[2][VIEW_COUNT][ITLB_SIZE]; /* ACCESS_READ, ACCESS_WRITE */
	uint64_t generation;   /* of the memory map that the entries stand on */
	uint32_t code_epoch;   /* that the store entries stand on */
	uint64_t map_epoch;    /* grows with every flush: cached code look-ups compare it */
	bool large_seen;       /* a large page may be cached as many small ones */
	uint64_t fills;
};

/* A translation: where a linear address leads. host is NULL for MMIO and for writes to ROM. */
struct mmu_target {
	uint64_t gpa;
	uint8_t *host;
	const struct mem_slot *slot;
};

int mmu_init(struct icpu *cpu);
void mmu_finish(struct icpu *cpu);
static inline enum mmu_view mmu_view(const struct icpu *cpu)
{
	return cpu->cpl == 3 ? VIEW_USER : (enum mmu_view)((cpu->s.rflags >> 17) & 2);
}
/* Full translation with rights; raises #PF. */
void mmu_translate(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, struct mmu_target *t);
/* Drops what a changed memory map or a new code page has made stale. Between blocks. */
void mmu_sync(struct icpu *cpu);

#define BLOCK_MAX 48
struct block {
	struct block *next; /* in its hash chain */
	uint64_t gpa, gpa2; /* of the first byte; of the second page when it crosses, else 0 */
	uint32_t written, written2;
	uint16_t length;    /* bytes */
	uint8_t count, bits;
	struct insn insn[];
};

/* The block at cs:rip; decodes it if needed. Raises faults of the fetch. */
const struct block *blocks_lookup(struct icpu *cpu);
int blocks_init(struct icpu *cpu);
void blocks_finish(struct icpu *cpu);
uint64_t blocks_decoded(const struct icpu *cpu);

/* Decodes one instruction; false when it cannot be decoded in `len` bytes. *need_more: it would need bytes
 * past them. */
bool insn_decode(struct icpu *cpu, const uint8_t *bytes, unsigned len, struct insn *in, bool *need_more);
/* Zydis' text of the instruction, for traces. */
void insn_print(struct icpu *cpu, const struct insn *in, uint64_t rip, char *text, size_t size);

#endif
