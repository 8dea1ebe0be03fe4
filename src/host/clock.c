/* Virtual time: an offset to CLOCK_MONOTONIC, and a thread that fires timers in deadline order. */
#include "host/clock.h"

#include <glib.h>
#include <stdatomic.h>
#include <time.h>

#define MANUAL_WALL_START INT64_C(1704164645) /* 2024-01-02 03:04:05 UTC */

struct timer {
	struct clock *clock;
	void (*fire)(void *opaque);
	void *opaque;
	int64_t deadline; /* -1: not armed */
};

struct clock {
	pthread_mutex_t *lock; /* NULL: manual */
	pthread_mutex_t wait_lock;
	pthread_cond_t wake;
	pthread_t thread;
	GPtrArray *timers; /* armed ones */
	_Atomic int64_t offset; /* now = monotonic + offset while running */
	_Atomic int64_t frozen; /* now while paused */
	_Atomic bool running;
	bool quit;    /* under wait_lock */
	bool changed; /* under wait_lock: the earliest deadline may be another */
};

static int64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

int64_t clock_now(struct clock *c)
{
	return atomic_load(&c->running) ? monotonic_ns() + atomic_load(&c->offset) : atomic_load(&c->frozen);
}

static struct timer *earliest(struct clock *c)
{
	struct timer *first = NULL;

	for (guint i = 0; i < c->timers->len; i++) {
		struct timer *t = g_ptr_array_index(c->timers, i);

		if (!first || t->deadline < first->deadline)
			first = t;
	}
	return first;
}

/* Fires all that is due by `now`; returns the next deadline or -1. VM lock held. */
static int64_t fire_due(struct clock *c)
{
	struct timer *t;

	while ((t = earliest(c)) && t->deadline <= clock_now(c)) {
		timer_cancel(t);
		t->fire(t->opaque);
	}
	return t ? t->deadline : -1;
}

static void wake_thread(struct clock *c)
{
	if (!c->lock)
		return;
	pthread_mutex_lock(&c->wait_lock);
	c->changed = true;
	pthread_cond_signal(&c->wake);
	pthread_mutex_unlock(&c->wait_lock);
}

static void *clock_thread(void *opaque)
{
	struct clock *c = opaque;

	for (;;) {
		int64_t next = -1;
		struct timespec until;

		pthread_mutex_lock(&c->wait_lock);
		c->changed = false;
		if (c->quit) {
			pthread_mutex_unlock(&c->wait_lock);
			return NULL;
		}
		pthread_mutex_unlock(&c->wait_lock);

		pthread_mutex_lock(c->lock);
		if (atomic_load(&c->running)) {
			next = fire_due(c);
			if (next >= 0)
				next -= atomic_load(&c->offset);
		}
		pthread_mutex_unlock(c->lock);

		pthread_mutex_lock(&c->wait_lock);
		if (next >= 0) {
			until.tv_sec = next / NS_PER_SEC;
			until.tv_nsec = next % NS_PER_SEC;
			while (!c->changed && !c->quit && monotonic_ns() < next) {
				if (pthread_cond_timedwait(&c->wake, &c->wait_lock, &until))
					break;
			}
		} else {
			while (!c->changed && !c->quit)
				pthread_cond_wait(&c->wake, &c->wait_lock);
		}
		pthread_mutex_unlock(&c->wait_lock);
	}
}

static struct clock *clock_new(pthread_mutex_t *lock)
{
	struct clock *c = g_new0(struct clock, 1);
	pthread_condattr_t attr;

	c->lock = lock;
	c->timers = g_ptr_array_new();
	pthread_mutex_init(&c->wait_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->wake, &attr);
	pthread_condattr_destroy(&attr);
	return c;
}

struct clock *clock_create(pthread_mutex_t *lock)
{
	struct clock *c = clock_new(lock);

	pthread_create(&c->thread, NULL, clock_thread, c);
	return c;
}

struct clock *clock_create_manual(void)
{
	return clock_new(NULL);
}

void clock_destroy(struct clock *c)
{
	if (!c)
		return;
	if (c->lock) {
		pthread_mutex_lock(&c->wait_lock);
		c->quit = true;
		pthread_cond_signal(&c->wake);
		pthread_mutex_unlock(&c->wait_lock);
		pthread_join(c->thread, NULL);
	}
	pthread_cond_destroy(&c->wake);
	pthread_mutex_destroy(&c->wait_lock);
	g_ptr_array_unref(c->timers);
	g_free(c);
}

void clock_pause(struct clock *c, int64_t moment)
{
	if (!atomic_load(&c->running))
		return;
	atomic_store(&c->frozen, moment + atomic_load(&c->offset));
	atomic_store(&c->running, false);
	wake_thread(c);
}

void clock_resume(struct clock *c, int64_t moment)
{
	if (!c->lock || atomic_load(&c->running))
		return;
	atomic_store(&c->offset, atomic_load(&c->frozen) - moment);
	atomic_store(&c->running, true);
	wake_thread(c);
}

void clock_set(struct clock *c, int64_t ns)
{
	atomic_store(&c->frozen, ns);
	atomic_store(&c->offset, ns - monotonic_ns());
	wake_thread(c);
}

void clock_advance(struct clock *c, int64_t ns)
{
	int64_t end = atomic_load(&c->frozen) + ns;
	struct timer *t;

	while ((t = earliest(c)) && t->deadline <= end) {
		if (t->deadline > atomic_load(&c->frozen))
			atomic_store(&c->frozen, t->deadline);
		timer_cancel(t);
		t->fire(t->opaque);
	}
	atomic_store(&c->frozen, end);
}

int64_t clock_wall_ns(struct clock *c)
{
	struct timespec ts;

	if (!c->lock)
		return MANUAL_WALL_START * NS_PER_SEC + clock_now(c);
	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

struct timer *timer_new(struct clock *c, void (*fire)(void *opaque), void *opaque)
{
	struct timer *t = g_new0(struct timer, 1);

	t->clock = c;
	t->fire = fire;
	t->opaque = opaque;
	t->deadline = -1;
	return t;
}

void timer_free(struct timer *t)
{
	if (!t)
		return;
	timer_cancel(t);
	g_free(t);
}

void timer_arm(struct timer *t, int64_t deadline)
{
	struct timer *first = earliest(t->clock);
	bool sooner = !first || deadline < first->deadline;

	if (t->deadline < 0)
		g_ptr_array_add(t->clock->timers, t);
	t->deadline = deadline < 0 ? 0 : deadline;
	if (sooner)
		wake_thread(t->clock);
}

void timer_cancel(struct timer *t)
{
	if (t->deadline < 0)
		return;
	g_ptr_array_remove_fast(t->clock->timers, t);
	t->deadline = -1;
}

int64_t timer_deadline(const struct timer *t)
{
	return t->deadline;
}
