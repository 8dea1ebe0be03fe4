/* System control port A: fast reset and the fast A20 gate (IBM PS/2; 82371AB 4.2.5). */
#ifndef DEV_PORT92_H
#define DEV_PORT92_H

#include "bus/device.h"
#include "bus/space.h"

struct port92;

struct port92 *port92_create(struct space *ports, void (*reset_cb)(void *opaque),
			     void (*a20_cb)(void *opaque, bool enabled), void *opaque);
struct device *port92_device(struct port92 *p);

#endif
