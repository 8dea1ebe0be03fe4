/* Pictures and text screens: code page 437 to Unicode, PNG (libpng 1.6) and PPM files. */
#include "display/surface.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

/* The pictures of the control codes, as the PC's character generator shows them. */
static const uint16_t cp437_low[32] = {
	0x0020, 0x263a, 0x263b, 0x2665, 0x2666, 0x2663, 0x2660, 0x2022, 0x25d8, 0x25cb, 0x25d9, 0x2642, 0x2640,
	0x266a, 0x266b, 0x263c, 0x25ba, 0x25c4, 0x2195, 0x203c, 0x00b6, 0x00a7, 0x25ac, 0x21a8, 0x2191, 0x2193,
	0x2192, 0x2190, 0x221f, 0x2194, 0x25b2, 0x25bc,
};

static const uint16_t cp437_high[128] = {
	0x00c7, 0x00fc, 0x00e9, 0x00e2, 0x00e4, 0x00e0, 0x00e5, 0x00e7, 0x00ea, 0x00eb, 0x00e8, 0x00ef, 0x00ee,
	0x00ec, 0x00c4, 0x00c5, 0x00c9, 0x00e6, 0x00c6, 0x00f4, 0x00f6, 0x00f2, 0x00fb, 0x00f9, 0x00ff, 0x00d6,
	0x00dc, 0x00a2, 0x00a3, 0x00a5, 0x20a7, 0x0192, 0x00e1, 0x00ed, 0x00f3, 0x00fa, 0x00f1, 0x00d1, 0x00aa,
	0x00ba, 0x00bf, 0x2310, 0x00ac, 0x00bd, 0x00bc, 0x00a1, 0x00ab, 0x00bb, 0x2591, 0x2592, 0x2593, 0x2502,
	0x2524, 0x2561, 0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557, 0x255d, 0x255c, 0x255b, 0x2510, 0x2514,
	0x2534, 0x252c, 0x251c, 0x2500, 0x253c, 0x255e, 0x255f, 0x255a, 0x2554, 0x2569, 0x2566, 0x2560, 0x2550,
	0x256c, 0x2567, 0x2568, 0x2564, 0x2565, 0x2559, 0x2558, 0x2552, 0x2553, 0x256b, 0x256a, 0x2518, 0x250c,
	0x2588, 0x2584, 0x258c, 0x2590, 0x2580, 0x03b1, 0x00df, 0x0393, 0x03c0, 0x03a3, 0x03c3, 0x00b5, 0x03c4,
	0x03a6, 0x0398, 0x03a9, 0x03b4, 0x221e, 0x03c6, 0x03b5, 0x2229, 0x2261, 0x00b1, 0x2265, 0x2264, 0x2320,
	0x2321, 0x00f7, 0x2248, 0x00b0, 0x2219, 0x00b7, 0x221a, 0x207f, 0x00b2, 0x25a0, 0x00a0,
};

void surface_finish(struct surface *s)
{
	g_free(s->pixels);
	*s = (struct surface){ 0 };
}

void text_screen_finish(struct text_screen *t)
{
	g_free(t->cells);
	*t = (struct text_screen){ 0 };
}

uint32_t cp437_to_unicode(uint8_t byte)
{
	if (byte < 32)
		return cp437_low[byte];
	if (byte == 127)
		return 0x2302;
	return byte < 128 ? byte : cp437_high[byte - 128];
}

static bool blank(uint8_t ch)
{
	return ch == 0 || ch == ' ' || ch == 0xff;
}

char *text_screen_to_utf8(const struct text_screen *t)
{
	GString *out = g_string_new(NULL);

	for (unsigned y = 0; y < t->rows && t->columns; y++) {
		const uint16_t *row = t->cells + (size_t)y * t->columns;
		unsigned n = t->columns;

		while (n && blank((uint8_t)row[n - 1]))
			n--;
		for (unsigned x = 0; x < n; x++)
			g_string_append_unichar(out, cp437_to_unicode((uint8_t)row[x]));
		g_string_append_c(out, '\n');
	}
	return g_string_free(out, FALSE);
}

static void row_to_rgb(const struct surface *s, unsigned y, uint8_t *rgb)
{
	const uint8_t *p = s->pixels + (size_t)y * s->stride;

	for (unsigned x = 0; x < s->width; x++, p += 4) {
		*rgb++ = p[2];
		*rgb++ = p[1];
		*rgb++ = p[0];
	}
}

static FILE *open_picture(const struct surface *s, const char *path, GError **error)
{
	FILE *f;

	if (!s->width || !s->height || !s->pixels) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: the screen is empty; nothing is written", path);
		return NULL;
	}
	f = fopen(path, "wbe");
	if (!f)
		g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "cannot write %s: %s", path,
			    g_strerror(errno));
	return f;
}

static bool close_picture(FILE *f, const char *path, bool ok, GError **error)
{
	int err = errno;

	ok = !ferror(f) && ok;
	if (fclose(f) != 0) {
		err = errno;
		ok = false;
	}
	if (ok)
		return true;
	g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(err), "cannot write %s: %s", path, g_strerror(err));
	remove(path);
	return false;
}

static void png_quiet(png_structp png, png_const_charp message)
{
}

static void png_failed(png_structp png, png_const_charp message)
{
	png_longjmp(png, 1);
}

/* Apart, so that no local of the caller lives across the jump. */
static bool write_png_rows(png_structp png, png_infop info, FILE *f, const struct surface *s, uint8_t *rgb)
{
	if (setjmp(png_jmpbuf(png)))
		return false;
	png_init_io(png, f);
	png_set_compression_level(png, 3);
	png_set_IHDR(png, info, s->width, s->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
		     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_write_info(png, info);
	for (unsigned y = 0; y < s->height; y++) {
		row_to_rgb(s, y, rgb);
		png_write_row(png, rgb);
	}
	png_write_end(png, info);
	return true;
}

bool surface_write_png(const struct surface *s, const char *path, GError **error)
{
	FILE *f = open_picture(s, path, error);
	png_structp png;
	png_infop info;
	uint8_t *rgb;
	bool ok;

	if (!f)
		return false;
	png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_failed, png_quiet);
	info = png ? png_create_info_struct(png) : NULL;
	rgb = g_malloc((size_t)s->width * 3);
	errno = 0;
	ok = info && write_png_rows(png, info, f, s, rgb);
	if (!ok && !errno)
		errno = EIO;
	png_destroy_write_struct(&png, &info);
	g_free(rgb);
	return close_picture(f, path, ok, error);
}

bool surface_write_ppm(const struct surface *s, const char *path, GError **error)
{
	FILE *f = open_picture(s, path, error);
	uint8_t *rgb;
	bool ok;

	if (!f)
		return false;
	rgb = g_malloc((size_t)s->width * 3);
	ok = fprintf(f, "P6\n%u %u\n255\n", s->width, s->height) > 0;
	for (unsigned y = 0; ok && y < s->height; y++) {
		row_to_rgb(s, y, rgb);
		ok = fwrite(rgb, 3, s->width, f) == s->width;
	}
	g_free(rgb);
	return close_picture(f, path, ok, error);
}
