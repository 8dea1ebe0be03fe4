/*
 * Packet back ends with raw frames: libslirp's ARP, ping, DHCP, IPv6, TFTP, forwards and restriction; machines joined by a
 * socket; capture files; segmentation and checksums; back pressure.
 */
#include <arpa/inet.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "net/forward.h"
#include "net/merge.h"
#include "net/netdev.h"
#include "net/offload.h"

static const uint8_t my_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

/* A card that keeps what it gets. */
struct card {
	pthread_mutex_t lock;
	struct netdev *nd;
	GPtrArray *frames; /* GBytes */
	bool blocked;
	unsigned can_send_calls;
	struct net_offload last;
};

static bool can_receive(void *o) { return !((struct card *)o)->blocked; }
static void can_send(void *o) { ((struct card *)o)->can_send_calls++; }
static void link_changed(void *o, bool up) { }

static void receive(void *o, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	struct card *c = o;

	c->last = *off;
	g_ptr_array_add(c->frames, g_bytes_new(frame, len));
}

static void card_init(struct card *c)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	c->frames = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
}

static void card_plug(struct card *c, struct netdev *nd)
{
	const struct netdev_client client = { can_receive, receive, can_send, link_changed, c };

	c->nd = nd;
	pthread_mutex_lock(&c->lock);
	netdev_attach(nd, &client);
	pthread_mutex_unlock(&c->lock);
}

static void card_open(struct card *c, const struct net_config *config)
{
	GError *err = NULL;
	struct netdev *nd;

	card_init(c);
	nd = netdev_open(config, &c->lock, &err);
	g_assert_no_error(err);
	card_plug(c, nd);
}

static void card_close(struct card *c)
{
	netdev_destroy(c->nd);
	g_ptr_array_unref(c->frames);
	pthread_mutex_destroy(&c->lock);
}

static void card_send(struct card *c, const void *frame, size_t len)
{
	const struct iovec iov[2] = { { (void *)frame, 14 }, { (uint8_t *)frame + 14, len - 14 } };

	pthread_mutex_lock(&c->lock);
	g_assert_true(netdev_send(c->nd, iov, 2, NULL));
	pthread_mutex_unlock(&c->lock);
}

/* The first frame that fits, within five seconds; the caller's to free. */
static GBytes *card_expect(struct card *c, bool (*fits)(const uint8_t *f, size_t len))
{
	for (gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC; g_get_monotonic_time() < end; g_usleep(2000)) {
		GBytes *found = NULL;

		pthread_mutex_lock(&c->lock);
		while (!found && c->frames->len) {
			GBytes *b = g_bytes_ref(g_ptr_array_index(c->frames, 0));
			gsize len;
			const uint8_t *p = g_bytes_get_data(b, &len);

			g_ptr_array_remove_index(c->frames, 0);
			if (fits(p, len))
				found = b;
			else
				g_bytes_unref(b);
		}
		pthread_mutex_unlock(&c->lock);
		if (found)
			return found;
	}
	g_assert_not_reached();
}

/* ---- frames ---- */

static void put_eth(uint8_t *f, const uint8_t *to, unsigned type)
{
	memcpy(f, to, 6);
	memcpy(f + 6, my_mac, 6);
	st16be(f + 12, (uint16_t)type);
}

static void put_ip(uint8_t *ip, unsigned protocol, uint32_t from, uint32_t to, size_t payload)
{
	memset(ip, 0, 20);
	ip[0] = 0x45;
	st16be(ip + 2, (uint16_t)(20 + payload));
	ip[8] = 64;
	ip[9] = (uint8_t)protocol;
	st32be(ip + 12, from);
	st32be(ip + 16, to);
	st16be(ip + 10, net_sum_finish(net_sum(0, ip, 20)));
}

/* Its checksum is to be put in. */
static void put_udp(uint8_t *udp, unsigned from, unsigned to, size_t len)
{
	st16be(udp, (uint16_t)from);
	st16be(udp + 2, (uint16_t)to);
	st16be(udp + 4, (uint16_t)len);
}

static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };

static size_t make_arp(uint8_t *f, uint32_t target)
{
	static const uint8_t head[8] = { 0, 1, 8, 0, 6, 4, 0, 1 };

	memset(f, 0, 60);
	put_eth(f, broadcast, 0x0806);
	memcpy(f + 14, head, 8);
	memcpy(f + 22, my_mac, 6);
	st32be(f + 28, 0x0a00020f);
	st32be(f + 38, target);
	return 60;
}

static bool is_arp_reply(const uint8_t *f, size_t len) { return len >= 42 && ld16be(f + 12) == 0x0806 && f[21] == 2; }
static bool is_icmp_reply(const uint8_t *f, size_t len) { return len >= 42 && ld16be(f + 12) == 0x0800 && f[23] == 1 && f[34] == 0; }
static bool is_dhcp(const uint8_t *f, size_t len) { return len > 282 && f[23] == 17 && ld16be(f + 34) == 67; }
static bool is_syn(const uint8_t *f, size_t len)
{
	return len >= 54 && ld16be(f + 12) == 0x0800 && f[23] == 6 && (f[47] & 0x12) == 0x02;
}
static bool is_any(const uint8_t *f, size_t len) { return true; }

/* ---- user ---- */

static void learn_gateway(struct card *c, uint8_t *gateway)
{
	uint8_t f[60];
	GBytes *b;

	card_send(c, f, make_arp(f, 0x0a000202));
	b = card_expect(c, is_arp_reply);
	g_assert_cmphex(ld32be((const uint8_t *)g_bytes_get_data(b, NULL) + 28), ==, 0x0a000202);
	memcpy(gateway, (const uint8_t *)g_bytes_get_data(b, NULL) + 22, 6);
	g_bytes_unref(b);
}

static void test_user_arp_and_ping(void)
{
	const struct net_config config = { .kind = NET_USER };
	uint8_t f[98], gateway[6];
	struct card c;
	GBytes *b;

	card_open(&c, &config);
	learn_gateway(&c, gateway);
	put_eth(f, gateway, 0x0800);
	put_ip(f + 14, 1, 0x0a00020f, 0x0a000202, 64);
	memset(f + 34, 0xa5, 64);
	st32be(f + 34, 0x08000000);
	st16be(f + 36, net_sum_finish(net_sum(0, f + 34, 64)));
	card_send(&c, f, 98);
	b = card_expect(&c, is_icmp_reply);
	g_assert_cmpmem((const uint8_t *)g_bytes_get_data(b, NULL) + 42, 56, f + 42, 56);
	g_bytes_unref(b);
	g_assert_cmpuint(netdev_stats(c.nd)->tx_frames, ==, 2);
	g_assert_cmpuint(netdev_stats(c.nd)->rx_frames, >=, 2);
	card_close(&c);
}

static size_t make_dhcp_discover(uint8_t *f)
{
	static const uint8_t options[] = { 0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255 };
	const size_t bootp = 300, udp = 8 + bootp;

	memset(f, 0, 42 + bootp);
	put_eth(f, broadcast, 0x0800);
	put_ip(f + 14, 17, 0, 0xffffffff, udp);
	put_udp(f + 34, 68, 67, udp);
	f[42] = 1;
	f[43] = 1;
	f[44] = 6;
	st32be(f + 46, 0x12345678);
	memcpy(f + 70, my_mac, 6);
	memcpy(f + 42 + 236, options, sizeof(options));
	return 42 + bootp;
}

static const uint8_t *dhcp_option(GBytes *b, uint8_t code)
{
	gsize len;
	const uint8_t *f = g_bytes_get_data(b, &len);

	for (gsize at = 42 + 240; at + 2 <= len && f[at] != 255; at += f[at] ? 2u + f[at + 1] : 1u)
		if (f[at] == code)
			return f + at + 1;
	return NULL;
}

static void test_user_dhcp(void)
{
	const struct net_config config = { .kind = NET_USER, .hostname = (char *)"box", .bootfile = (char *)"pxelinux.0" };
	const uint8_t *option;
	uint8_t f[400];
	struct card c;
	GBytes *b;

	card_open(&c, &config);
	card_send(&c, f, make_dhcp_discover(f));
	b = card_expect(&c, is_dhcp);
	g_assert_cmphex(ld32be((const uint8_t *)g_bytes_get_data(b, NULL) + 58), ==, 0x0a00020f);
	g_assert_cmpstr((const char *)g_bytes_get_data(b, NULL) + 42 + 108, ==, "pxelinux.0");
	option = dhcp_option(b, 3);
	g_assert_nonnull(option);
	g_assert_cmphex(ld32be(option + 1), ==, 0x0a000202);
	option = dhcp_option(b, 12);
	g_assert_nonnull(option);
	g_assert_cmpmem(option + 1, option[0], "box", 3);
	g_bytes_unref(b);
	card_close(&c);
}

/* Two machines ask for the same port: the second gets the next one, and a connection leads to it. */
static void test_user_forward(void)
{
	char *forwards[] = { (char *)"tcp:47622:22", NULL };
	const struct net_config config = { .kind = NET_USER, .forwards = forwards };
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const char *told;
	struct card a, c;
	uint8_t f[60];
	unsigned port;
	GBytes *b;
	int fd;

	card_open(&a, &config);
	card_open(&c, &config);
	g_assert_nonnull(strstr(netdev_describe(a.nd), "127.0.0.1:"));
	told = strstr(netdev_describe(c.nd), "127.0.0.1:");
	g_assert_nonnull(told);
	g_assert_nonnull(strstr(told, "the port asked for is taken"));
	port = (unsigned)atoi(told + 10);
	g_assert_cmpuint(port, >, 47622);
	/* So that libslirp knows where 10.0.2.15 is. */
	card_send(&c, f, make_arp(f, 0x0a000202));
	g_bytes_unref(card_expect(&c, is_arp_reply));
	sa.sin_port = htons((uint16_t)port);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	g_assert_cmpint(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
	b = card_expect(&c, is_syn);
	g_assert_cmpuint(ld16be((const uint8_t *)g_bytes_get_data(b, NULL) + 36), ==, 22);
	g_bytes_unref(b);
	close(fd);
	card_close(&a);
	card_close(&c);
}

/* Any port: the one that was chosen is told. */
static void test_user_any_port(void)
{
	char *forwards[] = { (char *)"udp:0:53", (char *)"tcp:0:80", NULL };
	const struct net_config config = { .kind = NET_USER, .forwards = forwards };
	const char *told;
	struct card c;

	card_open(&c, &config);
	told = strstr(netdev_describe(c.nd), "127.0.0.1:");
	g_assert_nonnull(told);
	g_assert_cmpint(atoi(told + 10), >, 1023);
	told = strstr(told + 1, "127.0.0.1:");
	g_assert_nonnull(told);
	g_assert_cmpint(atoi(told + 10), >, 1023);
	card_close(&c);
}

/* Fills in the transport checksum of a TCP or UDP frame over IPv4 without options. */
static void put_transport_sum(uint8_t *f, size_t payload, unsigned at)
{
	uint8_t pseudo[12] = { 0 };

	memcpy(pseudo, f + 26, 8);
	pseudo[9] = f[23];
	st16be(pseudo + 10, (uint16_t)payload);
	st16be(f + 34 + at, 0);
	st16be(f + 34 + at, net_sum_finish(net_sum(net_sum(0, pseudo, 12), f + 34, payload)));
}

/* Whether a connection of the guest's gets to a server on the host. */
static bool reaches_host(bool restricted)
{
	const struct net_config config = { .kind = NET_USER, .restricted = restricted };
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);
	uint8_t f[60], gateway[6];
	struct card c;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), accepted;

	g_assert_cmpint(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
	g_assert_cmpint(listen(fd, 1), ==, 0);
	g_assert_cmpint(getsockname(fd, (struct sockaddr *)&sa, &len), ==, 0);
	card_open(&c, &config);
	learn_gateway(&c, gateway);
	memset(f, 0, sizeof(f));
	put_eth(f, gateway, 0x0800);
	put_ip(f + 14, 6, 0x0a00020f, 0x0a000202, 20);
	st16be(f + 34, 40000);
	st16be(f + 36, ntohs(sa.sin_port));
	st32be(f + 38, 1);
	f[46] = 0x50;
	f[47] = 2; /* SYN */
	st16be(f + 48, 8192);
	put_transport_sum(f, 20, 16);
	card_send(&c, f, 54);
	/* Frames are taken in order: the connection was begun before this is answered. */
	learn_gateway(&c, gateway);
	accepted = accept(fd, NULL, NULL);
	if (accepted >= 0)
		close(accepted);
	close(fd);
	card_close(&c);
	return accepted >= 0;
}

static void test_user_restrict(void)
{
	g_assert_true(reaches_host(false));
	g_assert_false(reaches_host(true));
}

static bool is_router(const uint8_t *f, size_t len) { return len >= 70 && ld16be(f + 12) == 0x86dd && f[20] == 58 && f[54] == 134; }

/* The router says which prefix is the network's. */
static void test_user_ipv6(void)
{
	static const uint8_t all_routers[6] = { 0x33, 0x33, 0, 0, 0, 2 };
	const struct net_config config = { .kind = NET_USER };
	uint8_t f[62] = { 0 }, pseudo[40] = { 0 };
	bool prefix = false;
	const uint8_t *r;
	struct card c;
	gsize len;
	GBytes *b;

	put_eth(f, all_routers, 0x86dd);
	f[14] = 0x60;
	st16be(f + 18, 8);
	f[20] = 58;
	f[21] = 255;
	/* From fe80::2 to ff02::2: a router solicitation. */
	st16be(f + 22, 0xfe80);
	f[37] = 15;
	st16be(f + 38, 0xff02);
	f[53] = 2;
	f[54] = 133;
	memcpy(pseudo, f + 22, 32);
	pseudo[35] = 8;
	pseudo[39] = 58;
	st16be(f + 56, net_sum_finish(net_sum(net_sum(0, pseudo, 40), f + 54, 8)));
	card_open(&c, &config);
	card_send(&c, f, sizeof(f));
	b = card_expect(&c, is_router);
	r = g_bytes_get_data(b, &len);
	for (gsize at = 70; at + 32 <= len && r[at + 1]; at += r[at + 1] * 8u)
		prefix |= r[at] == 3 && r[at + 2] == 64 && ld32be(r + at + 16) == 0xfec00000;
	g_assert_true(prefix);
	g_bytes_unref(b);
	card_close(&c);
}

static bool is_tftp(const uint8_t *f, size_t len) { return len >= 46 && ld16be(f + 12) == 0x0800 && f[23] == 17 && ld16be(f + 36) == 40001; }

/* Asks for a file; the answer's first 16 bits, 3 (data) or 5 (error), and what follows the next 16. */
static unsigned tftp_get(struct card *c, const uint8_t *gateway, const char *name, char *content, size_t size)
{
	uint8_t f[200] = { 0 };
	const size_t udp = 8 + 2 + strlen(name) + 1 + 6;
	const uint8_t *answer;
	unsigned code;
	GBytes *b;
	gsize len;

	put_eth(f, gateway, 0x0800);
	put_ip(f + 14, 17, 0x0a00020f, 0x0a000202, udp);
	put_udp(f + 34, 40001, 69, udp);
	f[43] = 1;
	strcpy((char *)f + 44, name);
	strcpy((char *)f + 44 + strlen(name) + 1, "octet");
	put_transport_sum(f, udp, 6);
	card_send(c, f, 34 + udp);
	b = card_expect(c, is_tftp);
	answer = g_bytes_get_data(b, &len);
	code = ld16be(answer + 42);
	len = MIN(ld16be(answer + 38) - 12u, size - 1);
	memcpy(content, answer + 46, len);
	content[len] = 0;
	g_bytes_unref(b);
	return code;
}

static void test_user_tftp(void)
{
	g_autofree char *dir = g_dir_make_tmp("guise-net-XXXXXX", NULL), *served = g_build_filename(dir, "served", NULL);
	g_autofree char *inside = g_build_filename(served, "hello", NULL), *outside = g_build_filename(dir, "secret", NULL);
	const struct net_config config = { .kind = NET_USER, .tftp = served };
	uint8_t gateway[6];
	char content[64];
	struct card c;

	g_assert_cmpint(g_mkdir(served, 0700), ==, 0);
	g_assert_true(g_file_set_contents(inside, "a small file", -1, NULL));
	g_assert_true(g_file_set_contents(outside, "none of the guest's", -1, NULL));
	card_open(&c, &config);
	learn_gateway(&c, gateway);
	g_assert_cmpuint(tftp_get(&c, gateway, "hello", content, sizeof(content)), ==, 3);
	g_assert_cmpstr(content, ==, "a small file");
	g_assert_cmpuint(tftp_get(&c, gateway, "../secret", content, sizeof(content)), ==, 5);
	g_assert_cmpuint(tftp_get(&c, gateway, "absent", content, sizeof(content)), ==, 5);
	card_close(&c);
	g_unlink(inside);
	g_unlink(outside);
	g_rmdir(served);
	g_rmdir(dir);
}

static void test_forward_grammar(void)
{
	static const char *const bad[] = { "", "tcp", "tcp:22", "udp::53", "tcp:70000:22", "tcp:1.2.3:80:80", "icmp:1:2", "tcp:-1:22",
					   "tcp:1:0", "tcp:a:b:c:d" };
	struct forward f;
	GError *err = NULL;

	g_assert_true(forward_parse("udp:0.0.0.0:5353:53", &f, NULL));
	g_assert_true(f.udp);
	g_assert_cmpuint(f.host.s_addr, ==, 0);
	g_assert_cmpuint(f.port, ==, 5353);
	g_assert_cmpuint(f.guest_port, ==, 53);
	g_assert_true(forward_parse("tcp:0:80", &f, NULL));
	g_assert_cmphex(ntohl(f.host.s_addr), ==, 0x7f000001);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		g_assert_false(net_forward_check(bad[i], &err));
		g_assert_nonnull(strstr(err->message, "tcp:2222:22"));
		g_clear_error(&err);
	}
}

/* ---- socket ---- */

static void test_socket(void)
{
	g_autofree char *dir = g_dir_make_tmp("guise-net-XXXXXX", NULL);
	g_autofree char *path = g_build_filename(dir, "lan", NULL);
	const struct net_config config = { .kind = NET_SOCKET, .target = path };
	struct card c[3];
	uint8_t f[1514];

	for (unsigned i = 0; i < 3; i++)
		card_open(&c[i], &config);
	g_assert_nonnull(strstr(netdev_describe(c[0].nd), "first"));
	for (unsigned i = 0; i < sizeof(f); i++)
		f[i] = (uint8_t)i;
	/* Relayed from one to the others, and back. */
	for (unsigned from = 0; from < 3; from++) {
		f[0] = (uint8_t)from;
		card_send(&c[from], f, sizeof(f));
		for (unsigned to = 0; to < 3; to++) {
			GBytes *b;

			if (to == from)
				continue;
			b = card_expect(&c[to], is_any);
			g_assert_cmpmem(g_bytes_get_data(b, NULL), g_bytes_get_size(b), f, sizeof(f));
			g_bytes_unref(b);
		}
		g_assert_cmpuint(c[from].frames->len, ==, 0);
	}
	/* The relay ends: one of the two that are left takes its place. */
	card_close(&c[0]);
	for (unsigned i = 0; i < 50 && !c[2].frames->len; i++) {
		card_send(&c[1], f, sizeof(f));
		g_usleep(50000);
	}
	g_bytes_unref(card_expect(&c[2], is_any));
	card_close(&c[1]);
	card_close(&c[2]);
	g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_socket_refused(void)
{
	const struct net_config config = { .kind = NET_SOCKET, .target = (char *)"/nonexistent/lan" };
	struct card c;
	GError *err = NULL;

	card_init(&c);
	g_assert_null(netdev_open(&config, &c.lock, &err));
	g_assert_nonnull(strstr(err->message, "/nonexistent/lan"));
	g_error_free(err);
	g_ptr_array_unref(c.frames);
}

/* ---- what all have in common ---- */

static GPtrArray *sent_frames;

static void sent(void *o, const uint8_t *frame, size_t len) { g_ptr_array_add(sent_frames, g_bytes_new(frame, len)); }

static void memory_open(struct card *c)
{
	card_init(c);
	sent_frames = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
	card_plug(c, netdev_memory_new(sent, NULL));
}

static void memory_close(struct card *c)
{
	card_close(c);
	g_ptr_array_unref(sent_frames);
}

static void test_capture(void)
{
	g_autofree char *dir = g_dir_make_tmp("guise-net-XXXXXX", NULL);
	g_autofree char *path = g_build_filename(dir, "a.pcap", NULL);
	g_autofree char *data = NULL;
	uint8_t f[60] = { 1, 2, 3 };
	struct card c;
	gsize len;

	memory_open(&c);
	g_assert_true(netdev_capture(c.nd, path, NULL));
	card_send(&c, f, 60);
	f[0] = 9;
	netdev_memory_input(c.nd, f, 42);
	g_assert_true(g_file_get_contents(path, &data, &len, NULL));
	g_assert_cmpuint(len, ==, 24 + 16 + 60 + 16 + 42);
	g_assert_cmphex(ld32le(data), ==, 0xa1b23c4d);
	g_assert_cmpuint(ld32le(data + 20), ==, 1);
	g_assert_cmpuint(ld32le(data + 32), ==, 60);
	g_assert_cmpuint(ld32le(data + 36), ==, 60);
	g_assert_cmpuint(data[40], ==, 1);
	g_assert_cmpuint(data[24 + 16 + 60 + 16], ==, 9);
	memory_close(&c);
	g_unlink(path);
	g_rmdir(dir);
}

static void test_waiting(void)
{
	uint8_t f[1500] = { 0 };
	struct card c;

	memory_open(&c);
	/* Frames wait in order, boundedly, and go on when there is room. */
	c.blocked = true;
	for (unsigned i = 0; i < 1000; i++) {
		st16be(f, (uint16_t)i);
		netdev_memory_input(c.nd, f, sizeof(f));
	}
	g_assert_cmpuint(c.frames->len, ==, 0);
	c.blocked = false;
	netdev_accept_input(c.nd);
	g_assert_cmpuint(c.frames->len, >, 300);
	g_assert_cmpuint(c.frames->len, <, 500);
	for (unsigned i = 0; i < c.frames->len; i++)
		g_assert_cmpuint(ld16be(g_bytes_get_data(g_ptr_array_index(c.frames, i), NULL)), ==, i);
	g_assert_cmpuint(netdev_stats(c.nd)->rx_dropped + c.frames->len, ==, 1000);
	/* The other way. */
	netdev_memory_block(c.nd, true);
	g_assert_false(netdev_can_send(c.nd));
	netdev_memory_block(c.nd, false);
	g_assert_cmpuint(c.can_send_calls, ==, 1);
	/* Without a link nothing passes. */
	netdev_set_link(c.nd, false);
	card_send(&c, f, 60);
	netdev_memory_input(c.nd, f, 60);
	g_assert_cmpuint(sent_frames->len, ==, 0);
	g_assert_cmpuint(netdev_stats(c.nd)->tx_dropped, ==, 1);
	memory_close(&c);
}

static bool checksum_right(const uint8_t *f, size_t len)
{
	struct net_headers h;
	uint8_t pseudo[12];

	g_assert_true(net_headers_find(f, len, &h));
	memcpy(pseudo, f + h.ip + 12, 8);
	pseudo[8] = 0;
	pseudo[9] = h.protocol;
	st16be(pseudo + 10, (uint16_t)(len - h.transport));
	return net_sum_finish(net_sum(net_sum(0, pseudo, 12), f + h.transport, len - h.transport)) == 0 &&
	       net_sum_finish(net_sum(0, f + h.ip, 20)) == 0;
}

static size_t make_tcp(uint8_t *f, size_t payload)
{
	put_eth(f, my_mac, 0x0800);
	put_ip(f + 14, 6, 0x0a00020f, 0x0a000202, 20 + payload);
	memset(f + 34, 0, 20);
	st32be(f + 38, 1000);
	f[46] = 0x50;
	f[47] = 0x19; /* FIN, PSH, ACK */
	for (size_t i = 0; i < payload; i++)
		f[54 + i] = (uint8_t)(i * 7);
	return 54 + payload;
}

static void test_segmentation(void)
{
	static uint8_t f[NETDEV_MAX_FRAME];
	struct net_offload o = { .gso_size = 1000 };
	size_t len = make_tcp(f, 2500), at = 0;
	struct iovec iov = { f, len };
	struct card c;

	memory_open(&c);
	g_assert_true(net_tso_prepare(f, len, &o));
	g_assert_cmpuint(o.csum_start, ==, 34);
	g_assert_true(netdev_send(c.nd, &iov, 1, &o));
	g_assert_cmpuint(sent_frames->len, ==, 3);
	for (unsigned i = 0; i < 3; i++) {
		gsize n;
		const uint8_t *s = g_bytes_get_data(g_ptr_array_index(sent_frames, i), &n);

		g_assert_cmpuint(n, ==, 54 + (i < 2 ? 1000 : 500));
		g_assert_true(checksum_right(s, n));
		g_assert_cmpuint(ld32be(s + 38), ==, 1000 + at);
		g_assert_cmphex(s[47], ==, i < 2 ? 0x10 : 0x19);
		g_assert_cmpuint(ld16be(s + 18), ==, i);
		g_assert_cmpmem(s + 54, n - 54, f + 54 + at, n - 54);
		at += n - 54;
	}
	/* Only a checksum. */
	o.gso = 0;
	len = make_tcp(f, 7);
	iov.iov_len = len;
	st16be(f + 50, (uint16_t)(~net_sum_finish(net_sum(6 + 27, f + 26, 8))));
	g_assert_true(netdev_send(c.nd, &iov, 1, &o));
	g_assert_true(checksum_right(g_bytes_get_data(g_ptr_array_index(sent_frames, 3), NULL), len));
	/* Nonsense is refused. */
	o.csum_start = 60;
	g_assert_false(netdev_send(c.nd, &iov, 1, &o));
	o = (struct net_offload){ .flags = NET_NEEDS_CSUM, .gso = NET_GSO_TCP4 };
	g_assert_false(netdev_send(c.nd, &iov, 1, &o));
	o.gso_size = 1;
	f[23] = 17;
	g_assert_false(netdev_send(c.nd, &iov, 1, &o));
	memory_close(&c);
}

struct merged {
	GPtrArray *frames;
	struct net_offload last;
};

static void on_merged(void *o, const uint8_t *frame, size_t len, const struct net_offload *off)
{
	struct merged *m = o;

	m->last = *off;
	g_ptr_array_add(m->frames, g_bytes_new(frame, len));
}

/* A frame cut into segments and joined again is the same; what does not continue is left alone. */
static void test_merge(void)
{
	static uint8_t f[NETDEV_MAX_FRAME];
	struct net_offload o = { .gso_size = 1460 };
	const unsigned all = NET_ACCEPT_CSUM | NET_ACCEPT_TSO4;
	size_t len = make_tcp(f, 1460 * 5 + 100);
	struct iovec iov = { f, len };
	struct merged out = { g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref), { 0 } };
	struct net_merge m;
	struct card c;

	memory_open(&c);
	net_merge_init(&m, on_merged, &out);
	f[47] = 0x18;
	g_assert_true(net_tso_prepare(f, len, &o));
	g_assert_true(netdev_send(c.nd, &iov, 1, &o));
	g_assert_cmpuint(sent_frames->len, ==, 6);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 6; i++) {
			gsize n;
			const uint8_t *s = g_bytes_get_data(g_ptr_array_index(sent_frames, i), &n);

			net_merge_add(&m, s, n, round ? 0 : all);
		}
		net_merge_flush(&m);
		g_assert_cmpuint(out.frames->len, ==, round ? 7 : 1);
		if (round)
			continue;
		g_assert_cmpmem(g_bytes_get_data(g_ptr_array_index(out.frames, 0), NULL), len, f, len);
		g_assert_cmpmem(&out.last, sizeof(o), &o, sizeof(o));
	}
	/* A gap, and another connection. */
	g_ptr_array_set_size(out.frames, 0);
	for (unsigned i = 0; i < 6; i += 2)
		net_merge_add(&m, g_bytes_get_data(g_ptr_array_index(sent_frames, i), NULL), 54 + 1460, all);
	len = make_tcp(f, 1460);
	f[35] = 7;
	net_merge_add(&m, f, len, all);
	net_merge_flush(&m);
	g_assert_cmpuint(out.frames->len, ==, 4);
	net_merge_finish(&m);
	g_ptr_array_unref(out.frames);
	memory_close(&c);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/net/user/arp-and-ping", test_user_arp_and_ping);
	g_test_add_func("/net/user/dhcp", test_user_dhcp);
	g_test_add_func("/net/user/forward", test_user_forward);
	g_test_add_func("/net/user/any-port", test_user_any_port);
	g_test_add_func("/net/user/restrict", test_user_restrict);
	g_test_add_func("/net/user/ipv6", test_user_ipv6);
	g_test_add_func("/net/user/tftp", test_user_tftp);
	g_test_add_func("/net/forward-grammar", test_forward_grammar);
	g_test_add_func("/net/socket", test_socket);
	g_test_add_func("/net/socket-refused", test_socket_refused);
	g_test_add_func("/net/capture", test_capture);
	g_test_add_func("/net/waiting", test_waiting);
	g_test_add_func("/net/segmentation", test_segmentation);
	g_test_add_func("/net/merge", test_merge);
	return g_test_run();
}
