/* The Multiboot Specification, version 0.6.96 (multiboot 1). */
#ifndef FW_MULTIBOOT_H
#define FW_MULTIBOOT_H

#include "fw/elf.h"

/* Whether data holds a valid multiboot header in its first 8 KiB. */
bool multiboot_check(const uint8_t *data, size_t len);
/* Loads the image (by its ELF headers or the header's own addresses), b->initrd as a module ("FILE[,…]" is
 * not split), memory map, command line and loader name, and fills the state at its entry. */
bool multiboot_load(struct mem *mem, const struct linux_boot *b, const uint8_t *data, size_t len, struct cpu_state *out,
		    GError **error);

#endif
