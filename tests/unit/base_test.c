/* State codec, port spaces, guest memory, the manual clock, the fair lock. */
#include <glib.h>
#include <sched.h>
#include <string.h>

#include "base/fair_lock.h"
#include "base/state.h"
#include "bus/space.h"
#include "host/clock.h"
#include "mem/mem.h"

static void test_state_round_trip(void)
{
	struct state *save = state_save_new(), *load;
	uint8_t a = 7, a2 = 0;
	uint64_t b = UINT64_C(0x123456789abcdef0), b2 = 0;
	bool c = true, c2 = false;
	const void *data;
	size_t len;

	state_u8(save, "a", &a);
	state_u64(save, "b", &b);
	state_bool(save, "c", &c);
	data = state_data(save, &len);
	load = state_load_new(data, len);
	state_u8(load, "a", &a2);
	state_u64(load, "b", &b2);
	state_bool(load, "c", &c2);
	g_assert_cmpint(state_error(load), ==, 0);
	g_assert_true(a2 == a && b2 == b && c2 == c);
	state_u8(load, "d", &a2);
	g_assert_cmpint(state_error(load), !=, 0);
	state_free(load);

	load = state_load_new(data, len - 1);
	state_u8(load, "a", &a2);
	state_u64(load, "wrong", &b2);
	g_assert_cmpint(state_error(load), !=, 0);
	state_free(load);
	state_free(save);
}

static uint8_t store[16];
static unsigned widest;

static uint64_t store_read(void *opaque, uint64_t offset, unsigned len)
{
	uint64_t v = 0;

	widest = MAX(widest, len);
	memcpy(&v, store + offset, len);
	return v;
}

static void store_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	widest = MAX(widest, len);
	memcpy(store + offset, &value, len);
}

static void test_space(void)
{
	static const struct region_ops narrow = { store_read, store_write, 1, 1 };
	static const struct region_ops wide = { store_read, store_write, 4, 4 };
	struct space *s = space_create("test", 0xffff);
	struct region *r = space_add(s, "narrow", 0x100, 8, &narrow, NULL);

	g_assert_cmphex(space_read(s, 0x50, 2), ==, 0xffff);
	space_write(s, 0x100, 4, 0x11223344);
	g_assert_cmpuint(widest, ==, 1);
	g_assert_cmphex(space_read(s, 0x100, 4), ==, 0x11223344);
	/* Half inside, half outside. */
	g_assert_cmphex(space_read(s, 0x106, 4) >> 16, ==, 0xffff);
	/* The newer region wins; a narrow write to a wide register keeps its other bytes. */
	space_add(s, "wide", 0x102, 4, &wide, NULL);
	memset(store, 0, sizeof(store));
	space_write(s, 0x103, 1, 0xaa);
	g_assert_cmphex(space_read(s, 0x102, 4), ==, 0xaa00);
	region_unmap(r);
	g_assert_false(space_covers(s, 0x100));
	g_assert_true(space_covers(s, 0x102));
	space_destroy(s);
}

static void test_mem(void)
{
	struct mem *m = mem_create();
	struct ram *r = ram_create("test", 0x4000, NULL);
	uint8_t buf[16];
	uint64_t before = mem_generation(m);
	int slot = mem_map(m, 0x10000, 0x2000, r, 0, false);

	g_assert_cmpint(slot, >=, 0);
	g_assert_cmpint(mem_map(m, 0x11000, 0x1000, r, 0, false), <, 0);
	g_assert_cmpuint(mem_generation(m), >, before);
	g_assert_cmpint(mem_map(m, 0x12000, 0x1000, r, 0x2000, true), >=, 0);
	memset(buf, 0x5a, sizeof(buf));
	/* Across the border of two slots; the second is read-only. */
	g_assert_true(mem_write(m, 0x11ff8, buf, 16));
	g_assert_cmphex(r->host[0x1fff], ==, 0x5a);
	g_assert_cmphex(r->host[0x2000], ==, 0);
	g_assert_true(ram_test_clear_dirty(r, 0x1000, 0x1000, DIRTY_VGA));
	g_assert_false(ram_test_clear_dirty(r, 0x1000, 0x1000, DIRTY_VGA));
	g_assert_false(mem_write(m, 0x12ff8, buf, 16));
	g_assert_false(mem_read(m, 0, buf, 1));
	g_assert_false(mem_read(m, UINT64_MAX - 3, buf, 16));
	mem_unmap(m, slot);
	g_assert_null(mem_find(m, 0x10000));
	mem_destroy(m);
	ram_destroy(r);
}

static GString *fired;
static void fire(void *opaque) { g_string_append(fired, opaque); }

static void test_clock(void)
{
	struct clock *c = clock_create_manual();
	struct timer *a = timer_new(c, fire, "a"), *b = timer_new(c, fire, "b");

	fired = g_string_new(NULL);
	timer_arm(a, 200);
	timer_arm(b, 100);
	clock_advance(c, 99);
	g_assert_cmpstr(fired->str, ==, "");
	clock_advance(c, 500);
	g_assert_cmpstr(fired->str, ==, "ba");
	timer_arm(a, 1000);
	timer_cancel(a);
	clock_advance(c, 5000);
	g_assert_cmpstr(fired->str, ==, "ba");
	timer_free(a);
	timer_free(b);
	clock_destroy(c);
	g_string_free(fired, TRUE);
}

/* On one processor the thread that wakes another often makes way for it, and any lock is fair. */
static void run_on(unsigned n)
{
	cpu_set_t all, one;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(all), &all) < 0 || CPU_COUNT(&all) < 2)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &all) && n-- == 0) {
			CPU_SET(cpu, &one);
			break;
		}
	}
	sched_setaffinity(0, sizeof(one), &one);
}

/* One thread has the lock all the time but for moments. */
struct greedy {
	pthread_mutex_t lock;
	int waiting, stop;
	unsigned holds; /* while the other thread waited */
};

static gpointer hold_it(gpointer opaque)
{
	struct greedy *g = opaque;

	run_on(0);
	while (!__atomic_load_n(&g->stop, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&g->lock);
		g->holds += (unsigned)__atomic_load_n(&g->waiting, __ATOMIC_SEQ_CST);
		for (gint64 end = g_get_monotonic_time() + 200; g_get_monotonic_time() < end;)
			;
		pthread_mutex_unlock(&g->lock);
	}
	return NULL;
}

static void test_fair_lock(void)
{
	const unsigned times = 100;
	struct greedy g = { 0 };
	cpu_set_t before;
	GThread *thread;

	fair_lock_init(&g.lock);
	sched_getaffinity(0, sizeof(before), &before);
	thread = g_thread_new("greedy", hold_it, &g);
	run_on(1);
	for (unsigned i = 0; i < times; i++) {
		g_usleep(300);
		__atomic_store_n(&g.waiting, 1, __ATOMIC_SEQ_CST);
		pthread_mutex_lock(&g.lock);
		__atomic_store_n(&g.waiting, 0, __ATOMIC_SEQ_CST);
		pthread_mutex_unlock(&g.lock);
	}
	__atomic_store_n(&g.stop, 1, __ATOMIC_SEQ_CST);
	g_thread_join(thread);
	sched_setaffinity(0, sizeof(before), &before);
	/* One each, and a few when this thread was put aside just before it asked for the lock. */
	g_test_message("%u holds", g.holds);
	g_assert_cmpuint(g.holds, <=, 2 * times);
	pthread_mutex_destroy(&g.lock);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/base/state", test_state_round_trip);
	g_test_add_func("/bus/space", test_space);
	g_test_add_func("/mem/slots", test_mem);
	g_test_add_func("/host/clock", test_clock);
	g_test_add_func("/base/fair-lock", test_fair_lock);
	return g_test_run();
}
