/*
 * Binds integer instructions to their handlers, and holds the few that belong to no group: flag
 * bits, RDRAND, NOPs, fences and cache hints, the undefined opcodes (Intel SDM volume 2).
 */
#include <sys/random.h>

#include "accel/interp/int_ops.h"

bool int_feature(struct icpu *cpu, const char *name) { return !cpu->model || cpu_model_has(cpu->model, name); }

void int_undefined(struct icpu *cpu, const struct insn *in) { cpu_raise(cpu, EXC_UD); }
void int_nop(struct icpu *cpu, const struct insn *in) { }

static void do_clc(struct icpu *cpu, const struct insn *in) { cpu->s.rflags &= ~(uint64_t)RFLAGS_CF; }
static void do_stc(struct icpu *cpu, const struct insn *in) { cpu->s.rflags |= RFLAGS_CF; }
static void do_cmc(struct icpu *cpu, const struct insn *in) { cpu->s.rflags ^= RFLAGS_CF; }
static void do_cld(struct icpu *cpu, const struct insn *in) { cpu->s.rflags &= ~(uint64_t)RFLAGS_DF; }
static void do_std(struct icpu *cpu, const struct insn *in) { cpu->s.rflags |= RFLAGS_DF; }

/* The compiler's fence is a locked instruction, which a later RDTSC does not wait for. */
static void do_fence(struct icpu *cpu, const struct insn *in)
{
	atomic_thread_fence(memory_order_seq_cst);
	__asm__ volatile("lfence" ::: "memory");
}

/* CLFLUSH and its like: guest memory is coherent, only the address is checked. */
static void do_flush(struct icpu *cpu, const struct insn *in) { cpu_ea(cpu, in, 1, false); }

/* RDRAND and RDSEED. CF tells whether there was a number; the other status flags are cleared. */
static void do_random(struct icpu *cpu, const struct insn *in)
{
	uint64_t v = 0;
	bool ok = getrandom(&v, in->opsize, GRND_NONBLOCK) == in->opsize;

	gpr_set(cpu, in->dst_reg, in->opsize, ok ? v : 0);
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)RFLAGS_STATUS) | (ok ? RFLAGS_CF : 0);
}

bool int_misc_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CLC: in->fn = do_clc; break;
	case ZYDIS_MNEMONIC_STC: in->fn = do_stc; break;
	case ZYDIS_MNEMONIC_CMC: in->fn = do_cmc; break;
	case ZYDIS_MNEMONIC_CLD: in->fn = do_cld; break;
	case ZYDIS_MNEMONIC_STD: in->fn = do_std; break;
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
		in->opsize = (uint8_t)(ops[0].size / 8u);
		in->fn = int_feature(cpu, zi->mnemonic == ZYDIS_MNEMONIC_RDRAND ? "rdrand" : "rdseed") ? do_random
												   : int_undefined;
		break;
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_CLDEMOTE:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHWT1: in->fn = int_nop; break;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB: in->fn = do_flush; break;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE: in->fn = do_fence; break;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		in->fn = int_undefined;
		in->flags |= INSN_ENDS_BLOCK;
		break;
	default: return false;
	}
	return true;
}

bool integer_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	/* The most frequent first. */
	static int_bind_fn *const family[] = {
		int_move_bind, int_alu_bind, int_branch_bind, int_stack_bind, int_shift_bind, int_bits_bind,
		int_mul_bind, int_xchg_bind, int_misc_bind, int_bmi_bind, int_bcd_bind,
	};

	for (unsigned i = 0; i < ARRAY_LEN(family); i++) {
		if (family[i](cpu, in, zi, ops))
			return true;
	}
	return false;
}
