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

/* Frames go through us from now on; what the driver had made available is looked at as if it had kicked. */
static void lost(void *opaque, const char *why)
{
	struct virtio_net *n = opaque;

	virtio_net_vhost_stop(n);
	n->vhost_refused = true;
	n->told_refusal(n->told_opaque, why);
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		n->v.queue[i].left_over = true;
	timer_arm(n->v.later, clock_now(n->v.clock));
}

static bool wanted(const struct virtio_net *n)
{
	return netdev_vhost(n->nd) && !n->vhost_refused && virtio_running(&n->v) && pci_bus_master(&n->v.pci) &&
	       (n->config.status & VIRTIO_NET_S_LINK_UP) && n->v.queue[VHOST_RX].enabled && n->v.queue[VHOST_TX].enabled;
}

static void start(struct virtio_net *n)
{
	const struct vhost_client client = { used, lost, n };
	struct vhost_ring ring[VHOST_RINGS];
	GError *why = NULL;

	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		const struct virtqueue *vq = &n->v.queue[i];

		ring[i] = (struct vhost_ring){ vq->desc, vq->driver, vq->device, vq->size, vq->next_avail };
	}
	n->vhost_running = vhost_start(netdev_vhost(n->nd), n->v.features, ring, &client, &why);
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

static bool same_message(const struct pci_message *a, const struct pci_message *b)
{
	return a->address == b->address && a->data == b->data;
}

/* Calls are interrupts without us where the engine can do that and the vector may be sent, and by used() elsewhere. */
static void set_calls(struct virtio_net *n)
{
	struct vhost *vhost = netdev_vhost(n->nd);

	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		struct pci_message m;
		bool send = n->vhost_running && pci_msix_message(&n->v.pci, n->v.queue[i].vector, &m);
		int fd = vhost_call_fd(vhost, i);

		if (send == n->message_sent[i] && (!send || same_message(&m, &n->message[i])))
			continue;
		if (n->message_sent[i]) {
			pci_irqfd(&n->v.pci, fd, &n->message[i], false);
			vhost_give_call(vhost, i, false);
		}
		n->message_sent[i] = send && !pci_irqfd(&n->v.pci, fd, &m, true);
		if (n->message_sent[i]) {
			n->message[i] = m;
			vhost_give_call(vhost, i, true);
		}
	}
}

void virtio_net_vhost_stop(struct virtio_net *n)
{
	uint16_t next_avail[VHOST_RINGS];

	if (!n->vhost_running)
		return;
	n->vhost_running = false;
	set_doorbells(n);
	set_calls(n);
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
	if (n->vhost_running) {
		set_doorbells(n);
		set_calls(n);
	}
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

static void vectors_changed(struct pci_dev *p)
{
	struct virtio_net *n = (struct virtio_net *)p;

	if (n->vhost_running)
		set_calls(n);
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
	n->v.pci.vectors_changed = vectors_changed;
}
