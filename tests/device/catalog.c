/* The catalog: how each device is plugged into a board, and what can happen to it from outside. */
#include "catalog.h"

#include <string.h>

#include "base/bytes.h"
#include "dev/acpi_pm.h"
#include "dev/ahci.h"
#include "dev/coprocessor.h"
#include "dev/debug_exit.h"
#include "dev/testdev.h"
#include "dev/debugcon.h"
#include "dev/dma8237.h"
#include "dev/e1000.h"
#include "dev/fdc.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i6300esb.h"
#include "dev/i8042.h"
#include "dev/ide.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pflash.h"
#include "dev/pic.h"
#include "dev/piix3.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/pvpanic.h"
#include "dev/rtc.h"
#include "dev/rtl8139.h"
#include "dev/uart.h"
#include "dev/uhci.h"
#include "dev/usb_tablet.h"
#include "dev/vga.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_net.h"
#include "dev/virtio_rng.h"
#include "fake_blk.h"
#include "harness.h"

#define LAPIC_CPUS 3

/* ---- what the devices are wired to ---- */

static void ignore(void *opaque) { }
static void ignore_bool(void *opaque, bool on) { }
static void ignore_value(void *opaque, uint32_t value) { }
static void ignore_level(void *opaque, unsigned cpu, bool level) { g_assert_cmpuint(cpu, <, LAPIC_CPUS); }
static void ignore_cpu(void *opaque, unsigned cpu) { g_assert_cmpuint(cpu, <, LAPIC_CPUS); }
static void ignore_sipi(void *opaque, unsigned cpu, uint8_t vector) { g_assert_cmpuint(cpu, <, LAPIC_CPUS); }
static void ignore_eoi(void *opaque, uint8_t vector) { }
static int extint_ack(void *opaque) { return 0x20; }
static uint64_t tsc_now(void *opaque, unsigned cpu) { return (uint64_t)clock_now(((struct board *)opaque)->clock) * 2; }
static void ignore_pam(void *opaque, unsigned segment, bool read_ram, bool write_ram) { g_assert_cmpuint(segment, <, 13); }

/* ---- the devices ---- */

static void put(struct board *b, void *chip, struct device *d)
{
	b->chip = chip;
	b->device = d;
}

static void make_pic(struct board *b)
{
	struct pic *p = pic_create(b->ports, board_irq(b, 0));

	put(b, p, pic_device(p));
}

static void poke_pic(struct board *b, uint32_t what)
{
	if (what & 0x80)
		pic_ack(b->chip);
	else if ((what & 15) != 2)
		pic_set_irq(b->chip, what & 15, what & 0x10);
}

static void make_pit(struct board *b)
{
	struct pit *p = pit_create(b->ports, board_irq(b, 0), b->clock);

	put(b, p, pit_device(p));
}

static void make_ioapic(struct board *b)
{
	struct ioapic *a = ioapic_create(b->mmio, 0xfec00000, &board_no_msi);

	put(b, a, ioapic_device(a));
}

static void poke_ioapic(struct board *b, uint32_t what)
{
	if (what & 0x80)
		ioapic_eoi(b->chip, (uint8_t)(what >> 8));
	else
		ioapic_set_irq(b->chip, (int)(what & 31), what & 0x40);
}

static void make_lapic(struct board *b)
{
	const struct lapic_callbacks cb = { ignore_level, ignore_cpu, ignore_cpu, ignore_sipi, ignore_eoi, extint_ack, tsc_now, b };
	struct lapic_bus *l = lapic_bus_create(LAPIC_CPUS, b->clock, 2000000000, &cb);

	put(b, l, lapic_bus_device(l));
}

/* The local APICs sit in no space: the engine brings their registers and MSRs. */
static void poke_lapic(struct board *b, uint32_t what)
{
	unsigned cpu = what % LAPIC_CPUS, reg = what >> 8 & 0xff;
	uint32_t value = what >> 16 | what << 16;
	uint64_t v = 0;

	switch (what >> 2 & 7) {
	case 0: lapic_mmio_write(b->chip, cpu, reg << 4, value); break;
	case 1: lapic_mmio_read(b->chip, cpu, reg << 4 | (what >> 6 & 3)); break;
	case 2: lapic_msr_write(b->chip, cpu, 0x800 + reg, what & 0x40 ? value : value >> 24); break;
	case 3: lapic_msr_read(b->chip, cpu, 0x800 + reg, &v); break;
	case 4: lapic_ack(b->chip, cpu); break;
	case 5: lapic_msr_write(b->chip, cpu, what & 0x40 ? 0x1b : 0x6e0, 0xfee00000 | (what >> 8 & 0xfff)); break;
	case 6: lapic_bus_deliver_msi(b->chip, 0xfee00000 | (what >> 8 & 0xfffff), value); break;
	default:
		lapic_set_extint(b->chip, what & 0x40);
		lapic_cr8_write(b->chip, cpu, (uint8_t)reg);
		lapic_cr8_read(b->chip, cpu);
		break;
	}
}

static void make_rtc(struct board *b)
{
	struct rtc *r = rtc_create(b->ports, board_irq(b, 8), b->clock);

	put(b, r, rtc_device(r));
}

static void poke_rtc(struct board *b, uint32_t what)
{
	rtc_set_cmos(b->chip, what & 0xff, (uint8_t)(what >> 8));
}

static void make_uart(struct board *b)
{
	struct uart *u = uart_create(b->ports, 0x3f8, board_irq(b, 4), b->clock, b->cd, "com1");

	put(b, u, uart_device(u));
}

static void poke_chardev(struct board *b, uint32_t what)
{
	uint8_t bytes[64];

	memset(bytes, (int)(what >> 8), sizeof(bytes));
	chardev_input(b->cd, bytes, what % sizeof(bytes));
}

static void make_i8042(struct board *b)
{
	struct i8042 *c = i8042_create(b->ports, board_irq(b, 1), board_irq(b, 12), b->clock, ignore, ignore_bool, NULL);

	put(b, c, i8042_device(c));
}

static void poke_i8042(struct board *b, uint32_t what)
{
	if (what & 1)
		i8042_key(b->chip, (int)(what >> 8 & 0x1ff), what & 2);
	else
		i8042_mouse(b->chip, (int)what, (int)(what << 7), (int8_t)(what >> 16), what >> 8);
}

static void make_port92(struct board *b)
{
	struct port92 *p = port92_create(b->ports, ignore, ignore_bool, NULL);

	put(b, p, port92_device(p));
}

static void make_coprocessor(struct board *b)
{
	struct coprocessor *c = coprocessor_create(b->ports, board_irq(b, 13));

	put(b, c, coprocessor_device(c));
}

static void poke_coprocessor(struct board *b, uint32_t what) { coprocessor_error(b->chip, what & 1); }

static void make_debugcon(struct board *b)
{
	struct debugcon *c = debugcon_create(b->ports, 0x402, b->cd);

	put(b, c, debugcon_device(c));
}

static void make_debug_exit(struct board *b)
{
	struct debug_exit *x = debug_exit_create(b->ports, 0xf4, ignore_value, NULL);

	put(b, x, debug_exit_device(x));
}

static void make_testdev(struct board *b)
{
	struct irq lines[TESTDEV_LINES] = { 0 };
	struct testdev *t = testdev_create(b->ports, b->mmio, lines);

	put(b, t, testdev_device(t));
}

static void make_hpet(struct board *b)
{
	struct irq lines[24];
	struct hpet *h;

	for (int i = 0; i < 24; i++)
		lines[i] = board_irq(b, i);
	h = hpet_create(b->mmio, 0xfed00000, b->clock, lines);
	put(b, h, hpet_device(h));
}

static void poke_hpet(struct board *b, uint32_t what)
{
	struct irq in = hpet_legacy_input(b->chip, what & 1 ? 8 : 0);

	irq_set(&in, what & 2);
}

static void make_acpi_pm(struct board *b)
{
	const struct acpi_pm_callbacks cb = { ignore, ignore, NULL };
	struct acpi_pm *pm = acpi_pm_create(b->pci, BOARD_DEVFN, b->ports, board_irq(b, 9), b->clock, 0x600, &cb);

	put(b, pm, acpi_pm_device(pm));
}

static void poke_acpi_pm(struct board *b, uint32_t what)
{
	acpi_pm_power_button(b->chip);
}

static void make_vga(struct board *b)
{
	struct vga *v = vga_create(b->pci, BOARD_DEVFN, b->ports, b->mmio, b->clock, NULL);

	put(b, v, vga_device(v));
}

static void make_fw_cfg(struct board *b)
{
	struct fw_cfg *f = fw_cfg_create(b->ports, b->mem);

	fw_cfg_add_file(f, "etc/test", "some bytes", 10);
	fw_cfg_add_writable(f, "etc/written", "0123456789", 10, NULL, NULL);
	put(b, f, fw_cfg_device(f));
}

static void make_pflash(struct board *b)
{
	struct pflash *f;

	b->flash = ram_create("flash", 4 * PFLASH_BLOCK, NULL);
	f = pflash_create(b->mmio, b->mem, 0xfff00000, b->flash, false, NULL, "flash");
	put(b, f, pflash_device(f));
}

static void make_i440fx(struct board *b)
{
	const struct i440fx_pam pam = { ignore_pam, NULL };
	struct i440fx *h = i440fx_create(b->pci, &pam);

	b->devfn = 0;
	put(b, h, i440fx_device(h));
}

static void make_piix3(struct board *b)
{
	struct irq isa[16];
	struct piix3 *p;

	for (int i = 0; i < 16; i++)
		isa[i] = board_irq(b, i);
	p = piix3_create(isa);
	g_assert_cmpint(piix3_plug(p, b->pci, BOARD_DEVFN), ==, 0);
	put(b, p, piix3_device(p));
}

static void poke_piix3(struct board *b, uint32_t what)
{
	struct irq pirq = piix3_pirq(b->chip, what & 3);

	irq_set(&pirq, what & 4);
}

static void make_ide(struct board *b)
{
	struct ide_drive drives[4] = { { .blk = b->image[0] }, { 0 }, { .blk = b->image[1], .cdrom = true }, { .cdrom = true } };
	struct ide *ide = ide_create(b->pci, BOARD_DEVFN, b->ports, board_irq(b, 14), board_irq(b, 15), drives);

	put(b, ide, ide_device(ide));
}

static void poke_ide(struct board *b, uint32_t what)
{
	if (what & 3) {
		fake_blk_run(what & 1 ? b->image[0] : b->image[1]);
		return;
	}
	/* Out and in again: the same medium is there when a state is loaded. */
	ide_change_media(b->chip, 2, NULL, what & 4);
	ide_change_media(b->chip, 2, b->image[1], true);
}

static void make_ahci(struct board *b)
{
	const struct ide_drive drives[AHCI_PORTS] = { { .blk = b->image[0] }, { .blk = b->image[1], .cdrom = true }, { .cdrom = true } };
	struct ahci *ahci = ahci_create(b->pci, BOARD_DEVFN, drives);

	put(b, ahci, ahci_device(ahci));
}

static void poke_ahci(struct board *b, uint32_t what)
{
	if (what & 3) {
		fake_blk_run(what & 1 ? b->image[0] : b->image[1]);
		return;
	}
	ahci_change_media(b->chip, 1, NULL, what & 4);
	ahci_change_media(b->chip, 1, b->image[1], true);
}

static void make_dma8237(struct board *b)
{
	struct dma8237 *d = dma8237_create(b->ports, b->mem);

	put(b, d, dma8237_device(d));
}

static void poke_dma8237(struct board *b, uint32_t what)
{
	uint8_t bytes[8] = { 0 };
	bool end;

	if (what & 8)
		dma8237_to_memory(b->chip, what & 7, bytes, what >> 4 & 7, &end);
	else
		dma8237_from_memory(b->chip, what & 7, bytes, what >> 4 & 7, &end);
}

static void make_fdc(struct board *b)
{
	const struct fdc_drive drives[FDC_DRIVES] = { { true, b->image[0] }, { true, NULL } };
	struct dma8237 *dma = dma8237_create(b->ports, b->mem);
	struct fdc *f = fdc_create(b->ports, board_irq(b, 6), dma, 2, drives);

	b->helper = dma8237_device(dma);
	put(b, f, fdc_device(f));
}

static void poke_fdc(struct board *b, uint32_t what)
{
	if (what & 3) {
		fake_blk_run(b->image[0]);
		return;
	}
	fdc_change_media(b->chip, 0, NULL);
	fdc_change_media(b->chip, 0, b->image[0]);
}

static void ignore_panic(void *opaque, enum pvpanic_event event) { }

static void make_pvpanic(struct board *b)
{
	struct pvpanic *p = pvpanic_create(b->ports, ignore_panic, NULL);

	put(b, p, pvpanic_device(p));
}

static void make_i6300esb(struct board *b)
{
	struct i6300esb *w = i6300esb_create(b->pci, BOARD_DEVFN, b->clock, ignore, NULL);

	put(b, w, i6300esb_device(w));
}

static const uint8_t mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

static void make_e1000(struct board *b)
{
	struct e1000 *e = e1000_create(b->pci, BOARD_DEVFN, b->clock, b->nd, mac, "net0");

	put(b, e, &e1000_pci(e)->device);
}

static void make_rtl8139(struct board *b)
{
	struct rtl8139 *r = rtl8139_create(b->pci, BOARD_DEVFN, b->clock, b->nd, mac, "net0");

	put(b, r, &rtl8139_pci(r)->device);
}

static void make_virtio_net(struct board *b)
{
	struct virtio_net *n = virtio_net_create(b->pci, BOARD_DEVFN, b->clock, b->nd, mac, 2, "net0");

	put(b, n, virtio_net_device(n));
}

static void poke_net(struct board *b, uint32_t what)
{
	uint8_t frame[1600] = { [12] = 0x08 };

	switch (what & 3) {
	case 0: netdev_set_link(b->nd, what & 4); break;
	case 1: netdev_memory_block(b->nd, what & 4); break;
	default:
		memcpy(frame, what & 4 ? mac : (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 6);
		netdev_memory_input(b->nd, frame, 14 + (what >> 8) % (sizeof(frame) - 14));
		break;
	}
}

/* With a link it announces itself after a load. */
static void settle_virtio_net(struct board *b) { netdev_set_link(b->nd, false); }

static void make_virtio_balloon(struct board *b)
{
	struct virtio_balloon *v = virtio_balloon_create(b->pci, BOARD_DEVFN, b->clock, b->mem, BOARD_RAM, NULL, NULL);

	put(b, v, virtio_balloon_device(v));
}

static void poke_virtio_balloon(struct board *b, uint32_t what)
{
	if (what & 1)
		virtio_balloon_set_target(b->chip, what >> 8);
	else
		virtio_balloon_stats(b->chip);
}

static void make_uhci(struct board *b)
{
	struct uhci *u = uhci_create(b->pci, BOARD_DEVFN, b->clock);
	struct usb_tablet *t = usb_tablet_create();

	uhci_plug(u, 0, usb_tablet_usb(t));
	b->helper = usb_tablet_device(t);
	put(b, u, uhci_device(u));
}

static void poke_uhci(struct board *b, uint32_t what)
{
	usb_tablet_move((struct usb_tablet *)b->helper, what & 0x7fff, what >> 16 & 0x7fff, (int)(what >> 14 & 3) - 1, what & 7);
}

static void make_usb_tablet(struct board *b)
{
	struct usb_tablet *t = usb_tablet_create();

	put(b, t, usb_tablet_device(t));
}

/* It sits on no bus here: packets come by hand, requests with every field. */
static void poke_usb_tablet(struct board *b, uint32_t what)
{
	static const enum usb_pid pids[] = { USB_PID_SETUP, USB_PID_IN, USB_PID_OUT, USB_PID_IN };
	uint8_t data[64] = { (uint8_t)(what >> 8 & 0xa1), (uint8_t)(what >> 16 & 15), (uint8_t)(what >> 20), (uint8_t)(what >> 24 & 0x23),
			     0, 0, (uint8_t)(what >> 3), (uint8_t)(what >> 30) };

	usb_packet(usb_tablet_usb(b->chip), pids[what & 3], (what & 3) == 3, data, (what & 3) == 0 ? 8 : what >> 8 & 63);
	usb_tablet_move(b->chip, what & 0x7fff, what >> 16 & 0x7fff, (int)(what >> 14 & 3) - 1, what >> 2 & 7);
}

static void make_virtio_blk(struct board *b)
{
	struct virtio_blk *v = virtio_blk_create(b->pci, BOARD_DEVFN, b->clock, b->image[0], "virtio0", 2);

	put(b, v, virtio_blk_device(v));
}

static void poke_virtio_blk(struct board *b, uint32_t what)
{
	if (what & 1)
		fake_blk_run(b->image[0]);
	else
		virtio_blk_resized(b->chip);
}

static void make_virtio_rng(struct board *b)
{
	struct virtio_rng *v = virtio_rng_create(b->pci, BOARD_DEVFN, b->clock);

	put(b, v, virtio_rng_device(v));
}

static void make_virtio_console(struct board *b)
{
	struct virtio_console *c = virtio_console_create(b->pci, BOARD_DEVFN, b->clock, b->cd);

	put(b, c, virtio_console_device(c));
}

static void poke_virtio_console(struct board *b, uint32_t what)
{
	if (what & 0x80000000)
		virtio_console_resize(b->chip, (uint16_t)what, (uint16_t)(what >> 8));
	else
		poke_chardev(b, what);
}

const struct catalog_entry catalog[] = {
	{ "pic", make_pic, poke_pic },
	{ "pit", make_pit, NULL },
	{ "ioapic", make_ioapic, poke_ioapic },
	{ "lapic", make_lapic, poke_lapic },
	{ "rtc", make_rtc, poke_rtc },
	{ "uart", make_uart, poke_chardev },
	{ "i8042", make_i8042, poke_i8042 },
	{ "port92", make_port92, NULL },
	{ "coprocessor", make_coprocessor, poke_coprocessor },
	{ "debugcon", make_debugcon, NULL },
	{ "debug_exit", make_debug_exit, NULL },
	{ "testdev", make_testdev, NULL },
	{ "hpet", make_hpet, poke_hpet },
	{ "acpi_pm", make_acpi_pm, poke_acpi_pm },
	{ "vga", make_vga, NULL, .slow_state = true },
	{ "pflash", make_pflash, NULL },
	{ "fw_cfg", make_fw_cfg, NULL, hostile_fw_cfg },
	{ "i440fx", make_i440fx, NULL },
	{ "piix3", make_piix3, poke_piix3 },
	{ "ide", make_ide, poke_ide, hostile_ide, .sectors = { 64, 64 } },
	{ "ahci", make_ahci, poke_ahci, hostile_ahci, .sectors = { 64, 64 } },
	{ "dma8237", make_dma8237, poke_dma8237 },
	{ "fdc", make_fdc, poke_fdc, hostile_fdc, .sectors = { 720 } },
	{ "uhci", make_uhci, poke_uhci, hostile_uhci },
	{ "usb_tablet", make_usb_tablet, poke_usb_tablet },
	{ "virtio_blk", make_virtio_blk, poke_virtio_blk, hostile_virtio, .sectors = { 64 } },
	{ "virtio_rng", make_virtio_rng, NULL, hostile_virtio },
	{ "virtio_net", make_virtio_net, poke_net, hostile_virtio, settle_virtio_net },
	{ "virtio_balloon", make_virtio_balloon, poke_virtio_balloon, hostile_virtio },
	{ "e1000", make_e1000, poke_net, hostile_e1000 },
	{ "rtl8139", make_rtl8139, poke_net, hostile_rtl8139 },
	{ "pvpanic", make_pvpanic, NULL },
	{ "i6300esb", make_i6300esb, NULL },
	{ "virtio_console", make_virtio_console, poke_virtio_console, hostile_virtio },
};

const unsigned catalog_size = ARRAY_LEN(catalog);

const struct catalog_entry *catalog_find(const char *name)
{
	for (unsigned i = 0; i < catalog_size; i++)
		if (!strcmp(catalog[i].name, name))
			return &catalog[i];
	return NULL;
}
