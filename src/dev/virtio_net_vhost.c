/*
 * The virtio network card on vhost-net: when the host's kernel works on the first pair's rings, and when we do. The
 * control queue is always ours. The kernel knows no receive filters: it hands on whatever the tap interface gets.
 */
#include "dev/virtio_net_internal.h"
#include "net/vhost.h"

/* The driver wants to hear of used buffers. */
static void used(void *opaque, unsigned ring)
{
	struct virtio_net *n = opaque;

	virtqueue_interrupt(&n->v.queue[ring]);
}

static bool wanted(const struct virtio_net *n)
{
	return netdev_vhost(n->nd) && !n->vhost_refused && virtio_running(&n->v) && pci_bus_master(&n->v.pci) &&
	       (n->config.status & VIRTIO_NET_S_LINK_UP) && n->v.queue[VHOST_RX].enabled && n->v.queue[VHOST_TX].enabled;
}

static void start(struct virtio_net *n)
{
	struct vhost_ring ring[VHOST_RINGS];
	GError *why = NULL;

	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		const struct virtqueue *vq = &n->v.queue[i];

		ring[i] = (struct vhost_ring){ vq->desc, vq->driver, vq->device, vq->size, vq->next_avail };
	}
	n->vhost_running = vhost_start(netdev_vhost(n->nd), n->v.features, ring, used, n, &why);
	if (n->vhost_running)
		return;
	n->vhost_refused = true;
	n->told_refusal(n->told_opaque, why->message);
	g_error_free(why);
}

/* Kicks go to the kernel's eventfds without us wherever the engine can do that, and by virtio_net_kick elsewhere. */
static void set_doorbells(struct virtio_net *n)
{
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		uint64_t at = n->vhost_running ? virtio_notify_address(&n->v, i) : 0;
		struct vhost *vhost = netdev_vhost(n->nd);

		if (n->doorbell[i] == at)
			continue;
		if (n->doorbell[i])
			pci_doorbell(&n->v.pci, n->doorbell[i], 2, vhost_kick_fd(vhost, i), false);
		n->doorbell[i] = at && !pci_doorbell(&n->v.pci, at, 2, vhost_kick_fd(vhost, i), true) ? at : 0;
	}
}

void virtio_net_vhost_stop(struct virtio_net *n)
{
	uint16_t next_avail[VHOST_RINGS];

	if (!n->vhost_running)
		return;
	n->vhost_running = false;
	set_doorbells(n);
	vhost_stop(netdev_vhost(n->nd), next_avail);
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		virtqueue_moved(&n->v.queue[i], next_avail[i]);
}

void virtio_net_vhost_sync(struct virtio_net *n)
{
	bool want = wanted(n);

	if (n->vhost_running && !want) {
		virtio_net_vhost_stop(n);
		return;
	}
	if (!n->vhost_running && want)
		start(n);
	if (n->vhost_running)
		set_doorbells(n);
}

void virtio_net_vhost_kick(struct virtio_net *n, unsigned ring)
{
	vhost_kick(netdev_vhost(n->nd), ring);
}

/* Bus mastering and the place of the registers, by the guest's hand. */
static void config_written(struct pci_dev *p, unsigned offset, unsigned len)
{
	struct virtio_net *n = (struct virtio_net *)p;

	n->core_config_written(p, offset, len);
	virtio_net_vhost_sync(n);
}

void virtio_net_vhost_init(struct virtio_net *n)
{
	struct vhost *vhost = netdev_vhost(n->nd);

	if (!vhost)
		return;
	/* What the kernel's rings lack is not offered; a queue of its is reset with the card only. */
	n->v.offered = vhost_features(vhost, n->v.offered);
	n->core_config_written = n->v.pci.config_written;
	n->v.pci.config_written = config_written;
}
