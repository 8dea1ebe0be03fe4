/*
 * Conventional PCI: configuration mechanism 1, BAR decoding, INTx routing, MSI-X.
 * PCI Local Bus Specification 3.0, chapters 3.2.2.3, 6.1, 6.2 and 6.8.
 */
#include "bus/pci.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_BAR0 0x10
#define PCI_ROM 0x30
#define PCI_CAP_PTR 0x34
#define PCI_LINE 0x3c
#define PCI_PIN 0x3d

#define CMD_IO 0x0001
#define CMD_MEM 0x0002
#define CMD_MASTER 0x0004
#define CMD_INTX_OFF 0x0400
#define STATUS_INTX 0x08
#define STATUS_CAPS 0x10

#define MSIX_ENABLE 0x8000
#define MSIX_MASK_ALL 0x4000
#define MSIX_PBA 0x800
#define MSIX_MAX 128 /* 128 entries of 16 bytes fill the first half of the page */

struct pci_msix {
	unsigned vectors;
	unsigned cap;
	uint8_t table[MSIX_MAX * 16];
	uint64_t pending[MSIX_MAX / 64];
};

struct pci_slot {
	struct pci_dev *dev;
	struct ram *rom;
	uint32_t rom_size;
	int rom_slot;
	bool driven; /* what the pin shows after INTx disable */
};

struct pci_bus {
	struct space *ports, *mmio;
	struct mem *mem;
	struct irq intx[4];
	struct msi_sink msi;
	struct eventfds eventfds;
	struct region *addr_port, *data_port;
	uint32_t addr;
	unsigned level[4]; /* how many pins pull each line */
	struct pci_slot slot[256];
};

/* ---- interrupts ---- */

static void pin_update(struct pci_dev *p)
{
	struct pci_slot *s = &p->bus->slot[p->devfn];
	unsigned pin = p->config[PCI_PIN];
	bool on = p->pin_level && !(ld16le(&p->config[PCI_COMMAND]) & CMD_INTX_OFF);
	unsigned line;

	if (p->pin_level)
		p->config[PCI_STATUS] |= STATUS_INTX;
	else
		p->config[PCI_STATUS] &= ~STATUS_INTX;
	if (!pin || on == s->driven)
		return;
	s->driven = on;
	line = ((p->devfn >> 3) + pin - 1 - 1) & 3;
	if (on) {
		if (p->bus->level[line]++ == 0)
			irq_set(&p->bus->intx[line], true);
	} else if (--p->bus->level[line] == 0) {
		irq_set(&p->bus->intx[line], false);
	}
}

void pci_set_intx(struct pci_dev *p, bool level)
{
	p->pin_level = level;
	pin_update(p);
}

static uint16_t msix_control(const struct pci_dev *p)
{
	return ld16le(&p->config[p->msix->cap + 2]);
}

bool pci_msix_enabled(const struct pci_dev *p)
{
	return p->msix && (msix_control(p) & MSIX_ENABLE);
}

bool pci_msix_message(const struct pci_dev *p, unsigned vector, struct pci_message *m)
{
	const uint8_t *e;

	if (!p->msix || vector >= p->msix->vectors)
		return false;
	e = p->msix->table + vector * 16;
	if ((msix_control(p) & (MSIX_ENABLE | MSIX_MASK_ALL)) != MSIX_ENABLE || (e[12] & 1) || !(p->config[PCI_COMMAND] & CMD_MASTER))
		return false;
	*m = (struct pci_message){ ld64le(e), ld32le(e + 8) };
	return true;
}

static void msix_try(struct pci_dev *p, unsigned v)
{
	uint64_t *pending = &p->msix->pending[v / 64], bit = UINT64_C(1) << (v & 63);
	struct pci_message m;

	if (!(*pending & bit) || !pci_msix_message(p, v, &m))
		return;
	*pending &= ~bit;
	if (p->bus->msi.send)
		p->bus->msi.send(p->bus->msi.opaque, m.address, m.data);
}

static void msix_try_all(struct pci_dev *p)
{
	for (unsigned v = 0; p->msix && v < p->msix->vectors; v++)
		msix_try(p, v);
}

void pci_msix_notify(struct pci_dev *p, unsigned vector)
{
	if (!pci_msix_enabled(p) || vector >= p->msix->vectors)
		return;
	p->msix->pending[vector / 64] |= UINT64_C(1) << (vector & 63);
	msix_try(p, vector);
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned len)
{
	struct pci_dev *p = opaque;
	struct pci_msix *m = p->msix;

	if (offset + len <= m->vectors * 16)
		return ld_le(m->table + offset, len);
	if (offset >= MSIX_PBA && offset + len <= MSIX_PBA + sizeof(m->pending))
		return ld_le((uint8_t *)m->pending + (offset - MSIX_PBA), len);
	return 0;
}

static void msix_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct pci_dev *p = opaque;
	struct pci_msix *m = p->msix;

	if (offset + len > m->vectors * 16)
		return;
	st_le(m->table + offset, len, value);
	msix_try(p, offset / 16);
	if (p->vectors_changed)
		p->vectors_changed(p);
}

static const struct region_ops msix_ops = { msix_read, msix_write, 1, 8 };

int pci_msix_init(struct pci_dev *p, unsigned bar, unsigned vectors)
{
	int cap;

	if (!vectors || vectors > MSIX_MAX || bar > 5)
		return -EINVAL;
	cap = pci_add_capability(p, 0x11, 12);
	if (cap < 0)
		return cap;
	p->msix = g_new0(struct pci_msix, 1);
	p->msix->vectors = vectors;
	p->msix->cap = cap;
	for (unsigned v = 0; v < vectors; v++)
		p->msix->table[v * 16 + 12] = 1;
	st16le(&p->config[cap + 2], vectors - 1);
	st32le(&p->config[cap + 4], bar);
	st32le(&p->config[cap + 8], MSIX_PBA | bar);
	p->wmask[cap + 3] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;
	pci_bar_mmio(p, bar, "msix", 4096, false, false, &msix_ops, p);
	return 0;
}

/* ---- BARs ---- */

/* Where the BAR decodes now, or 0 for nowhere. */
static uint64_t bar_address(struct pci_dev *p, unsigned i)
{
	struct pci_bar *b = &p->bar[i];
	uint16_t cmd = ld16le(&p->config[PCI_COMMAND]);
	uint64_t addr = ld32le(&p->config[PCI_BAR0 + 4 * i]);
	uint64_t last;

	if (!(cmd & (b->io ? CMD_IO : CMD_MEM)))
		return 0;
	if (b->is64 && i < 5)
		addr |= (uint64_t)ld32le(&p->config[PCI_BAR0 + 4 * i + 4]) << 32;
	addr &= ~(b->size - 1);
	if (!addr || !checked_add(addr, b->size - 1, &last))
		return 0;
	/* All ones is sizing, not an address. */
	if (b->io ? last > 0xffff : b->is64 ? last >= (UINT64_C(1) << 46) : last >= UINT32_MAX)
		return 0;
	return addr;
}

static void bar_update(struct pci_dev *p, unsigned i)
{
	struct pci_bar *b = &p->bar[i];
	uint64_t addr = b->size ? bar_address(p, i) : 0;

	if (b->ram) {
		const struct mem_slot *s = b->slot >= 0 ? mem_slot(p->bus->mem, b->slot) : NULL;

		if (s && s->gpa == addr)
			return;
		if (s)
			mem_unmap(p->bus->mem, b->slot);
		b->slot = -1;
		if (addr)
			b->slot = mem_map(p->bus->mem, addr, b->size, b->ram, 0, false);
		if (b->slot < 0)
			b->slot = -1;
		return;
	}
	if (!b->region)
		return;
	if (region_mapped(b->region)) {
		if (region_base(b->region) == addr)
			return;
		region_unmap(b->region);
	}
	if (addr)
		region_map(b->region, addr);
}

static void rom_update(struct pci_dev *p)
{
	struct pci_slot *s = &p->bus->slot[p->devfn];
	uint32_t v = ld32le(&p->config[PCI_ROM]);
	uint64_t addr = 0;
	const struct mem_slot *ms;

	if (!s->rom)
		return;
	if ((v & 1) && (p->config[PCI_COMMAND] & CMD_MEM))
		addr = v & ~(uint64_t)(s->rom_size - 1);
	if (addr + s->rom_size - 1 >= UINT32_MAX)
		addr = 0;
	ms = s->rom_slot >= 0 ? mem_slot(p->bus->mem, s->rom_slot) : NULL;
	if (ms && ms->gpa == addr)
		return;
	if (ms)
		mem_unmap(p->bus->mem, s->rom_slot);
	s->rom_slot = addr ? mem_map(p->bus->mem, addr, s->rom_size, s->rom, 0, true) : -1;
	if (s->rom_slot < 0)
		s->rom_slot = -1;
}

static void dev_remap(struct pci_dev *p)
{
	for (unsigned i = 0; i < 6; i++)
		bar_update(p, i);
	rom_update(p);
}

void pci_bus_set_eventfds(struct pci_bus *bus, const struct eventfds *e)
{
	bus->eventfds = *e;
}

int pci_doorbell(struct pci_dev *p, uint64_t gpa, unsigned len, int fd, bool on)
{
	const struct eventfds *e = &p->bus->eventfds;

	return e->doorbell ? e->doorbell(e->opaque, gpa, len, fd, on) : -ENOTSUP;
}

int pci_irqfd(struct pci_dev *p, int fd, const struct pci_message *m, bool on)
{
	const struct eventfds *e = &p->bus->eventfds;

	return e->irq ? e->irq(e->opaque, fd, m->address, m->data, on) : -ENOTSUP;
}

void pci_bus_remap(struct pci_bus *bus)
{
	for (unsigned i = 0; i < 256; i++)
		if (bus->slot[i].dev)
			dev_remap(bus->slot[i].dev);
}

static void bar_config(struct pci_dev *p, unsigned i)
{
	struct pci_bar *b = &p->bar[i];
	unsigned at = PCI_BAR0 + 4 * i;

	b->config_index = i;
	b->slot = -1;
	st32le(&p->config[at], b->io ? 1 : (b->is64 ? 4 : 0) | (b->prefetch ? 8 : 0));
	st32le(&p->wmask[at], (uint32_t)~(b->size - 1) & (b->io ? ~3u : ~15u));
	if (b->is64 && i < 5)
		st32le(&p->wmask[at + 4], (uint32_t)(~(b->size - 1) >> 32));
}

void pci_bar_io(struct pci_dev *p, unsigned bar, const char *name, uint32_t size, const struct region_ops *ops, void *opaque)
{
	struct pci_bar *b = &p->bar[bar];

	*b = (struct pci_bar){ .size = size, .io = true };
	b->region = space_add_unmapped(p->bus->ports, name, size, ops, opaque);
	bar_config(p, bar);
}

void pci_bar_mmio(struct pci_dev *p, unsigned bar, const char *name, uint64_t size, bool is64, bool prefetch,
		  const struct region_ops *ops, void *opaque)
{
	struct pci_bar *b = &p->bar[bar];

	*b = (struct pci_bar){ .size = size, .is64 = is64, .prefetch = prefetch };
	b->region = space_add_unmapped(p->bus->mmio, name, size, ops, opaque);
	bar_config(p, bar);
}

void pci_bar_ram(struct pci_dev *p, unsigned bar, struct ram *ram, bool prefetch)
{
	struct pci_bar *b = &p->bar[bar];

	*b = (struct pci_bar){ .size = ram->size, .prefetch = prefetch, .ram = ram };
	bar_config(p, bar);
}

int pci_map_ram(struct pci_dev *p, uint64_t gpa, uint64_t size, struct ram *ram, uint64_t offset)
{
	int slot = mem_map(p->bus->mem, gpa, size, ram, offset, false);

	return slot < 0 ? -1 : slot;
}

void pci_unmap_ram(struct pci_dev *p, int slot)
{
	mem_unmap(p->bus->mem, slot);
}

int pci_rom(struct pci_dev *p, const void *data, uint32_t len)
{
	struct pci_slot *s = &p->bus->slot[p->devfn];
	uint32_t size = PAGE_SIZE;

	if (!len || len > 16u << 20 || s->rom)
		return -EINVAL;
	while (size < len)
		size <<= 1;
	s->rom = ram_create("pci-rom", size, NULL);
	if (!s->rom)
		return -ENOMEM;
	memcpy(s->rom->host, data, len);
	s->rom_size = size;
	st32le(&p->wmask[PCI_ROM], ~(size - 1) | 1);
	return 0;
}

int pci_add_capability(struct pci_dev *p, uint8_t id, uint8_t len)
{
	unsigned at = 0x40;

	/* Capabilities are handed out upwards; each one's end is found by following the list. */
	for (unsigned c = p->config[PCI_CAP_PTR]; c; c = p->config[c + 1])
		at = MAX(at, c + p->w1cmask[c]);
	at = (at + 3) & ~3u;
	if (at + len > 256)
		return -ENOSPC;
	p->config[at] = id;
	p->config[at + 1] = p->config[PCI_CAP_PTR];
	p->w1cmask[at] = len; /* the id byte is never writable: its mask byte holds the length */
	p->config[PCI_CAP_PTR] = at;
	p->config[PCI_STATUS] |= STATUS_CAPS;
	return at;
}

/* ---- configuration space ---- */

struct pci_dev *pci_find(struct pci_bus *bus, unsigned devfn)
{
	return devfn < 256 ? bus->slot[devfn].dev : NULL;
}

uint32_t pci_config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned len)
{
	struct pci_dev *p = pci_find(bus, devfn);

	if (!p || len > 4 || offset + len > 256)
		return mask_bytes(len > 4 ? 4 : len);
	if (p->config_reading)
		p->config_reading(p, offset, len);
	return ld_le(&p->config[offset], len);
}

static bool is_capability(const struct pci_dev *p, unsigned offset)
{
	for (unsigned c = p->config[PCI_CAP_PTR], n = 0; c && n < 48; c = p->config[c + 1], n++)
		if (c == offset)
			return true;
	return false;
}

void pci_config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned len, uint32_t value)
{
	struct pci_dev *p = pci_find(bus, devfn);

	if (!p || len > 4 || offset + len > 256)
		return;
	for (unsigned i = 0; i < len; i++) {
		unsigned at = offset + i;
		uint8_t v = value >> (8 * i), w = p->wmask[at];

		p->config[at] = (p->config[at] & ~w) | (v & w);
		if (p->w1cmask[at] && !(at >= 0x40 && is_capability(p, at)))
			p->config[at] &= ~(v & p->w1cmask[at]);
	}
	if (offset < PCI_COMMAND + 2 || (offset < PCI_CAP_PTR && offset + len > PCI_BAR0))
		dev_remap(p);
	if (offset < PCI_COMMAND + 2 && offset + len > PCI_COMMAND)
		pin_update(p);
	if (p->msix)
		msix_try_all(p);
	if (p->config_written)
		p->config_written(p, offset, len);
}

static uint64_t addr_read(void *opaque, uint64_t offset, unsigned len)
{
	struct pci_bus *bus = opaque;

	return len == 4 ? bus->addr : mask_bytes(len);
}

static void addr_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct pci_bus *bus = opaque;

	/* Only a whole doubleword reaches CONFADD. */
	if (len == 4)
		bus->addr = value & 0x80fffffc;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned len)
{
	struct pci_bus *bus = opaque;

	if (!(bus->addr & 0x80000000) || (bus->addr & 0xff0000))
		return mask_bytes(len);
	return pci_config_read(bus, bus->addr >> 8 & 0xff, (bus->addr & 0xfc) + offset, len);
}

static void data_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct pci_bus *bus = opaque;

	if ((bus->addr & 0x80000000) && !(bus->addr & 0xff0000))
		pci_config_write(bus, bus->addr >> 8 & 0xff, (bus->addr & 0xfc) + offset, len, value);
}

static const struct region_ops addr_ops = { addr_read, addr_write, 1, 4 };
static const struct region_ops data_ops = { data_read, data_write, 1, 4 };

struct pci_bus *pci_bus_create(struct space *ports, struct space *mmio, struct mem *mem,
			       const struct irq intx[4], const struct msi_sink *msi)
{
	struct pci_bus *bus = g_new0(struct pci_bus, 1);

	bus->ports = ports;
	bus->mmio = mmio;
	bus->mem = mem;
	if (intx)
		memcpy(bus->intx, intx, sizeof(bus->intx));
	if (msi)
		bus->msi = *msi;
	for (unsigned i = 0; i < 256; i++)
		bus->slot[i].rom_slot = -1;
	bus->addr_port = space_add(ports, "pci-addr", 0xcf8, 4, &addr_ops, bus);
	bus->data_port = space_add(ports, "pci-data", 0xcfc, 4, &data_ops, bus);
	return bus;
}

void pci_bus_destroy(struct pci_bus *bus)
{
	if (!bus)
		return;
	region_destroy(bus->addr_port);
	region_destroy(bus->data_port);
	g_free(bus);
}

/* ---- devices ---- */

int pci_dev_init(struct pci_dev *p, struct pci_bus *bus, unsigned devfn, const struct pci_ids *ids, unsigned pin)
{
	if (devfn > 255 || pin > 4)
		return -EINVAL;
	if (bus->slot[devfn].dev)
		return -EEXIST;
	p->bus = bus;
	p->devfn = devfn;
	memset(p->config, 0, sizeof(p->config));
	st16le(&p->config[0], ids->vendor);
	st16le(&p->config[2], ids->device);
	p->config[8] = ids->revision;
	p->config[9] = ids->class_code;
	p->config[10] = ids->class_code >> 8;
	p->config[11] = ids->class_code >> 16;
	st16le(&p->config[0x2c], ids->subsystem_vendor);
	st16le(&p->config[0x2e], ids->subsystem);
	p->config[PCI_PIN] = pin;
	st16le(&p->wmask[PCI_COMMAND], CMD_IO | CMD_MEM | CMD_MASTER | 0x140 | (pin ? CMD_INTX_OFF : 0));
	p->w1cmask[PCI_STATUS + 1] = 0xf9;
	p->wmask[0x0c] = 0xff;
	p->wmask[0x0d] = 0xff;
	p->wmask[PCI_LINE] = 0xff;
	for (unsigned i = 0; i < 6; i++)
		p->bar[i].slot = -1;
	bus->slot[devfn] = (struct pci_slot){ .dev = p, .rom_slot = -1 };
	return 0;
}

void pci_dev_finish(struct pci_dev *p)
{
	struct pci_slot *s = &p->bus->slot[p->devfn];

	pci_set_intx(p, false);
	st16le(&p->config[PCI_COMMAND], 0);
	dev_remap(p);
	for (unsigned i = 0; i < 6; i++)
		if (p->bar[i].region)
			region_destroy(p->bar[i].region);
	if (s->rom)
		ram_destroy(s->rom);
	g_free(p->msix);
	p->msix = NULL;
	*s = (struct pci_slot){ .rom_slot = -1 };
}

void pci_dev_reset(struct pci_dev *p)
{
	pci_set_intx(p, false);
	st16le(&p->config[PCI_COMMAND], 0);
	p->config[PCI_LINE] = 0;
	p->config[0x0c] = 0;
	p->config[0x0d] = 0;
	for (unsigned at = PCI_BAR0; at < PCI_BAR0 + 24; at++)
		p->config[at] &= ~p->wmask[at];
	for (unsigned at = PCI_ROM; at < PCI_ROM + 4; at++)
		p->config[at] &= ~p->wmask[at];
	if (p->msix) {
		p->config[p->msix->cap + 3] &= ~0xc0;
		memset(p->msix->table, 0, sizeof(p->msix->table));
		memset(p->msix->pending, 0, sizeof(p->msix->pending));
		for (unsigned v = 0; v < p->msix->vectors; v++)
			p->msix->table[v * 16 + 12] = 1;
	}
	dev_remap(p);
}

int pci_dev_state(struct pci_dev *p, struct state *s)
{
	uint8_t config[256];
	bool level = p->pin_level;
	uint32_t addr = p->bus->addr;

	memcpy(config, p->config, sizeof(config));
	state_bytes(s, "config", config, sizeof(config));
	state_bool(s, "pin", &level);
	state_u32(s, "confadd", &addr);
	if (p->msix) {
		state_bytes(s, "msix_table", p->msix->table, sizeof(p->msix->table));
		state_bytes(s, "msix_pending", p->msix->pending, sizeof(p->msix->pending));
	}
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	/* Identity must agree; anything the guest cannot write stays ours, but for the status. */
	if (ld32le(config) != ld32le(p->config)) {
		state_fail(s, "PCI slot %02x.%u: another device is saved here", p->devfn >> 3, p->devfn & 7);
		return state_error(s);
	}
	for (unsigned i = 0; i < 256; i++)
		p->config[i] = (config[i] & p->wmask[i]) | (p->config[i] & ~p->wmask[i]);
	p->config[PCI_STATUS + 1] = config[PCI_STATUS + 1];
	p->bus->addr = addr & 0x80fffffc;
	pci_set_intx(p, level);
	dev_remap(p);
	return state_error(s);
}

bool pci_dma_read(struct pci_dev *p, uint64_t gpa, void *buf, size_t len)
{
	return (p->config[PCI_COMMAND] & CMD_MASTER) && mem_read(p->bus->mem, gpa, buf, len);
}

bool pci_dma_write(struct pci_dev *p, uint64_t gpa, const void *buf, size_t len)
{
	return (p->config[PCI_COMMAND] & CMD_MASTER) && mem_write(p->bus->mem, gpa, buf, len);
}

int pci_dma_iovec(struct pci_dev *p, uint64_t gpa, size_t len, bool for_write, struct iovec *iov, int max)
{
	return pci_bus_master(p) ? mem_iovec(p->bus->mem, gpa, len, for_write, iov, max) : -EFAULT;
}

void pci_dma_mark_written(struct pci_dev *p, uint64_t gpa, size_t len)
{
	mem_mark_written(p->bus->mem, gpa, len);
}
