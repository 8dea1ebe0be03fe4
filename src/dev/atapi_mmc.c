/*
 * Packet commands that answer from tables: what the drive is and can, what is on the disc.
 * MMC-4 (INF-8090 for the DVD structures), SPC-3; mode pages also from SFF-8020i.
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"
#include "dev/cd_frame.h"

#define CD_MOST_SECTORS (80 * 60 * 75) /* more is a DVD */
#define PROFILE_CD 0x0008
#define PROFILE_DVD 0x0010
#define SPEED_KBS 5540 /* 4 x DVD */
#define DATA_TRACK 0x14
#define LEAD_OUT 0xaa

static bool is_dvd(const struct ata_drive *d)
{
	return atapi_sectors(d) > CD_MOST_SECTORS;
}

static void put_text(uint8_t *to, const char *text, size_t len)
{
	size_t n = strlen(text);

	memset(to, ' ', len);
	memcpy(to, text, MIN(n, len));
}

/* ---- the drive ---- */

static void inquiry_page(struct ata_drive *d)
{
	uint8_t *b = d->buf;
	uint8_t serial = (uint8_t)strlen(d->serial);

	memset(b, 0, 64);
	b[0] = 5;
	b[1] = d->packet[2];
	switch (d->packet[2]) {
	case 0x00:
		b[3] = 2;
		b[5] = 0x80;
		atapi_reply(d, 6, ld16be(d->packet + 3));
		break;
	case 0x80:
		b[3] = serial;
		memcpy(b + 4, d->serial, serial);
		atapi_reply(d, 4u + serial, ld16be(d->packet + 3));
		break;
	default:
		atapi_bad_field(d);
		break;
	}
}

static void inquiry(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	if (d->packet[1] & 1) {
		inquiry_page(d);
		return;
	}
	if (d->packet[2]) {
		atapi_bad_field(d);
		return;
	}
	memset(b, 0, 36);
	b[0] = 5;
	b[1] = 0x80;
	b[3] = 0x21;
	b[4] = 31;
	put_text(b + 8, "GUISE", 8);
	put_text(b + 16, "DVD-ROM", 16);
	put_text(b + 32, GUISE_VERSION, 4);
	atapi_reply(d, 36, d->packet[4]);
}

/* Appends feature `code` unless RT says otherwise. */
static uint32_t add_feature(struct ata_drive *d, uint32_t at, uint16_t code, uint8_t flags, const uint8_t *data, uint8_t len)
{
	uint8_t rt = d->packet[1] & 3;
	uint16_t from = ld16be(d->packet + 2);
	bool current = flags & 1;

	if (rt == 2 ? code != from : code < from || (rt == 1 && !current))
		return at;
	st16be(d->buf + at, code);
	d->buf[at + 2] = flags;
	d->buf[at + 3] = len;
	if (len)
		memcpy(d->buf + at + 4, data, len);
	return at + 4 + len;
}

static void get_configuration(struct ata_drive *d)
{
	bool medium = atapi_medium_present(d), dvd = medium && is_dvd(d), cd = medium && !dvd;
	const uint8_t profiles[8] = { PROFILE_DVD >> 8, PROFILE_DVD & 0xff, dvd, 0, PROFILE_CD >> 8, PROFILE_CD, cd, 0 };
	static const uint8_t core[8] = { 0, 0, 0, 2, 1 }; /* ATAPI; device busy events */
	static const uint8_t morphing[4] = { 2 };
	static const uint8_t removable[4] = { 0x29 }; /* tray; eject; lock */
	static const uint8_t readable[8] = { 0, 0, 8, 0, 0, 1, 0, 0 };
	static const uint8_t cd_read[4] = { 0 };
	uint32_t at = 8;

	if ((d->packet[1] & 3) == 3) {
		atapi_bad_field(d);
		return;
	}
	memset(d->buf, 0, 8);
	at = add_feature(d, at, 0x0000, 0x03, profiles, sizeof(profiles));
	at = add_feature(d, at, 0x0001, 0x0b, core, sizeof(core));
	at = add_feature(d, at, 0x0002, 0x07, morphing, sizeof(morphing));
	at = add_feature(d, at, 0x0003, 0x03, removable, sizeof(removable));
	at = add_feature(d, at, 0x0010, medium, readable, sizeof(readable));
	at = add_feature(d, at, 0x001e, 0x04 | cd, cd_read, sizeof(cd_read));
	at = add_feature(d, at, 0x001f, dvd, NULL, 0);
	at = add_feature(d, at, 0x0100, 0x03, NULL, 0);
	at = add_feature(d, at, 0x0105, 0x03, NULL, 0);
	st32be(d->buf, at - 4);
	st16be(d->buf + 6, dvd ? PROFILE_DVD : cd ? PROFILE_CD : 0);
	atapi_reply(d, at, ld16be(d->packet + 7));
}

static void get_event_status(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	if (!(d->packet[1] & 1)) {
		atapi_bad_field(d); /* asynchronous notification is not offered */
		return;
	}
	memset(b, 0, 8);
	b[3] = 0x10;
	if (!(d->packet[4] & 0x10)) {
		b[1] = 2;
		b[2] = 0x80;
		atapi_reply(d, 4, ld16be(d->packet + 7));
		return;
	}
	b[1] = 6;
	b[2] = 4;
	b[4] = d->event;
	b[5] = (uint8_t)((d->tray_open ? 1 : 0) | (atapi_medium_present(d) ? 2 : 0));
	/* Told once, if the host has room to hear it. */
	if (ld16be(d->packet + 7) > 4)
		d->event = 0;
	atapi_reply(d, 8, ld16be(d->packet + 7));
}

static void mechanism_status(struct ata_drive *d)
{
	memset(d->buf, 0, 8);
	d->buf[1] = d->tray_open ? 0x10 : 0;
	atapi_reply(d, 8, ld16be(d->packet + 8));
}

/* ---- mode pages ---- */

static uint32_t page_recovery(const struct ata_drive *d, uint8_t *p, uint8_t control)
{
	static const uint8_t length = 6;

	p[0] = 0x01;
	p[1] = length;
	p[3] = control == 1 ? 0xff : control == 0 ? d->retries : 5;
	return 2 + length;
}

static uint32_t page_cd(const struct ata_drive *d, uint8_t *p, uint8_t control)
{
	static const uint8_t length = 6;

	p[0] = 0x0d;
	p[1] = length;
	if (control != 1) {
		p[5] = 60;
		p[7] = 75;
	}
	return 2 + length;
}

static uint32_t page_capabilities(const struct ata_drive *d, uint8_t *p, uint8_t control)
{
	static const uint8_t length = 20;

	p[0] = 0x2a;
	p[1] = length;
	if (control == 1)
		return 2 + length;
	p[2] = 0x0b; /* reads CD-R, CD-RW, DVD-ROM */
	p[4] = 0x70; /* mode 2 form 1 and 2, multisession */
	p[6] = (uint8_t)(0x29 | (d->tray_locked ? 2 : 0)); /* tray, eject, lock */
	st16be(p + 8, SPEED_KBS);
	st16be(p + 12, 512); /* KiB of buffer */
	st16be(p + 14, SPEED_KBS);
	return 2 + length;
}

/* The pages that the packet asks for, from `at` on. 0: there are none. */
static uint32_t mode_pages(struct ata_drive *d, uint32_t at)
{
	static const struct {
		uint8_t code;
		uint32_t (*make)(const struct ata_drive *d, uint8_t *p, uint8_t control);
	} pages[] = { { 0x01, page_recovery }, { 0x0d, page_cd }, { 0x2a, page_capabilities } };
	uint8_t code = d->packet[2] & 0x3f, control = d->packet[2] >> 6;
	uint32_t start = at;

	for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
		if (code == 0x3f || code == pages[i].code)
			at += pages[i].make(d, d->buf + at, control);
	return at == start ? 0 : at;
}

static uint8_t medium_type(const struct ata_drive *d)
{
	return d->tray_open ? 0x71 : d->blk ? 0x01 : 0x70;
}

static void mode_sense(struct ata_drive *d, uint32_t header, uint32_t allocation)
{
	uint32_t len;

	memset(d->buf, 0, 128);
	if (d->packet[2] >> 6 == 3) {
		atapi_error(d, 5, 0x39, 0); /* parameters cannot be saved */
		return;
	}
	len = mode_pages(d, header);
	if (!len) {
		atapi_bad_field(d);
		return;
	}
	if (header == 8) {
		st16be(d->buf, (uint16_t)(len - 2));
		d->buf[2] = medium_type(d);
	} else {
		d->buf[0] = (uint8_t)(len - 1);
		d->buf[1] = medium_type(d);
	}
	atapi_reply(d, len, allocation);
}

/* The only thing that can be changed is the number of retries. */
void atapi_mode_parameters(struct ata_drive *d)
{
	bool ten = d->packet[0] == 0x55;
	uint32_t at = ten ? 8 : 4;

	if (d->len < at) {
		atapi_error(d, 5, 0x1a, 0); /* parameter list length */
		return;
	}
	at += ten ? ld16be(d->buf + 6) : d->buf[3];
	while (at + 2 <= d->len) {
		uint32_t end = at + 2 + d->buf[at + 1];
		uint8_t code = d->buf[at] & 0x3f;

		if (end > d->len || (code != 0x01 && code != 0x0d && code != 0x2a)) {
			atapi_error(d, 5, 0x26, 0); /* invalid field in the list */
			return;
		}
		if (code == 0x01 && end > at + 3)
			d->retries = d->buf[at + 3];
		at = end;
	}
	atapi_ok(d);
}

/* ---- the disc ---- */

static void read_capacity(struct ata_drive *d)
{
	st32be(d->buf, atapi_sectors(d) - 1);
	st32be(d->buf + 4, CD_DATA);
	atapi_reply(d, 8, 8);
}

static void put_address(const struct ata_drive *d, uint8_t *to, uint32_t lba)
{
	if (d->packet[1] & 2) {
		to[0] = 0;
		cd_lba_to_msf(lba, to + 1);
	} else {
		st32be(to, lba);
	}
}

/* One session of one data track. */
static void toc_tracks(struct ata_drive *d, uint32_t allocation)
{
	uint8_t *b = d->buf, from = d->packet[6];
	uint32_t at = 4;

	if (from > 1 && from != LEAD_OUT) {
		atapi_bad_field(d);
		return;
	}
	b[2] = b[3] = 1;
	for (unsigned i = from == LEAD_OUT ? 1 : 0; i < 2; i++, at += 8) {
		b[at + 1] = DATA_TRACK;
		b[at + 2] = i ? LEAD_OUT : 1;
		put_address(d, b + at + 4, i ? atapi_sectors(d) : 0);
	}
	st16be(b, (uint16_t)(at - 2));
	atapi_reply(d, at, allocation);
}

static void toc_session(struct ata_drive *d, uint32_t allocation)
{
	uint8_t *b = d->buf;

	st16be(b, 10);
	b[2] = b[3] = 1;
	b[5] = DATA_TRACK;
	b[6] = 1;
	put_address(d, b + 8, 0);
	atapi_reply(d, 12, allocation);
}

/* The lead-in's own entries, with minutes, seconds and frames: first track, last track, lead-out, track 1. */
static void toc_raw(struct ata_drive *d, uint32_t allocation)
{
	static const uint8_t points[] = { 0xa0, 0xa1, 0xa2, 0x01 };
	uint8_t *b = d->buf;
	uint32_t at = 4;

	b[2] = b[3] = 1;
	for (unsigned i = 0; i < ARRAY_LEN(points); i++, at += 11) {
		b[at] = 1;
		b[at + 1] = DATA_TRACK;
		b[at + 3] = points[i];
		if (points[i] == 0xa0 || points[i] == 0xa1)
			b[at + 8] = 1;
		else
			cd_lba_to_msf(points[i] == 0xa2 ? atapi_sectors(d) : 0, b + at + 8);
	}
	st16be(b, (uint16_t)(at - 2));
	atapi_reply(d, at, allocation);
}

static void read_toc(struct ata_drive *d)
{
	/* SFF-8020i kept the format in the last byte. */
	uint8_t format = d->packet[2] & 15 ? d->packet[2] & 15 : d->packet[9] >> 6;
	uint32_t allocation = ld16be(d->packet + 7);

	memset(d->buf, 0, 64);
	switch (format) {
	case 0: toc_tracks(d, allocation); break;
	case 1: toc_session(d, allocation); break;
	case 2: toc_raw(d, allocation); break;
	default: atapi_bad_field(d); break;
	}
}

static void read_disc_information(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	if (d->packet[1] & 7) {
		atapi_bad_field(d);
		return;
	}
	memset(b, 0, 34);
	b[1] = 32;
	b[2] = 0x0e; /* complete */
	b[3] = b[4] = b[5] = b[6] = 1;
	b[7] = 0x20; /* unrestricted use */
	memset(b + 16, 0xff, 8);
	atapi_reply(d, 34, ld16be(d->packet + 7));
}

static void read_track_information(struct ata_drive *d)
{
	uint8_t *b = d->buf, kind = d->packet[1] & 3;
	uint32_t which = ld32be(d->packet + 2);

	if (kind == 3 || (kind ? which != 1 : which >= atapi_sectors(d))) {
		atapi_bad_field(d);
		return;
	}
	memset(b, 0, 36);
	b[1] = 34;
	b[2] = b[3] = 1;
	b[5] = 0x04; /* data, not incremental */
	b[6] = 0x01; /* mode 1 */
	st32be(b + 24, atapi_sectors(d));
	atapi_reply(d, 36, ld16be(d->packet + 7));
}

/* Nothing plays. */
static void read_subchannel(struct ata_drive *d)
{
	uint8_t *b = d->buf;
	bool wants_data = d->packet[2] & 0x40;

	memset(b, 0, 24);
	b[1] = 0x15; /* no audio status */
	if (!wants_data) {
		atapi_reply(d, 4, ld16be(d->packet + 7));
		return;
	}
	b[4] = d->packet[3];
	switch (d->packet[3]) {
	case 1:
		b[3] = 12;
		b[5] = DATA_TRACK;
		b[6] = b[7] = 1;
		put_address(d, b + 8, 0);
		put_address(d, b + 12, 0);
		atapi_reply(d, 16, ld16be(d->packet + 7));
		break;
	case 2:
	case 3:
		b[3] = 20;
		if (d->packet[3] == 3) {
			b[5] = DATA_TRACK;
			b[6] = 1;
		}
		atapi_reply(d, 24, ld16be(d->packet + 7));
		break;
	default:
		atapi_bad_field(d);
		break;
	}
}

static void read_header(struct ata_drive *d)
{
	uint32_t lba = ld32be(d->packet + 2);

	if (lba >= atapi_sectors(d)) {
		atapi_error(d, 5, 0x21, 0);
		return;
	}
	memset(d->buf, 0, 8);
	d->buf[0] = 1;
	put_address(d, d->buf + 4, lba);
	atapi_reply(d, 8, ld16be(d->packet + 7));
}

static void dvd_physical(struct ata_drive *d, uint8_t *b)
{
	b[0] = 0x01; /* DVD-ROM, version 1 */
	b[1] = 0x0f; /* 120 mm, no maximum rate */
	b[2] = 0x01; /* one layer, embossed */
	st32be(b + 4, 0x30000);
	st32be(b + 8, 0x30000 + atapi_sectors(d) - 1);
}

static void read_dvd_structure(struct ata_drive *d)
{
	static const struct {
		uint8_t format;
		uint16_t len;
	} formats[] = { { 0x00, 2048 }, { 0x01, 4 }, { 0x04, 2048 } };
	uint8_t *b = d->buf, format = d->packet[7];
	uint32_t allocation = ld16be(d->packet + 8), len = 4;

	if (!is_dvd(d)) {
		atapi_error(d, 5, 0x30, 2); /* incompatible format */
		return;
	}
	memset(b, 0, 2052);
	if (d->packet[6] || d->packet[1] & 15) {
		atapi_bad_field(d);
		return;
	}
	for (unsigned i = 0; i < ARRAY_LEN(formats); i++) {
		if (format == formats[i].format)
			len = 4u + formats[i].len;
		if (format != 0xff)
			continue;
		b[len] = formats[i].format;
		b[len + 1] = 0x40; /* can be read */
		st16be(b + len + 2, formats[i].len);
		len += 4;
	}
	if (len == 4) {
		atapi_bad_field(d);
		return;
	}
	if (format == 0)
		dvd_physical(d, b + 4);
	st16be(b, (uint16_t)(len - 2));
	atapi_reply(d, len, allocation);
}

bool atapi_mmc(struct ata_drive *d)
{
	switch (d->packet[0]) {
	case 0x12: inquiry(d); break;
	case 0x1a: mode_sense(d, 4, d->packet[4]); break;
	case 0x25: read_capacity(d); break;
	case 0x42: read_subchannel(d); break;
	case 0x43: read_toc(d); break;
	case 0x44: read_header(d); break;
	case 0x46: get_configuration(d); break;
	case 0x4a: get_event_status(d); break;
	case 0x51: read_disc_information(d); break;
	case 0x52: read_track_information(d); break;
	case 0x5a: mode_sense(d, 8, ld16be(d->packet + 7)); break;
	case 0xad: read_dvd_structure(d); break;
	case 0xbd: mechanism_status(d); break;
	default: return false;
	}
	return true;
}
