/* PCI: configuration ports, BARs, interrupt pins and their routes, MSI-X, capabilities, the option ROM. */
#include <errno.h>

#include "bus/pci.h"
#include "dev/piix3.h"
#include "harness.h"

#define DEVFN 0x18 /* slot 3 */

struct card {
	struct pci_dev pci; /* must be first */
	uint8_t reg;
};

struct bench {
	struct space *ports, *mmio;
	struct mem *mem;
	struct pci_bus *bus;
	struct piix3 *piix3;
	struct card card;
	struct line isa[16];
	uint64_t msi_address;
	unsigned msis;
	uint32_t msi_data;
};

static void send_msi(void *o, uint64_t address, uint32_t data)
{
	struct bench *b = o;

	b->msis++;
	b->msi_address = address;
	b->msi_data = data;
}

static uint64_t card_read(void *o, uint64_t offset, unsigned len) { return ((struct card *)o)->reg; }
static void card_write(void *o, uint64_t offset, unsigned len, uint64_t v) { ((struct card *)o)->reg = (uint8_t)v; }
static void card_reset(struct device *d) { pci_dev_reset((struct pci_dev *)d); }
static int card_state(struct device *d, struct state *s) { return pci_dev_state((struct pci_dev *)d, s); }
static void card_destroy(struct device *d) { pci_dev_finish((struct pci_dev *)d); }

static const struct device_ops card_ops = { "card", 1, card_reset, card_state, card_destroy };

static void bench_init(struct bench *b)
{
	static const struct pci_ids ids = { 0x1234, 0x5678, 0x9abc, 0xdef0, 0x020000, 7 };
	static const struct region_ops ops = { card_read, card_write, 1, 1 };
	const struct msi_sink msi = { send_msi, b };
	struct irq isa[16], pirq[4];

	*b = (struct bench){ .ports = space_create("ports", 0xffff), .mmio = space_create("mmio", UINT64_MAX), .mem = mem_create() };
	for (int i = 0; i < 16; i++)
		isa[i] = line_irq(b->isa, i);
	b->piix3 = piix3_create(isa);
	for (unsigned i = 0; i < 4; i++)
		pirq[i] = piix3_pirq(b->piix3, i);
	b->bus = pci_bus_create(b->ports, b->mmio, b->mem, pirq, &msi);
	g_assert_cmpint(piix3_plug(b->piix3, b->bus, 8), ==, 0);
	b->card.pci.device = (struct device){ .ops = &card_ops, .id = "card" };
	g_assert_cmpint(pci_dev_init(&b->card.pci, b->bus, DEVFN, &ids, 1), ==, 0);
	g_assert_cmpint(pci_dev_init(&b->card.pci, b->bus, DEVFN, &ids, 1), ==, -EEXIST);
	pci_bar_io(&b->card.pci, 0, "card-io", 32, &ops, &b->card);
	pci_bar_mmio(&b->card.pci, 2, "card-mmio", 0x10000, true, true, &ops, &b->card);
	g_assert_cmpint(pci_msix_init(&b->card.pci, 1, 3), >=, 0);
}

static void bench_finish(struct bench *b)
{
	card_destroy(&b->card.pci.device);
	piix3_device(b->piix3)->ops->destroy(piix3_device(b->piix3));
	pci_bus_destroy(b->bus);
	mem_destroy(b->mem);
	space_destroy(b->ports);
	space_destroy(b->mmio);
}

static void set(struct bench *b, unsigned offset, unsigned len, uint32_t v) { pci_config_write(b->bus, DEVFN, offset, len, v); }
static uint32_t get(struct bench *b, unsigned offset, unsigned len) { return pci_config_read(b->bus, DEVFN, offset, len); }

static void test_config(void)
{
	struct bench b;

	bench_init(&b);
	space_write(b.ports, 0xcf8, 4, 0x80000000 | DEVFN << 8);
	g_assert_cmphex(space_read(b.ports, 0xcfc, 4), ==, 0x56781234);
	g_assert_cmphex(space_read(b.ports, 0xcfe, 2), ==, 0x5678);
	g_assert_cmphex(space_read(b.ports, 0xcf8, 4), ==, 0x80000000 | DEVFN << 8);
	/* A byte to the address register is not for it; an empty slot, another bus, disabled: all ones. */
	space_write(b.ports, 0xcf8, 1, 8);
	g_assert_cmphex(space_read(b.ports, 0xcfc, 4), ==, 0x56781234);
	space_write(b.ports, 0xcf8, 4, 0x80002000);
	g_assert_cmphex(space_read(b.ports, 0xcfc, 4), ==, 0xffffffff);
	space_write(b.ports, 0xcf8, 4, 0x80010000 | DEVFN << 8);
	g_assert_cmphex(space_read(b.ports, 0xcfc, 2), ==, 0xffff);
	space_write(b.ports, 0xcf8, 4, DEVFN << 8);
	g_assert_cmphex(space_read(b.ports, 0xcfc, 4), ==, 0xffffffff);
	/* Identity does not change; the status clears by ones. */
	set(&b, 0, 4, 0);
	g_assert_cmphex(get(&b, 0, 4), ==, 0x56781234);
	g_assert_cmphex(get(&b, 8, 4), ==, 0x02000007);
	g_assert_cmphex(get(&b, 0x2c, 4), ==, 0xdef09abc);
	b.card.pci.config[7] = 0xf0;
	set(&b, 6, 2, 0x3000);
	g_assert_cmphex(get(&b, 7, 1), ==, 0xc0);
	/* Capabilities form a list. */
	g_assert_cmphex(get(&b, get(&b, 0x34, 1), 1), ==, 0x11);
	bench_finish(&b);
}

static void test_bars(void)
{
	struct bench b;

	bench_init(&b);
	set(&b, 0x10, 4, 0xffffffff);
	g_assert_cmphex(get(&b, 0x10, 4), ==, 0xffffffe1);
	set(&b, 0x18, 4, 0xffffffff);
	set(&b, 0x1c, 4, 0xffffffff);
	g_assert_cmphex(get(&b, 0x18, 4), ==, 0xffff000c);
	g_assert_cmphex(get(&b, 0x1c, 4), ==, 0xffffffff);
	set(&b, 0x10, 4, 0xc000);
	set(&b, 0x18, 4, 0xe0000000);
	set(&b, 0x1c, 4, 1);
	g_assert_false(space_covers(b.ports, 0xc000));
	set(&b, 4, 2, 3);
	space_write(b.ports, 0xc01f, 1, 0x42);
	g_assert_cmphex(space_read(b.mmio, 0x1e0000000, 1), ==, 0x42);
	/* Moved, and gone when the decoder is off. */
	set(&b, 0x10, 4, 0xd000);
	g_assert_false(space_covers(b.ports, 0xc000));
	g_assert_cmphex(space_read(b.ports, 0xd000, 1), ==, 0x42);
	set(&b, 4, 2, 0);
	g_assert_false(space_covers(b.ports, 0xd000));
	g_assert_false(space_covers(b.mmio, 0x1e0000000));
	set(&b, 4, 2, 3);
	device_check_restore(&b.card.pci.device, device_save(&b.card.pci.device));
	card_reset(&b.card.pci.device);
	g_assert_false(space_covers(b.ports, 0xd000));
	g_assert_cmphex(get(&b, 0x10, 4), ==, 1);
	bench_finish(&b);
}

static void test_pins(void)
{
	struct bench b;

	/* Pin A of slot 3 is PIRQ C: the slots take turns. */
	bench_init(&b);
	pci_config_write(b.bus, 8, 0x62, 1, 11);
	pci_set_intx(&b.card.pci, true);
	g_assert_true(b.isa[11].level);
	g_assert_cmphex(get(&b, 6, 1) & 8, ==, 8);
	/* Turned off by the command register; the status tells still. */
	set(&b, 4, 2, 0x400);
	g_assert_false(b.isa[11].level);
	g_assert_cmphex(get(&b, 6, 1) & 8, ==, 8);
	set(&b, 4, 2, 0);
	g_assert_true(b.isa[11].level);
	/* Another route takes the level along; 0x80 is none; reserved lines are never driven. */
	pci_config_write(b.bus, 8, 0x62, 1, 10);
	g_assert_false(b.isa[11].level);
	g_assert_true(b.isa[10].level);
	pci_config_write(b.bus, 8, 0x62, 1, 0x8a);
	g_assert_false(b.isa[10].level);
	pci_config_write(b.bus, 8, 0x62, 1, 8);
	g_assert_false(b.isa[8].level);
	pci_config_write(b.bus, 8, 0x62, 1, 10);
	pci_set_intx(&b.card.pci, false);
	g_assert_false(b.isa[10].level);
	bench_finish(&b);
}

static void test_msix(void)
{
	struct bench b;
	unsigned cap;

	bench_init(&b);
	cap = get(&b, 0x34, 1);
	g_assert_cmphex(get(&b, cap + 2, 2), ==, 2);
	set(&b, 0x14, 4, 0xe0000000);
	set(&b, 4, 2, 6);
	space_write(b.mmio, 0xe0000010, 8, 0xfee01000);
	space_write(b.mmio, 0xe0000018, 4, 0x4055);
	/* Off: nothing. Masked: pending until it is not. */
	pci_msix_notify(&b.card.pci, 1);
	g_assert_cmpuint(b.msis, ==, 0);
	set(&b, cap + 2, 2, 0x8000);
	g_assert_true(pci_msix_enabled(&b.card.pci));
	pci_msix_notify(&b.card.pci, 1);
	g_assert_cmpuint(b.msis, ==, 0);
	g_assert_cmphex(space_read(b.mmio, 0xe0000800, 8), ==, 2);
	space_write(b.mmio, 0xe000001c, 4, 0);
	g_assert_cmpuint(b.msis, ==, 1);
	g_assert_cmphex(b.msi_address, ==, 0xfee01000);
	g_assert_cmphex(b.msi_data, ==, 0x4055);
	g_assert_cmphex(space_read(b.mmio, 0xe0000800, 8), ==, 0);
	/* The whole function masked; a vector that is not there. */
	set(&b, cap + 2, 2, 0xc000);
	pci_msix_notify(&b.card.pci, 1);
	pci_msix_notify(&b.card.pci, 3);
	g_assert_cmpuint(b.msis, ==, 1);
	device_check_restore(&b.card.pci.device, device_save(&b.card.pci.device));
	set(&b, cap + 2, 2, 0x8000);
	g_assert_cmpuint(b.msis, ==, 2);
	bench_finish(&b);
}

static void test_rom(void)
{
	struct bench b;
	uint8_t image[5000] = { 0x55, 0xaa };

	bench_init(&b);
	g_assert_cmpint(pci_rom(&b.card.pci, image, 0), ==, -EINVAL);
	g_assert_cmpint(pci_rom(&b.card.pci, image, sizeof(image)), ==, 0);
	set(&b, 0x30, 4, 0xfffff800);
	g_assert_cmphex(get(&b, 0x30, 4), ==, 0xffffe000);
	set(&b, 0x30, 4, 0xe0000001);
	set(&b, 4, 2, 2);
	g_assert_cmphex(mem_read16(b.mem, 0xe0000000), ==, 0xaa55);
	set(&b, 0x30, 4, 0xe0000000);
	g_assert_null(mem_find(b.mem, 0xe0000000));
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pci/config", test_config);
	g_test_add_func("/pci/bars", test_bars);
	g_test_add_func("/pci/pins", test_pins);
	g_test_add_func("/pci/msix", test_msix);
	g_test_add_func("/pci/rom", test_rom);
	return g_test_run();
}
