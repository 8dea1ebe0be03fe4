/* The 8254 interval timer and the system control port 0x61 (Intel 8254 datasheet; 82371AB 4.2.3). */
#ifndef DEV_PIT_H
#define DEV_PIT_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "host/clock.h"

struct pit;

/* Ports 0x40 to 0x43 and 0x61; counter 0's output is irq0. */
struct pit *pit_create(struct space *ports, struct irq irq0, struct clock *clock);
struct device *pit_device(struct pit *p);

#endif
