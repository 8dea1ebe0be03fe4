/* The port by which a guest says that it has panicked (QEMU docs/specs/pvpanic; ACPI id QEMU0001). */
#ifndef DEV_PVPANIC_H
#define DEV_PVPANIC_H

#include "bus/device.h"
#include "bus/space.h"

struct pvpanic;

enum pvpanic_event {
	PVPANIC_PANICKED = 1 << 0,     /* and leaves it to us */
	PVPANIC_CRASH_LOADED = 1 << 1, /* and saves its memory itself: let it run on */
};

#define PVPANIC_PORT 0x505

struct pvpanic *pvpanic_create(struct space *ports, void (*panicked)(void *opaque, enum pvpanic_event event), void *opaque);
struct device *pvpanic_device(struct pvpanic *p);

#endif
