/*
 * The drive's side of the ATA protocols: PIO data blocks, DMA, resets, signatures, and the commands that
 * disks and packet devices share. ATA/ATAPI-6 (T13 1410D) chapters 8 and 9.
 */
#include "dev/ata.h"

#include <errno.h>
#include <string.h>

#include "dev/ata_internal.h"

#define DEFAULT_HEADS 16
#define DEFAULT_SPT 63

/* ---- ending commands, moving blocks ---- */

void ata_set_busy(struct ata_drive *d)
{
	d->tf.status = ATA_BSY | ATA_DSC;
}

static void end_command(struct ata_drive *d, uint8_t status, uint8_t error, bool interrupt)
{
	d->step = ATA_IDLE;
	d->dma_waiting = false;
	d->len = d->pos = d->block_end = 0;
	d->tf.status = ATA_DRDY | ATA_DSC | status;
	d->tf.error = error;
	d->intrq = interrupt;
	d->link->command_done(d->link_opaque, d);
}

void ata_done(struct ata_drive *d)
{
	end_command(d, 0, 0, true);
}

void ata_done_quietly(struct ata_drive *d)
{
	end_command(d, 0, 0, false);
}

void ata_fail(struct ata_drive *d, uint8_t error)
{
	end_command(d, ATA_ERR, error, true);
}

void ata_fault(struct ata_drive *d)
{
	end_command(d, ATA_ERR | ATA_DF, ATA_ERROR_ABRT, true);
}

void ata_block(struct ata_drive *d, uint32_t len, bool in, bool interrupt)
{
	d->block_end = d->pos + len;
	d->block_in = in;
	d->tf.status = ATA_DRDY | ATA_DSC | ATA_DRQ;
	d->intrq = interrupt;
	d->link->block_ready(d->link_opaque, d);
}

void ata_reply(struct ata_drive *d, uint32_t len)
{
	d->step = ATA_REPLY;
	d->tf.error = 0;
	d->len = len;
	d->pos = 0;
	if (d->dma)
		ata_dma_wait(d);
	else
		ata_block(d, len, true, true);
}

void ata_block_done(struct ata_drive *d)
{
	if (d->step == ATA_REPLY)
		ata_done_quietly(d);
	else if (d->kind == ATA_CDROM)
		atapi_block_done(d);
	else
		ata_disk_block_done(d);
}

void ata_dma_wait(struct ata_drive *d)
{
	d->dma_waiting = true;
	d->tf.status = ATA_DRDY | ATA_DSC | ATA_DRQ;
	d->link->dma_ready(d->link_opaque, d);
}

void ata_dma_start(struct ata_drive *d)
{
	if (!d->dma_waiting)
		return;
	d->dma_waiting = false;
	ata_set_busy(d);
	if (d->kind == ATA_CDROM)
		atapi_dma(d);
	else
		ata_disk_dma(d);
}

/* ---- the image ---- */

static void reset_done(struct ata_drive *d);

static void io_done(void *opaque, int result)
{
	struct ata_drive *d = opaque;

	d->in_flight = false;
	if (d->medium_lost)
		result = -ENOMEDIUM;
	d->medium_lost = false;
	if (d->reset_wanted || d->reset_held)
		reset_done(d);
	else if (d->kind == ATA_CDROM)
		atapi_io_done(d, result);
	else
		ata_disk_io_done(d, result);
}

static void begin_io(struct ata_drive *d)
{
	ata_set_busy(d);
	d->in_flight = true;
}

void ata_io_read(struct ata_drive *d, uint64_t sector, uint32_t offset, uint32_t bytes)
{
	struct iovec iov = { d->buf + offset, bytes };

	begin_io(d);
	blk_readv(d->blk, sector, &iov, 1, io_done, d);
}

void ata_io_write(struct ata_drive *d, uint64_t sector, uint32_t bytes)
{
	struct iovec iov = { d->buf, bytes };

	begin_io(d);
	if (d->fua || !d->write_cache)
		blk_writev_fua(d->blk, sector, &iov, 1, io_done, d);
	else
		blk_writev(d->blk, sector, &iov, 1, io_done, d);
}

void ata_io_flush(struct ata_drive *d)
{
	begin_io(d);
	blk_flush(d->blk, io_done, d);
}

void ata_io_discard(struct ata_drive *d, uint64_t sector, uint64_t count)
{
	begin_io(d);
	blk_discard(d->blk, sector, count, io_done, d);
}

/* ---- resets ---- */

void ata_signature(struct ata_drive *d)
{
	d->tf.count = 1;
	d->tf.lba[0] = 1;
	d->tf.lba[1] = d->kind == ATA_CDROM ? 0x14 : 0;
	d->tf.lba[2] = d->kind == ATA_CDROM ? 0xeb : 0;
	d->tf.device &= ATA_DEVICE_DEV;
}

/* Passed the self-test. A packet device shows no DRDY until its first command. */
static void show_ready(struct ata_drive *d)
{
	ata_signature(d);
	d->tf.error = 1;
	d->tf.status = d->kind == ATA_CDROM ? 0 : ATA_DRDY | ATA_DSC;
}

static void drop_command(struct ata_drive *d)
{
	d->step = ATA_IDLE;
	d->dma_waiting = false;
	d->len = d->pos = d->block_end = 0;
	d->intrq = false;
}

static void reset_done(struct ata_drive *d)
{
	if (d->in_flight || d->reset_held)
		return;
	d->reset_wanted = false;
	show_ready(d);
	d->link->command_done(d->link_opaque, d);
}

void ata_soft_reset(struct ata_drive *d, bool asserted)
{
	if (d->kind == ATA_NO_DRIVE)
		return;
	d->reset_held = asserted;
	d->reset_wanted = true;
	drop_command(d);
	ata_set_busy(d);
	d->tf.device &= ATA_DEVICE_DEV;
	reset_done(d);
}

void ata_power_on(struct ata_drive *d)
{
	if (d->kind == ATA_NO_DRIVE)
		return;
	d->tf = (struct ata_taskfile){ 0 };
	d->heads = DEFAULT_HEADS;
	d->spt = DEFAULT_SPT;
	d->multiple = 16;
	d->transfer_mode = 0x45;
	d->write_cache = d->read_ahead = true;
	d->smart = d->smart_autosave = true;
	d->standby = false;
	d->retries = 5;
	d->sense = (struct atapi_sense){ 0 };
	d->medium_changed = d->tray_locked = false;
	ata_move_tray(d, false);
	d->event = 0;
	d->queue_error = (struct ata_queue_error){ 0 };
	ata_soft_reset(d, false);
}

void ata_diagnose(struct ata_drive *d)
{
	drop_command(d);
	show_ready(d);
}

/* ---- commands of every drive ---- */

static void set_features(struct ata_drive *d)
{
	uint8_t mode = d->tf.count;

	switch (d->tf.feature) {
	case 0x02:
	case 0x82:
		d->write_cache = d->tf.feature == 0x02;
		/* Turning it off writes it back. */
		if (d->write_cache || d->kind != ATA_DISK)
			break;
		d->step = ATA_FLUSH;
		ata_io_flush(d);
		return;
	case 0x03:
		if (mode > 0x45 || (mode > 0x22 && mode < 0x40) || (mode > 0x0c && mode < 0x20) || (mode > 1 && mode < 8)) {
			ata_abort(d);
			return;
		}
		if (mode >= 0x20)
			d->transfer_mode = mode;
		break;
	case 0x55:
	case 0xaa:
		d->read_ahead = d->tf.feature == 0xaa;
		break;
	case 0x66: /* settings over a soft reset: they stay anyway */
	case 0xcc:
		break;
	default:
		ata_abort(d);
		return;
	}
	ata_done(d);
}

/* Commands that a disk and a packet device answer alike. False: not one of them. */
static bool common_command(struct ata_drive *d)
{
	switch (d->tf.command) {
	case 0xe0: /* STANDBY IMMEDIATE */
	case 0xe2: /* STANDBY */
	case 0x94:
	case 0x96:
	case 0xe6: /* SLEEP: only a reset wakes a real drive; ours wakes like from standby */
	case 0x99:
		d->standby = true;
		ata_done(d);
		return true;
	case 0xe1: /* IDLE IMMEDIATE */
	case 0xe3: /* IDLE */
	case 0x95:
	case 0x97:
		d->standby = false;
		ata_done(d);
		return true;
	case 0xe5: /* CHECK POWER MODE */
	case 0x98:
		d->tf.count = d->standby ? 0x00 : 0xff;
		ata_done(d);
		return true;
	case 0xef:
		set_features(d);
		return true;
	default:
		return false;
	}
}

void ata_command(struct ata_drive *d)
{
	d->intrq = false;
	/* DEVICE RESET works whatever the drive is doing. */
	if (d->tf.command == 0x08 && d->kind == ATA_CDROM && !d->reset_held) {
		ata_soft_reset(d, false);
		return;
	}
	if (d->tf.status & (ATA_BSY | ATA_DRQ))
		return;
	d->dma = d->lba48 = d->fua = d->single = false;
	d->len = d->pos = d->block_end = 0;
	if (common_command(d))
		return;
	if (d->kind == ATA_CDROM)
		atapi_command(d);
	else
		ata_disk_command(d);
}

void ata_set_tray_listener(struct ata_drive *d, void (*moved)(void *opaque, bool open), void *opaque)
{
	d->tray_moved = moved;
	d->tray_opaque = opaque;
}

void ata_move_tray(struct ata_drive *d, bool open)
{
	if (d->tray_open == open)
		return;
	d->tray_open = open;
	if (d->tray_moved)
		d->tray_moved(d->tray_opaque, open);
}

void ata_resized(struct ata_drive *d)
{
	if (d->kind == ATA_DISK)
		d->sectors = blk_size(d->blk) / ATA_SECTOR;
}

int ata_change_media(struct ata_drive *d, struct blk *blk, bool force)
{
	if (d->kind != ATA_CDROM)
		return -ENODEV;
	if (d->tray_locked && !d->tray_open && !force) {
		d->event = 1;
		return -EBUSY;
	}
	ata_move_tray(d, true);
	d->medium_lost = d->in_flight;
	d->event = blk ? 2 : d->blk ? 3 : 0;
	d->medium_changed = blk != NULL;
	d->blk = blk;
	d->sectors = blk ? blk_size(blk) / ATA_SECTOR : 0;
	if (blk)
		ata_move_tray(d, false);
	return 0;
}

/* ---- life ---- */

void ata_init(struct ata_drive *d, enum ata_kind kind, struct blk *blk, const char *serial, bool serial_ata,
	      const struct ata_link_ops *link, void *opaque)
{
	*d = (struct ata_drive){ .kind = kind, .serial_ata = serial_ata, .blk = blk, .link = link, .link_opaque = opaque };
	if (kind == ATA_NO_DRIVE)
		return;
	g_strlcpy(d->serial, serial, sizeof(d->serial));
	d->sectors = blk ? blk_size(blk) / ATA_SECTOR : 0;
	d->buf = g_malloc0(ATA_BUFFER);
	ata_power_on(d);
}

void ata_finish(struct ata_drive *d)
{
	g_free(d->buf);
	d->buf = NULL;
}

static void taskfile_state(struct ata_taskfile *t, struct state *s)
{
	state_u8(s, "feature", &t->feature);
	state_u8(s, "feature_prev", &t->feature_prev);
	state_u8(s, "count", &t->count);
	state_u8(s, "count_prev", &t->count_prev);
	state_bytes(s, "lba", t->lba, sizeof(t->lba));
	state_bytes(s, "lba_prev", t->lba_prev, sizeof(t->lba_prev));
	state_u8(s, "device", &t->device);
	state_u8(s, "command", &t->command);
	state_u8(s, "status", &t->status);
	state_u8(s, "error", &t->error);
}

static void transfer_state(struct ata_drive *d, struct state *s)
{
	state_bool(s, "intrq", &d->intrq);
	state_u8(s, "step", &d->step);
	state_bool(s, "reset_held", &d->reset_held);
	state_u32(s, "len", &d->len);
	state_u32(s, "pos", &d->pos);
	state_u32(s, "block_end", &d->block_end);
	state_bool(s, "block_in", &d->block_in);
	state_bool(s, "dma", &d->dma);
	state_bool(s, "dma_waiting", &d->dma_waiting);
	state_bool(s, "lba48", &d->lba48);
	state_bool(s, "fua", &d->fua);
	state_u64(s, "sector", &d->sector);
	state_u32(s, "left", &d->left);
	state_u32(s, "block", &d->block);
	state_bool(s, "single", &d->single);
}

static void queue_error_state(struct ata_queue_error *e, struct state *s)
{
	state_bool(s, "queue_error", &e->valid);
	state_u8(s, "queue_tag", &e->tag);
	state_u8(s, "queue_status", &e->status);
	state_u8(s, "queue_error_code", &e->error);
	state_u64(s, "queue_sector", &e->sector);
	state_u16(s, "queue_count", &e->count);
}

static void settings_state(struct ata_drive *d, struct state *s)
{
	state_u8(s, "heads", &d->heads);
	state_u8(s, "spt", &d->spt);
	state_u8(s, "multiple", &d->multiple);
	state_u8(s, "transfer_mode", &d->transfer_mode);
	state_bool(s, "write_cache", &d->write_cache);
	state_bool(s, "read_ahead", &d->read_ahead);
	state_bool(s, "standby", &d->standby);
	state_bool(s, "smart", &d->smart);
	state_bool(s, "smart_autosave", &d->smart_autosave);
	state_bytes(s, "packet", d->packet, sizeof(d->packet));
	state_u8(s, "sense_key", &d->sense.key);
	state_u8(s, "asc", &d->sense.asc);
	state_u8(s, "ascq", &d->sense.ascq);
	state_bool(s, "medium_changed", &d->medium_changed);
	state_bool(s, "tray_open", &d->tray_open);
	state_bool(s, "tray_locked", &d->tray_locked);
	state_u8(s, "event", &d->event);
	state_u8(s, "raw", &d->raw);
	state_u32(s, "frame", &d->frame);
	state_u8(s, "retries", &d->retries);
}

/* What no guest could have brought about. */
static void check_loaded(const struct ata_drive *d, struct state *s)
{
	uint64_t medium = d->kind == ATA_CDROM ? d->sectors / 4 : d->sectors;
	bool moves = d->step == ATA_READ || d->step == ATA_WRITE || d->step == ATA_VERIFY || d->step == ATAPI_READ;

	if (d->step >= ATA_STEPS || d->len > ATA_BUFFER || d->block_end > d->len || d->pos > d->block_end)
		state_fail(s, "drive: data block out of range");
	else if ((d->tf.status & ATA_BSY) && !d->reset_held)
		state_fail(s, "drive: busy with nothing");
	else if (moves && (d->left > medium || d->sector > medium - d->left || !d->block || d->block > 0xfffe))
		state_fail(s, "drive: transfer outside the medium");
	else if (d->step == ATAPI_READ && (d->frame < 2048 || d->frame > 2352))
		state_fail(s, "drive: frame size out of range");
	else if (!d->spt || !d->heads || d->heads > 16 || d->multiple > 16 || (d->multiple & (d->multiple - 1)))
		state_fail(s, "drive: settings out of range");
}

int ata_state(struct ata_drive *d, struct state *s)
{
	uint8_t kind = (uint8_t)d->kind;
	uint64_t sectors = d->sectors;

	if (d->in_flight)
		blk_drain(d->blk);
	state_u8(s, "kind", &kind);
	if (state_loading(s) && kind != d->kind)
		state_fail(s, "drive: another kind is saved here");
	if (d->kind == ATA_NO_DRIVE || state_error(s))
		return state_error(s);
	state_u64(s, "sectors", &sectors);
	if (state_loading(s) && sectors != d->sectors)
		state_fail(s, "drive: the image has another size than the saved one");
	taskfile_state(&d->tf, s);
	transfer_state(d, s);
	settings_state(d, s);
	queue_error_state(&d->queue_error, s);
	if (state_loading(s) && !state_error(s))
		check_loaded(d, s);
	if (state_error(s))
		return state_error(s);
	state_bytes(s, "data", d->buf, d->len);
	d->reset_wanted = d->reset_held;
	return state_error(s);
}
