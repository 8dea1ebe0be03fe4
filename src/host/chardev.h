/*
 * Character streams between a device (UART, debugcon, virtio-console) and the host
 * (terminal, file, pty, socket, test buffer). Input is delivered with the VM lock held.
 */
#ifndef HOST_CHARDEV_H
#define HOST_CHARDEV_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;

struct chardev_ops {
	const char *kind; /* "stdio", "file", "pty", "unix", "null", "memory" */
	/* Takes all bytes (buffers what the host cannot take now, bounded; drops the oldest). */
	void (*write)(struct chardev *cd, const uint8_t *data, size_t len);
	void (*destroy)(struct chardev *cd);
};

struct chardev_client {
	size_t (*can_receive)(void *opaque); /* bytes it takes now */
	void (*receive)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;
};

/* Embedded first in every back end. */
struct chardev {
	const struct chardev_ops *ops;
	struct chardev_client client;
	GByteArray *pending; /* received, not yet taken by the client */
	char *label;         /* e.g. "pty:/dev/pts/3" */
};

void chardev_write(struct chardev *cd, const uint8_t *data, size_t len); /* cd may be NULL */
void chardev_attach(struct chardev *cd, const struct chardev_client *client);
/* The client has room again: gives it what is pending. VM lock held. */
void chardev_accept_input(struct chardev *cd);
/* For back ends: bytes came in from the host. VM lock held. At most 64 KiB stay pending. */
void chardev_input(struct chardev *cd, const uint8_t *data, size_t len);
void chardev_destroy(struct chardev *cd);

/*
 * Opens SPEC: "none", "file:PATH", "pty", "unix:PATH" (listens, one client), "stdio".
 * Reader threads take `lock` to deliver input. stdio gives the raw terminal (restored at
 * destroy and by atexit) to chardev and hands each input byte to `filter` first (may be
 * NULL; returns true when it swallowed the byte: Ctrl-a x and friends).
 */
struct chardev *chardev_open(const char *spec, pthread_mutex_t *lock,
			     bool (*filter)(void *opaque, uint8_t byte), void *opaque, GError **error);
/* For tests: what was written is readable with chardev_memory_data. */
struct chardev *chardev_memory_new(void);
const uint8_t *chardev_memory_data(struct chardev *cd, size_t *len);

#endif
