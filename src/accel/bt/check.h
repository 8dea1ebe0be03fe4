/*
 * The translator's checker: proves of a block's host code, decoded anew, that it can do no more than translated
 * code may: docs/engines.md, "The checker", has the rules.
 */
#ifndef ACCEL_BT_CHECK_H
#define ACCEL_BT_CHECK_H

#include "accel/bt/bt.h"

/* Whether the block's code, as it stands in the cache now, is of the allowed form; if not, `why` says what is wrong. */
bool bt_check_block(const struct bt_cpu *b, const struct bt_block *block, GString *why);
/* Ends the process with a listing when it is not. */
void bt_check_emitted(struct bt_cpu *b, const struct bt_block *block, const uint8_t *guest);

#endif
