/*
 * Instructions that touch memory by elements under a mask: VMASKMOV, VPMASKMOV, MASKMOVQ, MASKMOVDQU and the
 * gathers (SDM 2). Elements that the mask leaves out are not accessed and cannot fault; a gather that faults
 * has completed the elements before, and its mask says so.
 */
#include "accel/interp/vec.h"

/* A gather's or masked move's shape, packed in insn.aux. */
struct masked {
	uint8_t element;      /* bytes of data: 4, 8; 1 for MASKMOVQ, MASKMOVDQU */
	uint8_t index_size;   /* gathers: bytes of an index */
	uint8_t count;        /* elements */
	uint8_t vector;       /* bytes of the destination */
	uint8_t dst, mask, index; /* register numbers */
	uint8_t store;
};

static struct masked shape_of(const struct insn *in)
{
	struct masked m;

	memcpy(&m, &in->aux, sizeof(m));
	return m;
}

/* A vector register's 32 bytes and back; what lies above the vector is cleared. */
static void ymm_get(const struct icpu *cpu, unsigned reg, uint8_t out[32])
{
	memcpy(out, cpu->s.xsave + IMG_XMM + 16 * reg, 16);
	memcpy(out + 16, cpu->s.xsave + IMG_YMM + 16 * reg, 16);
}

static void ymm_set(struct icpu *cpu, unsigned reg, const uint8_t in[32])
{
	memcpy(cpu->s.xsave + IMG_XMM + 16 * reg, in, 16);
	memcpy(cpu->s.xsave + IMG_YMM + 16 * reg, in + 16, 16);
}

static bool selected(const uint8_t *mask, unsigned i, unsigned size) { return mask[(i + 1) * size - 1] & 0x80; }

/* ---- VMASKMOV ---- */

/* The operand's address; each element is checked on its own. */
static uint64_t element_at(struct icpu *cpu, const struct insn *in, uint64_t offset, unsigned size, bool write)
{
	if (in->addrsize < 8)
		offset = in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
	return cpu_linear(cpu, in->seg, offset, size, write);
}

static void do_maskload(struct icpu *cpu, const struct insn *in)
{
	struct masked m = shape_of(in);
	uint8_t mask[32], data[32] = { 0 };
	uint64_t base;

	vec_require_avx(cpu);
	base = cpu_offset(cpu, in);
	ymm_get(cpu, m.mask, mask);
	for (unsigned i = 0; i < m.count; i++) {
		if (selected(mask, i, m.element))
			st_le(data + i * m.element, m.element,
			      cpu_load(cpu, element_at(cpu, in, base + i * m.element, m.element, false), m.element));
	}
	ymm_set(cpu, m.dst, data);
}

/* Stores nothing unless every selected element can be stored. */
static void masked_store(struct icpu *cpu, const struct insn *in, uint64_t base, const uint8_t *mask, const uint8_t *data,
			 unsigned count, unsigned size)
{
	uint64_t at[32];

	for (unsigned i = 0; i < count; i++) {
		if (!selected(mask, i, size))
			continue;
		at[i] = element_at(cpu, in, base + i * size, size, true);
		cpu_check_write(cpu, at[i], size);
	}
	for (unsigned i = 0; i < count; i++) {
		if (selected(mask, i, size))
			cpu_store(cpu, at[i], size, ld_le(data + i * size, size));
	}
}

static void do_maskstore(struct icpu *cpu, const struct insn *in)
{
	struct masked m = shape_of(in);
	uint8_t mask[32], data[32];

	vec_require_avx(cpu);
	ymm_get(cpu, m.mask, mask);
	ymm_get(cpu, m.dst, data);
	masked_store(cpu, in, cpu_offset(cpu, in), mask, data, m.count, m.element);
}

/* The store of MASKMOVQ and MASKMOVDQU, to [rDI]. */
static void store_bytes(struct icpu *cpu, const struct insn *in, const uint8_t *mask, const uint8_t *data, unsigned count)
{
	vec_check_alignment(cpu, element_at(cpu, in, cpu->s.gpr[RDI], 1, true), count, true);
	masked_store(cpu, in, cpu->s.gpr[RDI], mask, data, count, 1);
}

/* MASKMOVDQU and VMASKMOVDQU. */
static void do_maskmovdqu(struct icpu *cpu, const struct insn *in)
{
	struct masked m = shape_of(in);
	uint8_t mask[32], data[32];

	if (m.store)
		vec_require_avx(cpu);
	else
		vec_require_sse(cpu);
	ymm_get(cpu, m.mask, mask);
	ymm_get(cpu, m.dst, data);
	store_bytes(cpu, in, mask, data, 16);
}

static void do_maskmovq(struct icpu *cpu, const struct insn *in)
{
	struct masked m = shape_of(in);
	const uint8_t *st = cpu->s.xsave + IMG_ST;
	uint8_t mask[8], data[8];

	if (!vec_require_mmx(cpu))
		return;
	vec_enter_mmx(cpu); /* even if a store faults then, as the host does */
	memcpy(mask, st + 16 * m.mask, 8);
	memcpy(data, st + 16 * m.dst, 8);
	store_bytes(cpu, in, mask, data, 8);
}

/* ---- gathers ---- */

static int64_t index_of(const uint8_t *indices, unsigned i, unsigned size)
{
	return size == 4 ? (int32_t)ld32le(indices + 4 * i) : (int64_t)ld64le(indices + 8 * i);
}

static uint8_t *half_of(struct icpu *cpu, unsigned reg, unsigned at)
{
	return cpu->s.xsave + (at < 16 ? IMG_XMM + at : IMG_YMM + at - 16) + 16 * reg;
}

/* Clears a register from byte `from` on. */
static void clear_above(struct icpu *cpu, unsigned reg, unsigned from)
{
	if (from < 16)
		memset(half_of(cpu, reg, from), 0, 16 - from);
	memset(half_of(cpu, reg, from < 16 ? 16 : from), 0, from < 16 ? 16 : 32 - from);
}

/* Each element is finished, its mask cleared, before the next one may fault. */
static void do_gather(struct icpu *cpu, const struct insn *in)
{
	struct masked m = shape_of(in);
	uint8_t indices[32];
	uint64_t base = (uint64_t)in->disp;

	vec_require_avx(cpu);
	if (in->base >= 0)
		base += cpu->s.gpr[in->base];
	ymm_get(cpu, m.index, indices);
	for (unsigned i = 0; i < m.count; i++) {
		uint8_t *mask = half_of(cpu, m.mask, i * m.element);

		if (selected(mask, 0, m.element)) {
			uint64_t offset = base + ((uint64_t)index_of(indices, i, m.index_size) << in->scale);
			uint64_t lin = element_at(cpu, in, offset, m.element, false);

			st_le(half_of(cpu, m.dst, i * m.element), m.element, cpu_load(cpu, lin, m.element));
		}
		memset(mask, 0, m.element);
	}
	clear_above(cpu, m.dst, m.count * m.element);
	clear_above(cpu, m.mask, 0);
}

/* ---- binding ---- */

static uint8_t number(const ZydisDecodedOperand *op) { return (uint8_t)ZydisRegisterGetId(op->reg.value); }

static unsigned element_size(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VPGATHERQQ: return 8;
	default: return 4;
	}
}

static void gather_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			unsigned index_size)
{
	struct masked m = { .element = (uint8_t)element_size(zi->mnemonic), .index_size = (uint8_t)index_size };
	unsigned vector = ops[0].size / 8, index_vector = ZydisRegisterGetClass(ops[1].mem.index) == ZYDIS_REGCLASS_YMM ? 32 : 16;

	m.vector = (uint8_t)vector;
	m.count = (uint8_t)(vector / m.element < index_vector / index_size ? vector / m.element : index_vector / index_size);
	m.dst = number(&ops[0]);
	m.mask = number(&ops[2]);
	m.index = (uint8_t)ZydisRegisterGetId(ops[1].mem.index);
	memcpy(&in->aux, &m, sizeof(m));
	/* Destination, index and mask must be three registers (SDM 2, VGATHER). */
	in->fn = m.dst == m.mask || m.dst == m.index || m.mask == m.index || !vec_feature(cpu, "avx2") ? vec_undefined : do_gather;
}

static void move_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool store = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	bool integer = zi->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || zi->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
	struct masked m = { .element = (uint8_t)element_size(zi->mnemonic) };

	m.vector = (uint8_t)(ops[1].size / 8);
	m.count = m.vector / m.element;
	m.mask = number(&ops[1]);
	m.dst = number(&ops[store ? 2 : 0]);
	memcpy(&in->aux, &m, sizeof(m));
	in->fn = !vec_feature(cpu, integer ? "avx2" : "avx") ? vec_undefined : store ? do_maskstore : do_maskload;
}

static void maskmov_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops, insn_fn fn, const char *feature)
{
	struct masked m = { .element = 1, .dst = number(&ops[0]), .mask = number(&ops[1]) };

	m.store = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	memcpy(&in->aux, &m, sizeof(m));
	in->seg = SEG_DS;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			in->seg = (uint8_t)insn_segment(ops[i].mem.segment);
	}
	in->fn = vec_feature(cpu, feature) ? fn : vec_undefined;
}

bool vec_masked_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VPGATHERDQ: gather_bind(cpu, in, zi, ops, 4); return true;
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ: gather_bind(cpu, in, zi, ops, 8); return true;
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: move_bind(cpu, in, zi, ops); return true;
	case ZYDIS_MNEMONIC_MASKMOVQ: maskmov_bind(cpu, in, zi, ops, do_maskmovq, "sse"); return true;
	case ZYDIS_MNEMONIC_MASKMOVDQU: maskmov_bind(cpu, in, zi, ops, do_maskmovdqu, "sse2"); return true;
	case ZYDIS_MNEMONIC_VMASKMOVDQU: maskmov_bind(cpu, in, zi, ops, do_maskmovdqu, "avx"); return true;
	default: return false;
	}
}
