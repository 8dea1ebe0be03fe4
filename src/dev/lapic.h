/*
 * The local APICs of all processors, xAPIC and x2APIC, and the messages between them
 * (SDM 3A chapter 11). Not an engine's: the software engines' machine asks here.
 */
#ifndef DEV_LAPIC_H
#define DEV_LAPIC_H

#include "bus/device.h"
#include "host/clock.h"
#include "x86/apic_state.h"

struct lapic_bus;

struct lapic_callbacks {
	void (*intr)(void *opaque, unsigned cpu, bool level); /* wants lapic_ack */
	void (*nmi)(void *opaque, unsigned cpu);
	void (*init)(void *opaque, unsigned cpu);
	void (*sipi)(void *opaque, unsigned cpu, uint8_t vector);
	void (*eoi)(void *opaque, uint8_t vector); /* of a level-triggered interrupt */
	int (*extint_ack)(void *opaque);           /* the PIC's vector */
	uint64_t (*tsc_now)(void *opaque, unsigned cpu);
	void *opaque;
};

struct lapic_bus *lapic_bus_create(unsigned cpus, struct clock *clock, uint64_t tsc_hz, const struct lapic_callbacks *cb);

/* APICs that are an engine's own (KVM's): this bus keeps the PIC's wire, passes messages on, and resets, saves and
 * loads them through the common form. get and set: 0 or -errno. Set before the first reset. */
struct lapic_remote {
	void (*send_msi)(void *opaque, uint64_t address, uint32_t data);
	int (*get)(void *opaque, unsigned cpu, struct apic_state *s);
	int (*set)(void *opaque, unsigned cpu, const struct apic_state *s);
	void *opaque;
};
void lapic_bus_set_remote(struct lapic_bus *b, const struct lapic_remote *remote);
struct device *lapic_bus_device(struct lapic_bus *b);
/* A write of an I/O APIC or a PCI device to 0xfeexxxxx. */
void lapic_bus_deliver_msi(struct lapic_bus *b, uint64_t address, uint32_t data);
/* The PIC's output, on LINT0 of processor 0. */
void lapic_set_extint(struct lapic_bus *b, bool level);
/* The vector to deliver now, or -1. */
int lapic_ack(struct lapic_bus *b, unsigned cpu);

/* The register page; offset below 4096. */
uint32_t lapic_mmio_read(struct lapic_bus *b, unsigned cpu, uint32_t offset);
void lapic_mmio_write(struct lapic_bus *b, unsigned cpu, uint32_t offset, uint32_t value);
/* IA32_APIC_BASE, TSC_DEADLINE, x2APIC registers; false: #GP. */
bool lapic_msr_read(struct lapic_bus *b, unsigned cpu, uint32_t msr, uint64_t *value);
bool lapic_msr_write(struct lapic_bus *b, unsigned cpu, uint32_t msr, uint64_t value);
/* tsc_now jumps: the guest has set the processor's TSC. */
void lapic_tsc_changed(struct lapic_bus *b, unsigned cpu);
uint8_t lapic_cr8_read(struct lapic_bus *b, unsigned cpu);
void lapic_cr8_write(struct lapic_bus *b, unsigned cpu, uint8_t cr8);

#endif
