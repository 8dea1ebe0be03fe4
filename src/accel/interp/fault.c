/* Raising faults: what is to be delivered is noted, and the handler is left. */
#include "accel/interp/cpu.h"

_Noreturn void cpu_raise(struct icpu *cpu, enum x86_vector v)
{
	cpu->exc_vector = (uint8_t)v;
	cpu->exc_has_error = false;
	cpu->exc_soft = false;
	cpu->exc_error = 0;
	siglongjmp(cpu->fault, 1);
}

_Noreturn void cpu_raise_error(struct icpu *cpu, enum x86_vector v, uint32_t error)
{
	cpu->exc_vector = (uint8_t)v;
	cpu->exc_has_error = true;
	cpu->exc_soft = false;
	cpu->exc_error = error;
	siglongjmp(cpu->fault, 1);
}
