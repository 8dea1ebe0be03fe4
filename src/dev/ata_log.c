/* READ LOG EXT: the directory and the queued error log. ACS-2 7.30, annex A; SATA 2.6 13.7.4. */
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"

#define LOG_DIRECTORY 0x00
#define LOG_QUEUE_ERROR 0x10

static void make_directory(const struct ata_drive *d, uint8_t *page)
{
	st16le(page, 1);
	if (d->serial_ata)
		st16le(page + 2 * LOG_QUEUE_ERROR, 1);
}

/* The failed command's registers, as its D2H FIS would have had them. Reading lets the queue go on. */
static void make_queue_error(struct ata_drive *d, uint8_t *page)
{
	struct ata_queue_error *e = &d->queue_error;
	uint8_t sum = 0;

	page[0] = e->valid ? e->tag : 0x80;
	page[2] = e->status;
	page[3] = e->error;
	page[4] = (uint8_t)e->sector;
	page[5] = (uint8_t)(e->sector >> 8);
	page[6] = (uint8_t)(e->sector >> 16);
	page[7] = ATA_DEVICE_LBA;
	page[8] = (uint8_t)(e->sector >> 24);
	page[9] = (uint8_t)(e->sector >> 32);
	page[10] = (uint8_t)(e->sector >> 40);
	st16le(page + 12, e->count);
	for (unsigned i = 0; i < 511; i++)
		sum += page[i];
	page[511] = (uint8_t)-sum;
	e->valid = false;
}

void ata_read_log(struct ata_drive *d)
{
	uint8_t log = d->tf.lba[0];
	uint32_t pages = d->tf.count | (uint32_t)d->tf.count_prev << 8;
	bool first_only = d->tf.lba[1] == 0 && d->tf.lba_prev[1] == 0 && pages == 1;

	if (!first_only || (log != LOG_DIRECTORY && (log != LOG_QUEUE_ERROR || !d->serial_ata))) {
		ata_abort(d);
		return;
	}
	memset(d->buf, 0, ATA_SECTOR);
	if (log == LOG_DIRECTORY)
		make_directory(d, d->buf);
	else
		make_queue_error(d, d->buf);
	ata_reply(d, ATA_SECTOR);
}
