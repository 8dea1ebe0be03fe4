/* Port input and output with the I/O permission bitmap (SDM 1 chapter 19); the family's bind. */
#include <string.h>

#include "accel/interp/core.h"
#include "accel/interp/sys.h"

void cpu_check_io(struct icpu *cpu, uint16_t port, unsigned len)
{
	uint32_t base;
	uint16_t bits;

	if (!(cpu->s.cr0 & CR0_PE) || (!in_v8086(cpu) && cpu->cpl <= cpu_iopl(cpu)))
		return;
	/* Only a 32-bit (or 64-bit) TSS has a bitmap. */
	if (!(cpu->s.tr.attr & 8) || cpu->s.tr.limit < 0x67)
		raise_gp(cpu, 0);
	base = (uint32_t)cpu_load_system(cpu, cpu->s.tr.base + 0x66, 2) + port / 8;
	if (base + 1 > cpu->s.tr.limit)
		raise_gp(cpu, 0);
	bits = (uint16_t)(cpu_load_system(cpu, cpu->s.tr.base + base, 2) >> (port & 7));
	if (bits & ((1u << len) - 1))
		raise_gp(cpu, 0);
}

uint64_t cpu_port_in(struct icpu *cpu, uint16_t port, unsigned len)
{
	uint32_t begun = device_begins(cpu);
	uint64_t value = cpu->host->port_read(cpu->host->opaque, cpu->vcpu.index, port, len);

	device_ends(cpu, begun);
	return value;
}

void cpu_port_out(struct icpu *cpu, uint16_t port, unsigned len, uint64_t value)
{
	uint32_t begun = device_begins(cpu);

	cpu->host->port_write(cpu->host->opaque, cpu->vcpu.index, port, len, value);
	device_ends(cpu, begun);
}

static uint16_t port_of(struct icpu *cpu, const struct insn *in)
{
	return in->aux ? (uint16_t)in->imm & 0xff : (uint16_t)cpu->s.gpr[RDX];
}

static void do_in(struct icpu *cpu, const struct insn *in)
{
	uint16_t port = port_of(cpu, in);
	uint64_t v;

	cpu_check_io(cpu, port, in->opsize);
	debug_port(cpu, port, in->opsize);
	v = cpu_port_in(cpu, port, in->opsize);
	if (in->opsize == 4)
		cpu->s.gpr[RAX] = (uint32_t)v;
	else
		memcpy(&cpu->s.gpr[RAX], &v, in->opsize);
}

static void do_out(struct icpu *cpu, const struct insn *in)
{
	uint16_t port = port_of(cpu, in);

	cpu_check_io(cpu, port, in->opsize);
	debug_port(cpu, port, in->opsize);
	cpu_port_out(cpu, port, in->opsize, cpu->s.gpr[RAX] & mask_bytes(in->opsize));
	/* It may have asked for a reset or an interrupt. */
	cpu->block_ends = true;
}

bool sys_io_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool out = zi->mnemonic == ZYDIS_MNEMONIC_OUT;
	const ZydisDecodedOperand *port, *data;

	if (!out && zi->mnemonic != ZYDIS_MNEMONIC_IN)
		return false;
	port = &ops[out ? 0 : 1];
	data = &ops[out ? 1 : 0];
	in->fn = out ? do_out : do_in;
	in->opsize = (uint8_t)(data->size / 8);
	in->aux = port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	if (in->aux)
		in->imm = port->imm.value.u;
	return true;
}

bool system_bind(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	static sys_bind_fn *const families[] = {
		sys_segment_bind, sys_far_bind, sys_call_bind, sys_control_bind, sys_flags_bind, sys_msr_bind, sys_io_bind, sys_table_bind,
	};

	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		if (families[i](cpu, in, zi, ops))
			return true;
	}
	return false;
}
