/* Inside of the drives: what the files ata*.c share. */
#ifndef DEV_ATA_INTERNAL_H
#define DEV_ATA_INTERNAL_H

#include "dev/ata.h"

/* Ends the command, with an interrupt. */
void ata_done(struct ata_drive *d);
/* ... without one: after the last PIO data block to the host. */
void ata_done_quietly(struct ata_drive *d);
/* ... with ERR and what the error register says. */
void ata_fail(struct ata_drive *d, uint8_t error);
static inline void ata_abort(struct ata_drive *d) { ata_fail(d, ATA_ERROR_ABRT); }
/* ... with ERR and DF: the medium could not be written. */
void ata_fault(struct ata_drive *d);
/* BSY: the image is asked, or the DMA engine runs. */
void ata_set_busy(struct ata_drive *d);
/* Offers or wants the next `len` bytes of buf, from pos on. */
void ata_block(struct ata_drive *d, uint32_t len, bool in, bool interrupt);
/* buf holds len bytes that answer the command. */
void ata_reply(struct ata_drive *d, uint32_t len);
/* The signature of the drive's kind in the task file. */
void ata_signature(struct ata_drive *d);
/* Requests to the image; ata_io_done comes after. Sectors of 512 bytes, to or from buf. */
void ata_io_read(struct ata_drive *d, uint64_t sector, uint32_t offset, uint32_t bytes);
void ata_io_write(struct ata_drive *d, uint64_t sector, uint32_t bytes);
void ata_io_flush(struct ata_drive *d);
void ata_io_discard(struct ata_drive *d, uint64_t sector, uint64_t count);
/* Asks the adapter for its DMA engine; ata_dma_start comes after. */
void ata_dma_wait(struct ata_drive *d);

/* Opens or closes the tray. */
void ata_move_tray(struct ata_drive *d, bool open);

/* ata_identify.c */
void ata_identify(struct ata_drive *d);
void ata_identify_packet(struct ata_drive *d);
/* Cylinders for the default translation of 16 heads and 63 sectors. */
uint32_t ata_cylinders(const struct ata_drive *d, unsigned heads, unsigned spt);

/* ata_log.c: READ LOG EXT */
void ata_read_log(struct ata_drive *d);

/* ata_smart.c */
void ata_smart(struct ata_drive *d);

/* ata_disk.c */
void ata_disk_command(struct ata_drive *d);
void ata_disk_io_done(struct ata_drive *d, int result);
void ata_disk_block_done(struct ata_drive *d);
void ata_disk_dma(struct ata_drive *d);

/* atapi.c */
void atapi_command(struct ata_drive *d);
void atapi_packet(struct ata_drive *d);
void atapi_io_done(struct ata_drive *d, int result);
void atapi_block_done(struct ata_drive *d);
void atapi_dma(struct ata_drive *d);
void atapi_ok(struct ata_drive *d);
void atapi_error(struct ata_drive *d, uint8_t key, uint8_t asc, uint8_t ascq);
/* Bad field in the packet. */
void atapi_bad_field(struct ata_drive *d);
/* Answers with the first len bytes of buf, or fewer where the host's allocation length says so. */
void atapi_reply(struct ata_drive *d, uint32_t len, uint32_t allocation);
bool atapi_medium_present(const struct ata_drive *d);
/* Sectors of 2048 bytes. */
uint32_t atapi_sectors(const struct ata_drive *d);

/* atapi_mmc.c: commands that answer from tables. False when the command is none of them. */
bool atapi_mmc(struct ata_drive *d);
/* Mode parameters from the host are in buf[0, len). */
void atapi_mode_parameters(struct ata_drive *d);

#endif
