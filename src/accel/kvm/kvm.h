/* Inside of the KVM engine. Documentation/virt/kvm/api.rst of the Linux kernel. */
#ifndef ACCEL_KVM_KVM_H
#define ACCEL_KVM_KVM_H

#include <linux/kvm.h>
#include <signal.h>
#include <sys/types.h>

#include "accel/accel.h"

#define KVM_KICK_SIGNAL SIGUSR1
#define KVM_NODE "/dev/kvm"
#define KVM_PINS 24 /* of the I/O APIC outside */
#define KVM_IRQFDS 16

/* An eventfd's message; the kernel's number for it comes after the pins'. */
struct kvm_irqfd_line {
	bool used;
	int fd;
	struct kvm_msi message;
};

struct kvm {
	struct accel accel; /* must be first */
	struct accel_config cfg;
	int fd, vm_fd;
	size_t run_size; /* of the shared vCPU page */
	struct mem_slot slot[MEM_MAX_SLOTS]; /* what the kernel knows; size 0: nothing */
	bool has_xcrs, has_tsc_offset;
	unsigned phys_bits; /* of the host */
	struct kvm_vcpu **vcpus;
	struct kvm_msi route[KVM_PINS]; /* level-triggered pins' messages; data 0: none */
	struct kvm_irqfd_line irqfd[KVM_IRQFDS];
};

struct kvm_vcpu {
	struct vcpu vcpu; /* must be first */
	struct kvm *kvm;
	int fd;
	struct kvm_run *run;
	_Atomic uint32_t irq; /* enum vcpu_irq bits waiting */
	_Atomic pid_t tid;    /* of the thread inside KVM_RUN, 0: none */
	bool stepping;
	bool halted; /* with the APIC outside halts are ours */
	_Atomic uint64_t exits; /* to us, from the kernel */
};

/* kvm_state.c */
int kvm_get_state(struct vcpu *v, struct cpu_state *s);
int kvm_set_state(struct vcpu *v, const struct cpu_state *s);
/* One model-specific register; false when the host refuses. */
bool kvm_msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *value);
bool kvm_msr_set(struct kvm_vcpu *v, uint32_t index, uint64_t value);

/* kvm_cpuid.c */
int kvm_set_cpuid(struct kvm_vcpu *v, const struct cpu_model *m);
unsigned kvm_phys_bits(int fd);

/* kvm_apic.c */
int kvm_send_msi(struct accel *a, uint64_t address, uint32_t data);
int kvm_route_pin(struct accel *a, unsigned pin, uint64_t address, uint32_t data);
int kvm_irqfd(struct accel *a, int fd, uint64_t address, uint32_t data, bool on);
int kvm_get_apic(struct vcpu *v, struct apic_state *s);
int kvm_set_apic(struct vcpu *v, const struct apic_state *s);

/* kvm_run.c */
void kvm_run_vcpu(struct vcpu *v, struct vcpu_exit *exit);
void kvm_kick(struct vcpu *v);
void kvm_set_irq(struct vcpu *v, unsigned bits, bool level);
void kvm_set_step(struct vcpu *v, bool on);
bool kvm_has_work(struct vcpu *v);

/* kvm_probe.c: opens the node and checks the API; -1 with a message that gives the next step. */
int kvm_open_node(const char *node, GError **error);

#endif
