/* The 8254 through its ports: interrupt rates, one-shots, latches, read-back, counter 2 behind port 0x61, state. */
#include "dev/pit.h"
#include "harness.h"

#define TICK(n) ((int64_t)(n) * NS_PER_SEC / 1193182 + 1)

struct bench {
	struct space *s;
	struct clock *clock;
	struct pit *p;
	struct line line;
};

static void bench_init(struct bench *b)
{
	*b = (struct bench){ .s = space_create("ports", 0xffff), .clock = clock_create_manual() };
	b->p = pit_create(b->s, line_irq(&b->line, 0), b->clock);
}

static void bench_finish(struct bench *b)
{
	pit_device(b->p)->ops->destroy(pit_device(b->p));
	clock_destroy(b->clock);
	space_destroy(b->s);
}

static void load(struct bench *b, unsigned counter, uint8_t control, uint16_t count)
{
	out(b->s, 0x43, (uint8_t)(counter << 6 | control));
	out(b->s, (uint16_t)(0x40 + counter), (uint8_t)count);
	out(b->s, (uint16_t)(0x40 + counter), (uint8_t)(count >> 8));
}

static unsigned count(struct bench *b, unsigned counter)
{
	unsigned low;

	out(b->s, 0x43, (uint8_t)(counter << 6));
	low = in(b->s, (uint16_t)(0x40 + counter));
	return low | (unsigned)in(b->s, (uint16_t)(0x40 + counter)) << 8;
}

static void test_periodic(void)
{
	static const uint8_t controls[] = { 0x34, 0x36 };
	struct bench b;

	bench_init(&b);
	for (unsigned i = 0; i < 2; i++) {
		load(&b, 0, controls[i], 1193);
		b.line.rises = 0;
		clock_advance(b.clock, NS_PER_SEC);
		g_assert_cmpuint(b.line.rises, >=, 999);
		g_assert_cmpuint(b.line.rises, <=, 1001);
	}
	/* Zero is 65536: 18.2 a second. */
	load(&b, 0, 0x36, 0);
	b.line.rises = 0;
	clock_advance(b.clock, 10 * NS_PER_SEC);
	g_assert_cmpuint(b.line.rises, ==, 182);
	bench_finish(&b);
}

static void test_one_shot(void)
{
	struct bench b;

	bench_init(&b);
	load(&b, 0, 0x30, 1000);
	g_assert_false(b.line.level);
	b.line.rises = 0;
	clock_advance(b.clock, TICK(990));
	g_assert_false(b.line.level);
	clock_advance(b.clock, TICK(20));
	g_assert_true(b.line.level);
	clock_advance(b.clock, NS_PER_SEC);
	g_assert_cmpuint(b.line.rises, ==, 1);
	/* A new count takes the output down again. */
	load(&b, 0, 0x30, 1000);
	g_assert_false(b.line.level);
	bench_finish(&b);
}

static void test_read(void)
{
	struct bench b;
	unsigned first;

	bench_init(&b);
	load(&b, 0, 0x34, 10000);
	clock_advance(b.clock, TICK(4000));
	first = count(&b, 0);
	g_assert_cmpuint(first, >=, 5990);
	g_assert_cmpuint(first, <=, 6000);
	/* A latch holds until it has been read, and both bytes of it. */
	out(b.s, 0x43, 0x00);
	clock_advance(b.clock, TICK(1000));
	out(b.s, 0x43, 0x00);
	g_assert_cmphex(in(b.s, 0x40), ==, first & 0xff);
	g_assert_cmphex(in(b.s, 0x40), ==, first >> 8);
	g_assert_cmpuint(count(&b, 0), <, first - 900);
	/* Read-back of the status: output, null count, access, mode. */
	out(b.s, 0x43, 0xe2);
	g_assert_cmphex(in(b.s, 0x40), ==, 0xb4);
	out(b.s, 0x43, 0x30);
	out(b.s, 0x43, 0xe2);
	g_assert_cmphex(in(b.s, 0x40), ==, 0x70);
	/* One byte only, and BCD. */
	out(b.s, 0x43, 0x14);
	out(b.s, 0x40, 100);
	g_assert_cmpuint(in(b.s, 0x40), <=, 100);
	load(&b, 0, 0x35, 0x1000);
	clock_advance(b.clock, TICK(500));
	g_assert_cmphex(count(&b, 0), >=, 0x490);
	g_assert_cmphex(count(&b, 0), <=, 0x500);
	/* The control port does not read. */
	g_assert_cmphex(in(b.s, 0x43), ==, 0xff);
	bench_finish(&b);
}

static void test_port61(void)
{
	struct bench b;
	bool toggled = false;
	uint8_t first;

	/* As kernels measure their speed: gate on, mode 0, wait for the output. */
	bench_init(&b);
	out(b.s, 0x61, 0x01);
	load(&b, 2, 0x30, 11932);
	g_assert_cmphex(in(b.s, 0x61) & 0x23, ==, 0x01);
	clock_advance(b.clock, NS_PER_SEC / 100 - 50000);
	g_assert_cmphex(in(b.s, 0x61) & 0x20, ==, 0);
	clock_advance(b.clock, 100000);
	g_assert_cmphex(in(b.s, 0x61) & 0x20, ==, 0x20);
	g_assert_cmpuint(b.line.rises, ==, 0);
	first = in(b.s, 0x61) & 0x10;
	for (int i = 0; i < 4; i++) {
		clock_advance(b.clock, 8000);
		toggled |= (in(b.s, 0x61) & 0x10) != first;
	}
	g_assert_true(toggled);
	bench_finish(&b);
}

static void test_state(void)
{
	struct bench b;
	struct device *d;
	GByteArray *saved;

	bench_init(&b);
	d = pit_device(b.p);
	load(&b, 0, 0x34, 11932);
	saved = device_save(d);
	d->ops->reset(d);
	device_check_restore(d, saved);
	b.line.rises = 0;
	clock_advance(b.clock, NS_PER_SEC);
	g_assert_cmpuint(b.line.rises, >=, 99);
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pit/periodic", test_periodic);
	g_test_add_func("/pit/one-shot", test_one_shot);
	g_test_add_func("/pit/read", test_read);
	g_test_add_func("/pit/port61", test_port61);
	g_test_add_func("/pit/state", test_state);
	return g_test_run();
}
