/*
 * Keyboard and pointer events from front ends to whichever device takes them. Keys are
 * identified as in QEMU's QMP "QKeyCode" (by name), and travel as set-1 scancodes
 * (0x00..0x7f; 0x80 | code for E0-prefixed ones; INPUT_KEY_PAUSE, INPUT_KEY_PRINT special).
 */
#ifndef DISPLAY_INPUT_H
#define DISPLAY_INPUT_H

#include <stdbool.h>
#include <stdint.h>

#define INPUT_KEY_PAUSE 0x100
#define INPUT_KEY_PRINT 0x101

enum input_button { INPUT_LEFT = 1, INPUT_RIGHT = 2, INPUT_MIDDLE = 4, INPUT_SIDE = 8, INPUT_EXTRA = 16 };

#define INPUT_POINTER_MAX 32767

/* Called with the VM lock held. A machine fills it from its i8042. */
struct input_sink {
	void (*key)(void *opaque, int code, bool down);
	/* dx to the right, dy downwards, dz the wheel towards the user. */
	void (*mouse)(void *opaque, int dx, int dy, int dz, unsigned buttons);
	void *opaque;
	/* Where on the screen, from 0 to INPUT_POINTER_MAX each; false when the guest has no use for it and needs
	 * movements instead. May be NULL. */
	bool (*pointer)(void *opaque, unsigned x, unsigned y, int dz, unsigned buttons);
	/* Whether the guest listens to the keyboard and has read all of it: another key will not be lost there. */
	bool (*keys_read)(void *opaque);
};

/* QKeyCode name ("a", "ret", "ctrl", "kp_add" …) to code, -1 when unknown. */
int input_key_from_name(const char *name);
/* US-layout character to key code; *shift says whether shift is held. -1 when it has none. */
int input_key_from_char(uint32_t ch, bool *shift);
/* Presses and releases a combination "ctrl-alt-delete". Returns -EINVAL for an unknown key. */
int input_send_combo(const struct input_sink *sink, const char *combo);

#endif
