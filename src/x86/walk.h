/* Reading page tables without side effects, for the monitor. SDM 3A chapter 4. */
#ifndef X86_WALK_H
#define X86_WALK_H

#include "mem/mem.h"
#include "x86/cpu_state.h"

struct walk_range {
	uint64_t lin, gpa, size;
	bool writable, user, nx, global, dirty;
};

/* Linear to physical; identity without paging; false when not mapped. */
bool walk_address(struct mem *m, const struct cpu_state *s, uint64_t lin, uint64_t *gpa);
/* Calls fn for each mapped page, or for runs of equal rights when `merge`, in address order; at most
 * 100,000 times. False when paging is off. */
bool walk_all(struct mem *m, const struct cpu_state *s, bool merge, void (*fn)(void *opaque, const struct walk_range *r),
	      void *opaque);

#endif
