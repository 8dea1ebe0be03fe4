/* A port that ends the machine with a status of the guest's choice (QEMU's isa-debug-exit). */
#ifndef DEV_DEBUG_EXIT_H
#define DEV_DEBUG_EXIT_H

#include "bus/device.h"
#include "bus/space.h"

struct debug_exit;

/* Four ports at base; `exit_cb` gets the value as written, of any width. */
struct debug_exit *debug_exit_create(struct space *ports, uint16_t base, void (*exit_cb)(void *opaque, uint32_t value),
				     void *opaque);
struct device *debug_exit_device(struct debug_exit *x);

#endif
