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

/* The machine stops for a request that waits: every other one has ended or waits too afterwards. Lock held. */
void pc_drives_settle(struct pc *pc);
/* The board's reset and the machine's going on: what failed and waits is tried anew. Lock held. */
void pc_drives_retry(struct pc *pc);
/* The next failure that has yet to be told, of drive `d`; false: none. Takes the lock. */
bool pc_drives_take_failure(struct pc *pc, const struct pc_drive **d, struct blk_failure *f);

/* The next move of a tray that has yet to be told. Takes the lock. */
bool pc_drives_take_tray(struct pc *pc, const struct pc_drive **d, bool *open);

/* The disk `id` grows to so many bytes, and the guest is told. Without the lock. */
bool pc_drive_resize(struct pc *pc, const char *id, uint64_t bytes, GError **error);
/* Another medium (NULL: none) for the removable drive `id`. Without the lock. A locked tray is opened by `force` only. */
bool pc_change_medium(struct pc *pc, const char *id, const struct vm_disk *medium, bool force, GError **error);
bool pc_drive_locked(const struct pc *pc, const struct pc_drive *d);
bool pc_drive_open(const struct pc *pc, const struct pc_drive *d);

#endif
