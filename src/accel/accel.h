/*
 * The engine contract: run a virtual CPU until it must leave. Engines know guest memory
 * (mem/) and x86; they never see a device. What the guest does to ports, MMIO and the local APIC
 * leaves an engine through struct accel_host, called on the vCPU's thread in the middle of the
 * instruction, without the VM lock (the machine takes it); so multi-access
 * instructions need no restart protocol. Everything else ends run() with a reason.
 */
#ifndef ACCEL_ACCEL_H
#define ACCEL_ACCEL_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "mem/mem.h"
#include "x86/apic_state.h"
#include "x86/cpu_state.h"
#include "x86/cpuid.h"

struct accel;
struct vcpu;

/* What the machine offers to an engine. All mandatory. */
struct accel_host {
	void *opaque;
	uint64_t (*port_read)(void *opaque, unsigned cpu, uint16_t port, unsigned len);
	void (*port_write)(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value);
	/* gpa is outside every RAM slot, or a write to a read-only one. len 1..8, never across a page. */
	uint64_t (*mmio_read)(void *opaque, unsigned cpu, uint64_t gpa, unsigned len);
	void (*mmio_write)(void *opaque, unsigned cpu, uint64_t gpa, unsigned len, uint64_t value);
	/* Acknowledges and returns the vector to deliver now, or -1 when the request has gone. Software
	 * engines only (the kernel's APIC does it under KVM, except for PIC ExtINT). */
	int (*interrupt_ack)(void *opaque, unsigned cpu);
	/* x2APIC MSRs 0x800..0x8ff, IA32_APIC_BASE (0x1b), TSC_DEADLINE (0x6e0); false: #GP. */
	bool (*apic_msr_read)(void *opaque, unsigned cpu, uint32_t msr, uint64_t *value);
	bool (*apic_msr_write)(void *opaque, unsigned cpu, uint32_t msr, uint64_t value);
	/* CR8 = TPR >> 4. */
	uint8_t (*tpr_read)(void *opaque, unsigned cpu);
	void (*tpr_write)(void *opaque, unsigned cpu, uint8_t cr8);
	/* Guest nanoseconds now (the kvmclock). */
	int64_t (*clock_ns)(void *opaque);
	/* FERR#: with CR0.NE clear an unmasked x87 error waits (pending; told at each waiting instruction), or has gone.
	 * Returns IGNNE#: whether the CPU may go on; otherwise it waits for an interrupt. Software engines only. */
	bool (*fpu_error)(void *opaque, unsigned cpu, bool pending);
	/* The guest has set its TSC, itself or by IA32_TSC_ADJUST, which has this value now: TSC deadlines come at other times.
	 * Software engines only. */
	void (*tsc_adjusted)(void *opaque, unsigned cpu, uint64_t adjust);
	/* The message of a split irqchip's EOI broadcast (KVM only). */
	void (*ioapic_eoi)(void *opaque, uint8_t vector);
};

/* What can wait for a vCPU; bits of the mask given to set_irq. */
enum vcpu_irq {
	VCPU_INTR = 1 << 0, /* level: the local APIC or PIC asks for interrupt_ack */
	VCPU_NMI = 1 << 1,  /* edge: latched until taken */
	VCPU_INIT = 1 << 2, /* edge: run() returns VCPU_EXIT_INIT */
	VCPU_KICK = 1 << 3, /* edge: run() returns VCPU_EXIT_KICKED soon */
};

enum vcpu_exit_kind {
	VCPU_EXIT_KICKED,   /* told to leave: look at what is asked for */
	VCPU_EXIT_HALT,     /* HLT with nothing pending; mp_state is MP_HALTED */
	VCPU_EXIT_SHUTDOWN, /* triple fault */
	VCPU_EXIT_INIT,     /* INIT arrived: the machine resets the vCPU by set_state */
	VCPU_EXIT_DEBUG,    /* single step or breakpoint asked for by the host */
	VCPU_EXIT_ERROR,    /* the engine cannot go on; message says why */
};

struct vcpu_exit {
	enum vcpu_exit_kind kind;
	char message[200];
};

struct accel_config {
	struct mem *mem;
	const struct accel_host *host;
	const struct cpu_model *cpu;
	unsigned cpus;
	uint64_t bt_cache; /* bytes; bt only */
	/* The local APIC is the machine's whatever caps say: one processor, deterministic (diffrun). */
	bool outside_apic;
};

struct accel_caps {
	bool in_kernel_apic; /* the local APICs are the engine's: the entries at the end of accel_ops */
	bool deterministic;  /* same inputs, same instruction counts */
};

struct accel_ops {
	const char *name; /* "kvm", "bt", "interp" */
	struct accel_caps caps;

	struct accel *(*open)(const struct accel_config *cfg, GError **error);
	void (*close)(struct accel *a); /* all vCPUs destroyed before; NULL accepted */

	/* Called by the machine's mem listener. The software engines watch mem_generation instead and
	 * do nothing here. */
	int (*map_ram)(struct accel *a, unsigned index, const struct mem_slot *slot);
	int (*unmap_ram)(struct accel *a, unsigned index);
	/* Brings the engine's dirty log of the slot into ram->dirty. */
	void (*dirty_log)(struct accel *a, unsigned index, const struct mem_slot *slot);

	struct vcpu *(*vcpu_create)(struct accel *a, unsigned index, GError **error);
	void (*vcpu_destroy)(struct vcpu *v);
	/* Runs on the vCPU's own thread until something in exit->kind. */
	void (*run)(struct vcpu *v, struct vcpu_exit *exit);
	/* From any thread: run() returns soon, or at its next call. */
	void (*kick)(struct vcpu *v);
	/* From any thread: sets (level true) or clears bits of enum vcpu_irq. Wakes run(), not a halted vCPU's thread. */
	void (*set_irq)(struct vcpu *v, unsigned bits, bool level);
	/* Only while the vCPU is not in run(). set_state validates: -EINVAL for impossible state. */
	int (*get_state)(struct vcpu *v, struct cpu_state *s);
	int (*set_state)(struct vcpu *v, const struct cpu_state *s);
	/* Whether set_irq bits are waiting that end a halt. Any thread. */
	bool (*has_work)(struct vcpu *v);
	/* Only while the vCPU is not in run(): run() ends with VCPU_EXIT_DEBUG after one instruction, the delivery
	 * of an interrupt or exception counting with the instruction that it comes before or instead of. An engine
	 * whose unit is larger ends after one such unit; vcpu->instructions tells how many it was. */
	void (*set_step)(struct vcpu *v, bool on);
	/* One line per statistic (instructions, blocks, exits); for the monitor and --stats. */
	void (*print_stats)(struct accel *a, GString *out);

	/* What follows is called for engines with caps.in_kernel_apic only; the others answer -ENOTSUP. */

	/* A message of a PCI device or of the I/O APIC, to the local APICs. */
	int (*send_msi)(struct accel *a, uint64_t address, uint32_t data);
	/* The message that an I/O APIC pin sends: the engine reports the end of level-triggered ones
	 * (data bit 15) by host->ioapic_eoi. */
	int (*route_pin)(struct accel *a, unsigned pin, uint64_t address, uint32_t data);
	/* From now on (on), or no more, writes of len bytes to gpa signal the eventfd instead of reaching host->mmio_write. */
	int (*doorbell)(struct accel *a, uint64_t gpa, unsigned len, int fd, bool on);
	/* From now on (on), or no more, the eventfd's signals are this message to the local APICs; nobody else may read it. */
	int (*irqfd)(struct accel *a, int fd, uint64_t address, uint32_t data, bool on);
	/* As get_state and set_state; set_apic after set_state. */
	int (*get_apic)(struct vcpu *v, struct apic_state *s);
	int (*set_apic)(struct vcpu *v, const struct apic_state *s);
	/* The machine goes on after a pause: paravirtual clocks show host->clock_ns again. */
	void (*resume)(struct accel *a);
};

/* Embedded first in every engine's own structs. */
struct accel {
	const struct accel_ops *ops;
};
struct vcpu {
	const struct accel_ops *ops;
	struct accel *accel;
	unsigned index;
	_Atomic uint64_t instructions; /* executed so far, where the engine counts */
};

extern const struct accel_ops accel_bt_ops;
extern const struct accel_ops accel_interp_ops;
extern const struct accel_ops accel_kvm_ops;

/* What the engine can offer a guest, as CPUID feature words. */
void interp_supported_words(uint32_t words[CPUID_WORDS]);

void kvm_supported_words(uint32_t words[CPUID_WORDS]);
/* Those of the engine that was chosen. */
void accel_supported_words(const struct accel_ops *ops, uint32_t words[CPUID_WORDS]);

/* Why KVM cannot be used, as codes of KVM_ERROR. */
enum kvm_error {
	KVM_ERROR_MISSING, /* no node */
	KVM_ERROR_DENIED,  /* no permission */
	KVM_ERROR_BUSY,    /* another hypervisor has the processor */
	KVM_ERROR_API,     /* not version 12, or not KVM at all */
	KVM_ERROR_BROKEN,  /* a step fails that must not */
	KVM_ERROR_SLOW,    /* works, but runs kernel code slowly */
};
#define KVM_ERROR kvm_error_quark()
GQuark kvm_error_quark(void);

/* The KVM self-test, some ten milliseconds: true when usable, otherwise a message with the reason and the next step. */
bool kvm_usable(GError **error);
/* The same of another node than /dev/kvm. */
bool kvm_probe(const char *node, GError **error);

/* Picks by name ("auto" included); *why says in a few words which and why, for the start-up line. */
const struct accel_ops *accel_choose(const char *name, char **why, GError **error);

#endif
