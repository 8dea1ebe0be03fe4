/*
 * The life of one virtual machine: its vCPU threads, pause and resume, reset and power-off.
 * Devices and vCPUs ask for a change with vm_request from any thread; it is carried out on
 * the main loop's thread, with every vCPU stopped.
 */
#ifndef MACHINE_VM_H
#define MACHINE_VM_H

#include <pthread.h>

#include "accel/accel.h"
#include "display/input.h"
#include "display/surface.h"
#include "host/chardev.h"
#include "host/clock.h"
#include "machine/config.h"

struct vm;
struct pc;

enum vm_status { VM_PAUSED, VM_RUNNING, VM_SHUTDOWN, VM_ENGINE_ERROR, VM_PANICKED, VM_IO_ERROR };

enum vm_request {
	VM_REQ_RESET = 1 << 0,       /* the guest or a user asks for a reset */
	VM_REQ_POWEROFF = 1 << 1,    /* ACPI S5 */
	VM_REQ_TRIPLE_FAULT = 1 << 2,
	VM_REQ_DEBUG_EXIT = 1 << 3,  /* isa-debug-exit */
	VM_REQ_ERROR = 1 << 4,       /* the engine gave up; vm_error_message */
	VM_REQ_QUIT = 1 << 5,        /* a user ends it */
	VM_REQ_PANIC = 1 << 6,       /* the guest's kernel gave up; config.on_panic says what follows */
	VM_REQ_WATCHDOG = 1 << 7,    /* the guest did not feed its watchdog: reset */
	VM_REQ_IO_ERROR = 1 << 8,    /* a disk request waits until the user has seen to the host's storage */
};

enum vm_event {
	VM_EVENT_STOP,
	VM_EVENT_RESUME,
	VM_EVENT_RESET,
	VM_EVENT_POWERDOWN,
	VM_EVENT_SHUTDOWN,
	VM_EVENT_PANIC,
	VM_EVENT_CRASH_LOADED, /* a panicked guest saves its memory itself */
	VM_EVENT_WATCHDOG,
	VM_EVENT_BALLOON, /* the guest's memory changed its size */
	VM_EVENT_TRAY,	   /* pc_drives_take_tray says which */
	VM_EVENT_IO_ERROR, /* pc_drives_take_failure says which */
};

struct vm_listener {
	/* On the main thread, VM lock not held. `guest` says whose wish it was. */
	void (*event)(void *opaque, enum vm_event event, bool guest);
	/* The machine has ended with this exit status of `guise run`. */
	void (*ended)(void *opaque, int status);
	void *opaque;
};

struct vcpu_thread {
	struct vm *vm;
	struct vcpu *vcpu;
	unsigned index;
	pthread_t thread;
	pthread_cond_t wake;
	bool started;      /* thread exists */
	bool outside;      /* not in run(); state may be read and set */
	bool init_pending; /* INIT arrived */
	int sipi_vector;   /* start-up IPI page, -1 none */
	bool debug_step;
	uint64_t tsc_adjust; /* what the guest has moved its TSC by; software engines */
	int tid;
};

/* What the monitor's user last did with the pointer. */
struct vm_pointer {
	int x, y; /* 0 to INPUT_POINTER_MAX */
	unsigned buttons;
	bool relative; /* by movements */
};

/* Devices reach what they need through their constructors; this is for machine/ and monitor/. */
struct vm {
	struct vm_config config;
	pthread_mutex_t lock;
	pthread_cond_t stopped; /* a vCPU left run() */
	struct clock *clock;
	struct mem *mem;
	struct cpu_model cpu_model;
	struct accel *accel;
	const struct accel_ops *ops;
	bool kernel_apic; /* the local APICs are the engine's */
	char *engine_why;
	struct vcpu_thread *vcpus;
	unsigned cpus;
	struct pc *pc;
	enum vm_status status;
	uint64_t tsc_paused; /* the host's TSC when the machine was paused; 0: not since it started */
	uint64_t tsc_offset; /* guest TSC = host TSC + this + its vCPU's tsc_adjust */
	bool hold;  /* vCPU threads stay out of run() */
	bool quit;  /* vCPU threads end */
	unsigned requests;
	unsigned posted; /* bit per enum vm_event */
	struct accel_host *bridge;
	int debug_exit_value;
	char error_message[200];
	struct vm_listener listener;
	GQueue *keys; /* the monitor's typist */
	unsigned keys_source;
	struct vm_pointer pointer;
	bool (*key_filter)(void *opaque, uint8_t byte); /* escape keys on stdio */
	void *key_filter_opaque;
};

/* Takes the config over. Builds the board and the vCPU threads; everything stands still. */
struct vm *vm_create(struct vm_config *config, bool (*key_filter)(void *opaque, uint8_t byte), void *filter_opaque,
		     GError **error);
/* Ends the threads, closes devices and images. NULL accepted. */
void vm_destroy(struct vm *vm);
void vm_set_listener(struct vm *vm, const struct vm_listener *l);

static inline void vm_lock(struct vm *vm) { pthread_mutex_lock(&vm->lock); }
static inline void vm_unlock(struct vm *vm) { pthread_mutex_unlock(&vm->lock); }

/* Main thread, without the lock. */
void vm_resume(struct vm *vm);
void vm_pause(struct vm *vm);
void vm_reset(struct vm *vm);
void vm_powerdown(struct vm *vm); /* presses the ACPI power button */
const char *vm_status_name(const struct vm *vm);

/* Any thread, with or without the lock. */
void vm_request(struct vm *vm, enum vm_request what);
/* Tells the listener soon, on the main thread; the guest runs on. */
void vm_post(struct vm *vm, enum vm_event event);

/* With the lock held: wakes a vCPU's thread after set_irq. */
void vm_wake_vcpu(struct vm *vm, unsigned cpu);
/* INIT and start-up IPIs from the local APICs; lock held. */
void vm_vcpu_init(struct vm *vm, unsigned cpu);
void vm_vcpu_sipi(struct vm *vm, unsigned cpu, uint8_t vector);
/* Stops all vCPUs for a moment (lock held): fn may read or change any state. */
void vm_hold(struct vm *vm);
void vm_release(struct vm *vm);

/* The engine's callbacks into the board (machine/bridge.c). */
struct accel_host vm_bridge(struct vm *vm);

#endif
