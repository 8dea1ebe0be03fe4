/*
 * The interpreter's own parts: shared code tracking, soft TLBs, the decoded-block cache.
 */
#ifndef ACCEL_INTERP_CORE_H
#define ACCEL_INTERP_CORE_H

#include <Zydis/Zydis.h>

#include "accel/interp/cpu.h"
#include "base/tsc.h"

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
	/* Grows when a page with code has been written to by no instruction's own store. */
	_Atomic uint32_t code_unseen;
	/* Grows when a page becomes a code page: vCPUs then drop their fast store entries. */
	_Atomic uint32_t code_epoch;
	GMutex code_lock; /* held while a page becomes one, so that who finds it a code page finds the epoch as well */
	struct icpu **cpus;
	uint64_t tsc_hz; /* of the host's TSC, measured at open */
	/* Where the paravirtual clocks of all CPUs count from: a guest TSC and the time then. */
	GMutex clock_lock;
	struct host_moment clock_origin;
	const struct interp_hooks *hooks;
};

/* What an engine built on this one wants to hear of. On the vCPU's own thread, except code_changed and poked.
 * FLUSH_ALL concerns every address space, the others the present one. */
enum flush_kind { FLUSH_ALL, FLUSH_LOCAL, FLUSH_PAGE };
struct interp_hooks {
	/* Translations were dropped: all, all but global ones, or those of the page at lin. */
	void (*flushed)(struct icpu *cpu, enum flush_kind kind, uint64_t lin);
	/* The vCPU left address space `from` for `to`, which keeps what it had (`kept`) or begins anew. */
	void (*switched)(struct icpu *cpu, unsigned from, unsigned to, bool kept);
	/* What was kept of an address space that is not the present one is no longer good. */
	void (*dropped)(struct icpu *cpu, unsigned space);
	/* A noticed store of the vCPU's own to a page that holds or held code; released: it counts as data from now on. */
	void (*code_stored)(struct icpu *cpu, uint64_t gpa, unsigned len, bool released);
	/* A device or a page walk wrote there. Any thread. */
	void (*code_changed)(struct interp *in, uint64_t gpa, uint64_t len);
	/* The vCPU's `poll` has been set. Any thread. */
	void (*poked)(struct icpu *cpu);
};

/* ---- for the engines that are built on this one: the parts of an engine's operations (interp.c) ---- */
int interp_init(struct interp *in, const struct accel_config *cfg, const struct accel_ops *ops, const struct interp_hooks *hooks);
void interp_finish(struct interp *in);
/* cpu is zeroed memory; its mmu may already be set. */
int icpu_init(struct icpu *cpu, struct interp *in, unsigned index);
void icpu_finish(struct icpu *cpu);
/* Something waits for the vCPU: it looks soon, wherever it is. Any thread. */
void icpu_poke(struct icpu *cpu);
/* Takes what waits for the vCPU; true when run() has to end, with *exit filled. */
bool icpu_take_requests(struct icpu *cpu, struct vcpu_exit *exit);
/* What ends run() before anything is executed: a shutdown, a halt. */
bool icpu_stopped(struct icpu *cpu, struct vcpu_exit *exit);
/* Executes the decoded block at cs:rip, or one instruction of it. False without memory. Faults leave by cpu->fault. */
bool icpu_run_block(struct icpu *cpu);
/* Executes one decoded instruction with all that single steps and shadows ask for. */
void icpu_step(struct icpu *cpu, const struct insn *in);
/* Delivers what cpu_raise has noted. */
void icpu_deliver_fault(struct icpu *cpu);
int interp_map_ram(struct accel *a, unsigned index, const struct mem_slot *slot);
int interp_unmap_ram(struct accel *a, unsigned index);
void interp_kick(struct vcpu *v);
void interp_set_irq(struct vcpu *v, unsigned bits, bool level);
bool interp_has_work(struct vcpu *v);
int interp_get_state(struct vcpu *v, struct cpu_state *s);
int interp_set_state(struct vcpu *v, const struct cpu_state *s);
void interp_set_step(struct vcpu *v, bool on);
int interp_send_msi(struct accel *a, uint64_t address, uint32_t data);
int interp_route_pin(struct accel *a, unsigned pin, uint64_t address, uint32_t data);
int interp_doorbell(struct accel *a, uint64_t gpa, unsigned len, int fd, bool on);
int interp_irqfd(struct accel *a, int fd, uint64_t address, uint32_t data, bool on);
int interp_get_apic(struct vcpu *v, struct apic_state *s);
int interp_set_apic(struct vcpu *v, const struct apic_state *s);
void interp_resume(struct accel *a);

/* Fast store entries for a page would hide writes to code; this many quiet stores release it. */
#define CODE_PAGE_PATIENCE 64

enum mmu_view { VIEW_SUPERVISOR, VIEW_USER, VIEW_SUPERVISOR_AC, VIEW_COUNT };

/*
 * One page of the soft TLB, exactly one cache line. A tag holds the linear page address, for each
 * view and for loads and stores apart, or TLB_NONE; a hit gives host + offset in the page. The
 * translator's inline probes know this layout.
 */
struct tlb_entry {
	uint64_t tag[VIEW_COUNT][2]; /* ACCESS_READ, ACCESS_WRITE */
	uint8_t *host; /* of the page's first byte */
	uint64_t info; /* TLB_GLOBAL, TLB_LARGE */
} __attribute__((aligned(64)));
/* No address is near it: a hit is any address less than a page above the tag. */
#define TLB_NONE (UINT64_C(1) << 63) /* but for entry 0, which that page belongs to */
#define TLB_GLOBAL 1
#define TLB_LARGE 2 /* a piece of a large page */
#define TLB_HUGE 4  /* of 1 GiB */
#define TLB_SIZE 4096u

/* Which entries have been filled, a bit for each, so that a flush costs no more than the fills did. */
struct tlb_set {
	uint64_t any[TLB_SIZE / 4096]; /* words of `bits` that are not 0 */
	uint64_t bits[TLB_SIZE / 64];
};

/*
 * A page table (of the last level) that a walk came to, and what the levels above allow: a paging-structure cache
 * (SDM 3A 4.10.3). Every flush empties it. Only walks that have set all accessed bits on their way are remembered.
 */
#define WALK_CACHE 256u
struct walk_entry {
	uint64_t region; /* linear address of what the table maps */
	uint64_t epoch;  /* struct mmu's, when it was remembered */
	uint64_t gpa;    /* of the table; WALK_ in the low bits */
	uint8_t *host;
};

/* Pages of an address space that is not the present one: spaces.c. */
#define SPACES 8u
#define SPACE_PAGES 512u
struct space_page {
	uint64_t lin; /* | TLB_ bits */
	uint8_t *host;
	uint32_t tags; /* a bit for each view and access */
};
struct space {
	bool used;
	uint16_t pcid;
	uint32_t code_epoch;
	uint64_t left; /* when, counted in switches */
	unsigned count;
	struct space_page page[SPACE_PAGES];
};

/* A page that leads to no memory: where, and to whom its accesses have been allowed. */
#define IO_PAGES 64u
struct io_page {
	uint64_t lin, gpa; /* lin is 1 more than the page's address; 0: none */
	uint64_t epoch;    /* map_epoch: any flush ends it */
	uint8_t allowed;   /* a bit per view and kind of access */
};

struct mmu {
	struct tlb_entry tlb[TLB_SIZE]; /* must be first */
	struct tlb_set local, global;
	struct walk_entry walk[WALK_CACHE];
	uint64_t walk_epoch;   /* grows with every flush */
	uint64_t generation;   /* of the memory map that the entries stand on */
	uint32_t code_epoch;   /* that the store entries stand on */
	uint64_t map_epoch;    /* grows with every flush: cached code look-ups compare it */
	uint64_t large[8];     /* by a hash of the 2 MiB region: pieces of large pages may be cached */
	bool huge_seen;        /* pieces of a 1 GiB page may be cached */
	uint64_t fills, displaced; /* of the fills, those that took the place of another page */
	struct space space[SPACES];
	unsigned space_now;    /* the present address space's number; its pages are in the TLB */
	uint64_t switches, kept; /* from space to space; of them to one that was known */
	const struct mem_slot *table_slot, *data_slot; /* where page tables, and pages, were found last, in this layout */
	uint64_t slot_generation;
	struct io_page io[IO_PAGES];
};

/* A translation: where a linear address leads. host is NULL for MMIO and for writes to ROM. */
struct mmu_target {
	uint64_t gpa;
	uint8_t *host;
	const struct mem_slot *slot;
	bool global; /* kept over CR3 loads */
	unsigned level; /* more than 1: a piece of a large page */
};

/* A page of RAM as the guest's tables show it to one view. */
struct mmu_page {
	uint64_t lin, gpa;  /* of its first byte */
	uint64_t size;      /* of the guest's page, at most 2 MiB */
	const struct mem_slot *slot; /* that gpa is in; a large page may lead out of it */
	bool writable;      /* and dirty: a store needs no more notice */
	bool global;
	bool huge;          /* a piece of a 1 GiB page */
};

int mmu_init(struct icpu *cpu);
void mmu_finish(struct icpu *cpu);
static inline enum mmu_view mmu_view(const struct icpu *cpu)
{
	return cpu->cpl == 3 ? VIEW_USER : (enum mmu_view)((cpu->s.rflags >> 17) & 2);
}
/* Where the soft TLB leads, or NULL. */
static inline uint8_t *mmu_hit(struct icpu *cpu, uint64_t lin, unsigned len, enum access access, enum mmu_view view)
{
	struct tlb_entry *e = &cpu->mmu->tlb[(lin >> PAGE_SHIFT) % TLB_SIZE];
	uint64_t offset = lin - e->tag[view][access];

	/* One compare: a page-crossing access lands past the last start that fits. */
	return offset <= PAGE_SIZE - len ? e->host + offset : NULL;
}
/* Full translation with rights; raises #PF. Remembers RAM pages in the soft TLB. */
void mmu_translate(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, struct mmu_target *t);
/* The same without raising anything. FILL_DONE: the page is now remembered for such an access. FILL_FAULT: *error is #PF's.
 * FILL_SLOW: it is no RAM, or stores to it are noticed. */
enum mmu_filled { FILL_DONE, FILL_FAULT, FILL_SLOW };
enum mmu_filled mmu_fill(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, uint32_t *error);
/* The page at lin when the access is allowed and it is RAM that may be written. With `mark` accessed and dirty bits
 * are set; without, the page is found only if they are. No faults, and nothing is remembered. */
bool mmu_page(struct icpu *cpu, uint64_t lin, enum access access, enum mmu_view view, bool mark, struct mmu_page *p);
/* Drops what a changed memory map or a new code page has made stale. Between blocks. */
void mmu_sync(struct icpu *cpu);

#define BLOCK_MAX 48
struct block {
	struct block *next; /* in its hash chain */
	uint64_t gpa, gpa2; /* of the first byte; of the second page with bit 0 set when it crosses, else 0 */
	uint32_t written, written2;
	uint16_t length;    /* bytes */
	uint8_t count, bits;
	struct insn insn[];
};

/*
 * Pages become code. From then on stores to them have to be noticed: the page is marked, the epoch grows, and each vCPU
 * drops its fast store entries when it next looks at the epoch. What it stored before by an entry of old goes unnoticed.
 * So bytes that are decoded meanwhile are not settled: they have to be compared with memory again, at the latest when an
 * instruction that serializes is executed (SDM 3A 9.1.3), until every other vCPU has come to the epoch, and once then. For
 * stores of a vCPU are visible before the epoch that it says it has come to.
 */
/* Marks the page. Returns its `written`, and in *epoch the one to wait for. */
uint32_t blocks_watch_page(struct icpu *cpu, uint64_t gpa, uint32_t *epoch);
/* Whether every other vCPU has come to that epoch. */
bool blocks_settled(const struct icpu *cpu, uint32_t epoch);
/* Memory has been written to by no instruction's own store: by a device, or an accessed bit by a walk. Any thread. */
void blocks_written_unseen(struct interp *in, uint64_t gpa, uint64_t len);
/*
 * Around what the vCPU asks of a device: it may write to code at once, also to the block that asks, or change the memory
 * map (flash that takes a command for one). Then the loop looks before it goes on.
 */
static inline uint32_t device_begins(const struct icpu *cpu)
{
	return atomic_load_explicit(&cpu->interp->code_unseen, memory_order_relaxed);
}
static inline void device_ends(struct icpu *cpu, uint32_t begun)
{
	cpu->block_ends |= device_begins(cpu) != begun || mem_generation(cpu->mem) != cpu->mmu->generation;
}
/* The vCPU's stores by entries from before the present epoch are over. */
void mmu_sync_stores(struct icpu *cpu);
/* Around run(). */
void mmu_arrive(struct icpu *cpu);
void mmu_leave(struct icpu *cpu);
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
