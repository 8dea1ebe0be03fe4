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
#define PROBE_LOOPS 100000u
#define PROBE_LEAST_MIPS 50.0
#define MSR_KERNEL_GS_BASE 0xc0000102u

struct probe {
	int fd, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

static bool refuse(GError **error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(GError **error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		*error = g_error_new_valist(G_FILE_ERROR, G_FILE_ERROR_FAILED, fmt, ap);
	va_end(ap);
	return false;
}

int kvm_open_node(GError **error)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		if (errno == ENOENT)
			refuse(error, "no /dev/kvm: load the module (sudo modprobe kvm_amd or kvm_intel), or the host has none");
		else if (errno == EACCES)
			refuse(error, "/dev/kvm: permission denied; add yourself to the kvm group: sudo usermod -aG kvm $USER");
		else
			refuse(error, "/dev/kvm: %s", g_strerror(errno));
		return -1;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0ul);
	if (version == 12)
		return fd;
	close(fd);
	refuse(error, "/dev/kvm speaks API version %d, not 12; a newer kernel is needed", version);
	return -1;
}

static bool make_machine(struct probe *p, GError **error)
{
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_SIZE };
	int size = ioctl(p->fd, KVM_GET_VCPU_MMAP_SIZE, 0ul);
	void *run;

	p->vm = ioctl(p->fd, KVM_CREATE_VM, 0ul);
	if (p->vm < 0)
		return refuse(error, "KVM cannot make a virtual machine: %s; is another hypervisor using the processor?",
			      g_strerror(errno));
	region.userspace_addr = (uintptr_t)p->memory;
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return refuse(error, "KVM cannot map guest memory: %s", g_strerror(errno));
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
	if (p->vcpu < 0 || size <= 0)
		return refuse(error, "KVM cannot make a virtual CPU: %s", g_strerror(errno));
	p->run_size = (size_t)size;
	run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return refuse(error, "KVM cannot map a virtual CPU: %s", g_strerror(errno));
	p->run = run;
	return true;
}

static bool msrs_stick(struct probe *p, GError **error)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { { .nmsrs = 1 }, { .index = MSR_KERNEL_GS_BASE, .data = 0x123456789000 } };

	if (ioctl(p->vcpu, KVM_SET_MSRS, &m) != 1)
		return refuse(error, "KVM refuses to set model-specific registers");
	m.entry.data = 0;
	if (ioctl(p->vcpu, KVM_GET_MSRS, &m) != 1 || m.entry.data != 0x123456789000)
		return refuse(error, "KVM forgets model-specific registers");
	return true;
}

/* Long mode, ring 0, the first 2 MiB mapped one to one: what a kernel runs in. */
static bool enter_long_mode(struct probe *p)
{
	/* mov ecx, LOOPS; 1: dec ecx; jnz 1b; hlt */
	uint8_t code[] = { 0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4 };
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = 0x4000, .rsp = 0x8000, .rflags = 2 };
	struct kvm_segment flat = { .limit = 0xffffffff, .present = 1, .s = 1, .g = 1 };

	st32le(code + 1, PROBE_LOOPS);
	st64le(p->memory + 0x1000, 0x2003);
	st64le(p->memory + 0x2000, 0x3003);
	st64le(p->memory + 0x3000, 0x0083);
	memcpy(p->memory + 0x4000, code, sizeof(code));
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
	return ioctl(p->vcpu, KVM_SET_SREGS, &s) >= 0 && ioctl(p->vcpu, KVM_SET_REGS, &r) >= 0;
}

static bool runs_fast(struct probe *p, GError **error)
{
	struct timespec a, b;
	double seconds, mips;

	if (!enter_long_mode(p))
		return refuse(error, "KVM refuses long mode: %s", g_strerror(errno));
	clock_gettime(CLOCK_MONOTONIC, &a);
	while (ioctl(p->vcpu, KVM_RUN, 0ul) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return refuse(error, "KVM cannot run: %s", g_strerror(errno));
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	if (p->run->exit_reason != KVM_EXIT_HLT)
		return refuse(error, "KVM stopped in a test program (exit %u)", p->run->exit_reason);
	seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	mips = 2.0 * PROBE_LOOPS / seconds / 1e6;
	if (mips < PROBE_LEAST_MIPS)
		return refuse(error, "KVM is here but runs kernel code at %.0f MIPS", mips);
	return true;
}

bool kvm_usable(GError **error)
{
	struct probe p = { .fd = -1, .vm = -1, .vcpu = -1 };
	void *memory;
	bool ok;

	p.fd = kvm_open_node(error);
	if (p.fd < 0)
		return false;
	memory = mmap(NULL, PROBE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		close(p.fd);
		return refuse(error, "no memory for KVM's self-test");
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
