/* Streams to memory, files, pseudo-terminals and sockets. */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/chardev.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct sink {
	GString *got;
	size_t room;
};

static size_t can_receive(void *opaque) { return ((struct sink *)opaque)->room; }

static void receive(void *opaque, const uint8_t *data, size_t len)
{
	struct sink *s = opaque;

	g_assert_cmpuint(len, <=, s->room);
	s->room -= len;
	g_string_append_len(s->got, (const char *)data, (gssize)len);
}

static void wait_for(struct sink *s, const char *text)
{
	for (int i = 0; i < 500; i++) {
		bool done;

		pthread_mutex_lock(&lock);
		done = !strcmp(s->got->str, text);
		pthread_mutex_unlock(&lock);
		if (done)
			return;
		g_usleep(10000);
	}
	g_assert_cmpstr(s->got->str, ==, text);
}

static void test_memory(void)
{
	struct chardev *cd = chardev_memory_new();
	struct sink s = { g_string_new(NULL), 3 };
	const struct chardev_client client = { can_receive, receive, &s };
	uint8_t flood[70000] = { 0 };
	size_t len;

	chardev_attach(cd, &client);
	chardev_write(cd, (const uint8_t *)"out", 3);
	g_assert_cmpmem(chardev_memory_data(cd, &len), 3, "out", 3);
	chardev_input(cd, (const uint8_t *)"abcdef", 6);
	g_assert_cmpstr(s.got->str, ==, "abc");
	s.room = 100;
	chardev_accept_input(cd);
	g_assert_cmpstr(s.got->str, ==, "abcdef");
	s.room = 0;
	chardev_input(cd, flood, sizeof(flood));
	g_assert_cmpuint(cd->pending->len, ==, 65536);
	chardev_destroy(cd);
	g_string_free(s.got, TRUE);
}

static void test_file(void)
{
	g_autofree char *path = g_strdup_printf("%s/guise-chardev-%d", g_get_tmp_dir(), (int)getpid());
	g_autofree char *spec = g_strdup_printf("file:%s", path);
	g_autofree char *text = NULL;
	GError *err = NULL;
	struct chardev *cd = chardev_open(spec, &lock, NULL, NULL, NULL);

	chardev_write(cd, (const uint8_t *)"hello", 5);
	chardev_destroy(cd);
	g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
	g_assert_cmpstr(text, ==, "hello");
	g_unlink(path);
	g_assert_null(chardev_open("file:/nonexistent/x", &lock, NULL, NULL, &err));
	g_assert_nonnull(strstr(err->message, "/nonexistent/x"));
	g_error_free(err);
}

static void test_pty(void)
{
	struct chardev *cd = chardev_open("pty", &lock, NULL, NULL, NULL);
	struct sink s = { g_string_new(NULL), 100 };
	const struct chardev_client client = { can_receive, receive, &s };
	char buf[8] = { 0 };
	int fd;

	g_assert_nonnull(cd);
	g_assert_true(g_str_has_prefix(cd->label, "pty:/dev/"));
	chardev_attach(cd, &client);
	fd = open(cd->label + 4, O_RDWR | O_NOCTTY);
	g_assert_cmpint(fd, >=, 0);
	g_assert_cmpint(write(fd, "in\n", 3), ==, 3);
	wait_for(&s, "in\n");
	chardev_write(cd, (const uint8_t *)"out", 3);
	g_assert_cmpint(read(fd, buf, sizeof(buf)), ==, 3);
	g_assert_cmpstr(buf, ==, "out");
	close(fd);
	chardev_destroy(cd);
	g_string_free(s.got, TRUE);
}

static void test_unix(void)
{
	g_autofree char *path = g_strdup_printf("%s/guise-chardev-%d.sock", g_get_tmp_dir(), (int)getpid());
	g_autofree char *spec = g_strdup_printf("unix:%s", path);
	struct chardev *cd = chardev_open(spec, &lock, NULL, NULL, NULL);
	struct sink s = { g_string_new(NULL), 100 };
	const struct chardev_client client = { can_receive, receive, &s };
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	g_assert_nonnull(cd);
	chardev_attach(cd, &client);
	g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
	/* A second client after the first has gone. */
	for (int round = 0; round < 2; round++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
		g_assert_cmpint(write(fd, "x", 1), ==, 1);
		wait_for(&s, round ? "xx" : "x");
		close(fd);
	}
	chardev_write(cd, (const uint8_t *)"nobody hears", 12);
	chardev_destroy(cd);
	g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
	g_string_free(s.got, TRUE);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/chardev/memory", test_memory);
	g_test_add_func("/chardev/file", test_file);
	g_test_add_func("/chardev/pty", test_pty);
	g_test_add_func("/chardev/unix", test_unix);
	return g_test_run();
}
