/*
 * Virtio console with one port: VIRTIO 1.2, 5.3. Input waits in the character stream until the
 * driver has given a buffer for it.
 */
#include "dev/virtio_console.h"

#include <glib.h>
#include <linux/virtio_console.h>

#include "dev/virtio.h"

#define QUEUE_RECEIVE 0
#define QUEUE_TRANSMIT 1
#define QUEUE_SIZE 64
/* No driver sends more at once; a buffer can name the same page a thousand times. */
#define MAX_OUTPUT (1u << 20)

struct virtio_console {
	struct virtio_dev v; /* must be first */
	struct virtio_console_config config;
	struct chardev *cd;
	struct virtq_elem *room; /* the driver's next buffer for input */
};

/* ---- output ---- */

static void transmit(struct virtio_console *c, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		size_t left = MAX_OUTPUT;

		for (unsigned i = 0; i < e->out_n && left; i++) {
			size_t n = MIN(e->out[i].iov_len, left);

			chardev_write(c->cd, e->out[i].iov_base, n);
			left -= n;
		}
		if (e->out_len > MAX_OUTPUT)
			device_guest_error(&c->v.pci.device, "%zu bytes of output in one buffer", e->out_len);
		virtqueue_push(vq, e, 0);
	}
	virtqueue_notify(vq);
}

/* ---- input ---- */

static size_t can_receive(void *opaque)
{
	struct virtio_console *c = opaque;
	struct virtqueue *vq = &c->v.queue[QUEUE_RECEIVE];

	if (!c->room)
		c->room = virtqueue_pop(vq);
	if (c->room && !c->room->in_len) {
		virtio_broken(&c->v, "a buffer for input without room");
		virtqueue_drop(vq, c->room);
		c->room = NULL;
	}
	return c->room ? c->room->in_len : 0;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
	struct virtio_console *c = opaque;
	struct virtqueue *vq = &c->v.queue[QUEUE_RECEIVE];
	struct virtq_elem *e = c->room;

	if (!e)
		return;
	c->room = NULL;
	virtqueue_push(vq, e, (uint32_t)virtq_copy_in(e->in, e->in_n, 0, data, len));
	virtqueue_notify(vq);
}

static void console_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtio_console *c = (struct virtio_console *)v;

	if (vq->index == QUEUE_TRANSMIT)
		transmit(c, vq);
	else
		chardev_accept_input(c->cd);
}

/* ---- life ---- */

static void console_quiesce(struct virtio_dev *v)
{
	struct virtio_console *c = (struct virtio_console *)v;

	if (c->room)
		virtqueue_unpop(&v->queue[QUEUE_RECEIVE], c->room);
	c->room = NULL;
}

static void console_virtio_reset(struct virtio_dev *v)
{
}

static void console_start(struct virtio_dev *v)
{
}

/* The only register to write: a character for when nothing else works yet (5.3.4). */
static void console_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
	uint8_t byte = (uint8_t)value;

	if (offset == offsetof(struct virtio_console_config, emerg_wr))
		chardev_write(((struct virtio_console *)v)->cd, &byte, 1);
	else
		device_guest_error(&v->pci.device, "configuration 0x%x written", offset);
}

static const struct virtio_ops virtio_ops = { console_queue, console_quiesce, console_virtio_reset, console_start,
					      console_config_write };

static void console_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int console_state(struct device *d, struct state *s)
{
	return virtio_state((struct virtio_dev *)d, s);
}

static void console_destroy(struct device *d)
{
	struct virtio_console *c = (struct virtio_console *)d;

	chardev_attach(c->cd, NULL);
	console_quiesce(&c->v);
	virtio_finish(&c->v);
	g_free(c);
}

static const struct device_ops ops = { "virtio-console", 1, console_reset, console_state, console_destroy };

struct virtio_console *virtio_console_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct chardev *cd)
{
	struct virtio_console *c = g_new0(struct virtio_console, 1);
	const struct virtio_init init = {
		.device_ops = &ops, .ops = &virtio_ops, .id = "hvc0", .device_type = 3, .class_code = 0x078000,
		.config = &c->config, .config_len = sizeof(c->config), .queues = 2, .queue_size = QUEUE_SIZE,
		.features = VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE) | VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE),
	};
	const struct chardev_client client = { can_receive, receive, c };

	c->cd = cd;
	c->config.cols = 80;
	c->config.rows = 25;
	c->config.max_nr_ports = 1;
	if (virtio_init(&c->v, bus, devfn, clock, &init)) {
		g_free(c);
		return NULL;
	}
	chardev_attach(cd, &client);
	return c;
}

struct device *virtio_console_device(struct virtio_console *c)
{
	return &c->v.pci.device;
}

void virtio_console_resize(struct virtio_console *c, uint16_t columns, uint16_t rows)
{
	if (c->config.cols == columns && c->config.rows == rows)
		return;
	c->config.cols = columns;
	c->config.rows = rows;
	virtio_config_changed(&c->v);
}
