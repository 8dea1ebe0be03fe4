/* The PC/AT's coprocessor error logic: an x87 error interrupts through IRQ 13; a write to port 0xf0 takes the interrupt
 * back and lets the handler's own x87 instructions run until the error is gone (82371AB 4.2.6). */
#include "dev/coprocessor.h"

#include <glib.h>

struct coprocessor {
	struct device device; /* must be first */
	struct irq irq;
	uint8_t error;  /* FERR# */
	uint8_t active; /* IRQ 13 */
	uint8_t ignore; /* IGNNE# */
	struct region *region;
};

static void set_active(struct coprocessor *c, bool active)
{
	c->active = active;
	irq_set(&c->irq, active);
}

bool coprocessor_error(struct coprocessor *c, bool asserted)
{
	if (asserted && !c->error)
		set_active(c, true);
	if (!asserted)
		c->ignore = false;
	c->error = asserted;
	return c->ignore;
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned len) { return 0xff; }

static void port_write(void *opaque, uint64_t offset, unsigned len, uint64_t v)
{
	struct coprocessor *c = opaque;

	c->ignore = c->error;
	set_active(c, false);
}

static void coprocessor_reset(struct device *d)
{
	struct coprocessor *c = (struct coprocessor *)d;

	c->error = c->ignore = false;
	set_active(c, false);
}

static int coprocessor_state(struct device *d, struct state *s)
{
	struct coprocessor *c = (struct coprocessor *)d;

	state_u8(s, "error", &c->error);
	state_u8(s, "active", &c->active);
	state_u8(s, "ignore", &c->ignore);
	if (state_loading(s) && (c->error > 1 || c->active > 1 || c->ignore > 1))
		state_fail(s, "a coprocessor line is neither high nor low");
	return state_error(s);
}

static void coprocessor_destroy(struct device *d)
{
	struct coprocessor *c = (struct coprocessor *)d;

	region_destroy(c->region);
	g_free(c);
}

static const struct device_ops coprocessor_ops = { "coprocessor", 1, coprocessor_reset, coprocessor_state, coprocessor_destroy };

struct coprocessor *coprocessor_create(struct space *ports, struct irq irq13)
{
	static const struct region_ops ops = { port_read, port_write, 1, 1 };
	struct coprocessor *c = g_new0(struct coprocessor, 1);

	c->device.ops = &coprocessor_ops;
	c->device.id = "coprocessor";
	c->irq = irq13;
	c->region = space_add(ports, "coprocessor", 0xf0, 1, &ops, c);
	coprocessor_reset(&c->device);
	return c;
}

struct device *coprocessor_device(struct coprocessor *c)
{
	return &c->device;
}
