/*
 * What a display shows, for every front end: a picture, or a text screen where the guest is
 * in a text mode. The VGA fills it in on demand.
 */
#ifndef DISPLAY_SURFACE_H
#define DISPLAY_SURFACE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct surface {
	unsigned width, height; /* pixels */
	unsigned stride;        /* bytes */
	uint8_t *pixels;        /* 0x00RRGGBB little-endian, owned */
};

/* A text screen as cells: low byte the character (code page 437), high byte the attribute. */
struct text_screen {
	unsigned columns, rows; /* up to 256 x 128; columns 0 when not in a text mode */
	uint16_t *cells;        /* columns * rows, owned */
	bool cursor_on;
	unsigned cursor_x, cursor_y;
	uint32_t palette[16]; /* 0x00RRGGBB */
};

/* DISPLAY_BLINKED: another phase of a cursor or a blinking character, by the clock alone. */
enum display_change { DISPLAY_SAME, DISPLAY_BLINKED, DISPLAY_WRITTEN };

/* What a display adapter offers; called with the VM lock held. */
struct display_source {
	/* Renders the whole screen; (re)allocates s->pixels as needed. */
	void (*render)(void *opaque, struct surface *s);
	/* Fills t; columns = 0 in graphics modes. */
	void (*text)(void *opaque, struct text_screen *t);
	void *opaque;
	/* NULL both when the adapter has no such log.
	 * Empties the log of what the guest writes to the picture's memory and has the engine keep it anew, which costs the
	 * guest its fast ways to memory once. What CPUs write while they are being told may be missed. */
	void (*watch)(void *opaque);
	/* What has become of the picture since watch or the last call; it may tell of more than there was. */
	enum display_change (*changed)(void *opaque);
};

void surface_finish(struct surface *s);
void text_screen_finish(struct text_screen *t);
/* UTF-8 rows without trailing blanks, newline after each. */
char *text_screen_to_utf8(const struct text_screen *t);
/* Code page 437 byte to Unicode. */
uint32_t cp437_to_unicode(uint8_t byte);
/* Writes PNG (libpng). */
bool surface_write_png(const struct surface *s, const char *path, GError **error);
bool surface_write_ppm(const struct surface *s, const char *path, GError **error);

#endif
