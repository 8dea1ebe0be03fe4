/* What device tests share: a bench with spaces, a manual clock and lines that count. */
#ifndef TESTS_DEVICE_HARNESS_H
#define TESTS_DEVICE_HARNESS_H

#include <glib.h>

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
#include "device_state.h"
#include "host/clock.h"

struct line {
	bool level;
	unsigned rises;
};

static inline void line_set(void *opaque, int number, bool level)
{
	struct line *l = (struct line *)opaque + number;

	l->rises += level && !l->level;
	l->level = level;
}

static inline struct irq line_irq(struct line *lines, int number)
{
	return (struct irq){ line_set, lines, number };
}

static inline uint8_t in(struct space *s, uint16_t port) { return (uint8_t)space_read(s, port, 1); }
static inline void out(struct space *s, uint16_t port, uint8_t v) { space_write(s, port, 1, v); }

#endif
