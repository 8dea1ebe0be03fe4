/* The machine's clock against the time stamp counter: both stop and start at one moment, however busy the host is. */
#include <glib.h>

#include "host/clock.h"
#include "base/tsc.h"

#define PAUSES 40

static _Atomic bool stop;

static void *spin(void *opaque)
{
	while (!stop)
		;
	return NULL;
}

static int64_t ticks_to_ns(uint64_t ticks, uint64_t hz)
{
	return (int64_t)((unsigned __int128)ticks * NS_PER_SEC / hz);
}

/* More threads than processors put this one aside all the time; Linux gives the TSC up from 200 us on. */
static void test_pause(void)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct clock *c = clock_create(&lock);
	unsigned threads = g_get_num_processors() * 2;
	g_autofree GThread **busy = g_new(GThread *, threads);
	uint64_t hz = host_tsc_hz(), away = 0;
	struct host_moment begin, now;
	int64_t guest, apart;

	for (unsigned i = 0; i < threads; i++)
		busy[i] = g_thread_new("busy", spin, NULL);
	pthread_mutex_lock(&lock);
	begin = host_moment_now();
	clock_resume(c, begin.ns);
	for (unsigned i = 0; i < PAUSES; i++) {
		struct host_moment from = host_moment_now(), to;

		clock_pause(c, from.ns);
		g_usleep(1000);
		to = host_moment_now();
		clock_resume(c, to.ns);
		away += to.tsc - from.tsc;
	}
	now = host_moment_of((int64_t (*)(void *))clock_now, c);
	pthread_mutex_unlock(&lock);
	stop = true;
	for (unsigned i = 0; i < threads; i++)
		g_thread_join(busy[i]);
	guest = ticks_to_ns(now.tsc - begin.tsc - away, hz);
	apart = guest - now.ns;
	g_test_message("%" G_GINT64_FORMAT " ns apart after %d pauses", apart, PAUSES);
	g_assert_cmpint(ABS(apart), <, 100000);
	clock_destroy(c);
}

static void test_frequency(void)
{
	int64_t a = (int64_t)host_tsc_hz(), b = (int64_t)host_tsc_hz();

	g_assert_cmpint(ABS(a - b), <, a / 10000);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/clock/frequency", test_frequency);
	g_test_add_func("/clock/pause", test_pause);
	return g_test_run();
}
