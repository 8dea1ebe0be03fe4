/* Native command queuing: READ and WRITE FPDMA QUEUED. SATA 2.6 13.6, AHCI 1.3.1 5.6.4. */
#include <string.h>

#include "base/bytes.h"
#include "dev/ahci_internal.h"

#define CHUNK (128u << 10) /* bytes of one request to the image */
#define DEVICE_FUA 0x80

#define FIS_SET_DEVICE_BITS 0xa1
#define FIS_INTERRUPT 0x40
#define RECEIVED_SET_DEVICE_BITS 0x58

bool ahci_is_queued(uint8_t command)
{
	return command == 0x60 || command == 0x61;
}

bool ahci_queue_empty(const struct ahci_port *p)
{
	for (unsigned i = 0; i < AHCI_SLOTS; i++)
		if (p->queued[i])
			return false;
	return true;
}

static struct ahci_queued *queued_new(struct ahci_port *p)
{
	struct ahci_queued *q = p->free;
	uint8_t *buf;

	if (q) {
		p->free = q->next_free;
		buf = q->buf;
	} else {
		q = g_new0(struct ahci_queued, 1);
		buf = g_malloc(CHUNK);
	}
	*q = (struct ahci_queued){ .port = p, .buf = buf };
	return q;
}

static void queued_free(struct ahci_queued *q)
{
	struct ahci_port *p = q->port;

	if (!q->cancelled)
		p->queued[q->slot] = NULL;
	q->next_free = p->free;
	p->free = q;
}

void ahci_queue_cancel(struct ahci_port *p)
{
	for (unsigned i = 0; i < AHCI_SLOTS; i++) {
		if (p->queued[i])
			p->queued[i]->cancelled = true;
		p->queued[i] = NULL;
	}
}

void ahci_queue_finish(struct ahci_port *p)
{
	while (p->free) {
		struct ahci_queued *q = p->free;

		p->free = q->next_free;
		g_free(q->buf);
		g_free(q);
	}
}

/* Tells which commands are done, or (with ERR) that the queue has stopped. */
static void set_device_bits(struct ahci_port *p, uint32_t done)
{
	struct ata_taskfile *t = &p->drive.tf;
	uint8_t fis[8] = { FIS_SET_DEVICE_BITS, FIS_INTERRUPT, t->status & 0x77, t->error };

	st32le(fis + 4, done);
	p->sact &= ~done;
	ahci_port_receive(p, RECEIVED_SET_DEVICE_BITS, fis, sizeof(fis));
	p->is |= PORT_IS_SDBS;
	if (t->status & ATA_ERR) {
		p->is |= PORT_IS_TFES;
		p->halted = true;
	}
	ahci_irq_update(p->hba);
}

/* One failure drops all: the host reads the log, and queues again what is left. */
static void queue_failed(struct ahci_port *p, struct ahci_queued *q, uint8_t error)
{
	struct ata_drive *d = &p->drive;

	d->queue_error = (struct ata_queue_error){ .valid = true, .tag = q->slot, .status = ATA_DRDY | ATA_DSC | ATA_ERR,
						   .error = error, .sector = q->sector, .count = (uint16_t)q->left };
	d->tf.status = ATA_DRDY | ATA_DSC | ATA_ERR;
	d->tf.error = error;
	ahci_queue_cancel(p);
	set_device_bits(p, 0);
}

static void io_done(void *opaque, int result);

static void next_chunk(struct ahci_queued *q)
{
	struct ahci_port *p = q->port;
	struct iovec iov = { q->buf, 0 };

	q->chunk = MIN(q->left, CHUNK / ATA_SECTOR);
	iov.iov_len = q->chunk * ATA_SECTOR;
	if (!q->write) {
		blk_readv(p->drive.blk, q->sector, &iov, 1, io_done, q);
		return;
	}
	if (ahci_table_copy(p->hba, &q->table, q->buf, iov.iov_len, false) < iov.iov_len) {
		queue_failed(p, q, ATA_ERROR_ABRT);
		queued_free(q);
	} else if (q->fua) {
		blk_writev_fua(p->drive.blk, q->sector, &iov, 1, io_done, q);
	} else {
		blk_writev(p->drive.blk, q->sector, &iov, 1, io_done, q);
	}
}

static void io_done(void *opaque, int result)
{
	struct ahci_queued *q = opaque;
	struct ahci_port *p = q->port;
	size_t len = q->chunk * ATA_SECTOR;

	if (q->cancelled) {
		queued_free(q);
		return;
	}
	if (result || (!q->write && ahci_table_copy(p->hba, &q->table, q->buf, len, true) < len)) {
		queue_failed(p, q, result && !q->write ? ATA_ERROR_UNC : ATA_ERROR_ABRT);
		queued_free(q);
		return;
	}
	q->sector += q->chunk;
	q->left -= q->chunk;
	if (q->left) {
		next_chunk(q);
		return;
	}
	queued_free(q);
	set_device_bits(p, 1u << q->slot);
}

static uint64_t fis_sector(const uint8_t fis[20])
{
	return fis[4] | (uint64_t)fis[5] << 8 | (uint64_t)fis[6] << 16 | (uint64_t)fis[8] << 24 | (uint64_t)fis[9] << 32 |
	       (uint64_t)fis[10] << 40;
}

/* The slot's bits in CI and SACT are the tag: the command is accepted as soon as it is here. */
void ahci_queue_start(struct ahci_port *p, unsigned slot, const uint8_t fis[20])
{
	struct ata_drive *d = &p->drive;
	struct ahci_queued *q = queued_new(p);
	uint8_t error = 0;

	q->slot = (uint8_t)slot;
	q->write = fis[2] == 0x61;
	q->fua = fis[7] & DEVICE_FUA || !d->write_cache;
	q->sector = fis_sector(fis);
	q->left = fis[3] | (uint32_t)fis[11] << 8;
	q->left = q->left ? q->left : 65536;
	q->table = p->table;
	p->ci &= ~(1u << slot);
	d->standby = false;
	if (d->kind != ATA_DISK || fis[12] >> 3 != slot || p->queued[slot] || !(p->sact >> slot & 1))
		error = ATA_ERROR_ABRT;
	else if (q->sector >= d->sectors || q->left > d->sectors - q->sector)
		error = ATA_ERROR_IDNF;
	else if (q->write && blk_readonly(d->blk))
		error = ATA_ERROR_ABRT | ATA_ERROR_WP;
	if (error) {
		queue_failed(p, q, error);
		q->cancelled = true; /* it never had its place */
		queued_free(q);
		return;
	}
	p->queued[slot] = q;
	d->tf.status = ATA_DRDY | ATA_DSC;
	d->tf.error = 0;
	next_chunk(q);
}
