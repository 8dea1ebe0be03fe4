/*
 * Pumps a chardev's descriptors on its own thread: the guest never waits for the host. Output
 * is queued (1 MiB, oldest dropped); input is read only as far as the guest has room for it.
 */
#include "host/stream.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

#define QUEUE_MAX (1u << 20)
#define PENDING_MAX (64u << 10)
#define CHUNK 4096u /* PIPE_BUF: a pipe that polls writable takes this much without blocking */
#define FLUSH_MS 1000
#define RETRY_MS 10

struct stream {
	struct chardev cd;
	struct stream_config c;
	pthread_t thread;
	int wake_fd;
	atomic_bool stop;
	bool input_full;      /* pump thread only */
	pthread_mutex_t lock; /* guards out */
	GByteArray *out;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void wake(struct stream *s)
{
	uint64_t one = 1;

	while (write(s->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* The VM lock, unless the stream is being destroyed (perhaps by its holder). */
static bool vm_lock_take(struct stream *s)
{
	while (s->c.lock) {
		struct timespec t;

		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 20 * 1000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_nsec -= 1000000000;
			t.tv_sec++;
		}
		if (pthread_mutex_timedlock(s->c.lock, &t) == 0)
			return true;
		if (atomic_load(&s->stop))
			return false;
	}
	return true;
}

static void vm_lock_drop(struct stream *s)
{
	if (s->c.lock)
		pthread_mutex_unlock(s->c.lock);
}

/* How much the pending buffer still takes. */
static size_t input_room(struct stream *s)
{
	size_t room;

	if (s->c.lossy_input)
		return CHUNK;
	if (!vm_lock_take(s))
		return 0;
	room = s->cd.pending->len < PENDING_MAX ? PENDING_MAX - s->cd.pending->len : 0;
	vm_lock_drop(s);
	return MIN(room, CHUNK);
}

static void deliver(struct stream *s, uint8_t *buf, size_t len)
{
	size_t kept = len;

	if (s->c.filter) {
		kept = 0;
		for (size_t i = 0; i < len; i++)
			if (!s->c.filter(s->c.opaque, buf[i]))
				buf[kept++] = buf[i];
	}
	if (!kept || !vm_lock_take(s))
		return;
	chardev_input(&s->cd, buf, kept);
	vm_lock_drop(s);
}

static void client_gone(struct stream *s)
{
	if (s->c.listen_fd >= 0)
		close(s->c.in_fd);
	if (s->c.listen_fd >= 0 || s->c.socket)
		s->c.out_fd = -1;
	s->c.in_fd = -1;
}

static void pump_in(struct stream *s)
{
	uint8_t buf[CHUNK];
	size_t room = input_room(s);
	ssize_t n;

	s->input_full = room == 0;
	if (!room)
		return;
	n = read(s->c.in_fd, buf, room);
	if (n > 0)
		deliver(s, buf, (size_t)n);
	else if (n == 0 || (errno != EINTR && errno != EAGAIN))
		client_gone(s);
}

static void pump_out(struct stream *s)
{
	uint8_t buf[CHUNK];
	size_t len;
	ssize_t n;

	pthread_mutex_lock(&s->lock);
	len = MIN(s->out->len, CHUNK);
	memcpy(buf, s->out->data, len);
	/* Taken out before the write: stream_write may drop the oldest meanwhile. */
	g_byte_array_remove_range(s->out, 0, (guint)len);
	pthread_mutex_unlock(&s->lock);
	if (!len)
		return;
	n = s->c.socket ? send(s->c.out_fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT) : write(s->c.out_fd, buf, len);
	if (n < 0 && errno != EINTR && errno != EAGAIN) {
		if (!s->c.socket) {
			s->c.out_fd = -1; /* nobody reads any more */
			return;
		}
		client_gone(s); /* the next client gets it */
	}
	n = MAX(n, 0);
	if ((size_t)n == len)
		return;
	pthread_mutex_lock(&s->lock);
	g_byte_array_prepend(s->out, buf + n, (guint)(len - (size_t)n));
	pthread_mutex_unlock(&s->lock);
}

static bool has_output(struct stream *s)
{
	bool any;

	pthread_mutex_lock(&s->lock);
	any = s->out->len != 0;
	pthread_mutex_unlock(&s->lock);
	return any;
}

/* One round of poll; `wait` in ms, -1 for ever. */
static void pump(struct stream *s, int wait, bool reading)
{
	struct pollfd p[4] = { { s->wake_fd, POLLIN, 0 }, { -1, POLLIN, 0 }, { -1, POLLOUT, 0 }, { -1, POLLIN, 0 } };
	uint64_t count;

	if (reading && !s->input_full)
		p[1].fd = s->c.in_fd;
	if (has_output(s))
		p[2].fd = s->c.out_fd;
	if (s->c.in_fd < 0)
		p[3].fd = s->c.listen_fd;
	if (s->input_full && wait < 0)
		wait = RETRY_MS;
	s->input_full = false;
	if (poll(p, ARRAY_LEN(p), wait) <= 0)
		return;
	if (p[0].revents && read(s->wake_fd, &count, sizeof(count)) < 0)
		return;
	if (p[2].revents)
		pump_out(s);
	if (p[1].revents && s->c.in_fd >= 0)
		pump_in(s);
	if (p[3].revents)
		s->c.in_fd = s->c.out_fd = accept4(s->c.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void *stream_thread(void *opaque)
{
	struct stream *s = opaque;
	int64_t deadline;

	while (!atomic_load(&s->stop))
		pump(s, -1, true);
	deadline = now_ms() + (s->c.own_fds ? FLUSH_MS / 4 : FLUSH_MS); /* a pty may have no reader at all */
	while (s->c.out_fd >= 0 && has_output(s) && now_ms() < deadline)
		pump(s, 50, false);
	return NULL;
}

void stream_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	struct stream *s = (struct stream *)cd;
	bool was_empty;

	if (len > QUEUE_MAX) {
		data += len - QUEUE_MAX;
		len = QUEUE_MAX;
	}
	pthread_mutex_lock(&s->lock);
	was_empty = s->out->len == 0;
	if (s->out->len + len > QUEUE_MAX)
		g_byte_array_remove_range(s->out, 0, (guint)(s->out->len + len - QUEUE_MAX));
	g_byte_array_append(s->out, data, (guint)len);
	pthread_mutex_unlock(&s->lock);
	if (was_empty)
		wake(s);
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void stream_destroy(struct chardev *cd)
{
	struct stream *s = (struct stream *)cd;

	atomic_store(&s->stop, true);
	wake(s);
	pthread_join(s->thread, NULL);
	if (s->c.own_fds || s->c.listen_fd >= 0) {
		close_fd(s->c.in_fd);
		if (s->c.out_fd != s->c.in_fd)
			close_fd(s->c.out_fd);
	}
	close_fd(s->c.listen_fd);
	close_fd(s->c.keep_fd);
	close_fd(s->wake_fd);
	if (s->c.unlink_path)
		unlink(s->c.unlink_path);
	g_free(s->c.unlink_path);
	g_byte_array_unref(s->out);
	pthread_mutex_destroy(&s->lock);
	g_free(s);
}

struct chardev *stream_new(const struct stream_config *c)
{
	struct stream *s = g_new0(struct stream, 1);
	sigset_t all, old;

	s->c = *c;
	s->cd.ops = c->ops;
	s->cd.label = c->label;
	s->cd.pending = g_byte_array_new();
	s->out = g_byte_array_new();
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&s->lock, NULL);
	/* Signals are for the main loop and the vCPUs; a blocked SIGPIPE also makes EPIPE harmless. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&s->thread, NULL, stream_thread, s) != 0)
		g_error("cannot start a thread for %s", c->label);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return &s->cd;
}
