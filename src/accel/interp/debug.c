/*
 * The debug registers' breakpoints (SDM 3B chapter 18). While any is enabled the vCPU executes
 * instruction by instruction; pages with data breakpoints stay out of the soft TLB, so that their
 * accesses come by the slow path, where they are compared.
 */
#include "accel/interp/core.h"

#define DR7_ENABLED 0xffu
#define DR6_BREAKPOINTS 0xfu
enum { DR_EXECUTE, DR_WRITE, DR_IO, DR_READ_WRITE };

static bool enabled(const struct icpu *cpu, unsigned n) { return cpu->s.dr7 >> (2 * n) & 3; }
static unsigned kind(const struct icpu *cpu, unsigned n) { return (unsigned)(cpu->s.dr7 >> (16 + 4 * n)) & 3; }

/* The length field 10b means 8 bytes. */
static unsigned length(const struct icpu *cpu, unsigned n)
{
	static const uint8_t bytes[] = { 1, 2, 8, 4 };

	return bytes[cpu->s.dr7 >> (18 + 4 * n) & 3];
}

/* Whether breakpoint n's range, aligned to its length, meets [at, at + len). */
static bool meets(const struct icpu *cpu, unsigned n, uint64_t at, unsigned len)
{
	unsigned size = length(cpu, n);
	uint64_t start = cpu->s.dr[n] & ~(uint64_t)(size - 1);

	return at < start + size && start < at + len;
}

void debug_changed(struct icpu *cpu)
{
	bool was = cpu->debug_on;

	cpu->debug_on = cpu->s.dr7 & DR7_ENABLED;
	cpu->debug_hit = 0;
	if (was || cpu->debug_on)
		mmu_flush_all(cpu);
}

bool debug_watches_page(const struct icpu *cpu, uint64_t lin)
{
	for (unsigned n = 0; n < 4; n++) {
		if (enabled(cpu, n) && (kind(cpu, n) & 1) && !((cpu->s.dr[n] ^ lin) & ~(uint64_t)(PAGE_SIZE - 1)))
			return true;
	}
	return false;
}

void debug_access(struct icpu *cpu, uint64_t lin, unsigned len, bool write)
{
	for (unsigned n = 0; n < 4; n++) {
		unsigned k = kind(cpu, n);

		if (enabled(cpu, n) && (k == DR_READ_WRITE || (k == DR_WRITE && write)) && meets(cpu, n, lin, len))
			cpu->debug_hit |= 1u << n;
	}
}

void debug_port(struct icpu *cpu, uint16_t port, unsigned len)
{
	if (!cpu->debug_on || !(cpu->s.cr4 & CR4_DE))
		return;
	for (unsigned n = 0; n < 4; n++) {
		if (enabled(cpu, n) && kind(cpu, n) == DR_IO && meets(cpu, n, port, len))
			cpu->debug_hit |= 1u << n;
	}
}

void debug_before(struct icpu *cpu)
{
	uint64_t lin = cpu->code_bits == 64 ? cpu->s.rip : (uint32_t)(cpu->s.rip + cpu->s.seg[SEG_CS].base);
	/* A trap that a load of SS held off until a software interrupt: it comes before the handler's first instruction. */
	unsigned hit = cpu->s.interrupt_shadow ? 0 : cpu->debug_hit;

	for (unsigned n = 0; n < 4 && !(cpu->s.rflags & RFLAGS_RF); n++) {
		if (enabled(cpu, n) && kind(cpu, n) == DR_EXECUTE && cpu->s.dr[n] == lin)
			hit |= 1u << n;
	}
	if (hit)
		debug_raise(cpu, hit);
}

void debug_raise(struct icpu *cpu, uint32_t causes)
{
	cpu->s.dr6 = (cpu->s.dr6 & ~(uint64_t)DR6_BREAKPOINTS) | causes;
	cpu_raise(cpu, EXC_DB);
}
