/* The PIIX3 IDE function (8086:7010): two channels of two drives, with bus-master DMA. */
#ifndef DEV_IDE_H
#define DEV_IDE_H

#include <stdbool.h>

#include "block/blk.h"
#include "bus/irq.h"
#include "bus/pci.h"

struct ide;

/* Drive unit n is channel n / 2, device n & 1. A disk needs an image; a CD-ROM drive may be empty. */
struct ide_drive {
	struct blk *blk; /* stays the caller's: outlives the controller, or is taken out first */
	bool cdrom;
	/* A CD-ROM drive's tray opened or closed, by the guest or by a change of media; lock held. May be NULL. */
	void (*tray_moved)(void *opaque, bool open);
	void *opaque;
};

/* `irq0` and `irq1` are ISA lines 14 and 15. NULL when the PCI function is taken. */
struct ide *ide_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct irq irq0, struct irq irq1,
		       const struct ide_drive drive[4]);
struct device *ide_device(struct ide *ide);

/*
 * Opens the tray of a CD-ROM drive, takes the medium out, and puts another one in and closes the tray (NULL: it stays open). -ENODEV when the unit is no
 * CD-ROM drive; -EBUSY when the guest has locked the tray: it is told that the user wants the medium
 * out, and `force` takes it anyway. What was in flight on the old image fails as "no medium".
 */
int ide_change_media(struct ide *ide, unsigned unit, struct blk *blk, bool force);
/* The unit's disk image has another size, which a guest learns when it identifies the disk again. */
void ide_resized(struct ide *ide, unsigned unit);
bool ide_tray_open(const struct ide *ide, unsigned unit);
bool ide_tray_locked(const struct ide *ide, unsigned unit);

#endif
