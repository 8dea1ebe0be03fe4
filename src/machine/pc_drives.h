/* The board's drives: images opened for their controllers, media that change while the machine runs. */
#ifndef MACHINE_PC_DRIVES_H
#define MACHINE_PC_DRIVES_H

#include <glib.h>

#include "dev/ahci.h"
#include "dev/fdc.h"
#include "dev/ide.h"
#include "machine/config.h"

struct pc;
struct pc_drive;

/* What each controller gets. */
struct pc_units {
	struct ide_drive ide[4], sata[AHCI_PORTS];
	struct fdc_drive floppy[FDC_DRIVES];
	struct pc_drive *virtio[VM_MAX_DISKS];
	unsigned ides, satas, virtios;
};

/* Opens every image of the configuration; on failure what was opened stays for pc_drives_close. */
bool pc_drives_open(struct pc *pc, struct pc_units *u, GError **error);
/* Without the lock. */
void pc_drives_close(struct pc *pc);
/* Geometry translation, floppy types, equipment. */
void pc_drives_fill_cmos(struct pc *pc);

/* Another medium (NULL: none) for the removable drive `id`. Without the lock. A locked tray is opened by `force` only. */
bool pc_change_medium(struct pc *pc, const char *id, const struct vm_disk *medium, bool force, GError **error);
bool pc_drive_locked(const struct pc *pc, const struct pc_drive *d);
bool pc_drive_open(const struct pc *pc, const struct pc_drive *d);

#endif
