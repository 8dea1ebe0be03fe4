/* System control port A (0x92): bit 0 resets when it rises, bit 1 is the A20 gate. */
#include "dev/port92.h"

#include <glib.h>

#define FAST_RESET 0x01
#define FAST_A20 0x02
#define WRITABLE 0xcb /* the two, the security lock and the disk light */

struct port92 {
	struct device device; /* must be first */
	uint8_t value;
	void (*reset_cb)(void *opaque);
	void (*a20_cb)(void *opaque, bool enabled);
	void *opaque;
	struct region *region;
};

static uint64_t port92_read(void *opaque, uint64_t offset, unsigned len)
{
	return ((struct port92 *)opaque)->value;
}

static void port92_write(void *opaque, uint64_t offset, unsigned len, uint64_t v)
{
	struct port92 *p = opaque;
	uint8_t value = (uint8_t)v & WRITABLE, rising = (uint8_t)(value & ~p->value), changed = value ^ p->value;

	p->value = value;
	if (changed & FAST_A20)
		p->a20_cb(p->opaque, value & FAST_A20);
	if (rising & FAST_RESET)
		p->reset_cb(p->opaque);
}

static void port92_reset(struct device *d)
{
	/* The gate is open from the start: see docs/ARCHITECTURE.md. */
	((struct port92 *)d)->value = FAST_A20;
}

static int port92_state(struct device *d, struct state *s)
{
	struct port92 *p = (struct port92 *)d;

	state_u8(s, "value", &p->value);
	if (state_loading(s) && (p->value & ~WRITABLE))
		state_fail(s, "port 0x92 has bits that are not there");
	return state_error(s);
}

static void port92_destroy(struct device *d)
{
	struct port92 *p = (struct port92 *)d;

	region_destroy(p->region);
	g_free(p);
}

static const struct device_ops port92_ops = { "port92", 1, port92_reset, port92_state, port92_destroy };

struct port92 *port92_create(struct space *ports, void (*reset_cb)(void *opaque),
			     void (*a20_cb)(void *opaque, bool enabled), void *opaque)
{
	static const struct region_ops ops = { port92_read, port92_write, 1, 1 };
	struct port92 *p = g_new0(struct port92, 1);

	p->device.ops = &port92_ops;
	p->device.id = "port92";
	p->reset_cb = reset_cb;
	p->a20_cb = a20_cb;
	p->opaque = opaque;
	p->region = space_add(ports, "port92", 0x92, 1, &ops, p);
	port92_reset(&p->device);
	return p;
}

struct device *port92_device(struct port92 *p)
{
	return &p->device;
}
