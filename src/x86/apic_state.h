/*
 * A local APIC's whole state in one form, wherever the APIC lives: in dev/lapic.c under the software
 * engines, in the kernel under KVM. Registers as the guest reads them (SDM 3A chapter 11).
 */
#ifndef X86_APIC_STATE_H
#define X86_APIC_STATE_H

#include <stdint.h>

#define APIC_LVT_COUNT 6

struct apic_state {
	uint64_t base; /* IA32_APIC_BASE */
	uint32_t id;   /* plain: not shifted, whatever the mode */
	uint32_t tpr, ldr, dfr, svr, esr, icr_low, icr_high;
	uint32_t lvt[APIC_LVT_COUNT]; /* timer, thermal, performance counter, LINT0, LINT1, error */
	uint32_t isr[8], tmr[8], irr[8];
	uint32_t timer_init, timer_now, timer_divide; /* timer_now: ticks left of timer_init */
	uint64_t deadline;                            /* IA32_TSC_DEADLINE */
};

#endif
