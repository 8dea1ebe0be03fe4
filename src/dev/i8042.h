/* The i8042 keyboard controller with a PS/2 keyboard and a PS/2 mouse plugged in (IBM PS/2 Hardware
 * Interface Technical Reference; Intel 8742 application notes). */
#ifndef DEV_I8042_H
#define DEV_I8042_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "host/clock.h"

struct i8042;

/* Ports 0x60 and 0x64. `reset_cb` for the output port's reset line, `a20_cb` for its A20 line. */
struct i8042 *i8042_create(struct space *ports, struct irq kbd, struct irq aux, struct clock *clock,
			   void (*reset_cb)(void *opaque), void (*a20_cb)(void *opaque, bool enabled), void *opaque);
struct device *i8042_device(struct i8042 *c);
/* A key of display/input.h. */
void i8042_key(struct i8042 *c, int code, bool down);
/* Whether the keyboard scans and the guest has read all that it sent. */
bool i8042_keys_read(const struct i8042 *c);
/* dx to the right, dy downwards, dz the wheel towards the user; buttons of enum input_button. */
void i8042_mouse(struct i8042 *c, int dx, int dy, int dz, unsigned buttons);

#endif
