/*
 * The device that x86 test suites drive as "pc-testdev": a scratch port, interrupt lines by port, a
 * window of MMIO scratch bytes (interface: QEMU hw/misc/pc-testdev).
 */
#ifndef DEV_TESTDEV_H
#define DEV_TESTDEV_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"

struct testdev;

#define TESTDEV_LINES 24

/* Ports 0xe0 to 0xe7 and 0x2000 to 0x2017 (one for each line), memory 0xff000000 to 0xff00ffff. */
struct testdev *testdev_create(struct space *ports, struct space *mmio, const struct irq line[TESTDEV_LINES]);
struct device *testdev_device(struct testdev *t);

#endif
