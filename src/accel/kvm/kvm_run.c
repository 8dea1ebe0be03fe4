/* The KVM_RUN loop: exits handled, PIC interrupts injected, kicks by signal and immediate_exit. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

void kvm_kick(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;

	atomic_fetch_or(&v->irq, VCPU_KICK);
	/* Whether the signal comes before or in KVM_RUN, the call ends at once. */
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&v->in_run))
		pthread_kill(v->thread, KVM_KICK_SIGNAL);
}

static void handle_io(struct kvm_vcpu *v)
{
	const struct accel_host *host = v->kvm->cfg.host;
	struct kvm_run *r = v->run;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;

	for (uint32_t i = 0; i < r->io.count; i++, data += r->io.size) {
		if (r->io.direction == KVM_EXIT_IO_OUT)
			host->port_write(host->opaque, v->vcpu.index, r->io.port, r->io.size, ld_le(data, r->io.size));
		else
			st_le(data, r->io.size, host->port_read(host->opaque, v->vcpu.index, r->io.port, r->io.size));
	}
}

static void handle_mmio(struct kvm_vcpu *v)
{
	const struct accel_host *host = v->kvm->cfg.host;
	struct kvm_run *r = v->run;
	unsigned len = r->mmio.len;

	if (r->mmio.is_write)
		host->mmio_write(host->opaque, v->vcpu.index, r->mmio.phys_addr, len, ld_le(r->mmio.data, len));
	else
		st_le(r->mmio.data, len, host->mmio_read(host->opaque, v->vcpu.index, r->mmio.phys_addr, len));
}

/* ExtINT from the PIC and NMIs go in from outside; all else is the in-kernel APIC's. */
static void inject(struct kvm_vcpu *v)
{
	const struct accel_host *host = v->kvm->cfg.host;
	uint32_t irq = atomic_load(&v->irq);
	struct kvm_run *r = v->run;

	if (irq & VCPU_NMI) {
		atomic_fetch_and(&v->irq, ~(uint32_t)VCPU_NMI);
		ioctl(v->fd, KVM_NMI, 0ul);
	}
	r->request_interrupt_window = 0;
	if (!(irq & VCPU_INTR))
		return;
	if (r->ready_for_interrupt_injection) {
		int vector = host->interrupt_ack(host->opaque, v->vcpu.index);
		struct kvm_interrupt in = { .irq = (uint32_t)vector };

		if (vector >= 0)
			ioctl(v->fd, KVM_INTERRUPT, &in);
	}
	if (atomic_load(&v->irq) & VCPU_INTR)
		r->request_interrupt_window = 1;
}

static void fail(struct vcpu_exit *exit, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct vcpu_exit *exit, const char *fmt, ...)
{
	va_list ap;

	exit->kind = VCPU_EXIT_ERROR;
	va_start(ap, fmt);
	vsnprintf(exit->message, sizeof(exit->message), fmt, ap);
	va_end(ap);
}

/* True when run() has to end; exit is filled in. */
static bool handle_exit(struct kvm_vcpu *v, struct vcpu_exit *exit)
{
	const struct accel_host *host = v->kvm->cfg.host;
	struct kvm_run *r = v->run;

	switch (r->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(v);
		return false;
	case KVM_EXIT_MMIO:
		handle_mmio(v);
		return false;
	case KVM_EXIT_IOAPIC_EOI:
		host->ioapic_eoi(host->opaque, r->eoi.vector);
		return false;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		return false;
	case KVM_EXIT_HLT:
		exit->kind = VCPU_EXIT_HALT;
		return true;
	case KVM_EXIT_SHUTDOWN:
		exit->kind = VCPU_EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_SYSTEM_EVENT:
		exit->kind = VCPU_EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_DEBUG:
		exit->kind = VCPU_EXIT_DEBUG;
		return true;
	case KVM_EXIT_FAIL_ENTRY:
		fail(exit, "KVM refuses the guest's state (reason 0x%llx)",
		     (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		fail(exit, "KVM cannot go on (internal error %u); try --engine interp", r->internal.suberror);
		return true;
	default:
		fail(exit, "KVM left for a reason we do not know (%u)", r->exit_reason);
		return true;
	}
}

void kvm_run_vcpu(struct vcpu *vcpu, struct vcpu_exit *exit)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;

	v->thread = pthread_self();
	atomic_store(&v->in_run, true);
	for (;;) {
		int result;

		if (atomic_fetch_and(&v->irq, ~(uint32_t)VCPU_KICK) & VCPU_KICK) {
			/* An unfinished I/O instruction completes before anyone looks at the state. */
			__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
			ioctl(v->fd, KVM_RUN, 0ul);
			__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			exit->kind = VCPU_EXIT_KICKED;
			break;
		}
		inject(v);
		result = ioctl(v->fd, KVM_RUN, 0ul);
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (result < 0 && errno != EINTR && errno != EAGAIN) {
			fail(exit, "KVM_RUN: %s", g_strerror(errno));
			break;
		}
		if (result >= 0 && handle_exit(v, exit))
			break;
	}
	atomic_store(&v->in_run, false);
}
