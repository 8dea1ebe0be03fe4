/* The virtio console on a stream in memory: output, input that waits for room, size, emergency writes, state. */
#include <glib.h>
#include <string.h>

#include "dev/virtio_console.h"
#include "device_state.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)

struct rig {
	struct drv d;
	struct chardev *cd;
	struct virtio_console *c;
	uint64_t page;
};

static void start(struct rig *r, uint64_t features)
{
	g_assert_true(drv_negotiate(&r->d, F_VERSION_1 | features));
	drv_queue_setup(&r->d, 0, 8);
	drv_queue_setup(&r->d, 1, 8);
	drv_ok(&r->d);
}

static void set_up(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	drv_init(&r->d);
	r->cd = chardev_memory_new();
	r->c = virtio_console_create(r->d.bus, DEVFN, r->d.clock, r->cd);
	r->page = drv_alloc(&r->d, 4096, 4096);
	drv_probe(&r->d, DEVFN);
}

static void take_down(struct rig *r)
{
	virtio_console_device(r->c)->ops->destroy(virtio_console_device(r->c));
	chardev_destroy(r->cd);
	drv_finish(&r->d);
}

static void give_room(struct rig *r, uint32_t offset, uint32_t len)
{
	const struct drv_buf b = { r->page + offset, len, true };

	drv_add(&r->d, 0, &b, 1, false);
	drv_kick(&r->d, 0);
}

static void expect_input(struct rig *r, uint32_t offset, const char *text)
{
	uint32_t id, len;
	char got[64];

	g_assert_true(drv_used(&r->d, 0, &id, &len));
	g_assert_cmpuint(len, ==, strlen(text));
	mem_read(r->d.mem, r->page + offset, got, len);
	g_assert_cmpmem(got, len, text, strlen(text));
}

static void expect_output(struct rig *r, const char *text)
{
	size_t len;
	const uint8_t *data = chardev_memory_data(r->cd, &len);

	g_assert_cmpmem(data, len, text, strlen(text));
}

static void test_output(void)
{
	struct rig r;
	struct drv_buf b[2];
	uint32_t id, len;

	set_up(&r);
	start(&r, 0);
	mem_write(r.d.mem, r.page, "hello, world", 12);
	b[0] = (struct drv_buf){ r.page, 7, false };
	b[1] = (struct drv_buf){ r.page + 7, 5, false };
	drv_add(&r.d, 1, b, 2, false);
	drv_kick(&r.d, 1);
	g_assert_true(drv_used(&r.d, 1, &id, &len));
	g_assert_cmpuint(len, ==, 0);
	g_assert_true(r.d.intx);
	expect_output(&r, "hello, world");
	take_down(&r);
}

/* The same megabytes named over and over are cut off. */
static void test_output_bound(void)
{
	struct rig r;
	struct drv_buf b[8];
	size_t len;

	set_up(&r);
	start(&r, 0);
	for (unsigned i = 0; i < 8; i++)
		b[i] = (struct drv_buf){ 0, DRV_RAM, false };
	drv_add(&r.d, 1, b, 8, false);
	drv_kick(&r.d, 1);
	chardev_memory_data(r.cd, &len);
	g_assert_cmpuint(len, ==, 1 << 20);
	g_assert_cmpuint(virtio_console_device(r.c)->guest_errors, ==, 1);
	take_down(&r);
}

static void test_input(void)
{
	struct rig r;
	uint32_t id, len;

	set_up(&r);
	/* Before there is a driver, and before it gives room, input waits. */
	chardev_input(r.cd, (const uint8_t *)"ab", 2);
	start(&r, 0);
	chardev_input(r.cd, (const uint8_t *)"cdefg", 5);
	g_assert_false(drv_used(&r.d, 0, &id, &len));
	give_room(&r, 0, 3);
	expect_input(&r, 0, "abc");
	g_assert_true(r.d.intx);
	give_room(&r, 16, 64);
	expect_input(&r, 16, "defg");
	/* Room first. */
	give_room(&r, 128, 64);
	g_assert_false(drv_used(&r.d, 0, &id, &len));
	chardev_input(r.cd, (const uint8_t *)"xyz", 3);
	expect_input(&r, 128, "xyz");
	/* Room for nothing. */
	g_assert_cmphex(drv_status(&r.d), ==, 0x0f);
	give_room(&r, 0, 0);
	chardev_input(r.cd, (const uint8_t *)"!", 1);
	g_assert_true(drv_status(&r.d) & S_NEEDS_RESET);
	take_down(&r);
}

static void test_size(void)
{
	struct rig r;

	set_up(&r);
	start(&r, 1);
	g_assert_cmphex(drv_config_read(&r.d, 0, 4), ==, 25 << 16 | 80);
	virtio_console_resize(r.c, 132, 43);
	g_assert_cmphex(space_read(r.d.mmio, r.d.isr, 1), ==, 2);
	g_assert_cmphex(drv_config_read(&r.d, 0, 4), ==, 43 << 16 | 132);
	virtio_console_resize(r.c, 132, 43);
	g_assert_cmphex(space_read(r.d.mmio, r.d.isr, 1), ==, 0);
	space_write(r.d.mmio, r.d.config + 8, 4, '!');
	expect_output(&r, "!");
	take_down(&r);
}

/* A buffer that was held for input is found again by the restored device. */
static void test_state(void)
{
	struct rig r;
	GByteArray *saved;
	struct device *dev;

	set_up(&r);
	dev = virtio_console_device(r.c);
	start(&r, 0);
	give_room(&r, 0, 64);
	saved = device_save(dev);
	dev->ops->reset(dev);
	device_check_restore(dev, saved);
	chardev_input(r.cd, (const uint8_t *)"back", 4);
	expect_input(&r, 0, "back");
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/virtio-console/output", test_output);
	g_test_add_func("/virtio-console/output-bound", test_output_bound);
	g_test_add_func("/virtio-console/input", test_input);
	g_test_add_func("/virtio-console/size", test_size);
	g_test_add_func("/virtio-console/state", test_state);
	return g_test_run();
}
