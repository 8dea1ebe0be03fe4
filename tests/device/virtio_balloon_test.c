/* The balloon: memory that goes back to the host and comes again as zeros, free page reports, statistics, size. */
#include <glib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "dev/virtio_balloon.h"
#include "device_state.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)
#define F_STATS 2u
#define F_POISON 16u
#define F_REPORTING 32u

struct rig {
	struct drv d;
	struct virtio_balloon *b;
	uint64_t told;
	uint64_t list;
};

static void changed(void *opaque, uint64_t bytes) { ((struct rig *)opaque)->told = bytes; }

static void set_up(struct rig *r, uint64_t features)
{
	memset(r, 0, sizeof(*r));
	drv_init(&r->d);
	r->b = virtio_balloon_create(r->d.bus, DEVFN, r->d.clock, r->d.mem, DRV_RAM, changed, r);
	drv_probe(&r->d, DEVFN);
	g_assert_true(drv_negotiate(&r->d, F_VERSION_1 | features));
	for (unsigned i = 0; i < 5; i++)
		drv_queue_setup(&r->d, i, 16);
	drv_ok(&r->d);
	r->list = drv_alloc(&r->d, 8192, 16);
	/* All of the rest is in use. */
	memset(r->d.ram->host + 0x100000, 0xaa, DRV_RAM - 0x100000);
}

static void take_down(struct rig *r)
{
	virtio_balloon_device(r->b)->ops->destroy(virtio_balloon_device(r->b));
	drv_finish(&r->d);
}

/* Bytes that the host spends on the guest's memory. */
static uint64_t resident(struct rig *r)
{
	struct stat st;

	g_assert_cmpint(fstat(r->d.ram->fd, &st), ==, 0);
	return (uint64_t)st.st_blocks * 512;
}

static void send_pages(struct rig *r, unsigned queue, const uint32_t *page, unsigned n)
{
	const struct drv_buf b = { r->list, 4 * n, false };
	uint32_t id, len;

	mem_write(r->d.mem, r->list, page, 4 * n);
	drv_add(&r->d, queue, &b, 1, false);
	drv_kick(&r->d, queue);
	g_assert_true(drv_used(&r->d, queue, &id, &len));
}

static void test_inflate(void)
{
	/* Out of order, twice the same, one outside of RAM and one at the end of all addresses. */
	static const uint32_t pages[] = { 0x203, 0x202, 0x201, 0x201, 0x300, 0x400, 0xffffffff };
	struct rig r;
	uint64_t before;

	set_up(&r, 0);
	before = resident(&r);
	send_pages(&r, 0, pages, G_N_ELEMENTS(pages));
	g_assert_cmpuint(resident(&r), ==, before - 4 * 4096);
	g_assert_cmpuint(virtio_balloon_inflated(r.b), ==, 4 * 4096);
	g_assert_cmphex(mem_read32(r.d.mem, 0x200ffc), ==, 0xaaaaaaaa);
	g_assert_cmphex(mem_read32(r.d.mem, 0x201000), ==, 0);
	g_assert_cmphex(mem_read32(r.d.mem, 0x203ffc), ==, 0);
	g_assert_cmphex(mem_read32(r.d.mem, 0x204000), ==, 0xaaaaaaaa);
	send_pages(&r, 1, pages, 3);
	take_down(&r);
}

static void test_report(gconstpointer data)
{
	bool poison = GPOINTER_TO_SIZE(data) & F_POISON;
	struct rig r;
	const struct drv_buf b[] = { { 0x200000, 0x100000, true }, { 0x180800, 0x1800, true } };
	uint64_t before;
	uint32_t id, len;

	set_up(&r, GPOINTER_TO_SIZE(data));
	if (poison)
		space_write(r.d.mmio, r.d.config + 12, 4, 0xaaaaaaaa);
	before = resident(&r);
	drv_add(&r.d, GPOINTER_TO_SIZE(data) & F_STATS ? 3 : 2, b, 2, false);
	drv_kick(&r.d, GPOINTER_TO_SIZE(data) & F_STATS ? 3 : 2);
	g_assert_true(drv_used(&r.d, GPOINTER_TO_SIZE(data) & F_STATS ? 3 : 2, &id, &len));
	g_assert_cmpuint(resident(&r), ==, poison ? before : before - 0x101000);
	g_assert_cmpuint(virtio_balloon_reported(r.b), ==, poison ? 0 : 0x101000);
	g_assert_cmphex(mem_read32(r.d.mem, 0x180ffc), ==, 0xaaaaaaaa);
	g_assert_cmphex(mem_read32(r.d.mem, 0x182000), ==, 0xaaaaaaaa);
	take_down(&r);
}

static void test_size(void)
{
	struct rig r;

	set_up(&r, 0);
	virtio_balloon_set_target(r.b, DRV_RAM / 2);
	g_assert_cmphex(space_read(r.d.mmio, r.d.isr, 1), ==, 2);
	g_assert_cmpuint(drv_config_read(&r.d, 0, 4), ==, DRV_RAM / 2 / 4096);
	g_assert_cmpuint(virtio_balloon_size(r.b), ==, DRV_RAM);
	space_write(r.d.mmio, r.d.config + 4, 4, 512);
	g_assert_cmpuint(virtio_balloon_size(r.b), ==, DRV_RAM / 2);
	g_assert_cmpuint(r.told, ==, DRV_RAM / 2);
	/* More than there is. */
	space_write(r.d.mmio, r.d.config + 4, 4, 1025);
	g_assert_cmpuint(virtio_balloon_size(r.b), ==, DRV_RAM / 2);
	virtio_balloon_set_target(r.b, UINT64_MAX);
	g_assert_cmpuint(drv_config_read(&r.d, 0, 4), ==, 0);
	virtio_balloon_device(r.b)->ops->reset(virtio_balloon_device(r.b));
	g_assert_cmpuint(r.told, ==, DRV_RAM);
	take_down(&r);
}

static void put_stat(struct rig *r, unsigned i, uint16_t tag, uint64_t value)
{
	mem_write(r->d.mem, r->list + 10 * i, &tag, 2);
	mem_write(r->d.mem, r->list + 10 * i + 2, &value, 8);
}

static void test_stats(void)
{
	struct rig r;
	const struct balloon_stats *t;
	struct drv_buf b;
	uint32_t id, len;

	set_up(&r, F_STATS);
	t = virtio_balloon_stats(r.b);
	g_assert_cmpint(t->when, ==, -1);
	put_stat(&r, 0, 5, 4 << 20);
	put_stat(&r, 1, 4, 1 << 20);
	put_stat(&r, 2, 77, 1);
	b = (struct drv_buf){ r.list, 30, false };
	drv_add(&r.d, 2, &b, 1, false);
	drv_kick(&r.d, 2);
	g_assert_cmpuint(t->total, ==, 4 << 20);
	g_assert_cmpuint(t->free, ==, 1 << 20);
	g_assert_cmphex(t->caches, ==, UINT64_MAX);
	/* The buffer comes back when someone wants to know more, but not all the time. */
	g_assert_false(drv_used(&r.d, 2, &id, &len));
	virtio_balloon_stats(r.b);
	g_assert_true(drv_used(&r.d, 2, &id, &len));
	put_stat(&r, 1, 4, 2 << 20);
	drv_add(&r.d, 2, &b, 1, false);
	drv_kick(&r.d, 2);
	g_assert_cmpuint(t->free, ==, 2 << 20);
	virtio_balloon_stats(r.b);
	g_assert_false(drv_used(&r.d, 2, &id, &len));
	clock_advance(r.d.clock, NS_PER_SEC);
	virtio_balloon_stats(r.b);
	g_assert_true(drv_used(&r.d, 2, &id, &len));
	take_down(&r);
}

static void test_state(void)
{
	struct rig r;
	struct device *dev;
	GByteArray *saved;
	const struct drv_buf b = { 0x1000, 30, false };

	set_up(&r, F_STATS | F_REPORTING);
	dev = virtio_balloon_device(r.b);
	drv_add(&r.d, 2, &b, 1, false);
	drv_kick(&r.d, 2);
	virtio_balloon_set_target(r.b, DRV_RAM / 2);
	space_write(r.d.mmio, r.d.config + 4, 4, 100);
	saved = device_save(dev);
	dev->ops->reset(dev);
	device_check_restore(dev, saved);
	g_assert_cmpuint(virtio_balloon_size(r.b), ==, DRV_RAM - 100 * 4096);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/virtio-balloon/inflate", test_inflate);
	g_test_add_data_func("/virtio-balloon/report", GSIZE_TO_POINTER(F_REPORTING | F_STATS), test_report);
	g_test_add_data_func("/virtio-balloon/report-without-stats", GSIZE_TO_POINTER(F_REPORTING), test_report);
	g_test_add_data_func("/virtio-balloon/report-poisoned", GSIZE_TO_POINTER(F_REPORTING | F_STATS | F_POISON), test_report);
	g_test_add_func("/virtio-balloon/size", test_size);
	g_test_add_func("/virtio-balloon/stats", test_stats);
	g_test_add_func("/virtio-balloon/state", test_state);
	return g_test_run();
}
