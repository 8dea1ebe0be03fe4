/* The virtio disk on a real image: reads, writes, zeroes, discards, identity, queues, refusals, reset and state. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_blk.h"
#include "device_state.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)
#define SECTORS 2048u

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { OK, IOERR, UNSUPP };

struct rig {
	struct drv d;
	pthread_mutex_t lock;
	char *path;
	struct blk *blk;
	struct virtio_blk *b;
	uint64_t header, data, status;
};

static void start(struct rig *r, uint64_t features, unsigned queues)
{
	drv_probe(&r->d, DEVFN);
	g_assert_true(drv_negotiate(&r->d, F_VERSION_1 | features));
	for (unsigned q = 0; q < queues; q++)
		drv_queue_setup(&r->d, q, 64);
	drv_ok(&r->d);
}

static void set_up(struct rig *r, bool readonly, unsigned queues)
{
	const struct blk_options opt = { .format = BLK_RAW, .readonly = readonly };
	g_autofree uint8_t *image = g_malloc0(SECTORS * 512);
	g_autoptr(GError) error = NULL;

	for (unsigned i = 0; i < SECTORS; i++)
		st32le(image + 512 * i, i);
	memset(r, 0, sizeof(*r));
	r->path = g_build_filename(g_get_tmp_dir(), "virtio-blk-XXXXXX", NULL);
	close(g_mkstemp(r->path));
	g_assert_true(g_file_set_contents(r->path, (char *)image, SECTORS * 512, NULL));
	pthread_mutex_init(&r->lock, NULL);
	drv_init(&r->d);
	r->blk = blk_open(r->path, &opt, &r->lock, &error);
	g_assert_no_error(error);
	pthread_mutex_lock(&r->lock);
	r->b = virtio_blk_create(r->d.bus, DEVFN, r->d.clock, r->blk, "virtio0", queues);
	g_assert_nonnull(r->b);
	r->header = drv_alloc(&r->d, 16 + 1024, 16);
	r->data = drv_alloc(&r->d, 1 << 20, 4096);
	r->status = drv_alloc(&r->d, 16, 16);
}

static void take_down(struct rig *r)
{
	pthread_mutex_unlock(&r->lock);
	blk_close(r->blk);
	virtio_blk_device(r->b)->ops->destroy(virtio_blk_device(r->b));
	drv_finish(&r->d);
	g_unlink(r->path);
	g_free(r->path);
	pthread_mutex_destroy(&r->lock);
}

static void put_header(struct rig *r, uint32_t type, uint64_t sector)
{
	uint8_t h[16] = { 0 };

	st32le(h, type);
	st64le(h + 8, sector);
	mem_write(r->d.mem, r->header, h, sizeof(h));
	mem_write(r->d.mem, r->status, "\xee", 1);
}

/* Kicks, waits for the disk, takes the answer. */
static uint8_t answer(struct rig *r, unsigned q, uint32_t expected_len)
{
	uint32_t id, len;
	uint8_t status;

	drv_kick(&r->d, q);
	blk_drain(r->blk);
	g_assert_true(drv_used(&r->d, q, &id, &len));
	g_assert_cmpuint(len, ==, expected_len);
	mem_read(r->d.mem, r->status, &status, 1);
	return status;
}

static uint8_t transfer(struct rig *r, unsigned q, uint32_t type, uint64_t sector, uint32_t len, bool indirect)
{
	bool in = type == T_IN || type == T_ID;
	const struct drv_buf b[] = { { r->header, 16, false }, { r->data, len, in }, { r->status, 1, true } };

	put_header(r, type, sector);
	drv_add(&r->d, q, b, 3, indirect);
	return answer(r, q, in ? len + 1 : 1);
}

static void test_read_write(gconstpointer features)
{
	struct rig r;
	uint8_t block[8192], back[8192];

	set_up(&r, false, 1);
	start(&r, GPOINTER_TO_SIZE(features), 1);
	g_assert_cmpuint(transfer(&r, 0, T_IN, 100, 4096, false), ==, OK);
	for (unsigned i = 0; i < 8; i++)
		g_assert_cmpuint(mem_read32(r.d.mem, r.data + 512 * i), ==, 100 + i);
	for (unsigned i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7 + 1);
	mem_write(r.d.mem, r.data, block, sizeof(block));
	g_assert_cmpuint(transfer(&r, 0, T_OUT, 500, sizeof(block), GPOINTER_TO_SIZE(features) & F_INDIRECT), ==, OK);
	g_assert_cmpuint(transfer(&r, 0, T_FLUSH, 0, 0, false), ==, OK);
	memset(back, 0, sizeof(back));
	mem_write(r.d.mem, r.data, back, sizeof(back));
	g_assert_cmpuint(transfer(&r, 0, T_IN, 500, sizeof(block), GPOINTER_TO_SIZE(features) & F_INDIRECT), ==, OK);
	mem_read(r.d.mem, r.data, back, sizeof(back));
	g_assert_cmpmem(block, sizeof(block), back, sizeof(back));
	g_assert_cmpint(blk_pread(r.blk, 499 * 512, back, 512), ==, 0);
	g_assert_cmpuint(ld32le(back), ==, 499);
	g_assert_cmpuint(virtio_blk_device(r.b)->guest_errors, ==, 0);
	take_down(&r);
}

/* The driver may cut header, data and status where it likes. */
static void test_framing(void)
{
	struct rig r;
	struct drv_buf b[6];

	set_up(&r, false, 1);
	start(&r, 0, 1);
	put_header(&r, T_IN, 7);
	/* Header in two; data in odd pieces; the status glued to the last of them. */
	b[0] = (struct drv_buf){ r.header, 5, false };
	b[1] = (struct drv_buf){ r.header + 5, 11, false };
	b[2] = (struct drv_buf){ r.data, 3, true };
	b[3] = (struct drv_buf){ r.data + 3, 700, true };
	b[4] = (struct drv_buf){ r.data + 703, 1024 - 703 + 1, true };
	mem_write(r.d.mem, r.data + 1024, "\xee", 1);
	drv_add(&r.d, 0, b, 5, false);
	answer(&r, 0, 1025);
	g_assert_cmpuint(mem_read32(r.d.mem, r.data), ==, 7);
	g_assert_cmpuint(mem_read32(r.d.mem, r.data + 512), ==, 8);
	g_assert_cmpuint(mem_read32(r.d.mem, r.data + 1024) & 0xff, ==, OK);
	take_down(&r);
}

static void test_config(void)
{
	struct rig r;
	uint64_t offered;

	set_up(&r, false, 4);
	drv_probe(&r.d, DEVFN);
	g_assert_cmphex(pci_config_read(r.d.bus, DEVFN, 0, 4), ==, 0x10421af4);
	offered = drv_offered(&r.d);
	g_assert_cmphex(offered & 0xffffff, ==, 1 << 2 | 1 << 4 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14);
	g_assert_cmpuint(drv_config_read(&r.d, 0, 4), ==, SECTORS);
	g_assert_cmpuint(drv_config_read(&r.d, 12, 4), ==, 254);
	g_assert_cmpuint(drv_config_read(&r.d, 20, 4), ==, 512);
	g_assert_cmpuint(drv_config_read(&r.d, 34, 2), ==, 4);
	/* Every queue moves data and has its own vector. */
	start(&r, 0x7eff & offered, 4);
	drv_msix(&r.d, 4);
	for (unsigned q = 0; q < 4; q++) {
		g_assert_cmpuint(transfer(&r, q, T_IN, q, 512, false), ==, OK);
		g_assert_cmpuint(mem_read32(r.d.mem, r.data), ==, q);
		g_assert_cmpuint(r.d.msi[q + 1], ==, 1);
	}
	virtio_blk_resized(r.b);
	g_assert_cmpuint(r.d.msi[0], ==, 1);
	take_down(&r);

	set_up(&r, true, 1);
	drv_probe(&r.d, DEVFN);
	g_assert_cmphex(drv_offered(&r.d) & 0xffffff, ==, 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10);
	start(&r, 1 << 5, 1);
	g_assert_cmpuint(transfer(&r, 0, T_OUT, 0, 512, false), ==, IOERR);
	g_assert_cmpuint(transfer(&r, 0, T_IN, 0, 512, false), ==, OK);
	take_down(&r);
}

static void test_identity(void)
{
	struct rig r;
	char id[20];

	set_up(&r, false, 1);
	start(&r, 0, 1);
	g_assert_cmpuint(transfer(&r, 0, T_ID, 0, 20, false), ==, OK);
	mem_read(r.d.mem, r.data, id, sizeof(id));
	g_assert_cmpmem(id, sizeof(id), "virtio0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	take_down(&r);
}

static uint8_t ranges(struct rig *r, uint32_t type, const uint64_t list[][3], unsigned n)
{
	const struct drv_buf b[] = { { r->header, 16 + 16 * n, false }, { r->status, 1, true } };

	put_header(r, type, 0);
	for (unsigned i = 0; i < n; i++) {
		uint8_t e[16];

		st64le(e, list[i][0]);
		st32le(e + 8, (uint32_t)list[i][1]);
		st32le(e + 12, (uint32_t)list[i][2]);
		mem_write(r->d.mem, r->header + 16 + 16 * i, e, sizeof(e));
	}
	drv_add(&r->d, 0, b, 2, false);
	return answer(r, 0, 1);
}

static uint32_t sector_tag(struct rig *r, uint64_t sector)
{
	uint8_t b[512];

	g_assert_cmpint(blk_pread(r->blk, sector * 512, b, sizeof(b)), ==, 0);
	return ld32le(b);
}

static void test_ranges(void)
{
	static const uint64_t zero[][3] = { { 10, 3, 0 }, { 20, 16, 1 } }, outside[][3] = { { 5, 1, 0 }, { SECTORS - 1, 2, 0 } },
		flags[][3] = { { 5, 1, 2 } }, unmap[][3] = { { 5, 1, 1 } }, discard[][3] = { { 64, 64, 0 }, { 256, 8, 0 } },
		overflow[][3] = { { UINT64_MAX, 1, 0 } }, none[][3] = { { 0 } };
	static uint64_t many[33][3];
	struct rig r;

	set_up(&r, false, 1);
	start(&r, 1 << 13 | 1 << 14, 1);
	g_assert_cmpuint(ranges(&r, T_ZEROES, zero, 2), ==, OK);
	g_assert_cmpuint(sector_tag(&r, 9), ==, 9);
	g_assert_cmpuint(sector_tag(&r, 10), ==, 0);
	g_assert_cmpuint(sector_tag(&r, 12), ==, 0);
	g_assert_cmpuint(sector_tag(&r, 13), ==, 13);
	g_assert_cmpuint(sector_tag(&r, 35), ==, 0);
	g_assert_cmpuint(sector_tag(&r, 36), ==, 36);
	g_assert_cmpuint(ranges(&r, T_DISCARD, discard, 2), ==, OK);
	g_assert_cmpuint(sector_tag(&r, 63), ==, 63);
	g_assert_cmpuint(sector_tag(&r, 128), ==, 128);
	/* All or nothing. */
	g_assert_cmpuint(ranges(&r, T_ZEROES, outside, 2), ==, IOERR);
	g_assert_cmpuint(ranges(&r, T_ZEROES, overflow, 1), ==, IOERR);
	g_assert_cmpuint(sector_tag(&r, 5), ==, 5);
	g_assert_cmpuint(ranges(&r, T_ZEROES, flags, 1), ==, UNSUPP);
	g_assert_cmpuint(ranges(&r, T_DISCARD, unmap, 1), ==, UNSUPP);
	g_assert_cmpuint(ranges(&r, T_DISCARD, none, 0), ==, OK);
	g_assert_cmpuint(ranges(&r, T_DISCARD, many, 33), ==, IOERR);
	take_down(&r);
}

static void test_refusals(void)
{
	struct rig r;
	struct drv_buf b[2];

	set_up(&r, false, 1);
	start(&r, 0, 1);
	g_assert_cmpuint(transfer(&r, 0, T_IN, SECTORS - 1, 1024, false), ==, IOERR);
	g_assert_cmpuint(transfer(&r, 0, T_OUT, UINT64_MAX, 512, false), ==, IOERR);
	g_assert_cmpuint(transfer(&r, 0, T_IN, 0, 513, false), ==, IOERR);
	g_assert_cmpuint(transfer(&r, 0, T_IN, 0, 0, false), ==, OK);
	g_assert_cmpuint(transfer(&r, 0, 99, 0, 512, false), ==, UNSUPP);
	g_assert_cmpuint(transfer(&r, 0, T_IN, SECTORS - 1, 512, false), ==, OK);
	g_assert_cmphex(drv_status(&r.d), ==, 0x0f);
	/* No room for a status; a header of 15 bytes. */
	put_header(&r, T_IN, 0);
	b[0] = (struct drv_buf){ r.header, 16, false };
	drv_add(&r.d, 0, b, 1, false);
	drv_kick(&r.d, 0);
	g_assert_true(drv_status(&r.d) & S_NEEDS_RESET);
	start(&r, 0, 1);
	b[0].len = 15;
	b[1] = (struct drv_buf){ r.status, 1, true };
	drv_add(&r.d, 0, b, 2, false);
	drv_kick(&r.d, 0);
	g_assert_true(drv_status(&r.d) & S_NEEDS_RESET);
	take_down(&r);
}

/* A reset waits for what is in flight; a state saved then holds nothing of it. */
static void test_reset_and_state(void)
{
	struct rig r;
	struct device *dev;
	const struct drv_buf b[] = { { 0, 16, false }, { 0, 65536, true }, { 0, 1, true } };
	struct drv_buf buf[3];
	GByteArray *saved;
	uint32_t id, written;

	set_up(&r, false, 1);
	dev = virtio_blk_device(r.b);
	memcpy(buf, b, sizeof(b));
	buf[0].gpa = r.header;
	buf[1].gpa = r.data;
	buf[2].gpa = r.status;
	start(&r, 0, 1);
	put_header(&r, T_IN, 0);
	drv_add(&r.d, 0, buf, 3, false);
	drv_kick(&r.d, 0);
	g_assert_true(drv_negotiate(&r.d, F_VERSION_1));
	g_assert_cmpuint(drv_peek16(&r.d, r.d.q[0].device + 2), ==, 0);
	start(&r, 0, 1);
	drv_add(&r.d, 0, buf, 3, false);
	drv_kick(&r.d, 0);
	saved = device_save(dev);
	g_assert_true(drv_used(&r.d, 0, &id, &written));
	dev->ops->reset(dev);
	device_check_restore(dev, saved);
	g_assert_cmpuint(transfer(&r, 0, T_IN, 3, 512, false), ==, OK);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_data_func("/virtio-blk/split", NULL, test_read_write);
	g_test_add_data_func("/virtio-blk/split-all", GSIZE_TO_POINTER(F_INDIRECT | F_EVENT_IDX), test_read_write);
	g_test_add_data_func("/virtio-blk/packed", GSIZE_TO_POINTER(F_PACKED | F_INDIRECT | F_EVENT_IDX), test_read_write);
	g_test_add_func("/virtio-blk/framing", test_framing);
	g_test_add_func("/virtio-blk/config", test_config);
	g_test_add_func("/virtio-blk/identity", test_identity);
	g_test_add_func("/virtio-blk/ranges", test_ranges);
	g_test_add_func("/virtio-blk/refusals", test_refusals);
	g_test_add_func("/virtio-blk/reset-and-state", test_reset_and_state);
	return g_test_run();
}
