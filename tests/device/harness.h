/* What device tests share: a bench with spaces, a manual clock and lines that count, and the state round trip. */
#ifndef TESTS_DEVICE_HARNESS_H
#define TESTS_DEVICE_HARNESS_H

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
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

static inline int device_restore(struct device *d, const GByteArray *bytes)
{
	struct state *s = state_load_new(bytes->data, bytes->len);
	int r = device_load(d, s);

	if (r && g_test_initialized())
		g_test_message("%s", state_message(s));
	state_free(s);
	return r;
}

/* The name of the first record that differs, for the message. */
static inline char *device_difference(const GByteArray *a, const GByteArray *b)
{
	for (guint at = 0; at < a->len;) {
		guint name = a->data[at], len = ld32le(a->data + at + 1 + name), size = 5 + name + len;

		if (at + size > b->len || memcmp(a->data + at, b->data + at, size))
			return g_strndup((const char *)a->data + at + 1, name);
		at += size;
	}
	return NULL;
}

/* Loads what was saved and checks that it is the same when saved again. Frees `saved`. */
static inline void device_check_restore(struct device *d, GByteArray *saved)
{
	GByteArray *again;
	char *difference;

	g_assert_cmpint(device_restore(d, saved), ==, 0);
	again = device_save(d);
	difference = device_difference(saved, again);
	g_assert_cmpstr(difference, ==, NULL);
	g_assert_cmpuint(saved->len, ==, again->len);
	g_free(difference);
	g_byte_array_unref(saved);
	g_byte_array_unref(again);
}

#endif
