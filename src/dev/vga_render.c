/*
 * What the VGA shows: a picture drawn scanline by scanline the way the CRT and attribute
 * controllers walk video memory, or the text screen as cells (FreeVGA "CRT Controller").
 */
#include "dev/vga_internal.h"

#include <string.h>

#include "base/bytes.h"

#define FRAME_NS (NS_PER_SEC / 60)
#define TEXT_MAX_COLUMNS 256u
#define TEXT_MAX_ROWS 128u

/* One frame's walk through video memory. */
struct scan {
	const struct vga *v;
	uint32_t colour[16];  /* attribute controller output */
	uint32_t dac[256];
	unsigned chars;       /* visible per line */
	unsigned dots;        /* per character: 8 or 9 */
	unsigned scale;       /* 2 with the dot clock halved */
	bool cursor_phase, blink_phase;
	/* Changes from line to line. */
	unsigned address;     /* memory address counter at the line's start */
	unsigned row;         /* row scan counter */
	unsigned pan;         /* dots */
	bool repeat;          /* double scan: this line once more */
};

static uint32_t dac_colour(const struct vga *v, unsigned i)
{
	const uint8_t *c = &v->dac[(i & v->dac_mask) * 3];
	bool wide = v->vbe[VBE_ENABLE] & VBE_8BIT_DAC;
	uint32_t rgb = 0;

	for (unsigned n = 0; n < 3; n++) {
		unsigned x = wide ? c[n] : (c[n] & 0x3fu) << 2 | (c[n] & 0x3fu) >> 4;

		rgb = rgb << 8 | x;
	}
	return rgb;
}

/* By registers, by memory that has been marked, by the cursor's clock. */
enum display_change vga_changed(void *opaque)
{
	struct vga *v = opaque;
	bool written = ram_test_clear_dirty(v->ram, 0, VGA_RAM_SIZE, DIRTY_VGA) || v->registers_written;
	int64_t phase = clock_now(v->clock) / FRAME_NS / 8;
	bool blinked = phase != v->phase && !vga_graphics(v);

	v->registers_written = false;
	v->phase = phase;
	return written ? DISPLAY_WRITTEN : blinked ? DISPLAY_BLINKED : DISPLAY_SAME;
}

/* A four-bit pixel through the palette, colour select and the DAC. */
static uint32_t attr_colour(const struct vga *v, unsigned pixel)
{
	unsigned i = v->attr[pixel & v->attr[0x12] & 15];

	if (v->attr[0x10] & 0x80)
		i = (i & 15) | (v->attr[0x14] & 3u) << 4;
	return dac_colour(v, (i & 0x3f) | (v->attr[0x14] & 0x0cu) << 4);
}

static unsigned start_address(const struct vga *v)
{
	return v->crtc[0x0c] << 8 | v->crtc[0x0d];
}

static unsigned line_compare(const struct vga *v)
{
	return v->crtc[0x18] | (v->crtc[7] & 0x10) << 4 | (v->crtc[9] & 0x40) << 3;
}

static void scan_begin(struct scan *s, const struct vga *v)
{
	int64_t frame = clock_now(v->clock) / FRAME_NS;
	bool text = !vga_graphics(v);

	s->v = v;
	for (unsigned i = 0; i < 16; i++)
		s->colour[i] = attr_colour(v, i);
	for (unsigned i = 0; i < 256; i++)
		s->dac[i] = dac_colour(v, i);
	s->chars = vga_crtc_chars(v);
	s->dots = text && !(v->seq[1] & 1) ? 9 : 8;
	s->scale = v->seq[1] & 8 ? 2 : 1;
	s->cursor_phase = !(frame & 8);
	s->blink_phase = !(frame & 16);
	s->address = start_address(v) + (v->crtc[8] >> 5 & 3);
	s->row = v->crtc[8] & 0x1f;
	s->repeat = false;
	s->pan = v->attr[0x13] & 15;
	/* Nine-dot modes count from 8, which means none. */
	if (s->dots == 9)
		s->pan = s->pan >= 8 ? 0 : s->pan + 1;
	else
		s->pan &= 7;
}

/* Goes on to line y + 1. */
static void scan_next(struct scan *s, unsigned y)
{
	const struct vga *v = s->v;

	if (y == line_compare(v)) {
		s->address = 0;
		s->row = 0;
		s->repeat = false;
		if (v->attr[0x10] & 0x20)
			s->pan = 0;
		return;
	}
	if ((v->crtc[9] & 0x80) && !s->repeat) {
		s->repeat = true;
		return;
	}
	s->repeat = false;
	if (s->row == (v->crtc[9] & 0x1fu)) {
		s->row = 0;
		s->address += v->crtc[0x13] * 2u;
	} else {
		s->row = (s->row + 1) & 0x1f;
	}
}

/* The counter's value as a plane address: byte, word and doubleword modes, CGA's interleave. */
static unsigned crtc_address(const struct vga *v, unsigned ma, unsigned row)
{
	uint8_t mode = v->crtc[0x17];
	unsigned a;

	ma &= 0xffff;
	if (v->crtc[0x14] & 0x40)
		a = ma << 2 | (ma >> 14 & 3);
	else if (!(mode & 0x40))
		a = ma << 1 | (ma >> (mode & 0x20 ? 15 : 13) & 1);
	else
		a = ma;
	if (!(mode & 1))
		a = (a & ~0x2000u) | (row & 1) << 13;
	if (!(mode & 2))
		a = (a & ~0x4000u) | (row >> 1 & 1) << 14;
	return a & VGA_PLANE_MASK;
}

static const uint8_t *plane_bytes(const struct scan *s, unsigned ma)
{
	return s->v->ram->host + (size_t)crtc_address(s->v, ma, s->row) * 4;
}

/* Address within plane 2 of the font for attribute bit 3 clear (0) or set (1). */
static unsigned font_base(const struct vga *v, unsigned bit3)
{
	unsigned m = v->seq[3];
	unsigned map = bit3 ? (m >> 5 & 1) | (m >> 1 & 6) : (m >> 4 & 1) | (m << 1 & 6);

	return map * 0x2000;
}

static bool cursor_at(const struct scan *s, unsigned ma)
{
	const uint8_t *c = s->v->crtc;
	unsigned at = (c[0x0e] << 8 | c[0x0f]) + (c[0x0b] >> 5 & 3u);

	return !(c[0x0a] & 0x20) && s->cursor_phase && (ma & 0xffff) == (at & 0xffff) &&
	       s->row >= (c[0x0a] & 0x1fu) && s->row <= (c[0x0b] & 0x1fu);
}

/* One character's dots of this scanline, 8 or 9 colours. */
static void text_char(const struct scan *s, unsigned ma, uint32_t *out)
{
	const struct vga *v = s->v;
	const uint8_t *cell = plane_bytes(s, ma);
	uint8_t ch = cell[0], attr = cell[1], mode = v->attr[0x10];
	unsigned font = font_base(v, attr >> 3 & 1) + ch * 32u + s->row;
	unsigned bits = v->ram->host[(size_t)(font & VGA_PLANE_MASK) * 4 + 2] << 1;
	unsigned fore = attr & 15, back = attr >> 4;

	/* The ninth dot continues the line-drawing characters. */
	if ((mode & 4) && (ch & 0xe0) == 0xc0)
		bits |= bits >> 1 & 1;
	if (mode & 8) {
		back &= 7;
		if ((attr & 0x80) && !s->blink_phase)
			bits = 0;
	}
	if ((mode & 2) && (attr & 7) == 1 && s->row == (v->crtc[0x14] & 0x1fu))
		bits = 0x1ff;
	if (cursor_at(s, ma))
		bits = 0x1ff;
	for (unsigned i = 0; i < s->dots; i++)
		out[i] = s->colour[bits >> (8 - i) & 1 ? fore : back];
}

/* Eight dots of a planar, CGA-interleaved or 256-colour line. */
static void graphics_char(const struct scan *s, unsigned ma, uint32_t *out)
{
	const uint8_t *p = plane_bytes(s, ma);

	if (s->v->gfx[5] & 0x40) {
		for (unsigned i = 0; i < 8; i++)
			out[i] = s->dac[p[i / 2]];
		return;
	}
	if (s->v->gfx[5] & 0x20) {
		/* Two bits a pixel: plane 0 then 1, their upper halves from 2 and 3. */
		for (unsigned i = 0; i < 8; i++) {
			unsigned shift = 6 - 2 * (i & 3);

			out[i] = s->colour[(p[i / 4] >> shift & 3) | (p[2 + i / 4] >> shift & 3) << 2];
		}
		return;
	}
	for (unsigned i = 0; i < 8; i++) {
		unsigned bit = 7 - i;

		out[i] = s->colour[(p[0] >> bit & 1) | (p[1] >> bit & 1) << 1 | (p[2] >> bit & 1) << 2 |
				   (p[3] >> bit & 1) << 3];
	}
}

static void scan_line(const struct scan *s, uint32_t *out)
{
	bool graphics = s->v->gfx[6] & 1;
	unsigned left = s->chars * s->dots, skip = s->pan;
	uint32_t dots[9];

	for (unsigned ma = s->address; left; ma++) {
		if (graphics)
			graphics_char(s, ma, dots);
		else
			text_char(s, ma, dots);
		for (unsigned i = skip; i < s->dots && left; i++, left--)
			for (unsigned k = 0; k < s->scale; k++)
				*out++ = dots[i];
		/* A nine-dot pan of nine skips a whole character. */
		skip = skip > s->dots ? skip - s->dots : 0;
	}
}

static void surface_size(struct surface *s, unsigned width, unsigned height)
{
	if (s->width == width && s->height == height && s->pixels)
		return;
	g_free(s->pixels);
	s->width = width;
	s->height = height;
	s->stride = width * 4;
	s->pixels = g_malloc0((size_t)s->stride * height);
}

static uint32_t *surface_row(const struct surface *s, unsigned y)
{
	return (uint32_t *)(void *)(s->pixels + (size_t)y * s->stride);
}

static uint32_t expand(unsigned value, unsigned bits)
{
	value &= (1u << bits) - 1;
	return value << (8 - bits) | value >> (2 * bits - 8);
}

static void vbe_line(const struct vbe_mode *m, const uint32_t dac[256], const uint8_t *p, uint32_t *out)
{
	for (unsigned x = 0; x < m->width; x++) {
		unsigned c;

		switch (m->bpp) {
		case 8:
			out[x] = dac[p[x]];
			break;
		case 15:
			c = ld16le(p + 2 * x);
			out[x] = expand(c >> 10, 5) << 16 | expand(c >> 5, 5) << 8 | expand(c, 5);
			break;
		case 16:
			c = ld16le(p + 2 * x);
			out[x] = expand(c >> 11, 5) << 16 | expand(c >> 5, 6) << 8 | expand(c, 5);
			break;
		case 24:
			out[x] = (uint32_t)p[3 * x + 2] << 16 | p[3 * x + 1] << 8 | p[3 * x];
			break;
		default:
			out[x] = ld32le(p + 4 * x) & 0xffffff;
			break;
		}
	}
}

static void vbe_line4(const struct vga *v, const struct vbe_mode *m, uint32_t at, uint32_t *out)
{
	uint32_t colour[16];

	for (unsigned i = 0; i < 16; i++)
		colour[i] = attr_colour(v, i);
	for (unsigned x = 0; x < m->width; x++) {
		unsigned n = x + m->pan, bit = 7 - (n & 7);
		/* The pan may reach one group past the end of the last line. */
		const uint8_t *p = v->ram->host + ((at + n / 8 * 4) & (VGA_RAM_SIZE - 4));

		out[x] = colour[(p[0] >> bit & 1) | (p[1] >> bit & 1) << 1 | (p[2] >> bit & 1) << 2 |
				(p[3] >> bit & 1) << 3];
	}
}

static void render_vbe(const struct vga *v, struct surface *s)
{
	struct vbe_mode m;
	uint32_t dac[256];

	vga_vbe_mode(v, &m);
	surface_size(s, m.width, m.height);
	for (unsigned i = 0; i < 256; i++)
		dac[i] = dac_colour(v, i);
	for (unsigned y = 0; y < m.height; y++) {
		uint32_t at = m.start + y * m.line;

		if (m.bpp == 4)
			vbe_line4(v, &m, at, surface_row(s, y));
		else
			vbe_line(&m, dac, v->ram->host + at, surface_row(s, y));
	}
}

/* Nothing was programmed yet, or too little to be a picture. */
static bool senseless(const struct vga *v)
{
	return !vga_vbe_on(v) && (vga_crtc_chars(v) < 8 || vga_crtc_lines(v) < 8);
}

static void blank_size(const struct vga *v, unsigned *width, unsigned *height)
{
	struct scan s;
	struct vbe_mode m;

	if (senseless(v)) {
		*width = 640;
		*height = 480;
	} else if (vga_vbe_on(v)) {
		vga_vbe_mode(v, &m);
		*width = m.width;
		*height = m.height;
	} else {
		scan_begin(&s, v);
		*width = s.chars * s.dots * s.scale;
		*height = vga_crtc_lines(v);
	}
}

void vga_render(void *opaque, struct surface *s)
{
	const struct vga *v = opaque;
	unsigned width, height;
	struct scan scan;

	if (vga_blanked(v) || senseless(v)) {
		blank_size(v, &width, &height);
		surface_size(s, width, height);
		memset(s->pixels, 0, (size_t)s->stride * s->height);
		return;
	}
	if (vga_vbe_on(v)) {
		render_vbe(v, s);
		return;
	}
	scan_begin(&scan, v);
	surface_size(s, scan.chars * scan.dots * scan.scale, vga_crtc_lines(v));
	for (unsigned y = 0; y < s->height; y++) {
		scan_line(&scan, surface_row(s, y));
		scan_next(&scan, y);
	}
}

static void text_size(struct text_screen *t, unsigned columns, unsigned rows)
{
	if (t->columns != columns || t->rows != rows || !t->cells) {
		g_free(t->cells);
		t->cells = columns && rows ? g_new0(uint16_t, (size_t)columns * rows) : NULL;
	}
	t->columns = columns;
	t->rows = rows;
}

static void text_cursor(const struct vga *v, struct text_screen *t)
{
	unsigned pitch = v->crtc[0x13] * 2u;
	unsigned at = ((v->crtc[0x0e] << 8 | v->crtc[0x0f]) - start_address(v)) & 0xffff;

	t->cursor_on = false;
	if (!pitch || (v->crtc[0x0a] & 0x20) || (v->crtc[0x0a] & 0x1f) > (v->crtc[0x0b] & 0x1f))
		return;
	t->cursor_x = at % pitch;
	t->cursor_y = at / pitch;
	t->cursor_on = t->cursor_x < t->columns && t->cursor_y < t->rows;
}

void vga_text(void *opaque, struct text_screen *t)
{
	const struct vga *v = opaque;
	unsigned height = ((v->crtc[9] & 0x1fu) + 1) * (v->crtc[9] & 0x80 ? 2 : 1);

	t->cursor_on = false;
	t->cursor_x = t->cursor_y = 0;
	for (unsigned i = 0; i < 16; i++)
		t->palette[i] = attr_colour(v, i);
	if (vga_graphics(v)) {
		text_size(t, 0, 0);
		return;
	}
	if (senseless(v)) {
		text_size(t, 80, 25);
		memset(t->cells, 0, 80 * 25 * sizeof(*t->cells));
		return;
	}
	text_size(t, MIN(vga_crtc_chars(v), TEXT_MAX_COLUMNS), MIN((vga_crtc_lines(v) + height - 1) / height, TEXT_MAX_ROWS));
	if (vga_blanked(v)) {
		memset(t->cells, 0, (size_t)t->columns * t->rows * sizeof(*t->cells));
		return;
	}
	for (unsigned y = 0; y < t->rows; y++) {
		unsigned row = start_address(v) + y * v->crtc[0x13] * 2u;

		for (unsigned x = 0; x < t->columns; x++) {
			const uint8_t *cell = v->ram->host + (size_t)crtc_address(v, row + x, 0) * 4;

			t->cells[y * t->columns + x] = (uint16_t)(cell[0] | cell[1] << 8);
		}
	}
	text_cursor(v, t);
}
