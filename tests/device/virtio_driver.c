/* See virtio_driver.h. */
#include "virtio_driver.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

#define MSIX_BAR 0xfe010000u
#define REGS_BAR 0xfe020000u

static void got_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct drv *d = opaque;

	g_assert_cmphex(address, ==, 0xfee00000);
	g_assert_cmpuint(data, <, G_N_ELEMENTS(d->msi));
	d->msi[data]++;
}

static void got_intx(void *opaque, int line, bool level)
{
	((struct drv *)opaque)->intx = level;
}

void drv_init(struct drv *d)
{
	const struct msi_sink sink = { got_msi, d };
	struct irq lines[4];

	memset(d, 0, sizeof(*d));
	for (int i = 0; i < 4; i++)
		lines[i] = (struct irq){ got_intx, d, i };
	d->ports = space_create("ports", 0xffff);
	d->mmio = space_create("mmio", UINT64_MAX);
	d->mem = mem_create();
	d->ram = ram_create("test", DRV_RAM, NULL);
	g_assert_nonnull(d->ram);
	mem_map(d->mem, 0, DRV_RAM, d->ram, 0, false);
	d->bus = pci_bus_create(d->ports, d->mmio, d->mem, lines, &sink);
	d->clock = clock_create_manual();
	d->alloc = 0x10000;
}

void drv_finish(struct drv *d)
{
	pci_bus_destroy(d->bus);
	clock_destroy(d->clock);
	mem_destroy(d->mem);
	ram_destroy(d->ram);
	space_destroy(d->ports);
	space_destroy(d->mmio);
}

uint64_t drv_alloc(struct drv *d, uint32_t len, uint32_t align)
{
	uint64_t at = (d->alloc + align - 1) & ~(uint64_t)(align - 1);

	d->alloc = at + len;
	g_assert_cmpuint(d->alloc, <=, DRV_RAM);
	return at;
}

void drv_probe(struct drv *d, unsigned devfn)
{
	unsigned at, seen = 0;

	d->devfn = devfn;
	pci_config_write(d->bus, devfn, 0x14, 4, MSIX_BAR);
	pci_config_write(d->bus, devfn, 0x20, 4, REGS_BAR);
	pci_config_write(d->bus, devfn, 0x04, 2, 6);
	for (at = pci_config_read(d->bus, devfn, 0x34, 1); at; at = pci_config_read(d->bus, devfn, at + 1, 1)) {
		unsigned type = pci_config_read(d->bus, devfn, at + 3, 1);
		uint64_t addr = REGS_BAR + pci_config_read(d->bus, devfn, at + 8, 4);

		if (pci_config_read(d->bus, devfn, at, 1) != 0x09)
			continue;
		seen |= 1u << type;
		if (type != 5)
			g_assert_cmpuint(pci_config_read(d->bus, devfn, at + 4, 1), ==, 4);
		switch (type) {
		case 1: d->common = addr; break;
		case 2:
			d->notify = addr;
			d->notify_multiplier = pci_config_read(d->bus, devfn, at + 16, 4);
			break;
		case 3: d->isr = addr; break;
		case 4: d->config = addr; break;
		}
	}
	g_assert_cmphex(seen, ==, 0x3e);
}

uint32_t drv_common_read(struct drv *d, unsigned reg, unsigned len)
{
	return (uint32_t)space_read(d->mmio, d->common + reg, len);
}

void drv_common_write(struct drv *d, unsigned reg, unsigned len, uint32_t value)
{
	space_write(d->mmio, d->common + reg, len, value);
}

uint32_t drv_config_read(struct drv *d, unsigned offset, unsigned len)
{
	return (uint32_t)space_read(d->mmio, d->config + offset, len);
}

uint8_t drv_status(struct drv *d)
{
	return (uint8_t)drv_common_read(d, 0x14, 1);
}

uint64_t drv_offered(struct drv *d)
{
	uint64_t f;

	drv_common_write(d, 0, 4, 0);
	f = drv_common_read(d, 4, 4);
	drv_common_write(d, 0, 4, 1);
	return f | (uint64_t)drv_common_read(d, 4, 4) << 32;
}

bool drv_negotiate(struct drv *d, uint64_t features)
{
	drv_common_write(d, 0x14, 1, 0);
	g_assert_cmphex(drv_status(d), ==, 0);
	drv_common_write(d, 0x14, 1, 1);
	drv_common_write(d, 0x14, 1, 3);
	for (unsigned half = 0; half < 2; half++) {
		drv_common_write(d, 8, 4, half);
		drv_common_write(d, 12, 4, (uint32_t)(features >> 32 * half));
	}
	drv_common_write(d, 0x14, 1, 0x0b);
	d->features = features;
	return drv_status(d) & S_FEATURES_OK;
}

void drv_queue_setup(struct drv *d, unsigned q, uint16_t size)
{
	struct drv_queue *vq = &d->q[q];

	*vq = (struct drv_queue){ .size = size, .avail_wrap = true, .used_wrap = true };
	vq->desc = drv_alloc(d, 16u * size, 16);
	vq->driver = drv_alloc(d, 6 + 2u * size, 4);
	vq->device = drv_alloc(d, 6 + 8u * size, 4);
	drv_common_write(d, 0x16, 2, q);
	drv_common_write(d, 0x18, 2, size);
	g_assert_cmpuint(drv_common_read(d, 0x18, 2), ==, size);
	/* As one register of 64 bits, and as two. */
	space_write(d->mmio, d->common + 0x20, 8, vq->desc);
	drv_common_write(d, 0x28, 4, (uint32_t)vq->driver);
	drv_common_write(d, 0x2c, 4, 0);
	drv_common_write(d, 0x30, 4, (uint32_t)vq->device);
	drv_common_write(d, 0x1c, 2, 1);
}

void drv_ok(struct drv *d)
{
	drv_common_write(d, 0x14, 1, 0x0f);
}

void drv_msix(struct drv *d, unsigned queues)
{
	unsigned at;

	for (at = pci_config_read(d->bus, d->devfn, 0x34, 1); at; at = pci_config_read(d->bus, d->devfn, at + 1, 1))
		if (pci_config_read(d->bus, d->devfn, at, 1) == 0x11)
			break;
	g_assert_cmpuint(at, !=, 0);
	for (unsigned i = 0; i <= queues; i++) {
		space_write(d->mmio, MSIX_BAR + 16 * i, 8, 0xfee00000);
		space_write(d->mmio, MSIX_BAR + 16 * i + 8, 4, i);
		space_write(d->mmio, MSIX_BAR + 16 * i + 12, 4, 0);
	}
	pci_config_write(d->bus, d->devfn, at + 2, 2, 0x8000);
	drv_common_write(d, 0x10, 2, 0);
	for (unsigned i = 0; i < queues; i++) {
		drv_common_write(d, 0x16, 2, i);
		drv_common_write(d, 0x1a, 2, i + 1);
		g_assert_cmpuint(drv_common_read(d, 0x1a, 2), ==, i + 1);
	}
}

void drv_desc(struct drv *d, uint64_t table, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t b[16];

	st64le(b, gpa);
	st32le(b + 8, len);
	st16le(b + 12, flags);
	st16le(b + 14, next);
	g_assert_true(mem_write(d->mem, table + 16u * i, b, sizeof(b)));
}

void drv_avail(struct drv *d, unsigned q, uint16_t head)
{
	struct drv_queue *vq = &d->q[q];

	drv_poke16(d, vq->driver + 4 + 2u * (vq->avail % vq->size), head);
	drv_poke16(d, vq->driver + 2, ++vq->avail);
}

static uint64_t indirect_table(struct drv *d, const struct drv_buf *b, unsigned n, bool is_packed)
{
	uint64_t table = drv_alloc(d, 16 * n, 16);

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = b[i].write ? 2 : 0;

		if (is_packed)
			drv_desc(d, table, i, b[i].gpa, b[i].len, 0, flags);
		else
			drv_desc(d, table, i, b[i].gpa, b[i].len, flags | (i + 1 < n), (uint16_t)(i + 1));
	}
	return table;
}

/* The first descriptor's flags go last, as for a device that looks meanwhile. */
static uint16_t packed_add(struct drv *d, struct drv_queue *vq, const struct drv_buf *b, unsigned n, bool indirect)
{
	uint16_t first = vq->avail, id = vq->next_desc++ & 0xff, first_flags = 0;
	struct drv_buf whole;

	if (indirect) {
		whole = (struct drv_buf){ indirect_table(d, b, n, true), 16 * n, false };
		b = &whole;
		n = 1;
	}
	vq->slots[id] = (uint16_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (b[i].write ? 2 : 0) | (i + 1 < n) | (indirect ? 4 : 0) | (vq->avail_wrap ? 0x80 : 0x8000);

		if (!i)
			first_flags = flags;
		drv_desc(d, vq->desc, vq->avail, b[i].gpa, b[i].len, id, i ? flags : (vq->avail_wrap ? 0 : 0x80));
		if (++vq->avail == vq->size) {
			vq->avail = 0;
			vq->avail_wrap = !vq->avail_wrap;
		}
	}
	drv_poke16(d, vq->desc + 16u * first + 14, first_flags);
	return id;
}

uint16_t drv_add(struct drv *d, unsigned q, const struct drv_buf *b, unsigned n, bool indirect)
{
	struct drv_queue *vq = &d->q[q];
	uint16_t head = vq->next_desc;

	if (d->features & F_PACKED)
		return packed_add(d, vq, b, n, indirect);
	if (indirect) {
		drv_desc(d, vq->desc, head, indirect_table(d, b, n, false), 16 * n, 4, 0);
		vq->next_desc = (uint16_t)((head + 1) % vq->size);
	}
	for (unsigned i = 0; i < n && !indirect; i++) {
		uint16_t next = (uint16_t)((vq->next_desc + 1) % vq->size);

		drv_desc(d, vq->desc, vq->next_desc, b[i].gpa, b[i].len, (b[i].write ? 2 : 0) | (i + 1 < n), next);
		vq->next_desc = next;
	}
	drv_avail(d, q, head);
	return head;
}

void drv_kick(struct drv *d, unsigned q)
{
	drv_common_write(d, 0x16, 2, q);
	space_write(d->mmio, d->notify + drv_common_read(d, 0x1e, 2) * d->notify_multiplier, 2, q);
}

static bool packed_used(struct drv *d, struct drv_queue *vq, uint32_t *id, uint32_t *len)
{
	uint64_t at = vq->desc + 16u * vq->used;
	uint16_t flags = drv_peek16(d, at + 14);

	if (!!(flags & 0x80) != vq->used_wrap || !!(flags & 0x8000) != vq->used_wrap)
		return false;
	*len = mem_read32(d->mem, at + 8);
	*id = drv_peek16(d, at + 12);
	vq->used += vq->slots[*id & 0xff];
	if (vq->used >= vq->size) {
		vq->used -= vq->size;
		vq->used_wrap = !vq->used_wrap;
	}
	return true;
}

bool drv_used(struct drv *d, unsigned q, uint32_t *id, uint32_t *len)
{
	struct drv_queue *vq = &d->q[q];
	uint64_t at;

	if (d->features & F_PACKED)
		return packed_used(d, vq, id, len);
	if (drv_peek16(d, vq->device + 2) == vq->used)
		return false;
	at = vq->device + 4 + 8u * (vq->used % vq->size);
	*id = mem_read32(d->mem, at);
	*len = mem_read32(d->mem, at + 4);
	vq->used++;
	return true;
}
