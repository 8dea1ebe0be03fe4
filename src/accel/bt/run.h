/* Between translated code, the interpreter and the run loop. */
#ifndef ACCEL_BT_RUN_H
#define ACCEL_BT_RUN_H

#include "accel/bt/bt.h"

/* Lets the interpreter do the record's instructions; where to go on, as the stubs' helpers. */
uint8_t *bt_interp_rec(struct bt_cpu *b, struct bt_rec *rec);
/* Translated code at cs:rip; NULL when there is none. */
uint8_t *bt_find_code(struct bt_cpu *b);
/* Where to go on at cs:rip; NULL to leave translated code. */
uint8_t *bt_continue(struct bt_cpu *b);
/* Translates at cs:rip; NULL when it is not code for us. */
struct bt_block *bt_make(struct bt_cpu *b);

#endif
