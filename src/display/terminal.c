/*
 * Draws a VGA text screen with ECMA-48 sequences, only what changed, about 20 times a second.
 * Ctrl-a is the escape key, as on a serial console.
 */
#include "display/terminal.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "display/keys.h"
#include "host/tty.h"

#define FRAME_MS 50
#define STROKE_MS 8      /* a PS/2 keyboard's pace */
#define ESCAPE_MS 40     /* an escape sequence's bytes come within this */
#define GRAPHICS_FRAMES 20
#define NOTICE_FRAMES 100
#define STROKES_MAX 4096
#define ENTER "\033[?1049h\033[2J"
#define LEAVE "\033[0m\033[?25h\033[?1049l"

struct stroke {
	int code;
	bool down;
};

struct terminal {
	struct terminal_config c;
	char *name;
	guint frame_source, key_source, stroke_source, escape_source;
	struct text_screen screen, shown; /* shown.cells: what the terminal displays */
	unsigned lines, columns;          /* of the terminal */
	bool graphics_shown;
	unsigned graphics_age;            /* frames until the mode is looked at again */
	char *notice;                     /* over the last line */
	unsigned notice_age;
	GString *out;
	GByteArray *in;
	bool escape;  /* Ctrl-a was typed */
	bool monitor; /* the terminal is the monitor's */
	GQueue *strokes;
};

/* Terminals may be non-blocking (the flag is shared with other programs): wait, do not spin. */
static void flush(struct terminal *t)
{
	const char *p = t->out->str;
	size_t left = t->out->len;

	while (left) {
		ssize_t n = write(STDOUT_FILENO, p, left);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd w = { STDOUT_FILENO, POLLOUT, 0 };

			if (poll(&w, 1, 1000) > 0)
				continue;
			break;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		p += n;
		left -= (size_t)n;
	}
	g_string_truncate(t->out, 0);
}

/* Forgets what is on the terminal, so that all is drawn again. */
static void forget(struct terminal *t)
{
	text_screen_finish(&t->shown);
	t->graphics_shown = false;
	g_string_append(t->out, "\033[0m\033[2J");
}

static void check_size(struct terminal *t)
{
	struct winsize w = { 0 };
	unsigned lines = 25, columns = 80;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row && w.ws_col) {
		lines = w.ws_row;
		columns = w.ws_col;
	}
	if (lines == t->lines && columns == t->columns)
		return;
	t->lines = lines;
	t->columns = columns;
	forget(t);
}

/* PC attributes have blue in bit 0 and red in bit 2, ECMA-48 the other way round. */
static unsigned ansi(unsigned colour)
{
	return (colour & 1) << 2 | (colour & 2) | (colour >> 2 & 1);
}

static void put_attribute(GString *out, uint8_t attr)
{
	unsigned fore = attr & 15, back = attr >> 4;

	g_string_append_printf(out, "\033[%u;%um", (fore & 8 ? 90 : 30) + ansi(fore), (back & 8 ? 100 : 40) + ansi(back));
}

/* Draws the cells of one row that differ from what is shown. */
static void draw_row(struct terminal *t, unsigned y, unsigned columns, int *attr)
{
	const uint16_t *now = t->screen.cells + (size_t)y * t->screen.columns;
	uint16_t *was = t->shown.cells + (size_t)y * t->screen.columns;
	unsigned at = columns; /* where the terminal's cursor stands */

	for (unsigned x = 0; x < columns; x++) {
		uint32_t ch;

		if (now[x] == was[x])
			continue;
		was[x] = now[x];
		if (at != x)
			g_string_append_printf(t->out, "\033[%u;%uH", y + 1, x + 1);
		if (*attr != now[x] >> 8) {
			*attr = now[x] >> 8;
			put_attribute(t->out, (uint8_t)*attr);
		}
		ch = cp437_to_unicode((uint8_t)now[x]);
		g_string_append_unichar(t->out, ch == 0xa0 ? ' ' : ch);
		at = x + 1;
	}
}

static void draw_text(struct terminal *t)
{
	unsigned rows = MIN(t->screen.rows, t->lines), columns = MIN(t->screen.columns, t->columns);
	size_t cells = (size_t)t->screen.columns * t->screen.rows, before;
	int attr = -1;

	if (t->graphics_shown || t->shown.columns != t->screen.columns || t->shown.rows != t->screen.rows) {
		forget(t);
		t->shown.cells = g_new0(uint16_t, cells);
		t->shown.columns = t->screen.columns;
		t->shown.rows = t->screen.rows;
		/* Every cell differs from this. */
		for (size_t i = 0; i < cells; i++)
			t->shown.cells[i] = (uint16_t)~t->screen.cells[i];
	}
	if (t->notice && rows == t->lines)
		rows--;
	before = t->out->len;
	for (unsigned y = 0; y < rows; y++)
		draw_row(t, y, columns, &attr);
	if (t->out->len != before)
		g_string_append(t->out, "\033[0m");
	else if (!before && t->shown.cursor_on == t->screen.cursor_on && t->shown.cursor_x == t->screen.cursor_x &&
		 t->shown.cursor_y == t->screen.cursor_y)
		return; /* nothing changed: the terminal gets nothing */
	t->shown.cursor_on = t->screen.cursor_on;
	t->shown.cursor_x = t->screen.cursor_x;
	t->shown.cursor_y = t->screen.cursor_y;
	if (t->screen.cursor_on && t->screen.cursor_y < rows && t->screen.cursor_x < columns)
		g_string_append_printf(t->out, "\033[%u;%uH\033[?25h", t->screen.cursor_y + 1, t->screen.cursor_x + 1);
	else
		g_string_append(t->out, "\033[?25l");
}

static void draw_graphics(struct terminal *t)
{
	struct surface s = { 0 };

	if (t->graphics_shown && t->graphics_age--)
		return;
	t->graphics_age = GRAPHICS_FRAMES;
	pthread_mutex_lock(t->c.lock);
	t->c.source->render(t->c.source->opaque, &s);
	pthread_mutex_unlock(t->c.lock);
	if (!t->graphics_shown)
		forget(t);
	g_string_append_printf(t->out, "\033[?25l\033[1;1Hgraphics mode %ux%u: guise screenshot %s FILE.png shows it\033[K",
			       s.width, s.height, t->name);
	t->graphics_shown = true;
	surface_finish(&s);
}

static void draw_notice(struct terminal *t)
{
	if (!t->notice)
		return;
	if (!t->notice_age--) {
		g_clear_pointer(&t->notice, g_free);
		forget(t);
		return;
	}
	if (!t->out->len && t->notice_age != NOTICE_FRAMES - 1)
		return;
	g_string_append_printf(t->out, "\0337\033[%u;1H\033[7m%.*s\033[0m\033[K\0338", t->lines, (int)t->columns, t->notice);
}

static gboolean on_frame(gpointer opaque)
{
	struct terminal *t = opaque;

	if (t->monitor)
		return G_SOURCE_CONTINUE;
	check_size(t);
	pthread_mutex_lock(t->c.lock);
	t->c.source->text(t->c.source->opaque, &t->screen);
	pthread_mutex_unlock(t->c.lock);
	if (t->screen.columns)
		draw_text(t);
	else
		draw_graphics(t);
	draw_notice(t);
	flush(t);
	return G_SOURCE_CONTINUE;
}

static gboolean on_stroke(gpointer opaque)
{
	struct terminal *t = opaque;
	struct stroke *s = g_queue_pop_head(t->strokes);

	if (!s) {
		t->stroke_source = 0;
		return G_SOURCE_REMOVE;
	}
	pthread_mutex_lock(t->c.lock);
	if (t->c.input->key)
		t->c.input->key(t->c.input->opaque, s->code, s->down);
	pthread_mutex_unlock(t->c.lock);
	g_free(s);
	return G_SOURCE_CONTINUE;
}

static void put_stroke(struct terminal *t, int code, bool down)
{
	struct stroke *s = g_new(struct stroke, 1);

	s->code = code;
	s->down = down;
	g_queue_push_tail(t->strokes, s);
	if (!t->stroke_source)
		t->stroke_source = g_timeout_add(STROKE_MS, on_stroke, t);
}

static void press(struct terminal *t, const struct key_stroke *k)
{
	const int held[3] = { k->ctrl ? input_key_from_name("ctrl") : -1, k->alt ? input_key_from_name("alt") : -1,
			      k->shift ? input_key_from_name("shift") : -1 };

	/* Whole keys or none: a release that got lost would leave the guest with a stuck key. */
	if (t->strokes->length >= STROKES_MAX)
		return;
	for (unsigned i = 0; i < 3; i++)
		if (held[i] >= 0)
			put_stroke(t, held[i], true);
	put_stroke(t, k->code, true);
	put_stroke(t, k->code, false);
	for (unsigned i = 3; i-- > 0;)
		if (held[i] >= 0)
			put_stroke(t, held[i], false);
}

static void notice(struct terminal *t, char *text)
{
	g_free(t->notice);
	t->notice = text;
	t->notice_age = NOTICE_FRAMES;
}

/* The monitor has the terminal's usual screen, the guest the other one. */
static void toggle_monitor(struct terminal *t)
{
	t->monitor = !t->monitor;
	if (t->monitor) {
		g_string_assign(t->out, LEAVE);
		flush(t);
	} else {
		g_string_assign(t->out, ENTER);
		forget(t);
	}
	t->c.monitor(t->c.opaque, t->monitor);
}

/* What follows Ctrl-a; false: hand Ctrl-a itself to the guest. */
static bool escape_command(struct terminal *t, uint8_t byte)
{
	switch (byte) {
	case 'x':
		if (t->c.quit)
			t->c.quit(t->c.opaque);
		return true;
	case 'c':
		if (t->c.monitor)
			toggle_monitor(t);
		return true;
	case 'h':
	case '?':
		notice(t, g_strdup("Ctrl-a x ends the machine, c is the monitor and back, h helps, a sends Ctrl-a"));
		return true;
	case 'a':
	case 1:
		return false;
	default:
		return true;
	}
}

static void take_keys(struct terminal *t, bool final)
{
	size_t done = 0, n;

	while (done < t->in->len) {
		const uint8_t *p = t->in->data + done;
		struct key_stroke key;
		bool known;

		if (t->escape) {
			t->escape = false;
			done++;
			if (escape_command(t, *p) || t->monitor)
				continue;
			key = (struct key_stroke){ .code = input_key_from_name("a"), .ctrl = true };
			press(t, &key);
			continue;
		}
		if (*p == 1) {
			t->escape = true;
			done++;
			continue;
		}
		if (t->monitor) {
			t->c.monitor_key(t->c.opaque, *p);
			done++;
			continue;
		}
		n = key_decode(p, t->in->len - done, final, &key, &known);
		if (!n)
			break;
		done += n;
		if (known)
			press(t, &key);
	}
	g_byte_array_remove_range(t->in, 0, (guint)done);
}

static gboolean on_escape(gpointer opaque)
{
	struct terminal *t = opaque;

	t->escape_source = 0;
	take_keys(t, true);
	return G_SOURCE_REMOVE;
}

static gboolean on_input(gint fd, GIOCondition condition, gpointer opaque)
{
	struct terminal *t = opaque;
	uint8_t buf[256];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		/* The terminal is gone: so is the only way to use this machine from it. */
		t->key_source = 0;
		if (t->c.quit)
			t->c.quit(t->c.opaque);
		return G_SOURCE_REMOVE;
	}
	g_byte_array_append(t->in, buf, (guint)n);
	if (t->escape_source)
		g_source_remove(t->escape_source);
	t->escape_source = 0;
	take_keys(t, false);
	if (t->in->len)
		t->escape_source = g_timeout_add(ESCAPE_MS, on_escape, t);
	return G_SOURCE_CONTINUE;
}

struct terminal *terminal_create(const struct terminal_config *config, GError **error)
{
	struct terminal *t;

	if (!config->source) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "--display text: this machine has no display");
		return NULL;
	}
	if (!isatty(STDOUT_FILENO)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    "--display text: standard output is not a terminal; use --display none");
		return NULL;
	}
	if (!tty_raw_enter(LEAVE, error)) {
		g_prefix_error(error, "--display text: ");
		return NULL;
	}
	t = g_new0(struct terminal, 1);
	t->c = *config;
	t->name = g_strdup(config->name);
	t->out = g_string_new(ENTER);
	t->in = g_byte_array_new();
	t->strokes = g_queue_new();
	t->frame_source = g_timeout_add(FRAME_MS, on_frame, t);
	t->key_source = g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP | G_IO_ERR, on_input, t);
	return t;
}

void terminal_destroy(struct terminal *t)
{
	const guint sources[] = { t ? t->frame_source : 0, t ? t->key_source : 0, t ? t->stroke_source : 0,
				  t ? t->escape_source : 0 };

	if (!t)
		return;
	for (unsigned i = 0; i < ARRAY_LEN(sources); i++)
		if (sources[i])
			g_source_remove(sources[i]);
	tty_raw_leave();
	text_screen_finish(&t->screen);
	text_screen_finish(&t->shown);
	g_free(t->notice);
	g_free(t->name);
	g_string_free(t->out, TRUE);
	g_byte_array_unref(t->in);
	g_queue_free_full(t->strokes, g_free);
	g_free(t);
}
