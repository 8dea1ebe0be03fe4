/* A board of nothing but memory and a log, under any engine: what the KVM tests run their guests on. */
#ifndef TESTS_CPU_KVM_RIG_H
#define TESTS_CPU_KVM_RIG_H

#include "accel/accel.h"

#define GUEST_BASE 0x8000
#define RAM_SIZE (4u << 20)
#define ROM_BASE 0xc0000u
#define ROM_SIZE 0x4000u
#define PORT_MOVE 0xf1
#define PORT_END 0xf4
#define RIG_CPUS 2

struct rig {
	const struct accel_ops *ops;
	struct accel *accel;
	struct mem *mem;
	struct ram *ram, *rom;
	struct vcpu *vcpu[RIG_CPUS];
	struct accel_host host;
	struct cpu_model model;
	GString *log; /* every access, in order */
	unsigned reads; /* what a device answers depends on it */
	_Atomic bool ended, moved;
	int vector; /* for interrupt_ack, -1: none */
	bool hold_at_ack; /* the processor is kicked when it has taken the vector */
	unsigned eois, last_eoi;
	uint64_t tsc_adjust; /* as the engine told it last */
	/* Called at each write to ports 0xe0..0xef. */
	void (*event)(struct rig *r, unsigned cpu, uint16_t port);
};

/* Both engines show the same CPU: what both can offer. */
struct rig *rig_create(const struct accel_ops *ops, bool log_dirty);
void rig_destroy(struct rig *r);
/* Puts the image at GUEST_BASE and processor 0 in real mode before it; processor 1 waits. */
void rig_load(struct rig *r, const uint8_t *image, size_t len);
/* Runs processor 0 until the guest ends or wants to move; false, and a message in the log, for anything else. */
bool rig_run(struct rig *r);
/* Memory, ROM, what devices know, and the state of processor 0. */
void rig_copy(struct rig *to, struct rig *from);

#endif
