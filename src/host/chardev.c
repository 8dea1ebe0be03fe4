/* Character streams: the part common to all back ends, and opening them by name. */
#include "host/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "host/stream.h"
#include "host/tty.h"

#define PENDING_MAX (64u << 10)

void chardev_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	if (cd && len)
		cd->ops->write(cd, data, len);
}

void chardev_attach(struct chardev *cd, const struct chardev_client *client)
{
	if (!cd)
		return;
	cd->client = client ? *client : (struct chardev_client){ 0 };
	chardev_accept_input(cd);
}

void chardev_accept_input(struct chardev *cd)
{
	uint8_t chunk[256];

	while (cd && cd->client.receive && cd->pending->len) {
		size_t room = cd->client.can_receive ? cd->client.can_receive(cd->client.opaque) : sizeof(chunk);
		size_t n = MIN(MIN(room, sizeof(chunk)), cd->pending->len);

		if (!n)
			return;
		/* Taken out first: the client may come back here from within receive. */
		memcpy(chunk, cd->pending->data, n);
		g_byte_array_remove_range(cd->pending, 0, (guint)n);
		cd->client.receive(cd->client.opaque, chunk, n);
	}
}

void chardev_input(struct chardev *cd, const uint8_t *data, size_t len)
{
	size_t room = cd->pending->len < PENDING_MAX ? PENDING_MAX - cd->pending->len : 0;

	g_byte_array_append(cd->pending, data, (guint)MIN(len, room));
	chardev_accept_input(cd);
}

void chardev_destroy(struct chardev *cd)
{
	GByteArray *pending;
	char *label;

	if (!cd)
		return;
	pending = cd->pending;
	label = cd->label;
	cd->ops->destroy(cd);
	g_byte_array_unref(pending);
	g_free(label);
}

/* Back ends without a thread: nothing, a file, a test's buffer. */
struct plain {
	struct chardev cd;
	int fd;
	GByteArray *data;
};

static void plain_destroy(struct chardev *cd)
{
	struct plain *p = (struct plain *)cd;

	if (p->fd >= 0)
		close(p->fd);
	if (p->data)
		g_byte_array_unref(p->data);
	g_free(p);
}

static struct plain *plain_new(const struct chardev_ops *ops, char *label)
{
	struct plain *p = g_new0(struct plain, 1);

	p->cd.ops = ops;
	p->cd.pending = g_byte_array_new();
	p->cd.label = label;
	p->fd = -1;
	return p;
}

static void null_write(struct chardev *cd, const uint8_t *data, size_t len)
{
}

static const struct chardev_ops null_ops = { "null", null_write, plain_destroy };

static void file_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	struct plain *p = (struct plain *)cd;

	while (len) {
		ssize_t n = write(p->fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* the disk is full: what does not fit is lost, as on a printer without paper */
		data += n;
		len -= (size_t)n;
	}
}

static const struct chardev_ops file_ops = { "file", file_write, plain_destroy };

static void memory_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	g_byte_array_append(((struct plain *)cd)->data, data, (guint)len);
}

static const struct chardev_ops memory_ops = { "memory", memory_write, plain_destroy };

struct chardev *chardev_memory_new(void)
{
	struct plain *p = plain_new(&memory_ops, g_strdup("memory"));

	p->data = g_byte_array_new();
	return &p->cd;
}

const uint8_t *chardev_memory_data(struct chardev *cd, size_t *len)
{
	struct plain *p = (struct plain *)cd;

	*len = p->data->len;
	return p->data->data;
}

static void stdio_destroy(struct chardev *cd)
{
	stream_destroy(cd);
	tty_raw_leave();
}

static const struct chardev_ops stdio_ops = { "stdio", stream_write, stdio_destroy };
static const struct chardev_ops stdio_plain_ops = { "stdio", stream_write, stream_destroy };
static const struct chardev_ops pty_ops = { "pty", stream_write, stream_destroy };
static const struct chardev_ops unix_ops = { "unix", stream_write, stream_destroy };

static struct chardev *fail(GError **error, const char *spec, const char *what)
{
	g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "%s: %s: %s", spec, what, g_strerror(errno));
	return NULL;
}

static struct chardev *open_file(const char *spec, const char *path, GError **error)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	struct plain *p;

	if (fd < 0)
		return fail(error, spec, "cannot write there");
	p = plain_new(&file_ops, g_strdup(spec));
	p->fd = fd;
	return &p->cd;
}

static struct chardev *open_stdio(struct stream_config *c, GError **error)
{
	bool terminal = tty_usable();

	if (terminal && !tty_raw_enter(NULL, error))
		return NULL;
	c->ops = terminal ? &stdio_ops : &stdio_plain_ops;
	/* A terminal we are not in the foreground of would stop us at the first read. */
	c->in_fd = terminal || !isatty(STDIN_FILENO) ? STDIN_FILENO : -1;
	c->out_fd = STDOUT_FILENO;
	c->lossy_input = terminal;
	c->label = g_strdup("stdio");
	return stream_new(c);
}

static struct chardev *open_pty(struct stream_config *c, const char *spec, GError **error)
{
	char name[64];
	struct termios t;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), slave = -1;

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, name, sizeof(name)) != 0 ||
	    (slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		fail(error, spec, "cannot make a pseudo terminal");
		if (master >= 0)
			close(master);
		return NULL;
	}
	if (tcgetattr(slave, &t) == 0) {
		cfmakeraw(&t);
		tcsetattr(slave, TCSANOW, &t);
	}
	c->ops = &pty_ops;
	c->in_fd = c->out_fd = master;
	/* Our own hold on the other side keeps the master from hanging up between users. */
	c->keep_fd = slave;
	c->own_fds = true;
	c->label = g_strdup_printf("pty:%s", name);
	return stream_new(c);
}

/* Removes a socket that nobody listens on any more. */
static void clear_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd;

	if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED)
		unlink(a->sun_path);
	close(fd);
}

static struct chardev *open_unix(struct stream_config *c, const char *spec, const char *path, GError **error)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (!*path || strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		return fail(error, spec, "a socket's path has 1 to 107 characters");
	}
	strcpy(a.sun_path, path);
	clear_stale(&a);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The mode must be right before the name exists: a console is as good as a login. */
	if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
		fail(error, spec, "cannot listen there");
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	c->ops = &unix_ops;
	c->listen_fd = fd;
	c->socket = true;
	c->label = g_strdup(spec);
	c->unlink_path = g_strdup(path);
	return stream_new(c);
}

struct chardev *chardev_open(const char *spec, pthread_mutex_t *lock,
			     bool (*filter)(void *opaque, uint8_t byte), void *opaque, GError **error)
{
	struct stream_config c = { .in_fd = -1, .out_fd = -1, .listen_fd = -1, .keep_fd = -1, .lock = lock };

	if (!strcmp(spec, "none") || !strcmp(spec, "null"))
		return &plain_new(&null_ops, g_strdup("null"))->cd;
	if (g_str_has_prefix(spec, "file:"))
		return open_file(spec, spec + 5, error);
	if (!strcmp(spec, "pty"))
		return open_pty(&c, spec, error);
	if (g_str_has_prefix(spec, "unix:"))
		return open_unix(&c, spec, spec + 5, error);
	if (!strcmp(spec, "stdio")) {
		c.filter = filter;
		c.opaque = opaque;
		return open_stdio(&c, error);
	}
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
		    "unknown console \"%s\"; use none, stdio, pty, file:PATH or unix:PATH", spec);
	return NULL;
}
