/*
 * A tap interface of the host (Linux, Documentation/networking/tuntap.rst), with virtio's header in
 * front of each frame, so that checksums and segmentation stay undone all the way to the host's stack. The header is the
 * one of virtio 1.0, with the count of buffers, since vhost-net passes it on to the guest as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/backend.h"

#define BATCH 32

struct tap {
	struct netdev nd; /* must be first */
	int fd, wake_fd;
	pthread_t thread;
	_Atomic bool quit, full, bypassed;
	uint8_t *buffer; /* BATCH frames, the thread's own */
};

static void wake(struct tap *t)
{
	const uint64_t one = 1;

	if (write(t->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is not zero: it wakes anyhow */
}

static unsigned read_batch(struct tap *t, size_t len[BATCH])
{
	unsigned n = 0;

	while (n < BATCH) {
		ssize_t got = read(t->fd, t->buffer + n * NETDEV_MAX_FRAME, NETDEV_MAX_FRAME);

		if (got < (ssize_t)sizeof(struct virtio_net_hdr_mrg_rxbuf))
			break;
		len[n++] = (size_t)got;
	}
	return n;
}

static void input_one(struct tap *t, const uint8_t *p, size_t len)
{
	const size_t header = sizeof(struct virtio_net_hdr_mrg_rxbuf);
	struct virtio_net_hdr h;
	struct net_offload o;

	memcpy(&h, p, sizeof(h));
	o = (struct net_offload){ h.flags & (NET_NEEDS_CSUM | NET_DATA_VALID), h.gso_type, h.hdr_len, h.gso_size, h.csum_start,
				  h.csum_offset };
	netdev_input(&t->nd, p + header, len - header, &o);
}

static void *tap_thread(void *opaque)
{
	struct tap *t = opaque;
	size_t len[BATCH];

	while (!atomic_load(&t->quit)) {
		struct pollfd p[2] = { { .fd = t->wake_fd, .events = POLLIN }, { .fd = t->fd, .events = POLLIN } };
		uint64_t count;
		unsigned n;

		if (poll(p, atomic_load(&t->full) || atomic_load(&t->bypassed) ? 1 : 2, -1) < 0)
			continue;
		if (p[0].revents && read(t->wake_fd, &count, sizeof(count)) < 0)
			continue;
		if (!(p[1].revents & POLLIN))
			continue;
		n = read_batch(t, len);
		pthread_mutex_lock(t->nd.lock);
		/* What was read just before the kernel took over is lost, as on a wire. */
		for (unsigned i = 0; i < n && !atomic_load(&t->bypassed); i++)
			input_one(t, t->buffer + i * NETDEV_MAX_FRAME, len[i]);
		atomic_store(&t->full, !netdev_room(&t->nd));
		pthread_mutex_unlock(t->nd.lock);
	}
	return NULL;
}

/* The kernel's queue takes frames at once, or drops them as a wire would. */
static void tap_send(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *o)
{
	struct virtio_net_hdr_mrg_rxbuf h = {
		.hdr = { o->flags & NET_NEEDS_CSUM, o->gso, o->header_len, o->gso_size, o->csum_start, o->csum_offset },
	};
	struct iovec v[NETDEV_MAX_IOV + 1];

	if (count > NETDEV_MAX_IOV) {
		nd->stats.tx_dropped++;
		return;
	}
	v[0] = (struct iovec){ &h, sizeof(h) };
	memcpy(v + 1, iov, (size_t)count * sizeof(*iov));
	if (writev(((struct tap *)nd)->fd, v, count + 1) < 0)
		nd->stats.tx_dropped++;
}

static bool tap_can_send(struct netdev *nd) { return true; }

static void tap_resume(struct netdev *nd)
{
	struct tap *t = (struct tap *)nd;

	atomic_store(&t->full, false);
	wake(t);
}

static void tap_set_accepts(struct netdev *nd, unsigned mask)
{
	unsigned tun = 0;

	tun |= mask & NET_ACCEPT_CSUM ? TUN_F_CSUM : 0;
	if (tun) {
		tun |= mask & NET_ACCEPT_TSO4 ? TUN_F_TSO4 : 0;
		tun |= mask & NET_ACCEPT_TSO6 ? TUN_F_TSO6 : 0;
		tun |= mask & NET_ACCEPT_ECN && mask & (NET_ACCEPT_TSO4 | NET_ACCEPT_TSO6) ? TUN_F_TSO_ECN : 0;
	}
	/* Where the kernel refuses, netdev_input does the rest. */
	if (ioctl(((struct tap *)nd)->fd, TUNSETOFFLOAD, tun) < 0)
		return;
}

static void tap_close(struct netdev *nd)
{
	struct tap *t = (struct tap *)nd;

	if (t->thread) {
		atomic_store(&t->quit, true);
		wake(t);
		pthread_join(t->thread, NULL);
	}
	if (t->fd >= 0)
		close(t->fd);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	g_free(t->buffer);
}

static const struct netdev_ops tap_ops = { "tap", tap_send, tap_can_send, tap_resume, tap_set_accepts, tap_close };

int tap_fd(const struct netdev *nd)
{
	return nd->ops == &tap_ops ? ((const struct tap *)nd)->fd : -1;
}

void tap_bypass(struct netdev *nd, bool bypass)
{
	struct tap *t = (struct tap *)nd;

	if (nd->ops != &tap_ops)
		return;
	atomic_store(&t->bypassed, bypass);
	wake(t);
}

static int tap_open(const char *name, GError **error)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), header = sizeof(struct virtio_net_hdr_mrg_rxbuf);

	if (fd >= 0 && strlen(name) < IFNAMSIZ) {
		strcpy(ifr.ifr_name, name);
		if (!ioctl(fd, TUNSETIFF, &ifr) && !ioctl(fd, TUNSETVNETHDRSZ, &header))
			return fd;
	} else if (fd >= 0) {
		errno = EINVAL;
	}
	g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
		    "tap=%s: %s; make it once with: sudo ip tuntap add dev %s mode tap user $USER && sudo ip link set %s up",
		    name, g_strerror(errno), name, name);
	if (fd >= 0)
		close(fd);
	return -1;
}

struct netdev *tap_create(const struct net_config *config, pthread_mutex_t *lock, GError **error)
{
	struct tap *t = g_new0(struct tap, 1);

	t->nd.ops = &tap_ops;
	t->nd.caps = NETDEV_CAN_CSUM | NETDEV_CAN_TSO;
	t->nd.lock = lock;
	t->nd.description = g_strdup_printf("tap %s", config->target);
	t->buffer = g_malloc(BATCH * NETDEV_MAX_FRAME);
	t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	t->fd = tap_open(config->target, error);
	if (t->fd < 0)
		goto fail;
	if (t->wake_fd < 0 || pthread_create(&t->thread, NULL, tap_thread, t)) {
		t->thread = 0;
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "tap=%s: no thread could be started", config->target);
		goto fail;
	}
	tap_set_accepts(&t->nd, 0);
	return &t->nd;
fail:
	netdev_destroy(&t->nd);
	return NULL;
}
