/* The flags register with its privileges: PUSHF, POPF, CLI, STI, CLAC, STAC (SDM 2). */
#include "accel/interp/sys.h"

static void check_v8086_iopl(struct icpu *cpu)
{
	if (in_v8086(cpu) && cpu_iopl(cpu) < 3)
		raise_gp(cpu, 0);
}

static void do_pushf(struct icpu *cpu, const struct insn *in)
{
	check_v8086_iopl(cpu);
	cpu_push(cpu, in->opsize, cpu->s.rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF));
}

static void do_popf(struct icpu *cpu, const struct insn *in)
{
	uint64_t change = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID, flags;

	check_v8086_iopl(cpu);
	flags = cpu_pop(cpu, in->opsize);
	if (in_v8086(cpu)) {
		change |= RFLAGS_IF;
	} else {
		if (cpu->cpl <= cpu_iopl(cpu))
			change |= RFLAGS_IF;
		if (cpu->cpl == 0)
			change |= RFLAGS_IOPL;
	}
	if (in->opsize == 2)
		change &= 0xffff;
	cpu->s.rflags = (cpu->s.rflags & ~(change | RFLAGS_RF)) | (flags & change) | 2;
	cpu->block_ends = true;
}

static void check_iopl(struct icpu *cpu)
{
	if ((cpu->s.cr0 & CR0_PE) && cpu->cpl > cpu_iopl(cpu))
		raise_gp(cpu, 0);
}

static void do_cli(struct icpu *cpu, const struct insn *in)
{
	check_iopl(cpu);
	cpu->s.rflags &= ~(uint64_t)RFLAGS_IF;
}

/* The instruction after STI runs before an interrupt is taken. */
static void do_sti(struct icpu *cpu, const struct insn *in)
{
	check_iopl(cpu);
	if (!(cpu->s.rflags & RFLAGS_IF))
		cpu->s.interrupt_shadow = true;
	cpu->s.rflags |= RFLAGS_IF;
	cpu->block_ends = true;
}

static void check_smap(struct icpu *cpu)
{
	if (cpu->model && !cpu_model_has(cpu->model, "smap"))
		cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		cpu_raise(cpu, EXC_UD);
}

static void do_clac(struct icpu *cpu, const struct insn *in)
{
	check_smap(cpu);
	cpu->s.rflags &= ~(uint64_t)RFLAGS_AC;
}

static void do_stac(struct icpu *cpu, const struct insn *in)
{
	check_smap(cpu);
	cpu->s.rflags |= RFLAGS_AC;
}

bool sys_flags_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF: in->fn = do_pushf; in->opsize = 2; return true;
	case ZYDIS_MNEMONIC_PUSHFD: in->fn = do_pushf; in->opsize = 4; return true;
	case ZYDIS_MNEMONIC_PUSHFQ: in->fn = do_pushf; in->opsize = 8; return true;
	case ZYDIS_MNEMONIC_POPF: in->fn = do_popf; in->opsize = 2; break;
	case ZYDIS_MNEMONIC_POPFD: in->fn = do_popf; in->opsize = 4; break;
	case ZYDIS_MNEMONIC_POPFQ: in->fn = do_popf; in->opsize = 8; break;
	case ZYDIS_MNEMONIC_CLI: in->fn = do_cli; return true;
	case ZYDIS_MNEMONIC_STI: in->fn = do_sti; break;
	case ZYDIS_MNEMONIC_CLAC: in->fn = do_clac; return true;
	case ZYDIS_MNEMONIC_STAC: in->fn = do_stac; return true;
	default: return false;
	}
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}
