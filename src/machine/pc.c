/*
 * The board: an i440FX/PIIX PC as the wiring diagram says. Interrupt lines: GSI 0..15 go to the PIC
 * pair and to the I/O APIC (lines 0 and 2 both to pin 2), the PIC's output to LINT0 of the first local APIC.
 */
#include "machine/pc.h"

#include <string.h>

#include "base/log.h"
#include "bus/irq_lines.h"
#include "dev/acpi_pm.h"
#include "dev/ahci.h"
#include "dev/coprocessor.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/dma8237.h"
#include "dev/fdc.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i6300esb.h"
#include "dev/i8042.h"
#include "dev/ide.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/piix3.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/pvpanic.h"
#include "dev/rtc.h"
#include "dev/testdev.h"
#include "dev/uart.h"
#include "dev/uhci.h"
#include "dev/usb_tablet.h"
#include "dev/vga.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_rng.h"
#include "base/tsc.h"
#include "machine/pc_drives.h"
#include "machine/pc_memory.h"
#include "machine/vm.h"
#include "net/netdev.h"

#define DEVFN(slot, function) ((slot) << 3 | (function))

/* ---- interrupt lines ---- */

static void gsi_set(void *opaque, int line, bool level)
{
	struct pc *pc = opaque;

	if (level)
		pc->irq_count[line]++;
	trace(TRACE_IRQ, "gsi %d %s", line, level ? "up" : "down");
	if (line < 16)
		pic_set_irq(pc->pic, line, level);
	/* Lines 0 and 2 share a pin of the I/O APIC. */
	if (line == 0 || line == 2)
		ioapic_set_irq(pc->ioapic, 2, irq_lines_level(pc->lines, 0) || irq_lines_level(pc->lines, 2));
	else
		ioapic_set_irq(pc->ioapic, line, level);
}

/* Each chip has an input of its own. */
static struct irq gsi(struct pc *pc, unsigned line)
{
	return irq_lines_input(pc->lines, line);
}

/* The PIC's INTR pin is wired to LINT0. */
static void pic_intr(void *opaque, int line, bool level)
{
	struct pc *pc = opaque;

	lapic_set_extint(pc->lapics, level);
}

static int extint_ack(void *opaque)
{
	return pic_ack(((struct pc *)opaque)->pic);
}

static void send_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct pc *pc = opaque;

	lapic_bus_deliver_msi(pc->lapics, address, data);
}

static void apic_intr(void *opaque, unsigned cpu, bool level)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	vm->ops->set_irq(vm->vcpus[cpu].vcpu, VCPU_INTR, level);
	if (level)
		vm_wake_vcpu(vm, cpu);
}

static void apic_nmi(void *opaque, unsigned cpu)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	vm->ops->set_irq(vm->vcpus[cpu].vcpu, VCPU_NMI, true);
	vm_wake_vcpu(vm, cpu);
}

static void apic_init(void *opaque, unsigned cpu)
{
	vm_vcpu_init(((struct pc *)opaque)->vm, cpu);
}

static void apic_sipi(void *opaque, unsigned cpu, uint8_t vector)
{
	vm_vcpu_sipi(((struct pc *)opaque)->vm, cpu, vector);
}

static void apic_eoi(void *opaque, uint8_t vector)
{
	ioapic_eoi(((struct pc *)opaque)->ioapic, vector);
}

/* ---- local APICs that are the engine's ---- */

static void engine_send_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	vm->ops->send_msi(vm->accel, address, data);
}

static int engine_get_apic(void *opaque, unsigned cpu, struct apic_state *s)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	return vm->ops->get_apic(vm->vcpus[cpu].vcpu, s);
}

static int engine_set_apic(void *opaque, unsigned cpu, const struct apic_state *s)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	return vm->ops->set_apic(vm->vcpus[cpu].vcpu, s);
}

static void engine_route_pin(void *opaque, unsigned pin, uint64_t address, uint32_t data)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	vm->ops->route_pin(vm->accel, pin, address, data);
}

static int engine_doorbell(void *opaque, uint64_t gpa, unsigned len, int fd, bool on)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	return vm->ops->doorbell(vm->accel, gpa, len, fd, on);
}

static int engine_irqfd(void *opaque, int fd, uint64_t address, uint32_t data, bool on)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	return vm->ops->irqfd(vm->accel, fd, address, data, on);
}

/* ---- what chips ask of the machine ---- */

static void want_reset(void *opaque) { vm_request(((struct pc *)opaque)->vm, VM_REQ_RESET); }
static void want_poweroff(void *opaque) { vm_request(((struct pc *)opaque)->vm, VM_REQ_POWEROFF); }

static void want_watchdog(void *opaque) { vm_request(((struct pc *)opaque)->vm, VM_REQ_WATCHDOG); }

static void panicked(void *opaque, enum pvpanic_event event)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	if (event == PVPANIC_CRASH_LOADED)
		vm_post(vm, VM_EVENT_CRASH_LOADED);
	else
		vm_request(vm, VM_REQ_PANIC);
}

static void balloon_changed(void *opaque, uint64_t bytes) { vm_post(((struct pc *)opaque)->vm, VM_EVENT_BALLOON); }

static void want_exit(void *opaque, uint32_t value)
{
	struct vm *vm = ((struct pc *)opaque)->vm;

	vm->debug_exit_value = (int)value;
	vm_request(vm, VM_REQ_DEBUG_EXIT);
}

static void a20_changed(void *opaque, bool enabled)
{
	trace(TRACE_DEV, "A20 gate %s (not applied)", enabled ? "open" : "shut");
}

static void pam_changed(void *opaque, unsigned segment, bool read_ram, bool write_ram)
{
	pc_memory_pam(opaque, segment, read_ram, write_ram);
}

static void key(void *opaque, int code, bool down) { i8042_key(((struct pc *)opaque)->i8042, code, down); }

static void mouse(void *opaque, int dx, int dy, int dz, unsigned buttons)
{
	i8042_mouse(((struct pc *)opaque)->i8042, dx, dy, dz, buttons);
}

static bool keys_read(void *opaque)
{
	return i8042_keys_read(((struct pc *)opaque)->i8042);
}

/* False until the guest drives the tablet, if there is one. */
static bool pointer(void *opaque, unsigned x, unsigned y, int dz, unsigned buttons)
{
	struct pc *pc = opaque;

	return pc->tablet && usb_tablet_move(pc->tablet, x, y, dz, buttons);
}

/* The engines let the guest's TSC follow the host's, less the time that the machine was paused, and as the guest has set it. */
static uint64_t guest_tsc(void *opaque, unsigned cpu)
{
	const struct vm *vm = ((struct pc *)opaque)->vm;

	return __builtin_ia32_rdtsc() + vm->tsc_offset + vm->vcpus[cpu].tsc_adjust;
}

/* ---- building ---- */

static void plug(struct pc *pc, struct device *d)
{
	if (pc->device_count < PC_MAX_DEVICES)
		pc->devices[pc->device_count++] = d;
}

static void make_interrupt_controllers(struct pc *pc)
{
	const struct lapic_callbacks cb = { apic_intr, apic_nmi, apic_init, apic_sipi, apic_eoi, extint_ack, guest_tsc, pc };
	const struct lapic_remote remote = { engine_send_msi, engine_get_apic, engine_set_apic, pc };
	const struct msi_sink msi = { send_msi, pc };

	pc->lines = irq_lines_create((struct irq){ gsi_set, pc, 0 });
	plug(pc, irq_lines_device(pc->lines));
	pc->lapics = lapic_bus_create(pc->vm->cpus, pc->vm->clock, host_tsc_hz(), &cb);
	plug(pc, lapic_bus_device(pc->lapics));
	pc->ioapic = ioapic_create(pc->mmio, 0xfec00000, &msi);
	plug(pc, ioapic_device(pc->ioapic));
	if (pc->vm->kernel_apic) {
		lapic_bus_set_remote(pc->lapics, &remote);
		ioapic_set_route_listener(pc->ioapic, engine_route_pin, pc);
	}
	pc->pic = pic_create(pc->ports, (struct irq){ pic_intr, pc, 0 });
	plug(pc, pic_device(pc->pic));
}

static void make_pci(struct pc *pc)
{
	const struct i440fx_pam pam = { pam_changed, pc };
	const struct msi_sink msi = { send_msi, pc };
	const struct eventfds eventfds = { engine_doorbell, engine_irqfd, pc };
	struct irq isa[16], pirq[4];

	for (unsigned i = 0; i < 16; i++)
		isa[i] = gsi(pc, i);
	pc->piix3 = piix3_create(isa);
	for (unsigned i = 0; i < 4; i++)
		pirq[i] = piix3_pirq(pc->piix3, i);
	pc->pci = pci_bus_create(pc->ports, pc->mmio, pc->vm->mem, pirq, &msi);
	pci_bus_set_eventfds(pc->pci, &eventfds);
	plug(pc, i440fx_device(i440fx_create(pc->pci, &pam)));
	piix3_plug(pc->piix3, pc->pci, DEVFN(1, 0));
	plug(pc, piix3_device(pc->piix3));
}

static void make_legacy(struct pc *pc)
{
	static const uint16_t uart_base[] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
	static const uint8_t uart_irq[] = { 4, 3, 4, 3 };
	static const char *const uart_id[] = { "com1", "com2", "com3", "com4" };
	const struct acpi_pm_callbacks pm = { want_poweroff, want_reset, pc };
	struct irq lines[24];
	struct hpet *hpet;

	for (unsigned i = 0; i < 24; i++)
		lines[i] = gsi(pc, i);
	/* The HPET stands between the two timers it may replace and their lines. */
	hpet = hpet_create(pc->mmio, 0xfed00000, pc->vm->clock, lines);
	plug(pc, hpet_device(hpet));
	plug(pc, pit_device(pit_create(pc->ports, hpet_legacy_input(hpet, 0), pc->vm->clock)));
	pc->dma = dma8237_create(pc->ports, pc->vm->mem);
	plug(pc, dma8237_device(pc->dma));
	pc->rtc = rtc_create(pc->ports, hpet_legacy_input(hpet, 8), pc->vm->clock);
	plug(pc, rtc_device(pc->rtc));
	pc->i8042 = i8042_create(pc->ports, gsi(pc, 1), gsi(pc, 12), pc->vm->clock, want_reset, a20_changed, pc);
	plug(pc, i8042_device(pc->i8042));
	plug(pc, port92_device(port92_create(pc->ports, want_reset, a20_changed, pc)));
	pc->coprocessor = coprocessor_create(pc->ports, gsi(pc, 13));
	plug(pc, coprocessor_device(pc->coprocessor));
	for (unsigned i = 0; i < VM_MAX_SERIAL; i++) {
		if (pc->serial[i])
			plug(pc, uart_device(uart_create(pc->ports, uart_base[i], gsi(pc, uart_irq[i]), pc->vm->clock,
							 pc->serial[i], uart_id[i])));
	}
	pc->pm = acpi_pm_create(pc->pci, DEVFN(1, 3), pc->ports, gsi(pc, 9), pc->vm->clock, pc_pm_base(pc), &pm);
	plug(pc, acpi_pm_device(pc->pm));
	plug(pc, debugcon_device(debugcon_create(pc->ports, 0x402, pc->debugcon)));
	if (pc->vm->config.debug_exit)
		plug(pc, debug_exit_device(debug_exit_create(pc->ports, 0xf4, want_exit, pc)));
	for (unsigned i = 0; i < 24; i++)
		lines[i] = gsi(pc, i);
	if (pc->vm->config.test_device)
		plug(pc, testdev_device(testdev_create(pc->ports, pc->mmio, lines)));
}

/* The engines that run in this process mark pages by the way they reach them: they have to find those ways anew. */
static void watch_screen(void *opaque, struct ram *ram)
{
	struct vm *vm = opaque;

	for (unsigned i = 0; i < MEM_MAX_SLOTS; i++) {
		const struct mem_slot *s = mem_slot(vm->mem, i);

		if (s && s->ram == ram)
			vm->ops->dirty_log(vm->accel, i, s);
	}
}

static bool make_display(struct pc *pc, GError **error)
{
	static const char rom_path[] = "/usr/share/seabios/vgabios-stdvga.bin";
	char *rom;
	gsize len;

	pc->vga = vga_create(pc->pci, DEVFN(2, 0), pc->ports, pc->mmio, pc->vm->clock, error);
	if (!pc->vga)
		return false;
	plug(pc, vga_device(pc->vga));
	/* The kernel's log would have to be fetched for every look. */
	if (!pc->vm->ops->caps.in_kernel_apic)
		vga_set_log(pc->vga, watch_screen, pc->vm);
	if (!g_file_get_contents(rom_path, &rom, &len, error)) {
		g_prefix_error(error, "the VGA BIOS is missing (sudo apt-get install seabios): ");
		return false;
	}
	pc->video_rom = (uint8_t *)rom;
	pc->video_rom_len = len;
	return pci_rom(vga_pci(pc->vga), rom, (uint32_t)len) == 0;
}

/* ---- disks ---- */

static bool make_disks(struct pc *pc, GError **error)
{
	struct pc_units u;

	if (!pc_drives_open(pc, &u, error))
		return false;
	pc->ide = ide_create(pc->pci, DEVFN(1, 1), pc->ports, gsi(pc, 14), gsi(pc, 15), u.ide);
	plug(pc, ide_device(pc->ide));
	if (u.satas) {
		pc->ahci = ahci_create(pc->pci, DEVFN(PC_AHCI_SLOT, 0), u.sata);
		plug(pc, ahci_device(pc->ahci));
	}
	if (u.floppy[0].present) {
		pc->fdc = fdc_create(pc->ports, gsi(pc, 6), pc->dma, 2, u.floppy);
		plug(pc, fdc_device(pc->fdc));
	}
	/* A queue for each CPU, up to four. */
	for (unsigned i = 0; i < u.virtios; i++) {
		struct pc_drive *d = u.virtio[i];

		d->virtio = virtio_blk_create(pc->pci, DEVFN(PC_VIRTIO_DISK_SLOT + i, 0), pc->vm->clock, d->blk, d->id, MIN(pc->vm->cpus, 4));
		plug(pc, virtio_blk_device(d->virtio));
	}
	return true;
}

static bool make_network(struct pc *pc, GError **error)
{
	for (unsigned i = 0; i < pc->vm->config.nics; i++) {
		struct device *d = pc_nic_create(pc, i, DEVFN(PC_NIC_SLOT + i, 0), error);

		if (!d)
			return false;
		plug(pc, d);
	}
	return true;
}

static void make_usb(struct pc *pc)
{
	struct uhci *uhci = uhci_create(pc->pci, DEVFN(1, 2), pc->vm->clock);

	plug(pc, uhci_device(uhci));
	pc->tablet = usb_tablet_create();
	plug(pc, usb_tablet_device(pc->tablet));
	uhci_plug(uhci, 0, usb_tablet_usb(pc->tablet));
}

/* What serves the guest best when it knows that it is one. */
static void make_guest_helpers(struct pc *pc)
{
	struct vm *vm = pc->vm;

	plug(pc, virtio_rng_device(virtio_rng_create(pc->pci, DEVFN(3, 0), vm->clock)));
	if (pc->console)
		plug(pc, virtio_console_device(virtio_console_create(pc->pci, DEVFN(12, 0), vm->clock, pc->console)));
	pc->balloon = virtio_balloon_create(pc->pci, DEVFN(13, 0), vm->clock, vm->mem, vm->config.memory, balloon_changed, pc);
	plug(pc, virtio_balloon_device(pc->balloon));
	plug(pc, i6300esb_device(i6300esb_create(pc->pci, DEVFN(14, 0), vm->clock, want_watchdog, pc)));
	plug(pc, pvpanic_device(pvpanic_create(pc->ports, panicked, pc)));
}

static bool open_streams(struct pc *pc, GError **error)
{
	struct vm *vm = pc->vm;

	for (unsigned i = 0; i < VM_MAX_SERIAL; i++) {
		if (!vm->config.serial[i])
			continue;
		pc->serial[i] = chardev_open(vm->config.serial[i], &vm->lock, vm->key_filter, vm->key_filter_opaque, error);
		if (!pc->serial[i])
			return false;
	}
	if (vm->config.console) {
		pc->console = chardev_open(vm->config.console, &vm->lock, vm->key_filter, vm->key_filter_opaque, error);
		if (!pc->console)
			return false;
	}
	if (vm->config.debugcon) {
		pc->debugcon = chardev_open(vm->config.debugcon, &vm->lock, NULL, NULL, error);
		return pc->debugcon != NULL;
	}
	return true;
}

struct pc *pc_create(struct vm *vm, GError **error)
{
	struct pc *pc = g_new0(struct pc, 1);

	/* From here on vm_destroy takes care of what exists. */
	vm->pc = pc;
	pc->vm = vm;
	pc->ports = space_create("ports", 0xffff);
	pc->mmio = space_create("mmio", UINT64_MAX);
	if (!pc_memory_create(pc, error) || !open_streams(pc, error))
		return NULL;
	make_interrupt_controllers(pc);
	make_pci(pc);
	make_legacy(pc);
	if (pc_is_uefi(pc)) {
		plug(pc, pc_flash_create(pc, false));
		plug(pc, pc_flash_create(pc, true));
	}
	pc->fw_cfg = fw_cfg_create(pc->ports, vm->mem);
	plug(pc, fw_cfg_device(pc->fw_cfg));
	if (!make_display(pc, error) || !make_disks(pc, error) || !make_network(pc, error))
		return NULL;
	if (vm->config.tablet)
		make_usb(pc);
	make_guest_helpers(pc);
	pc->input = (struct input_sink){ key, mouse, pc, pointer, keys_read };
	if (!pc_boot_prepare(pc, error))
		return NULL;
	return pc;
}

void pc_destroy(struct pc *pc)
{
	if (!pc)
		return;
	/* Images first: what is in flight completes into devices that still stand. */
	pc_drives_close(pc);
	for (unsigned i = 0; i < VM_MAX_NICS && pc->net[i]; i++)
		netdev_stop(pc->net[i]);
	/* In reverse: PCI devices before the interrupt router that their pins lead to. */
	while (pc->device_count) {
		struct device *d = pc->devices[--pc->device_count];

		d->ops->destroy(d);
	}
	if (pc->pci)
		pci_bus_destroy(pc->pci);
	for (unsigned i = 0; i < VM_MAX_SERIAL; i++)
		chardev_destroy(pc->serial[i]);
	chardev_destroy(pc->console);
	chardev_destroy(pc->debugcon);
	for (unsigned i = 0; i < VM_MAX_NICS; i++) {
		netdev_destroy(pc->net[i]);
		pc->net[i] = NULL; /* memory that goes is still told to those that are there */
	}
	pc_memory_destroy(pc);
	pc_flash_close(pc);
	g_free(pc->video_rom);
	space_destroy(pc->ports);
	space_destroy(pc->mmio);
	g_free(pc);
}

bool pc_reset(struct pc *pc, struct cpu_state *boot, GError **error)
{
	for (unsigned i = 0; i < pc->device_count; i++)
		pc->devices[i]->ops->reset(pc->devices[i]);
	pc_drives_retry(pc);
	return pc_boot_reset(pc, boot, error);
}

void pc_power_button(struct pc *pc)
{
	acpi_pm_power_button(pc->pm);
}

const struct display_source *pc_display(struct pc *pc)
{
	return pc->vga ? vga_display(pc->vga) : NULL;
}
