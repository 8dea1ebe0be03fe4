/* The 82077AA floppy disk controller with one or two drives. */
#ifndef DEV_FDC_H
#define DEV_FDC_H

#include <stdbool.h>

#include "block/blk.h"
#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "dev/dma8237.h"

#define FDC_DRIVES 2

struct fdc;

struct fdc_drive {
	bool present;
	struct blk *blk; /* NULL: empty; stays the caller's */
};

/* `irq` is ISA line 6, `channel` the DMA channel (2). */
struct fdc *fdc_create(struct space *ports, struct irq irq, struct dma8237 *dma, unsigned channel,
		       const struct fdc_drive drive[FDC_DRIVES]);
struct device *fdc_device(struct fdc *f);
/* Whether an image is small enough for a floppy disk. What it lacks to a standard size reads as zeros. */
bool fdc_fits(uint64_t bytes);
/* Whether it has exactly the size of a standard format. */
bool fdc_is_standard(uint64_t bytes);
/* The drive's type as CMOS byte 0x10 has it: 0 none, 1: 360K, 2: 1.2M, 4: 1.44M, 5: 2.88M. */
uint8_t fdc_drive_type(const struct fdc *f, unsigned drive);
/* Another disk, or none. -ENODEV without that drive, -EINVAL for an image that is too large. */
int fdc_change_media(struct fdc *f, unsigned drive, struct blk *blk);

#endif
