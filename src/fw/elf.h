/* Loading ELF images into guest memory: PVH and multiboot kernels. */
#ifndef FW_ELF_H
#define FW_ELF_H

#include "fw/boot.h"

struct elf_image {
	bool is64;
	uint64_t entry;
	uint64_t low, high;  /* physical range of what was loaded, zero-filled parts included */
	bool has_pvh;
	uint32_t pvh_entry;  /* XEN_ELFNOTE_PHYS32_ENTRY */
};

/* Whether data looks like an x86 ELF executable. */
bool elf_check(const uint8_t *data, size_t len);
/* Copies every PT_LOAD segment to its physical address and finds the PVH note. Every offset comes
 * from a file that may be hostile: all are checked. `path` is for messages. */
bool elf_load(struct mem *mem, const uint8_t *data, size_t len, const char *path, struct elf_image *out, GError **error);

/* Zeroes guest memory. */
bool elf_zero_fill(struct mem *mem, uint64_t gpa, uint64_t len, GError **error);

#endif
