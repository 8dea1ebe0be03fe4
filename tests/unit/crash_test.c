/*
 * Power cuts and failing files under qcow2. A workload runs on a file that logs every change; then the file is made as a
 * cut after each of them may leave it: what was synced is there, of the rest all, nothing, or random sectors. Each of these
 * images must be sound, and each sector must hold what it held at the last flush or what was written since.
 * Then the same workloads on a file whose n-th call fails.
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "block/qcow2.h"
#include "memory_file.h"

#define DISK_BYTES (192u * 1024)
#define SECTORS (DISK_BYTES / SECTOR)
#define OPERATIONS 70u

static char *dir;

/* What one operation of the workload made of the disk. */
struct operation {
	guint log_start; /* length of the log when it began */
	guint log_end;   /* and when it had succeeded */
	bool durable;    /* a flush that succeeded: everything before is on the disk */
	uint64_t *after; /* each sector's stamp */
};

struct workload {
	const struct qcow2_create *create;
	GRand *rand;
	uint64_t stamp[SECTORS]; /* 0: zeros */
	uint64_t next_stamp;
	GArray *operations;
	unsigned failures; /* operations that said so */
};

static void fill(uint8_t *sector, uint64_t stamp)
{
	for (unsigned i = 0; i < SECTOR; i += 8)
		st64le(sector + i, stamp);
}

/* A sector's stamp, or all ones when it is torn. */
static uint64_t stamp_of(const uint8_t *sector)
{
	uint64_t stamp = ld64le(sector);

	for (unsigned i = 8; i < SECTOR; i += 8) {
		if (ld64le(sector + i) != stamp)
			return UINT64_MAX;
	}
	return stamp;
}

static struct image *open_image(struct memory_file *m, GError **error)
{
	return image_open_file(&m->file, &(struct image_open_options){ .format = BLK_QCOW2 }, 0, error);
}

static void make_image(struct workload *w, struct memory_file *m)
{
	GError *err = NULL;

	w->next_stamp = 1;
	memset(w->stamp, 0, sizeof(w->stamp));
	/* The backing file's sectors have stamps of their own. */
	for (unsigned i = 0; w->create->backing && i < SECTORS; i++)
		w->stamp[i] = (UINT64_C(1) << 40) + i;
	if (!qcow2_create(&m->file, w->create, &err))
		g_error("%s", err->message);
}

/* ---- the workload ---- */

static void pick(struct workload *w, unsigned *first, unsigned *count)
{
	*count = (unsigned)g_rand_int_range(w->rand, 1, g_rand_boolean(w->rand) ? 4 : 48);
	*first = (unsigned)g_rand_int_range(w->rand, 0, (gint32)(SECTORS - *count + 1));
}

static int do_write(struct workload *w, struct image *im)
{
	g_autofree uint8_t *buf = NULL;
	unsigned first, count;

	pick(w, &first, &count);
	buf = g_malloc((gsize)count * SECTOR);
	for (unsigned i = 0; i < count; i++) {
		w->stamp[first + i] = w->next_stamp++;
		fill(buf + (size_t)i * SECTOR, w->stamp[first + i]);
	}
	return image_pwrite(im, (uint64_t)first * SECTOR, buf, (uint64_t)count * SECTOR);
}

static int do_zero(struct workload *w, struct image *im)
{
	unsigned first, count;

	pick(w, &first, &count);
	memset(&w->stamp[first], 0, count * sizeof(uint64_t));
	return im->ops->write_zeroes(im, (uint64_t)first * SECTOR, (uint64_t)count * SECTOR, g_rand_boolean(w->rand));
}

static void look(struct workload *w, struct image *im)
{
	g_autofree uint8_t *buf = g_malloc(DISK_BYTES);

	g_assert_cmpint(image_pread(im, 0, buf, DISK_BYTES), ==, 0);
	for (unsigned i = 0; i < SECTORS; i++)
		w->stamp[i] = stamp_of(buf + (size_t)i * SECTOR);
}

static int do_discard(struct workload *w, struct image *im)
{
	unsigned first, count;
	int r;

	pick(w, &first, &count);
	r = im->ops->discard(im, (uint64_t)first * SECTOR, (uint64_t)count * SECTOR);
	/* The sectors may have changed to zeros, or not. */
	look(w, im);
	return r;
}

static int do_snapshot(struct workload *w, struct image *im)
{
	struct qcow2 *q = qcow2_of(im);
	bool ok;

	if (!q->h.snapshots || (q->h.snapshots < 3 && g_rand_boolean(w->rand))) {
		g_autofree char *name = g_strdup_printf("s%" G_GUINT64_FORMAT, w->next_stamp++);

		return qcow2_snapshot_create(im, name, NULL) ? 0 : -EIO;
	}
	if (g_rand_boolean(w->rand)) {
		ok = qcow2_snapshot_apply(im, q->snapshot[0].name, NULL);
		look(w, im);
		return ok ? 0 : -EIO;
	}
	return qcow2_snapshot_delete(im, q->snapshot[0].name, NULL) ? 0 : -EIO;
}

static void run_operation(struct workload *w, struct image *im, struct memory_file *m, bool snapshots)
{
	struct operation op = { .log_start = m->log ? m->log->len : 0 };
	unsigned kind = (unsigned)g_rand_int_range(w->rand, 0, 16);
	int r;

	if (kind < 2) {
		r = im->ops->flush(im);
		op.durable = r == 0;
	} else if (kind < 4) {
		r = do_zero(w, im);
	} else if (kind < 5) {
		r = do_discard(w, im);
	} else if (kind < 6 && snapshots) {
		r = do_snapshot(w, im);
	} else {
		r = do_write(w, im);
	}
	op.log_end = m->log ? m->log->len : 0;
	op.after = g_memdup2(w->stamp, sizeof(w->stamp));
	g_array_append_val(w->operations, op);
	/* Of an operation that failed some sectors may have changed, and others may yet. */
	if (r < 0) {
		w->failures++;
		look(w, im);
		op.after = g_memdup2(w->stamp, sizeof(w->stamp));
		g_array_append_val(w->operations, op);
	}
}

static void workload_init(struct workload *w, const struct qcow2_create *create, uint32_t seed)
{
	*w = (struct workload){ .create = create, .rand = g_rand_new_with_seed(seed) };
	w->operations = g_array_new(FALSE, FALSE, sizeof(struct operation));
}

static void workload_finish(struct workload *w)
{
	for (guint i = 0; i < w->operations->len; i++)
		g_free(g_array_index(w->operations, struct operation, i).after);
	g_array_unref(w->operations);
	g_rand_free(w->rand);
}

/* ---- judging an image ---- */

static void print_line(void *opaque, const char *line)
{
	g_printerr("# %s\n", line);
}

/* Whether sector i may hold the stamp: it did at the last flush, or an operation that began since put it there. */
static bool allowed(const struct workload *w, guint flushed, guint begun, const uint64_t *initial, unsigned i, uint64_t stamp)
{
	const uint64_t *before = flushed ? g_array_index(w->operations, struct operation, flushed - 1).after : initial;

	if (before[i] == stamp)
		return true;
	for (guint o = flushed; o < begun; o++) {
		if (g_array_index(w->operations, struct operation, o).after[i] == stamp)
			return true;
	}
	return false;
}

/* Operations before `flushed` are promised, those before `begun` may have left traces. Takes the file. */
static void judge(const struct workload *w, struct memory_file *m, guint flushed, guint begun, const uint64_t *initial, const char *what)
{
	g_autofree uint8_t *buf = g_malloc(DISK_BYTES);
	struct qcow2_check_result result;
	GError *err = NULL;
	struct image *im = open_image(m, &err);

	if (!im)
		g_error("%s: %s", what, err->message);
	if (qcow2_check(im, false, false, NULL, &result) < 0 || result.corruptions) {
		qcow2_check(im, false, false, &(struct qcow2_check_listener){ .report = print_line }, &result);
		g_error("%s: %" G_GUINT64_FORMAT " corruptions", what, result.corruptions);
	}
	g_assert_cmpint(image_pread(im, 0, buf, DISK_BYTES), ==, 0);
	for (unsigned i = 0; i < SECTORS; i++) {
		uint64_t stamp = stamp_of(buf + (size_t)i * SECTOR);

		if (!allowed(w, flushed, begun, initial, i, stamp))
			g_error("%s: sector %u holds %" G_GUINT64_FORMAT, what, i, stamp);
	}
	/* It goes on working: leaks can be repaired, and then nothing is left to say. */
	g_assert_cmpint(image_close(im), ==, 0);
}

/* ---- cuts ---- */

struct cutter {
	GRand *rand;
	enum { KEEP_ALL, KEEP_NONE, KEEP_SOME, KEEP_MODES } mode;
	unsigned whole; /* of the change at hand: 0 none, 1 all, 2 some sectors */
};

static bool keep(void *opaque)
{
	struct cutter *c = opaque;

	return c->whole == 2 ? g_rand_boolean(c->rand) : c->whole;
}

/* The file after a cut behind `cut` changes, of which the first `synced` are in `stable`. */
static struct memory_file *cut_file(const struct memory_file *stable, const GArray *log, guint synced, guint cut, struct cutter *c)
{
	struct memory_file *m = memory_file_new(stable->file.path, stable->bytes, stable->size);

	for (guint i = synced; i < cut && c->mode != KEEP_NONE; i++) {
		c->whole = c->mode == KEEP_ALL ? 1 : (unsigned)g_rand_int_range(c->rand, 0, 3);
		memory_file_apply(m, &g_array_index(log, struct change, i), keep, c);
	}
	return m;
}

static void cut_everywhere(const struct workload *w, struct memory_file *stable, const GArray *log, const uint64_t *initial,
			   uint32_t seed, unsigned *images)
{
	struct cutter c = { .rand = g_rand_new_with_seed(seed) };
	guint synced = 0, flushed = 0, begun = 0;

	for (guint cut = 0; cut <= log->len; cut++) {
		const struct change *last = cut ? &g_array_index(log, struct change, cut - 1) : NULL;

		/* After a sync all before it is stable. */
		if (last && last->kind == CHANGE_SYNC) {
			for (; synced < cut; synced++)
				memory_file_apply(stable, &g_array_index(log, struct change, synced), NULL, NULL);
		}
		while (begun < w->operations->len && g_array_index(w->operations, struct operation, begun).log_start < cut)
			begun++;
		for (guint o = flushed; o < begun; o++) {
			const struct operation *op = &g_array_index(w->operations, struct operation, o);

			if (op->durable && op->log_end <= cut)
				flushed = o + 1;
		}
		for (c.mode = KEEP_ALL; c.mode < KEEP_MODES; c.mode++) {
			g_autofree char *what = g_strdup_printf("seed %u, cut after change %u of %u, mode %d", seed, cut, log->len, c.mode);

			/* With nothing in between the three are one. */
			if (cut == synced && c.mode != KEEP_ALL)
				continue;
			judge(w, cut_file(stable, log, synced, cut, &c), flushed, begun, initial, what);
			(*images)++;
		}
	}
	g_rand_free(c.rand);
}

static const struct setting {
	const char *name;
	struct qcow2_create create;
	bool snapshots;
} settings[] = {
	{ "small-clusters", { .size = DISK_BYTES, .cluster_bits = 9 } },
	{ "4k-clusters", { .size = DISK_BYTES, .cluster_bits = 12 } },
	{ "64k-clusters", { .size = DISK_BYTES } },
	{ "v2", { .size = DISK_BYTES, .cluster_bits = 10, .version2 = true } },
	{ "backing", { .size = DISK_BYTES, .cluster_bits = 11, .backing = "base.raw", .backing_format = "raw" } },
	{ "v2-backing", { .size = DISK_BYTES, .cluster_bits = 11, .version2 = true, .backing = "base.raw", .backing_format = "raw" } },
	{ "refcount-1", { .size = DISK_BYTES, .cluster_bits = 9, .refcount_bits = 1 } },
	{ "refcount-64", { .size = DISK_BYTES, .cluster_bits = 9, .refcount_bits = 64 } },
	{ "lazy", { .size = DISK_BYTES, .cluster_bits = 10, .lazy = true } },
	{ "snapshots", { .size = DISK_BYTES, .cluster_bits = 11 }, true },
	{ "snapshots-lazy", { .size = DISK_BYTES, .cluster_bits = 11, .lazy = true }, true },
};

static unsigned long seeds = 3;

static void test_cuts(gconstpointer data)
{
	const struct setting *s = data;
	g_autofree char *path = g_build_filename(dir, "image.qcow2", NULL);
	unsigned images = 0;

	for (uint32_t seed = 1; seed <= seeds; seed++) {
		struct memory_file *m = memory_file_new(path, NULL, 0), *stable;
		struct workload w;
		uint64_t initial[SECTORS];
		struct image *im;
		GArray *log;

		workload_init(&w, &s->create, seed * 1000 + g_str_hash(s->name));
		make_image(&w, m);
		memcpy(initial, w.stamp, sizeof(initial));
		stable = memory_file_new(path, m->bytes, m->size);
		memory_file_log(m);
		im = open_image(m, NULL);
		for (unsigned i = 0; i < OPERATIONS; i++)
			run_operation(&w, im, m, s->snapshots);
		g_assert_cmpuint(w.failures, ==, 0);
		log = memory_file_take_log(m);
		image_close(im);
		cut_everywhere(&w, stable, log, initial, seed, &images);
		change_log_free(log);
		file_close(&stable->file);
		workload_finish(&w);
	}
	g_test_message("%u images, 0 corrupt, 0 flushed writes lost", images);
}

/* ---- failing calls ---- */

/* One workload with the n-th call failing; false when it has fewer calls. */
static bool run_failing(const struct setting *s, const char *path, unsigned n, int error, bool fail_on)
{
	struct memory_file *m = memory_file_new(path, NULL, 0), *after;
	g_autofree char *what = g_strdup_printf("call %u fails (%s%s)", n, g_strerror(-error), fail_on ? ", and all after it" : "");
	uint64_t initial[SECTORS];
	struct workload w;
	guint flushed = 0;
	struct image *im;
	bool reached;

	workload_init(&w, &s->create, 42);
	make_image(&w, m);
	memcpy(initial, w.stamp, sizeof(initial));
	im = open_image(m, NULL);
	m->calls = 0;
	m->fail_at = n;
	m->fail_on = fail_on;
	m->error = error;
	for (unsigned i = 0; i < OPERATIONS; i++) {
		run_operation(&w, im, m, s->snapshots);
		if (g_array_index(w.operations, struct operation, w.operations->len - 1).durable)
			flushed = w.operations->len;
	}
	reached = m->calls >= n;
	/* Killed here: the next start finds what the host has. */
	after = memory_file_new(path, m->bytes, m->size);
	m->fail_at = 0;
	judge(&w, after, flushed, w.operations->len, initial, what);
	image_close(im);
	workload_finish(&w);
	return reached;
}

static void test_failures(gconstpointer data)
{
	const struct setting *s = data;
	g_autofree char *path = g_build_filename(dir, "image.qcow2", NULL);
	unsigned n = 1;

	while (run_failing(s, path, n, -EIO, false) && run_failing(s, path, n, -ENOSPC, true))
		n++;
	g_assert_cmpuint(n, >, 30);
	g_test_message("each of %u calls failed, once and for good", n - 1);
}

int main(int argc, char **argv)
{
	g_autofree char *base = NULL, *bytes = g_malloc(DISK_BYTES), *remove = NULL;
	int status;

	g_test_init(&argc, &argv, NULL);
	/* More seeds for a long run: crash_test 50. */
	if (argc > 1)
		seeds = strtoul(argv[1], NULL, 10);
	dir = g_mkdtemp(g_strdup_printf("%s/guise-crash-XXXXXX", access("/dev/shm", W_OK) ? g_get_tmp_dir() : "/dev/shm"));
	g_assert_nonnull(dir);
	base = g_build_filename(dir, "base.raw", NULL);
	for (unsigned i = 0; i < SECTORS; i++)
		fill((uint8_t *)bytes + (size_t)i * SECTOR, (UINT64_C(1) << 40) + i);
	g_assert_true(g_file_set_contents(base, bytes, DISK_BYTES, NULL));
	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		g_autofree char *cuts = g_strdup_printf("/crash/cuts/%s", settings[i].name);
		g_autofree char *failures = g_strdup_printf("/crash/failures/%s", settings[i].name);

		g_test_add_data_func(cuts, &settings[i], test_cuts);
		g_test_add_data_func(failures, &settings[i], test_failures);
	}
	status = g_test_run();
	remove = g_strdup_printf("rm -r '%s'", dir);
	return g_spawn_command_line_sync(remove, NULL, NULL, NULL, NULL) ? status : 1;
}
