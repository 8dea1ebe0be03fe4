/* Raw images through the asynchronous front: errors, requests, locks, snapshot mode, by io_uring and by threads. */
#include "block/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/request.h"
#include "memory_file.h"

#define MIB (1u << 20)

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned done;
	int result;
	pthread_t submitter;
	bool inside; /* `done` ran within the submit call */
};

static char *dir;

static char *path_of(const char *name)
{
	return g_build_filename(dir, name, NULL);
}

static char *make_file(const char *name, size_t size, int fill)
{
	g_autofree char *bytes = g_malloc(size + 1);
	char *path = path_of(name);

	memset(bytes, fill, size);
	g_unlink(path);
	g_assert_true(g_file_set_contents(path, bytes, (gssize)size, NULL));
	return path;
}

static void on_done(void *opaque, int result)
{
	struct waiter *w = opaque;

	w->inside |= pthread_equal(pthread_self(), w->submitter);
	/* The lock is held: a second attempt must fail. */
	g_assert_cmpint(pthread_mutex_trylock(&w->lock), ==, EBUSY);
	w->done++;
	if (result)
		w->result = result;
	pthread_cond_signal(&w->cond);
}

static void waiter_init(struct waiter *w)
{
	memset(w, 0, sizeof(*w));
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	w->submitter = pthread_self();
}

/* Waits for `count` completions; returns the error among them and starts anew. */
static int await(struct waiter *w, unsigned count)
{
	int result;

	while (w->done < count)
		pthread_cond_wait(&w->cond, &w->lock);
	g_assert_cmpuint(w->done, ==, count);
	g_assert_false(w->inside);
	result = w->result;
	w->done = 0;
	w->result = 0;
	return result;
}

static void expect_refused(const char *path, bool readonly, const char *what)
{
	const struct blk_options opt = { .format = BLK_RAW, .readonly = readonly };
	GError *err = NULL;

	g_assert_null(blk_open(path, &opt, NULL, &err));
	g_assert_nonnull(err);
	g_assert_nonnull(strstr(err->message, path));
	if (!strstr(err->message, what))
		g_error("\"%s\" does not say \"%s\"", err->message, what);
	g_error_free(err);
}

static void test_open_errors(void)
{
	g_autofree char *missing = path_of("missing"), *empty = make_file("empty", 0, 0), *file = make_file("some", 512, 1);
	g_autofree char *fifo = path_of("fifo");

	expect_refused(missing, false, "guise image create");
	expect_refused(empty, true, "is empty");
	expect_refused(dir, true, "is a directory");
	expect_refused(dir, false, "is a directory");
	g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
	expect_refused(fifo, true, "neither a file nor a block device");
	expect_refused("/dev/null", true, "neither a file nor a block device");
	if (geteuid()) {
		g_chmod(file, 0);
		expect_refused(file, true, "you may not read it");
		g_chmod(file, 0400);
		expect_refused(file, false, ",readonly");
	}
}

static void test_lock(void)
{
	g_autofree char *path = make_file("locked", 4096, 1);
	const struct blk_options ro = { .format = BLK_RAW, .readonly = true }, rw = { .format = BLK_RAW };
	const struct blk_options snapshot = { .format = BLK_RAW, .snapshot = true };
	struct blk *a = blk_open(path, &ro, NULL, NULL), *b = blk_open(path, &ro, NULL, NULL);
	struct blk *c = blk_open(path, &snapshot, NULL, NULL);

	g_assert_nonnull(a);
	g_assert_nonnull(b);
	g_assert_nonnull(c);
	expect_refused(path, false, "is in use");
	blk_close(a);
	blk_close(b);
	blk_close(c);
	a = blk_open(path, &rw, NULL, NULL);
	g_assert_nonnull(a);
	expect_refused(path, true, "is in use");
	expect_refused(path, false, "is in use");
	blk_close(a);
	b = blk_open(path, &ro, NULL, NULL);
	g_assert_nonnull(b);
	blk_close(b);
}

static void test_requests(gconstpointer threads)
{
	const struct blk_options opt = { .format = BLK_RAW, .threads = GPOINTER_TO_INT(threads) };
	g_autofree char *path = make_file("requests", 4 * MIB, 0x11), *in = g_malloc(MIB), *out = g_malloc(MIB);
	struct iovec halves[2] = { { in, 512 }, { in + 512, MIB - 512 } }, whole = { out, MIB };
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	g_assert_nonnull(b);
	g_assert_cmpuint(blk_size(b), ==, 4 * MIB);
	for (size_t i = 0; i < MIB; i++)
		in[i] = (char)(i * 7 + i / 512);
	pthread_mutex_lock(&w.lock);
	blk_writev(b, 8, halves, 2, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	blk_flush(b, on_done, &w);
	blk_readv(b, 8, &whole, 1, on_done, &w);
	g_assert_cmpint(await(&w, 2), ==, 0);
	g_assert_cmpmem(in, MIB, out, MIB);
	/* Outside, unaligned, wrapping. */
	blk_readv(b, 8192, &(struct iovec){ out, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	blk_readv(b, 8191, &(struct iovec){ out, 1024 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	blk_writev(b, UINT64_MAX / 512, &(struct iovec){ out, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	blk_writev(b, 0, &(struct iovec){ out, 100 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	blk_discard(b, 0, UINT64_MAX, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	/* Discard and zeros. */
	blk_discard(b, 8, 16, on_done, &w);
	blk_write_zeroes(b, 64, 3, false, on_done, &w);
	blk_write_zeroes(b, 128, 64, true, on_done, &w);
	blk_writev_fua(b, 0, &(struct iovec){ in, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 4), ==, 0);
	blk_readv(b, 0, &whole, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	g_assert_cmpmem(out, 512, in, 512);
	g_assert_cmpint(out[512], ==, 0x11);
	for (unsigned i = 0; i < 512 * 3; i++)
		g_assert_cmpint(out[64 * 512 + i], ==, 0);
	g_assert_cmpmem(out + 67 * 512, 61 * 512, in + 59 * 512, 61 * 512);
	g_assert_cmpint(out[128 * 512], ==, 0);
	g_assert_cmpint(out[192 * 512 - 1], ==, 0);
	g_assert_cmpmem(out + 192 * 512, 512, in + 184 * 512, 512);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
}

static void test_many(gconstpointer threads)
{
	const struct blk_options opt = { .format = BLK_RAW, .threads = GPOINTER_TO_INT(threads) };
	g_autofree char *path = make_file("many", 4 * MIB, 0), *in = g_malloc(4 * MIB), *out = g_malloc(4 * MIB);
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	for (size_t i = 0; i < 4 * MIB; i++)
		in[i] = (char)(i / 512 * 31 + i);
	pthread_mutex_lock(&w.lock);
	for (unsigned i = 0; i < 1024; i++)
		blk_writev(b, i * 8, &(struct iovec){ in + i * 4096, 4096 }, 1, on_done, &w);
	/* A drain returns only after all completions. */
	blk_drain(b);
	g_assert_cmpuint(w.done, ==, 1024);
	g_assert_cmpint(await(&w, 1024), ==, 0);
	for (unsigned i = 0; i < 1024; i++)
		blk_readv(b, i * 8, &(struct iovec){ out + i * 4096, 4096 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1024), ==, 0);
	g_assert_cmpmem(in, 4 * MIB, out, 4 * MIB);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
}

static void test_tail_and_truncation(gconstpointer threads)
{
	const struct blk_options opt = { .format = BLK_RAW, .threads = GPOINTER_TO_INT(threads) };
	g_autofree char *path = make_file("tail", 8192 + 100, 0x22);
	char buf[1024];
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	g_assert_cmpuint(blk_size(b), ==, 8192 + 512);
	pthread_mutex_lock(&w.lock);
	blk_readv(b, 15, &(struct iovec){ buf, 1024 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	g_assert_cmpint(buf[512 + 99], ==, 0x22);
	g_assert_cmpint(buf[512 + 100], ==, 0);
	g_assert_cmpint(buf[1023], ==, 0);
	g_assert_cmpint(truncate(path, 1000), ==, 0);
	blk_readv(b, 8, &(struct iovec){ buf, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EIO);
	pthread_mutex_unlock(&w.lock);
	g_assert_cmpint(blk_pread(b, 3, buf, 10), ==, 0);
	g_assert_cmpint(buf[9], ==, 0x22);
	blk_close(b);
}

static void test_readonly(void)
{
	const struct blk_options opt = { .format = BLK_RAW, .readonly = true };
	g_autofree char *path = make_file("ro", 4096, 1);
	char buf[512] = { 0 };
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	g_assert_true(blk_readonly(b));
	pthread_mutex_lock(&w.lock);
	blk_writev(b, 0, &(struct iovec){ buf, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EROFS);
	blk_discard(b, 0, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EROFS);
	blk_flush(b, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
}

/* Random writes, zeros and reads in snapshot mode against a copy in memory; the image stays as it was. */
static void test_snapshot(gconstpointer threads)
{
	const struct blk_options opt = { .format = BLK_RAW, .snapshot = true, .threads = GPOINTER_TO_INT(threads) };
	const size_t size = 2 * MIB + 512 * 3;
	g_autofree char *path = make_file("snap", size, 0x33), *model = g_malloc(size), *buf = g_malloc(size), *kept = NULL;
	g_autoptr(GRand) rand = g_rand_new_with_seed(1);
	struct waiter w;
	struct blk *b;
	gsize len;

	waiter_init(&w);
	memset(model, 0x33, size);
	b = blk_open(path, &opt, &w.lock, NULL);
	g_assert_false(blk_readonly(b));
	g_assert_cmpstr(blk_format_name(b), ==, "raw");
	pthread_mutex_lock(&w.lock);
	for (unsigned i = 0; i < 600; i++) {
		uint64_t count = (uint64_t)g_rand_int_range(rand, 1, 40);
		uint64_t sector = (uint64_t)g_rand_int_range(rand, 0, (gint32)(size / 512 - count + 1));

		if (i % 5 == 4) {
			memset(model + sector * 512, 0, count * 512);
			blk_write_zeroes(b, sector, count, true, on_done, &w);
		} else if (i % 5 == 3) {
			blk_readv(b, sector, &(struct iovec){ buf, count * 512 }, 1, on_done, &w);
		} else {
			memset(buf, (int)i, count * 512);
			memcpy(model + sector * 512, buf, count * 512);
			blk_writev(b, sector, &(struct iovec){ buf, count * 512 }, 1, on_done, &w);
		}
		g_assert_cmpint(await(&w, 1), ==, 0);
		if (i % 5 == 3)
			g_assert_cmpmem(buf, count * 512, model + sector * 512, count * 512);
	}
	blk_readv(b, 0, &(struct iovec){ buf, size }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	g_assert_cmpmem(buf, size, model, size);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
	g_assert_true(g_file_get_contents(path, &kept, &len, NULL));
	g_assert_cmpuint(len, ==, size);
	for (size_t i = 0; i < size; i++)
		g_assert_cmpint(kept[i], ==, 0x33);
}

/* A guest that writes a qcow2 header into a disk of unnamed format must not turn it into one. */
static void test_relabel(gconstpointer threads)
{
	struct blk_options opt = { .format = BLK_AUTO, .threads = GPOINTER_TO_INT(threads) };
	g_autofree char *path = make_file("relabel", 8192, 0);
	char head[4096] = "QFI\xfb";
	struct waiter w;
	struct blk *b;
	GError *err = NULL;
	bool recorded;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	g_assert_cmpstr(blk_format_name(b), ==, "raw");
	pthread_mutex_lock(&w.lock);
	blk_writev(b, 0, &(struct iovec){ head, 4096 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EPERM);
	blk_writev(b, 1, &(struct iovec){ head, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
	/* With the format named the guest may write what it wants, but nobody follows it afterwards. */
	opt.format = BLK_RAW;
	b = blk_open(path, &opt, &w.lock, NULL);
	recorded = format_recorded(b->image->file) == BLK_RAW;
	pthread_mutex_lock(&w.lock);
	blk_writev(b, 0, &(struct iovec){ head, 4096 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
	opt.format = BLK_AUTO;
	if (!recorded) {
		g_test_message("no extended attributes in %s", dir);
		return;
	}
	g_assert_null(blk_open(path, &opt, &w.lock, &err));
	g_assert_nonnull(strstr(err->message, "format=raw"));
	g_error_free(err);
}

static void on_failure(void *opaque, const struct blk_failure *f)
{
	struct blk_failure *last = opaque;

	*last = *f;
}

/* A disk in memory, as raw image under the asynchronous front. */
static struct blk *open_in_memory(const struct blk_options *opt, struct waiter *w, struct memory_file **m)
{
	g_autofree char *path = make_file("in-memory", 64 * 1024, 0x44), *bytes = g_malloc0(64 * 1024);
	struct blk *b = blk_open(path, opt, &w->lock, NULL);

	*m = memory_file_new(path, bytes, 64 * 1024);
	file_close(b->image->file);
	b->image->file = &(*m)->file;
	return b;
}

static void write_sector(struct blk *b, struct waiter *w, uint64_t sector, int fill)
{
	static char buf[512];

	memset(buf, fill, sizeof(buf));
	blk_writev(b, sector, &(struct iovec){ buf, 512 }, 1, on_done, w);
}

static void wait_failure(struct waiter *w, struct blk_failure *f)
{
	while (!f->error) {
		pthread_mutex_unlock(&w->lock);
		g_usleep(1000);
		pthread_mutex_lock(&w->lock);
	}
}

/* A write without room waits and is tried anew, any other failure is told; a drain ends what waits. */
static void test_error_policy(gconstpointer threads)
{
	const struct blk_options opt = { .format = BLK_RAW, .threads = GPOINTER_TO_INT(threads) };
	struct blk_failure f = { 0 };
	struct blk_error_policy policy = { .failed = on_failure, .opaque = &f };
	struct memory_file *m;
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = open_in_memory(&opt, &w, &m);
	pthread_mutex_lock(&w.lock);
	m->fail_at = m->calls + 1;
	m->fail_on = true;
	m->error = -ENOSPC;
	/* Without a policy the device is told. */
	write_sector(b, &w, 1, 1);
	g_assert_cmpint(await(&w, 1), ==, -ENOSPC);
	blk_set_error_policy(b, &policy);
	write_sector(b, &w, 2, 2);
	wait_failure(&w, &f);
	g_assert_true(f.write && f.waits);
	g_assert_cmpint(f.error, ==, ENOSPC);
	g_assert_cmpuint(w.done, ==, 0);
	g_assert_cmpint(blk_resize(b, 128 * 1024), ==, -EBUSY);
	/* Still no room. */
	f.error = 0;
	blk_retry(b);
	wait_failure(&w, &f);
	g_assert_true(f.waits);
	g_assert_cmpuint(w.done, ==, 0);
	m->fail_at = 0;
	blk_retry(b);
	g_assert_cmpint(await(&w, 1), ==, 0);
	g_assert_cmpint(m->bytes[2 * 512], ==, 2);
	/* Another error is told, unless the policy says other. */
	m->fail_at = m->calls + 1;
	m->error = -EIO;
	write_sector(b, &w, 3, 3);
	g_assert_cmpint(await(&w, 1), ==, -EIO);
	g_assert_true(f.error == EIO && !f.waits);
	policy.write = BLK_ERROR_STOP;
	blk_set_error_policy(b, &policy);
	f.error = 0;
	write_sector(b, &w, 4, 4);
	wait_failure(&w, &f);
	g_assert_true(f.waits);
	blk_drain(b);
	g_assert_cmpint(await(&w, 1), ==, -EIO);
	g_assert_false(f.waits);
	/* What the request itself is to blame for never waits. */
	blk_readv(b, 1 << 20, &(struct iovec){ &f, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	/* Closing gives it a last try. */
	f.error = 0;
	write_sector(b, &w, 5, 5);
	wait_failure(&w, &f);
	m->fail_at = 0;
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
	g_assert_cmpuint(w.done, ==, 1);
	g_assert_cmpint(w.result, ==, 0);
}

static void test_resize(gconstpointer threads)
{
	struct blk_options opt = { .format = BLK_RAW, .threads = GPOINTER_TO_INT(threads) };
	g_autofree char *path = make_file("grows", 64 * 1024, 0x55);
	char buf[512];
	struct waiter w;
	struct blk *b;

	waiter_init(&w);
	b = blk_open(path, &opt, &w.lock, NULL);
	pthread_mutex_lock(&w.lock);
	g_assert_cmpint(blk_resize(b, 32 * 1024), ==, -EINVAL);
	g_assert_cmpint(blk_resize(b, 64 * 1024 + 1), ==, -EINVAL);
	g_assert_cmpint(blk_resize(b, 128 * 1024), ==, 0);
	g_assert_cmpuint(blk_size(b), ==, 128 * 1024);
	write_sector(b, &w, 255, 7);
	g_assert_cmpint(await(&w, 1), ==, 0);
	blk_readv(b, 254, &(struct iovec){ buf, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, 0);
	g_assert_cmpint(buf[511], ==, 0);
	blk_readv(b, 256, &(struct iovec){ buf, 512 }, 1, on_done, &w);
	g_assert_cmpint(await(&w, 1), ==, -EINVAL);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
	opt.snapshot = true;
	b = blk_open(path, &opt, &w.lock, NULL);
	pthread_mutex_lock(&w.lock);
	g_assert_cmpint(blk_resize(b, 256 * 1024), ==, -EOPNOTSUPP);
	pthread_mutex_unlock(&w.lock);
	blk_close(b);
}

int main(int argc, char **argv)
{
	int status;

	g_test_init(&argc, &argv, NULL);
	/* In memory where possible: a sync of the disk costs more than all the rest. */
	dir = g_mkdtemp(g_strdup_printf("%s/guise-blk-XXXXXX", access("/dev/shm", W_OK) ? g_get_tmp_dir() : "/dev/shm"));
	g_assert_nonnull(dir);
	g_test_add_func("/blk/open-errors", test_open_errors);
	g_test_add_func("/blk/lock", test_lock);
	g_test_add_func("/blk/readonly", test_readonly);
	for (int threads = 0; threads < 2; threads++) {
		const struct {
			const char *name;
			GTestDataFunc run;
		} tests[] = {
			{ "requests", test_requests }, { "many", test_many }, { "tail", test_tail_and_truncation },
			{ "snapshot", test_snapshot }, { "relabel", test_relabel },
			{ "error-policy", test_error_policy }, { "resize", test_resize },
		};

		for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
			g_autofree char *name = g_strdup_printf("/blk/%s/%s", threads ? "threads" : "ring", tests[i].name);

			g_test_add_data_func(name, GINT_TO_POINTER(threads), tests[i].run);
		}
	}
	status = g_test_run();
	g_autofree char *remove = g_strdup_printf("rm -r '%s'", dir);
	return g_spawn_command_line_sync(remove, NULL, NULL, NULL, NULL) ? status : 1;
}
