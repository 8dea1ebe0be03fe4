/*
 * CPU models: feature words by name, baselines, and the CPUID answers made of them.
 * Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E, Linux's KVM CPUID document.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <string.h>

#include "base/bytes.h"
#include "x86/cpu_state.h"

struct feature {
	const char *name;
	uint8_t word, bit;
	uint8_t level; /* x86-64-vN that has it; 0: none */
};

static const struct feature features[] = {
	{ "fpu", CPUID_1_EDX, 0, 1 }, { "vme", CPUID_1_EDX, 1, 0 }, { "de", CPUID_1_EDX, 2, 1 }, { "pse", CPUID_1_EDX, 3, 1 },
	{ "tsc", CPUID_1_EDX, 4, 1 }, { "msr", CPUID_1_EDX, 5, 1 }, { "pae", CPUID_1_EDX, 6, 1 }, { "mce", CPUID_1_EDX, 7, 1 },
	{ "cx8", CPUID_1_EDX, 8, 1 }, { "apic", CPUID_1_EDX, 9, 1 }, { "sep", CPUID_1_EDX, 11, 1 },
	{ "mtrr", CPUID_1_EDX, 12, 1 }, { "pge", CPUID_1_EDX, 13, 1 }, { "mca", CPUID_1_EDX, 14, 1 },
	{ "cmov", CPUID_1_EDX, 15, 1 }, { "pat", CPUID_1_EDX, 16, 1 }, { "pse36", CPUID_1_EDX, 17, 1 },
	{ "clflush", CPUID_1_EDX, 19, 1 }, { "mmx", CPUID_1_EDX, 23, 1 }, { "fxsr", CPUID_1_EDX, 24, 1 },
	{ "sse", CPUID_1_EDX, 25, 1 }, { "sse2", CPUID_1_EDX, 26, 1 }, { "ht", CPUID_1_EDX, 28, 0 },
	{ "sse3", CPUID_1_ECX, 0, 2 }, { "pni", CPUID_1_ECX, 0, 2 }, { "pclmulqdq", CPUID_1_ECX, 1, 0 },
	{ "ssse3", CPUID_1_ECX, 9, 2 }, { "fma", CPUID_1_ECX, 12, 3 }, { "cx16", CPUID_1_ECX, 13, 2 },
	{ "pcid", CPUID_1_ECX, 17, 0 }, { "sse4_1", CPUID_1_ECX, 19, 2 }, { "sse4_2", CPUID_1_ECX, 20, 2 },
	{ "x2apic", CPUID_1_ECX, 21, 1 }, { "movbe", CPUID_1_ECX, 22, 3 }, { "popcnt", CPUID_1_ECX, 23, 2 },
	{ "tsc_deadline_timer", CPUID_1_ECX, 24, 0 }, { "aes", CPUID_1_ECX, 25, 0 }, { "xsave", CPUID_1_ECX, 26, 3 },
	{ "avx", CPUID_1_ECX, 28, 3 }, { "f16c", CPUID_1_ECX, 29, 3 }, { "rdrand", CPUID_1_ECX, 30, 0 },
	{ "hypervisor", CPUID_1_ECX, 31, 1 },
	{ "fsgsbase", CPUID_7_EBX, 0, 0 }, { "tsc_adjust", CPUID_7_EBX, 1, 0 }, { "bmi1", CPUID_7_EBX, 3, 3 }, { "avx2", CPUID_7_EBX, 5, 3 },
	{ "smep", CPUID_7_EBX, 7, 0 }, { "bmi2", CPUID_7_EBX, 8, 3 }, { "erms", CPUID_7_EBX, 9, 0 },
	{ "invpcid", CPUID_7_EBX, 10, 0 }, { "rdseed", CPUID_7_EBX, 18, 0 }, { "adx", CPUID_7_EBX, 19, 0 },
	{ "smap", CPUID_7_EBX, 20, 0 }, { "clflushopt", CPUID_7_EBX, 23, 0 }, { "clwb", CPUID_7_EBX, 24, 0 },
	{ "sha_ni", CPUID_7_EBX, 29, 0 }, { "umip", CPUID_7_ECX, 2, 0 }, { "gfni", CPUID_7_ECX, 8, 0 }, { "vaes", CPUID_7_ECX, 9, 0 },
	{ "vpclmulqdq", CPUID_7_ECX, 10, 0 }, { "rdpid", CPUID_7_ECX, 22, 0 },
	{ "movdiri", CPUID_7_ECX, 27, 0 }, { "fsrm", CPUID_7_EDX, 4, 0 },
	{ "lahf_lm", CPUID_81_ECX, 0, 2 }, { "cr8_legacy", CPUID_81_ECX, 4, 0 }, { "abm", CPUID_81_ECX, 5, 3 },
	{ "lzcnt", CPUID_81_ECX, 5, 3 }, { "3dnowprefetch", CPUID_81_ECX, 8, 0 },
	{ "syscall", CPUID_81_EDX, 11, 1 }, { "nx", CPUID_81_EDX, 20, 1 }, { "pdpe1gb", CPUID_81_EDX, 26, 0 },
	{ "rdtscp", CPUID_81_EDX, 27, 0 }, { "lm", CPUID_81_EDX, 29, 1 },
	{ "xsaveopt", CPUID_D1_EAX, 0, 0 }, { "xsavec", CPUID_D1_EAX, 1, 0 }, { "xgetbv1", CPUID_D1_EAX, 2, 0 },
	{ "xsaves", CPUID_D1_EAX, 3, 0 },
	{ "kvmclock", CPUID_KVM_EAX, 3, 0 }, { "kvmclock_stable", CPUID_KVM_EAX, 24, 0 },
	{ "constant_tsc", CPUID_87_EDX, 8, 0 },
	{ "autoibrs", CPUID_821_EAX, 8, 0 }, { "srso_no", CPUID_821_EAX, 29, 0 }, { "tsa_sq_no", CPUID_821_ECX, 1, 0 },
	{ "tsa_l1_no", CPUID_821_ECX, 2, 0 },
};

static GQuark cpuid_error(void)
{
	return g_quark_from_static_string("guise-cpu");
}

void cpuid_host_words(uint32_t words[CPUID_WORDS])
{
	uint32_t a, b, c, d;

	memset(words, 0, CPUID_WORDS * sizeof(words[0]));
	__cpuid(1, a, b, c, d);
	words[CPUID_1_ECX] = c;
	words[CPUID_1_EDX] = d;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		words[CPUID_7_EBX] = b;
		words[CPUID_7_ECX] = c;
		words[CPUID_7_EDX] = d;
	}
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
		words[CPUID_D1_EAX] = a;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
		words[CPUID_81_ECX] = c;
		words[CPUID_81_EDX] = d;
	}
	if (__get_cpuid(0x80000007, &a, &b, &c, &d))
		words[CPUID_87_EDX] = d;
}

/* Features are compared without regard to '.', '_' and '-'. */
static bool same_name(const char *a, const char *b)
{
	for (;;) {
		while (*a && strchr("._-", *a))
			a++;
		while (*b && strchr("._-", *b))
			b++;
		if (*a != *b)
			return false;
		if (!*a)
			return true;
		a++;
		b++;
	}
}

static const struct feature *find_feature(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		if (same_name(features[i].name, name))
			return &features[i];
	}
	return NULL;
}

bool cpu_model_has(const struct cpu_model *m, const char *feature)
{
	const struct feature *f = find_feature(feature);

	return f && (m->features[f->word] >> f->bit & 1);
}

/* ---- models ---- */

static void add_level(struct cpu_model *m, unsigned level, const uint32_t supported[CPUID_WORDS])
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature *f = &features[i];

		if (f->level && f->level <= level)
			m->features[f->word] |= supported[f->word] & 1u << f->bit;
	}
	/* Every engine's paravirtual clock and stable TSC go with every model; with TSC_ADJUST Linux trusts the TSC unwatched. */
	m->features[CPUID_KVM_EAX] = supported[CPUID_KVM_EAX];
	m->features[CPUID_87_EDX] = supported[CPUID_87_EDX] & 1u << 8;
	m->features[CPUID_7_EBX] |= supported[CPUID_7_EBX] & 1u << 1;
	/* So do the notes of what speculation cannot do. */
	m->features[CPUID_821_EAX] = supported[CPUID_821_EAX];
	m->features[CPUID_821_ECX] = supported[CPUID_821_ECX];
}

static void host_identity(struct cpu_model *m)
{
	uint32_t a, b, c, d, brand[12];

	__cpuid(0, a, b, c, d);
	memcpy(m->vendor, &b, 4);
	memcpy(m->vendor + 4, &d, 4);
	memcpy(m->vendor + 8, &c, 4);
	__cpuid(1, a, b, c, d);
	m->stepping = a & 15;
	m->model = (a >> 4 & 15) | (a >> 12 & 0xf0);
	m->family = (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 0xff : 0);
	for (unsigned i = 0; i < 3; i++)
		__cpuid(0x80000002 + i, brand[4 * i], brand[4 * i + 1], brand[4 * i + 2], brand[4 * i + 3]);
	memcpy(m->brand, brand, 48);
}

static void plain_identity(struct cpu_model *m, const char *name)
{
	strcpy(m->vendor, "AuthenticAMD");
	m->family = 15;
	m->model = 107;
	m->stepping = 1;
	g_snprintf(m->brand, sizeof(m->brand), "guise %s", name);
}

static bool set_base(struct cpu_model *m, const char *name, const uint32_t supported[CPUID_WORDS], GError **error)
{
	if (!strcmp(name, "host") || !strcmp(name, "max")) {
		memcpy(m->features, supported, sizeof(m->features));
		host_identity(m);
	} else if (g_str_has_prefix(name, "x86-64-v") && name[8] >= '1' && name[8] <= '3' && !name[9]) {
		add_level(m, (unsigned)(name[8] - '0'), supported);
		plain_identity(m, name);
	} else if (!strcmp(name, "qemu64")) {
		add_level(m, 1, supported);
		m->features[CPUID_1_ECX] |= supported[CPUID_1_ECX] & (1u << 0 | 1u << 13);
		m->features[CPUID_81_ECX] |= supported[CPUID_81_ECX] & 1;
		plain_identity(m, name);
	} else if (!strcmp(name, "qemu32")) {
		add_level(m, 1, supported);
		m->features[CPUID_81_EDX] = 0;
		plain_identity(m, name);
		m->family = 6;
		m->model = 6;
		m->stepping = 3;
		m->max_ext_leaf = 0x80000004;
	} else {
		g_set_error(error, cpuid_error(), 0, "--cpu %s: no such model; there are host, max, x86-64-v1, x86-64-v2, "
			    "x86-64-v3, qemu64 and qemu32", name);
		return false;
	}
	return true;
}

static const char *near_feature(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; len > 1 && i < ARRAY_LEN(features); i++) {
		if (!strncmp(features[i].name, name, len - 1) || !strncmp(features[i].name, name, 3))
			return features[i].name;
	}
	return NULL;
}

static bool change_feature(struct cpu_model *m, const char *word, const uint32_t supported[CPUID_WORDS], GError **error)
{
	const struct feature *f;
	const char *near;

	if (word[0] != '+' && word[0] != '-') {
		g_set_error(error, cpuid_error(), 0, "--cpu: \"%s\": write +%s or -%s", word, word, word);
		return false;
	}
	f = find_feature(word + 1);
	if (!f) {
		near = near_feature(word + 1);
		g_set_error(error, cpuid_error(), 0, near ? "--cpu: unknown feature %s; did you mean %s?" : "--cpu: unknown feature %s",
			    word + 1, near);
		return false;
	}
	if (word[0] == '-') {
		m->features[f->word] &= ~(1u << f->bit);
		return true;
	}
	if (!(supported[f->word] >> f->bit & 1)) {
		g_set_error(error, cpuid_error(), 0, "--cpu: the engine cannot offer %s on this host", f->name);
		return false;
	}
	m->features[f->word] |= 1u << f->bit;
	return true;
}

/* What makes no sense without something else goes with it. */
static void settle(struct cpu_model *m)
{
	if (!cpu_model_has(m, "xsave")) {
		m->features[CPUID_1_ECX] &= ~(1u << 28 | 1u << 12 | 1u << 29);
		m->features[CPUID_D1_EAX] = 0;
	}
	if (!cpu_model_has(m, "avx")) {
		m->features[CPUID_1_ECX] &= ~(1u << 12 | 1u << 29);
		m->features[CPUID_7_EBX] &= ~(1u << 5);
		m->features[CPUID_7_ECX] &= ~(1u << 9 | 1u << 10);
	}
}

bool cpu_model_parse(const char *spec, const uint32_t supported[CPUID_WORDS], unsigned cpus, struct cpu_model *out,
		     GError **error)
{
	g_auto(GStrv) parts = g_strsplit(spec, ",", -1);
	struct cpu_model m = { .cpus = cpus, .max_leaf = 0x16, .max_ext_leaf = 0x80000008, .phys_bits = 40, .hypervisor = true };

	if (!parts[0] || !set_base(&m, parts[0], supported, error))
		return false;
	for (char **p = parts + 1; *p; p++) {
		if (!change_feature(&m, *p, supported, error))
			return false;
	}
	settle(&m);
	if (m.features[CPUID_821_EAX] && m.max_ext_leaf >= 0x80000008)
		m.max_ext_leaf = 0x80000021;
	*out = m;
	return true;
}

/* ---- answers ---- */

static uint32_t signature(const struct cpu_model *m)
{
	uint32_t family = m->family < 15 ? m->family : 15, extended = m->family < 15 ? 0 : m->family - 15;

	return m->stepping | (m->model & 15) << 4 | family << 8 | (m->model >> 4) << 16 | extended << 20;
}

static unsigned apic_id_bits(const struct cpu_model *m)
{
	return m->cpus <= 1 ? 0 : 32 - (unsigned)__builtin_clz(m->cpus - 1);
}

static void leaf_1(const struct cpu_model *m, const struct cpu_state *s, unsigned apic_id, uint32_t out[4])
{
	out[0] = signature(m);
	out[1] = apic_id << 24 | (m->cpus & 0xff) << 16 | 8 << 8;
	out[2] = m->features[CPUID_1_ECX] & ~(1u << 27);
	if ((s->cr4 & CR4_OSXSAVE) && (out[2] >> 26 & 1))
		out[2] |= 1u << 27;
	out[3] = m->features[CPUID_1_EDX] | (m->cpus > 1 ? 1u << 28 : 0);
	if (!(s->apic_base & 0x800))
		out[3] &= ~(1u << 9);
}

/* 32 KiB L1 data and code, 1 MiB L2: deterministic, the host's caches are nobody's business. */
static void leaf_4(const struct cpu_model *m, uint32_t sub, uint32_t out[4])
{
	static const struct {
		uint32_t type, level, ways, sets;
	} caches[] = { { 1, 1, 8, 64 }, { 2, 1, 8, 64 }, { 3, 2, 16, 1024 } };

	if (sub >= ARRAY_LEN(caches))
		return;
	out[0] = caches[sub].type | caches[sub].level << 5 | 1 << 8 | ((1u << apic_id_bits(m)) - 1) << 26;
	out[1] = 63 | (caches[sub].ways - 1) << 22;
	out[2] = caches[sub].sets - 1;
}

static void leaf_b(const struct cpu_model *m, unsigned apic_id, uint32_t sub, uint32_t out[4])
{
	out[2] = sub & 0xff;
	out[3] = apic_id;
	if (sub == 0) {
		out[1] = 1;
		out[2] |= 1 << 8;
	} else if (sub == 1) {
		out[0] = apic_id_bits(m);
		out[1] = m->cpus;
		out[2] |= 2 << 8;
	}
}

static void leaf_d(const struct cpu_model *m, const struct cpu_state *s, uint32_t sub, uint32_t out[4])
{
	bool avx = cpu_model_has(m, "avx");
	uint32_t now = s->xcr0 & 4 ? 832 : 576;

	if (!cpu_model_has(m, "xsave"))
		return;
	if (sub == 0) {
		out[0] = avx ? 7 : 3;
		out[1] = now;
		out[2] = avx ? 832 : 576;
	} else if (sub == 1) {
		out[0] = m->features[CPUID_D1_EAX];
		out[1] = out[0] & 0xa ? now : 0;
	} else if (sub == 2 && avx) {
		out[0] = 256;
		out[1] = 576;
	}
}

static void kvm_leaf(const struct cpu_model *m, uint32_t leaf, uint32_t out[4])
{
	if (!m->hypervisor)
		return;
	if (leaf == 0x40000000) {
		out[0] = 0x40000001;
		memcpy(&out[1], "KVMKVMKVM\0\0\0", 12);
	} else if (leaf == 0x40000001) {
		out[0] = m->features[CPUID_KVM_EAX];
	}
}

static void extended_leaf(const struct cpu_model *m, uint32_t leaf, uint32_t out[4])
{
	switch (leaf) {
	case 0x80000000:
		out[0] = m->max_ext_leaf;
		memcpy(&out[1], m->vendor, 4);
		memcpy(&out[3], m->vendor + 4, 4);
		memcpy(&out[2], m->vendor + 8, 4);
		break;
	case 0x80000001:
		out[0] = signature(m);
		out[2] = m->features[CPUID_81_ECX];
		out[3] = m->features[CPUID_81_EDX];
		/* AMD repeats what leaf 1 says. */
		if (!strcmp(m->vendor, "AuthenticAMD"))
			out[3] |= m->features[CPUID_1_EDX] & 0x0183f3ff;
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		memcpy(out, m->brand + 16 * (leaf - 0x80000002), 16);
		break;
	case 0x80000005:
		out[2] = out[3] = 32u << 24 | 8 << 16 | 1 << 8 | 64;
		break;
	case 0x80000006:
		out[2] = 1024u << 16 | 8 << 12 | 1 << 8 | 64;
		break;
	case 0x80000007:
		out[3] = m->features[CPUID_87_EDX] & 1u << 8;
		break;
	case 0x80000008:
		out[0] = m->phys_bits | 48 << 8;
		out[2] = m->cpus > 1 ? (m->cpus - 1) | apic_id_bits(m) << 12 : 0;
		break;
	case 0x80000021:
		out[0] = m->features[CPUID_821_EAX];
		out[2] = m->features[CPUID_821_ECX];
		break;
	default:
		break;
	}
}

void cpu_model_cpuid(const struct cpu_model *m, const struct cpu_state *s, unsigned apic_id, uint32_t leaf,
		     uint32_t subleaf, uint32_t out[4])
{
	memset(out, 0, 16);
	if (leaf >= 0x40000000 && leaf < 0x40000100) {
		kvm_leaf(m, leaf, out);
		return;
	}
	if (leaf >= 0x80000000) {
		if (leaf <= m->max_ext_leaf)
			extended_leaf(m, leaf, out);
		return;
	}
	switch (leaf) {
	case 0:
		out[0] = m->max_leaf;
		memcpy(&out[1], m->vendor, 4);
		memcpy(&out[3], m->vendor + 4, 4);
		memcpy(&out[2], m->vendor + 8, 4);
		break;
	case 1: leaf_1(m, s, apic_id, out); break;
	case 4: leaf_4(m, subleaf, out); break;
	case 6: out[0] = 1u << 2; break; /* the APIC timer always runs */
	case 7:
		if (subleaf == 0) {
			out[1] = m->features[CPUID_7_EBX];
			out[2] = m->features[CPUID_7_ECX];
			out[3] = m->features[CPUID_7_EDX];
		}
		break;
	case 0xb: leaf_b(m, apic_id, subleaf, out); break;
	case 0xd: leaf_d(m, s, subleaf, out); break;
	default: break;
	}
}
