/*
 * Guest physical memory: RAM and ROM slots backed by one memfd each, checked access for
 * devices, and the dirty bitmap. Raw host pointers into it live here and in the engines only.
 *
 * Layout changes (PAM, SMRAM, ROM shadowing) happen with the VM lock held and all vCPUs told
 * by the layout generation; see mem_generation.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096u
#define PAGE_SHIFT 12
#define MEM_MAX_SLOTS 64
/* What one huge page of the host holds; its place in memory and in the file is a multiple of that. */
#define RAM_REGION_SHIFT 21
#define RAM_REGION (UINT64_C(1) << RAM_REGION_SHIFT)

/* One backing object: a named memfd mapping. */
struct ram {
	char *name;
	uint8_t *host;
	uint64_t size; /* bytes, page multiple */
	int fd;
	uint8_t *dirty; /* one byte per page: bit per enum dirty_client */
	uint8_t *region; /* one byte per 2 MiB: whether it has been touched; NULL: pages are as they come */
	bool have_huge; /* some of them have become huge pages */
	bool log_dirty; /* an engine that logs by slot (KVM) logs this one: set before mapping */
};

enum dirty_client { DIRTY_VGA = 1 << 0, DIRTY_SNAPSHOT = 1 << 1, DIRTY_ALL = 0xff };

/* Addresses of which nothing is mapped, for whole pages, from where the host's huge pages can be mapped on; NULL when there is no room. */
void *ram_reserve(uint64_t size);
/* Guest physical [gpa, gpa + size) shows ram at ram_offset. */
struct mem_slot {
	uint64_t gpa, size;
	struct ram *ram;
	uint64_t ram_offset;
	bool readonly; /* writes are dropped (ROM) */
};

struct mem;

struct mem_listener {
	/* Called after a slot was added (added true) or before it is removed. */
	void (*slot)(void *opaque, const struct mem_slot *slot, unsigned index, bool added);
	void *opaque;
};

struct ram *ram_create(const char *name, uint64_t size, GError **error);
void ram_destroy(struct ram *r);
/* The first page at or after `offset` (a page multiple) that the host has memory for; the size when there is none. All before are zero. */
uint64_t ram_next_present(const struct ram *r, uint64_t offset);

/* ---- huge.c: huge pages ---- */
/* From now on each 2 MiB become a huge page of the host, if it can be had, when they are first touched. */
void ram_use_huge(struct ram *r);
void ram_touch_first(struct ram *r, uint64_t offset);
/* All of what lies in it has been given back. */
void ram_untouch(struct ram *r, uint64_t offset, uint64_t len);
/* Somebody is about to use what is at offset: by its host address, or a mapping of its own. Any thread. */
static inline void ram_touch(struct ram *r, uint64_t offset)
{
	if (r->region && !__atomic_load_n(&r->region[offset >> RAM_REGION_SHIFT], __ATOMIC_RELAXED))
		ram_touch_first(r, offset);
}

struct mem *mem_create(void);
void mem_destroy(struct mem *m);
void mem_set_listener(struct mem *m, const struct mem_listener *l);

/* Slots may not overlap. Returns the slot index, or -EINVAL / -ENOSPC. */
int mem_map(struct mem *m, uint64_t gpa, uint64_t size, struct ram *ram, uint64_t ram_offset, bool readonly);
void mem_unmap(struct mem *m, int slot);
/* Grows by one with every map and unmap: engines compare it and drop what they cached. */
uint64_t mem_generation(const struct mem *m);
/* The slot that holds gpa, or NULL for a hole (MMIO). The pointer is good until the next change. */
const struct mem_slot *mem_find(const struct mem *m, uint64_t gpa);
static inline uint8_t *mem_slot_host(const struct mem_slot *s, uint64_t gpa)
{
	return s->ram->host + s->ram_offset + (gpa - s->gpa);
}
/* Slot i or NULL when unused; i < MEM_MAX_SLOTS. */
const struct mem_slot *mem_slot(const struct mem *m, unsigned i);

/* Checked access for devices (DMA): RAM only. False, and nothing done, when any byte is outside.
 * Writes mark pages dirty and tell the code listener (self-modifying code by DMA). */
bool mem_read(struct mem *m, uint64_t gpa, void *buf, size_t len);
bool mem_write(struct mem *m, uint64_t gpa, const void *buf, size_t len);
static inline uint16_t mem_read16(struct mem *m, uint64_t gpa) { uint16_t v = 0; mem_read(m, gpa, &v, 2); return v; }
static inline uint32_t mem_read32(struct mem *m, uint64_t gpa) { uint32_t v = 0; mem_read(m, gpa, &v, 4); return v; }
/* Direct access for vectored I/O: the host pieces of [gpa, gpa + len), at most `max`.
 * Returns the count, or -EFAULT. Pages are marked dirty when for_write. */
struct iovec;
int mem_iovec(struct mem *m, uint64_t gpa, size_t len, bool for_write, struct iovec *iov, int max);
/* After a write through such pieces that took its time (a disk read): what was there is stale once
 * more, for dirty tracking and for the engine's code. */
void mem_mark_written(struct mem *m, uint64_t gpa, size_t len);

/* Gives the whole pages within [gpa, gpa + len) back to the host; they read as zeros from now on. Holes and
 * read-only slots are left out. Returns the bytes given back. */
uint64_t mem_discard(struct mem *m, uint64_t gpa, uint64_t len);

/* Code tracking: an engine marks pages it has decoded code from; any write that goes through
 * mem_write or mem_iovec(for_write) to such a page calls back. */
void mem_set_code_listener(struct mem *m, void (*written)(void *opaque, uint64_t gpa, size_t len), void *opaque);

/* Dirty bits: marks, and reads-and-clears for one client over a ram's pages. */
void ram_mark_dirty(struct ram *r, uint64_t offset, uint64_t len);
/* Whether the page counts as written to for every client. */
static inline bool ram_is_dirty(const struct ram *r, uint64_t offset)
{
	return __atomic_load_n(&r->dirty[offset >> PAGE_SHIFT], __ATOMIC_RELAXED) == DIRTY_ALL;
}
bool ram_test_clear_dirty(struct ram *r, uint64_t offset, uint64_t len, enum dirty_client client);

#endif
