/* What the tests of network cards share: a PCI bus with memory, a card's BARs, frames in and out. */
#ifndef NIC_RIG_H
#define NIC_RIG_H

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/pci.h"
#include "device_state.h"
#include "host/clock.h"
#include "mem/mem.h"
#include "net/netdev.h"

#define NIC_DEVFN (5 << 3)
#define NIC_MMIO UINT64_C(0xfe000000)
#define NIC_IO 0xc000
#define NIC_RAM (4u << 20)

static const uint8_t nic_mac[6] = { 0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc };

struct rig {
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct pci_bus *bus;
	struct clock *clock;
	struct netdev *nd;
	struct pci_dev *pci;
	GPtrArray *sent; /* GBytes */
	bool irq;
	unsigned rises;
};

static void rig_irq(void *o, int line, bool level)
{
	struct rig *r = o;

	r->rises += level && !r->irq;
	r->irq = level;
}

static void rig_sent(void *o, const uint8_t *frame, size_t len)
{
	g_ptr_array_add(((struct rig *)o)->sent, g_bytes_new(frame, len));
}

/* Everything but the card. */
static void rig_init(struct rig *r)
{
	struct irq intx[4];

	memset(r, 0, sizeof(*r));
	for (int i = 0; i < 4; i++)
		intx[i] = (struct irq){ rig_irq, r, i };
	r->ports = space_create("ports", 0xffff);
	r->mmio = space_create("mmio", UINT64_MAX);
	r->mem = mem_create();
	r->ram = ram_create("ram", NIC_RAM, NULL);
	mem_map(r->mem, 0, NIC_RAM, r->ram, 0, false);
	r->bus = pci_bus_create(r->ports, r->mmio, r->mem, intx, NULL);
	r->clock = clock_create_manual();
	r->sent = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
	r->nd = netdev_memory_new(rig_sent, r);
}

static void rig_enable(struct rig *r, unsigned mmio_bar, unsigned io_bar)
{
	pci_config_write(r->bus, NIC_DEVFN, 0x10 + 4 * mmio_bar, 4, NIC_MMIO);
	pci_config_write(r->bus, NIC_DEVFN, 0x10 + 4 * io_bar, 4, NIC_IO);
	pci_config_write(r->bus, NIC_DEVFN, 4, 2, 7);
}

static void rig_finish(struct rig *r)
{
	r->pci->device.ops->destroy(&r->pci->device);
	netdev_destroy(r->nd);
	pci_bus_destroy(r->bus);
	clock_destroy(r->clock);
	mem_destroy(r->mem);
	ram_destroy(r->ram);
	space_destroy(r->mmio);
	space_destroy(r->ports);
	g_ptr_array_unref(r->sent);
}

static inline void put(struct rig *r, unsigned reg, unsigned len, uint64_t v) { space_write(r->mmio, NIC_MMIO + reg, len, v); }
static inline uint64_t get(struct rig *r, unsigned reg, unsigned len) { return space_read(r->mmio, NIC_MMIO + reg, len); }

/* A frame for us with a recognizable payload. */
static inline void frame_fill(uint8_t *f, size_t len, const uint8_t *to, unsigned type)
{
	static const uint8_t other[6] = { 0x02, 0, 0, 0, 0, 1 };

	for (size_t i = 14; i < len; i++)
		f[i] = (uint8_t)(i * 13);
	memcpy(f, to, 6);
	memcpy(f + 6, other, 6);
	st16be(f + 12, (uint16_t)type);
}

static inline const uint8_t *rig_frame(struct rig *r, unsigned i, size_t *len)
{
	g_assert_cmpuint(i, <, r->sent->len);
	return g_bytes_get_data(g_ptr_array_index(r->sent, i), len);
}

/* Save, reset, load, save again: the two must agree. */
static inline void rig_round_trip(struct rig *r)
{
	struct device *d = &r->pci->device;
	GByteArray *saved = device_save(d);

	d->ops->reset(d);
	device_check_restore(d, saved);
}

#endif
