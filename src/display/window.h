/*
 * The window display by SDL 2: the guest's screen in a window of the desktop, scaled or filling the screen, its
 * keyboard by scancode, its mouse grabbed or, where the guest drives a tablet, free. Runs on the main loop.
 */
#ifndef DISPLAY_WINDOW_H
#define DISPLAY_WINDOW_H

#include <glib.h>
#include <pthread.h>

#include "display/input.h"
#include "display/surface.h"

struct window;

struct window_config {
	const struct display_source *source; /* NULL: fails with a message */
	const struct input_sink *input;
	pthread_mutex_t *lock; /* the VM lock, taken around source and input */
	const char *name;      /* the machine's, for the title */
	bool full_screen;
	void (*quit)(void *opaque); /* the window was closed; without the lock */
	void *opaque;
};

/* One a process. Source, input and lock must outlive it. */
struct window *window_create(const struct window_config *config, GError **error);
/* NULL is accepted. */
void window_destroy(struct window *w);
/* Set-1 code (as in input.h) of an SDL scancode, or -1. */
int window_key_code(unsigned scancode);

#endif
