/* Inside of the character streams: the back ends that pump file descriptors on a thread. */
#ifndef HOST_STREAM_H
#define HOST_STREAM_H

#include "host/chardev.h"

struct stream_config {
	const struct chardev_ops *ops;
	int in_fd, out_fd; /* -1: none now; the same for sockets and ptys */
	int listen_fd;     /* -1, or where the one client connects */
	int keep_fd;       /* -1, or closed at destroy (a pty's other side) */
	bool own_fds;      /* in_fd and out_fd are closed at destroy */
	bool socket;
	bool lossy_input;  /* always read: what finds no room is dropped (a terminal's keys) */
	char *label, *unlink_path; /* taken over */
	pthread_mutex_t *lock;
	bool (*filter)(void *opaque, uint8_t byte);
	void *opaque;
};

struct chardev *stream_new(const struct stream_config *c);
void stream_write(struct chardev *cd, const uint8_t *data, size_t len);
/* Sends what is queued (for at most a second), ends the thread, frees. */
void stream_destroy(struct chardev *cd);

#endif
