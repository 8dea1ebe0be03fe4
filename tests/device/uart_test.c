/* The 16550A through its ports: identification, FIFOs, interrupt priorities, timeout, loopback, back pressure. */
#include <string.h>

#include "dev/uart.h"
#include "harness.h"

#define BASE 0x3f8
#define CHARACTER_NS (10 * NS_PER_SEC / 115200)

struct bench {
	struct space *s;
	struct clock *clock;
	struct chardev *cd;
	struct uart *u;
	struct line line;
};

static void bench_init(struct bench *b)
{
	*b = (struct bench){ .s = space_create("ports", 0xffff), .clock = clock_create_manual(), .cd = chardev_memory_new() };
	b->u = uart_create(b->s, BASE, line_irq(&b->line, 0), b->clock, b->cd, "com1");
}

static void bench_finish(struct bench *b)
{
	uart_device(b->u)->ops->destroy(uart_device(b->u));
	chardev_destroy(b->cd);
	clock_destroy(b->clock);
	space_destroy(b->s);
}

static uint8_t rd(struct bench *b, unsigned reg) { return in(b->s, (uint16_t)(BASE + reg)); }
static void wr(struct bench *b, unsigned reg, uint8_t v) { out(b->s, (uint16_t)(BASE + reg), v); }

/* 115200 8N1, FIFOs with a trigger of 8, the line connected. */
static void set_up(struct bench *b)
{
	wr(b, 3, 0x83);
	wr(b, 0, 1);
	wr(b, 1, 0);
	wr(b, 3, 0x03);
	wr(b, 2, 0x87);
	wr(b, 4, 0x0b);
}

static void host_sends(struct bench *b, const char *text)
{
	chardev_input(b->cd, (const uint8_t *)text, strlen(text));
}

static void test_registers(void)
{
	struct bench b;

	bench_init(&b);
	g_assert_cmphex(rd(&b, 2), ==, 0x01);
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	g_assert_cmphex(rd(&b, 6), ==, 0xb0);
	wr(&b, 1, 0xff);
	g_assert_cmphex(rd(&b, 1), ==, 0x0f);
	wr(&b, 4, 0xff);
	g_assert_cmphex(rd(&b, 4), ==, 0x1f);
	wr(&b, 7, 0x5a);
	g_assert_cmphex(rd(&b, 7), ==, 0x5a);
	wr(&b, 4, 0);
	wr(&b, 1, 0);
	wr(&b, 3, 0x80);
	g_assert_cmphex(rd(&b, 0), ==, 12);
	wr(&b, 0, 0x34);
	wr(&b, 1, 0x12);
	g_assert_cmphex(rd(&b, 0), ==, 0x34);
	g_assert_cmphex(rd(&b, 1), ==, 0x12);
	wr(&b, 3, 0x1b);
	g_assert_cmphex(rd(&b, 3), ==, 0x1b);
	g_assert_cmphex(rd(&b, 1), ==, 0);
	/* The FIFO bits tell a 16550A; they go with the FIFOs. */
	wr(&b, 2, 0x01);
	g_assert_cmphex(rd(&b, 2), ==, 0xc1);
	wr(&b, 2, 0xc0);
	g_assert_cmphex(rd(&b, 2), ==, 0x01);
	/* Status registers cannot be written. */
	wr(&b, 5, 0xff);
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	g_assert_cmpuint(uart_device(b.u)->guest_errors, ==, 1);
	bench_finish(&b);
}

static void test_transmit(void)
{
	struct bench b;
	const uint8_t *data;
	size_t len;

	bench_init(&b);
	set_up(&b);
	wr(&b, 0, 'o');
	g_assert_false(b.line.level);
	/* Enabling the interrupt while empty interrupts at once; each identification takes it back. */
	wr(&b, 1, 0x02);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 2), ==, 0xc2);
	g_assert_false(b.line.level);
	g_assert_cmphex(rd(&b, 2), ==, 0xc1);
	wr(&b, 1, 0x00);
	wr(&b, 1, 0x02);
	g_assert_cmphex(rd(&b, 2), ==, 0xc2);
	b.line.rises = 0;
	wr(&b, 0, 'k');
	wr(&b, 0, '\n');
	g_assert_cmpuint(b.line.rises, ==, 2);
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	data = chardev_memory_data(b.cd, &len);
	g_assert_cmpmem(data, len, "ok\n", 3);
	/* Without OUT2 the line is not connected. */
	wr(&b, 4, 0x03);
	g_assert_false(b.line.level);
	g_assert_cmphex(rd(&b, 2), ==, 0xc2);
	bench_finish(&b);
}

/* A handler that fills the FIFO whenever it is asked comes to an end, and goes on as a fast line would let it. */
static void test_pace(void)
{
	struct bench b;
	unsigned written = 0, handled = 0;
	size_t len;

	bench_init(&b);
	set_up(&b);
	wr(&b, 1, 0x02);
	for (unsigned ms = 0; ms < 10; ms++) {
		for (unsigned passes = 0; b.line.level; passes++) {
			g_assert_cmpuint(passes, <, 4);
			g_assert_cmphex(rd(&b, 2), ==, 0xc2);
			g_assert_cmphex(rd(&b, 5), ==, 0x60);
			for (unsigned i = 0; i < 16; i++, written++)
				wr(&b, 0, 'x');
			handled++;
		}
		clock_advance(b.clock, NS_PER_SEC / 1000);
	}
	g_assert_cmpuint(handled, >=, 10);
	chardev_memory_data(b.cd, &len);
	g_assert_cmpuint(len, ==, written);
	/* Who polls, without interrupts, waits for nothing, and owes nothing afterwards. */
	clock_advance(b.clock, NS_PER_SEC / 1000);
	wr(&b, 1, 0x00);
	for (unsigned i = 0; i < 10000; i++) {
		wr(&b, 0, 'y');
		g_assert_cmphex(rd(&b, 5), ==, 0x60);
	}
	wr(&b, 1, 0x02);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 2), ==, 0xc2);
	wr(&b, 0, 'z');
	g_assert_false(b.line.level);
	clock_advance(b.clock, 200000);
	g_assert_true(b.line.level);
	bench_finish(&b);
}

static void test_receive(void)
{
	struct bench b;

	bench_init(&b);
	set_up(&b);
	wr(&b, 1, 0x01);
	host_sends(&b, "abc");
	/* Below the trigger: told after four character times without any. */
	g_assert_false(b.line.level);
	g_assert_cmphex(rd(&b, 5), ==, 0x61);
	clock_advance(b.clock, 3 * CHARACTER_NS);
	host_sends(&b, "d");
	clock_advance(b.clock, 3 * CHARACTER_NS);
	g_assert_false(b.line.level);
	clock_advance(b.clock, 2 * CHARACTER_NS);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 2), ==, 0xcc);
	g_assert_cmphex(rd(&b, 0), ==, 'a');
	g_assert_false(b.line.level);
	clock_advance(b.clock, 5 * CHARACTER_NS);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 0), ==, 'b');
	g_assert_cmphex(rd(&b, 0), ==, 'c');
	g_assert_cmphex(rd(&b, 0), ==, 'd');
	clock_advance(b.clock, 5 * CHARACTER_NS);
	g_assert_false(b.line.level);
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	/* At the trigger at once; below it no more. */
	host_sends(&b, "01234567");
	g_assert_cmphex(rd(&b, 2), ==, 0xc4);
	rd(&b, 0);
	g_assert_cmphex(rd(&b, 2), ==, 0xc1);
	/* Clearing the FIFO forgets the rest. */
	wr(&b, 2, 0x83);
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	clock_advance(b.clock, 5 * CHARACTER_NS);
	g_assert_false(b.line.level);
	bench_finish(&b);
}

static void test_back_pressure(void)
{
	struct bench b;
	GString *got = g_string_new(NULL), *sent = g_string_new(NULL);

	bench_init(&b);
	for (int i = 0; i < 1000; i++)
		g_string_append_c(sent, (char)('a' + i % 26));
	/* One character at a time without FIFOs, then sixteen: nothing is lost or overrun. */
	host_sends(&b, sent->str);
	for (int i = 0; i < 10; i++) {
		g_assert_cmphex(rd(&b, 5), ==, 0x61);
		g_string_append_c(got, (char)rd(&b, 0));
	}
	while (rd(&b, 5) & 1)
		g_string_append_c(got, (char)rd(&b, 0));
	g_assert_cmpstr(got->str, ==, sent->str);
	set_up(&b);
	g_string_truncate(got, 0);
	host_sends(&b, sent->str);
	for (int i = 0; i < 40; i++)
		g_string_append_c(got, (char)rd(&b, 0));
	while (rd(&b, 5) & 1)
		g_string_append_c(got, (char)rd(&b, 0));
	g_assert_cmpstr(got->str, ==, sent->str);
	g_string_free(got, TRUE);
	g_string_free(sent, TRUE);
	bench_finish(&b);
}

static void test_priorities(void)
{
	struct bench b;

	bench_init(&b);
	set_up(&b);
	wr(&b, 4, 0x1b);
	wr(&b, 1, 0x0f);
	for (int i = 0; i < 17; i++)
		wr(&b, 0, (uint8_t)i);
	/* Line status, received data, transmitter, modem; each is taken back its own way. */
	g_assert_cmphex(rd(&b, 2), ==, 0xc6);
	g_assert_cmphex(rd(&b, 5), ==, 0x63);
	g_assert_cmphex(rd(&b, 2), ==, 0xc4);
	for (int i = 0; i < 9; i++)
		g_assert_cmphex(rd(&b, 0), ==, i);
	g_assert_cmphex(rd(&b, 2), ==, 0xc2);
	/* In loopback DTR, RTS and OUT2 are DSR, CTS and DCD, which do not differ from before. */
	g_assert_cmphex(rd(&b, 2), ==, 0xc1);
	wr(&b, 4, 0x18);
	g_assert_cmphex(rd(&b, 2), ==, 0xc0);
	g_assert_cmphex(rd(&b, 6), ==, 0x83);
	g_assert_cmphex(rd(&b, 2), ==, 0xc1);
	bench_finish(&b);
}

static void test_loopback(void)
{
	struct bench b;
	size_t len;

	bench_init(&b);
	wr(&b, 4, 0x10);
	g_assert_cmphex(rd(&b, 6) & 0xf0, ==, 0);
	wr(&b, 4, 0x1a);
	g_assert_cmphex(rd(&b, 6) & 0xf0, ==, 0x90);
	wr(&b, 4, 0x15);
	g_assert_cmphex(rd(&b, 6) & 0xf0, ==, 0x60);
	/* The ring indicator tells when it ends. */
	g_assert_cmphex(rd(&b, 6), ==, 0x60);
	wr(&b, 4, 0x11);
	g_assert_cmphex(rd(&b, 6), ==, 0x24);
	/* Without FIFO the second character takes the place of the first. */
	wr(&b, 0, 0xae);
	wr(&b, 0, 0xaf);
	g_assert_cmphex(rd(&b, 5), ==, 0x63);
	g_assert_cmphex(rd(&b, 0), ==, 0xaf);
	/* With it, the first sixteen stay. The host's input waits meanwhile. */
	wr(&b, 2, 0x01);
	host_sends(&b, "x");
	for (int i = 0; i < 20; i++)
		wr(&b, 0, (uint8_t)i);
	for (int i = 0; i < 16; i++)
		g_assert_cmphex(rd(&b, 0), ==, i);
	g_assert_cmphex(rd(&b, 5), ==, 0x62);
	chardev_memory_data(b.cd, &len);
	g_assert_cmpuint(len, ==, 0);
	wr(&b, 4, 0x03);
	g_assert_cmphex(rd(&b, 6) & 0xf0, ==, 0xb0);
	g_assert_cmphex(rd(&b, 0), ==, 'x');
	bench_finish(&b);
}

static void test_unplugged(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct clock *c = clock_create_manual();
	struct uart *u = uart_create(s, BASE, (struct irq){ 0 }, c, NULL, "com2");

	g_assert_cmphex(in(s, BASE + 6), ==, 0);
	out(s, BASE, 'x');
	g_assert_cmphex(in(s, BASE + 5), ==, 0x60);
	g_assert_cmphex(in(s, BASE), ==, 0);
	uart_device(u)->ops->destroy(uart_device(u));
	clock_destroy(c);
	space_destroy(s);
}

static void test_state(void)
{
	struct bench b;
	GByteArray *saved;

	bench_init(&b);
	set_up(&b);
	wr(&b, 1, 0x05);
	host_sends(&b, "abc");
	saved = device_save(uart_device(b.u));
	uart_device(b.u)->ops->reset(uart_device(b.u));
	g_assert_cmphex(rd(&b, 5), ==, 0x60);
	device_check_restore(uart_device(b.u), saved);
	/* The timeout goes on where it was. */
	g_assert_false(b.line.level);
	clock_advance(b.clock, 4 * CHARACTER_NS + 10);
	g_assert_true(b.line.level);
	g_assert_cmphex(rd(&b, 0), ==, 'a');
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/uart/registers", test_registers);
	g_test_add_func("/uart/transmit", test_transmit);
	g_test_add_func("/uart/pace", test_pace);
	g_test_add_func("/uart/receive", test_receive);
	g_test_add_func("/uart/back-pressure", test_back_pressure);
	g_test_add_func("/uart/priorities", test_priorities);
	g_test_add_func("/uart/loopback", test_loopback);
	g_test_add_func("/uart/unplugged", test_unplugged);
	g_test_add_func("/uart/state", test_state);
	return g_test_run();
}
