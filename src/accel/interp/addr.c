/* Effective addresses, segment checks (SDM 3A 5.3, 5.4) and the stack. */
#include "accel/interp/cpu.h"

static _Noreturn void segment_fault(struct icpu *cpu, enum x86_seg seg)
{
	cpu_raise_error(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

static inline uint64_t offset_of(struct icpu *cpu, const struct insn *in)
{
	uint64_t offset = (uint64_t)in->disp;

	if (in->base == INSN_RIP)
		offset += cpu->s.rip + in->length;
	else if (in->base >= 0)
		offset += cpu->s.gpr[in->base];
	if (in->index >= 0)
		offset += cpu->s.gpr[in->index] << in->scale;
	if (in->addrsize == 8)
		return offset;
	return in->addrsize == 4 ? (uint32_t)offset : (uint16_t)offset;
}

uint64_t cpu_offset(struct icpu *cpu, const struct insn *in)
{
	return offset_of(cpu, in);
}

static inline bool canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

static inline uint64_t linear_64(struct icpu *cpu, enum x86_seg seg, uint64_t offset, unsigned len)
{
	uint64_t lin = offset;

	if (seg == SEG_FS || seg == SEG_GS)
		lin += cpu->s.seg[seg].base;
	if (!canonical(lin) || !canonical(lin + len - 1))
		segment_fault(cpu, seg);
	return lin;
}

/* Rights by the type field; real and virtual-8086 mode segments are always writable data. */
static bool type_allows(const struct icpu *cpu, const struct x86_segment *s, bool write)
{
	unsigned type = s->attr & SEG_ATTR_TYPE;

	if (!(cpu->s.cr0 & CR0_PE) || (cpu->s.rflags & RFLAGS_VM))
		return true;
	if (s->attr & SEG_UNUSABLE)
		return false;
	if (type & 8)
		return !write && (type & 2);
	return !write || (type & 2);
}

static bool within_limit(const struct x86_segment *s, uint32_t offset, unsigned len)
{
	uint64_t last = (uint64_t)offset + len - 1;

	if ((s->attr & SEG_ATTR_S) && (s->attr & 0xc) == 4) {
		/* Expand-down: valid above the limit. */
		return offset > s->limit && last <= (s->attr & SEG_ATTR_DB ? 0xffffffffu : 0xffffu);
	}
	return last <= s->limit;
}

uint64_t cpu_linear(struct icpu *cpu, enum x86_seg seg, uint64_t offset, unsigned len, bool write)
{
	const struct x86_segment *s = &cpu->s.seg[seg];

	if (cpu->code_bits == 64)
		return linear_64(cpu, seg, offset, len);
	if (!type_allows(cpu, s, write) || !within_limit(s, (uint32_t)offset, len))
		segment_fault(cpu, seg);
	return (uint32_t)(s->base + (uint32_t)offset);
}

uint64_t cpu_ea(struct icpu *cpu, const struct insn *in, unsigned len, bool write)
{
	uint64_t offset = offset_of(cpu, in);

	return cpu->code_bits == 64 ? linear_64(cpu, in->seg, offset, len) : cpu_linear(cpu, in->seg, offset, len, write);
}

static uint64_t stack_mask(const struct icpu *cpu)
{
	return cpu->stack_bits == 64 ? UINT64_MAX : cpu->stack_bits == 32 ? 0xffffffffu : 0xffffu;
}

static void set_sp(struct icpu *cpu, uint64_t sp)
{
	if (cpu->stack_bits == 16)
		memcpy(&cpu->s.gpr[RSP], &sp, 2);
	else
		cpu->s.gpr[RSP] = sp & stack_mask(cpu);
}

void cpu_push(struct icpu *cpu, unsigned len, uint64_t value)
{
	uint64_t sp = (cpu->s.gpr[RSP] - len) & stack_mask(cpu);

	cpu_store(cpu, cpu_linear(cpu, SEG_SS, sp, len, true), len, value);
	set_sp(cpu, sp);
}

uint64_t cpu_pop(struct icpu *cpu, unsigned len)
{
	uint64_t sp = cpu->s.gpr[RSP] & stack_mask(cpu);
	uint64_t value = cpu_load(cpu, cpu_linear(cpu, SEG_SS, sp, len, false), len);

	set_sp(cpu, (sp + len) & stack_mask(cpu));
	return value;
}
