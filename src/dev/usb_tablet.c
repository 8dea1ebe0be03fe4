/* The tablet: a HID pointer with absolute axes (Device Class Definition for HID 1.11). Known to guests as 0627:0001. */
#include "dev/usb_tablet.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

#define EVENTS 16
#define REPORT_SIZE 6

enum hid_request { GET_REPORT = 0x01, GET_IDLE = 0x02, GET_PROTOCOL = 0x03, SET_REPORT = 0x09, SET_IDLE = 0x0a, SET_PROTOCOL = 0x0b };

struct event {
	uint16_t x, y;
	int8_t wheel;
	uint8_t buttons;
};

struct usb_tablet {
	struct usb_device usb; /* must be first */
	struct event queue[EVENTS]; /* what the guest has not fetched, oldest first */
	uint8_t count;
	struct event last; /* as fetched */
	uint8_t idle, protocol;
};

/* Five buttons, X and Y of 15 bits, a wheel. */
static const uint8_t report_descriptor[] = {
	0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,             /* desktop mouse, pointer */
	0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01,             /* buttons 1 to 5: 0 or 1 */
	0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x01, /* five bits, three of nothing */
	0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f,       /* X, Y: 0 to 32767 */
	0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02,       /* absolute, 16 bits each */
	0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00,             /* wheel: -127 to 127 */
	0x75, 0x08, 0x95, 0x01, 0x81, 0x06, 0xc0, 0xc0,                         /* relative, 8 bits */
};

static const uint8_t device_descriptor[] = {
	18, 1, 0x10, 0x01, 0, 0, 0, 8, 0x27, 0x06, 0x01, 0x00, 0x00, 0x00, 1, 2, 3, 1,
};

static const uint8_t config_descriptor[] = {
	9, 2, 34, 0, 1, 1, 0, 0xa0, 50,                             /* configuration: bus powered, 100 mA */
	9, 4, 0, 0, 1, 3, 0, 0, 0,                                  /* interface: HID, no boot protocol */
	9, 0x21, 0x01, 0x00, 0, 1, 0x22, sizeof(report_descriptor), 0, /* HID */
	7, 5, 0x81, 3, 8, 0, 10,                                    /* endpoint 1 IN: interrupt, every 10 ms */
};

static const char *const strings[] = { "guise", "USB tablet", "1" };

static void put_report(const struct event *e, uint8_t r[REPORT_SIZE])
{
	r[0] = e->buttons;
	st16le(r + 1, e->x);
	st16le(r + 3, e->y);
	r[5] = (uint8_t)e->wheel;
}

static int reply(uint8_t *data, unsigned len, const void *from, unsigned n)
{
	n = MIN(n, len);
	memcpy(data, from, n);
	return (int)n;
}

static int tablet_request(struct usb_device *u, const uint8_t setup[8], uint8_t *data, unsigned len)
{
	struct usb_tablet *t = (struct usb_tablet *)u;
	struct event still = t->last;
	uint8_t r[REPORT_SIZE];

	if (setup[0] == 0x81) {
		if (setup[3] == 0x22)
			return reply(data, len, report_descriptor, sizeof(report_descriptor));
		return setup[3] == 0x21 ? reply(data, len, config_descriptor + 18, 9) : USB_STALL;
	}
	switch (setup[1]) {
	case GET_REPORT:
		still.wheel = 0;
		put_report(&still, r);
		return reply(data, len, r, sizeof(r));
	case GET_IDLE: return reply(data, len, &t->idle, 1);
	case GET_PROTOCOL: return reply(data, len, &t->protocol, 1);
	case SET_IDLE:
		t->idle = setup[3];
		return 0;
	case SET_PROTOCOL:
		t->protocol = setup[2] & 1;
		return 0;
	case SET_REPORT: return 0;
	default: return USB_STALL;
	}
}

static int tablet_in(struct usb_device *u, unsigned endpoint, uint8_t *data, unsigned len)
{
	struct usb_tablet *t = (struct usb_tablet *)u;
	uint8_t r[REPORT_SIZE];

	if (endpoint != 1)
		return USB_STALL;
	if (!t->count)
		return USB_NAK;
	t->last = t->queue[0];
	memmove(t->queue, t->queue + 1, --t->count * sizeof(t->queue[0]));
	put_report(&t->last, r);
	return reply(data, len, r, sizeof(r));
}

static void tablet_usb_reset(struct usb_device *u)
{
	struct usb_tablet *t = (struct usb_tablet *)u;

	t->count = 0;
	t->last = (struct event){ 0 };
	t->idle = 0;
	t->protocol = 1;
}

/* Movements add up while buttons stay; clicks and the wheel are kept, as far as there is room. */
bool usb_tablet_move(struct usb_tablet *t, unsigned x, unsigned y, int dz, unsigned buttons)
{
	struct event *last = t->count ? &t->queue[t->count - 1] : NULL;
	/* HID counts the middle button as the third, as input.h does. */
	struct event e = { (uint16_t)MIN(x, 0x7fff), (uint16_t)MIN(y, 0x7fff), (int8_t)CLAMP(-dz, -127, 127), buttons & 0x1f };

	if (!t->usb.configuration)
		return false;
	if (last && last->buttons == e.buttons && !last->wheel && !e.wheel)
		*last = e;
	else if (t->count < EVENTS)
		t->queue[t->count++] = e;
	else
		*last = e;
	if (t->usb.wake)
		t->usb.wake(t->usb.wake_opaque);
	return true;
}

static void tablet_reset(struct device *d)
{
	usb_reset((struct usb_device *)d);
}

static void event_state(struct event *e, struct state *s)
{
	uint8_t wheel = (uint8_t)e->wheel;

	state_u16(s, "x", &e->x);
	state_u16(s, "y", &e->y);
	state_u8(s, "wheel", &wheel);
	state_u8(s, "buttons", &e->buttons);
	e->wheel = (int8_t)wheel;
}

static int tablet_state(struct device *d, struct state *s)
{
	struct usb_tablet *t = (struct usb_tablet *)d;

	usb_state(&t->usb, s);
	state_u8(s, "count", &t->count);
	for (unsigned i = 0; i < EVENTS; i++)
		event_state(&t->queue[i], s);
	event_state(&t->last, s);
	state_u8(s, "idle", &t->idle);
	state_u8(s, "protocol", &t->protocol);
	if (state_loading(s) && t->count > EVENTS) {
		t->count = 0;
		state_fail(s, "more pointer events than there is room for");
	}
	return state_error(s);
}

static void tablet_destroy(struct device *d)
{
	g_free(d);
}

static const struct device_ops ops = { "usb-tablet", 1, tablet_reset, tablet_state, tablet_destroy };

static const struct usb_ops usb_ops = {
	device_descriptor, config_descriptor, strings, G_N_ELEMENTS(strings), tablet_request, tablet_in, tablet_usb_reset,
};

struct usb_tablet *usb_tablet_create(void)
{
	struct usb_tablet *t = g_new0(struct usb_tablet, 1);

	t->usb.device = (struct device){ .ops = &ops, .id = "tablet0" };
	t->usb.ops = &usb_ops;
	usb_reset(&t->usb);
	return t;
}

struct usb_device *usb_tablet_usb(struct usb_tablet *t)
{
	return &t->usb;
}

struct device *usb_tablet_device(struct usb_tablet *t)
{
	return &t->usb.device;
}
