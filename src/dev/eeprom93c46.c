/*
 * A 93C46 serial EEPROM of 64 words of 16 bits behind three wires (Microchip 93C46 data sheet, 2):
 * a start bit, two bits of operation, six of address; then data, high bit first. Reading only:
 * writing is never enabled.
 */
#include "dev/eeprom93c46.h"

enum { COMMAND_BITS = 9, READ = 6 /* start bit and 10 */ };

static void shift_out(struct eeprom93c46 *p)
{
	/* Sequential reads run on into the next word. */
	if (p->out_count == 16) {
		p->in = (p->in & ~63u) | ((p->in + 1) & 63);
		p->out = p->word[p->in & 63];
		p->out_count = 0;
	}
	p->out_count++;
}

static void shift_in(struct eeprom93c46 *p, bool bit)
{
	if (!p->in_count && !bit)
		return; /* zeros before the start bit */
	p->in = p->in << 1 | bit;
	if (++p->in_count < COMMAND_BITS)
		return;
	if (p->in >> 6 == READ) {
		p->reading = true;
		p->out = p->word[p->in & 63];
		p->out_count = 0;
		return;
	}
	p->in = p->in_count = 0;
}

void eeprom93c46_pins(struct eeprom93c46 *p, bool select, bool clock, bool in)
{
	bool rises = clock && !p->clock;

	p->clock = clock;
	if (!select) {
		p->in = p->in_count = p->out_count = 0;
		p->reading = false;
	} else if (rises && p->reading) {
		shift_out(p);
	} else if (rises) {
		shift_in(p, in);
	}
}

/* Floats high until a bit is shifted out; a zero precedes the first. */
bool eeprom93c46_out(const struct eeprom93c46 *p)
{
	return !p->reading || (p->out_count && p->out >> (16 - p->out_count) & 1);
}

void eeprom93c46_reset(struct eeprom93c46 *p)
{
	p->in = p->in_count = p->out_count = 0;
	p->reading = p->clock = false;
}

void eeprom93c46_state(struct eeprom93c46 *p, struct state *s)
{
	state_bytes(s, "eeprom", p->word, sizeof(p->word));
	state_u32(s, "eeprom-in", &p->in);
	state_u8(s, "eeprom-in-count", &p->in_count);
	state_u8(s, "eeprom-out-count", &p->out_count);
	state_u16(s, "eeprom-out", &p->out);
	state_bool(s, "eeprom-reading", &p->reading);
	state_bool(s, "eeprom-clock", &p->clock);
	if (state_loading(s) && (p->in_count > COMMAND_BITS || p->out_count > 16)) {
		eeprom93c46_reset(p);
		state_fail(s, "the EEPROM's bit counts are out of range");
	}
}
