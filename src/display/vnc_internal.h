/* Between the VNC display's files. */
#ifndef DISPLAY_VNC_INTERNAL_H
#define DISPLAY_VNC_INTERNAL_H

#include <rfb/rfb.h>

#include "display/vnc.h"

#define KEY_CODES 0x102 /* as in input.h */

/* What a viewer holds down is released when it goes. */
struct viewer {
	struct vnc *vnc;
	bool down[KEY_CODES];
	unsigned buttons;
	int x, y; /* of the pointer, -1 at first */
	gint64 since; /* monotonic µs */
	bool size_due; /* the screen changed its size before the viewer had said that it can be told */
};

/* A viewer's key: scancode by code (as in input.h); ignored when negative. */
void vnc_key(struct viewer *w, int code, bool down);

/* The key of the US layout that makes an X11 keysym, or -1. */
int vnc_keysym_code(uint32_t keysym);
/* Teaches LibVNCServer the message that carries scancodes (QEMU's extended key event); once a process. */
void vnc_register_extended_keys(void);

/* A listening socket, or -1. *shown is what to tell people. */
int vnc_listen(const char *address, bool password, char **shown, GError **error);

#endif
