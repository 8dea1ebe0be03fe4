/* Guest physical memory: slots over memfd-backed RAM, checked DMA, dirty bytes. */
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"

struct mem {
	struct mem_slot slots[MEM_MAX_SLOTS];
	bool used[MEM_MAX_SLOTS];
	/* Indexes of used slots in address order, for look-up. */
	unsigned order[MEM_MAX_SLOTS];
	unsigned count;
	_Atomic uint64_t generation;
	struct mem_listener listener;
	void (*code_written)(void *opaque, uint64_t gpa, size_t len);
	void *code_opaque;
};

void *ram_reserve(uint64_t size)
{
	uint8_t *all = mmap(NULL, size + RAM_REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *host;

	if (all == MAP_FAILED)
		return NULL;
	host = (uint8_t *)(((uintptr_t)all + RAM_REGION - 1) & ~(uintptr_t)(RAM_REGION - 1));
	if (host > all)
		munmap(all, (size_t)(host - all));
	if (host < all + RAM_REGION)
		munmap(host + size, (size_t)(all + RAM_REGION - host));
	return host;
}

static void *map_aligned(uint64_t size, int fd)
{
	void *host = ram_reserve(size);

	if (!host || mmap(host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) != MAP_FAILED)
		return host ? host : MAP_FAILED;
	munmap(host, size);
	return MAP_FAILED;
}

struct ram *ram_create(const char *name, uint64_t size, GError **error)
{
	struct ram *r;
	int fd;
	void *host;

	size = (size + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	fd = memfd_create(name, MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
		g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
			    "cannot make %" G_GUINT64_FORMAT " MiB of guest memory (%s): %s; ask for less with --memory",
			    size >> 20, name, g_strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	host = map_aligned(size, fd);
	if (host == MAP_FAILED) {
		g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
			    "cannot map %" G_GUINT64_FORMAT " MiB of guest memory (%s): %s; ask for less with --memory",
			    size >> 20, name, g_strerror(errno));
		close(fd);
		return NULL;
	}
	r = g_new0(struct ram, 1);
	r->name = g_strdup(name);
	r->host = host;
	r->size = size;
	r->fd = fd;
	r->dirty = g_malloc0(size >> PAGE_SHIFT);
	return r;
}

uint64_t ram_next_present(const struct ram *r, uint64_t offset)
{
	off_t at = lseek(r->fd, (off_t)offset, SEEK_DATA);

	if (at >= 0)
		return (uint64_t)at & ~(uint64_t)(PAGE_SIZE - 1);
	return errno == ENXIO ? r->size : offset;
}

void ram_destroy(struct ram *r)
{
	if (!r)
		return;
	munmap(r->host, r->size);
	close(r->fd);
	g_free(r->dirty);
	g_free(r->region);
	g_free(r->name);
	g_free(r);
}

struct mem *mem_create(void)
{
	return g_new0(struct mem, 1);
}

void mem_destroy(struct mem *m)
{
	g_free(m);
}

void mem_set_listener(struct mem *m, const struct mem_listener *l)
{
	m->listener = *l;
}

static int overlap(const struct mem *m, uint64_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct mem_slot *s = &m->slots[m->order[i]];

		if (gpa < s->gpa + s->size && s->gpa < gpa + size)
			return 1;
	}
	return 0;
}

int mem_map(struct mem *m, uint64_t gpa, uint64_t size, struct ram *ram, uint64_t ram_offset, bool readonly)
{
	unsigned slot, at;

	if (!size || ((gpa | size | ram_offset) & (PAGE_SIZE - 1)) || gpa + size < gpa ||
	    ram_offset + size > ram->size || overlap(m, gpa, size))
		return -EINVAL;
	for (slot = 0; slot < MEM_MAX_SLOTS && m->used[slot]; slot++)
		;
	if (slot == MEM_MAX_SLOTS)
		return -ENOSPC;
	m->slots[slot] = (struct mem_slot){ gpa, size, ram, ram_offset, readonly };
	m->used[slot] = true;
	for (at = m->count; at > 0 && m->slots[m->order[at - 1]].gpa > gpa; at--)
		m->order[at] = m->order[at - 1];
	m->order[at] = slot;
	m->count++;
	atomic_fetch_add(&m->generation, 1);
	if (m->listener.slot)
		m->listener.slot(m->listener.opaque, &m->slots[slot], slot, true);
	return (int)slot;
}

void mem_unmap(struct mem *m, int slot)
{
	unsigned at;

	if (slot < 0 || slot >= MEM_MAX_SLOTS || !m->used[slot])
		return;
	if (m->listener.slot)
		m->listener.slot(m->listener.opaque, &m->slots[slot], (unsigned)slot, false);
	for (at = 0; m->order[at] != (unsigned)slot; at++)
		;
	m->count--;
	for (; at < m->count; at++)
		m->order[at] = m->order[at + 1];
	m->used[slot] = false;
	atomic_fetch_add(&m->generation, 1);
}

uint64_t mem_generation(const struct mem *m)
{
	return atomic_load_explicit(&m->generation, memory_order_acquire);
}

const struct mem_slot *mem_find(const struct mem *m, uint64_t gpa)
{
	unsigned low = 0, high = m->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		const struct mem_slot *s = &m->slots[m->order[mid]];

		if (gpa < s->gpa)
			high = mid;
		else if (gpa - s->gpa >= s->size)
			low = mid + 1;
		else
			return s;
	}
	return NULL;
}

const struct mem_slot *mem_slot(const struct mem *m, unsigned i)
{
	return i < MEM_MAX_SLOTS && m->used[i] ? &m->slots[i] : NULL;
}

/* True when all of [gpa, gpa + len) is backed by slots. */
static bool covered(const struct mem *m, uint64_t gpa, uint64_t len)
{
	while (len) {
		const struct mem_slot *s = mem_find(m, gpa);
		uint64_t chunk;

		if (!s)
			return false;
		chunk = s->size - (gpa - s->gpa);
		if (chunk >= len)
			return true;
		gpa += chunk;
		len -= chunk;
	}
	return true;
}

static void touch(const struct mem_slot *s, uint64_t gpa, uint64_t len)
{
	uint64_t offset = s->ram_offset + (gpa - s->gpa), end = offset + len;

	for (uint64_t at = offset & ~(RAM_REGION - 1); s->ram->region && at < end; at += RAM_REGION)
		ram_touch(s->ram, at);
}

bool mem_read(struct mem *m, uint64_t gpa, void *buf, size_t len)
{
	uint8_t *to = buf;

	if (!covered(m, gpa, len))
		return false;
	while (len) {
		const struct mem_slot *s = mem_find(m, gpa);
		uint64_t left = s->size - (gpa - s->gpa);
		size_t chunk = left < len ? (size_t)left : len;

		touch(s, gpa, chunk);
		memcpy(to, mem_slot_host(s, gpa), chunk);
		to += chunk;
		gpa += chunk;
		len -= chunk;
	}
	return true;
}

bool mem_write(struct mem *m, uint64_t gpa, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	if (!covered(m, gpa, len))
		return false;
	while (len) {
		const struct mem_slot *s = mem_find(m, gpa);
		uint64_t left = s->size - (gpa - s->gpa);
		size_t chunk = left < len ? (size_t)left : len;

		if (!s->readonly) {
			touch(s, gpa, chunk);
			memcpy(mem_slot_host(s, gpa), from, chunk);
			ram_mark_dirty(s->ram, s->ram_offset + (gpa - s->gpa), chunk);
			if (m->code_written)
				m->code_written(m->code_opaque, gpa, chunk);
		}
		from += chunk;
		gpa += chunk;
		len -= chunk;
	}
	return true;
}

int mem_iovec(struct mem *m, uint64_t gpa, size_t len, bool for_write, struct iovec *iov, int max)
{
	int n = 0;

	while (len) {
		const struct mem_slot *s = mem_find(m, gpa);
		uint64_t left;
		size_t chunk;

		if (!s || n == max || (for_write && s->readonly))
			return -EFAULT;
		left = s->size - (gpa - s->gpa);
		chunk = left < len ? (size_t)left : len;
		touch(s, gpa, chunk);
		iov[n++] = (struct iovec){ mem_slot_host(s, gpa), chunk };
		if (for_write) {
			ram_mark_dirty(s->ram, s->ram_offset + (gpa - s->gpa), chunk);
			if (m->code_written)
				m->code_written(m->code_opaque, gpa, chunk);
		}
		gpa += chunk;
		len -= chunk;
	}
	return n;
}

void mem_mark_written(struct mem *m, uint64_t gpa, size_t len)
{
	while (len) {
		const struct mem_slot *s = mem_find(m, gpa);
		uint64_t left;
		size_t chunk;

		if (!s)
			return;
		left = s->size - (gpa - s->gpa);
		chunk = left < len ? (size_t)left : len;
		ram_mark_dirty(s->ram, s->ram_offset + (gpa - s->gpa), chunk);
		if (m->code_written)
			m->code_written(m->code_opaque, gpa, chunk);
		gpa += chunk;
		len -= chunk;
	}
}

/* A hole in the file: gone from every mapping of it at once, the engines' too. */
static bool punch(struct mem *m, const struct mem_slot *s, uint64_t gpa, uint64_t len)
{
	uint64_t offset = s->ram_offset + (gpa - s->gpa);

	if (fallocate(s->ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0)
		return false;
	ram_untouch(s->ram, offset, len);
	mem_mark_written(m, gpa, len);
	return true;
}

uint64_t mem_discard(struct mem *m, uint64_t gpa, uint64_t len)
{
	uint64_t end, done = 0;

	if (!checked_add(gpa, len, &end) || gpa > UINT64_MAX - PAGE_SIZE)
		return 0;
	gpa = (gpa + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	end &= ~(uint64_t)(PAGE_SIZE - 1);
	for (unsigned i = 0; i < m->count; i++) {
		const struct mem_slot *s = &m->slots[m->order[i]];
		uint64_t from = MAX(gpa, s->gpa), to = MIN(end, s->gpa + s->size);

		if (from < to && !s->readonly && punch(m, s, from, to - from))
			done += to - from;
	}
	return done;
}

void mem_set_code_listener(struct mem *m, void (*written)(void *opaque, uint64_t gpa, size_t len), void *opaque)
{
	m->code_written = written;
	m->code_opaque = opaque;
}

void ram_mark_dirty(struct ram *r, uint64_t offset, uint64_t len)
{
	if (!len || offset >= r->size)
		return;
	for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT; page++)
		__atomic_store_n(&r->dirty[page], DIRTY_ALL, __ATOMIC_RELAXED);
}

bool ram_test_clear_dirty(struct ram *r, uint64_t offset, uint64_t len, enum dirty_client client)
{
	bool dirty = false;

	if (!len || offset >= r->size || len > r->size - offset)
		return false;
	for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT; page++) {
		if ((__atomic_load_n(&r->dirty[page], __ATOMIC_RELAXED) & client) &&
		    (__atomic_fetch_and(&r->dirty[page], (uint8_t)~client, __ATOMIC_RELAXED) & client))
			dirty = true;
	}
	return dirty;
}
