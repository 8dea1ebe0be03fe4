/* Frames on their way from a card to a back end's thread: a bounded queue that wakes the thread. */
#ifndef NET_QUEUE_H
#define NET_QUEUE_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct net_queue {
	pthread_mutex_t lock;
	GByteArray *frames; /* under lock: each frame after its 32-bit length */
	GByteArray *taken;  /* the thread's own */
	bool sleeping, quit; /* under lock */
	int wake_fd;        /* readable when there is something to do */
};

/* False when the host has no more descriptors; net_queue_finish is due in any case. */
bool net_queue_init(struct net_queue *q);
void net_queue_finish(struct net_queue *q);

/* The card's side. Pushing never fails; room says when to stop. */
void net_queue_push(struct net_queue *q, const struct iovec *iov, int count, size_t len);
bool net_queue_room(struct net_queue *q);
void net_queue_wake(struct net_queue *q);
void net_queue_quit(struct net_queue *q);

/* The thread's side: how long it may wait (`timeout` in ms, or 0 when there is work), then what there
 * is. net_queue_take returns false when the thread is to end. */
int net_queue_timeout(struct net_queue *q, int timeout);
bool net_queue_take(struct net_queue *q);

/* Walks a buffer of frames: *at starts at 0; NULL at the end. */
const uint8_t *net_frames_next(const GByteArray *frames, guint *at, uint32_t *len);
void net_frames_add(GByteArray *frames, const void *frame, uint32_t len);

#endif
