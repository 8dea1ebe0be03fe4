/* Inside of the IDE controller: a channel, shared by its registers (ide.c) and its DMA engine (ide_bm.c). */
#ifndef DEV_IDE_INTERNAL_H
#define DEV_IDE_INTERNAL_H

#include "dev/ata.h"
#include "dev/ide.h"

/* Bus-master status. */
#define BM_ACTIVE 0x01
#define BM_ERROR 0x02
#define BM_INTERRUPT 0x04

/* The DMA engine of one channel. */
struct ide_bm {
	uint8_t command, status;
	uint32_t table;
	/* Where it is in the table. */
	uint32_t next;   /* address of the next descriptor */
	uint32_t budget; /* descriptors that may still be read */
	uint32_t addr, left;
	bool last;
};

struct ide_channel {
	struct ide *ide;
	struct ata_drive drive[2];
	struct region *command_ports, *control_port;
	struct irq irq;
	bool line;
	uint8_t selected; /* 0 or 1 */
	uint8_t control;
	struct ide_bm bm;
};

struct ide {
	struct pci_dev pci;
	struct ide_channel channel[2];
};

/* The selected drive, if it is there. */
static inline struct ata_drive *ide_selected(struct ide_channel *c)
{
	struct ata_drive *d = &c->drive[c->selected];

	return d->kind == ATA_NO_DRIVE ? NULL : d;
}

/* ide_bm.c */
extern const struct region_ops ide_bm_ops; /* opaque: struct ide */
void ide_bm_reset(struct ide_bm *bm);
int ide_bm_state(struct ide_bm *bm, struct state *s);
size_t ide_bm_copy(struct ide_channel *c, void *p, size_t len, bool to_guest);
static inline bool ide_bm_running(const struct ide_bm *bm) { return bm->status & BM_ACTIVE; }

#endif
