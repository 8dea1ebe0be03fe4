/*
 * How a viewer and the VNC display with TLS agree on their security, up to where LibVNCServer takes over: RFB's versions and
 * security types (RFC 6143 7.1), VeNCrypt 0.2 (The RFB Protocol, community version, 7.2.14), the request of a browser.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "display/vnc_gate.h"

#define TYPE_NONE 1u
#define TYPE_PASSWORD 2u
#define TYPE_VENCRYPT 19u
/* VeNCrypt's types that this server has: anonymous TLS or a certificate; within, nothing or the password. */
#define SUBTYPE_TLS_NONE 257u
#define SUBTYPE_TLS_PASSWORD 258u
#define SUBTYPE_X509_NONE 260u
#define SUBTYPE_X509_PASSWORD 261u

#define TLS_HANDSHAKE_RECORD 0x16
#define REQUEST_MAX 4095u /* LibVNCServer's limit */

static void say(struct gate_client *c, const void *data, size_t n)
{
	if (c->out.at + c->out.len + n <= sizeof(c->out.data)) {
		memcpy(c->out.data + c->out.at + c->out.len, data, n);
		c->out.len += n;
	}
}

static void say_reason(struct gate_client *c, uint32_t code, size_t code_len, const char *reason)
{
	uint8_t word[4];

	st32be(word, code);
	say(c, word + 4 - code_len, code_len);
	st32be(word, (uint32_t)strlen(reason));
	say(c, word, 4);
	say(c, reason, strlen(reason));
}

/* Exactly n bytes of the viewer, none of what follows: that may be TLS already. 1, 0: not all are there yet, -1: gone. */
static int take(struct gate_client *c, size_t n)
{
	while (c->in.len < n) {
		ssize_t got = gate_read(c, c->in.data + c->in.len, n - c->in.len);

		if (got == -EAGAIN)
			return 0;
		if (got <= 0)
			return -1;
		c->in.len += (size_t)got;
	}
	return 1;
}

static uint8_t own_type(const struct gate_client *c) { return c->config->password ? TYPE_PASSWORD : TYPE_NONE; }

static int begin_tls(struct gate_client *c, enum vnc_tls_kind kind)
{
	c->tls = vnc_tls_accept(c->config->tls, kind, c->fd);
	c->step = GATE_HANDSHAKE;
	return c->tls ? 1 : -1;
}

/* RFB's server speaks first, a browser does by itself. */
static int sniff(struct gate_client *c, gint64 now)
{
	static const char forbidden[] = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
	uint8_t first;
	ssize_t n = recv(c->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return -1;
	if (n < 0 && now < c->quiet_until)
		return 0;
	if (n > 0 && first == TLS_HANDSHAKE_RECORD && vnc_tls_has(c->config->tls, VNC_TLS_X509)) {
		c->websocket = true;
		return begin_tls(c, VNC_TLS_X509);
	}
	if (n > 0 && first == 'G' && !c->config->plain) {
		say(c, forbidden, sizeof(forbidden) - 1);
		gate_part(c);
	} else if (n > 0 && first == 'G') {
		c->step = GATE_REQUEST;
	} else {
		say(c, "RFB 003.008\n", 12);
		c->step = GATE_VERSION;
	}
	return 1;
}

static int version(struct gate_client *c)
{
	uint8_t types[3] = { 1, TYPE_VENCRYPT, own_type(c) };
	unsigned major, minor;
	char line[13] = "";
	int r = take(c, 12);

	if (r <= 0)
		return r;
	memcpy(line, c->in.data, 12);
	c->in.len = 0;
	if (sscanf(line, "RFB %3u.%3u", &major, &minor) != 2 || line[11] != '\n' || major < 3)
		return -1;
	c->minor = major > 3 || minor >= 8 ? 8 : minor == 7 ? 7 : 3;
	if (c->minor == 3) { /* the server decides, and there is no VeNCrypt yet */
		if (c->config->plain) {
			gate_hand_over(c, "RFB 003.003\n", 12, 12, false);
			return 1;
		}
		say_reason(c, 0, 4, "This machine's display wants TLS (VeNCrypt).");
		gate_part(c);
		return 1;
	}
	types[0] += c->config->plain;
	say(c, types, 1u + types[0]);
	c->step = GATE_TYPE;
	return 1;
}

/* Of LibVNCServer's greeting and list of types the viewer has seen ours. */
static void to_library(struct gate_client *c)
{
	const char *said = c->minor == 8 ? "RFB 003.008\n" : "RFB 003.007\n";
	uint8_t words[13];

	memcpy(words, said, 12);
	words[12] = own_type(c);
	gate_hand_over(c, words, sizeof(words), 12, true);
}

static int type(struct gate_client *c)
{
	int r = take(c, 1);

	if (r <= 0)
		return r;
	c->in.len = 0;
	if (c->in.data[0] == TYPE_VENCRYPT) {
		say(c, "\0\2", 2);
		c->step = GATE_VENCRYPT;
	} else if (c->config->plain && c->in.data[0] == own_type(c)) {
		to_library(c);
	} else {
		if (c->minor == 8)
			say_reason(c, 1, 4, "This machine's display wants TLS (VeNCrypt).");
		else
			say(c, "\0\0\0\1", 4);
		gate_part(c);
	}
	return 1;
}

static uint32_t subtype_of(const struct gate_client *c, enum vnc_tls_kind kind)
{
	if (kind == VNC_TLS_X509)
		return c->config->password ? SUBTYPE_X509_PASSWORD : SUBTYPE_X509_NONE;
	return c->config->password ? SUBTYPE_TLS_PASSWORD : SUBTYPE_TLS_NONE;
}

/* The better one first, which viewers choose by themselves. */
static int vencrypt(struct gate_client *c)
{
	static const enum vnc_tls_kind order[] = { VNC_TLS_X509, VNC_TLS_ANONYMOUS };
	uint8_t answer[2 + 4 * VNC_TLS_KINDS] = { 0, 0 };
	int r = take(c, 2);

	if (r <= 0)
		return r;
	c->in.len = 0;
	if (c->in.data[0] != 0 || c->in.data[1] != 2) {
		say(c, "\377", 1);
		gate_part(c);
		return 1;
	}
	for (unsigned i = 0; i < G_N_ELEMENTS(order); i++)
		if (vnc_tls_has(c->config->tls, order[i]))
			st32be(answer + 2 + 4 * answer[1]++, subtype_of(c, order[i]));
	say(c, answer, 2u + 4u * answer[1]);
	c->step = GATE_SUBTYPE;
	return 1;
}

static int subtype(struct gate_client *c)
{
	uint32_t chosen;
	int r = take(c, 4);

	if (r <= 0)
		return r;
	c->in.len = 0;
	chosen = ld32be(c->in.data);
	for (enum vnc_tls_kind kind = 0; kind < VNC_TLS_KINDS; kind++) {
		if (vnc_tls_has(c->config->tls, kind) && chosen == subtype_of(c, kind)) {
			say(c, "\1", 1);
			return begin_tls(c, kind);
		}
	}
	say(c, "\0", 1);
	gate_part(c);
	return 1;
}

static int handshake(struct gate_client *c)
{
	int r = gnutls_handshake(c->tls);

	if (r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED)
		return 0;
	if (r && !gnutls_error_is_fatal(r))
		return 1;
	if (r) {
		gnutls_alert_send_appropriate(c->tls, r);
		return -1;
	}
	c->secured = true;
	if (c->websocket)
		c->step = GATE_REQUEST;
	else
		to_library(c);
	return 1;
}

/* All of it goes to LibVNCServer at once, which would wait for the rest. */
static int request(struct gate_client *c)
{
	ssize_t n = gate_read(c, c->in.data + c->in.len, REQUEST_MAX - c->in.len);
	size_t len;

	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return -1;
	len = c->in.len += (size_t)n;
	if (memmem(c->in.data, len, "\r\n\r\n", 4)) {
		c->in.len = 0;
		gate_hand_over(c, c->in.data, len, 0, false);
		return 1;
	}
	return len < REQUEST_MAX ? 1 : -1;
}

int gate_greet(struct gate_client *c, gint64 now)
{
	if (c->out.len)
		return 0; /* what has been said goes out before the next thing happens */
	switch (c->step) {
	case GATE_SNIFF: return sniff(c, now);
	case GATE_VERSION: return version(c);
	case GATE_TYPE: return type(c);
	case GATE_VENCRYPT: return vencrypt(c);
	case GATE_SUBTYPE: return subtype(c);
	case GATE_HANDSHAKE: return handshake(c);
	case GATE_REQUEST: return request(c);
	default: return -1;
	}
}
