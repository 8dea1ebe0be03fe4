/* Inside of the floppy controller: registers and commands (fdc.c), sectors (fdc_data.c). */
#ifndef DEV_FDC_INTERNAL_H
#define DEV_FDC_INTERNAL_H

#include "dev/fdc.h"

#define FDC_SECTOR 512u
#define FDC_NO_FIFO 0x20 /* of CONFIGURE */

/* Status register 0. */
#define ST0_ABNORMAL 0x40
#define ST0_SEEK_END 0x20
#define ST0_CHECK 0x10
/* Status register 1. */
#define ST1_END 0x80
#define ST1_DATA 0x20
#define ST1_NO_DATA 0x04
#define ST1_PROTECTED 0x02
#define ST1_NO_MARK 0x01
/* Status register 2. */
#define ST2_OTHER_MARK 0x40
#define ST2_DATA 0x20
#define ST2_WRONG_TRACK 0x10
#define ST2_SCAN_EQUAL 0x08
#define ST2_SCAN_NOT 0x04

struct fdc_geometry {
	uint8_t tracks, heads, sectors;
	uint8_t rate; /* as in CCR: 0 500, 1 300, 2 250, 3 1000 kbit/s */
	uint8_t drive_type;
};

struct fdc_unit {
	bool present;
	struct blk *blk;
	const struct fdc_geometry *geometry; /* of the disk; NULL when empty */
	uint8_t type;			     /* of the drive */
	uint8_t track;			     /* where the head is */
	bool changed;			     /* the line that a step clears */
};

enum fdc_phase { FDC_COMMAND, FDC_EXECUTE, FDC_RESULT };

/* How the data of a command moves while the processor waits. */
enum fdc_data { FDC_NO_DATA, FDC_TO_HOST, FDC_FROM_HOST };

struct fdc {
	struct device device;
	struct region *registers, *direction;
	struct irq irq;
	struct dma8237 *dma;
	unsigned channel;
	struct fdc_unit unit[FDC_DRIVES];

	uint8_t dor, tdr, rate;
	bool line;
	uint8_t specify[2], configure, precompensation, perpendicular;
	bool locked;

	uint8_t phase; /* enum fdc_phase */
	uint8_t fifo[16]; /* the command with its parameters, or the result */
	uint8_t len, pos;
	uint8_t resets;	      /* drives whose reset interrupt has yet to be sensed */
	uint8_t seek_ends;    /* drives (bits) whose seek end has yet to be sensed */
	uint8_t seek_st0[FDC_DRIVES * 2];

	/* The data command: its parameters, where it is, the sector. */
	uint8_t command[9];
	uint8_t c, h, r, n, eot;
	uint8_t data; /* enum fdc_data */
	bool ended;   /* TC has come */
	uint8_t buf[FDC_SECTOR];
	uint16_t at, size; /* bytes moved, and of a sector */
	uint8_t st2;	   /* so far */
	bool in_flight;
	bool dropped; /* a reset came in between */
};

static inline struct fdc_unit *fdc_unit(struct fdc *f, unsigned n)
{
	return n < FDC_DRIVES && f->unit[n].present ? &f->unit[n] : NULL;
}
static inline bool fdc_uses_dma(const struct fdc *f) { return !(f->specify[1] & 1); }

/* fdc.c */
void fdc_set_irq(struct fdc *f, bool level);
/* Ends a command with `len` bytes of result in fifo. */
void fdc_result(struct fdc *f, uint8_t len, bool interrupt);

/* fdc_data.c */
void fdc_data_start(struct fdc *f);
/* Moves what the DMA channel takes now. */
void fdc_data_move(struct fdc *f);
/* The data register while data moves without DMA. */
uint8_t fdc_data_read(struct fdc *f);
void fdc_data_write(struct fdc *f, uint8_t v);
void fdc_read_id(struct fdc *f);
/* After loading: whether data can move as the state says. */
bool fdc_data_valid(struct fdc *f);

#endif
