/* Key names and decoding, code page 437, picture files. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "display/input.h"
#include "display/keys.h"
#include "display/surface.h"

static void test_names(void)
{
	static const struct { const char *name; int code; } keys[] = {
		{ "a", 0x1e }, { "ret", 0x1c }, { "esc", 1 }, { "spc", 0x39 }, { "ctrl", 0x1d }, { "ctrl_r", 0x9d },
		{ "alt_r", 0xb8 }, { "kp_add", 0x4e }, { "kp_enter", 0x9c }, { "up", 0xc8 }, { "delete", 0xd3 },
		{ "f12", 0x58 }, { "meta_l", 0xdb }, { "compose", 0xdd }, { "pause", INPUT_KEY_PAUSE },
		{ "print", INPUT_KEY_PRINT }, { "lang1", 0x72 }, { "volumeup", 0xb0 }, { "f24", 0x6f },
		{ "nosuchkey", -1 }, { "unmapped", -1 }, { "", -1 }, { NULL, -1 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
		g_assert_cmpint(input_key_from_name(keys[i].name), ==, keys[i].code);
}

static void test_chars(void)
{
	/* Every printable character, with its key and shift on the US layout. */
	static const char plain[] = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ ";
	static const char shifted[] = "~!@#$%^&*()_+QWERTYUIOP{}|ASDFGHJKL:\"ZXCVBNM<>?";
	bool shift;

	for (unsigned i = 0; i < strlen(plain); i++) {
		int code = input_key_from_char((uint8_t)plain[i], &shift);

		g_assert_cmpint(code, >, 0);
		g_assert_false(shift);
		if (i >= strlen(shifted))
			continue;
		g_assert_cmpint(input_key_from_char((uint8_t)shifted[i], &shift), ==, code);
		g_assert_true(shift);
	}
	g_assert_cmpint(input_key_from_char('\n', &shift), ==, 0x1c);
	g_assert_cmpint(input_key_from_char('\r', &shift), ==, 0x1c);
	g_assert_cmpint(input_key_from_char('\t', &shift), ==, 0x0f);
	g_assert_cmpint(input_key_from_char(0xe4, &shift), ==, -1);
	g_assert_cmpint(input_key_from_char(0, &shift), ==, -1);
}

static void record(void *opaque, int code, bool down)
{
	g_string_append_printf(opaque, "%s%x", down ? "+" : "-", code);
}

static void test_combo(void)
{
	g_autoptr(GString) log = g_string_new(NULL);
	const struct input_sink sink = { .key = record, .opaque = log };

	g_assert_cmpint(input_send_combo(&sink, "ctrl-alt-delete"), ==, 0);
	g_assert_cmpstr(log->str, ==, "+1d+38+d3-d3-38-1d");
	g_string_truncate(log, 0);
	g_assert_cmpint(input_send_combo(&sink, "ctrl-nosuch"), <, 0);
	g_assert_cmpint(input_send_combo(&sink, ""), <, 0);
	g_assert_cmpint(input_send_combo(&sink, "a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a-a"), <, 0);
	g_assert_cmpstr(log->str, ==, "");
	g_assert_cmpint(input_send_combo(&sink, "0x1e"), ==, 0);
	g_assert_cmpstr(log->str, ==, "+1e-1e");
}

static void check(const char *bytes, size_t took, const char *name, bool shift, bool ctrl, bool alt)
{
	struct key_stroke k;
	bool known;

	g_assert_cmpuint(key_decode((const uint8_t *)bytes, strlen(bytes), true, &k, &known), ==, took);
	g_assert_cmpint(known, ==, name != NULL);
	if (!name)
		return;
	g_assert_cmpint(k.code, ==, input_key_from_name(name));
	g_assert_cmpint(k.shift, ==, shift);
	g_assert_cmpint(k.ctrl, ==, ctrl);
	g_assert_cmpint(k.alt, ==, alt);
}

static void test_decode(void)
{
	struct key_stroke k;
	bool known;

	check("a", 1, "a", false, false, false);
	check("A", 1, "a", true, false, false);
	check("\r", 1, "ret", false, false, false);
	check("\x7f", 1, "backspace", false, false, false);
	check("\x03", 1, "c", false, true, false);
	check("\x1c", 1, "backslash", false, true, false);
	check("\033", 1, "esc", false, false, false);
	check("\033x", 2, "x", false, false, true);
	check("\033\x18", 2, "x", false, true, true);
	check("\033[A", 3, "up", false, false, false);
	check("\033OP", 3, "f1", false, false, false);
	check("\033[11~", 5, "f1", false, false, false);
	check("\033[24~", 5, "f12", false, false, false);
	check("\033[[B", 4, "f2", false, false, false);
	check("\033[3~rest", 4, "delete", false, false, false);
	check("\033[1;5D", 6, "left", false, true, false);
	check("\033[15;2~", 7, "f5", true, false, false);
	check("\033[Z", 3, "tab", true, false, false);
	check("\033[99999999999~", 14, NULL, false, false, false);
	check("\xc3\xa4", 2, NULL, false, false, false);
	check("\xff", 1, NULL, false, false, false);
	/* Not complete yet. */
	g_assert_cmpuint(key_decode((const uint8_t *)"\033", 1, false, &k, &known), ==, 0);
	g_assert_cmpuint(key_decode((const uint8_t *)"\033[1;", 4, false, &k, &known), ==, 0);
	g_assert_cmpuint(key_decode((const uint8_t *)"\xc3", 1, false, &k, &known), ==, 0);
	/* Always gets on with what is final, whatever the bytes. */
	for (unsigned i = 0; i < 65536; i++) {
		const uint8_t b[4] = { 0x1b, (uint8_t)i, (uint8_t)(i >> 8), '~' };

		g_assert_cmpuint(key_decode(b, 4, true, &k, &known), >, 0);
		g_assert_cmpuint(key_decode(b, 4, true, &k, &known), <=, 4);
	}
}

static void test_cp437(void)
{
	uint16_t cells[8] = { 0x0741, 0x07c4, 0x0702, 0x0720, 0x0720, 0x0720, 0x0720, 0x0700 };
	const struct text_screen t = { .columns = 4, .rows = 2, .cells = cells };
	g_autofree char *text = text_screen_to_utf8(&t);

	g_assert_cmpstr(text, ==, "A─☻\n\n");
	g_assert_cmphex(cp437_to_unicode(0xdb), ==, 0x2588);
	g_assert_cmphex(cp437_to_unicode(0x7f), ==, 0x2302);
	g_assert_cmphex(cp437_to_unicode(0x80), ==, 0xc7);
	g_assert_cmphex(cp437_to_unicode(0xff), ==, 0xa0);
	g_assert_cmphex(cp437_to_unicode('~'), ==, '~');
}

static void test_pictures(void)
{
	g_autofree char *dir = g_dir_make_tmp("display-XXXXXX", NULL);
	g_autofree char *png = g_build_filename(dir, "a.png", NULL), *ppm = g_build_filename(dir, "a.ppm", NULL);
	g_autofree char *data = NULL, *data2 = NULL;
	uint8_t pixels[2 * 4 * 4] = { 0x56, 0x34, 0x12, 0 };
	const struct surface s = { 3, 2, 16, pixels }, empty = { 0 };
	GError *err = NULL;
	gsize len;

	g_assert_true(surface_write_png(&s, png, &err));
	g_assert_true(g_file_get_contents(png, &data, &len, NULL));
	g_assert_cmpuint(len, >, 33);
	g_assert_cmpmem(data, 8, "\x89PNG\r\n\x1a\n", 8);
	g_assert_cmpuint(ld32be(data + 16), ==, 3);
	g_assert_cmpuint(ld32be(data + 20), ==, 2);
	g_assert_true(surface_write_ppm(&s, ppm, &err));
	g_assert_true(g_file_get_contents(ppm, &data2, &len, NULL));
	g_assert_cmpuint(len, ==, 11 + 18);
	g_assert_cmpmem(data2, 14, "P6\n3 2\n255\n\x12\x34\x56", 14);
	g_assert_false(surface_write_png(&empty, png, &err));
	g_assert_nonnull(err);
	g_clear_error(&err);
	g_assert_false(surface_write_png(&s, "/nonexistent/x.png", &err));
	g_assert_nonnull(strstr(err->message, "/nonexistent/x.png"));
	g_clear_error(&err);
	/* A full disk is an error, not half a picture. */
	if (g_file_test("/dev/full", G_FILE_TEST_EXISTS)) {
		g_autofree char *link = g_build_filename(dir, "full", NULL);

		g_assert_cmpint(symlink("/dev/full", link), ==, 0);
		g_assert_false(surface_write_ppm(&s, link, &err));
		g_assert_nonnull(err);
		g_clear_error(&err);
	}
	g_unlink(png);
	g_unlink(ppm);
	g_rmdir(dir);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/display/names", test_names);
	g_test_add_func("/display/chars", test_chars);
	g_test_add_func("/display/combo", test_combo);
	g_test_add_func("/display/decode", test_decode);
	g_test_add_func("/display/cp437", test_cp437);
	g_test_add_func("/display/pictures", test_pictures);
	return g_test_run();
}
