/*
 * Is KVM usable? The node, the rights, the API, a VM with a vCPU, MSRs that stick, and ring-0 code at
 * more than 50 million instructions a second: some clouds offer a /dev/kvm that emulates kernels.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

#define PROBE_SIZE (64u * 1024)
#define PROBE_FIRST_LOOPS 4000u
#define PROBE_LONG_ENOUGH_NS INT64_C(2000000)
#define PROBE_LEAST_MIPS 50.0
#define PROBE_CODE 0x4000u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TEST_VALUE UINT64_C(0x123456789000)

struct probe {
	const char *node;
	int fd, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

GQuark kvm_error_quark(void)
{
	return g_quark_from_static_string("guise-kvm");
}

static bool refuse(GError **error, enum kvm_error code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static bool refuse(GError **error, enum kvm_error code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error) {
		*error = g_error_new_valist(KVM_ERROR, 0, fmt, ap);
		(*error)->code = (int)code;
	}
	va_end(ap);
	return false;
}

static void refuse_node(const char *node, int e, GError **error)
{
	switch (e) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		refuse(error, KVM_ERROR_MISSING, "no %s: load the module (sudo modprobe kvm_amd, or kvm_intel), enable "
		       "virtualization in the firmware's settings, or in a container pass --device /dev/kvm", node);
		break;
	case EACCES:
	case EPERM:
		refuse(error, KVM_ERROR_DENIED, "%s: permission denied: add yourself to the kvm group (sudo usermod -aG kvm "
		       "$USER, then log in again); without such a group, sudo chmod 666 %s or a udev rule", node, node);
		break;
	case EBUSY:
		refuse(error, KVM_ERROR_BUSY, "%s is busy: end the other hypervisor that uses the processor", node);
		break;
	default:
		refuse(error, KVM_ERROR_BROKEN, "%s: %s: see dmesg for what the kvm module says", node, g_strerror(e));
		break;
	}
}

int kvm_open_node(const char *node, GError **error)
{
	int fd = open(node, O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		refuse_node(node, errno, error);
		return -1;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0ul);
	if (version == KVM_API_VERSION)
		return fd;
	close(fd);
	if (version < 0)
		refuse(error, KVM_ERROR_API, "%s is not KVM's node: make it again (sudo udevadm trigger %s)", node, node);
	else
		refuse(error, KVM_ERROR_API, "%s speaks API version %d, not %d: run a newer host kernel", node, version, KVM_API_VERSION);
	return -1;
}

static bool make_machine(struct probe *p, GError **error)
{
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_SIZE };
	int size = ioctl(p->fd, KVM_GET_VCPU_MMAP_SIZE, 0ul);
	void *run;

	p->vm = ioctl(p->fd, KVM_CREATE_VM, 0ul);
	if (p->vm < 0 && errno == EBUSY) {
		refuse_node(p->node, EBUSY, error);
		return false;
	}
	if (p->vm < 0)
		return refuse(error, KVM_ERROR_BROKEN, "KVM cannot make a virtual machine: %s: see dmesg", g_strerror(errno));
	region.userspace_addr = (uintptr_t)p->memory;
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return refuse(error, KVM_ERROR_BROKEN, "KVM cannot map guest memory: %s: see dmesg", g_strerror(errno));
	if (ioctl(p->fd, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) <= 0 ||
	    ioctl(p->fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return refuse(error, KVM_ERROR_API, "KVM is too old (no split interrupt controller): run a newer host kernel");
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
	if (p->vcpu < 0 || size <= 0)
		return refuse(error, KVM_ERROR_BROKEN, "KVM cannot make a virtual CPU: %s: see dmesg", g_strerror(errno));
	p->run_size = (size_t)size;
	run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return refuse(error, KVM_ERROR_BROKEN, "KVM cannot map a virtual CPU: %s", g_strerror(errno));
	p->run = run;
	return true;
}

static bool msrs_stick(struct probe *p, GError **error)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { { .nmsrs = 1 }, { .index = MSR_KERNEL_GS_BASE, .data = MSR_TEST_VALUE } };

	if (ioctl(p->vcpu, KVM_SET_MSRS, &m) != 1)
		return refuse(error, KVM_ERROR_BROKEN, "KVM refuses to set model-specific registers: update the host kernel");
	m.entry.data = 0;
	if (ioctl(p->vcpu, KVM_GET_MSRS, &m) != 1 || m.entry.data != MSR_TEST_VALUE)
		return refuse(error, KVM_ERROR_BROKEN, "KVM forgets model-specific registers: update the host kernel");
	return true;
}

/* Long mode, ring 0, the first 2 MiB mapped one to one: what a kernel runs in. */
static bool enter_long_mode(struct probe *p)
{
	/* 1: dec ecx; jnz 1b; hlt */
	static const uint8_t code[] = { 0xff, 0xc9, 0x75, 0xfc, 0xf4 };
	struct kvm_sregs s;
	struct kvm_segment flat = { .limit = 0xffffffff, .present = 1, .s = 1, .g = 1 };

	st64le(p->memory + 0x1000, 0x2003);
	st64le(p->memory + 0x2000, 0x3003);
	st64le(p->memory + 0x3000, 0x0083);
	memcpy(p->memory + PROBE_CODE, code, sizeof(code));
	if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
		return false;
	flat.type = 3;
	flat.selector = 0x10;
	flat.db = 1;
	s.ds = s.es = s.ss = s.fs = s.gs = flat;
	flat.type = 11;
	flat.selector = 8;
	flat.db = 0;
	flat.l = 1;
	s.cs = flat;
	s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	s.cr3 = 0x1000;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	return ioctl(p->vcpu, KVM_SET_SREGS, &s) >= 0;
}

/* The nanoseconds that `loops` rounds take, other programs' left out, or -1. */
static int64_t time_loops(struct probe *p, uint32_t loops, GError **error)
{
	struct kvm_regs r = { .rip = PROBE_CODE, .rsp = 0x8000, .rflags = 2, .rcx = loops };
	struct timespec a, b;

	if (ioctl(p->vcpu, KVM_SET_REGS, &r) < 0) {
		refuse(error, KVM_ERROR_BROKEN, "KVM refuses registers: %s", g_strerror(errno));
		return -1;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	while (ioctl(p->vcpu, KVM_RUN, 0ul) < 0) {
		if (errno != EINTR && errno != EAGAIN) {
			refuse(error, KVM_ERROR_BROKEN, "KVM cannot run a test program: %s: see dmesg", g_strerror(errno));
			return -1;
		}
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	if (p->run->exit_reason != KVM_EXIT_HLT) {
		refuse(error, KVM_ERROR_BROKEN, "KVM stopped in a test program (exit %u): see dmesg", p->run->exit_reason);
		return -1;
	}
	return (b.tv_sec - a.tv_sec) * INT64_C(1000000000) + b.tv_nsec - a.tv_nsec;
}

/* Longer and longer runs, until one takes long enough to be measured. */
static bool runs_fast(struct probe *p, GError **error)
{
	uint32_t loops = PROBE_FIRST_LOOPS;
	int64_t ns;
	double mips;

	if (!enter_long_mode(p))
		return refuse(error, KVM_ERROR_BROKEN, "KVM refuses long mode: %s", g_strerror(errno));
	for (;;) {
		ns = time_loops(p, loops, error);
		if (ns < 0)
			return false;
		if (ns >= PROBE_LONG_ENOUGH_NS || loops > UINT32_MAX / 8)
			break;
		loops *= 4;
	}
	mips = 2.0 * loops * 1e3 / (double)MAX(ns, 1);
	if (mips < PROBE_LEAST_MIPS)
		return refuse(error, KVM_ERROR_SLOW, "KVM is here but runs kernel code at %.*f MIPS", mips < 10 ? 1 : 0, mips);
	return true;
}

bool kvm_probe(const char *node, GError **error)
{
	struct probe p = { .node = node, .fd = -1, .vm = -1, .vcpu = -1 };
	void *memory;
	bool ok;

	p.fd = kvm_open_node(node, error);
	if (p.fd < 0)
		return false;
	memory = mmap(NULL, PROBE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		close(p.fd);
		return refuse(error, KVM_ERROR_BROKEN, "no memory for KVM's self-test: end other programs");
	}
	p.memory = memory;
	ok = make_machine(&p, error) && msrs_stick(&p, error) && runs_fast(&p, error);
	if (p.run)
		munmap(p.run, p.run_size);
	if (p.vcpu >= 0)
		close(p.vcpu);
	if (p.vm >= 0)
		close(p.vm);
	munmap(p.memory, PROBE_SIZE);
	close(p.fd);
	return ok;
}

bool kvm_usable(GError **error)
{
	return kvm_probe(KVM_NODE, error);
}
