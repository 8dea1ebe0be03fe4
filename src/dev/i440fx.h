/* The 440FX host bridge: what firmware needs of it to shadow the BIOS. */
#ifndef DEV_I440FX_H
#define DEV_I440FX_H

#include "bus/pci.h"

struct i440fx;

#define I440FX_PAM 0x59 /* PAM0 in configuration space; PAM1 to PAM6 follow */

/* Segment 0 is 0xf0000-0xfffff; 1 to 12 are the 16 KiB pieces from 0xc0000 to 0xeffff. */
struct i440fx_pam {
	void (*pam)(void *opaque, unsigned segment, bool read_ram, bool write_ram);
	void *opaque;
};

/* Plugs in at devfn 0. NULL when the slot is taken. */
struct i440fx *i440fx_create(struct pci_bus *bus, const struct i440fx_pam *pam);
struct device *i440fx_device(struct i440fx *h);

#endif
