/* What tests do with a device's state: save it, load it, damaged or not, and see that it is the same when saved again. */
#ifndef TESTS_DEVICE_STATE_H
#define TESTS_DEVICE_STATE_H

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/device.h"

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

/* Loads what may be no state at all; refused, `why` (or NULL) gets the reason. */
static inline int device_restore_bytes(struct device *d, const void *data, size_t len, char **why)
{
	struct state *s = state_load_new(data, len);
	int r = device_load(d, s);

	if (r && why)
		*why = g_strdup(state_message(s));
	state_free(s);
	return r;
}

/* The same for what should be one. */
static inline int device_restore(struct device *d, const GByteArray *bytes)
{
	g_autofree char *why = NULL;
	int r = device_restore_bytes(d, bytes->data, bytes->len, &why);

	if (why && g_test_initialized())
		g_test_message("%s", why);
	return r;
}

/* Loads the bytes with those bits of byte `at` changed: from memory of just their size, for the sanitizer. */
static inline int device_restore_bent(struct device *d, const GByteArray *bytes, size_t at, uint8_t bits)
{
	g_autofree uint8_t *bent = g_memdup2(bytes->data, bytes->len);

	bent[at] ^= bits;
	return device_restore_bytes(d, bent, bytes->len, NULL);
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

/* Checks that the device, saved again, has the state `saved`. */
static inline void device_check_saved(struct device *d, const GByteArray *saved)
{
	g_autoptr(GByteArray) again = device_save(d);
	g_autofree char *difference = device_difference(saved, again);

	g_assert_cmpstr(difference, ==, NULL);
	g_assert_cmpuint(saved->len, ==, again->len);
}

/* Loads what was saved and checks that it is the same when saved again. Frees `saved`. */
static inline void device_check_restore(struct device *d, GByteArray *saved)
{
	g_assert_cmpint(device_restore(d, saved), ==, 0);
	device_check_saved(d, saved);
	g_byte_array_unref(saved);
}

#endif
