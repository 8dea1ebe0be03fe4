/* The PVH boot protocol: 32-bit entry with an hvm_start_info (Xen docs/misc/pvh). */
#ifndef FW_PVH_H
#define FW_PVH_H

#include "fw/elf.h"

/* Starts a loaded ELF image at its PVH entry. *out is untouched on failure. */
bool pvh_start(struct mem *mem, const struct linux_boot *b, const struct elf_image *image, struct cpu_state *out,
	       GError **error);

#endif
