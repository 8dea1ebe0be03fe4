/* A USB tablet: a pointer that knows where it is, so that host and guest need not agree on movements. */
#ifndef DEV_USB_TABLET_H
#define DEV_USB_TABLET_H

#include "dev/usb.h"

struct usb_tablet;

struct usb_tablet *usb_tablet_create(void);
struct usb_device *usb_tablet_usb(struct usb_tablet *t);
struct device *usb_tablet_device(struct usb_tablet *t);
/* x and y from 0 to 32767, dz towards the user, buttons as in display/input.h. False while the guest does not use it. */
bool usb_tablet_move(struct usb_tablet *t, unsigned x, unsigned y, int dz, unsigned buttons);

#endif
