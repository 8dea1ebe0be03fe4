/*
 * Conventional PCI: configuration space, BARs, interrupt pins, MSI-X; host bridge access by
 * ports 0xcf8/0xcfc (PCI Local Bus Specification 3.0). One bus, 32 slots.
 */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "mem/mem.h"

struct pci_bus;
struct pci_dev;

/* How a message-signalled interrupt leaves the bus: a write of data to address. */
struct msi_sink {
	void (*send)(void *opaque, uint64_t address, uint32_t data);
	void *opaque;
};

/*
 * What an engine can do between eventfds and the guest without a device model's doing: writes to a register that signal
 * one, and signals that are messages. 0, or -errno.
 */
struct eventfds {
	int (*doorbell)(void *opaque, uint64_t gpa, unsigned len, int fd, bool on);
	int (*irq)(void *opaque, int fd, uint64_t address, uint32_t data, bool on);
	void *opaque;
};

struct pci_bar {
	struct region *region; /* NULL: unused */
	uint64_t size;
	bool io;
	bool prefetch;
	bool is64; /* takes this and the next BAR */
	uint32_t config_index;
	/* RAM-backed BAR (VGA framebuffer): mapped in mem instead of the MMIO space. */
	struct ram *ram;
	int slot; /* mem slot when mapped, else -1 */
};

/* Embedded (first) in every PCI chip; .device must be first here. */
struct pci_dev {
	struct device device;
	struct pci_bus *bus;
	uint8_t devfn;
	uint8_t config[256];
	uint8_t wmask[256]; /* writable bits */
	uint8_t w1cmask[256];
	struct pci_bar bar[6];
	bool pin_level;
	/* Called after the guest changed config bytes [offset, offset + len). May be NULL. */
	void (*config_written)(struct pci_dev *p, unsigned offset, unsigned len);
	/* Called before it reads such bytes, to bring them up to date. May be NULL. */
	void (*config_reading)(struct pci_dev *p, unsigned offset, unsigned len);
	struct pci_msix *msix; /* NULL without */
	/* Called after the guest changed the table of vectors; config_written tells the rest. May be NULL. */
	void (*vectors_changed)(struct pci_dev *p);
};

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* class << 16 | subclass << 8 | interface */
	uint8_t revision;
};

/* `intx` are the four PIRQ lines of the interrupt router (A..D); slot s pin p drives line
 * (s + p - 1) & 3 as on the i440FX. */
struct pci_bus *pci_bus_create(struct space *ports, struct space *mmio, struct mem *mem,
			       const struct irq intx[4], const struct msi_sink *msi);
void pci_bus_destroy(struct pci_bus *bus);
/* Re-creates all mappings from config space (after loading state). */
void pci_bus_remap(struct pci_bus *bus);

/* Without: none. */
void pci_bus_set_eventfds(struct pci_bus *bus, const struct eventfds *e);

/* Fills config header defaults and plugs the device in; devfn = slot << 3 | function. Returns
 * -EEXIST when taken. Interrupt pin: 0 none, 1..4 = A..D. */
int pci_dev_init(struct pci_dev *p, struct pci_bus *bus, unsigned devfn, const struct pci_ids *ids, unsigned pin);
/* Unplugs: unmaps BARs, lowers the pin. */
void pci_dev_finish(struct pci_dev *p);
/* Command, BARs, line and MSI-X back to reset values; chips call it from their reset. */
void pci_dev_reset(struct pci_dev *p);
/* config, BAR addresses, pin, MSI-X; chips call it first from their state. */
int pci_dev_state(struct pci_dev *p, struct state *s);

/* Size is a power of two. The ops see offsets into the BAR. */
void pci_bar_io(struct pci_dev *p, unsigned bar, const char *name, uint32_t size, const struct region_ops *ops, void *opaque);
void pci_bar_mmio(struct pci_dev *p, unsigned bar, const char *name, uint64_t size, bool is64, bool prefetch,
		  const struct region_ops *ops, void *opaque);
void pci_bar_ram(struct pci_dev *p, unsigned bar, struct ram *ram, bool prefetch);
/* Guest physical [gpa, gpa + size) shows the device's RAM beside its BARs, from `offset` on. Returns the slot, -1 where there
 * is something else. The device takes it away before it is reset or destroyed. */
int pci_map_ram(struct pci_dev *p, uint64_t gpa, uint64_t size, struct ram *ram, uint64_t offset);
void pci_unmap_ram(struct pci_dev *p, int slot);
/* Expansion ROM contents (read-only BAR at 0x30), copied. */
int pci_rom(struct pci_dev *p, const void *data, uint32_t len);

/* Adds a capability of len bytes (with the two header bytes); returns its offset or -ENOSPC. */
int pci_add_capability(struct pci_dev *p, uint8_t id, uint8_t len);
/* MSI-X with `vectors` entries: table and PBA in BAR `bar` (created here, 4 KiB). */
int pci_msix_init(struct pci_dev *p, unsigned bar, unsigned vectors);
bool pci_msix_enabled(const struct pci_dev *p);
void pci_msix_notify(struct pci_dev *p, unsigned vector);

/* The message that a vector is. */
struct pci_message {
	uint64_t address;
	uint32_t data;
};

/* Whether notifying now would send the vector's message, and which. */
bool pci_msix_message(const struct pci_dev *p, unsigned vector, struct pci_message *m);

/* Whether the guest lets the chip reach memory. */
static inline bool pci_bus_master(const struct pci_dev *p) { return p->config[4] & 4; }
void pci_set_intx(struct pci_dev *p, bool level);
/* Bus-master DMA: false when bus mastering is off or the range is not RAM. */
bool pci_dma_read(struct pci_dev *p, uint64_t gpa, void *buf, size_t len);
bool pci_dma_write(struct pci_dev *p, uint64_t gpa, const void *buf, size_t len);
/* mem_iovec and mem_mark_written of the memory that the bus leads to; -EFAULT without bus mastering. */
int pci_dma_iovec(struct pci_dev *p, uint64_t gpa, size_t len, bool for_write, struct iovec *iov, int max);
void pci_dma_mark_written(struct pci_dev *p, uint64_t gpa, size_t len);

/* From now on (on), or no more, writes of len bytes to gpa signal the eventfd; the region's write is not called for them.
 * The gpa is of a BAR of the chip's; -ENOTSUP where the engine cannot. */
int pci_doorbell(struct pci_dev *p, uint64_t gpa, unsigned len, int fd, bool on);
/* From now on (on), or no more, the eventfd's signals send the message, which pci_msix_message has given; -ENOTSUP likewise.
 * Nobody else reads the eventfd meanwhile. */
int pci_irqfd(struct pci_dev *p, int fd, const struct pci_message *m, bool on);

/* Config access by firmware-side code and the monitor. */
uint32_t pci_config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned len);
void pci_config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned len, uint32_t value);
struct pci_dev *pci_find(struct pci_bus *bus, unsigned devfn);

#endif
