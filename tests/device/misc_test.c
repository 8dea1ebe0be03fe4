/* The small ports: 0x92, the coprocessor error, the debug console, the debug exit. */
#include "dev/coprocessor.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/port92.h"
#include "harness.h"

static unsigned resets, exits;
static uint32_t exit_value;
static bool a20;

static void want_reset(void *opaque) { resets++; }
static void a20_changed(void *opaque, bool enabled) { a20 = enabled; }

static void want_exit(void *opaque, uint32_t value)
{
	exits++;
	exit_value = value;
}

static void test_port92(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct device *d = port92_device(port92_create(s, want_reset, a20_changed, NULL));

	g_assert_cmphex(in(s, 0x92), ==, 0x02);
	out(s, 0x92, 0x00);
	g_assert_false(a20);
	g_assert_cmphex(in(s, 0x92), ==, 0x00);
	out(s, 0x92, 0x02);
	g_assert_true(a20);
	g_assert_cmpuint(resets, ==, 0);
	/* Bit 0 resets when it rises. */
	out(s, 0x92, 0x03);
	out(s, 0x92, 0x03);
	g_assert_cmpuint(resets, ==, 1);
	device_check_restore(d, device_save(d));
	d->ops->reset(d);
	g_assert_cmphex(in(s, 0x92), ==, 0x02);
	d->ops->destroy(d);
	g_assert_cmphex(in(s, 0x92), ==, 0xff);
	space_destroy(s);
}

static bool irq13;

static void set_irq13(void *opaque, int line, bool level)
{
	g_assert_cmpint(line, ==, 13);
	irq13 = level;
}

/* The handler of IRQ 13 writes to port 0xf0, and may then use the x87 until it has taken the error away. */
static void test_coprocessor(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct coprocessor *c = coprocessor_create(s, (struct irq){ set_irq13, NULL, 13 });
	struct device *d = coprocessor_device(c);

	g_assert_false(coprocessor_error(c, true));
	g_assert_true(irq13);
	g_assert_false(coprocessor_error(c, true));
	out(s, 0xf0, 0);
	g_assert_false(irq13);
	g_assert_true(coprocessor_error(c, true));
	g_assert_false(irq13);
	device_check_restore(d, device_save(d));
	g_assert_true(coprocessor_error(c, true));
	g_assert_false(coprocessor_error(c, false));
	/* Without an error the port does nothing. */
	out(s, 0xf0, 0);
	g_assert_false(coprocessor_error(c, true));
	g_assert_true(irq13);
	d->ops->destroy(d);
	space_destroy(s);
}

static void test_debugcon(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct chardev *cd = chardev_memory_new();
	struct device *d = debugcon_device(debugcon_create(s, 0x402, cd)), *quiet;
	const uint8_t *data;
	size_t len;

	g_assert_cmphex(in(s, 0x402), ==, 0xe9);
	g_assert_cmphex(in(s, 0x403), ==, 0xff);
	out(s, 0x402, 'h');
	out(s, 0x402, 'i');
	data = chardev_memory_data(cd, &len);
	g_assert_cmpmem(data, len, "hi", 2);
	quiet = debugcon_device(debugcon_create(s, 0xe9, NULL));
	out(s, 0xe9, 'x');
	g_assert_cmphex(in(s, 0xe9), ==, 0xe9);
	device_check_restore(d, device_save(d));
	quiet->ops->destroy(quiet);
	d->ops->destroy(d);
	chardev_destroy(cd);
	space_destroy(s);
}

static void test_debug_exit(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct device *d = debug_exit_device(debug_exit_create(s, 0xf4, want_exit, NULL));

	g_assert_cmphex(in(s, 0xf4), ==, 0);
	g_assert_cmpuint(exits, ==, 0);
	out(s, 0xf4, 0x10);
	g_assert_cmphex(exit_value, ==, 0x10);
	space_write(s, 0xf4, 4, 0x12345678);
	g_assert_cmphex(exit_value, ==, 0x12345678);
	g_assert_cmpuint(exits, ==, 2);
	d->ops->destroy(d);
	space_destroy(s);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/misc/port92", test_port92);
	g_test_add_func("/misc/coprocessor", test_coprocessor);
	g_test_add_func("/misc/debugcon", test_debugcon);
	g_test_add_func("/misc/debug-exit", test_debug_exit);
	return g_test_run();
}
