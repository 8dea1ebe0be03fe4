/* Character streams: back pressure, each back end, and stdio in a child process. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "host/chardev.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct guest {
	GByteArray *got;
	size_t room;
};

static size_t guest_room(void *opaque) { return ((struct guest *)opaque)->room; }

static void guest_receive(void *opaque, const uint8_t *data, size_t len)
{
	struct guest *g = opaque;

	g_assert_cmpuint(len, <=, g->room);
	g->room -= len;
	g_byte_array_append(g->got, data, (guint)len);
}

static void attach(struct chardev *cd, struct guest *g, size_t room)
{
	const struct chardev_client client = { guest_room, guest_receive, g };

	g->got = g_byte_array_new();
	g->room = room;
	pthread_mutex_lock(&lock);
	chardev_attach(cd, &client);
	pthread_mutex_unlock(&lock);
}

static void wait_got(struct guest *g, size_t len)
{
	for (unsigned i = 0; i < 500; i++) {
		size_t now;

		pthread_mutex_lock(&lock);
		now = g->got->len;
		pthread_mutex_unlock(&lock);
		if (now >= len)
			return;
		g_usleep(10000);
	}
	g_assert_not_reached();
}

static void expect(int fd, const char *text)
{
	size_t len = strlen(text), n = 0;
	char buf[256];

	g_assert_cmpuint(len, <=, sizeof(buf));
	while (n < len) {
		struct pollfd p = { fd, POLLIN, 0 };
		ssize_t k;

		g_assert_cmpint(poll(&p, 1, 5000), ==, 1);
		k = read(fd, buf + n, len - n);
		g_assert_cmpint(k, >, 0);
		n += (size_t)k;
	}
	g_assert_cmpmem(buf, len, text, len);
}

static void put(struct chardev *cd, const char *text)
{
	chardev_write(cd, (const uint8_t *)text, strlen(text));
}

static void test_memory(void)
{
	struct chardev *cd = chardev_memory_new();
	g_autofree uint8_t *big = g_malloc0(100000);
	struct guest g;
	size_t len;

	put(cd, "one");
	put(cd, "two");
	g_assert_cmpmem(chardev_memory_data(cd, &len), 6, "onetwo", 6);
	g_assert_cmpuint(len, ==, 6);
	attach(cd, &g, 2);
	chardev_input(cd, (const uint8_t *)"hello", 5);
	g_assert_cmpuint(g.got->len, ==, 2);
	g.room = 10;
	chardev_accept_input(cd);
	g_assert_cmpmem(g.got->data, g.got->len, "hello", 5);
	/* Bounded. */
	g.room = 0;
	chardev_input(cd, big, 100000);
	g_assert_cmpuint(cd->pending->len, ==, 65536);
	g_byte_array_unref(g.got);
	chardev_destroy(cd);
	chardev_destroy(NULL);
	chardev_write(NULL, big, 1);
}

static void test_file_and_null(void)
{
	g_autofree char *dir = g_dir_make_tmp("chardev-XXXXXX", NULL), *path = g_build_filename(dir, "log", NULL);
	g_autofree char *spec = g_strconcat("file:", path, NULL), *data = NULL;
	GError *err = NULL;
	struct chardev *cd = chardev_open(spec, &lock, NULL, NULL, &err);

	g_assert_no_error(err);
	put(cd, "boot\n");
	chardev_destroy(cd);
	g_assert_true(g_file_get_contents(path, &data, NULL, NULL));
	g_assert_cmpstr(data, ==, "boot\n");
	cd = chardev_open("none", &lock, NULL, NULL, &err);
	put(cd, "nothing");
	chardev_destroy(cd);
	g_assert_null(chardev_open("file:/nonexistent/x", &lock, NULL, NULL, &err));
	g_assert_nonnull(strstr(err->message, "/nonexistent/x"));
	g_clear_error(&err);
	g_assert_null(chardev_open("bogus", &lock, NULL, NULL, &err));
	g_assert_nonnull(err);
	g_clear_error(&err);
	g_unlink(path);
	g_rmdir(dir);
}

static int dial(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	g_strlcpy(a.sun_path, path, sizeof(a.sun_path));
	g_assert_cmpint(connect(fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
	return fd;
}

static void test_unix(void)
{
	g_autofree char *dir = g_dir_make_tmp("chardev-XXXXXX", NULL), *path = g_build_filename(dir, "s", NULL);
	g_autofree char *spec = g_strconcat("unix:", path, NULL);
	GError *err = NULL;
	struct chardev *cd = chardev_open(spec, &lock, NULL, NULL, &err);
	struct guest g;
	GStatBuf st;
	int fd;

	g_assert_no_error(err);
	g_assert_cmpint(g_stat(path, &st), ==, 0);
	g_assert_cmphex(st.st_mode & 0777 & 077, ==, 0);
	attach(cd, &g, 1000);
	put(cd, "before");
	fd = dial(path);
	expect(fd, "before");
	put(cd, "now");
	expect(fd, "now");
	g_assert_cmpint(write(fd, "keys", 4), ==, 4);
	wait_got(&g, 4);
	/* Taken already: refused. Gone and back: served again. */
	g_assert_null(chardev_open(spec, &lock, NULL, NULL, &err));
	g_assert_nonnull(err);
	g_clear_error(&err);
	close(fd);
	fd = dial(path);
	put(cd, "again");
	expect(fd, "again");
	close(fd);
	chardev_destroy(cd);
	g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
	g_byte_array_unref(g.got);
	g_rmdir(dir);
}

/* Destroyed by a holder of the lock while input waits for that lock. */
static void test_destroy_locked(void)
{
	g_autofree char *dir = g_dir_make_tmp("chardev-XXXXXX", NULL), *path = g_build_filename(dir, "s", NULL);
	g_autofree char *spec = g_strconcat("unix:", path, NULL);
	struct chardev *cd = chardev_open(spec, &lock, NULL, NULL, NULL);
	int fd = dial(path);

	pthread_mutex_lock(&lock);
	g_assert_cmpint(write(fd, "x", 1), ==, 1);
	g_usleep(50000);
	chardev_destroy(cd);
	pthread_mutex_unlock(&lock);
	close(fd);
	g_rmdir(dir);
}

static void test_pty(void)
{
	GError *err = NULL;
	struct chardev *cd = chardev_open("pty", &lock, NULL, NULL, &err);
	struct guest g;
	int fd;

	g_assert_no_error(err);
	g_assert_true(g_str_has_prefix(cd->label, "pty:/dev/"));
	attach(cd, &g, 1000);
	fd = open(cd->label + 4, O_RDWR | O_NOCTTY);
	g_assert_cmpint(fd, >=, 0);
	put(cd, "login: \n");
	expect(fd, "login: \n");
	g_assert_cmpint(write(fd, "\003root\r", 6), ==, 6);
	wait_got(&g, 6);
	g_assert_cmpmem(g.got->data, 6, "\003root\r", 6);
	/* Nobody listens any more: the guest goes on. */
	close(fd);
	for (unsigned i = 0; i < 20000; i++)
		put(cd, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n");
	chardev_destroy(cd);
	g_byte_array_unref(g.got);
}

static bool swallow_x(void *opaque, uint8_t byte)
{
	return byte == 'x';
}

/* In the child: echoes what comes in, until 'q'. */
static void echo_until_q(void)
{
	struct chardev *cd = chardev_open("stdio", &lock, swallow_x, NULL, NULL);
	struct guest g;
	size_t done = 0;

	if (!cd)
		_exit(3);
	attach(cd, &g, 1u << 20);
	put(cd, "ready\n");
	for (bool end = false; !end; g_usleep(1000)) {
		pthread_mutex_lock(&lock);
		if (g.got->len > done)
			chardev_write(cd, g.got->data + done, g.got->len - done);
		done = g.got->len;
		end = done && g.got->data[done - 1] == 'q';
		pthread_mutex_unlock(&lock);
	}
	chardev_destroy(cd);
	exit(0);
}

static void expect_exit(pid_t pid)
{
	int status;

	g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
	g_assert_true(WIFEXITED(status));
	g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

static void test_stdio_pipe(void)
{
	int to[2], from[2];
	pid_t pid;

	g_assert_cmpint(pipe(to), ==, 0);
	g_assert_cmpint(pipe(from), ==, 0);
	pid = fork();
	if (pid == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		close(from[0]);
		alarm(20);
		echo_until_q();
	}
	close(from[1]);
	expect(from[0], "ready\n");
	g_assert_cmpint(write(to[1], "axbxcq", 6), ==, 6);
	expect(from[0], "abcq");
	close(to[0]);
	close(to[1]);
	expect_exit(pid);
	close(from[0]);
}

static void test_stdio_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	struct termios before, t;
	pid_t pid;

	g_assert_cmpint(grantpt(master), ==, 0);
	g_assert_cmpint(unlockpt(master), ==, 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	g_assert_cmpint(slave, >=, 0);
	g_assert_cmpint(tcgetattr(slave, &before), ==, 0);
	pid = fork();
	if (pid == 0) {
		setsid();
		/* Opening makes it the controlling terminal, and us its foreground. */
		dup2(open(ptsname(master), O_RDWR), 0);
		dup2(0, 1);
		alarm(20);
		echo_until_q();
	}
	expect(master, "ready\r\n");
	g_assert_cmpint(tcgetattr(slave, &t), ==, 0);
	g_assert_cmphex(t.c_lflag & (ICANON | ECHO | ISIG), ==, 0);
	/* Raw: Ctrl-c is a byte for the guest, and nothing is echoed but by it. */
	g_assert_cmpint(write(master, "\003xaq", 4), ==, 4);
	expect(master, "\003aq");
	expect_exit(pid);
	g_assert_cmpint(tcgetattr(slave, &t), ==, 0);
	g_assert_cmphex(t.c_lflag, ==, before.c_lflag);
	g_assert_cmphex(t.c_iflag, ==, before.c_iflag);
	close(slave);
	close(master);
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	g_test_init(&argc, &argv, NULL);
	/* First, while this process has no threads that a fork would lose. */
	g_test_add_func("/chardev/stdio-pipe", test_stdio_pipe);
	g_test_add_func("/chardev/stdio-terminal", test_stdio_terminal);
	g_test_add_func("/chardev/memory", test_memory);
	g_test_add_func("/chardev/file", test_file_and_null);
	g_test_add_func("/chardev/unix", test_unix);
	g_test_add_func("/chardev/destroy-locked", test_destroy_locked);
	g_test_add_func("/chardev/pty", test_pty);
	return g_test_run();
}
