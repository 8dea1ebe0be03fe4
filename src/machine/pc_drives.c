/*
 * The board's drives: which image goes to which controller, what CMOS tells of them, and media that change
 * while the machine runs.
 */
#include "machine/pc_drives.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

#include "dev/rtc.h"
#include "dev/virtio_blk.h"
#include "machine/pc.h"
#include "machine/vm.h"

#define CMOS_FLOPPIES 0x10
#define CMOS_EQUIPMENT 0x14
#define CMOS_TRANSLATION 0x39

#define EQUIPMENT_FPU 0x02
#define EQUIPMENT_MOUSE 0x04

/* The main loop tells the monitors, and stops the machine when the request waits. */
static void drive_failed(void *opaque, const struct blk_failure *f)
{
	struct pc_drive *d = opaque;

	d->failure[f->write] = *f;
	if (f->waits)
		vm_request(d->pc->vm, VM_REQ_IO_ERROR);
	else
		vm_post(d->pc->vm, VM_EVENT_IO_ERROR);
}

static void tray_moved(void *opaque, bool open)
{
	struct pc_drive *d = opaque;

	d->tray_moves++;
	d->tray_moved_open = open;
	vm_post(d->pc->vm, VM_EVENT_TRAY);
}

static struct blk *open_image(struct pc_drive *d, const struct vm_disk *disk, GError **error)
{
	const struct blk_options opt = { .format = disk->format, .readonly = disk->readonly, .snapshot = disk->snapshot };
	const struct blk_error_policy policy = { d->on_read_error, d->on_write_error, drive_failed, d };
	struct blk *b = blk_open(disk->path, &opt, &d->pc->vm->lock, error);

	if (b)
		blk_set_error_policy(b, &policy);
	return b;
}

/* `disk`, which may be an empty drive, says what the user wants of it. */
static struct pc_drive *add_drive(struct pc *pc, enum pc_drive_kind kind, unsigned unit, const char *id, const struct vm_disk *disk)
{
	struct pc_drive *d = &pc->drive[pc->drives++];

	d->pc = pc;
	d->kind = kind;
	d->unit = unit;
	d->bus = disk->bus;
	d->boot_index = disk->boot_index;
	d->on_read_error = disk->on_read_error;
	d->on_write_error = disk->on_write_error;
	g_strlcpy(d->id, id, sizeof(d->id));
	return d;
}

static bool too_many(const char *what, GError **error)
{
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "--disk: %s at most; use bus=virtio", what);
	return false;
}

/* IDE disks take the primary channel first; the secondary channel's master is the CD-ROM drive. */
static bool open_disk(struct pc *pc, unsigned i, struct pc_units *u, GError **error)
{
	static const uint8_t ide_units[] = { 0, 1, 3 };
	static const char *const prefix[] = { [DISK_IDE] = "ide0-hd", [DISK_VIRTIO] = "virtio", [DISK_SATA] = "sata0-hd" };
	const struct vm_disk *disk = &pc->vm->config.disk[i];
	g_autofree char *id = g_strdup_printf("%s%u", prefix[disk->bus], i);
	struct pc_drive *d;

	if (disk->bus == DISK_IDE && u->ides == G_N_ELEMENTS(ide_units))
		return too_many("three IDE disks", error);
	if (disk->bus == DISK_SATA && u->satas == AHCI_PORTS)
		return too_many("six SATA disks", error);
	d = add_drive(pc, PC_DISK, 0, id, disk);
	d->blk = open_image(d, disk, error);
	if (!d->blk)
		return false;
	switch (disk->bus) {
	case DISK_IDE:
		d->unit = ide_units[u->ides++];
		u->ide[d->unit].blk = d->blk;
		break;
	case DISK_SATA:
		d->unit = u->satas++;
		u->sata[d->unit].blk = d->blk;
		break;
	case DISK_VIRTIO:
		d->unit = u->virtios++;
		u->virtio[d->unit] = d;
		break;
	}
	return true;
}

static bool open_cdrom(struct pc *pc, struct pc_units *u, GError **error)
{
	struct vm_disk disc = pc->vm->config.cdrom;
	bool sata = disc.bus == DISK_SATA;
	struct pc_drive *d;

	disc.format = BLK_RAW;
	disc.readonly = true;
	if (sata && u->satas == AHCI_PORTS)
		return too_many("six SATA drives", error);
	d = add_drive(pc, PC_CDROM, sata ? u->satas++ : 2, sata ? "sata0-cd0" : "ide1-cd0", &disc);
	if (disc.path)
		d->blk = open_image(d, &disc, error);
	*(sata ? &u->sata[d->unit] : &u->ide[2]) = (struct ide_drive){ .cdrom = true, .blk = d->blk, .tray_moved = tray_moved, .opaque = d };
	return !disc.path || d->blk;
}

static bool fits_floppy(const struct blk *b, GError **error)
{
	if (fdc_fits(blk_size(b)))
		return true;
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: larger than a floppy disk (2.88M); a hard disk goes with --disk",
		    blk_path(b));
	return false;
}

static bool open_floppy(struct pc *pc, unsigned i, struct pc_units *u, GError **error)
{
	g_autofree char *id = g_strdup_printf("floppy%u", i);
	const struct vm_disk *disk = &pc->vm->config.floppy[i];
	struct pc_drive *d = add_drive(pc, PC_FLOPPY, i, id, disk);

	d->blk = open_image(d, disk, error);
	if (!d->blk || !fits_floppy(d->blk, error))
		return false;
	u->floppy[i] = (struct fdc_drive){ .present = true, .blk = d->blk };
	return true;
}

bool pc_drives_open(struct pc *pc, struct pc_units *u, GError **error)
{
	const struct vm_config *c = &pc->vm->config;

	memset(u, 0, sizeof(*u));
	for (unsigned i = 0; i < c->disks; i++)
		if (!open_disk(pc, i, u, error))
			return false;
	for (unsigned i = 0; i < c->floppies; i++)
		if (!open_floppy(pc, i, u, error))
			return false;
	return open_cdrom(pc, u, error);
}

void pc_drives_close(struct pc *pc)
{
	for (unsigned i = 0; i < pc->drives; i++)
		blk_close(pc->drive[i].blk);
	pc->drives = 0;
}

/* How the firmware's CHS calls see an IDE disk: as it is up to 1024 cylinders, by LBA assist above. */
static unsigned translation(const struct pc_drive *d)
{
	bool is_ide = d->kind == PC_DISK && d->bus == DISK_IDE;

	return is_ide && blk_size(d->blk) / 512 > 1024u * 16 * 63 ? 1u << 2 * d->unit : 0;
}

void pc_drives_fill_cmos(struct pc *pc)
{
	uint8_t equipment = EQUIPMENT_FPU | EQUIPMENT_MOUSE;
	unsigned translations = 0;

	for (unsigned i = 0; i < pc->drives; i++)
		translations |= translation(&pc->drive[i]);
	rtc_set_cmos(pc->rtc, CMOS_TRANSLATION, (uint8_t)translations);
	if (pc->fdc) {
		uint8_t a = fdc_drive_type(pc->fdc, 0), b = fdc_drive_type(pc->fdc, 1);

		rtc_set_cmos(pc->rtc, CMOS_FLOPPIES, (uint8_t)(a << 4 | b));
		equipment |= b ? 0x41 : 0x01;
	}
	rtc_set_cmos(pc->rtc, CMOS_EQUIPMENT, equipment);
}

/* ---- failures ---- */

void pc_drives_settle(struct pc *pc)
{
	for (unsigned i = 0; i < pc->drives; i++)
		if (pc->drive[i].blk)
			blk_settle(pc->drive[i].blk);
}

void pc_drives_retry(struct pc *pc)
{
	for (unsigned i = 0; i < pc->drives; i++)
		if (pc->drive[i].blk)
			blk_retry(pc->drive[i].blk);
}

bool pc_drives_take_failure(struct pc *pc, const struct pc_drive **d, struct blk_failure *f)
{
	bool found = false;

	vm_lock(pc->vm);
	for (unsigned i = 0; i < 2 * pc->drives && !found; i++) {
		struct blk_failure *at = &pc->drive[i / 2].failure[i % 2];

		found = at->error;
		if (!found)
			continue;
		*d = &pc->drive[i / 2];
		*f = *at;
		*at = (struct blk_failure){ 0 };
	}
	vm_unlock(pc->vm);
	return found;
}

bool pc_drives_take_tray(struct pc *pc, const struct pc_drive **d, bool *open)
{
	bool found = false;

	vm_lock(pc->vm);
	for (unsigned i = 0; i < pc->drives && !found; i++) {
		struct pc_drive *at = &pc->drive[i];

		found = at->tray_moves;
		if (!found)
			continue;
		*d = at;
		/* It opens and closes in turn. */
		*open = at->tray_moves & 1 ? at->tray_moved_open : !at->tray_moved_open;
		at->tray_moves--;
	}
	vm_unlock(pc->vm);
	return found;
}

static struct pc_drive *find_drive(struct pc *pc, const char *id, GError **error)
{
	for (unsigned i = 0; i < pc->drives; i++)
		if (!strcmp(pc->drive[i].id, id))
			return &pc->drive[i];
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "Device '%s' not found", id);
	return NULL;
}

/* ---- another size ---- */

static const char *resize_advice(int err)
{
	switch (err) {
	case -EINVAL: return "a disk only grows, by whole sectors of 512 bytes";
	case -EROFS: return "it is read-only";
	case -EBUSY: return "a request waits for room on the host; let the machine go on first";
	case -EOPNOTSUPP: return "neither a host's device nor a temporary layer (snapshot) changes its size";
	default: return g_strerror(-err);
	}
}

static void tell_size(struct pc *pc, struct pc_drive *d)
{
	switch (d->bus) {
	case DISK_VIRTIO: virtio_blk_resized(d->virtio); break;
	case DISK_IDE: ide_resized(pc->ide, d->unit); break;
	case DISK_SATA: ahci_resized(pc->ahci, d->unit); break;
	}
}

bool pc_drive_resize(struct pc *pc, const char *id, uint64_t bytes, GError **error)
{
	struct pc_drive *d = find_drive(pc, id, error);
	int err;

	if (!d)
		return false;
	if (d->kind != PC_DISK) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "Device '%s' is no hard disk", id);
		return false;
	}
	vm_lock(pc->vm);
	vm_hold(pc->vm);
	err = blk_resize(d->blk, bytes);
	if (!err)
		tell_size(pc, d);
	vm_release(pc->vm);
	vm_unlock(pc->vm);
	if (err)
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "Device '%s' keeps its size: %s", id, resize_advice(err));
	return !err;
}

/* ---- media change ---- */

static struct pc_drive *find_removable(struct pc *pc, const char *id, GError **error)
{
	struct pc_drive *d = find_drive(pc, id, error);

	if (!d || d->kind != PC_DISK)
		return d;
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "Device '%s' is not removable", id);
	return NULL;
}

static int put_medium(struct pc *pc, const struct pc_drive *d, struct blk *blk, bool force)
{
	if (d->kind == PC_FLOPPY)
		return fdc_change_media(pc->fdc, d->unit, blk);
	if (d->bus == DISK_SATA)
		return ahci_change_media(pc->ahci, d->unit, blk, force);
	return ide_change_media(pc->ide, d->unit, blk, force);
}

bool pc_change_medium(struct pc *pc, const char *id, const struct vm_disk *medium, bool force, GError **error)
{
	struct pc_drive *d = find_removable(pc, id, error);
	struct vm_disk disk = medium ? *medium : (struct vm_disk){ 0 };
	struct blk *fresh = NULL, *old;
	int err;

	if (!d)
		return false;
	disk.readonly |= d->kind == PC_CDROM;
	if (medium)
		fresh = open_image(d, &disk, error);
	if (medium && !fresh)
		return false;
	if (fresh && d->kind == PC_FLOPPY && !fits_floppy(fresh, error)) {
		blk_close(fresh);
		return false;
	}
	vm_lock(pc->vm);
	old = d->blk;
	err = put_medium(pc, d, fresh, force);
	if (!err)
		d->blk = fresh;
	vm_unlock(pc->vm);
	blk_close(err ? fresh : old);
	if (err)
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
			    "Device '%s' is locked and force was not specified; the guest has been asked to let the medium go", id);
	return !err;
}

bool pc_drive_locked(const struct pc *pc, const struct pc_drive *d)
{
	if (d->kind != PC_CDROM)
		return false;
	return d->bus == DISK_SATA ? ahci_tray_locked(pc->ahci, d->unit) : ide_tray_locked(pc->ide, d->unit);
}

bool pc_drive_open(const struct pc *pc, const struct pc_drive *d)
{
	if (d->kind != PC_CDROM)
		return false;
	return d->bus == DISK_SATA ? ahci_tray_open(pc->ahci, d->unit) : ide_tray_open(pc->ide, d->unit);
}
