/* The virtio network card on a back end in memory: frames, offloads, merged buffers, filters, pairs, link, state. */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_net.h"
#include "device_state.h"
#include "net/backend.h"
#include "net/offload.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)
#define HEADER 12u

#define F_CSUM (UINT64_C(1) << 0)
#define F_GUEST_CSUM (UINT64_C(1) << 1)
#define F_GUEST_OFFLOADS (UINT64_C(1) << 2)
#define F_MAC (UINT64_C(1) << 5)
#define F_GUEST_TSO4 (UINT64_C(1) << 7)
#define F_HOST_TSO4 (UINT64_C(1) << 11)
#define F_MRG (UINT64_C(1) << 15)
#define F_STATUS (UINT64_C(1) << 16)
#define F_CTRL (UINT64_C(1) << 17)
#define F_CTRL_RX (UINT64_C(1) << 18)
#define F_CTRL_VLAN (UINT64_C(1) << 19)
#define F_ANNOUNCE (UINT64_C(1) << 21)
#define F_MQ (UINT64_C(1) << 22)
#define F_CTRL_MAC (UINT64_C(1) << 23)

static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

struct rig {
	struct drv d;
	struct netdev *nd;
	struct virtio_net *n;
	GPtrArray *sent; /* GByteArray */
	uint64_t page;
	unsigned control;
};

static void frame_sent(void *opaque, const uint8_t *frame, size_t len)
{
	GByteArray *copy = g_byte_array_new();

	g_byte_array_append(copy, frame, (guint)len);
	g_ptr_array_add(((struct rig *)opaque)->sent, copy);
}

static void free_frame(void *p) { g_byte_array_unref(p); }

static void start(struct rig *r, uint64_t features, unsigned pairs)
{
	g_assert_true(drv_negotiate(&r->d, F_VERSION_1 | features));
	for (unsigned i = 0; i < 2 * pairs + 1; i++)
		drv_queue_setup(&r->d, i, 16);
	r->control = 2 * pairs;
	drv_ok(&r->d);
}

static void set_up(struct rig *r, unsigned pairs)
{
	memset(r, 0, sizeof(*r));
	drv_init(&r->d);
	r->sent = g_ptr_array_new_with_free_func(free_frame);
	r->nd = netdev_memory_new(frame_sent, r);
	r->n = virtio_net_create(r->d.bus, DEVFN, r->d.clock, r->nd, mac, pairs, "net0");
	r->page = drv_alloc(&r->d, 1 << 18, 4096);
	drv_probe(&r->d, DEVFN);
}

static void take_down(struct rig *r)
{
	virtio_net_device(r->n)->ops->destroy(virtio_net_device(r->n));
	netdev_destroy(r->nd);
	drv_finish(&r->d);
	g_ptr_array_unref(r->sent);
}

/* A frame of `len` bytes for `to`, with a counter in it. */
static void make_frame(uint8_t *f, size_t len, const uint8_t to[6])
{
	for (size_t i = 0; i < len; i++)
		f[i] = (uint8_t)(i * 3);
	memcpy(f, to, 6);
	memcpy(f + 6, mac, 6);
	st16be(f + 12, 0x88b5);
}

/* TCP over IPv4 from port `port`, with `payload` bytes; returns its length. */
static size_t make_tcp(uint8_t *f, size_t payload, uint16_t port)
{
	size_t len = 54 + payload;

	make_frame(f, len, mac);
	st16be(f + 12, 0x0800);
	memset(f + 14, 0, 40);
	f[14] = 0x45;
	st16be(f + 16, (uint16_t)(len - 14));
	f[22] = 64;
	f[23] = 6;
	st32be(f + 26, 0x0a000001);
	st32be(f + 30, 0x0a000002);
	st16be(f + 34, port);
	st16be(f + 36, 80);
	f[46] = 0x50;
	f[47] = 0x10;
	return len;
}

static void send_frame(struct rig *r, unsigned pair, const uint8_t *frame, uint32_t len, const struct net_offload *o)
{
	uint8_t h[HEADER] = { 0 };
	struct drv_buf b[2];
	uint32_t id, used;

	if (o) {
		h[0] = o->flags;
		h[1] = o->gso;
		st16le(h + 2, o->header_len);
		st16le(h + 4, o->gso_size);
		st16le(h + 6, o->csum_start);
		st16le(h + 8, o->csum_offset);
	}
	mem_write(r->d.mem, r->page, h, HEADER);
	mem_write(r->d.mem, r->page + HEADER, frame, len);
	b[0] = (struct drv_buf){ r->page, HEADER + 20, false };
	b[1] = (struct drv_buf){ r->page + HEADER + 20, len - 20, false };
	drv_add(&r->d, 2 * pair + 1, b, 2, false);
	drv_kick(&r->d, 2 * pair + 1);
	g_assert_true(drv_used(&r->d, 2 * pair + 1, &id, &used));
}

static void give_buffer(struct rig *r, unsigned pair, uint64_t offset, uint32_t len)
{
	const struct drv_buf b = { r->page + offset, len, true };

	drv_add(&r->d, 2 * pair, &b, 1, false);
}

/* Whether a frame came into the next buffer, which is at `offset`. */
static bool received(struct rig *r, unsigned pair, uint64_t offset, const uint8_t *frame, uint32_t len, uint8_t header[HEADER])
{
	g_autofree uint8_t *got = g_malloc(len + HEADER);
	uint32_t id, used;

	if (!drv_used(&r->d, 2 * pair, &id, &used))
		return false;
	g_assert_cmpuint(used, ==, len + HEADER);
	mem_read(r->d.mem, r->page + offset, got, used);
	g_assert_cmpmem(got + HEADER, len, frame, len);
	memcpy(header, got, HEADER);
	return true;
}

static uint8_t command(struct rig *r, uint8_t class, uint8_t code, const void *data, uint32_t len)
{
	uint8_t head[2] = { class, code };
	uint64_t at = r->page + 0x20000;
	const struct drv_buf b[] = { { at, 2 + len, false }, { at + 0x4000, 1, true } };
	uint32_t id, used;
	uint8_t ack;

	mem_write(r->d.mem, at, head, 2);
	if (len)
		mem_write(r->d.mem, at + 2, data, len);
	drv_add(&r->d, r->control, b, 2, false);
	drv_kick(&r->d, r->control);
	g_assert_true(drv_used(&r->d, r->control, &id, &used));
	mem_read(r->d.mem, at + 0x4000, &ack, 1);
	return ack;
}

static void test_config(void)
{
	struct rig r;

	set_up(&r, 2);
	g_assert_cmphex(pci_config_read(r.d.bus, DEVFN, 0, 4), ==, 0x10411af4);
	g_assert_cmphex(drv_config_read(&r.d, 0, 4), ==, 0x12005452);
	g_assert_cmphex(drv_config_read(&r.d, 4, 4), ==, 0x00015634);
	g_assert_cmpuint(drv_config_read(&r.d, 8, 2), ==, 2);
	g_assert_cmphex(drv_offered(&r.d) & F_MQ, ==, F_MQ);
	start(&r, F_STATUS, 1);
	netdev_set_link(r.nd, false);
	g_assert_cmphex(space_read(r.d.mmio, r.d.isr, 1), ==, 2);
	g_assert_cmpuint(drv_config_read(&r.d, 6, 2), ==, 0);
	netdev_set_link(r.nd, true);
	g_assert_cmpuint(drv_config_read(&r.d, 6, 2), ==, 1);
	take_down(&r);
}

static void test_send(void)
{
	struct rig r;
	uint8_t f[1514];
	GByteArray *a;
	struct net_offload o = { .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 };
	uint32_t id, used;
	const struct drv_buf short_header = { 0, 11, false };

	set_up(&r, 1);
	start(&r, F_CSUM, 1);
	make_frame(f, sizeof(f), mac);
	send_frame(&r, 0, f, sizeof(f), NULL);
	g_assert_cmpuint(r.sent->len, ==, 1);
	a = r.sent->pdata[0];
	g_assert_cmpmem(a->data, a->len, f, sizeof(f));
	/* A checksum is made on the way: the sum over everything from csum_start is then all ones. */
	send_frame(&r, 0, f, (uint32_t)make_tcp(f, 100, 1000), &o);
	g_assert_cmpuint(r.sent->len, ==, 2);
	a = r.sent->pdata[1];
	g_assert_cmphex(net_sum_finish(net_sum(0, a->data + 34, a->len - 34)), ==, 0);
	/* Outside of the frame; segmentation that was not negotiated; a header cut short. */
	o.csum_start = 2000;
	send_frame(&r, 0, f, 154, &o);
	o = (struct net_offload){ .flags = NET_NEEDS_CSUM, .gso = NET_GSO_TCP4, .gso_size = 100, .csum_start = 34, .csum_offset = 16 };
	send_frame(&r, 0, f, 154, &o);
	drv_add(&r.d, 1, &short_header, 1, false);
	drv_kick(&r.d, 1);
	g_assert_true(drv_used(&r.d, 1, &id, &used));
	g_assert_cmpuint(r.sent->len, ==, 2);
	g_assert_cmpuint(virtio_net_device(r.n)->guest_errors, ==, 3);
	g_assert_cmphex(drv_status(&r.d), ==, 0x0f);
	take_down(&r);
}

static void test_segmentation(void)
{
	struct rig r;
	g_autofree uint8_t *f = g_malloc(20054);
	const struct net_offload o = { .flags = NET_NEEDS_CSUM, .gso = NET_GSO_TCP4, .header_len = 54, .gso_size = 1448,
				       .csum_start = 34, .csum_offset = 16 };
	size_t total = 0;

	set_up(&r, 1);
	start(&r, F_CSUM | F_HOST_TSO4, 1);
	send_frame(&r, 0, f, (uint32_t)make_tcp(f, 20000, 1000), &o);
	g_assert_cmpuint(r.sent->len, ==, 14);
	for (unsigned i = 0; i < r.sent->len; i++) {
		GByteArray *a = r.sent->pdata[i];

		g_assert_cmpuint(a->len, <=, 54 + 1448);
		g_assert_cmpuint(ld32be(a->data + 38), ==, total);
		g_assert_cmpmem(a->data + 54, a->len - 54, f + 54 + total, a->len - 54);
		total += a->len - 54;
	}
	g_assert_cmpuint(total, ==, 20000);
	take_down(&r);
}

/* The back end is full: what the driver sends stays in its queue. */
static void test_back_pressure(void)
{
	struct rig r;
	uint32_t id, used;
	const struct drv_buf b = { 0, 100, false };

	set_up(&r, 1);
	start(&r, 0, 1);
	netdev_memory_block(r.nd, true);
	drv_add(&r.d, 1, &b, 1, false);
	drv_kick(&r.d, 1);
	g_assert_false(drv_used(&r.d, 1, &id, &used));
	netdev_memory_block(r.nd, false);
	g_assert_true(drv_used(&r.d, 1, &id, &used));
	g_assert_cmpuint(r.sent->len, ==, 1);
	take_down(&r);
}

static void test_receive(void)
{
	struct rig r;
	uint8_t f[1514], h[HEADER];

	set_up(&r, 1);
	make_frame(f, sizeof(f), mac);
	start(&r, 0, 1);
	give_buffer(&r, 0, 0, 2048);
	give_buffer(&r, 0, 2048, 2048);
	netdev_memory_input(r.nd, f, sizeof(f));
	g_assert_true(received(&r, 0, 0, f, sizeof(f), h));
	g_assert_cmpuint(ld16le(h + 10), ==, 1);
	netdev_memory_input(r.nd, f, 60);
	g_assert_true(received(&r, 0, 2048, f, 60, h));
	g_assert_true(r.d.intx);
	/* No buffer: it waits, and another behind it; then both come, in order. */
	netdev_memory_input(r.nd, f, 100);
	netdev_memory_input(r.nd, f, 200);
	g_assert_false(received(&r, 0, 0, f, 100, h));
	give_buffer(&r, 0, 0, 2048);
	give_buffer(&r, 0, 2048, 2048);
	drv_kick(&r.d, 0);
	g_assert_true(received(&r, 0, 0, f, 100, h));
	g_assert_true(received(&r, 0, 2048, f, 200, h));
	/* A buffer too small without merging: that frame is lost, the next one is not. */
	give_buffer(&r, 0, 0, 100);
	netdev_memory_input(r.nd, f, 200);
	g_assert_false(received(&r, 0, 0, f, 200, h));
	netdev_memory_input(r.nd, f, 60);
	g_assert_true(received(&r, 0, 0, f, 60, h));
	take_down(&r);
}

static void test_merged(void)
{
	struct rig r;
	uint8_t f[1514], got[2048];
	uint32_t id, used, total = 0, count = 0;

	set_up(&r, 1);
	make_frame(f, sizeof(f), mac);
	start(&r, F_MRG, 1);
	/* 1526 bytes into buffers of 8 (so that the header is cut), 1000 and 1000. */
	give_buffer(&r, 0, 0, 8);
	give_buffer(&r, 0, 8, 1000);
	drv_kick(&r.d, 0);
	netdev_memory_input(r.nd, f, sizeof(f));
	g_assert_cmpuint(drv_peek16(&r.d, r.d.q[0].device + 2), ==, 0); /* all or nothing */
	give_buffer(&r, 0, 1008, 1000);
	drv_kick(&r.d, 0);
	while (drv_used(&r.d, 0, &id, &used)) {
		total += used;
		count++;
	}
	g_assert_cmpuint(count, ==, 3);
	g_assert_cmpuint(total, ==, sizeof(f) + HEADER);
	mem_read(r.d.mem, r.page, got, total);
	g_assert_cmpuint(ld16le(got + 10), ==, 3);
	g_assert_cmpmem(got + HEADER, sizeof(f), f, sizeof(f));
	take_down(&r);
}

static void test_receive_offload(void)
{
	struct rig r;
	g_autofree uint8_t *f = g_malloc(5054);
	uint8_t h[HEADER], wanted[8] = { 0 };
	struct net_offload o = { .gso_size = 1000 };
	size_t len = make_tcp(f, 5000, 1000);

	set_up(&r, 1);
	start(&r, F_GUEST_CSUM | F_GUEST_TSO4 | F_MRG | F_CTRL | F_GUEST_OFFLOADS, 1);
	g_assert_true(net_tso_prepare(f, len, &o));
	give_buffer(&r, 0, 0, 8192);
	netdev_input(r.nd, f, len, &o);
	g_assert_true(received(&r, 0, 0, f, (uint32_t)len, h));
	g_assert_cmpuint(h[0], ==, 1);
	g_assert_cmpuint(h[1], ==, 1);
	g_assert_cmpuint(ld16le(h + 4), ==, 1000);
	g_assert_cmpuint(ld16le(h + 6), ==, 34);
	/* Turned off again: five frames with checksums. */
	g_assert_cmpuint(command(&r, 5, 0, wanted, 8), ==, 0);
	for (unsigned i = 0; i < 6; i++)
		give_buffer(&r, 0, 2048 * i, 2048);
	netdev_input(r.nd, f, len, &o);
	g_assert_cmpuint(drv_peek16(&r.d, r.d.q[0].device + 2), ==, 6);
	g_assert_cmpuint(mem_read32(r.d.mem, r.page) & 0xffff, ==, 0);
	/* What was not negotiated cannot be turned on. */
	wanted[1] = 1;
	g_assert_cmpuint(command(&r, 5, 0, wanted, 8), ==, 1);
	take_down(&r);
}

static bool passes(struct rig *r, const uint8_t *frame, uint32_t len)
{
	uint32_t id, used;

	netdev_memory_input(r->nd, frame, len);
	if (!drv_used(&r->d, 0, &id, &used))
		return false;
	give_buffer(r, 0, 0, 2048);
	return true;
}

static void test_filters(void)
{
	static const uint8_t other[6] = { 0x52, 0x54, 0, 1, 2, 3 }, group[6] = { 1, 0, 0x5e, 0, 0, 1 },
		all[6] = { 255, 255, 255, 255, 255, 255 }, none[8];
	struct rig r;
	uint8_t mine[60], others[60], groups[60], broadcast[60], tagged[60], table[20], on = 1, off = 0, vlan[2] = { 7, 0 };
	g_autofree uint8_t *many = g_malloc0(8 + 70 * 6);

	set_up(&r, 1);
	start(&r, F_CTRL | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_MAC | F_MAC, 1);
	give_buffer(&r, 0, 0, 2048);
	make_frame(mine, 60, mac);
	make_frame(others, 60, other);
	make_frame(groups, 60, group);
	make_frame(broadcast, 60, all);
	memcpy(tagged, mine, 60);
	st16be(tagged + 12, 0x8100);
	st16be(tagged + 14, 0x6007);
	g_assert_true(passes(&r, others, 60));
	g_assert_cmpuint(command(&r, 0, 0, &off, 1), ==, 0);
	g_assert_true(passes(&r, mine, 60));
	g_assert_true(passes(&r, broadcast, 60));
	g_assert_false(passes(&r, others, 60));
	g_assert_false(passes(&r, groups, 60));
	g_assert_false(passes(&r, tagged, 60));
	g_assert_cmpuint(command(&r, 2, 0, vlan, 2), ==, 0);
	g_assert_true(passes(&r, tagged, 60));
	g_assert_cmpuint(command(&r, 2, 1, vlan, 2), ==, 0);
	g_assert_false(passes(&r, tagged, 60));
	g_assert_cmpuint(command(&r, 0, 1, &on, 1), ==, 0);
	g_assert_true(passes(&r, groups, 60));
	g_assert_cmpuint(command(&r, 0, 1, &off, 1), ==, 0);
	g_assert_cmpuint(command(&r, 0, 5, &on, 1), ==, 0);
	g_assert_false(passes(&r, broadcast, 60));
	/* A table of one and one; then an empty one. */
	st32le(table, 1);
	memcpy(table + 4, other, 6);
	st32le(table + 10, 1);
	memcpy(table + 14, group, 6);
	g_assert_cmpuint(command(&r, 1, 0, table, 20), ==, 0);
	g_assert_true(passes(&r, others, 60));
	g_assert_true(passes(&r, groups, 60));
	g_assert_cmpuint(command(&r, 1, 0, none, 8), ==, 0);
	g_assert_false(passes(&r, others, 60));
	/* More than fit: everything of the kind. */
	st32le(many, 70);
	g_assert_cmpuint(command(&r, 1, 0, many, 8 + 70 * 6), ==, 0);
	g_assert_true(passes(&r, others, 60));
	g_assert_false(passes(&r, groups, 60));
	/* A count that the data does not bear out changes nothing. */
	st32le(table, 0xfffffff0);
	g_assert_cmpuint(command(&r, 1, 0, table, 20), ==, 1);
	g_assert_true(passes(&r, others, 60));
	g_assert_cmpuint(command(&r, 1, 1, other, 6), ==, 0);
	g_assert_cmphex(drv_config_read(&r.d, 2, 4), ==, 0x03020100);
	/* Nonsense. */
	g_assert_cmpuint(command(&r, 0, 6, &on, 1), ==, 1);
	g_assert_cmpuint(command(&r, 0, 0, NULL, 0), ==, 1);
	g_assert_cmpuint(command(&r, 9, 0, &on, 1), ==, 1);
	vlan[1] = 0x10;
	g_assert_cmpuint(command(&r, 2, 0, vlan, 2), ==, 1);
	/* A reset brings the address and the open filter back. */
	start(&r, F_CTRL | F_MAC, 1);
	g_assert_cmphex(drv_config_read(&r.d, 0, 4), ==, 0x12005452);
	give_buffer(&r, 0, 0, 2048);
	g_assert_true(passes(&r, groups, 60));
	take_down(&r);
}

/* Answers come to the queue that asked. */
static void test_pairs(void)
{
	struct rig r;
	uint8_t f[1514], h[HEADER], pairs[2] = { 2, 0 };
	uint32_t len;

	set_up(&r, 2);
	start(&r, F_MQ | F_CTRL, 2);
	len = (uint32_t)make_tcp(f, 10, 4321);
	for (unsigned i = 0; i < 2; i++)
		give_buffer(&r, i, 4096 + 2048 * i, 2048);
	netdev_memory_input(r.nd, f, len);
	g_assert_true(received(&r, 0, 4096, f, len, h));
	give_buffer(&r, 0, 4096, 2048);
	g_assert_cmpuint(command(&r, 4, 0, pairs, 2), ==, 0);
	send_frame(&r, 1, f, len, NULL);
	/* The answer: addresses and ports the other way round. */
	st32be(f + 26, 0x0a000002);
	st32be(f + 30, 0x0a000001);
	st16be(f + 34, 80);
	st16be(f + 36, 4321);
	netdev_memory_input(r.nd, f, len);
	g_assert_false(received(&r, 0, 4096, f, len, h));
	g_assert_true(received(&r, 1, 6144, f, len, h));
	pairs[0] = 3;
	g_assert_cmpuint(command(&r, 4, 0, pairs, 2), ==, 1);
	pairs[0] = 0;
	g_assert_cmpuint(command(&r, 4, 0, pairs, 2), ==, 1);
	take_down(&r);
}

static void test_state(void)
{
	struct rig r;
	GByteArray *saved;
	struct device *dev;
	uint8_t off = 0, mine[60], others[60], pairs[2] = { 2, 0 };
	static const uint8_t other[6] = { 0x52, 0x54, 0, 1, 2, 3 };

	set_up(&r, 2);
	dev = virtio_net_device(r.n);
	start(&r, F_CTRL | F_CTRL_RX | F_MQ | F_MAC | F_GUEST_CSUM | F_STATUS, 2);
	give_buffer(&r, 0, 0, 2048);
	g_assert_cmpuint(command(&r, 0, 0, &off, 1), ==, 0);
	g_assert_cmpuint(command(&r, 4, 0, pairs, 2), ==, 0);
	saved = device_save(dev);
	dev->ops->reset(dev);
	device_check_restore(dev, saved);
	make_frame(mine, 60, mac);
	make_frame(others, 60, other);
	g_assert_false(passes(&r, others, 60));
	g_assert_true(passes(&r, mine, 60));
	/* Where the driver can announce itself, it is asked to. */
	start(&r, F_CTRL | F_ANNOUNCE | F_STATUS, 1);
	saved = device_save(dev);
	g_assert_cmpint(device_restore(dev, saved), ==, 0);
	g_byte_array_unref(saved);
	g_assert_cmpuint(drv_config_read(&r.d, 6, 2), ==, 3);
	g_assert_cmpuint(command(&r, 3, 0, NULL, 0), ==, 0);
	g_assert_cmpuint(drv_config_read(&r.d, 6, 2), ==, 1);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/virtio-net/config", test_config);
	g_test_add_func("/virtio-net/send", test_send);
	g_test_add_func("/virtio-net/segmentation", test_segmentation);
	g_test_add_func("/virtio-net/back-pressure", test_back_pressure);
	g_test_add_func("/virtio-net/receive", test_receive);
	g_test_add_func("/virtio-net/merged", test_merged);
	g_test_add_func("/virtio-net/receive-offload", test_receive_offload);
	g_test_add_func("/virtio-net/filters", test_filters);
	g_test_add_func("/virtio-net/pairs", test_pairs);
	g_test_add_func("/virtio-net/state", test_state);
	return g_test_run();
}
