/*
 * The device contract. A chip embeds `struct device` first; its constructor takes what the
 * chip needs (region base or PCI slot, IRQ line, clock, back end) and returns the chip.
 * The board keeps the list of devices; reset, state and destroy run over that list in order.
 */
#ifndef BUS_DEVICE_H
#define BUS_DEVICE_H

#include <stdint.h>

#include "base/state.h"

struct device;

struct device_ops {
	const char *name; /* unique kind, e.g. "uart16550" */
	uint32_t version; /* of the state */
	void (*reset)(struct device *d);
	/* Lists the fields for save and load; returns state_error(). Validates when loading: device_load
	 * calls reset after a refusal, so a refusing device may be left with any values that reset puts right. */
	int (*state)(struct device *d, struct state *s);
	void (*destroy)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	const char *id;        /* instance, e.g. "com1" */
	uint64_t guest_errors; /* counted by the device for nonsense it was told */
};

/* Loads the device's state; refused, the device is reset and -EINVAL returned. */
int device_load(struct device *d, struct state *s);

/* Counts and traces a guest mistake. */
void device_guest_error(struct device *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
