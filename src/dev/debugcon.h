/* The debug console: firmware and kernels write bytes to a port (Bochs' 0xe9 hack; QEMU's isa-debugcon). */
#ifndef DEV_DEBUGCON_H
#define DEV_DEBUGCON_H

#include "bus/device.h"
#include "bus/space.h"
#include "host/chardev.h"

struct debugcon;

/* `cd` may be NULL: the port is there and its bytes go nowhere. It must outlive the device. */
struct debugcon *debugcon_create(struct space *ports, uint16_t port, struct chardev *cd);
struct device *debugcon_device(struct debugcon *c);

#endif
