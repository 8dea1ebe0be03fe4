/*
 * An address space of device regions: one for ports, one for MMIO. A device sees offsets into
 * its region, never its base. Overlaps resolve to the region mapped last. Access under the VM
 * lock. Reads of nothing answer all ones; writes to nothing are dropped.
 */
#ifndef BUS_SPACE_H
#define BUS_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct region_ops {
	/* len is 1, 2, 4 or 8 and offset + len <= region size. Values are little-endian numbers. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned len);
	void (*write)(void *opaque, uint64_t offset, unsigned len, uint64_t value);
	/* Access widths the device handles itself; others are split or widened by the space:
	 * wider accesses become several of max_len; 0 means 1 for min_len and 8 for max_len. */
	uint8_t min_len, max_len;
};

struct space;
struct region;

/* `limit` is the highest address (0xffff for ports). */
struct space *space_create(const char *name, uint64_t limit);
void space_destroy(struct space *s);

/* The region starts mapped at base. `name` shows in traces and in the monitor; not copied. */
struct region *space_add(struct space *s, const char *name, uint64_t base, uint64_t size,
			 const struct region_ops *ops, void *opaque);
/* Creates an unmapped region (PCI BARs). */
struct region *space_add_unmapped(struct space *s, const char *name, uint64_t size,
				  const struct region_ops *ops, void *opaque);
void region_map(struct region *r, uint64_t base);
void region_unmap(struct region *r);
void region_destroy(struct region *r);
bool region_mapped(const struct region *r);
uint64_t region_base(const struct region *r);

uint64_t space_read(struct space *s, uint64_t addr, unsigned len);
void space_write(struct space *s, uint64_t addr, unsigned len, uint64_t value);
/* Whether any region covers addr. */
bool space_covers(struct space *s, uint64_t addr);
/* Calls fn for each mapped region, in address order. */
void space_walk(struct space *s, void (*fn)(void *opaque, const char *name, uint64_t base, uint64_t size), void *opaque);

#endif
