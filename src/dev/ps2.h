/*
 * PS/2 keyboard and mouse as an i8042 sees them: bytes go in, bytes come out (IBM PS/2 Hardware
 * Interface Technical Reference; Microsoft's IntelliMouse and Explorer extensions).
 */
#ifndef DEV_PS2_H
#define DEV_PS2_H

#include <stdbool.h>
#include <stdint.h>

#include "base/state.h"

#define PS2_REPLIES 8
#define PS2_STREAM 64

/* What waits in a device: replies to commands go before keystrokes and movements. */
struct ps2_queue {
	uint8_t reply[PS2_REPLIES], replies;
	uint8_t stream[PS2_STREAM], head, count;
	uint8_t last; /* for resend */
};

void ps2_queue_clear(struct ps2_queue *q);
bool ps2_queue_empty(const struct ps2_queue *q);
unsigned ps2_queue_room(const struct ps2_queue *q);
void ps2_queue_reply(struct ps2_queue *q, uint8_t byte);
/* The caller has asked for room. */
void ps2_queue_put(struct ps2_queue *q, uint8_t byte);
uint8_t ps2_queue_take(struct ps2_queue *q);
void ps2_queue_state(struct state *s, struct ps2_queue *q);

struct ps2_keyboard {
	struct ps2_queue queue;
	uint8_t pending; /* a command that waits for its argument; 0: none */
	uint8_t leds, rate;
	uint8_t set;     /* scan code set 1..3 */
	bool scanning;
	uint8_t down[64];    /* a bit per key code of input.h whose press has been sent */
	uint8_t no_break[32]; /* set 3: a bit per code that sends no release */
};

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte);
/* A key of display/input.h. */
void ps2_keyboard_key(struct ps2_keyboard *k, int code, bool down);
void ps2_keyboard_state(struct state *s, struct ps2_keyboard *k);
/* Set 2 to set 1, as the controller translates single bytes; 0xf0 is the caller's. */
uint8_t ps2_translate(uint8_t byte);

struct ps2_mouse {
	struct ps2_queue queue;
	uint8_t pending;
	uint8_t id;   /* 0, 3: wheel, 4: wheel and five buttons */
	uint8_t rate, resolution;
	uint8_t knock[3]; /* the last sample rates set: how drivers unlock the wheel */
	bool reporting, remote, wrap, scaling;
	int32_t dx, dy, dz; /* movement not yet told; y grows upwards */
	uint8_t buttons, told_buttons;
};

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte);
/* dx to the right, dy downwards, dz the wheel towards the user. */
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons);
/* Whether there is something to report in stream mode. */
bool ps2_mouse_waiting(const struct ps2_mouse *m);
/* Queues one packet, if there is room. */
void ps2_mouse_report(struct ps2_mouse *m);
void ps2_mouse_state(struct state *s, struct ps2_mouse *m);

#endif
