/* The options --net and --capture of `guise run`. */
#ifndef CLI_NET_OPTION_H
#define CLI_NET_OPTION_H

#include "machine/config.h"

/* Adds a card to c, or sets *none for "none". */
bool net_option_parse(struct vm_config *c, bool *none, const char *text, GError **error);
/* At the end: the default card unless there is one or `none` was said; names; the capture file. */
bool net_option_settle(struct vm_config *c, bool none, const char *capture, GError **error);

#endif
