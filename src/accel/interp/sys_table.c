/* Descriptor tables and what can be asked of descriptors: LGDT and kin, LLDT, LTR, LAR, LSL, VERR, VERW, ARPL. */
#include <string.h>

#include "accel/interp/sys.h"

static void put_word(struct icpu *cpu, const struct insn *in, uint64_t v)
{
	if (in->dst_kind == OPD_MEM)
		cpu_store(cpu, cpu_ea(cpu, in, 2, true), 2, v);
	else if (in->opsize == 2)
		memcpy(&cpu->s.gpr[in->dst_reg], &v, 2);
	else
		cpu->s.gpr[in->dst_reg] = v;
}

static uint16_t get_word(struct icpu *cpu, const struct insn *in)
{
	return in->dst_kind == OPD_MEM ? (uint16_t)cpu_load(cpu, cpu_ea(cpu, in, 2, false), 2) : (uint16_t)cpu->s.gpr[in->dst_reg];
}

/* User-mode instruction prevention. */
static void check_umip(struct icpu *cpu)
{
	if ((cpu->s.cr4 & CR4_UMIP) && cpu->cpl)
		raise_gp(cpu, 0);
}

static unsigned base_size(const struct icpu *cpu)
{
	return cpu->code_bits == 64 ? 8 : 4;
}

static void store_table(struct icpu *cpu, const struct insn *in, const struct x86_dtable *t)
{
	unsigned size = base_size(cpu);
	uint8_t image[10];

	check_umip(cpu);
	st16le(image, t->limit);
	st64le(image + 2, t->base);
	cpu_store_bytes(cpu, cpu_ea(cpu, in, size + 2, true), image, size + 2);
}

static void load_table(struct icpu *cpu, const struct insn *in, struct x86_dtable *t)
{
	unsigned size = base_size(cpu);
	uint8_t image[10] = { 0 };
	uint64_t base;

	require_cpl0(cpu);
	cpu_load_bytes(cpu, cpu_ea(cpu, in, size + 2, false), image, size + 2);
	base = size == 8 ? ld64le(image + 2) : ld32le(image + 2);
	if (size == 4 && (cpu->code_bits == 16) != ((in->prefixes & PFX_OPSIZE) != 0))
		base &= 0xffffff;
	if (size == 8 && !is_canonical(base))
		raise_gp(cpu, 0);
	t->limit = ld16le(image);
	t->base = base;
}

static void do_sgdt(struct icpu *cpu, const struct insn *in) { store_table(cpu, in, &cpu->s.gdtr); }
static void do_sidt(struct icpu *cpu, const struct insn *in) { store_table(cpu, in, &cpu->s.idtr); }
static void do_lgdt(struct icpu *cpu, const struct insn *in) { load_table(cpu, in, &cpu->s.gdtr); }
static void do_lidt(struct icpu *cpu, const struct insn *in) { load_table(cpu, in, &cpu->s.idtr); }

static void require_protected(struct icpu *cpu)
{
	if (!in_protected_mode(cpu))
		cpu_raise(cpu, EXC_UD);
}

static void do_sldt(struct icpu *cpu, const struct insn *in)
{
	require_protected(cpu);
	check_umip(cpu);
	put_word(cpu, in, cpu->s.ldtr.selector);
}

static void do_str(struct icpu *cpu, const struct insn *in)
{
	require_protected(cpu);
	check_umip(cpu);
	put_word(cpu, in, cpu->s.tr.selector);
}

static void do_lldt(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;
	struct x86_segment s;
	uint16_t selector;

	require_protected(cpu);
	require_cpl0(cpu);
	selector = get_word(cpu, in);
	if (!(selector & ~3u)) {
		cpu->s.ldtr = (struct x86_segment){ .selector = selector, .attr = SEG_UNUSABLE };
		return;
	}
	if ((selector & 4) || !desc_read(cpu, selector, &d) || !desc_system(&d) || DESC_TYPE(&d) != SYS_LDT)
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	desc_to_segment(&d, selector, &s);
	if (cpu->long_mode)
		s.base |= desc_base_high(cpu, &d);
	cpu->s.ldtr = s;
}

static void do_ltr(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;
	struct x86_segment s;
	uint16_t selector;

	require_protected(cpu);
	require_cpl0(cpu);
	selector = get_word(cpu, in);
	if (!(selector & ~3u))
		raise_gp(cpu, 0);
	if ((selector & 4) || !desc_read(cpu, selector, &d) || !desc_system(&d) ||
	    (DESC_TYPE(&d) != SYS_TSS32 && (DESC_TYPE(&d) != SYS_TSS16 || cpu->long_mode)))
		raise_selector(cpu, EXC_GP, selector);
	if (!desc_present(&d))
		raise_selector(cpu, EXC_NP, selector);
	desc_to_segment(&d, selector, &s);
	if (cpu->long_mode)
		s.base |= desc_base_high(cpu, &d);
	s.attr |= 2; /* busy */
	cpu_store_system(cpu, d.address + 5, 1, (d.high >> 8 & 0xff) | 2);
	cpu->s.tr = s;
}

/* ---- questions ---- */

static void set_zf(struct icpu *cpu, bool yes)
{
	cpu->s.rflags = yes ? cpu->s.rflags | RFLAGS_ZF : cpu->s.rflags & ~(uint64_t)RFLAGS_ZF;
}

static bool visible(const struct icpu *cpu, const struct descriptor *d, uint16_t selector)
{
	return desc_conforming(d) || (DESC_DPL(d) >= cpu->cpl && DESC_DPL(d) >= (selector & 3u));
}

/* Which system types LAR and LSL accept, as bit masks over the type. */
#define LAR_TYPES (1u << SYS_TSS16 | 1u << SYS_LDT | 1u << SYS_TSS16_BUSY | 1u << SYS_CALL16 | 1u << SYS_TASK_GATE | \
		   1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY | 1u << SYS_CALL32)
#define LSL_TYPES (1u << SYS_TSS16 | 1u << SYS_LDT | 1u << SYS_TSS16_BUSY | 1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY)
#define LONG_TYPES (1u << SYS_LDT | 1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY | 1u << SYS_CALL32)

static bool ask(struct icpu *cpu, uint16_t selector, unsigned types, struct descriptor *d)
{
	if (!(selector & ~3u) || !desc_read(cpu, selector, d))
		return false;
	if (desc_system(d)) {
		if (cpu->long_mode)
			types &= LONG_TYPES;
		if (!(types >> DESC_TYPE(d) & 1))
			return false;
	}
	return visible(cpu, d, selector);
}

static uint16_t source_word(struct icpu *cpu, const struct insn *in)
{
	return in->src_kind == OPD_MEM ? (uint16_t)cpu_load(cpu, cpu_ea(cpu, in, 2, false), 2) : (uint16_t)cpu->s.gpr[in->src_reg];
}

static void answer(struct icpu *cpu, const struct insn *in, uint64_t v)
{
	if (in->opsize == 2)
		memcpy(&cpu->s.gpr[in->dst_reg], &v, 2);
	else
		cpu->s.gpr[in->dst_reg] = v;
}

/* Whether LAR or LSL may answer for the selector; ZF says so. */
static bool may_answer(struct icpu *cpu, const struct insn *in, unsigned types, struct descriptor *d)
{
	bool yes;

	require_protected(cpu);
	yes = ask(cpu, source_word(cpu, in), types, d);
	set_zf(cpu, yes);
	return yes;
}

static void do_lar(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;

	if (may_answer(cpu, in, LAR_TYPES, &d))
		answer(cpu, in, d.high & 0x00ffff00);
}

static void do_lsl(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;

	if (may_answer(cpu, in, LSL_TYPES, &d))
		answer(cpu, in, d.limit);
}

static void do_verr(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;

	require_protected(cpu);
	set_zf(cpu, ask(cpu, get_word(cpu, in), 0, &d) && (!desc_code(&d) || (d.attr & 2)));
}

static void do_verw(struct icpu *cpu, const struct insn *in)
{
	struct descriptor d;

	require_protected(cpu);
	set_zf(cpu, ask(cpu, get_word(cpu, in), 0, &d) && desc_writable_data(&d));
}

static void do_arpl(struct icpu *cpu, const struct insn *in)
{
	uint16_t to, from = (uint16_t)cpu->s.gpr[in->src_reg];
	uint64_t lin = 0;

	require_protected(cpu);
	if (in->dst_kind == OPD_MEM) {
		lin = cpu_ea(cpu, in, 2, true);
		cpu_check_write(cpu, lin, 2);
		to = (uint16_t)cpu_load(cpu, lin, 2);
	} else {
		to = (uint16_t)cpu->s.gpr[in->dst_reg];
	}
	if ((to & 3) < (from & 3)) {
		to = (uint16_t)((to & ~3u) | (from & 3));
		if (in->dst_kind == OPD_MEM)
			cpu_store(cpu, lin, 2, to);
		else
			memcpy(&cpu->s.gpr[in->dst_reg], &to, 2);
		set_zf(cpu, true);
	} else {
		set_zf(cpu, false);
	}
}

bool sys_table_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_SGDT: in->fn = do_sgdt; break;
	case ZYDIS_MNEMONIC_SIDT: in->fn = do_sidt; break;
	case ZYDIS_MNEMONIC_LGDT: in->fn = do_lgdt; break;
	case ZYDIS_MNEMONIC_LIDT: in->fn = do_lidt; break;
	case ZYDIS_MNEMONIC_SLDT: in->fn = do_sldt; break;
	case ZYDIS_MNEMONIC_STR: in->fn = do_str; break;
	case ZYDIS_MNEMONIC_LLDT: in->fn = do_lldt; break;
	case ZYDIS_MNEMONIC_LTR: in->fn = do_ltr; break;
	case ZYDIS_MNEMONIC_LAR: in->fn = do_lar; break;
	case ZYDIS_MNEMONIC_LSL: in->fn = do_lsl; break;
	case ZYDIS_MNEMONIC_VERR: in->fn = do_verr; break;
	case ZYDIS_MNEMONIC_VERW: in->fn = do_verw; break;
	case ZYDIS_MNEMONIC_ARPL: in->fn = do_arpl; break;
	default: return false;
	}
	/* LGDT, LIDT, LLDT and LTR serialize. */
	if (in->fn == do_lgdt || in->fn == do_lidt || in->fn == do_lldt || in->fn == do_ltr)
		in->flags |= INSN_ENDS_BLOCK;
	in->opsize = (uint8_t)(zi->operand_width / 8);
	return true;
}
