/*
 * A port of the AHCI controller: its registers, command slots, and the FIS that go over the cable.
 * AHCI 1.3.1 3.3, 4 and 5; Serial ATA 2.6 10.3 (FIS).
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/ahci_internal.h"

#define REG_CLB 0x00
#define REG_CLBU 0x04
#define REG_FB 0x08
#define REG_FBU 0x0c
#define REG_IS 0x10
#define REG_IE 0x14
#define REG_CMD 0x18
#define REG_TFD 0x20
#define REG_SIG 0x24
#define REG_SSTS 0x28
#define REG_SCTL 0x2c
#define REG_SERR 0x30
#define REG_SACT 0x34
#define REG_CI 0x38

#define CMD_ST 0x00000001u
#define CMD_SPIN_UP 0x00000002u
#define CMD_POWER_ON 0x00000004u
#define CMD_CLO 0x00000008u
#define CMD_FRE 0x00000010u
#define CMD_FR 0x00004000u
#define CMD_CR 0x00008000u
#define CMD_ATAPI 0x01000000u
#define CMD_WRITABLE (CMD_ST | CMD_FRE | CMD_ATAPI | 0x06000000u)
#define CMD_ALWAYS (CMD_SPIN_UP | CMD_POWER_ON)
#define CMD_SLOT_SHIFT 8

#define IS_WRITE_CLEAR 0xfd8000afu
#define IE_WRITABLE 0x7dc000ffu
#define SERR_CONNECT 0x04000000u
#define SERR_PHY 0x00010000u

#define HEADER_SIZE 32
#define HEADER_CLEAR_BUSY 0x0400
#define TABLE_PACKET 0x40
#define TABLE_REGIONS 0x80

#define FIS_TO_DEVICE 0x27
#define FIS_TO_HOST 0x34
#define FIS_PIO_SETUP 0x5f
#define FIS_INTERRUPT 0x40
#define FIS_DIRECTION_IN 0x20
#define RECEIVED_PIO_SETUP 0x20
#define RECEIVED_REGISTERS 0x40

#define CONTROL_SRST 0x04

/* ---- to the host ---- */

void ahci_port_receive(struct ahci_port *p, unsigned offset, const void *fis, size_t len)
{
	if (!(p->cmd & CMD_FRE))
		return;
	if (!pci_dma_write(&p->hba->pci, p->fis + offset, fis, len)) {
		device_guest_error(&p->hba->pci.device, "port %u: received FIS area is not memory", p->index);
		p->is |= PORT_IS_HBFS;
	}
}

static void fill_registers(uint8_t fis[20], const struct ata_taskfile *t)
{
	fis[2] = t->status;
	fis[3] = t->error;
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = t->lba[i];
		fis[8 + i] = t->lba_prev[i];
	}
	fis[7] = t->device;
	fis[12] = t->count;
	fis[13] = t->count_prev;
}

static void send_registers(struct ahci_port *p, bool interrupt)
{
	uint8_t fis[20] = { FIS_TO_HOST, interrupt ? FIS_INTERRUPT : 0 };

	fill_registers(fis, &p->drive.tf);
	p->tfd_cleared = false;
	ahci_port_receive(p, RECEIVED_REGISTERS, fis, sizeof(fis));
	if (interrupt)
		p->is |= PORT_IS_DHRS;
	if (p->drive.tf.status & ATA_ERR) {
		p->is |= PORT_IS_TFES;
		p->halted = true;
	}
	ahci_irq_update(p->hba);
}

static void send_pio_setup(struct ahci_port *p, uint32_t len, bool in, bool interrupt)
{
	uint8_t fis[20] = { FIS_PIO_SETUP, (uint8_t)((interrupt ? FIS_INTERRUPT : 0) | (in ? FIS_DIRECTION_IN : 0)) };

	fill_registers(fis, &p->drive.tf);
	fis[15] = ATA_DRDY | ATA_DSC;
	st16le(fis + 16, (uint16_t)len);
	ahci_port_receive(p, RECEIVED_PIO_SETUP, fis, sizeof(fis));
	if (interrupt)
		p->is |= PORT_IS_PSS;
	ahci_irq_update(p->hba);
}

static size_t copy(struct ahci_port *p, void *buf, size_t len, bool to_guest)
{
	size_t n = p->slot < 0 ? 0 : ahci_table_copy(p->hba, &p->table, buf, len, to_guest);

	if (p->slot >= 0 && n < len) {
		device_guest_error(&p->hba->pci.device, "port %u: descriptors are %zu bytes short", p->index, len - n);
		p->is |= PORT_IS_OFS;
	}
	return n;
}

/* The drive has a data block, or wants one: it moves at once. */
static void move_block(struct ahci_port *p)
{
	struct ata_drive *d = &p->drive;
	uint32_t len = d->block_end - d->pos;

	if (d->step == ATAPI_PACKET) {
		if (p->slot < 0 || !pci_dma_read(&p->hba->pci, p->command_table + TABLE_PACKET, d->buf + d->pos, len))
			memset(d->buf + d->pos, 0, len);
	} else {
		send_pio_setup(p, len, d->block_in, d->intrq);
		copy(p, d->buf + d->pos, len, d->block_in);
	}
	d->pos = d->block_end;
	ata_block_done(d);
}

static uint32_t signature(const struct ata_taskfile *t)
{
	return t->count | (uint32_t)t->lba[0] << 8 | (uint32_t)t->lba[1] << 16 | (uint32_t)t->lba[2] << 24;
}

/* The end of a command, or of a reset. A command that ended with data for the host has told so already. */
static void finish_command(struct ahci_port *p)
{
	struct ata_drive *d = &p->drive;
	bool failed = d->tf.status & ATA_ERR;
	uint8_t moved[4];

	if (p->resetting) {
		p->resetting = false;
		p->sig = signature(&d->tf);
		send_registers(p, false);
		return;
	}
	if (p->slot < 0)
		return; /* the host had given it up */
	st32le(moved, p->table.moved);
	pci_dma_write(&p->hba->pci, p->header + 4, moved, sizeof(moved));
	if (!failed) {
		p->ci &= ~(1u << p->slot);
		p->slot = -1;
	}
	if (d->intrq || failed)
		send_registers(p, d->intrq);
	d->intrq = false;
}

/* ---- what the drive says; carried out in ahci_port_run, since it comes from inside of its calls ---- */

static void block_ready(void *opaque, struct ata_drive *d)
{
	struct ahci_port *p = opaque;

	p->block_waits = true;
	ahci_port_run(p);
}

static void dma_ready(void *opaque, struct ata_drive *d)
{
	ata_dma_start(d);
}

static size_t dma_copy(void *opaque, struct ata_drive *d, void *buf, size_t len, bool to_guest)
{
	return copy(opaque, buf, len, to_guest);
}

static void command_done(void *opaque, struct ata_drive *d)
{
	struct ahci_port *p = opaque;

	p->done_waits = true;
	ahci_port_run(p);
}

static const struct ata_link_ops link_ops = { block_ready, dma_ready, dma_copy, command_done };

/* ---- from the host ---- */

static void load_registers(struct ata_taskfile *t, const uint8_t fis[20])
{
	t->feature = fis[3];
	t->feature_prev = fis[11];
	for (unsigned i = 0; i < 3; i++) {
		t->lba[i] = fis[4 + i];
		t->lba_prev[i] = fis[8 + i];
	}
	t->device = fis[7];
	t->count = fis[12];
	t->count_prev = fis[13];
	t->command = fis[2];
}

static void reset_drive(struct ahci_port *p, bool asserted)
{
	ahci_queue_cancel(p);
	p->slot = -1;
	p->resetting = true;
	ata_soft_reset(&p->drive, asserted);
}

/* A FIS without a command sets the device control register: SRST is all it says to a SATA drive. */
static void control_fis(struct ahci_port *p, unsigned slot, uint16_t flags, uint8_t control)
{
	bool reset = control & CONTROL_SRST;

	if (reset || (flags & HEADER_CLEAR_BUSY) || !p->drive.reset_held)
		p->ci &= ~(1u << slot);
	if (reset == p->drive.reset_held)
		return;
	p->ci &= ~(1u << slot);
	reset_drive(p, reset);
}

/* A command that is not queued may not come between queued ones. */
static void refuse_mixed(struct ahci_port *p, unsigned slot)
{
	ahci_queue_cancel(p);
	p->slot = (int8_t)slot;
	p->drive.tf.status = ATA_DRDY | ATA_DSC | ATA_ERR;
	p->drive.tf.error = ATA_ERROR_ABRT;
	send_registers(p, true);
}

static void structure_error(struct ahci_port *p, unsigned slot)
{
	device_guest_error(&p->hba->pci.device, "port %u: command %u is not in memory", p->index, slot);
	p->is |= PORT_IS_HBFS;
	p->halted = true;
	ahci_irq_update(p->hba);
}

static void start_slot(struct ahci_port *p, unsigned slot)
{
	uint64_t header_at = p->list + slot * HEADER_SIZE;
	uint8_t header[16], fis[20];
	uint16_t flags;

	if (!pci_dma_read(&p->hba->pci, header_at, header, sizeof(header)) ||
	    !pci_dma_read(&p->hba->pci, ld64le(header + 8) & ~UINT64_C(127), fis, sizeof(fis)) || fis[0] != FIS_TO_DEVICE) {
		structure_error(p, slot);
		return;
	}
	flags = ld16le(header);
	p->header = header_at;
	p->command_table = ld64le(header + 8) & ~UINT64_C(127);
	ahci_table_start(&p->table, p->command_table + TABLE_REGIONS, ld16le(header + 2));
	if (!(fis[1] & 0x80)) {
		control_fis(p, slot, flags, fis[15]);
	} else if (ahci_is_queued(fis[2])) {
		ahci_queue_start(p, slot, fis);
	} else if (!ahci_queue_empty(p)) {
		refuse_mixed(p, slot);
	} else {
		p->slot = (int8_t)slot;
		load_registers(&p->drive.tf, fis);
		ata_command(&p->drive);
	}
}

static bool may_start(const struct ahci_port *p)
{
	return (p->cmd & CMD_CR) && !p->halted && p->slot < 0 && p->ci && p->drive.kind != ATA_NO_DRIVE;
}

void ahci_port_run(struct ahci_port *p)
{
	if (p->running)
		return;
	p->running = true;
	for (;;) {
		if (p->block_waits) {
			p->block_waits = false;
			move_block(p);
		} else if (p->done_waits) {
			p->done_waits = false;
			finish_command(p);
		} else if (may_start(p)) {
			start_slot(p, (unsigned)__builtin_ctz(p->ci));
		} else {
			break;
		}
	}
	p->running = false;
}

/* ---- registers ---- */

static void stop(struct ahci_port *p)
{
	p->cmd &= ~CMD_CR;
	p->ci = p->sact = 0;
	p->slot = -1;
	p->halted = false;
	ahci_queue_cancel(p);
}

static void write_cmd(struct ahci_port *p, uint32_t v)
{
	uint32_t was = p->cmd;

	p->cmd = (was & ~CMD_WRITABLE) | (v & CMD_WRITABLE) | CMD_ALWAYS;
	if ((v & CMD_CLO) && !(was & CMD_ST))
		p->tfd_cleared = true;
	if (v & CMD_FRE)
		p->cmd |= CMD_FR;
	else
		p->cmd &= ~CMD_FR;
	/* The signature has been waiting since the drive came up. */
	if ((v & CMD_FRE) && !(was & CMD_FRE) && p->drive.kind != ATA_NO_DRIVE && p->slot < 0)
		send_registers(p, false);
	if (!(v & CMD_ST) && (was & CMD_ST))
		stop(p);
	if ((v & CMD_ST) && !(was & CMD_ST) && (p->cmd & CMD_FRE)) {
		p->cmd |= CMD_CR;
		p->halted = false;
		ahci_port_run(p);
	}
}

/* COMRESET while DET is 1. */
static void write_sctl(struct ahci_port *p, uint32_t v)
{
	uint32_t was = p->sctl & 15;

	p->sctl = v & 0xfff;
	if ((v & 15) == was || p->drive.kind == ATA_NO_DRIVE)
		return;
	if ((v & 15) == 1) {
		reset_drive(p, true);
	} else if (was == 1 && (v & 15) == 0) {
		p->serr |= SERR_CONNECT | SERR_PHY;
		reset_drive(p, false);
	}
	ahci_irq_update(p->hba);
}

static uint32_t read_tfd(const struct ahci_port *p)
{
	const struct ata_taskfile *t = &p->drive.tf;

	if (p->drive.kind == ATA_NO_DRIVE)
		return 0x7f;
	return (uint32_t)t->error << 8 | (p->tfd_cleared ? t->status & ~(ATA_BSY | ATA_DRQ) : t->status);
}

static uint32_t read_ssts(const struct ahci_port *p)
{
	if (p->drive.kind == ATA_NO_DRIVE || (p->sctl & 15) == 1)
		return 0;
	return (p->sctl & 15) == 4 ? 4 : 0x123; /* offline, or active at 3 Gb/s */
}

static uint32_t read_is(const struct ahci_port *p)
{
	return p->is | (p->serr & SERR_CONNECT ? PORT_IS_PCS : 0) | (p->serr & SERR_PHY ? PORT_IS_PRCS : 0);
}

bool ahci_port_interrupts(const struct ahci_port *p)
{
	return read_is(p) & p->ie;
}

static uint32_t read_cmd(const struct ahci_port *p)
{
	return p->cmd | (p->slot >= 0 ? (uint32_t)p->slot << CMD_SLOT_SHIFT : 0);
}

uint32_t ahci_port_read(struct ahci_port *p, unsigned reg)
{
	switch (reg) {
	case REG_CLB: return (uint32_t)p->list;
	case REG_CLBU: return (uint32_t)(p->list >> 32);
	case REG_FB: return (uint32_t)p->fis;
	case REG_FBU: return (uint32_t)(p->fis >> 32);
	case REG_IS: return read_is(p);
	case REG_IE: return p->ie;
	case REG_CMD: return read_cmd(p);
	case REG_TFD: return read_tfd(p);
	case REG_SIG: return p->sig;
	case REG_SSTS: return read_ssts(p);
	case REG_SCTL: return p->sctl;
	case REG_SERR: return p->serr;
	case REG_SACT: return p->sact;
	case REG_CI: return p->ci;
	default: return 0;
	}
}

static uint64_t with_low(uint64_t v, uint32_t low) { return (v & ~UINT64_C(0xffffffff)) | low; }
static uint64_t with_high(uint64_t v, uint32_t high) { return (v & 0xffffffff) | (uint64_t)high << 32; }

void ahci_port_write(struct ahci_port *p, unsigned reg, uint32_t v)
{
	switch (reg) {
	case REG_CLB: p->list = with_low(p->list, v & ~0x3ffu); break;
	case REG_CLBU: p->list = with_high(p->list, v); break;
	case REG_FB: p->fis = with_low(p->fis, v & ~0xffu); break;
	case REG_FBU: p->fis = with_high(p->fis, v); break;
	case REG_IS:
		p->is &= ~(v & IS_WRITE_CLEAR);
		ahci_irq_update(p->hba);
		break;
	case REG_IE:
		p->ie = v & IE_WRITABLE;
		ahci_irq_update(p->hba);
		break;
	case REG_CMD: write_cmd(p, v); break;
	case REG_SCTL: write_sctl(p, v); break;
	case REG_SERR:
		p->serr &= ~v;
		ahci_irq_update(p->hba);
		break;
	case REG_SACT:
		if (p->cmd & CMD_ST)
			p->sact |= v;
		break;
	case REG_CI:
		if (p->cmd & CMD_ST) {
			p->ci |= v;
			ahci_port_run(p);
		}
		break;
	}
}

/* ---- life ---- */

void ahci_port_reset(struct ahci_port *p)
{
	ahci_queue_cancel(p);
	p->list = p->fis = 0;
	p->is = p->ie = p->sctl = p->serr = p->sact = p->ci = 0;
	p->cmd = CMD_ALWAYS;
	p->tfd_cleared = p->halted = false;
	p->slot = -1;
	p->header = p->command_table = 0;
	p->table = (struct ahci_table){ 0 };
	p->sig = 0xffffffff;
	p->resetting = true;
	ata_power_on(&p->drive);
}

void ahci_port_init(struct ahci_port *p, struct ahci *ahci, unsigned index, const struct ide_drive *drive)
{
	enum ata_kind kind = drive->cdrom ? ATA_CDROM : drive->blk ? ATA_DISK : ATA_NO_DRIVE;
	char serial[21];

	p->hba = ahci;
	p->index = index;
	p->slot = -1;
	g_snprintf(serial, sizeof(serial), "GU%05u", 101 + index);
	ata_init(&p->drive, kind, drive->blk, serial, true, &link_ops, p);
	ata_set_tray_listener(&p->drive, drive->tray_moved, drive->opaque);
}

void ahci_port_finish(struct ahci_port *p)
{
	ahci_queue_finish(p);
	ata_finish(&p->drive);
}

void ahci_port_drain(struct ahci_port *p)
{
	if (!ahci_queue_empty(p) || p->drive.in_flight)
		blk_drain(p->drive.blk);
}

int ahci_port_state(struct ahci_port *p, struct state *s)
{
	uint8_t slot = (uint8_t)p->slot;

	ata_state(&p->drive, s);
	state_u64(s, "list", &p->list);
	state_u64(s, "fis", &p->fis);
	state_u32(s, "is", &p->is);
	state_u32(s, "ie", &p->ie);
	state_u32(s, "cmd", &p->cmd);
	state_u32(s, "sig", &p->sig);
	state_u32(s, "sctl", &p->sctl);
	state_u32(s, "serr", &p->serr);
	state_u32(s, "sact", &p->sact);
	state_u32(s, "ci", &p->ci);
	state_bool(s, "tfd_cleared", &p->tfd_cleared);
	state_bool(s, "halted", &p->halted);
	state_bool(s, "resetting", &p->resetting);
	state_u8(s, "slot", &slot);
	state_u64(s, "header", &p->header);
	state_u64(s, "command_table", &p->command_table);
	ahci_table_state(&p->table, s);
	if (state_loading(s) && !state_error(s) && slot != 0xff && slot >= AHCI_SLOTS)
		state_fail(s, "ahci: no such slot");
	if (!state_error(s))
		p->slot = (int8_t)slot;
	return state_error(s);
}
