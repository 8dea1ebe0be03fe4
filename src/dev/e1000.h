/* Intel 82540EM gigabit Ethernet: see e1000.c. */
#ifndef DEV_E1000_H
#define DEV_E1000_H

#include "bus/pci.h"
#include "host/clock.h"
#include "net/netdev.h"

struct e1000;

/* Plugs itself into nd, which must outlive it. `mac` is copied; `id` is not and names the instance.
 * NULL when devfn is taken. */
struct e1000 *e1000_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd, const uint8_t mac[6],
			   const char *id);
/* For the boot ROM, and for the list of devices. */
struct pci_dev *e1000_pci(struct e1000 *e);

#endif
