/*
 * PS/2 keyboard with the three scan code sets (IBM PS/2 Hardware Interface Technical Reference,
 * keyboard; set 2 to set 1 translation: the same, keyboard controller). Repeats are the host's.
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/ps2.h"
#include "display/input.h"

enum command {
	KBD_LEDS = 0xed, KBD_ECHO = 0xee, KBD_SCAN_SET = 0xf0, KBD_IDENTIFY = 0xf2, KBD_RATE = 0xf3, KBD_ENABLE = 0xf4,
	KBD_DISABLE = 0xf5, KBD_DEFAULTS = 0xf6, KBD_ALL_TYPEMATIC = 0xf7, KBD_ALL_MAKE_BREAK = 0xf8, KBD_ALL_MAKE = 0xf9,
	KBD_ALL_BOTH = 0xfa, KBD_KEY_TYPEMATIC = 0xfb, KBD_KEY_MAKE_BREAK = 0xfc, KBD_KEY_MAKE = 0xfd, KBD_RESEND = 0xfe,
	KBD_RESET = 0xff
};

#define REPLY_ACK 0xfa
#define REPLY_BAT_OK 0xaa
#define REPLY_RESEND 0xfe

#define RATE_DEFAULT 0x2b /* 500 ms, 10.9 a second */
#define BREAK_ROOM 16     /* kept free of presses, so that releases find room */
#define SEQUENCE_MAX 8

/* Set 2 to set 1, for the codes below 0x80. */
static const uint8_t set2_to_set1[128] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

/* Set 1 to set 3; the second half is for codes with E0. 0: the keyboard has no such key. */
static const uint8_t set1_to_set3[256] = {
	[0x01] = 0x08, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,
	[0x10] = 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x11, 0x1c, 0x1b,
	[0x20] = 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5c, 0x1a, 0x22, 0x21, 0x2a,
	[0x30] = 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7e, 0x19, 0x29, 0x14, 0x07, 0x0f, 0x17, 0x1f, 0x27,
	[0x40] = 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x76, 0x5f, 0x6c, 0x75, 0x7d, 0x84, 0x6b, 0x73, 0x74, 0x7c, 0x69,
	[0x50] = 0x72, 0x7a, 0x70, 0x71, 0x57, [0x56] = 0x13, 0x56, 0x5e,
	[0x9c] = 0x79, 0x58, [0xb5] = 0x77, [0xb8] = 0x39, [0xc7] = 0x6e, 0x63, 0x6f, [0xcb] = 0x61, [0xcd] = 0x6a,
	[0xcf] = 0x65, 0x60, 0x6d, 0x67, 0x64, [0xdb] = 0x8b, 0x8c, 0x8d,
};

uint8_t ps2_translate(uint8_t byte)
{
	if (byte < 0x80)
		return set2_to_set1[byte];
	return byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : byte;
}

/* The code of a set-1 key in set 2. Two keys have codes above 0x7f besides their place in the table. */
static uint8_t set2_code(uint8_t set1)
{
	if (set1 == 0x41)
		return 0x83;
	if (set1 == 0x54)
		return 0x84;
	for (unsigned i = 1; i < ARRAY_LEN(set2_to_set1); i++)
		if (set2_to_set1[i] == set1)
			return (uint8_t)i;
	return 0;
}

/* ---- keys ---- */

struct sequence {
	uint8_t byte[SEQUENCE_MAX];
	unsigned len;
};

static bool is_down(const struct ps2_keyboard *k, int code)
{
	return k->down[code >> 3] >> (code & 7) & 1;
}

static void add(struct sequence *q, uint8_t byte)
{
	q->byte[q->len++] = byte;
}

/* A plain or E0 key in sets 1 and 2. */
static void add_key(struct sequence *q, unsigned set, uint8_t code, bool extended, bool down)
{
	if (extended)
		add(q, 0xe0);
	if (set == 1) {
		add(q, (uint8_t)(code | (down ? 0 : 0x80)));
		return;
	}
	if (!down)
		add(q, 0xf0);
	add(q, set2_code(code));
}

/* Print Screen: with Alt it is the SysRq key, with Shift or Ctrl it needs no faked shift. */
static void add_print(const struct ps2_keyboard *k, struct sequence *q, bool down)
{
	if (is_down(k, 0x38) || is_down(k, 0xb8)) {
		add_key(q, k->set, 0x54, false, down);
		return;
	}
	if (is_down(k, 0x2a) || is_down(k, 0x36) || is_down(k, 0x1d) || is_down(k, 0x9d)) {
		add_key(q, k->set, 0x37, true, down);
		return;
	}
	if (down)
		add_key(q, k->set, 0x2a, true, true);
	add_key(q, k->set, 0x37, true, down);
	if (!down)
		add_key(q, k->set, 0x2a, true, false);
}

/* Pause sends press and release when pressed, and nothing when released; with Ctrl it is Break. */
static void add_pause(const struct ps2_keyboard *k, struct sequence *q, bool down)
{
	static const uint8_t set1[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
	static const uint8_t set2[] = { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 };

	if (!down)
		return;
	if (is_down(k, 0x1d) || is_down(k, 0x9d)) {
		add_key(q, k->set, 0x46, true, true);
		add_key(q, k->set, 0x46, true, false);
		return;
	}
	q->len = k->set == 1 ? sizeof(set1) : sizeof(set2);
	memcpy(q->byte, k->set == 1 ? set1 : set2, q->len);
}

static void add_set3(const struct ps2_keyboard *k, struct sequence *q, int code, bool down)
{
	uint8_t c = code == INPUT_KEY_PRINT ? 0x57 : code == INPUT_KEY_PAUSE ? 0x62 : set1_to_set3[code];

	if (!c || (!down && (k->no_break[c >> 3] >> (c & 7) & 1)))
		return;
	if (!down)
		add(q, 0xf0);
	add(q, c);
}

void ps2_keyboard_key(struct ps2_keyboard *k, int code, bool down)
{
	struct sequence q = { .len = 0 };

	if (code <= 0 || code > INPUT_KEY_PRINT || code == 0x80 || !k->scanning || (!down && !is_down(k, code)))
		return;
	if (k->set == 3)
		add_set3(k, &q, code, down);
	else if (code == INPUT_KEY_PRINT)
		add_print(k, &q, down);
	else if (code == INPUT_KEY_PAUSE)
		add_pause(k, &q, down);
	else
		add_key(&q, k->set, code & 0x7f, code & 0x80, down);
	/* A press that finds no room is dropped whole, and its release with it. */
	if (ps2_queue_room(&k->queue) < q.len + (down ? BREAK_ROOM : 0))
		return;
	if (down)
		k->down[code >> 3] |= (uint8_t)(1 << (code & 7));
	else
		k->down[code >> 3] &= (uint8_t)~(1 << (code & 7));
	for (unsigned i = 0; i < q.len; i++)
		ps2_queue_put(&k->queue, q.byte[i]);
}

/* ---- commands ---- */

/* In set 3 only Shift, Ctrl, Alt and Caps Lock on the left tell their release unless asked to. */
static void set3_defaults(struct ps2_keyboard *k)
{
	static const uint8_t with_break[] = { 0x11, 0x12, 0x14, 0x19, 0x59 };

	memset(k->no_break, 0xff, sizeof(k->no_break));
	for (unsigned i = 0; i < sizeof(with_break); i++)
		k->no_break[with_break[i] >> 3] &= (uint8_t)~(1 << (with_break[i] & 7));
}

static void set_defaults(struct ps2_keyboard *k)
{
	k->rate = RATE_DEFAULT;
	set3_defaults(k);
}

static void start_over(struct ps2_keyboard *k, bool scanning)
{
	ps2_queue_clear(&k->queue);
	memset(k->down, 0, sizeof(k->down));
	set_defaults(k);
	k->pending = 0;
	k->scanning = scanning;
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
	start_over(k, true);
	k->set = 2;
	k->leds = 0;
	k->queue.last = 0;
}

static void set_key_break(struct ps2_keyboard *k, uint8_t code, bool on)
{
	if (on)
		k->no_break[code >> 3] &= (uint8_t)~(1 << (code & 7));
	else
		k->no_break[code >> 3] |= (uint8_t)(1 << (code & 7));
}

static void write_argument(struct ps2_keyboard *k, uint8_t byte)
{
	uint8_t command = k->pending;

	/* The commands for single keys take codes until the next command. */
	if (command != KBD_KEY_TYPEMATIC && command != KBD_KEY_MAKE_BREAK && command != KBD_KEY_MAKE)
		k->pending = 0;
	if (command == KBD_SCAN_SET && byte > 3) {
		ps2_queue_reply(&k->queue, REPLY_RESEND);
		return;
	}
	ps2_queue_reply(&k->queue, REPLY_ACK);
	switch (command) {
	case KBD_LEDS: k->leds = byte & 7; break;
	case KBD_RATE: k->rate = byte & 0x7f; break;
	case KBD_SCAN_SET:
		if (byte)
			k->set = byte;
		else
			ps2_queue_reply(&k->queue, k->set);
		break;
	default: set_key_break(k, byte, command == KBD_KEY_MAKE_BREAK); break;
	}
}

static void write_command(struct ps2_keyboard *k, uint8_t byte)
{
	k->pending = 0;
	if (byte == KBD_ECHO || byte == KBD_RESEND) {
		ps2_queue_reply(&k->queue, byte == KBD_ECHO ? KBD_ECHO : k->queue.last);
		return;
	}
	if (byte == KBD_DISABLE || byte == KBD_DEFAULTS)
		start_over(k, byte == KBD_DEFAULTS);
	else if (byte == KBD_RESET)
		ps2_keyboard_reset(k);
	ps2_queue_reply(&k->queue, REPLY_ACK);
	switch (byte) {
	case KBD_LEDS:
	case KBD_SCAN_SET:
	case KBD_RATE:
	case KBD_KEY_TYPEMATIC:
	case KBD_KEY_MAKE_BREAK:
	case KBD_KEY_MAKE:
		k->pending = byte;
		break;
	case KBD_IDENTIFY:
		ps2_queue_reply(&k->queue, 0xab);
		ps2_queue_reply(&k->queue, 0x83);
		break;
	case KBD_ENABLE:
		k->scanning = true;
		break;
	case KBD_ALL_TYPEMATIC:
	case KBD_ALL_MAKE:
		memset(k->no_break, 0xff, sizeof(k->no_break));
		break;
	case KBD_ALL_MAKE_BREAK:
	case KBD_ALL_BOTH:
		memset(k->no_break, 0, sizeof(k->no_break));
		break;
	case KBD_RESET:
		ps2_queue_reply(&k->queue, REPLY_BAT_OK);
		break;
	default:
		break;
	}
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte)
{
	/* A new command makes what is left of the last reply worthless. */
	k->queue.replies = 0;
	if (k->pending && byte < KBD_LEDS)
		write_argument(k, byte);
	else if (byte >= KBD_LEDS && byte != 0xef && byte != 0xf1)
		write_command(k, byte);
	else
		ps2_queue_reply(&k->queue, REPLY_RESEND);
}

void ps2_keyboard_state(struct state *s, struct ps2_keyboard *k)
{
	ps2_queue_state(s, &k->queue);
	state_u8(s, "pending", &k->pending);
	state_u8(s, "leds", &k->leds);
	state_u8(s, "rate", &k->rate);
	state_u8(s, "set", &k->set);
	state_bool(s, "scanning", &k->scanning);
	state_bytes(s, "down", k->down, sizeof(k->down));
	state_bytes(s, "no-break", k->no_break, sizeof(k->no_break));
	if (state_loading(s) && (k->set < 1 || k->set > 3))
		state_fail(s, "the keyboard's scan code set is out of range");
}
