/*
 * The text display: the guest's text screen drawn in the terminal, and the terminal's keys
 * as the guest's keyboard. Runs on the main loop.
 */
#ifndef DISPLAY_TERMINAL_H
#define DISPLAY_TERMINAL_H

#include <glib.h>
#include <pthread.h>

#include "display/input.h"
#include "display/surface.h"

struct terminal;

struct terminal_config {
	const struct display_source *source; /* NULL: fails with a message */
	const struct input_sink *input;
	pthread_mutex_t *lock; /* the VM lock, taken around source and input */
	const char *name;      /* the machine's, for hints; copied */
	void (*quit)(void *opaque); /* Ctrl-a x; without the lock */
	/* Ctrl-a c: the terminal is the monitor's, until the next one; it gets the keys and prints as it likes. May be NULL. */
	void (*monitor)(void *opaque, bool on);
	void (*monitor_key)(void *opaque, uint8_t byte);
	void *opaque;
};

/* Takes the terminal until destroyed (or exit). Source, input and lock must outlive it. */
struct terminal *terminal_create(const struct terminal_config *config, GError **error);
/* NULL is accepted. */
void terminal_destroy(struct terminal *t);

#endif
