/*
 * Leaving an instruction by a fault: what is raised is noted in the vCPU, and control goes
 * back to the run loop, which delivers it. Intel SDM 3A chapter 6.
 */
#include "accel/interp/cpu.h"

static _Noreturn void raise_fault(struct icpu *cpu, enum x86_vector v, bool has_error, uint32_t error)
{
	cpu->exc_vector = (uint8_t)v;
	cpu->exc_has_error = has_error;
	cpu->exc_error = error;
	cpu->exc_soft = false;
	siglongjmp(cpu->fault, 1);
}

_Noreturn void cpu_raise(struct icpu *cpu, enum x86_vector v)
{
	raise_fault(cpu, v, false, 0);
}

_Noreturn void cpu_raise_error(struct icpu *cpu, enum x86_vector v, uint32_t error)
{
	raise_fault(cpu, v, true, error);
}
