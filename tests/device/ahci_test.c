/* The AHCI controller through its registers and structures in memory: PIO, DMA, queues, packets, errors, state. */
#include <string.h>

#include "base/bytes.h"
#include "dev/ahci.h"
#include "device_state.h"
#include "fake_blk.h"

#define BAR 0xfeb00000u
#define RAM_SIZE (8u << 20)
#define LIST(port) (0x10000u + (port) * 0x400)
#define RECEIVED(port) (0x20000u + (port) * 0x100)
#define TABLE(slot) (0x30000u + (slot) * 0x400)
#define DATA 0x100000u

enum { P_IS = 0x10, P_IE = 0x14, P_CMD = 0x18, P_TFD = 0x20, P_SIG = 0x24, P_SSTS = 0x28, P_SCTL = 0x2c, P_SERR = 0x30,
       P_SACT = 0x34, P_CI = 0x38 };

struct board {
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct pci_bus *bus;
	struct blk *disk, *cd;
	struct ahci *ahci;
	bool line;
};

static void set_line(void *opaque, int line, bool level)
{
	((struct board *)opaque)->line = level;
}

static uint32_t get(struct board *b, unsigned reg) { return (uint32_t)space_read(b->mmio, BAR + reg, 4); }
static void set(struct board *b, unsigned reg, uint32_t v) { space_write(b->mmio, BAR + reg, 4, v); }
static uint32_t pget(struct board *b, unsigned port, unsigned reg) { return get(b, 0x100 + port * 0x80 + reg); }
static void pset(struct board *b, unsigned port, unsigned reg, uint32_t v) { set(b, 0x100 + port * 0x80 + reg, v); }

static void start_port(struct board *b, unsigned port)
{
	pset(b, port, 0, LIST(port));
	pset(b, port, 8, RECEIVED(port));
	pset(b, port, P_CMD, 0x10);
	pset(b, port, P_CMD, 0x11);
	pset(b, port, P_IE, 0x7dc000ff);
	pset(b, port, P_IS, ~0u);
}

/* A disk at port 0, a CD-ROM drive at port 1, nothing at the others. */
static void board_make(struct board *b)
{
	struct ide_drive drives[AHCI_PORTS] = { 0 };
	struct irq intx[4];

	*b = (struct board){ 0 };
	for (int i = 0; i < 4; i++)
		intx[i] = (struct irq){ set_line, b, i };
	b->ports = space_create("ports", 0xffff);
	b->mmio = space_create("mmio", UINT64_MAX);
	b->mem = mem_create();
	b->ram = ram_create("ram", RAM_SIZE, NULL);
	g_assert_cmpint(mem_map(b->mem, 0, RAM_SIZE, b->ram, 0, false), >=, 0);
	b->bus = pci_bus_create(b->ports, b->mmio, b->mem, intx, NULL);
	drives[0].blk = b->disk = fake_blk_new(20000, 0x11);
	drives[1].cdrom = true;
	drives[1].blk = b->cd = fake_blk_new(4000, 0x55);
	b->ahci = ahci_create(b->bus, 0x28, drives);
	g_assert_nonnull(b->ahci);
	pci_config_write(b->bus, 0x28, 0x24, 4, BAR);
	pci_config_write(b->bus, 0x28, 4, 2, 6);
	set(b, 4, 0x80000002);
	start_port(b, 0);
	start_port(b, 1);
}

static void board_unmake(struct board *b)
{
	blk_close(b->disk);
	blk_close(b->cd);
	ahci_device(b->ahci)->ops->destroy(ahci_device(b->ahci));
	pci_bus_destroy(b->bus);
	mem_destroy(b->mem);
	ram_destroy(b->ram);
	space_destroy(b->ports);
	space_destroy(b->mmio);
}

static void run(struct board *b)
{
	fake_blk_run(b->disk);
	fake_blk_run(b->cd);
}

/* Fills a command slot: FIS, and data regions of 64 KiB and one byte pair from `data` on. */
static void prepare(struct board *b, unsigned port, unsigned slot, const uint8_t fis[20], uint32_t data, uint32_t len)
{
	uint8_t *ram = b->ram->host, *header = ram + LIST(port) + 32 * slot, *table = ram + TABLE(slot);
	unsigned n = 0;

	memset(table, 0, 0x400);
	memcpy(table, fis, 20);
	for (; len; n++) {
		uint32_t part = MIN(len, n ? 65536u : 1000u);

		st64le(table + 0x80 + 16 * n, data);
		st32le(table + 0x80 + 16 * n + 12, part - 1);
		data += part;
		len -= part;
	}
	memset(header, 0, 32);
	st16le(header, 5);
	st16le(header + 2, (uint16_t)n);
	st32le(header + 8, TABLE(slot));
}

static void make_fis(uint8_t fis[20], uint8_t command, uint64_t lba, uint16_t count, uint16_t feature)
{
	memset(fis, 0, 20);
	fis[0] = 0x27;
	fis[1] = 0x80;
	fis[2] = command;
	fis[3] = (uint8_t)feature;
	fis[11] = (uint8_t)(feature >> 8);
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(lba >> 8 * i);
		fis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
	}
	fis[7] = 0x40;
	st16le(fis + 12, count);
}

static void issue(struct board *b, unsigned port, uint8_t command, uint64_t lba, uint16_t count, uint32_t data, uint32_t len)
{
	uint8_t fis[20];

	make_fis(fis, command, lba, count, 0);
	prepare(b, port, 3, fis, data, len);
	pset(b, port, P_CI, 1u << 3);
}

static void test_registers(void)
{
	struct board b;

	board_make(&b);
	g_assert_cmphex(get(&b, 0) & 0xc000001f, ==, 0xc0000005);
	g_assert_cmphex(get(&b, 0x0c), ==, 0x3f);
	g_assert_cmphex(pget(&b, 0, P_SIG), ==, 0x00000101);
	g_assert_cmphex(pget(&b, 1, P_SIG), ==, 0xeb140101);
	g_assert_cmphex(pget(&b, 0, P_SSTS), ==, 0x123);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x150);
	g_assert_cmphex(pget(&b, 2, P_SSTS), ==, 0);
	g_assert_cmphex(pget(&b, 2, P_TFD), ==, 0x7f);
	/* The received signature FIS. */
	g_assert_cmphex(b.ram->host[RECEIVED(1) + 0x40], ==, 0x34);
	g_assert_cmphex(b.ram->host[RECEIVED(1) + 0x46], ==, 0xeb);
	/* COMRESET: a connect change, and the signature again. */
	pset(&b, 0, P_CMD, 0x10);
	pset(&b, 0, P_SCTL, 0x301);
	g_assert_cmphex(pget(&b, 0, P_SSTS), ==, 0);
	pset(&b, 0, P_SCTL, 0x300);
	g_assert_cmphex(pget(&b, 0, P_SSTS), ==, 0x123);
	g_assert_true(b.line);
	g_assert_cmphex(pget(&b, 0, P_IS) & 0x40, ==, 0x40);
	pset(&b, 0, P_SERR, ~0u);
	pset(&b, 0, P_IS, ~0u);
	g_assert_false(b.line);
	set(&b, 4, 1);
	g_assert_cmphex(get(&b, 4), ==, 0x80000000);
	g_assert_cmphex(pget(&b, 0, P_CMD), ==, 6);
	board_unmake(&b);
}

static void test_commands(void)
{
	struct board b;
	uint8_t *ram, *disk;

	board_make(&b);
	ram = b.ram->host;
	disk = fake_blk_data(b.disk);
	/* PIO: IDENTIFY, with an interrupt by the PIO setup FIS. */
	issue(&b, 0, 0xec, 0, 0, DATA, 512);
	g_assert_true(b.line);
	g_assert_cmphex(get(&b, 8), ==, 1);
	g_assert_cmphex(pget(&b, 0, P_IS), ==, 2);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 0);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x50);
	g_assert_cmphex(ld16le(ram + DATA + 2 * 76), ==, 0x0106);
	g_assert_cmpuint(ld32le(ram + LIST(0) + 32 * 3 + 4), ==, 512);
	pset(&b, 0, P_IS, ~0u);
	g_assert_false(b.line);
	/* PIO over several blocks. */
	issue(&b, 0, 0x24, 100, 40, DATA, 40 * 512);
	run(&b);
	g_assert_cmpmem(ram + DATA, 40 * 512, disk + 100 * 512, 40 * 512);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 0);
	/* DMA, more than the drive's buffer, and back. */
	issue(&b, 0, 0x25, 5000, 2000, DATA, 2000 * 512);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 8);
	g_assert_cmphex(pget(&b, 0, P_TFD) & 0x80, ==, 0x80);
	pset(&b, 0, P_IS, ~0u);
	run(&b);
	g_assert_cmphex(pget(&b, 0, P_IS), ==, 1);
	g_assert_cmpmem(ram + DATA, 2000 * 512, disk + 5000 * 512, 2000 * 512);
	g_assert_cmpuint(ld32le(ram + LIST(0) + 32 * 3 + 4), ==, 2000 * 512);
	memset(ram + DATA, 0x77, 65536);
	issue(&b, 0, 0x35, 17, 128, DATA, 65536);
	run(&b);
	g_assert_cmpmem(ram + DATA, 65536, disk + 17 * 512, 65536);
	/* Too few descriptors are noticed. */
	pset(&b, 0, P_IS, ~0u);
	issue(&b, 0, 0x25, 0, 2, DATA, 512);
	run(&b);
	g_assert_cmphex(pget(&b, 0, P_IS) & 0x01000000, ==, 0x01000000);
	/* Software reset by two FIS. */
	uint8_t fis[20] = { 0x27 };

	fis[15] = 4;
	prepare(&b, 0, 0, fis, 0, 0);
	pset(&b, 0, P_CI, 1);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 0);
	g_assert_cmphex(pget(&b, 0, P_TFD) & 0x80, ==, 0x80);
	fis[15] = 0;
	prepare(&b, 0, 1, fis, 0, 0);
	pset(&b, 0, P_CI, 2);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 0);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x150);
	board_unmake(&b);
}

static void queue(struct board *b, unsigned slot, uint8_t command, uint64_t lba, uint16_t count, uint32_t data)
{
	uint8_t fis[20];

	make_fis(fis, command, lba, (uint16_t)(slot << 3), count);
	prepare(b, 0, slot, fis, data, count * 512u);
	pset(b, 0, P_SACT, 1u << slot);
	pset(b, 0, P_CI, 1u << slot);
}

static void test_queue(void)
{
	struct board b;
	uint8_t *ram, *disk, *log;

	board_make(&b);
	ram = b.ram->host;
	disk = fake_blk_data(b.disk);
	for (unsigned i = 0; i < 32; i++)
		queue(&b, i, 0x60, 100 + 300 * i, 300, DATA + i * 0x28000);
	g_assert_cmpuint(fake_blk_waiting(b.disk), ==, 32);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 0);
	g_assert_cmphex(pget(&b, 0, P_SACT), ==, 0xffffffff);
	g_assert_false(b.line);
	run(&b);
	g_assert_true(b.line);
	g_assert_cmphex(pget(&b, 0, P_IS), ==, 8);
	g_assert_cmphex(pget(&b, 0, P_SACT), ==, 0);
	for (unsigned i = 0; i < 32; i++)
		g_assert_cmpmem(ram + DATA + i * 0x28000, 300 * 512, disk + (100 + 300 * i) * 512, 300 * 512);
	memset(ram + DATA, 0x99, 4096);
	queue(&b, 5, 0x61, 8, 8, DATA);
	run(&b);
	g_assert_cmpmem(ram + DATA, 4096, disk + 8 * 512, 4096);
	/* An error stops the queue, and the log tells where. */
	pset(&b, 0, P_IS, ~0u);
	fake_blk_set_bad(b.disk, 1003);
	queue(&b, 1, 0x60, 500, 8, DATA);
	queue(&b, 7, 0x60, 1000, 8, DATA + 0x10000);
	queue(&b, 9, 0x60, 2000, 8, DATA + 0x20000);
	run(&b);
	g_assert_cmphex(pget(&b, 0, P_IS), ==, 0x40000008);
	g_assert_cmphex(pget(&b, 0, P_SACT), ==, 1 << 7 | 1 << 9);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x4051);
	pset(&b, 0, P_CMD, 0x10);
	g_assert_cmphex(pget(&b, 0, P_SACT), ==, 0);
	pset(&b, 0, P_CMD, 0x11);
	issue(&b, 0, 0x2f, 0x10, 1, DATA, 512);
	log = ram + DATA;
	g_assert_cmphex(log[0], ==, 7);
	g_assert_cmphex(log[3], ==, 0x40);
	g_assert_cmpuint(log[4] | log[5] << 8, ==, 1000);
	/* Out of range; mixed with what is not queued. */
	queue(&b, 2, 0x60, 19999, 2, DATA);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x1051);
	pset(&b, 0, P_CMD, 0x10);
	pset(&b, 0, P_CMD, 0x11);
	queue(&b, 2, 0x60, 5, 2, DATA);
	issue(&b, 0, 0x25, 5, 2, DATA, 1024);
	g_assert_cmphex(pget(&b, 0, P_TFD), ==, 0x0451);
	run(&b);
	board_unmake(&b);
}

static void packet(struct board *b, const uint8_t p[12], bool dma, uint32_t data, uint32_t len)
{
	uint8_t fis[20];

	make_fis(fis, 0xa0, 0xfffe00, 0, dma);
	prepare(b, 1, 4, fis, data, len);
	memcpy(b->ram->host + TABLE(4) + 0x40, p, 12);
	b->ram->host[LIST(1) + 4 * 32] |= 0x20;
	pset(b, 1, P_CI, 1 << 4);
	run(b);
}

static void test_packets(void)
{
	static const uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 20, 0, 0, 200 };
	static const uint8_t capacity[12] = { 0x25 }, unknown[12] = { 0xfe };
	struct board b;
	uint8_t *ram;

	board_make(&b);
	ram = b.ram->host;
	packet(&b, capacity, false, DATA, 8);
	g_assert_cmpuint(ld32be(ram + DATA), ==, 999);
	g_assert_cmphex(pget(&b, 1, P_IS), ==, 3);
	packet(&b, read10, true, DATA, 200 * 2048);
	g_assert_cmpmem(ram + DATA, 200 * 2048, fake_blk_data(b.cd) + 20 * 2048, 200 * 2048);
	memset(ram + DATA, 0, 200 * 2048);
	packet(&b, read10, false, DATA, 200 * 2048);
	g_assert_cmpmem(ram + DATA, 200 * 2048, fake_blk_data(b.cd) + 20 * 2048, 200 * 2048);
	g_assert_cmphex(pget(&b, 1, P_TFD), ==, 0x50);
	packet(&b, unknown, false, DATA, 0);
	g_assert_cmphex(pget(&b, 1, P_TFD), ==, 0x5451);
	g_assert_cmphex(pget(&b, 1, P_IS) & 0x40000000, ==, 0x40000000);
	/* The port has stopped until ST is cleared. */
	g_assert_cmphex(pget(&b, 1, P_CMD) >> 8 & 31, ==, 4);
	g_assert_cmphex(pget(&b, 1, P_CI), ==, 1 << 4);
	board_unmake(&b);
}

static void test_bad_structures(void)
{
	struct board b;

	board_make(&b);
	pset(&b, 0, P_CMD, 0x10);
	pset(&b, 0, 0, 0xfffffc00);
	pset(&b, 0, P_CMD, 0x11);
	pset(&b, 0, P_CI, 1);
	g_assert_cmphex(pget(&b, 0, P_IS) & 0x20000000, ==, 0x20000000);
	pset(&b, 0, P_CMD, 0x10);
	pset(&b, 0, 0, LIST(0));
	pset(&b, 0, P_CMD, 0x11);
	/* No FIS at all, and data that lies outside of memory. */
	memset(b.ram->host + TABLE(3), 0, 64);
	pset(&b, 0, P_CI, 8);
	g_assert_cmphex(pget(&b, 0, P_CI), ==, 8);
	pset(&b, 0, P_CMD, 0x10);
	pset(&b, 0, P_CMD, 0x11);
	issue(&b, 0, 0x25, 0, 8, RAM_SIZE - 512, 4096);
	run(&b);
	queue(&b, 1, 0x61, 0, 8, RAM_SIZE);
	run(&b);
	g_assert_cmphex(pget(&b, 0, P_TFD) & 1, ==, 1);
	g_assert_cmpuint(ahci_device(b.ahci)->guest_errors, >=, 3);
	board_unmake(&b);
}

static void test_state(void)
{
	g_autoptr(GByteArray) saved = NULL;
	struct board b, c;

	board_make(&b);
	board_make(&c);
	queue(&b, 1, 0x60, 500, 400, DATA);
	queue(&b, 2, 0x60, 900, 8, DATA + 0x40000);
	saved = device_save(ahci_device(b.ahci));
	g_assert_cmpuint(fake_blk_waiting(b.disk), ==, 0);
	g_assert_true(b.line);
	g_assert_cmpint(device_restore(ahci_device(c.ahci), saved), ==, 0);
	g_assert_true(c.line);
	device_check_saved(ahci_device(c.ahci), saved);
	for (size_t i = 0; i < saved->len; i++) {
		device_restore_bent(ahci_device(c.ahci), saved, i, (uint8_t)(1 + i % 255));
		pset(&c, 0, P_CI, 2);
		run(&c);
	}
	board_unmake(&b);
	board_unmake(&c);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/ahci/registers", test_registers);
	g_test_add_func("/ahci/commands", test_commands);
	g_test_add_func("/ahci/queue", test_queue);
	g_test_add_func("/ahci/packets", test_packets);
	g_test_add_func("/ahci/bad-structures", test_bad_structures);
	g_test_add_func("/ahci/state", test_state);
	return g_test_run();
}
