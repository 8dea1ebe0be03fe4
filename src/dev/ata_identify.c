/* IDENTIFY DEVICE and IDENTIFY PACKET DEVICE: ATA/ATAPI-6 8.15 and 8.16, ACS-2 7.18. */
#include <string.h>

#include "base/bytes.h"
#include "dev/ata_internal.h"

static void set_word(uint8_t *id, unsigned word, uint16_t v)
{
	st16le(id + 2 * word, v);
}

static void set_long(uint8_t *id, unsigned word, uint32_t v)
{
	st32le(id + 2 * word, v);
}

/* Two characters a word, the first in the high byte, padded with spaces. */
static void set_string(uint8_t *id, unsigned word, const char *text, unsigned words)
{
	size_t len = strlen(text);

	for (unsigned i = 0; i < 2 * words; i++)
		id[(2 * word + i) ^ 1] = i < len ? (uint8_t)text[i] : ' ';
}

static void set_modes(struct ata_drive *d, uint8_t *id)
{
	uint8_t mode = d->transfer_mode, selected = (uint8_t)(1u << (mode & 7));

	set_word(id, 63, (uint16_t)(0x0007 | (mode >= 0x20 && mode < 0x40 ? selected << 8 : 0)));
	set_word(id, 64, 0x0003);
	for (unsigned w = 65; w <= 68; w++)
		set_word(id, w, 120);
	set_word(id, 88, (uint16_t)(0x003f | (mode >= 0x40 ? selected << 8 : 0)));
}

static void set_checksum(uint8_t *id)
{
	uint8_t sum = 0;

	id[510] = 0xa5;
	for (unsigned i = 0; i < 511; i++)
		sum += id[i];
	id[511] = (uint8_t)-sum;
}

uint32_t ata_cylinders(const struct ata_drive *d, unsigned heads, unsigned spt)
{
	return (uint32_t)MIN(MAX(d->sectors / (heads * spt), 1), heads == 16 && spt == 63 ? 16383 : 65535);
}

static void set_geometry(struct ata_drive *d, uint8_t *id)
{
	uint32_t cylinders = ata_cylinders(d, d->heads, d->spt);

	set_word(id, 1, (uint16_t)ata_cylinders(d, 16, 63));
	set_word(id, 3, 16);
	set_word(id, 6, 63);
	set_word(id, 53, 0x0007);
	set_word(id, 54, (uint16_t)cylinders);
	set_word(id, 55, d->heads);
	set_word(id, 56, d->spt);
	set_long(id, 57, cylinders * d->heads * d->spt);
	set_long(id, 60, (uint32_t)MIN(d->sectors, 0xfffffff));
	st64le(id + 200, d->sectors);
}

static void set_serial_ata(uint8_t *id)
{
	set_word(id, 75, 31);
	set_word(id, 76, 0x0106); /* NCQ; generations 1 and 2 */
	set_word(id, 93, 0);
	set_word(id, 222, 0x101f);
}

void ata_identify(struct ata_drive *d)
{
	uint8_t *id = d->buf;

	memset(id, 0, ATA_SECTOR);
	set_word(id, 0, 0x0040);
	set_string(id, 10, d->serial, 10);
	set_word(id, 20, 3);
	set_word(id, 21, 512);
	set_word(id, 22, 4);
	set_string(id, 23, GUISE_VERSION, 4);
	set_string(id, 27, "GUISE HARDDISK", 20);
	set_word(id, 47, 0x8010);
	set_word(id, 48, 0x0001);
	set_word(id, 49, 0x0f00);
	set_word(id, 50, 0x4000);
	set_word(id, 51, 0x0200);
	set_word(id, 52, 0x0200);
	set_word(id, 59, (uint16_t)(d->multiple ? 0x0100 | d->multiple : 0));
	set_geometry(d, id);
	set_modes(d, id);
	set_word(id, 80, 0x01f0);
	set_word(id, 81, 0x0016);
	/* Supported, then enabled: SMART, power management, write cache, look-ahead; LBA48, flushes; logs, FUA. */
	set_word(id, 82, 0x0069);
	set_word(id, 83, 0x7400);
	set_word(id, 84, 0x4063);
	set_word(id, 85, (uint16_t)(0x0008 | (d->smart ? 1 : 0) | (d->write_cache ? 0x20 : 0) | (d->read_ahead ? 0x40 : 0)));
	set_word(id, 86, 0xb400);
	set_word(id, 87, 0x4063);
	set_word(id, 93, d->tf.device & ATA_DEVICE_DEV ? 0x6b00 : 0x606b); /* 80-conductor cable seen */
	set_word(id, 105, 8);
	set_word(id, 119, 0x4008); /* READ LOG DMA EXT */
	set_word(id, 120, 0x4008);
	set_word(id, 169, 0x0001);
	set_word(id, 217, 0x0001);
	if (d->serial_ata)
		set_serial_ata(id);
	set_checksum(id);
	ata_reply(d, ATA_SECTOR);
}

void ata_identify_packet(struct ata_drive *d)
{
	uint8_t *id = d->buf;

	memset(id, 0, ATA_SECTOR);
	set_word(id, 0, 0x85c0); /* CD-ROM, removable, DRQ within 50 us, 12-byte packets */
	set_string(id, 10, d->serial, 10);
	set_word(id, 20, 3);
	set_word(id, 21, 512);
	set_word(id, 22, 4);
	set_string(id, 23, GUISE_VERSION, 4);
	set_string(id, 27, "GUISE DVD-ROM", 20);
	set_word(id, 48, 0x0001);
	set_word(id, 49, 0x0f00);
	set_word(id, 53, 0x0006);
	set_modes(d, id);
	set_word(id, 71, 30);
	set_word(id, 72, 30);
	set_word(id, 80, 0x001e);
	/* DEVICE RESET, PACKET, power management. */
	set_word(id, 82, 0x0218);
	set_word(id, 83, 0x4000);
	set_word(id, 84, 0x4000);
	set_word(id, 85, 0x0218);
	set_word(id, 87, 0x4000);
	set_word(id, 93, d->tf.device & ATA_DEVICE_DEV ? 0x6b00 : 0x606b);
	if (d->serial_ata) {
		set_word(id, 76, 0x0006);
		set_word(id, 93, 0);
	}
	set_checksum(id);
	ata_reply(d, ATA_SECTOR);
}
