/* The watchdog timer of the Intel 6300ESB I/O controller (8086:25ab), which every Linux knows. */
#ifndef DEV_I6300ESB_H
#define DEV_I6300ESB_H

#include "bus/device.h"
#include "bus/pci.h"
#include "host/clock.h"

struct i6300esb;

/* `expired` is called when the guest let both stages run out. NULL when devfn is taken. */
struct i6300esb *i6300esb_create(struct pci_bus *bus, unsigned devfn, struct clock *clock,
				 void (*expired)(void *opaque), void *opaque);
struct device *i6300esb_device(struct i6300esb *w);

#endif
