/* Shared interrupt lines: the level is the OR of the inputs, and the inputs are the state. */
#include "../device/harness.h"
#include "bus/irq_lines.h"

static struct line lines[IRQ_LINES];

static struct irq_lines *make(struct irq *a, struct irq *b, struct irq *other)
{
	struct irq_lines *l = irq_lines_create(line_irq(lines, 0));

	memset(lines, 0, sizeof(lines));
	*a = irq_lines_input(l, 4);
	*b = irq_lines_input(l, 4);
	*other = irq_lines_input(l, 3);
	return l;
}

static void test_or(void)
{
	struct irq a, b, other;
	struct irq_lines *l = make(&a, &b, &other);
	struct device *d = irq_lines_device(l);

	irq_set(&a, true);
	irq_set(&b, true);
	irq_set(&a, true);
	g_assert_cmpuint(lines[4].rises, ==, 1);
	irq_set(&a, false);
	g_assert_true(lines[4].level && irq_lines_level(l, 4));
	irq_set(&b, false);
	g_assert_false(lines[4].level || irq_lines_level(l, 4));
	g_assert_cmpuint(lines[3].rises, ==, 0);
	irq_pulse(&other);
	g_assert_cmpuint(lines[3].rises, ==, 1);
	irq_set(&other, true);
	d->ops->reset(d);
	g_assert_false(lines[3].level);
	d->ops->destroy(d);
}

static void test_state(void)
{
	struct irq a, b, other;
	struct irq_lines *l = make(&a, &b, &other);
	struct device *d = irq_lines_device(l);
	GByteArray *both, *bad;

	irq_set(&a, true);
	irq_set(&b, true);
	both = device_save(d);
	irq_set(&a, false);
	irq_set(&b, false);
	device_check_restore(d, both);
	/* One of the two goes down: the other still holds the line. */
	lines[4].level = true;
	irq_set(&a, false);
	g_assert_true(lines[4].level);
	bad = device_save(d);
	bad->data[bad->len - 1] = 1;
	g_assert_cmpint(device_restore(d, bad), ==, -EINVAL);
	g_byte_array_unref(bad);
	d->ops->destroy(d);
}

static void test_full(void)
{
	struct irq_lines *l = irq_lines_create(line_irq(lines, 0));
	struct irq in = { 0 };

	for (unsigned i = 0; i < IRQ_LINE_INPUTS; i++)
		in = irq_lines_input(l, 23);
	memset(lines, 0, sizeof(lines));
	irq_pulse(&in);
	g_assert_cmpuint(lines[23].rises, ==, 1);
	in = irq_lines_input(l, 23);
	irq_pulse(&in);
	g_assert_cmpuint(lines[23].rises, ==, 1);
	irq_lines_device(l)->ops->destroy(irq_lines_device(l));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/irq-lines/or", test_or);
	g_test_add_func("/irq-lines/state", test_state);
	g_test_add_func("/irq-lines/full", test_full);
	return g_test_run();
}
