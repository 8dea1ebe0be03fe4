/*
 * The machine's callbacks, as the interpreter's handlers find them here: the machine may use vector registers,
 * so the guest's state leaves them first.
 */
#include "accel/bt/bt.h"

static const struct accel_host *outer(void *opaque, unsigned cpu)
{
	struct bt *bt = opaque;
	struct bt_cpu *b = (struct bt_cpu *)bt->interp.cpus[cpu];

	if (b && b->fp_level)
		bt_fp_save(b);
	return bt->outer;
}

static uint64_t port_read(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->port_read(h->opaque, cpu, port, len);
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value)
{
	const struct accel_host *h = outer(opaque, cpu);

	h->port_write(h->opaque, cpu, port, len, value);
}

static uint64_t mmio_read(void *opaque, unsigned cpu, uint64_t gpa, unsigned len)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->mmio_read(h->opaque, cpu, gpa, len);
}

static void mmio_write(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value)
{
	const struct accel_host *h = outer(opaque, cpu);

	h->mmio_write(h->opaque, cpu, gpa, len, value);
}

static int interrupt_ack(void *opaque, unsigned cpu)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->interrupt_ack(h->opaque, cpu);
}

static bool apic_msr_read(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->apic_msr_read(h->opaque, cpu, msr, value);
}

static bool apic_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->apic_msr_write(h->opaque, cpu, msr, value);
}

static uint8_t tpr_read(void *opaque, unsigned cpu)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->tpr_read(h->opaque, cpu);
}

static void tpr_write(void *opaque, unsigned cpu, uint8_t cr8)
{
	const struct accel_host *h = outer(opaque, cpu);

	h->tpr_write(h->opaque, cpu, cr8);
}

/* Asked for by handlers only that run with the state in memory. */
static int64_t clock_ns(void *opaque)
{
	const struct accel_host *h = ((struct bt *)opaque)->outer;

	return h->clock_ns(h->opaque);
}

static bool fpu_error(void *opaque, unsigned cpu, bool pending)
{
	const struct accel_host *h = outer(opaque, cpu);

	return h->fpu_error(h->opaque, cpu, pending);
}

static void tsc_adjusted(void *opaque, unsigned cpu, uint64_t adjust)
{
	const struct accel_host *h = outer(opaque, cpu);

	h->tsc_adjusted(h->opaque, cpu, adjust);
}

static void ioapic_eoi(void *opaque, uint8_t vector)
{
	const struct accel_host *h = ((struct bt *)opaque)->outer;

	h->ioapic_eoi(h->opaque, vector);
}

void bt_host_make(struct bt *bt, const struct accel_host *host)
{
	bt->outer = host;
	bt->inner = (struct accel_host){
		.opaque = bt,
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
		.ioapic_eoi = ioapic_eoi,
	};
}
