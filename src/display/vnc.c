/* The VNC server: refreshing what viewers see, their pointers, their comings and goings. */
#include "display/vnc.h"

#include <errno.h>
#include <gio/gio.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "display/vnc_gate.h"
#include "display/vnc_internal.h"

/* How long viewers' threads may take to end. */
#define LEAVE_WAIT_US 5000
#define LEAVE_TRIES 200
#define MAX_SIDE 4096u
#define MAX_VIEWERS 16
#define LOGIN_PATIENCE (120 * G_USEC_PER_SEC) /* a person may have to look for the password */
#define FRAME_NS 33000000
/* Seconds that a viewer in the middle of an update may hold up a new size: one that takes nothing, and one that does. */
#define RESIZE_PATIENCE 2
#define RESIZE_LIMIT 20
#define RESIZE_LOOK_NS 20000000
#define TILE_W 64u
#define TILE_H 16u
/* Frames without a change until the guest's writes are watched instead of its picture; more after each that came to nothing. */
#define STILL_FRAMES 15u
#define STILL_FRAMES_MAX 240u
#define LOOK_FRAMES 30u /* what is watched is looked at all the same now and then: the log may miss what came at its start */

struct vnc {
	struct vnc_config c;
	char *name, *address, *unix_path;
	struct vnc_tls *tls;   /* NULL: none */
	struct vnc_gate *gate; /* with TLS */
	char *passwords[2];
	rfbScreenInfoPtr screen;
	/* The viewers' picture. Their threads may still read an old size while it changes: room for the largest is
	 * there all the time, and takes memory only where it is used. */
	uint32_t *pixels;
	unsigned width, height; /* of it */
	struct surface next;
	unsigned still, patience; /* frames */
	bool watching;
	unsigned unseen; /* frames not looked at while watching */
	pthread_t thread;
	pthread_mutex_t wait_lock;
	pthread_cond_t wait;
	bool quit;
	unsigned viewers; /* atomic */
};

/* ---- the picture ---- */

/* 0x00RRGGBB to the order of bytes that LibVNCServer starts from: red first. */
static uint32_t red_first(uint32_t pixel)
{
	return (pixel >> 16 & 0xff) | (pixel & 0xff00) | (pixel & 0xff) << 16;
}

static const uint32_t *next_row(const struct vnc *v, unsigned x, unsigned y)
{
	return (const uint32_t *)(const void *)(v->next.pixels + (size_t)y * v->next.stride) + x;
}

static bool row_differs(const uint32_t *next, const uint32_t *shown, unsigned n)
{
	uint32_t differs = 0;

	for (unsigned x = 0; x < n; x++)
		differs |= red_first(next[x]) ^ shown[x];
	return differs;
}

static bool tile_differs(const struct vnc *v, unsigned x, unsigned y, unsigned w, unsigned h)
{
	for (unsigned r = y; r < y + h; r++) {
		const uint32_t *next = next_row(v, x, r), *shown = v->pixels + (size_t)r * v->width + x;

		/* A constant count becomes vectors. */
		if (w == TILE_W ? row_differs(next, shown, TILE_W) : row_differs(next, shown, w))
			return true;
	}
	return false;
}

static void publish(struct vnc *v, unsigned x, unsigned y, unsigned w, unsigned h)
{
	for (unsigned r = y; r < y + h; r++) {
		const uint32_t *from = next_row(v, x, r);
		uint32_t *to = v->pixels + (size_t)r * v->width + x;

		for (unsigned i = 0; i < w; i++)
			to[i] = red_first(from[i]);
	}
	rfbMarkRectAsModified(v->screen, (int)x, (int)y, (int)(x + w), (int)(y + h));
}

/* Runs of tiles that differ are one rectangle. Whether there were any. */
static bool publish_changes(struct vnc *v)
{
	bool any = false;

	for (unsigned y = 0; y < v->height; y += TILE_H) {
		unsigned h = MIN(TILE_H, v->height - y), start = 0, end = 0;

		for (unsigned x = 0; x < v->width; x += TILE_W) {
			unsigned w = MIN(TILE_W, v->width - x);

			if (!tile_differs(v, x, y, w, h))
				continue;
			any = true;
			if (end && end != x) {
				publish(v, start, y, end - start, h);
				end = 0;
			}
			if (!end)
				start = x;
			end = x + w;
		}
		if (end)
			publish(v, start, y, end - start, h);
	}
	return any;
}

/*
 * Ends a viewer's connection; what it is being sent is given up at once. Its own thread then closes it: the library
 * frees a connection's TLS state once more when a second thread closes it as well.
 */
static void cut(rfbClientPtr cl)
{
	int fd = cl->sock;

	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

/* Cuts all viewers; whether there were any. */
static bool cut_all(struct vnc *v)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(v->screen);
	bool any = false;
	rfbClientPtr cl;

	while ((cl = rfbClientIteratorNext(i))) {
		cut(cl);
		any = true;
	}
	rfbReleaseClientIterator(i);
	return any;
}

/* Waits until what is being sent to a viewer is sent. False: it has taken nothing since `until` and for a while, or the limit
 * is reached. That it takes something shows in what waits in its socket. */
static bool sent(rfbClientPtr cl, gint64 until, gint64 limit)
{
	int waiting = -1;

	for (;;) {
		int fd = cl->sock, now_waiting = 0;
		gint64 now = g_get_monotonic_time();
		struct timespec look;

		clock_gettime(CLOCK_REALTIME, &look);
		look.tv_nsec += RESIZE_LOOK_NS;
		if (look.tv_nsec >= 1000000000) {
			look.tv_sec++;
			look.tv_nsec -= 1000000000;
		}
		if (!pthread_mutex_timedlock(&cl->sendMutex, &look)) {
			pthread_mutex_unlock(&cl->sendMutex);
			return true;
		}
		if (fd < 0 || ioctl(fd, SIOCOUTQ, &now_waiting) < 0)
			now_waiting = waiting;
		if (now_waiting != waiting && waiting >= 0)
			until = MAX(until, now + RESIZE_PATIENCE * G_USEC_PER_SEC);
		waiting = now_waiting;
		if (now > MIN(until, limit))
			return false;
	}
}

/* A new size waits for what is being sent to each viewer; one that takes nothing must not keep it from the others. */
static void drop_stuck_viewers(struct vnc *v)
{
	const gint64 start = g_get_monotonic_time();
	rfbClientIteratorPtr i = rfbGetClientIterator(v->screen);
	rfbClientPtr cl;

	while ((cl = rfbClientIteratorNext(i))) {
		if (!sent(cl, start + RESIZE_PATIENCE * G_USEC_PER_SEC, start + RESIZE_LIMIT * G_USEC_PER_SEC))
			cut(cl);
	}
	rfbReleaseClientIterator(i);
}

/* A viewer can be between the size in its greeting and its list of encodings, which the library does not look after. */
static void note_early_viewers(struct vnc *v)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(v->screen);
	rfbClientPtr cl;

	while ((cl = rfbClientIteratorNext(i))) {
		struct viewer *w = cl->clientData;

		if (w && !cl->useNewFBSize)
			w->size_due = true;
	}
	rfbReleaseClientIterator(i);
}

static void tell_early_viewers(struct vnc *v)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(v->screen);
	rfbClientPtr cl;

	while ((cl = rfbClientIteratorNext(i))) {
		struct viewer *w = cl->clientData;

		if (!w || !w->size_due || !cl->useNewFBSize)
			continue;
		w->size_due = false;
		pthread_mutex_lock(&cl->updateMutex);
		cl->newFBSizePending = TRUE;
		pthread_cond_signal(&cl->updateCond);
		pthread_mutex_unlock(&cl->updateMutex);
	}
	rfbReleaseClientIterator(i);
}

/* Those who never say what they are asked would take the place of others. */
static void drop_loiterers(struct vnc *v)
{
	rfbClientIteratorPtr i = rfbGetClientIterator(v->screen);
	gint64 now = g_get_monotonic_time();
	rfbClientPtr cl;

	while ((cl = rfbClientIteratorNext(i))) {
		struct viewer *w = cl->clientData;

		if (w && cl->state != RFB_NORMAL && now - w->since > LOGIN_PATIENCE)
			cut(cl);
	}
	rfbReleaseClientIterator(i);
}

static void resize(struct vnc *v, unsigned width, unsigned height)
{
	drop_stuck_viewers(v);
	note_early_viewers(v);
	rfbNewFramebuffer(v->screen, (char *)v->pixels, (int)width, (int)height, 8, 3, 4);
}

/* Whether the viewers have another picture now. */
static bool show(struct vnc *v)
{
	unsigned width = MIN(v->next.width, MAX_SIDE), height = MIN(v->next.height, MAX_SIDE);

	if (!width || !height)
		return false;
	if (width == v->width && height == v->height)
		return publish_changes(v);
	if ((int)width != v->screen->width || (int)height != v->screen->height)
		resize(v, width, height);
	v->width = width;
	v->height = height;
	publish(v, 0, 0, width, height);
	return true;
}

/*
 * A picture that stands still is not looked at: once it has done so for a while, the guest's writes are watched. A guest that
 * draws is not, since noticing its writes costs it more than looking costs us.
 */
static void refresh(struct vnc *v)
{
	const struct display_source *source = v->c.source;
	enum display_change change;
	bool shown;

	pthread_mutex_lock(v->c.lock);
	change = source->changed ? source->changed(source->opaque) : DISPLAY_WRITTEN;
	if (v->watching && change == DISPLAY_SAME && ++v->unseen < LOOK_FRAMES) {
		pthread_mutex_unlock(v->c.lock);
		tell_early_viewers(v);
		return;
	}
	source->render(source->opaque, &v->next);
	pthread_mutex_unlock(v->c.lock);
	v->unseen = 0;
	shown = show(v);
	if (v->watching ? change == DISPLAY_WRITTEN : shown && change != DISPLAY_BLINKED) {
		v->patience = shown ? STILL_FRAMES : MIN(v->patience * 2, STILL_FRAMES_MAX);
		v->watching = false;
		v->still = 0;
	} else if (!v->watching && ++v->still >= v->patience && source->watch) {
		pthread_mutex_lock(v->c.lock);
		source->watch(source->opaque);
		pthread_mutex_unlock(v->c.lock);
		v->watching = true;
		v->unseen = LOOK_FRAMES; /* what was written meanwhile is seen with the next frame */
	}
	tell_early_viewers(v);
}

/* Looks at the guest's screen while there is someone to show it to. */
static void *refresh_run(void *opaque)
{
	struct vnc *v = opaque;
	struct timespec until;

	pthread_mutex_lock(&v->wait_lock);
	while (!v->quit) {
		if (!__atomic_load_n(&v->viewers, __ATOMIC_ACQUIRE)) {
			pthread_cond_wait(&v->wait, &v->wait_lock);
			continue;
		}
		pthread_mutex_unlock(&v->wait_lock);
		drop_loiterers(v);
		refresh(v);
		pthread_mutex_lock(&v->wait_lock);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += FRAME_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (!v->quit)
			pthread_cond_timedwait(&v->wait, &v->wait_lock, &until);
	}
	pthread_mutex_unlock(&v->wait_lock);
	return NULL;
}

static void wake(struct vnc *v)
{
	pthread_mutex_lock(&v->wait_lock);
	pthread_cond_signal(&v->wait);
	pthread_mutex_unlock(&v->wait_lock);
}

/* ---- viewers ---- */

void vnc_key(struct viewer *w, int code, bool down)
{
	const struct vnc_config *c = &w->vnc->c;

	if (code < 0 || code >= KEY_CODES || (!down && !w->down[code]))
		return;
	w->down[code] = down;
	pthread_mutex_lock(c->lock);
	if (c->input->key)
		c->input->key(c->input->opaque, code, down);
	pthread_mutex_unlock(c->lock);
}

static void key_event(rfbBool down, rfbKeySym keysym, rfbClientPtr cl)
{
	vnc_key(cl->clientData, vnc_keysym_code(keysym), down);
}

/* RFB's buttons are left, middle, right, and the wheel up and down; LibVNCServer has checked the position. */
static void pointer_event(int mask, int x, int y, rfbClientPtr cl)
{
	struct viewer *w = cl->clientData;
	const struct vnc_config *c = &w->vnc->c;
	const struct input_sink *in = c->input;
	unsigned buttons = (mask & 1 ? INPUT_LEFT : 0) | (mask & 2 ? INPUT_MIDDLE : 0) | (mask & 4 ? INPUT_RIGHT : 0);
	unsigned fresh = (unsigned)mask & ~w->buttons;
	int dz = (fresh & 16 ? 1 : 0) - (fresh & 8 ? 1 : 0);
	int width = cl->screen->width, height = cl->screen->height;
	bool taken = false;

	w->buttons = (unsigned)mask;
	pthread_mutex_lock(c->lock);
	if (in->pointer && width > 1 && height > 1)
		taken = in->pointer(in->opaque, (unsigned)CLAMP(x, 0, width - 1) * INPUT_POINTER_MAX / (unsigned)(width - 1),
				    (unsigned)CLAMP(y, 0, height - 1) * INPUT_POINTER_MAX / (unsigned)(height - 1), dz, buttons);
	if (!taken && in->mouse)
		in->mouse(in->opaque, w->x < 0 ? 0 : x - w->x, w->y < 0 ? 0 : y - w->y, dz, buttons);
	pthread_mutex_unlock(c->lock);
	w->x = x;
	w->y = y;
}

static void viewer_gone(rfbClientPtr cl)
{
	struct viewer *w = cl->clientData;

	/* The library's state of a browser: up to 0.9.14 it forgets that itself. */
	free(cl->wsctx);
	cl->wsctx = NULL;
	if (!w)
		return;
	for (int code = 0; code < KEY_CODES; code++)
		if (w->down[code])
			vnc_key(w, code, false);
	__atomic_sub_fetch(&w->vnc->viewers, 1, __ATOMIC_ACQ_REL);
	cl->clientData = NULL;
	g_free(w);
}

static enum rfbNewClientAction viewer_came(rfbClientPtr cl)
{
	struct vnc *v = cl->screen->screenData;
	struct viewer *w;

	cl->clientGoneHook = viewer_gone;
	if (__atomic_load_n(&v->viewers, __ATOMIC_ACQUIRE) >= MAX_VIEWERS)
		return RFB_CLIENT_REFUSE;
	w = g_new0(struct viewer, 1);
	w->vnc = v;
	w->x = w->y = -1;
	w->since = g_get_monotonic_time();
	cl->clientData = w;
	__atomic_add_fetch(&v->viewers, 1, __ATOMIC_ACQ_REL);
	wake(v);
	return RFB_CLIENT_ACCEPT;
}

unsigned vnc_viewers(const struct vnc *v)
{
	return __atomic_load_n(&v->viewers, __ATOMIC_ACQUIRE);
}

/* ---- life ---- */

static void quiet(const char *format, ...)
{
}

static void screen_configure(struct vnc *v)
{
	rfbScreenInfoPtr s = v->screen;

	s->screenData = v;
	s->desktopName = v->name;
	s->frameBuffer = (char *)v->pixels;
	s->alwaysShared = TRUE;
	s->deferUpdateTime = 5;
	s->port = s->ipv6port = 0;
	s->httpDir = NULL;
	s->permitFileTransfer = FALSE;
	s->kbdAddEvent = key_event;
	s->ptrAddEvent = pointer_event;
	s->newClientHook = viewer_came;
	if (v->passwords[0]) {
		s->passwordCheck = rfbCheckPasswordByList;
		s->authPasswdData = v->passwords;
	}
	rfbSetCursor(s, NULL);
}

/* LibVNCServer's listener takes a socket of ours, or the gate does. */
static void start(struct vnc *v, int fd)
{
	rfbInitServer(v->screen);
	if (!v->tls) {
		v->screen->listenSock = fd;
		v->screen->maxFd = MAX(v->screen->maxFd, fd);
	}
	rfbRunEventLoop(v->screen, 100000, TRUE);
	if (v->tls) {
		const struct vnc_gate_config gate = {
			.tls = v->tls, .screen = v->screen, .listener = fd, .password = v->passwords[0], .plain = v->c.plain,
		};

		v->gate = vnc_gate_create(&gate);
	}
	pthread_create(&v->thread, NULL, refresh_run, v);
}

struct vnc *vnc_create(const struct vnc_config *config, GError **error)
{
	struct vnc_tls *tls = NULL;
	pthread_condattr_t attr;
	struct vnc *v;
	char *shown;
	void *pixels;
	int fd;

	if (!config->source) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "--display vnc: this machine has no display");
		return NULL;
	}
	if (config->tls_certificate || config->tls_anonymous) {
		tls = vnc_tls_create(config->tls_certificate, config->tls_key, config->tls_anonymous, error);
		if (!tls)
			return NULL;
	}
	fd = vnc_listen(config->address, config->password, &shown, error);
	if (fd < 0) {
		vnc_tls_destroy(tls);
		return NULL;
	}
	pixels = mmap(NULL, (size_t)MAX_SIDE * MAX_SIDE * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pixels == MAP_FAILED) {
		g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "--display vnc: %s", g_strerror(errno));
		close(fd);
		g_free(shown);
		vnc_tls_destroy(tls);
		return NULL;
	}
	rfbLog = rfbErr = quiet;
	vnc_register_extended_keys();
	v = g_new0(struct vnc, 1);
	v->c = *config;
	v->name = g_strdup(config->name);
	v->address = shown;
	v->unix_path = g_str_has_prefix(shown, "unix:") ? g_strdup(shown + 5) : NULL;
	v->passwords[0] = g_strdup(config->password);
	v->tls = tls;
	v->pixels = pixels;
	v->patience = STILL_FRAMES;
	pthread_mutex_init(&v->wait_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&v->wait, &attr);
	pthread_condattr_destroy(&attr);
	v->screen = rfbGetScreen(NULL, NULL, 640, 480, 8, 3, 4);
	screen_configure(v);
	start(v, fd);
	return v;
}

const char *vnc_address(const struct vnc *v)
{
	return v->address;
}

void vnc_destroy(struct vnc *v)
{
	if (!v)
		return;
	pthread_mutex_lock(&v->wait_lock);
	v->quit = true;
	pthread_cond_signal(&v->wait);
	pthread_mutex_unlock(&v->wait_lock);
	pthread_join(v->thread, NULL);
	vnc_gate_destroy(v->gate);
	for (unsigned i = 0; i < LEAVE_TRIES && cut_all(v); i++)
		g_usleep(LEAVE_WAIT_US);
	rfbShutdownServer(v->screen, TRUE);
	rfbScreenCleanup(v->screen);
	if (v->unix_path)
		unlink(v->unix_path);
	munmap(v->pixels, (size_t)MAX_SIDE * MAX_SIDE * 4);
	surface_finish(&v->next);
	pthread_cond_destroy(&v->wait);
	pthread_mutex_destroy(&v->wait_lock);
	g_free(v->passwords[0]);
	vnc_tls_destroy(v->tls);
	g_free(v->unix_path);
	g_free(v->address);
	g_free(v->name);
	g_free(v);
}
