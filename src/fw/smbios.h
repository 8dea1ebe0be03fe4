/* SMBIOS 2.8 tables (DMTF DSP0134), handed to firmware by fw_cfg. */
#ifndef FW_SMBIOS_H
#define FW_SMBIOS_H

#include <glib.h>
#include <stdint.h>

#define SMBIOS_FILE_ANCHOR "etc/smbios/smbios-anchor"
#define SMBIOS_FILE_TABLES "etc/smbios/smbios-tables"

struct smbios_config {
	unsigned cpus;
	uint64_t low_size, high_size;
	const uint8_t *uuid; /* 16 bytes, NULL: zero (unset) */
};

/* Firmware places the tables, and fills in the anchor's address and checksums. */
void smbios_build(GByteArray *anchor, GByteArray *tables, const struct smbios_config *c);

#endif
