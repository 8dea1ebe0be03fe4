/* Control and debug registers, cache and TLB instructions, HLT, SWAPGS and base registers (SDM 3A 2.5, SDM 2). */
#include <sched.h>
#include <string.h>

#include "accel/interp/core.h"
#include "accel/interp/sys.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR0_MAPPING (CR0_PG | CR0_WP | CR0_PE)
#define CR4_MAPPING (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)

/* In the feature word CPUID_7_EBX. */
#define INVPCID (1u << 10)

static bool has(const struct icpu *cpu, const char *feature)
{
	return !cpu->model || cpu_model_has(cpu->model, feature);
}

/* ---- CR0 ---- */

static void enable_long_mode(struct icpu *cpu)
{
	if (!(cpu->s.cr4 & CR4_PAE) || (cpu->s.seg[SEG_CS].attr & SEG_ATTR_L))
		raise_gp(cpu, 0);
	if ((cpu->s.tr.attr & SEG_ATTR_TYPE) == SYS_TSS16_BUSY && (cpu->s.tr.selector & ~3u))
		raise_gp(cpu, 0);
	cpu->s.efer |= EFER_LMA;
}

static void write_cr0(struct icpu *cpu, uint64_t value)
{
	uint64_t old = cpu->s.cr0;

	if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		raise_gp(cpu, 0);
	value = (value & CR0_DEFINED) | CR0_ET;
	if ((value & CR0_PG) && !(old & CR0_PG) && (cpu->s.efer & EFER_LME))
		enable_long_mode(cpu);
	if (!(value & CR0_PG) && (old & CR0_PG)) {
		if (cpu->code_bits == 64 || (cpu->s.cr4 & CR4_PCIDE))
			raise_gp(cpu, 0);
		cpu->s.efer &= ~(uint64_t)EFER_LMA;
	}
	cpu->s.cr0 = value;
	if ((old ^ value) & CR0_MAPPING)
		mmu_flush_all(cpu);
	/* Real mode keeps what the hidden parts hold, with the privilege of ring 0. */
	cpu_mode_changed(cpu);
}

/* ---- CR3, CR4 ---- */

static void write_cr3(struct icpu *cpu, uint64_t value)
{
	unsigned phys = cpu->model ? cpu->model->phys_bits : 40;
	bool keep = (cpu->s.cr4 & CR4_PCIDE) && value >> 63;

	if (cpu->s.cr4 & CR4_PCIDE)
		value &= ~(UINT64_C(1) << 63);
	if (cpu->long_mode && value >> phys)
		raise_gp(cpu, 0);
	mmu_load_cr3(cpu, value, keep);
}

static uint64_t cr4_allowed(const struct icpu *cpu)
{
	static const struct {
		uint32_t bit;
		const char *feature;
	} needs[] = {
		{ CR4_VME | CR4_PVI, "vme" }, { CR4_FSGSBASE, "fsgsbase" }, { CR4_PCIDE, "pcid" }, { CR4_OSXSAVE, "xsave" },
		{ CR4_SMEP, "smep" },         { CR4_SMAP, "smap" },         { CR4_UMIP, "umip" },
	};
	uint64_t allowed = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

	for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
		if (has(cpu, needs[i].feature))
			allowed |= needs[i].bit;
	}
	return allowed;
}

static void write_cr4(struct icpu *cpu, uint64_t value)
{
	uint64_t old = cpu->s.cr4;

	if (value & ~cr4_allowed(cpu))
		raise_gp(cpu, 0);
	if (cpu->long_mode && !(value & CR4_PAE))
		raise_gp(cpu, 0);
	if ((value & CR4_PCIDE) && !(old & CR4_PCIDE) && (!cpu->long_mode || (cpu->s.cr3 & 0xfff)))
		raise_gp(cpu, 0);
	cpu->s.cr4 = value;
	if ((old ^ value) & CR4_MAPPING)
		mmu_flush_all(cpu);
	cpu->block_ends = true;
}

static uint64_t cr_size_mask(const struct icpu *cpu)
{
	return cpu->code_bits == 64 ? UINT64_MAX : 0xffffffffu;
}

static void mov_to_cr(struct icpu *cpu, const struct insn *in)
{
	uint64_t value = cpu->s.gpr[in->src_reg] & cr_size_mask(cpu);

	require_cpl0(cpu);
	switch (in->aux) {
	case 0: write_cr0(cpu, value); break;
	case 2: cpu->s.cr2 = value; break;
	case 3: write_cr3(cpu, value); break;
	case 4: write_cr4(cpu, value); break;
	case 8:
		if (value > 15)
			raise_gp(cpu, 0);
		cpu->host->tpr_write(cpu->host->opaque, cpu->vcpu.index, (uint8_t)value);
		cpu->block_ends = true;
		break;
	default: cpu_raise(cpu, EXC_UD);
	}
}

static void mov_from_cr(struct icpu *cpu, const struct insn *in)
{
	uint64_t value = 0;

	require_cpl0(cpu);
	switch (in->aux) {
	case 0: value = cpu->s.cr0; break;
	case 2: value = cpu->s.cr2; break;
	case 3: value = cpu->s.cr3; break;
	case 4: value = cpu->s.cr4; break;
	case 8: value = cpu->host->tpr_read(cpu->host->opaque, cpu->vcpu.index); break;
	default: cpu_raise(cpu, EXC_UD);
	}
	cpu->s.gpr[in->dst_reg] = value & cr_size_mask(cpu);
}

/* ---- debug registers ---- */

static unsigned debug_number(struct icpu *cpu, const struct insn *in)
{
	unsigned n = (unsigned)in->aux;

	if (n > 7 || ((n == 4 || n == 5) && (cpu->s.cr4 & CR4_DE)))
		cpu_raise(cpu, EXC_UD);
	require_cpl0(cpu);
	if (cpu->s.dr7 & 0x2000) {
		/* General detect: whoever touches the registers is trapped first. */
		cpu->s.dr6 |= 0x2000;
		cpu->s.dr7 &= ~UINT64_C(0x2000);
		cpu_raise(cpu, EXC_DB);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

static void mov_to_dr(struct icpu *cpu, const struct insn *in)
{
	unsigned n = debug_number(cpu, in);
	uint64_t value = cpu->s.gpr[in->src_reg] & cr_size_mask(cpu);

	if (n >= 6 && value >> 32)
		raise_gp(cpu, 0);
	if (n < 4)
		cpu->s.dr[n] = value;
	else if (n == 6)
		cpu->s.dr6 = (value & 0xe00f) | 0xffff0ff0;
	else
		cpu->s.dr7 = (value & 0xffff2bff) | 0x400;
	if (n != 6)
		debug_changed(cpu);
	cpu->block_ends = true;
}

static void mov_from_dr(struct icpu *cpu, const struct insn *in)
{
	unsigned n = debug_number(cpu, in);
	uint64_t value = n < 4 ? cpu->s.dr[n] : n == 6 ? cpu->s.dr6 : cpu->s.dr7;

	cpu->s.gpr[in->dst_reg] = value & cr_size_mask(cpu);
}

/* ---- machine status word, task switched ---- */

static void do_lmsw(struct icpu *cpu, const struct insn *in)
{
	uint64_t value;

	require_cpl0(cpu);
	value = in->dst_kind == OPD_MEM ? cpu_load(cpu, cpu_ea(cpu, in, 2, false), 2) : cpu->s.gpr[in->dst_reg];
	/* PE can be set this way, not cleared. */
	write_cr0(cpu, (cpu->s.cr0 & ~UINT64_C(0xe)) | (value & 0xf));
}

static void do_smsw(struct icpu *cpu, const struct insn *in)
{
	uint64_t value = cpu->s.cr0;

	if ((cpu->s.cr4 & CR4_UMIP) && cpu->cpl)
		raise_gp(cpu, 0);
	if (in->dst_kind == OPD_MEM)
		cpu_store(cpu, cpu_ea(cpu, in, 2, true), 2, value);
	else if (in->opsize == 2)
		memcpy(&cpu->s.gpr[in->dst_reg], &value, 2);
	else
		cpu->s.gpr[in->dst_reg] = value & mask_bytes(in->opsize);
}

static void do_clts(struct icpu *cpu, const struct insn *in)
{
	require_cpl0(cpu);
	cpu->s.cr0 &= ~(uint64_t)CR0_TS;
	cpu->block_ends = true;
}

/* ---- TLB, caches, halt ---- */

static void do_invlpg(struct icpu *cpu, const struct insn *in)
{
	uint64_t lin;

	require_cpl0(cpu);
	lin = cpu_offset(cpu, in);
	if (cpu->code_bits != 64 || in->seg == SEG_FS || in->seg == SEG_GS)
		lin += cpu->s.seg[in->seg].base;
	mmu_flush_page(cpu, cpu->code_bits == 64 ? lin : (uint32_t)lin);
}

static void do_invpcid(struct icpu *cpu, const struct insn *in)
{
	uint64_t type = cpu->s.gpr[in->dst_reg] & cr_size_mask(cpu), lin, descriptor;

	/* Not by its name: vector registers stay as they are here. */
	if (cpu->model && !(cpu->model->features[CPUID_7_EBX] & INVPCID))
		cpu_raise(cpu, EXC_UD);
	require_cpl0(cpu);
	lin = cpu_ea(cpu, in, 16, false);
	descriptor = cpu_load(cpu, lin, 8);
	if (type > 3 || (type < 2 && (descriptor >> 12 || (descriptor && !(cpu->s.cr4 & CR4_PCIDE)))))
		raise_gp(cpu, 0);
	if (type == 0 && !is_canonical(cpu_load(cpu, lin + 8, 8)))
		raise_gp(cpu, 0);
	switch (type) {
	case 0: /* of another PCID more than the page goes, of this one the global page as well */
		if (descriptor == (cpu->s.cr4 & CR4_PCIDE ? cpu->s.cr3 & 0xfff : 0))
			mmu_flush_page(cpu, cpu_load(cpu, lin + 8, 8));
		else
			mmu_flush_pcid(cpu, (unsigned)descriptor);
		break;
	case 1: mmu_flush_pcid(cpu, (unsigned)descriptor); break;
	case 2: mmu_flush_all(cpu); break;
	default: mmu_flush_pcids(cpu);
	}
}

static void do_cache(struct icpu *cpu, const struct insn *in)
{
	require_cpl0(cpu);
}

/* Who spins waits for another processor, which may be waiting for its turn on the host: it is let through before long. */
static void do_pause(struct icpu *cpu, const struct insn *in)
{
	/* Translated code has counted already when it gets here. */
	if (cpu->pauses > 1) {
		cpu->pauses--;
		__builtin_ia32_pause();
		return;
	}
	cpu->pauses = PAUSES_A_TURN;
	if (cpu->interp->cfg.cpus > 1)
		sched_yield();
}

static void do_hlt(struct icpu *cpu, const struct insn *in)
{
	require_cpl0(cpu);
	cpu->s.mp_state = MP_HALTED;
	cpu->block_ends = true;
}

/* ---- bases ---- */

static void do_swapgs(struct icpu *cpu, const struct insn *in)
{
	uint64_t base = cpu->s.seg[SEG_GS].base;

	if (cpu->code_bits != 64)
		cpu_raise(cpu, EXC_UD);
	require_cpl0(cpu);
	cpu->s.seg[SEG_GS].base = cpu->s.kernel_gs_base;
	cpu->s.kernel_gs_base = base;
}

static void check_fsgsbase(struct icpu *cpu)
{
	if (cpu->code_bits != 64 || !(cpu->s.cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, EXC_UD);
}

static void read_base(struct icpu *cpu, const struct insn *in)
{
	check_fsgsbase(cpu);
	cpu->s.gpr[in->dst_reg] = cpu->s.seg[in->aux].base & mask_bytes(in->opsize);
}

static void write_base(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = cpu->s.gpr[in->dst_reg] & mask_bytes(in->opsize);

	check_fsgsbase(cpu);
	if (!is_canonical(v))
		raise_gp(cpu, 0);
	cpu->s.seg[in->aux].base = v;
}

static bool bind_moves(struct insn *in, const ZydisDecodedOperand *ops)
{
	ZydisRegister a = ops[0].reg.value, b = ops[1].reg.value;

	if (ops[0].type != ZYDIS_OPERAND_TYPE_REGISTER || ops[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	if (a >= ZYDIS_REGISTER_CR0 && a <= ZYDIS_REGISTER_CR15) {
		in->fn = mov_to_cr;
		in->aux = (uint64_t)ZydisRegisterGetId(a);
	} else if (b >= ZYDIS_REGISTER_CR0 && b <= ZYDIS_REGISTER_CR15) {
		in->fn = mov_from_cr;
		in->aux = (uint64_t)ZydisRegisterGetId(b);
		return true;
	} else if (a >= ZYDIS_REGISTER_DR0 && a <= ZYDIS_REGISTER_DR15) {
		in->fn = mov_to_dr;
		in->aux = (uint64_t)ZydisRegisterGetId(a);
	} else if (b >= ZYDIS_REGISTER_DR0 && b <= ZYDIS_REGISTER_DR15) {
		in->fn = mov_from_dr;
		in->aux = (uint64_t)ZydisRegisterGetId(b);
		return true;
	} else {
		return false;
	}
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}

bool sys_control_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return bind_moves(in, ops);
	case ZYDIS_MNEMONIC_LMSW: in->fn = do_lmsw; break;
	case ZYDIS_MNEMONIC_SMSW:
		in->fn = do_smsw;
		in->opsize = (uint8_t)(zi->operand_width / 8);
		return true;
	case ZYDIS_MNEMONIC_CLTS: in->fn = do_clts; break;
	case ZYDIS_MNEMONIC_INVLPG: in->fn = do_invlpg; break;
	case ZYDIS_MNEMONIC_INVPCID: in->fn = do_invpcid; break;
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD:
		in->fn = do_cache; /* serializes */
		break;
	case ZYDIS_MNEMONIC_HLT: in->fn = do_hlt; break;
	case ZYDIS_MNEMONIC_PAUSE: in->fn = do_pause; return true;
	case ZYDIS_MNEMONIC_SWAPGS:
		in->fn = do_swapgs;
		return true;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
		in->fn = read_base;
		in->aux = zi->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ? SEG_FS : SEG_GS;
		return true;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		in->fn = write_base;
		in->aux = zi->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ? SEG_FS : SEG_GS;
		return true;
	default: return false;
	}
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}
