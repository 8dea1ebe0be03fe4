/*
 * The in-kernel local APICs: messages to them, eventfds whose signals are such messages, the routes that make the kernel report the end of
 * level-triggered interrupts, and their state in the common form (split irqchip, api.rst 7.5).
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define BASE_X2APIC 0x400u
#define BASE_ENABLE 0x800u
#define MSI_LEVEL 0x8000u
#define TIMER_DEADLINE 2

/* Byte offsets in the register page. */
enum { REG_ID = 0x20, REG_TPR = 0x80, REG_LDR = 0xd0, REG_DFR = 0xe0, REG_SVR = 0xf0, REG_ISR = 0x100, REG_TMR = 0x180,
       REG_IRR = 0x200, REG_ESR = 0x280, REG_ICR = 0x300, REG_ICR2 = 0x310, REG_LVT = 0x320, REG_TIMER_INIT = 0x380,
       REG_TIMER_NOW = 0x390, REG_TIMER_DIVIDE = 0x3e0 };

int kvm_send_msi(struct accel *a, uint64_t address, uint32_t data)
{
	struct kvm *k = (struct kvm *)a;
	struct kvm_msi msi = { .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data };

	return ioctl(k->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}

static void add_route(struct kvm_irq_routing *r, unsigned gsi, const struct kvm_msi *m)
{
	r->entries[r->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = m->address_lo, .address_hi = m->address_hi, .data = m->data },
	};
}

static int set_routes(struct kvm *k)
{
	g_autofree struct kvm_irq_routing *r = g_malloc0(sizeof(*r) + (KVM_PINS + KVM_IRQFDS) * sizeof(r->entries[0]));

	for (unsigned i = 0; i < KVM_PINS; i++)
		if (k->route[i].data)
			add_route(r, i, &k->route[i]);
	for (unsigned i = 0; i < KVM_IRQFDS; i++)
		if (k->irqfd[i].used)
			add_route(r, KVM_PINS + i, &k->irqfd[i].message);
	return ioctl(k->vm_fd, KVM_SET_GSI_ROUTING, r) < 0 ? -errno : 0;
}

int kvm_route_pin(struct accel *a, unsigned pin, uint64_t address, uint32_t data)
{
	struct kvm *k = (struct kvm *)a;
	struct kvm_msi m = { 0 }, old;
	int result;

	if (pin >= KVM_PINS)
		return -EINVAL;
	/* Nobody waits for the end of an edge-triggered interrupt. */
	if (data & MSI_LEVEL)
		m = (struct kvm_msi){ .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data };
	old = k->route[pin];
	if (!memcmp(&old, &m, sizeof(m)))
		return 0;
	k->route[pin] = m;
	result = set_routes(k);
	if (result)
		k->route[pin] = old;
	return result;
}

static int set_irqfd(struct kvm *k, unsigned i, unsigned flags)
{
	const struct kvm_irqfd f = { .fd = (uint32_t)k->irqfd[i].fd, .gsi = KVM_PINS + i, .flags = flags };

	return ioctl(k->vm_fd, KVM_IRQFD, &f) < 0 ? -errno : 0;
}

static int irqfd_add(struct kvm *k, int fd, uint64_t address, uint32_t data)
{
	unsigned i = 0;
	int result;

	while (i < KVM_IRQFDS && k->irqfd[i].used)
		i++;
	if (i == KVM_IRQFDS)
		return -ENOSPC;
	k->irqfd[i] = (struct kvm_irqfd_line){ true, fd, { .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data } };
	result = set_routes(k);
	if (!result)
		result = set_irqfd(k, i, 0);
	if (result) {
		k->irqfd[i].used = false;
		set_routes(k);
	}
	return result;
}

int kvm_irqfd(struct accel *a, int fd, uint64_t address, uint32_t data, bool on)
{
	struct kvm *k = (struct kvm *)a;

	if (on)
		return irqfd_add(k, fd, address, data);
	for (unsigned i = 0; i < KVM_IRQFDS; i++) {
		if (k->irqfd[i].used && k->irqfd[i].fd == fd) {
			set_irqfd(k, i, KVM_IRQFD_FLAG_DEASSIGN);
			k->irqfd[i].used = false;
			return set_routes(k);
		}
	}
	return -ENOENT;
}

/* ---- state ---- */

static uint32_t reg_get(const struct kvm_lapic_state *l, unsigned offset) { return ld32le(l->regs + offset); }
static void reg_set(struct kvm_lapic_state *l, unsigned offset, uint32_t v) { st32le(l->regs + offset, v); }

static bool x2apic(uint64_t base)
{
	return (base & (BASE_ENABLE | BASE_X2APIC)) == (BASE_ENABLE | BASE_X2APIC);
}

int kvm_get_apic(struct vcpu *vcpu, struct apic_state *out)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct apic_state s = { 0 };
	struct kvm_lapic_state l;

	if (ioctl(v->fd, KVM_GET_LAPIC, &l) < 0)
		return -errno;
	if (!kvm_msr_get(v, MSR_APIC_BASE, &s.base))
		return -EIO;
	/* KVM gives the ID in xAPIC form in both modes, unless asked for 32-bit IDs. */
	s.id = reg_get(&l, REG_ID) >> 24;
	s.tpr = reg_get(&l, REG_TPR);
	s.ldr = reg_get(&l, REG_LDR);
	s.dfr = reg_get(&l, REG_DFR);
	s.svr = reg_get(&l, REG_SVR);
	s.esr = reg_get(&l, REG_ESR);
	s.icr_low = reg_get(&l, REG_ICR);
	s.icr_high = reg_get(&l, REG_ICR2);
	for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
		s.lvt[i] = reg_get(&l, REG_LVT + 0x10 * i);
	for (unsigned i = 0; i < 8; i++) {
		s.isr[i] = reg_get(&l, REG_ISR + 0x10 * i);
		s.tmr[i] = reg_get(&l, REG_TMR + 0x10 * i);
		s.irr[i] = reg_get(&l, REG_IRR + 0x10 * i);
	}
	s.timer_init = reg_get(&l, REG_TIMER_INIT);
	s.timer_now = reg_get(&l, REG_TIMER_NOW);
	s.timer_divide = reg_get(&l, REG_TIMER_DIVIDE);
	kvm_msr_get(v, MSR_TSC_DEADLINE, &s.deadline);
	*out = s;
	return 0;
}

int kvm_set_apic(struct vcpu *vcpu, const struct apic_state *s)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct kvm_lapic_state l;

	if (s->tpr > 0xff || s->id > 0xff)
		return -EINVAL;
	/* The mode first: the kernel reads the page by it. */
	if (!kvm_msr_set(v, MSR_APIC_BASE, s->base))
		return -EINVAL;
	if (ioctl(v->fd, KVM_GET_LAPIC, &l) < 0)
		return -errno;
	reg_set(&l, REG_ID, s->id << 24);
	reg_set(&l, REG_TPR, s->tpr);
	/* In x2APIC mode it follows from the ID. */
	if (!x2apic(s->base))
		reg_set(&l, REG_LDR, s->ldr);
	reg_set(&l, REG_DFR, s->dfr);
	reg_set(&l, REG_SVR, s->svr);
	reg_set(&l, REG_ESR, s->esr);
	reg_set(&l, REG_ICR, s->icr_low);
	reg_set(&l, REG_ICR2, s->icr_high);
	for (unsigned i = 0; i < APIC_LVT_COUNT; i++)
		reg_set(&l, REG_LVT + 0x10 * i, s->lvt[i]);
	for (unsigned i = 0; i < 8; i++) {
		reg_set(&l, REG_ISR + 0x10 * i, s->isr[i]);
		reg_set(&l, REG_TMR + 0x10 * i, s->tmr[i]);
		reg_set(&l, REG_IRR + 0x10 * i, s->irr[i]);
	}
	reg_set(&l, REG_TIMER_INIT, s->timer_init);
	reg_set(&l, REG_TIMER_NOW, s->timer_now);
	reg_set(&l, REG_TIMER_DIVIDE, s->timer_divide);
	if (ioctl(v->fd, KVM_SET_LAPIC, &l) < 0)
		return -errno;
	if ((s->lvt[0] >> 17 & 3) == TIMER_DEADLINE)
		kvm_msr_set(v, MSR_TSC_DEADLINE, s->deadline);
	return 0;
}
