/* The Linux boot protocol, without firmware (Documentation/arch/x86/boot.rst). */
#ifndef FW_LINUX_H
#define FW_LINUX_H

#include "fw/boot.h"

/* Loads a bzImage (protocol 2.02 or later; memtest86+ is one too) with boot_params, e820 map,
 * command line and initrd, and fills the boot processor's state: 64-bit entry where the kernel
 * has one, else 32-bit. Legacy screen_info is left zero. *out is untouched on failure. */
bool linux_load(struct mem *mem, const struct linux_boot *b, struct cpu_state *out, GError **error);

#endif
