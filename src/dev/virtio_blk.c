/*
 * Virtio disk: VIRTIO 1.2, 5.2. Requests go to the image asynchronously and finish in any order; what
 * a request is made of is taken as bytes, however the driver cut it into descriptors (2.7.4).
 */
#include "dev/virtio_blk.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio.h"

#define SECTOR 512u
#define QUEUE_SIZE 256
#define HEADER_SIZE 16u
#define ID_SIZE 20u
#define RANGE_SIZE 16u
#define MAX_RANGES 32
/* No driver moves more at once; descriptors can name the same memory over and over. */
#define MAX_TRANSFER (UINT32_C(1) << 30)
#define MAX_DISCARD_SECTORS (UINT32_C(1) << 22)
#define MAX_ZERO_SECTORS (UINT32_C(1) << 16)

struct virtio_blk {
	struct virtio_dev v; /* must be first */
	struct virtio_blk_config config;
	struct blk *blk;
	char id[16]; /* of the instance, for traces */
	char serial[ID_SIZE];
};

struct range {
	uint64_t sector;
	uint32_t count, flags;
};

struct request {
	struct virtio_blk *b;
	struct virtqueue *vq;
	struct virtq_elem *e;
	uint32_t type;
	unsigned at, ranges;  /* discard and write zeroes: one after the other */
	struct range range[];
};

/* The status is the last byte the driver lets us write; what comes before it may have been filled
 * even by a read that failed. */
static void finish(struct request *r, uint8_t status)
{
	size_t len = r->e->in_len;

	virtq_copy_in(r->e->in, r->e->in_n, len - 1, &status, 1);
	virtqueue_push(r->vq, r->e, (uint32_t)len);
	virtqueue_notify(r->vq);
	g_free(r);
}

static uint8_t status_of(int result)
{
	return result == 0 ? VIRTIO_BLK_S_OK : result == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void done(void *opaque, int result)
{
	finish(opaque, status_of(result));
}

/* ---- reading and writing ---- */

static bool within(const struct virtio_blk *b, uint64_t sector, uint64_t count)
{
	return sector <= b->config.capacity && count <= b->config.capacity - sector;
}

static void read_or_write(struct virtio_blk *b, struct request *r, uint64_t sector)
{
	const struct virtq_elem *e = r->e;
	bool write = r->type == VIRTIO_BLK_T_OUT;
	size_t len = write ? e->out_len - HEADER_SIZE : e->in_len - 1;
	struct iovec iov[VIRTQ_MAX_CHAIN];
	unsigned n;

	if (len % SECTOR || len > MAX_TRANSFER || !within(b, sector, len / SECTOR) || (write && blk_readonly(b->blk))) {
		device_guest_error(&b->v.pci.device, "%s of %zu bytes at sector %" PRIu64, write ? "write" : "read", len, sector);
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!len) {
		finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	if (write) {
		n = virtq_slice(e->out, e->out_n, HEADER_SIZE, len, iov);
		blk_writev(b->blk, sector, iov, (int)n, done, r);
	} else {
		n = virtq_slice(e->in, e->in_n, 0, len, iov);
		blk_readv(b->blk, sector, iov, (int)n, done, r);
	}
}

/* ---- discarding and zeroing ---- */

static void range_done(void *opaque, int result);

static void next_range(struct request *r)
{
	const struct range *g = &r->range[r->at++];

	if (r->type == VIRTIO_BLK_T_DISCARD)
		blk_discard(r->b->blk, g->sector, g->count, range_done, r);
	else
		blk_write_zeroes(r->b->blk, g->sector, g->count, g->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, range_done, r);
}

static void range_done(void *opaque, int result)
{
	struct request *r = opaque;

	if (result || r->at == r->ranges)
		finish(r, status_of(result));
	else
		next_range(r);
}

/* Copies the driver's list and checks all of it before anything is done (5.2.6.2). */
static uint8_t take_ranges(const struct virtio_blk *b, struct request *r)
{
	bool discard = r->type == VIRTIO_BLK_T_DISCARD;
	uint32_t most = discard ? MAX_DISCARD_SECTORS : MAX_ZERO_SECTORS;

	for (unsigned i = 0; i < r->ranges; i++) {
		struct range *g = &r->range[i];
		uint8_t d[RANGE_SIZE];

		virtq_copy_out(r->e->out, r->e->out_n, HEADER_SIZE + (size_t)i * RANGE_SIZE, d, sizeof(d));
		*g = (struct range){ ld64le(d), ld32le(d + 8), ld32le(d + 12) };
		if (g->flags & ~VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (discard && g->flags))
			return VIRTIO_BLK_S_UNSUPP;
		if (g->count > most || !within(b, g->sector, g->count))
			return VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_OK;
}

static void start_ranges(struct virtio_blk *b, struct request *r)
{
	uint8_t status = blk_readonly(b->blk) ? VIRTIO_BLK_S_IOERR : take_ranges(b, r);

	if (status == VIRTIO_BLK_S_OK && r->ranges) {
		next_range(r);
		return;
	}
	if (status != VIRTIO_BLK_S_OK)
		device_guest_error(&b->v.pci.device, "discard or write zeroes refused");
	finish(r, status);
}

/* ---- requests ---- */

static void get_id(struct virtio_blk *b, struct request *r)
{
	virtq_copy_in(r->e->in, r->e->in_n, 0, b->serial, MIN(r->e->in_len - 1, ID_SIZE));
	finish(r, VIRTIO_BLK_S_OK);
}

static unsigned range_count(const struct virtq_elem *e, uint32_t type)
{
	if (type != VIRTIO_BLK_T_DISCARD && type != VIRTIO_BLK_T_WRITE_ZEROES)
		return 0;
	return (unsigned)MIN((e->out_len - HEADER_SIZE) / RANGE_SIZE, MAX_RANGES + 1);
}

static void start_request(struct virtio_blk *b, struct virtqueue *vq, struct virtq_elem *e)
{
	uint8_t header[HEADER_SIZE];
	struct request *r;
	unsigned ranges;

	if (virtq_copy_out(e->out, e->out_n, 0, header, sizeof(header)) < sizeof(header) || !e->in_len) {
		virtio_broken(&b->v, "a request of %zu bytes out, %zu in", e->out_len, e->in_len);
		virtqueue_drop(vq, e);
		return;
	}
	ranges = range_count(e, ld32le(header));
	r = g_malloc0(sizeof(*r) + ranges * sizeof(struct range));
	*r = (struct request){ .b = b, .vq = vq, .e = e, .type = ld32le(header), .ranges = ranges };
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		read_or_write(b, r, ld64le(header + 8));
		break;
	case VIRTIO_BLK_T_FLUSH:
		blk_flush(b->blk, done, r);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(b, r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (ranges > MAX_RANGES)
			finish(r, VIRTIO_BLK_S_IOERR);
		else
			start_ranges(b, r);
		break;
	default:
		finish(r, VIRTIO_BLK_S_UNSUPP);
		break;
	}
}

static void blk_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq)))
		start_request((struct virtio_blk *)v, vq, e);
}

static void blk_quiesce(struct virtio_dev *v)
{
	blk_drain(((struct virtio_blk *)v)->blk);
}

static void blk_virtio_reset(struct virtio_dev *v)
{
}

static void blk_start(struct virtio_dev *v)
{
}

static void blk_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
	device_guest_error(&v->pci.device, "configuration 0x%x written", offset);
}

static const struct virtio_ops virtio_ops = { blk_queue, blk_quiesce, blk_virtio_reset, blk_start, blk_config_write };

/* ---- the device ---- */

static void blk_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int blk_state(struct device *d, struct state *s)
{
	return virtio_state((struct virtio_dev *)d, s);
}

/* The image has been closed by now: nothing is in flight. */
static void blk_destroy(struct device *d)
{
	struct virtio_blk *b = (struct virtio_blk *)d;

	virtio_finish(&b->v);
	g_free(b);
}

static const struct device_ops ops = { "virtio-blk", 1, blk_reset, blk_state, blk_destroy };

static void set_capacity(struct virtio_blk *b)
{
	uint64_t sectors = blk_size(b->blk) / SECTOR, cylinders = sectors / (16 * 63);

	b->config.capacity = sectors;
	b->config.geometry.cylinders = (uint16_t)MIN(cylinders, UINT16_MAX);
	b->config.geometry.heads = 16;
	b->config.geometry.sectors = 63;
}

static void set_config(struct virtio_blk *b, unsigned queues)
{
	set_capacity(b);
	/* Header and status take two descriptors of a chain without an indirect table. */
	b->config.seg_max = QUEUE_SIZE - 2;
	b->config.blk_size = SECTOR;
	b->config.physical_block_exp = 3; /* 4096: images live in files */
	b->config.min_io_size = 8;
	b->config.num_queues = (uint16_t)queues;
	b->config.max_discard_sectors = MAX_DISCARD_SECTORS;
	b->config.max_discard_seg = MAX_RANGES;
	b->config.discard_sector_alignment = 8;
	b->config.max_write_zeroes_sectors = MAX_ZERO_SECTORS;
	b->config.max_write_zeroes_seg = 1;
	b->config.write_zeroes_may_unmap = 1;
}

struct virtio_blk *virtio_blk_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct blk *blk,
				     const char *id, unsigned queues)
{
	struct virtio_blk *b = g_new0(struct virtio_blk, 1);
	struct virtio_init init = {
		.device_ops = &ops, .ops = &virtio_ops, .id = b->id, .device_type = 2, .class_code = 0x010000,
		.config = &b->config, .config_len = sizeof(b->config), .queues = queues, .queue_size = QUEUE_SIZE,
		.features = VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_BIT(VIRTIO_BLK_F_GEOMETRY) |
			    VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_BIT(VIRTIO_BLK_F_TOPOLOGY) |
			    VIRTIO_BIT(VIRTIO_BLK_F_FLUSH),
	};

	b->blk = blk;
	g_strlcpy(b->id, id, sizeof(b->id));
	memcpy(b->serial, id, MIN(strlen(id), ID_SIZE));
	if (queues > 1)
		init.features |= VIRTIO_BIT(VIRTIO_BLK_F_MQ);
	if (blk_readonly(blk))
		init.features |= VIRTIO_BIT(VIRTIO_BLK_F_RO);
	else
		init.features |= VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	set_config(b, queues);
	if (virtio_init(&b->v, bus, devfn, clock, &init)) {
		g_free(b);
		return NULL;
	}
	return b;
}

struct device *virtio_blk_device(struct virtio_blk *b)
{
	return &b->v.pci.device;
}

void virtio_blk_resized(struct virtio_blk *b)
{
	set_capacity(b);
	virtio_config_changed(&b->v);
}
