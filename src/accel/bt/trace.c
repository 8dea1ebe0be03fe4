/* What --trace bt shows: a block's guest code and what became of it. */
#include "accel/bt/bt.h"
#include "base/log.h"

static void list(const char *head, const uint8_t *code, unsigned length, uint64_t at, bool wide)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;

	if (wide)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned i = 0; i < length;) {
		ZydisDecodedInstruction zi;
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		char text[128];

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + i, length - i, &zi, ops)))
			return;
		ZydisFormatterFormatInstruction(&formatter, &zi, ops, zi.operand_count_visible, text, sizeof(text), at + i, NULL);
		trace(TRACE_BT, "%s %lx  %s", head, (unsigned long)(at + i), text);
		i += zi.length;
	}
}

void bt_trace_block(struct bt_cpu *b, const struct bt_block *block, const uint8_t *code)
{
	trace(TRACE_BT, "cpu%u block %lx physical %lx mode %x: %u instructions, %u bytes -> %u", b->cpu.vcpu.index,
	      (unsigned long)block->lin, (unsigned long)bt_block_gpa(block), block->mode, block->insns, block->length,
	      block->size);
	list(" guest", code, block->length, block->lin, !(block->mode & MODE_CODE32));
	list("  host", b->rw + block->host, block->size, (uintptr_t)b->rx + block->host, true);
}
