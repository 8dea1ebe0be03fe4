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
/* Calls fn with each pin's message now and whenever it changes, for engines that report ends of interrupts. */
void ioapic_set_route_listener(struct ioapic *a, void (*fn)(void *opaque, unsigned pin, uint64_t address, uint32_t data),
			       void *opaque);
struct device *ioapic_device(struct ioapic *a);
void ioapic_set_irq(struct ioapic *a, int pin, bool level);
/* A processor has ended the level-triggered interrupt with this vector. */
void ioapic_eoi(struct ioapic *a, uint8_t vector);

#endif
