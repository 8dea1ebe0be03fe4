/*
 * The IDE function of the 82371SB (8086:7010): two channels at the ports every PC has them at. A channel's
 * registers are written to both of its drives at once; the selected one answers.
 * ATA/ATAPI-6 chapters 7 and 9; Intel 82371FB/82371SB data sheet, 2.3.
 */
#include "dev/ide.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/ide_internal.h"

/* Device control. */
#define CTL_NIEN 0x02
#define CTL_SRST 0x04
#define CTL_HOB 0x80

#define CMD_DIAGNOSTIC 0x90

#define IDETIM 0x40 /* two words, one a channel */
#define IDETIM_DECODE 0x80 /* of the high byte */

static void irq_update(struct ide_channel *c)
{
	struct ata_drive *d = ide_selected(c);
	bool level = d && d->intrq && !(c->control & CTL_NIEN);

	if (level && !c->line)
		c->bm.status |= BM_INTERRUPT;
	if (level != c->line)
		irq_set(&c->irq, level);
	c->line = level;
}

/* ---- what drives say ---- */

static void drive_changed(void *opaque, struct ata_drive *d)
{
	irq_update(opaque);
}

static void dma_ready(void *opaque, struct ata_drive *d)
{
	struct ide_channel *c = opaque;

	if (ide_bm_running(&c->bm) && d == ide_selected(c))
		ata_dma_start(d);
}

static size_t dma_copy(void *opaque, struct ata_drive *d, void *p, size_t len, bool to_guest)
{
	return ide_bm_copy(opaque, p, len, to_guest);
}

static const struct ata_link_ops link_ops = { drive_changed, dma_ready, dma_copy, drive_changed };

/* ---- registers ---- */

static uint8_t read_register(struct ide_channel *c, unsigned reg)
{
	struct ata_drive *d = ide_selected(c);
	bool hob = c->control & CTL_HOB;
	const struct ata_taskfile *t;

	/* A lone device 0 answers for device 1 too, with an empty status. Nobody: the lines are low. */
	if (!d && (reg == 7 || c->drive[0].kind == ATA_NO_DRIVE))
		return 0;
	t = d ? &d->tf : &c->drive[0].tf;
	switch (reg) {
	case 1: return t->error;
	case 2: return hob ? t->count_prev : t->count;
	case 3: case 4: case 5: return hob ? t->lba_prev[reg - 3] : t->lba[reg - 3];
	case 6: return t->device | 0xa0;
	default: return t->status;
	}
}

static uint8_t read_status(struct ide_channel *c)
{
	uint8_t status = read_register(c, 7);

	if (ide_selected(c)) {
		ide_selected(c)->intrq = false;
		irq_update(c);
	}
	return status;
}

static void write_task_file(struct ata_taskfile *t, unsigned reg, uint8_t v)
{
	if (t->status & ATA_BSY)
		return;
	switch (reg) {
	case 1:
		t->feature_prev = t->feature;
		t->feature = v;
		break;
	case 2:
		t->count_prev = t->count;
		t->count = v;
		break;
	case 3: case 4: case 5:
		t->lba_prev[reg - 3] = t->lba[reg - 3];
		t->lba[reg - 3] = v;
		break;
	case 6:
		t->device = v;
		break;
	}
}

static void diagnose(struct ide_channel *c)
{
	for (unsigned i = 0; i < 2; i++)
		if (c->drive[i].kind != ATA_NO_DRIVE && (c->drive[i].tf.status & ATA_BSY))
			return;
	for (unsigned i = 0; i < 2; i++) {
		if (c->drive[i].kind == ATA_NO_DRIVE)
			continue;
		c->drive[i].tf.device = 0;
		ata_diagnose(&c->drive[i]);
	}
	c->selected = 0;
	c->drive[0].intrq = c->drive[0].kind != ATA_NO_DRIVE;
	irq_update(c);
}

static void write_command(struct ide_channel *c, uint8_t v)
{
	struct ata_drive *d = ide_selected(c);

	if (v == CMD_DIAGNOSTIC) {
		diagnose(c);
		return;
	}
	if (!d)
		return;
	if ((d->tf.status & (ATA_BSY | ATA_DRQ)) && v != 0x08) {
		device_guest_error(&c->ide->pci.device, "command 0x%02x while status is 0x%02x", v, d->tf.status);
		return;
	}
	d->tf.command = v;
	ata_command(d);
	irq_update(c);
}

static void write_register(struct ide_channel *c, unsigned reg, uint8_t v)
{
	c->control &= ~CTL_HOB;
	if (reg == 7) {
		write_command(c, v);
		return;
	}
	for (unsigned i = 0; i < 2; i++)
		write_task_file(&c->drive[i].tf, reg, v);
	if (reg == 6) {
		c->selected = !!(v & ATA_DEVICE_DEV);
		irq_update(c);
	}
}

/* ---- data ---- */

/* The drive that has a block for the data register, or wants one. */
static struct ata_drive *data_drive(struct ide_channel *c, bool in)
{
	struct ata_drive *d = ide_selected(c);

	if (d && (d->tf.status & ATA_DRQ) && d->block_in == in && d->pos < d->block_end)
		return d;
	device_guest_error(&c->ide->pci.device, "data %s without a request", in ? "read" : "written");
	return NULL;
}

static uint64_t read_data(struct ide_channel *c, unsigned len)
{
	struct ata_drive *d = data_drive(c, true);
	uint64_t v = 0;
	uint32_t n;

	if (!d)
		return 0;
	n = MIN(len, d->block_end - d->pos);
	memcpy(&v, d->buf + d->pos, n);
	d->pos += n;
	if (d->pos == d->block_end)
		ata_block_done(d);
	return v;
}

static void write_data(struct ide_channel *c, unsigned len, uint64_t v)
{
	struct ata_drive *d = data_drive(c, false);
	uint32_t n;

	if (!d)
		return;
	n = MIN(len, d->block_end - d->pos);
	memcpy(d->buf + d->pos, &v, n);
	d->pos += n;
	if (d->pos == d->block_end)
		ata_block_done(d);
}

/* ---- ports ---- */

static uint64_t command_read(void *opaque, uint64_t offset, unsigned len)
{
	struct ide_channel *c = opaque;
	uint64_t v = 0;

	if (offset == 0)
		return read_data(c, len);
	for (unsigned i = 0; i < len; i++, offset++)
		v |= (uint64_t)(offset == 7 ? read_status(c) : read_register(c, (unsigned)offset)) << 8 * i;
	return v;
}

static void command_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct ide_channel *c = opaque;

	if (offset == 0) {
		write_data(c, len, value);
		return;
	}
	for (unsigned i = 0; i < len; i++, offset++)
		write_register(c, (unsigned)offset, (uint8_t)(value >> 8 * i));
}

static uint64_t control_read(void *opaque, uint64_t offset, unsigned len)
{
	return read_register(opaque, 7);
}

static void control_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct ide_channel *c = opaque;
	uint8_t changed = c->control ^ (uint8_t)value;

	c->control = (uint8_t)value;
	if (changed & CTL_SRST) {
		for (unsigned i = 0; i < 2; i++)
			ata_soft_reset(&c->drive[i], value & CTL_SRST);
		c->selected = 0;
	}
	irq_update(c);
}

static const struct region_ops command_ops = { command_read, command_write, 1, 4 };
static const struct region_ops control_ops = { control_read, control_write, 1, 1 };

/* ---- the PCI function ---- */

static void decode_update(struct ide *ide)
{
	static const uint16_t command_base[] = { 0x1f0, 0x170 }, control_base[] = { 0x3f6, 0x376 };

	for (unsigned i = 0; i < 2; i++) {
		struct ide_channel *c = &ide->channel[i];
		bool on = ide->pci.config[IDETIM + 2 * i + 1] & IDETIM_DECODE;

		if (on == region_mapped(c->command_ports))
			continue;
		if (on) {
			region_map(c->command_ports, command_base[i]);
			region_map(c->control_port, control_base[i]);
		} else {
			region_unmap(c->command_ports);
			region_unmap(c->control_port);
		}
	}
}

static void config_written(struct pci_dev *p, unsigned offset, unsigned len)
{
	if (offset < IDETIM + 4 && offset + len > IDETIM)
		decode_update((struct ide *)p);
}

static void ide_reset(struct device *dev)
{
	struct ide *ide = (struct ide *)dev;

	pci_dev_reset(&ide->pci);
	/* Both channels decode, as after firmware: a kernel may be started without any. */
	memset(&ide->pci.config[IDETIM], 0, 5);
	ide->pci.config[IDETIM + 1] = ide->pci.config[IDETIM + 3] = IDETIM_DECODE;
	decode_update(ide);
	for (unsigned i = 0; i < 2; i++) {
		struct ide_channel *c = &ide->channel[i];

		c->selected = 0;
		c->control = 0;
		ide_bm_reset(&c->bm);
		for (unsigned n = 0; n < 2; n++)
			ata_power_on(&c->drive[n]);
		irq_update(c);
	}
}

static void channel_state(struct ide_channel *c, struct state *s)
{
	for (unsigned n = 0; n < 2; n++)
		ata_state(&c->drive[n], s);
	state_u8(s, "selected", &c->selected);
	state_u8(s, "control", &c->control);
	state_bool(s, "line", &c->line);
	ide_bm_state(&c->bm, s);
	if (!state_loading(s))
		return;
	if (c->selected > 1) {
		state_fail(s, "ide: no such drive selected");
		c->selected = 0;
	}
	irq_set(&c->irq, c->line);
}

static int ide_state(struct device *dev, struct state *s)
{
	struct ide *ide = (struct ide *)dev;

	pci_dev_state(&ide->pci, s);
	for (unsigned i = 0; i < 2; i++)
		channel_state(&ide->channel[i], s);
	if (state_loading(s))
		decode_update(ide);
	return state_error(s);
}

static void ide_destroy(struct device *dev)
{
	struct ide *ide = (struct ide *)dev;

	for (unsigned i = 0; i < 2; i++) {
		struct ide_channel *c = &ide->channel[i];

		region_destroy(c->command_ports);
		region_destroy(c->control_port);
		for (unsigned n = 0; n < 2; n++)
			ata_finish(&c->drive[n]);
	}
	pci_dev_finish(&ide->pci);
	g_free(ide);
}

static const struct device_ops ops = { "piix3-ide", 1, ide_reset, ide_state, ide_destroy };

static void make_channel(struct ide *ide, unsigned i, struct space *ports, struct irq irq, const struct ide_drive drive[2])
{
	struct ide_channel *c = &ide->channel[i];

	c->ide = ide;
	c->irq = irq;
	c->command_ports = space_add_unmapped(ports, "ide", 8, &command_ops, c);
	c->control_port = space_add_unmapped(ports, "ide-control", 1, &control_ops, c);
	for (unsigned n = 0; n < 2; n++) {
		enum ata_kind kind = drive[n].cdrom ? ATA_CDROM : drive[n].blk ? ATA_DISK : ATA_NO_DRIVE;
		char serial[21];

		g_snprintf(serial, sizeof(serial), "GU%05u", 2 * i + n + 1);
		ata_init(&c->drive[n], kind, drive[n].blk, serial, false, &link_ops, c);
		ata_set_tray_listener(&c->drive[n], drive[n].tray_moved, drive[n].opaque);
	}
}

struct ide *ide_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct irq irq0, struct irq irq1,
		       const struct ide_drive drive[4])
{
	static const struct pci_ids ids = { 0x8086, 0x7010, 0x1af4, 0x1100, 0x010180, 0 };
	struct ide *ide = g_new0(struct ide, 1);

	ide->pci.device = (struct device){ .ops = &ops, .id = "ide" };
	if (pci_dev_init(&ide->pci, bus, devfn, &ids, 0)) {
		g_free(ide);
		return NULL;
	}
	ide->pci.config_written = config_written;
	memset(&ide->pci.wmask[IDETIM], 0xff, 5);
	pci_bar_io(&ide->pci, 4, "ide-bm", 16, &ide_bm_ops, ide);
	make_channel(ide, 0, ports, irq0, &drive[0]);
	make_channel(ide, 1, ports, irq1, &drive[2]);
	ide_reset(&ide->pci.device);
	return ide;
}

struct device *ide_device(struct ide *ide)
{
	return &ide->pci.device;
}

static struct ata_drive *unit_drive(const struct ide *ide, unsigned unit)
{
	return (struct ata_drive *)&ide->channel[unit / 2 & 1].drive[unit & 1];
}

int ide_change_media(struct ide *ide, unsigned unit, struct blk *blk, bool force)
{
	return unit < 4 ? ata_change_media(unit_drive(ide, unit), blk, force) : -ENODEV;
}

void ide_resized(struct ide *ide, unsigned unit)
{
	if (unit < 4)
		ata_resized(unit_drive(ide, unit));
}

bool ide_tray_open(const struct ide *ide, unsigned unit)
{
	return unit < 4 && unit_drive(ide, unit)->tray_open;
}

bool ide_tray_locked(const struct ide *ide, unsigned unit)
{
	return unit < 4 && unit_drive(ide, unit)->tray_locked;
}
