/*
 * The virtio core with a device that turns each buffer around: negotiation, split and packed rings,
 * indirect tables, event index, interrupts, state, and drivers that lie.
 */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio.h"
#include "dev/virtio_rng.h"
#include "device_state.h"
#include "virtio_driver.h"

#define DEVFN (4 << 3)
#define QUEUE_MAX 16

/* ---- the device: writes what it reads, reversed ---- */

struct mirror {
	struct virtio_dev v;
	struct { uint32_t number; uint8_t text[4]; } config;
	unsigned starts, resets;
	bool hold; /* keep one buffer */
	struct virtq_elem *held;
};

static void mirror_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct mirror *m = (struct mirror *)v;
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		uint8_t b[4096];
		size_t n = virtq_copy_out(e->out, e->out_n, 0, b, sizeof(b));

		if (m->hold && !m->held) {
			m->held = e;
			continue;
		}
		for (size_t i = 0; i < n / 2; i++) {
			uint8_t t = b[i];

			b[i] = b[n - 1 - i];
			b[n - 1 - i] = t;
		}
		n = virtq_copy_in(e->in, e->in_n, 0, b, n);
		virtqueue_push(vq, e, (uint32_t)n);
	}
	virtqueue_notify(vq);
}

static void mirror_quiesce(struct virtio_dev *v)
{
	struct mirror *m = (struct mirror *)v;

	if (m->held)
		virtqueue_unpop(&v->queue[0], m->held);
	m->held = NULL;
}

static void mirror_virtio_reset(struct virtio_dev *v) { ((struct mirror *)v)->resets++; }
static void mirror_start(struct virtio_dev *v) { ((struct mirror *)v)->starts++; }

static void mirror_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
	if (offset >= 4)
		st_le((uint8_t *)v->config + offset, len, value);
}

static const struct virtio_ops mirror_virtio = { mirror_queue, mirror_quiesce, mirror_virtio_reset, mirror_start,
						 mirror_config_write };

static void mirror_reset(struct device *d) { virtio_reset((struct virtio_dev *)d); }
static int mirror_state(struct device *d, struct state *s) { return virtio_state((struct virtio_dev *)d, s); }

static void mirror_destroy(struct device *d)
{
	mirror_quiesce((struct virtio_dev *)d);
	virtio_finish((struct virtio_dev *)d);
	g_free(d);
}

static const struct device_ops mirror_ops = { "mirror", 1, mirror_reset, mirror_state, mirror_destroy };

static struct mirror *mirror_create(struct drv *d)
{
	struct mirror *m = g_new0(struct mirror, 1);
	const struct virtio_init init = {
		.device_ops = &mirror_ops, .ops = &mirror_virtio, .id = "mirror0", .device_type = 0x3f,
		.class_code = 0xff0000, .features = 1, .config = &m->config, .config_len = sizeof(m->config),
		.queues = 2, .queue_size = QUEUE_MAX,
	};

	m->config.number = 0x12345678;
	g_assert_cmpint(virtio_init(&m->v, d->bus, DEVFN, d->clock, &init), ==, 0);
	return m;
}

static struct mirror *set_up(struct drv *d, uint64_t features, uint16_t size)
{
	struct mirror *m;

	drv_init(d);
	m = mirror_create(d);
	drv_probe(d, DEVFN);
	g_assert_true(drv_negotiate(d, features));
	drv_queue_setup(d, 0, size);
	drv_ok(d);
	g_assert_cmpuint(m->starts, ==, 1);
	return m;
}

static void take_down(struct drv *d, struct mirror *m)
{
	mirror_destroy(&m->v.pci.device);
	drv_finish(d);
}

/* One buffer "hello" in two reads, room for the answer in two writes. */
static uint16_t add_hello(struct drv *d, uint64_t at, bool indirect)
{
	const struct drv_buf b[] = { { at, 2, false }, { at + 2, 3, false }, { at + 0x100, 1, true }, { at + 0x101, 100, true } };

	mem_write(d->mem, at, "hello", 5);
	return drv_add(d, 0, b, 4, indirect);
}

static void check_hello(struct drv *d, uint64_t at, uint16_t head)
{
	uint32_t id, len;
	char answer[5];

	g_assert_true(drv_used(d, 0, &id, &len));
	g_assert_cmpuint(id, ==, head);
	g_assert_cmpuint(len, ==, 5);
	mem_read(d->mem, at + 0x100, answer, 5);
	g_assert_cmpmem(answer, 5, "olleh", 5);
}

/* ---- tests ---- */

static void test_negotiation(void)
{
	struct drv d;
	struct mirror *m;
	uint64_t offered;

	drv_init(&d);
	m = mirror_create(&d);
	drv_probe(&d, DEVFN);
	g_assert_cmphex(pci_config_read(d.bus, DEVFN, 0, 4), ==, 0x107f1af4);
	offered = drv_offered(&d);
	g_assert_cmphex(offered, ==, F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_PACKED | F_RING_RESET | 1);
	/* What is not offered, and what every modern driver must take. */
	g_assert_false(drv_negotiate(&d, F_VERSION_1 | 2));
	g_assert_false(drv_negotiate(&d, 1));
	/* Then DRIVER_OK is not taken either. */
	drv_common_write(&d, 0x14, 1, 7);
	g_assert_false(drv_status(&d) & S_DRIVER_OK);
	g_assert_true(drv_negotiate(&d, F_VERSION_1 | 1));
	/* Features are final. */
	drv_common_write(&d, 8, 4, 0);
	drv_common_write(&d, 12, 4, 0);
	g_assert_cmphex(drv_common_read(&d, 12, 4), ==, 1);
	g_assert_cmpuint(drv_common_read(&d, 0x12, 2), ==, 2);
	/* Queue 7 does not exist: size 0, and writes go nowhere. */
	drv_common_write(&d, 0x16, 2, 7);
	g_assert_cmpuint(drv_common_read(&d, 0x18, 2), ==, 0);
	drv_common_write(&d, 0x18, 2, 8);
	drv_common_write(&d, 0x1c, 2, 1);
	/* Configuration: bytes of both sizes, beyond the end, a write. */
	g_assert_cmphex(drv_config_read(&d, 0, 4), ==, 0x12345678);
	g_assert_cmphex(drv_config_read(&d, 2, 1), ==, 0x34);
	g_assert_cmphex(drv_config_read(&d, 8, 4), ==, 0);
	space_write(d.mmio, d.config + 5, 1, 'x');
	g_assert_cmphex(drv_config_read(&d, 4, 4), ==, 'x' << 8);
	take_down(&d, m);
}

static void test_pci_window(void)
{
	struct drv d;
	struct mirror *m;
	unsigned at;

	drv_init(&d);
	m = mirror_create(&d);
	drv_probe(&d, DEVFN);
	for (at = pci_config_read(d.bus, DEVFN, 0x34, 1); pci_config_read(d.bus, DEVFN, at, 1) != 9 ||
	     pci_config_read(d.bus, DEVFN, at + 3, 1) != 5; at = pci_config_read(d.bus, DEVFN, at + 1, 1))
		;
	pci_config_write(d.bus, DEVFN, at + 4, 1, 4);
	pci_config_write(d.bus, DEVFN, at + 8, 4, 0x14);
	pci_config_write(d.bus, DEVFN, at + 12, 4, 1);
	pci_config_write(d.bus, DEVFN, at + 16, 1, 3);
	g_assert_cmphex(drv_status(&d), ==, 3);
	g_assert_cmphex(pci_config_read(d.bus, DEVFN, at + 16, 1), ==, 3);
	pci_config_write(d.bus, DEVFN, at + 8, 4, 0x2000);
	pci_config_write(d.bus, DEVFN, at + 12, 4, 4);
	g_assert_cmphex(pci_config_read(d.bus, DEVFN, at + 16, 4), ==, 0x12345678);
	/* Nonsense: another BAR, an odd width, far outside. */
	pci_config_write(d.bus, DEVFN, at + 12, 4, 3);
	pci_config_read(d.bus, DEVFN, at + 16, 4);
	pci_config_write(d.bus, DEVFN, at + 12, 4, 4);
	pci_config_write(d.bus, DEVFN, at + 8, 4, 0xfffffffc);
	pci_config_write(d.bus, DEVFN, at + 16, 4, 0);
	pci_config_read(d.bus, DEVFN, at + 16, 4);
	take_down(&d, m);
}

static void rounds(uint64_t features)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | features, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);

	/* Enough to wrap the ring, and in the packed one not at its end. */
	for (unsigned i = 0; i < 50; i++) {
		bool indirect = (features & F_INDIRECT) && i % 3 == 1;
		uint16_t head;

		mem_write(d.mem, at + 0x100, "\0\0\0\0\0", 5);
		head = add_hello(&d, at, indirect);
		drv_kick(&d, 0);
		check_hello(&d, at, head);
	}
	/* Two at once. */
	for (unsigned i = 0; i < 20; i++) {
		uint16_t a = add_hello(&d, at, features & F_INDIRECT), b = add_hello(&d, at, features & F_INDIRECT);

		drv_kick(&d, 0);
		check_hello(&d, at, a);
		check_hello(&d, at, b);
	}
	g_assert_cmpuint(m->v.pci.device.guest_errors, ==, 0);
	g_assert_cmphex(drv_status(&d), ==, 0x0f);
	take_down(&d, m);
}

static void test_split(void) { rounds(0); }
static void test_split_all(void) { rounds(F_INDIRECT | F_EVENT_IDX); }
static void test_packed(void) { rounds(F_PACKED); }
static void test_packed_all(void) { rounds(F_PACKED | F_INDIRECT | F_EVENT_IDX); }

static void test_interrupts(void)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);

	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_true(d.intx);
	g_assert_cmphex(space_read(d.mmio, d.isr, 1), ==, 1);
	g_assert_false(d.intx);
	g_assert_cmphex(space_read(d.mmio, d.isr, 1), ==, 0);
	virtio_config_changed(&m->v);
	g_assert_true(d.intx);
	g_assert_cmphex(space_read(d.mmio, d.isr, 1), ==, 2);
	g_assert_cmpuint(drv_common_read(&d, 0x15, 1), ==, 1);
	/* The driver does not want to hear. */
	drv_poke16(&d, d.q[0].driver, 1);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_false(d.intx);
	drv_poke16(&d, d.q[0].driver, 0);
	/* Messages. */
	drv_msix(&d, 2);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_false(d.intx);
	g_assert_cmpuint(d.msi[1], ==, 1);
	virtio_config_changed(&m->v);
	g_assert_cmpuint(d.msi[0], ==, 1);
	/* A vector that does not exist reads back as none. */
	drv_common_write(&d, 0x16, 2, 0);
	drv_common_write(&d, 0x1a, 2, 3);
	g_assert_cmphex(drv_common_read(&d, 0x1a, 2), ==, 0xffff);
	take_down(&d, m);
}

/* Split ring: used_event tells when, avail_event is what the device asks for. */
static void test_event_index(void)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | F_EVENT_IDX, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16), used_event = d.q[0].driver + 4 + 16, avail_event = d.q[0].device + 4 + 64;

	drv_msix(&d, 2);
	drv_poke16(&d, used_event, 2);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 1); /* the first is never held back */
	g_assert_cmpuint(drv_peek16(&d, avail_event), ==, 1);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 1);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 2);
	g_assert_cmpuint(drv_peek16(&d, avail_event), ==, 3);
	take_down(&d, m);
}

static void test_packed_events(void)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | F_EVENT_IDX | F_PACKED, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);

	drv_msix(&d, 2);
	/* Wake at position 4 of the first round: the second buffer of four. */
	drv_poke16(&d, d.q[0].driver, 4 | 0x8000);
	drv_poke16(&d, d.q[0].driver + 2, 2);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 1);
	g_assert_cmphex(mem_read32(d.mem, d.q[0].device), ==, 0x28004);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 2);
	g_assert_cmphex(mem_read32(d.mem, d.q[0].device), ==, 0x20000);
	drv_poke16(&d, d.q[0].driver + 2, 1);
	add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmpuint(d.msi[1], ==, 2);
	take_down(&d, m);
}

/* The size and the addresses stay what they were when the queue went live. */
static void test_frozen_layout(void)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16), errors;
	uint16_t head;

	drv_common_write(&d, 0x16, 2, 0);
	errors = m->v.pci.device.guest_errors;
	drv_common_write(&d, 0x18, 2, 16);
	drv_common_write(&d, 0x20, 4, 0x3ffff0);
	drv_common_write(&d, 0x28, 4, 0x3ffff0);
	drv_common_write(&d, 0x30, 4, 0x3ffff0);
	g_assert_cmpuint(m->v.pci.device.guest_errors, ==, errors + 4);
	g_assert_cmpuint(drv_common_read(&d, 0x18, 2), ==, 8);
	g_assert_cmphex(drv_common_read(&d, 0x20, 4), ==, d.q[0].desc);
	for (unsigned i = 0; i < 10; i++) {
		head = add_hello(&d, at, false);
		drv_kick(&d, 0);
		check_hello(&d, at, head);
	}
	/* Nor does another queue come up now. */
	drv_common_write(&d, 0x16, 2, 1);
	drv_common_write(&d, 0x20, 4, (uint32_t)drv_alloc(&d, 0x1000, 16));
	drv_common_write(&d, 0x1c, 2, 1);
	g_assert_cmpuint(drv_common_read(&d, 0x1c, 2), ==, 0);
	take_down(&d, m);
}

static void test_bad_layouts(void)
{
	struct drv d;
	struct mirror *m;

	drv_init(&d);
	m = mirror_create(&d);
	drv_probe(&d, DEVFN);
	g_assert_true(drv_negotiate(&d, F_VERSION_1));
	drv_common_write(&d, 0x18, 2, 0);
	drv_common_write(&d, 0x18, 2, 17);
	g_assert_cmpuint(drv_common_read(&d, 0x18, 2), ==, QUEUE_MAX);
	drv_common_write(&d, 0x18, 2, 6); /* a split ring's is a power of two */
	drv_common_write(&d, 0x1c, 2, 1);
	g_assert_true(drv_status(&d) & S_NEEDS_RESET);
	g_assert_cmpuint(drv_common_read(&d, 0x1c, 2), ==, 0);
	g_assert_true(drv_negotiate(&d, F_VERSION_1));
	drv_common_write(&d, 0x20, 4, 0x1008); /* not aligned */
	drv_common_write(&d, 0x1c, 2, 1);
	g_assert_true(drv_status(&d) & S_NEEDS_RESET);
	g_assert_true(drv_negotiate(&d, F_VERSION_1 | F_PACKED));
	drv_common_write(&d, 0x18, 2, 6);
	drv_common_write(&d, 0x1c, 2, 1);
	g_assert_cmphex(drv_status(&d), ==, 0x0b);
	g_assert_cmpuint(drv_common_read(&d, 0x1c, 2), ==, 1);
	/* Before FEATURES_OK nothing is enabled. */
	drv_common_write(&d, 0x14, 1, 0);
	drv_common_write(&d, 0x1c, 2, 1);
	g_assert_cmpuint(drv_common_read(&d, 0x1c, 2), ==, 0);
	take_down(&d, m);
}

static void test_queue_reset(void)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | F_RING_RESET, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);
	uint16_t head;

	add_hello(&d, at, false);
	drv_kick(&d, 0);
	drv_common_write(&d, 0x16, 2, 0);
	drv_common_write(&d, 0x3a, 2, 1);
	g_assert_cmpuint(drv_common_read(&d, 0x3a, 2), ==, 0);
	g_assert_cmpuint(drv_common_read(&d, 0x1c, 2), ==, 0);
	g_assert_cmpuint(drv_common_read(&d, 0x18, 2), ==, QUEUE_MAX);
	/* It comes back with another size while the device runs. */
	drv_queue_setup(&d, 0, 4);
	head = add_hello(&d, at, false);
	drv_kick(&d, 0);
	check_hello(&d, at, head);
	take_down(&d, m);
}

/* Each: what the driver does wrong after DRIVER_OK. */
static void lie_head(struct drv *d) { drv_avail(d, 0, 8); }

static void lie_loop(struct drv *d)
{
	drv_desc(d, d->q[0].desc, 0, 0x1000, 1, 1, 1);
	drv_desc(d, d->q[0].desc, 1, 0x1000, 1, 1, 0);
	drv_avail(d, 0, 0);
}

static void lie_next(struct drv *d)
{
	drv_desc(d, d->q[0].desc, 0, 0x1000, 1, 1, 0xffff);
	drv_avail(d, 0, 0);
}

static void lie_index(struct drv *d) { drv_poke16(d, d->q[0].driver + 2, 9); }

static void lie_address(struct drv *d)
{
	const struct drv_buf b = { DRV_RAM - 4, 8, true };

	drv_add(d, 0, &b, 1, false);
}

static void lie_wrap(struct drv *d)
{
	const struct drv_buf b = { UINT64_MAX - 3, 16, false };

	drv_add(d, 0, &b, 1, false);
}

static void lie_huge(struct drv *d)
{
	const struct drv_buf b = { 0x1000, UINT32_MAX, true };

	drv_add(d, 0, &b, 1, false);
}

static void lie_order(struct drv *d)
{
	const struct drv_buf b[] = { { 0x1000, 8, true }, { 0x1000, 8, false } };

	drv_add(d, 0, b, 2, false);
}

static void indirect(struct drv *d, uint64_t table, uint32_t len, uint16_t flags)
{
	drv_desc(d, d->q[0].desc, 0, table, len, flags, d->features & F_PACKED ? 0x84 | flags : 1);
	if (!(d->features & F_PACKED))
		drv_avail(d, 0, 0);
}

static void lie_table_length(struct drv *d) { indirect(d, 0x1000, 24, 4); }
static void lie_table_empty(struct drv *d) { indirect(d, 0x1000, 0, 4); }
static void lie_table_long(struct drv *d) { indirect(d, 0x1000, 16 * 1025, 4); }

static void lie_table_address(struct drv *d)
{
	drv_desc(d, DRV_RAM - 16, 0, 0x1000, 1, 1, 1);
	indirect(d, DRV_RAM - 16, 32, 4);
}

static void lie_table_next(struct drv *d)
{
	drv_desc(d, 0x1000, 0, 0x2000, 1, 0, 0);
	indirect(d, 0x1000, 16, 5);
}

static void lie_table_nested(struct drv *d)
{
	drv_desc(d, 0x1000, 0, 0x1000, 16, 4, 0);
	indirect(d, 0x1000, 16, 4);
}

static void lie_table_loop(struct drv *d)
{
	drv_desc(d, 0x1000, 0, 0x2000, 1, 1, 0);
	indirect(d, 0x1000, 16, 4);
}

/* The device keeps the first; the same descriptor again and again must not pile up. */
static void lie_again(struct drv *d)
{
	const struct drv_buf b = { 0x1000, 8, true };
	uint16_t head = drv_add(d, 0, &b, 1, false);

	drv_kick(d, 0);
	drv_poke16(d, d->q[0].driver + 2, (uint16_t)(d->q[0].avail + 100));
	for (unsigned i = 0; i < 8; i++)
		drv_poke16(d, d->q[0].driver + 4 + 2 * i, head);
}

static void lies(gconstpointer data)
{
	void (*const lie)(struct drv *) = (void (*)(struct drv *))data;
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | F_INDIRECT, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);
	uint16_t head;

	drv_msix(&d, 2);
	m->hold = lie == lie_again;
	lie(&d);
	drv_kick(&d, 0);
	g_assert_true(drv_status(&d) & S_NEEDS_RESET);
	g_assert_cmpuint(m->v.pci.device.guest_errors, ==, 1);
	g_assert_cmpuint(d.msi[0], ==, 1);
	/* Nothing moves any more. */
	d.q[0].used = drv_peek16(&d, d.q[0].device + 2);
	drv_kick(&d, 0);
	drv_kick(&d, 1);
	g_assert_cmpuint(drv_peek16(&d, d.q[0].device + 2), ==, d.q[0].used);
	/* After a reset all is well. */
	m->hold = false;
	g_assert_true(drv_negotiate(&d, F_VERSION_1 | F_INDIRECT));
	drv_queue_setup(&d, 0, 8);
	drv_ok(&d);
	head = add_hello(&d, at, true);
	drv_kick(&d, 0);
	check_hello(&d, at, head);
	take_down(&d, m);
}

static void packed_lie_loop(struct drv *d)
{
	for (unsigned i = 0; i < 8; i++)
		drv_desc(d, d->q[0].desc, i, 0x1000, 1, 0, 0x81);
}

static void packed_lie_address(struct drv *d)
{
	const struct drv_buf b = { DRV_RAM, 8, true };

	drv_add(d, 0, &b, 1, false);
}

static void packed_lie_table(struct drv *d) { indirect(d, 0x1000, 7, 0); }

static void packed_lie_chain(struct drv *d)
{
	drv_desc(d, d->q[0].desc, 1, 0x1000, 16, 0, 0x84);
	drv_desc(d, d->q[0].desc, 0, 0x1000, 1, 0, 0x81);
}

static void packed_lies(gconstpointer data)
{
	void (*const lie)(struct drv *) = (void (*)(struct drv *))data;
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | F_INDIRECT | F_PACKED, 8);

	lie(&d);
	drv_kick(&d, 0);
	g_assert_true(drv_status(&d) & S_NEEDS_RESET);
	g_assert_cmpuint(m->v.pci.device.guest_errors, ==, 1);
	take_down(&d, m);
}

/* Rings that are not in RAM at all, and a device cut off from memory. */
static void test_no_ram(void)
{
	struct drv d;
	struct mirror *m;
	uint64_t at;
	uint16_t head;

	drv_init(&d);
	m = mirror_create(&d);
	drv_probe(&d, DEVFN);
	g_assert_true(drv_negotiate(&d, F_VERSION_1));
	drv_common_write(&d, 0x20, 4, DRV_RAM);
	drv_common_write(&d, 0x28, 4, DRV_RAM);
	drv_common_write(&d, 0x30, 4, DRV_RAM);
	drv_common_write(&d, 0x1c, 2, 1);
	drv_ok(&d);
	g_assert_true(drv_status(&d) & S_NEEDS_RESET);
	take_down(&d, m);

	m = set_up(&d, F_VERSION_1, 8);
	at = drv_alloc(&d, 0x200, 16);
	pci_config_write(d.bus, DEVFN, 4, 2, 2);
	head = add_hello(&d, at, false);
	drv_kick(&d, 0);
	g_assert_cmphex(drv_status(&d), ==, 0x0f);
	g_assert_cmpuint(drv_peek16(&d, d.q[0].device + 2), ==, 0);
	pci_config_write(d.bus, DEVFN, 4, 2, 6);
	drv_kick(&d, 0);
	check_hello(&d, at, head);
	take_down(&d, m);
}

/* More than a ring's worth at one kick is taken in turns: the clock brings the rest. */
static unsigned feeds;

static void feed_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		uint16_t idx;

		virtqueue_push(vq, e, 0);
		feeds++;
		/* Another CPU makes the same buffer available without end. */
		pci_dma_read(&v->pci, vq->driver + 2, &idx, 2);
		idx++;
		pci_dma_write(&v->pci, vq->driver + 2, &idx, 2);
	}
}

static void test_budget(void)
{
	static const struct virtio_ops feed = { feed_queue, mirror_quiesce, mirror_virtio_reset, mirror_start,
						mirror_config_write };
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1, 8);

	m->v.ops = &feed;
	feeds = 0;
	drv_desc(&d, d.q[0].desc, 0, 0x1000, 1, 0, 0);
	drv_avail(&d, 0, 0);
	drv_kick(&d, 0);
	g_assert_cmpuint(feeds, ==, 8);
	g_assert_cmpint(timer_deadline(m->v.later), >=, 0);
	m->v.ops = &mirror_virtio;
	clock_advance(d.clock, 1);
	g_assert_cmpint(timer_deadline(m->v.later), <, 0);
	g_assert_cmpuint(drv_peek16(&d, d.q[0].device + 2), ==, 9);
	take_down(&d, m);
}

static void state_round(uint64_t features)
{
	struct drv d;
	struct mirror *m = set_up(&d, F_VERSION_1 | features, 8);
	uint64_t at = drv_alloc(&d, 0x200, 16);
	GByteArray *saved;
	uint16_t head = 0;

	for (unsigned i = 0; i < 4; i++) {
		m->hold = i == 3;
		head = add_hello(&d, at, false);
		drv_kick(&d, 0);
		if (i < 3)
			check_hello(&d, at, head);
	}
	g_assert_nonnull(m->held);
	m->hold = false;
	saved = device_save(&m->v.pci.device);
	mirror_reset(&m->v.pci.device);
	g_assert_cmphex(drv_status(&d), ==, 0xff); /* nothing decodes */
	device_check_restore(&m->v.pci.device, saved);
	/* The buffer that was being worked on is found again without a kick. */
	clock_advance(d.clock, 1);
	check_hello(&d, at, head);
	take_down(&d, m);
}

static void test_state(void)
{
	state_round(0);
	state_round(F_PACKED);
}

static void test_rng(void)
{
	struct drv d;
	struct virtio_rng *r;
	struct drv_buf b;
	uint8_t bytes[1024];
	uint32_t id, len;
	unsigned zeros = 0, total = 0;

	drv_init(&d);
	r = virtio_rng_create(d.bus, DEVFN, d.clock);
	drv_probe(&d, DEVFN);
	g_assert_true(drv_negotiate(&d, F_VERSION_1));
	drv_queue_setup(&d, 0, 8);
	drv_ok(&d);
	b = (struct drv_buf){ drv_alloc(&d, 1 << 20, 16), sizeof(bytes), true };
	drv_add(&d, 0, &b, 1, false);
	drv_kick(&d, 0);
	g_assert_true(drv_used(&d, 0, &id, &len));
	g_assert_cmpuint(len, ==, sizeof(bytes));
	mem_read(d.mem, b.gpa, bytes, sizeof(bytes));
	for (unsigned i = 0; i < sizeof(bytes); i++)
		zeros += !bytes[i];
	g_assert_cmpuint(zeros, <, 40);
	/* A megabyte at a time: given 64 KiB each, and no more than 256 KiB in a tenth of a second. */
	b.len = 1 << 20;
	for (unsigned i = 0; i < 8; i++)
		drv_add(&d, 0, &b, 1, false);
	drv_kick(&d, 0);
	for (total = 0; drv_used(&d, 0, &id, &len); total += len)
		g_assert_cmpuint(len, <=, 64 << 10);
	g_assert_cmpuint(total, ==, (256 << 10) - sizeof(bytes));
	clock_advance(d.clock, NS_PER_SEC / 10);
	for (total = 0; drv_used(&d, 0, &id, &len); total += len)
		;
	g_assert_cmpuint(total, ==, 256 << 10);
	virtio_rng_device(r)->ops->destroy(virtio_rng_device(r));
	drv_finish(&d);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*lie)(struct drv *); } split[] = {
		{ "head", lie_head }, { "loop", lie_loop }, { "next", lie_next }, { "index", lie_index },
		{ "address", lie_address }, { "wrap", lie_wrap }, { "huge", lie_huge }, { "order", lie_order },
		{ "table-length", lie_table_length }, { "table-empty", lie_table_empty }, { "table-long", lie_table_long },
		{ "table-address", lie_table_address }, { "table-next", lie_table_next },
		{ "table-nested", lie_table_nested }, { "table-loop", lie_table_loop }, { "again", lie_again },
	}, packed[] = {
		{ "loop", packed_lie_loop }, { "address", packed_lie_address }, { "table", packed_lie_table },
		{ "chain", packed_lie_chain },
	};

	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/virtio/negotiation", test_negotiation);
	g_test_add_func("/virtio/pci-window", test_pci_window);
	g_test_add_func("/virtio/split", test_split);
	g_test_add_func("/virtio/split-all", test_split_all);
	g_test_add_func("/virtio/packed", test_packed);
	g_test_add_func("/virtio/packed-all", test_packed_all);
	g_test_add_func("/virtio/interrupts", test_interrupts);
	g_test_add_func("/virtio/event-index", test_event_index);
	g_test_add_func("/virtio/packed-events", test_packed_events);
	g_test_add_func("/virtio/frozen-layout", test_frozen_layout);
	g_test_add_func("/virtio/bad-layouts", test_bad_layouts);
	g_test_add_func("/virtio/queue-reset", test_queue_reset);
	for (unsigned i = 0; i < G_N_ELEMENTS(split); i++) {
		g_autofree char *path = g_strdup_printf("/virtio/lies/%s", split[i].name);

		g_test_add_data_func(path, (gconstpointer)split[i].lie, lies);
	}
	for (unsigned i = 0; i < G_N_ELEMENTS(packed); i++) {
		g_autofree char *path = g_strdup_printf("/virtio/packed-lies/%s", packed[i].name);

		g_test_add_data_func(path, (gconstpointer)packed[i].lie, packed_lies);
	}
	g_test_add_func("/virtio/no-ram", test_no_ram);
	g_test_add_func("/virtio/budget", test_budget);
	g_test_add_func("/virtio/state", test_state);
	g_test_add_func("/virtio/rng", test_rng);
	return g_test_run();
}
