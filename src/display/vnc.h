/*
 * The VNC display (RFB 3.8, RFC 6143) by LibVNCServer: on a TCP port of the loopback interface, another
 * address or a Unix socket, WebSocket included; with TLS, vnc_gate.h stands before it. Each viewer has threads of its own: a slow one waits for
 * itself and holds up neither the guest nor the others.
 */
#ifndef DISPLAY_VNC_H
#define DISPLAY_VNC_H

#include <glib.h>
#include <pthread.h>

#include "display/input.h"
#include "display/surface.h"

struct vnc;

struct vnc_config {
	const struct display_source *source; /* NULL: fails with a message */
	const struct input_sink *input;
	pthread_mutex_t *lock; /* the VM lock, taken around source and input */
	const char *name;      /* what viewers show as title */
	/* "ADDRESS:PORT" (IPv6 in brackets), "PORT", "unix:PATH"; NULL: the first free port from 5900. */
	const char *address;
	const char *password; /* NULL: none asked; RFB looks at 8 characters */
	/*
	 * With TLS, by VeNCrypt and wss://, viewers without it are refused unless plain. A certificate and its key are PEM
	 * files, or NULL; anonymous TLS is encrypted, but tells viewers nothing of who is at the other end.
	 */
	const char *tls_certificate, *tls_key;
	bool tls_anonymous, plain;
};

/* Listens at once. Source, input and lock must outlive it. Addresses beyond this host need a password. */
struct vnc *vnc_create(const struct vnc_config *config, GError **error);
/* Where it listens, for people: "127.0.0.1:5900". */
const char *vnc_address(const struct vnc *v);
unsigned vnc_viewers(const struct vnc *v);
/* Without the lock. NULL is accepted. */
void vnc_destroy(struct vnc *v);

#endif
