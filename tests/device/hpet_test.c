/* The HPET through its registers: counter, one-shot, periodic, level, legacy replacement, state. */
#include <glib.h>

#include "dev/hpet.h"
#include "device_state.h"

#define BASE UINT64_C(0xfed00000)
#define US 1000

struct rig {
	struct space *mmio;
	struct clock *clock;
	struct hpet *hpet;
	unsigned rises[24];
	bool level[24];
};

static void set_line(void *o, int line, bool level)
{
	struct rig *r = o;

	if (level && !r->level[line])
		r->rises[line]++;
	r->level[line] = level;
}

static void rig_init(struct rig *r)
{
	struct irq lines[24];

	*r = (struct rig){ .mmio = space_create("mmio", UINT64_MAX), .clock = clock_create_manual() };
	for (int i = 0; i < 24; i++)
		lines[i] = (struct irq){ set_line, r, i };
	r->hpet = hpet_create(r->mmio, BASE, r->clock, lines);
}

static void rig_finish(struct rig *r)
{
	hpet_device(r->hpet)->ops->destroy(hpet_device(r->hpet));
	clock_destroy(r->clock);
	space_destroy(r->mmio);
}

static void put(struct rig *r, unsigned reg, unsigned len, uint64_t v) { space_write(r->mmio, BASE + reg, len, v); }
static uint64_t get(struct rig *r, unsigned reg, unsigned len) { return space_read(r->mmio, BASE + reg, len); }

static void test_counter(void)
{
	struct rig r;

	rig_init(&r);
	g_assert_cmphex(get(&r, 0, 4), ==, 0x8086a201);
	g_assert_cmpuint(get(&r, 4, 4), ==, 10000000);
	clock_advance(r.clock, 1000 * US);
	g_assert_cmpuint(get(&r, 0xf0, 8), ==, 0);
	put(&r, 0xf0, 8, UINT64_C(0xfffffff0));
	put(&r, 0x10, 4, 1);
	clock_advance(r.clock, 320);
	g_assert_cmphex(get(&r, 0xf0, 8), ==, UINT64_C(0x100000010));
	g_assert_cmphex(get(&r, 0xf4, 4), ==, 1);
	put(&r, 0x10, 4, 0);
	clock_advance(r.clock, 1000 * US);
	g_assert_cmphex(get(&r, 0xf0, 4), ==, 0x10);
	rig_finish(&r);
}

static void test_one_shot(void)
{
	struct rig r;

	rig_init(&r);
	put(&r, 0x10, 4, 1);
	put(&r, 0x140, 4, 20 << 9 | 1 << 2);
	g_assert_cmphex(get(&r, 0x140, 8), ==, UINT64_C(0x00ff000000002834));
	put(&r, 0x148, 8, 100 * US / 10);
	clock_advance(r.clock, 100 * US - 1);
	g_assert_cmpuint(r.rises[20], ==, 0);
	clock_advance(r.clock, 1);
	g_assert_cmpuint(r.rises[20], ==, 1);
	g_assert_false(r.level[20]);
	clock_advance(r.clock, 100 * NS_PER_SEC);
	g_assert_cmpuint(r.rises[20], ==, 1);
	/* In 32-bit mode the value comes round with the counter's low half. */
	put(&r, 0x140, 4, 20 << 9 | 1 << 2 | 1 << 8);
	clock_advance(r.clock, 43 * NS_PER_SEC);
	g_assert_cmpuint(r.rises[20], ==, 2);
	clock_advance(r.clock, 43 * NS_PER_SEC);
	g_assert_cmpuint(r.rises[20], ==, 3);
	/* A line that is not offered goes nowhere. */
	put(&r, 0x140, 4, 4 << 9 | 1 << 2 | 1 << 8);
	clock_advance(r.clock, 43 * NS_PER_SEC);
	g_assert_cmpuint(r.rises[4], ==, 0);
	rig_finish(&r);
}

/* The way Linux sets a periodic timer up: first the value with VAL_SET, then the period. */
static void set_periodic(struct rig *r, unsigned timer, uint32_t extra, uint32_t first, uint32_t period)
{
	put(r, timer, 4, extra | 1 << 6 | 1 << 3 | 1 << 2 | 1 << 8);
	put(r, timer + 8, 4, first);
	put(r, timer + 8, 4, period);
}

static void test_periodic(void)
{
	struct rig r;

	rig_init(&r);
	put(&r, 0x10, 4, 1);
	set_periodic(&r, 0x120, 16 << 9, 200 * US / 10, 1000 * US / 10);
	clock_advance(r.clock, 199 * US);
	g_assert_cmpuint(r.rises[16], ==, 0);
	clock_advance(r.clock, 1 * US);
	g_assert_cmpuint(r.rises[16], ==, 1);
	clock_advance(r.clock, 10000 * US);
	g_assert_cmpuint(r.rises[16], ==, 11);
	g_assert_cmpuint(get(&r, 0x128, 4), ==, 11200 * US / 10);
	/* Over the 32-bit wrap. */
	clock_advance(r.clock, 50 * NS_PER_SEC);
	g_assert_cmpuint(r.rises[16], ==, 50011);
	/* A period of one tick is thinned out. */
	set_periodic(&r, 0x120, 16 << 9, (uint32_t)get(&r, 0xf0, 4) + 10, 1);
	r.rises[16] = 0;
	clock_advance(r.clock, 1000 * US);
	g_assert_cmpuint(r.rises[16], >=, 90);
	g_assert_cmpuint(r.rises[16], <=, 110);
	rig_finish(&r);
}

static void test_level(void)
{
	struct rig r;

	rig_init(&r);
	put(&r, 0x10, 4, 1);
	put(&r, 0x100, 4, 17 << 9 | 1 << 2 | 1 << 1);
	put(&r, 0x108, 8, 10);
	clock_advance(r.clock, 100);
	g_assert_true(r.level[17]);
	g_assert_cmphex(get(&r, 0x20, 4), ==, 1);
	put(&r, 0x20, 4, 2);
	g_assert_true(r.level[17]);
	put(&r, 0x20, 4, 1);
	g_assert_false(r.level[17]);
	g_assert_cmphex(get(&r, 0x20, 4), ==, 0);
	rig_finish(&r);
}

static void test_legacy(void)
{
	struct rig r;
	struct irq pit, rtc;

	rig_init(&r);
	pit = hpet_legacy_input(r.hpet, 0);
	rtc = hpet_legacy_input(r.hpet, 8);
	irq_pulse(&pit);
	irq_pulse(&rtc);
	g_assert_cmpuint(r.rises[0] + r.rises[8], ==, 2);
	put(&r, 0x10, 4, 3);
	irq_set(&pit, true);
	irq_pulse(&rtc);
	g_assert_cmpuint(r.rises[0] + r.rises[8], ==, 2);
	set_periodic(&r, 0x100, 16 << 9, 1000, 1000);
	clock_advance(r.clock, 30 * US);
	g_assert_cmpuint(r.rises[0], ==, 4);
	g_assert_cmpuint(r.rises[16], ==, 0);
	put(&r, 0x120, 4, 1 << 2);
	put(&r, 0x128, 8, get(&r, 0xf0, 8) + 10);
	clock_advance(r.clock, 1 * US);
	g_assert_cmpuint(r.rises[8], ==, 2);
	/* Given back, the line shows what the 8254 drives. */
	put(&r, 0x10, 4, 1);
	g_assert_true(r.level[0]);
	rig_finish(&r);
}

static void test_state(void)
{
	struct rig r;
	struct device *d;
	GByteArray *saved;

	rig_init(&r);
	d = hpet_device(r.hpet);
	put(&r, 0x10, 4, 1);
	clock_advance(r.clock, 123 * US);
	set_periodic(&r, 0x120, 18 << 9 | 1 << 1, 200 * US / 10, 1000 * US / 10);
	saved = device_save(d);
	d->ops->reset(d);
	clock_advance(r.clock, 1 * US);
	g_assert_cmpuint(get(&r, 0xf0, 8), ==, 0);
	device_check_restore(d, saved);
	clock_advance(r.clock, 75 * US);
	g_assert_false(r.level[18]);
	clock_advance(r.clock, 1 * US);
	g_assert_true(r.level[18]);
	rig_finish(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/hpet/counter", test_counter);
	g_test_add_func("/hpet/one-shot", test_one_shot);
	g_test_add_func("/hpet/periodic", test_periodic);
	g_test_add_func("/hpet/level", test_level);
	g_test_add_func("/hpet/legacy", test_legacy);
	g_test_add_func("/hpet/state", test_state);
	return g_test_run();
}
