/* Local APICs: reset, saved state, and the common form for APICs that live in the kernel (SDM 3A 11.4.7). */
#include <glib.h>
#include <string.h>

#include "dev/lapic_internal.h"

static void apic_reset(struct lapic *a)
{
	timer_cancel(a->timer);
	a->base = BASE_ADDRESS | BASE_ENABLE | (a->cpu == 0 ? BASE_BSP : 0);
	a->id = a->cpu;
	a->tpr = a->ldr = a->esr = a->esr_pending = a->icr_low = a->icr_high = 0;
	a->dfr = 0xffffffff;
	a->svr = 0xff;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		a->lvt[i] = LVT_MASKED;
	/* Virtual wire: the PIC reaches the boot processor before anybody has set its APIC up. */
	if (a->cpu == 0)
		a->lvt[LVT_LINT0] = DELIVER_EXTINT << 8;
	memset(a->isr, 0, sizeof(a->isr));
	memset(a->irr, 0, sizeof(a->irr));
	memset(a->tmr, 0, sizeof(a->tmr));
	a->timer_init = a->timer_divide = 0;
	a->deadline = 0;
	a->timer_start = 0;
}

/* ---- the common form ---- */

static void form_get(const struct lapic *a, struct apic_state *s)
{
	*s = (struct apic_state){
		.base = a->base, .id = a->id, .tpr = a->tpr, .ldr = a->ldr, .dfr = a->dfr, .svr = a->svr, .esr = a->esr,
		.icr_low = a->icr_low, .icr_high = a->icr_high, .timer_init = a->timer_init,
		.timer_now = lapic_timer_now(a), .timer_divide = a->timer_divide, .deadline = a->deadline,
	};
	memcpy(s->lvt, a->lvt, sizeof(s->lvt));
	memcpy(s->isr, a->isr, sizeof(s->isr));
	memcpy(s->tmr, a->tmr, sizeof(s->tmr));
	memcpy(s->irr, a->irr, sizeof(s->irr));
}

static void form_set(struct lapic *a, const struct apic_state *s)
{
	a->base = s->base;
	a->id = s->id;
	a->tpr = s->tpr;
	a->ldr = s->ldr;
	a->dfr = s->dfr;
	a->svr = s->svr;
	a->esr = s->esr;
	a->icr_low = s->icr_low;
	a->icr_high = s->icr_high;
	memcpy(a->lvt, s->lvt, sizeof(a->lvt));
	memcpy(a->isr, s->isr, sizeof(a->isr));
	memcpy(a->tmr, s->tmr, sizeof(a->tmr));
	memcpy(a->irr, s->irr, sizeof(a->irr));
	a->timer_init = s->timer_init;
	a->timer_divide = s->timer_divide & 0xb;
	a->deadline = s->deadline;
	a->timer_start = clock_now(a->bus->clock) - lapic_tick_ns(a, s->timer_init - MIN(s->timer_now, s->timer_init));
}

/* From and to where the APICs really are. */
static void fetch(struct lapic_bus *b)
{
	for (unsigned i = 0; b->remote.send_msi && i < b->cpus; i++) {
		struct apic_state s;

		if (!b->remote.get(b->remote.opaque, i, &s))
			form_set(&b->apic[i], &s);
	}
}

/* The first of them that is refused, as its error. */
static int push(struct lapic_bus *b)
{
	int result = 0;

	for (unsigned i = 0; b->remote.send_msi && i < b->cpus && !result; i++) {
		struct apic_state s;

		form_get(&b->apic[i], &s);
		result = b->remote.set(b->remote.opaque, i, &s);
	}
	return result;
}

/* ---- the device contract ---- */

static void bus_reset(struct device *d)
{
	struct lapic_bus *b = (struct lapic_bus *)d;

	b->next_lowest = 0;
	for (unsigned i = 0; i < b->cpus; i++) {
		apic_reset(&b->apic[i]);
		lapic_update(&b->apic[i]);
	}
	push(b);
}

/* When the count ends, -1: it has ended, or the TSC decides. */
static int64_t timer_due(const struct lapic *a)
{
	if (!a->bus->remote.send_msi)
		return TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE ? -1 : timer_deadline(a->timer);
	return lapic_timer_now(a) ? a->timer_start + lapic_tick_ns(a, a->timer_init) : -1;
}

static void restart_timer(struct lapic *a, int64_t due)
{
	if (TIMER_MODE(a->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		lapic_arm_timer(a);
	else if (due >= 0)
		timer_arm(a->timer, due);
	else
		timer_cancel(a->timer);
}

/* A start may lie before time began, if the count was stretched by another divider. */
#define START_MIN (-(INT64_C(1) << 41))
#define START_MAX (INT64_MAX / 2)

static void apic_state(struct state *s, struct lapic *a)
{
	int64_t due = timer_due(a);

	state_u64(s, "base", &a->base);
	state_u32(s, "id", &a->id);
	state_u32(s, "tpr", &a->tpr);
	state_u32(s, "ldr", &a->ldr);
	state_u32(s, "dfr", &a->dfr);
	state_u32(s, "svr", &a->svr);
	state_u32(s, "esr", &a->esr);
	state_u32(s, "esr-pending", &a->esr_pending);
	state_u32(s, "icr-low", &a->icr_low);
	state_u32(s, "icr-high", &a->icr_high);
	state_bytes(s, "lvt", a->lvt, sizeof(a->lvt));
	state_bytes(s, "isr", a->isr, sizeof(a->isr));
	state_bytes(s, "tmr", a->tmr, sizeof(a->tmr));
	state_bytes(s, "irr", a->irr, sizeof(a->irr));
	state_u32(s, "timer-init", &a->timer_init);
	state_u32(s, "timer-divide", &a->timer_divide);
	state_i64(s, "timer-start", &a->timer_start);
	state_i64(s, "timer-due", &due);
	state_u64(s, "deadline", &a->deadline);
	if (state_loading(s) && (a->tpr > 0xff || (a->svr & ~0x11ffu) || (a->timer_divide & ~0xbu) ||
				 (a->base & UINT64_C(0xfffffff000)) != BASE_ADDRESS || a->timer_start < START_MIN ||
				 a->timer_start > START_MAX))
		state_fail(s, "a local APIC register is out of range");
	if (state_loading(s) && !state_error(s) && !a->bus->remote.send_msi)
		restart_timer(a, due);
}

static int bus_state(struct device *d, struct state *s)
{
	struct lapic_bus *b = (struct lapic_bus *)d;
	uint32_t cpus = b->cpus;

	if (!state_loading(s))
		fetch(b);
	state_u32(s, "cpus", &cpus);
	if (cpus != b->cpus)
		state_fail(s, "saved with %u processors, this machine has %u", cpus, b->cpus);
	state_bool(s, "extint", &b->extint);
	state_u32(s, "next-lowest", &b->next_lowest);
	for (unsigned i = 0; i < b->cpus; i++)
		apic_state(s, &b->apic[i]);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && b->next_lowest >= b->cpus)
		state_fail(s, "a processor beyond the last is next in turn");
	if (state_error(s))
		return state_error(s);
	for (unsigned i = 0; i < b->cpus; i++)
		lapic_update(&b->apic[i]);
	if (push(b))
		state_fail(s, "the engine refuses a local APIC's state");
	return state_error(s);
}

static void bus_destroy(struct device *d)
{
	struct lapic_bus *b = (struct lapic_bus *)d;

	for (unsigned i = 0; i < b->cpus; i++)
		timer_free(b->apic[i].timer);
	g_free(b->apic);
	g_free(b);
}

const struct device_ops lapic_bus_ops = { "lapic", 1, bus_reset, bus_state, bus_destroy };
