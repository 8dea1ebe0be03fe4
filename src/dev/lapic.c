/* Local APICs: registers, priorities, the timer, and interprocessor interrupts (SDM 3A chapter 11). */
#include <glib.h>

#include "base/log.h"
#include "dev/lapic_internal.h"

/* ---- vectors ---- */

static void bit_set(uint32_t *r, unsigned v) { r[v / 32] |= 1u << (v % 32); }
static void bit_clear(uint32_t *r, unsigned v) { r[v / 32] &= ~(1u << (v % 32)); }
static bool bit_test(const uint32_t *r, unsigned v) { return r[v / 32] >> (v % 32) & 1; }

static int highest(const uint32_t *r)
{
	for (int i = 7; i >= 0; i--) {
		if (r[i])
			return i * 32 + 31 - __builtin_clz(r[i]);
	}
	return -1;
}

static bool enabled(const struct lapic *a)
{
	return (a->base & BASE_ENABLE) && (a->svr & SVR_ENABLE);
}

static bool x2apic(const struct lapic *a)
{
	return (a->base & (BASE_ENABLE | BASE_X2APIC)) == (BASE_ENABLE | BASE_X2APIC);
}

static uint32_t ppr_of(const struct lapic *a)
{
	int isr = highest(a->isr);
	uint32_t served = isr < 0 ? 0 : (uint32_t)isr;

	return (a->tpr >> 4) >= (served >> 4) ? a->tpr : served & 0xf0;
}

/* The request that may go to the processor now, or -1. */
static int pending(const struct lapic *a)
{
	int v = enabled(a) && !a->bus->remote.send_msi ? highest(a->irr) : -1;

	return v >= 0 && (uint32_t)(v >> 4) > ppr_of(a) >> 4 ? v : -1;
}

/* Whether the PIC reaches this processor: through LINT0, or directly while the APIC is off. */
static bool extint_passes(const struct lapic *a)
{
	uint32_t lvt = a->lvt[LVT_LINT0];

	if (!a->bus->extint || a->cpu != 0)
		return false;
	/* The engine looks at its LINT0 by itself. */
	if (a->bus->remote.send_msi)
		return true;
	if (!(a->base & BASE_ENABLE))
		return true;
	return !(lvt & LVT_MASKED) && LVT_MODE(lvt) == DELIVER_EXTINT;
}

void lapic_update(struct lapic *a)
{
	bool intr = pending(a) >= 0 || extint_passes(a);

	if (intr == a->intr)
		return;
	a->intr = intr;
	a->bus->cb.intr(a->bus->cb.opaque, a->cpu, intr);
}

static void note_error(struct lapic *a, uint32_t bits)
{
	uint32_t lvt = a->lvt[LVT_ERROR];

	a->esr_pending |= bits;
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16) {
		bit_set(a->irr, lvt & 0xff);
		bit_clear(a->tmr, lvt & 0xff);
	}
}

static void accept(struct lapic *a, uint8_t vector, bool level)
{
	if (!enabled(a))
		return;
	if (vector < 16) {
		note_error(a, ESR_RECEIVE_ILLEGAL);
	} else {
		bit_set(a->irr, vector);
		if (level)
			bit_set(a->tmr, vector);
		else
			bit_clear(a->tmr, vector);
	}
	lapic_update(a);
}

int lapic_ack(struct lapic_bus *b, unsigned cpu)
{
	struct lapic *a = &b->apic[cpu];
	int v;

	if (extint_passes(a)) {
		v = b->cb.extint_ack(b->cb.opaque);
		lapic_update(a);
		return v;
	}
	v = pending(a);
	if (v >= 0) {
		bit_clear(a->irr, (unsigned)v);
		bit_set(a->isr, (unsigned)v);
	}
	lapic_update(a);
	return v;
}

static void end_of_interrupt(struct lapic *a)
{
	int v = highest(a->isr);

	if (v < 0)
		return;
	bit_clear(a->isr, (unsigned)v);
	if (bit_test(a->tmr, (unsigned)v) && !(a->svr & 0x1000))
		a->bus->cb.eoi(a->bus->cb.opaque, (uint8_t)v);
	lapic_update(a);
}

/* ---- messages ---- */

static void deliver_to(struct lapic *a, enum delivery mode, uint8_t vector, bool level)
{
	struct lapic_bus *b = a->bus;

	if (!(a->base & BASE_ENABLE))
		return;
	switch (mode) {
	case DELIVER_FIXED:
	case DELIVER_LOWEST:
		accept(a, vector, level);
		break;
	case DELIVER_NMI:
		b->cb.nmi(b->cb.opaque, a->cpu);
		break;
	case DELIVER_INIT:
		b->cb.init(b->cb.opaque, a->cpu);
		break;
	case DELIVER_STARTUP:
		b->cb.sipi(b->cb.opaque, a->cpu, vector);
		break;
	default:
		break;
	}
}

static bool logical_match(const struct lapic *a, uint32_t dest)
{
	uint32_t mine = a->ldr >> 24;

	if (x2apic(a))
		return dest >> 16 == a->id >> 4 && (dest & 1u << (a->id & 15));
	dest &= 0xff;
	if (dest == 0xff)
		return true;
	if (a->dfr >> 28 == 0xf)
		return mine & dest;
	return mine >> 4 == dest >> 4 && (mine & dest & 15);
}

static bool matches(const struct lapic *a, bool logical, uint32_t dest, bool wide)
{
	if (!(a->base & BASE_ENABLE))
		return false;
	if (dest == (wide ? 0xffffffffu : 0xffu))
		return true;
	return logical ? logical_match(a, dest) : a->id == dest;
}

/* Lowest priority: the processor that is least busy; turns are taken among equals. */
static void deliver_lowest(struct lapic_bus *b, bool logical, uint32_t dest, bool wide, uint8_t vector, bool level)
{
	struct lapic *best = NULL;

	for (unsigned i = 0; i < b->cpus; i++) {
		struct lapic *a = &b->apic[(b->next_lowest + i) % b->cpus];

		if (matches(a, logical, dest, wide) && enabled(a) && (!best || ppr_of(a) < ppr_of(best)))
			best = a;
	}
	if (!best)
		return;
	b->next_lowest = (best->cpu + 1) % b->cpus;
	accept(best, vector, level);
}

static void deliver(struct lapic_bus *b, enum delivery mode, bool logical, uint32_t dest, bool wide, uint8_t vector, bool level)
{
	if (mode == DELIVER_LOWEST) {
		deliver_lowest(b, logical, dest, wide, vector, level);
		return;
	}
	for (unsigned i = 0; i < b->cpus; i++) {
		if (matches(&b->apic[i], logical, dest, wide))
			deliver_to(&b->apic[i], mode, vector, level);
	}
}

void lapic_bus_deliver_msi(struct lapic_bus *b, uint64_t address, uint32_t data)
{
	uint32_t dest = address >> 12 & 0xff;

	trace(TRACE_IRQ, "message %lx %x", (unsigned long)address, data);
	if (address >> 20 != 0xfee)
		return;
	if (b->remote.send_msi) {
		b->remote.send_msi(b->remote.opaque, address, data);
		return;
	}
	if ((data >> 8 & 7) == DELIVER_EXTINT)
		return;
	deliver(b, (enum delivery)(data >> 8 & 7), address >> 2 & 1, dest, false, (uint8_t)data, data >> 15 & 1);
}

static void send_ipi(struct lapic *a)
{
	struct lapic_bus *b = a->bus;
	uint32_t low = a->icr_low;
	enum delivery mode = (enum delivery)(low >> 8 & 7);
	uint8_t vector = (uint8_t)low;
	bool wide = x2apic(a);
	uint32_t dest = wide ? a->icr_high : a->icr_high >> 24;

	/* INIT level de-assert: nothing for processors of today. */
	if (mode == DELIVER_INIT && !(low & 0x4000))
		return;
	if (mode == DELIVER_FIXED && vector < 16) {
		note_error(a, ESR_SEND_ILLEGAL);
		lapic_update(a);
		return;
	}
	switch (low >> 18 & 3) {
	case 0:
		deliver(b, mode, low & 0x800, dest, wide, vector, false);
		break;
	case 1:
		deliver_to(a, mode, vector, false);
		break;
	default:
		for (unsigned i = 0; i < b->cpus; i++) {
			if (i != a->cpu || (low >> 18 & 3) == 2)
				deliver_to(&b->apic[i], mode, vector, false);
		}
		break;
	}
}

void lapic_set_extint(struct lapic_bus *b, bool level)
{
	b->extint = level;
	lapic_update(&b->apic[0]);
}

/* ---- the timer ---- */

static unsigned divide_shift(const struct lapic *a)
{
	unsigned v = (a->timer_divide & 3) | (a->timer_divide >> 1 & 4);

	return v == 7 ? 0 : v + 1;
}

int64_t lapic_tick_ns(const struct lapic *a, uint64_t ticks)
{
	return (int64_t)(((__int128)ticks << divide_shift(a)) * NS_PER_SEC / BUS_HZ);
}

uint32_t lapic_timer_now(const struct lapic *a)
{
	int64_t passed = clock_now(a->bus->clock) - a->timer_start;
	uint64_t ticks = (uint64_t)((__int128)passed * BUS_HZ / NS_PER_SEC) >> divide_shift(a);

	if (!a->timer_init || TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		return 0;
	/* A one-shot count that has ended, even if the mode is another by now. */
	if (!a->bus->remote.send_msi && timer_deadline(a->timer) < 0)
		return 0;
	if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_PERIODIC)
		return a->timer_init - (uint32_t)(ticks % a->timer_init);
	return ticks >= a->timer_init ? 0 : a->timer_init - (uint32_t)ticks;
}

static void arm_deadline(struct lapic *a)
{
	uint64_t now = a->bus->cb.tsc_now(a->bus->cb.opaque, a->cpu);
	int64_t wait = 0;

	if (!a->deadline) {
		timer_cancel(a->timer);
		return;
	}
	if (a->deadline > now) {
		uint64_t ticks = a->deadline - now;

		/* Years away: far enough. */
		if (ticks > a->bus->tsc_hz * 3600)
			ticks = a->bus->tsc_hz * 3600;
		wait = (int64_t)((__int128)ticks * NS_PER_SEC / a->bus->tsc_hz);
	}
	timer_arm(a->timer, clock_now(a->bus->clock) + wait);
}

void lapic_arm_timer(struct lapic *a)
{
	if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE) {
		arm_deadline(a);
		return;
	}
	if (!a->timer_init) {
		timer_cancel(a->timer);
		return;
	}
	timer_arm(a->timer, a->timer_start + lapic_tick_ns(a, a->timer_init));
}

static void timer_fired(void *opaque)
{
	struct lapic *a = opaque;
	uint32_t lvt = a->lvt[LVT_TIMER];

	if (TIMER_MODE(lvt) == TIMER_DEADLINE) {
		if (a->bus->cb.tsc_now(a->bus->cb.opaque, a->cpu) < a->deadline) {
			arm_deadline(a);
			return;
		}
		a->deadline = 0;
	} else if (TIMER_MODE(lvt) == TIMER_PERIODIC) {
		int64_t period = lapic_tick_ns(a, a->timer_init), now = clock_now(a->bus->clock);

		/* What was slept through is not made up for; a period is never below 20 us of host time. */
		a->timer_start += period;
		if (now - a->timer_start > period)
			a->timer_start = now - (now - a->timer_start) % MAX(period, 1);
		timer_arm(a->timer, MAX(a->timer_start + period, now + 20000));
	}
	if (!(lvt & LVT_MASKED))
		accept(a, (uint8_t)lvt, false);
}

/* ---- registers ---- */

static void write_lvt(struct lapic *a, unsigned n, uint32_t value)
{
	static const uint32_t mask[LVT_COUNT] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };
	uint32_t old = a->lvt[n];

	value &= mask[n];
	if (!(a->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	a->lvt[n] = value;
	/* Between one-shot and periodic the count goes on; the deadline is another timer. */
	if (n == LVT_TIMER && (TIMER_MODE(old) == TIMER_DEADLINE) != (TIMER_MODE(value) == TIMER_DEADLINE)) {
		a->timer_init = 0;
		a->deadline = 0;
		lapic_arm_timer(a);
	}
	lapic_update(a);
}

static void write_svr(struct lapic *a, uint32_t value)
{
	a->svr = value & 0x1ff;
	if (!(a->svr & SVR_ENABLE)) {
		for (unsigned i = 0; i < LVT_COUNT; i++)
			a->lvt[i] |= LVT_MASKED;
	}
	lapic_update(a);
}

static bool read_register(struct lapic *a, unsigned reg, uint32_t *v)
{
	switch (reg) {
	case REG_ID: *v = x2apic(a) ? a->id : a->id << 24; return true;
	case REG_VERSION: *v = VERSION; return true;
	case REG_TPR: *v = a->tpr; return true;
	case REG_APR: *v = 0; return !x2apic(a);
	case REG_PPR: *v = ppr_of(a); return true;
	case REG_RRD: *v = 0; return !x2apic(a);
	case REG_LDR: *v = x2apic(a) ? (a->id >> 4) << 16 | 1u << (a->id & 15) : a->ldr; return true;
	case REG_DFR: *v = a->dfr; return !x2apic(a);
	case REG_SVR: *v = a->svr; return true;
	case REG_ESR: *v = a->esr; return true;
	case REG_ICR: *v = a->icr_low; return true;
	case REG_ICR2: *v = a->icr_high; return !x2apic(a);
	case REG_TIMER_INIT: *v = a->timer_init; return true;
	case REG_TIMER_NOW: *v = lapic_timer_now(a); return true;
	case REG_TIMER_DIVIDE: *v = a->timer_divide; return true;
	default: break;
	}
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
		*v = a->lvt[reg - REG_LVT_TIMER];
		return true;
	}
	if (reg >= REG_ISR && reg < REG_ESR) {
		const uint32_t *set = reg < REG_TMR ? a->isr : reg < REG_IRR ? a->tmr : a->irr;

		*v = set[reg & 7];
		return true;
	}
	return false;
}

static bool write_register(struct lapic *a, unsigned reg, uint32_t v)
{
	switch (reg) {
	case REG_ID:
		if (x2apic(a))
			return false;
		a->id = v >> 24;
		return true;
	case REG_TPR:
		if (x2apic(a) && v > 0xff)
			return false;
		a->tpr = v & 0xff;
		lapic_update(a);
		return true;
	case REG_EOI:
		end_of_interrupt(a);
		return true;
	case REG_LDR:
		if (x2apic(a))
			return false;
		a->ldr = v & 0xff000000;
		return true;
	case REG_DFR:
		if (x2apic(a))
			return false;
		a->dfr = v | 0x0fffffff;
		return true;
	case REG_SVR:
		write_svr(a, v);
		return true;
	case REG_ESR:
		a->esr = a->esr_pending;
		a->esr_pending = 0;
		return true;
	case REG_ICR:
		a->icr_low = v & 0xccfff;
		send_ipi(a);
		return true;
	case REG_ICR2:
		if (x2apic(a))
			return false;
		a->icr_high = v & 0xff000000;
		return true;
	case REG_TIMER_INIT:
		if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE)
			return true;
		a->timer_init = v;
		a->timer_start = clock_now(a->bus->clock);
		lapic_arm_timer(a);
		return true;
	case REG_TIMER_DIVIDE: {
		uint32_t left = lapic_timer_now(a);

		a->timer_divide = v & 0xb;
		/* What is left goes on at the new rate. */
		if (a->timer_init && left) {
			a->timer_start = clock_now(a->bus->clock) - lapic_tick_ns(a, a->timer_init - left);
			lapic_arm_timer(a);
		}
		return true;
	}
	case REG_SELF_IPI:
		if (!x2apic(a))
			return false;
		accept(a, (uint8_t)v, false);
		return true;
	default:
		break;
	}
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
		write_lvt(a, reg - REG_LVT_TIMER, v);
		return true;
	}
	return false;
}

uint32_t lapic_mmio_read(struct lapic_bus *b, unsigned cpu, uint32_t offset)
{
	struct lapic *a = &b->apic[cpu];
	uint32_t v = 0;

	if (!(a->base & BASE_ENABLE) || x2apic(a))
		return 0xffffffff;
	if (!read_register(a, offset >> 4, &v)) {
		note_error(a, ESR_REGISTER);
		lapic_update(a);
	}
	return v >> (8 * (offset & 3));
}

void lapic_mmio_write(struct lapic_bus *b, unsigned cpu, uint32_t offset, uint32_t value)
{
	struct lapic *a = &b->apic[cpu];

	if (!(a->base & BASE_ENABLE) || x2apic(a) || (offset & 15))
		return;
	if (!write_register(a, offset >> 4, value)) {
		note_error(a, ESR_REGISTER);
		lapic_update(a);
		device_guest_error(&b->device, "cpu %u writes APIC register %x", cpu, offset);
	}
}

/* ---- MSRs ---- */

static bool write_base(struct lapic *a, uint64_t value)
{
	uint64_t change = value ^ a->base;

	if ((value & ~(UINT64_C(0xfffffff000) | BASE_BSP | BASE_X2APIC | BASE_ENABLE)) || (value & BASE_X2APIC && !(value & BASE_ENABLE)))
		return false;
	/* From x2APIC one goes back only through off. */
	/* From off only to xAPIC mode, from x2APIC mode only to off. */
	if (!(a->base & BASE_ENABLE) && (value & BASE_X2APIC))
		return false;
	if ((a->base & BASE_X2APIC) && !(value & BASE_X2APIC) && (value & BASE_ENABLE))
		return false;
	/* The page does not move. */
	if ((value & UINT64_C(0xfffffff000)) != BASE_ADDRESS)
		device_guest_error(&a->bus->device, "cpu %u moves its APIC page", a->cpu);
	a->base = (value & (BASE_X2APIC | BASE_ENABLE)) | BASE_ADDRESS | (a->cpu == 0 ? BASE_BSP : 0);
	if (change & BASE_X2APIC)
		a->id = a->cpu;
	lapic_update(a);
	return true;
}

bool lapic_msr_read(struct lapic_bus *b, unsigned cpu, uint32_t msr, uint64_t *value)
{
	struct lapic *a = &b->apic[cpu];
	uint32_t v = 0;

	if (msr == 0x1b) {
		*value = a->base;
		return true;
	}
	if (msr == 0x6e0) {
		*value = TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE ? a->deadline : 0;
		return true;
	}
	if (!x2apic(a) || msr < 0x800 || msr > 0x83f)
		return false;
	if (msr == 0x830) {
		*value = a->icr_low | (uint64_t)a->icr_high << 32;
		return true;
	}
	if (msr - 0x800 == REG_EOI || msr - 0x800 == REG_SELF_IPI || !read_register(a, msr - 0x800, &v))
		return false;
	*value = v;
	return true;
}

bool lapic_msr_write(struct lapic_bus *b, unsigned cpu, uint32_t msr, uint64_t value)
{
	struct lapic *a = &b->apic[cpu];

	if (msr == 0x1b)
		return write_base(a, value);
	if (msr == 0x6e0) {
		if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE) {
			a->deadline = value;
			arm_deadline(a);
		}
		return true;
	}
	if (!x2apic(a) || msr < 0x800 || msr > 0x83f)
		return false;
	if (msr == 0x830)
		a->icr_high = (uint32_t)(value >> 32);
	else if (value >> 32)
		return false;
	/* EOI and ESR take zero only. */
	if (msr == 0x83f && value > 0xff)
		return false;
	if ((msr - 0x800 == REG_EOI || msr - 0x800 == REG_ESR) && value)
		return false;
	return write_register(a, msr - 0x800, (uint32_t)value);
}

void lapic_tsc_changed(struct lapic_bus *b, unsigned cpu)
{
	struct lapic *a = &b->apic[cpu];

	if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		arm_deadline(a);
}

uint8_t lapic_cr8_read(struct lapic_bus *b, unsigned cpu)
{
	return (uint8_t)(b->apic[cpu].tpr >> 4);
}

void lapic_cr8_write(struct lapic_bus *b, unsigned cpu, uint8_t cr8)
{
	b->apic[cpu].tpr = (uint32_t)(cr8 & 15) << 4;
	lapic_update(&b->apic[cpu]);
}

/* ---- making ---- */

struct lapic_bus *lapic_bus_create(unsigned cpus, struct clock *clock, uint64_t tsc_hz, const struct lapic_callbacks *cb)
{
	struct lapic_bus *b = g_new0(struct lapic_bus, 1);

	b->device.ops = &lapic_bus_ops;
	b->device.id = "lapic";
	b->cpus = cpus;
	b->clock = clock;
	b->tsc_hz = tsc_hz ? tsc_hz : 1;
	b->cb = *cb;
	b->apic = g_new0(struct lapic, cpus);
	for (unsigned i = 0; i < cpus; i++) {
		b->apic[i].bus = b;
		b->apic[i].cpu = i;
		b->apic[i].timer = timer_new(clock, timer_fired, &b->apic[i]);
	}
	lapic_bus_ops.reset(&b->device);
	return b;
}

void lapic_bus_set_remote(struct lapic_bus *b, const struct lapic_remote *remote)
{
	b->remote = *remote;
}

struct device *lapic_bus_device(struct lapic_bus *b)
{
	return &b->device;
}
