/*
 * What the interpreter can offer a guest, as CPUID feature words: what it executes by itself, and what the host's
 * units execute for it where the host has them (Intel SDM 2A, CPUID).
 */
#include "accel/accel.h"

#define BIT(n) (1u << (n))

/* Executed by the interpreter whatever the host has. */
static const uint32_t own[CPUID_WORDS] = {
	/* cx16 pcid x2apic movbe popcnt tsc_deadline xsave hypervisor */
	[CPUID_1_ECX] = BIT(13) | BIT(17) | BIT(21) | BIT(22) | BIT(23) | BIT(24) | BIT(26) | BIT(31),
	/* fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush fxsr */
	[CPUID_1_EDX] = BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | BIT(11) | BIT(12) |
			BIT(13) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(24),
	/* fsgsbase tsc_adjust bmi1 smep bmi2 erms invpcid adx smap clflushopt clwb */
	[CPUID_7_EBX] = BIT(0) | BIT(1) | BIT(3) | BIT(7) | BIT(8) | BIT(9) | BIT(10) | BIT(19) | BIT(20) | BIT(23) | BIT(24),
	/* umip rdpid */
	[CPUID_7_ECX] = BIT(2) | BIT(22),
	/* fsrm */
	[CPUID_7_EDX] = BIT(4),
	/* lahf_lm cr8_legacy abm 3dnowprefetch */
	[CPUID_81_ECX] = BIT(0) | BIT(4) | BIT(5) | BIT(8),
	/* syscall nx pdpe1gb rdtscp lm */
	[CPUID_81_EDX] = BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29),
	/* xsaveopt xsavec xgetbv1 xsaves */
	[CPUID_D1_EAX] = BIT(0) | BIT(1) | BIT(2) | BIT(3),
	[CPUID_KVM_EAX] = BIT(0) | BIT(3) | BIT(24),
	[CPUID_87_EDX] = BIT(8),
	/* autoibrs srso_no, tsa_sq_no tsa_l1_no: nothing that runs here speculates for the guest */
	[CPUID_821_EAX] = BIT(8) | BIT(29),
	[CPUID_821_ECX] = BIT(1) | BIT(2),
};

/* Executed on the host's own units. */
static const uint32_t borrowed[CPUID_WORDS] = {
	/* sse3 pclmulqdq ssse3 fma sse4_1 sse4_2 aes avx f16c rdrand */
	[CPUID_1_ECX] = BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(19) | BIT(20) | BIT(25) | BIT(28) | BIT(29) | BIT(30),
	/* mmx sse sse2 */
	[CPUID_1_EDX] = BIT(23) | BIT(25) | BIT(26),
	/* avx2 rdseed sha_ni */
	[CPUID_7_EBX] = BIT(5) | BIT(18) | BIT(29),
	/* gfni vaes vpclmulqdq: their 128- and 256-bit forms */
	[CPUID_7_ECX] = BIT(8) | BIT(9) | BIT(10),
};

void interp_supported_words(uint32_t words[CPUID_WORDS])
{
	uint32_t host[CPUID_WORDS];

	cpuid_host_words(host);
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		words[i] = own[i] | (borrowed[i] & host[i]);
}
