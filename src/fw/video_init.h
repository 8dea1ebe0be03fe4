/* A way into a directly booted kernel that leaves the screen in the text mode a BIOS would have set. */
#ifndef FW_VIDEO_INIT_H
#define FW_VIDEO_INIT_H

#include <glib.h>

#include "mem/mem.h"
#include "x86/cpu_state.h"

/*
 * Turns the protected-mode entry in *s (boot_cpu_32) into a real-mode one that first runs the video BIOS:
 * its initialisation at c000:0003, with `pci_address` (bus << 8 | devfn) in AX (PCI Firmware Specification
 * 3.0, 5.2.1.20), and INT 10h for mode 3. RAM must be mapped from 0xc0000 on; the image is copied there.
 */
bool video_init_boot(struct mem *mem, const void *rom, size_t len, uint16_t pci_address, struct cpu_state *s, GError **error);

#endif
