/* Whole state in and out of KVM; what the host refuses is left out, never asserted. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

#define XSAVE_BYTES sizeof(((struct cpu_state *)0)->xsave)

struct msr_field {
	uint32_t index;
	size_t offset;
};
#define FIELD(msr, name) { msr, offsetof(struct cpu_state, name) }

static const struct msr_field msr_fields[] = {
	FIELD(0xc0000081, star), FIELD(0xc0000082, lstar), FIELD(0xc0000083, cstar), FIELD(0xc0000084, fmask),
	FIELD(0xc0000102, kernel_gs_base), FIELD(0xc0000103, tsc_aux), FIELD(0x174, sysenter_cs),
	FIELD(0x175, sysenter_esp), FIELD(0x176, sysenter_eip), FIELD(0x277, pat), FIELD(0x1a0, misc_enable),
	FIELD(0x1d9, debugctl), FIELD(0x17a, mcg_status), FIELD(0xda0, xss), FIELD(0x48, spec_ctrl),
	FIELD(0x6e0, tsc_deadline), FIELD(0x2ff, mtrr_def_type), FIELD(0x250, mtrr_fixed[0]), FIELD(0x258, mtrr_fixed[1]),
	FIELD(0x259, mtrr_fixed[2]), FIELD(0x268, mtrr_fixed[3]), FIELD(0x269, mtrr_fixed[4]),
	FIELD(0x26a, mtrr_fixed[5]), FIELD(0x26b, mtrr_fixed[6]), FIELD(0x26c, mtrr_fixed[7]),
	FIELD(0x26d, mtrr_fixed[8]), FIELD(0x26e, mtrr_fixed[9]), FIELD(0x26f, mtrr_fixed[10]),
	FIELD(0x4b564d00, kvm_wall_clock), FIELD(0x4b564d01, kvm_system_time), FIELD(0x4b564d02, kvm_async_pf),
	FIELD(0x4b564d03, kvm_steal_time), FIELD(0x4b564d04, kvm_eoi),
};

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

static bool msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = index } };

	if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return false;
	*value = m.entry.data;
	return true;
}

static bool msr_set(struct kvm_vcpu *v, uint32_t index, uint64_t value)
{
	struct one_msr m = { { .nmsrs = 1 }, { .index = index, .data = value } };

	return ioctl(v->fd, KVM_SET_MSRS, &m) == 1;
}

static void msrs_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	for (size_t i = 0; i < ARRAY_LEN(msr_fields); i++)
		msr_get(v, msr_fields[i].index, (uint64_t *)((uint8_t *)s + msr_fields[i].offset));
	for (unsigned i = 0; i < MTRR_VARIABLE_COUNT; i++) {
		msr_get(v, 0x200 + 2 * i, &s->mtrr_base[i]);
		msr_get(v, 0x201 + 2 * i, &s->mtrr_mask[i]);
	}
}

static void msrs_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	for (size_t i = 0; i < ARRAY_LEN(msr_fields); i++)
		msr_set(v, msr_fields[i].index, *(const uint64_t *)((const uint8_t *)s + msr_fields[i].offset));
	for (unsigned i = 0; i < MTRR_VARIABLE_COUNT; i++) {
		msr_set(v, 0x200 + 2 * i, s->mtrr_base[i]);
		msr_set(v, 0x201 + 2 * i, s->mtrr_mask[i]);
	}
}

/* ---- segments ---- */

static void segment_to_kvm(struct kvm_segment *k, const struct x86_segment *s)
{
	*k = (struct kvm_segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .type = s->attr & SEG_ATTR_TYPE,
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
static void regs_copy(struct kvm_regs *r, uint64_t *gpr, bool to_kvm)
{
	__u64 *const order[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
				   &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15 };

	for (unsigned i = 0; i < 16; i++) {
		if (to_kvm)
			*order[i] = gpr[i];
		else
			gpr[i] = *order[i];
	}
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

static void fpu_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_xsave x;
	struct kvm_xcrs c;

	if (ioctl(v->fd, KVM_GET_XSAVE, &x) >= 0)
		memcpy(s->xsave, x.region, XSAVE_BYTES);
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
	ioctl(v->fd, KVM_SET_XSAVE, &x);
}

static void debug_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_debugregs d;

	if (!v->kvm->has_debugregs || ioctl(v->fd, KVM_GET_DEBUGREGS, &d) < 0)
		return;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = d.db[i];
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
}

static void debug_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_debugregs d = { .db = { s->dr[0], s->dr[1], s->dr[2], s->dr[3] }, .dr6 = s->dr6, .dr7 = s->dr7 };

	if (v->kvm->has_debugregs)
		ioctl(v->fd, KVM_SET_DEBUGREGS, &d);
}

enum event_kind { KIND_EXTERNAL = 0, KIND_NMI = 2, KIND_EXCEPTION = 3, KIND_SOFT = 4 };

static void events_get(struct kvm_vcpu *v, struct cpu_state *s)
{
	struct kvm_vcpu_events e;

	if (!v->kvm->has_events || ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
		return;
	s->nmi_pending = e.nmi.pending;
	s->nmi_masked = e.nmi.masked;
	s->interrupt_shadow = e.interrupt.shadow != 0;
	s->event_pending = e.exception.injected || e.interrupt.injected;
	if (e.exception.injected) {
		s->event_vector = e.exception.nr;
		s->event_kind = KIND_EXCEPTION;
		s->event_has_error = e.exception.has_error_code;
		s->event_error = e.exception.error_code;
	} else if (e.interrupt.injected) {
		s->event_vector = e.interrupt.nr;
		s->event_kind = e.interrupt.soft ? KIND_SOFT : KIND_EXTERNAL;
		s->event_has_error = false;
	}
}

static void events_set(struct kvm_vcpu *v, const struct cpu_state *s)
{
	struct kvm_vcpu_events e = { 0 };

	if (!v->kvm->has_events)
		return;
	e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	e.nmi.pending = s->nmi_pending;
	e.nmi.masked = s->nmi_masked;
	e.interrupt.shadow = s->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
	if (s->event_pending && s->event_kind == KIND_EXCEPTION) {
		e.exception.injected = 1;
		e.exception.nr = s->event_vector;
		e.exception.has_error_code = s->event_has_error;
		e.exception.error_code = s->event_error;
	} else if (s->event_pending) {
		e.interrupt.injected = 1;
		e.interrupt.nr = s->event_vector;
		e.interrupt.soft = s->event_kind == KIND_SOFT;
	}
	ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
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

	memset(s, 0, sizeof(*s));
	if (ioctl(v->fd, KVM_GET_REGS, &r) < 0)
		return -errno;
	regs_copy(&r, s->gpr, false);
	s->rip = r.rip;
	s->rflags = r.rflags;
	result = sregs_get(v, s);
	if (result)
		return result;
	fpu_get(v, s);
	debug_get(v, s);
	events_get(v, s);
	msrs_get(v, s);
	ioctl(v->fd, KVM_GET_MP_STATE, &mp);
	s->mp_state = mp.mp_state == KVM_MP_STATE_HALTED ? MP_HALTED
		      : mp.mp_state == KVM_MP_STATE_RUNNABLE ? MP_RUNNING : MP_WAIT_SIPI;
	return 0;
}

int kvm_set_state(struct vcpu *vcpu, const struct cpu_state *s)
{
	struct kvm_vcpu *v = (struct kvm_vcpu *)vcpu;
	struct kvm_mp_state mp = { .mp_state = mp_states[s->mp_state & 3] };
	struct kvm_regs r = { .rip = s->rip, .rflags = s->rflags | 2 };
	int result = sregs_set(v, s);

	if (result)
		return result;
	regs_copy(&r, (uint64_t *)s->gpr, true);
	if (ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	fpu_set(v, s);
	debug_set(v, s);
	msrs_set(v, s);
	events_set(v, s);
	ioctl(v->fd, KVM_SET_MP_STATE, &mp);
	return 0;
}

/* ---- CPUID ---- */

static void add_leaf(struct kvm_vcpu *v, const struct cpu_model *m, struct kvm_cpuid2 *c, uint32_t leaf, uint32_t sub,
		     bool has_sub)
{
	struct kvm_cpuid_entry2 *e = &c->entries[c->nent];
	struct cpu_state s = { 0 };
	uint32_t out[4];

	if (c->nent == CPUID_MAX_ENTRIES)
		return;
	s.xcr0 = 1;
	cpu_model_cpuid(m, &s, v->vcpu.index, leaf, sub, out);
	*e = (struct kvm_cpuid_entry2){ leaf, sub, has_sub ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
					out[0], out[1], out[2], out[3], { 0 } };
	c->nent++;
}

int kvm_set_cpuid(struct kvm_vcpu *v, const struct cpu_model *m)
{
	static const uint32_t indexed[] = { 4, 7, 0xb, 0xd };
	g_autofree struct kvm_cpuid2 *c =
		g_malloc0(sizeof(*c) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));

	for (uint32_t leaf = 0; leaf <= m->max_leaf && leaf < 0x40; leaf++) {
		bool sub = false;

		for (size_t i = 0; i < ARRAY_LEN(indexed); i++)
			sub |= leaf == indexed[i];
		for (uint32_t n = 0; n < (sub ? 4u : 1u); n++)
			add_leaf(v, m, c, leaf, n, sub);
	}
	if (m->hypervisor) {
		add_leaf(v, m, c, 0x40000000, 0, false);
		add_leaf(v, m, c, 0x40000001, 0, false);
	}
	for (uint32_t leaf = 0x80000000; leaf <= m->max_ext_leaf && leaf < 0x80000040; leaf++)
		add_leaf(v, m, c, leaf, 0, false);
	return ioctl(v->fd, KVM_SET_CPUID2, c) < 0 ? -errno : 0;
}
