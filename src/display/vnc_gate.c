/* The gate's thread: viewers come, greet (vnc_greet.c), and are passed on to LibVNCServer and back; none is waited for. */
#include "display/vnc_gate.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Those past greeting are limited by the display. When more than these greet or part, the oldest of them goes. */
#define GREETING_MAX 16u
#define QUIET_US (100 * 1000)                /* for browsers to speak first */
#define GREETING_US (20 * G_USEC_PER_SEC)    /* up to the end of the TLS handshake */
#define PARTING_US (2 * G_USEC_PER_SEC)
#define ACCEPT_PAUSE_US (100 * 1000)         /* after an error, mostly too many open files */
#define ROUNDS 16u                           /* a viewer's turn, before the others have theirs */

struct vnc_gate {
	struct vnc_gate_config c;
	GPtrArray *clients; /* of struct gate_client, the oldest first */
	GArray *polled;     /* of struct pollfd */
	gint64 accept_from;
	pthread_t thread;
	int wake_fd;
};

/* ---- one viewer ---- */

ssize_t gate_read(struct gate_client *c, void *buf, size_t n)
{
	ssize_t got;

	if (c->secured) {
		got = gnutls_record_recv(c->tls, buf, n);
		if (got < 0)
			return gnutls_error_is_fatal((int)got) ? -EIO : -EAGAIN;
		return got;
	}
	got = recv(c->fd, buf, n, MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EIO;
	return got;
}

ssize_t gate_write(struct gate_client *c, const void *buf, size_t n)
{
	ssize_t put;

	if (c->secured) {
		put = gnutls_record_send(c->tls, buf, n);
		if (put < 0)
			return gnutls_error_is_fatal((int)put) ? -EIO : -EAGAIN;
		return put;
	}
	put = send(c->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EIO;
	return put;
}

void gate_part(struct gate_client *c)
{
	c->step = GATE_PARTING;
	c->deadline = g_get_monotonic_time() + PARTING_US;
}

void gate_hand_over(struct gate_client *c, const void *said, size_t len, size_t swallow, bool types_due)
{
	rfbClientPtr cl;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
		gate_part(c);
		return;
	}
	c->library = pair[0];
	c->swallow = swallow;
	c->types_due = types_due;
	c->step = GATE_RELAY;
	c->deadline = 0;
	/* It finds what it reads at first already there, and so waits for nothing either. */
	if (send(pair[0], said, len, MSG_NOSIGNAL) != (ssize_t)len) {
		close(pair[1]);
		gate_part(c);
		return;
	}
	cl = rfbNewClient(c->config->screen, pair[1]);
	if (cl && !cl->onHold)
		rfbStartOnHoldClient(cl);
	if (!cl)
		gate_part(c);
}

/* Takes LibVNCServer's half of what the viewer has been through already off what it sends; false: it has no type for it. */
static bool swallow(struct gate_client *c)
{
	struct gate_buffer *b = &c->out;

	while (b->len && (c->swallow || c->types_due)) {
		size_t n = MIN(b->len, c->swallow);

		if (!n) {
			c->types_due = false;
			c->swallow = b->data[b->at];
			if (!c->swallow)
				return false;
			n = 1;
		} else {
			c->swallow -= n;
		}
		b->at += n;
		b->len -= n;
	}
	return true;
}

/* Whether something went out; -1: nothing ever will. */
static int flush(struct gate_client *c)
{
	struct gate_buffer *b = &c->out;
	ssize_t n;

	if (!b->len)
		return 0;
	n = gate_write(c, b->data + b->at, b->len);
	if (n == -EAGAIN)
		return 0;
	if (n < 0)
		return -1;
	b->at += (size_t)n;
	b->len -= (size_t)n;
	return 1;
}

static int to_library(struct gate_client *c)
{
	struct gate_buffer *b = &c->in;
	ssize_t n;
	int any = 0;

	if (!b->len) {
		n = gate_read(c, b->data, sizeof(b->data));
		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return -1;
		b->at = 0;
		b->len = (size_t)n;
		any = 1;
	}
	n = send(c->library, b->data + b->at, b->len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n > 0) {
		b->at += (size_t)n;
		b->len -= (size_t)n;
		any = 1;
	} /* an end shows when its words are read */
	return any;
}

static int from_library(struct gate_client *c)
{
	struct gate_buffer *b = &c->out;
	ssize_t n;

	if (b->len)
		return 0;
	n = recv(c->library, b->data, sizeof(b->data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	b->at = 0;
	b->len = n > 0 ? (size_t)n : 0;
	if (n <= 0 || !swallow(c))
		gate_part(c);
	return 1;
}

static int relay(struct gate_client *c)
{
	int in = to_library(c), out;

	if (in < 0)
		return -1;
	out = from_library(c);
	return in | out;
}

/* A socket that is closed with words unread takes back its own last ones: what comes is read up to the viewer's end. */
static int part(struct gate_client *c)
{
	uint8_t scrap[512];
	ssize_t n;

	if (c->out.len)
		return 0;
	if (!c->shut) {
		if (c->secured)
			gnutls_bye(c->tls, GNUTLS_SHUT_WR);
		shutdown(c->fd, SHUT_WR);
		c->shut = true;
	}
	n = recv(c->fd, scrap, sizeof(scrap), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n > 0 ? 1 : -1;
}

/* A viewer's turn; false: it is gone. */
static bool serve(struct gate_client *c, gint64 now)
{
	c->busy = false;
	for (unsigned round = 0; round < ROUNDS; round++) {
		int sent = flush(c), done;

		if (sent < 0)
			return false;
		if (c->step == GATE_RELAY)
			done = relay(c);
		else if (c->step == GATE_PARTING)
			done = part(c);
		else
			done = gate_greet(c, now);
		if (done < 0)
			return false;
		if (!sent && !done)
			return !c->deadline || now < c->deadline;
	}
	c->busy = true;
	return !c->deadline || now < c->deadline;
}

static void client_free(gpointer data)
{
	struct gate_client *c = data;

	if (c->tls)
		gnutls_deinit(c->tls);
	if (c->library >= 0)
		close(c->library);
	close(c->fd);
	g_free(c);
}

/* ---- all of them ---- */

static struct gate_client *client_at(const struct vnc_gate *g, unsigned i) { return g_ptr_array_index(g->clients, i); }

static void limit_greeting(struct vnc_gate *g)
{
	unsigned n = 0;

	for (unsigned i = g->clients->len; i-- > 0;)
		if (client_at(g, i)->step != GATE_RELAY && ++n >= GREETING_MAX)
			g_ptr_array_remove_index(g->clients, i);
}

static void accept_client(struct vnc_gate *g, gint64 now)
{
	int fd = accept4(g->c.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), one = 1;
	struct gate_client *c;

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			g->accept_from = now + ACCEPT_PAUSE_US;
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* a Unix socket has none */
	limit_greeting(g);
	c = g_new0(struct gate_client, 1);
	c->config = &g->c;
	c->fd = fd;
	c->library = -1;
	c->quiet_until = now + QUIET_US;
	c->deadline = now + GREETING_US;
	g_ptr_array_add(g->clients, c);
}

static void poll_add(struct vnc_gate *g, int fd, bool in, bool out)
{
	struct pollfd p = { .fd = fd, .events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0)) };

	g_array_append_val(g->polled, p);
}

static void poll_viewer(struct vnc_gate *g, const struct gate_client *c)
{
	bool in = c->step == GATE_RELAY ? !c->in.len : !c->out.len, out = c->out.len;

	if (c->step == GATE_HANDSHAKE && !out) {
		out = gnutls_record_get_direction(c->tls);
		in = !out;
	}
	poll_add(g, in || out ? c->fd : -1, in, out);
}

/* Its end is of interest also while the viewer takes nothing, until it is known. */
static void poll_library(struct vnc_gate *g, const struct gate_client *c)
{
	bool in = !c->out.len, out = c->in.len;

	poll_add(g, c->step == GATE_RELAY && (in || out || !c->deadline) ? c->library : -1, in, out);
}

static gint64 earlier(gint64 a, gint64 b) { return !a ? b : !b ? a : MIN(a, b); }

/* What each waits for, and until when at most: milliseconds, -1 for as long as it takes. */
static int prepare(struct vnc_gate *g, gint64 now)
{
	gint64 until = now < g->accept_from ? g->accept_from : 0;

	g_array_set_size(g->polled, 0);
	poll_add(g, g->wake_fd, true, false);
	poll_add(g, until ? -1 : g->c.listener, true, false);
	for (unsigned i = 0; i < g->clients->len; i++) {
		struct gate_client *c = client_at(g, i);

		poll_viewer(g, c);
		poll_library(g, c);
		if (c->busy || (c->secured && !c->in.len && gnutls_record_check_pending(c->tls)))
			until = now;
		until = earlier(until, c->step == GATE_SNIFF ? c->quiet_until : c->deadline);
	}
	return until ? (int)(MAX(until - now, 0) + 999) / 1000 : -1;
}

static short came(const struct vnc_gate *g, unsigned i) { return g_array_index(g->polled, struct pollfd, i).revents; }

static void *gate_run(void *opaque)
{
	struct vnc_gate *g = opaque;

	while (true) {
		gint64 now = g_get_monotonic_time();
		int patience = prepare(g, now);

		poll((struct pollfd *)(void *)g->polled->data, g->polled->len, patience);
		if (came(g, 0))
			return NULL;
		now = g_get_monotonic_time();
		for (unsigned i = g->clients->len; i-- > 0;) {
			struct gate_client *c = client_at(g, i);

			/* LibVNCServer is done with it, while the viewer still has things to take. */
			if (came(g, 3 + 2 * i) & POLLHUP && !c->deadline)
				c->deadline = now + PARTING_US;
			if (!serve(c, now))
				g_ptr_array_remove_index(g->clients, i);
		}
		if (came(g, 1))
			accept_client(g, now);
	}
}

/* ---- life ---- */

struct vnc_gate *vnc_gate_create(const struct vnc_gate_config *config)
{
	struct vnc_gate *g = g_new0(struct vnc_gate, 1);

	g->c = *config;
	g->clients = g_ptr_array_new_with_free_func(client_free);
	g->polled = g_array_new(false, false, sizeof(struct pollfd));
	g->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	fcntl(config->listener, F_SETFL, O_NONBLOCK); /* who was to be accepted may be gone by then */
	pthread_create(&g->thread, NULL, gate_run, g);
	return g;
}

void vnc_gate_destroy(struct vnc_gate *g)
{
	const uint64_t one = 1;

	if (!g)
		return;
	while (write(g->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(g->thread, NULL);
	g_ptr_array_unref(g->clients);
	g_array_unref(g->polled);
	close(g->wake_fd);
	close(g->c.listener);
	g_free(g);
}
