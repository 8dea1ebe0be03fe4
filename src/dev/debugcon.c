/* The debug console: one port, written bytes go to the host, and reads answer 0xe9 so that guests find it. */
#include "dev/debugcon.h"

#include <glib.h>

#define READBACK 0xe9

struct debugcon {
	struct device device; /* must be first */
	struct chardev *cd;
	struct region *region;
};

static uint64_t debugcon_read(void *opaque, uint64_t offset, unsigned len)
{
	return READBACK;
}

static void debugcon_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	uint8_t byte = (uint8_t)value;

	chardev_write(((struct debugcon *)opaque)->cd, &byte, 1);
}

static void debugcon_reset(struct device *d)
{
}

static int debugcon_state(struct device *d, struct state *s)
{
	return state_error(s);
}

static void debugcon_destroy(struct device *d)
{
	struct debugcon *c = (struct debugcon *)d;

	region_destroy(c->region);
	g_free(c);
}

static const struct device_ops debugcon_ops = { "debugcon", 1, debugcon_reset, debugcon_state, debugcon_destroy };

struct debugcon *debugcon_create(struct space *ports, uint16_t port, struct chardev *cd)
{
	static const struct region_ops ops = { debugcon_read, debugcon_write, 1, 1 };
	struct debugcon *c = g_new0(struct debugcon, 1);

	c->device.ops = &debugcon_ops;
	c->device.id = "debugcon";
	c->cd = cd;
	c->region = space_add(ports, "debugcon", port, 1, &ops, c);
	return c;
}

struct device *debugcon_device(struct debugcon *c)
{
	return &c->device;
}
