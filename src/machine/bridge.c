/* Between an engine and the board: every access takes the VM lock and finds its device. */
#include "accel/accel.h"
#include "base/log.h"
#include "dev/coprocessor.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "machine/pc.h"
#include "machine/vm.h"

#define LAPIC_PAGE UINT64_C(0xfee00000)

static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	struct vm *vm = opaque;
	uint64_t value;

	vm_lock(vm);
	value = space_read(vm->pc->ports, port, len);
	vm_unlock(vm);
	trace(TRACE_IO, "cpu%u in%u %04x -> %0*lx", cpu, len, port, (int)len * 2, (unsigned long)value);
	return value;
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value)
{
	struct vm *vm = opaque;

	trace(TRACE_IO, "cpu%u out%u %04x <- %0*lx", cpu, len, port, (int)len * 2, (unsigned long)value);
	vm_lock(vm);
	space_write(vm->pc->ports, port, len, value);
	vm_unlock(vm);
}

static uint64_t mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
	struct vm *vm = opaque;
	uint64_t value;

	vm_lock(vm);
	if ((gpa & ~UINT64_C(0xfff)) == LAPIC_PAGE)
		value = lapic_mmio_read(vm->pc->lapics, cpu, (uint32_t)(gpa & 0xfff));
	else
		value = space_read(vm->pc->mmio, gpa, len);
	vm_unlock(vm);
	trace(TRACE_MMIO, "cpu%u read%u %lx -> %lx", cpu, len, (unsigned long)gpa, (unsigned long)value);
	return value;
}

static void mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value)
{
	struct vm *vm = opaque;

	trace(TRACE_MMIO, "cpu%u write%u %lx <- %lx", cpu, len, (unsigned long)gpa, (unsigned long)value);
	vm_lock(vm);
	if ((gpa & ~UINT64_C(0xfff)) == LAPIC_PAGE)
		lapic_mmio_write(vm->pc->lapics, cpu, (uint32_t)(gpa & 0xfff), (uint32_t)value);
	else
		space_write(vm->pc->mmio, gpa, len, value);
	vm_unlock(vm);
}

static int interrupt_ack(void *opaque, unsigned cpu)
{
	struct vm *vm = opaque;
	int vector;

	vm_lock(vm);
	vector = lapic_ack(vm->pc->lapics, cpu);
	vm_unlock(vm);
	trace(TRACE_IRQ, "cpu%u takes vector %d", cpu, vector);
	return vector;
}

static bool apic_msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	struct vm *vm = opaque;
	bool ok;

	vm_lock(vm);
	ok = lapic_msr_read(vm->pc->lapics, cpu, msr, value);
	vm_unlock(vm);
	return ok;
}

static bool apic_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct vm *vm = opaque;
	bool ok;

	vm_lock(vm);
	ok = lapic_msr_write(vm->pc->lapics, cpu, msr, value);
	vm_unlock(vm);
	return ok;
}

static uint8_t tpr_read(void *opaque, unsigned cpu)
{
	struct vm *vm = opaque;
	uint8_t cr8;

	vm_lock(vm);
	cr8 = lapic_cr8_read(vm->pc->lapics, cpu);
	vm_unlock(vm);
	return cr8;
}

static void tpr_write(void *opaque, unsigned cpu, uint8_t cr8)
{
	struct vm *vm = opaque;

	vm_lock(vm);
	lapic_cr8_write(vm->pc->lapics, cpu, cr8);
	vm_unlock(vm);
}

static int64_t clock_ns(void *opaque)
{
	return clock_now(((struct vm *)opaque)->clock);
}

static bool fpu_error(void *opaque, unsigned cpu, bool pending)
{
	struct vm *vm = opaque;
	bool ignored;

	vm_lock(vm);
	ignored = coprocessor_error(vm->pc->coprocessor, pending);
	vm_unlock(vm);
	return ignored;
}

static void tsc_adjusted(void *opaque, unsigned cpu, uint64_t adjust)
{
	struct vm *vm = opaque;

	vm_lock(vm);
	vm->vcpus[cpu].tsc_adjust = adjust;
	lapic_tsc_changed(vm->pc->lapics, cpu);
	vm_unlock(vm);
}

static void eoi(void *opaque, uint8_t vector)
{
	struct vm *vm = opaque;

	vm_lock(vm);
	ioapic_eoi(vm->pc->ioapic, vector);
	vm_unlock(vm);
}

struct accel_host vm_bridge(struct vm *vm)
{
	return (struct accel_host){
		.opaque = vm,
		.port_read = port_read,
		.port_write = port_write,
		.mmio_read = mmio_read,
		.mmio_write = mmio_write,
		.interrupt_ack = interrupt_ack,
		.apic_msr_read = apic_msr_read,
		.apic_msr_write = apic_msr_write,
		.tpr_read = tpr_read,
		.tpr_write = tpr_write,
		.clock_ns = clock_ns,
		.fpu_error = fpu_error,
		.tsc_adjusted = tsc_adjusted,
		.ioapic_eoi = eoi,
	};
}
