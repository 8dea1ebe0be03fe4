/*
 * The terminal on standard input as a raw key source: one user at a time (a serial console or
 * the text display), put back as it was on leave and at exit.
 */
#ifndef HOST_TTY_H
#define HOST_TTY_H

#include <glib.h>
#include <stdbool.h>

/* Whether standard input is a terminal that this process may read: it is in the foreground. */
bool tty_usable(void);
/*
 * Makes the terminal raw (output processing stays on, so "\n" still returns the carriage).
 * `leave` (may be NULL; not copied, must be static) is written to standard output when the
 * terminal is put back. Fails when it is in use already or not usable.
 */
bool tty_raw_enter(const char *leave, GError **error);
/* Does nothing unless entered. */
void tty_raw_leave(void);

#endif
