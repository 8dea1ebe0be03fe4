/*
 * The RTL8139C+ driven as its drivers do: EEPROM, the classic ring and descriptors, the C+ rings
 * with checksums, segmentation and VLAN tags, timer, counters, nonsense from the guest, state.
 */
#include "dev/rtl8139.h"
#include "nic_rig.h"

enum { RX_BUF = 0x10000, TX_BUF = 0x40000, TX_RING = 0x60000, RX_RING = 0x61000, RX_BUFS = 0x100000, DUMP = 0x70000 };

static void start(struct rig *r)
{
	rig_init(r);
	r->pci = rtl8139_pci(rtl8139_create(r->bus, NIC_DEVFN, r->clock, r->nd, nic_mac, "net0"));
	rig_enable(r, 1, 0);
	put(r, 0x37, 1, 0x10);
	g_assert_cmphex(get(r, 0x37, 1), ==, 0x01);
}

static void start_classic(struct rig *r)
{
	start(r);
	put(r, 0x30, 4, RX_BUF);
	put(r, 0x37, 1, 0x0c);
	put(r, 0x44, 4, 0x0000000e); /* 8 KiB, our address, groups, broadcast */
	put(r, 0x3c, 2, 0xffff);
}

static void tx_desc(struct rig *r, unsigned i, uint32_t opts1, uint32_t opts2, uint64_t address)
{
	uint8_t d[16];

	st32le(d, opts1);
	st32le(d + 4, opts2);
	st64le(d + 8, address);
	mem_write(r->mem, TX_RING + i * 16, d, 16);
}

static void start_plus(struct rig *r)
{
	start(r);
	put(r, 0xe0, 2, 0x63); /* both directions, checksums, VLAN */
	put(r, 0x20, 4, TX_RING);
	put(r, 0x24, 4, 0);
	put(r, 0xe4, 4, RX_RING);
	put(r, 0xe8, 4, 0);
	for (unsigned i = 0; i < 8; i++) {
		uint8_t d[16] = { 0 };

		st32le(d, 1u << 31 | (i == 7) << 30 | 1536);
		st64le(d + 8, RX_BUFS + i * 2048);
		mem_write(r->mem, RX_RING + i * 16, d, 16);
	}
	put(r, 0x37, 1, 0x0c);
	put(r, 0x44, 4, 0x0e);
	put(r, 0x3c, 2, 0xffff);
}

static void test_eeprom_and_identity(void)
{
	struct rig r;
	uint16_t word = 0;

	start(&r);
	for (unsigned i = 0; i < 6; i++)
		g_assert_cmphex(get(&r, i, 1), ==, nic_mac[i]);
	g_assert_cmphex(get(&r, 0x40, 4) & 0x7cc00000, ==, 0x74800000);
	put(&r, 0x50, 1, 0x80);
	put(&r, 0x50, 1, 0x88);
	for (int i = 8; i >= 0; i--) {
		uint8_t bit = 0x187 >> i & 1 ? 0x8a : 0x88;

		put(&r, 0x50, 1, bit);
		put(&r, 0x50, 1, bit | 4);
	}
	for (unsigned i = 0; i < 16; i++) {
		put(&r, 0x50, 1, 0x88);
		put(&r, 0x50, 1, 0x8c);
		word = (uint16_t)(word << 1 | (get(&r, 0x50, 1) & 1));
	}
	g_assert_cmphex(word, ==, ld16le(nic_mac));
	/* The address is locked until EECR says otherwise; the I/O window shows the same. */
	put(&r, 0x00, 4, 0);
	g_assert_cmphex(space_read(r.ports, NIC_IO, 4), ==, ld32le(nic_mac));
	put(&r, 0x50, 1, 0xc0);
	put(&r, 0x00, 4, 0);
	g_assert_cmphex(space_read(r.ports, NIC_IO, 4), ==, 0);
	put(&r, 0x50, 1, 0x40);
	g_assert_cmphex(space_read(r.ports, NIC_IO, 4), ==, ld32le(nic_mac));
	rig_finish(&r);
}

static void test_classic_transmit(void)
{
	struct rig r;
	uint8_t f[300];
	size_t len;

	start_classic(&r);
	frame_fill(f, sizeof(f), nic_mac, 0x88b5);
	mem_write(r.mem, TX_BUF, f, sizeof(f));
	for (unsigned i = 0; i < 6; i++) {
		put(&r, 0x20 + 4 * (i & 3), 4, TX_BUF);
		put(&r, 0x10 + 4 * (i & 3), 4, 100 + i);
		g_assert_cmphex(get(&r, 0x10 + 4 * (i & 3), 4), ==, (100 + i) | 1 << 13 | 1 << 15);
	}
	g_assert_cmpuint(r.sent->len, ==, 6);
	g_assert_cmpmem(rig_frame(&r, 5, &len), 105, f, 105);
	g_assert_true(r.irq);
	g_assert_cmphex(get(&r, 0x3e, 2), ==, 0x04);
	put(&r, 0x3e, 2, 0x04);
	g_assert_false(r.irq);
	g_assert_cmphex(get(&r, 0x60, 2), ==, 0xf00f);
	/* Held back, then sent in order. */
	netdev_memory_block(r.nd, true);
	for (unsigned i = 2; i < 6; i++)
		put(&r, 0x10 + 4 * (i & 3), 4, 200 + i);
	g_assert_cmpuint(r.sent->len, ==, 6);
	netdev_memory_block(r.nd, false);
	g_assert_cmpuint(r.sent->len, ==, 10);
	for (unsigned i = 0; i < 4; i++) {
		rig_frame(&r, 6 + i, &len);
		g_assert_cmpuint(len, ==, 202 + i);
	}
	rig_finish(&r);
}

/* Reads the ring as a driver does: header, frame, next doubleword; wraps by hand. */
static uint32_t classic_take(struct rig *r, uint32_t *at, uint8_t *frame)
{
	uint32_t header = mem_read32(r->mem, RX_BUF + *at), len = header >> 16;

	g_assert_cmphex(header & 1, ==, 1);
	for (uint32_t i = 0; i < len; i++)
		mem_read(r->mem, RX_BUF + ((*at + 4 + i) & 0x1fff), frame + i, 1);
	*at = (*at + 4 + len + 3) & ~3u & 0x1fff;
	put(r, 0x38, 2, (uint16_t)(*at - 16));
	return len - 4;
}

static void test_classic_receive(void)
{
	static const uint8_t other[6] = { 0x52, 0x54, 0, 9, 9, 9 }, group[6] = { 1, 0, 0x5e, 0, 0, 1 };
	struct rig r;
	uint8_t f[1514], got[1600];
	uint32_t at = 0;

	start_classic(&r);
	frame_fill(f, sizeof(f), nic_mac, 0x88b5);
	/* Several times round the ring. */
	for (unsigned i = 0; i < 40; i++) {
		uint32_t len = i % 3 ? 1514 - i : 60 + i;

		st16be(f + 14, (uint16_t)i);
		netdev_memory_input(r.nd, f, len);
		g_assert_cmphex(get(&r, 0x37, 1) & 1, ==, 0);
		g_assert_cmpuint(classic_take(&r, &at, got), ==, len);
		g_assert_cmpmem(got, len, f, len);
		g_assert_cmphex(get(&r, 0x37, 1) & 1, ==, 1);
	}
	g_assert_cmphex(get(&r, 0x3e, 2), ==, 1);
	/* Filters: another's, and a group whose hash bit is not set and then set (31 for 01:00:5e:00:00:01). */
	memcpy(f, other, 6);
	netdev_memory_input(r.nd, f, 60);
	memcpy(f, group, 6);
	netdev_memory_input(r.nd, f, 60);
	g_assert_cmphex(get(&r, 0x37, 1) & 1, ==, 1);
	put(&r, 0x08 + 4, 4, 0);
	put(&r, 0x08, 4, 0x80000000);
	netdev_memory_input(r.nd, f, 60);
	g_assert_cmphex(mem_read16(r.mem, RX_BUF + at) & 0x8001, ==, 0x8001);
	classic_take(&r, &at, got);
	/* A full ring holds back; reading on lets more in. */
	memcpy(f, nic_mac, 6);
	for (unsigned i = 0; i < 10; i++)
		netdev_memory_input(r.nd, f, 1514);
	for (unsigned i = 0; i < 10; i++)
		g_assert_cmpuint(classic_take(&r, &at, got), ==, 1514);
	g_assert_cmphex(get(&r, 0x37, 1) & 1, ==, 1);
	rig_finish(&r);
}

static void put_tcp(uint8_t *f, size_t payload)
{
	frame_fill(f, 54 + payload, nic_mac, 0x0800);
	memset(f + 14, 0, 40);
	f[14] = 0x45;
	st16be(f + 16, (uint16_t)(40 + payload));
	f[23] = 6;
	f[22] = 64;
	st32be(f + 26, 0x0a00020f);
	st32be(f + 30, 0x0a000202);
	f[46] = 0x50;
}

static void test_plus_transmit(void)
{
	static uint8_t f[54 + 4000];
	struct rig r;
	const uint8_t *out;
	size_t len, at = 0;

	start_plus(&r);
	put_tcp(f, 4000);
	mem_write(r.mem, TX_BUF, f, sizeof(f));
	/* A large send in two pieces; then checksums and a VLAN tag. */
	tx_desc(&r, 0, 1u << 31 | 1 << 29 | 1 << 27 | 1400 << 16 | 54, 0, TX_BUF);
	tx_desc(&r, 1, 1u << 31 | 1 << 28 | 1 << 27 | 1400 << 16 | 4000, 0, TX_BUF + 54);
	put_tcp(f, 50);
	mem_write(r.mem, TX_BUF + 0x2000, f, 104);
	tx_desc(&r, 2, 1u << 31 | 1 << 30 | 3 << 28 | 1 << 18 | 1 << 16 | 104, 1 << 17 | 0x3412, TX_BUF + 0x2000);
	put(&r, 0xd9, 1, 0x40);
	g_assert_cmpuint(r.sent->len, ==, 4);
	for (unsigned i = 0; i < 3; i++) {
		out = rig_frame(&r, i, &len);
		g_assert_cmpuint(len, ==, 54 + (i < 2 ? 1400 : 1200));
		g_assert_cmpuint(ld32be(out + 38), ==, at);
		at += len - 54;
	}
	out = rig_frame(&r, 3, &len);
	g_assert_cmpuint(len, ==, 108);
	g_assert_cmphex(ld32be(out + 12), ==, 0x81001234);
	g_assert_cmphex(ld16be(out + 28), !=, 0);
	g_assert_cmphex(ld16be(out + 54), !=, 0);
	/* Status takes the place of the offload bits. */
	g_assert_cmphex(mem_read32(r.mem, TX_RING), ==, 1 << 29 | 54);
	g_assert_cmphex(mem_read32(r.mem, TX_RING + 32), ==, 1 << 30 | 3 << 28 | 104);
	g_assert_cmphex(get(&r, 0x3e, 2), ==, 0x84);
	/* The end of the ring leads back to its start. */
	tx_desc(&r, 0, 1u << 31 | 3 << 28 | 104, 0, TX_BUF + 0x2000);
	put(&r, 0xd9, 1, 0x40);
	g_assert_cmpmem(rig_frame(&r, 4, &len), 104, f, 104);
	/* Counters. */
	put(&r, 0x14, 4, 0);
	put(&r, 0x10, 4, DUMP | 8);
	g_assert_cmphex(get(&r, 0x10, 4), ==, DUMP);
	g_assert_cmpuint(mem_read32(r.mem, DUMP), ==, 3);
	rig_finish(&r);
}

static void test_plus_receive(void)
{
	struct rig r;
	uint8_t f[600], got[600];

	start_plus(&r);
	frame_fill(f, sizeof(f), nic_mac, 0x88b5);
	netdev_memory_input(r.nd, f, 600);
	g_assert_cmphex(mem_read32(r.mem, RX_RING), ==, 3u << 28 | 1 << 25 | 604);
	mem_read(r.mem, RX_BUFS, got, 600);
	g_assert_cmpmem(got, 600, f, 600);
	g_assert_true(r.irq);
	/* A tag comes off. */
	frame_fill(f, 100, nic_mac, 0x8100);
	st16be(f + 14, 0x0123);
	netdev_memory_input(r.nd, f, 100);
	g_assert_cmphex(mem_read32(r.mem, RX_RING + 16) & 0x1fff, ==, 100);
	g_assert_cmphex(mem_read32(r.mem, RX_RING + 20), ==, 0x10000 | 0x2301);
	/* Without descriptors frames wait; one that is given back is found without being told. */
	for (unsigned i = 0; i < 10; i++)
		netdev_memory_input(r.nd, f, 100);
	g_assert_cmphex(mem_read32(r.mem, RX_RING + 7 * 16) >> 30, ==, 1);
	mem_write(r.mem, RX_RING, &(uint32_t){ 1u << 31 | 1536 }, 4);
	g_assert_cmphex(mem_read32(r.mem, RX_RING) >> 31, ==, 1);
	clock_advance(r.clock, 5 * NS_PER_SEC / 1000);
	g_assert_cmphex(mem_read32(r.mem, RX_RING) >> 31, ==, 0);
	rig_finish(&r);
}

static void test_timer(void)
{
	struct rig r;

	start_classic(&r);
	put(&r, 0x48, 4, 0);
	put(&r, 0x54, 4, 1000);
	clock_advance(r.clock, 29999);
	g_assert_false(r.irq);
	clock_advance(r.clock, 1);
	g_assert_true(r.irq);
	g_assert_cmphex(get(&r, 0x3e, 2), ==, 0x4000);
	g_assert_cmpuint(get(&r, 0x48, 4), ==, 1000);
	netdev_set_link(r.nd, false);
	g_assert_cmphex(get(&r, 0x3e, 2), ==, 0x4020);
	g_assert_cmphex(get(&r, 0x58, 1) & 4, ==, 4);
	g_assert_cmphex(get(&r, 0x64, 2) & 4, ==, 0);
	rig_finish(&r);
}

static void test_nonsense(void)
{
	struct rig r;
	uint8_t f[100];

	start_classic(&r);
	frame_fill(f, sizeof(f), nic_mac, 0x88b5);
	put(&r, 0x20, 4, 0xfffffff0);
	put(&r, 0x10, 4, 0x1fff);
	put(&r, 0x14, 4, 3);
	put(&r, 0x30, 4, 0xfffff000);
	netdev_memory_input(r.nd, f, sizeof(f));
	put(&r, 0x44, 4, 0x0000180e);
	netdev_memory_input(r.nd, f, sizeof(f));
	put(&r, 0x44, 4, 0x0000000e);
	netdev_memory_input(r.nd, f, sizeof(f));
	g_assert_cmpuint(r.pci->device.guest_errors, >=, 4);
	g_assert_cmpuint(r.sent->len, ==, 0);
	/* A ring of descriptors that never say end of frame, or lie about lengths. */
	put(&r, 0xe0, 2, 3);
	put(&r, 0x20, 4, TX_RING);
	for (unsigned i = 0; i < 64; i++)
		tx_desc(&r, i, 1u << 31 | 0xffff, 0, 0);
	put(&r, 0xd9, 1, 0x40);
	tx_desc(&r, 0, 1u << 31 | 1 << 28 | 1 << 27 | 20, 0, 0);
	put(&r, 0xd9, 1, 0xc0);
	put(&r, 0x20, 4, 0xffffff00);
	put(&r, 0x24, 4, 0xffffffff);
	put(&r, 0xd9, 1, 0x40);
	put(&r, 0xe8, 4, 0xffffffff);
	netdev_memory_input(r.nd, f, sizeof(f));
	g_assert_cmpuint(r.sent->len, ==, 0);
	rig_finish(&r);
}

static void test_state(void)
{
	struct rig r;
	size_t len;

	start_plus(&r);
	tx_desc(&r, 0, 1u << 31 | 1 << 29 | 100, 0, TX_BUF); /* half a frame is in the card */
	put(&r, 0xd9, 1, 0x40);
	put(&r, 0x54, 4, 100000);
	rig_round_trip(&r);
	g_assert_true(r.irq);
	tx_desc(&r, 1, 1u << 31 | 1 << 28 | 100, 0, TX_BUF);
	put(&r, 0xd9, 1, 0x40);
	rig_frame(&r, 0, &len);
	g_assert_cmpuint(len, ==, 200);
	rig_finish(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/rtl8139/eeprom-and-identity", test_eeprom_and_identity);
	g_test_add_func("/rtl8139/classic/transmit", test_classic_transmit);
	g_test_add_func("/rtl8139/classic/receive", test_classic_receive);
	g_test_add_func("/rtl8139/plus/transmit", test_plus_transmit);
	g_test_add_func("/rtl8139/plus/receive", test_plus_receive);
	g_test_add_func("/rtl8139/timer", test_timer);
	g_test_add_func("/rtl8139/nonsense", test_nonsense);
	g_test_add_func("/rtl8139/state", test_state);
	return g_test_run();
}
