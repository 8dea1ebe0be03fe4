/* The debug exit port: test kernels write their verdict, and the machine ends with status (value << 1) | 1. */
#include "dev/debug_exit.h"

#include <glib.h>

struct debug_exit {
	struct device device; /* must be first */
	void (*exit_cb)(void *opaque, uint32_t value);
	void *opaque;
	struct region *region;
};

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned len)
{
	return 0;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct debug_exit *x = opaque;

	x->exit_cb(x->opaque, (uint32_t)value);
}

static void debug_exit_reset(struct device *d)
{
}

static int debug_exit_state(struct device *d, struct state *s)
{
	return state_error(s);
}

static void debug_exit_destroy(struct device *d)
{
	struct debug_exit *x = (struct debug_exit *)d;

	region_destroy(x->region);
	g_free(x);
}

static const struct device_ops debug_exit_ops = { "debug-exit", 1, debug_exit_reset, debug_exit_state, debug_exit_destroy };

struct debug_exit *debug_exit_create(struct space *ports, uint16_t base, void (*exit_cb)(void *opaque, uint32_t value),
				     void *opaque)
{
	static const struct region_ops ops = { debug_exit_read, debug_exit_write, 1, 4 };
	struct debug_exit *x = g_new0(struct debug_exit, 1);

	x->device.ops = &debug_exit_ops;
	x->device.id = "debug-exit";
	x->exit_cb = exit_cb;
	x->opaque = opaque;
	x->region = space_add(ports, "debug-exit", base, 4, &ops, x);
	return x;
}

struct device *debug_exit_device(struct debug_exit *x)
{
	return &x->device;
}
