/*
 * The checker's view of one instruction that only computes: whether it is of an allowed form, and what is known
 * behind it. The forms are those that operands.c and its neighbours emit.
 */
#include "accel/bt/check_state.h"

int check_register(ZydisRegister reg)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

	return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15 ? (int)(whole - ZYDIS_REGISTER_RAX) : -1;
}

bool check_readable(const struct value *v) { return v->kind >= V_DATA && v->kind <= V_CANONICAL; }

struct value check_data(const struct checker *c, unsigned n)
{
	return (struct value){ .kind = V_DATA, .number = (c->at + 1) * 16 + n };
}

/* ---- the operands of the instruction in hand ---- */

static const struct value *op_value(const struct checker *c, const struct state *s, unsigned n)
{
	static const struct value nothing;
	int r = c->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(c->op[n].reg.value) : -1;

	return r < 0 ? &nothing : &s->reg[r];
}

static bool is_reg(const struct checker *c, unsigned n, unsigned reg, unsigned bits)
{
	return n < c->in.operand_count_visible && c->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && check_register(c->op[n].reg.value) == (int)reg &&
	       c->op[n].size == bits;
}
static bool is_imm(const struct checker *c, unsigned n)
{
	return n < c->in.operand_count_visible && c->op[n].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}
static bool is_gpr(const struct checker *c, unsigned n)
{
	return n < c->in.operand_count_visible && c->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && check_register(c->op[n].reg.value) >= 0;
}
static const ZydisDecodedOperand *memory(const struct checker *c)
{
	for (unsigned i = 0; i < c->in.operand_count_visible; i++) {
		if (c->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &c->op[i];
	}
	return NULL;
}

/* gs:[disp], and gs:[TEMP1 + disp] */
static bool at_gs(const ZydisDecodedOperand *m)
{
	return m->mem.segment == ZYDIS_REGISTER_GS && m->mem.base == ZYDIS_REGISTER_NONE && m->mem.index == ZYDIS_REGISTER_NONE &&
	       m->mem.type == ZYDIS_MEMOP_TYPE_MEM;
}
/* A member of the windows' tables. */
static bool at_delta(const ZydisDecodedOperand *m)
{
	int64_t at = m->mem.disp.value - GS_OF(delta);

	return m->mem.segment == ZYDIS_REGISTER_GS && m->mem.base == ZYDIS_REGISTER_NONE && m->mem.type == ZYDIS_MEMOP_TYPE_MEM && at >= 0 &&
	       at < (int64_t)sizeof(((struct bt_cpu *)NULL)->delta);
}
/* A register's home. */
static bool at_home(const ZydisDecodedOperand *m)
{
	int64_t at = m->mem.disp.value - GS_OF(home);

	return m->mem.segment == ZYDIS_REGISTER_GS && m->mem.base == ZYDIS_REGISTER_NONE && m->mem.type == ZYDIS_MEMOP_TYPE_MEM && at >= 0 &&
	       at < (int64_t)sizeof(((struct bt_cpu *)NULL)->home);
}
/* A member of the jump caches. */
static bool at_jump(const ZydisDecodedOperand *m)
{
	int64_t at = m->mem.disp.value - GS_OF(jump);

	return m->mem.segment == ZYDIS_REGISTER_GS && m->mem.base == ZYDIS_REGISTER_NONE && m->mem.type == ZYDIS_MEMOP_TYPE_MEM && at >= 0 &&
	       at < (int64_t)sizeof(((struct bt_cpu *)NULL)->jump);
}
static bool at_table(const ZydisDecodedOperand *m)
{
	return m->mem.segment == ZYDIS_REGISTER_GS && m->mem.base == ZYDIS_REGISTER_R11 && m->mem.index == ZYDIS_REGISTER_NONE &&
	       m->mem.type == ZYDIS_MEMOP_TYPE_MEM;
}

/* ---- the soft TLB ---- */

/* sub TEMP0, tag; add TEMP0, host; mov TEMP1, host: of the entry that TEMP1 leads to */
static bool entry_access(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	struct value *t0 = &s->reg[TEMP0], *t1 = &s->reg[TEMP1];
	int64_t disp = m->mem.disp.value;

	if (t1->kind != V_INDEX || m->size != 64)
		return check_fail(c, "a table without an index of it");
	if (c->in.mnemonic == ZYDIS_MNEMONIC_SUB && is_reg(c, 0, TEMP0, 64) && t0->number == t1->origin && check_readable(t0)) {
		bool write = disp == check_tag(c, s, true);

		if (!write && disp != check_tag(c, s, false))
			return check_fail(c, "another view's tag");
		*t0 = check_data(c, 0);
		t0->kind = V_OFFSET;
		t0->origin = t1->number;
		t0->write = write;
		return true;
	}
	if (disp != CHECK_HOST_AT || t0->kind != V_CHECKED || t0->origin != t1->number)
		return check_fail(c, "an entry whose tag has not been compared");
	if (c->in.mnemonic == ZYDIS_MNEMONIC_ADD && is_reg(c, 0, TEMP0, 64)) {
		struct value v = { .kind = V_HOST, .write = t0->write, .end = t0->end, .number = check_data(c, 0).number };

		*t0 = v;
		return true;
	}
	if (c->in.mnemonic == ZYDIS_MNEMONIC_MOV && is_reg(c, 0, TEMP1, 64)) {
		struct value v = { .kind = V_PAGE, .origin = t0->number, .number = check_data(c, 1).number };

		*t1 = v;
		return true;
	}
	return check_fail(c, "no way to use an entry");
}

/* cmp tag, page; mov TEMP0, host: of a known entry */
static bool known_entry(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int64_t disp = m->mem.disp.value;
	int32_t entry = (int32_t)(disp & ~63);
	uint64_t page;

	if (m->size != 64)
		return check_fail(c, "half a tag");
	if (c->in.mnemonic == ZYDIS_MNEMONIC_MOV && is_reg(c, 0, TEMP0, 64)) {
		if (disp != entry + CHECK_HOST_AT || s->tag_at != entry)
			return check_fail(c, "an entry whose tag has not been compared");
		s->reg[TEMP0] = (struct value){ .kind = V_HOST, .write = s->tag_write, .start = s->tag_start, .end = s->tag_end,
						.number = check_data(c, 0).number };
		return true;
	}
	if (c->in.mnemonic != ZYDIS_MNEMONIC_CMP || m != &c->op[0])
		return check_fail(c, "no way to use an entry");
	if (is_imm(c, 1))
		page = (uint64_t)c->op[1].imm.value.s;
	else if (is_reg(c, 1, TEMP1, 64) && s->reg[TEMP1].kind == V_CONST)
		page = s->reg[TEMP1].imm;
	else
		return check_fail(c, "compares a tag with what is not constant");
	s->test = (struct test){ .kind = T_TAG, .write = disp == entry + check_tag(c, s, true), .at = entry, .imm = page };
	if (!s->test.write && disp != entry + check_tag(c, s, false))
		return check_fail(c, "another view's tag");
	if ((page & (PAGE_SIZE - 1)) || (page >> PAGE_SHIFT) % TLB_SIZE * sizeof(struct tlb_entry) != (uint64_t)entry)
		return check_fail(c, "a page that the entry is not for");
	return true;
}

/* ---- members of struct bt_cpu ---- */

static bool rflags_change(struct checker *c, struct state *s)
{
	bool or = c->in.mnemonic == ZYDIS_MNEMONIC_OR, user = c->block->mode & MODE_USER;
	uint32_t imm = (uint32_t)c->op[1].imm.value.u, bits = or ? imm : ~imm;

	if (!or && c->in.mnemonic != ZYDIS_MNEMONIC_AND)
		return check_fail(c, "changes the flags in no known way");
	if (bits != RFLAGS_DF && (user || (bits != RFLAGS_IF && bits != RFLAGS_AC)))
		return check_fail(c, "changes flags that this code may not change");
	if (bits == RFLAGS_AC && (c->block->mode & MODE_SMAP))
		s->ac = or;
	return true;
}

static int slot_at(int64_t disp)
{
	return disp == gs_gpr(R10) ? SLOT_R10 : disp == gs_gpr(R11) ? SLOT_R11 : disp == gs_gpr(R15) ? SLOT_R15 : -1;
}

/* Of FS or GS. */
static bool is_base(int64_t disp)
{
	const int32_t segments = GS_OF(cpu.s.seg), one = (int32_t)sizeof(struct x86_segment);

	return disp == segments + SEG_FS * one || disp == segments + SEG_GS * one;
}

/* CR0, CR2, CR3 or CR4. */
static bool is_control(int64_t disp)
{
	return disp == GS_OF(cpu.s.cr0) || disp == GS_OF(cpu.s.cr2) || disp == GS_OF(cpu.s.cr3) || disp == GS_OF(cpu.s.cr4);
}

/* What may be read: where, how many bytes. */
static bool may_read(const struct checker *c, int64_t disp, unsigned size)
{
	static const struct { int32_t at; uint8_t size, last; } members[] = {
		{ GS_OF(flags), 4, 1 }, { GS_OF(flags) + 1, 1, 1 }, { GS_OF(scratch), 8, 1 }, { GS_OF(cpu.s.rflags), 8, 1 },
		{ GS_OF(cpu.s.kernel_gs_base), 8, 1 }, { GS_OF(cpu.s.cr4), 1, 1 }, { GS_OF(cpu.s.tsc_offset), 8, 1 },
		{ GS_OF(cpu.s.tsc_aux), 4, 1 }, { GS_OF(cpu.irq), 4, 1 }, { GS_OF(cpu.poll), 4, 1 }, { GS_OF(fp_level), 4, 1 },
		{ GS_OF(salt), 8, 2 },
	};
	const int32_t segments = GS_OF(cpu.s.seg), one = (int32_t)sizeof(struct x86_segment);

	for (unsigned i = 0; i < ARRAY_LEN(members); i++) {
		if (disp >= members[i].at && disp < members[i].at + members[i].size * members[i].last &&
		    (disp - members[i].at) % members[i].size == 0 && size == members[i].size)
			return true;
	}
	if (size == 2) /* a selector */
		return disp >= segments && disp < segments + SEG_COUNT * one && (disp - segments) % one == (int)offsetof(struct x86_segment, selector);
	/* By a MOV of supervisor code. */
	if (is_control(disp))
		return c->in.mnemonic == ZYDIS_MNEMONIC_MOV && !(c->block->mode & MODE_USER) && size == (c->block->mode & MODE_CODE32 ? 4 : 8);
	return is_base(disp) && (size == 8 || size == 4);
}

/* Bases are loaded by SWAPGS, and by WRFSBASE and WRGSBASE after their test. */
static bool may_write(const struct checker *c, const struct state *s, int64_t disp, unsigned size)
{
	bool swapgs = !(c->block->mode & (MODE_USER | MODE_CODE32)), wide = !(c->block->mode & MODE_CODE32);

	if (disp == GS_OF(flags))
		return size == 4;
	if (disp == GS_OF(scratch) || disp == GS_OF(x87_data) || disp == GS_OF(overwritten))
		return size == 8;
	if (is_base(disp))
		return size == 8 && wide && (swapgs || s->bases);
	return swapgs && size == 8 && disp == GS_OF(cpu.s.kernel_gs_base);
}

/* mov register, gs:[...] and back; the registers in memory keep their numbers. */
static bool move_member(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int64_t disp = m->mem.disp.value;
	bool store = m == &c->op[0];
	int slot = slot_at(disp), reg = is_gpr(c, store) ? check_register(c->op[store].reg.value) : -1;
	unsigned size = m->size / 8;

	if (reg < 0 || reg == RSP)
		return check_fail(c, "moves what is no guest register");
	if (slot >= 0 ? size != 8 : !(store ? may_write(c, s, disp, size) : may_read(c, disp, size)))
		return check_fail(c, store ? "stores to where it may not" : "reads where it may not");
	if (store && !check_readable(&s->reg[reg]))
		return check_fail(c, "stores a host address or a left-over");
	if (store && slot >= 0 && s->slot[slot].number != s->reg[reg].number)
		check_pairs_lose(c, s, slot == SLOT_R10 ? R10 : slot == SLOT_R11 ? R11 : R15);
	if (store && slot >= 0)
		s->slot[slot] = s->reg[reg];
	else if (!store && slot >= 0)
		s->reg[reg] = s->slot[slot];
	else if (!store && (size >= 4 || check_readable(&s->reg[reg])))
		s->reg[reg] = check_data(c, 0);
	return true;
}

static bool salt(struct checker *c, struct state *s, int64_t disp)
{
	struct value *v = &s->reg[TEMP0];
	int32_t mine = GS_OF(salt) + (c->block->mode & MODE_USER ? 8 : 0);

	if (c->in.mnemonic != ZYDIS_MNEMONIC_XOR || !is_reg(c, 0, TEMP0, 64) || disp != mine ||
	    !(v->kind == V_SALTED || check_readable(v)))
		return check_fail(c, "uses the salt in no known way");
	if (v->kind == V_SALTED) {
		*v = check_data(c, 0);
	} else {
		*v = check_data(c, 0);
		v->kind = V_SALTED;
	}
	return true;
}

static bool compare_member(struct checker *c, struct state *s, int64_t disp, unsigned size)
{
	struct test t = { .imm = is_imm(c, 1) ? c->op[1].imm.value.u : 0, .at = (int32_t)disp };
	bool compare = c->in.mnemonic == ZYDIS_MNEMONIC_CMP && size == 4;

	if (!is_imm(c, 1) || c->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return check_fail(c, "compares with what is not constant");
	if (compare && disp == GS_OF(fp_level) && (t.imm == 1 || t.imm == 2))
		t.kind = T_LEVEL;
	else if (compare && disp == GS_OF(mapped) + (int32_t)((uint32_t)t.imm % EXEC_SIZE * 4))
		t.kind = T_PAGE, t.at = (int32_t)(c->at + c->in.raw.disp.offset);
	else if (compare && disp == GS_OF(cpu.poll) && t.imm == 0)
		t.kind = T_POLL;
	else if (compare && disp == GS_OF(cpu.irq) && t.imm == 0)
		t.kind = T_IRQ;
	else if (c->in.mnemonic == ZYDIS_MNEMONIC_TEST && disp == GS_OF(cpu.s.cr4) && size == 1 && t.imm == CR4_TSD)
		t.kind = T_TSD;
	else if (c->in.mnemonic == ZYDIS_MNEMONIC_TEST && disp == GS_OF(cpu.s.cr4) + 2 && size == 1 && t.imm == CR4_FSGSBASE >> 16)
		t.kind = T_BASES;
	else if (c->in.mnemonic == ZYDIS_MNEMONIC_TEST && disp == GS_OF(flags) && size == 1 && t.imm == 1)
		t.kind = T_BIT;
	else
		return check_fail(c, "tests what is none of its business");
	s->test = t;
	return true;
}

/* The number of a record of the block's. */
static bool note(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	uint32_t n = is_imm(c, 1) ? (uint32_t)c->op[1].imm.value.u - c->first_rec : UINT32_MAX;

	if (c->in.mnemonic != ZYDIS_MNEMONIC_MOV || m != &c->op[0] || n >= c->block->recs)
		return check_fail(c, "notes what is no record of this block");
	s->noted |= m->mem.disp.value == GS_OF(branch);
	return true;
}

static bool member(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	int64_t disp = m->mem.disp.value;
	unsigned size = m->size / 8;
	int reg = is_gpr(c, 0) ? check_register(c->op[0].reg.value) : -1;

	if (disp >= 0 && disp < (int64_t)(TLB_SIZE * sizeof(struct tlb_entry)))
		return known_entry(c, s, m);
	if (disp == GS_OF(salt) || disp == GS_OF(salt) + 8)
		return salt(c, s, disp);
	if (disp == GS_OF(cpu.s.rflags) && m == &c->op[0] && size == 4 && is_imm(c, 1))
		return rflags_change(c, s);
	if (disp == GS_OF(cpu.pauses) && m == &c->op[0] && size == 4 && c->in.mnemonic == ZYDIS_MNEMONIC_SUB && is_imm(c, 1) && c->op[1].imm.value.u == 1) {
		s->test = (struct test){ .kind = T_PAUSES };
		return true;
	}
	if ((disp == GS_OF(branch) || disp == GS_OF(x87_last)) && size == 4)
		return note(c, s, m);
	if (disp == GS_OF(x87_segment) && m == &c->op[0] && size == 4 && c->in.mnemonic == ZYDIS_MNEMONIC_MOV && is_imm(c, 1) && c->op[1].imm.value.u < SEG_COUNT)
		return true;
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return move_member(c, s, m);
	case ZYDIS_MNEMONIC_CMP: case ZYDIS_MNEMONIC_TEST: return compare_member(c, s, disp, size);
	case ZYDIS_MNEMONIC_MOVZX:
		if (reg < 0 || reg == RSP || c->op[0].size != 32 || (size == 1 && reg != TEMP1) || size > 2)
			return check_fail(c, "reads a member in no known way");
		break;
	case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_OR:
		if (m != &c->op[1] || reg < 0 || reg == RSP || !check_readable(&s->reg[reg]) || size < 4)
			return check_fail(c, "reads a member in no known way");
		break;
	default: return check_fail(c, "uses a member in no known way");
	}
	if (!may_read(c, disp, size))
		return check_fail(c, "reads where it may not");
	s->reg[reg] = check_data(c, 0);
	return true;
}

/* ---- guest memory ---- */

static bool bit_instruction(const struct checker *c)
{
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR: case ZYDIS_MNEMONIC_BTC:
		return !is_imm(c, 1);
	default: return false;
	}
}

static bool guest_memory(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	const struct value *base = &s->reg[TEMP0], *page = &s->reg[TEMP1];
	bool write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE, indexed = m->mem.index != ZYDIS_REGISTER_NONE;
	int64_t disp = m->mem.disp.value, start = 0, size = m->size / 8;
	bool window = false;

	if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM || m->mem.segment == ZYDIS_REGISTER_GS || m->mem.segment == ZYDIS_REGISTER_FS ||
	    c->in.address_width != 64)
		return check_fail(c, "a memory operand that no probe leads to");
	if (!check_window_operand(c, s, m, &window))
		return false;
	if (window)
		return bit_instruction(c) ? check_fail(c, "a bit number that may lead out of the window") : true;
	if (m->mem.segment != ZYDIS_REGISTER_DS || m->mem.base != ZYDIS_REGISTER_R10)
		return check_fail(c, "a memory operand that no probe leads to");
	if (indexed) {
		if (m->mem.index != ZYDIS_REGISTER_R11 || m->mem.scale > 1 || base->kind != V_CHECKED || page->kind != V_PAGE ||
		    page->origin != base->number)
			return check_fail(c, "offset and page are not of one probe");
	} else if (base->kind == V_BIT_HOST) {
		if (!bit_instruction(c) || op_value(c, s, 1)->number != base->origin || size * 8 != c->op[1].size || disp)
			return check_fail(c, "not the bit string that was probed");
	} else if (base->kind != V_HOST) {
		return check_fail(c, "a memory operand that no probe leads to");
	}
	if (bit_instruction(c) && base->kind != V_BIT_HOST)
		return check_fail(c, "a bit number that may lead out of what was probed");
	if (base->kind == V_HOST)
		start = base->start;
	if (!size || disp < start || disp + size > base->end)
		return check_fail(c, "more than was probed");
	if (write != base->write)
		return check_fail(c, write ? "writes where reading was probed" : "only reads where writing was probed");
	return true;
}

/* ---- what may be executed at all ---- */

static bool denied(const struct checker *c)
{
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_STMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_VSTMXCSR:
	case ZYDIS_MNEMONIC_FLDCW: case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FRSTOR: case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV: case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_XLAT:
		return true;
	default: return c->in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED;
	}
}

static bool allowed(const struct checker *c)
{
	if (denied(c))
		return false;
	switch (c->in.meta.category) {
	case ZYDIS_CATEGORY_BINARY: case ZYDIS_CATEGORY_LOGICAL: case ZYDIS_CATEGORY_DATAXFER: case ZYDIS_CATEGORY_CMOV:
	case ZYDIS_CATEGORY_SETCC: case ZYDIS_CATEGORY_SHIFT: case ZYDIS_CATEGORY_ROTATE: case ZYDIS_CATEGORY_BITBYTE:
	case ZYDIS_CATEGORY_CONVERT: case ZYDIS_CATEGORY_NOP: case ZYDIS_CATEGORY_BMI1: case ZYDIS_CATEGORY_BMI2:
	case ZYDIS_CATEGORY_ADOX_ADCX: case ZYDIS_CATEGORY_LZCNT: case ZYDIS_CATEGORY_SEMAPHORE: case ZYDIS_CATEGORY_X87_ALU:
	case ZYDIS_CATEGORY_FCMOV: case ZYDIS_CATEGORY_SSE: case ZYDIS_CATEGORY_AVX: case ZYDIS_CATEGORY_AVX2:
	case ZYDIS_CATEGORY_BROADCAST: case ZYDIS_CATEGORY_AES: case ZYDIS_CATEGORY_PCLMULQDQ: case ZYDIS_CATEGORY_SHA:
	case ZYDIS_CATEGORY_MMX: case ZYDIS_CATEGORY_LOGICAL_FP: case ZYDIS_CATEGORY_GFNI: case ZYDIS_CATEGORY_VFMA:
		return true;
	default: break;
	}
	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_CLC: case ZYDIS_MNEMONIC_STC: case ZYDIS_MNEMONIC_CMC: case ZYDIS_MNEMONIC_LAHF: case ZYDIS_MNEMONIC_SAHF:
	case ZYDIS_MNEMONIC_PAUSE: case ZYDIS_MNEMONIC_LFENCE: case ZYDIS_MNEMONIC_MFENCE: case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_LEA: case ZYDIS_MNEMONIC_EMMS: case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_VLDDQU: case ZYDIS_MNEMONIC_CRC32: case ZYDIS_MNEMONIC_POPCNT:
		return true;
	default: return false;
	}
}

/* The vector unit that an instruction needs: 0 none, 1 x87, MMX and SSE, 2 AVX. */
static unsigned level_of(const struct checker *c)
{
	bool vector = c->in.meta.category == ZYDIS_CATEGORY_X87_ALU || c->in.mnemonic == ZYDIS_MNEMONIC_EMMS ||
		      c->in.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || c->in.mnemonic == ZYDIS_MNEMONIC_VZEROALL;

	for (unsigned i = 0; i < c->in.operand_count; i++) {
		ZydisRegisterClass class = c->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(c->op[i].reg.value)
										       : ZYDIS_REGCLASS_INVALID;

		vector |= class == ZYDIS_REGCLASS_X87 || class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
	}
	return !vector ? 0 : c->in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? 2 : 1;
}

bool check_may_fault(const struct checker *c)
{
	const ZydisDecodedOperand *m = memory(c);

	if (m && m->mem.type == ZYDIS_MEMOP_TYPE_MEM && m->mem.segment != ZYDIS_REGISTER_GS)
		return true;
	return level_of(c) || c->in.mnemonic == ZYDIS_MNEMONIC_DIV || c->in.mnemonic == ZYDIS_MNEMONIC_IDIV;
}

/* An operand that is a register: which there are, what may be read. */
static bool register_operand(struct checker *c, const struct state *s, const ZydisDecodedOperand *o)
{
	int r = check_register(o->reg.value);
	bool explicit = o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN;

	if (r == RSP)
		return check_fail(c, "uses the host's stack pointer");
	if (r >= 0) {
		if ((o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) && !check_readable(&s->reg[r]))
			return check_fail(c, "reads a host address or a left-over");
		return true;
	}
	switch (ZydisRegisterGetClass(o->reg.value)) {
	case ZYDIS_REGCLASS_X87: case ZYDIS_REGCLASS_MMX: case ZYDIS_REGCLASS_XMM: case ZYDIS_REGCLASS_YMM: case ZYDIS_REGCLASS_FLAGS:
		return true;
	default: return explicit ? check_fail(c, "a register that is not the guest's") : true;
	}
}

/* ---- what is known afterwards ---- */

/* The results that matter to later rules; false when the instruction has no such result. */
static bool follow_value(const struct checker *c, const struct state *s, struct value *v)
{
	const struct value *a = op_value(c, s, 0), *from = op_value(c, s, 1);
	unsigned bits = c->op[0].size;
	uint64_t imm = is_imm(c, 1) ? c->op[1].imm.value.u : 0;

	switch (c->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (is_imm(c, 1)) {
			v->kind = V_CONST;
			v->imm = bits == 32 ? (uint32_t)imm : imm;
			return bits >= 32;
		}
		if (bits == 64 && is_gpr(c, 1))
			*v = *from;
		else if (bits == 32 && is_gpr(c, 1))
			v->origin = from->number, v->narrow = true;
		return bits >= 32 && is_gpr(c, 1);
	case ZYDIS_MNEMONIC_MOVSXD:
		v->origin = from->number;
		v->extended = true;
		return bits == 64 && is_gpr(c, 1);
	case ZYDIS_MNEMONIC_MOVZX:
		if (is_gpr(c, 1) && bits == 32 && c->op[1].size == 16 && check_readable(from)) {
			v->kind = V_MASKED;
			v->imm = 0xffff;
			return true;
		}
		return is_gpr(c, 1) && check_window_value(c, from, v);
	case ZYDIS_MNEMONIC_RORX:
		if (bits == 64)
			return is_gpr(c, 1) && check_window_value(c, from, v);
		v->kind = V_ROTATED;
		v->origin = from->number;
		return bits == 32 && is_gpr(c, 1) && c->op[2].imm.value.u == PAGE_SHIFT - 6;
	case ZYDIS_MNEMONIC_SHR:
		v->kind = V_ROTATED;
		v->origin = a->origin;
		return bits == 32 && imm == PAGE_SHIFT - 6 && a->kind == V_DATA && a->origin && !a->extended;
	case ZYDIS_MNEMONIC_SAR:
		if (bits == 64 && imm == 16 && a->kind == V_SHIFTED) {
			v->kind = V_CANONICAL;
			v->origin = a->origin;
			return true;
		}
		v->kind = V_BITS;
		v->origin = imm == 6 ? a->number : a->origin;
		v->end = imm == 6 ? 8 : 4;
		return bits == 64 && (imm == 6 || (imm == 5 && a->kind == V_DATA && a->origin && a->extended));
	case ZYDIS_MNEMONIC_NEG:
		*v = *a;
		v->kind = V_NEG_BITS;
		return bits == 64 && a->kind == V_BITS;
	case ZYDIS_MNEMONIC_AND:
		v->kind = a->kind == V_ROTATED && imm == CHECK_TLB_MASK ? V_INDEX : V_MASKED;
		v->origin = a->origin;
		v->imm = imm;
		return bits == 32 && is_imm(c, 1) && imm <= INT32_MAX;
	case ZYDIS_MNEMONIC_SHL:
		if (bits == 64 && imm == 16) {
			v->kind = V_SHIFTED;
			v->origin = a->number;
			return true;
		}
		v->kind = V_MASKED;
		v->imm = a->imm << (imm & 31);
		return bits == 32 && is_imm(c, 1) && a->kind == V_MASKED && v->imm <= UINT32_MAX;
	default: return false;
	}
}

static void write_registers(const struct checker *c, struct state *s)
{
	struct value v = check_data(c, 0);
	bool followed = is_gpr(c, 0) && follow_value(c, s, &v);

	for (unsigned i = 0; i < c->in.operand_count; i++) {
		const ZydisDecodedOperand *o = &c->op[i];
		int r = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? check_register(o->reg.value) : -1;

		if (r < 0 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (i == 0 && followed)
			s->reg[r] = v;
		else if (o->size >= 32 || check_readable(&s->reg[r]))
			s->reg[r] = check_data(c, i);
	}
}

/* Comparisons between registers and with constants that a jump may stand on. */
static struct test test_of(const struct checker *c, const struct state *s)
{
	const struct value *a = op_value(c, s, 0), *with = op_value(c, s, 1);
	unsigned bits = c->op[0].size;
	struct test t = { 0 };

	if (c->in.mnemonic == ZYDIS_MNEMONIC_CMP && is_reg(c, 0, TEMP1, 64) && is_reg(c, 1, TEMP0, 64) && a->kind == V_CANONICAL &&
	    a->origin == with->number)
		t.kind = T_CANONICAL;
	if (c->in.mnemonic == ZYDIS_MNEMONIC_CMP && is_gpr(c, 0) && is_imm(c, 1) && bits == 64 && c->op[1].imm.value.s >= 0 && a->kind == V_DATA &&
	    !is_reg(c, 0, TEMP0, 64) && !is_reg(c, 0, TEMP1, 64))
		return (struct test){ .kind = T_BOUND, .number = a->number, .imm = (uint64_t)check_register(c->op[0].reg.value) };
	if (c->in.mnemonic != ZYDIS_MNEMONIC_CMP || !is_reg(c, 0, TEMP0, bits))
		return t;
	if (is_gpr(c, 1) && bits == 64 && a->kind == V_DATA && a->narrow && a->origin && a->origin == with->number)
		return (struct test){ .kind = T_SMALL, .imm = (uint64_t)check_register(c->op[1].reg.value) };
	if (is_imm(c, 1) && bits == 64 && a->kind == V_OFFSET)
		t = (struct test){ .kind = T_OFFSET, .number = a->number, .imm = c->op[1].imm.value.u };
	else if (is_imm(c, 1) && (bits == 64 || (bits == 32 && (c->block->mode & MODE_CODE32))))
		t = (struct test){ .kind = T_LANDING, .imm = bits == 32 ? (uint32_t)c->op[1].imm.value.u : c->op[1].imm.value.u };
	else if (is_reg(c, 1, TEMP1, 64) && bits == 64 && with->kind == V_CONST)
		t = (struct test){ .kind = T_LANDING, .imm = with->imm };
	return t;
}

/* lea TEMP1, [rip]: what a landing may call. */
static bool way_back(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	const struct state back = { .ac = s->ac, .back = true };
	uint32_t to = c->block->host + c->at + c->in.length + (uint32_t)m->mem.disp.value;

	if (!is_reg(c, 0, TEMP1, 64) || s->back)
		return check_fail(c, "an address of the host");
	s->reg[TEMP1] = (struct value){ .kind = V_BACK };
	if ((c->block->mode & MODE_CODE32) && to == c->b->stub_nothing)
		return true;
	return check_resume(c, to, &back);
}

/* cmp TEMP0, [rip]: with the operand of a MOV behind the block. */
static bool literal(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	uint32_t at = c->at + c->in.length + (uint32_t)m->mem.disp.value;
	const uint8_t *p = c->code + at;

	if (c->in.mnemonic != ZYDIS_MNEMONIC_CMP || !is_reg(c, 0, TEMP0, 64) || m->size != 64 || at < 2 || at + 8 > c->size || !c->start[at - 2] ||
	    p[-2] != 0x49 || p[-1] != 0xbb)
		return check_fail(c, "reads the host's code");
	s->test = (struct test){ .kind = T_LANDING };
	memcpy(&s->test.imm, p, 8);
	return true;
}

/* LEA of guest data, and the way back to a bit string's start. */
static bool lea(struct checker *c, struct state *s)
{
	const ZydisDecodedOperand *m = &c->op[1];
	int base = check_register(m->mem.base), index = check_register(m->mem.index), to = check_register(c->op[0].reg.value);
	struct value *v;

	bool window = false;

	if (m->mem.base == ZYDIS_REGISTER_RIP)
		return way_back(c, s, m);
	if (to < 0 || to == RSP || base == RSP || index == RSP)
		return check_fail(c, "an address of the host");
	if (!check_window_lea(c, s, &window) || window)
		return window;
	v = &s->reg[to];
	if (to == TEMP0 && base == TEMP0 && index == TEMP1 && v->kind == V_HOST && s->reg[TEMP1].kind == V_NEG_BITS && c->op[0].size == 64) {
		if (m->mem.scale != s->reg[TEMP1].end || v->end != m->mem.scale || v->start || m->mem.disp.value)
			return check_fail(c, "not the bit string that was probed");
		v->kind = V_BIT_HOST;
		v->origin = s->reg[TEMP1].origin;
		return true;
	}
	if ((base >= 0 && !check_readable(&s->reg[base])) || (index >= 0 && !check_readable(&s->reg[index])))
		return check_fail(c, "reads a host address or a left-over");
	*v = check_data(c, 0);
	v->narrow = c->op[0].size == 32;
	return true;
}

/* cmp TEMP0, gs:[TEMP1 * 8 + jump cache] */
static bool jump_tag(struct checker *c, struct state *s, const ZydisDecodedOperand *m)
{
	if (c->in.mnemonic != ZYDIS_MNEMONIC_CMP || !is_reg(c, 0, TEMP0, 64) || m->mem.disp.value != c->table ||
	    m->mem.index != ZYDIS_REGISTER_R11 || m->mem.scale != 8 ||
	    s->reg[TEMP0].kind != V_SALTED || s->reg[TEMP1].kind != V_MASKED || s->reg[TEMP1].imm != JUMP_SIZE - 1)
		return check_fail(c, "uses the jump cache in no known way");
	s->test = (struct test){ .kind = T_JUMP, .number = s->reg[TEMP1].number };
	return true;
}

static bool check_operands(struct checker *c, struct state *s)
{
	unsigned level = level_of(c);

	if (level > s->level)
		return check_fail(c, "the vector unit may not be the guest's");
	for (unsigned i = 0; i < c->in.operand_count; i++) {
		const ZydisDecodedOperand *o = &c->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !register_operand(c, s, o))
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			return check_fail(c, "memory that it does not name");
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !guest_memory(c, s, o))
			return false;
	}
	return true;
}

static bool insn(struct checker *c, struct state *s)
{
	const ZydisDecodedOperand *m = memory(c);
	bool flags = c->in.cpu_flags && (c->in.cpu_flags->modified | c->in.cpu_flags->set_0 | c->in.cpu_flags->set_1 | c->in.cpu_flags->undefined);
	struct test test;

	if (s->pushed >= 0)
		return check_fail(c, "something is left on the host's stack");
	if (!allowed(c))
		return check_fail(c, "an instruction that translated code has no use for");
	if (c->in.mnemonic == ZYDIS_MNEMONIC_LEA)
		return lea(c, s);
	if (flags)
		s->test = (struct test){ 0 };
	if (m && m->mem.base == ZYDIS_REGISTER_RIP)
		return literal(c, s, m);
	if (m && at_delta(m))
		return check_window_delta(c, s, m);
	if (m && at_home(m))
		return check_home(c, s, m);
	if (m && at_gs(m))
		return c->in.operand_count_visible == 2 && !(c->in.attributes & ZYDIS_ATTRIB_HAS_LOCK) ? member(c, s, m)
												      : check_fail(c, "uses a member in no known way");
	if (m && at_jump(m))
		return jump_tag(c, s, m);
	if (m && at_table(m))
		return entry_access(c, s, m);
	if (c->in.mnemonic == ZYDIS_MNEMONIC_RDTSC && (c->block->mode & MODE_USER) && !s->no_tsd)
		return check_fail(c, "the guest's kernel may not allow it");
	test = test_of(c, s);
	/* Copies of what may not be read stay what they are; they are of no use. */
	if (c->in.mnemonic == ZYDIS_MNEMONIC_NOP)
		return true;
	if (!check_operands(c, s))
		return false;
	if (flags)
		s->test = test;
	write_registers(c, s);
	return true;
}

bool check_insn(struct checker *c, struct state *s)
{
	struct value rax = s->reg[RAX];

	if (!insn(c, s))
		return false;
	check_facts(c, s, &rax);
	return true;
}
