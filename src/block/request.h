/* The asynchronous front's inside: requests, and the two ways to carry them out (ring.c, the thread pool in blk.c). */
#ifndef BLOCK_REQUEST_H
#define BLOCK_REQUEST_H

#include "block/image.h"

enum request_kind { REQ_READ, REQ_WRITE, REQ_WRITE_FUA, REQ_FLUSH, REQ_DISCARD, REQ_ZERO, REQ_ZERO_UNMAP };

struct request {
	struct blk *blk;
	struct request *next;
	enum request_kind kind;
	int result;
	uint64_t offset, len; /* bytes */
	blk_done done;
	void *opaque;
	struct map map; /* while the ring has it; no file: not looked up yet */
	int n;
	struct iovec iov[];
};

struct request_queue {
	struct request *head, *last; /* last counts where there is a head */
};

/* True when it was empty. */
static inline bool request_append(struct request_queue *q, struct request *r)
{
	bool first = !q->head;

	r->next = NULL;
	*(first ? &q->head : &q->last->next) = r;
	q->last = r;
	return first;
}

struct ring;

struct blk {
	char *path;
	struct image *image;
	bool snapshot;
	pthread_mutex_t *vm_lock; /* or NULL */
	GThreadPool *pool;
	struct ring *ring; /* or NULL: everything goes to the pool */

	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned bulk_threads;     /* of the pool, that large writes keep busy */
	struct request_queue bulk; /* large writes that wait for one of them */
	unsigned in_flight; /* from submission until `done` has returned */
	unsigned draining;  /* while not 0, no request is kept */
	struct blk_error_policy policy;
	struct request *failed, **failed_end; /* kept for blk_retry; they count as in flight */
	unsigned kept;			      /* how many */
};

/* Calls `done` of a list of requests under one hold of the VM lock, and frees them. */
void blk_complete(struct blk *b, struct request *list);
/* Carries a request out, by the ring where there is one. */
void blk_start(struct blk *b, struct request *r);
/* blk_error.c: after a failure. True when the request is kept, to be tried anew. */
bool blk_keep_failed(struct blk *b, struct request *r);
/* Hands a request to the pool, which completes it. */
void blk_use_pool(struct blk *b, struct request *r);

/* NULL where the kernel has or allows no io_uring. */
struct ring *ring_create(struct blk *b);
/* Nothing may be in flight. */
void ring_destroy(struct ring *ring);
/* Whether the request is one for the ring; writes are looked up here and now. Every `true` has its ring_submit. */
bool ring_takes(struct request *r);
void ring_submit(struct ring *ring, struct request *r);

#endif
