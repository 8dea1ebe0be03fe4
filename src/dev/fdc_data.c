/*
 * Floppy sectors: READ, WRITE, VERIFY, READ TRACK, SCAN, FORMAT and READ ID, by DMA or byte by byte.
 * Intel 82077AA data sheet, 5.1 and 6. All sectors of an image have 512 bytes, numbered from 1.
 */
#include <string.h>

#include "dev/fdc_internal.h"

#define MULTI_TRACK 0x80
#define SKIP 0x20
#define VERIFY_COUNT 0x80

enum {
	READ_TRACK = 0x02,
	WRITE = 0x05,
	READ = 0x06,
	WRITE_DELETED = 0x09,
	READ_DELETED = 0x0c,
	FORMAT = 0x0d,
	SCAN_EQUAL = 0x11,
	VERIFY = 0x16,
	SCAN_LOW = 0x19,
	SCAN_HIGH = 0x1d,
};

static unsigned opcode(const struct fdc *f) { return f->command[0] & 0x1f; }

static struct fdc_unit *selected(struct fdc *f) { return fdc_unit(f, f->command[1] & 3); }

static bool is_scan(unsigned op) { return op == SCAN_EQUAL || op == SCAN_LOW || op == SCAN_HIGH; }

static bool is_write(unsigned op) { return op == WRITE || op == WRITE_DELETED || op == FORMAT; }

static void finish(struct fdc *f, uint8_t st0, uint8_t st1, uint8_t st2)
{
	f->fifo[0] = (uint8_t)(st0 | (f->command[1] & 7));
	f->fifo[1] = st1;
	f->fifo[2] = st2;
	f->fifo[3] = f->c;
	f->fifo[4] = f->h;
	f->fifo[5] = f->r;
	f->fifo[6] = f->n;
	fdc_result(f, 7, true);
}

/* Whether there is a disk that the chosen data rate can read. */
static bool readable(struct fdc *f)
{
	const struct fdc_unit *u = selected(f);

	return u && u->geometry && u->geometry->rate == f->rate;
}

/* To the next sector. False after the last one. */
static bool step(struct fdc *f)
{
	if (f->r != f->eot) {
		f->r++;
		return true;
	}
	f->r = 1;
	if ((f->command[0] & MULTI_TRACK) && !(f->h & 1)) {
		f->h |= 1;
		return true;
	}
	if (f->command[0] & MULTI_TRACK)
		f->h &= ~1;
	f->c++;
	return false;
}

static uint64_t sector(struct fdc *f)
{
	const struct fdc_geometry *g = selected(f)->geometry;

	return ((uint64_t)f->c * g->heads + f->h) * g->sectors + f->r - 1;
}

/* An image may end before its disk does. */
static bool in_image(struct fdc *f)
{
	return sector(f) < blk_size(selected(f)->blk) / FDC_SECTOR;
}

/* The status that tells why sector c/h/r/n is not there, as st1 << 8 | st2. 0: it is there. */
static unsigned find(struct fdc *f)
{
	const struct fdc_unit *u = selected(f);

	if (!readable(f))
		return ST1_NO_MARK << 8;
	if (f->c != u->track)
		return ST1_NO_DATA << 8 | ST2_WRONG_TRACK;
	if (u->track >= u->geometry->tracks || f->h >= u->geometry->heads)
		return ST1_NO_MARK << 8;
	if (!f->r || f->r > u->geometry->sectors || f->n != 2 || (is_write(opcode(f)) && !in_image(f)))
		return ST1_NO_DATA << 8;
	return 0;
}

static void io_done(void *opaque, int result);

static void io(struct fdc *f, bool write)
{
	struct iovec iov = { f->buf, FDC_SECTOR };

	f->data = FDC_NO_DATA;
	if (!in_image(f)) {
		memset(f->buf, 0, FDC_SECTOR);
		io_done(f, 0);
		return;
	}
	f->in_flight = true;
	if (write)
		blk_writev(selected(f)->blk, sector(f), &iov, 1, io_done, f);
	else
		blk_readv(selected(f)->blk, sector(f), &iov, 1, io_done, f);
}

/* Byte-by-byte transfers announce each sector with an interrupt, and are waited for. */
static void want_move(struct fdc *f, enum fdc_data data)
{
	f->data = (uint8_t)data;
	f->at = 0;
	if (fdc_uses_dma(f))
		fdc_data_move(f);
	else
		fdc_set_irq(f, true);
}

static void begin_sector(struct fdc *f)
{
	unsigned why = find(f);

	if (why)
		finish(f, ST0_ABNORMAL, (uint8_t)(why >> 8), (uint8_t)why);
	else if (is_write(opcode(f)))
		want_move(f, FDC_FROM_HOST);
	else
		io(f, false);
}

static void end_of_sector(struct fdc *f)
{
	unsigned op = opcode(f);
	bool more = step(f);
	bool counted = op == VERIFY && (f->command[1] & VERIFY_COUNT) && f->command[8] && --f->command[8] == 0;

	if (is_scan(op) && !(f->st2 & ST2_SCAN_NOT))
		finish(f, 0, 0, f->st2);
	else if (f->ended || counted || op == READ_DELETED)
		finish(f, 0, 0, f->st2);
	else if (more)
		begin_sector(f);
	else if (op == VERIFY)
		finish(f, 0, 0, 0);
	else
		finish(f, ST0_ABNORMAL, ST1_END, f->st2);
}

/* Compares the host's bytes with the disk's; 0xff in either matches anything. */
static void scan_byte(struct fdc *f, uint8_t host, uint8_t disk)
{
	unsigned op = opcode(f);

	if (host == 0xff || disk == 0xff || host == disk)
		return;
	f->st2 &= ~ST2_SCAN_EQUAL;
	if (op == SCAN_EQUAL || (op == SCAN_LOW && disk > host) || (op == SCAN_HIGH && disk < host))
		f->st2 |= ST2_SCAN_NOT;
}

/* ---- formatting: four bytes a sector say what its header holds ---- */

static void format_step(struct fdc *f)
{
	if (!--f->eot || f->ended)
		finish(f, 0, 0, 0);
	else
		want_move(f, FDC_FROM_HOST);
}

static void format_sector(struct fdc *f)
{
	unsigned why;

	f->c = f->buf[0];
	f->h = f->buf[1];
	f->r = f->buf[2];
	f->n = f->buf[3];
	why = find(f);
	if (why) {
		finish(f, ST0_ABNORMAL, (uint8_t)(why >> 8), (uint8_t)why);
		return;
	}
	memset(f->buf, f->command[5], FDC_SECTOR);
	io(f, true);
}

/* ---- data ---- */

/* All bytes of the sector have moved. */
static void moved(struct fdc *f)
{
	unsigned op = opcode(f);

	if (op == FORMAT)
		format_sector(f);
	else if (is_write(op))
		io(f, true);
	else
		end_of_sector(f);
}

static void io_done(void *opaque, int result)
{
	struct fdc *f = opaque;
	unsigned op = opcode(f);

	f->in_flight = false;
	if (f->dropped) {
		f->dropped = false;
		return;
	}
	if (result)
		finish(f, ST0_ABNORMAL, ST1_DATA, ST2_DATA);
	else if (op == FORMAT)
		format_step(f);
	else if (is_write(op) || op == VERIFY)
		end_of_sector(f);
	else
		want_move(f, is_scan(op) ? FDC_FROM_HOST : FDC_TO_HOST);
}

static void take_bytes(struct fdc *f, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++, f->at++) {
		if (is_scan(opcode(f)))
			scan_byte(f, p[i], f->buf[f->at]);
		else
			f->buf[f->at] = p[i];
	}
}

void fdc_data_move(struct fdc *f)
{
	uint8_t in[FDC_SECTOR];
	size_t n;

	if (f->data == FDC_NO_DATA || !fdc_uses_dma(f))
		return;
	if (f->data == FDC_TO_HOST) {
		f->at += (uint16_t)dma8237_to_memory(f->dma, f->channel, f->buf + f->at, f->size - f->at, &f->ended);
	} else {
		n = dma8237_from_memory(f->dma, f->channel, in, f->size - f->at, &f->ended);
		take_bytes(f, in, n);
	}
	/* After TC the rest of a sector is written as zeros. */
	if (f->ended && f->at < f->size && f->data == FDC_FROM_HOST && !is_scan(opcode(f)))
		memset(f->buf + f->at, 0, f->size - f->at);
	if (f->ended || f->at == f->size) {
		f->data = FDC_NO_DATA;
		moved(f);
	}
}

/* Without the FIFO, each byte has its interrupt. */
static void byte_moved(struct fdc *f)
{
	if (f->at == f->size) {
		f->data = FDC_NO_DATA;
		fdc_set_irq(f, false);
		moved(f);
	} else if (f->configure & FDC_NO_FIFO) {
		fdc_set_irq(f, false);
		fdc_set_irq(f, true);
	}
}

uint8_t fdc_data_read(struct fdc *f)
{
	uint8_t v = f->buf[f->at++];

	byte_moved(f);
	return v;
}

void fdc_data_write(struct fdc *f, uint8_t v)
{
	take_bytes(f, &v, 1);
	byte_moved(f);
}

/* ---- commands ---- */

static void start_format(struct fdc *f)
{
	const struct fdc_unit *u = selected(f);

	f->c = u ? u->track : 0;
	f->h = f->command[1] >> 2 & 1;
	f->n = f->command[2];
	f->eot = f->command[3];
	f->size = 4;
	if (!readable(f) || !f->eot)
		finish(f, ST0_ABNORMAL, ST1_NO_MARK, 0);
	else
		want_move(f, FDC_FROM_HOST);
}

/* With CONFIGURE's implied seek, a data command goes to its track first. */
static void implied_seek(struct fdc *f)
{
	struct fdc_unit *u = selected(f);

	if (u && (f->configure & 0x40)) {
		u->track = f->c;
		u->changed &= !u->geometry;
	}
}

void fdc_data_start(struct fdc *f)
{
	struct fdc_unit *u = selected(f);
	unsigned op = opcode(f);

	f->ended = false;
	f->st2 = is_scan(op) ? ST2_SCAN_EQUAL : op == READ_DELETED ? ST2_OTHER_MARK : 0;
	f->c = f->command[2];
	f->h = f->command[3];
	f->r = op == READ_TRACK ? 1 : f->command[4];
	f->n = f->command[5];
	f->eot = f->command[6];
	f->size = FDC_SECTOR;
	if (is_write(op) && u && u->blk && blk_readonly(u->blk)) {
		finish(f, ST0_ABNORMAL, ST1_PROTECTED, 0);
	} else if (op == FORMAT) {
		start_format(f);
	} else if (op == READ_DELETED && (f->command[0] & SKIP) && readable(f)) {
		/* No sector of an image is marked as deleted: all are skipped. */
		finish(f, ST0_ABNORMAL, ST1_END, ST2_OTHER_MARK);
	} else {
		implied_seek(f);
		begin_sector(f);
	}
}

bool fdc_data_valid(struct fdc *f)
{
	const struct fdc_unit *u = selected(f);
	unsigned op = opcode(f);
	bool from_host = is_write(op) || is_scan(op);

	if (from_host != (f->data == FDC_FROM_HOST) || f->size != (op == FORMAT ? 4 : FDC_SECTOR))
		return false;
	if (is_write(op) && (!u || !u->blk || blk_readonly(u->blk)))
		return false;
	if (op == FORMAT)
		return f->eot && readable(f);
	return (from_host || op == READ_TRACK || op == READ || op == READ_DELETED) && !find(f);
}

/* The header of the sector that comes by. */
void fdc_read_id(struct fdc *f)
{
	const struct fdc_unit *u = selected(f);
	uint8_t head = f->command[1] >> 2 & 1;

	if (!readable(f) || u->track >= u->geometry->tracks || head >= u->geometry->heads) {
		f->c = f->h = f->r = f->n = 0;
		finish(f, ST0_ABNORMAL, ST1_NO_MARK, 0);
		return;
	}
	f->r = (uint8_t)(f->r < u->geometry->sectors ? f->r + 1 : 1);
	f->c = u->track;
	f->h = head;
	f->n = 2;
	finish(f, 0, 0, 0);
}
