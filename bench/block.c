/*
 * The block layer alone against the host's file: sequential and random, reads and writes, one and 32 requests at a time,
 * raw and qcow2. "host" is io_uring on the file by itself, the same pattern with the same depth. Runs alternate, the
 * median of each counts. With BENCH_CLOCK=cpu seconds are those of processor time that the process took, which is what
 * counts on a host that does other work as well (data comes from the page cache). usage: bench_block [DIRECTORY [SECONDS [PATTERN]]]
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block/qcow2.h"

#define FILE_BYTES (UINT64_C(512) << 20)
#define MAX_DEPTH 32u
#define MAX_REQUEST (1u << 20)
#define ROUNDS 6

struct pattern {
	const char *name;
	uint32_t size;
	bool random, write;
};

static const struct pattern patterns[] = {
	{ "sequential read 1M", MAX_REQUEST, false, false },
	{ "sequential write 1M", MAX_REQUEST, false, true },
	{ "random read 4K", 4096, true, false },
	{ "random write 4K", 4096, true, true },
};

/* One run: where requests go next, until when, and how many are done. */
struct bench_run {
	const struct pattern *pattern;
	unsigned depth;
	uint64_t next, random, done;
	gint64 start, end, took; /* µs; opening and closing do not count */
	char *buffers;
	/* The block layer's runs only. */
	struct blk *blk;
	pthread_mutex_t lock;
	pthread_cond_t finished;
	unsigned in_flight;
};

struct slot {
	struct bench_run *run;
	struct iovec iov;
};

static uint64_t next_offset(struct bench_run *r)
{
	const uint64_t slots = FILE_BYTES / r->pattern->size;

	if (!r->pattern->random)
		return r->next++ % slots * r->pattern->size;
	r->random = r->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (r->random >> 33) % slots * r->pattern->size;
}

static void die(const char *what, int error)
{
	fprintf(stderr, "bench_block: %s: %s\n", what, strerror(error));
	exit(1);
}

static bool by_cpu;

static gint64 now_by_clock(void)
{
	struct timespec t;

	if (!by_cpu)
		return g_get_monotonic_time();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * G_USEC_PER_SEC + t.tv_nsec / 1000;
}

static void begin(struct bench_run *r)
{
	r->end += g_get_monotonic_time();
	r->start = now_by_clock();
}

/* Dirty pages of the run before would be written during this one. */
static void settle(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0 || fdatasync(fd) < 0)
		die(path, errno);
	close(fd);
}

/* ---- the host's file ---- */

static void host_start(struct bench_run *r, struct io_uring *ring, int fd, char *buffer)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (r->pattern->write)
		io_uring_prep_write(sqe, fd, buffer, r->pattern->size, next_offset(r));
	else
		io_uring_prep_read(sqe, fd, buffer, r->pattern->size, next_offset(r));
	io_uring_sqe_set_data(sqe, buffer);
}

static void run_host(struct bench_run *r, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	unsigned in_flight = r->depth;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int error = io_uring_queue_init(MAX_DEPTH, &ring, IORING_SETUP_COOP_TASKRUN);

	if (fd < 0 || error)
		die(path, fd < 0 ? errno : -error);
	begin(r);
	for (unsigned i = 0; i < r->depth; i++)
		host_start(r, &ring, fd, r->buffers + (size_t)i * MAX_REQUEST);
	while (in_flight) {
		io_uring_submit_and_wait(&ring, 1);
		while (io_uring_peek_cqe(&ring, &cqe) == 0) {
			char *buffer = io_uring_cqe_get_data(cqe);

			if (cqe->res != (int)r->pattern->size)
				die("host I/O", cqe->res < 0 ? -cqe->res : EIO);
			io_uring_cqe_seen(&ring, cqe);
			r->done++;
			if (g_get_monotonic_time() < r->end)
				host_start(r, &ring, fd, buffer);
			else
				in_flight--;
		}
	}
	r->took = now_by_clock() - r->start;
	io_uring_queue_exit(&ring);
	close(fd);
}

/* ---- the block layer ---- */

static void blk_start(struct slot *s);

static void blk_finished(void *opaque, int result)
{
	struct slot *s = opaque;
	struct bench_run *r = s->run;

	if (result < 0)
		die("block layer", -result);
	r->done++;
	if (g_get_monotonic_time() < r->end)
		blk_start(s);
	else if (!--r->in_flight)
		pthread_cond_signal(&r->finished);
}

static void blk_start(struct slot *s)
{
	uint64_t sector = next_offset(s->run) / SECTOR;

	if (s->run->pattern->write)
		blk_writev(s->run->blk, sector, &s->iov, 1, blk_finished, s);
	else
		blk_readv(s->run->blk, sector, &s->iov, 1, blk_finished, s);
}

static void run_blk(struct bench_run *r, const char *path, enum blk_format format)
{
	const struct blk_options opt = { .format = format };
	struct slot slots[MAX_DEPTH];
	GError *err = NULL;

	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->finished, NULL);
	r->blk = blk_open(path, &opt, &r->lock, &err);
	if (!r->blk) {
		fprintf(stderr, "bench_block: %s\n", err->message);
		exit(1);
	}
	pthread_mutex_lock(&r->lock);
	begin(r);
	r->in_flight = r->depth;
	for (unsigned i = 0; i < r->depth; i++) {
		slots[i] = (struct slot){ r, { r->buffers + (size_t)i * MAX_REQUEST, r->pattern->size } };
		blk_start(&slots[i]);
	}
	while (r->in_flight)
		pthread_cond_wait(&r->finished, &r->lock);
	r->took = now_by_clock() - r->start;
	pthread_mutex_unlock(&r->lock);
	blk_close(r->blk);
}

/* ---- the table ---- */

enum target { HOST, RAW, QCOW2, TARGETS };

/* Bytes per second. */
static double measure(const struct pattern *p, unsigned depth, enum target t, const char *raw, const char *qcow2, double seconds, char *buffers)
{
	struct bench_run r = { .pattern = p, .depth = depth, .buffers = buffers, .random = 1 };
	const char *path = t == QCOW2 ? qcow2 : raw;

	settle(path);
	r.end = (gint64)(seconds * G_USEC_PER_SEC);
	if (t == HOST)
		run_host(&r, path);
	else
		run_blk(&r, path, t == RAW ? BLK_RAW : BLK_QCOW2);
	return (double)(r.done * p->size) * G_USEC_PER_SEC / (double)r.took;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static bool bench(const struct pattern *p, unsigned depth, const char *raw, const char *qcow2, double seconds, char *buffers)
{
	double rate[TARGETS][ROUNDS];
	bool ok = true;

	for (unsigned round = 0; round < ROUNDS; round++) {
		/* Each is first, second and last in turn: what one leaves behind slows the next one down. */
		for (unsigned i = 0; i < TARGETS; i++) {
			enum target t = (round + i) % TARGETS;

			rate[t][round] = measure(p, depth, t, raw, qcow2, seconds, buffers);
		}
	}
	for (unsigned t = 0; t < TARGETS; t++)
		qsort(rate[t], ROUNDS, sizeof(double), compare_doubles);
	printf("%-20s %5u", p->name, depth);
	for (unsigned t = 0; t < TARGETS; t++) {
		double median = rate[t][ROUNDS / 2], share = median / rate[HOST][ROUNDS / 2];

		printf("  %8.0f MB/s %8.0f/s", median / 1e6, median / p->size);
		if (t != HOST) {
			printf(" %4.0f %%", share * 100);
			ok &= share >= 0.85;
		}
	}
	putchar('\n');
	fflush(stdout);
	return ok;
}

/* Both hold data everywhere, so that no run allocates. */
static void fill(const char *raw, const char *qcow2)
{
	g_autofree char *chunk = g_malloc(MAX_REQUEST);
	const struct qcow2_create create = { .size = FILE_BYTES };
	const struct image_open_options opt = { .format = BLK_QCOW2 };
	struct file *f = file_create_host(raw, true, NULL), *q = file_create_host(qcow2, true, NULL);
	struct image *im;
	bool ok = f && q && qcow2_create(q, &create, NULL);

	file_close(q);
	im = ok ? image_open(qcow2, &opt, NULL) : NULL;
	memset(chunk, 0x5a, MAX_REQUEST);
	for (uint64_t at = 0; im && at < FILE_BYTES; at += MAX_REQUEST)
		ok = ok && file_write(f, at, chunk, MAX_REQUEST) == 0 && image_pwrite(im, at, chunk, MAX_REQUEST) == 0;
	if (!im || image_close(im) < 0 || !ok)
		die("making the files", errno);
	file_close(f);
}

int main(int argc, char **argv)
{
	const char *dir = argc > 1 ? argv[1] : ".";
	double seconds = argc > 2 ? atof(argv[2]) : 0.5;
	const char *only = argc > 3 ? argv[3] : "";
	g_autofree char *raw = g_build_filename(dir, "bench-block.raw", NULL), *qcow2 = g_build_filename(dir, "bench-block.qcow2", NULL);
	g_autofree char *buffers = g_malloc0((size_t)MAX_DEPTH * MAX_REQUEST);
	bool ok = true;

	by_cpu = !g_strcmp0(g_getenv("BENCH_CLOCK"), "cpu");
	fill(raw, qcow2);
	printf("%-20s %5s  %-26s  %-33s  %s\n", "pattern", "depth", "host file", "raw", "qcow2");
	for (size_t i = 0; i < G_N_ELEMENTS(patterns); i++) {
		if (!strstr(patterns[i].name, only))
			continue;
		ok &= bench(&patterns[i], 1, raw, qcow2, seconds, buffers);
		ok &= bench(&patterns[i], MAX_DEPTH, raw, qcow2, seconds, buffers);
	}
	puts(ok ? "All reach 85 % of the host file's rate." : "Some do not reach 85 % of the host file's rate.");
	remove(raw);
	remove(qcow2);
	return !ok;
}
