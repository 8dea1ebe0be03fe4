/* The VNC display, spoken to as a viewer does: pictures and what changes of them, sizes, keys, pointer, password. */
#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include <rfb/rfb.h>

#include "display/vnc.h"
#include "fake_screen.h"

#define DESKTOP_SIZE (-223)
#define EXTENDED_KEYS (-258)

/* ---- a screen and a sink ---- */

struct rig {
	struct fake_screen screen;
	struct vnc *vnc;
	char *path;
	unsigned watches;
	enum display_change change;
};

static void set_up(struct rig *r, const char *password)
{
	struct vnc_config c = { .source = &r->screen.source, .input = &r->screen.sink, .lock = &r->screen.lock, .name = "machine", .password = password };
	g_autofree char *dir = g_dir_make_tmp("vnc-XXXXXX", NULL);
	g_autofree char *address = NULL;
	GError *error = NULL;

	memset(r, 0, sizeof(*r));
	fake_screen_init(&r->screen);
	r->path = g_build_filename(dir, "s", NULL);
	address = g_strconcat("unix:", r->path, NULL);
	c.address = address;
	r->vnc = vnc_create(&c, &error);
	g_assert_no_error(error);
}

static void take_down(struct rig *r)
{
	g_autofree char *dir = g_path_get_dirname(r->path);

	vnc_destroy(r->vnc);
	g_assert_false(g_file_test(r->path, G_FILE_TEST_EXISTS));
	g_rmdir(dir);
	g_free(r->path);
	fake_screen_finish(&r->screen);
}

/* Waits for what another thread does. */
#define WAIT_FOR(r, condition) do { \
	gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC; \
	bool ok = false; \
	while (!ok) { \
		pthread_mutex_lock(&(r)->screen.lock); \
		ok = (condition); \
		pthread_mutex_unlock(&(r)->screen.lock); \
		g_assert_cmpint(g_get_monotonic_time(), <, end); \
		g_usleep(2000); \
	} \
} while (0)

/* ---- a viewer ---- */

static void get(int fd, void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = recv(fd, (char *)buf + done, len - done, 0);

		g_assert_cmpint(n, >, 0);
		done += (size_t)n;
	}
}

static void put(int fd, const void *buf, size_t len)
{
	g_assert_cmpint(send(fd, buf, len, MSG_NOSIGNAL), ==, len);
}

static int dial(struct rig *r)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	const struct timeval patience = { 10, 0 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(sa.sun_path, r->path);
	g_assert_cmpint(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* Up to the list of security types; returns the only one. */
static uint8_t greet(int fd)
{
	char version[12];
	uint8_t types[2];

	get(fd, version, 12);
	g_assert_cmpmem(version, 12, "RFB 003.008\n", 12);
	put(fd, version, 12);
	get(fd, types, 2);
	g_assert_cmpuint(types[0], ==, 1);
	put(fd, types + 1, 1);
	return types[1];
}

static int join(struct rig *r)
{
	const int32_t encodings[] = { 0, DESKTOP_SIZE, EXTENDED_KEYS };
	uint8_t init[24], message[4 + 12] = { 2, 0, 0, 3 }, answer[4], name[7];
	int fd = dial(r);

	g_assert_cmpuint(greet(fd), ==, 1);
	get(fd, answer, 4);
	g_assert_cmpuint(ld32be(answer), ==, 0);
	put(fd, "\1", 1);
	get(fd, init, 24);
	g_assert_cmpuint(ld32be(init + 20), ==, 7);
	get(fd, name, 7);
	g_assert_cmpmem(name, 7, "machine", 7);
	for (unsigned i = 0; i < 3; i++)
		st32be(message + 4 + 4 * i, (uint32_t)encodings[i]);
	put(fd, message, sizeof(message));
	return fd;
}

static void request(int fd, bool incremental, unsigned w, unsigned h)
{
	uint8_t m[10] = { 3, incremental };

	st16be(m + 6, (uint16_t)w);
	st16be(m + 8, (uint16_t)h);
	put(fd, m, sizeof(m));
}

struct update {
	unsigned rects, area, width, height; /* width: of a new desktop size */
	bool extended_keys;
	uint32_t spot, corner; /* pixels at (100, 50) and (0, 0) where they were sent */
};

/* The server's own format: red is the low byte. */
static uint32_t rgb(const uint8_t *p) { return (uint32_t)p[0] << 16 | p[1] << 8 | p[2]; }

static struct update receive(int fd)
{
	struct update u = { .spot = UINT32_MAX, .corner = UINT32_MAX };
	uint8_t head[4];

	get(fd, head, 4);
	g_assert_cmpuint(head[0], ==, 0);
	u.rects = ld16be(head + 2);
	for (unsigned i = 0; i < u.rects; i++) {
		uint8_t b[12];
		unsigned x, y, w, h;
		int32_t encoding;
		g_autofree uint8_t *pixels = NULL;

		get(fd, b, 12);
		x = ld16be(b);
		y = ld16be(b + 2);
		w = ld16be(b + 4);
		h = ld16be(b + 6);
		encoding = (int32_t)ld32be(b + 8);
		if (encoding == DESKTOP_SIZE) {
			u.width = w;
			u.height = h;
			continue;
		}
		if (encoding == EXTENDED_KEYS) {
			u.extended_keys = true;
			continue;
		}
		g_assert_cmpint(encoding, ==, 0);
		pixels = g_malloc((size_t)w * h * 4);
		get(fd, pixels, (size_t)w * h * 4);
		u.area += w * h;
		if (!x && !y)
			u.corner = rgb(pixels);
		if (x <= 100 && 100 < x + w && y <= 50 && 50 < y + h)
			u.spot = rgb(pixels + ((50 - y) * w + 100 - x) * 4);
	}
	return u;
}

/* Asks until something comes whose field is as wanted. */
#define UPDATE_UNTIL(fd, u, w, h, condition) do { \
	request(fd, true, w, h); \
	u = receive(fd); \
} while (!(condition))

static void test_picture(void)
{
	struct rig r;
	struct update u;
	int fd;

	set_up(&r, NULL);
	fd = join(&r);
	u = receive(fd);
	g_assert_true(u.extended_keys);
	request(fd, false, 640, 480);
	u = receive(fd);
	g_assert_cmpuint(u.area, ==, 640 * 480);
	if (u.corner != 0x112233)
		UPDATE_UNTIL(fd, u, 640, 480, u.corner == 0x112233);
	/* One pixel: one tile. */
	pthread_mutex_lock(&r.screen.lock);
	r.screen.spot = 0xabcdef;
	pthread_mutex_unlock(&r.screen.lock);
	UPDATE_UNTIL(fd, u, 640, 480, u.spot == 0xabcdef);
	g_assert_cmpuint(u.area, ==, 64 * 16);
	/* Another size, which is no multiple of the tiles. */
	pthread_mutex_lock(&r.screen.lock);
	r.screen.width = 1366;
	r.screen.height = 700;
	r.screen.colour = 0x778899;
	pthread_mutex_unlock(&r.screen.lock);
	UPDATE_UNTIL(fd, u, 1366, 700, u.width == 1366);
	g_assert_cmpuint(u.height, ==, 700);
	UPDATE_UNTIL(fd, u, 1366, 700, u.corner == 0x778899);
	close(fd);
	WAIT_FOR(&r, vnc_viewers(r.vnc) == 0);
	take_down(&r);
}

/* Nobody looks: nothing is drawn. */
static void test_idle(void)
{
	struct rig r;
	int fd;
	unsigned before;

	set_up(&r, NULL);
	g_usleep(100000);
	g_assert_cmpuint(r.screen.renders, ==, 0);
	fd = join(&r);
	WAIT_FOR(&r, r.screen.renders > 2);
	close(fd);
	WAIT_FOR(&r, vnc_viewers(r.vnc) == 0);
	g_usleep(50000);
	before = r.screen.renders;
	g_usleep(100000);
	g_assert_cmpuint(r.screen.renders, ==, before);
	take_down(&r);
}

static struct rig *rig_of(void *screen)
{
	return (struct rig *)((char *)screen - offsetof(struct rig, screen));
}

static void watch(void *opaque)
{
	struct rig *r = rig_of(opaque);

	r->watches++;
	r->change = DISPLAY_SAME;
}

static enum display_change changed(void *opaque)
{
	struct rig *r = rig_of(opaque);
	enum display_change change = r->change;

	r->change = DISPLAY_SAME;
	return change;
}

/* A picture that stands still is hardly looked at, but what is written shows; so does what the log has missed. */
static void test_watched(void)
{
	unsigned before;
	struct rig r;
	int fd;

	set_up(&r, NULL);
	pthread_mutex_lock(&r.screen.lock);
	r.change = DISPLAY_WRITTEN;
	r.screen.source.watch = watch;
	r.screen.source.changed = changed;
	pthread_mutex_unlock(&r.screen.lock);
	fd = join(&r);
	WAIT_FOR(&r, r.watches == 1);
	before = r.screen.renders;
	g_usleep(300000);
	g_assert_cmpuint(r.screen.renders, <=, before + 3);
	pthread_mutex_lock(&r.screen.lock);
	before = r.screen.renders;
	r.screen.spot = 0x010203;
	r.change = DISPLAY_WRITTEN;
	pthread_mutex_unlock(&r.screen.lock);
	WAIT_FOR(&r, r.screen.renders > before + 5);
	WAIT_FOR(&r, r.watches == 2);
	pthread_mutex_lock(&r.screen.lock);
	before = r.screen.renders;
	pthread_mutex_unlock(&r.screen.lock);
	/* Now and then, though nothing is told. */
	WAIT_FOR(&r, r.screen.renders > before + 1);
	close(fd);
	WAIT_FOR(&r, vnc_viewers(r.vnc) == 0);
	take_down(&r);
}

static void send_key(int fd, bool down, uint32_t keysym)
{
	uint8_t m[8] = { 4, down };

	st32be(m + 4, keysym);
	put(fd, m, sizeof(m));
}

static void send_extended(int fd, bool down, uint32_t keysym, uint32_t code)
{
	uint8_t m[12] = { 255, 0, 0, down };

	st32be(m + 4, keysym);
	st32be(m + 8, code);
	put(fd, m, sizeof(m));
}

/* Whether the last that was typed is this key, going down ('+') or up ('-'). */
static bool typed(const struct rig *r, char way, int code)
{
	g_autofree char *last = g_strdup_printf("%c%02x ", way, (unsigned)code);

	return g_str_has_suffix(r->screen.keys->str, last);
}

static unsigned count(const struct rig *r, char way)
{
	unsigned n = 0;

	for (const char *at = r->screen.keys->str; *at; at++)
		n += *at == way;
	return n;
}

static void test_keys(void)
{
	static const struct { uint32_t keysym; int code; } syms[] = {
		{ 'a', 0x1e }, { 'A', 0x1e }, { '1', 0x02 }, { '!', 0x02 }, { 0xff0d, 0x1c }, { 0xff51, 0xcb },
		{ 0xffe1, 0x2a }, { 0xffc9, 0x58 }, { 0xff13, INPUT_KEY_PAUSE },
	};
	struct rig r;
	int fd;

	set_up(&r, NULL);
	fd = join(&r);
	for (unsigned i = 0; i < G_N_ELEMENTS(syms); i++) {
		send_key(fd, true, syms[i].keysym);
		WAIT_FOR(&r, typed(&r, '+', syms[i].code));
		send_key(fd, false, syms[i].keysym);
		WAIT_FOR(&r, typed(&r, '-', syms[i].code));
	}
	/* By scancode, whatever the keysym says. */
	send_extended(fd, true, 'q', 0x1e);
	WAIT_FOR(&r, typed(&r, '+', 0x1e));
	send_extended(fd, false, 'q', 0x1e);
	send_extended(fd, true, 0, 0x9d);
	WAIT_FOR(&r, typed(&r, '+', 0x9d));
	send_extended(fd, true, 0, 0x12345);
	send_extended(fd, true, 0, 0xc6);
	WAIT_FOR(&r, typed(&r, '+', INPUT_KEY_PAUSE));
	/* What is held down when the viewer goes comes up: the right control key, and pause. */
	close(fd);
	WAIT_FOR(&r, vnc_viewers(r.vnc) == 0 && count(&r, '+') == count(&r, '-'));
	take_down(&r);
}

static void send_pointer(int fd, uint8_t mask, unsigned x, unsigned y)
{
	uint8_t m[6] = { 5, mask };

	st16be(m + 2, (uint16_t)x);
	st16be(m + 4, (uint16_t)y);
	put(fd, m, sizeof(m));
}

static void test_pointer(void)
{
	struct rig r;
	int fd;

	set_up(&r, NULL);
	fd = join(&r);
	send_pointer(fd, 0, 100, 100);
	send_pointer(fd, 5, 110, 95);
	WAIT_FOR(&r, r.screen.buttons == (INPUT_LEFT | INPUT_RIGHT));
	g_assert_cmpint(r.screen.dx, ==, 10);
	g_assert_cmpint(r.screen.dy, ==, -5);
	send_pointer(fd, 16, 110, 95);
	send_pointer(fd, 0, 110, 95);
	send_pointer(fd, 16, 110, 95);
	WAIT_FOR(&r, r.screen.dz == 2);
	r.screen.tablet = true;
	send_pointer(fd, 0, 639, 0);
	WAIT_FOR(&r, r.screen.x == INPUT_POINTER_MAX && r.screen.y == 0);
	g_assert_cmpint(r.screen.dx, ==, 10);
	close(fd);
	take_down(&r);
}

static void test_password(void)
{
	struct rig r;
	struct vnc_config c = { .address = "0.0.0.0:0", .name = "x" };
	uint8_t challenge[16], result[4];
	GError *error = NULL;
	int fd;

	set_up(&r, "secret");
	fd = dial(&r);
	g_assert_cmpuint(greet(fd), ==, 2);
	get(fd, challenge, 16);
	put(fd, challenge, 16);
	get(fd, result, 4);
	g_assert_cmpuint(ld32be(result), ==, 1);
	close(fd);
	fd = dial(&r);
	g_assert_cmpuint(greet(fd), ==, 2);
	get(fd, challenge, 16);
	rfbEncryptBytes(challenge, "secret");
	put(fd, challenge, 16);
	get(fd, result, 4);
	g_assert_cmpuint(ld32be(result), ==, 0);
	close(fd);
	/* The whole network without a password is refused. */
	c.source = &r.screen.source;
	g_assert_null(vnc_create(&c, &error));
	g_assert_nonnull(strstr(error->message, "password-file"));
	g_clear_error(&error);
	c.address = "nowhere.invalid:1";
	g_assert_null(vnc_create(&c, &error));
	g_clear_error(&error);
	take_down(&r);
}

/* A viewer that asks and does not read holds up nobody. */
static void test_slow_viewer(void)
{
	struct rig r;
	struct update u;
	int slow, fd;

	set_up(&r, NULL);
	r.screen.width = 2048;
	r.screen.height = 1536;
	fd = join(&r);
	UPDATE_UNTIL(fd, u, 640, 480, u.width == 2048);
	slow = join(&r);
	for (unsigned i = 0; i < 20; i++)
		request(slow, false, 2048, 1536);
	g_usleep(100000);
	for (unsigned i = 0; i < 5; i++) {
		pthread_mutex_lock(&r.screen.lock);
		r.screen.spot = 0x10 + i;
		pthread_mutex_unlock(&r.screen.lock);
		UPDATE_UNTIL(fd, u, 2048, 1536, u.spot == 0x10 + i);
	}
	/* It is gone when the screen changes its size and it still has not read. */
	pthread_mutex_lock(&r.screen.lock);
	r.screen.width = 800;
	pthread_mutex_unlock(&r.screen.lock);
	UPDATE_UNTIL(fd, u, 2048, 1536, u.width == 800);
	WAIT_FOR(&r, vnc_viewers(r.vnc) == 1);
	close(slow);
	close(fd);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vnc/picture", test_picture);
	g_test_add_func("/vnc/idle", test_idle);
	g_test_add_func("/vnc/watched", test_watched);
	g_test_add_func("/vnc/keys", test_keys);
	g_test_add_func("/vnc/pointer", test_pointer);
	g_test_add_func("/vnc/password", test_password);
	g_test_add_func("/vnc/slow-viewer", test_slow_viewer);
	return g_test_run();
}
