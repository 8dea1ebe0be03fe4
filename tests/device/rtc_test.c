/* The MC146818 through its ports: time in every format, setting it, alarm, periodic and update interrupts, memory. */
#include "dev/rtc.h"
#include "harness.h"

#define SECOND NS_PER_SEC

struct bench {
	struct space *s;
	struct clock *clock;
	struct rtc *r;
	struct line line;
};

static void bench_init(struct bench *b)
{
	*b = (struct bench){ .s = space_create("ports", 0xffff), .clock = clock_create_manual() };
	b->r = rtc_create(b->s, line_irq(&b->line, 0), b->clock);
}

static void bench_finish(struct bench *b)
{
	rtc_device(b->r)->ops->destroy(rtc_device(b->r));
	clock_destroy(b->clock);
	space_destroy(b->s);
}

static uint8_t rd(struct bench *b, uint8_t reg)
{
	out(b->s, 0x70, reg);
	return in(b->s, 0x71);
}

static void wr(struct bench *b, uint8_t reg, uint8_t v)
{
	out(b->s, 0x70, reg);
	out(b->s, 0x71, v);
}

/* Registers as century, year, month, day, weekday, hours, minutes, seconds. */
static void expect_time(struct bench *b, const char *expected)
{
	static const uint8_t regs[] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };
	g_autoptr(GString) s = g_string_new(NULL);

	for (unsigned i = 0; i < sizeof(regs); i++)
		g_string_append_printf(s, "%02x%s", rd(b, regs[i]), i + 1 < sizeof(regs) ? " " : "");
	g_assert_cmpstr(s->str, ==, expected);
}

static void test_time(void)
{
	struct bench b;

	/* The manual clock begins on Tuesday, 2024-01-02 03:04:05. */
	bench_init(&b);
	expect_time(&b, "20 24 01 02 03 03 04 05");
	clock_advance(b.clock, 10 * SECOND);
	expect_time(&b, "20 24 01 02 03 03 04 15");
	wr(&b, 0x0b, 0x06);
	expect_time(&b, "14 18 01 02 03 03 04 0f");
	clock_advance(b.clock, 12 * 3600 * SECOND);
	wr(&b, 0x0b, 0x00);
	expect_time(&b, "20 24 01 02 03 83 04 15");
	clock_advance(b.clock, 9 * 3600 * SECOND);
	expect_time(&b, "20 24 01 03 04 12 04 15");
	wr(&b, 0x0b, 0x04);
	expect_time(&b, "14 18 01 03 04 0c 04 0f");
	/* The PS/2's place of the century. */
	g_assert_cmphex(rd(&b, 0x37), ==, 0x14);
	bench_finish(&b);
}

static void set_time(struct bench *b, const uint8_t v[8])
{
	static const uint8_t regs[] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };

	for (unsigned i = 0; i < 8; i++)
		wr(b, regs[i], v[i]);
}

static void test_set(void)
{
	struct bench b;

	bench_init(&b);
	/* As Linux does: SET, the divider held, the registers, let go. */
	wr(&b, 0x0b, 0x82);
	wr(&b, 0x0a, 0x76);
	set_time(&b, (const uint8_t[]){ 0x20, 0x00, 0x02, 0x28, 0x02, 0x23, 0x59, 0x58 });
	clock_advance(b.clock, 100 * SECOND);
	expect_time(&b, "20 00 02 28 02 23 59 58");
	g_assert_cmphex(rd(&b, 0x0a) & 0x80, ==, 0);
	wr(&b, 0x0b, 0x02);
	clock_advance(b.clock, 100 * SECOND);
	expect_time(&b, "20 00 02 28 02 23 59 58");
	wr(&b, 0x0a, 0x26);
	/* Half a second to the next. */
	clock_advance(b.clock, SECOND / 2 - 1);
	expect_time(&b, "20 00 02 28 02 23 59 58");
	clock_advance(b.clock, 1);
	expect_time(&b, "20 00 02 28 02 23 59 59");
	clock_advance(b.clock, SECOND);
	expect_time(&b, "20 00 02 29 03 00 00 00");
	clock_advance(b.clock, 86400 * SECOND);
	expect_time(&b, "20 00 03 01 04 00 00 00");
	/* In one go, 12 hours, while the clock runs. */
	wr(&b, 0x0b, 0x00);
	set_time(&b, (const uint8_t[]){ 0x19, 0x99, 0x12, 0x31, 0x06, 0x91, 0x59, 0x59 });
	expect_time(&b, "19 99 12 31 06 91 59 59");
	wr(&b, 0x0b, 0x02);
	expect_time(&b, "19 99 12 31 06 23 59 59");
	clock_advance(b.clock, SECOND);
	expect_time(&b, "20 00 01 01 07 00 00 00");
	/* A weekday of the guest's own choosing goes on from there. */
	wr(&b, 6, 0x03);
	clock_advance(b.clock, 86400 * SECOND);
	expect_time(&b, "20 00 01 02 04 00 00 00");
	bench_finish(&b);
}

static void test_update(void)
{
	struct bench b;
	int64_t uip = 0;

	bench_init(&b);
	wr(&b, 0x0a, 0x20); /* no periodic flag */
	rd(&b, 0x0c);
	/* UIP announces the update; the flag comes with it, whether or not it interrupts. */
	for (int i = 0; i < 1000; i++) {
		uip += rd(&b, 0x0a) >> 7;
		clock_advance(b.clock, SECOND / 1000);
	}
	g_assert_cmpint(uip, ==, 2);
	g_assert_cmphex(rd(&b, 0x0c), ==, 0x10);
	g_assert_cmphex(rd(&b, 0x0c), ==, 0x00);
	g_assert_cmpuint(b.line.rises, ==, 0);
	wr(&b, 0x0b, 0x12);
	clock_advance(b.clock, SECOND);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 0x0c), ==, 0x90);
	g_assert_false(b.line.level);
	clock_advance(b.clock, 5 * SECOND / 2);
	g_assert_cmpuint(b.line.rises, ==, 2);
	/* SET takes the enable back. */
	wr(&b, 0x0b, 0x92);
	g_assert_cmphex(rd(&b, 0x0b), ==, 0x82);
	/* Enabling an interrupt whose flag is up raises the line at once. */
	wr(&b, 0x0b, 0x02);
	rd(&b, 0x0c);
	clock_advance(b.clock, 2 * SECOND);
	g_assert_false(b.line.level);
	wr(&b, 0x0b, 0x12);
	g_assert_true(b.line.level);
	bench_finish(&b);
}

static void test_alarm(void)
{
	struct bench b;

	bench_init(&b);
	wr(&b, 0x0a, 0x20);
	wr(&b, 5, 0x03);
	wr(&b, 3, 0x05);
	wr(&b, 1, 0x00);
	rd(&b, 0x0c);
	wr(&b, 0x0b, 0x22);
	clock_advance(b.clock, 54 * SECOND + SECOND / 2);
	g_assert_false(b.line.level);
	clock_advance(b.clock, SECOND);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 0x0c) & 0xa0, ==, 0xa0);
	/* Once a day. */
	clock_advance(b.clock, 86000 * SECOND);
	g_assert_false(b.line.level);
	clock_advance(b.clock, 401 * SECOND);
	g_assert_true(b.line.level);
	rd(&b, 0x0c);
	/* Any hour, any minute. */
	wr(&b, 5, 0xc0);
	wr(&b, 3, 0xff);
	b.line.rises = 0;
	for (int i = 0; i < 180; i++) {
		clock_advance(b.clock, SECOND);
		rd(&b, 0x0c);
	}
	g_assert_cmpuint(b.line.rises, ==, 3);
	/* A second that does not exist never comes; without the enable the flag alone tells. */
	wr(&b, 1, 0x60);
	rd(&b, 0x0c);
	clock_advance(b.clock, 200000 * SECOND);
	g_assert_cmphex(rd(&b, 0x0c), ==, 0x10);
	wr(&b, 0x0b, 0x02);
	wr(&b, 1, 0x30);
	clock_advance(b.clock, 200000 * SECOND);
	g_assert_cmphex(rd(&b, 0x0c), ==, 0x30);
	bench_finish(&b);
}

static void test_periodic(void)
{
	struct bench b;

	bench_init(&b);
	wr(&b, 0x0b, 0x42);
	for (int i = 0; i < 1000; i++) {
		clock_advance(b.clock, SECOND / 1000);
		if (b.line.level)
			g_assert_cmphex(rd(&b, 0x0c) & 0xc0, ==, 0xc0);
	}
	g_assert_cmpuint(b.line.rises, >=, 999);
	/* Rates: 1 is 256 Hz, 2 is 128 Hz, 3 is 8192 Hz, 15 is 2 Hz, 0 none. */
	static const unsigned hz[] = { 0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2 };
	for (unsigned rate = 0; rate < 16; rate++) {
		wr(&b, 0x0a, (uint8_t)(0x20 | rate));
		rd(&b, 0x0c);
		b.line.rises = 0;
		for (int i = 0; i < 40000; i++) {
			clock_advance(b.clock, SECOND / 40000);
			if (b.line.level)
				rd(&b, 0x0c);
		}
		g_assert_cmpuint(b.line.rises, >=, hz[rate] ? hz[rate] - 1 : 0);
		g_assert_cmpuint(b.line.rises, <=, hz[rate]);
	}
	/* Without the enable the flag tells alone. */
	wr(&b, 0x0b, 0x02);
	rd(&b, 0x0c);
	clock_advance(b.clock, SECOND / 4);
	g_assert_cmphex(rd(&b, 0x0c) & 0xc0, ==, 0);
	clock_advance(b.clock, SECOND / 2);
	g_assert_cmphex(rd(&b, 0x0c) & 0xc0, ==, 0x40);
	bench_finish(&b);
}

static void test_memory(void)
{
	struct bench b;

	bench_init(&b);
	g_assert_cmphex(rd(&b, 0x0d), ==, 0x80);
	wr(&b, 0x0d, 0x00);
	wr(&b, 0x0c, 0xff);
	g_assert_cmphex(rd(&b, 0x0d), ==, 0x80);
	g_assert_cmpuint(rtc_device(b.r)->guest_errors, ==, 2);
	for (uint8_t i = 0x0e; i < 0x80; i++)
		if (i != 0x32 && i != 0x37)
			wr(&b, i, (uint8_t)(i ^ 0x55));
	for (uint8_t i = 0x0e; i < 0x80; i++)
		if (i != 0x32 && i != 0x37)
			g_assert_cmphex(rd(&b, i | 0x80), ==, i ^ 0x55);
	rtc_set_cmos(b.r, 0x5b, 0x12);
	rtc_set_cmos(b.r, 0x0a, 0x12);
	rtc_set_cmos(b.r, 1000, 0x12);
	g_assert_cmphex(rd(&b, 0x5b), ==, 0x12);
	g_assert_cmphex(rd(&b, 0x0a) & 0x7f, ==, 0x26);
	/* The battery holds over a reset. */
	wr(&b, 0x0b, 0x7a);
	clock_advance(b.clock, 2 * SECOND);
	g_assert_true(b.line.level);
	rtc_device(b.r)->ops->reset(rtc_device(b.r));
	g_assert_false(b.line.level);
	g_assert_cmphex(rd(&b, 0x5b), ==, 0x12);
	g_assert_cmphex(rd(&b, 0x0b), ==, 0x02);
	expect_time(&b, "20 24 01 02 03 03 04 07");
	bench_finish(&b);
}

static void test_state(void)
{
	struct bench b;
	GByteArray *saved;

	bench_init(&b);
	wr(&b, 0x0b, 0x82);
	set_time(&b, (const uint8_t[]){ 0x20, 0x10, 0x06, 0x15, 0x03, 0x12, 0x30, 0x00 });
	wr(&b, 0x0b, 0x42);
	clock_advance(b.clock, SECOND / 3);
	rd(&b, 0x0c);
	saved = device_save(rtc_device(b.r));
	wr(&b, 9, 0x77);
	wr(&b, 0x0b, 0x02);
	wr(&b, 0x50, 0x50);
	device_check_restore(rtc_device(b.r), saved);
	expect_time(&b, "20 10 06 15 03 12 30 00");
	g_assert_false(b.line.level);
	clock_advance(b.clock, SECOND / 1000);
	g_assert_true(b.line.level);
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/rtc/time", test_time);
	g_test_add_func("/rtc/set", test_set);
	g_test_add_func("/rtc/update", test_update);
	g_test_add_func("/rtc/alarm", test_alarm);
	g_test_add_func("/rtc/periodic", test_periodic);
	g_test_add_func("/rtc/memory", test_memory);
	g_test_add_func("/rtc/state", test_state);
	return g_test_run();
}
