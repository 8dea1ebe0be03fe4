/*
 * From a terminal's bytes to keys: UTF-8, control characters and the escape sequences of
 * arrows and function keys (ECMA-48; xterm's ctlseqs).
 */
#ifndef DISPLAY_KEYS_H
#define DISPLAY_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct key_stroke {
	int code; /* as in input.h */
	bool shift, ctrl, alt;
};

/*
 * Decodes the first key of `bytes`. Returns how many bytes it took; *known says whether the
 * US keyboard has that key. 0: the sequence is not complete (an escape that may go on); with
 * `final` set nothing more will come, and an escape is the key itself.
 */
size_t key_decode(const uint8_t *bytes, size_t len, bool final, struct key_stroke *key, bool *known);

#endif
