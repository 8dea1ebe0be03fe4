/* The USB 1.1 host controller of the PIIX3 (8086:7020): two ports, UHCI. */
#ifndef DEV_UHCI_H
#define DEV_UHCI_H

#include "bus/device.h"
#include "bus/pci.h"
#include "dev/usb.h"
#include "host/clock.h"

#define UHCI_PORTS 2

struct uhci;

/* NULL when devfn is taken. */
struct uhci *uhci_create(struct pci_bus *bus, unsigned devfn, struct clock *clock);
struct device *uhci_device(struct uhci *u);
/* Plugs a full-speed device in, or out with NULL. It must outlive the controller or be unplugged. */
void uhci_plug(struct uhci *u, unsigned port, struct usb_device *device);

#endif
