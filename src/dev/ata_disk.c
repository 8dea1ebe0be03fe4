/*
 * Disk commands: addressing (CHS, LBA28, LBA48), sectors by PIO and DMA, flush, TRIM, geometry.
 * ATA/ATAPI-6 chapter 8; DATA SET MANAGEMENT from ACS-2 7.10.
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"

#define TRIM_BLOCKS 8

/* ---- addresses ---- */

static uint32_t lba24(const uint8_t lba[3])
{
	return lba[0] | (uint32_t)lba[1] << 8 | (uint32_t)lba[2] << 16;
}

/* The sector that the task file names, or UINT64_MAX for a CHS address that does not exist. */
static uint64_t address(const struct ata_drive *d)
{
	const struct ata_taskfile *t = &d->tf;
	uint32_t head = t->device & 15;

	if (d->lba48)
		return lba24(t->lba) | (uint64_t)lba24(t->lba_prev) << 24;
	if (t->device & ATA_DEVICE_LBA)
		return lba24(t->lba) | head << 24;
	if (!t->lba[0] || t->lba[0] > d->spt || head >= d->heads)
		return UINT64_MAX;
	return ((uint64_t)(t->lba[1] | t->lba[2] << 8) * d->heads + head) * d->spt + t->lba[0] - 1;
}

static void set_lba24(uint8_t lba[3], uint64_t v)
{
	lba[0] = (uint8_t)v;
	lba[1] = (uint8_t)(v >> 8);
	lba[2] = (uint8_t)(v >> 16);
}

/* In the form in which the command had it. */
static void set_address(struct ata_drive *d, uint64_t sector)
{
	struct ata_taskfile *t = &d->tf;
	uint64_t track = sector / d->spt, cylinder = track / d->heads;

	if (d->lba48) {
		set_lba24(t->lba, sector);
		set_lba24(t->lba_prev, sector >> 24);
	} else if (t->device & ATA_DEVICE_LBA) {
		set_lba24(t->lba, sector);
		t->device = (t->device & 0xf0) | (sector >> 24 & 15);
	} else {
		t->lba[0] = (uint8_t)(sector % d->spt + 1);
		t->lba[1] = (uint8_t)cylinder;
		t->lba[2] = (uint8_t)(cylinder >> 8);
		t->device = (t->device & 0xf0) | (track % d->heads);
	}
}

static uint32_t sector_count(const struct ata_drive *d)
{
	uint32_t n = d->tf.count | (d->lba48 ? (uint32_t)d->tf.count_prev << 8 : 0);

	return n ? n : d->lba48 ? 65536 : 256;
}

/* ---- sectors ---- */

static uint32_t chunk_sectors(const struct ata_drive *d)
{
	return d->single ? 1 : MIN(d->left, ATA_BUFFER / ATA_SECTOR);
}

static void next_block(struct ata_drive *d, bool in, bool interrupt)
{
	ata_block(d, MIN(d->block, d->len - d->pos), in, interrupt);
}

static void read_chunk(struct ata_drive *d)
{
	d->pos = 0;
	d->len = chunk_sectors(d) * ATA_SECTOR;
	ata_io_read(d, d->sector, 0, d->len);
}

/* Takes the next chunk from the host; the first block of a command comes without an interrupt. */
static void write_chunk(struct ata_drive *d, bool first)
{
	d->pos = 0;
	d->len = chunk_sectors(d) * ATA_SECTOR;
	if (!d->dma) {
		next_block(d, false, !first);
		return;
	}
	if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, false) < d->len)
		ata_done_quietly(d); /* the host's descriptors end here: it gets no interrupt */
	else
		ata_io_write(d, d->sector, d->len);
}

static void chunk_moved(struct ata_drive *d)
{
	uint32_t n = d->len / ATA_SECTOR;

	d->sector += n;
	d->left -= n;
}

static void transfer_done(struct ata_drive *d, bool interrupt)
{
	set_address(d, d->sector - 1);
	d->tf.count = d->tf.count_prev = 0;
	if (interrupt)
		ata_done(d);
	else
		ata_done_quietly(d);
}

static void io_failed(struct ata_drive *d)
{
	if (d->step != ATA_WRITE && d->len > ATA_SECTOR) {
		d->single = true;
		read_chunk(d);
		return;
	}
	set_address(d, d->sector);
	if (d->step == ATA_WRITE)
		ata_fault(d);
	else
		ata_fail(d, ATA_ERROR_UNC);
}

static void read_done(struct ata_drive *d)
{
	chunk_moved(d);
	if (!d->dma)
		next_block(d, true, true);
	else if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, true) < d->len)
		ata_done_quietly(d);
	else if (d->left)
		read_chunk(d);
	else
		transfer_done(d, true);
}

static void write_done(struct ata_drive *d)
{
	chunk_moved(d);
	if (d->left)
		write_chunk(d, false);
	else
		transfer_done(d, true);
}

static void verify_done(struct ata_drive *d)
{
	chunk_moved(d);
	if (d->left)
		read_chunk(d);
	else
		transfer_done(d, true);
}

/* Starts a command over the task file's range. `block` is in sectors. */
static void start_transfer(struct ata_drive *d, enum ata_step step, uint32_t block)
{
	uint64_t first = address(d);
	uint32_t n = sector_count(d);

	if (first >= d->sectors || n > d->sectors - first) {
		ata_fail(d, ATA_ERROR_IDNF);
		return;
	}
	if (step == ATA_WRITE && blk_readonly(d->blk)) {
		ata_fail(d, ATA_ERROR_ABRT | ATA_ERROR_WP);
		return;
	}
	d->step = step;
	d->sector = first;
	d->left = n;
	d->block = block * ATA_SECTOR;
	d->standby = false;
	if (d->dma)
		ata_dma_wait(d);
	else if (step == ATA_WRITE)
		write_chunk(d, true);
	else
		read_chunk(d);
}

static void start_multiple(struct ata_drive *d, enum ata_step step)
{
	if (d->multiple)
		start_transfer(d, step, d->multiple);
	else
		ata_abort(d);
}

static void start_dma(struct ata_drive *d, enum ata_step step)
{
	d->dma = true;
	start_transfer(d, step, 1);
}

/* ---- TRIM: buf holds ranges of 48 bits of address and 16 of length ---- */

static void trim_next(struct ata_drive *d)
{
	while (d->pos < d->len) {
		uint64_t range = ld64le(d->buf + d->pos), first = range & 0xffffffffffff, n = range >> 48;

		d->pos += 8;
		if (!n)
			continue;
		if (first >= d->sectors || n > d->sectors - first) {
			ata_fail(d, ATA_ERROR_IDNF);
			return;
		}
		ata_io_discard(d, first, n);
		return;
	}
	ata_done(d);
}

static void data_set_management(struct ata_drive *d)
{
	uint32_t blocks = d->tf.count | d->tf.count_prev << 8;

	if (d->tf.feature != 1 || !blocks || blocks > TRIM_BLOCKS || blk_readonly(d->blk)) {
		ata_abort(d);
		return;
	}
	d->step = ATA_TRIM;
	d->dma = true;
	d->len = blocks * ATA_SECTOR;
	ata_dma_wait(d);
}

/* ---- what comes back ---- */

void ata_disk_io_done(struct ata_drive *d, int result)
{
	switch (d->step) {
	case ATA_READ:
	case ATA_WRITE:
	case ATA_VERIFY:
		if (result)
			io_failed(d);
		else if (d->step == ATA_READ)
			read_done(d);
		else if (d->step == ATA_WRITE)
			write_done(d);
		else
			verify_done(d);
		break;
	case ATA_FLUSH:
		if (result)
			ata_fault(d);
		else
			ata_done(d);
		break;
	case ATA_TRIM:
		/* Advice: an image that cannot is no error. */
		trim_next(d);
		break;
	}
}

void ata_disk_block_done(struct ata_drive *d)
{
	switch (d->step) {
	case ATA_READ:
		if (d->pos < d->len)
			next_block(d, true, true);
		else if (d->left)
			read_chunk(d);
		else
			transfer_done(d, false);
		break;
	case ATA_WRITE:
		if (d->pos < d->len)
			next_block(d, false, true);
		else
			ata_io_write(d, d->sector, d->len);
		break;
	}
}

void ata_disk_dma(struct ata_drive *d)
{
	switch (d->step) {
	case ATA_REPLY:
		if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, true) < d->len)
			ata_done_quietly(d);
		else
			ata_done(d);
		break;
	case ATA_READ:
		read_chunk(d);
		break;
	case ATA_WRITE:
		write_chunk(d, true);
		break;
	case ATA_TRIM:
		if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, false) < d->len)
			ata_done_quietly(d);
		else
			trim_next(d);
		break;
	}
}

/* ---- commands ---- */

static void set_multiple(struct ata_drive *d)
{
	uint8_t n = d->tf.count;

	if (n > 16 || (n & (n - 1))) {
		ata_abort(d);
		return;
	}
	d->multiple = n;
	ata_done(d);
}

static void set_geometry(struct ata_drive *d)
{
	if (!d->tf.count) {
		ata_abort(d);
		return;
	}
	d->spt = d->tf.count;
	d->heads = (d->tf.device & 15) + 1;
	ata_done(d);
}

/* The last address that the command's form can say. */
static void read_native_max(struct ata_drive *d)
{
	uint64_t last = d->sectors - 1;

	d->tf.device |= ATA_DEVICE_LBA;
	set_address(d, d->lba48 ? last : MIN(last, 0xfffffff));
	ata_done(d);
}

static void seek(struct ata_drive *d)
{
	if (address(d) >= d->sectors)
		ata_fail(d, ATA_ERROR_IDNF);
	else
		ata_done(d);
}

static bool is_48bit(uint8_t command)
{
	switch (command) {
	case 0x06:
	case 0x24: case 0x25: case 0x27: case 0x29: case 0x2f:
	case 0x34: case 0x35: case 0x39: case 0x3d:
	case 0x42: case 0x47:
	case 0xce:
	case 0xea:
		return true;
	default:
		return false;
	}
}

void ata_disk_command(struct ata_drive *d)
{
	uint8_t command = d->tf.command;

	d->lba48 = is_48bit(command);
	switch (command) {
	case 0x06: data_set_management(d); break;
	case 0x10 ... 0x1f: ata_done(d); break; /* RECALIBRATE */
	case 0x20: case 0x21: case 0x24: start_transfer(d, ATA_READ, 1); break;
	case 0x29: case 0xc4: start_multiple(d, ATA_READ); break;
	case 0x25: case 0xc8: case 0xc9: start_dma(d, ATA_READ); break;
	case 0x27: case 0xf8: read_native_max(d); break;
	case 0x2f:
	case 0x47:
		d->dma = command == 0x47;
		ata_read_log(d);
		break;
	case 0x30: case 0x31: case 0x34: case 0x3c: start_transfer(d, ATA_WRITE, 1); break;
	case 0xce:
		d->fua = true;
		start_multiple(d, ATA_WRITE);
		break;
	case 0x39: case 0xc5: start_multiple(d, ATA_WRITE); break;
	case 0x3d:
		d->fua = true;
		start_dma(d, ATA_WRITE);
		break;
	case 0x35: case 0xca: case 0xcb: start_dma(d, ATA_WRITE); break;
	case 0x40: case 0x41: case 0x42: start_transfer(d, ATA_VERIFY, 1); break;
	case 0x70 ... 0x7f: seek(d); break;
	case 0x91: set_geometry(d); break;
	case 0xb0: ata_smart(d); break;
	case 0xc6: set_multiple(d); break;
	case 0xe7: case 0xea:
		d->step = ATA_FLUSH;
		ata_io_flush(d);
		break;
	case 0xec: ata_identify(d); break;
	default: ata_abort(d); break; /* NOP, SECURITY, SET MAX, PACKET and what nobody knows */
	}
}
