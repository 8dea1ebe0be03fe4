/*
 * Standard VGA with Bochs VBE extensions, as PCI device 1234:1111: the adapter every firmware
 * and operating system since 1990 can drive, with linear modes up to 32 MiB of video memory.
 */
#ifndef DEV_VGA_H
#define DEV_VGA_H

#include <glib.h>

#include "bus/device.h"
#include "bus/pci.h"
#include "bus/space.h"
#include "display/surface.h"
#include "host/clock.h"

struct vga;

/*
 * BAR 0: 32 MiB framebuffer; BAR 2: 4 KiB of EDID (0), VGA ports (0x400) and VBE registers
 * (0x500). Ports 0x3b0-0x3df and 0x1ce-0x1d1, memory 0xa0000-0xbffff. The video BIOS is the
 * caller's to add: pci_rom(vga_pci(v), ...). NULL with *error set when there is no memory or
 * devfn is taken.
 */
struct vga *vga_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct space *mmio,
		       struct clock *clock, GError **error);
/* Good as long as the device. */
const struct display_source *vga_display(struct vga *v);
/* Offers watch and changed of the display: `rewatch` has stores to the memory marked in its dirty bits from now on. */
void vga_set_log(struct vga *v, void (*rewatch)(void *opaque, struct ram *ram), void *opaque);
struct pci_dev *vga_pci(struct vga *v);
struct device *vga_device(struct vga *v);

#endif
