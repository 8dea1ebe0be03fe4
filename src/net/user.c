/*
 * User-mode networking with libslirp: the guest is alone on 10.0.2.0/24 (fec0::/64) with a gateway
 * (.2), a name server (.3) and DHCP, and reaches the outside through ordinary sockets of this process.
 * libslirp belongs to one thread; frames travel to and from it in batches, so that no vCPU waits for
 * its system calls.
 */
#include <errno.h>
#include <gio/gio.h>
#include <libslirp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "net/backend.h"
#include "net/forward.h"
#include "net/merge.h"
#include "net/queue.h"

#define BATCH_MAX (2 * 1024 * 1024) /* bytes that libslirp may hand out in one go */
#define PORT_TRIES 200

struct user_timer {
	int64_t expire_ms; /* -1: not armed */
	SlirpTimerId id;
	void *opaque;
};

struct user {
	struct netdev nd; /* must be first */
	Slirp *slirp;
	pthread_t thread;
	struct net_queue queue;
	GArray *fds;            /* struct pollfd; [0] wakes */
	GPtrArray *timers;
	GByteArray *from_slirp; /* frames for net_frames_next: the thread's own */
	struct net_merge merge; /* so that a card gets few big frames: the thread's own */
	_Atomic bool full;      /* the card has no room for more */
};

/* ---- callbacks of libslirp, all on its thread (or before it starts) ---- */

static ssize_t on_packet(const void *frame, size_t len, void *opaque)
{
	struct user *u = opaque;

	if (u->from_slirp->len < BATCH_MAX && len <= NETDEV_MAX_FRAME)
		net_frames_add(u->from_slirp, frame, (uint32_t)len);
	return (ssize_t)len;
}

/* What the guest does wrong on its network is between it and libslirp. */
static void on_guest_error(const char *message, void *opaque) { }

static int64_t on_clock(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct user *u = opaque;
	struct user_timer *t = g_new0(struct user_timer, 1);

	*t = (struct user_timer){ -1, id, cb_opaque };
	g_ptr_array_add(u->timers, t);
	return t;
}

static void on_timer_free(void *timer, void *opaque)
{
	g_ptr_array_remove(((struct user *)opaque)->timers, timer);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	((struct user_timer *)timer)->expire_ms = expire_ms;
}

static void on_poll_fd(int fd, void *opaque) { }
static void on_notify(void *opaque) { }
static void on_completed(Slirp *slirp, void *opaque) { }

static const SlirpCb callbacks = {
	.send_packet = on_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
	.init_completed = on_completed,
	.timer_new_opaque = on_timer_new,
};

/* ---- the thread ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	struct pollfd p = { .fd = fd };

	p.events |= events & SLIRP_POLL_IN ? POLLIN : 0;
	p.events |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
	p.events |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
	g_array_append_val(u->fds, p);
	return (int)u->fds->len - 1;
}

static int get_revents(int index, void *opaque)
{
	short r = g_array_index(((struct user *)opaque)->fds, struct pollfd, index).revents;

	return (r & POLLIN ? SLIRP_POLL_IN : 0) | (r & POLLOUT ? SLIRP_POLL_OUT : 0) | (r & POLLPRI ? SLIRP_POLL_PRI : 0) |
	       (r & POLLERR ? SLIRP_POLL_ERR : 0) | (r & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static uint32_t timers_timeout(struct user *u, uint32_t timeout)
{
	int64_t now = on_clock(u) / 1000000;

	for (guint i = 0; i < u->timers->len; i++) {
		struct user_timer *t = g_ptr_array_index(u->timers, i);

		if (t->expire_ms >= 0)
			timeout = (uint32_t)MIN((int64_t)timeout, MAX(t->expire_ms - now, 0));
	}
	return timeout;
}

static void timers_fire(struct user *u)
{
	int64_t now = on_clock(u) / 1000000;

	for (guint i = 0; i < u->timers->len; i++) {
		struct user_timer *t = g_ptr_array_index(u->timers, i);

		if (t->expire_ms >= 0 && t->expire_ms <= now) {
			t->expire_ms = -1;
			slirp_handle_timer(u->slirp, t->id, t->opaque);
		}
	}
}

/* What the card has sent. */
static void feed_slirp(struct user *u)
{
	const uint8_t *frame;
	uint32_t len;
	guint at = 0;

	while ((frame = net_frames_next(u->queue.taken, &at, &len)))
		slirp_input(u->slirp, frame, (int)len);
}

static void to_card(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	netdev_input(opaque, frame, len, o);
}

static void hand_over(struct user *u)
{
	bool took = u->queue.taken->len;
	const uint8_t *frame;
	uint32_t len;
	guint at = 0;

	if (!u->from_slirp->len && !took)
		return;
	pthread_mutex_lock(u->nd.lock);
	while ((frame = net_frames_next(u->from_slirp, &at, &len)))
		net_merge_add(&u->merge, frame, len, u->nd.accepts);
	net_merge_flush(&u->merge);
	if (took)
		netdev_sendable(&u->nd);
	atomic_store(&u->full, !netdev_room(&u->nd));
	pthread_mutex_unlock(u->nd.lock);
	g_byte_array_set_size(u->from_slirp, 0);
}

static void *user_thread(void *opaque)
{
	struct user *u = opaque;

	do {
		struct pollfd wake = { .fd = u->queue.wake_fd, .events = POLLIN };
		uint32_t timeout = 1000;
		bool full = atomic_load(&u->full);
		int n;

		g_array_set_size(u->fds, 0);
		g_array_append_val(u->fds, wake);
		/* A card without room: let the host's sockets fill up instead, so that the senders slow down. */
		if (!full)
			slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
		timeout = timers_timeout(u, timeout);
		n = poll((struct pollfd *)u->fds->data, u->fds->len, net_queue_timeout(&u->queue, (int)timeout));
		if (!full)
			slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
		timers_fire(u);
		if (!net_queue_take(&u->queue))
			return NULL;
		feed_slirp(u);
		hand_over(u);
	} while (true);
}

/* ---- the back end ---- */

static void user_send(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *o)
{
	net_queue_push(&((struct user *)nd)->queue, iov, count, len);
}

static bool user_can_send(struct netdev *nd)
{
	return net_queue_room(&((struct user *)nd)->queue);
}

static void user_resume(struct netdev *nd)
{
	struct user *u = (struct user *)nd;

	atomic_store(&u->full, false);
	net_queue_wake(&u->queue);
}

static void user_set_accepts(struct netdev *nd, unsigned mask) { }

static void user_close(struct netdev *nd)
{
	struct user *u = (struct user *)nd;

	if (u->thread) {
		net_queue_quit(&u->queue);
		pthread_join(u->thread, NULL);
	}
	if (u->slirp)
		slirp_cleanup(u->slirp);
	net_queue_finish(&u->queue);
	net_merge_finish(&u->merge);
	g_array_free(u->fds, TRUE);
	g_ptr_array_free(u->timers, TRUE);
	g_byte_array_free(u->from_slirp, TRUE);
}

/* TCP frames of 64 KiB pass through libslirp whole: NETDEV_CAN_TSO needs no work here. */
static const struct netdev_ops user_ops = { "user", user_send, user_can_send, user_resume, user_set_accepts, user_close };

/* A port that nobody has now: libslirp would not tell which one it got for 0. */
static unsigned free_port(const struct forward *f)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr = f->host };
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	unsigned port = 0;

	if (fd < 0)
		return 0;
	if (!bind(fd, (struct sockaddr *)&sa, sizeof(sa)) && !getsockname(fd, (struct sockaddr *)&sa, &len))
		port = ntohs(sa.sin_port);
	close(fd);
	return port;
}

/* A port that is taken gives way to the next free one. */
static bool add_forward(struct user *u, const char *spec, GString *told, GError **error)
{
	const struct in_addr guest = { 0 }; /* whatever DHCP gave */
	char address[INET_ADDRSTRLEN];
	struct forward f;
	unsigned tries = 0, port;

	if (!forward_parse(spec, &f, error))
		return false;
	port = f.port ? f.port : free_port(&f);
	while (slirp_add_hostfwd(u->slirp, f.udp, f.host, (int)port, guest, f.guest_port)) {
		if (errno != EADDRINUSE || ++tries == PORT_TRIES || ++port > 65535) {
			g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
				    "forward %s: port %u of the host: %s; choose another one", spec, port, g_strerror(errno));
			return false;
		}
	}
	inet_ntop(AF_INET, &f.host, address, sizeof(address));
	g_string_append_printf(told, "%s%s:%u -> guest port %u (%s%s)", told->len ? ", " : "", address, port, f.guest_port,
			       f.udp ? "udp" : "tcp", f.port && port != f.port ? ", the port asked for is taken" : "");
	if (!f.udp && f.guest_port == 22)
		g_string_append_printf(told, ": ssh -p %u USER@%s", port, address);
	return true;
}

static SlirpConfig slirp_config(const struct net_config *c)
{
	SlirpConfig s = {
		.version = 4,
		.restricted = c->restricted,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200),
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.vnameserver.s_addr = htonl(0x0a000203),
		.in6_enabled = true,
		.vprefix_len = 64,
		.vhostname = c->hostname,
		.tftp_path = c->tftp,
		.bootfile = c->bootfile,
	};

	inet_pton(AF_INET6, "fec0::", &s.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &s.vhost6);
	inet_pton(AF_INET6, "fec0::3", &s.vnameserver6);
	return s;
}

struct netdev *user_create(const struct net_config *config, pthread_mutex_t *lock, GError **error)
{
	struct user *u = g_new0(struct user, 1);
	SlirpConfig sc = slirp_config(config);
	GString *told = g_string_new(NULL);

	u->nd.ops = &user_ops;
	u->nd.caps = NETDEV_CAN_TSO;
	u->nd.lock = lock;
	u->fds = g_array_new(FALSE, TRUE, sizeof(struct pollfd));
	u->timers = g_ptr_array_new_with_free_func(g_free);
	u->from_slirp = g_byte_array_new();
	net_merge_init(&u->merge, to_card, &u->nd);
	u->slirp = net_queue_init(&u->queue) ? slirp_new(&sc, &callbacks, u) : NULL;
	if (!u->slirp) {
		g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "user networking: libslirp could not be started");
		goto fail;
	}
	for (char **f = config->forwards; f && *f; f++) {
		if (!add_forward(u, *f, told, error))
			goto fail;
	}
	u->nd.description = g_strdup_printf("user%s%s%s", config->restricted ? " (restricted)" : "", told->len ? ", " : "",
					    told->str);
	if (pthread_create(&u->thread, NULL, user_thread, u)) {
		g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "user networking: no thread could be started");
		goto fail;
	}
	g_string_free(told, TRUE);
	return &u->nd;
fail:
	u->thread = 0;
	g_string_free(told, TRUE);
	netdev_destroy(&u->nd);
	return NULL;
}
