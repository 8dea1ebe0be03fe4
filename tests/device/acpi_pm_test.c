/* PIIX4 power management through its ports: timer, SCI, button, soft off, reset, SMBus, state. */
#include <glib.h>

#include "dev/acpi_pm.h"
#include "device_state.h"

#define DEVFN (1 << 3 | 3)

static const uint16_t PM = 0x600;

struct rig {
	struct space *ports, *mmio;
	struct mem *mem;
	struct pci_bus *bus;
	struct clock *clock;
	struct acpi_pm *pm;
	bool sci;
	unsigned poweroffs, resets;
};

static void set_sci(void *o, int line, bool level) { ((struct rig *)o)->sci = level; }
static void poweroff(void *o) { ((struct rig *)o)->poweroffs++; }
static void reset(void *o) { ((struct rig *)o)->resets++; }

static void rig_init(struct rig *r)
{
	const struct acpi_pm_callbacks cb = { poweroff, reset, r };

	*r = (struct rig){ .ports = space_create("ports", 0xffff), .mmio = space_create("mmio", UINT64_MAX), .mem = mem_create() };
	r->bus = pci_bus_create(r->ports, r->mmio, r->mem, NULL, NULL);
	r->clock = clock_create_manual();
	r->pm = acpi_pm_create(r->bus, DEVFN, r->ports, (struct irq){ set_sci, r, 9 }, r->clock, 0x600, &cb);
}

static void rig_finish(struct rig *r)
{
	acpi_pm_device(r->pm)->ops->destroy(acpi_pm_device(r->pm));
	pci_bus_destroy(r->bus);
	clock_destroy(r->clock);
	mem_destroy(r->mem);
	space_destroy(r->mmio);
	space_destroy(r->ports);
}

static void out(struct rig *r, uint16_t port, unsigned len, uint32_t v) { space_write(r->ports, port, len, v); }
static uint32_t in(struct rig *r, uint16_t port, unsigned len) { return (uint32_t)space_read(r->ports, port, len); }

static void test_timer(void)
{
	struct rig r;

	rig_init(&r);
	clock_advance(r.clock, NS_PER_SEC);
	g_assert_cmpuint(in(&r, PM + 8, 4), ==, 3579545);
	g_assert_cmpuint(in(&r, PM, 2) & 1, ==, 0);
	/* Bit 23 changes after 2.34 s, seen without any interrupt asked for; 24 bits wrap at 4.69 s. */
	clock_advance(r.clock, 2 * NS_PER_SEC);
	g_assert_cmpuint(in(&r, PM, 2) & 1, ==, 1);
	g_assert_false(r.sci);
	clock_advance(r.clock, 2 * NS_PER_SEC);
	g_assert_cmpuint(in(&r, PM + 8, 4), ==, 5 * 3579545 - 0x1000000);
	/* Enabled while pending: at once. Cleared: until the next change. */
	out(&r, 0xb2, 1, 0xf1);
	g_assert_cmpuint(in(&r, PM + 4, 2), ==, 1);
	out(&r, PM + 2, 2, 1);
	g_assert_true(r.sci);
	out(&r, PM, 2, 1);
	g_assert_false(r.sci);
	clock_advance(r.clock, NS_PER_SEC);
	g_assert_false(r.sci);
	clock_advance(r.clock, 2 * NS_PER_SEC);
	g_assert_true(r.sci);
	out(&r, 0xb2, 1, 0xf0);
	g_assert_false(r.sci);
	rig_finish(&r);
}

static void test_button_and_sleep(void)
{
	struct rig r;

	rig_init(&r);
	acpi_pm_power_button(r.pm);
	g_assert_cmphex(in(&r, PM, 4), ==, 0x100);
	g_assert_false(r.sci);
	out(&r, 0xb2, 1, 0xf1);
	out(&r, PM, 4, 0x01000000); /* enable only; the status byte is written 0 */
	g_assert_true(r.sci);
	/* A lone high byte clears the button and leaves the rest. */
	out(&r, PM + 1, 1, 0x01);
	g_assert_false(r.sci);
	g_assert_cmphex(in(&r, PM + 3, 1), ==, 0x01);
	/* Types the DSDT does not name do nothing. */
	out(&r, PM + 4, 2, 1 << 13 | 1 << 10 | 1);
	g_assert_cmpuint(r.poweroffs, ==, 0);
	g_assert_cmpuint(acpi_pm_device(r.pm)->guest_errors, ==, 1);
	out(&r, PM + 4, 2, 1 << 13 | 1);
	g_assert_cmpuint(r.poweroffs, ==, 1);
	g_assert_cmphex(in(&r, PM + 4, 2), ==, 1);
	/* General purpose events have nothing behind them, but their registers are there. */
	out(&r, 0xafe2, 2, 0x1234);
	g_assert_cmphex(in(&r, 0xafe0, 4), ==, 0x12340000);
	rig_finish(&r);
}

static void test_reset_port(void)
{
	struct rig r;

	rig_init(&r);
	/* A whole doubleword still reaches the PCI address register around it. */
	out(&r, 0xcf8, 4, 0x80000b00);
	g_assert_cmphex(in(&r, 0xcfc, 4), ==, 0x71138086);
	g_assert_cmpuint(r.resets, ==, 0);
	out(&r, 0xcf9, 1, 0x02);
	g_assert_cmpuint(r.resets, ==, 0);
	out(&r, 0xcf9, 1, 0x0f);
	g_assert_cmpuint(r.resets, ==, 1);
	g_assert_cmphex(in(&r, 0xcf8, 4), ==, 0x80000b00);
	rig_finish(&r);
}

static void test_bases(void)
{
	struct rig r;

	rig_init(&r);
	pci_config_write(r.bus, DEVFN, 0x40, 4, 0xb000 | 1);
	g_assert_cmphex(pci_config_read(r.bus, DEVFN, 0x40, 4), ==, 0xb001);
	g_assert_cmphex(in(&r, PM + 4, 2), ==, 0xffff);
	out(&r, 0xb004, 2, 1);
	g_assert_cmphex(in(&r, 0xb004, 2), ==, 1);
	pci_config_write(r.bus, DEVFN, 0x80, 1, 0);
	g_assert_cmphex(in(&r, 0xb004, 2), ==, 0xffff);
	acpi_pm_device(r.pm)->ops->reset(acpi_pm_device(r.pm));
	g_assert_cmphex(in(&r, PM + 4, 2), ==, 0);
	rig_finish(&r);
}

static void test_smbus(void)
{
	struct rig r;
	const uint16_t base = 0x700;

	rig_init(&r);
	out(&r, base + 4, 1, 0xa1);
	out(&r, base + 2, 1, 0x48);
	g_assert_cmphex(in(&r, base, 1), ==, 0x04);
	out(&r, base, 1, 0x1e);
	g_assert_cmphex(in(&r, base, 1), ==, 0);
	for (unsigned i = 0; i < 40; i++)
		out(&r, base + 7, 1, i);
	in(&r, base + 2, 1);
	g_assert_cmpuint(in(&r, base + 7, 1), ==, 32);
	/* With its interrupt on, a failed transfer raises IRQ 9. */
	g_assert_false(r.sci);
	out(&r, base + 2, 1, 0x41);
	g_assert_true(r.sci);
	out(&r, base, 1, 0x1e);
	g_assert_false(r.sci);
	rig_finish(&r);
}

static void test_state(void)
{
	g_autoptr(GByteArray) saved = NULL;
	struct rig r;
	struct device *d;

	rig_init(&r);
	d = acpi_pm_device(r.pm);
	out(&r, 0xb2, 1, 0xf1);
	out(&r, PM + 2, 2, 0x100);
	pci_config_write(r.bus, DEVFN, 0x40, 4, 0xb000);
	acpi_pm_power_button(r.pm);
	saved = device_save(d);
	d->ops->reset(d);
	g_assert_false(r.sci);
	g_assert_cmpint(device_restore(d, saved), ==, 0);
	g_assert_true(r.sci);
	g_assert_cmphex(in(&r, 0xb002, 2), ==, 0x100);
	device_check_saved(d, saved);
	rig_finish(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/acpi_pm/timer", test_timer);
	g_test_add_func("/acpi_pm/button-and-sleep", test_button_and_sleep);
	g_test_add_func("/acpi_pm/reset-port", test_reset_port);
	g_test_add_func("/acpi_pm/bases", test_bases);
	g_test_add_func("/acpi_pm/smbus", test_smbus);
	g_test_add_func("/acpi_pm/state", test_state);
	return g_test_run();
}
