/*
 * qcow2 images: random operations against a copy in memory over many geometries, each image checked by us and, where
 * they are installed, by QEMU's tools; snapshots, resizing, backing chains, damaged files.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

static char *dir;
static bool have_qemu;

static char *path_of(const char *name)
{
	return g_build_filename(dir, name, NULL);
}

static void make(const char *path, const struct qcow2_create *c)
{
	GError *err = NULL;
	struct file *f = file_create_host(path, true, &err);

	g_assert_no_error(err);
	if (!qcow2_create(f, c, &err))
		g_error("%s", err->message);
	file_close(f);
}

static struct image *open_with(const char *path, struct image_open_options opt)
{
	GError *err = NULL;
	struct image *im = image_open(path, &opt, &err);

	if (!im)
		g_error("%s", err->message);
	return im;
}

static struct image *open_rw(const char *path)
{
	return open_with(path, (struct image_open_options){ .format = BLK_QCOW2 });
}

static void print_line(void *opaque, const char *line)
{
	g_printerr("# %s\n", line);
}

static void run_qemu(const char *fmt, const char *a, const char *b)
{
	g_autofree char *line = g_strdup_printf(fmt, a, b), *out = NULL, *errors = NULL;
	int status = 0;

	if (!have_qemu)
		return;
	g_assert_true(g_spawn_command_line_sync(line, &out, &errors, &status, NULL));
	if (status)
		g_error("%s: status %d\n%s%s", line, status, out, errors);
}

/* Sound, by our check and QEMU's; no leaks either. */
static void expect_sound(const char *path)
{
	struct image *im = open_with(path, (struct image_open_options){ .format = BLK_QCOW2, .readonly = true, .no_backing = true,
									 .unsafe_repair = true });
	struct qcow2_check_result r;

	g_assert_cmpint(qcow2_check(im, false, false, &(struct qcow2_check_listener){ .report = print_line }, &r), ==, 0);
	g_assert_cmpuint(r.corruptions, ==, 0);
	g_assert_cmpuint(r.leaks, ==, 0);
	image_close(im);
	run_qemu("qemu-img check -q -f qcow2 '%s'", path, NULL);
}

static void expect_content(const char *path, const uint8_t *model, uint64_t size)
{
	g_autofree char *raw = path_of("model.raw");
	g_autofree uint8_t *buf = g_malloc(size);
	struct image *im = open_with(path, (struct image_open_options){ .format = BLK_QCOW2, .readonly = true });

	g_assert_cmpuint(im->size, ==, size);
	g_assert_cmpint(image_pread(im, 0, buf, size), ==, 0);
	g_assert_true(!memcmp(buf, model, size));
	image_close(im);
	g_assert_true(g_file_set_contents(raw, (const char *)model, (gssize)size, NULL));
	run_qemu("qemu-img compare -q -f raw -F qcow2 '%s' '%s'", raw, path);
}

/* ---- random operations ---- */

static void random_operation(GRand *rand, struct image *im, uint8_t *model, uint64_t size, uint8_t *buf)
{
	uint64_t sectors = size / SECTOR;
	uint64_t most = g_rand_boolean(rand) ? 16 : 512, count = (uint64_t)g_rand_int_range(rand, 1, (gint32)MIN(most, sectors));
	uint64_t at = (uint64_t)g_rand_int_range(rand, 0, (gint32)(sectors - count + 1)) * SECTOR, len = count * SECTOR;
	g_autofree uint8_t *before = NULL;

	switch (g_rand_int_range(rand, 0, 10)) {
	default:
		for (uint64_t i = 0; i < len; i += 8)
			st64le(buf + i, ((uint64_t)g_rand_int(rand) << 32) | 1);
		memcpy(model + at, buf, len);
		g_assert_cmpint(image_pwrite(im, at, buf, len), ==, 0);
		break;
	case 0:
	case 1:
		memset(model + at, 0, len);
		g_assert_cmpint(im->ops->write_zeroes(im, at, len, g_rand_boolean(rand)), ==, 0);
		break;
	case 2:
		before = g_memdup2(model + at, len);
		g_assert_cmpint(im->ops->discard(im, at, len), ==, 0);
		g_assert_cmpint(image_pread(im, at, buf, len), ==, 0);
		/* As before or zeros, sector by sector. */
		for (uint64_t i = 0; i < len; i += SECTOR) {
			if (memcmp(buf + i, before + i, SECTOR)) {
				for (unsigned k = 0; k < SECTOR; k++)
					g_assert_cmpint(buf[i + k], ==, 0);
			}
		}
		memcpy(model + at, buf, len);
		break;
	case 3:
	case 4:
		g_assert_cmpint(image_pread(im, at, buf, len), ==, 0);
		g_assert_true(!memcmp(buf, model + at, len));
		break;
	case 5:
		g_assert_cmpint(im->ops->flush(im), ==, 0);
		break;
	}
}

static const struct geometry {
	const char *name;
	struct qcow2_create create;
	bool backing;
} geometries[] = {
	{ "default", { .size = 8 * MIB } },
	{ "v2", { .size = 8 * MIB, .version2 = true } },
	{ "v2-backing", { .size = 4 * MIB, .version2 = true, .cluster_bits = 12 }, true },
	{ "tiny-clusters", { .size = 6 * MIB, .cluster_bits = 9 } },
	{ "large-clusters", { .size = 8 * MIB, .cluster_bits = 21 } },
	{ "odd-size", { .size = 5 * MIB + 7 * SECTOR, .cluster_bits = 14 } },
	{ "refcount-1", { .size = 4 * MIB, .refcount_bits = 1, .cluster_bits = 10 } },
	{ "refcount-2", { .size = 4 * MIB, .refcount_bits = 2, .cluster_bits = 12 } },
	{ "refcount-4", { .size = 4 * MIB, .refcount_bits = 4, .cluster_bits = 12 } },
	{ "refcount-8", { .size = 4 * MIB, .refcount_bits = 8, .cluster_bits = 12 } },
	{ "refcount-32", { .size = 4 * MIB, .refcount_bits = 32, .cluster_bits = 10 } },
	{ "refcount-64", { .size = 4 * MIB, .refcount_bits = 64, .cluster_bits = 9 } },
	{ "lazy", { .size = 4 * MIB, .lazy = true, .cluster_bits = 12 } },
	{ "backing", { .size = 4 * MIB, .cluster_bits = 13 }, true },
};

static void make_base(const char *path, uint8_t *model, uint64_t size)
{
	/* Shorter than the disk: behind it there are zeros. */
	uint64_t len = size / 2 + 3 * SECTOR;

	for (uint64_t i = 0; i < len; i++)
		model[i] = (uint8_t)(i / SECTOR + i * 3);
	memset(model + len, 0, size - len);
	g_assert_true(g_file_set_contents(path, (const char *)model, (gssize)len, NULL));
}

static void test_random(gconstpointer data)
{
	const struct geometry *g = data;
	struct qcow2_create create = g->create;
	const uint64_t size = create.size;
	g_autofree char *path = path_of("random.qcow2"), *base = path_of("base.raw");
	g_autofree uint8_t *model = g_malloc0(size), *buf = g_malloc(size);
	g_autoptr(GRand) rand = g_rand_new_with_seed(g_str_hash(g->name));
	struct image *im;

	if (g->backing) {
		make_base(base, model, size);
		create.backing = "base.raw";
		create.backing_format = "raw";
	}
	make(path, &create);
	expect_sound(path);
	for (unsigned round = 0; round < 4; round++) {
		im = open_rw(path);
		for (unsigned i = 0; i < 150; i++)
			random_operation(rand, im, model, size, buf);
		g_assert_cmpint(image_close(im), ==, 0);
		expect_sound(path);
		expect_content(path, model, size);
		/* QEMU changes it as well. */
		if (have_qemu) {
			uint64_t at = (uint64_t)g_rand_int_range(rand, 0, (gint32)(size / SECTOR - 64)) * SECTOR;
			g_autofree char *command = g_strdup_printf("write -P 0x5a %" G_GUINT64_FORMAT " 32768", at);

			run_qemu("qemu-io -f qcow2 -c '%s' '%s'", command, path);
			memset(model + at, 0x5a, 32768);
		}
	}
	expect_content(path, model, size);
}

/* ---- several threads at once ---- */

struct worker {
	struct image *im;
	uint64_t first, stride, blocks;
	uint32_t seed;
	uint8_t *model;
};

/* Each thread has its own sectors, interleaved with the others' within clusters. */
static void *work(void *opaque)
{
	struct worker *w = opaque;
	g_autoptr(GRand) rand = g_rand_new_with_seed(w->seed);
	uint8_t buf[1024];

	for (unsigned i = 0; i < 400; i++) {
		uint64_t block = (uint64_t)g_rand_int_range(rand, 0, (gint32)w->blocks);
		uint64_t at = (block * w->stride + w->first) * sizeof(buf);
		int r = 0;

		switch (g_rand_int_range(rand, 0, 8)) {
		case 0: r = w->im->ops->flush(w->im); break;
		case 1:
			memset(w->model + at, 0, sizeof(buf));
			r = w->im->ops->write_zeroes(w->im, at, sizeof(buf), true);
			break;
		case 2:
			r = image_pread(w->im, at, buf, sizeof(buf));
			if (memcmp(buf, w->model + at, sizeof(buf)))
				return GINT_TO_POINTER(1);
			break;
		default:
			memset(buf, (int)g_rand_int_range(rand, 1, 256), sizeof(buf));
			memcpy(w->model + at, buf, sizeof(buf));
			r = image_pwrite(w->im, at, buf, sizeof(buf));
			break;
		}
		if (r < 0)
			return GINT_TO_POINTER(2);
	}
	return NULL;
}

static void test_threads(void)
{
	g_autofree char *path = path_of("threads.qcow2");
	const uint64_t size = 4 * MIB;
	g_autofree uint8_t *model = g_malloc0(size);
	struct worker w[4];
	GThread *thread[4];
	struct image *im;

	make(path, &(struct qcow2_create){ .size = size, .cluster_bits = 13 });
	im = open_rw(path);
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){ im, i, 4, size / KIB / 4, i + 1, model };
		thread[i] = g_thread_new("work", work, &w[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		g_assert_null(g_thread_join(thread[i]));
	g_assert_cmpint(image_close(im), ==, 0);
	expect_sound(path);
	expect_content(path, model, size);
}

/* ---- snapshots ---- */

static void test_snapshots(gconstpointer data)
{
	const struct geometry *g = data;
	const uint64_t size = 2 * MIB;
	g_autofree char *path = path_of("snapshots.qcow2");
	g_autofree uint8_t *model = g_malloc0(size), *one = NULL, *two = NULL, *buf = g_malloc(size);
	g_autoptr(GRand) rand = g_rand_new_with_seed(7);
	struct qcow2_create create = g->create;
	GError *err = NULL;
	struct image *im;

	create.size = size;
	make(path, &create);
	im = open_rw(path);
	for (unsigned i = 0; i < 80; i++)
		random_operation(rand, im, model, size, buf);
	if (create.refcount_bits == 1) {
		g_assert_false(qcow2_snapshot_create(im, "one", &err));
		g_assert_nonnull(strstr(err->message, "refcounts of 1 bits"));
		g_error_free(err);
		image_close(im);
		return;
	}
	g_assert_true(qcow2_snapshot_create(im, "one", &err));
	one = g_memdup2(model, size);
	for (unsigned i = 0; i < 80; i++)
		random_operation(rand, im, model, size, buf);
	g_assert_true(qcow2_snapshot_create(im, "two", &err));
	two = g_memdup2(model, size);
	g_assert_false(qcow2_snapshot_create(im, "two", NULL));
	for (unsigned i = 0; i < 40; i++)
		random_operation(rand, im, model, size, buf);
	g_assert_cmpint(image_close(im), ==, 0);
	expect_sound(path);
	expect_content(path, model, size);
	im = open_rw(path);
	/* Two bits count to three, and now there would be four references; the failure does no harm. */
	if (create.refcount_bits == 2) {
		g_assert_false(qcow2_snapshot_apply(im, "one", NULL));
		image_close(im);
		image_close(open_rw(path));
		expect_sound(path);
		expect_content(path, model, size);
		return;
	}
	g_assert_true(qcow2_snapshot_apply(im, "one", &err));
	image_close(im);
	expect_sound(path);
	expect_content(path, one, size);
	im = open_rw(path);
	memcpy(model, one, size);
	for (unsigned i = 0; i < 40; i++)
		random_operation(rand, im, model, size, buf);
	g_assert_true(qcow2_snapshot_delete(im, "one", &err));
	image_close(im);
	expect_sound(path);
	expect_content(path, model, size);
	im = open_rw(path);
	g_assert_true(qcow2_snapshot_apply(im, "two", &err));
	g_assert_true(qcow2_snapshot_delete(im, "two", &err));
	g_assert_false(qcow2_snapshot_delete(im, "two", NULL));
	image_close(im);
	expect_sound(path);
	expect_content(path, two, size);
}

/* ---- where data goes ---- */

static uint64_t place_of(struct image *im, uint64_t offset)
{
	struct map m;

	g_assert_true(im->ops->map(im, offset, SECTOR, false, &m));
	im->ops->map_end(im, &m);
	return m.offset;
}

static void test_layout(void)
{
	const uint64_t size = 256 * MIB, cluster = 16 * KIB, data = 160 * MIB, unit = 256 * KIB;
	g_autofree char *path = path_of("layout.qcow2");
	g_autofree uint8_t *buf = g_malloc(cluster);
	uint64_t end = 0, moved = 0;
	struct image *im;
	struct stat st;

	/* An L2 table covers 32 MiB here and a refcount block 128 MiB. */
	memset(buf, 0x11, cluster);
	make(path, &(struct qcow2_create){ .size = size, .cluster_bits = 14 });
	im = open_rw(path);
	for (uint64_t at = 0; at < data; at += cluster) {
		uint64_t place;

		g_assert_cmpint(image_pwrite(im, at, buf, cluster), ==, 0);
		place = place_of(im, at);
		/* Tables do not come between; where something has to, data goes on upon a boundary. */
		if (place != end) {
			g_assert_cmpuint(place % unit, ==, 0);
			moved++;
		}
		end = place + cluster;
	}
	g_assert_cmpuint(moved, <=, 3);
	/* What is given back is used again before the file grows. */
	g_assert_cmpint(im->ops->discard(im, 3 * MIB, 4 * cluster), ==, 0);
	g_assert_cmpint(im->ops->flush(im), ==, 0);
	for (uint64_t at = 0; at < 4 * cluster; at += cluster)
		g_assert_cmpint(image_pwrite(im, data + at, buf, cluster), ==, 0);
	g_assert_cmpint(image_close(im), ==, 0);
	g_assert_cmpint(stat(path, &st), ==, 0);
	g_assert_cmpuint((uint64_t)st.st_size, <=, end);
	expect_sound(path);
}

/* ---- size ---- */

static void test_resize(void)
{
	g_autofree char *path = path_of("resize.qcow2"), *base = path_of("base.raw");
	g_autofree uint8_t *model = g_malloc0(8 * MIB);
	struct image *im;

	make_base(base, model, 8 * MIB);
	make(path, &(struct qcow2_create){ .size = 2 * MIB, .cluster_bits = 9, .backing = "base.raw", .backing_format = "raw" });
	im = open_rw(path);
	g_assert_cmpint(im->ops->resize(im, 6 * MIB), ==, 0);
	memset(model + 2 * MIB, 0, 6 * MIB);
	image_close(im);
	expect_sound(path);
	expect_content(path, model, 6 * MIB);
	im = open_rw(path);
	memset(model + 5 * MIB, 7, MIB);
	g_assert_cmpint(image_pwrite(im, 5 * MIB, model + 5 * MIB, MIB), ==, 0);
	g_assert_cmpint(im->ops->resize(im, MIB + 3 * SECTOR), ==, 0);
	g_assert_cmpint(im->ops->resize(im, 6 * MIB), ==, 0);
	memset(model + MIB + 3 * SECTOR, 0, 5 * MIB);
	image_close(im);
	expect_sound(path);
	memset(model + MIB + 3 * SECTOR, 0, 5 * MIB - 3 * SECTOR);
	expect_content(path, model, 6 * MIB);
}

/* ---- compressed clusters ---- */

static void test_compressed(gconstpointer type)
{
	const struct qcow2_create create = { .size = 4 * MIB + 5 * SECTOR, .compression = (uint8_t)GPOINTER_TO_INT(type) };
	g_autofree char *path = path_of("compressed.qcow2");
	g_autofree uint8_t *model = g_malloc0(create.size), *buf = g_malloc(create.size);
	g_autoptr(GRand) rand = g_rand_new_with_seed(3);
	struct image *im;

	make(path, &create);
	im = open_rw(path);
	for (uint64_t at = 0; at < create.size; at += 64 * KIB) {
		uint32_t len = (uint32_t)MIN(64 * KIB, create.size - at);

		for (uint32_t i = 0; i < len; i++)
			model[at + i] = at % (192 * KIB) ? (uint8_t)(i / 100 + at / KIB) : (uint8_t)g_rand_int(rand);
		if (qcow2_write_compressed(im, at, model + at, len) == -ENOSPC)
			g_assert_cmpint(image_pwrite(im, at, model + at, len), ==, 0);
	}
	g_assert_cmpint(image_close(im), ==, 0);
	expect_sound(path);
	expect_content(path, model, create.size);
	im = open_rw(path);
	for (unsigned i = 0; i < 200; i++)
		random_operation(rand, im, model, create.size, buf);
	g_assert_cmpint(image_close(im), ==, 0);
	expect_sound(path);
	expect_content(path, model, create.size);
	/* And QEMU's. */
	if (have_qemu) {
		g_autofree char *raw = path_of("model.raw"), *convert = NULL;

		convert = g_strdup_printf("qemu-img convert -c -f raw -O qcow2 -o compression_type=%s '%%s' '%%s'", type ? "zstd" : "zlib");
		run_qemu(convert, raw, path);
		expect_content(path, model, create.size);
		expect_sound(path);
	}
}

/* ---- not closed properly ---- */

static void set_bits(const char *path, uint64_t offset, uint8_t bits)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	g_assert_cmpint(pread(fd, &byte, 1, (off_t)offset), ==, 1);
	byte |= bits;
	g_assert_cmpint(pwrite(fd, &byte, 1, (off_t)offset), ==, 1);
	close(fd);
}

static void test_repair(void)
{
	g_autofree char *path = path_of("repair.qcow2");
	g_autofree uint8_t *model = g_malloc0(2 * MIB), *buf = g_malloc(2 * MIB);
	g_autoptr(GRand) rand = g_rand_new_with_seed(5);
	struct image_open_options look = { .format = BLK_QCOW2, .unsafe_repair = true };
	struct qcow2_check_result r;
	GError *err = NULL;
	struct image *im;
	int fd;

	make(path, &(struct qcow2_create){ .size = 2 * MIB, .cluster_bits = 12 });
	im = open_rw(path);
	for (unsigned i = 0; i < 60; i++)
		random_operation(rand, im, model, 2 * MIB, buf);
	image_close(im);
	/* All refcounts gone, as lazy refcounts may leave them. */
	memset(buf, 0, 4096);
	fd = open(path, O_RDWR);
	g_assert_cmpint(pwrite(fd, buf, 4096, 8192), ==, 4096);
	close(fd);
	set_bits(path, 79, INCOMPAT_DIRTY);
	im = open_rw(path);
	image_close(im);
	expect_sound(path);
	expect_content(path, model, 2 * MIB);
	/* The table that leads to them gone too. */
	fd = open(path, O_RDWR);
	memset(buf, 0xee, 4096);
	g_assert_cmpint(pwrite(fd, buf, 4096, 4096), ==, 4096);
	close(fd);
	g_assert_null(image_open(path, &(struct image_open_options){ .format = BLK_QCOW2 }, &err));
	g_assert_nonnull(strstr(err->message, "--repair=all"));
	g_error_free(err);
	im = open_with(path, look);
	g_assert_cmpint(qcow2_check(im, true, true, NULL, &r), ==, 0);
	g_assert_cmpuint(r.corruptions, ==, 0);
	image_close(im);
	expect_sound(path);
	expect_content(path, model, 2 * MIB);
}

/* ---- what is refused ---- */

static void expect_refused(const char *path, const char *what)
{
	GError *err = NULL;
	struct image *im = image_open(path, &(struct image_open_options){ .format = BLK_QCOW2 }, &err);

	g_assert_null(im);
	if (!strstr(err->message, what))
		g_error("\"%s\" does not say \"%s\"", err->message, what);
	g_error_free(err);
}

static void poke(const char *path, uint64_t offset, uint64_t value, unsigned bytes)
{
	int fd = open(path, O_RDWR);
	uint8_t out[8];

	st64be(out, value << (64 - 8 * bytes));
	g_assert_cmpint(pwrite(fd, out, bytes, (off_t)offset), ==, bytes);
	close(fd);
}

static void test_refused(void)
{
	static const struct {
		uint64_t offset, value;
		unsigned bytes;
		const char *what;
	} cases[] = {
		{ 4, 4, 4, "version 4" }, { 8, 1 << 20, 8, "backing file's name" }, { 20, 8, 4, "clusters of" }, { 20, 22, 4, "clusters of" },
		{ 20, UINT32_MAX, 4, "clusters of" }, { 24, UINT64_MAX, 8, "more than guise takes" }, { 24, UINT64_C(1) << 50, 8, "L1 table" },
		{ 32, 1, 4, "encrypted" }, { 32, 2, 4, "LUKS" }, { 36, UINT32_MAX, 4, "L1 table" }, { 36, 0, 4, "L1 table" },
		{ 40, 77, 8, "cluster boundary" }, { 40, UINT64_C(1) << 63, 8, "outside of any file" }, { 40, 0, 8, "over the header" },
		{ 48, 0, 8, "over the header" }, { 56, 0, 4, "refcount table" }, { 56, UINT32_MAX, 4, "refcount table" },
		{ 60, UINT32_MAX, 4, "snapshots" }, { 60, 3, 4, "snapshot table" }, { 72, 4, 8, "external data file" },
		{ 72, 16, 8, "extended L2" }, { 72, UINT64_C(1) << 40, 8, "bit 40" }, { 72, 2, 8, "marked corrupt" }, { 96, 7, 4, "refcounts of" },
		{ 100, 50, 4, "header of" }, { 100, 1 << 30, 4, "header of" }, { 104, 9, 1, "compression type" },
		{ 116, 1 << 20, 4, "longer than the header" }, { 0, 0, 4, "no qcow2 image" },
		/* The refcount table's first entry: over the header, over the L1 table, far away. */
		{ 65536, 0x30000, 8, "refcount table is damaged" }, { 65536, UINT64_C(1) << 50, 8, "refcount table is damaged" },
	};
	g_autofree char *path = path_of("refused.qcow2");

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		make(path, &(struct qcow2_create){ .size = MIB });
		poke(path, cases[i].offset, cases[i].value, cases[i].bytes);
		expect_refused(path, cases[i].what);
	}
}

/* An image of which the first sector has been written: where its L2 table is. */
static uint64_t make_written(const char *path)
{
	const uint8_t buf[SECTOR] = { 1 };
	struct image *im;
	uint64_t l2;

	make(path, &(struct qcow2_create){ .size = MIB });
	im = open_rw(path);
	g_assert_cmpint(image_pwrite(im, 0, buf, SECTOR), ==, 0);
	g_assert_cmpint(im->ops->flush(im), ==, 0);
	l2 = qcow2_of(im)->l1.entry[0] & ENTRY_OFFSET;
	image_close(im);
	return l2;
}

/* An L2 entry that points at the L1 table must not let the guest write there. */
static void test_overlap(void)
{
	g_autofree char *path = path_of("overlap.qcow2");
	uint8_t buf[SECTOR] = { 1 };
	struct image *im;
	uint64_t l2;

	l2 = make_written(path);
	poke(path, l2, ENTRY_COPIED | 0x30000, 8);
	im = open_rw(path);
	g_assert_cmpint(image_pwrite(im, 0, buf, SECTOR), ==, -EIO);
	g_assert_cmpint(image_pwrite(im, MIB - SECTOR, buf, SECTOR), ==, -EIO);
	g_assert_cmpint(im->ops->flush(im), ==, -EIO);
	image_close(im);
	expect_refused(path, "marked corrupt");
}

/* ---- runs, which are remembered after many look-ups ---- */

static void read_around(GRand *rand, struct image *im, const uint8_t *model, uint64_t size)
{
	for (unsigned i = 0; i < 600; i++) {
		uint64_t at = (uint64_t)g_rand_int_range(rand, 0, (gint32)(size / SECTOR)) * SECTOR;
		uint8_t got[SECTOR];

		g_assert_cmpint(image_pread(im, at, got, SECTOR), ==, 0);
		g_assert_true(!memcmp(got, model + at, SECTOR));
	}
}

static void test_runs(void)
{
	const uint64_t size = 8 * MIB;
	g_autofree char *path = path_of("runs.qcow2");
	g_autofree uint8_t *model = g_malloc(size), *buf = g_malloc(size);
	g_autoptr(GRand) rand = g_rand_new_with_seed(11);
	struct image *im;

	for (uint64_t i = 0; i < size; i++)
		model[i] = (uint8_t)(i / SECTOR * 7 + i);
	make(path, &(struct qcow2_create){ .size = size, .cluster_bits = 12 });
	im = open_rw(path);
	g_assert_cmpint(image_pwrite(im, 0, model, size), ==, 0);
	for (unsigned round = 0; round < 40; round++) {
		read_around(rand, im, model, size);
		for (unsigned i = 0; i < 3; i++)
			random_operation(rand, im, model, size, buf);
		if (round % 8 == 3)
			g_assert_true(qcow2_snapshot_create(im, "s", NULL));
		read_around(rand, im, model, size);
		if (round % 8 == 6)
			g_assert_true(qcow2_snapshot_delete(im, "s", NULL));
	}
	g_assert_cmpint(image_close(im), ==, 0);
	expect_sound(path);
	expect_content(path, model, size);
}

/* Entries that look as if a run went on: before the file's first byte, and past the last one that an entry can name. */
static void test_run_ends(void)
{
	const uint64_t cluster = 64 * KIB, last = ENTRY_OFFSET & ~(cluster - 1);
	g_autofree char *path = path_of("ends.qcow2");
	uint8_t buf[SECTOR] = { 1 };
	struct image *im;
	struct map m;
	uint64_t l2;

	l2 = make_written(path);
	poke(path, l2, ENTRY_COPIED, 8);
	poke(path, l2 + 8, ENTRY_COPIED | cluster, 8);
	poke(path, l2 + 16, ENTRY_COPIED | last, 8);
	poke(path, l2 + 24, ENTRY_COPIED | (last + cluster), 8);
	im = open_with(path, (struct image_open_options){ .format = BLK_QCOW2, .readonly = true });
	for (unsigned i = 0; i < 600; i++)
		g_assert_cmpint(image_pread(im, cluster, buf, SECTOR), ==, 0);
	g_assert_cmpint(image_pread(im, 0, buf, SECTOR), ==, 0);
	for (unsigned i = 0; i < SECTOR; i++)
		g_assert_cmpint(buf[i], ==, 0);
	image_close(im);
	im = open_with(path, (struct image_open_options){ .format = BLK_QCOW2, .readonly = true });
	g_assert_cmpint(image_pread(im, 0, buf, SECTOR), ==, 0);
	for (unsigned i = 0; i < 600; i++)
		g_assert_cmpuint(place_of(im, 2 * cluster), ==, last);
	g_assert_false(im->ops->map(im, 3 * cluster, SECTOR, false, &m));
	g_assert_cmpint(image_pread(im, 3 * cluster, buf, SECTOR), ==, -EIO);
	image_close(im);
}

static void test_chain(void)
{
	g_autofree char *a = path_of("a.qcow2"), *b = path_of("b.qcow2"), *base = path_of("base.raw");
	g_autofree uint8_t *model = g_malloc0(2 * MIB);
	struct image *im;

	make_base(base, model, 2 * MIB);
	make(a, &(struct qcow2_create){ .size = 2 * MIB, .backing = "base.raw", .backing_format = "raw" });
	make(b, &(struct qcow2_create){ .size = 2 * MIB, .backing = "a.qcow2", .backing_format = "qcow2" });
	im = open_rw(a);
	memset(model + 100 * KIB, 9, KIB);
	g_assert_cmpint(image_pwrite(im, 100 * KIB, model + 100 * KIB, KIB), ==, 0);
	image_close(im);
	im = open_rw(b);
	memset(model + MIB, 8, 3 * KIB);
	g_assert_cmpint(image_pwrite(im, MIB, model + MIB, 3 * KIB), ==, 0);
	image_close(im);
	expect_content(b, model, 2 * MIB);
	/* Round in a circle. */
	make(a, &(struct qcow2_create){ .size = 2 * MIB, .backing = "b.qcow2", .backing_format = "qcow2" });
	expect_refused(b, "lead back");
	make(a, &(struct qcow2_create){ .size = 2 * MIB, .backing = "nowhere.raw", .backing_format = "raw" });
	expect_refused(a, "nowhere.raw");
	make(a, &(struct qcow2_create){ .size = 2 * MIB, .backing = "base.raw", .backing_format = "vmdk" });
	expect_refused(a, "format vmdk");
	/* A raw disk that its guest relabelled, as a backing image of no recorded format. */
	make(b, &(struct qcow2_create){ .size = 2 * MIB, .backing = "a.qcow2", .backing_format = "" });
	make(a, &(struct qcow2_create){ .size = 2 * MIB, .backing = "/etc/hostname", .backing_format = "raw" });
	poke(b, 112, 0x12345678, 4);
	expect_refused(b, "record the format");
}

int main(int argc, char **argv)
{
	g_autofree char *qemu_img = g_find_program_in_path("qemu-img"), *qemu_io = g_find_program_in_path("qemu-io");
	int status;

	g_test_init(&argc, &argv, NULL);
	/* In memory where possible: a sync of the disk costs more than all the rest. */
	dir = g_mkdtemp(g_strdup_printf("%s/guise-qcow2-XXXXXX", access("/dev/shm", W_OK) ? g_get_tmp_dir() : "/dev/shm"));
	g_assert_nonnull(dir);
	have_qemu = qemu_img && qemu_io;
	for (size_t i = 0; i < ARRAY_LEN(geometries); i++) {
		g_autofree char *random = g_strdup_printf("/qcow2/random/%s", geometries[i].name);
		g_autofree char *snapshots = g_strdup_printf("/qcow2/snapshots/%s", geometries[i].name);

		g_test_add_data_func(random, &geometries[i], test_random);
		if (!geometries[i].backing)
			g_test_add_data_func(snapshots, &geometries[i], test_snapshots);
	}
	g_test_add_func("/qcow2/threads", test_threads);
	g_test_add_func("/qcow2/layout", test_layout);
	g_test_add_func("/qcow2/resize", test_resize);
	g_test_add_data_func("/qcow2/compressed/zlib", GINT_TO_POINTER(COMPRESSION_ZLIB), test_compressed);
	g_test_add_data_func("/qcow2/compressed/zstd", GINT_TO_POINTER(COMPRESSION_ZSTD), test_compressed);
	g_test_add_func("/qcow2/repair", test_repair);
	g_test_add_func("/qcow2/refused", test_refused);
	g_test_add_func("/qcow2/overlap", test_overlap);
	g_test_add_func("/qcow2/runs", test_runs);
	g_test_add_func("/qcow2/run-ends", test_run_ends);
	g_test_add_func("/qcow2/chain", test_chain);
	status = g_test_run();
	g_autofree char *remove = g_strdup_printf("rm -r '%s'", dir);
	return g_spawn_command_line_sync(remove, NULL, NULL, NULL, NULL) ? status : 1;
}
