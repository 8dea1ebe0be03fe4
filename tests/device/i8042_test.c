/* The i8042 with its keyboard and mouse: controller commands, scan code sets, replies, reports, limits, state. */
#include "dev/i8042.h"

#include <string.h>

#include "display/input.h"
#include "harness.h"

struct bench {
	struct space *s;
	struct clock *clock;
	struct i8042 *c;
	struct line line[2]; /* keyboard, mouse */
	unsigned resets;
	bool a20;
};

static void want_reset(void *opaque) { ((struct bench *)opaque)->resets++; }
static void a20_changed(void *opaque, bool enabled) { ((struct bench *)opaque)->a20 = enabled; }

static void bench_init(struct bench *b)
{
	*b = (struct bench){ .s = space_create("ports", 0xffff), .clock = clock_create_manual(), .a20 = true };
	b->c = i8042_create(b->s, line_irq(b->line, 0), line_irq(b->line, 1), b->clock, want_reset, a20_changed, b);
}

static void bench_finish(struct bench *b)
{
	i8042_device(b->c)->ops->destroy(i8042_device(b->c));
	clock_destroy(b->clock);
	space_destroy(b->s);
}

/* All bytes that come, as hex; those from the mouse with an m. */
static const char *drain(struct bench *b, char *text, size_t size)
{
	GString *s = g_string_new(NULL);

	for (int i = 0; i < 200; i++) {
		uint8_t status = in(b->s, 0x64);

		if (status & 1)
			g_string_append_printf(s, "%s%s%02x", s->len ? " " : "", status & 0x20 ? "m" : "", in(b->s, 0x60));
		clock_advance(b->clock, 300000);
	}
	g_strlcpy(text, s->str, size);
	g_string_free(s, TRUE);
	return text;
}

#define expect(b, bytes) do { char text_[1024]; g_assert_cmpstr(drain(b, text_, sizeof(text_)), ==, bytes); } while (0)

static void command(struct bench *b, uint8_t c) { out(b->s, 0x64, c); }
static void data(struct bench *b, uint8_t d) { out(b->s, 0x60, d); }

static void mouse_write(struct bench *b, uint8_t d)
{
	command(b, 0xd4);
	data(b, d);
}

static void mouse_rates(struct bench *b, uint8_t x, uint8_t y, uint8_t z)
{
	const uint8_t rates[] = { x, y, z };

	for (unsigned i = 0; i < 3; i++) {
		mouse_write(b, 0xf3);
		expect(b, "mfa");
		mouse_write(b, rates[i]);
		expect(b, "mfa");
	}
}

static void test_controller(void)
{
	struct bench b;

	bench_init(&b);
	g_assert_cmphex(in(b.s, 0x64), ==, 0x10);
	command(&b, 0xaa);
	g_assert_cmphex(in(b.s, 0x64), ==, 0x1d);
	expect(&b, "55");
	command(&b, 0xab);
	expect(&b, "00");
	command(&b, 0x20);
	expect(&b, "43");
	command(&b, 0x60);
	data(&b, 0x67);
	g_assert_cmphex(in(b.s, 0x64), ==, 0x14);
	command(&b, 0x20);
	expect(&b, "67");
	command(&b, 0x7f);
	data(&b, 0x5a);
	command(&b, 0x3f);
	expect(&b, "5a");
	/* The interface tests by which drivers find the mouse port. */
	command(&b, 0xa7);
	command(&b, 0x20);
	expect(&b, "67");
	command(&b, 0xa8);
	command(&b, 0x20);
	expect(&b, "47");
	command(&b, 0xa9);
	expect(&b, "00");
	command(&b, 0xd3);
	data(&b, 0x5a);
	g_assert_true(b.line[1].level);
	expect(&b, "m5a");
	command(&b, 0xd2);
	data(&b, 0xa5);
	g_assert_true(b.line[0].level);
	expect(&b, "a5");
	g_assert_false(b.line[0].level);
	command(&b, 0xad);
	command(&b, 0x20);
	expect(&b, "57");
	command(&b, 0xae);
	command(&b, 0x20);
	expect(&b, "47");
	command(&b, 0xa4);
	expect(&b, "f1");
	command(&b, 0xc0);
	expect(&b, "80");
	command(&b, 0x99);
	expect(&b, "");
	g_assert_cmpuint(i8042_device(b.c)->guest_errors, ==, 1);
	bench_finish(&b);
}

static void test_output_port(void)
{
	struct bench b;

	bench_init(&b);
	command(&b, 0xd0);
	expect(&b, "cf");
	command(&b, 0xdd);
	g_assert_false(b.a20);
	command(&b, 0xdf);
	g_assert_true(b.a20);
	command(&b, 0xd1);
	data(&b, 0xdd);
	g_assert_false(b.a20);
	command(&b, 0xd0);
	expect(&b, "cd");
	command(&b, 0xd1);
	data(&b, 0xdf);
	g_assert_true(b.a20);
	g_assert_cmpuint(b.resets, ==, 0);
	command(&b, 0xfe);
	g_assert_cmpuint(b.resets, ==, 1);
	command(&b, 0xff);
	g_assert_cmpuint(b.resets, ==, 1);
	command(&b, 0xd1);
	data(&b, 0xde);
	g_assert_cmpuint(b.resets, ==, 2);
	/* The output port shows the full buffer. */
	i8042_key(b.c, 0x1e, true);
	g_assert_cmphex(in(b.s, 0x60), ==, 0x1e);
	bench_finish(&b);
}

static void tap(struct bench *b, int code)
{
	i8042_key(b->c, code, true);
	i8042_key(b->c, code, false);
}

static void test_translated(void)
{
	struct bench b;

	bench_init(&b);
	/* Every key of set 1 that there is comes through set 2 and back. */
	for (int code = 1; code < 0x80; code++) {
		char text[16];

		tap(&b, code);
		g_snprintf(text, sizeof(text), "%02x %02x", (unsigned)code, (unsigned)code | 0x80);
		expect(&b, text);
		tap(&b, code | 0x80);
		g_snprintf(text, sizeof(text), "e0 %02x e0 %02x", (unsigned)code, (unsigned)code | 0x80);
		expect(&b, text);
	}
	tap(&b, INPUT_KEY_PAUSE);
	expect(&b, "e1 1d 45 e1 9d c5");
	tap(&b, INPUT_KEY_PRINT);
	expect(&b, "e0 2a e0 37 e0 b7 e0 aa");
	i8042_key(b.c, 0x38, true);
	tap(&b, INPUT_KEY_PRINT);
	i8042_key(b.c, 0x38, false);
	expect(&b, "38 54 d4 b8");
	i8042_key(b.c, 0x1d, true);
	tap(&b, INPUT_KEY_PAUSE);
	tap(&b, INPUT_KEY_PRINT);
	i8042_key(b.c, 0x1d, false);
	expect(&b, "1d e0 46 e0 c6 e0 37 e0 b7 9d");
	/* What is no key does nothing; neither does the release of a key that is up. */
	tap(&b, -1);
	tap(&b, 0);
	tap(&b, 0x80);
	tap(&b, 0x102);
	i8042_key(b.c, 0x1e, false);
	expect(&b, "");
	bench_finish(&b);
}

static void test_sets(void)
{
	struct bench b;

	bench_init(&b);
	command(&b, 0x60);
	data(&b, 0x07);
	tap(&b, 0x1e);
	tap(&b, 0xc8);
	tap(&b, 0x41);
	tap(&b, INPUT_KEY_PAUSE);
	expect(&b, "1c f0 1c e0 75 e0 f0 75 83 f0 83 e1 14 77 e1 f0 14 f0 77");
	data(&b, 0xf0);
	expect(&b, "fa");
	data(&b, 0x00);
	expect(&b, "fa 02");
	data(&b, 0xf0);
	expect(&b, "fa");
	data(&b, 0x01);
	expect(&b, "fa");
	tap(&b, 0x1e);
	tap(&b, 0xc8);
	tap(&b, INPUT_KEY_PAUSE);
	expect(&b, "1e 9e e0 48 e0 c8 e1 1d 45 e1 9d c5");
	data(&b, 0xf0);
	expect(&b, "fa");
	data(&b, 0x03);
	expect(&b, "fa");
	/* In set 3 most keys do not tell their release unless asked to. */
	tap(&b, 0x1e);
	tap(&b, 0x2a);
	expect(&b, "1c 12 f0 12");
	data(&b, 0xfc);
	expect(&b, "fa");
	data(&b, 0x1c);
	expect(&b, "fa");
	data(&b, 0xf4);
	expect(&b, "fa");
	tap(&b, 0x1e);
	tap(&b, 0x1f);
	expect(&b, "1c f0 1c 1b");
	data(&b, 0xf8);
	expect(&b, "fa");
	tap(&b, 0x1f);
	tap(&b, 0xc8);
	tap(&b, INPUT_KEY_PRINT);
	tap(&b, INPUT_KEY_PAUSE);
	expect(&b, "1b f0 1b 63 f0 63 57 f0 57 62 f0 62");
	data(&b, 0xf0);
	expect(&b, "fa");
	data(&b, 0x04);
	expect(&b, "fe");
	bench_finish(&b);
}

static void test_keyboard_commands(void)
{
	struct bench b;

	bench_init(&b);
	data(&b, 0xff);
	expect(&b, "fa aa");
	data(&b, 0xee);
	expect(&b, "ee");
	/* 83 of the identity is translated. */
	data(&b, 0xf2);
	expect(&b, "fa ab 41");
	data(&b, 0xed);
	expect(&b, "fa");
	data(&b, 0x07);
	expect(&b, "fa");
	data(&b, 0xf3);
	expect(&b, "fa");
	data(&b, 0x00);
	expect(&b, "fa");
	data(&b, 0x42);
	expect(&b, "fe");
	data(&b, 0xfe);
	expect(&b, "fe");
	/* Disabled, keys are not seen; enabled, they are. */
	data(&b, 0xf5);
	expect(&b, "fa");
	tap(&b, 0x1e);
	expect(&b, "");
	data(&b, 0xf4);
	expect(&b, "fa");
	tap(&b, 0x1e);
	expect(&b, "1e 9e");
	/* A command in place of an argument is a command. */
	data(&b, 0xed);
	expect(&b, "fa");
	data(&b, 0xee);
	expect(&b, "ee");
	/* The clock line held, keys wait; talking to the keyboard lets it go. */
	command(&b, 0xad);
	tap(&b, 0x1e);
	expect(&b, "");
	data(&b, 0xed);
	expect(&b, "fa 1e 9e");
	data(&b, 0x00);
	expect(&b, "fa");
	bench_finish(&b);
}

static void test_pace(void)
{
	struct bench b;

	bench_init(&b);
	i8042_key(b.c, 0x1e, true);
	i8042_key(b.c, 0x1f, true);
	g_assert_true(b.line[0].level);
	/* Twice the same byte for those who look twice; then the next, with an edge. */
	g_assert_cmphex(in(b.s, 0x60), ==, 0x1e);
	g_assert_false(b.line[0].level);
	g_assert_cmphex(in(b.s, 0x60), ==, 0x1e);
	g_assert_cmphex(in(b.s, 0x64) & 1, ==, 0);
	clock_advance(b.clock, 250000);
	g_assert_true(b.line[0].level);
	g_assert_cmpuint(b.line[0].rises, ==, 2);
	g_assert_cmphex(in(b.s, 0x60), ==, 0x1f);
	/* Disabled interrupts: the status alone tells. */
	command(&b, 0x60);
	data(&b, 0x40);
	i8042_key(b.c, 0x20, true);
	clock_advance(b.clock, 250000);
	g_assert_false(b.line[0].level);
	g_assert_cmphex(in(b.s, 0x64) & 1, ==, 1);
	command(&b, 0x60);
	data(&b, 0x41);
	g_assert_true(b.line[0].level);
	expect(&b, "20");
	bench_finish(&b);
}

/* What a patient typist goes by. */
static void test_keys_read(void)
{
	struct bench b;

	bench_init(&b);
	g_assert_true(i8042_keys_read(b.c));
	tap(&b, 0x1e);
	g_assert_false(i8042_keys_read(b.c));
	in(b.s, 0x60);
	clock_advance(b.clock, 250000);
	g_assert_false(i8042_keys_read(b.c));
	in(b.s, 0x60);
	g_assert_true(i8042_keys_read(b.c));
	/* The mouse's bytes are nothing of the keyboard's; a keyboard that does not scan sends nothing. */
	mouse_write(&b, 0xf4);
	g_assert_true(i8042_keys_read(b.c));
	expect(&b, "mfa");
	data(&b, 0xf5);
	expect(&b, "fa");
	g_assert_false(i8042_keys_read(b.c));
	data(&b, 0xf4);
	expect(&b, "fa");
	g_assert_true(i8042_keys_read(b.c));
	bench_finish(&b);
}

/* A guest that does not listen loses whole keys, never half of one, and no release of a press it got. */
static void test_queue_limit(void)
{
	struct bench b;
	bool down[256] = { false };
	unsigned presses = 0;

	bench_init(&b);
	for (int i = 1; i < 0x60; i++)
		tap(&b, i);
	for (int i = 0; i < 500; i++) {
		if (in(b.s, 0x64) & 1) {
			uint8_t code = in(b.s, 0x60);

			g_assert_true(!down[code & 0x7f] == !(code & 0x80));
			down[code & 0x7f] = !(code & 0x80);
			presses += !(code & 0x80);
		}
		clock_advance(b.clock, 300000);
	}
	for (int i = 0; i < 256; i++)
		g_assert_false(down[i]);
	g_assert_cmpuint(presses, >=, 10);
	g_assert_cmpuint(presses, <, 0x5f);
	tap(&b, 0x1e);
	expect(&b, "1e 9e");
	/* Unread commands do not grow anything either. */
	for (int i = 0; i < 1000; i++) {
		data(&b, 0xf2);
		mouse_write(&b, 0xe9);
	}
	expect(&b, "fa fa ab 41 mfa m00 m02 m64");
	bench_finish(&b);
}

static void test_mouse_commands(void)
{
	struct bench b;

	bench_init(&b);
	mouse_write(&b, 0xff);
	expect(&b, "mfa maa m00");
	mouse_write(&b, 0xf2);
	expect(&b, "mfa m00");
	mouse_write(&b, 0xe9);
	expect(&b, "mfa m00 m02 m64");
	mouse_write(&b, 0xe8);
	expect(&b, "mfa");
	mouse_write(&b, 0x03);
	expect(&b, "mfa");
	mouse_write(&b, 0xe7);
	expect(&b, "mfa");
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	mouse_write(&b, 0xf3);
	expect(&b, "mfa");
	mouse_write(&b, 40);
	expect(&b, "mfa");
	mouse_write(&b, 0xe9);
	expect(&b, "mfa m30 m03 m28");
	mouse_write(&b, 0xe8);
	expect(&b, "mfa");
	mouse_write(&b, 0x09);
	expect(&b, "mfc");
	mouse_write(&b, 0x11);
	expect(&b, "mfe");
	mouse_write(&b, 0xfe);
	expect(&b, "mfe");
	/* Wrap mode echoes all but reset and its own end. */
	mouse_write(&b, 0xee);
	expect(&b, "mfa");
	mouse_write(&b, 0xf2);
	expect(&b, "mf2");
	mouse_write(&b, 0xec);
	expect(&b, "mfa");
	mouse_write(&b, 0xf6);
	expect(&b, "mfa");
	mouse_write(&b, 0xe9);
	expect(&b, "mfa m00 m02 m64");
	/* Remote mode: reports when asked for. */
	mouse_write(&b, 0xf0);
	expect(&b, "mfa");
	i8042_mouse(b.c, 5, -6, 0, INPUT_RIGHT);
	expect(&b, "");
	mouse_write(&b, 0xeb);
	expect(&b, "mfa m0a m05 m06");
	mouse_write(&b, 0xe9);
	expect(&b, "mfa m41 m02 m64");
	mouse_write(&b, 0xea);
	expect(&b, "mfa");
	bench_finish(&b);
}

static void test_mouse_reports(void)
{
	struct bench b;

	bench_init(&b);
	i8042_mouse(b.c, 1, 1, 1, INPUT_LEFT);
	expect(&b, "");
	i8042_mouse(b.c, 0, 0, 0, 0);
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	i8042_mouse(b.c, 3, 4, 0, 0);
	g_assert_true(b.line[1].level);
	g_assert_false(b.line[0].level);
	expect(&b, "m28 m03 mfc");
	i8042_mouse(b.c, -3, 0, 1, INPUT_LEFT | INPUT_MIDDLE);
	i8042_mouse(b.c, 0, 0, 0, 0);
	expect(&b, "m1d mfd m00 m08 m00 m00");
	/* More than fits one report follows in the next. */
	i8042_mouse(b.c, 300, 0, 0, 0);
	expect(&b, "m08 mff m00 m08 m2d m00");
	mouse_rates(&b, 200, 100, 80);
	mouse_write(&b, 0xf2);
	expect(&b, "mfa m03");
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	i8042_mouse(b.c, 0, 0, -1, 0);
	expect(&b, "m08 m00 m00 mff");
	i8042_mouse(b.c, 0, 0, 10, INPUT_SIDE);
	expect(&b, "m08 m00 m00 m07 m08 m00 m00 m03");
	mouse_rates(&b, 200, 200, 80);
	mouse_write(&b, 0xf2);
	expect(&b, "mfa m04");
	i8042_mouse(b.c, 0, 0, -1, INPUT_SIDE);
	expect(&b, "m08 m00 m00 m1f");
	i8042_mouse(b.c, 0, 0, 0, INPUT_EXTRA);
	expect(&b, "m08 m00 m00 m20");
	mouse_write(&b, 0xff);
	expect(&b, "mfa maa m00");
	bench_finish(&b);
}

static void test_mouse_rate(void)
{
	struct bench b;

	bench_init(&b);
	mouse_write(&b, 0xf3);
	expect(&b, "mfa");
	mouse_write(&b, 10);
	expect(&b, "mfa");
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	/* Ten reports a second: what moves meanwhile is added up. */
	i8042_mouse(b.c, 1, 0, 0, 0);
	i8042_mouse(b.c, 1, 0, 0, 0);
	i8042_mouse(b.c, 1, 0, 0, 0);
	expect(&b, "m08 m01 m00");
	clock_advance(b.clock, NS_PER_SEC / 10);
	expect(&b, "m08 m02 m00");
	/* With 2:1 scaling small steps shrink and great ones grow. */
	mouse_write(&b, 0xe7);
	expect(&b, "mfa");
	clock_advance(b.clock, NS_PER_SEC / 10);
	i8042_mouse(b.c, 3, 20, 0, 0);
	expect(&b, "m28 m03 md8");
	/* Nothing grows while a guest does not listen; a command drops the report it interrupts. */
	for (int i = 0; i < 100000; i++)
		i8042_mouse(b.c, 100, 100, 0, i & 1);
	mouse_write(&b, 0xf5);
	expect(&b, "m29 mfa");
	/* The keyboard goes first. */
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	command(&b, 0xd2);
	data(&b, 0x77);
	i8042_mouse(b.c, 0, 0, 0, INPUT_RIGHT);
	i8042_key(b.c, 0x1e, true);
	expect(&b, "77 1e m0a m00 m00");
	bench_finish(&b);
}

static void test_state(void)
{
	struct bench b;
	GByteArray *saved;

	bench_init(&b);
	mouse_write(&b, 0xf4);
	expect(&b, "mfa");
	i8042_key(b.c, 0x1e, true);
	i8042_key(b.c, 0xc8, true);
	i8042_mouse(b.c, 1, 2, 0, INPUT_LEFT);
	command(&b, 0xd1);
	saved = device_save(i8042_device(b.c));
	i8042_device(b.c)->ops->reset(i8042_device(b.c));
	expect(&b, "");
	device_check_restore(i8042_device(b.c), saved);
	g_assert_true(b.line[0].level);
	data(&b, 0xdd);
	g_assert_false(b.a20);
	expect(&b, "1e e0 48 m29 m01 mfe");
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/i8042/controller", test_controller);
	g_test_add_func("/i8042/output-port", test_output_port);
	g_test_add_func("/i8042/translated", test_translated);
	g_test_add_func("/i8042/sets", test_sets);
	g_test_add_func("/i8042/keyboard-commands", test_keyboard_commands);
	g_test_add_func("/i8042/pace", test_pace);
	g_test_add_func("/i8042/keys-read", test_keys_read);
	g_test_add_func("/i8042/queue-limit", test_queue_limit);
	g_test_add_func("/i8042/mouse-commands", test_mouse_commands);
	g_test_add_func("/i8042/mouse-reports", test_mouse_reports);
	g_test_add_func("/i8042/mouse-rate", test_mouse_rate);
	g_test_add_func("/i8042/state", test_state);
	return g_test_run();
}
