/*
 * The 82540EM driven as its drivers do: EEPROM both ways, PHY, legacy and extended transmission,
 * segmentation, reception with filters and VLAN tags, interrupts, nonsense from the guest, state.
 */
#include "dev/e1000.h"
#include "nic_rig.h"

enum { TX_RING = 0x10000, RX_RING = 0x20000, TX_BUF = 0x40000, RX_BUF = 0x100000, RING = 64 };
enum { R_CTRL = 0, R_STATUS = 8, R_EECD = 0x10, R_EERD = 0x14, R_MDIC = 0x20, R_ICR = 0xc0, R_ITR = 0xc4, R_ICS = 0xc8,
       R_IMS = 0xd0, R_IMC = 0xd8, R_RCTL = 0x100, R_TCTL = 0x400, R_RDBAL = 0x2800, R_RDLEN = 0x2808, R_RDH = 0x2810,
       R_RDT = 0x2818, R_TDBAL = 0x3800, R_TDLEN = 0x3808, R_TDH = 0x3810, R_TDT = 0x3818, R_MTA = 0x5200, R_VFTA = 0x5600 };

static void start(struct rig *r)
{
	rig_init(r);
	r->pci = e1000_pci(e1000_create(r->bus, NIC_DEVFN, r->clock, r->nd, nic_mac, "net0"));
	rig_enable(r, 0, 1);
	put(r, R_TDBAL, 4, TX_RING);
	put(r, R_TDLEN, 4, RING * 16);
	put(r, R_TCTL, 4, 1 << 1 | 1 << 3);
	for (unsigned i = 0; i < RING; i++) {
		uint64_t d[2] = { RX_BUF + i * 2048, 0 };

		mem_write(r->mem, RX_RING + i * 16, d, 16);
	}
	put(r, R_RDBAL, 4, RX_RING);
	put(r, R_RDLEN, 4, RING * 16);
	put(r, R_RDT, 4, RING - 1);
	put(r, R_RCTL, 4, 1 << 1 | 1 << 15);
}

static void describe(struct rig *r, unsigned i, uint64_t address, uint32_t lower, uint32_t upper)
{
	uint8_t d[16];

	st64le(d, address);
	st32le(d + 8, lower);
	st32le(d + 12, upper);
	mem_write(r->mem, TX_RING + i * 16, d, 16);
}

static void test_eeprom(void)
{
	struct rig r;
	uint16_t word = 0, sum = 0;

	start(&r);
	for (unsigned i = 0; i < 64; i++) {
		put(&r, R_EERD, 4, i << 8 | 1);
		g_assert_cmphex(get(&r, R_EERD, 4) & 0x10, ==, 0x10);
		sum = (uint16_t)(sum + (get(&r, R_EERD, 4) >> 16));
	}
	g_assert_cmphex(sum, ==, 0xbaba);
	/* By hand: read word 1 (110 000001), a clock pulse for each bit. */
	put(&r, R_EECD, 4, 1 << 6);
	g_assert_cmphex(get(&r, R_EECD, 4) & 1 << 7, ==, 1 << 7);
	put(&r, R_EECD, 4, 1 << 6 | 2);
	for (int i = 8; i >= 0; i--) {
		uint32_t bit = 0x181 >> i & 1 ? 6 : 2;

		put(&r, R_EECD, 4, 1 << 6 | bit);
		put(&r, R_EECD, 4, 1 << 6 | bit | 1);
	}
	for (unsigned i = 0; i < 16; i++) {
		put(&r, R_EECD, 4, 1 << 6 | 2);
		put(&r, R_EECD, 4, 1 << 6 | 3);
		word = (uint16_t)(word << 1 | (get(&r, R_EECD, 4) >> 3 & 1));
	}
	g_assert_cmphex(word, ==, ld16le(nic_mac + 2));
	rig_finish(&r);
}

static void test_phy_and_link(void)
{
	struct rig r;

	start(&r);
	put(&r, R_MDIC, 4, 2 << 26 | 1 << 21 | 2 << 16);
	g_assert_cmphex(get(&r, R_MDIC, 4), ==, 1u << 28 | 2 << 26 | 1 << 21 | 2 << 16 | 0x0141);
	put(&r, R_MDIC, 4, 2 << 26 | 3 << 21 | 2 << 16);
	g_assert_cmphex(get(&r, R_MDIC, 4) & 1 << 30, ==, 1 << 30);
	g_assert_cmphex(get(&r, R_STATUS, 4) & 2, ==, 2);
	put(&r, R_IMS, 4, 4);
	g_assert_false(r.irq);
	netdev_set_link(r.nd, false);
	g_assert_true(r.irq);
	g_assert_cmphex(get(&r, R_ICR, 4), ==, 4);
	g_assert_false(r.irq);
	g_assert_cmphex(get(&r, R_STATUS, 4) & 2, ==, 0);
	put(&r, R_MDIC, 4, 2 << 26 | 1 << 21 | 1 << 16);
	g_assert_cmphex(get(&r, R_MDIC, 4) & 0x24, ==, 0);
	netdev_set_link(r.nd, true);
	put(&r, R_MDIC, 4, 2 << 26 | 1 << 21 | 1 << 16);
	g_assert_cmphex(get(&r, R_MDIC, 4) & 0x24, ==, 0x24);
	/* The same registers through the I/O window. */
	space_write(r.ports, NIC_IO, 4, R_STATUS);
	g_assert_cmphex(space_read(r.ports, NIC_IO + 4, 4), ==, get(&r, R_STATUS, 4));
	rig_finish(&r);
}

static void test_transmit_legacy(void)
{
	struct rig r;
	uint8_t f[200];
	const uint8_t *out;
	size_t len;

	start(&r);
	frame_fill(f, sizeof(f), nic_mac, 0x88b5);
	mem_write(r.mem, TX_BUF, f, sizeof(f));
	/* One frame in two pieces; a short one, padded; a checksum over bytes 20.. stored at 16. */
	describe(&r, 0, TX_BUF, 100, 0);
	describe(&r, 1, TX_BUF + 100, 100 | 0x0b000000, 0);
	describe(&r, 2, TX_BUF, 20 | 0x09000000, 0);
	describe(&r, 3, TX_BUF, 64 | 16 << 16 | 0x0d000000, 20 << 8);
	put(&r, R_IMS, 4, 1);
	put(&r, R_TDT, 4, 4);
	g_assert_cmpuint(get(&r, R_TDH, 4), ==, 4);
	out = rig_frame(&r, 0, &len);
	g_assert_cmpmem(out, len, f, sizeof(f));
	out = rig_frame(&r, 1, &len);
	g_assert_cmpuint(len, ==, 60);
	g_assert_cmpmem(out, 20, f, 20);
	out = rig_frame(&r, 2, &len);
	g_assert_cmpuint(len, ==, 64);
	g_assert_cmphex(mem_read32(r.mem, TX_RING + 12), ==, 0);
	g_assert_cmphex(mem_read32(r.mem, TX_RING + 28), ==, 1);
	g_assert_true(r.irq);
	g_assert_cmphex(get(&r, R_ICR, 4) & 3, ==, 3);
	g_assert_cmpuint(get(&r, 0x4080, 4), ==, 3);
	g_assert_cmpuint(get(&r, 0x4080, 4), ==, 0);
	rig_finish(&r);
}

static void put_tcp(uint8_t *f, size_t payload)
{
	frame_fill(f, 54 + payload, nic_mac, 0x0800);
	memset(f + 14, 0, 40);
	f[14] = 0x45;
	f[23] = 6;
	f[22] = 64;
	st32be(f + 26, 0x0a00020f);
	st32be(f + 30, 0x0a000202);
	f[46] = 0x50;
	f[47] = 0x18;
}

/* TCP segmentation as Linux sets it up: context, then header and payload in two data descriptors. */
static void test_transmit_tso(void)
{
	struct rig r;
	static uint8_t f[54 + 4000];
	const uint8_t *out;
	size_t len, at = 0;

	start(&r);
	put_tcp(f, 4000);
	mem_write(r.mem, TX_BUF, f, sizeof(f));
	describe(&r, 0, 14 | 24 << 8 | 33 << 16 | UINT64_C(34) << 32 | UINT64_C(50) << 40, 4000 | 0x27u << 24, 54 << 8 | 1460 << 16);
	describe(&r, 1, TX_BUF, 54 | 1 << 20 | 0x24u << 24, 3 << 8);
	describe(&r, 2, TX_BUF + 54, 4000 | 1 << 20 | 0x2du << 24, 3 << 8);
	put(&r, R_TDT, 4, 3);
	g_assert_cmpuint(r.sent->len, ==, 3);
	for (unsigned i = 0; i < 3; i++) {
		out = rig_frame(&r, i, &len);
		g_assert_cmpuint(len, ==, 54 + (i < 2 ? 1460 : 1080));
		g_assert_cmpuint(ld16be(out + 16), ==, len - 14);
		g_assert_cmpuint(ld32be(out + 38), ==, at);
		g_assert_cmpmem(out + 54, len - 54, f + 54 + at, len - 54);
		at += len - 54;
	}
	/* The other context, kept apart: checksums of one frame. */
	g_ptr_array_set_size(r.sent, 0);
	put_tcp(f, 10);
	st16be(f + 16, 50);
	st16be(f + 50, 6 + 30);
	mem_write(r.mem, TX_BUF, f, 64);
	describe(&r, 3, 14 | 24 << 8 | 33 << 16 | UINT64_C(34) << 32 | UINT64_C(50) << 40, 0x23u << 24, 0);
	describe(&r, 4, TX_BUF, 64 | 1 << 20 | 0x29u << 24, 3 << 8);
	put(&r, R_TDT, 4, 5);
	out = rig_frame(&r, 0, &len);
	g_assert_cmpuint(len, ==, 64);
	g_assert_cmphex(ld16be(out + 24), !=, 0);
	g_assert_cmphex(ld16be(out + 50), !=, 36);
	rig_finish(&r);
}

static uint32_t rx_status(struct rig *r, unsigned i) { return mem_read32(r->mem, RX_RING + i * 16 + 12) & 0xff; }
static uint32_t rx_len(struct rig *r, unsigned i) { return mem_read16(r->mem, RX_RING + i * 16 + 8); }

static void test_receive(void)
{
	static const uint8_t other[6] = { 0x52, 0x54, 0, 9, 9, 9 }, group[6] = { 1, 0, 0x5e, 0, 0, 0xfb };
	static const uint8_t all[6] = { 255, 255, 255, 255, 255, 255 };
	struct rig r;
	uint8_t f[1600], got[1600];

	start(&r);
	put(&r, R_IMS, 4, 0x80);
	frame_fill(f, 1514, nic_mac, 0x88b5);
	netdev_memory_input(r.nd, f, 1514);
	g_assert_cmphex(rx_status(&r, 0), ==, 0x07);
	g_assert_cmpuint(rx_len(&r, 0), ==, 1518);
	mem_read(r.mem, RX_BUF, got, 1514);
	g_assert_cmpmem(got, 1514, f, 1514);
	g_assert_true(r.irq);
	g_assert_cmphex(get(&r, R_ICR, 4), ==, 0x80);
	g_assert_false(r.irq);
	/* Not for us; broadcast; a group before and after its hash bit is set. Short ones are padded. */
	memcpy(f, other, 6);
	netdev_memory_input(r.nd, f, 60);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 1);
	memcpy(f, all, 6);
	netdev_memory_input(r.nd, f, 42);
	g_assert_cmpuint(rx_len(&r, 1), ==, 64);
	memcpy(f, group, 6);
	netdev_memory_input(r.nd, f, 60);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 2);
	put(&r, R_MTA + 4 * ((0xfb00 >> 4 & 0xfff) >> 5), 4, 1u << ((0xfb00 >> 4) & 31));
	netdev_memory_input(r.nd, f, 60);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 3);
	g_assert_cmphex(rx_status(&r, 2), ==, 0x87);
	/* Too long without LPE; then over two buffers. */
	memcpy(f, nic_mac, 6);
	netdev_memory_input(r.nd, f, 1600);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 3);
	put(&r, R_RCTL, 4, 1 << 1 | 1 << 15 | 1 << 5 | 1 << 16 | 1 << 26);
	netdev_memory_input(r.nd, f, 1600);
	g_assert_cmphex(rx_status(&r, 3), ==, 0x01);
	g_assert_cmpuint(rx_len(&r, 3), ==, 1024);
	g_assert_cmphex(rx_status(&r, 4), ==, 0x07);
	g_assert_cmpuint(rx_len(&r, 4), ==, 576);
	g_assert_cmpuint(get(&r, 0x4074, 4), ==, 4);
	rig_finish(&r);
}

static void test_receive_vlan(void)
{
	struct rig r;
	uint8_t f[100], got[100];

	start(&r);
	frame_fill(f, 100, nic_mac, 0x8100);
	st16be(f + 14, 0x6123);
	put(&r, R_CTRL, 4, 1 << 30 | 1 << 6);
	put(&r, R_RCTL, 4, 1 << 1 | 1 << 18);
	netdev_memory_input(r.nd, f, 100);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 0);
	put(&r, R_VFTA + 4 * (0x123 >> 5), 4, 1u << (0x123 & 31));
	netdev_memory_input(r.nd, f, 100);
	g_assert_cmphex(rx_status(&r, 0), ==, 0x0f);
	g_assert_cmphex(mem_read16(r.mem, RX_RING + 14), ==, 0x6123);
	g_assert_cmpuint(rx_len(&r, 0), ==, 100);
	mem_read(r.mem, RX_BUF, got, 96);
	g_assert_cmpmem(got + 12, 84, f + 16, 84);
	/* And the tag put in on the way out. */
	mem_write(r.mem, TX_BUF, got, 96);
	describe(&r, 0, TX_BUF, 96 | 0x41000000, 0x6123u << 16);
	put(&r, R_TDT, 4, 1);
	g_assert_cmpmem(rig_frame(&r, 0, &(size_t){ 0 }), 100, f, 100);
	rig_finish(&r);
}

/* A full ring holds frames back until the driver hands buffers over. */
static void test_receive_full(void)
{
	struct rig r;
	uint8_t f[60];

	start(&r);
	frame_fill(f, 60, nic_mac, 0x88b5);
	for (unsigned i = 0; i < 70; i++) {
		st16be(f + 14, (uint16_t)i);
		netdev_memory_input(r.nd, f, 60);
	}
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, RING - 1);
	g_assert_cmphex(get(&r, R_ICR, 4) & 0x90, ==, 0x90);
	put(&r, R_RDT, 4, 20);
	g_assert_cmpuint(get(&r, R_RDH, 4), ==, 6);
	g_assert_cmphex(mem_read16(r.mem, RX_BUF + 5 * 2048 + 14), ==, GUINT16_TO_BE(69));
	rig_finish(&r);
}

static void test_throttle(void)
{
	struct rig r;

	start(&r);
	put(&r, R_ITR, 4, 1000); /* 256 us */
	put(&r, R_IMS, 4, 1);
	put(&r, R_ICS, 4, 1);
	g_assert_true(r.irq);
	get(&r, R_ICR, 4);
	put(&r, R_ICS, 4, 1);
	g_assert_false(r.irq);
	clock_advance(r.clock, 255999);
	g_assert_false(r.irq);
	clock_advance(r.clock, 1);
	g_assert_true(r.irq);
	put(&r, R_IMC, 4, 1);
	g_assert_false(r.irq);
	rig_finish(&r);
}

/* Rings and buffers outside of memory, lengths that lie, offsets beyond the frame. */
static void test_nonsense(void)
{
	struct rig r;
	uint8_t f[64];

	start(&r);
	describe(&r, 0, UINT64_C(0xfffffffffffffff0), 100 | 0x0b000000, 0);
	for (unsigned i = 1; i < 60; i++)
		describe(&r, i, 0, 0xfffff | 1 << 20 | 0x20u << 24, 0);
	describe(&r, 60, 0, 100 | 1 << 20 | 0x2du << 24, 3 << 8);
	describe(&r, 61, TX_BUF, 60 | 0x0d000000 | 200 << 16, 0);
	describe(&r, 62, UINT64_C(0xffffff) << 40 | 250, 0x22u << 24, 0);
	put(&r, R_TDT, 4, 63);
	g_assert_cmpuint(get(&r, R_TDH, 4), ==, 63);
	g_assert_cmpuint(r.pci->device.guest_errors, >=, 3);
	/* Head and tail beyond the ring. */
	put(&r, R_TDT, 4, 5000);
	put(&r, R_TDH, 4, 6000);
	put(&r, R_TDT, 4, 1);
	put(&r, R_RDH, 4, 6000);
	frame_fill(f, 60, nic_mac, 0x88b5);
	netdev_memory_input(r.nd, f, 60);
	put(&r, R_RDH, 4, 0);
	put(&r, R_RDBAL, 4, 0xfffff000);
	put(&r, R_RDT, 4, 10);
	netdev_memory_input(r.nd, f, 60);
	/* The longest ring goes on in pieces. */
	g_ptr_array_set_size(r.sent, 0);
	put(&r, R_TCTL, 4, 0);
	put(&r, R_TDBAL, 4, TX_BUF);
	put(&r, R_TDLEN, 4, 0xfff80);
	put(&r, R_TDH, 4, 0);
	put(&r, R_TDT, 4, 2000);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t d[2] = { 0, 60 | 0x01000000 };

		mem_write(r.mem, TX_BUF + i * 16, d, 16);
	}
	put(&r, R_TCTL, 4, 2);
	g_assert_cmpuint(r.sent->len, <, 2000);
	clock_advance(r.clock, 1);
	g_assert_cmpuint(r.sent->len, ==, 2000);
	rig_finish(&r);
}

static void test_back_pressure(void)
{
	struct rig r;

	start(&r);
	for (unsigned i = 0; i < 4; i++)
		describe(&r, i, TX_BUF, 60 | 0x09000000, 0);
	netdev_memory_block(r.nd, true);
	put(&r, R_TDT, 4, 4);
	g_assert_cmpuint(get(&r, R_TDH, 4), ==, 0);
	netdev_memory_block(r.nd, false);
	g_assert_cmpuint(get(&r, R_TDH, 4), ==, 4);
	g_assert_cmpuint(r.sent->len, ==, 4);
	rig_finish(&r);
}

static void test_state(void)
{
	struct rig r;

	start(&r);
	describe(&r, 0, TX_BUF, 100, 0); /* half a frame is in the card */
	put(&r, R_ITR, 4, 100);
	put(&r, R_TDT, 4, 1);
	put(&r, R_IMS, 4, 0xff);
	put(&r, R_ICS, 4, 4);
	rig_round_trip(&r);
	g_assert_true(r.irq);
	describe(&r, 1, TX_BUF + 100, 100 | 0x0b000000, 0);
	put(&r, R_TDT, 4, 2);
	g_assert_cmpuint(g_bytes_get_size(g_ptr_array_index(r.sent, 0)), ==, 200);
	rig_finish(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/e1000/eeprom", test_eeprom);
	g_test_add_func("/e1000/phy-and-link", test_phy_and_link);
	g_test_add_func("/e1000/transmit/legacy", test_transmit_legacy);
	g_test_add_func("/e1000/transmit/tso", test_transmit_tso);
	g_test_add_func("/e1000/receive/plain", test_receive);
	g_test_add_func("/e1000/receive/vlan", test_receive_vlan);
	g_test_add_func("/e1000/receive/full", test_receive_full);
	g_test_add_func("/e1000/throttle", test_throttle);
	g_test_add_func("/e1000/nonsense", test_nonsense);
	g_test_add_func("/e1000/back-pressure", test_back_pressure);
	g_test_add_func("/e1000/state", test_state);
	return g_test_run();
}
