/* Realtek RTL8139C+ fast Ethernet: see rtl8139.c. */
#ifndef DEV_RTL8139_H
#define DEV_RTL8139_H

#include "bus/pci.h"
#include "host/clock.h"
#include "net/netdev.h"

struct rtl8139;

/* Plugs itself into nd, which must outlive it. `mac` is copied; `id` is not and names the instance.
 * NULL when devfn is taken. */
struct rtl8139 *rtl8139_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd, const uint8_t mac[6],
			       const char *id);
/* For the boot ROM, and for the list of devices. */
struct pci_dev *rtl8139_pci(struct rtl8139 *r);

#endif
