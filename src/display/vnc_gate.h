/*
 * The gate of a VNC display with TLS: it accepts viewers, agrees with each on its security by VeNCrypt (RFB security type 19)
 * or takes a browser's wss://, and then passes bytes between the viewer, encrypted, and LibVNCServer, plain, over a pair of
 * sockets. LibVNCServer itself has no TLS but for WebSocket. One thread serves all; it waits for no viewer.
 */
#ifndef DISPLAY_VNC_GATE_H
#define DISPLAY_VNC_GATE_H

#include <glib.h>
#include <gnutls/gnutls.h>
#include <rfb/rfb.h>
#include <stdbool.h>

struct vnc_tls;
struct vnc_gate;

/* ---- vnc_tls.c: what sessions are made from ---- */

enum vnc_tls_kind { VNC_TLS_ANONYMOUS, VNC_TLS_X509, VNC_TLS_KINDS };

/* PEM files, both or neither; anonymous: viewers that check nobody's identity are served too. */
struct vnc_tls *vnc_tls_create(const char *certificate, const char *key, bool anonymous, GError **error);
bool vnc_tls_has(const struct vnc_tls *t, enum vnc_tls_kind kind);
/* A session that has yet to shake hands, on a socket that does not block; NULL when that cannot be. */
gnutls_session_t vnc_tls_accept(const struct vnc_tls *t, enum vnc_tls_kind kind, int fd);
/* NULL is accepted. */
void vnc_tls_destroy(struct vnc_tls *t);

/* ---- vnc_gate.c ---- */

struct vnc_gate_config {
	const struct vnc_tls *tls; /* outlives the gate */
	rfbScreenInfoPtr screen;   /* its event loop runs, and it listens nowhere */
	int listener;              /* a socket, the gate's from now on */
	bool password;             /* the screen asks for one */
	bool plain;                /* viewers without TLS are served as well */
};

struct vnc_gate *vnc_gate_create(const struct vnc_gate_config *config);
/* Cuts all viewers. NULL is accepted. */
void vnc_gate_destroy(struct vnc_gate *g);

/* ---- between vnc_gate.c and vnc_greet.c ---- */

#define GATE_BUFFER 16384u /* a TLS record */

enum gate_step {
	GATE_SNIFF,    /* who speaks first? browsers do */
	GATE_VERSION,  /* RFC 6143 7.1.1 */
	GATE_TYPE,     /* 7.1.2 */
	GATE_VENCRYPT, /* VeNCrypt's version */
	GATE_SUBTYPE,
	GATE_HANDSHAKE,
	GATE_REQUEST, /* a browser's, of HTTP */
	GATE_RELAY,   /* LibVNCServer speaks with the viewer */
	GATE_PARTING, /* what is still to be sent, and then the end */
};

struct gate_buffer {
	size_t at, len; /* what is there is [at, at + len) */
	uint8_t data[GATE_BUFFER];
};

struct gate_client {
	struct vnc_gate_config *config;
	enum gate_step step;
	int fd, library; /* -1: not there yet */
	gnutls_session_t tls;
	bool secured;   /* the handshake is done */
	bool websocket; /* a browser, by TLS */
	bool shut;      /* parting: our side is closed */
	bool busy;      /* there is more to do at once */
	gint64 quiet_until, deadline; /* monotonic µs; 0: none */
	unsigned minor; /* of RFB's version */
	/* What LibVNCServer says before the viewer's turn comes: so many bytes, then perhaps the list of security types. */
	size_t swallow;
	bool types_due;
	struct gate_buffer in, out; /* from the viewer, to it */
};

/* From the viewer or to it, inside of TLS once there is: bytes, 0 at the end, -EAGAIN, -EIO. */
ssize_t gate_read(struct gate_client *c, void *buf, size_t n);
ssize_t gate_write(struct gate_client *c, const void *buf, size_t n);
/* Ends a connection once what it has been told is sent; its reason was the last thing said. */
void gate_part(struct gate_client *c);
/* LibVNCServer takes the viewer over; it has been sent `said` by it, and its own first words are not for the viewer. */
void gate_hand_over(struct gate_client *c, const void *said, size_t len, size_t swallow, bool types_due);
/* One step towards GATE_RELAY: 1 there may be another, 0 waiting for the viewer, -1 it is to go. */
int gate_greet(struct gate_client *c, gint64 now);

#endif
