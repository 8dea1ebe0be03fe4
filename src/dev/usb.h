/*
 * A USB 1.1 device as its host controller sees it: packets to endpoints. The default control pipe's
 * stages and the standard requests (USB 2.0, chapter 9) are the same for all; usb.c has them.
 */
#ifndef DEV_USB_H
#define DEV_USB_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/device.h"

#define USB_CONTROL_MAX 256 /* data of one control transfer */

/* Answers of a packet besides its length. */
enum usb_answer { USB_NAK = -1, USB_STALL = -2 };

enum usb_pid { USB_PID_OUT = 0xe1, USB_PID_IN = 0x69, USB_PID_SETUP = 0x2d };

struct usb_device;

struct usb_ops {
	const uint8_t *device_descriptor;
	const uint8_t *config_descriptor; /* with all that follows; its own length field counts */
	const char *const *strings;       /* by index - 1; `string_count` of them */
	uint8_t string_count;
	/* A request that is not standard: returns the bytes put in data (IN), 0, or USB_STALL. */
	int (*request)(struct usb_device *u, const uint8_t setup[8], uint8_t *data, unsigned len);
	/* An IN packet to another endpoint: bytes, USB_NAK or USB_STALL. */
	int (*in)(struct usb_device *u, unsigned endpoint, uint8_t *data, unsigned len);
	void (*reset)(struct usb_device *u);
};

enum usb_stage { USB_STAGE_IDLE, USB_STAGE_DATA_IN, USB_STAGE_DATA_OUT, USB_STAGE_STATUS_IN, USB_STAGE_STALLED };

/* Embedded first in every USB device. */
struct usb_device {
	struct device device; /* must be first */
	const struct usb_ops *ops;
	void (*wake)(void *opaque); /* of the controller: there is something to fetch */
	void *wake_opaque;
	uint8_t address, configuration;
	uint8_t stage; /* enum usb_stage */
	uint8_t setup[8];
	uint8_t data[USB_CONTROL_MAX];
	uint16_t at, len;
};

/* The port was reset: back to address 0. */
void usb_reset(struct usb_device *u);
/* One packet. For OUT and SETUP data holds len bytes; for IN it has room for len. */
int usb_packet(struct usb_device *u, enum usb_pid pid, unsigned endpoint, uint8_t *data, unsigned len);
int usb_state(struct usb_device *u, struct state *s);

#endif
