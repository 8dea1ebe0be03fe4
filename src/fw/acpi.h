/* The ACPI tables of the i440FX/PIIX4 board, for firmware (by fw_cfg and its table loader) and for
 * kernels started without any. */
#ifndef FW_ACPI_H
#define FW_ACPI_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/mem.h"

struct acpi_config {
	unsigned cpus;      /* APIC ids 0 to cpus - 1 */
	uint64_t low_size;  /* RAM below 4 GiB */
	uint32_t hole;      /* the PCI hole starts here, or where RAM ends */
	uint16_t pm_base;   /* ports of the power management registers */
	uint64_t high_size; /* RAM from 4 GiB up */
	bool hpet;          /* one at 0xfed00000 */
	unsigned serial;    /* bit per COM port present */
	bool floppy;
};

/* Three blobs, each the contents of a fw_cfg file. Addresses inside are offsets into tables, to
 * be made real by the loader's commands. */
struct acpi_tables {
	GByteArray *tables; /* etc/acpi/tables */
	GByteArray *rsdp;   /* etc/acpi/rsdp */
	GByteArray *loader; /* etc/table-loader */
};

void acpi_build(struct acpi_tables *t, const struct acpi_config *c);
void acpi_finish(struct acpi_tables *t);

/* Without firmware: runs the loader's commands with the tables at gpa (4 KiB aligned) and writes
 * them there, the root pointer after them and, where RAM allows it, a copy at 0xe0000, where old
 * kernels search. `room` is what may be used at gpa. */
bool acpi_install(const struct acpi_tables *t, struct mem *mem, uint64_t gpa, uint64_t room, uint64_t *rsdp,
		  GError **error);

/* The linker protocol, for other blobs of the kind (128-byte commands). */
void linker_allocate(GByteArray *loader, const char *file, uint32_t align, bool fseg);
void linker_pointer(GByteArray *loader, const char *dest, const char *src, uint32_t offset, uint8_t size);
void linker_checksum(GByteArray *loader, const char *file, uint32_t result, uint32_t start, uint32_t len);

#define ACPI_FILE_TABLES "etc/acpi/tables"
#define ACPI_FILE_RSDP "etc/acpi/rsdp"
#define ACPI_FILE_LOADER "etc/table-loader"

/* In dsdt.c: appends the definition block's body. */
void dsdt_build(GByteArray *a, const struct acpi_config *c);

#endif
