/* Raw CD sectors: sync, header, user data, error detection and correction (ECMA-130 clauses 14 and 15). */
#ifndef DEV_CD_FRAME_H
#define DEV_CD_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define CD_DATA 2048u
#define CD_RAW 2352u

/* Parts of a mode 1 sector, as in byte 9 of READ CD. */
enum cd_part {
	CD_SYNC = 0x80,
	CD_SUBHEADER = 0x40, /* mode 1 has none */
	CD_HEADER = 0x20,
	CD_USER = 0x10,
	CD_CORRECTION = 0x08,
};

/* Parts must be neighbours on the disc. */
bool cd_frame_valid(uint8_t parts);
uint32_t cd_frame_size(uint8_t parts);
/* Writes cd_frame_size(parts) bytes. */
void cd_frame_make(uint8_t *to, const uint8_t data[CD_DATA], uint32_t lba, uint8_t parts);

void cd_lba_to_msf(uint32_t lba, uint8_t msf[3]);
/* UINT32_MAX for none, or for the lead-in. */
uint32_t cd_msf_to_lba(uint8_t m, uint8_t s, uint8_t f);

#endif
