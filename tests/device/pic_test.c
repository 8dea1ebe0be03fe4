/* The 8259A pair through its ports: initialisation, priorities, cascade, EOI, level inputs, state. */
#include <glib.h>

#include "dev/pic.h"
#include "device_state.h"

static bool intr;

static void set_intr(void *opaque, int line, bool level) { intr = level; }

static void out(struct space *s, uint16_t port, uint8_t v) { space_write(s, port, 1, v); }

static void initialise(struct space *s)
{
	out(s, 0x20, 0x11);
	out(s, 0x21, 0x08);
	out(s, 0x21, 0x04);
	out(s, 0x21, 0x01);
	out(s, 0xa0, 0x11);
	out(s, 0xa1, 0x70);
	out(s, 0xa1, 0x02);
	out(s, 0xa1, 0x01);
	out(s, 0x21, 0x00);
	out(s, 0xa1, 0x00);
}

static void test_priorities(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct pic *p = pic_create(s, (struct irq){ set_intr, NULL, 0 });

	initialise(s);
	g_assert_false(intr);
	pic_set_irq(p, 5, true);
	pic_set_irq(p, 1, true);
	g_assert_true(intr);
	g_assert_cmphex(pic_ack(p), ==, 0x09);
	/* Line 5 waits for the end of line 1. */
	g_assert_false(intr);
	out(s, 0x20, 0x20);
	g_assert_true(intr);
	g_assert_cmphex(pic_ack(p), ==, 0x0d);
	/* A higher one interrupts it; the slave's inputs rank as line 2. */
	pic_set_irq(p, 8, true);
	g_assert_true(intr);
	g_assert_cmphex(pic_ack(p), ==, 0x70);
	out(s, 0x20, 0x0b);
	g_assert_cmphex(space_read(s, 0x20, 1), ==, 0x24);
	out(s, 0xa0, 0x20);
	out(s, 0x20, 0x62);
	g_assert_cmphex(space_read(s, 0x20, 1), ==, 0x20);
	/* Masked: not seen. A request that has gone: the spurious vector. */
	out(s, 0x21, 0x01);
	pic_set_irq(p, 0, true);
	g_assert_false(intr);
	g_assert_cmphex(pic_ack(p), ==, 0x0f);
	pic_device(p)->ops->destroy(pic_device(p));
	space_destroy(s);
}

static void test_level(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct pic *p = pic_create(s, (struct irq){ set_intr, NULL, 0 });

	initialise(s);
	out(s, 0x4d1, 0xff);
	g_assert_cmphex(space_read(s, 0x4d1, 1), ==, 0xde);
	pic_set_irq(p, 11, true);
	g_assert_cmphex(pic_ack(p), ==, 0x73);
	out(s, 0xa0, 0x20);
	out(s, 0x20, 0x20);
	/* Still up: asks again. */
	g_assert_true(intr);
	pic_set_irq(p, 11, false);
	g_assert_false(intr);
	pic_device(p)->ops->destroy(pic_device(p));
	space_destroy(s);
}

static void test_state(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct pic *p = pic_create(s, (struct irq){ set_intr, NULL, 0 });
	struct device *d = pic_device(p);
	g_autoptr(GByteArray) saved = NULL;

	initialise(s);
	pic_set_irq(p, 3, true);
	saved = device_save(d);
	d->ops->reset(d);
	out(s, 0x21, 0xff);
	g_assert_cmpint(device_restore(d, saved), ==, 0);
	g_assert_true(intr);
	device_check_saved(d, saved);
	d->ops->destroy(d);
	space_destroy(s);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pic/priorities", test_priorities);
	g_test_add_func("/pic/level", test_level);
	g_test_add_func("/pic/state", test_state);
	return g_test_run();
}
