/* Inside of the local APICs: what lapic.c and lapic_state.c share. */
#ifndef DEV_LAPIC_INTERNAL_H
#define DEV_LAPIC_INTERNAL_H

#include "dev/lapic.h"

enum { REG_ID = 0x2, REG_VERSION = 0x3, REG_TPR = 0x8, REG_APR = 0x9, REG_PPR = 0xa, REG_EOI = 0xb, REG_RRD = 0xc,
       REG_LDR = 0xd, REG_DFR = 0xe, REG_SVR = 0xf, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20, REG_ESR = 0x28,
       REG_ICR = 0x30, REG_ICR2 = 0x31, REG_LVT_TIMER = 0x32, REG_LVT_THERMAL = 0x33, REG_LVT_PMC = 0x34,
       REG_LVT_LINT0 = 0x35, REG_LVT_LINT1 = 0x36, REG_LVT_ERROR = 0x37, REG_TIMER_INIT = 0x38, REG_TIMER_NOW = 0x39,
       REG_TIMER_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f };

enum { LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT = APIC_LVT_COUNT };

enum delivery { DELIVER_FIXED, DELIVER_LOWEST, DELIVER_SMI, DELIVER_RESERVED, DELIVER_NMI, DELIVER_INIT, DELIVER_STARTUP,
		DELIVER_EXTINT };

#define BASE_BSP 0x100u
#define BASE_X2APIC 0x400u
#define BASE_ENABLE 0x800u
#define BASE_ADDRESS UINT64_C(0xfee00000)
#define LVT_MASKED 0x10000u
#define LVT_MODE(lvt) (((lvt) >> 8) & 7)
#define TIMER_MODE(lvt) (((lvt) >> 17) & 3)
#define TIMER_ONE_SHOT 0
#define TIMER_PERIODIC 1
#define TIMER_DEADLINE 2
#define SVR_ENABLE 0x100u
#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECEIVE_ILLEGAL 0x40u
#define ESR_REGISTER 0x80u
#define BUS_HZ INT64_C(1000000000) /* one tick of the undivided timer a nanosecond */
#define VERSION 0x00050014u        /* six LVT entries */

struct lapic {
	struct lapic_bus *bus;
	unsigned cpu;
	uint64_t base;
	uint32_t id; /* xAPIC: bits 31:24 of the register, kept plain */
	uint32_t tpr, ldr, dfr, svr, esr, esr_pending, icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	uint32_t isr[8], tmr[8], irr[8];
	uint32_t timer_init, timer_divide;
	int64_t timer_start; /* ns */
	uint64_t deadline;   /* TSC */
	struct timer *timer;
	bool intr;
};

struct lapic_bus {
	struct device device; /* must be first */
	struct lapic *apic;
	unsigned cpus;
	struct clock *clock;
	uint64_t tsc_hz;
	struct lapic_callbacks cb;
	struct lapic_remote remote; /* send_msi NULL: the APICs are here */
	bool extint; /* the PIC's output */
	uint32_t next_lowest;
};

/* Tells the engine when the wish for an interrupt has changed. */
void lapic_update(struct lapic *a);
void lapic_arm_timer(struct lapic *a);
uint32_t lapic_timer_now(const struct lapic *a);
int64_t lapic_tick_ns(const struct lapic *a, uint64_t ticks);
extern const struct device_ops lapic_bus_ops;

#endif
