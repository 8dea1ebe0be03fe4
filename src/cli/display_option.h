/* The option --display of `guise run`. */
#ifndef CLI_DISPLAY_OPTION_H
#define CLI_DISPLAY_OPTION_H

#include <glib.h>
#include <stdbool.h>

struct display_option {
	char *kind; /* auto, none, text, window, vnc */
	char *address, *password_file, *tls_certificate, *tls_key; /* vnc */
	bool tls_anonymous, allow_plain; /* vnc */
	bool full_screen; /* window */
};

/* "text", "window,full-screen", "vnc=ADDRESS:PORT,password-file=F" ... */
bool display_option_parse(struct display_option *d, const char *text, GError **error);
void display_option_finish(struct display_option *d);

#endif
