/* The KVM_RUN loop: exits handled, PIC interrupts injected, kicks by signal and immediate_exit. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

/*
 * Makes KVM_RUN return, now or when it is called next. What is asked for stands in v->irq before
 * immediate_exit is raised here, and the run loop looks at v->irq after it has lowered it: so no kick is lost.
 * The signal is for a vCPU inside the call alone.
 */
static void leave(struct kvm_vcpu *v)
{
	pid_t tid;

	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = atomic_load(&v->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

void kvm_kick(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;

	atomic_fetch_or(&v->irq, VCPU_KICK);
	leave(v);
}

void kvm_set_irq(struct vcpu *vcpu, unsigned bits, bool level)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;

	if (!level) {
		atomic_fetch_and(&v->irq, ~bits);
		return;
	}
	atomic_fetch_or(&v->irq, bits);
	leave(v);
}

void kvm_set_step(struct vcpu *vcpu, bool on)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct kvm_guest_debug d = { .control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0 };

	v->stepping = on;
	ioctl(v->fd, KVM_SET_GUEST_DEBUG, &d);
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

/*
 * A vector that the PIC has given stands in the vCPU's state at once, so that it is part of what get_state reads
 * when the vCPU leaves before it is delivered; with KVM_INTERRUPT the kernel would keep it where nobody sees it.
 */
static void deliver(struct kvm_vcpu *v, struct kvm_vcpu_events *e, unsigned vector)
{
	struct kvm_mp_state mp;

	e->interrupt.injected = 1;
	e->interrupt.soft = 0;
	e->interrupt.nr = (uint8_t)vector;
	/* An NMI that another vCPU has sent meanwhile stays pending, and the rest as it is. */
	e->flags = 0;
	ioctl(v->fd, KVM_SET_VCPU_EVENTS, e);
	/* What has been delivered is no reason for the kernel to end a halt. */
	if (!ioctl(v->fd, KVM_GET_MP_STATE, &mp) && mp.mp_state == KVM_MP_STATE_HALTED) {
		mp.mp_state = KVM_MP_STATE_RUNNABLE;
		ioctl(v->fd, KVM_SET_MP_STATE, &mp);
	}
}

/* Whether an interrupt may follow: no event is half-way. */
static bool events_done(struct kvm_vcpu *v, struct kvm_vcpu_events *e)
{
	return !ioctl(v->fd, KVM_GET_VCPU_EVENTS, e) && !e->exception.injected && !e->exception.pending && !e->nmi.injected &&
	       !e->interrupt.injected;
}

/* ExtINT from the PIC and NMIs go in from outside; all else is the in-kernel APIC's. */
static void inject(struct kvm_vcpu *v)
{
	const struct accel_host *host = v->kvm->cfg.host;
	uint32_t irq = atomic_load(&v->irq);
	struct kvm_run *r = v->run;
	struct kvm_vcpu_events events;

	if (irq & VCPU_NMI) {
		atomic_fetch_and(&v->irq, ~(uint32_t)VCPU_NMI);
		ioctl(v->fd, KVM_NMI, 0ul);
	}
	r->request_interrupt_window = 0;
	if (!(irq & VCPU_INTR))
		return;
	/* Whether LINT0 lets the PIC through is part of being ready. */
	if (r->ready_for_interrupt_injection && events_done(v, &events)) {
		int vector = host->interrupt_ack(host->opaque, v->vcpu.index);

		if (vector >= 0)
			deliver(v, &events, (unsigned)vector);
		r->ready_for_interrupt_injection = 0;
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

static void fail_internal(struct kvm_vcpu *v, struct vcpu_exit *exit)
{
	struct kvm_regs regs = { 0 };
	struct kvm_run *r = v->run;

	ioctl(v->fd, KVM_GET_REGS, &regs);
	fail(exit, "KVM cannot go on at rip %llx (%s, internal error %u); use --engine interp",
	     (unsigned long long)regs.rip,
	     r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ? "it cannot emulate an instruction" : "its own fault",
	     r->internal.suberror);
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
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_INTR:
		return false;
	case KVM_EXIT_HLT:
		v->halted = true;
		exit->kind = VCPU_EXIT_HALT;
		return true;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_SYSTEM_EVENT:
		exit->kind = VCPU_EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_DEBUG:
		atomic_fetch_add_explicit(&v->vcpu.instructions, 1, memory_order_relaxed);
		exit->kind = VCPU_EXIT_DEBUG;
		return true;
	case KVM_EXIT_FAIL_ENTRY:
		fail(exit, "KVM refuses the guest's state (reason 0x%llx); use --engine interp",
		     (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		fail_internal(v, exit);
		return true;
	default:
		fail(exit, "KVM left for a reason we do not know (%u); use --engine interp", r->exit_reason);
		return true;
	}
}

static int enter(struct kvm_vcpu *v)
{
	const struct accel_host *host = v->kvm->cfg.host;
	bool outside = v->kvm->cfg.outside_apic;
	int result;

	/* The task priority goes with the call both ways. */
	if (outside)
		v->run->cr8 = host->tpr_read(host->opaque, v->vcpu.index);
	atomic_store(&v->tid, (pid_t)syscall(SYS_gettid));
	result = ioctl(v->fd, KVM_RUN, 0ul) < 0 ? -errno : 0;
	atomic_store(&v->tid, 0);
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	atomic_fetch_add_explicit(&v->exits, 1, memory_order_relaxed);
	if (outside)
		host->tpr_write(host->opaque, v->vcpu.index, (uint8_t)v->run->cr8);
	return result;
}

/* Halts are the kernel's; with the APIC outside they end by an NMI, or by an interrupt that is accepted. */
bool kvm_has_work(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	uint32_t irq = atomic_load(&v->irq);

	return !v->halted || (irq & VCPU_NMI) || ((irq & VCPU_INTR) && v->run->if_flag);
}

void kvm_run_vcpu(struct vcpu *vcpu, struct vcpu_exit *exit)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	bool kicked = false;

	memset(exit, 0, sizeof(*exit));
	for (;;) {
		int result;

		if (atomic_fetch_and(&v->irq, ~(uint32_t)VCPU_KICK) & VCPU_KICK)
			kicked = true;
		if (!kicked && !kvm_has_work(vcpu)) {
			exit->kind = VCPU_EXIT_HALT;
			return;
		}
		v->halted &= kicked;
		/* An unfinished I/O instruction completes before anyone looks at the state. */
		if (kicked)
			__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		else
			inject(v);
		result = enter(v);
		if (!result) {
			if (handle_exit(v, exit))
				return;
		} else if (result != -EINTR && result != -EAGAIN) {
			fail(exit, "KVM_RUN: %s; use --engine interp", g_strerror(-result));
			return;
		} else if (kicked) {
			exit->kind = VCPU_EXIT_KICKED;
			return;
		}
	}
}
