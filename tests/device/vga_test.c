/* The VGA through its ports and windows: text, planes, VBE, state, and nonsense. */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/vga.h"
#include "device_state.h"

#define DEVFN (2 << 3)

struct rig {
	struct space *ports, *mmio;
	struct mem *mem;
	struct pci_bus *bus;
	struct clock *clock;
	struct vga *v;
	const struct display_source *d;
	struct surface s;
	struct text_screen t;
};

static void rig_init(struct rig *r)
{
	static const struct irq none[4];
	static const struct msi_sink sink;

	memset(r, 0, sizeof(*r));
	r->ports = space_create("ports", 0xffff);
	r->mmio = space_create("mmio", UINT64_MAX);
	r->mem = mem_create();
	r->bus = pci_bus_create(r->ports, r->mmio, r->mem, none, &sink);
	r->clock = clock_create_manual();
	r->v = vga_create(r->bus, DEVFN, r->ports, r->mmio, r->clock, NULL);
	g_assert_nonnull(r->v);
	r->d = vga_display(r->v);
	/* BARs at 0xe0000000 and 0xfebf0000, memory and I/O on. */
	pci_config_write(r->bus, DEVFN, 0x10, 4, 0xe0000000);
	pci_config_write(r->bus, DEVFN, 0x18, 4, 0xfebf0000);
	pci_config_write(r->bus, DEVFN, 0x04, 2, 3);
}

static void rig_finish(struct rig *r)
{
	vga_device(r->v)->ops->destroy(vga_device(r->v));
	pci_bus_destroy(r->bus);
	clock_destroy(r->clock);
	mem_destroy(r->mem);
	space_destroy(r->ports);
	space_destroy(r->mmio);
	surface_finish(&r->s);
	text_screen_finish(&r->t);
}

static void out(struct rig *r, uint16_t port, uint8_t v) { space_write(r->ports, port, 1, v); }
static uint8_t in(struct rig *r, uint16_t port) { return (uint8_t)space_read(r->ports, port, 1); }
static void indexed(struct rig *r, uint16_t port, uint8_t i, uint8_t v) { space_write(r->ports, port, 2, i | v << 8); }
static void poke(struct rig *r, uint32_t a, uint8_t v) { space_write(r->mmio, a, 1, v); }
static uint8_t peek(struct rig *r, uint32_t a) { return (uint8_t)space_read(r->mmio, a, 1); }

static uint32_t pixel(const struct rig *r, unsigned x, unsigned y)
{
	g_assert_cmpuint(x, <, r->s.width);
	g_assert_cmpuint(y, <, r->s.height);
	return ld32le(r->s.pixels + (size_t)y * r->s.stride + x * 4);
}

struct mode {
	uint8_t misc, seq[5], crtc[25], gfx[9], attr[21];
};

/* The IBM BIOS's register tables for modes 3, 0x12, 0x13 and 4. */
static const struct mode mode3 = {
	0x67, { 3, 0, 3, 0, 2 },
	{ 0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x1f,
	  0x96, 0xb9, 0xa3, 0xff },
	{ 0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff },
	{ 0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0 },
};
static const struct mode mode12 = {
	0xe3, { 3, 1, 15, 0, 6 },
	{ 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf, 0x28, 0, 0xe7, 4,
	  0xe3, 0xff },
	{ 0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff },
	{ 0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 1, 0, 0x0f, 0, 0 },
};
static const struct mode mode13 = {
	0x63, { 3, 1, 15, 0, 0x0e },
	{ 0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96,
	  0xb9, 0xa3, 0xff },
	{ 0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff },
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0 },
};
static const struct mode mode4 = {
	0x63, { 3, 9, 3, 0, 2 },
	{ 0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14, 0, 0x96,
	  0xb9, 0xa2, 0xff },
	{ 0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff },
	{ 0, 0x13, 0x15, 0x17, 2, 4, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 1, 0, 3, 0, 0 },
};

static void set_mode(struct rig *r, const struct mode *m)
{
	out(r, 0x3c2, m->misc);
	for (unsigned i = 0; i < 5; i++)
		indexed(r, 0x3c4, (uint8_t)i, m->seq[i]);
	indexed(r, 0x3d4, 0x11, 0);
	for (unsigned i = 0; i < 25; i++)
		indexed(r, 0x3d4, (uint8_t)i, m->crtc[i]);
	for (unsigned i = 0; i < 9; i++)
		indexed(r, 0x3ce, (uint8_t)i, m->gfx[i]);
	in(r, 0x3da);
	for (unsigned i = 0; i < 21; i++) {
		out(r, 0x3c0, (uint8_t)i);
		out(r, 0x3c0, m->attr[i]);
	}
	out(r, 0x3c0, 0x20);
	/* DAC: entry n is (n, 63 - n, n / 2). */
	out(r, 0x3c6, 0xff);
	out(r, 0x3c8, 0);
	for (unsigned i = 0; i < 256; i++) {
		out(r, 0x3c9, i & 63);
		out(r, 0x3c9, 63 - (i & 63));
		out(r, 0x3c9, (i & 63) / 2);
	}
}

static uint32_t wide(unsigned v) { return v << 2 | v >> 4; }
static uint32_t dac(unsigned i) { i &= 63; return wide(i) << 16 | wide(63 - i) << 8 | wide(i / 2); }

/* Loads glyph `ch` into plane 2 as a BIOS does. */
static void load_glyph(struct rig *r, uint8_t ch, uint8_t bits)
{
	indexed(r, 0x3c4, 2, 4);
	indexed(r, 0x3c4, 4, 7);
	indexed(r, 0x3ce, 5, 0);
	indexed(r, 0x3ce, 6, 4);
	for (unsigned y = 0; y < 16; y++)
		poke(r, 0xa0000 + ch * 32u + y, bits);
	indexed(r, 0x3c4, 2, 3);
	indexed(r, 0x3c4, 4, 2);
	indexed(r, 0x3ce, 5, 0x10);
	indexed(r, 0x3ce, 6, 0x0e);
}

static void test_text(void)
{
	struct rig r;
	g_autofree char *utf8 = NULL;

	rig_init(&r);
	set_mode(&r, &mode3);
	load_glyph(&r, 'A', 0x81);
	load_glyph(&r, 0xc4, 0xff);
	space_write(r.mmio, 0xb8000, 2, 0x1f41);         /* A, white on blue */
	space_write(r.mmio, 0xb8000 + 160, 2, 0x07c4);   /* a line, on the second row */
	space_write(r.mmio, 0xb8000 + 164, 2, 0x0720);   /* where the cursor goes */
	g_assert_cmphex(space_read(r.mmio, 0xb8000, 2), ==, 0x1f41);
	indexed(&r, 0x3d4, 0x0e, 0);
	indexed(&r, 0x3d4, 0x0f, 82);
	r.d->text(r.d->opaque, &r.t);
	g_assert_cmpuint(r.t.columns, ==, 80);
	g_assert_cmpuint(r.t.rows, ==, 25);
	g_assert_cmphex(r.t.cells[0], ==, 0x1f41);
	g_assert_true(r.t.cursor_on);
	g_assert_cmpuint(r.t.cursor_x, ==, 2);
	g_assert_cmpuint(r.t.cursor_y, ==, 1);
	utf8 = text_screen_to_utf8(&r.t);
	g_assert_true(g_str_has_prefix(utf8, "A\n\xe2\x94\x80\n\n"));
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 720);
	g_assert_cmpuint(r.s.height, ==, 400);
	g_assert_cmphex(pixel(&r, 0, 0), ==, dac(0x3f));
	g_assert_cmphex(pixel(&r, 1, 0), ==, dac(1));
	g_assert_cmphex(pixel(&r, 7, 15), ==, dac(0x3f));
	g_assert_cmphex(pixel(&r, 8, 0), ==, dac(1));    /* ninth dot: background */
	g_assert_cmphex(pixel(&r, 8, 16), ==, dac(7));   /* line drawing goes on */
	/* The cursor shows in its scanlines, and half a blink later it does not. */
	g_assert_cmphex(pixel(&r, 2 * 9, 16 + 13), ==, dac(7));
	g_assert_cmphex(pixel(&r, 2 * 9, 16 + 12), ==, dac(0));
	clock_advance(r.clock, NS_PER_SEC / 60 * 9);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 2 * 9, 16 + 13), ==, dac(0));
	/* Start address: the second row moves to the top. */
	indexed(&r, 0x3d4, 0x0d, 80);
	r.d->text(r.d->opaque, &r.t);
	g_assert_cmphex(r.t.cells[0], ==, 0x07c4);
	rig_finish(&r);
}

static void test_planar(void)
{
	struct rig r;

	rig_init(&r);
	set_mode(&r, &mode12);
	/* Write mode 2 with a bit mask: one pixel of colour 5. */
	indexed(&r, 0x3ce, 5, 2);
	indexed(&r, 0x3ce, 8, 0x40);
	peek(&r, 0xa0000);
	poke(&r, 0xa0000, 5);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 640);
	g_assert_cmpuint(r.s.height, ==, 480);
	g_assert_cmphex(pixel(&r, 0, 0), ==, dac(0));
	g_assert_cmphex(pixel(&r, 1, 0), ==, dac(5));
	/* Read mode 0, each plane; read mode 1, colour compare. */
	indexed(&r, 0x3ce, 4, 0);
	g_assert_cmphex(peek(&r, 0xa0000), ==, 0x40);
	indexed(&r, 0x3ce, 4, 1);
	g_assert_cmphex(peek(&r, 0xa0000), ==, 0);
	indexed(&r, 0x3ce, 5, 8);
	indexed(&r, 0x3ce, 2, 5);
	g_assert_cmphex(peek(&r, 0xa0000), ==, 0x40);
	indexed(&r, 0x3ce, 7, 0);
	g_assert_cmphex(peek(&r, 0xa0000), ==, 0xff);
	/* Write mode 1 copies the latches. */
	peek(&r, 0xa0000);
	indexed(&r, 0x3ce, 5, 1);
	poke(&r, 0xa0000 + 80, 0xaa);
	/* Write mode 0: set/reset in planes 0 and 1, xor with the latch in the others. */
	indexed(&r, 0x3ce, 5, 0);
	indexed(&r, 0x3ce, 8, 0xff);
	indexed(&r, 0x3ce, 0, 1);
	indexed(&r, 0x3ce, 1, 3);
	indexed(&r, 0x3ce, 3, 0x18);
	peek(&r, 0xa0000);
	poke(&r, 0xa0000 + 160, 0x0f);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 1, 1), ==, dac(5));
	/* Planes: 0 = ff ^ 40, 1 = 0, 2 = 0f ^ 40, 3 = 0f. */
	g_assert_cmphex(pixel(&r, 0, 2), ==, dac(1));
	g_assert_cmphex(pixel(&r, 1, 2), ==, dac(4));
	g_assert_cmphex(pixel(&r, 7, 2), ==, dac(0x3d));
	/* Write mode 3: rotated data and bit mask, set/reset colour 1; map mask keeps plane 3. */
	indexed(&r, 0x3ce, 3, 4);
	indexed(&r, 0x3ce, 5, 3);
	indexed(&r, 0x3c4, 2, 7);
	peek(&r, 0xa0000 + 160);
	poke(&r, 0xa0000 + 160, 0xf0); /* rotates to 0x0f */
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 7, 2), ==, dac(0x39)); /* colours 1 | 8 */
	rig_finish(&r);
}

static void test_256(void)
{
	struct rig r;

	rig_init(&r);
	set_mode(&r, &mode13);
	poke(&r, 0xa0000 + 321, 77);
	g_assert_cmpuint(peek(&r, 0xa0000 + 321), ==, 77);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 640);
	g_assert_cmpuint(r.s.height, ==, 400);
	g_assert_cmphex(pixel(&r, 2, 2), ==, dac(77));
	g_assert_cmphex(pixel(&r, 3, 3), ==, dac(77));
	g_assert_cmphex(pixel(&r, 4, 2), ==, dac(0));
	/* Unchained: plane 2 of address 80 is pixel 2 of the second line. */
	indexed(&r, 0x3c4, 4, 6);
	indexed(&r, 0x3d4, 0x14, 0);
	indexed(&r, 0x3d4, 0x17, 0xe3);
	indexed(&r, 0x3c4, 2, 4);
	poke(&r, 0xa0000 + 80, 99);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 4, 2), ==, dac(99));
	/* Line compare: from line 100 on, memory from 0. */
	poke(&r, 0xa0000, 55);
	indexed(&r, 0x3d4, 0x18, 99);
	indexed(&r, 0x3d4, 0x07, 0x0f);
	indexed(&r, 0x3d4, 0x09, 0x01);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 4, 100), ==, dac(55));
	rig_finish(&r);
}

static void test_cga(void)
{
	struct rig r;

	rig_init(&r);
	set_mode(&r, &mode4);
	poke(&r, 0xb8000, 0x1b);         /* pixels 0 1 2 3 */
	poke(&r, 0xb8000 + 1, 0xe4);     /* pixels 3 2 1 0 */
	poke(&r, 0xb8000 + 0x2000, 0xff); /* second line */
	g_assert_cmphex(space_read(r.mmio, 0xb8000, 2), ==, 0xe41b);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 640);
	g_assert_cmpuint(r.s.height, ==, 400);
	g_assert_cmphex(pixel(&r, 0, 0), ==, dac(0));
	g_assert_cmphex(pixel(&r, 2, 0), ==, dac(0x13));
	g_assert_cmphex(pixel(&r, 4, 1), ==, dac(0x15));
	g_assert_cmphex(pixel(&r, 8, 0), ==, dac(0x17));
	g_assert_cmphex(pixel(&r, 12, 0), ==, dac(0x13));
	g_assert_cmphex(pixel(&r, 0, 2), ==, dac(0x17));
	g_assert_cmphex(pixel(&r, 8, 2), ==, dac(0));
	rig_finish(&r);
}

static void dispi(struct rig *r, uint16_t i, uint16_t v)
{
	space_write(r->ports, 0x1ce, 2, i);
	space_write(r->ports, 0x1cf, 2, v);
}

static uint16_t dispi_read(struct rig *r, uint16_t i)
{
	space_write(r->ports, 0x1ce, 2, i);
	return (uint16_t)space_read(r->ports, 0x1cf, 2);
}

static void vbe_mode(struct rig *r, uint16_t w, uint16_t h, uint16_t bpp)
{
	dispi(r, 4, 0);
	dispi(r, 1, w);
	dispi(r, 2, h);
	dispi(r, 3, bpp);
	dispi(r, 4, 0x41);
}

static void test_vbe(void)
{
	struct rig r;
	uint8_t le[4];

	rig_init(&r);
	set_mode(&r, &mode3);
	g_assert_cmphex(dispi_read(&r, 0), ==, 0xb0c5);
	g_assert_cmpuint(dispi_read(&r, 10), ==, 512);
	vbe_mode(&r, 1024, 768, 32);
	st32le(le, 0x00123456);
	g_assert_true(mem_write(r.mem, 0xe0000000 + 4 * (1024 * 3 + 5), le, 4));
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 1024);
	g_assert_cmpuint(r.s.height, ==, 768);
	g_assert_cmphex(pixel(&r, 5, 3), ==, 0x123456);
	r.d->text(r.d->opaque, &r.t);
	g_assert_cmpuint(r.t.columns, ==, 0);
	/* Panning over a wider virtual screen. */
	dispi(&r, 6, 2048);
	g_assert_cmpuint(dispi_read(&r, 7), ==, 4096);
	dispi(&r, 8, 4);
	dispi(&r, 9, 1);
	mem_write(r.mem, 0xe0000000 + 4 * (2048 + 4), le, 4);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 0, 0), ==, 0x123456);
	vbe_mode(&r, 800, 600, 16);
	st16le(le, 0xf81f);
	mem_write(r.mem, 0xe0000000, le, 2);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, 0, 0), ==, 0xff00ff);
	/* The largest mode, through the register BAR. */
	vbe_mode(&r, 2560, 1600, 32);
	g_assert_cmpuint(space_read(r.mmio, 0xfebf0502, 2), ==, 2560);
	g_assert_cmpuint(space_read(r.mmio, 0xfebf0504, 2), ==, 1600);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.height, ==, 1600);
	/* Banked window of an 8-bit mode. */
	vbe_mode(&r, 640, 480, 8);
	indexed(&r, 0x3c4, 4, 0x0e);
	indexed(&r, 0x3ce, 6, 5);
	dispi(&r, 5, 2);
	poke(&r, 0xa0010, 33);
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmphex(pixel(&r, (0x20010) % 640, 0x20010 / 640), ==, dac(33));
	rig_finish(&r);
}

/* A bank that is used much becomes memory; whatever changes what the window shows takes it away. */
static void test_mapped_bank(void)
{
	static const struct { uint16_t port; uint8_t index, value; } changes[] = {
		{ 0x3c4, 4, 0x06 }, { 0x3c4, 4, 0x0e }, { 0x3ce, 6, 9 }, { 0x3ce, 6, 5 },
	};
	const struct mem_slot *s;
	struct rig r;

	rig_init(&r);
	set_mode(&r, &mode3);
	for (unsigned i = 0; i < 5000; i++)
		poke(&r, 0xb8000 + i % 4000, 1);
	g_assert_null(mem_find(r.mem, 0xb8000));
	vbe_mode(&r, 640, 480, 8);
	indexed(&r, 0x3c4, 4, 0x0e);
	indexed(&r, 0x3ce, 6, 5);
	for (unsigned n = 0; n < 8; n++) {
		dispi(&r, 5, (uint16_t)n);
		g_assert_null(mem_find(r.mem, 0xa0000));
		for (unsigned i = 0; i < 5000; i++)
			poke(&r, 0xa0000 + i, (uint8_t)(n + i));
		s = mem_find(r.mem, 0xa0000);
		g_assert_nonnull(s);
		g_assert_cmphex(s->size, ==, 0x10000);
		g_assert_cmphex(s->ram_offset, ==, n << 16);
		g_assert_cmphex(*mem_slot_host(s, 0xa0123), ==, (uint8_t)(n + 0x123));
		if (n < G_N_ELEMENTS(changes)) {
			indexed(&r, changes[n].port, changes[n].index, changes[n].value);
			g_assert_null(mem_find(r.mem, 0xa0000));
			indexed(&r, 0x3c4, 4, 0x0e);
			indexed(&r, 0x3ce, 6, 5);
		}
	}
	vga_device(r.v)->ops->reset(vga_device(r.v));
	g_assert_null(mem_find(r.mem, 0xa0000));
	rig_finish(&r);
}

static unsigned rewatched;

static void rewatch(void *opaque, struct ram *ram)
{
	g_assert_nonnull(ram);
	rewatched++;
}

/* What a front end that watches is told. */
static void test_changed(void)
{
	struct rig r;

	rig_init(&r);
	g_assert_null(r.d->watch);
	vga_set_log(r.v, rewatch, NULL);
	set_mode(&r, &mode3);
	r.d->watch(r.d->opaque);
	g_assert_cmpuint(rewatched, ==, 1);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_SAME);
	poke(&r, 0xb8000, 'a');
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_WRITTEN);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_SAME);
	indexed(&r, 0x3d4, 0x0f, 7);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_WRITTEN);
	clock_advance(r.clock, NS_PER_SEC / 5);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_BLINKED);
	vbe_mode(&r, 640, 480, 8);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_WRITTEN);
	clock_advance(r.clock, NS_PER_SEC / 5);
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_SAME);
	vga_device(r.v)->ops->reset(vga_device(r.v));
	g_assert_cmpint(r.d->changed(r.d->opaque), ==, DISPLAY_WRITTEN);
	rig_finish(&r);
}

static void test_edid(void)
{
	struct rig r;
	uint8_t sum = 0;

	rig_init(&r);
	g_assert_cmphex(space_read(r.mmio, 0xfebf0000, 4), ==, 0xffffff00);
	for (unsigned i = 0; i < 128; i++)
		sum += peek(&r, 0xfebf0000 + i);
	g_assert_cmpuint(sum, ==, 0);
	g_assert_cmpuint(peek(&r, 0xfebf0038) | (peek(&r, 0xfebf003a) & 0xf0) << 4, ==, 1280);
	g_assert_cmpuint(peek(&r, 0xfebf003b) | (peek(&r, 0xfebf003d) & 0xf0) << 4, ==, 800);
	g_assert_cmphex(space_read(r.mmio, 0xfebf0604, 4), ==, 0x1e1e1e1e);
	/* VGA ports in the BAR: the sequencer. */
	space_write(r.mmio, 0xfebf0404, 2, 0x0302);
	out(&r, 0x3c4, 2);
	g_assert_cmphex(in(&r, 0x3c5), ==, 3);
	rig_finish(&r);
}

static void test_retrace(void)
{
	struct rig r;
	unsigned seen = 0;

	rig_init(&r);
	set_mode(&r, &mode3);
	for (unsigned i = 0; i < 4000; i++) {
		uint8_t v = in(&r, 0x3da);

		seen |= 1u << (v & 9);
		/* Never retrace without blanking. */
		g_assert_cmphex(v & 9, !=, 8);
		clock_advance(r.clock, 5000);
	}
	g_assert_cmphex(seen, ==, 1u << 0 | 1u << 1 | 1u << 9);
	rig_finish(&r);
}

static void test_state(void)
{
	g_autoptr(GByteArray) saved = NULL;
	struct rig a, b;

	rig_init(&a);
	rig_init(&b);
	set_mode(&a, &mode12);
	for (unsigned i = 0; i < 38400; i += 7)
		poke(&a, 0xa0000 + i, (uint8_t)i);
	dispi(&a, 1, 800);
	set_mode(&b, &mode13);
	poke(&b, 0xaffff, 1);
	saved = device_save(vga_device(a.v));
	g_assert_cmpint(device_restore(vga_device(b.v), saved), ==, 0);
	device_check_saved(vga_device(b.v), saved);
	a.d->render(a.d->opaque, &a.s);
	b.d->render(b.d->opaque, &b.s);
	g_assert_cmpmem(a.s.pixels, a.s.stride * a.s.height, b.s.pixels, b.s.stride * b.s.height);
	/* Cut short: refused. */
	g_assert_cmpint(device_restore_bytes(vga_device(b.v), saved->data, saved->len / 2, NULL), !=, 0);
	b.d->render(b.d->opaque, &b.s);
	rig_finish(&a);
	rig_finish(&b);
}

/* Any register values: nothing may read or write out of bounds (run under a sanitizer). */
static void test_nonsense(void)
{
	struct rig r;
	GRand *rand = g_rand_new_with_seed(42);

	rig_init(&r);
	for (unsigned round = 0; round < 120; round++) {
		for (unsigned i = 0; i < 300; i++) {
			uint32_t v = g_rand_int(rand);

			space_write(r.ports, 0x3b0 + v % 0x30, 1 + (v >> 8 & 1), v >> 16);
			if (!(v & 0x700))
				dispi(&r, v >> 11 & 15, (uint16_t)(v >> 16));
			space_write(r.mmio, 0xa0000 + (v >> 4) % 0x1fff8, 1u << (v & 3), v);
			space_read(r.mmio, 0xa0000 + (v >> 7) % 0x1fff8, 1u << (v >> 2 & 3));
			space_read(r.ports, 0x3b0 + v % 0x30, 2);
			space_read(r.mmio, 0xfebf0000 + v % 0xffc, 1u << (v >> 12 & 1));
			space_write(r.mmio, 0xfebf0400 + v % 0x200, 2, v >> 9);
		}
		/* Sometimes unblanked, and not always the same way. */
		out(&r, 0x3c2, 1);
		in(&r, 0x3da);
		out(&r, 0x3c0, 0x20);
		if (round & 1)
			dispi(&r, 4, 0);
		/* A sane width keeps the test quick. */
		indexed(&r, 0x3d4, 0x11, 0);
		indexed(&r, 0x3d4, 1, (uint8_t)(round * 2));
		indexed(&r, 0x3c4, 1, round & 8);
		r.d->render(r.d->opaque, &r.s);
		r.d->text(r.d->opaque, &r.t);
	}
	vga_device(r.v)->ops->reset(vga_device(r.v));
	r.d->render(r.d->opaque, &r.s);
	g_assert_cmpuint(r.s.width, ==, 640);
	rig_finish(&r);
	g_rand_free(rand);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vga/text", test_text);
	g_test_add_func("/vga/planar", test_planar);
	g_test_add_func("/vga/256", test_256);
	g_test_add_func("/vga/cga", test_cga);
	g_test_add_func("/vga/vbe", test_vbe);
	g_test_add_func("/vga/mapped-bank", test_mapped_bank);
	g_test_add_func("/vga/changed", test_changed);
	g_test_add_func("/vga/edid", test_edid);
	g_test_add_func("/vga/retrace", test_retrace);
	g_test_add_func("/vga/state", test_state);
	g_test_add_func("/vga/nonsense", test_nonsense);
	return g_test_run();
}
