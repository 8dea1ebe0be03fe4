/*
 * The board: an i440FX/PIIX PC as the wiring diagram says. Interrupt lines: GSI 0..15 go to the PIC
 * pair and to the I/O APIC (line 0 to pin 2), the PIC's output to LINT0 of the first local APIC.
 */
#include "machine/pc.h"

#include <string.h>

#include "base/log.h"
#include "block/blk.h"
#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/debugcon.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i440fx.h"
#include "dev/i8042.h"
#include "dev/ide.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/piix3.h"
#include "dev/pit.h"
#include "dev/port92.h"
#include "dev/rtc.h"
#include "dev/uart.h"
#include "dev/vga.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_rng.h"
#include "machine/pc_memory.h"
#include "machine/vm.h"

#define DEVFN(slot, function) ((slot) << 3 | (function))
#define TSC_FALLBACK_HZ 2000000000u

/* ---- interrupt lines ---- */

static void gsi_set(void *opaque, int line, bool level)
{
	struct pc *pc = opaque;

	if (level)
		pc->irq_count[line]++;
	trace(TRACE_IRQ, "gsi %d %s", line, level ? "up" : "down");
	if (line < 16)
		pic_set_irq(pc->pic, line, level);
	ioapic_set_irq(pc->ioapic, line == 0 ? 2 : line, level);
}

static struct irq gsi(struct pc *pc, int line)
{
	return (struct irq){ gsi_set, pc, line };
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

/* ---- what chips ask of the machine ---- */

static void want_reset(void *opaque) { vm_request(((struct pc *)opaque)->vm, VM_REQ_RESET); }
static void want_poweroff(void *opaque) { vm_request(((struct pc *)opaque)->vm, VM_REQ_POWEROFF); }

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

/* ---- building ---- */

static void plug(struct pc *pc, struct device *d)
{
	if (pc->device_count < PC_MAX_DEVICES)
		pc->devices[pc->device_count++] = d;
}
