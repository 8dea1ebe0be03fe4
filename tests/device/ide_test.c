/* The IDE controller through its ports: registers, PIO, DMA, errors, resets, packets, media change, state. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/ide.h"
#include "device_state.h"
#include "fake_blk.h"

#define BM 0xc000
#define PRDT 0x1000
#define RAM_SIZE (4u << 20)

struct board {
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct pci_bus *bus;
	struct blk *disk, *cd;
	struct ide *ide;
	bool line[2];
	unsigned edges[2];
	bool tray_open;
	unsigned tray_moves;
};

static void set_line(void *opaque, int line, bool level)
{
	struct board *b = opaque;

	b->edges[line] += level && !b->line[line];
	b->line[line] = level;
}

static void tray_moved(void *opaque, bool open)
{
	struct board *b = opaque;

	g_assert_cmpint(open, !=, b->tray_open);
	b->tray_open = open;
	b->tray_moves++;
}

/* The disk is the primary master, an empty or filled CD-ROM drive the secondary one. */
static void board_make(struct board *b, uint64_t cd_sectors)
{
	struct ide_drive drives[4] = { 0 };

	*b = (struct board){ 0 };
	b->ports = space_create("ports", 0xffff);
	b->mmio = space_create("mmio", UINT64_MAX);
	b->mem = mem_create();
	b->ram = ram_create("ram", RAM_SIZE, NULL);
	g_assert_cmpint(mem_map(b->mem, 0, RAM_SIZE, b->ram, 0, false), >=, 0);
	b->bus = pci_bus_create(b->ports, b->mmio, b->mem, NULL, NULL);
	drives[0].blk = b->disk = fake_blk_new(20000, 0x11);
	drives[2].cdrom = true;
	drives[2].tray_moved = tray_moved;
	drives[2].opaque = b;
	drives[2].blk = b->cd = cd_sectors ? fake_blk_new(cd_sectors * 4, 0x55) : NULL;
	b->ide = ide_create(b->bus, 9, b->ports, (struct irq){ set_line, b, 0 }, (struct irq){ set_line, b, 1 }, drives);
	g_assert_nonnull(b->ide);
	pci_config_write(b->bus, 9, 0x20, 4, BM);
	pci_config_write(b->bus, 9, 4, 2, 5);
}

static void board_unmake(struct board *b)
{
	blk_close(b->disk);
	blk_close(b->cd);
	ide_device(b->ide)->ops->destroy(ide_device(b->ide));
	pci_bus_destroy(b->bus);
	mem_destroy(b->mem);
	ram_destroy(b->ram);
	space_destroy(b->ports);
	space_destroy(b->mmio);
}

static void out(struct board *b, uint16_t port, uint8_t v) { space_write(b->ports, port, 1, v); }
static uint8_t in(struct board *b, uint16_t port) { return (uint8_t)space_read(b->ports, port, 1); }

static void run(struct board *b)
{
	fake_blk_run(b->disk);
	if (b->cd)
		fake_blk_run(b->cd);
}

static void command28(struct board *b, uint8_t cmd, uint32_t lba, uint8_t count)
{
	out(b, 0x1f6, 0xe0 | (lba >> 24 & 15));
	out(b, 0x1f2, count);
	out(b, 0x1f3, (uint8_t)lba);
	out(b, 0x1f4, (uint8_t)(lba >> 8));
	out(b, 0x1f5, (uint8_t)(lba >> 16));
	out(b, 0x1f7, cmd);
}

static void command48(struct board *b, uint8_t cmd, uint64_t lba, uint16_t count)
{
	out(b, 0x1f6, 0xe0);
	out(b, 0x1f2, (uint8_t)(count >> 8));
	for (unsigned i = 0; i < 3; i++)
		out(b, (uint16_t)(0x1f3 + i), (uint8_t)(lba >> (24 + 8 * i)));
	out(b, 0x1f2, (uint8_t)count);
	for (unsigned i = 0; i < 3; i++)
		out(b, (uint16_t)(0x1f3 + i), (uint8_t)(lba >> 8 * i));
	out(b, 0x1f7, cmd);
}

static void read_words(struct board *b, uint16_t base, uint8_t *to, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 2)
		st16le(to + i, (uint16_t)space_read(b->ports, base, 2));
}

static void write_words(struct board *b, uint16_t base, const uint8_t *from, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 2)
		space_write(b->ports, base, 2, ld16le(from + i));
}

/* ---- disk ---- */

static void test_registers(void)
{
	struct board b;

	board_make(&b, 100);
	/* Signatures after power-on. */
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmphex(in(&b, 0x1f1), ==, 1);
	g_assert_cmphex(in(&b, 0x174), ==, 0x14);
	g_assert_cmphex(in(&b, 0x175), ==, 0xeb);
	/* A lone device 0 answers for device 1, but for the status. */
	out(&b, 0x1f6, 0xb0);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0);
	g_assert_cmphex(in(&b, 0x3f6), ==, 0);
	out(&b, 0x1f2, 0x55);
	g_assert_cmphex(in(&b, 0x1f2), ==, 0x55);
	out(&b, 0x1f7, 0xec);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0);
	/* Previous content shows with HOB, until the next write. */
	out(&b, 0x1f6, 0xa0);
	out(&b, 0x1f3, 0x12);
	out(&b, 0x1f3, 0x34);
	out(&b, 0x3f6, 0x80);
	g_assert_cmphex(in(&b, 0x1f3), ==, 0x12);
	out(&b, 0x1f2, 0);
	g_assert_cmphex(in(&b, 0x1f3), ==, 0x34);
	/* Diagnostic: passed, signature, interrupt from device 0. */
	out(&b, 0x1f7, 0x90);
	g_assert_true(b.line[0]);
	g_assert_cmphex(in(&b, 0x1f1), ==, 1);
	g_assert_cmphex(in(&b, 0x1f3), ==, 1);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_false(b.line[0]);
	board_unmake(&b);
}

static void test_absent(void)
{
	struct board b;
	const struct ide_drive none[4] = { 0 };

	board_make(&b, 0);
	ide_device(b.ide)->ops->destroy(ide_device(b.ide));
	b.ide = ide_create(b.bus, 9, b.ports, (struct irq){ 0 }, (struct irq){ 0 }, none);
	for (uint16_t port = 0x1f1; port < 0x1f8; port++) {
		out(&b, port, 0xec);
		g_assert_cmphex(in(&b, port), ==, 0);
	}
	g_assert_cmphex(in(&b, 0x3f6), ==, 0);
	/* Decoding can be turned off. */
	pci_config_write(b.bus, 9, 0x40, 2, 0);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0xff);
	board_unmake(&b);
}

static void test_identify(void)
{
	struct board b;
	uint8_t id[512], sum = 0;

	board_make(&b, 0);
	out(&b, 0x1f6, 0xa0);
	out(&b, 0x1f7, 0xec);
	g_assert_true(b.line[0]);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x58);
	read_words(&b, 0x1f0, id, 512);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmpuint(ld16le(id + 2), ==, 20000 / (16 * 63));
	g_assert_cmpuint(ld32le(id + 120), ==, 20000);
	g_assert_cmpuint(ld64le(id + 200), ==, 20000);
	g_assert_cmpmem(id + 54, 14, "UGSI EAHDRIDKS", 14);
	for (unsigned i = 0; i < 512; i++)
		sum += id[i];
	g_assert_cmphex(sum, ==, 0);
	board_unmake(&b);
}

/* Another size shows when the guest identifies the disk again, and sets the bounds. */
static void test_resized(void)
{
	struct board b;
	uint8_t id[512];

	board_make(&b, 0);
	fake_blk_set_sectors(b.disk, 19000);
	ide_resized(b.ide, 0);
	ide_resized(b.ide, 2); /* the CD-ROM drive: nothing happens */
	out(&b, 0x1f6, 0xa0);
	out(&b, 0x1f7, 0xec);
	read_words(&b, 0x1f0, id, 512);
	g_assert_cmpuint(ld32le(id + 120), ==, 19000);
	command28(&b, 0x20, 19000, 1);
	g_assert_cmphex(in(&b, 0x1f7) & 1, ==, 1);
	g_assert_cmphex(in(&b, 0x1f1), ==, 0x10);
	command28(&b, 0x20, 18999, 1);
	run(&b);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x58);
	board_unmake(&b);
}

static void test_pio(void)
{
	struct board b;
	uint8_t buf[1024];

	board_make(&b, 0);
	/* READ SECTORS: a block and an interrupt for each. */
	command28(&b, 0x20, 1000, 2);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x90);
	run(&b);
	for (unsigned i = 0; i < 2; i++) {
		g_assert_true(b.line[0]);
		g_assert_cmphex(in(&b, 0x1f7), ==, 0x58);
		g_assert_false(b.line[0]);
		read_words(&b, 0x1f0, buf + 512 * i, 512);
	}
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmpmem(buf, 1024, fake_blk_data(b.disk) + 1000 * 512, 1024);
	/* No interrupt after the last block; doubleword reads work. */
	g_assert_cmpuint(b.edges[0], ==, 2);
	command48(&b, 0x24, 19999, 1);
	run(&b);
	for (unsigned i = 0; i < 512; i += 4)
		st32le(buf + i, (uint32_t)space_read(b.ports, 0x1f0, 4));
	g_assert_cmpmem(buf, 512, fake_blk_data(b.disk) + 19999 * 512, 512);
	/* WRITE SECTORS: the first block is wanted at once, without an interrupt. */
	in(&b, 0x1f7);
	memset(buf, 0xa5, sizeof(buf));
	command28(&b, 0x30, 77, 2);
	g_assert_false(b.line[0]);
	write_words(&b, 0x1f0, buf, 512);
	g_assert_true(b.line[0]);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x58);
	write_words(&b, 0x1f0, buf, 512);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x90);
	run(&b);
	g_assert_true(b.line[0]);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmpmem(buf, 1024, fake_blk_data(b.disk) + 77 * 512, 1024);
	/* CHS, default translation: cylinder 1, head 2, sector 3. */
	out(&b, 0x1f6, 0xa2);
	out(&b, 0x1f2, 1);
	out(&b, 0x1f3, 3);
	out(&b, 0x1f4, 1);
	out(&b, 0x1f5, 0);
	out(&b, 0x1f7, 0x20);
	run(&b);
	read_words(&b, 0x1f0, buf, 512);
	g_assert_cmpmem(buf, 512, fake_blk_data(b.disk) + ((16 + 2) * 63 + 2) * 512, 512);
	/* Another translation. */
	out(&b, 0x1f6, 0xa7);
	out(&b, 0x1f2, 32);
	out(&b, 0x1f7, 0x91);
	out(&b, 0x1f6, 0xa2);
	out(&b, 0x1f2, 1);
	out(&b, 0x1f7, 0x20);
	run(&b);
	read_words(&b, 0x1f0, buf, 512);
	g_assert_cmpmem(buf, 512, fake_blk_data(b.disk) + ((8 + 2) * 32 + 2) * 512, 512);
	board_unmake(&b);
}

static void test_multiple(void)
{
	struct board b;
	uint8_t buf[5 * 512];

	board_make(&b, 0);
	command28(&b, 0xc6, 0, 3);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x51);
	command28(&b, 0xc6, 0, 4);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	b.edges[0] = 0;
	command28(&b, 0xc4, 10, 5);
	run(&b);
	read_words(&b, 0x1f0, buf, 4 * 512);
	in(&b, 0x1f7);
	read_words(&b, 0x1f0, buf + 4 * 512, 512);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmpuint(b.edges[0], ==, 1); /* the second came while the first was up */
	g_assert_cmpmem(buf, sizeof(buf), fake_blk_data(b.disk) + 10 * 512, sizeof(buf));
	memset(buf, 0x3c, sizeof(buf));
	command48(&b, 0x39, 500, 5);
	write_words(&b, 0x1f0, buf, 4 * 512);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x58);
	write_words(&b, 0x1f0, buf, 512);
	run(&b);
	g_assert_cmpmem(buf, sizeof(buf), fake_blk_data(b.disk) + 500 * 512, sizeof(buf));
	board_unmake(&b);
}

static void prd(struct board *b, unsigned i, uint32_t addr, uint16_t count, bool last)
{
	uint8_t e[8];

	st32le(e, addr);
	st32le(e + 4, count | (last ? 0x80000000u : 0));
	g_assert_true(mem_write(b->mem, PRDT + 8 * i, e, 8));
}

static void bm_start(struct board *b, uint16_t base, bool to_memory)
{
	space_write(b->ports, (uint16_t)(base + 4), 4, PRDT);
	out(b, (uint16_t)(base + 2), 6);
	out(b, base, to_memory ? 9 : 1);
}

static void test_dma(void)
{
	struct board b;
	uint8_t *ram, *disk;

	board_make(&b, 0);
	ram = b.ram->host;
	disk = fake_blk_data(b.disk);
	/* Regions whose bounds are not those of sectors. */
	prd(&b, 0, 0x20000, 700, false);
	prd(&b, 1, 0x30000, 836, true);
	command28(&b, 0xc8, 300, 3);
	g_assert_cmpuint(fake_blk_waiting(b.disk), ==, 0);
	bm_start(&b, BM, true);
	g_assert_cmphex(in(&b, BM + 2), ==, 1);
	run(&b);
	g_assert_true(b.line[0]);
	g_assert_cmphex(in(&b, BM + 2), ==, 4);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmpmem(ram + 0x20000, 700, disk + 300 * 512, 700);
	g_assert_cmpmem(ram + 0x30000, 836, disk + 300 * 512 + 700, 836);
	out(&b, BM, 8);
	/* Out, 2048 sectors, several requests, the engine first. A count of 0 is 64 KiB. */
	for (unsigned i = 0; i < 16; i++)
		prd(&b, i, 0x100000 + i * 0x10000, 0, i == 15);
	for (unsigned i = 0; i < 1 << 20; i++)
		ram[0x100000 + i] = (uint8_t)(i * 13 + (i >> 10));
	bm_start(&b, BM, false);
	command48(&b, 0x35, 1234, 2048);
	run(&b);
	g_assert_cmphex(in(&b, BM + 2), ==, 4);
	g_assert_cmpmem(ram + 0x100000, 1 << 20, disk + 1234 * 512, 1 << 20);
	out(&b, BM, 0);
	in(&b, 0x1f7);
	/* A table that is too long: still active, with the interrupt. */
	prd(&b, 0, 0x20000, 4096, true);
	command28(&b, 0xc8, 0, 1);
	bm_start(&b, BM, true);
	run(&b);
	g_assert_cmphex(in(&b, BM + 2), ==, 5);
	out(&b, BM, 0);
	in(&b, 0x1f7);
	/* Too short: no interrupt. Outside of memory: error. */
	prd(&b, 0, 0x20000, 512, true);
	command28(&b, 0xc8, 0, 2);
	bm_start(&b, BM, true);
	run(&b);
	g_assert_cmphex(in(&b, BM + 2), ==, 0);
	g_assert_false(b.line[0]);
	out(&b, BM, 0);
	prd(&b, 0, RAM_SIZE, 512, true);
	command28(&b, 0xc8, 0, 1);
	bm_start(&b, BM, true);
	run(&b);
	g_assert_cmphex(in(&b, BM + 2), ==, 2);
	board_unmake(&b);
}

static void test_errors(void)
{
	struct board b;
	uint8_t buf[512];

	board_make(&b, 0);
	/* Beyond the end. */
	command28(&b, 0x20, 19999, 2);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x51);
	g_assert_cmphex(in(&b, 0x1f1), ==, 0x10);
	/* The sectors before the bad one arrive; the registers name it. */
	fake_blk_set_bad(b.disk, 42);
	command28(&b, 0x20, 40, 8);
	run(&b);
	for (unsigned i = 0; i < 2; i++) {
		read_words(&b, 0x1f0, buf, 512);
		g_assert_cmpmem(buf, 512, fake_blk_data(b.disk) + (40 + i) * 512, 512);
		run(&b);
	}
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x51);
	g_assert_cmphex(in(&b, 0x1f1), ==, 0x40);
	g_assert_cmphex(in(&b, 0x1f3), ==, 42);
	command28(&b, 0x40, 30, 20);
	run(&b);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x51);
	g_assert_cmphex(in(&b, 0x1f3), ==, 42);
	command28(&b, 0x30, 42, 1);
	memset(buf, 0, sizeof(buf));
	write_words(&b, 0x1f0, buf, 512);
	run(&b);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x71);
	/* Write-protected; unknown; security. */
	fake_blk_set_readonly(b.disk, true);
	command28(&b, 0x30, 1, 1);
	g_assert_cmphex(in(&b, 0x1f1), ==, 0x44);
	for (unsigned cmd = 0xf1; cmd < 0xf7; cmd++) {
		command28(&b, (uint8_t)cmd, 1, 1);
		g_assert_cmphex(in(&b, 0x1f1), ==, 4);
	}
	/* Data without a request is a mistake, no more. */
	space_write(b.ports, 0x1f0, 2, 0x1234);
	g_assert_cmphex(space_read(b.ports, 0x1f0, 2), ==, 0);
	g_assert_cmpuint(ide_device(b.ide)->guest_errors, ==, 2);
	board_unmake(&b);
}

static void test_reset(void)
{
	struct board b;

	board_make(&b, 0);
	command28(&b, 0xc6, 0, 8);
	/* A soft reset while a request is in flight: busy until it has come back, and then ready. */
	command28(&b, 0x20, 5, 1);
	out(&b, 0x3f6, 0x04);
	g_assert_cmphex(in(&b, 0x3f6), ==, 0x90);
	out(&b, 0x3f6, 0x02);
	g_assert_cmphex(in(&b, 0x3f6), ==, 0x90);
	run(&b);
	g_assert_cmphex(in(&b, 0x3f6), ==, 0x50);
	g_assert_cmphex(in(&b, 0x1f3), ==, 1);
	g_assert_false(b.line[0]);
	/* nIEN keeps the line down, and lets it up when it goes. */
	command28(&b, 0xe7, 0, 0);
	run(&b);
	g_assert_cmpuint(fake_blk_flushes(b.disk), ==, 1);
	g_assert_false(b.line[0]);
	out(&b, 0x3f6, 0x00);
	g_assert_true(b.line[0]);
	/* A machine reset drops a DMA command that waits. */
	command28(&b, 0xc8, 5, 1);
	ide_device(b.ide)->ops->reset(ide_device(b.ide));
	g_assert_false(b.line[0]);
	pci_config_write(b.bus, 9, 0x20, 4, BM);
	pci_config_write(b.bus, 9, 4, 2, 5);
	bm_start(&b, BM, true);
	run(&b);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	board_unmake(&b);
}

static void test_features(void)
{
	struct board b;
	uint8_t buf[512];

	board_make(&b, 0);
	/* The write cache off: each write is flushed. */
	out(&b, 0x1f1, 0x82);
	command28(&b, 0xef, 0, 0);
	run(&b);
	g_assert_cmpuint(fake_blk_flushes(b.disk), ==, 1);
	command28(&b, 0x30, 9, 1);
	memset(buf, 1, 512);
	write_words(&b, 0x1f0, buf, 512);
	run(&b);
	g_assert_cmpuint(fake_blk_flushes(b.disk), ==, 2);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	/* UDMA 2 shows in IDENTIFY; nonsense is refused. */
	out(&b, 0x1f1, 0x03);
	command28(&b, 0xef, 0, 0x42);
	out(&b, 0x1f7, 0xec);
	read_words(&b, 0x1f0, buf, 512);
	g_assert_cmphex(ld16le(buf + 176), ==, 0x043f);
	command28(&b, 0xef, 0, 0x77);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x51);
	/* Power, native size. */
	command28(&b, 0xe0, 0, 0);
	command28(&b, 0xe5, 0, 1);
	g_assert_cmphex(in(&b, 0x1f2), ==, 0);
	command48(&b, 0x27, 0, 0);
	g_assert_cmphex(in(&b, 0x1f3) | in(&b, 0x1f4) << 8, ==, 19999);
	/* SMART: healthy. */
	out(&b, 0x1f1, 0xda);
	command28(&b, 0xb0, 0xc24f00, 0);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	g_assert_cmphex(in(&b, 0x1f4), ==, 0x4f);
	/* TRIM two ranges. */
	memset(b.ram->host + 0x20000, 0, 512);
	st64le(b.ram->host + 0x20000, 100 | UINT64_C(2) << 48);
	st64le(b.ram->host + 0x20008, 200 | UINT64_C(1) << 48);
	prd(&b, 0, 0x20000, 512, true);
	out(&b, 0x1f1, 1);
	command48(&b, 0x06, 0, 1);
	bm_start(&b, BM, false);
	run(&b);
	g_assert_cmphex(in(&b, 0x1f7), ==, 0x50);
	memset(buf, 0, 512);
	g_assert_cmpmem(fake_blk_data(b.disk) + 101 * 512, 512, buf, 512);
	g_assert_cmpmem(fake_blk_data(b.disk) + 200 * 512, 512, buf, 512);
	board_unmake(&b);
}

/* ---- packets ---- */

static void packet(struct board *b, const uint8_t p[12], uint16_t limit, uint8_t feature)
{
	out(b, 0x176, 0xa0);
	out(b, 0x171, feature);
	out(b, 0x174, (uint8_t)limit);
	out(b, 0x175, (uint8_t)(limit >> 8));
	out(b, 0x177, 0xa0);
	g_assert_cmphex(in(b, 0x172), ==, 1);
	g_assert_cmphex(in(b, 0x177), ==, 0x58);
	write_words(b, 0x170, p, 12);
}

/* Takes all data blocks; returns how many bytes came. *blocks counts. */
static unsigned take(struct board *b, uint8_t *to, unsigned *blocks)
{
	unsigned n = 0;

	*blocks = 0;
	for (;;) {
		unsigned len;

		run(b);
		g_assert_true(b->line[1]);
		if (!(in(b, 0x177) & 8))
			break;
		g_assert_cmphex(in(b, 0x172), ==, 2);
		len = in(b, 0x174) | in(b, 0x175) << 8;
		read_words(b, 0x170, to + n, len);
		n += len;
		++*blocks;
	}
	g_assert_cmphex(in(b, 0x172), ==, 3);
	return n;
}

static unsigned ask(struct board *b, const uint8_t p[12], uint8_t *to)
{
	unsigned blocks;

	packet(b, p, 0xfffe, 0);
	return take(b, to, &blocks);
}

/* Key, code and qualifier as one number. */
static uint32_t sense(struct board *b)
{
	static const uint8_t request[12] = { 0x03, 0, 0, 0, 18 };
	uint8_t s[32];

	g_assert_cmpuint(ask(b, request, s), ==, 18);
	return (uint32_t)(s[2] << 16 | s[12] << 8 | s[13]);
}

static void test_packets(void)
{
	static const uint8_t inquiry[12] = { 0x12, 0, 0, 0, 96 };
	static const uint8_t capacity[12] = { 0x25 };
	static const uint8_t toc[12] = { 0x43, 2, 0, 0, 0, 0, 0, 0, 100 };
	static const uint8_t toc_raw[12] = { 0x43, 0, 2, 0, 0, 0, 0, 0, 100 };
	static const uint8_t modes[12] = { 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 100 };
	static const uint8_t config[12] = { 0x46, 0, 0, 0, 0, 0, 0, 1, 0 };
	static const uint8_t unknown[12] = { 0xfd };
	struct board b;
	uint8_t buf[512];

	board_make(&b, 1000);
	/* A disk's IDENTIFY is refused, with the signature. */
	out(&b, 0x177, 0xec);
	g_assert_cmphex(in(&b, 0x177), ==, 0x51);
	g_assert_cmphex(in(&b, 0x175), ==, 0xeb);
	out(&b, 0x177, 0xa1);
	read_words(&b, 0x170, buf, 512);
	g_assert_cmphex(ld16le(buf), ==, 0x85c0);
	g_assert_cmpuint(ask(&b, inquiry, buf), ==, 36);
	g_assert_cmphex(buf[0], ==, 5);
	g_assert_cmpuint(ask(&b, capacity, buf), ==, 8);
	g_assert_cmpuint(ld32be(buf), ==, 999);
	g_assert_cmpuint(ld32be(buf + 4), ==, 2048);
	g_assert_cmpuint(ask(&b, toc, buf), ==, 20);
	g_assert_cmphex(ld32be(buf + 8), ==, 0x000200); /* track 1 at 0:02:00 */
	g_assert_cmphex(ld32be(buf + 16), ==, 0x000f19); /* 1150 frames: 0:15:25 */
	g_assert_cmpuint(ask(&b, toc_raw, buf), ==, 48);
	g_assert_cmpuint(ask(&b, modes, buf), ==, 8 + 8 + 8 + 22);
	g_assert_cmpuint(ld16be(buf), ==, 44);
	g_assert_cmpuint(ask(&b, config, buf), >, 40);
	g_assert_cmphex(ld16be(buf + 6), ==, 8);
	g_assert_cmpuint(ask(&b, unknown, buf), ==, 0);
	g_assert_cmphex(in(&b, 0x177), ==, 0x51);
	g_assert_cmphex(in(&b, 0x171), ==, 0x54);
	g_assert_cmphex(sense(&b), ==, 0x052000);
	g_assert_cmphex(sense(&b), ==, 0);
	board_unmake(&b);
}

static void test_cd_read(void)
{
	uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 10, 0, 0, 3 };
	uint8_t raw[12] = { 0xbe, 0, 0, 0, 0, 16, 0, 0, 2, 0xf8 };
	static const uint8_t beyond[12] = { 0xa8, 0, 0, 0, 3, 0xe7, 0, 0, 0, 2 };
	g_autofree uint8_t *buf = g_malloc(400 * 2048);
	const uint8_t *cd;
	struct board b;
	unsigned blocks;

	board_make(&b, 1000);
	cd = fake_blk_data(b.cd);
	/* The byte count limits the blocks; odd ones are made even. */
	packet(&b, read10, 2048, 0);
	g_assert_cmpuint(take(&b, buf, &blocks), ==, 3 * 2048);
	g_assert_cmpuint(blocks, ==, 3);
	g_assert_cmpmem(buf, 3 * 2048, cd + 10 * 2048, 3 * 2048);
	packet(&b, read10, 4001, 0);
	g_assert_cmpuint(take(&b, buf, &blocks), ==, 3 * 2048);
	g_assert_cmpuint(blocks, ==, 2);
	/* More than the buffer holds, in blocks that are no divisor of it. */
	st16be(read10 + 7, 400);
	packet(&b, read10, 0, 0);
	g_assert_cmpuint(take(&b, buf, &blocks), ==, 400 * 2048);
	g_assert_cmpuint(blocks, ==, (400 * 2048 + 0xfffd) / 0xfffe);
	g_assert_cmpmem(buf, 400 * 2048, cd + 10 * 2048, 400 * 2048);
	/* Raw: sync, address, mode, data, and a frame whose EDC is right (annex A of ECMA-130). */
	g_assert_cmpuint(ask(&b, raw, buf), ==, 2 * 2352);
	g_assert_cmphex(ld32be(buf + 2352 + 12), ==, 0x00021701);
	g_assert_cmpmem(buf + 2352 + 16, 2048, cd + 17 * 2048, 2048);
	raw[9] = 0x10;
	g_assert_cmpuint(ask(&b, raw, buf), ==, 2 * 2048);
	g_assert_cmpmem(buf, 4096, cd + 16 * 2048, 4096);
	g_assert_cmpuint(ask(&b, beyond, buf), ==, 0);
	g_assert_cmphex(sense(&b), ==, 0x052100);
	fake_blk_set_bad(b.cd, 44);
	g_assert_cmpuint(ask(&b, read10, buf), ==, 0);
	g_assert_cmphex(sense(&b), ==, 0x031100);
	fake_blk_set_bad(b.cd, UINT64_MAX);
	/* DMA. */
	for (unsigned i = 0; i < 13; i++)
		prd(&b, i, 0x100000 + i * 0x10000, 0, i == 12);
	packet(&b, read10, 0, 1);
	bm_start(&b, BM + 8, true);
	run(&b);
	g_assert_cmphex(in(&b, BM + 10), ==, 5);
	g_assert_cmphex(in(&b, 0x177), ==, 0x50);
	g_assert_cmpmem(b.ram->host + 0x100000, 400 * 2048, cd + 10 * 2048, 400 * 2048);
	board_unmake(&b);
}

static void test_media(void)
{
	static const uint8_t ready[12] = { 0x00 };
	static const uint8_t lock[12] = { 0x1e, 0, 0, 0, 1 }, unlock[12] = { 0x1e };
	static const uint8_t eject[12] = { 0x1b, 0, 0, 0, 2 }, load[12] = { 0x1b, 0, 0, 0, 3 };
	static const uint8_t events[12] = { 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8 };
	static const uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 10, 0, 0, 3 };
	struct board b;
	struct blk *other = fake_blk_new(40, 9), *old;
	uint8_t buf[8192];

	board_make(&b, 0);
	ask(&b, ready, buf);
	g_assert_cmphex(sense(&b), ==, 0x023a01);
	g_assert_cmpint(ide_change_media(b.ide, 0, other, false), ==, -ENODEV);
	b.cd = fake_blk_new(400, 8);
	g_assert_cmpint(ide_change_media(b.ide, 2, b.cd, false), ==, 0);
	g_assert_true(b.tray_moves == 2 && !b.tray_open);
	g_assert_cmpuint(ask(&b, events, buf), ==, 8);
	g_assert_cmphex(ld16be(buf + 4), ==, 0x0202);
	ask(&b, ready, buf);
	g_assert_cmphex(sense(&b), ==, 0x062800);
	ask(&b, ready, buf);
	g_assert_cmphex(in(&b, 0x177), ==, 0x50);
	/* Locked: the guest hears of the wish. */
	ask(&b, lock, buf);
	ask(&b, eject, buf);
	g_assert_cmphex(sense(&b), ==, 0x055302);
	g_assert_cmpint(ide_change_media(b.ide, 2, other, false), ==, -EBUSY);
	g_assert_true(ide_tray_locked(b.ide, 2));
	g_assert_cmpuint(b.tray_moves, ==, 2);
	ask(&b, events, buf);
	g_assert_cmphex(ld16be(buf + 4), ==, 0x0102);
	ask(&b, events, buf);
	g_assert_cmphex(ld16be(buf + 4), ==, 0x0002);
	ask(&b, unlock, buf);
	ask(&b, eject, buf);
	g_assert_true(ide_tray_open(b.ide, 2));
	g_assert_true(b.tray_moves == 3 && b.tray_open);
	ask(&b, ready, buf);
	g_assert_cmphex(sense(&b), ==, 0x023a02);
	ask(&b, load, buf);
	g_assert_true(b.tray_moves == 4 && !b.tray_open);
	ask(&b, ready, buf);
	g_assert_cmphex(sense(&b), ==, 0x062800);
	/* Taken out under a read. */
	packet(&b, read10, 0, 0);
	old = b.cd;
	g_assert_cmpint(ide_change_media(b.ide, 2, NULL, true), ==, 0);
	b.cd = other;
	blk_close(old);
	g_assert_cmphex(in(&b, 0x177), ==, 0x51);
	g_assert_cmphex(sense(&b), ==, 0x023a02);
	g_assert_true(ide_tray_open(b.ide, 2) && b.tray_moves == 5 && b.tray_open);
	board_unmake(&b);
}

/* ---- state ---- */

static void test_state(void)
{
	g_autoptr(GByteArray) saved = NULL;
	struct board b, c;
	uint8_t one[2048], two[2048];

	board_make(&b, 1000);
	board_make(&c, 1000);
	/* A read in the middle of its second block, and a packet command whose data is still with the image. */
	command28(&b, 0x20, 100, 4);
	run(&b);
	read_words(&b, 0x1f0, one, 700);
	packet(&b, (const uint8_t[12]){ 0x28, 0, 0, 0, 0, 10, 0, 0, 1 }, 0, 0);
	g_assert_cmpuint(fake_blk_waiting(b.cd), ==, 1);
	saved = device_save(ide_device(b.ide));
	g_assert_cmpuint(fake_blk_waiting(b.cd), ==, 0);
	g_assert_cmpint(device_restore(ide_device(c.ide), saved), ==, 0);
	g_assert_true(c.line[0]);
	device_check_saved(ide_device(c.ide), saved);
	read_words(&c, 0x1f0, one + 700, 2048 - 700);
	g_assert_cmpmem(one, 2048, fake_blk_data(c.disk) + 100 * 512, 2048);
	g_assert_cmphex(in(&c, 0x1f7), ==, 0x50);
	g_assert_cmphex(in(&c, 0x177), ==, 0x58);
	read_words(&c, 0x170, two, 2048);
	g_assert_cmpmem(two, 2048, fake_blk_data(c.cd) + 10 * 2048, 2048);
	/* Cut short, or bent anywhere: refused or harmless, never a crash. */
	for (size_t i = 0; i < saved->len; i += 7)
		g_assert_cmpint(device_restore_bytes(ide_device(c.ide), saved->data, i, NULL), <, 0);
	for (size_t i = 0; i < saved->len; i++) {
		device_restore_bent(ide_device(c.ide), saved, i, (uint8_t)(1 + i % 255));
		for (unsigned n = 0; n < 600; n++)
			space_read(c.ports, 0x1f0, 4);
		run(&c);
	}
	board_unmake(&b);
	board_unmake(&c);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/ide/registers", test_registers);
	g_test_add_func("/ide/absent", test_absent);
	g_test_add_func("/ide/identify", test_identify);
	g_test_add_func("/ide/resized", test_resized);
	g_test_add_func("/ide/pio", test_pio);
	g_test_add_func("/ide/multiple", test_multiple);
	g_test_add_func("/ide/dma", test_dma);
	g_test_add_func("/ide/errors", test_errors);
	g_test_add_func("/ide/reset", test_reset);
	g_test_add_func("/ide/features", test_features);
	g_test_add_func("/ide/packets", test_packets);
	g_test_add_func("/ide/cd-read", test_cd_read);
	g_test_add_func("/ide/media", test_media);
	g_test_add_func("/ide/state", test_state);
	return g_test_run();
}
