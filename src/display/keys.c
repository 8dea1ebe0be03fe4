/* Terminal input to keys; see keys.h. Sequences are xterm's, rxvt's and the Linux console's. */
#include "display/keys.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "display/input.h"

#define ESC 0x1b
#define SEQUENCE_MAX 16

static void set_key(struct key_stroke *key, bool *known, const char *name)
{
	key->code = input_key_from_name(name);
	*known = key->code >= 0;
}

/* ESC [ N ~ */
static const char *tilde_key(unsigned n)
{
	static const char *const names[] = {
		[1] = "home", [2] = "insert", [3] = "delete", [4] = "end", [5] = "pgup", [6] = "pgdn",
		[7] = "home", [8] = "end", [11] = "f1", [12] = "f2", [13] = "f3", [14] = "f4", [15] = "f5",
		[17] = "f6", [18] = "f7", [19] = "f8", [20] = "f9", [21] = "f10", [23] = "f11", [24] = "f12",
	};

	return n < ARRAY_LEN(names) ? names[n] : NULL;
}

/* ESC [ X and ESC O X */
static const char *letter_key(uint8_t letter)
{
	switch (letter) {
	case 'A': return "up";
	case 'B': return "down";
	case 'C': return "right";
	case 'D': return "left";
	case 'E': return "kp_5";
	case 'F': return "end";
	case 'H': return "home";
	case 'M': return "kp_enter";
	case 'P': return "f1";
	case 'Q': return "f2";
	case 'R': return "f3";
	case 'S': return "f4";
	case 'Z': return "tab";
	default: return NULL;
	}
}

/* xterm's modifier parameter: 1 + shift 1, alt 2, ctrl 4. */
static void modifiers(struct key_stroke *key, unsigned parameter)
{
	unsigned m = parameter ? parameter - 1 : 0;

	key->shift |= m & 1;
	key->alt |= m >> 1 & 1;
	key->ctrl |= m >> 2 & 1;
}

static size_t decode_csi(const uint8_t *b, size_t len, bool final, struct key_stroke *key, bool *known)
{
	unsigned parameter[2] = { 0 }, n = 0;
	const char *name = NULL;
	size_t i = 2;

	if (b[1] == '[' && len > 2 && b[2] == '[') {
		/* The Linux console's F1 to F5: ESC [ [ A. */
		if (len < 4)
			return final ? len : 0;
		if (b[3] >= 'A' && b[3] <= 'E')
			name = tilde_key(11u + b[3] - 'A');
		set_key(key, known, name);
		return 4;
	}
	for (; i < len && i < SEQUENCE_MAX && b[i] >= 0x20 && b[i] < 0x40; i++) {
		if (b[i] == ';')
			n++;
		else if (g_ascii_isdigit(b[i]) && n < 2 && parameter[n] < 1000)
			parameter[n] = parameter[n] * 10 + (b[i] - '0');
	}
	if (i == len && i < SEQUENCE_MAX)
		return final ? len : 0;
	if (i == SEQUENCE_MAX)
		return i;
	if (b[i] == '~')
		name = tilde_key(parameter[0]);
	else
		name = letter_key(b[i]);
	modifiers(key, parameter[1]);
	key->shift |= b[i] == 'Z';
	set_key(key, known, name);
	return i + 1;
}

/* Control characters are the letter with Ctrl, save those with a key of their own. */
static void decode_char(uint32_t ch, struct key_stroke *key, bool *known)
{
	if (ch == '\r' || ch == '\n' || ch == '\t' || ch == '\b' || ch == 0x7f || ch == ESC) {
		key->code = input_key_from_char(ch, &key->shift);
	} else if (ch < 0x20) {
		key->code = input_key_from_char(ch == 0 ? ' ' : ch < 27 ? ch + 0x60 : ch + 0x40, &key->shift);
		key->ctrl = true;
	} else {
		key->code = input_key_from_char(ch, &key->shift);
	}
	*known = key->code >= 0;
}

static size_t decode_utf8(const uint8_t *b, size_t len, bool final, struct key_stroke *key, bool *known)
{
	gunichar ch = g_utf8_get_char_validated((const char *)b, (gssize)len);

	if (ch == (gunichar)-2 && !final)
		return 0;
	if (ch >= (gunichar)-2 || !ch)
		return 1;
	decode_char(ch, key, known);
	return (size_t)g_unichar_to_utf8(ch, NULL);
}

size_t key_decode(const uint8_t *b, size_t len, bool final, struct key_stroke *key, bool *known)
{
	size_t n;

	*key = (struct key_stroke){ .code = -1 };
	*known = false;
	if (!len)
		return 0;
	if (b[0] == 0) {
		decode_char(0, key, known);
		return 1;
	}
	if (b[0] != ESC)
		return decode_utf8(b, len, final, key, known);
	if (len == 1) {
		if (!final)
			return 0;
		decode_char(ESC, key, known);
		return 1;
	}
	if ((b[1] == '[' || b[1] == 'O') && len > 2)
		return decode_csi(b, len, final, key, known);
	if ((b[1] == '[' || b[1] == 'O') && !final)
		return 0;
	if (b[1] == ESC) {
		decode_char(ESC, key, known);
		return 1;
	}
	/* Escape and a character at once: Alt with it. */
	n = decode_utf8(b + 1, len - 1, final, key, known);
	key->alt = true;
	return n ? n + 1 : 0;
}
