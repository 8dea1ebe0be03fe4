/*
 * PS/2 mouse: three bytes a report; four with a wheel (id 3) and with five buttons (id 4), which
 * drivers unlock by setting three sample rates in a row (IBM PS/2 Hardware Interface Technical
 * Reference, mouse; Microsoft "Intellimouse Explorer").
 */
#include "dev/ps2.h"

#include <glib.h>
#include <string.h>

enum command {
	MOUSE_SCALING_1 = 0xe6, MOUSE_SCALING_2 = 0xe7, MOUSE_RESOLUTION = 0xe8, MOUSE_STATUS = 0xe9, MOUSE_STREAM = 0xea,
	MOUSE_READ = 0xeb, MOUSE_UNWRAP = 0xec, MOUSE_WRAP = 0xee, MOUSE_REMOTE = 0xf0, MOUSE_IDENTIFY = 0xf2,
	MOUSE_RATE = 0xf3, MOUSE_ENABLE = 0xf4, MOUSE_DISABLE = 0xf5, MOUSE_DEFAULTS = 0xf6, MOUSE_RESEND = 0xfe,
	MOUSE_RESET = 0xff
};

#define REPLY_ACK 0xfa
#define REPLY_ERROR 0xfc
#define REPLY_RESEND 0xfe
#define REPLY_BAT_OK 0xaa

#define ID_WHEEL 3
#define ID_EXPLORER 4

#define MOVE_MAX 255 /* nine bits with sign; the overflow bits stay clear */
#define PENDING_MAX 4096 /* counts kept while nobody reads: about two screens */

static void set_defaults(struct ps2_mouse *m)
{
	m->rate = 100;
	m->resolution = 2;
	m->scaling = m->reporting = m->remote = false;
	m->dx = m->dy = m->dz = 0;
	m->told_buttons = m->buttons;
	m->queue.count = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
	ps2_queue_clear(&m->queue);
	m->pending = m->id = m->queue.last = 0;
	m->wrap = false;
	memset(m->knock, 0, sizeof(m->knock));
	set_defaults(m);
}

/* ---- reports ---- */

/* 2:1 scaling, in stream mode only. */
static int scaled(const struct ps2_mouse *m, int v)
{
	static const int8_t small[] = { 0, 1, 1, 3, 6, 9 };
	int size = ABS(v);

	if (!m->scaling || m->remote)
		return v;
	size = size < 6 ? small[size] : MIN(2 * size, MOVE_MAX);
	return v < 0 ? -size : size;
}

static unsigned build_report(struct ps2_mouse *m, uint8_t packet[4])
{
	int dx = CLAMP(m->dx, -MOVE_MAX, MOVE_MAX), dy = CLAMP(m->dy, -MOVE_MAX, MOVE_MAX);
	int dz = CLAMP(m->dz, -8, 7), sx = scaled(m, dx), sy = scaled(m, dy);

	m->dx -= dx;
	m->dy -= dy;
	m->dz -= dz;
	m->told_buttons = m->buttons;
	packet[0] = (uint8_t)((m->buttons & 7) | 8 | (sx < 0) << 4 | (sy < 0) << 5);
	packet[1] = (uint8_t)sx;
	packet[2] = (uint8_t)sy;
	if (m->id == ID_WHEEL)
		packet[3] = (uint8_t)dz;
	else
		packet[3] = (uint8_t)((dz & 15) | (m->buttons & 0x18) << 1);
	return m->id ? 4 : 3;
}

bool ps2_mouse_waiting(const struct ps2_mouse *m)
{
	return m->reporting && !m->remote && !m->wrap &&
	       (m->dx || m->dy || (m->dz && m->id) || m->buttons != m->told_buttons);
}

void ps2_mouse_report(struct ps2_mouse *m)
{
	uint8_t packet[4];
	unsigned len;

	if (!ps2_mouse_waiting(m) || ps2_queue_room(&m->queue) < sizeof(packet))
		return;
	len = build_report(m, packet);
	for (unsigned i = 0; i < len; i++)
		ps2_queue_put(&m->queue, packet[i]);
}

static int32_t add_move(int32_t have, int64_t more)
{
	return (int32_t)CLAMP(have + more, -PENDING_MAX, PENDING_MAX);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons)
{
	if (m->reporting || m->remote) {
		/* A click is told with the movement up to it, before the next. */
		m->dx = add_move(m->dx, dx);
		m->dy = add_move(m->dy, -(int64_t)dy);
		m->dz = add_move(m->dz, dz);
	}
	m->buttons = buttons & (m->id == ID_EXPLORER ? 0x1f : 7);
	if (m->buttons != m->told_buttons)
		ps2_mouse_report(m);
}

/* ---- commands ---- */

static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
	m->rate = rate ? rate : 1;
	m->knock[0] = m->knock[1];
	m->knock[1] = m->knock[2];
	m->knock[2] = rate;
	if (m->knock[0] == 200 && m->knock[1] == 100 && m->knock[2] == 80)
		m->id = ID_WHEEL;
	else if (m->knock[0] == 200 && m->knock[1] == 200 && m->knock[2] == 80)
		m->id = ID_EXPLORER;
}

static void write_argument(struct ps2_mouse *m, uint8_t byte)
{
	uint8_t command = m->pending;

	m->pending = 0;
	if (command == MOUSE_RESOLUTION && byte > 3) {
		ps2_queue_reply(&m->queue, REPLY_ERROR);
		return;
	}
	ps2_queue_reply(&m->queue, REPLY_ACK);
	if (command == MOUSE_RATE)
		set_rate(m, byte);
	else
		m->resolution = byte;
}

static void reply_status(struct ps2_mouse *m)
{
	/* Here the buttons come right, middle, left from bit 0. */
	uint8_t buttons = (uint8_t)((m->buttons >> 1 & 1) | (m->buttons >> 2 & 1) << 1 | (m->buttons & 1) << 2);

	ps2_queue_reply(&m->queue, (uint8_t)(buttons | m->scaling << 4 | m->reporting << 5 | m->remote << 6));
	ps2_queue_reply(&m->queue, m->resolution);
	ps2_queue_reply(&m->queue, m->rate);
}

static void reply_report(struct ps2_mouse *m)
{
	uint8_t packet[4];
	unsigned len = build_report(m, packet);

	for (unsigned i = 0; i < len; i++)
		ps2_queue_reply(&m->queue, packet[i]);
}

static void set_mode(struct ps2_mouse *m, bool *mode, bool on)
{
	*mode = on;
	m->dx = m->dy = m->dz = 0;
	m->queue.count = 0;
}

static void write_command(struct ps2_mouse *m, uint8_t byte)
{
	if (byte == MOUSE_RESEND) {
		ps2_queue_reply(&m->queue, m->queue.last);
		return;
	}
	if (byte == MOUSE_RESET)
		ps2_mouse_reset(m);
	ps2_queue_reply(&m->queue, REPLY_ACK);
	switch (byte) {
	case MOUSE_SCALING_1:
	case MOUSE_SCALING_2:
		m->scaling = byte == MOUSE_SCALING_2;
		break;
	case MOUSE_RESOLUTION:
	case MOUSE_RATE:
		m->pending = byte;
		break;
	case MOUSE_STATUS: reply_status(m); break;
	case MOUSE_STREAM: set_mode(m, &m->remote, false); break;
	case MOUSE_REMOTE: set_mode(m, &m->remote, true); break;
	case MOUSE_WRAP: set_mode(m, &m->wrap, true); break;
	case MOUSE_UNWRAP: break;
	case MOUSE_READ: reply_report(m); break;
	case MOUSE_IDENTIFY: ps2_queue_reply(&m->queue, m->id); break;
	case MOUSE_ENABLE: set_mode(m, &m->reporting, true); break;
	case MOUSE_DISABLE: set_mode(m, &m->reporting, false); break;
	case MOUSE_DEFAULTS: set_defaults(m); break;
	case MOUSE_RESET:
		ps2_queue_reply(&m->queue, REPLY_BAT_OK);
		ps2_queue_reply(&m->queue, m->id);
		break;
	default:
		m->queue.replies = 0;
		ps2_queue_reply(&m->queue, REPLY_RESEND);
		break;
	}
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte)
{
	m->queue.replies = 0;
	if (m->wrap && byte != MOUSE_RESET && byte != MOUSE_UNWRAP) {
		ps2_queue_reply(&m->queue, byte);
		return;
	}
	if (m->wrap && byte == MOUSE_UNWRAP)
		m->wrap = false;
	/* A report that was interrupted is not finished. */
	m->queue.count = 0;
	if (m->pending)
		write_argument(m, byte);
	else
		write_command(m, byte);
}

void ps2_mouse_state(struct state *s, struct ps2_mouse *m)
{
	int64_t dx = m->dx, dy = m->dy, dz = m->dz;

	ps2_queue_state(s, &m->queue);
	state_u8(s, "pending", &m->pending);
	state_u8(s, "id", &m->id);
	state_u8(s, "rate", &m->rate);
	state_u8(s, "resolution", &m->resolution);
	state_bytes(s, "knock", m->knock, sizeof(m->knock));
	state_bool(s, "reporting", &m->reporting);
	state_bool(s, "remote", &m->remote);
	state_bool(s, "wrap", &m->wrap);
	state_bool(s, "scaling", &m->scaling);
	state_i64(s, "dx", &dx);
	state_i64(s, "dy", &dy);
	state_i64(s, "dz", &dz);
	state_u8(s, "buttons", &m->buttons);
	state_u8(s, "told-buttons", &m->told_buttons);
	if (!state_loading(s))
		return;
	m->dx = add_move(0, CLAMP(dx, -PENDING_MAX, PENDING_MAX));
	m->dy = add_move(0, CLAMP(dy, -PENDING_MAX, PENDING_MAX));
	m->dz = add_move(0, CLAMP(dz, -PENDING_MAX, PENDING_MAX));
	if (!m->rate || (m->id && m->id != ID_WHEEL && m->id != ID_EXPLORER))
		state_fail(s, "the mouse's state is out of range");
}
