/* CPU models and CPUID: which leaves and features a guest sees. */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct cpuid_entry {
	uint32_t leaf, subleaf;
	bool has_subleaf;
	uint32_t eax, ebx, ecx, edx;
};

#define CPUID_MAX_ENTRIES 96

/* Feature words: index into struct cpu_model.features. */
enum cpuid_word {
	CPUID_1_ECX, CPUID_1_EDX, CPUID_7_EBX, CPUID_7_ECX, CPUID_7_EDX, CPUID_81_ECX, CPUID_81_EDX,
	CPUID_D1_EAX, CPUID_KVM_EAX, CPUID_87_EDX, CPUID_821_EAX, CPUID_821_ECX, CPUID_WORDS
};

struct cpu_model {
	uint32_t features[CPUID_WORDS];
	uint32_t family, model, stepping;
	uint32_t max_leaf, max_ext_leaf;
	char vendor[13], brand[49];
	unsigned phys_bits;
	unsigned cpus;
	bool hypervisor; /* KVM signature at 0x40000000 */
	struct cpuid_entry entry[CPUID_MAX_ENTRIES];
	unsigned count;
};

/*
 * Parses "MODEL[,+feat,-feat…]" (host, max, x86-64-v1..v3, qemu64, qemu32); `supported` are the
 * words the engine can offer (host: what the host CPU has; both are ANDed, with an error naming the
 * first feature asked for by name but not offered and the spelling of near misses).
 * Names as in /proc/cpuinfo and QEMU (sse4.1 and sse4_1 are the same).
 */
bool cpu_model_parse(const char *spec, const uint32_t supported[CPUID_WORDS], unsigned cpus,
		     struct cpu_model *out, GError **error);
/* What the host CPU itself reports. */
void cpuid_host_words(uint32_t words[CPUID_WORDS]);
/* The answer to CPUID on vCPU apic_id, with the dynamic bits (OSXSAVE, APIC, XSAVE size). */
struct cpu_state;
void cpu_model_cpuid(const struct cpu_model *m, const struct cpu_state *s, unsigned apic_id, uint32_t leaf,
		     uint32_t subleaf, uint32_t out[4]);
/* Tests a feature by name; false for unknown names. */
bool cpu_model_has(const struct cpu_model *m, const char *feature);

#endif
