/*
 * The kernel's vhost-net (linux/vhost.h; drivers/vhost): one device for one pair of rings. It reaches guest memory at the
 * addresses of this process, takes kicks from eventfds, and signals other ones to have the driver interrupted.
 */
#include "net/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/backend.h"

#define NODE "/dev/vhost-net"
#define BIT(n) (UINT64_C(1) << (n))
/* What concerns the rings, and so must be known to the kernel; the rest is between the card and the tap interface. */
#define RING_FEATURES                                                                                                        \
	(BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_VERSION_1) | \
	 BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET))

struct vhost {
	struct netdev *nd;
	struct mem *mem;
	uint64_t kernel_features;
	int fd, wake_fd;
	int kick_fd[VHOST_RINGS], call_fd[VHOST_RINGS];
	bool started, paused;
	_Atomic bool given[VHOST_RINGS]; /* calls that somebody else waits for */
	struct vhost_client client;
	pthread_t thread;
	_Atomic bool quit;
};

struct vhost *netdev_vhost(const struct netdev *nd)
{
	return nd->vhost;
}

uint64_t vhost_features(const struct vhost *v, uint64_t features)
{
	return features & (v->kernel_features | ~RING_FEATURES);
}

int vhost_kick_fd(const struct vhost *v, unsigned ring)
{
	return v->kick_fd[ring];
}

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is not zero: it wakes anyhow */
}

int vhost_call_fd(const struct vhost *v, unsigned ring)
{
	return v->call_fd[ring];
}

void vhost_give_call(struct vhost *v, unsigned ring, bool given)
{
	atomic_store(&v->given[ring], given);
	signal_fd(v->wake_fd);
}

void vhost_kick(struct vhost *v, unsigned ring)
{
	signal_fd(v->kick_fd[ring]);
}

static bool signalled(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count);
}

/* ---- interrupts ---- */

static void interrupt(struct vhost *v)
{
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		if (!atomic_load(&v->given[i]) && signalled(v->call_fd[i]) && v->started)
			v->client.used(v->client.opaque, i);
	}
}

static void *vhost_thread(void *opaque)
{
	struct vhost *v = opaque;
	struct pollfd p[1 + VHOST_RINGS] = { { .fd = v->wake_fd, .events = POLLIN } };

	while (!atomic_load(&v->quit)) {
		for (unsigned i = 0; i < VHOST_RINGS; i++)
			p[1 + i] = (struct pollfd){ .fd = atomic_load(&v->given[i]) ? -1 : v->call_fd[i], .events = POLLIN };
		if (poll(p, G_N_ELEMENTS(p), -1) < 0)
			continue;
		if (p[0].revents && signalled(v->wake_fd))
			continue;
		pthread_mutex_lock(v->nd->lock);
		interrupt(v);
		pthread_mutex_unlock(v->nd->lock);
	}
	return NULL;
}

/* ---- the kernel's side ---- */

static bool tell(struct vhost *v, unsigned long request, const void *argument, const char *what, GError **error)
{
	if (ioctl(v->fd, request, argument) >= 0)
		return true;
	g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "vhost-net: %s: %s", what, g_strerror(errno));
	return false;
}

/* RAM that nobody watches: neither ROM nor a frame buffer. */
static bool tell_memory(struct vhost *v, unsigned leaving, GError **error)
{
	g_autofree struct vhost_memory *table = g_malloc0(sizeof(*table) + MEM_MAX_SLOTS * sizeof(table->regions[0]));

	for (unsigned i = 0; i < MEM_MAX_SLOTS; i++) {
		const struct mem_slot *s = mem_slot(v->mem, i);

		if (!s || i == leaving || s->readonly || s->ram->log_dirty)
			continue;
		table->regions[table->nregions++] = (struct vhost_memory_region){
			.guest_phys_addr = s->gpa,
			.memory_size = s->size,
			.userspace_addr = (uintptr_t)mem_slot_host(s, s->gpa),
		};
	}
	return tell(v, VHOST_SET_MEM_TABLE, table, "the memory's layout", error);
}

/* Where a part of a ring is in this process; 0 when it is not in one piece of RAM. */
static uint64_t here(const struct vhost *v, uint64_t gpa, uint64_t len)
{
	const struct mem_slot *s = mem_find(v->mem, gpa);

	return s && !s->readonly && len <= s->size - (gpa - s->gpa) ? (uintptr_t)mem_slot_host(s, gpa) : 0;
}

static bool tell_ring(struct vhost *v, unsigned index, const struct vhost_ring *r, GError **error)
{
	const struct vhost_vring_state size = { index, r->size }, base = { index, r->next_avail };
	const struct vhost_vring_file kick = { index, v->kick_fd[index] }, call = { index, v->call_fd[index] };
	/* The sizes are those of virtio 1.2, 2.7, with the event indices. */
	const struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = here(v, r->desc, 16u * r->size),
		.avail_user_addr = here(v, r->driver, 6 + 2u * r->size),
		.used_user_addr = here(v, r->device, 6 + 8u * r->size),
	};

	if (!addr.desc_user_addr || !addr.avail_user_addr || !addr.used_user_addr) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "vhost-net: the driver's ring %u is not in RAM", index);
		return false;
	}
	return tell(v, VHOST_SET_VRING_NUM, &size, "a ring's size", error) && tell(v, VHOST_SET_VRING_BASE, &base, "a ring's place", error) &&
	       tell(v, VHOST_SET_VRING_ADDR, &addr, "a ring's address", error) && tell(v, VHOST_SET_VRING_KICK, &kick, "a ring's kick", error) &&
	       tell(v, VHOST_SET_VRING_CALL, &call, "a ring's call", error);
}

/* The rings move frames from and to the tap interface (-1: not any more). */
static bool attach(struct vhost *v, int tap, GError **error)
{
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		const struct vhost_vring_file file = { i, tap };

		if (!tell(v, VHOST_NET_SET_BACKEND, &file, "the tap interface", error))
			return false;
	}
	/* Buffers made available before are looked at. */
	for (unsigned i = 0; tap >= 0 && i < VHOST_RINGS; i++)
		vhost_kick(v, i);
	return true;
}

bool vhost_start(struct vhost *v, uint64_t features, const struct vhost_ring ring[VHOST_RINGS], const struct vhost_client *client,
		 GError **error)
{
	const uint64_t mine = features & RING_FEATURES;

	if (!tell(v, VHOST_SET_FEATURES, &mine, "features", error) || !tell_memory(v, MEM_MAX_SLOTS, error))
		return false;
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		if (!tell_ring(v, i, &ring[i], error))
			return false;
	}
	tap_bypass(v->nd, true);
	if (!v->paused && !attach(v, tap_fd(v->nd), error)) {
		attach(v, -1, NULL);
		tap_bypass(v->nd, false);
		return false;
	}
	v->client = *client;
	v->started = true;
	return true;
}

void vhost_stop(struct vhost *v, uint16_t next_avail[VHOST_RINGS])
{
	/* The kernel is done with the rings when this returns. */
	attach(v, -1, NULL);
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		struct vhost_vring_state base = { .index = i };

		tell(v, VHOST_GET_VRING_BASE, &base, "a ring's place", NULL);
		next_avail[i] = (uint16_t)base.num;
	}
	interrupt(v);
	v->started = false;
	tap_bypass(v->nd, false);
}

static void lost(struct vhost *v, GError *why)
{
	v->client.lost(v->client.opaque, why->message);
	g_error_free(why);
}

void vhost_pause(struct vhost *v, bool paused)
{
	bool change = v->started && v->paused != paused;
	GError *why = NULL;

	v->paused = paused;
	if (change && !attach(v, paused ? -1 : tap_fd(v->nd), &why))
		lost(v, why);
}

void vhost_layout(struct vhost *v, unsigned leaving)
{
	GError *why = NULL;

	if (v->started && !tell_memory(v, leaving, &why))
		lost(v, why);
}

/* ---- life ---- */

void vhost_close(struct vhost *v)
{
	if (!v)
		return;
	if (v->thread) {
		atomic_store(&v->quit, true);
		signal_fd(v->wake_fd);
		pthread_join(v->thread, NULL);
	}
	/* Closing the device ends its work. */
	if (v->fd >= 0)
		close(v->fd);
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		if (v->kick_fd[i] >= 0)
			close(v->kick_fd[i]);
		if (v->call_fd[i] >= 0)
			close(v->call_fd[i]);
	}
	if (v->wake_fd >= 0)
		close(v->wake_fd);
	g_free(v);
}

bool vhost_open(struct netdev *nd, struct mem *mem, GError **error)
{
	struct vhost *v = g_new0(struct vhost, 1);
	char *described;

	v->nd = nd;
	v->mem = mem;
	v->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		v->kick_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		v->call_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
	v->fd = open(NODE, O_RDWR | O_CLOEXEC);
	if (v->fd < 0) {
		g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "vhost-net: " NODE ": %s; sudo modprobe vhost_net makes it, "
			    "and this user must be allowed to open it", g_strerror(errno));
		goto fail;
	}
	if (!tell(v, VHOST_SET_OWNER, NULL, "owner", error) || !tell(v, VHOST_GET_FEATURES, &v->kernel_features, "features", error))
		goto fail;
	if (!(v->kernel_features & BIT(VIRTIO_F_VERSION_1))) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "vhost-net: this kernel's knows no virtio 1.0");
		goto fail;
	}
	if (v->wake_fd < 0 || v->kick_fd[VHOST_TX] < 0 || v->call_fd[VHOST_TX] < 0 || pthread_create(&v->thread, NULL, vhost_thread, v)) {
		v->thread = 0;
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "vhost-net: no thread could be started");
		goto fail;
	}
	nd->vhost = v;
	described = nd->description;
	nd->description = g_strconcat(described, ", vhost-net", NULL);
	g_free(described);
	return true;
fail:
	vhost_close(v);
	return false;
}
