/* What tells the host of a guest in trouble: the panic port and the 6300ESB watchdog. */
#include "dev/i6300esb.h"
#include "dev/pvpanic.h"
#include "harness.h"

#define DEVFN (5 << 3)
#define BAR 0xfe000000u

static unsigned events, expirations;
static enum pvpanic_event last_event;

static void panicked(void *opaque, enum pvpanic_event event)
{
	events++;
	last_event = event;
}

static void expired(void *opaque) { expirations++; }

static void test_pvpanic(void)
{
	struct space *s = space_create("ports", 0xffff);
	struct device *d = pvpanic_device(pvpanic_create(s, panicked, NULL));

	events = 0;
	g_assert_cmphex(in(s, PVPANIC_PORT), ==, 3);
	out(s, PVPANIC_PORT, 4);
	g_assert_cmpuint(events, ==, 0);
	g_assert_cmpuint(d->guest_errors, ==, 1);
	out(s, PVPANIC_PORT, 1);
	g_assert_cmpuint(last_event, ==, PVPANIC_PANICKED);
	out(s, PVPANIC_PORT, 3);
	g_assert_cmpuint(last_event, ==, PVPANIC_CRASH_LOADED);
	g_assert_cmpuint(events, ==, 2);
	device_check_restore(d, device_save(d));
	d->ops->destroy(d);
	space_destroy(s);
}

struct rig {
	struct space *ports, *mmio;
	struct mem *mem;
	struct pci_bus *bus;
	struct clock *clock;
	struct device *w;
};

static void set_up(struct rig *r)
{
	r->ports = space_create("ports", 0xffff);
	r->mmio = space_create("mmio", UINT64_MAX);
	r->mem = mem_create();
	r->bus = pci_bus_create(r->ports, r->mmio, r->mem, NULL, NULL);
	r->clock = clock_create_manual();
	r->w = i6300esb_device(i6300esb_create(r->bus, DEVFN, r->clock, expired, NULL));
	pci_config_write(r->bus, DEVFN, 0x10, 4, BAR);
	pci_config_write(r->bus, DEVFN, 0x04, 2, 2);
	expirations = 0;
}

static void take_down(struct rig *r)
{
	r->w->ops->destroy(r->w);
	pci_bus_destroy(r->bus);
	mem_destroy(r->mem);
	clock_destroy(r->clock);
	space_destroy(r->ports);
	space_destroy(r->mmio);
}

static void put(struct rig *r, unsigned reg, unsigned len, uint32_t value)
{
	space_write(r->mmio, BAR + 0x0c, 2, 0x80);
	space_write(r->mmio, BAR + 0x0c, 2, 0x86);
	space_write(r->mmio, BAR + reg, len, value);
}

/* Two stages of about a second each. */
static void start(struct rig *r)
{
	pci_config_write(r->bus, DEVFN, 0x60, 2, 3);
	put(r, 0, 4, 1007);
	put(r, 4, 4, 1007);
	pci_config_write(r->bus, DEVFN, 0x68, 1, 2);
}

static void test_expiry(void)
{
	struct rig r;

	set_up(&r);
	start(&r);
	clock_advance(r.clock, 900 * NS_PER_SEC / 1000);
	g_assert_cmphex(space_read(r.mmio, BAR + 8, 4), ==, 0);
	clock_advance(r.clock, 200 * NS_PER_SEC / 1000);
	g_assert_cmphex(space_read(r.mmio, BAR + 8, 4), ==, 1);
	/* A sign of life starts it over; without the sequence it is none. */
	put(&r, 0x0c, 2, 0x100);
	clock_advance(r.clock, 1900 * NS_PER_SEC / 1000);
	g_assert_cmpuint(expirations, ==, 0);
	space_write(r.mmio, BAR + 0x0c, 2, 0x100);
	clock_advance(r.clock, 200 * NS_PER_SEC / 1000);
	g_assert_cmpuint(expirations, ==, 1);
	clock_advance(r.clock, 100 * NS_PER_SEC);
	g_assert_cmpuint(expirations, ==, 1);
	/* The reset that follows stops it and keeps the reason. */
	r.w->ops->reset(r.w);
	pci_config_write(r.bus, DEVFN, 0x10, 4, BAR);
	pci_config_write(r.bus, DEVFN, 0x04, 2, 2);
	g_assert_cmphex(space_read(r.mmio, BAR + 0x0c, 2), ==, 0x200);
	put(&r, 0x0c, 2, 0x200);
	g_assert_cmphex(space_read(r.mmio, BAR + 0x0c, 2), ==, 0);
	take_down(&r);
}

static void test_modes(void)
{
	struct rig r;

	set_up(&r);
	start(&r);
	pci_config_write(r.bus, DEVFN, 0x68, 1, 0);
	clock_advance(r.clock, 100 * NS_PER_SEC);
	g_assert_cmpuint(expirations, ==, 0);
	/* Running free, it comes again; the fast clock is a thousand times faster. */
	pci_config_write(r.bus, DEVFN, 0x60, 2, 7);
	pci_config_write(r.bus, DEVFN, 0x68, 1, 6);
	clock_advance(r.clock, 21 * NS_PER_SEC / 1000);
	g_assert_cmpuint(expirations, ==, 10);
	/* Without a reboot nothing happens. */
	pci_config_write(r.bus, DEVFN, 0x60, 2, 0x27);
	clock_advance(r.clock, NS_PER_SEC);
	g_assert_cmpuint(expirations, ==, 10);
	/* Locked, it runs whatever the guest writes. */
	pci_config_write(r.bus, DEVFN, 0x60, 2, 3);
	pci_config_write(r.bus, DEVFN, 0x68, 1, 3);
	pci_config_write(r.bus, DEVFN, 0x68, 1, 0);
	g_assert_cmphex(pci_config_read(r.bus, DEVFN, 0x68, 1), ==, 3);
	clock_advance(r.clock, 3 * NS_PER_SEC);
	g_assert_cmpuint(expirations, ==, 11);
	take_down(&r);
}

static void test_state(void)
{
	struct rig r;
	GByteArray *saved;

	set_up(&r);
	start(&r);
	pci_config_write(r.bus, DEVFN, 0x68, 1, 3);
	clock_advance(r.clock, 1500 * NS_PER_SEC / 1000);
	saved = device_save(r.w);
	r.w->ops->reset(r.w);
	device_check_restore(r.w, saved);
	clock_advance(r.clock, 400 * NS_PER_SEC / 1000);
	g_assert_cmpuint(expirations, ==, 0);
	clock_advance(r.clock, 200 * NS_PER_SEC / 1000);
	g_assert_cmpuint(expirations, ==, 1);
	take_down(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/watch/pvpanic", test_pvpanic);
	g_test_add_func("/watch/i6300esb/expiry", test_expiry);
	g_test_add_func("/watch/i6300esb/modes", test_modes);
	g_test_add_func("/watch/i6300esb/state", test_state);
	return g_test_run();
}
