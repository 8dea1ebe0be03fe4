/* Shared interrupt lines: a bit for each input, the line is up while one is set. */
#include "bus/irq_lines.h"

#include <glib.h>

struct irq_lines {
	struct device device;
	struct irq out;
	unsigned inputs[IRQ_LINES];
	uint32_t up[IRQ_LINES];
};

/* An input's number is line * IRQ_LINE_INPUTS + the bit. */
static void input_set(void *opaque, int input, bool level)
{
	struct irq_lines *l = opaque;
	int line = input / IRQ_LINE_INPUTS;
	uint32_t bit = 1u << input % IRQ_LINE_INPUTS, before = l->up[line];

	l->up[line] = level ? before | bit : before & ~bit;
	if (!before != !l->up[line])
		l->out.set(l->out.opaque, line, level);
}

struct irq irq_lines_input(struct irq_lines *l, unsigned line)
{
	if (l->inputs[line] == IRQ_LINE_INPUTS)
		return (struct irq){ 0 };
	return (struct irq){ input_set, l, (int)(line * IRQ_LINE_INPUTS + l->inputs[line]++) };
}

bool irq_lines_level(const struct irq_lines *l, unsigned line)
{
	return l->up[line];
}

/* The chips lower their outputs by their own resets; what none of them holds any more goes here. */
static void irq_lines_reset(struct device *d)
{
	struct irq_lines *l = (struct irq_lines *)d;

	for (int i = 0; i < IRQ_LINES; i++) {
		bool was = l->up[i];

		l->up[i] = 0;
		if (was)
			l->out.set(l->out.opaque, i, false);
	}
}

/* The interrupt controllers save the levels that they see themselves. */
static int irq_lines_state(struct device *d, struct state *s)
{
	struct irq_lines *l = (struct irq_lines *)d;

	for (unsigned i = 0; i < IRQ_LINES; i++) {
		state_u32(s, "up", &l->up[i]);
		if (state_loading(s) && (uint64_t)l->up[i] >> l->inputs[i])
			state_fail(s, "line %u has no such input", i);
	}
	return state_error(s);
}

static void irq_lines_destroy(struct device *d)
{
	g_free(d);
}

static const struct device_ops ops = { "irq-lines", 1, irq_lines_reset, irq_lines_state, irq_lines_destroy };

struct irq_lines *irq_lines_create(struct irq out)
{
	struct irq_lines *l = g_new0(struct irq_lines, 1);

	l->device = (struct device){ .ops = &ops, .id = "irq-lines" };
	l->out = out;
	return l;
}

struct device *irq_lines_device(struct irq_lines *l)
{
	return &l->device;
}
