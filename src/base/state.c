/* State codec: a flat list of (name length, name, data length, data) records. */
#include "base/state.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

struct state {
	GByteArray *out; /* NULL when loading */
	const uint8_t *in;
	size_t in_len, in_pos;
	char *message;
};

struct state *state_save_new(void)
{
	struct state *s = g_new0(struct state, 1);

	s->out = g_byte_array_new();
	return s;
}

struct state *state_load_new(const void *data, size_t len)
{
	struct state *s = g_new0(struct state, 1);

	s->in = data;
	s->in_len = len;
	return s;
}

void state_free(struct state *s)
{
	if (!s)
		return;
	if (s->out)
		g_byte_array_unref(s->out);
	g_free(s->message);
	g_free(s);
}

bool state_loading(const struct state *s)
{
	return !s->out;
}

int state_error(const struct state *s)
{
	return s->message ? -EINVAL : 0;
}

const char *state_message(const struct state *s)
{
	return s->message;
}

void state_fail(struct state *s, const char *fmt, ...)
{
	va_list ap;

	if (s->message)
		return;
	va_start(ap, fmt);
	s->message = g_strdup_vprintf(fmt, ap);
	va_end(ap);
}

const void *state_data(const struct state *s, size_t *len)
{
	*len = s->out ? s->out->len : s->in_len;
	return s->out ? s->out->data : s->in;
}

static void save_record(struct state *s, const char *name, const void *p, size_t len)
{
	size_t name_len = strlen(name);
	uint8_t head[1] = { (uint8_t)name_len };
	uint8_t size[4];

	st32le(size, (uint32_t)len);
	g_byte_array_append(s->out, head, 1);
	g_byte_array_append(s->out, (const uint8_t *)name, (guint)name_len);
	g_byte_array_append(s->out, size, 4);
	g_byte_array_append(s->out, p, (guint)len);
}

static void load_record(struct state *s, const char *name, void *p, size_t len)
{
	size_t left = s->in_len - s->in_pos;
	const uint8_t *at = s->in + s->in_pos;
	size_t name_len = strlen(name);

	if (left < 1 + name_len + 4 || at[0] != name_len || memcmp(at + 1, name, name_len)) {
		state_fail(s, "field %s is missing", name);
		return;
	}
	if (ld32le(at + 1 + name_len) != len || left - 5 - name_len < len) {
		state_fail(s, "field %s has a wrong length", name);
		return;
	}
	memcpy(p, at + 5 + name_len, len);
	s->in_pos += 5 + name_len + len;
}

void state_bytes(struct state *s, const char *name, void *p, size_t len)
{
	if (s->message)
		return;
	if (s->out)
		save_record(s, name, p, len);
	else
		load_record(s, name, p, len);
}

void state_u8(struct state *s, const char *name, uint8_t *v) { state_bytes(s, name, v, 1); }
void state_u16(struct state *s, const char *name, uint16_t *v) { state_bytes(s, name, v, 2); }
void state_u32(struct state *s, const char *name, uint32_t *v) { state_bytes(s, name, v, 4); }
void state_u64(struct state *s, const char *name, uint64_t *v) { state_bytes(s, name, v, 8); }
void state_i64(struct state *s, const char *name, int64_t *v) { state_bytes(s, name, v, 8); }

void state_bool(struct state *s, const char *name, bool *v)
{
	uint8_t byte = *v;

	state_bytes(s, name, &byte, 1);
	if (s->message)
		return;
	if (byte > 1)
		state_fail(s, "field %s is not a truth value", name);
	else
		*v = byte;
}
