/* What the guest's CPUID says under KVM: the model, less what the host refuses and what a saved state cannot carry. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "base/bytes.h"

#define SUPPORTED_MAX 256

/*
 * Features with state outside of struct cpu_state (nested virtualization, AVX-512, protection keys,
 * CET, AMX, performance counters, processor trace …) or with CPUID leaves that the model has not.
 */
static const uint32_t never[CPUID_WORDS] = {
	[CPUID_1_ECX] = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 11 | 1u << 15 | 1u << 18 | 1u << 27,
	[CPUID_7_EBX] = 1u << 2 | 1u << 12 | 1u << 14 | 1u << 15 | 1u << 16 | 1u << 17 | 1u << 21 | 1u << 25 | 1u << 26 |
			1u << 27 | 1u << 28 | 1u << 30 | 1u << 31,
	[CPUID_7_ECX] = 1u << 1 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 11 | 1u << 12 | 1u << 14 | 1u << 16 |
			1u << 23 | 1u << 24 | 1u << 29 | 1u << 30 | 1u << 31,
	[CPUID_7_EDX] = 1u << 2 | 1u << 3 | 1u << 5 | 1u << 8 | 1u << 15 | 1u << 18 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 |
			1u << 24 | 1u << 25,
	[CPUID_81_ECX] = 1u << 1 | 1u << 2 | 1u << 9 | 1u << 10 | 1u << 12 | 1u << 13 | 1u << 15 | 1u << 22 | 1u << 23 | 1u << 24 |
			 1u << 28,
	[CPUID_D1_EAX] = ~UINT32_C(7),
	/* What has registers in struct cpu_state, or none: clocks, async faults, steal time, EOI, IPIs, polling. */
	[CPUID_KVM_EAX] = ~(1u << 0 | 1u << 1 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 10 | 1u << 11 |
			    1u << 12 | 1u << 13 | 1u << 14 | 1u << 24),
	[CPUID_87_EDX] = ~(1u << 8),
};

static struct kvm_cpuid2 *supported_cpuid(int fd)
{
	struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + SUPPORTED_MAX * sizeof(c->entries[0]));

	c->nent = SUPPORTED_MAX;
	if (ioctl(fd, KVM_GET_SUPPORTED_CPUID, c) < 0)
		c->nent = 0;
	return c;
}

static void supported_words(int fd, uint32_t words[CPUID_WORDS])
{
	g_autofree struct kvm_cpuid2 *c = supported_cpuid(fd);

	memset(words, 0, CPUID_WORDS * sizeof(words[0]));
	for (uint32_t i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 1) {
			words[CPUID_1_ECX] = e->ecx;
			words[CPUID_1_EDX] = e->edx;
		} else if (e->function == 7 && e->index == 0) {
			words[CPUID_7_EBX] = e->ebx;
			words[CPUID_7_ECX] = e->ecx;
			words[CPUID_7_EDX] = e->edx;
		} else if (e->function == 0xd && e->index == 1) {
			words[CPUID_D1_EAX] = e->eax;
		} else if (e->function == 0x80000001) {
			words[CPUID_81_ECX] = e->ecx;
			words[CPUID_81_EDX] = e->edx;
		} else if (e->function == 0x80000007) {
			words[CPUID_87_EDX] = e->edx;
		} else if (e->function == 0x40000001) {
			words[CPUID_KVM_EAX] = e->eax;
		}
	}
	/* Not all kernels list what is theirs to give or ours to say: x2APIC, TSC deadline, "a hypervisor is here". */
	words[CPUID_1_ECX] |= 1u << 21 | 1u << 31;
	if (ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		words[CPUID_1_ECX] |= 1u << 24;
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		words[i] &= ~never[i];
}

void kvm_supported_words(uint32_t words[CPUID_WORDS])
{
	int fd = kvm_open_node(KVM_NODE, NULL);

	memset(words, 0, CPUID_WORDS * sizeof(words[0]));
	if (fd < 0)
		return;
	supported_words(fd, words);
	close(fd);
}

unsigned kvm_phys_bits(int fd)
{
	g_autofree struct kvm_cpuid2 *c = supported_cpuid(fd);

	for (uint32_t i = 0; i < c->nent; i++) {
		if (c->entries[i].function == 0x80000008)
			return c->entries[i].eax & 0xff;
	}
	return 36;
}

static void add_leaf(struct kvm_vcpu *v, const struct cpu_model *m, struct kvm_cpuid2 *c, uint32_t leaf, uint32_t sub, bool has_sub)
{
	/* KVM itself keeps up the bits that depend on the state: OSXSAVE, APIC, the XSAVE area's size. */
	const struct cpu_state s = { .xcr0 = 1, .apic_base = 0x800 };
	uint32_t out[4];

	if (c->nent == CPUID_MAX_ENTRIES)
		return;
	cpu_model_cpuid(m, &s, v->vcpu.index, leaf, sub, out);
	c->entries[c->nent++] = (struct kvm_cpuid_entry2){
		.function = leaf, .index = sub, .flags = has_sub ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = out[0], .ebx = out[1], .ecx = out[2], .edx = out[3],
	};
}

int kvm_set_cpuid(struct kvm_vcpu *v, const struct cpu_model *model)
{
	static const uint32_t indexed[] = { 4, 7, 0xb, 0xd };
	g_autofree struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + CPUID_MAX_ENTRIES * sizeof(c->entries[0]));
	struct cpu_model m = *model;
	uint32_t words[CPUID_WORDS];

	supported_words(v->kvm->fd, words);
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		m.features[i] &= words[i];
	m.phys_bits = MIN(m.phys_bits, v->kvm->phys_bits);
	for (uint32_t leaf = 0; leaf <= m.max_leaf && leaf < 0x40; leaf++) {
		bool sub = false;

		for (size_t i = 0; i < ARRAY_LEN(indexed); i++)
			sub |= leaf == indexed[i];
		for (uint32_t n = 0; n < (sub ? 4u : 1u); n++)
			add_leaf(v, &m, c, leaf, n, sub);
	}
	if (m.hypervisor) {
		add_leaf(v, &m, c, 0x40000000, 0, false);
		add_leaf(v, &m, c, 0x40000001, 0, false);
	}
	for (uint32_t leaf = 0x80000000; leaf <= m.max_ext_leaf && leaf < 0x80000040; leaf++)
		add_leaf(v, &m, c, leaf, 0, false);
	return ioctl(v->fd, KVM_SET_CPUID2, c) < 0 ? -errno : 0;
}
