/* A double buffer under a lock, and an eventfd that is written only while the thread sleeps. */
#include "net/queue.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROOM (1024 * 1024)

bool net_queue_init(struct net_queue *q)
{
	*q = (struct net_queue){ .frames = g_byte_array_new(), .taken = g_byte_array_new() };
	pthread_mutex_init(&q->lock, NULL);
	q->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return q->wake_fd >= 0;
}

void net_queue_finish(struct net_queue *q)
{
	pthread_mutex_destroy(&q->lock);
	if (q->wake_fd >= 0)
		close(q->wake_fd);
	g_byte_array_free(q->frames, TRUE);
	g_byte_array_free(q->taken, TRUE);
}

void net_queue_wake(struct net_queue *q)
{
	const uint64_t one = 1;

	if (write(q->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full, so it wakes anyhow */
}

void net_queue_push(struct net_queue *q, const struct iovec *iov, int count, size_t len)
{
	uint32_t size = (uint32_t)len;
	bool sleeping;

	pthread_mutex_lock(&q->lock);
	g_byte_array_append(q->frames, (const uint8_t *)&size, sizeof(size));
	for (int i = 0; i < count; i++)
		g_byte_array_append(q->frames, iov[i].iov_base, (guint)iov[i].iov_len);
	sleeping = q->sleeping;
	q->sleeping = false;
	pthread_mutex_unlock(&q->lock);
	if (sleeping)
		net_queue_wake(q);
}

bool net_queue_room(struct net_queue *q)
{
	bool room;

	pthread_mutex_lock(&q->lock);
	room = q->frames->len < ROOM;
	pthread_mutex_unlock(&q->lock);
	return room;
}

void net_queue_quit(struct net_queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->quit = true;
	pthread_mutex_unlock(&q->lock);
	net_queue_wake(q);
}

int net_queue_timeout(struct net_queue *q, int timeout)
{
	bool sleep;

	pthread_mutex_lock(&q->lock);
	sleep = q->sleeping = !q->frames->len && !q->quit;
	pthread_mutex_unlock(&q->lock);
	return sleep ? timeout : 0;
}

bool net_queue_take(struct net_queue *q)
{
	GByteArray *empty = q->taken;
	uint64_t count;
	bool quit;

	if (read(q->wake_fd, &count, sizeof(count)) < 0)
		count = 0;
	g_byte_array_set_size(empty, 0);
	pthread_mutex_lock(&q->lock);
	q->taken = q->frames;
	q->frames = empty;
	q->sleeping = false;
	quit = q->quit;
	pthread_mutex_unlock(&q->lock);
	return !quit;
}

const uint8_t *net_frames_next(const GByteArray *frames, guint *at, uint32_t *len)
{
	const uint8_t *frame;

	if (*at >= frames->len)
		return NULL;
	memcpy(len, frames->data + *at, sizeof(*len));
	frame = frames->data + *at + sizeof(*len);
	*at += (guint)sizeof(*len) + *len;
	return frame;
}

void net_frames_add(GByteArray *frames, const void *frame, uint32_t len)
{
	g_byte_array_append(frames, (const uint8_t *)&len, sizeof(len));
	g_byte_array_append(frames, frame, len);
}
