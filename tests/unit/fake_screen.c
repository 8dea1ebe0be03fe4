/* A screen and a sink for tests of displays. */
#include "fake_screen.h"

#include "base/bytes.h"

static void render(void *opaque, struct surface *to)
{
	struct fake_screen *s = opaque;

	if (to->width != s->width || to->height != s->height) {
		g_free(to->pixels);
		*to = (struct surface){ s->width, s->height, s->width * 4, g_malloc((size_t)s->width * s->height * 4) };
	}
	for (unsigned i = 0; i < s->width * s->height; i++)
		st32le(to->pixels + 4 * i, s->colour);
	st32le(to->pixels + 50 * to->stride + 400, s->spot);
	s->renders++;
}

static void no_text(void *opaque, struct text_screen *t) { t->columns = 0; }

static void key(void *opaque, int code, bool down)
{
	g_string_append_printf(((struct fake_screen *)opaque)->keys, "%c%02x ", down ? '+' : '-', (unsigned)code);
}

static void mouse(void *opaque, int dx, int dy, int dz, unsigned buttons)
{
	struct fake_screen *s = opaque;

	s->dx += dx;
	s->dy += dy;
	s->dz += dz;
	s->buttons = buttons;
}

static bool pointer(void *opaque, unsigned x, unsigned y, int dz, unsigned buttons)
{
	struct fake_screen *s = opaque;

	if (!s->tablet)
		return false;
	s->x = x;
	s->y = y;
	s->dz += dz;
	s->buttons = buttons;
	return true;
}

void fake_screen_init(struct fake_screen *s)
{
	*s = (struct fake_screen){ .width = 640, .height = 480, .colour = 0x112233, .spot = 0x445566, .keys = g_string_new(NULL) };
	pthread_mutex_init(&s->lock, NULL);
	s->source = (struct display_source){ render, no_text, s };
	s->sink = (struct input_sink){ key, mouse, s, pointer };
}

void fake_screen_finish(struct fake_screen *s)
{
	g_string_free(s->keys, true);
	pthread_mutex_destroy(&s->lock);
}
