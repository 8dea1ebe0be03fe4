/*
 * Virtual machines of one host joined by a Unix stream socket: each frame follows its length, 32 bits
 * big-endian, as QEMU's stream networks and passt frame them. Whoever comes first listens and relays
 * among all; when it ends, one of the others takes its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "net/backend.h"
#include "net/queue.h"

#define MAX_PEERS 64
#define OUT_MAX (2 * 1024 * 1024) /* bytes that wait for a slow peer; frames beyond are lost */
#define IN_CHUNK 65536
#define RETRY_MS 200

struct peer {
	int fd;
	GByteArray *in, *out;
};

struct sock {
	struct netdev nd; /* must be first */
	struct net_queue queue;
	pthread_t thread;
	char *path, *lock_path;
	int listen_fd, lock_fd; /* -1 unless we relay */
	GPtrArray *peers;
	GByteArray *received; /* frames for the card */
	_Atomic bool full;
};

/* ---- who listens ---- */

static bool address(const char *path, struct sockaddr_un *sa)
{
	*sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(sa->sun_path))
		return false;
	strcpy(sa->sun_path, path);
	return true;
}

static void peer_free(void *p)
{
	struct peer *peer = p;

	close(peer->fd);
	g_byte_array_free(peer->in, TRUE);
	g_byte_array_free(peer->out, TRUE);
	g_free(peer);
}

static void peer_add(struct sock *s, int fd)
{
	struct peer *p = g_new0(struct peer, 1);

	*p = (struct peer){ fd, g_byte_array_new(), g_byte_array_new() };
	g_ptr_array_add(s->peers, p);
}

static bool try_connect(struct sock *s)
{
	struct sockaddr_un sa;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && address(s->path, &sa) && !connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		peer_add(s, fd);
		return true;
	}
	if (fd >= 0)
		close(fd);
	return false;
}

/* The lock file says who may replace the socket: an open, locked file that is still in place, or -1. */
static int lock_take(const char *path)
{
	struct stat held, there;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return -1;
	if (!flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &held) && !stat(path, &there) && held.st_ino == there.st_ino)
		return fd;
	close(fd);
	errno = EAGAIN;
	return -1;
}

static bool try_listen(struct sock *s)
{
	struct sockaddr_un sa;
	int fd;

	if (!address(s->path, &sa)) {
		errno = ENAMETOOLONG;
		return false;
	}
	s->lock_fd = lock_take(s->lock_path);
	if (s->lock_fd < 0)
		return false;
	/* Another may have begun to listen just before we got the lock. */
	if (try_connect(s)) {
		close(s->lock_fd);
		s->lock_fd = -1;
		return true;
	}
	unlink(s->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && !bind(fd, (struct sockaddr *)&sa, sizeof(sa)) && !listen(fd, 16)) {
		s->listen_fd = fd;
		return true;
	}
	if (fd >= 0)
		close(fd);
	close(s->lock_fd);
	s->lock_fd = -1;
	return false;
}

static bool join(struct sock *s)
{
	return try_connect(s) || try_listen(s);
}

/* ---- frames ---- */

static void peer_queue(struct peer *p, const uint8_t *frame, uint32_t len)
{
	uint8_t header[4];

	if (p->out->len + len > OUT_MAX)
		return;
	st32be(header, len);
	g_byte_array_append(p->out, header, sizeof(header));
	g_byte_array_append(p->out, frame, len);
}

static void spread(struct sock *s, const struct peer *from, const uint8_t *frame, uint32_t len)
{
	for (guint i = 0; i < s->peers->len; i++) {
		struct peer *p = g_ptr_array_index(s->peers, i);

		if (p != from)
			peer_queue(p, frame, len);
	}
}

/* Whole frames in the input buffer; false when what came is no frame. */
static bool peer_frames(struct sock *s, struct peer *p)
{
	guint at = 0;

	while (p->in->len - at >= 4) {
		uint32_t len = ld32be(p->in->data + at);

		if (len > NETDEV_MAX_FRAME)
			return false;
		if (p->in->len - at - 4 < len)
			break;
		spread(s, p, p->in->data + at + 4, len);
		net_frames_add(s->received, p->in->data + at + 4, len);
		at += 4 + len;
	}
	if (at)
		g_byte_array_remove_range(p->in, 0, at);
	return true;
}

static bool peer_read(struct sock *s, struct peer *p)
{
	uint8_t chunk[IN_CHUNK];
	ssize_t n = recv(p->fd, chunk, sizeof(chunk), 0);

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	g_byte_array_append(p->in, chunk, (guint)n);
	return peer_frames(s, p);
}

static bool peer_flush(struct peer *p)
{
	ssize_t n;

	if (!p->out->len)
		return true;
	n = send(p->fd, p->out->data, p->out->len, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	g_byte_array_remove_range(p->out, 0, (guint)n);
	return true;
}

/* ---- the thread ---- */

static guint poll_set(struct sock *s, struct pollfd *fds)
{
	bool full = atomic_load(&s->full);
	guint n = 0;

	fds[n++] = (struct pollfd){ .fd = s->queue.wake_fd, .events = POLLIN };
	fds[n++] = (struct pollfd){ .fd = s->listen_fd, .events = s->peers->len < MAX_PEERS ? POLLIN : 0 };
	for (guint i = 0; i < s->peers->len; i++) {
		const struct peer *p = g_ptr_array_index(s->peers, i);

		fds[n++] = (struct pollfd){ .fd = p->fd, .events = (short)((full ? 0 : POLLIN) | (p->out->len ? POLLOUT : 0)) };
	}
	return n;
}

static void serve_peers(struct sock *s, const struct pollfd *fds, guint count)
{
	for (guint i = count; i-- > 0;) {
		struct peer *p = g_ptr_array_index(s->peers, i);
		bool alive = !(fds[i].revents & (POLLERR | POLLNVAL));

		if (alive && fds[i].revents & (POLLIN | POLLHUP))
			alive = peer_read(s, p);
		if (!alive)
			g_ptr_array_remove_index(s->peers, i);
	}
}

static void accept_peers(struct sock *s)
{
	int fd;

	while (s->listen_fd >= 0 && s->peers->len < MAX_PEERS &&
	       (fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		peer_add(s, fd);
}

static void send_all(struct sock *s)
{
	const uint8_t *frame;
	uint32_t len;
	guint at = 0;

	while ((frame = net_frames_next(s->queue.taken, &at, &len)))
		spread(s, NULL, frame, len);
	for (guint i = s->peers->len; i-- > 0;) {
		if (!peer_flush(g_ptr_array_index(s->peers, i)))
			g_ptr_array_remove_index(s->peers, i);
	}
}

static void hand_over(struct sock *s)
{
	const uint8_t *frame;
	uint32_t len;
	guint at = 0;

	if (!s->received->len && !s->queue.taken->len)
		return;
	pthread_mutex_lock(s->nd.lock);
	while ((frame = net_frames_next(s->received, &at, &len)))
		netdev_input(&s->nd, frame, len, NULL);
	if (s->queue.taken->len)
		netdev_sendable(&s->nd);
	atomic_store(&s->full, !netdev_room(&s->nd));
	pthread_mutex_unlock(s->nd.lock);
	g_byte_array_set_size(s->received, 0);
}

static void *socket_thread(void *opaque)
{
	struct sock *s = opaque;
	struct pollfd fds[2 + MAX_PEERS];

	for (;;) {
		bool alone = s->listen_fd < 0 && !s->peers->len;
		guint n;

		/* The one who listened has ended. */
		if (alone)
			alone = !join(s);
		n = poll_set(s, fds);
		if (poll(fds, n, net_queue_timeout(&s->queue, alone ? RETRY_MS : -1)) < 0)
			continue;
		serve_peers(s, fds + 2, n - 2);
		if (!net_queue_take(&s->queue))
			return NULL;
		/* Now, so that whoever had connected before a frame was sent gets it. */
		accept_peers(s);
		send_all(s);
		hand_over(s);
	}
}

/* ---- the back end ---- */

static void socket_send(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *o)
{
	net_queue_push(&((struct sock *)nd)->queue, iov, count, len);
}

static bool socket_can_send(struct netdev *nd)
{
	return net_queue_room(&((struct sock *)nd)->queue);
}

static void socket_resume(struct netdev *nd)
{
	struct sock *s = (struct sock *)nd;

	atomic_store(&s->full, false);
	net_queue_wake(&s->queue);
}

static void socket_set_accepts(struct netdev *nd, unsigned mask) { }

static void socket_close(struct netdev *nd)
{
	struct sock *s = (struct sock *)nd;

	if (s->thread) {
		net_queue_quit(&s->queue);
		pthread_join(s->thread, NULL);
	}
	if (s->listen_fd >= 0) {
		unlink(s->path);
		unlink(s->lock_path);
		close(s->listen_fd);
		close(s->lock_fd);
	}
	net_queue_finish(&s->queue);
	g_ptr_array_free(s->peers, TRUE);
	g_byte_array_free(s->received, TRUE);
	g_free(s->path);
	g_free(s->lock_path);
}

static const struct netdev_ops socket_ops = {
	"socket", socket_send, socket_can_send, socket_resume, socket_set_accepts, socket_close,
};

struct netdev *socket_create(const struct net_config *config, pthread_mutex_t *lock, GError **error)
{
	struct sock *s = g_new0(struct sock, 1);
	bool joined = false;

	s->nd.ops = &socket_ops;
	s->nd.lock = lock;
	s->path = g_strdup(config->target);
	s->lock_path = g_strconcat(config->target, ".lock", NULL);
	s->listen_fd = s->lock_fd = -1;
	s->peers = g_ptr_array_new_with_free_func(peer_free);
	s->received = g_byte_array_new();
	/* Two that start at once: one of them waits until the other listens. */
	if (net_queue_init(&s->queue)) {
		for (unsigned i = 0; i < 20 && !(joined = join(s)) && errno == EAGAIN; i++)
			g_usleep(50000);
	}
	if (!joined || pthread_create(&s->thread, NULL, socket_thread, s)) {
		s->thread = 0;
		g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
			    "socket=%s: %s; its folder must exist and be writable", config->target, g_strerror(errno));
		netdev_destroy(&s->nd);
		return NULL;
	}
	s->nd.description = g_strdup_printf("socket %s%s", s->path, s->listen_fd >= 0 ? " (the first here)" : "");
	return &s->nd;
}
