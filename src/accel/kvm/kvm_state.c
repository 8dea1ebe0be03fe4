/* Whole state in and out of KVM; what the host refuses is left out, never asserted. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

#define XSAVE_BYTES sizeof(((struct cpu_state *)0)->xsave)
#define XSAVE_HEADER 512
#define XSAVE_AVX 576
#define MSR_TSC 0x10u
#define MSR_UCODE 0x8bu

struct msr_field {
	uint32_t index;
	size_t offset;
};
#define FIELD(msr, name) { msr, offsetof(struct cpu_state, name) }

static const struct msr_field msr_fields[] = {
	FIELD(0xc0000081, star), FIELD(0xc0000082, lstar), FIELD(0xc0000083, cstar), FIELD(0xc0000084, fmask),
	FIELD(0xc0000102, kernel_gs_base), FIELD(0xc0000103, tsc_aux), FIELD(0x174, sysenter_cs),
	FIELD(0x175, sysenter_esp), FIELD(0x176, sysenter_eip), FIELD(0x277, pat), FIELD(0x1a0, misc_enable),
	/* Written by us, TSC_ADJUST does not move the TSC. */
	FIELD(0x3b, tsc_adjust),
	FIELD(0x1d9, debugctl), FIELD(0x17a, mcg_status), FIELD(0xda0, xss), FIELD(0x48, spec_ctrl), FIELD(0x2ff, mtrr_def_type), FIELD(0x250, mtrr_fixed[0]), FIELD(0x258, mtrr_fixed[1]),
	FIELD(0x259, mtrr_fixed[2]), FIELD(0x268, mtrr_fixed[3]), FIELD(0x269, mtrr_fixed[4]),
	FIELD(0x26a, mtrr_fixed[5]), FIELD(0x26b, mtrr_fixed[6]), FIELD(0x26c, mtrr_fixed[7]),
	FIELD(0x26d, mtrr_fixed[8]), FIELD(0x26e, mtrr_fixed[9]), FIELD(0x26f, mtrr_fixed[10]),
	FIELD(0x4b564d00, kvm_wall_clock), FIELD(0x4b564d01, kvm_system_time), FIELD(0x4b564d02, kvm_async_pf),
	FIELD(0x4b564d03, kvm_steal_time), FIELD(0x4b564d04, kvm_eoi),
	FIELD(0x4b564d05, kvm_poll_control), FIELD(0x4b564d06, kvm_async_pf_int),
};

/* Every register in the table, the variable MTRRs after it. */
#define MSR_COUNT (ARRAY_LEN(msr_fields) + 2 * MTRR_VARIABLE_COUNT)

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSR_COUNT];
};

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

bool kvm_msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = index } };

	if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return false;
	*value = m.entry.data;
	return true;
}

bool kvm_msr_set(struct kvm_vcpu *v, uint32_t index, uint64_t value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = index, .data = value } };

	return ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

/* The i-th register's place in the state. */
static uint64_t *msr_place(struct cpu_state *s, size_t i, uint32_t *index)
{
	size_t n = i - ARRAY_LEN(msr_fields);

	if (i < ARRAY_LEN(msr_fields)) {
		*index = msr_fields[i].index;
		return (uint64_t *)((uint8_t *)s + msr_fields[i].offset);
	}
	*index = (uint32_t)(0x200 + n);
	return n & 1 ? &s->mtrr_mask[n / 2] : &s->mtrr_base[n / 2];
}

/* Reads all; the kernel stops at the first register that it refuses, so that one is left out and the rest goes on. */
static void msrs_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	size_t done = 0;

	while (done < MSR_COUNT) {
		struct msr_list l = { .head = { .nmsrs = (uint32_t)(MSR_COUNT - done) } };
		uint32_t index;
		int n;

		for (size_t i = done; i < MSR_COUNT; i++) {
			msr_place(s, i, &index);
			l.entry[i - done].index = index;
		}
		n = ioctl(v->fd, KVM_GET_MSRS, &l);
		if (n < 0)
			return;
		for (int i = 0; i < n; i++)
			*msr_place(s, done + (size_t)i, &index) = l.entry[i].data;
		done += (size_t)n + 1;
	}
}

/* Writes what differs: kernels complain of some registers in their log even when nothing is asked of them. */
static void msrs_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct cpu_state wanted = *s, now = *s;

	msrs_get(v, &now);
	for (size_t i = 0; i < MSR_COUNT; i++) {
		uint32_t index;
		uint64_t value = *msr_place(&wanted, i, &index);

		if (*msr_place(&now, i, &index) != value)
			kvm_msr_set(v, index, value);
	}
}

/* ---- segments ---- */

static void segment_to_kvm(struct kvm_segment *k, const struct x86_segment *s)
{
	/* A loaded segment is an accessed one, and Intel's VMX insists. */
	unsigned accessed = (s->attr & SEG_ATTR_S) && !(s->attr & SEG_UNUSABLE) ? 1 : 0;

	*k = (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .type = (s->attr & SEG_ATTR_TYPE) | accessed,
		.present = (s->attr & SEG_ATTR_P) != 0, .dpl = SEG_ATTR_DPL(s->attr), .db = (s->attr & SEG_ATTR_DB) != 0,
		.s = (s->attr & SEG_ATTR_S) != 0, .l = (s->attr & SEG_ATTR_L) != 0, .g = (s->attr & SEG_ATTR_G) != 0,
		.avl = (s->attr & SEG_ATTR_AVL) != 0, .unusable = (s->attr & SEG_UNUSABLE) != 0,
	};
}

static void segment_from_kvm(struct x86_segment *s, const struct kvm_segment *k)
{
	s->base = k->base;
	s->limit = k->limit;
	s->selector = k->selector;
	s->attr = (uint16_t)(k->type | (k->s ? SEG_ATTR_S : 0) | k->dpl << 5 | (k->present ? SEG_ATTR_P : 0) |
			     (k->avl ? SEG_ATTR_AVL : 0) | (k->l ? SEG_ATTR_L : 0) | (k->db ? SEG_ATTR_DB : 0) |
			     (k->g ? SEG_ATTR_G : 0) | (k->unusable ? SEG_UNUSABLE : 0));
}

/* KVM's order in struct kvm_sregs is cs, ds, es, fs, gs, ss. */
static struct kvm_segment *kvm_seg(struct kvm_sregs *r, unsigned seg)
{
	struct kvm_segment *const order[] = { &r->es, &r->cs, &r->ss, &r->ds, &r->fs, &r->gs };

	return order[seg];
}

/* ---- whole state ---- */

/* struct kvm_regs names its registers; ours are numbered as encoded. */
static __u64 *kvm_gpr(struct kvm_regs *r, unsigned n)
{
	__u64 *const order[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
				   &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15 };

	return order[n];
}

static int sregs_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_sregs r;

	if (ioctl(v->fd, KVM_GET_SREGS, &r) < 0)
		return -errno;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_from_kvm(&s->seg[i], kvm_seg(&r, i));
	segment_from_kvm(&s->ldtr, &r.ldt);
	segment_from_kvm(&s->tr, &r.tr);
	s->gdtr = (struct x86_dtable){ r.gdt.base, r.gdt.limit };
	s->idtr = (struct x86_dtable){ r.idt.base, r.idt.limit };
	s->cr0 = r.cr0;
	s->cr2 = r.cr2;
	s->cr3 = r.cr3;
	s->cr4 = r.cr4;
	s->cr8 = r.cr8;
	s->efer = r.efer;
	s->apic_base = r.apic_base;
	return 0;
}

static int sregs_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_sregs r;

	if (ioctl(v->fd, KVM_GET_SREGS, &r) < 0)
		return -errno;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_to_kvm(kvm_seg(&r, i), &s->seg[i]);
	segment_to_kvm(&r.ldt, &s->ldtr);
	segment_to_kvm(&r.tr, &s->tr);
	r.gdt.base = s->gdtr.base;
	r.gdt.limit = s->gdtr.limit;
	r.idt.base = s->idtr.base;
	r.idt.limit = s->idtr.limit;
	r.cr0 = s->cr0;
	r.cr2 = s->cr2;
	r.cr3 = s->cr3;
	r.cr4 = s->cr4;
	r.cr8 = s->cr8;
	r.efer = s->efer;
	r.apic_base = s->apic_base;
	memset(r.interrupt_bitmap, 0, sizeof(r.interrupt_bitmap));
	return ioctl(v->fd, KVM_SET_SREGS, &r) < 0 ? -errno : 0;
}

/* The header of the XSAVE area says which components count: all that the guest has. */
static uint64_t fpu_components(const struct kvm_vcpu *v)
{
	const struct cpu_model *m = v->kvm->cfg.cpu;

	return cpu_model_has(m, "avx") && cpu_model_has(m, "xsave") ? 7 : 3;
}

static void fpu_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_xsave x;
	struct kvm_xcrs c;

	if (ioctl(v->fd, KVM_GET_XSAVE, &x) >= 0) {
		memcpy(s->xsave, x.region, XSAVE_BYTES);
		memset(s->xsave + XSAVE_HEADER, 0, XSAVE_AVX - XSAVE_HEADER);
	}
	s->xcr0 = 1;
	if (v->kvm->has_xcrs && ioctl(v->fd, KVM_GET_XCRS, &c) >= 0 && c.nr_xcrs)
		s->xcr0 = c.xcrs[0].value;
}

static void fpu_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_xsave x = { 0 };
	struct kvm_xcrs c = { .nr_xcrs = 1, .xcrs = { { .value = s->xcr0 | 1 } } };

	if (v->kvm->has_xcrs)
		ioctl(v->fd, KVM_SET_XCRS, &c);
	memcpy(x.region, s->xsave, XSAVE_BYTES);
	memset((uint8_t *)x.region + XSAVE_HEADER, 0, XSAVE_AVX - XSAVE_HEADER);
	st64le((uint8_t *)x.region + XSAVE_HEADER, fpu_components(v));
	/* A host without AVX for its guests takes the legacy part alone. */
	if (ioctl(v->fd, KVM_SET_XSAVE, &x) < 0) {
		st64le((uint8_t *)x.region + XSAVE_HEADER, 3);
		ioctl(v->fd, KVM_SET_XSAVE, &x);
	}
}

static void debug_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_debugregs d;

	if (ioctl(v->fd, KVM_GET_DEBUGREGS, &d) < 0)
		return;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = d.db[i];
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
}

static void debug_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_debugregs d = { .db = { s->dr[0], s->dr[1], s->dr[2], s->dr[3] }, .dr6 = s->dr6, .dr7 = s->dr7 };

	ioctl(v->fd, KVM_SET_DEBUGREGS, &d);
}

enum event_kind { KIND_EXTERNAL = 0, KIND_NMI = 2, KIND_EXCEPTION = 3, KIND_SOFT = 4 };

static void events_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_vcpu_events e;

	if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return;
	/* One set_irq(VCPU_NMI) may not have reached the kernel yet. */
	s->nmi_pending = e.nmi.pending || (atomic_load(&v->irq) & VCPU_NMI);
	s->nmi_masked = e.nmi.masked;
	s->interrupt_shadow = e.interrupt.shadow != 0;
	s->event_pending = e.exception.injected || e.interrupt.injected || e.nmi.injected;
	if (e.exception.injected) {
		s->event_vector = e.exception.nr;
		s->event_kind = KIND_EXCEPTION;
		s->event_has_error = e.exception.has_error_code;
		s->event_error = e.exception.error_code;
	} else if (e.nmi.injected) {
		s->event_vector = EXC_NMI;
		s->event_kind = KIND_NMI;
	} else if (e.interrupt.injected) {
		s->event_vector = e.interrupt.nr;
		s->event_kind = e.interrupt.soft ? KIND_SOFT : KIND_EXTERNAL;
	}
}

static void events_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };

	atomic_fetch_and(&v->irq, ~(uint32_t)VCPU_NMI);
	e.nmi.pending = s->nmi_pending;
	e.nmi.masked = s->nmi_masked;
	e.interrupt.shadow = s->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
	if (s->event_pending && s->event_kind == KIND_EXCEPTION) {
		e.exception.injected = 1;
		e.exception.nr = s->event_vector;
		e.exception.has_error_code = s->event_has_error;
		e.exception.error_code = s->event_error;
	} else if (s->event_pending && s->event_kind == KIND_NMI) {
		e.nmi.injected = 1;
	} else if (s->event_pending) {
		e.interrupt.injected = 1;
		e.interrupt.nr = s->event_vector;
		e.interrupt.soft = s->event_kind == KIND_SOFT;
	}
	ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
}

/* ---- the time stamp counter ---- */

static void tsc_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&s->tsc_offset };
	uint64_t now;

	if (v->kvm->has_tsc_offset && ioctl(v->fd, KVM_GET_DEVICE_ATTR, &a) >= 0)
		return;
	if (kvm_msr_get(v, MSR_TSC, &now))
		s->tsc_offset = now - __builtin_ia32_rdtsc();
}

/* By the offset, so that all processors' counters agree to the tick. */
static void tsc_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&s->tsc_offset };

	if (!v->kvm->has_tsc_offset || ioctl(v->fd, KVM_SET_DEVICE_ATTR, &a) < 0)
		kvm_msr_set(v, MSR_TSC, __builtin_ia32_rdtsc() + s->tsc_offset);
}

static const uint32_t mp_states[] = {
	[MP_RUNNING] = KVM_MP_STATE_RUNNABLE,
	[MP_HALTED] = KVM_MP_STATE_HALTED,
	[MP_WAIT_SIPI] = KVM_MP_STATE_UNINITIALIZED,
	[MP_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,
};

int kvm_get_state(struct vcpu *vcpu, struct cpu_state *s)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct kvm_mp_state mp = { 0 };
	struct kvm_regs r;
	int result;

	/* First: the kernel takes waiting INITs and start-up messages here. */
	if (ioctl(v->fd, KVM_GET_MP_STATE, &mp) < 0 || ioctl(v->fd, KVM_GET_REGS, &r) < 0)
		return -errno;
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = *kvm_gpr(&r, i);
	s->rip = r.rip;
	s->rflags = r.rflags;
	result = sregs_get(v, s);
	if (result)
		return result;
	fpu_get(v, s);
	debug_get(v, s);
	events_get(v, s);
	msrs_get(v, s);
	kvm_msr_get(v, MSR_UCODE, &s->ucode_rev);
	tsc_get(v, s);
	s->mp_state = mp.mp_state == KVM_MP_STATE_HALTED || v->halted ? MP_HALTED
		      : mp.mp_state == KVM_MP_STATE_RUNNABLE ? MP_RUNNING : MP_WAIT_SIPI;
	return 0;
}

int kvm_set_state(struct vcpu *vcpu, const struct cpu_state *s)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct kvm_regs r = { .rip = s->rip, .rflags = s->rflags | 2 };
	struct kvm_mp_state mp;
	int result;

	if (s->mp_state >= ARRAY_LEN(mp_states) || s->event_kind > KIND_SOFT)
		return -EINVAL;
	mp.mp_state = mp_states[s->mp_state];
	result = sregs_set(v, s);
	if (result)
		return result;
	for (unsigned i = 0; i < 16; i++)
		*kvm_gpr(&r, i) = s->gpr[i];
	if (ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	fpu_set(v, s);
	debug_set(v, s);
	msrs_set(v, s);
	if (s->ucode_rev)
		kvm_msr_set(v, MSR_UCODE, s->ucode_rev);
	tsc_set(v, s);
	events_set(v, s);
	if (v->kvm->cfg.outside_apic) {
		v->halted = s->mp_state == MP_HALTED;
		return 0;
	}
	return ioctl(v->fd, KVM_SET_MP_STATE, &mp) < 0 ? -errno : 0;
}
