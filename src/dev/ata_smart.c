/* SMART: a drive in good health, with attributes, thresholds and empty logs. ATA/ATAPI-6 8.54. */
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"

struct attribute {
	uint8_t id, threshold, value;
	uint16_t flags;
	uint32_t raw;
};

static const struct attribute attributes[] = {
	{ 0x01, 6, 100, 0x0003, 0 },	 /* raw read error rate */
	{ 0x03, 16, 100, 0x0003, 0 },	 /* spin-up time */
	{ 0x05, 36, 100, 0x0003, 0 },	 /* reallocated sectors */
	{ 0x09, 0, 100, 0x0003, 1 },	 /* power-on hours */
	{ 0x0c, 20, 100, 0x0003, 1 },	 /* power cycles */
	{ 0xbe, 50, 69, 0x0003, 31 },	 /* airflow temperature */
	{ 0xc5, 0, 100, 0x0012, 0 },	 /* pending sectors */
};

static void set_sum(uint8_t *page)
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < 511; i++)
		sum += page[i];
	page[511] = (uint8_t)-sum;
}

static void read_data(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	memset(b, 0, ATA_SECTOR);
	b[0] = 1;
	for (unsigned i = 0; i < ARRAY_LEN(attributes); i++) {
		uint8_t *e = b + 2 + 12 * i;

		e[0] = attributes[i].id;
		st16le(e + 1, attributes[i].flags);
		e[3] = e[4] = attributes[i].value;
		st32le(e + 5, attributes[i].raw);
	}
	b[362] = 0x02;	       /* off-line data collection done */
	st16le(b + 364, 1);    /* seconds for it */
	b[367] = 0x11;	       /* immediate off-line, self-tests */
	st16le(b + 368, 0x03); /* attributes are kept */
	b[370] = 1;	       /* error log */
	b[372] = 1;	       /* minutes for a short self-test */
	b[373] = 1;
	set_sum(b);
	ata_reply(d, ATA_SECTOR);
}

static void read_thresholds(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	memset(b, 0, ATA_SECTOR);
	b[0] = 1;
	for (unsigned i = 0; i < ARRAY_LEN(attributes); i++) {
		b[2 + 12 * i] = attributes[i].id;
		b[3 + 12 * i] = attributes[i].threshold;
	}
	set_sum(b);
	ata_reply(d, ATA_SECTOR);
}

/* The directory, the summary error log and the self-test log: nothing ever happened. */
static void read_log(struct ata_drive *d)
{
	uint8_t *b = d->buf;

	if (d->tf.count != 1 || (d->tf.lba[0] != 0 && d->tf.lba[0] != 1 && d->tf.lba[0] != 6)) {
		ata_abort(d);
		return;
	}
	memset(b, 0, ATA_SECTOR);
	b[0] = 1;
	if (d->tf.lba[0] == 0) {
		b[2 * 1] = 1;
		b[2 * 6] = 1;
	} else {
		set_sum(b);
	}
	ata_reply(d, ATA_SECTOR);
}

static void return_status(struct ata_drive *d)
{
	d->tf.lba[1] = 0x4f;
	d->tf.lba[2] = 0xc2;
	ata_done(d);
}

static void autosave(struct ata_drive *d)
{
	if (d->tf.count != 0x00 && d->tf.count != 0xf1) {
		ata_abort(d);
		return;
	}
	d->smart_autosave = d->tf.count == 0xf1;
	ata_done(d);
}

void ata_smart(struct ata_drive *d)
{
	uint8_t what = d->tf.feature;

	if (d->tf.lba[1] != 0x4f || d->tf.lba[2] != 0xc2 || (!d->smart && what != 0xd8)) {
		ata_abort(d);
		return;
	}
	switch (what) {
	case 0xd0: read_data(d); break;
	case 0xd1: read_thresholds(d); break;
	case 0xd2: autosave(d); break;
	case 0xd3: ata_done(d); break;
	case 0xd4: ata_done(d); break; /* every self-test passes at once */
	case 0xd5: read_log(d); break;
	case 0xd8:
	case 0xd9:
		d->smart = what == 0xd8;
		ata_done(d);
		break;
	case 0xda: return_status(d); break;
	default: ata_abort(d); break;
	}
}
