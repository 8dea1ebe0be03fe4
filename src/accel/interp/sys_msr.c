/*
 * Model-specific registers, time stamps, CPUID and the paravirtual clock (SDM 4; AMD APM 2;
 * Linux Documentation/virt/kvm/x86/msr.rst).
 */
#include <stddef.h>
#include <string.h>

#include "accel/interp/core.h"
#include "accel/interp/sys.h"
#include "base/log.h"

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_MTRR_CAP 0xfe
#define MSR_EFER 0xc0000080
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_TSC_ADJUST 0x3b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_KVM_WALL_CLOCK 0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01

uint64_t cpu_tsc(struct icpu *cpu)
{
	return __builtin_ia32_rdtsc() + cpu->s.tsc_offset;
}

/* ---- plain registers ---- */

enum msr_check { ANY, CANONICAL, LOW32, PAT_TYPES, ZERO };

struct msr_field {
	uint32_t index;
	uint16_t offset;
	uint8_t check;
};
#define FIELD(msr, name, check) { msr, offsetof(struct cpu_state, name), check }

static const struct msr_field fields[] = {
	FIELD(0xc0000081, star, ANY), FIELD(0xc0000082, lstar, CANONICAL), FIELD(0xc0000083, cstar, CANONICAL),
	FIELD(0xc0000084, fmask, LOW32), FIELD(MSR_FS_BASE, seg[SEG_FS].base, CANONICAL),
	FIELD(MSR_GS_BASE, seg[SEG_GS].base, CANONICAL), FIELD(0xc0000102, kernel_gs_base, CANONICAL),
	FIELD(0xc0000103, tsc_aux, LOW32), FIELD(0x174, sysenter_cs, ANY), FIELD(0x175, sysenter_esp, CANONICAL),
	FIELD(0x176, sysenter_eip, CANONICAL), FIELD(0x277, pat, PAT_TYPES), FIELD(0x1a0, misc_enable, ANY),
	FIELD(0xda0, xss, ZERO), FIELD(0x1d9, debugctl, ANY), FIELD(0x17a, mcg_status, ANY), FIELD(0x2ff, mtrr_def_type, ANY),
	FIELD(0x250, mtrr_fixed[0], ANY), FIELD(0x258, mtrr_fixed[1], ANY), FIELD(0x259, mtrr_fixed[2], ANY),
	FIELD(0x268, mtrr_fixed[3], ANY), FIELD(0x269, mtrr_fixed[4], ANY), FIELD(0x26a, mtrr_fixed[5], ANY),
	FIELD(0x26b, mtrr_fixed[6], ANY), FIELD(0x26c, mtrr_fixed[7], ANY), FIELD(0x26d, mtrr_fixed[8], ANY),
	FIELD(0x26e, mtrr_fixed[9], ANY), FIELD(0x26f, mtrr_fixed[10], ANY),
};

/* Registers that read as a constant and swallow writes: microcode, thermal, power, machine-check and
 * performance facilities that this processor reports as absent but systems touch all the same. */
static const struct {
	uint32_t first, last;
	uint64_t value;
} constants[] = {
	{ 0x00, 0x01, 0 },  /* P5 machine check */
	{ 0x17, 0x17, 0 },  /* platform id */
	{ 0x2a, 0x2a, 0 },  /* EBL_CR_POWERON */
	{ 0x3a, 0x3a, 1 },  /* feature control, locked */
	{ 0x79, 0x79, 0 },  /* microcode update */
	{ 0x8b, 0x8b, 0 },  /* patch level */
	{ 0xc1, 0xc8, 0 },  /* performance counters */
	{ 0xce, 0xce, 0 },  /* platform info */
	{ 0x119, 0x119, 0 },
	{ 0x179, 0x179, 0 }, /* MCG_CAP: no banks */
	{ 0x17b, 0x17b, 0 },
	{ 0x186, 0x18d, 0 }, /* event selectors */
	{ 0x198, 0x199, 0 }, /* P-states */
	{ 0x19a, 0x19c, 0 }, /* thermal */
	{ 0xc0010000, 0xc0010007, 0 }, /* AMD performance events */
	{ 0xc0010010, 0xc0010010, 0 }, /* SYSCFG */
	{ 0xc0010015, 0xc0010015, 0x1000000 }, /* HWCR: the TSC runs at P0 */
	{ 0xc001001f, 0xc001001f, 0 }, /* NB_CFG */
	{ 0xc0010055, 0xc0010055, 0 }, /* C1E */
	{ 0xc0010061, 0xc0010064, 0 }, /* P-states */
	{ 0xc0010112, 0xc0010113, 0 }, /* SMM */
	{ 0xc0010114, 0xc0010114, 0 }, /* VM_CR */
	{ 0xc0010140, 0xc0010141, 0 }, /* OSVW */
	{ 0xc0011020, 0xc001102d, 0 }, /* LS_CFG, DE_CFG and kin */
};

static uint64_t *field_at(struct icpu *cpu, uint32_t msr, uint8_t *check)
{
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		if (fields[i].index == msr) {
			*check = fields[i].check;
			return (uint64_t *)((uint8_t *)&cpu->s + fields[i].offset);
		}
	}
	if (msr >= 0x200 && msr < 0x200 + 2 * MTRR_VARIABLE_COUNT) {
		*check = ANY;
		return msr & 1 ? &cpu->s.mtrr_mask[(msr - 0x200) / 2] : &cpu->s.mtrr_base[(msr - 0x200) / 2];
	}
	return NULL;
}

static bool field_allows(uint8_t check, uint64_t v)
{
	switch (check) {
	case CANONICAL: return is_canonical(v);
	case LOW32: return v >> 32 == 0;
	case ZERO: return !v;
	case PAT_TYPES:
		for (unsigned i = 0; i < 8; i++) {
			unsigned type = v >> (8 * i) & 0xff;

			if (type > 7 || type == 2 || type == 3)
				return false;
		}
		return true;
	default: return true;
	}
}

static bool apic_msr(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= 0x800 && msr < 0x900);
}

/* ---- the paravirtual clock ---- */

#define CLOCKS_APART 1000000 /* ns: the host's clock was corrected */

struct pvclock {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad2[2];
};

static void write_wall_clock(struct icpu *cpu, uint64_t gpa)
{
	gint64 boot_us = g_get_real_time() - cpu->host->clock_ns(cpu->host->opaque) / 1000;
	uint32_t image[3] = { 2, (uint32_t)(boot_us / 1000000), (uint32_t)(boot_us % 1000000) * 1000 };

	mem_write(cpu->mem, gpa, image, sizeof(image));
}

/*
 * The time at a TSC that no guest has set. All CPUs count from one reading, so that none is ever before another by what the
 * measured frequency is wrong.
 */
static int64_t system_time_at(struct interp *in, struct host_moment now, const struct pvclock *c)
{
	struct host_moment *origin = &in->clock_origin;
	int64_t ns = now.ns;

	g_mutex_lock(&in->clock_lock);
	if (origin->tsc && now.tsc > origin->tsc) {
		uint64_t ticks = now.tsc - origin->tsc;

		ticks = c->tsc_shift < 0 ? ticks >> -c->tsc_shift : ticks << c->tsc_shift;
		ns = origin->ns + (int64_t)((unsigned __int128)ticks * c->tsc_to_system_mul >> 32);
	}
	if (!origin->tsc || ns - now.ns > CLOCKS_APART || now.ns - ns > CLOCKS_APART) {
		*origin = now;
		ns = now.ns;
	}
	g_mutex_unlock(&in->clock_lock);
	return ns;
}

/* ns = (ticks << shift) * mul >> 32. */
static void write_system_time(struct icpu *cpu, uint64_t gpa)
{
	struct host_moment now = host_moment_of(cpu->host->clock_ns, cpu->host->opaque);
	uint64_t hz = cpu->interp->tsc_hz, scaled = hz;
	struct pvclock c = { .flags = 1 };
	uint32_t version = 0;
	int shift = 0;

	while (scaled > 2 * UINT64_C(1000000000)) {
		scaled >>= 1;
		shift--;
	}
	while (scaled <= UINT64_C(1000000000)) {
		scaled <<= 1;
		shift++;
	}
	c.tsc_shift = (int8_t)shift;
	c.tsc_to_system_mul = (uint32_t)((UINT64_C(1000000000) << 32) / scaled);
	now.tsc += cpu->s.tsc_offset - cpu->s.tsc_adjust;
	c.tsc_timestamp = now.tsc + cpu->s.tsc_adjust;
	c.system_time = (uint64_t)system_time_at(cpu->interp, now, &c);
	/* An odd version: another CPU that reads now must read again. */
	mem_read(cpu->mem, gpa, &version, sizeof(version));
	c.version = version | 1;
	mem_write(cpu->mem, gpa, &c.version, sizeof(c.version));
	atomic_thread_fence(memory_order_seq_cst);
	mem_write(cpu->mem, gpa + sizeof(c.version), (uint8_t *)&c + sizeof(c.version), sizeof(c) - sizeof(c.version));
	atomic_thread_fence(memory_order_seq_cst);
	c.version++;
	mem_write(cpu->mem, gpa, &c.version, sizeof(c.version));
}

/* ---- setting the TSC ---- */

static bool has_tsc_adjust(const struct icpu *cpu)
{
	return !cpu->model || cpu_model_has(cpu->model, "tsc_adjust");
}

/* By either register: IA32_TSC_ADJUST sums up what the guest does to its TSC (SDM 3B 18.17.3). */
static void tsc_move(struct icpu *cpu, uint64_t by)
{
	cpu->s.tsc_offset += by;
	cpu->s.tsc_adjust += by;
	cpu->host->tsc_adjusted(cpu->host->opaque, cpu->vcpu.index, cpu->s.tsc_adjust);
	if (cpu->s.kvm_system_time & 1)
		write_system_time(cpu, cpu->s.kvm_system_time & ~UINT64_C(1));
}

/* ---- reading and writing ---- */

static bool efer_write(struct icpu *cpu, uint64_t value)
{
	uint64_t allowed = EFER_SCE;

	if (!cpu->model || cpu_model_has(cpu->model, "lm"))
		allowed |= EFER_LME | EFER_LMA;
	if (!cpu->model || cpu_model_has(cpu->model, "nx"))
		allowed |= EFER_NXE;
	if (!cpu->model || cpu_model_has(cpu->model, "autoibrs"))
		allowed |= EFER_AIBRSE;
	if (value & ~allowed)
		return false;
	if ((cpu->s.cr0 & CR0_PG) && ((value ^ cpu->s.efer) & EFER_LME))
		return false;
	cpu->s.efer = (value & ~(uint64_t)EFER_LMA) | (cpu->s.efer & EFER_LMA);
	mmu_flush_all(cpu);
	return true;
}

bool msr_read(struct icpu *cpu, uint32_t msr, uint64_t *value)
{
	uint8_t check;
	uint64_t *field = field_at(cpu, msr, &check);

	if (field) {
		*value = *field;
		return true;
	}
	if (apic_msr(msr))
		return cpu->host->apic_msr_read(cpu->host->opaque, cpu->vcpu.index, msr, value);
	switch (msr) {
	case MSR_TSC: *value = cpu_tsc(cpu); return true;
	case MSR_TSC_ADJUST: *value = cpu->s.tsc_adjust; return has_tsc_adjust(cpu);
	case MSR_EFER: *value = cpu->s.efer; return true;
	case MSR_MTRR_CAP: *value = 0x500 | MTRR_VARIABLE_COUNT; return true;
	case MSR_KVM_WALL_CLOCK: *value = cpu->s.kvm_wall_clock; return true;
	case MSR_KVM_SYSTEM_TIME: *value = cpu->s.kvm_system_time; return true;
	default: break;
	}
	for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
		if (msr >= constants[i].first && msr <= constants[i].last) {
			*value = constants[i].value;
			return true;
		}
	}
	return false;
}

bool msr_write(struct icpu *cpu, uint32_t msr, uint64_t value)
{
	uint8_t check;
	uint64_t *field = field_at(cpu, msr, &check);

	if (field) {
		if (!field_allows(check, value))
			return false;
		*field = value;
		return true;
	}
	if (apic_msr(msr))
		return cpu->host->apic_msr_write(cpu->host->opaque, cpu->vcpu.index, msr, value);
	switch (msr) {
	case MSR_TSC:
		tsc_move(cpu, value - cpu_tsc(cpu));
		return true;
	case MSR_TSC_ADJUST:
		if (!has_tsc_adjust(cpu))
			return false;
		tsc_move(cpu, value - cpu->s.tsc_adjust);
		return true;
	case MSR_EFER:
		return efer_write(cpu, value);
	case 0x12: /* the first KVM numbers of the clock */
	case MSR_KVM_SYSTEM_TIME:
		cpu->s.kvm_system_time = value;
		if (value & 1)
			write_system_time(cpu, value & ~UINT64_C(1));
		return true;
	case 0x11:
	case MSR_KVM_WALL_CLOCK:
		cpu->s.kvm_wall_clock = value;
		write_wall_clock(cpu, value);
		return true;
	default: break;
	}
	for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
		if (msr >= constants[i].first && msr <= constants[i].last)
			return true;
	}
	return false;
}

static void set_edx_eax(struct icpu *cpu, uint64_t v)
{
	cpu->s.gpr[RAX] = (uint32_t)v;
	cpu->s.gpr[RDX] = v >> 32;
}

static uint64_t edx_eax(const struct icpu *cpu)
{
	return (uint32_t)cpu->s.gpr[RAX] | cpu->s.gpr[RDX] << 32;
}

static void do_rdmsr(struct icpu *cpu, const struct insn *in)
{
	uint64_t v;

	require_cpl0(cpu);
	if (!msr_read(cpu, (uint32_t)cpu->s.gpr[RCX], &v)) {
		trace(TRACE_DEV, "cpu%u reads unknown MSR %08x", cpu->vcpu.index, (uint32_t)cpu->s.gpr[RCX]);
		raise_gp(cpu, 0);
	}
	set_edx_eax(cpu, v);
}

static void do_wrmsr(struct icpu *cpu, const struct insn *in)
{
	require_cpl0(cpu);
	if (!msr_write(cpu, (uint32_t)cpu->s.gpr[RCX], edx_eax(cpu))) {
		trace(TRACE_DEV, "cpu%u writes unknown MSR %08x or a value it refuses", cpu->vcpu.index, (uint32_t)cpu->s.gpr[RCX]);
		raise_gp(cpu, 0);
	}
	cpu->block_ends = true;
}

/* ---- time ---- */

static void check_tsd(struct icpu *cpu)
{
	if ((cpu->s.cr4 & CR4_TSD) && cpu->cpl && (cpu->s.cr0 & CR0_PE))
		raise_gp(cpu, 0);
}

static void do_rdtsc(struct icpu *cpu, const struct insn *in)
{
	check_tsd(cpu);
	set_edx_eax(cpu, cpu_tsc(cpu));
}

static void do_rdtscp(struct icpu *cpu, const struct insn *in)
{
	if (cpu->model && !cpu_model_has(cpu->model, "rdtscp"))
		cpu_raise(cpu, EXC_UD);
	check_tsd(cpu);
	/* After the loads before it, as RDTSCP promises: systems compare their processors' counters. */
	__asm__ volatile("lfence" ::: "memory");
	set_edx_eax(cpu, cpu_tsc(cpu));
	cpu->s.gpr[RCX] = (uint32_t)cpu->s.tsc_aux;
}

static void do_rdpid(struct icpu *cpu, const struct insn *in)
{
	if (cpu->model && !cpu_model_has(cpu->model, "rdpid"))
		cpu_raise(cpu, EXC_UD);
	cpu->s.gpr[in->dst_reg] = (uint32_t)cpu->s.tsc_aux;
}

/* No counter exists. */
static void do_rdpmc(struct icpu *cpu, const struct insn *in)
{
	raise_gp(cpu, 0);
}

/* ---- CPUID, extended control registers, hypercalls ---- */

static void do_cpuid(struct icpu *cpu, const struct insn *in)
{
	uint32_t out[4] = { 0 };
	uint64_t base;

	/* The APIC bit follows the APIC's own enable. */
	if (cpu->host->apic_msr_read(cpu->host->opaque, cpu->vcpu.index, MSR_APIC_BASE, &base))
		cpu->s.apic_base = base;
	cpu_model_cpuid(cpu->model, &cpu->s, cpu->vcpu.index, (uint32_t)cpu->s.gpr[RAX], (uint32_t)cpu->s.gpr[RCX], out);
	cpu->s.gpr[RAX] = out[0];
	cpu->s.gpr[RBX] = out[1];
	cpu->s.gpr[RCX] = out[2];
	cpu->s.gpr[RDX] = out[3];
}

static void do_xgetbv(struct icpu *cpu, const struct insn *in)
{
	uint32_t n = (uint32_t)cpu->s.gpr[RCX];

	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, EXC_UD);
	if (n > 1 || (n == 1 && !cpu_model_has(cpu->model, "xgetbv1")))
		raise_gp(cpu, 0);
	set_edx_eax(cpu, n ? vector_in_use(&cpu->s) : cpu->s.xcr0);
}

static void do_xsetbv(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = edx_eax(cpu), known = cpu_model_has(cpu->model, "avx") ? 7 : 3;

	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, EXC_UD);
	require_cpl0(cpu);
	if ((uint32_t)cpu->s.gpr[RCX] || !(v & 1) || (v & ~known) || (v & 6) == 4)
		raise_gp(cpu, 0);
	cpu->s.xcr0 = v;
	cpu->block_ends = true;
}

/* No hypercall is offered; KVM answers so. */
static void do_hypercall(struct icpu *cpu, const struct insn *in)
{
	cpu->s.gpr[RAX] = (uint64_t)INT64_C(-1000);
}

bool sys_msr_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_RDMSR: in->fn = do_rdmsr; return true;
	case ZYDIS_MNEMONIC_WRMSR:
		in->fn = do_wrmsr;
		in->flags |= INSN_ENDS_BLOCK;
		return true;
	case ZYDIS_MNEMONIC_RDTSC: in->fn = do_rdtsc; return true;
	case ZYDIS_MNEMONIC_RDTSCP: in->fn = do_rdtscp; return true;
	case ZYDIS_MNEMONIC_RDPID: in->fn = do_rdpid; return true;
	case ZYDIS_MNEMONIC_RDPMC: in->fn = do_rdpmc; return true;
	case ZYDIS_MNEMONIC_CPUID:
		in->fn = do_cpuid;
		in->flags |= INSN_ENDS_BLOCK; /* it serializes: what follows may have been changed by another vCPU */
		return true;
	case ZYDIS_MNEMONIC_XGETBV: in->fn = do_xgetbv; return true;
	case ZYDIS_MNEMONIC_XSETBV: in->fn = do_xsetbv; return true;
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		in->fn = do_hypercall;
		return true;
	default: return false;
	}
}
