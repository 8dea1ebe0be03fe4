/* The panic port: reading tells which events are understood, writing one of them raises it. */
#include "dev/pvpanic.h"

#include <glib.h>

struct pvpanic {
	struct device device; /* must be first */
	void (*panicked)(void *opaque, enum pvpanic_event event);
	void *opaque;
	struct region *region;
};

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned len)
{
	return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

/* A guest that saves its own memory says both: the milder one counts. */
static void pvpanic_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct pvpanic *p = opaque;

	if (value & ~(uint64_t)(PVPANIC_PANICKED | PVPANIC_CRASH_LOADED))
		device_guest_error(&p->device, "unknown event 0x%02x", (unsigned)value);
	if (value & PVPANIC_CRASH_LOADED)
		p->panicked(p->opaque, PVPANIC_CRASH_LOADED);
	else if (value & PVPANIC_PANICKED)
		p->panicked(p->opaque, PVPANIC_PANICKED);
}

static void pvpanic_reset(struct device *d)
{
}

static int pvpanic_state(struct device *d, struct state *s)
{
	return state_error(s);
}

static void pvpanic_destroy(struct device *d)
{
	struct pvpanic *p = (struct pvpanic *)d;

	region_destroy(p->region);
	g_free(p);
}

static const struct device_ops pvpanic_ops = { "pvpanic", 1, pvpanic_reset, pvpanic_state, pvpanic_destroy };

struct pvpanic *pvpanic_create(struct space *ports, void (*panicked)(void *opaque, enum pvpanic_event event), void *opaque)
{
	static const struct region_ops ops = { pvpanic_read, pvpanic_write, 1, 1 };
	struct pvpanic *p = g_new0(struct pvpanic, 1);

	p->device = (struct device){ .ops = &pvpanic_ops, .id = "pvpanic" };
	p->panicked = panicked;
	p->opaque = opaque;
	p->region = space_add(ports, "pvpanic", PVPANIC_PORT, 1, &ops, p);
	return p;
}

struct device *pvpanic_device(struct pvpanic *p)
{
	return &p->device;
}
