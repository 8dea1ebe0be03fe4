/* The AHCI controller of the ICH9 (8086:2922): six ports for SATA disks and CD-ROM drives, with queued commands. */
#ifndef DEV_AHCI_H
#define DEV_AHCI_H

#include "bus/pci.h"
#include "dev/ide.h"

#define AHCI_PORTS 6

struct ahci;

/* NULL when the PCI function is taken. */
struct ahci *ahci_create(struct pci_bus *bus, unsigned devfn, const struct ide_drive drive[AHCI_PORTS]);
struct device *ahci_device(struct ahci *ahci);
bool ahci_tray_open(const struct ahci *ahci, unsigned port);
bool ahci_tray_locked(const struct ahci *ahci, unsigned port);
/* As ide_resized. */
void ahci_resized(struct ahci *ahci, unsigned port);
/* As ide_change_media. */
int ahci_change_media(struct ahci *ahci, unsigned port, struct blk *blk, bool force);

#endif
