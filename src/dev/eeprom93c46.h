/* The 93C46 serial EEPROM that network cards carry: see eeprom93c46.c. */
#ifndef DEV_EEPROM93C46_H
#define DEV_EEPROM93C46_H

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"

struct eeprom93c46 {
	uint16_t word[64];
	uint32_t in;        /* bits shifted in since chip select rose */
	uint8_t in_count, out_count;
	uint16_t out;
	bool reading, clock;
};

/* Drives the three pins; the data output follows. */
void eeprom93c46_pins(struct eeprom93c46 *p, bool select, bool clock, bool in);
bool eeprom93c46_out(const struct eeprom93c46 *p);
/* As after power-on; the contents stay. */
void eeprom93c46_reset(struct eeprom93c46 *p);
void eeprom93c46_state(struct eeprom93c46 *p, struct state *s);

#endif
