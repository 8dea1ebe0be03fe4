/*
 * The io_uring way: one thread per image sends what maps to one run of a file to the kernel and reaps it. What does not
 * map (allocation, metadata to be read, several pieces) and what the kernel did in part goes to the thread pool: writes
 * straight from where they are submitted, since an allocating one would wake the ring's thread for nothing.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/iov.h"
#include "block/request.h"

#define RING_ENTRIES 256

enum ring_state { STARTING, RUNNING, FAILED };

struct ring {
	struct blk *blk;
	GThread *thread;
	int event_fd;
	/* The thread's own. */
	struct io_uring uring;
	unsigned in_kernel; /* requests, beside the poll of event_fd */
	struct request_queue own;   /* from completions, which run on the thread itself */

	pthread_mutex_t lock; /* what follows */
	pthread_cond_t started;
	enum ring_state state;
	struct request_queue queue;
	bool stop;
};

void ring_submit(struct ring *ring, struct request *r)
{
	bool first;

	/* What comes from a completion is looked at right after it. */
	if (g_thread_self() == ring->thread) {
		request_append(&ring->own, r);
		return;
	}
	pthread_mutex_lock(&ring->lock);
	first = request_append(&ring->queue, r);
	pthread_mutex_unlock(&ring->lock);
	/* A queue that was not empty has its wake-up under way. */
	if (first)
		eventfd_write(ring->event_fd, 1);
}

/* Whether the kernel can do the request by itself; then r->map says where. Does not block. */
static bool maps(struct request *r)
{
	struct image *im = r->blk->image;

	if (r->kind == REQ_FLUSH) {
		r->map = (struct map){ .file = im->file };
		return im->file->fd >= 0 && !im->readonly && !atomic_load(&im->file->sync_error) && im->ops->clean(im);
	}
	if (r->kind > REQ_WRITE_FUA || !r->len || r->len > INT_MAX || r->n > IOV_CALL_MAX)
		return false;
	if (r->kind == REQ_WRITE_FUA && !im->ops->clean(im))
		return false;
	return im->ops->map(im, r->offset, r->len, r->kind != REQ_READ, &r->map);
}

static void prepare(struct io_uring_sqe *sqe, const struct request *r)
{
	const int fd = r->map.file->fd;

	/* Without a vector the kernel has less to copy and keep. */
	if (r->kind == REQ_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (r->kind == REQ_READ && r->n == 1)
		io_uring_prep_read(sqe, fd, r->iov[0].iov_base, (unsigned)r->len, r->map.offset);
	else if (r->kind == REQ_READ)
		io_uring_prep_readv(sqe, fd, r->iov, (unsigned)r->n, r->map.offset);
	else if (r->kind == REQ_WRITE && r->n == 1)
		io_uring_prep_write(sqe, fd, r->iov[0].iov_base, (unsigned)r->len, r->map.offset);
	else
		io_uring_prep_writev2(sqe, fd, r->iov, (unsigned)r->n, r->map.offset, r->kind == REQ_WRITE_FUA ? RWF_DSYNC : 0);
}

static void unmap(struct request *r)
{
	if (r->map.owner)
		r->map.owner->ops->map_end(r->map.owner, &r->map);
}

bool ring_takes(struct request *r)
{
	r->map = (struct map){ 0 };
	if (r->kind == REQ_READ || maps(r))
		return true;
	r->map = (struct map){ 0 };
	return false;
}

static void start(struct ring *ring, struct request *r)
{
	bool mapped = r->map.file || maps(r);
	struct io_uring_sqe *sqe;

	if (!mapped || ring->in_kernel == RING_ENTRIES) {
		if (mapped)
			unmap(r);
		blk_use_pool(ring->blk, r);
		return;
	}
	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		io_uring_submit(&ring->uring);
	prepare(sqe, r);
	io_uring_sqe_set_data(sqe, r);
	ring->in_kernel++;
}

/* False when a pool thread finishes the request: the kernel did a part, or did not want to. */
static bool finished(struct request *r, int res)
{
	unmap(r);
	if (res == -EAGAIN || res == -EINTR || res == -EINVAL || res == -EOPNOTSUPP)
		return false;
	if (res >= 0 && r->kind != REQ_FLUSH && (uint64_t)res < r->len)
		return false;
	if (res < 0 && r->kind == REQ_FLUSH)
		atomic_store(&r->map.file->sync_error, -res);
	r->result = MIN(res, 0);
	return true;
}

static void arm_event(struct ring *ring)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring->uring)))
		io_uring_submit(&ring->uring);
	io_uring_prep_poll_add(sqe, ring->event_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
}

/* Takes what the kernel has finished; a list to complete. */
static struct request *reap(struct ring *ring, bool *woken)
{
	struct request *list = NULL, **end = &list;
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		struct request *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&ring->uring, cqe);
		if (!r) {
			*woken = true;
			continue;
		}
		ring->in_kernel--;
		if (!finished(r, res)) {
			blk_use_pool(ring->blk, r);
			continue;
		}
		r->next = NULL;
		*end = r;
		end = &r->next;
	}
	return list;
}

static void start_all(struct ring *ring, struct request_queue *q)
{
	struct request *at = q->head;

	q->head = NULL;
	while (at) {
		struct request *r = at;

		at = r->next;
		start(ring, r);
	}
}

/* False when there is nothing to come any more. */
static bool start_queued(struct ring *ring)
{
	struct request_queue queue;
	bool stop;

	pthread_mutex_lock(&ring->lock);
	queue = ring->queue;
	ring->queue.head = NULL;
	stop = ring->stop;
	pthread_mutex_unlock(&ring->lock);
	start_all(ring, &queue);
	return !stop;
}

/* The thread alone uses the ring and enters the kernel for every wait, so completions need neither locks nor interrupts
 * (Linux 6.1, 5.19). */
static bool set_up(struct io_uring *uring)
{
	static const unsigned flags[] = { IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_COOP_TASKRUN, 0 };

	for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
		if (io_uring_queue_init(RING_ENTRIES, uring, flags[i]) == 0) {
			/* Where this fails the kernel looks the ring up at every entry. */
			io_uring_register_ring_fd(uring);
			return true;
		}
	}
	return false;
}

static bool start_thread(struct ring *ring)
{
	bool ok = set_up(&ring->uring);

	pthread_mutex_lock(&ring->lock);
	ring->state = ok ? RUNNING : FAILED;
	pthread_cond_signal(&ring->started);
	pthread_mutex_unlock(&ring->lock);
	return ok;
}

static void *ring_thread(void *opaque)
{
	struct ring *ring = opaque;
	bool woken = true;
	eventfd_t kicks;

	if (!start_thread(ring))
		return NULL;
	for (;;) {
		/* The queue is looked at after the kick is taken, so that none is missed. */
		if (woken) {
			eventfd_read(ring->event_fd, &kicks);
			arm_event(ring);
			if (!start_queued(ring))
				break;
		}
		woken = false;
		start_all(ring, &ring->own);
		io_uring_submit_and_wait(&ring->uring, 1);
		blk_complete(ring->blk, reap(ring, &woken));
	}
	io_uring_queue_exit(&ring->uring);
	return NULL;
}

static void ring_free(struct ring *ring)
{
	pthread_mutex_destroy(&ring->lock);
	pthread_cond_destroy(&ring->started);
	if (ring->event_fd >= 0)
		close(ring->event_fd);
	g_free(ring);
}

/* Whether the thread has got its ring. */
static bool wait_started(struct ring *ring)
{
	bool ok;

	pthread_mutex_lock(&ring->lock);
	while (ring->state == STARTING)
		pthread_cond_wait(&ring->started, &ring->lock);
	ok = ring->state == RUNNING;
	pthread_mutex_unlock(&ring->lock);
	return ok;
}

struct ring *ring_create(struct blk *b)
{
	struct ring *ring = g_new0(struct ring, 1);

	ring->blk = b;
	ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&ring->lock, NULL);
	pthread_cond_init(&ring->started, NULL);
	if (ring->event_fd >= 0) {
		ring->thread = g_thread_new("disk", ring_thread, ring);
		if (wait_started(ring))
			return ring;
		g_thread_join(ring->thread);
	}
	ring_free(ring);
	return NULL;
}

void ring_destroy(struct ring *ring)
{
	if (!ring)
		return;
	pthread_mutex_lock(&ring->lock);
	ring->stop = true;
	pthread_mutex_unlock(&ring->lock);
	eventfd_write(ring->event_fd, 1);
	g_thread_join(ring->thread);
	ring_free(ring);
}
