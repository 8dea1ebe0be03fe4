/* Lifecycle: vCPU threads, holding and releasing them, carrying out requests. */
#include "machine/vm.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fair_lock.h"
#include "base/tsc.h"
#include "machine/pc.h"
#include "machine/pc_drives.h"
#include "machine/pc_memory.h"

void vm_config_finish(struct vm_config *c)
{
	g_free(c->name);
	g_free(c->engine);
	g_free(c->cpu);
	g_free(c->kernel);
	g_free(c->initrd);
	g_free(c->append);
	g_free(c->cdrom.path);
	for (unsigned i = 0; i < c->disks; i++)
		g_free(c->disk[i].path);
	for (unsigned i = 0; i < c->floppies; i++)
		g_free(c->floppy[i].path);
	for (unsigned i = 0; i < c->nics; i++) {
		net_config_finish(&c->nic[i].net);
		g_free(c->nic[i].capture);
	}
	g_free(c->boot);
	g_free(c->firmware);
	g_free(c->uefi_vars);
	for (unsigned i = 0; i < VM_MAX_SERIAL; i++)
		g_free(c->serial[i]);
	g_free(c->console);
	g_free(c->debugcon);
	memset(c, 0, sizeof(*c));
}

/* ---- vCPU threads ---- */

static void vcpu_apply_init(struct vcpu_thread *t)
{
	struct cpu_state s;

	t->init_pending = false;
	t->vm->ops->get_state(t->vcpu, &s);
	cpu_state_init(&s, t->index == 0);
	t->vm->ops->set_state(t->vcpu, &s);
	t->vm->ops->set_irq(t->vcpu, VCPU_INIT, false);
}

static void vcpu_apply_sipi(struct vcpu_thread *t)
{
	struct cpu_state s;
	int vector = t->sipi_vector;

	t->sipi_vector = -1;
	t->vm->ops->get_state(t->vcpu, &s);
	if (s.mp_state != MP_WAIT_SIPI)
		return;
	s.seg[SEG_CS].selector = (uint16_t)(vector << 8);
	s.seg[SEG_CS].base = (uint64_t)vector << 12;
	s.rip = 0;
	s.mp_state = MP_RUNNING;
	t->vm->ops->set_state(t->vcpu, &s);
}

static void vcpu_handle_exit(struct vcpu_thread *t, const struct vcpu_exit *exit)
{
	struct vm *vm = t->vm;

	switch (exit->kind) {
	case VCPU_EXIT_HALT:
		while (!vm->hold && !vm->quit && !t->init_pending && t->sipi_vector < 0 && !vm->ops->has_work(t->vcpu))
			pthread_cond_wait(&t->wake, &vm->lock);
		break;
	case VCPU_EXIT_SHUTDOWN:
		vm_request(vm, VM_REQ_TRIPLE_FAULT);
		break;
	case VCPU_EXIT_INIT:
		t->init_pending = true;
		break;
	case VCPU_EXIT_ERROR:
		g_strlcpy(vm->error_message, exit->message, sizeof(vm->error_message));
		vm_request(vm, VM_REQ_ERROR);
		break;
	case VCPU_EXIT_KICKED:
	case VCPU_EXIT_DEBUG:
		break;
	}
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu_thread *t = opaque;
	struct vm *vm = t->vm;
	struct vcpu_exit exit;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", t->index);
	pthread_setname_np(pthread_self(), name);
	vm_lock(vm);
	t->tid = (int)syscall(SYS_gettid);
	while (!vm->quit) {
		if (vm->hold) {
			t->outside = true;
			pthread_cond_broadcast(&vm->stopped);
			pthread_cond_wait(&t->wake, &vm->lock);
			continue;
		}
		if (t->init_pending)
			vcpu_apply_init(t);
		if (t->sipi_vector >= 0)
			vcpu_apply_sipi(t);
		t->outside = false;
		vm_unlock(vm);
		vm->ops->run(t->vcpu, &exit);
		vm_lock(vm);
		vcpu_handle_exit(t, &exit);
	}
	t->outside = true;
	pthread_cond_broadcast(&vm->stopped);
	vm_unlock(vm);
	return NULL;
}

void vm_wake_vcpu(struct vm *vm, unsigned cpu)
{
	pthread_cond_signal(&vm->vcpus[cpu].wake);
}

void vm_vcpu_init(struct vm *vm, unsigned cpu)
{
	struct vcpu_thread *t = &vm->vcpus[cpu];

	t->init_pending = true;
	t->sipi_vector = -1;
	vm->ops->kick(t->vcpu);
	vm_wake_vcpu(vm, cpu);
}

void vm_vcpu_sipi(struct vm *vm, unsigned cpu, uint8_t vector)
{
	struct vcpu_thread *t = &vm->vcpus[cpu];

	t->sipi_vector = vector;
	vm->ops->kick(t->vcpu);
	vm_wake_vcpu(vm, cpu);
}

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpus; i++) {
		vm->ops->kick(vm->vcpus[i].vcpu);
		pthread_cond_signal(&vm->vcpus[i].wake);
	}
}

static bool all_outside(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpus; i++) {
		if (vm->vcpus[i].started && !vm->vcpus[i].outside)
			return false;
	}
	return true;
}

void vm_hold(struct vm *vm)
{
	vm->hold = true;
	kick_all(vm);
	while (!all_outside(vm))
		pthread_cond_wait(&vm->stopped, &vm->lock);
	if (vm->pc)
		pc_net_pause(vm->pc, true);
}

void vm_release(struct vm *vm)
{
	if (vm->status != VM_RUNNING || vm->requests)
		return;
	vm->hold = false;
	pc_net_pause(vm->pc, false);
	for (unsigned i = 0; i < vm->cpus; i++) {
		vm->vcpus[i].outside = false;
		pthread_cond_signal(&vm->vcpus[i].wake);
	}
}

/* ---- what users and guests ask for ---- */

static void tell(struct vm *vm, enum vm_event event, bool guest)
{
	if (vm->listener.event)
		vm->listener.event(vm->listener.opaque, event, guest);
}

static void end(struct vm *vm, int status, bool guest)
{
	vm_lock(vm);
	vm_hold(vm);
	vm->status = VM_SHUTDOWN;
	clock_pause(vm->clock, host_moment_now().ns);
	vm_unlock(vm);
	tell(vm, VM_EVENT_SHUTDOWN, guest);
	if (vm->listener.ended)
		vm->listener.ended(vm->listener.opaque, status);
}

/*
 * Guests check the TSC against the other timers, and give it up when they differ by some hundred microseconds: all stop and
 * start at one moment. The TSC has not moved while the machine was paused, and so neither has the paravirtual clock, which is computed from
 * it. With APICs in the kernel the engine's resume sets that clock, and the TSC runs on as on other hypervisors.
 */
static void tsc_resume(struct vm *vm, uint64_t now)
{
	uint64_t away = now - vm->tsc_paused;

	if (!vm->tsc_paused || vm->kernel_apic)
		return;
	vm->tsc_offset -= away;
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct cpu_state s;

		vm->ops->get_state(vm->vcpus[i].vcpu, &s);
		s.tsc_offset -= away;
		vm->ops->set_state(vm->vcpus[i].vcpu, &s);
	}
}

void vm_resume(struct vm *vm)
{
	struct host_moment now;
	bool changed;

	vm_lock(vm);
	changed = vm->status == VM_PAUSED || vm->status == VM_PANICKED || vm->status == VM_IO_ERROR;
	if (changed) {
		vm->status = VM_RUNNING;
		now = host_moment_now();
		clock_resume(vm->clock, now.ns);
		tsc_resume(vm, now.tsc);
		if (vm->kernel_apic)
			vm->ops->resume(vm->accel);
		pc_drives_retry(vm->pc);
		vm_release(vm);
	}
	vm_unlock(vm);
	if (changed)
		tell(vm, VM_EVENT_RESUME, false);
}

void vm_pause(struct vm *vm)
{
	struct host_moment now;
	bool changed;

	vm_lock(vm);
	changed = vm->status == VM_RUNNING;
	if (changed) {
		vm_hold(vm);
		vm->status = VM_PAUSED;
		now = host_moment_now();
		clock_pause(vm->clock, now.ns);
		vm->tsc_paused = now.tsc;
	}
	vm_unlock(vm);
	if (changed)
		tell(vm, VM_EVENT_STOP, false);
}

static bool reset_all(struct vm *vm, GError **error)
{
	struct cpu_state boot;

	if (!pc_reset(vm->pc, &boot, error))
		return false;
	vm->tsc_offset = 0;
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct vcpu_thread *t = &vm->vcpus[i];
		struct cpu_state s;

		t->init_pending = false;
		t->sipi_vector = -1;
		t->tsc_adjust = 0;
		vm->ops->set_irq(t->vcpu, VCPU_INTR | VCPU_NMI | VCPU_INIT, false);
		cpu_state_reset(&s, i == 0);
		if (i == 0)
			s = boot;
		s.apic_base = UINT64_C(0xfee00800) | (i == 0 ? 0x100 : 0);
		vm->ops->set_state(t->vcpu, &s);
	}
	return true;
}

static void reset_now(struct vm *vm, bool guest)
{
	GError *err = NULL;
	bool ok;

	vm_lock(vm);
	vm_hold(vm);
	ok = reset_all(vm, &err);
	if (!ok) {
		g_strlcpy(vm->error_message, err->message, sizeof(vm->error_message));
		g_error_free(err);
	}
	vm_release(vm);
	vm_unlock(vm);
	if (ok)
		tell(vm, VM_EVENT_RESET, guest);
	else
		vm_request(vm, VM_REQ_ERROR);
}

void vm_reset(struct vm *vm)
{
	reset_now(vm, false);
}

void vm_powerdown(struct vm *vm)
{
	vm_lock(vm);
	pc_power_button(vm->pc);
	vm_unlock(vm);
	tell(vm, VM_EVENT_POWERDOWN, false);
}

/* The guest has said that it cannot go on. */
static void panicked(struct vm *vm)
{
	tell(vm, VM_EVENT_PANIC, true);
	switch (vm->config.on_panic) {
	case PANIC_POWEROFF:
		g_printerr("guise: the guest panicked\n");
		end(vm, 1, true);
		break;
	case PANIC_PAUSE:
		vm_pause(vm);
		vm->status = VM_PANICKED;
		break;
	case PANIC_RESET:
		reset_now(vm, true);
		break;
	case PANIC_IGNORE:
		vm_lock(vm);
		vm_release(vm);
		vm_unlock(vm);
		break;
	}
}

/* Requests wait at a drive; vm_resume tries them anew. */
static void io_failed(struct vm *vm)
{
	tell(vm, VM_EVENT_IO_ERROR, true);
	if (vm->status != VM_RUNNING)
		return;
	g_printerr("guise: a disk cannot be written or read: paused; see to the host's storage, then let the machine go on (cont)\n");
	vm_lock(vm);
	vm_hold(vm);
	pc_drives_settle(vm->pc);
	vm_unlock(vm);
	vm_pause(vm);
	vm->status = VM_IO_ERROR;
}

/* Main loop: carries out what was requested, most final first. */
static gboolean service(gpointer opaque)
{
	struct vm *vm = opaque;
	unsigned what;

	what = __atomic_exchange_n(&vm->requests, 0, __ATOMIC_SEQ_CST);
	if (vm->status == VM_SHUTDOWN || vm->status == VM_ENGINE_ERROR)
		return G_SOURCE_REMOVE;
	if (what & VM_REQ_QUIT) {
		end(vm, 0, false);
	} else if (what & VM_REQ_DEBUG_EXIT) {
		end(vm, (vm->debug_exit_value << 1 | 1) & 0xff, true);
	} else if (what & VM_REQ_POWEROFF) {
		end(vm, 0, true);
	} else if (what & VM_REQ_ERROR) {
		g_printerr("guise: the engine stopped: %s\n", vm->error_message);
		end(vm, 1, true);
		vm->status = VM_ENGINE_ERROR;
	} else if (what & VM_REQ_PANIC) {
		panicked(vm);
	} else if (what & (VM_REQ_RESET | VM_REQ_TRIPLE_FAULT | VM_REQ_WATCHDOG)) {
		if (what & VM_REQ_WATCHDOG)
			tell(vm, VM_EVENT_WATCHDOG, true);
		if (vm->config.no_reboot) {
			if (what & VM_REQ_TRIPLE_FAULT)
				g_printerr("guise: the guest shut down by a triple fault\n");
			end(vm, 3, true);
		} else {
			reset_now(vm, true);
		}
	} else if (what & VM_REQ_IO_ERROR) {
		io_failed(vm);
	}
	return G_SOURCE_REMOVE;
}

void vm_request(struct vm *vm, enum vm_request what)
{
	unsigned before = __atomic_fetch_or(&vm->requests, what, __ATOMIC_SEQ_CST);

	/* No further instruction of the guest runs before the request is carried out. */
	vm->hold = true;
	for (unsigned i = 0; i < vm->cpus; i++)
		vm->ops->kick(vm->vcpus[i].vcpu);
	if (!before)
		g_idle_add_full(G_PRIORITY_HIGH, service, vm, NULL);
}

static gboolean deliver(gpointer opaque)
{
	struct vm *vm = opaque;
	unsigned posted = __atomic_exchange_n(&vm->posted, 0, __ATOMIC_SEQ_CST);

	for (unsigned event = 0; posted; event++, posted >>= 1)
		if (posted & 1)
			tell(vm, event, true);
	return G_SOURCE_REMOVE;
}

void vm_post(struct vm *vm, enum vm_event event)
{
	if (!__atomic_fetch_or(&vm->posted, 1u << event, __ATOMIC_SEQ_CST))
		g_idle_add(deliver, vm);
}

const char *vm_status_name(const struct vm *vm)
{
	static const char *const names[] = { "paused", "running", "shutdown", "internal-error", "guest-panicked", "io-error" };

	return names[vm->status];
}

void vm_set_listener(struct vm *vm, const struct vm_listener *l)
{
	vm->listener = *l;
}

/* ---- making and ending ---- */

/* How many bits of physical address a guest's memory takes, and how many the host's processor has. */
static unsigned address_bits(uint64_t memory)
{
	return 64 - (unsigned)__builtin_clzll(pc_memory_end(memory) - 1);
}

static unsigned host_address_bits(void)
{
	unsigned eax, ebx, ecx, edx;

	return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) ? eax & 0xff : 36;
}

static bool check_memory(uint64_t memory, GError **error)
{
	struct sysinfo si;

	if (pc_memory_end(memory) < memory || address_bits(memory) > host_address_bits()) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM,
			    "--memory: %" G_GUINT64_FORMAT " MiB is more than this host's physical addresses reach (%u bits); ask for less",
			    memory >> 20, host_address_bits());
		return false;
	}
	/* Guests that touch little of it are for tests. */
	if (!g_getenv("GUISE_OVERCOMMIT") && sysinfo(&si) == 0 && memory > (uint64_t)si.totalram * si.mem_unit) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOMEM,
			    "--memory: %" G_GUINT64_FORMAT " MiB is more than this host has (%" G_GUINT64_FORMAT
			    " MiB); ask for less",
			    memory >> 20, ((uint64_t)si.totalram * si.mem_unit) >> 20);
		return false;
	}
	return true;
}

/* Engines with an own view of guest memory follow the layout. */
static void slot_changed(void *opaque, const struct mem_slot *slot, unsigned index, bool added)
{
	struct vm *vm = opaque;
	int result;

	/* Comparing asks what was written. */
	slot->ram->log_dirty |= vm->config.stepped;
	result = added ? vm->ops->map_ram(vm->accel, index, slot) : vm->ops->unmap_ram(vm->accel, index);
	if (vm->pc)
		pc_net_layout(vm->pc, added ? MEM_MAX_SLOTS : index);
	if (!result)
		return;
	g_snprintf(vm->error_message, sizeof(vm->error_message), "%s refuses guest memory at %" G_GINT64_MODIFIER "x (%s)",
		   vm->ops->name, (guint64)slot->gpa, g_strerror(-result));
	vm_request(vm, VM_REQ_ERROR);
}

static bool open_engine(struct vm *vm, const struct accel_host *bridge, GError **error)
{
	struct accel_config ac = { .mem = vm->mem, .host = bridge, .cpu = &vm->cpu_model, .cpus = vm->cpus,
				   .bt_cache = vm->config.bt_cache, .outside_apic = vm->config.stepped };
	const struct mem_listener listener = { slot_changed, vm };
	uint32_t words[CPUID_WORDS];

	vm->ops = accel_choose(vm->config.engine, &vm->engine_why, error);
	if (!vm->ops)
		return false;
	vm->kernel_apic = vm->ops->caps.in_kernel_apic && !vm->config.stepped;
	accel_supported_words(vm->ops, words);
	for (unsigned i = 0; vm->config.stepped && i < CPUID_WORDS; i++)
		words[i] &= vm->config.cpu_limit[i];
	if (!cpu_model_parse(vm->config.cpu, words, vm->cpus, &vm->cpu_model, error))
		return false;
	vm->cpu_model.phys_bits = MAX(vm->cpu_model.phys_bits, address_bits(vm->config.memory));
	/* Paravirtual clocks follow the host's time. */
	vm->cpu_model.hypervisor &= !vm->config.stepped;
	vm->accel = vm->ops->open(&ac, error);
	if (!vm->accel)
		return false;
	mem_set_listener(vm->mem, &listener);
	return true;
}

static bool make_vcpus(struct vm *vm, GError **error)
{
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct vcpu_thread *t = &vm->vcpus[i];

		t->vm = vm;
		t->index = i;
		t->sipi_vector = -1;
		t->outside = true;
		pthread_cond_init(&t->wake, NULL);
		t->vcpu = vm->ops->vcpu_create(vm->accel, i, error);
		if (!t->vcpu)
			return false;
	}
	return true;
}

struct vm *vm_create(struct vm_config *config, bool (*key_filter)(void *opaque, uint8_t byte), void *filter_opaque,
		     GError **error)
{
	struct vm *vm = g_new0(struct vm, 1);
	struct accel_host *bridge = g_new0(struct accel_host, 1);
	bool ok;

	vm->config = *config;
	memset(config, 0, sizeof(*config));
	fair_lock_init(&vm->lock);
	pthread_cond_init(&vm->stopped, NULL);
	vm->cpus = vm->config.cpus;
	vm->vcpus = g_new0(struct vcpu_thread, vm->cpus);
	vm->key_filter = key_filter;
	vm->key_filter_opaque = filter_opaque;
	vm->clock = vm->config.stepped ? clock_create_manual() : clock_create(&vm->lock);
	vm->mem = mem_create();
	vm->status = VM_PAUSED;
	vm->hold = true;
	*bridge = vm_bridge(vm);
	vm->bridge = bridge;

	if (!check_memory(vm->config.memory, error) || !open_engine(vm, bridge, error) || !make_vcpus(vm, error))
		goto fail;
	vm_lock(vm);
	ok = pc_create(vm, error) && reset_all(vm, error);
	vm_unlock(vm);
	if (!ok)
		goto fail;
	for (unsigned i = 0; i < vm->cpus && !vm->config.stepped; i++) {
		vm->vcpus[i].started = true;
		pthread_create(&vm->vcpus[i].thread, NULL, vcpu_thread, &vm->vcpus[i]);
	}
	return vm;
fail:
	vm_destroy(vm);
	return NULL;
}

static void end_threads(struct vm *vm)
{
	vm_lock(vm);
	vm->quit = true;
	for (unsigned i = 0; i < vm->cpus; i++) {
		if (!vm->vcpus[i].vcpu)
			continue;
		vm->ops->kick(vm->vcpus[i].vcpu);
		pthread_cond_broadcast(&vm->vcpus[i].wake);
	}
	vm_unlock(vm);
	for (unsigned i = 0; i < vm->cpus; i++) {
		if (vm->vcpus[i].started)
			pthread_join(vm->vcpus[i].thread, NULL);
	}
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	end_threads(vm);
	clock_pause(vm->clock, host_moment_now().ns);
	pc_destroy(vm->pc);
	for (unsigned i = 0; i < vm->cpus; i++) {
		if (vm->vcpus[i].vcpu)
			vm->ops->vcpu_destroy(vm->vcpus[i].vcpu);
		pthread_cond_destroy(&vm->vcpus[i].wake);
	}
	if (vm->accel)
		vm->ops->close(vm->accel);
	while (g_idle_remove_by_data(vm))
		;
	clock_destroy(vm->clock);
	mem_destroy(vm->mem);
	pthread_cond_destroy(&vm->stopped);
	pthread_mutex_destroy(&vm->lock);
	g_free(vm->bridge);
	g_free(vm->engine_why);
	g_free(vm->vcpus);
	vm_config_finish(&vm->config);
	g_free(vm);
}
