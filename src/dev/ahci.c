/*
 * The SATA controller of the ICH9 in AHCI mode (8086:2922): PCI function, global registers, interrupt.
 * AHCI 1.3.1 2 and 3.1; Intel ICH9 data sheet, 15.
 */
#include "dev/ahci.h"

#include <errno.h>

#include "base/bytes.h"
#include "dev/ahci_internal.h"

#define REG_CAP 0x00
#define REG_GHC 0x04
#define REG_IS 0x08
#define REG_PI 0x0c
#define REG_VS 0x10
#define PORTS_AT 0x100
#define BAR_SIZE 0x1000

#define GHC_RESET 0x00000001u
#define GHC_INTERRUPT 0x00000002u
#define GHC_AHCI 0x80000000u

/* 64-bit addresses, queuing, command list override, AHCI only, 3 Gb/s, 32 slots. */
#define CAP (0x80000000u | 0x40000000u | 0x01000000u | 0x00040000u | 2u << 20 | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define VERSION 0x00010300u

static uint32_t read_is(const struct ahci *ahci)
{
	uint32_t is = 0;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		is |= ahci_port_interrupts(&ahci->port[i]) ? 1u << i : 0;
	return is;
}

void ahci_irq_update(struct ahci *ahci)
{
	pci_set_intx(&ahci->pci, (ahci->ghc & GHC_INTERRUPT) && read_is(ahci));
}

static void hba_reset(struct ahci *ahci)
{
	ahci->ghc = GHC_AHCI;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_reset(&ahci->port[i]);
	ahci_irq_update(ahci);
}

static uint64_t hba_read(void *opaque, uint64_t offset, unsigned len)
{
	struct ahci *ahci = opaque;

	if (offset >= PORTS_AT) {
		unsigned port = (unsigned)(offset - PORTS_AT) / AHCI_PORT_SIZE;

		return port < AHCI_PORTS ? ahci_port_read(&ahci->port[port], (unsigned)offset % AHCI_PORT_SIZE) : 0;
	}
	switch (offset) {
	case REG_CAP: return CAP;
	case REG_GHC: return ahci->ghc;
	case REG_IS: return read_is(ahci);
	case REG_PI: return (1u << AHCI_PORTS) - 1;
	case REG_VS: return VERSION;
	default: return 0;
	}
}

static void hba_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct ahci *ahci = opaque;
	unsigned port = (unsigned)(offset - PORTS_AT) / AHCI_PORT_SIZE;

	if (offset >= PORTS_AT) {
		if (port < AHCI_PORTS)
			ahci_port_write(&ahci->port[port], (unsigned)offset % AHCI_PORT_SIZE, (uint32_t)value);
	} else if (offset == REG_GHC) {
		if (value & GHC_RESET) {
			hba_reset(ahci);
			return;
		}
		ahci->ghc = GHC_AHCI | ((uint32_t)value & GHC_INTERRUPT);
		ahci_irq_update(ahci);
	}
	/* IS follows the ports: a bit that is written stays while its port has a reason. */
}

static const struct region_ops hba_ops = { hba_read, hba_write, 4, 4 };

static void ahci_reset(struct device *dev)
{
	struct ahci *ahci = (struct ahci *)dev;

	pci_dev_reset(&ahci->pci);
	hba_reset(ahci);
}

static int ahci_state(struct device *dev, struct state *s)
{
	struct ahci *ahci = (struct ahci *)dev;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_drain(&ahci->port[i]);
	pci_dev_state(&ahci->pci, s);
	state_u32(s, "ghc", &ahci->ghc);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_state(&ahci->port[i], s);
	if (state_loading(s)) {
		ahci->ghc = GHC_AHCI | (ahci->ghc & GHC_INTERRUPT);
		ahci_irq_update(ahci);
	}
	return state_error(s);
}

static void ahci_destroy(struct device *dev)
{
	struct ahci *ahci = (struct ahci *)dev;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_finish(&ahci->port[i]);
	pci_dev_finish(&ahci->pci);
	g_free(ahci);
}

static const struct device_ops ops = { "ahci", 1, ahci_reset, ahci_state, ahci_destroy };

struct ahci *ahci_create(struct pci_bus *bus, unsigned devfn, const struct ide_drive drive[AHCI_PORTS])
{
	static const struct pci_ids ids = { 0x8086, 0x2922, 0x1af4, 0x1100, 0x010601, 2 };
	struct ahci *ahci = g_new0(struct ahci, 1);

	ahci->pci.device = (struct device){ .ops = &ops, .id = "ahci" };
	if (pci_dev_init(&ahci->pci, bus, devfn, &ids, 1)) {
		g_free(ahci);
		return NULL;
	}
	pci_bar_mmio(&ahci->pci, 5, "ahci", BAR_SIZE, false, false, &hba_ops, ahci);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_init(&ahci->port[i], ahci, i, &drive[i]);
	ahci_reset(&ahci->pci.device);
	return ahci;
}

struct device *ahci_device(struct ahci *ahci)
{
	return &ahci->pci.device;
}

int ahci_change_media(struct ahci *ahci, unsigned port, struct blk *blk, bool force)
{
	return port < AHCI_PORTS ? ata_change_media(&ahci->port[port].drive, blk, force) : -ENODEV;
}

void ahci_resized(struct ahci *ahci, unsigned port)
{
	if (port < AHCI_PORTS)
		ata_resized(&ahci->port[port].drive);
}

bool ahci_tray_open(const struct ahci *ahci, unsigned port)
{
	return port < AHCI_PORTS && ahci->port[port].drive.tray_open;
}

bool ahci_tray_locked(const struct ahci *ahci, unsigned port)
{
	return port < AHCI_PORTS && ahci->port[port].drive.tray_locked;
}
