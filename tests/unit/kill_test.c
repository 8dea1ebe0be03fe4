/*
 * A process that writes a qcow2 image is killed (SIGKILL) at a random moment, as the out-of-memory killer does it: what was
 * flushed is there, every sector holds what was written last or before, and the image is sound. And metadata that waits for
 * a flush stays bounded when none comes.
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define SECTORS 4096u
#define ROUNDS 12
#define FLUSH_EVERY 16
#define WRITES 3000u

static char *dir;

static char *make_image(uint64_t size, unsigned cluster_bits)
{
	char *path = g_build_filename(dir, "killed.qcow2", NULL);
	const struct qcow2_create c = { .size = size, .cluster_bits = cluster_bits, .refcount_bits = 16 };
	GError *err = NULL;
	struct file *f = file_create_host(path, true, &err);

	g_assert_no_error(err);
	g_assert_true(qcow2_create(f, &c, &err));
	file_close(f);
	return path;
}

static struct image *open_image(const char *path, bool readonly)
{
	const struct image_open_options opt = { .format = BLK_QCOW2, .readonly = readonly };
	GError *err = NULL;
	struct image *im = image_open(path, &opt, &err);

	if (!im)
		g_error("%s", err->message);
	return im;
}

/* The n-th write, from 1 on, goes here: parent and child agree. */
static uint32_t sector_of(uint64_t n)
{
	return (uint32_t)(n * 2654435761u % SECTORS);
}

static void fill(uint8_t *sector, uint64_t n)
{
	for (unsigned i = 0; i < SECTOR; i += 8)
		st64le(sector + i, n);
}

/* Writes until it is killed; says after each flush how many writes it covers. */
static void G_GNUC_NORETURN write_forever(const char *path, int fd)
{
	struct image *im = open_image(path, false);
	uint8_t sector[SECTOR];

	for (uint64_t n = 1;; n++) {
		fill(sector, n);
		if (image_pwrite(im, (uint64_t)sector_of(n) * SECTOR, sector, SECTOR))
			_exit(1);
		if (n % FLUSH_EVERY)
			continue;
		if (im->ops->flush(im) || write(fd, &n, sizeof(n)) != sizeof(n))
			_exit(1);
	}
}

/* A write is there in full, and it is none older than the last one that was flushed. */
static void check_sectors(struct image *im, uint64_t flushed)
{
	g_autofree uint64_t *least = g_new0(uint64_t, SECTORS);
	uint8_t sector[SECTOR], expected[SECTOR];

	for (uint64_t n = 1; n <= flushed; n++)
		least[sector_of(n)] = n;
	for (uint32_t i = 0; i < SECTORS; i++) {
		uint64_t n;

		g_assert_cmpint(image_pread(im, (uint64_t)i * SECTOR, sector, SECTOR), ==, 0);
		n = ld64le(sector);
		fill(expected, n);
		g_assert_cmpmem(sector, SECTOR, expected, SECTOR);
		g_assert_cmpuint(n, >=, least[i]);
		g_assert_true(!n || sector_of(n) == i);
	}
}

static void print_line(void *opaque, const char *line)
{
	g_printerr("# %s\n", line);
}

static uint64_t one_round(unsigned wait_us)
{
	g_autofree char *path = make_image((uint64_t)SECTORS * SECTOR, 12);
	struct qcow2_check_result result;
	uint64_t flushed = 0, n;
	struct image *im;
	int fds[2], status;
	pid_t child;

	g_assert_cmpint(pipe(fds), ==, 0);
	child = fork();
	if (child == 0)
		write_forever(path, fds[1]);
	close(fds[1]);
	/* The moment counts from its first flush. */
	g_assert_cmpint(read(fds[0], &flushed, sizeof(flushed)), ==, sizeof(flushed));
	g_usleep(wait_us);
	kill(child, SIGKILL);
	g_assert_cmpint(waitpid(child, &status, 0), ==, child);
	g_assert_true(WIFSIGNALED(status));
	while (read(fds[0], &n, sizeof(n)) == sizeof(n))
		flushed = n;
	close(fds[0]);
	im = open_image(path, true);
	g_assert_cmpint(qcow2_check(im, false, false, &(struct qcow2_check_listener){ .report = print_line }, &result), ==, 0);
	g_assert_cmpuint(result.corruptions, ==, 0);
	check_sectors(im, flushed);
	image_close(im);
	return flushed;
}

static void test_kill(void)
{
	g_autoptr(GRand) rand = g_rand_new();
	uint64_t flushed = 0;

	for (unsigned i = 0; i < ROUNDS; i++)
		flushed += one_round((unsigned)g_rand_int_range(rand, 0, 60000));
	g_test_message("%" G_GUINT64_FORMAT " writes were flushed before %d kills", flushed, ROUNDS);
	g_assert_cmpuint(flushed, >, ROUNDS * FLUSH_EVERY);
}

/* Each write needs an L2 table of its own, and none is followed by a flush. */
static void test_bounded(void)
{
	const uint64_t step = UINT64_C(16384) / 8 * 16384;
	g_autofree char *path = make_image(step * WRITES, 14);
	struct image *im = open_image(path, false);
	const struct qcow2 *q = im->state;
	uint8_t sector[SECTOR] = { 1 };
	unsigned most = 0;

	for (unsigned i = 0; i < WRITES; i++) {
		g_assert_cmpint(image_pwrite(im, i * step, sector, SECTOR), ==, 0);
		most = MAX(most, q->l2.dirty + q->blocks.dirty);
		g_assert_cmpuint(g_hash_table_size(q->l2.tables), <=, q->l2.limit);
		g_assert_cmpuint(g_hash_table_size(q->blocks.tables), <=, q->blocks.limit);
	}
	g_test_message("at most %u of %u tables waited", most, q->l2.limit + q->blocks.limit);
	g_assert_cmpuint(q->l2.limit, <, WRITES);
	g_assert_cmpuint(most, <=, q->l2.limit / 2 + q->blocks.limit);
	g_assert_cmpint(image_close(im), ==, 0);
}

int main(int argc, char **argv)
{
	int status;

	g_test_init(&argc, &argv, NULL);
	dir = g_mkdtemp(g_strdup_printf("%s/guise-kill-XXXXXX", access("/dev/shm", W_OK) ? g_get_tmp_dir() : "/dev/shm"));
	g_assert_nonnull(dir);
	g_test_add_func("/qcow2/kill", test_kill);
	g_test_add_func("/qcow2/bounded", test_bounded);
	status = g_test_run();
	g_autofree char *remove = g_strdup_printf("rm -r '%s'", dir);
	return g_spawn_command_line_sync(remove, NULL, NULL, NULL, NULL) ? status : 1;
}
