/* The SDL window: what it shows, and what its events mean to the guest. */
#include "display/window.h"

#include <SDL.h>
#include <gio/gio.h>
#include <string.h>

#define FRAME_MS 16
#define KEY_CODES 0x102

struct window {
	struct window_config c;
	char *name;
	SDL_Window *window;
	SDL_Renderer *renderer;
	SDL_Texture *texture;
	struct surface picture;
	int width, height; /* of the texture */
	bool grabbed, full_screen;
	bool down[KEY_CODES];
	unsigned buttons;
	guint source;
};

/* ---- input ---- */

static void set_title(struct window *w)
{
	g_autofree char *title = g_strdup_printf("%s - %s, Ctrl-Alt-F full screen, Ctrl-Alt-1 true size", w->name,
						 w->grabbed ? "Ctrl-Alt-G frees the mouse" : "Ctrl-Alt-G takes the mouse");

	SDL_SetWindowTitle(w->window, title);
}

static void set_grab(struct window *w, bool grab)
{
	w->grabbed = grab;
	SDL_SetRelativeMouseMode(grab ? SDL_TRUE : SDL_FALSE);
	SDL_SetWindowKeyboardGrab(w->window, grab ? SDL_TRUE : SDL_FALSE);
	set_title(w);
}

static void set_full_screen(struct window *w, bool full)
{
	w->full_screen = full;
	SDL_SetWindowFullscreen(w->window, full ? SDL_WINDOW_FULLSCREEN_DESKTOP : 0);
}

static void send_key(struct window *w, int code, bool down)
{
	if (code < 0 || code >= KEY_CODES || (!down && !w->down[code]))
		return;
	w->down[code] = down;
	pthread_mutex_lock(w->c.lock);
	if (w->c.input->key)
		w->c.input->key(w->c.input->opaque, code, down);
	pthread_mutex_unlock(w->c.lock);
}

static void release_all(struct window *w)
{
	for (int code = 0; code < KEY_CODES; code++)
		if (w->down[code])
			send_key(w, code, false);
}

/* Ctrl-Alt and a letter are ours. */
static bool shortcut(struct window *w, const SDL_KeyboardEvent *e)
{
	if (e->type != SDL_KEYDOWN || !(e->keysym.mod & KMOD_CTRL) || !(e->keysym.mod & KMOD_ALT))
		return false;
	switch (e->keysym.sym) {
	case SDLK_g: set_grab(w, !w->grabbed); break;
	case SDLK_f: set_full_screen(w, !w->full_screen); break;
	case SDLK_1:
		if (w->width)
			SDL_SetWindowSize(w->window, w->width, w->height);
		break;
	default: return false;
	}
	release_all(w);
	return true;
}

/* From the window to the picture, which keeps its proportions: SDL's logical size has scaled already. */
static bool send_pointer(struct window *w, int x, int y, int dz)
{
	const struct input_sink *in = w->c.input;
	bool taken;

	if (!in->pointer || w->width < 2 || w->height < 2)
		return false;
	pthread_mutex_lock(w->c.lock);
	taken = in->pointer(in->opaque, (unsigned)CLAMP(x, 0, w->width - 1) * INPUT_POINTER_MAX / (unsigned)(w->width - 1),
			    (unsigned)CLAMP(y, 0, w->height - 1) * INPUT_POINTER_MAX / (unsigned)(w->height - 1), dz, w->buttons);
	pthread_mutex_unlock(w->c.lock);
	return taken;
}

static void send_movement(struct window *w, int dx, int dy, int dz)
{
	if (!w->grabbed)
		return;
	pthread_mutex_lock(w->c.lock);
	if (w->c.input->mouse)
		w->c.input->mouse(w->c.input->opaque, dx, dy, dz, w->buttons);
	pthread_mutex_unlock(w->c.lock);
}

static void on_motion(struct window *w, const SDL_MouseMotionEvent *e)
{
	if (w->grabbed || !send_pointer(w, e->x, e->y, 0))
		send_movement(w, e->xrel, e->yrel, 0);
}

static unsigned button_bit(unsigned button)
{
	static const uint8_t bits[] = { 0, INPUT_LEFT, INPUT_MIDDLE, INPUT_RIGHT, INPUT_SIDE, INPUT_EXTRA };

	return button < sizeof(bits) ? bits[button] : 0;
}

/* A click takes the mouse of a guest that knows nothing but movements. */
static void on_button(struct window *w, const SDL_MouseButtonEvent *e)
{
	unsigned bit = button_bit(e->button);

	if (e->state == SDL_PRESSED)
		w->buttons |= bit;
	else
		w->buttons &= ~bit;
	if (!w->grabbed && send_pointer(w, e->x, e->y, 0))
		return;
	if (!w->grabbed && e->state == SDL_PRESSED) {
		w->buttons = 0;
		set_grab(w, true);
		return;
	}
	send_movement(w, 0, 0, 0);
}

static void on_wheel(struct window *w, const SDL_MouseWheelEvent *e)
{
	if (w->grabbed || !send_pointer(w, e->mouseX, e->mouseY, -e->y))
		send_movement(w, 0, 0, -e->y);
}

static void on_event(struct window *w, const SDL_Event *e)
{
	switch (e->type) {
	case SDL_QUIT:
		w->c.quit(w->c.opaque);
		break;
	case SDL_KEYDOWN:
	case SDL_KEYUP:
		if (!shortcut(w, &e->key))
			send_key(w, window_key_code(e->key.keysym.scancode), e->type == SDL_KEYDOWN);
		break;
	case SDL_MOUSEMOTION: on_motion(w, &e->motion); break;
	case SDL_MOUSEBUTTONDOWN:
	case SDL_MOUSEBUTTONUP: on_button(w, &e->button); break;
	case SDL_MOUSEWHEEL: on_wheel(w, &e->wheel); break;
	case SDL_WINDOWEVENT:
		if (e->window.event == SDL_WINDOWEVENT_FOCUS_LOST) {
			release_all(w);
			if (w->grabbed)
				set_grab(w, false);
		}
		break;
	}
}

/* ---- output ---- */

/* The window follows the guest's size, until a user has made it as large as the screen. */
static bool follow_size(struct window *w)
{
	int width = (int)w->picture.width, height = (int)w->picture.height;

	if (width == w->width && height == w->height)
		return true;
	if (w->texture)
		SDL_DestroyTexture(w->texture);
	w->texture = SDL_CreateTexture(w->renderer, SDL_PIXELFORMAT_RGB888, SDL_TEXTUREACCESS_STREAMING, width, height);
	if (!w->texture) {
		w->width = w->height = 0;
		return false;
	}
	w->width = width;
	w->height = height;
	SDL_RenderSetLogicalSize(w->renderer, width, height);
	if (!w->full_screen && !(SDL_GetWindowFlags(w->window) & SDL_WINDOW_MAXIMIZED))
		SDL_SetWindowSize(w->window, width, height);
	return true;
}

static void draw(struct window *w)
{
	if (SDL_GetWindowFlags(w->window) & (SDL_WINDOW_HIDDEN | SDL_WINDOW_MINIMIZED))
		return;
	pthread_mutex_lock(w->c.lock);
	w->c.source->render(w->c.source->opaque, &w->picture);
	pthread_mutex_unlock(w->c.lock);
	if (!w->picture.width || !w->picture.height || !follow_size(w))
		return;
	SDL_UpdateTexture(w->texture, NULL, w->picture.pixels, (int)w->picture.stride);
	SDL_RenderClear(w->renderer);
	SDL_RenderCopy(w->renderer, w->texture, NULL, NULL);
	SDL_RenderPresent(w->renderer);
}

static gboolean on_frame(gpointer opaque)
{
	struct window *w = opaque;
	SDL_Event e;

	while (SDL_PollEvent(&e))
		on_event(w, &e);
	draw(w);
	return G_SOURCE_CONTINUE;
}

/* ---- life ---- */

static struct window *failed(struct window *w, GError **error)
{
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "--display window: %s; --display vnc needs no desktop here", SDL_GetError());
	window_destroy(w);
	return NULL;
}

struct window *window_create(const struct window_config *config, GError **error)
{
	struct window *w;

	if (!config->source) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "--display window: this machine has no display");
		return NULL;
	}
	w = g_new0(struct window, 1);
	w->c = *config;
	w->name = g_strdup(config->name);
	SDL_SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1");
	SDL_SetHint(SDL_HINT_VIDEO_ALLOW_SCREENSAVER, "1");
	SDL_SetHint(SDL_HINT_RENDER_SCALE_QUALITY, "linear");
	if (SDL_InitSubSystem(SDL_INIT_VIDEO))
		return failed(w, error);
	w->window = SDL_CreateWindow(config->name, SDL_WINDOWPOS_UNDEFINED, SDL_WINDOWPOS_UNDEFINED, 720, 400, SDL_WINDOW_RESIZABLE);
	if (!w->window)
		return failed(w, error);
	w->renderer = SDL_CreateRenderer(w->window, -1, 0);
	if (!w->renderer)
		return failed(w, error);
	set_title(w);
	if (config->full_screen)
		set_full_screen(w, true);
	w->source = g_timeout_add(FRAME_MS, on_frame, w);
	return w;
}

void window_destroy(struct window *w)
{
	if (!w)
		return;
	if (w->source)
		g_source_remove(w->source);
	if (w->texture)
		SDL_DestroyTexture(w->texture);
	if (w->renderer)
		SDL_DestroyRenderer(w->renderer);
	if (w->window)
		SDL_DestroyWindow(w->window);
	if (SDL_WasInit(SDL_INIT_VIDEO))
		SDL_QuitSubSystem(SDL_INIT_VIDEO);
	surface_finish(&w->picture);
	g_free(w->name);
	g_free(w);
}
