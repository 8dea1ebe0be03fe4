/* The test suites' device: scratch port, interrupt lines, MMIO scratch bytes (QEMU hw/misc/pc-testdev). */
#include "dev/testdev.h"

#include <glib.h>
#include <string.h>

#define SCRATCH_SIZE 0x10000u

struct testdev {
	struct device device;
	struct region *scratch_port, *flush_port, *line_ports, *window;
	struct irq line[TESTDEV_LINES];
	uint32_t port_value;
	uint8_t scratch[SCRATCH_SIZE];
};

static uint64_t port_read(void *opaque, uint64_t offset, unsigned len)
{
	struct testdev *t = opaque;

	return t->port_value >> (8 * offset);
}

static void port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct testdev *t = opaque;
	unsigned shift = 8 * (unsigned)offset;
	uint32_t mask = (uint32_t)((UINT64_C(1) << (8 * len)) - 1) << shift;

	t->port_value = (t->port_value & ~mask) | ((uint32_t)value << shift & mask);
}

/* A page whose mapping the host is to forget: nothing to do where no host mapping is kept. */
static uint64_t flush_read(void *opaque, uint64_t offset, unsigned len) { return 0; }
static void flush_write(void *opaque, uint64_t offset, unsigned len, uint64_t value) { }

static uint64_t line_read(void *opaque, uint64_t offset, unsigned len) { return 0; }

static void line_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	irq_set(&((struct testdev *)opaque)->line[offset], value != 0);
}

static uint64_t window_read(void *opaque, uint64_t offset, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, ((struct testdev *)opaque)->scratch + offset, len);
	return v;
}

static void window_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	memcpy(((struct testdev *)opaque)->scratch + offset, &value, len);
}

static const struct region_ops port_ops = { port_read, port_write, 1, 4 };
static const struct region_ops flush_ops = { flush_read, flush_write, 1, 4 };
static const struct region_ops line_ops = { line_read, line_write, 1, 1 };
static const struct region_ops window_ops = { window_read, window_write, 1, 8 };

static void testdev_reset(struct device *d)
{
	struct testdev *t = (struct testdev *)d;

	t->port_value = 0;
	memset(t->scratch, 0, sizeof(t->scratch));
	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		irq_set(&t->line[i], false);
}

static int testdev_state(struct device *d, struct state *s)
{
	struct testdev *t = (struct testdev *)d;

	state_u32(s, "port", &t->port_value);
	state_bytes(s, "scratch", t->scratch, sizeof(t->scratch));
	return state_error(s);
}

static void testdev_destroy(struct device *d)
{
	struct testdev *t = (struct testdev *)d;

	region_destroy(t->scratch_port);
	region_destroy(t->flush_port);
	region_destroy(t->line_ports);
	region_destroy(t->window);
	g_free(t);
}

static const struct device_ops testdev_ops = { "testdev", 1, testdev_reset, testdev_state, testdev_destroy };

struct testdev *testdev_create(struct space *ports, struct space *mmio, const struct irq line[TESTDEV_LINES])
{
	struct testdev *t = g_new0(struct testdev, 1);

	t->device.ops = &testdev_ops;
	t->device.id = "testdev";
	memcpy(t->line, line, sizeof(t->line));
	t->scratch_port = space_add(ports, "testdev", 0xe0, 4, &port_ops, t);
	t->flush_port = space_add(ports, "testdev-flush", 0xe4, 4, &flush_ops, t);
	t->line_ports = space_add(ports, "testdev-irq", 0x2000, TESTDEV_LINES, &line_ops, t);
	t->window = space_add(mmio, "testdev", 0xff000000, SCRATCH_SIZE, &window_ops, t);
	return t;
}

struct device *testdev_device(struct testdev *t) { return &t->device; }
