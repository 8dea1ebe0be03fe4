/*
 * The state codec: one function per device lists its fields once, and the same list saves,
 * loads and checks. Fields are framed with their name and length; incoming data is hostile.
 *
 *	static int uart_state(void *opaque, struct state *s)
 *	{
 *		struct uart *u = opaque;
 *		state_u8(s, "ier", &u->ier);
 *		if (state_loading(s) && u->ier > 0x0f)
 *			state_fail(s, "ier out of range");
 *		return state_error(s);
 *	}
 */
#ifndef BASE_STATE_H
#define BASE_STATE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct state;

struct state *state_save_new(void);
/* The bytes stay the caller's and must outlive the state. */
struct state *state_load_new(const void *data, size_t len);
void state_free(struct state *s);

bool state_loading(const struct state *s);
/* 0, or -EINVAL after the first bad, missing or refused field. */
int state_error(const struct state *s);
const char *state_message(const struct state *s);
void state_fail(struct state *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What has been saved so far; owned by the state. */
const void *state_data(const struct state *s, size_t *len);

/* Each writes *v when saving, fills it when loading; untouched once an error has occurred. */
void state_u8(struct state *s, const char *name, uint8_t *v);
void state_u16(struct state *s, const char *name, uint16_t *v);
void state_u32(struct state *s, const char *name, uint32_t *v);
void state_u64(struct state *s, const char *name, uint64_t *v);
void state_i64(struct state *s, const char *name, int64_t *v);
void state_bool(struct state *s, const char *name, bool *v);
void state_bytes(struct state *s, const char *name, void *p, size_t len);

#endif
