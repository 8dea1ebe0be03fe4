/* From bytes to struct insn: Zydis decodes, the generic operand fields are filled here, and the
 * instruction's family binds its function. */
#include <string.h>

#include "accel/interp/core.h"

static void decoder_init(ZydisDecoder *d, unsigned bits)
{
	if (bits == 64)
		ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (bits == 32)
		ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	/* Without MPX its instructions are NOPs with an operand. */
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
}

/* AH..BH stand at 4..7 of Zydis' byte registers, SPL and later follow at 8. */
static void set_register(ZydisRegister r, uint8_t *kind, uint8_t *number)
{
	*kind = OPD_REG;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
		*kind = OPD_REG_HIGH;
		*number = (uint8_t)(r - ZYDIS_REGISTER_AH);
	} else if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B) {
		*number = (uint8_t)(r - ZYDIS_REGISTER_SPL + 4);
	} else {
		ZyanI8 id = ZydisRegisterGetId(r);

		*number = id < 0 ? 0 : (uint8_t)id;
	}
}

static int8_t address_register(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return -1;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return INSN_RIP;
	return ZydisRegisterGetId(r);
}

static void set_memory(struct insn *in, const ZydisDecodedOperand *op)
{
	in->base = address_register(op->mem.base);
	in->index = address_register(op->mem.index);
	in->scale = op->mem.scale ? (uint8_t)__builtin_ctz(op->mem.scale) : 0;
	in->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
	in->seg = (uint8_t)insn_segment(op->mem.segment);
	in->mem_size = (uint8_t)(op->size / 8);
}

static void set_operand(struct insn *in, const ZydisDecodedOperand *op, unsigned position)
{
	uint8_t none_kind, none_reg;
	uint8_t *kind = position == 0 ? &in->dst_kind : position == 1 ? &in->src_kind : &none_kind;
	uint8_t *reg = position == 0 ? &in->dst_reg : position == 1 ? &in->src_reg : &none_reg;

	switch (op->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		set_register(op->reg.value, kind, reg);
		break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		*kind = OPD_MEM;
		set_memory(in, op);
		break;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		*kind = OPD_IMM;
		/* A second immediate (ENTER, EXTRQ) is its family's business. */
		if (position == 0 || in->dst_kind != OPD_IMM)
			in->imm = op->imm.value.u;
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		*kind = OPD_IMM;
		in->imm = op->ptr.offset;
		in->aux = op->ptr.segment;
		break;
	default:
		*kind = OPD_NONE;
		break;
	}
}

static void undefined(struct icpu *cpu, const struct insn *in)
{
	cpu_raise(cpu, EXC_UD);
}

/* An encoding that is not an instruction: #UD when it is reached. All bytes that were looked at count as its
 * own, so that it is decoded anew when any of them changes. */
static void make_undefined(struct insn *in, const uint8_t *bytes, unsigned len)
{
	memset(in, 0, sizeof(*in));
	in->fn = undefined;
	in->length = (uint8_t)(len < 15 ? len : 15);
	in->flags = INSN_ENDS_BLOCK;
	memcpy(in->bytes, bytes, in->length);
}

static void too_long(struct icpu *cpu, const struct insn *in)
{
	cpu_raise_error(cpu, EXC_GP, 0);
}

static uint8_t prefix_bits(const ZydisDecodedInstruction *zi)
{
	uint8_t p = 0;

	if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		p |= PFX_LOCK;
	if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		p |= PFX_REP;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		p |= PFX_REPNE;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		p |= PFX_OPSIZE;
	return p;
}

/* F3 90 with REX.B is no PAUSE but XCHG with R8, whatever the prefix. */
static ZyanStatus decode_exchange(ZydisDecoder *decoder, const uint8_t *bytes, ZydisDecodedInstruction *zi, ZydisDecodedOperand *ops)
{
	uint8_t plain[15], length = zi->length;
	unsigned n = 0;
	ZyanStatus status;

	for (unsigned i = 0; i < length; i++) {
		if (bytes[i] != 0xf3)
			plain[n++] = bytes[i];
	}
	status = ZydisDecoderDecodeFull(decoder, plain, n, zi, ops);
	zi->length = length;
	return status;
}

bool insn_decode(struct icpu *cpu, const uint8_t *bytes, unsigned len, struct insn *in, bool *need_more)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZyanStatus status;

	*need_more = false;
	decoder_init(&decoder, cpu->code_bits);
	status = ZydisDecoderDecodeFull(&decoder, bytes, len, &zi, ops);
	if (status == ZYDIS_STATUS_NO_MORE_DATA && len < 15) {
		*need_more = true;
		return false;
	}
	if (ZYAN_SUCCESS(status) && zi.mnemonic == ZYDIS_MNEMONIC_PAUSE && zi.raw.rex.B)
		status = decode_exchange(&decoder, bytes, &zi, ops);
	if (!ZYAN_SUCCESS(status)) {
		make_undefined(in, bytes, len);
		if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA)
			in->fn = too_long;
		return true;
	}
	memset(in, 0, sizeof(*in));
	in->mnemonic = (uint16_t)zi.mnemonic;
	in->length = zi.length;
	in->addrsize = (uint8_t)(zi.address_width / 8);
	in->opsize = (uint8_t)(zi.operand_width / 8);
	in->base = in->index = -1;
	in->seg = SEG_DS;
	in->prefixes = prefix_bits(&zi);
	memcpy(in->bytes, bytes, zi.length);
	for (unsigned i = 0; i < zi.operand_count_visible; i++)
		set_operand(in, &ops[i], i);
	/* Without CET it is what it looks like: a DS override. */
	if ((zi.attributes & ZYDIS_ATTRIB_HAS_NOTRACK) && cpu->code_bits != 64)
		in->seg = SEG_DS;
	if (zi.operand_count_visible && ops[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[0].size && ops[0].size <= 64)
		in->opsize = (uint8_t)(ops[0].size / 8);
	if (integer_bind(cpu, in, &zi, ops) || string_bind(cpu, in, &zi, ops) || system_bind(cpu, in, &zi, ops) ||
	    vector_bind(cpu, in, &zi, ops))
		return true;
	make_undefined(in, bytes, zi.length);
	return true;
}

void insn_print(struct icpu *cpu, const struct insn *in, uint64_t rip, char *text, size_t size)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisFormatter f;

	text[0] = 0;
	decoder_init(&decoder, cpu->code_bits);
	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, in->bytes, in->length, &zi, ops)))
		ZydisFormatterFormatInstruction(&f, &zi, ops, zi.operand_count_visible, text, size, rip, NULL);
}
