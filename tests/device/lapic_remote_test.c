/*
 * Local APICs that live in the kernel: the bus passes messages on, keeps the PIC's wire, and a state saved from the
 * kernel's APICs loads into our own and back. The I/O APIC tells the routes of its pins.
 */
#include <errno.h>

#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "harness.h"

#define CPUS 2

struct kernel {
	struct apic_state apic[CPUS];
	unsigned sets, messages;
	uint64_t address;
	uint32_t data;
	bool refuse, intr;
	uint32_t route[IOAPIC_PINS];
	unsigned routes;
};

static void send_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct kernel *k = opaque;

	k->messages++;
	k->address = address;
	k->data = data;
}

static int get(void *opaque, unsigned cpu, struct apic_state *s)
{
	*s = ((struct kernel *)opaque)->apic[cpu];
	return 0;
}

static int set(void *opaque, unsigned cpu, const struct apic_state *s)
{
	struct kernel *k = opaque;

	if (k->refuse)
		return -EINVAL;
	k->sets++;
	k->apic[cpu] = *s;
	return 0;
}

static void intr(void *opaque, unsigned cpu, bool level)
{
	if (cpu == 0)
		((struct kernel *)opaque)->intr = level;
}

static void none(void *opaque, unsigned cpu) { }
static void sipi(void *opaque, unsigned cpu, uint8_t vector) { }
static void eoi(void *opaque, uint8_t vector) { }
static int pic_vector(void *opaque) { return 0x31; }
static uint64_t tsc(void *opaque, unsigned cpu) { return 0; }

static struct lapic_bus *make(struct kernel *k, struct clock *c, bool remote)
{
	const struct lapic_callbacks cb = { intr, none, none, sipi, eoi, pic_vector, tsc, k };
	const struct lapic_remote r = { send_msi, get, set, k };
	struct lapic_bus *b = lapic_bus_create(CPUS, c, 1000000000, &cb);

	if (remote)
		lapic_bus_set_remote(b, &r);
	lapic_bus_device(b)->ops->reset(lapic_bus_device(b));
	return b;
}

static void end(struct lapic_bus *b)
{
	lapic_bus_device(b)->ops->destroy(lapic_bus_device(b));
}

static void test_wires(void)
{
	struct kernel k = { 0 };
	struct clock *c = clock_create_manual();
	struct lapic_bus *b = make(&k, c, true);

	g_assert_cmpuint(k.sets, ==, CPUS);
	g_assert_cmphex(k.apic[0].base, ==, 0xfee00900);
	g_assert_cmphex(k.apic[0].lvt[3], ==, 0x700);
	g_assert_cmphex(k.apic[1].lvt[3], ==, 0x10000);
	lapic_bus_deliver_msi(b, 0xfee01000, 0x4031);
	g_assert_cmpuint(k.messages, ==, 1);
	g_assert_cmphex(k.address, ==, 0xfee01000);
	g_assert_cmphex(k.data, ==, 0x4031);
	/* Whether LINT0 is masked is the kernel's to know. */
	lapic_set_extint(b, true);
	g_assert_true(k.intr);
	g_assert_cmpint(lapic_ack(b, 0), ==, 0x31);
	lapic_set_extint(b, false);
	g_assert_false(k.intr);
	g_assert_cmpint(lapic_ack(b, 0), ==, -1);
	end(b);
	clock_destroy(c);
}

/* Kernel, saved, our own, saved, another kernel: the same registers. */
static void test_states(void)
{
	struct kernel k = { 0 }, l = { 0 };
	struct clock *c = clock_create_manual();
	struct lapic_bus *from, *own, *to;
	GByteArray *saved, *again;

	clock_advance(c, 5 * NS_PER_SEC);
	from = make(&k, c, true);
	k.apic[1].svr = 0x1ff;
	k.apic[1].tpr = 0x20;
	k.apic[1].ldr = 0x02000000;
	k.apic[1].irr[2] = 1;
	k.apic[1].tmr[2] = 1;
	k.apic[1].isr[1] = 4;
	k.apic[1].lvt[0] = 0x20033;
	k.apic[1].timer_init = 1000000;
	k.apic[1].timer_now = 400000;
	k.apic[1].timer_divide = 0xb;
	saved = device_save(lapic_bus_device(from));
	own = make(&l, c, false);
	g_assert_cmpint(device_restore(lapic_bus_device(own), saved), ==, 0);
	g_assert_cmphex(lapic_mmio_read(own, 1, 0x80), ==, 0x20);
	g_assert_cmphex(lapic_mmio_read(own, 1, 0x220), ==, 1);
	g_assert_cmpuint(lapic_mmio_read(own, 1, 0x390), ==, 400000);
	again = device_save(lapic_bus_device(own));
	to = make(&l, c, true);
	g_assert_cmpint(device_restore(lapic_bus_device(to), again), ==, 0);
	g_assert_cmpmem(k.apic, sizeof(k.apic), l.apic, sizeof(l.apic));
	/* A state that the engine refuses is not taken for loaded. */
	l.refuse = true;
	g_assert_cmpint(device_restore(lapic_bus_device(to), again), ==, -EINVAL);
	g_byte_array_free(saved, TRUE);
	g_byte_array_free(again, TRUE);
	end(from);
	end(own);
	end(to);
	clock_destroy(c);
}

static void route(void *opaque, unsigned pin, uint64_t address, uint32_t data)
{
	struct kernel *k = opaque;

	k->routes++;
	k->route[pin] = data;
	k->address = address;
}

static void test_routes(void)
{
	struct kernel k = { 0 };
	const struct msi_sink sink = { send_msi, &k };
	struct space *mmio = space_create("mmio", UINT64_MAX);
	struct ioapic *a = ioapic_create(mmio, 0xfec00000, &sink);
	GByteArray *saved;

	ioapic_set_route_listener(a, route, &k);
	g_assert_cmpuint(k.routes, ==, IOAPIC_PINS);
	space_write(mmio, 0xfec00000, 4, 0x10 + 2 * 9 + 1);
	space_write(mmio, 0xfec00010, 4, 0x01000000);
	space_write(mmio, 0xfec00000, 4, 0x10 + 2 * 9);
	space_write(mmio, 0xfec00010, 4, 0x8042);
	g_assert_cmphex(k.route[9], ==, 0xc042);
	g_assert_cmphex(k.address, ==, 0xfee01000);
	saved = device_save(ioapic_device(a));
	ioapic_device(a)->ops->reset(ioapic_device(a));
	g_assert_cmphex(k.route[9], ==, 0);
	/* What is being served when a state is loaded ends by a route as well. */
	g_assert_cmpint(device_restore(ioapic_device(a), saved), ==, 0);
	g_assert_cmphex(k.route[9], ==, 0xc042);
	g_byte_array_free(saved, TRUE);
	ioapic_device(a)->ops->destroy(ioapic_device(a));
	space_destroy(mmio);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/lapic-remote/wires", test_wires);
	g_test_add_func("/lapic-remote/states", test_states);
	g_test_add_func("/lapic-remote/routes", test_routes);
	return g_test_run();
}
