/* A parallel NOR flash bank with the common flash interface and the Intel command set. */
#ifndef DEV_PFLASH_H
#define DEV_PFLASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/device.h"
#include "bus/space.h"
#include "mem/mem.h"

struct pflash;

#define PFLASH_BLOCK 4096u /* what is erased at once */
#define PFLASH_BUFFER 256u /* what a buffered write may hold */

/* Where changes are kept; both return 0 or -errno. */
struct pflash_store {
	int (*write)(void *opaque, uint64_t offset, const void *data, size_t len);
	int (*sync)(void *opaque); /* what was written survives a power cut */
	void *opaque;
};

/* The contents are `ram`, which stays the caller's and whose size is a multiple of PFLASH_BLOCK: the guest reads it as
 * ROM at `base` while the chip is in array mode. `store` may be NULL: changes are forgotten. */
struct pflash *pflash_create(struct space *mmio, struct mem *mem, uint64_t base, struct ram *ram, bool readonly,
			     const struct pflash_store *store, const char *id);
struct device *pflash_device(struct pflash *f);

#endif
