/* The 16550A UART of a PC serial port (National PC16550D datasheet). */
#ifndef DEV_UART_H
#define DEV_UART_H

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "host/chardev.h"
#include "host/clock.h"

struct uart;

/* Eight ports at base; the line is driven while MCR's OUT2 lets it, as on a PC. `cd` may be NULL: nothing
 * is plugged in, and the modem lines are down. It must outlive the UART. `id` is not copied. */
struct uart *uart_create(struct space *ports, uint16_t base, struct irq irq, struct clock *clock, struct chardev *cd,
			 const char *id);
struct device *uart_device(struct uart *u);

#endif
