/* The high precision event timer: see hpet.c. */
#ifndef DEV_HPET_H
#define DEV_HPET_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "host/clock.h"

struct hpet;

/* `lines` are GSI 0..23. */
struct hpet *hpet_create(struct space *mmio, uint64_t base, struct clock *clock, const struct irq lines[24]);
struct device *hpet_device(struct hpet *h);
/* The inputs for the 8254 (line 0) and the RTC (line 8): passed on, but for as long as legacy
 * replacement gives these lines to comparators 0 and 1. */
struct irq hpet_legacy_input(struct hpet *h, unsigned line);

#endif
