/*
 * The keys behind Ctrl-a on a serial console in the terminal: end the machine, help, and the human
 * monitor on the same terminal until the next Ctrl-a c.
 */
#ifndef CLI_ESCAPE_H
#define CLI_ESCAPE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;

struct escape {
	struct vm *vm; /* set once it exists */
	bool pending;  /* Ctrl-a was typed */
	bool monitor;  /* lines go to the monitor */
	GString *line; /* being typed there */
};

void escape_init(struct escape *e);
void escape_finish(struct escape *e);
/* The monitor on the terminal, for whoever has the terminal's keys otherwise. Main loop. */
void escape_monitor(struct escape *e, bool on);
void escape_monitor_key(struct escape *e, uint8_t byte);
/* True when the byte is not the guest's. Any thread, one at a time. */
bool escape_filter(void *opaque, uint8_t byte);

#endif
