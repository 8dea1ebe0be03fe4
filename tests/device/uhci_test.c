/* The UHCI controller and the tablet on it, driven by schedules in memory as a driver makes them. */
#include <string.h>

#include "base/bytes.h"
#include "dev/uhci.h"
#include "dev/usb_tablet.h"
#include "harness.h"

#define DEVFN (1 << 3 | 2)
#define RAM (1u << 20)
#define IO 0xc000u
#define FRAMES 0x10000u
#define QUEUE 0x12000u
#define TDS 0x13000u
#define DATA 0x14000u

#define ACTIVE (1u << 23)
#define IOC (1u << 24)
#define SPD (1u << 29)

struct rig {
	struct space *ports, *mmio;
	struct mem *mem;
	struct ram *ram;
	struct pci_bus *bus;
	struct clock *clock;
	struct line line[4];
	struct uhci *u;
	struct usb_tablet *t;
	unsigned address, toggle;
};

static void w32(struct rig *r, uint32_t at, uint32_t v) { mem_write(r->mem, at, &v, 4); }
static uint32_t r32(struct rig *r, uint32_t at) { return mem_read32(r->mem, at); }
static void outw(struct rig *r, unsigned reg, uint16_t v) { space_write(r->ports, IO + reg, 2, v); }
static uint16_t inw(struct rig *r, unsigned reg) { return (uint16_t)space_read(r->ports, IO + reg, 2); }
static void frames(struct rig *r, unsigned n) { clock_advance(r->clock, n * NS_PER_SEC / 1000); }

static void map(struct rig *r)
{
	pci_config_write(r->bus, DEVFN, 0x20, 4, IO);
	pci_config_write(r->bus, DEVFN, 0x04, 2, 5);
}

/* Port 1 out of reset, one queue in every frame, running. */
static void set_up(struct rig *r)
{
	struct irq lines[4];

	memset(r, 0, sizeof(*r));
	for (int i = 0; i < 4; i++)
		lines[i] = line_irq(r->line, i);
	r->ports = space_create("ports", 0xffff);
	r->mmio = space_create("mmio", UINT64_MAX);
	r->mem = mem_create();
	r->ram = ram_create("ram", RAM, NULL);
	mem_map(r->mem, 0, RAM, r->ram, 0, false);
	r->clock = clock_create_manual();
	r->bus = pci_bus_create(r->ports, r->mmio, r->mem, lines, NULL);
	r->u = uhci_create(r->bus, DEVFN, r->clock);
	r->t = usb_tablet_create();
	uhci_plug(r->u, 0, usb_tablet_usb(r->t));
	map(r);
	for (unsigned i = 0; i < 1024; i++)
		w32(r, FRAMES + 4 * i, QUEUE | 2);
	w32(r, QUEUE, 1);
	w32(r, QUEUE + 4, 1);
	outw(r, 0x08, FRAMES & 0xffff);
	outw(r, 0x0a, FRAMES >> 16);
	outw(r, 0x04, 0x0f);
	g_assert_cmphex(inw(r, 0x10), ==, 0x83);
	g_assert_cmphex(inw(r, 0x12), ==, 0x80);
	outw(r, 0x10, 0x0202);
	outw(r, 0x10, 0x0000);
	outw(r, 0x10, 0x0004);
	g_assert_cmphex(inw(r, 0x10), ==, 0x85);
	outw(r, 0x00, 0x0081);
}

static void take_down(struct rig *r)
{
	uhci_device(r->u)->ops->destroy(uhci_device(r->u));
	usb_tablet_device(r->t)->ops->destroy(usb_tablet_device(r->t));
	pci_bus_destroy(r->bus);
	clock_destroy(r->clock);
	mem_destroy(r->mem);
	ram_destroy(r->ram);
	space_destroy(r->ports);
	space_destroy(r->mmio);
}

static void td(struct rig *r, unsigned i, uint32_t link, uint32_t flags, unsigned pid, unsigned endpoint, uint32_t buffer, unsigned len)
{
	uint32_t at = TDS + 32 * i;

	w32(r, at, link);
	w32(r, at + 4, ACTIVE | 3u << 27 | flags);
	w32(r, at + 8, pid | r->address << 8 | endpoint << 15 | ((len - 1) & 0x7ff) << 21);
	w32(r, at + 12, buffer);
}

static unsigned actual(struct rig *r, unsigned i) { return (r32(r, TDS + 32 * i + 4) + 1) & 0x7ff; }
static bool active(struct rig *r, unsigned i) { return r32(r, TDS + 32 * i + 4) & ACTIVE; }

/* A control transfer that reads; returns the bytes, or -1 for a stall. Packets of 8, all in one frame. */
static int control_in(struct rig *r, uint8_t type, uint8_t request, uint16_t value, uint16_t len, uint8_t *to)
{
	uint8_t setup[8] = { type, request };
	unsigned n = 1, packets = (len + 7u) / 8, got = 0;

	st16le(setup + 2, value);
	st16le(setup + 6, len);
	mem_write(r->mem, DATA, setup, 8);
	td(r, 0, (TDS + 32) | 4, 0, 0x2d, 0, DATA, 8);
	for (; n <= packets; n++)
		td(r, n, (TDS + 32 * (n + 1)) | 4, SPD, 0x69, 0, DATA + 8 * n, MIN(8, len - 8 * (n - 1)));
	td(r, n, 1, IOC, type & 0x80 ? 0xe1 : 0x69, 0, 0, 0);
	w32(r, QUEUE + 4, TDS);
	frames(r, 10);
	for (unsigned i = 1; i <= packets; i++) {
		if (r32(r, TDS + 32 * i + 4) & 1u << 22)
			return -1;
		if (!active(r, i))
			got += actual(r, i);
	}
	/* A short packet stopped the queue before the status stage: the driver goes on there. */
	if (active(r, n)) {
		g_assert_cmphex(inw(r, 0x02) & 1, ==, 1);
		outw(r, 0x02, 1);
		w32(r, QUEUE + 4, TDS + 32 * n);
		frames(r, 10);
	}
	g_assert_false(active(r, n));
	g_assert_true(r->line[3].level);
	outw(r, 0x02, 1);
	g_assert_false(r->line[3].level);
	g_assert_cmphex(r32(r, QUEUE + 4), ==, 1);
	if (to)
		mem_read(r->mem, DATA + 8, to, got);
	return (int)got;
}

static void configure(struct rig *r)
{
	g_assert_cmpint(control_in(r, 0x00, 5, 7, 0, NULL), ==, 0);
	r->address = 7;
	g_assert_cmpint(control_in(r, 0x00, 9, 1, 0, NULL), ==, 0);
}

static void test_enumeration(void)
{
	struct rig r;
	uint8_t d[255];

	set_up(&r);
	g_assert_cmphex(pci_config_read(r.bus, DEVFN, 0, 4), ==, 0x70208086);
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0100, 8, d), ==, 8);
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0100, 64, d), ==, 18);
	g_assert_cmphex(ld32le(d + 8), ==, 0x00010627);
	configure(&r);
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0200, 255, d), ==, 34);
	g_assert_cmpuint(d[25], ==, 72);
	g_assert_cmpint(control_in(&r, 0x81, 6, 0x2200, 255, d), ==, 72);
	g_assert_cmphex(d[71], ==, 0xc0);
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0301, 255, d), ==, 12);
	g_assert_cmpmem(d + 2, 10, "g\0u\0i\0s\0e\0", 10);
	g_assert_cmpint(control_in(&r, 0x80, 8, 0, 1, d), ==, 1);
	g_assert_cmpuint(d[0], ==, 1);
	/* What it does not have. */
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0600, 10, d), ==, -1);
	outw(&r, 0x02, 0x1f);
	g_assert_cmpint(control_in(&r, 0x80, 6, 0x0309, 255, d), ==, -1);
	take_down(&r);
}

/* Polls endpoint 1 for a few frames; bytes, or -1 while it says NAK. */
static int poll(struct rig *r, uint8_t report[8])
{
	td(r, 0, 1, IOC, 0x69, 1, DATA, 8);
	w32(r, QUEUE + 4, TDS);
	frames(r, 10);
	if (active(r, 0)) {
		g_assert_true(r32(r, TDS + 4) & 1u << 19);
		return -1;
	}
	outw(r, 0x02, 0x1f);
	mem_read(r->mem, DATA, report, actual(r, 0));
	return (int)actual(r, 0);
}

static void test_tablet(void)
{
	struct rig r;
	uint8_t b[8];

	set_up(&r);
	g_assert_false(usb_tablet_move(r.t, 1, 2, 0, 0));
	configure(&r);
	g_assert_cmpint(poll(&r, b), ==, -1);
	/* Movements in a row are one; a click in between is not lost. */
	g_assert_true(usb_tablet_move(r.t, 100, 200, 0, 0));
	g_assert_true(usb_tablet_move(r.t, 0x1234, 0x7fff, 0, 0));
	g_assert_true(usb_tablet_move(r.t, 0x1234, 0x7fff, 0, 1));
	g_assert_true(usb_tablet_move(r.t, 0x1234, 0x7fff, 0, 0));
	g_assert_true(usb_tablet_move(r.t, 0, 0, 1, 0));
	g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpmem(b, 6, "\0\x34\x12\xff\x7f\0", 6);
	g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpuint(b[0], ==, 1);
	g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpuint(b[0], ==, 0);
	g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpmem(b, 6, "\0\0\0\0\0\xff", 6);
	g_assert_cmpint(poll(&r, b), ==, -1);
	for (unsigned i = 0; i < 100; i++)
		g_assert_true(usb_tablet_move(r.t, i, 0, 0, i & 1));
	for (unsigned i = 0; i < 16; i++)
		g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpuint(b[1], ==, 99);
	/* It sleeps in steps of eight frames, but wakes for an event. */
	td(&r, 0, 1, IOC, 0x69, 1, DATA, 8);
	w32(&r, QUEUE + 4, TDS);
	frames(&r, 100);
	usb_tablet_move(r.t, 5, 5, 0, 0);
	frames(&r, 2);
	g_assert_false(active(&r, 0));
	take_down(&r);
}

static void test_nonsense(void)
{
	struct rig r;
	uint16_t before;

	set_up(&r);
	/* A queue that leads to itself, a descriptor that does, and one in another queue's place. */
	w32(&r, QUEUE, QUEUE | 2);
	frames(&r, 20);
	w32(&r, QUEUE, 1);
	td(&r, 0, TDS, 0, 0x69, 0, DATA, 8);
	w32(&r, TDS + 4, 0);
	for (unsigned i = 0; i < 1024; i++)
		w32(&r, FRAMES + 4 * i, TDS);
	frames(&r, 20);
	g_assert_cmphex(inw(&r, 0x02), ==, 0);
	/* Nobody at that address. */
	r.address = 99;
	td(&r, 0, 1, IOC, 0x69, 0, DATA, 8);
	frames(&r, 10);
	g_assert_cmphex(r32(&r, TDS + 4) & 0x440000, ==, 0x440000);
	g_assert_cmphex(inw(&r, 0x02), ==, 3);
	outw(&r, 0x02, 0x1f);
	/* A buffer outside of RAM, then the frame list itself. */
	r.address = 0;
	td(&r, 0, 1, 0, 0x2d, 0, RAM, 8);
	frames(&r, 10);
	g_assert_cmphex(inw(&r, 0x02) & 8, ==, 8);
	outw(&r, 0x02, 0x1f);
	outw(&r, 0x0a, 0x7fff);
	frames(&r, 10);
	g_assert_cmphex(inw(&r, 0x02) & 8, ==, 8);
	outw(&r, 0x0a, FRAMES >> 16);
	outw(&r, 0x02, 0x1f);
	/* A length and a packet id that do not exist stop the controller. */
	td(&r, 0, 1, 0, 0x69, 0, DATA, 1281);
	frames(&r, 10);
	g_assert_cmphex(inw(&r, 0x02), ==, 0x30);
	g_assert_cmphex(inw(&r, 0x00) & 1, ==, 0);
	before = inw(&r, 0x06);
	frames(&r, 10);
	g_assert_cmphex(inw(&r, 0x06), ==, before);
	outw(&r, 0x00, 2);
	g_assert_cmphex(inw(&r, 0x00), ==, 0);
	g_assert_cmphex(inw(&r, 0x10), ==, 0x83);
	/* Unplugged. */
	uhci_plug(r.u, 0, NULL);
	g_assert_cmphex(inw(&r, 0x10), ==, 0x82);
	outw(&r, 0x10, 4);
	g_assert_cmphex(inw(&r, 0x10) & 4, ==, 0);
	take_down(&r);
}

static void test_frames(void)
{
	struct rig r;

	set_up(&r);
	frames(&r, 5);
	g_assert_cmpuint(inw(&r, 0x06), ==, 5);
	frames(&r, 2048);
	g_assert_cmpuint(inw(&r, 0x06), ==, 5);
	outw(&r, 0x00, 0);
	g_assert_cmphex(inw(&r, 0x02), ==, 0x20);
	outw(&r, 0x06, 0x123);
	g_assert_cmphex(inw(&r, 0x06), ==, 0x123);
	take_down(&r);
}

static void test_state(void)
{
	struct rig r;
	struct device *u, *t;
	GByteArray *us, *ts;
	uint8_t b[8];

	set_up(&r);
	u = uhci_device(r.u);
	t = usb_tablet_device(r.t);
	configure(&r);
	usb_tablet_move(r.t, 7, 8, 0, 1);
	us = device_save(u);
	ts = device_save(t);
	u->ops->reset(u);
	t->ops->reset(t);
	device_check_restore(u, us);
	device_check_restore(t, ts);
	g_assert_cmpint(poll(&r, b), ==, 6);
	g_assert_cmpmem(b, 6, "\1\7\0\10\0\0", 6);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/uhci/enumeration", test_enumeration);
	g_test_add_func("/uhci/tablet", test_tablet);
	g_test_add_func("/uhci/nonsense", test_nonsense);
	g_test_add_func("/uhci/frames", test_frames);
	g_test_add_func("/uhci/state", test_state);
	return g_test_run();
}
