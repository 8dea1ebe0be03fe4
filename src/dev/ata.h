/*
 * An ATA disk or ATAPI CD-ROM drive behind its cable: the task file, the commands and their data, without
 * the host adapter (IDE channel, AHCI port) that carries them. ATA/ATAPI-6 (T13 1410D), ACS-2, MMC-4.
 *
 * The adapter fills the task file and calls ata_command. The drive answers through struct ata_link: a
 * PIO data block is ready or wanted, a DMA command has its turn, the command is over. Only one
 * command runs at a time; the adapter looks at tf.status for BSY and DRQ.
 */
#ifndef DEV_ATA_H
#define DEV_ATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/state.h"
#include "block/blk.h"

#define ATA_SECTOR 512u
#define ATA_BUFFER (256u << 10) /* what one request to the image moves at most */
#define ATA_PACKET 12u

enum ata_status {
	ATA_ERR = 0x01,
	ATA_DRQ = 0x08,
	ATA_DSC = 0x10,
	ATA_DF = 0x20,
	ATA_DRDY = 0x40,
	ATA_BSY = 0x80,
};

enum ata_error {
	ATA_ERROR_ABRT = 0x04,
	ATA_ERROR_IDNF = 0x10,
	ATA_ERROR_UNC = 0x40,
	ATA_ERROR_WP = 0x40, /* of a write */
};

#define ATA_DEVICE_DEV 0x10
#define ATA_DEVICE_LBA 0x40

enum ata_kind { ATA_NO_DRIVE, ATA_DISK, ATA_CDROM };

struct ata_drive;

struct ata_link_ops {
	/* buf[pos, block_end) goes to the host, or is wanted from it (block_in false). DRQ is set; `intrq`
	 * says whether an interrupt announces it. The adapter ends the block with ata_block_done. */
	void (*block_ready)(void *opaque, struct ata_drive *d);
	/* A DMA command waits: the adapter calls ata_dma_start when its engine runs. */
	void (*dma_ready)(void *opaque, struct ata_drive *d);
	/* Moves the next len bytes of the command between p and guest memory. Returns what it moved. */
	size_t (*dma_copy)(void *opaque, struct ata_drive *d, void *p, size_t len, bool to_guest);
	/* The status is final, of a command or of a reset; `intrq` says whether an interrupt announces it. */
	void (*command_done)(void *opaque, struct ata_drive *d);
};

/* What the host writes and reads. The second value of each pair is the previous content (LBA48). */
struct ata_taskfile {
	uint8_t feature, feature_prev;
	uint8_t count, count_prev;
	uint8_t lba[3], lba_prev[3]; /* low, mid, high */
	uint8_t device;
	uint8_t command, status, error;
};

/* What goes on when the data block has moved or the image has answered. */
enum ata_step {
	ATA_IDLE,
	ATA_REPLY,     /* a block for the host, and then the command is over */
	ATA_READ,      /* sectors */
	ATA_WRITE,
	ATA_VERIFY,
	ATA_FLUSH,
	ATA_TRIM,      /* ranges from the host */
	ATAPI_PACKET,  /* a command packet from the host */
	ATAPI_REPLY,
	ATAPI_READ,
	ATAPI_PARAMETERS, /* mode parameters from the host */
	ATA_STEPS
};

struct atapi_sense {
	uint8_t key, asc, ascq;
};

/* Why a queued command failed, for the log page that the host reads then. */
struct ata_queue_error {
	bool valid;
	uint8_t tag, status, error;
	uint64_t sector;
	uint16_t count;
};

struct ata_drive {
	enum ata_kind kind;
	bool serial_ata; /* what IDENTIFY says about the cable */
	const struct ata_link_ops *link;
	void *link_opaque;
	struct blk *blk;
	uint64_t sectors; /* of 512 bytes */
	char serial[21];
	bool reset_held;   /* SRST is set */
	bool reset_wanted; /* comes when the image has answered */
	bool in_flight;    /* a request is with the image */
	bool medium_lost;  /* ... whose medium has been taken out */

	struct ata_taskfile tf;
	bool intrq;
	uint8_t step; /* enum ata_step */

	/* The data of the command. */
	uint8_t *buf;
	uint32_t len;       /* bytes of buf in use */
	uint32_t pos;       /* the next byte for or from the host */
	uint32_t block_end; /* where this DRQ block ends */
	bool block_in;      /* to the host */
	bool dma;
	bool dma_waiting;
	bool lba48;
	bool fua; /* a write reaches the medium before the command ends */
	uint64_t sector;    /* the next one on the medium (2048 bytes each on CD-ROM) */
	uint32_t left;      /* sectors after those in buf */
	uint32_t block;     /* bytes of a DRQ block at most */
	bool single;        /* an error came: sector by sector, to tell which */

	/* Settings. */
	uint8_t heads, spt; /* as the host has them */
	uint8_t multiple;
	uint8_t transfer_mode; /* as in SET FEATURES 03h */
	bool write_cache, read_ahead, standby, smart, smart_autosave;
	struct ata_queue_error queue_error;

	/* ATAPI. */
	uint8_t packet[ATA_PACKET];
	struct atapi_sense sense;
	bool medium_changed; /* unit attention to report */
	bool tray_open, tray_locked;
	void (*tray_moved)(void *opaque, bool open); /* or NULL */
	void *tray_opaque;
	uint8_t event; /* media event to report: 1 eject request, 2 new medium, 3 medium removed */
	uint8_t raw; /* READ CD: which parts of a frame, as in byte 9 of the packet */
	uint32_t frame; /* bytes of a sector as the host gets it */
	uint8_t retries; /* error recovery page */
};

/* `serial` and the kind of cable show in IDENTIFY. A kind of ATA_NO_DRIVE makes a place where nothing answers. */
void ata_init(struct ata_drive *d, enum ata_kind kind, struct blk *blk, const char *serial, bool serial_ata,
	      const struct ata_link_ops *link, void *opaque);
/* Hears of a CD-ROM drive's tray. NULL: nobody. */
void ata_set_tray_listener(struct ata_drive *d, void (*moved)(void *opaque, bool open), void *opaque);
/* Nothing may be in flight: images are closed first. */
void ata_finish(struct ata_drive *d);
/* Power-on. */
void ata_power_on(struct ata_drive *d);
/* The SRST bit: the command is dropped, settings stay. Ready again once SRST is clear and what was in
 * flight has come back. */
void ata_soft_reset(struct ata_drive *d, bool asserted);
/* Saving waits until nothing is in flight. */
int ata_state(struct ata_drive *d, struct state *s);

/* tf.command has been written. */
void ata_command(struct ata_drive *d);
/* EXECUTE DEVICE DIAGNOSTIC speaks to both devices: the code and the signature. */
void ata_diagnose(struct ata_drive *d);
/* The host has moved the block: pos is at block_end. */
void ata_block_done(struct ata_drive *d);
/* The adapter's DMA engine runs. */
void ata_dma_start(struct ata_drive *d);

/* The disk's image has another size. */
void ata_resized(struct ata_drive *d);
int ata_change_media(struct ata_drive *d, struct blk *blk, bool force);

#endif
