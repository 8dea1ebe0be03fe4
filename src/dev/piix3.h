/* The PIIX3 ISA bridge: routes PCI interrupt lines to ISA interrupts. */
#ifndef DEV_PIIX3_H
#define DEV_PIIX3_H

#include "bus/irq.h"
#include "bus/pci.h"

struct piix3;

/* Two steps, because the bus wants the router's lines and the router is on the bus. */
struct piix3 *piix3_create(const struct irq isa[16]);
/* PIRQ line 0..3 (A..D), for pci_bus_create. */
struct irq piix3_pirq(struct piix3 *p, unsigned line);
/* Plugs in, usually at devfn 0x08. 0, or -EEXIST. */
int piix3_plug(struct piix3 *p, struct pci_bus *bus, unsigned devfn);
struct device *piix3_device(struct piix3 *p);

#endif
