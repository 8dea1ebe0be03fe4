/* Inside of the KVM engine. Documentation/virt/kvm/api.rst of the Linux kernel. */
#ifndef ACCEL_KVM_KVM_H
#define ACCEL_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include "accel/accel.h"

#define KVM_KICK_SIGNAL SIGUSR1
#define KVM_IOAPIC_PINS 24

struct kvm {
	struct accel accel; /* must be first */
	struct accel_config cfg;
	int fd, vm_fd;
	size_t run_size; /* of the shared vCPU page */
	uint64_t slot_gpa[MEM_MAX_SLOTS], slot_size[MEM_MAX_SLOTS];
	bool has_xcrs, has_debugregs, has_events;
};

struct kvm_vcpu {
	struct vcpu vcpu; /* must be first */
	struct kvm *kvm;
	int fd;
	struct kvm_run *run;
	_Atomic uint32_t irq; /* enum vcpu_irq bits waiting */
	pthread_t thread;
	_Atomic bool in_run;
	_Atomic uint64_t exits[64];
};

/* kvm_state.c */
int kvm_get_state(struct vcpu *v, struct cpu_state *s);
int kvm_set_state(struct vcpu *v, const struct cpu_state *s);
int kvm_set_cpuid(struct kvm_vcpu *v, const struct cpu_model *m);
/* kvm_run.c */
void kvm_run_vcpu(struct vcpu *v, struct vcpu_exit *exit);
void kvm_kick(struct vcpu *v);
/* Opens the node and checks the API; -1 with a message that gives the next step. */
int kvm_open_node(GError **error);

#endif
