/* The window display on SDL's driver without a screen: what is drawn and how large, keys, the mouse free and taken, shortcuts, the end. */
#include <SDL.h>
#include <glib.h>
#include <string.h>

#include "display/window.h"
#include "fake_screen.h"

struct rig {
	struct fake_screen screen;
	unsigned quits;
	struct window *window;
	SDL_Window *sdl;
};

static void quit(void *opaque) { ((struct rig *)opaque)->quits++; }

/* The main loop for some frames. */
static void frames(struct rig *r)
{
	const unsigned until = r->screen.renders + 4;

	while (r->screen.renders != until)
		g_main_context_iteration(NULL, true);
}

static void set_up(struct rig *r, bool full_screen)
{
	struct window_config c = { .source = &r->screen.source, .input = &r->screen.sink, .lock = &r->screen.lock, .name = "machine", .full_screen = full_screen,
				   .quit = quit, .opaque = r };
	GError *error = NULL;

	memset(r, 0, sizeof(*r));
	fake_screen_init(&r->screen);
	r->window = window_create(&c, &error);
	g_assert_no_error(error);
	for (unsigned id = 1; id < 100 && !r->sdl; id++)
		r->sdl = SDL_GetWindowFromID(id);
	g_assert_nonnull(r->sdl);
	frames(r);
	SDL_FlushEvents(SDL_FIRSTEVENT, SDL_LASTEVENT);
}

static void take_down(struct rig *r)
{
	window_destroy(r->window);
	fake_screen_finish(&r->screen);
}

static uint32_t shown(struct rig *r, int x, int y)
{
	const SDL_Rect at = { x, y, 1, 1 };
	uint32_t pixel = 0;

	g_assert_cmpint(SDL_RenderReadPixels(SDL_GetRenderer(r->sdl), &at, SDL_PIXELFORMAT_RGB888, &pixel, 4), ==, 0);
	return pixel & 0xffffff;
}

static void press(struct rig *r, bool down, SDL_Scancode scancode, SDL_Keycode sym, unsigned mod)
{
	SDL_Event e = { .key = { .type = down ? SDL_KEYDOWN : SDL_KEYUP, .windowID = SDL_GetWindowID(r->sdl), .state = down } };

	e.key.keysym = (SDL_Keysym){ .scancode = scancode, .sym = sym, .mod = (uint16_t)mod };
	SDL_PushEvent(&e);
}

static void shortcut(struct rig *r, SDL_Scancode scancode, SDL_Keycode sym)
{
	press(r, true, scancode, sym, KMOD_LCTRL | KMOD_LALT);
	press(r, false, scancode, sym, KMOD_LCTRL | KMOD_LALT);
	frames(r);
}

static void move(struct rig *r, int x, int y, int dx, int dy)
{
	SDL_Event e = { .motion = { .type = SDL_MOUSEMOTION, .windowID = SDL_GetWindowID(r->sdl), .x = x, .y = y, .xrel = dx, .yrel = dy } };

	SDL_PushEvent(&e);
	frames(r);
}

static void button(struct rig *r, bool down, unsigned which, int x, int y)
{
	SDL_Event e = { .button = { .type = down ? SDL_MOUSEBUTTONDOWN : SDL_MOUSEBUTTONUP, .windowID = SDL_GetWindowID(r->sdl),
				    .button = (uint8_t)which, .state = down, .x = x, .y = y } };

	SDL_PushEvent(&e);
	frames(r);
}

static void wheel(struct rig *r, int y)
{
	SDL_Event e = { .wheel = { .type = SDL_MOUSEWHEEL, .windowID = SDL_GetWindowID(r->sdl), .y = y } };

	SDL_PushEvent(&e);
	frames(r);
}

static void check_size(struct rig *r, int width, int height)
{
	int w, h;

	SDL_GetWindowSize(r->sdl, &w, &h);
	g_assert_cmpint(w, ==, width);
	g_assert_cmpint(h, ==, height);
}

static void test_picture(void)
{
	struct rig r;

	set_up(&r, false);
	check_size(&r, 640, 480);
	g_assert_cmphex(shown(&r, 0, 0), ==, 0x112233);
	g_assert_cmphex(shown(&r, 639, 479), ==, 0x112233);
	g_assert_cmphex(shown(&r, 100, 50), ==, 0x445566);
	g_assert_cmphex(shown(&r, 101, 50), ==, 0x112233);
	r.screen.colour = 0x778899;
	frames(&r);
	g_assert_cmphex(shown(&r, 0, 0), ==, 0x778899);
	/* Another mode of the guest's. */
	r.screen.width = 800;
	r.screen.height = 600;
	r.screen.spot = 0xbbaa99;
	frames(&r);
	check_size(&r, 800, 600);
	g_assert_cmphex(shown(&r, 799, 599), ==, 0x778899);
	g_assert_cmphex(shown(&r, 100, 50), ==, 0xbbaa99);
	/* Twice as large as the guest's: scaled; the shortcut brings the true size back. */
	SDL_SetWindowSize(r.sdl, 1600, 1200);
	frames(&r);
	check_size(&r, 1600, 1200);
	g_assert_cmphex(shown(&r, 1500, 1100), ==, 0x778899);
	shortcut(&r, SDL_SCANCODE_1, SDLK_1);
	check_size(&r, 800, 600);
	take_down(&r);
}

static void test_keys(void)
{
	SDL_Event lost = { .window = { .type = SDL_WINDOWEVENT, .event = SDL_WINDOWEVENT_FOCUS_LOST } };
	struct rig r;

	set_up(&r, false);
	/* By place, whatever the host's layout makes of it. */
	press(&r, true, SDL_SCANCODE_Y, SDLK_z, 0);
	press(&r, false, SDL_SCANCODE_Y, SDLK_z, 0);
	press(&r, true, SDL_SCANCODE_RCTRL, SDLK_RCTRL, 0);
	press(&r, false, SDL_SCANCODE_RCTRL, SDLK_RCTRL, 0);
	press(&r, true, SDL_SCANCODE_PAUSE, SDLK_PAUSE, 0);
	press(&r, false, SDL_SCANCODE_PAUSE, SDLK_PAUSE, 0);
	press(&r, true, SDL_SCANCODE_UNKNOWN, SDLK_UNKNOWN, 0);
	frames(&r);
	g_assert_cmpstr(r.screen.keys->str, ==, "+15 -15 +9d -9d +100 -100 ");
	/* What is down when the window loses the keyboard comes up. */
	g_string_truncate(r.screen.keys, 0);
	press(&r, true, SDL_SCANCODE_LSHIFT, SDLK_LSHIFT, 0);
	press(&r, true, SDL_SCANCODE_A, SDLK_a, 0);
	lost.window.windowID = SDL_GetWindowID(r.sdl);
	SDL_PushEvent(&lost);
	press(&r, false, SDL_SCANCODE_A, SDLK_a, 0);
	frames(&r);
	g_assert_cmpstr(r.screen.keys->str, ==, "+2a +1e -1e -2a ");
	/* Ours never reach the guest, and leave nothing down; other letters do. */
	g_string_truncate(r.screen.keys, 0);
	press(&r, true, SDL_SCANCODE_LCTRL, SDLK_LCTRL, KMOD_LCTRL);
	press(&r, true, SDL_SCANCODE_LALT, SDLK_LALT, KMOD_LCTRL | KMOD_LALT);
	shortcut(&r, SDL_SCANCODE_1, SDLK_1);
	g_assert_cmpstr(r.screen.keys->str, ==, "+1d +38 -1d -38 ");
	g_string_truncate(r.screen.keys, 0);
	shortcut(&r, SDL_SCANCODE_DELETE, SDLK_DELETE);
	g_assert_cmpstr(r.screen.keys->str, ==, "+d3 -d3 ");
	take_down(&r);
}

/* A guest with a tablet: the pointer goes where the host's is. */
static void test_tablet(void)
{
	struct rig r;

	set_up(&r, false);
	r.screen.tablet = true;
	move(&r, 0, 0, 0, 0);
	g_assert_cmpuint(r.screen.x, ==, 0);
	move(&r, 639, 479, 0, 0);
	g_assert_cmpuint(r.screen.x, ==, INPUT_POINTER_MAX);
	g_assert_cmpuint(r.screen.y, ==, INPUT_POINTER_MAX);
	button(&r, true, SDL_BUTTON_RIGHT, 320, 0);
	g_assert_cmpuint(r.screen.buttons, ==, INPUT_RIGHT);
	g_assert_cmpuint(r.screen.x, ==, 320u * INPUT_POINTER_MAX / 639);
	button(&r, false, SDL_BUTTON_RIGHT, 320, 0);
	g_assert_cmpuint(r.screen.buttons, ==, 0);
	/* SDL counts away from the user. */
	wheel(&r, 1);
	g_assert_cmpint(r.screen.dz, ==, -1);
	g_assert_null(strstr(SDL_GetWindowTitle(r.sdl), "frees"));
	g_assert_cmpint(r.screen.dx, ==, 0);
	take_down(&r);
}

/* A guest that knows movements only: a click takes the mouse, the title says how to free it. */
static void test_mouse(void)
{
	struct rig r;

	set_up(&r, false);
	g_assert_nonnull(strstr(SDL_GetWindowTitle(r.sdl), "machine - Ctrl-Alt-G takes the mouse, Ctrl-Alt-F full screen, Ctrl-Alt-1 true size"));
	move(&r, 10, 10, 5, 5);
	g_assert_cmpint(r.screen.dx, ==, 0);
	button(&r, true, SDL_BUTTON_LEFT, 10, 10);
	button(&r, false, SDL_BUTTON_LEFT, 10, 10);
	g_assert_cmpuint(r.screen.buttons, ==, 0);
	g_assert_nonnull(strstr(SDL_GetWindowTitle(r.sdl), "Ctrl-Alt-G frees the mouse"));
	move(&r, 10, 10, 5, -3);
	g_assert_cmpint(r.screen.dx, ==, 5);
	g_assert_cmpint(r.screen.dy, ==, -3);
	button(&r, true, SDL_BUTTON_MIDDLE, 10, 10);
	g_assert_cmpuint(r.screen.buttons, ==, INPUT_MIDDLE);
	wheel(&r, -2);
	g_assert_cmpint(r.screen.dz, ==, 2);
	shortcut(&r, SDL_SCANCODE_G, SDLK_g);
	g_assert_nonnull(strstr(SDL_GetWindowTitle(r.sdl), "takes"));
	move(&r, 10, 10, 50, 50);
	g_assert_cmpint(r.screen.dx, ==, 5);
	take_down(&r);
}

static bool full(const struct rig *r) { return SDL_GetWindowFlags(r->sdl) & SDL_WINDOW_FULLSCREEN; }

static void test_full_screen(void)
{
	struct rig r;

	set_up(&r, false);
	g_assert_false(full(&r));
	shortcut(&r, SDL_SCANCODE_F, SDLK_f);
	g_assert_true(full(&r));
	/* The guest's new size leaves it so. */
	r.screen.width = 800;
	frames(&r);
	g_assert_true(full(&r));
	shortcut(&r, SDL_SCANCODE_F, SDLK_f);
	g_assert_false(full(&r));
	take_down(&r);
	set_up(&r, true);
	g_assert_true(full(&r));
	take_down(&r);
}

static void test_end(void)
{
	struct window_config c = { .name = "machine" };
	SDL_Event e = { .type = SDL_QUIT };
	GError *error = NULL;
	struct rig r;

	set_up(&r, false);
	SDL_PushEvent(&e);
	frames(&r);
	g_assert_cmpuint(r.quits, ==, 1);
	take_down(&r);
	g_assert_null(window_create(&c, &error));
	g_assert_nonnull(strstr(error->message, "no display"));
	g_clear_error(&error);
	/* No desktop: what to do instead. */
	g_setenv("SDL_VIDEODRIVER", "there-is-none", true);
	c.source = &r.screen.source;
	g_assert_null(window_create(&c, &error));
	g_assert_nonnull(strstr(error->message, "--display vnc"));
	g_clear_error(&error);
	window_destroy(NULL);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_setenv("SDL_VIDEODRIVER", "dummy", true);
	g_setenv("SDL_RENDER_DRIVER", "software", true);
	g_test_add_func("/window/picture", test_picture);
	g_test_add_func("/window/keys", test_keys);
	g_test_add_func("/window/tablet", test_tablet);
	g_test_add_func("/window/mouse", test_mouse);
	g_test_add_func("/window/full-screen", test_full_screen);
	g_test_add_func("/window/end", test_end);
	return g_test_run();
}
