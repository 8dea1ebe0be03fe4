/* The KVM engine: the VM, its memory slots and its vCPUs, with a split irqchip. */
#include "accel/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"

/* Where Intel's VMX keeps its real-mode TSS and page table: below the BIOS, above the I/O APIC. */
#define TSS_ADDRESS 0xfffbd000ul
#define IDENTITY_MAP_ADDRESS UINT64_C(0xfffbc000)

static GError *kvm_error(const char *what)
{
	int e = errno;

	return g_error_new(G_FILE_ERROR, g_file_error_from_errno(e), "KVM: %s: %s; use --engine interp meanwhile", what,
			   g_strerror(e));
}

static bool enable_split_irqchip(struct kvm *k)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { KVM_PINS } };

	return ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) >= 0;
}

static void kvm_close(struct accel *a)
{
	struct kvm *k = (struct kvm *)a;

	if (!k)
		return;
	if (k->vm_fd >= 0)
		close(k->vm_fd);
	if (k->fd >= 0)
		close(k->fd);
	g_free(k->vcpus);
	g_free(k);
}

static bool has(struct kvm *k, int cap)
{
	return ioctl(k->fd, KVM_CHECK_EXTENSION, (unsigned long)cap) > 0;
}

static void ignore_signal(int number)
{
}

static struct accel *kvm_open(const struct accel_config *cfg, GError **error)
{
	struct kvm *k = g_new0(struct kvm, 1);
	/* System calls of device models on a vCPU's thread go on; KVM_RUN returns all the same. */
	struct sigaction sa = { .sa_handler = ignore_signal, .sa_flags = SA_RESTART };
	uint64_t identity = IDENTITY_MAP_ADDRESS;
	int size;

	k->accel.ops = &accel_kvm_ops;
	k->cfg = *cfg;
	k->vm_fd = -1;
	k->vcpus = g_new0(struct kvm_vcpu *, cfg->cpus);
	k->fd = kvm_open_node(KVM_NODE, error);
	if (k->fd < 0)
		goto fail;
	k->vm_fd = ioctl(k->fd, KVM_CREATE_VM, 0ul);
	size = ioctl(k->fd, KVM_GET_VCPU_MMAP_SIZE, 0ul);
	if (k->vm_fd < 0 || size < (int)sizeof(struct kvm_run)) {
		g_propagate_error(error, kvm_error("cannot make a virtual machine"));
		goto fail;
	}
	k->run_size = (size_t)size;
	/* Both are needed by Intel hosts only; others may refuse. */
	ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(k->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	if (!cfg->outside_apic && !enable_split_irqchip(k)) {
		g_propagate_error(error, kvm_error("no split interrupt controller"));
		goto fail;
	}
	k->has_xcrs = has(k, KVM_CAP_XCRS);
	k->has_tsc_offset = has(k, KVM_CAP_VCPU_ATTRIBUTES);
	k->phys_bits = kvm_phys_bits(k->fd);
	sigemptyset(&sa.sa_mask);
	sigaction(KVM_KICK_SIGNAL, &sa, NULL);
	return &k->accel;
fail:
	kvm_close(&k->accel);
	return NULL;
}

static int set_region(struct kvm *k, unsigned index, uint64_t gpa, uint64_t size, void *host, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = index,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	return ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static void kvm_dirty_log(struct accel *a, unsigned index, const struct mem_slot *slot)
{
	struct kvm *k = (struct kvm *)a;
	uint64_t pages = slot->size >> PAGE_SHIFT;
	struct kvm_dirty_log log = { .slot = index };
	g_autofree uint64_t *bits = NULL;

	if (!slot->ram->log_dirty)
		return;
	bits = g_new0(uint64_t, (pages + 63) / 64);
	log.dirty_bitmap = bits;
	if (ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return;
	for (uint64_t i = 0; i < pages; i++) {
		if (bits[i / 64] >> (i % 64) & 1)
			ram_mark_dirty(slot->ram, slot->ram_offset + (i << PAGE_SHIFT), PAGE_SIZE);
	}
}

static int kvm_map_ram(struct accel *a, unsigned index, const struct mem_slot *slot)
{
	struct kvm *k = (struct kvm *)a;
	uint32_t flags = (slot->readonly ? KVM_MEM_READONLY : 0) | (slot->ram->log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	int result = set_region(k, index, slot->gpa, slot->size, mem_slot_host(slot, slot->gpa), flags);

	if (!result)
		k->slot[index] = *slot;
	return result;
}

static int kvm_unmap_ram(struct accel *a, unsigned index)
{
	struct kvm *k = (struct kvm *)a;
	struct mem_slot *slot = &k->slot[index];
	int result;

	if (!slot->size)
		return 0;
	/* What was written so far must not be lost with the kernel's log. */
	kvm_dirty_log(a, index, slot);
	result = set_region(k, index, slot->gpa, 0, NULL, 0);
	slot->size = 0;
	return result;
}

static void kvm_vcpu_destroy(struct vcpu *vcpu)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;

	if (!v)
		return;
	if (v->kvm->vcpus[v->vcpu.index] == v)
		v->kvm->vcpus[v->vcpu.index] = NULL;
	if (v->run)
		munmap(v->run, v->kvm->run_size);
	if (v->fd >= 0)
		close(v->fd);
	g_free(v);
}

static struct vcpu *kvm_vcpu_create(struct accel *a, unsigned index, GError **error)
{
	struct kvm *k = (struct kvm *)a;
	struct kvm_vcpu *v = g_new0(struct kvm_vcpu, 1);
	void *run;

	v->vcpu.ops = &accel_kvm_ops;
	v->vcpu.accel = a;
	v->vcpu.index = index;
	v->kvm = k;
	v->fd = ioctl(k->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (v->fd < 0) {
		g_propagate_error(error, kvm_error("cannot make a virtual CPU"));
		goto fail;
	}
	run = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED) {
		g_propagate_error(error, kvm_error("cannot map a virtual CPU"));
		goto fail;
	}
	v->run = run;
	if (kvm_set_cpuid(v, k->cfg.cpu) < 0) {
		g_propagate_error(error, kvm_error("the host refuses this CPU model"));
		goto fail;
	}
	k->vcpus[index] = v;
	return &v->vcpu;
fail:
	kvm_vcpu_destroy(&v->vcpu);
	return NULL;
}

static void kvm_print_stats(struct accel *a, GString *out)
{
	struct kvm *k = (struct kvm *)a;

	for (unsigned i = 0; i < k->cfg.cpus; i++) {
		if (k->vcpus[i])
			g_string_append_printf(out, "cpu%u: %" G_GUINT64_FORMAT " exits to user space\n", i,
					       (guint64)atomic_load(&k->vcpus[i]->exits));
	}
}

static int kvm_doorbell(struct accel *a, uint64_t gpa, unsigned len, int fd, bool on)
{
	struct kvm *k = (struct kvm *)a;
	struct kvm_ioeventfd e = { .addr = gpa, .len = len, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN };

	return ioctl(k->vm_fd, KVM_IOEVENTFD, &e) < 0 ? -errno : 0;
}

/* The guest's paravirtual clock goes on from the machine's, and its watchdogs hear of the pause. */
static void kvm_resume(struct accel *a)
{
	struct kvm *k = (struct kvm *)a;
	struct kvm_clock_data clock = { .clock = (uint64_t)k->cfg.host->clock_ns(k->cfg.host->opaque) };

	ioctl(k->vm_fd, KVM_SET_CLOCK, &clock);
	for (unsigned i = 0; i < k->cfg.cpus; i++) {
		if (k->vcpus[i])
			ioctl(k->vcpus[i]->fd, KVM_KVMCLOCK_CTRL, 0ul);
	}
}

const struct accel_ops accel_kvm_ops = {
	.name = "kvm",
	.caps = { .in_kernel_apic = true },
	.open = kvm_open,
	.close = kvm_close,
	.map_ram = kvm_map_ram,
	.unmap_ram = kvm_unmap_ram,
	.dirty_log = kvm_dirty_log,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.run = kvm_run_vcpu,
	.kick = kvm_kick,
	.set_irq = kvm_set_irq,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.has_work = kvm_has_work,
	.set_step = kvm_set_step,
	.print_stats = kvm_print_stats,
	.send_msi = kvm_send_msi,
	.route_pin = kvm_route_pin,
	.doorbell = kvm_doorbell,
	.irqfd = kvm_irqfd,
	.get_apic = kvm_get_apic,
	.set_apic = kvm_set_apic,
	.resume = kvm_resume,
};
