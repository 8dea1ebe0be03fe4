/* The display of `guise run`: whichever front end was asked for. */
#ifndef CLI_FRONT_END_H
#define CLI_FRONT_END_H

#include "cli/display_option.h"
#include "cli/escape.h"
#include "machine/vm.h"

struct front_end {
	struct terminal *terminal;
	struct window *window;
	struct vnc *vnc;
};

/* Says where it is, where that is not plain to see. `escape` has the monitor for the terminal. */
bool front_end_start(struct front_end *f, const struct display_option *d, struct vm *vm, struct escape *escape, GError **error);
void front_end_stop(struct front_end *f);

#endif
