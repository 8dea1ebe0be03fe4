/* What device tests share: a bench with spaces, a manual clock and lines that count, and the state round trip. */
#ifndef TESTS_DEVICE_HARNESS_H
#define TESTS_DEVICE_HARNESS_H

#include <glib.h>

#include "bus/device.h"
#include "bus/irq.h"
#include "bus/space.h"
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

/* The device's state as bytes. */
static inline GByteArray *device_save(struct device *d)
{
	struct state *s = state_save_new();
	GByteArray *bytes = g_byte_array_new();
	const void *data;
	size_t len;

	g_assert_cmpint(d->ops->state(d, s), ==, 0);
	data = state_data(s, &len);
	g_byte_array_append(bytes, data, (guint)len);
	state_free(s);
	return bytes;
}

static inline int device_load(struct device *d, const GByteArray *bytes)
{
	struct state *s = state_load_new(bytes->data, bytes->len);
	int r = d->ops->state(d, s);

	state_free(s);
	return r;
}

/* Loads what was saved and checks that it is the same when saved again. Frees `saved`. */
static inline void device_check_restore(struct device *d, GByteArray *saved)
{
	GByteArray *again;

	g_assert_cmpint(device_load(d, saved), ==, 0);
	again = device_save(d);
	g_assert_cmpmem(saved->data, saved->len, again->data, again->len);
	g_byte_array_unref(saved);
	g_byte_array_unref(again);
}

#endif
