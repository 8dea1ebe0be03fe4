/*
 * The packet device: how packets and their data travel, what stands in the way of a command (no medium, unit
 * attention), reading sectors, the tray. ATA/ATAPI-6 9.8 (protocol), MMC-4 and SPC-3 (commands).
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"
#include "dev/cd_frame.h"

/* The interrupt reason, in the sector count register. */
#define REASON_COMMAND 0x01
#define REASON_IN 0x02

#define LEAST_LIMIT 2u
#define MOST_LIMIT 0xfffeu

bool atapi_medium_present(const struct ata_drive *d)
{
	return d->blk && !d->tray_open;
}

uint32_t atapi_sectors(const struct ata_drive *d)
{
	return (uint32_t)MIN(d->sectors / (CD_DATA / ATA_SECTOR), UINT32_MAX);
}

/* ---- how commands end ---- */

void atapi_ok(struct ata_drive *d)
{
	d->sense = (struct atapi_sense){ 0 };
	d->tf.count = REASON_COMMAND | REASON_IN;
	ata_done(d);
}

void atapi_error(struct ata_drive *d, uint8_t key, uint8_t asc, uint8_t ascq)
{
	d->sense = (struct atapi_sense){ key, asc, ascq };
	d->tf.count = REASON_COMMAND | REASON_IN;
	ata_fail(d, (uint8_t)(key << 4 | ATA_ERROR_ABRT));
}

void atapi_bad_field(struct ata_drive *d)
{
	atapi_error(d, 5, 0x24, 0);
}

static void no_medium(struct ata_drive *d)
{
	atapi_error(d, 2, 0x3a, d->tray_open ? 2 : 1);
}

/* ---- data ---- */

static void next_block(struct ata_drive *d, bool in)
{
	uint32_t n = MIN(d->block, d->len - d->pos);

	d->tf.count = in ? REASON_IN : 0;
	d->tf.lba[1] = (uint8_t)n;
	d->tf.lba[2] = (uint8_t)(n >> 8);
	ata_block(d, n, in, true);
}

void atapi_reply(struct ata_drive *d, uint32_t len, uint32_t allocation)
{
	d->step = ATAPI_REPLY;
	d->pos = 0;
	d->len = MIN(len, allocation);
	if (!d->len)
		atapi_ok(d);
	else if (d->dma)
		ata_dma_wait(d);
	else
		next_block(d, true);
}

/* Takes a list of mode parameters from the host. */
static void take_parameters(struct ata_drive *d, uint32_t len)
{
	d->step = ATAPI_PARAMETERS;
	d->pos = 0;
	d->len = len;
	if (!len)
		atapi_ok(d);
	else if (d->dma)
		ata_dma_wait(d);
	else
		next_block(d, false);
}

/* How many more sectors fit behind what the host has yet to take. */
static uint32_t fill_sectors(const struct ata_drive *d)
{
	return MIN(d->left, (ATA_BUFFER - d->len) / d->frame);
}

/* What the host has not taken moves to the front; the next sectors come behind it. Raw frames are made
 * from the front on, of data that ends with the buffer: a frame never reaches the next one's data. */
static void fill(struct ata_drive *d)
{
	uint32_t rest = d->len - d->pos, bytes;

	memmove(d->buf, d->buf + d->pos, rest);
	d->pos = 0;
	d->block_end = 0;
	d->len = rest;
	bytes = fill_sectors(d) * CD_DATA;
	ata_io_read(d, d->sector * (CD_DATA / ATA_SECTOR), d->raw ? ATA_BUFFER - bytes : rest, bytes);
}

static void next_read(struct ata_drive *d)
{
	if (d->left && d->len - d->pos < d->block)
		fill(d);
	else if (d->pos < d->len)
		next_block(d, true);
	else
		atapi_ok(d);
}

static void make_frames(struct ata_drive *d, uint32_t n)
{
	uint8_t data[CD_DATA];

	for (uint32_t i = 0; i < n; i++) {
		memcpy(data, d->buf + ATA_BUFFER - (n - i) * CD_DATA, CD_DATA);
		cd_frame_make(d->buf + d->len + i * d->frame, data, (uint32_t)d->sector + i, d->raw);
	}
}

static void read_done(struct ata_drive *d)
{
	uint32_t n = fill_sectors(d);

	if (d->raw)
		make_frames(d, n);
	d->len += n * d->frame;
	d->sector += n;
	d->left -= n;
	if (!d->dma) {
		next_read(d);
		return;
	}
	if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, true) < d->len) {
		ata_done_quietly(d);
		return;
	}
	d->pos = d->len;
	if (d->left)
		fill(d);
	else
		atapi_ok(d);
}

static void start_read(struct ata_drive *d, uint32_t first, uint32_t n, uint8_t raw)
{
	uint32_t sectors = atapi_sectors(d);

	if (first > sectors || n > sectors - first) {
		atapi_error(d, 5, 0x21, 0);
		return;
	}
	d->raw = raw;
	d->frame = raw ? cd_frame_size(raw) : CD_DATA;
	d->sector = first;
	d->left = n;
	d->step = ATAPI_READ;
	d->len = d->pos = 0;
	d->standby = false;
	if (!n || !d->frame)
		atapi_ok(d);
	else if (d->dma)
		ata_dma_wait(d);
	else
		fill(d);
}

void atapi_io_done(struct ata_drive *d, int result)
{
	if (d->step == ATA_FLUSH)
		ata_done(d);
	else if (result == -ENOMEDIUM)
		no_medium(d);
	else if (result)
		atapi_error(d, 3, 0x11, 0); /* unrecovered read error */
	else
		read_done(d);
}

void atapi_block_done(struct ata_drive *d)
{
	switch (d->step) {
	case ATAPI_PACKET:
		memcpy(d->packet, d->buf, ATA_PACKET);
		d->len = d->pos = d->block_end = 0;
		atapi_packet(d);
		break;
	case ATAPI_REPLY:
		if (d->pos < d->len)
			next_block(d, true);
		else
			atapi_ok(d);
		break;
	case ATAPI_READ:
		next_read(d);
		break;
	case ATAPI_PARAMETERS:
		if (d->pos < d->len)
			next_block(d, false);
		else
			atapi_mode_parameters(d);
		break;
	}
}

void atapi_dma(struct ata_drive *d)
{
	bool in = d->step == ATAPI_REPLY;

	if (d->step == ATAPI_READ) {
		fill(d);
		return;
	}
	if (d->link->dma_copy(d->link_opaque, d, d->buf, d->len, in) < d->len)
		ata_done_quietly(d);
	else if (in)
		atapi_ok(d);
	else
		atapi_mode_parameters(d);
}

/* ---- packets ---- */

static void read_cd(struct ata_drive *d, uint32_t first, uint32_t n)
{
	uint8_t type = d->packet[1] >> 2 & 7, parts = d->packet[9] & 0xf8;

	/* Only mode 1 data is on the disc, and no subchannel is kept. */
	if (type != 0 && type != 2) {
		atapi_error(d, 5, 0x64, 0);
		return;
	}
	if ((d->packet[10] & 7) || !cd_frame_valid(parts)) {
		atapi_bad_field(d);
		return;
	}
	if (parts == CD_USER)
		start_read(d, first, n, 0);
	else
		start_read(d, first, parts ? n : 0, parts);
}

/* READ CD MSF: from an address up to, and without, another one. */
static void read_cd_msf(struct ata_drive *d)
{
	const uint8_t *p = d->packet;
	uint32_t first = cd_msf_to_lba(p[3], p[4], p[5]), end = cd_msf_to_lba(p[6], p[7], p[8]);

	if (first > end || end == UINT32_MAX)
		atapi_bad_field(d);
	else
		read_cd(d, first, end - first);
}

static void start_stop(struct ata_drive *d)
{
	uint8_t what = d->packet[4];

	/* With a power condition the other bits mean nothing. */
	if (what >> 4) {
		d->standby = what >> 4 != 1;
	} else if ((what & 3) == 2) {
		if (d->tray_locked) {
			atapi_error(d, 5, 0x53, 2);
			return;
		}
		if (!d->tray_open && d->blk)
			d->event = 3;
		ata_move_tray(d, true);
	} else if ((what & 3) == 3) {
		if (d->tray_open && d->blk) {
			d->event = 2;
			d->medium_changed = true;
		}
		ata_move_tray(d, false);
	}
	atapi_ok(d);
}

static void request_sense(struct ata_drive *d)
{
	struct atapi_sense sense = d->sense;
	uint8_t *b = d->buf;

	if (!sense.key && d->medium_changed) {
		sense = (struct atapi_sense){ 6, 0x28, 0 };
		d->medium_changed = false;
	}
	memset(b, 0, 18);
	b[0] = 0x70;
	b[2] = sense.key;
	b[7] = 10;
	b[12] = sense.asc;
	b[13] = sense.ascq;
	atapi_reply(d, 18, d->packet[4]);
}

static void seek(struct ata_drive *d)
{
	if (ld32be(d->packet + 2) >= atapi_sectors(d))
		atapi_error(d, 5, 0x21, 0);
	else
		atapi_ok(d);
}

/* Commands that tell about the drive are answered whatever the medium does. */
static bool ignores_attention(uint8_t op)
{
	return op == 0x03 || op == 0x12 || op == 0x46 || op == 0x4a;
}

static bool needs_medium(uint8_t op)
{
	switch (op) {
	case 0x00: case 0x25: case 0x28: case 0x2b: case 0x42: case 0x43: case 0x44:
	case 0x51: case 0x52: case 0xa8: case 0xad: case 0xb9: case 0xbe:
		return true;
	default:
		return false;
	}
}

void atapi_packet(struct ata_drive *d)
{
	const uint8_t *p = d->packet;

	if (d->medium_changed && !ignores_attention(p[0])) {
		d->medium_changed = false;
		atapi_error(d, 6, 0x28, 0);
		return;
	}
	if (needs_medium(p[0]) && !atapi_medium_present(d)) {
		no_medium(d);
		return;
	}
	switch (p[0]) {
	case 0x00: atapi_ok(d); break; /* TEST UNIT READY */
	case 0x03: request_sense(d); break;
	case 0x15: take_parameters(d, p[4]); break; /* MODE SELECT */
	case 0x1b: start_stop(d); break;
	case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
		d->tray_locked = p[4] & 1;
		atapi_ok(d);
		break;
	case 0x28: start_read(d, ld32be(p + 2), ld16be(p + 7), 0); break;
	case 0x2b: seek(d); break;
	case 0x55: take_parameters(d, ld16be(p + 7)); break;
	case 0xa8: start_read(d, ld32be(p + 2), ld32be(p + 6), 0); break;
	case 0xb9: read_cd_msf(d); break;
	case 0xbb: atapi_ok(d); break; /* SET CD SPEED */
	case 0xbe: read_cd(d, ld32be(p + 2), ld32be(p + 5) & 0xffffff); break;
	default:
		if (!atapi_mmc(d))
			atapi_error(d, 5, 0x20, 0); /* no such command */
		break;
	}
}

static void want_packet(struct ata_drive *d)
{
	uint32_t limit = (uint32_t)(d->tf.lba[1] | d->tf.lba[2] << 8);

	/* Overlap is not offered. */
	if (d->tf.feature & 2) {
		ata_abort(d);
		return;
	}
	d->dma = d->tf.feature & 1;
	/* All data blocks but the last have an even length. */
	limit = limit ? MIN(limit, MOST_LIMIT) & ~1u : MOST_LIMIT;
	d->block = MAX(limit, LEAST_LIMIT);
	d->step = ATAPI_PACKET;
	d->len = ATA_PACKET;
	d->tf.count = REASON_COMMAND;
	ata_block(d, ATA_PACKET, false, false);
}

void atapi_command(struct ata_drive *d)
{
	switch (d->tf.command) {
	case 0xa0: want_packet(d); break;
	case 0xa1: ata_identify_packet(d); break;
	case 0xe7: case 0xea: ata_done(d); break; /* nothing is ever unwritten */
	case 0x20: case 0xec: /* a disk's commands: the signature says that it is none */
		ata_signature(d);
		ata_abort(d);
		break;
	default: ata_abort(d); break;
	}
}
