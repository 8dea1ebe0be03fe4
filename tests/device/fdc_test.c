/* The floppy controller with the DMA controller: resets, seeks, reads and writes by DMA and by bytes, formatting,
 * errors, disk change, state. */
#include <string.h>

#include "base/bytes.h"
#include "dev/fdc.h"
#include "device_state.h"
#include "fake_blk.h"

#define RAM_SIZE (1u << 20)
#define BUFFER 0x25000u

struct board {
	struct space *ports;
	struct mem *mem;
	struct ram *ram;
	struct dma8237 *dma;
	struct fdc *fdc;
	struct blk *disk;
	bool line;
};

static void set_line(void *opaque, int line, bool level) { ((struct board *)opaque)->line = level; }
static void out(struct board *b, uint16_t port, uint8_t v) { space_write(b->ports, port, 1, v); }
static uint8_t in(struct board *b, uint16_t port) { return (uint8_t)space_read(b->ports, port, 1); }

static void command(struct board *b, const uint8_t *c, unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		g_assert_cmphex(in(b, 0x3f4) & 0xc0, ==, 0x80);
		out(b, 0x3f5, c[i]);
	}
	fake_blk_run(b->disk);
}

static unsigned result(struct board *b, uint8_t *r)
{
	unsigned n = 0;

	while ((in(b, 0x3f4) & 0xd0) == 0xd0)
		r[n++] = in(b, 0x3f5);
	g_assert_cmphex(in(b, 0x3f4), ==, 0x80);
	return n;
}

static void reset(struct board *b)
{
	uint8_t r[16];

	out(b, 0x3f2, 0x00);
	g_assert_cmphex(in(b, 0x3f4), ==, 0);
	out(b, 0x3f2, 0x1c);
	g_assert_true(b->line);
	for (unsigned i = 0; i < 4; i++) {
		command(b, (const uint8_t[]){ 0x08 }, 1);
		g_assert_cmpuint(result(b, r), ==, 2);
		g_assert_cmphex(r[0], ==, 0xc0 | i);
	}
	g_assert_false(b->line);
	command(b, (const uint8_t[]){ 0x08 }, 1);
	g_assert_cmpuint(result(b, r), ==, 1);
	g_assert_cmphex(r[0], ==, 0x80);
	out(b, 0x3f7, 0);
	command(b, (const uint8_t[]){ 0x03, 0xdf, 0x02 }, 3);
}

static void board_make(struct board *b)
{
	struct fdc_drive drives[2] = { 0 };

	*b = (struct board){ 0 };
	b->ports = space_create("ports", 0xffff);
	b->mem = mem_create();
	b->ram = ram_create("ram", RAM_SIZE, NULL);
	g_assert_cmpint(mem_map(b->mem, 0, RAM_SIZE, b->ram, 0, false), >=, 0);
	b->dma = dma8237_create(b->ports, b->mem);
	drives[0].present = true;
	drives[0].blk = b->disk = fake_blk_new(2880, 0x21);
	b->fdc = fdc_create(b->ports, (struct irq){ set_line, b, 6 }, b->dma, 2, drives);
	reset(b);
}

static void board_unmake(struct board *b)
{
	blk_close(b->disk);
	fdc_device(b->fdc)->ops->destroy(fdc_device(b->fdc));
	dma8237_device(b->dma)->ops->destroy(dma8237_device(b->dma));
	mem_destroy(b->mem);
	ram_destroy(b->ram);
	space_destroy(b->ports);
}

/* Channel 2: `mode` 0x46 to memory, 0x4a from memory. */
static void dma_program(struct board *b, uint8_t mode, uint32_t addr, unsigned count)
{
	out(b, 0x0a, 6);
	out(b, 0x0c, 0);
	out(b, 0x0b, mode);
	out(b, 0x04, (uint8_t)addr);
	out(b, 0x04, (uint8_t)(addr >> 8));
	out(b, 0x81, (uint8_t)(addr >> 16));
	out(b, 0x05, (uint8_t)(count - 1));
	out(b, 0x05, (uint8_t)((count - 1) >> 8));
	out(b, 0x0a, 2);
}

static void seek(struct board *b, uint8_t track)
{
	uint8_t r[16];

	command(b, (const uint8_t[]){ 0x0f, 0, track }, 3);
	g_assert_true(b->line);
	command(b, (const uint8_t[]){ 0x08 }, 1);
	g_assert_cmpuint(result(b, r), ==, 2);
	g_assert_cmphex(r[0], ==, 0x20);
	g_assert_cmpuint(r[1], ==, track);
}

static void test_dma_controller(void)
{
	struct board b;
	uint8_t data[16] = "0123456789abcde";
	bool end;

	board_make(&b);
	/* A channel that stops at its count, and its status. */
	dma_program(&b, 0x46, 0x1fffe, 4);
	g_assert_cmpuint(dma8237_to_memory(b.dma, 2, data, 16, &end), ==, 4);
	g_assert_true(end);
	/* The page does not change: the address wraps within its 64 KiB. */
	g_assert_cmpmem(b.ram->host + 0x1fffe, 2, "01", 2);
	g_assert_cmpmem(b.ram->host + 0x10000, 2, "23", 2);
	g_assert_cmphex(in(&b, 0x08), ==, 0x04);
	g_assert_cmphex(in(&b, 0x08), ==, 0x00);
	g_assert_cmphex(in(&b, 0x0f) & 4, ==, 4);
	g_assert_cmpuint(dma8237_to_memory(b.dma, 2, data, 16, &end), ==, 0);
	g_assert_false(end);
	/* Auto-initialisation goes on from the start; the other direction moves nothing. */
	dma_program(&b, 0x5a, 0x30000, 3);
	memcpy(b.ram->host + 0x30000, "xyz", 3);
	g_assert_cmpuint(dma8237_to_memory(b.dma, 2, data, 3, &end), ==, 0);
	for (unsigned i = 0; i < 2; i++) {
		g_assert_cmpuint(dma8237_from_memory(b.dma, 2, data, 16, &end), ==, 3);
		g_assert_true(end);
		g_assert_cmpmem(data, 3, "xyz", 3);
	}
	/* Words, downwards, on channel 5. */
	out(&b, 0xd8, 0);
	out(&b, 0xd6, 0x65);
	out(&b, 0xc4, 0x01);
	out(&b, 0xc4, 0x80);
	out(&b, 0xc6, 1);
	out(&b, 0xc6, 0);
	out(&b, 0x8b, 0x04);
	out(&b, 0xd4, 1);
	g_assert_cmpuint(dma8237_to_memory(b.dma, 5, "ABCDEF", 6, &end), ==, 4);
	g_assert_cmpmem(b.ram->host + 0x50000, 4, "CDAB", 4);
	/* Counts are read back through the flip-flop; the cascade can shut the byte channels out. */
	out(&b, 0xda, 0);
	g_assert_cmphex(in(&b, 0xde) & 15, ==, 15);
	g_assert_cmpuint(dma8237_from_memory(b.dma, 2, data, 3, &end), ==, 0);
	board_unmake(&b);
}

static void test_read(void)
{
	struct board b;
	uint8_t r[16];
	const uint8_t *disk;

	board_make(&b);
	disk = fake_blk_data(b.disk);
	g_assert_cmpuint(fdc_drive_type(b.fdc, 0), ==, 4);
	g_assert_cmpuint(fdc_drive_type(b.fdc, 1), ==, 0);
	seek(&b, 5);
	/* From head 0, sector 17 over to head 1: four sectors, then TC. */
	dma_program(&b, 0x46, BUFFER, 4 * 512);
	command(&b, (const uint8_t[]){ 0xe6, 0, 5, 0, 17, 2, 18, 0x1b, 0xff }, 9);
	g_assert_true(b.line);
	g_assert_cmpuint(result(&b, r), ==, 7);
	g_assert_false(b.line);
	g_assert_cmphex(r[0], ==, 0);
	g_assert_cmpmem(r + 3, 4, "\x05\x01\x03\x02", 4);
	g_assert_cmpmem(b.ram->host + BUFFER, 2048, disk + (5 * 36 + 16) * 512, 2048);
	/* Without TC the end of the track is an error, but the data are there. */
	dma_program(&b, 0x46, BUFFER, 4096);
	command(&b, (const uint8_t[]){ 0x46, 0, 5, 0, 18, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x40);
	g_assert_cmphex(r[1], ==, 0x80);
	g_assert_cmpmem(b.ram->host + BUFFER, 512, disk + (5 * 36 + 17) * 512, 512);
	/* A command before its DMA channel waits for it. */
	out(&b, 0x0a, 6);
	command(&b, (const uint8_t[]){ 0x46, 0, 5, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	g_assert_cmphex(in(&b, 0x3f4), ==, 0x10);
	dma_program(&b, 0x46, BUFFER, 512);
	g_assert_cmpuint(result(&b, r), ==, 7);
	g_assert_cmphex(r[0], ==, 0);
	/* Read ID; wrong rate: nothing to be found. */
	command(&b, (const uint8_t[]){ 0x4a, 4 }, 2);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 4);
	g_assert_cmpmem(r + 3, 2, "\x05\x01", 2);
	out(&b, 0x3f7, 2);
	command(&b, (const uint8_t[]){ 0x4a, 0 }, 2);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x40);
	g_assert_cmphex(r[1], ==, 0x01);
	out(&b, 0x3f7, 0);
	/* The wrong cylinder; a bad sector. */
	command(&b, (const uint8_t[]){ 0x46, 0, 6, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[1] << 8 | r[2], ==, 0x0410);
	fake_blk_set_bad(b.disk, 5 * 36);
	command(&b, (const uint8_t[]){ 0x46, 0, 5, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[1] << 8 | r[2], ==, 0x2020);
	board_unmake(&b);
}

static void test_write(void)
{
	struct board b;
	uint8_t r[16], pattern[512];

	board_make(&b);
	seek(&b, 79);
	memset(b.ram->host + BUFFER, 0x5a, 700);
	dma_program(&b, 0x4a, BUFFER, 700);
	command(&b, (const uint8_t[]){ 0x45, 4, 79, 1, 17, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 4);
	memset(pattern, 0x5a, 512);
	g_assert_cmpmem(fake_blk_data(b.disk) + 2878 * 512, 512, pattern, 512);
	/* What TC cut off is zeros. */
	memset(pattern + 188, 0, 512 - 188);
	g_assert_cmpmem(fake_blk_data(b.disk) + 2879 * 512, 512, pattern, 512);
	/* Format track 2 of head 0. */
	seek(&b, 2);
	for (unsigned i = 0; i < 18; i++)
		memcpy(b.ram->host + BUFFER + 4 * i, (const uint8_t[]){ 2, 0, (uint8_t)(i + 1), 2 }, 4);
	dma_program(&b, 0x4a, BUFFER, 72);
	command(&b, (const uint8_t[]){ 0x4d, 0, 2, 18, 0x54, 0xf6 }, 6);
	g_assert_cmpuint(result(&b, r), ==, 7);
	g_assert_cmphex(r[0], ==, 0);
	memset(pattern, 0xf6, 512);
	for (unsigned i = 0; i < 18; i++)
		g_assert_cmpmem(fake_blk_data(b.disk) + (2 * 36 + i) * 512, 512, pattern, 512);
	/* Verify by count; scan: equal and not. */
	command(&b, (const uint8_t[]){ 0x56, 0x80, 2, 0, 1, 2, 18, 0x1b, 3 }, 9);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0);
	g_assert_cmpuint(r[5], ==, 4);
	memset(b.ram->host + BUFFER, 0xf6, 512);
	dma_program(&b, 0x4a, BUFFER, 512);
	command(&b, (const uint8_t[]){ 0x51, 0, 2, 0, 1, 2, 18, 0x1b, 1 }, 9);
	result(&b, r);
	g_assert_cmphex(r[2], ==, 0x08);
	b.ram->host[BUFFER + 9] = 1;
	dma_program(&b, 0x4a, BUFFER, 512);
	command(&b, (const uint8_t[]){ 0x51, 0, 2, 0, 1, 2, 18, 0x1b, 1 }, 9);
	result(&b, r);
	g_assert_cmphex(r[2], ==, 0x04);
	/* Write-protected. */
	fake_blk_set_readonly(b.disk, true);
	command(&b, (const uint8_t[]){ 0x45, 0, 2, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[1], ==, 0x02);
	command(&b, (const uint8_t[]){ 0x04, 0 }, 2);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x68);
	board_unmake(&b);
}

static void test_bytes(void)
{
	struct board b;
	uint8_t r[16], data[1024];

	board_make(&b);
	/* SPECIFY says: no DMA. */
	command(&b, (const uint8_t[]){ 0x03, 0xdf, 0x03 }, 3);
	command(&b, (const uint8_t[]){ 0x46, 0, 0, 0, 1, 2, 2, 0x1b, 0xff }, 9);
	for (unsigned i = 0; i < 1024; i++) {
		fake_blk_run(b.disk);
		g_assert_true(b.line);
		g_assert_cmphex(in(&b, 0x3f4), ==, 0xf0);
		data[i] = in(&b, 0x3f5);
	}
	g_assert_cmpmem(data, 1024, fake_blk_data(b.disk), 1024);
	g_assert_cmpuint(result(&b, r), ==, 7);
	g_assert_cmphex(r[1], ==, 0x80);
	command(&b, (const uint8_t[]){ 0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff }, 9);
	for (unsigned i = 0; i < 512; i++) {
		g_assert_cmphex(in(&b, 0x3f4), ==, 0xb0);
		out(&b, 0x3f5, (uint8_t)(i * 3));
	}
	fake_blk_run(b.disk);
	g_assert_cmpuint(result(&b, r), ==, 7);
	g_assert_cmphex(fake_blk_data(b.disk)[17 * 512 + 100], ==, (uint8_t)300);
	board_unmake(&b);
}

static void test_odds(void)
{
	struct board b;
	uint8_t r[16];
	struct blk *other = fake_blk_new(1440, 3), *wrong = fake_blk_new(5761, 3), *half = fake_blk_new(1000, 4), *old;

	board_make(&b);
	command(&b, (const uint8_t[]){ 0x10 }, 1);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x90);
	/* LOCK keeps CONFIGURE over a reset. */
	command(&b, (const uint8_t[]){ 0x13, 0, 0x57, 0x10 }, 4);
	command(&b, (const uint8_t[]){ 0x94 }, 1);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x10);
	reset(&b);
	command(&b, (const uint8_t[]){ 0x0e }, 1);
	g_assert_cmpuint(result(&b, r), ==, 10);
	g_assert_cmphex(r[7], ==, 0x80);
	g_assert_cmphex(r[8], ==, 0x57);
	/* A drive that is not there never finds track 0. */
	command(&b, (const uint8_t[]){ 0x07, 1 }, 2);
	command(&b, (const uint8_t[]){ 0x08 }, 1);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x71);
	command(&b, (const uint8_t[]){ 0x1f }, 1);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0x80);
	g_assert_cmpuint(fdc_device(b.fdc)->guest_errors, ==, 1);
	/* Disk change: until a step with a disk in. */
	seek(&b, 1);
	g_assert_cmphex(in(&b, 0x3f7), ==, 0);
	g_assert_cmpint(fdc_change_media(b.fdc, 1, other), ==, -ENODEV);
	g_assert_cmpint(fdc_change_media(b.fdc, 0, wrong), ==, -EINVAL);
	g_assert_cmpint(fdc_change_media(b.fdc, 0, NULL), ==, 0);
	seek(&b, 2);
	g_assert_cmphex(in(&b, 0x3f7), ==, 0x80);
	g_assert_cmpint(fdc_change_media(b.fdc, 0, other), ==, 0);
	seek(&b, 0);
	g_assert_cmphex(in(&b, 0x3f7), ==, 0);
	out(&b, 0x3f7, 2);
	old = b.disk;
	b.disk = other;
	blk_close(old);
	command(&b, (const uint8_t[]){ 0x4a, 0 }, 2);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0);
	/* A reset in the middle of a read: not ready before it has come back. */
	for (unsigned i = 0; i < 9; i++)
		out(&b, 0x3f5, ((const uint8_t[]){ 0x46, 0, 0, 0, 1, 2, 9, 0x1b, 0xff })[i]);
	g_assert_cmpuint(fake_blk_waiting(b.disk), ==, 1);
	out(&b, 0x3f4, 0x80);
	g_assert_cmphex(in(&b, 0x3f4), ==, 0);
	fake_blk_run(b.disk);
	g_assert_cmphex(in(&b, 0x3f4), ==, 0x80);
	blk_close(wrong);
	/* An image that ends early: zeros, and nothing to write on. */
	g_assert_cmpint(fdc_change_media(b.fdc, 0, half), ==, 0);
	blk_close(b.disk);
	b.disk = half;
	reset(&b);
	seek(&b, 70);
	memset(b.ram->host + BUFFER, 1, 512);
	dma_program(&b, 0x46, BUFFER, 512);
	command(&b, (const uint8_t[]){ 0x46, 0, 70, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[0], ==, 0);
	g_assert_cmphex(b.ram->host[BUFFER + 511], ==, 0);
	command(&b, (const uint8_t[]){ 0x45, 0, 70, 0, 1, 2, 18, 0x1b, 0xff }, 9);
	result(&b, r);
	g_assert_cmphex(r[1], ==, 0x04);
	board_unmake(&b);
}

static void test_state(void)
{
	g_autoptr(GByteArray) saved = NULL, dma = NULL;
	struct board b, c;

	board_make(&b);
	board_make(&c);
	/* In the middle of a byte-by-byte write; the DMA controller programmed. */
	dma_program(&b, 0x46, BUFFER, 512);
	command(&b, (const uint8_t[]){ 0x03, 0xdf, 0x03 }, 3);
	command(&b, (const uint8_t[]){ 0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff }, 9);
	for (unsigned i = 0; i < 100; i++)
		out(&b, 0x3f5, (uint8_t)i);
	dma = device_save(dma8237_device(b.dma));
	g_assert_cmpint(device_restore(dma8237_device(c.dma), dma), ==, 0);
	saved = device_save(fdc_device(b.fdc));
	g_assert_cmpint(device_restore(fdc_device(c.fdc), saved), ==, 0);
	device_check_saved(fdc_device(c.fdc), saved);
	for (unsigned i = 100; i < 512; i++)
		out(&c, 0x3f5, (uint8_t)i);
	fake_blk_run(c.disk);
	g_assert_cmphex(fake_blk_data(c.disk)[17 * 512 + 99], ==, 99);
	/* Bent anywhere: refused or harmless. */
	for (size_t i = 0; i < saved->len; i++) {
		for (unsigned bit = 0; bit < 8; bit += 3) {
			device_restore_bent(fdc_device(c.fdc), saved, i, (uint8_t)(1u << bit));
			for (unsigned n = 0; n < 520; n++)
				out(&c, 0x3f5, (uint8_t)n);
			fake_blk_run(c.disk);
		}
	}
	board_unmake(&b);
	board_unmake(&c);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/fdc/dma-controller", test_dma_controller);
	g_test_add_func("/fdc/read", test_read);
	g_test_add_func("/fdc/write", test_write);
	g_test_add_func("/fdc/bytes", test_bytes);
	g_test_add_func("/fdc/odds", test_odds);
	g_test_add_func("/fdc/state", test_state);
	return g_test_run();
}
