/* What the direct loaders (Linux, PVH, multiboot) share: the memory map a BIOS would report, files
 * read whole, and the processor's state at a protected-mode entry point. */
#ifndef FW_BOOT_H
#define FW_BOOT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/mem.h"
#include "x86/cpu_state.h"

#define BOOT_EBDA 0x9fc00u
#define BOOT_HIGH_BASE UINT64_C(0x100000000)
/* Kept below low_size for the ACPI tables of a direct boot. */
#define BOOT_ACPI_SIZE 0x20000u

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820_entry {
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

#define E820_MAX 8

/* What to start directly. low_size is RAM below the PCI hole, high_size RAM from 4 GiB up. */
struct linux_boot {
	const char *kernel, *initrd, *cmdline; /* paths; initrd and cmdline may be NULL */
	uint64_t low_size, high_size;
	uint64_t rsdp; /* gpa of the ACPI root pointer (acpi_install), 0: none */
};

/* The map of a direct boot, ascending; returns the count. acpi: BOOT_ACPI_SIZE is kept. */
unsigned e820_build(struct e820_entry out[E820_MAX], uint64_t low_size, uint64_t high_size, bool acpi);
/* The file etc/e820: RAM only, as firmware expects it. */
unsigned e820_firmware(struct e820_entry out[E820_MAX], uint64_t low_size, uint64_t high_size);

/* Puts `path` as high as possible below `limit`, page-aligned and not below `floor`. */
bool boot_place_high(struct mem *mem, const char *path, uint64_t floor, uint64_t limit, uint64_t *gpa,
		     uint64_t *size, GError **error);
bool boot_write(struct mem *mem, uint64_t gpa, const void *data, size_t len, const char *what, GError **error);
bool boot_read_file(const char *path, uint8_t **data, size_t *len, GError **error);

/* Flat 32-bit protected mode, paging off; GDT with CS 0x10, DS 0x18 written at low memory. */
bool boot_cpu_32(struct mem *mem, struct cpu_state *out, uint32_t entry, GError **error);

#endif
