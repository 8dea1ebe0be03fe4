/* Virtio entropy source: VIRTIO 1.2, 5.4. Bounded in what a guest may draw from the host in a period. */
#include "dev/virtio_rng.h"

#include <glib.h>
#include <sys/random.h>

#include "dev/virtio.h"

#define PERIOD (NS_PER_SEC / 10)
#define BYTES_A_PERIOD (256u << 10)
#define BYTES_A_REQUEST (64u << 10)

struct virtio_rng {
	struct virtio_dev v; /* must be first */
	struct timer *refill;
	int64_t period_end;
	unsigned left; /* bytes in this period */
};

/* Fills what it can of the buffer; getrandom does not fail once the host has booted. */
static uint32_t fill(struct virtio_rng *r, const struct virtq_elem *e)
{
	size_t want = e->in_len < BYTES_A_REQUEST ? e->in_len : BYTES_A_REQUEST, done = 0;
	uint8_t chunk[256];

	if (want > r->left)
		want = r->left;
	while (done < want) {
		size_t n = want - done < sizeof(chunk) ? want - done : sizeof(chunk);
		ssize_t got = getrandom(chunk, n, 0);

		if (got <= 0)
			break;
		done += virtq_copy_in(e->in, e->in_n, done, chunk, (size_t)got);
	}
	r->left -= (unsigned)done;
	return (uint32_t)done;
}

static void rng_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtio_rng *r = (struct virtio_rng *)v;
	struct virtq_elem *e;
	int64_t now = clock_now(v->clock);

	if (now >= r->period_end) {
		r->period_end = now + PERIOD;
		r->left = BYTES_A_PERIOD;
	}
	while (r->left && (e = virtqueue_pop(vq)))
		virtqueue_push(vq, e, fill(r, e));
	if (!r->left)
		timer_arm(r->refill, r->period_end);
	virtqueue_notify(vq);
}

static void refill(void *opaque)
{
	virtqueue_run(&((struct virtio_rng *)opaque)->v.queue[0]);
}

static void rng_quiesce(struct virtio_dev *v)
{
}

static void rng_start(struct virtio_dev *v)
{
}

static void rng_virtio_reset(struct virtio_dev *v)
{
	timer_cancel(((struct virtio_rng *)v)->refill);
}

static void rng_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
}

static const struct virtio_ops virtio_ops = { rng_queue, rng_quiesce, rng_virtio_reset, rng_start, rng_config_write };

static void rng_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

/* The period starts anew on the other side; what waits is looked for again. */
static int rng_state(struct device *d, struct state *s)
{
	return virtio_state((struct virtio_dev *)d, s);
}

static void rng_destroy(struct device *d)
{
	struct virtio_rng *r = (struct virtio_rng *)d;

	timer_free(r->refill);
	virtio_finish(&r->v);
	g_free(r);
}

static const struct device_ops ops = { "virtio-rng", 1, rng_reset, rng_state, rng_destroy };

struct virtio_rng *virtio_rng_create(struct pci_bus *bus, unsigned devfn, struct clock *clock)
{
	const struct virtio_init init = {
		.device_ops = &ops, .ops = &virtio_ops, .id = "rng0", .device_type = 4, .class_code = 0x00ff00,
		.queues = 1, .queue_size = 64,
	};
	struct virtio_rng *r = g_new0(struct virtio_rng, 1);

	r->refill = timer_new(clock, refill, r);
	if (virtio_init(&r->v, bus, devfn, clock, &init)) {
		timer_free(r->refill);
		g_free(r);
		return NULL;
	}
	return r;
}

struct device *virtio_rng_device(struct virtio_rng *r)
{
	return &r->v.pci.device;
}
