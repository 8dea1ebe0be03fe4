/* The I/O APIC (82093AA): 24 pins to messages for the local APICs. */
#ifndef DEV_IOAPIC_H
#define DEV_IOAPIC_H

#include "bus/device.h"
#include "bus/pci.h"
#include "bus/space.h"

struct ioapic;

#define IOAPIC_PINS 24

/* Messages leave by `sink` as MSIs do. */
struct ioapic *ioapic_create(struct space *mmio, uint64_t base, const struct msi_sink *sink);
struct device *ioapic_device(struct ioapic *a);
void ioapic_set_irq(struct ioapic *a, int pin, bool level);
/* A processor has ended the level-triggered interrupt with this vector. */
void ioapic_eoi(struct ioapic *a, uint8_t vector);

#endif
