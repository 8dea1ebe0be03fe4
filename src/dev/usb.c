/* The default control pipe of a USB device: SETUP, data and status stages; standard requests (USB 2.0, 8.5.3, 9.4). */
#include "dev/usb.h"

#include <string.h>

#include "base/bytes.h"

enum request {
	GET_STATUS = 0, CLEAR_FEATURE = 1, SET_FEATURE = 3, SET_ADDRESS = 5, GET_DESCRIPTOR = 6, GET_CONFIGURATION = 8,
	SET_CONFIGURATION = 9, GET_INTERFACE = 10, SET_INTERFACE = 11,
};

enum descriptor { DESC_DEVICE = 1, DESC_CONFIG = 2, DESC_STRING = 3 };

static int put(uint8_t *to, unsigned room, const void *from, unsigned len)
{
	len = len < room ? len : room;
	memcpy(to, from, len);
	return (int)len;
}

/* Index 0 lists the languages: US English. Strings are UTF-16. */
static int string_descriptor(const struct usb_device *u, unsigned index, uint8_t *data, unsigned len)
{
	uint8_t d[2 + 2 * 64] = { 4, DESC_STRING, 0x09, 0x04 };

	if (index > u->ops->string_count)
		return USB_STALL;
	if (index) {
		const char *text = u->ops->strings[index - 1];
		unsigned n = 0;

		for (; text[n] && n < 64; n++)
			st16le(d + 2 + 2 * n, (uint8_t)text[n]);
		d[0] = (uint8_t)(2 + 2 * n);
	}
	return put(data, len, d, d[0]);
}

static int get_descriptor(const struct usb_device *u, uint8_t *data, unsigned len)
{
	switch (u->setup[3]) {
	case DESC_DEVICE: return put(data, len, u->ops->device_descriptor, u->ops->device_descriptor[0]);
	case DESC_CONFIG: return put(data, len, u->ops->config_descriptor, ld16le(u->ops->config_descriptor + 2));
	case DESC_STRING: return string_descriptor(u, u->setup[2], data, len);
	default: return USB_STALL;
	}
}

/* Bytes of `data`, or USB_STALL. The address changes after the status stage: see packet_in. */
static int standard_request(struct usb_device *u, uint8_t *data, unsigned len)
{
	static const uint8_t zeros[2];

	switch (u->setup[1]) {
	case GET_STATUS: return put(data, len, zeros, 2);
	case GET_CONFIGURATION: return put(data, len, &u->configuration, 1);
	case GET_INTERFACE: return put(data, len, zeros, 1);
	case GET_DESCRIPTOR: return get_descriptor(u, data, len);
	case SET_CONFIGURATION:
		if (u->setup[2] > 1)
			return USB_STALL;
		u->configuration = u->setup[2];
		return 0;
	case CLEAR_FEATURE:
	case SET_FEATURE:
	case SET_ADDRESS: return 0;
	case SET_INTERFACE: return u->setup[2] ? USB_STALL : 0;
	default: return USB_STALL;
	}
}

static int carry_out(struct usb_device *u, uint8_t *data, unsigned len)
{
	/* Bits 6:5 of the type: 0 is standard; a descriptor of an interface is the class's. */
	bool standard = !(u->setup[0] & 0x60) && !(u->setup[0] == 0x81 && u->setup[1] == GET_DESCRIPTOR);

	return standard ? standard_request(u, data, len) : u->ops->request(u, u->setup, data, len);
}

static int packet_setup(struct usb_device *u, const uint8_t *data, unsigned len)
{
	unsigned wanted;
	int n;

	if (len != 8) {
		device_guest_error(&u->device, "a SETUP packet of %u bytes", len);
		return USB_STALL;
	}
	memcpy(u->setup, data, 8);
	wanted = ld16le(u->setup + 6);
	u->at = u->len = 0;
	if (!(u->setup[0] & 0x80) && wanted) {
		u->stage = wanted <= USB_CONTROL_MAX ? USB_STAGE_DATA_OUT : USB_STAGE_STALLED;
		u->len = wanted <= USB_CONTROL_MAX ? (uint16_t)wanted : 0;
		return 8;
	}
	n = carry_out(u, u->data, wanted < USB_CONTROL_MAX ? wanted : USB_CONTROL_MAX);
	if (n < 0) {
		u->stage = USB_STAGE_STALLED;
	} else {
		u->len = (uint16_t)n;
		u->stage = u->setup[0] & 0x80 ? USB_STAGE_DATA_IN : USB_STAGE_STATUS_IN;
	}
	return 8;
}

static int packet_in(struct usb_device *u, uint8_t *data, unsigned len)
{
	int n;

	switch (u->stage) {
	case USB_STAGE_DATA_IN:
		n = put(data, len, u->data + u->at, u->len - u->at);
		u->at += (uint16_t)n;
		return n;
	case USB_STAGE_STATUS_IN:
		u->stage = USB_STAGE_IDLE;
		if (u->setup[0] == 0 && u->setup[1] == SET_ADDRESS)
			u->address = u->setup[2] & 0x7f;
		return 0;
	default:
		return USB_STALL;
	}
}

static int packet_out(struct usb_device *u, const uint8_t *data, unsigned len)
{
	if (u->stage == USB_STAGE_DATA_IN) {
		u->stage = USB_STAGE_IDLE;
		return 0;
	}
	if (u->stage != USB_STAGE_DATA_OUT || len > (unsigned)(u->len - u->at)) {
		u->stage = USB_STAGE_STALLED;
		return USB_STALL;
	}
	memcpy(u->data + u->at, data, len);
	u->at += (uint16_t)len;
	if (u->at == u->len)
		u->stage = carry_out(u, u->data, u->len) < 0 ? USB_STAGE_STALLED : USB_STAGE_STATUS_IN;
	return (int)len;
}

int usb_packet(struct usb_device *u, enum usb_pid pid, unsigned endpoint, uint8_t *data, unsigned len)
{
	if (endpoint) {
		if (pid != USB_PID_IN || !u->configuration)
			return USB_STALL;
		return u->ops->in(u, endpoint, data, len);
	}
	switch (pid) {
	case USB_PID_SETUP: return packet_setup(u, data, len);
	case USB_PID_IN: return packet_in(u, data, len);
	default: return packet_out(u, data, len);
	}
}

void usb_reset(struct usb_device *u)
{
	u->address = u->configuration = 0;
	u->stage = USB_STAGE_IDLE;
	u->at = u->len = 0;
	u->ops->reset(u);
}

int usb_state(struct usb_device *u, struct state *s)
{
	state_u8(s, "address", &u->address);
	state_u8(s, "configuration", &u->configuration);
	state_u8(s, "stage", &u->stage);
	state_bytes(s, "setup", u->setup, sizeof(u->setup));
	state_bytes(s, "data", u->data, sizeof(u->data));
	state_u16(s, "at", &u->at);
	state_u16(s, "len", &u->len);
	if (state_loading(s) && !state_error(s) &&
	    (u->address > 127 || u->configuration > 1 || u->stage > USB_STAGE_STALLED || u->len > USB_CONTROL_MAX || u->at > u->len))
		state_fail(s, "USB control pipe out of range");
	return state_error(s);
}
