/* For tests of displays: a guest's screen of one colour with one other pixel, and a sink that keeps what is typed and pointed. */
#ifndef TESTS_UNIT_FAKE_SCREEN_H
#define TESTS_UNIT_FAKE_SCREEN_H

#include <glib.h>
#include <pthread.h>

#include "display/input.h"
#include "display/surface.h"

struct fake_screen {
	pthread_mutex_t lock; /* around all of it */
	unsigned width, height;
	uint32_t colour, spot; /* all of it, and the pixel at 100, 50 */
	unsigned renders;
	GString *keys; /* such as "+1e -1e " */
	int dx, dy, dz;
	unsigned x, y, buttons;
	bool tablet; /* whether the guest takes places; else movements */
	struct display_source source;
	struct input_sink sink;
};

void fake_screen_init(struct fake_screen *s);
void fake_screen_finish(struct fake_screen *s);

#endif
