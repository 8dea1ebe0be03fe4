/* System calls and software interrupts: SYSCALL, SYSRET, SYSENTER, SYSEXIT, INT n, INT3, INTO, INT1 (SDM 2). */
#include <string.h>

#include "accel/interp/sys.h"

static void enter(struct icpu *cpu, uint16_t cs_selector, uint16_t code_attr, uint16_t ss_selector, unsigned cpl, uint64_t rip)
{
	struct x86_segment cs = segment_flat(cs_selector, (uint16_t)(code_attr | cpl << 5));

	cpu->s.seg[SEG_SS] = segment_flat(ss_selector, (uint16_t)(FLAT_DATA | cpl << 5));
	set_cs(cpu, &cs, cpl, rip);
}

static void do_syscall(struct icpu *cpu, const struct insn *in)
{
	uint16_t selector = (uint16_t)(cpu->s.star >> 32 & 0xfffc);

	if (!(cpu->s.efer & EFER_SCE) || !(cpu->s.cr0 & CR0_PE))
		cpu_raise(cpu, EXC_UD);
	if (cpu->long_mode) {
		uint64_t target = cpu->code_bits == 64 ? cpu->s.lstar : cpu->s.cstar;

		cpu->s.gpr[RCX] = cpu->next_rip;
		cpu->s.gpr[R11] = cpu->s.rflags & ~(uint64_t)RFLAGS_RF;
		cpu->s.rflags &= ~(cpu->s.fmask | RFLAGS_RF);
		cpu->s.rflags |= 2;
		enter(cpu, selector, FLAT_CODE64, (uint16_t)(selector + 8), 0, target);
	} else {
		cpu->s.gpr[RCX] = (uint32_t)cpu->next_rip;
		cpu->s.rflags &= ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
		enter(cpu, selector, FLAT_CODE32, (uint16_t)(selector + 8), 0, (uint32_t)cpu->s.star);
	}
}

static void do_sysret(struct icpu *cpu, const struct insn *in)
{
	uint16_t selector = (uint16_t)(cpu->s.star >> 48);
	bool wide = in->opsize == 8;

	if (!(cpu->s.efer & EFER_SCE) || !(cpu->s.cr0 & CR0_PE))
		cpu_raise(cpu, EXC_UD);
	require_cpl0(cpu);
	if (cpu->long_mode) {
		if (wide && !is_canonical(cpu->s.gpr[RCX]))
			raise_gp(cpu, 0);
		cpu->s.rflags = (cpu->s.gpr[R11] & SYSRET_FLAGS) | 2;
	} else {
		cpu->s.rflags |= RFLAGS_IF;
	}
	if (wide)
		enter(cpu, (uint16_t)((selector + 16) | 3), FLAT_CODE64, (uint16_t)((selector + 8) | 3), 3, cpu->s.gpr[RCX]);
	else
		enter(cpu, (uint16_t)(selector | 3), FLAT_CODE32, (uint16_t)((selector + 8) | 3), 3, (uint32_t)cpu->s.gpr[RCX]);
	/* Unlike IRET and POPF it is trapped by the flag that it loads. */
	if (cpu->s.rflags & RFLAGS_TF) {
		cpu->s.rip = cpu->next_rip;
		debug_raise(cpu, DR6_SINGLE_STEP);
	}
}

static void do_sysenter(struct icpu *cpu, const struct insn *in)
{
	uint16_t selector = (uint16_t)(cpu->s.sysenter_cs & 0xfffc);
	uint64_t rip, rsp;

	if (!(cpu->s.cr0 & CR0_PE) || !selector)
		raise_gp(cpu, 0);
	rip = cpu->long_mode ? cpu->s.sysenter_eip : (uint32_t)cpu->s.sysenter_eip;
	rsp = cpu->long_mode ? cpu->s.sysenter_esp : (uint32_t)cpu->s.sysenter_esp;
	cpu->s.rflags &= ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
	enter(cpu, selector, cpu->long_mode ? FLAT_CODE64 : FLAT_CODE32, (uint16_t)(selector + 8), 0, rip);
	cpu->s.gpr[RSP] = rsp;
}

static void do_sysexit(struct icpu *cpu, const struct insn *in)
{
	uint16_t selector = (uint16_t)(cpu->s.sysenter_cs & 0xfffc);
	bool wide = in->opsize == 8;

	if (!(cpu->s.cr0 & CR0_PE) || !selector)
		raise_gp(cpu, 0);
	require_cpl0(cpu);
	if (wide && (!is_canonical(cpu->s.gpr[RCX]) || !is_canonical(cpu->s.gpr[RDX])))
		raise_gp(cpu, 0);
	selector = (uint16_t)(selector + (wide ? 32 : 16));
	cpu->s.gpr[RSP] = wide ? cpu->s.gpr[RCX] : (uint32_t)cpu->s.gpr[RCX];
	enter(cpu, (uint16_t)(selector | 3), wide ? FLAT_CODE64 : FLAT_CODE32, (uint16_t)((selector + 8) | 3), 3,
	      wide ? cpu->s.gpr[RDX] : (uint32_t)cpu->s.gpr[RDX]);
}

/* ---- software interrupts ---- */

static void do_int(struct icpu *cpu, const struct insn *in)
{
	if (in_v8086(cpu) && cpu_iopl(cpu) < 3)
		raise_gp(cpu, 0);
	raise_soft(cpu, (uint8_t)in->imm);
}

static void do_int3(struct icpu *cpu, const struct insn *in)
{
	raise_soft(cpu, EXC_BP);
}

static void do_into(struct icpu *cpu, const struct insn *in)
{
	if (cpu->s.rflags & RFLAGS_OF)
		raise_soft(cpu, EXC_OF);
}

/* A trap that no gate's privilege holds back. */
static void do_int1(struct icpu *cpu, const struct insn *in)
{
	cpu->s.rip = cpu->next_rip;
	cpu_raise(cpu, EXC_DB);
}

bool sys_call_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL: in->fn = do_syscall; break;
	case ZYDIS_MNEMONIC_SYSRET:
		in->fn = do_sysret;
		in->opsize = zi->attributes & ZYDIS_ATTRIB_HAS_REX && zi->raw.rex.W ? 8 : 4;
		break;
	case ZYDIS_MNEMONIC_SYSENTER: in->fn = do_sysenter; break;
	case ZYDIS_MNEMONIC_SYSEXIT:
		in->fn = do_sysexit;
		in->opsize = zi->attributes & ZYDIS_ATTRIB_HAS_REX && zi->raw.rex.W ? 8 : 4;
		break;
	case ZYDIS_MNEMONIC_INT: in->fn = do_int; break;
	case ZYDIS_MNEMONIC_INT3: in->fn = do_int3; break;
	case ZYDIS_MNEMONIC_INTO: in->fn = do_into; break;
	case ZYDIS_MNEMONIC_INT1: in->fn = do_int1; break;
	default: return false;
	}
	in->flags |= INSN_ENDS_BLOCK;
	return true;
}
