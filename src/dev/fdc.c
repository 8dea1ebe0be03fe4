/*
 * The 82077AA floppy disk controller in AT mode: registers, the command and result phases, seeks, resets.
 * Intel 82077AA data sheet, 2 to 6. Mechanics take no time.
 */
#include "dev/fdc.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/fdc_internal.h"

#define BASE 0x3f2
#define DIRECTION 0x3f7

#define DOR_RUN 0x04 /* not reset */
#define DOR_DMA 0x08

#define MSR_READY 0x80
#define MSR_TO_HOST 0x40
#define MSR_NO_DMA 0x20
#define MSR_BUSY 0x10

#define VERSION_82077 0x90
#define LAST_TRACK 83

static const struct fdc_geometry geometries[] = {
	{ 80, 2, 18, 0, 4 }, { 80, 2, 36, 3, 5 }, /* these two first */
	 { 80, 2, 9, 2, 4 },  { 80, 2, 15, 0, 2 }, { 40, 2, 9, 2, 1 },
	{ 40, 1, 9, 2, 1 },  { 40, 2, 8, 2, 1 },  { 40, 1, 8, 2, 1 }, { 80, 2, 21, 0, 4 }, { 82, 2, 21, 0, 4 },
	{ 83, 2, 21, 0, 4 }, { 80, 2, 20, 0, 4 }, { 80, 2, 10, 2, 4 },
};

static const struct fdc_geometry *standard_geometry(uint64_t bytes)
{
	for (unsigned i = 0; i < ARRAY_LEN(geometries); i++) {
		const struct fdc_geometry *g = &geometries[i];

		if (bytes == (uint64_t)g->tracks * g->heads * g->sectors * FDC_SECTOR)
			return g;
	}
	return NULL;
}

bool fdc_is_standard(uint64_t bytes)
{
	return standard_geometry(bytes) != NULL;
}

/* The format of that size; an odd size is the beginning of a 1.44M or 2.88M disk. */
static const struct fdc_geometry *geometry_of(uint64_t bytes)
{
	const struct fdc_geometry *g = standard_geometry(bytes);

	if (g)
		return g;
	if (!bytes || bytes > 2880 * 1024)
		return NULL;
	return &geometries[bytes > 1440 * 1024];
}

bool fdc_fits(uint64_t bytes)
{
	return geometry_of(bytes) != NULL;
}

void fdc_set_irq(struct fdc *f, bool level)
{
	f->line = level;
	irq_set(&f->irq, level && (f->dor & DOR_DMA));
}

/* ---- phases ---- */

static void expect_command(struct fdc *f)
{
	f->phase = FDC_COMMAND;
	f->data = FDC_NO_DATA;
	f->len = f->pos = 0;
}

void fdc_result(struct fdc *f, uint8_t len, bool interrupt)
{
	f->phase = FDC_RESULT;
	f->data = FDC_NO_DATA;
	f->len = len;
	f->pos = 0;
	if (interrupt)
		fdc_set_irq(f, true);
}

/* Drops the command. The lock keeps CONFIGURE's settings. */
static void controller_reset(struct fdc *f)
{
	f->dropped = f->in_flight;
	f->seek_ends = 0;
	f->resets = 0;
	if (!f->locked) {
		f->configure = FDC_NO_FIFO;
		f->precompensation = 0;
	}
	f->perpendicular &= 0x3c;
	expect_command(f);
	fdc_set_irq(f, false);
}

/* All four drives have changed their ready state, says the controller after a reset. */
static void reset_over(struct fdc *f)
{
	f->resets = 4;
	fdc_set_irq(f, true);
}

/* ---- commands ---- */

static void invalid(struct fdc *f)
{
	f->fifo[0] = 0x80;
	fdc_result(f, 1, false);
}

static void specify(struct fdc *f)
{
	memcpy(f->specify, f->command + 1, 2);
	expect_command(f);
}

static void sense_drive(struct fdc *f)
{
	const struct fdc_unit *u = fdc_unit(f, f->command[1] & 3);
	uint8_t st3 = (uint8_t)(0x28 | (f->command[1] & 7));

	if (u && u->track == 0)
		st3 |= 0x10;
	if (u && u->blk && blk_readonly(u->blk))
		st3 |= 0x40;
	f->fifo[0] = st3;
	fdc_result(f, 1, false);
}

static void sense_interrupt(struct fdc *f)
{
	unsigned n;

	fdc_set_irq(f, false);
	if (f->resets) {
		n = 4u - f->resets--;
		f->fifo[0] = (uint8_t)(0xc0 | n);
	} else if (f->seek_ends) {
		n = (unsigned)__builtin_ctz(f->seek_ends);
		f->seek_ends &= (uint8_t)~(1u << n);
		f->fifo[0] = f->seek_st0[n];
	} else {
		invalid(f);
		return;
	}
	f->fifo[1] = fdc_unit(f, n) ? fdc_unit(f, n)->track : 0;
	fdc_result(f, 2, false);
}

static void seek(struct fdc *f, int track, uint8_t st0)
{
	unsigned n = f->command[1] & 3;
	struct fdc_unit *u = fdc_unit(f, n);

	if (u) {
		u->track = (uint8_t)CLAMP(track, 0, LAST_TRACK);
		u->changed &= !u->geometry;
	}
	f->seek_st0[n] = (uint8_t)(ST0_SEEK_END | st0 | (f->command[1] & 7));
	f->seek_ends |= (uint8_t)(1u << n);
	expect_command(f);
	fdc_set_irq(f, true);
}

/* Without a drive, track 0 never comes. */
static void recalibrate(struct fdc *f)
{
	f->command[1] &= 3;
	seek(f, 0, fdc_unit(f, f->command[1]) ? 0 : ST0_ABNORMAL | ST0_CHECK);
}

static void relative_seek(struct fdc *f)
{
	const struct fdc_unit *u = fdc_unit(f, f->command[1] & 3);
	int track = u ? u->track : 0;

	seek(f, f->command[0] & 0x40 ? track + f->command[2] : track - f->command[2], 0);
}

static void configure(struct fdc *f)
{
	f->configure = f->command[2];
	f->precompensation = f->command[3];
	expect_command(f);
}

static void perpendicular(struct fdc *f)
{
	if (f->command[1] & 0x80)
		f->perpendicular = f->command[1] & 0x7f;
	else
		f->perpendicular = (uint8_t)((f->perpendicular & 0x7c) | (f->command[1] & 3));
	expect_command(f);
}

static void dump_registers(struct fdc *f)
{
	for (unsigned n = 0; n < 4; n++)
		f->fifo[n] = fdc_unit(f, n) ? fdc_unit(f, n)->track : 0;
	memcpy(f->fifo + 4, f->specify, 2);
	f->fifo[6] = f->eot;
	f->fifo[7] = (uint8_t)((f->locked ? 0x80 : 0) | (f->perpendicular & 0x7f));
	f->fifo[8] = f->configure;
	f->fifo[9] = f->precompensation;
	fdc_result(f, 10, false);
}

static void version(struct fdc *f)
{
	f->fifo[0] = VERSION_82077;
	fdc_result(f, 1, false);
}

static void lock(struct fdc *f)
{
	f->locked = f->command[0] & 0x80;
	f->fifo[0] = f->locked ? 0x10 : 0;
	fdc_result(f, 1, false);
}

static void seek_absolute(struct fdc *f)
{
	if (f->command[0] & 0x80)
		relative_seek(f);
	else
		seek(f, f->command[2], 0);
}

/* `mask` are the bits of the first byte that tell commands apart. */
static const struct command {
	uint8_t code, mask;
	uint8_t len;
	void (*run)(struct fdc *f);
} commands[] = {
	{ 0x02, 0x9f, 9, fdc_data_start }, /* READ TRACK */
	{ 0x03, 0xff, 3, specify },
	{ 0x04, 0xff, 2, sense_drive },
	{ 0x05, 0x3f, 9, fdc_data_start }, /* WRITE */
	{ 0x06, 0x1f, 9, fdc_data_start }, /* READ */
	{ 0x07, 0xff, 2, recalibrate },
	{ 0x08, 0xff, 1, sense_interrupt },
	{ 0x09, 0x3f, 9, fdc_data_start }, /* WRITE DELETED */
	{ 0x0a, 0xbf, 2, fdc_read_id },
	{ 0x0c, 0x1f, 9, fdc_data_start }, /* READ DELETED */
	{ 0x0d, 0xbf, 6, fdc_data_start }, /* FORMAT TRACK */
	{ 0x0e, 0xff, 1, dump_registers },
	{ 0x0f, 0x3f, 3, seek_absolute },
	{ 0x10, 0xff, 1, version },
	{ 0x11, 0x1f, 9, fdc_data_start }, /* SCAN EQUAL */
	{ 0x12, 0xff, 2, perpendicular },
	{ 0x13, 0xff, 4, configure },
	{ 0x14, 0x7f, 1, lock },
	{ 0x16, 0x1f, 9, fdc_data_start }, /* VERIFY */
	{ 0x19, 0x1f, 9, fdc_data_start }, /* SCAN LOW OR EQUAL */
	{ 0x1d, 0x1f, 9, fdc_data_start }, /* SCAN HIGH OR EQUAL */
};

static const struct command *find_command(uint8_t first)
{
	for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
		if ((first & commands[i].mask) == commands[i].code)
			return &commands[i];
	return NULL;
}

static void take_command(struct fdc *f, uint8_t v)
{
	const struct command *c;

	f->fifo[f->len++] = v;
	c = find_command(f->fifo[0]);
	if (c && f->len < c->len)
		return;
	f->phase = FDC_EXECUTE;
	memcpy(f->command, f->fifo, sizeof(f->command));
	if (c) {
		c->run(f);
	} else {
		device_guest_error(&f->device, "no command 0x%02x", v);
		invalid(f);
	}
}

/* ---- registers ---- */

static uint8_t read_status(const struct fdc *f)
{
	/* After a reset, not before what was in flight has come back. */
	if (!(f->dor & DOR_RUN) || f->dropped)
		return 0;
	switch (f->phase) {
	case FDC_COMMAND: return (uint8_t)(MSR_READY | (f->len ? MSR_BUSY : 0));
	case FDC_RESULT: return MSR_READY | MSR_TO_HOST | MSR_BUSY;
	default:
		if (f->data == FDC_NO_DATA || fdc_uses_dma(f))
			return MSR_BUSY;
		return (uint8_t)(MSR_READY | MSR_NO_DMA | MSR_BUSY | (f->data == FDC_TO_HOST ? MSR_TO_HOST : 0));
	}
}

static uint8_t read_fifo(struct fdc *f)
{
	uint8_t v;

	if (f->phase == FDC_EXECUTE && f->data == FDC_TO_HOST && !fdc_uses_dma(f))
		return fdc_data_read(f);
	if (f->phase != FDC_RESULT) {
		device_guest_error(&f->device, "read without a result");
		return 0;
	}
	if (f->pos == 0)
		fdc_set_irq(f, false);
	v = f->fifo[f->pos++];
	if (f->pos == f->len)
		expect_command(f);
	return v;
}

static void write_fifo(struct fdc *f, uint8_t v)
{
	if (!(f->dor & DOR_RUN) || f->dropped)
		return;
	if (f->phase == FDC_EXECUTE && f->data == FDC_FROM_HOST && !fdc_uses_dma(f))
		fdc_data_write(f, v);
	else if (f->phase == FDC_COMMAND)
		take_command(f, v);
	else
		device_guest_error(&f->device, "0x%02x written while busy", v);
}

static void write_dor(struct fdc *f, uint8_t v)
{
	uint8_t was = f->dor;

	f->dor = v;
	if (!(v & DOR_RUN) && (was & DOR_RUN))
		controller_reset(f);
	else if ((v & DOR_RUN) && !(was & DOR_RUN))
		reset_over(f);
	else
		fdc_set_irq(f, f->line);
}

static void write_rate(struct fdc *f, uint8_t v)
{
	f->rate = v & 3;
	if (!(v & 0x80))
		return;
	controller_reset(f);
	reset_over(f);
}

/* Disk changed: of the selected drive, while its motor runs. */
static uint8_t read_direction(struct fdc *f)
{
	unsigned n = f->dor & 3;
	const struct fdc_unit *u = fdc_unit(f, n);

	return u && (f->dor >> (4 + n) & 1) && (u->changed || !u->geometry) ? 0x80 : 0;
}

static uint64_t registers_read(void *opaque, uint64_t offset, unsigned len)
{
	struct fdc *f = opaque;

	switch (BASE + offset) {
	case 0x3f2: return f->dor;
	case 0x3f3: return f->tdr;
	case 0x3f4: return read_status(f);
	default: return read_fifo(f);
	}
}

static void registers_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct fdc *f = opaque;

	switch (BASE + offset) {
	case 0x3f2: write_dor(f, (uint8_t)value); break;
	case 0x3f3: f->tdr = value & 3; break;
	case 0x3f4: write_rate(f, (uint8_t)value); break;
	default: write_fifo(f, (uint8_t)value); break;
	}
}

static uint64_t direction_read(void *opaque, uint64_t offset, unsigned len)
{
	return read_direction(opaque);
}

static void direction_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	((struct fdc *)opaque)->rate = value & 3;
}

static const struct region_ops registers_ops = { registers_read, registers_write, 1, 1 };
static const struct region_ops direction_ops = { direction_read, direction_write, 1, 1 };

static void dma_ready(void *opaque)
{
	fdc_data_move(opaque);
}

/* ---- life ---- */

static void fdc_reset(struct device *dev)
{
	struct fdc *f = (struct fdc *)dev;

	f->locked = false;
	controller_reset(f);
	f->dor = f->tdr = 0;
	f->rate = 2;
	f->perpendicular = 0;
	memset(f->specify, 0, sizeof(f->specify));
	for (unsigned n = 0; n < FDC_DRIVES; n++) {
		f->unit[n].track = 0;
		f->unit[n].changed = f->unit[n].present;
	}
}

static void drain(struct fdc *f)
{
	for (unsigned n = 0; n < FDC_DRIVES && f->in_flight; n++)
		if (f->unit[n].blk)
			blk_drain(f->unit[n].blk);
}

static void command_state(struct fdc *f, struct state *s)
{
	state_u8(s, "phase", &f->phase);
	state_bytes(s, "fifo", f->fifo, sizeof(f->fifo));
	state_u8(s, "len", &f->len);
	state_u8(s, "pos", &f->pos);
	state_u8(s, "resets", &f->resets);
	state_u8(s, "seek_ends", &f->seek_ends);
	state_bytes(s, "seek_st0", f->seek_st0, sizeof(f->seek_st0));
	state_bytes(s, "command", f->command, sizeof(f->command));
	state_u8(s, "c", &f->c);
	state_u8(s, "h", &f->h);
	state_u8(s, "r", &f->r);
	state_u8(s, "n", &f->n);
	state_u8(s, "eot", &f->eot);
	state_u8(s, "data", &f->data);
	state_bool(s, "ended", &f->ended);
	state_bytes(s, "buf", f->buf, sizeof(f->buf));
	state_u16(s, "at", &f->at);
	state_u16(s, "size", &f->size);
	state_u8(s, "st2", &f->st2);
}

static bool loaded_is_sane(struct fdc *f)
{
	bool moves = f->data != FDC_NO_DATA;

	if (f->phase > FDC_RESULT || f->len > 10 || f->resets > 4 || f->seek_ends > 15)
		return false;
	if (f->phase == FDC_RESULT && f->pos >= f->len)
		return false;
	if (f->phase == FDC_COMMAND && f->len && (!find_command(f->fifo[0]) || f->len >= find_command(f->fifo[0])->len))
		return false;
	if (f->phase == FDC_EXECUTE ? !moves : moves)
		return false;
	return !moves || (f->data <= FDC_FROM_HOST && f->at < f->size && f->size <= FDC_SECTOR && fdc_data_valid(f));
}

static int fdc_state(struct device *dev, struct state *s)
{
	struct fdc *f = (struct fdc *)dev;

	drain(f);
	state_u8(s, "dor", &f->dor);
	state_u8(s, "tdr", &f->tdr);
	state_u8(s, "rate", &f->rate);
	state_bool(s, "line", &f->line);
	state_bytes(s, "specify", f->specify, sizeof(f->specify));
	state_u8(s, "configure", &f->configure);
	state_u8(s, "precompensation", &f->precompensation);
	state_u8(s, "perpendicular", &f->perpendicular);
	state_bool(s, "locked", &f->locked);
	for (unsigned n = 0; n < FDC_DRIVES; n++) {
		state_u8(s, "track", &f->unit[n].track);
		state_bool(s, "changed", &f->unit[n].changed);
	}
	command_state(f, s);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && !loaded_is_sane(f))
		state_fail(s, "fdc: out of range");
	fdc_set_irq(f, f->line);
	return state_error(s);
}

static void fdc_destroy(struct device *dev)
{
	struct fdc *f = (struct fdc *)dev;

	dma8237_attach(f->dma, f->channel, NULL, NULL);
	region_destroy(f->registers);
	region_destroy(f->direction);
	g_free(f);
}

static const struct device_ops ops = { "fdc82077", 1, fdc_reset, fdc_state, fdc_destroy };

static void insert(struct fdc_unit *u, struct blk *blk)
{
	u->geometry = blk ? geometry_of(blk_size(blk)) : NULL;
	u->blk = u->geometry ? blk : NULL;
	u->changed = true;
}

struct fdc *fdc_create(struct space *ports, struct irq irq, struct dma8237 *dma, unsigned channel,
		       const struct fdc_drive drive[FDC_DRIVES])
{
	struct fdc *f = g_new0(struct fdc, 1);

	f->device = (struct device){ .ops = &ops, .id = "fdc" };
	f->irq = irq;
	f->dma = dma;
	f->channel = channel;
	for (unsigned n = 0; n < FDC_DRIVES; n++) {
		f->unit[n].present = drive[n].present;
		insert(&f->unit[n], drive[n].blk);
		f->unit[n].type = f->unit[n].geometry ? f->unit[n].geometry->drive_type : 4;
	}
	f->registers = space_add(ports, "fdc", BASE, 4, &registers_ops, f);
	f->direction = space_add(ports, "fdc-direction", DIRECTION, 1, &direction_ops, f);
	dma8237_attach(dma, channel, dma_ready, f);
	fdc_reset(&f->device);
	return f;
}

struct device *fdc_device(struct fdc *f)
{
	return &f->device;
}

uint8_t fdc_drive_type(const struct fdc *f, unsigned drive)
{
	return drive < FDC_DRIVES && f->unit[drive].present ? f->unit[drive].type : 0;
}

int fdc_change_media(struct fdc *f, unsigned drive, struct blk *blk)
{
	if (!fdc_unit(f, drive))
		return -ENODEV;
	if (blk && !fdc_fits(blk_size(blk)))
		return -EINVAL;
	insert(&f->unit[drive], blk);
	return 0;
}
