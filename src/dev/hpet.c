/*
 * The high precision event timer: one 64-bit counter at 100 MHz, three comparators, each one-shot or
 * periodic, edge or level, and legacy replacement of the 8254's and the RTC's interrupts. Message
 * delivery (FSB) is not offered. IA-PC HPET Specification 1.0a.
 */
#include "dev/hpet.h"

#include <glib.h>

#include "base/bytes.h"

#define TIMERS 3
#define TICK_NS 10
#define HPET_SIZE 0x400
/* No comparator fires more often than that, so that a guest's tiny period cannot hog the host. */
#define MIN_PERIOD_NS 10000
/* GSIs that no other device of the board drives. */
#define ROUTES UINT64_C(0x00ff0000)
/* Revision 1, three timers, 64-bit, legacy routing, Intel, femtoseconds a tick. */
#define CAPABILITIES (UINT64_C(0x8086a001) | (TIMERS - 1) << 8 | (uint64_t)(TICK_NS * 1000000) << 32)

enum { REG_CAP = 0x00, REG_CONFIG = 0x10, REG_ISR = 0x20, REG_COUNTER = 0xf0, REG_TIMER0 = 0x100 };
enum { CONFIG_ENABLE = 1, CONFIG_LEGACY = 2 };
enum { T_LEVEL = 1 << 1, T_ENABLE = 1 << 2, T_PERIODIC = 1 << 3, T_CAN_PERIODIC = 1 << 4, T_CAN_64 = 1 << 5,
       T_SET = 1 << 6, T_32BIT = 1 << 8, T_ROUTE_SHIFT = 9, T_WRITABLE = 0x3f4e };

struct comparator {
	struct hpet *hpet;
	struct timer *timer;
	uint32_t config;
	uint64_t value;
	uint64_t period;
};

struct hpet {
	struct device device; /* must be first */
	struct clock *clock;
	struct irq lines[24];
	struct region *region;
	struct comparator timer[TIMERS];
	uint64_t config, status;
	uint64_t count; /* when halted, or at `since` */
	int64_t since;
	bool legacy_in[2]; /* what the 8254 and the RTC drive */
	uint32_t driven;   /* lines held high for level interrupts */
};

static uint64_t counter(const struct hpet *h)
{
	if (!(h->config & CONFIG_ENABLE))
		return h->count;
	return h->count + (uint64_t)(clock_now(h->clock) - h->since) / TICK_NS;
}

/* ---- lines ---- */

static int timer_line(const struct hpet *h, unsigned n)
{
	unsigned route = h->timer[n].config >> T_ROUTE_SHIFT & 31;

	if ((h->config & CONFIG_LEGACY) && n < 2)
		return n ? 8 : 0;
	return route < 24 && (ROUTES >> route & 1) ? (int)route : -1;
}

static void levels_update(struct hpet *h)
{
	uint32_t now = 0, changed;

	for (unsigned n = 0; n < TIMERS; n++) {
		uint32_t c = h->timer[n].config;
		int line = timer_line(h, n);

		if ((h->config & CONFIG_ENABLE) && (c & T_ENABLE) && (c & T_LEVEL) && (h->status >> n & 1) && line >= 0)
			now |= 1u << line;
	}
	changed = now ^ h->driven;
	h->driven = now;
	for (unsigned line = 0; line < 24; line++)
		if (changed >> line & 1)
			irq_set(&h->lines[line], now >> line & 1);
}

static void legacy_set(void *opaque, int line, bool level)
{
	struct hpet *h = opaque;

	h->legacy_in[line != 0] = level;
	if (!(h->config & CONFIG_LEGACY))
		irq_set(&h->lines[line], level);
}

struct irq hpet_legacy_input(struct hpet *h, unsigned line)
{
	return (struct irq){ legacy_set, h, line ? 8 : 0 };
}

static void interrupt(struct hpet *h, unsigned n)
{
	uint32_t c = h->timer[n].config;
	int line = timer_line(h, n);

	if (c & T_LEVEL) {
		h->status |= UINT64_C(1) << n;
		levels_update(h);
	} else if ((c & T_ENABLE) && line >= 0) {
		irq_pulse(&h->lines[line]);
	}
}

/* ---- comparators ---- */

static uint64_t ticks_until(const struct comparator *t, uint64_t now)
{
	return t->config & T_32BIT ? (uint32_t)(t->value - now) : t->value - now;
}

static void comparator_arm(struct comparator *t)
{
	struct hpet *h = t->hpet;
	uint64_t ticks = ticks_until(t, counter(h));
	int64_t at;

	/* Masked edges leave no trace, but a periodic value has to move on. */
	if (!(h->config & CONFIG_ENABLE) || ticks > INT64_MAX / (4 * TICK_NS)) {
		timer_cancel(t->timer);
		return;
	}
	at = clock_now(h->clock);
	at += (int64_t)ticks * TICK_NS - (at - h->since) % TICK_NS;
	timer_arm(t->timer, at);
}

static void comparator_due(void *opaque)
{
	struct comparator *t = opaque;
	struct hpet *h = t->hpet;
	uint64_t now = counter(h), late;

	interrupt(h, (unsigned)(t - h->timer));
	if (!(t->config & T_PERIODIC) || !t->period) {
		/* The same value comes round again when a 32-bit counter has wrapped. */
		if (t->config & T_32BIT)
			timer_arm(t->timer, clock_now(h->clock) + ((INT64_C(1) << 32) - (uint32_t)(now - t->value)) * TICK_NS);
		return;
	}
	late = t->config & T_32BIT ? (uint32_t)(now - t->value) : now - t->value;
	t->value += (late / t->period + 1) * t->period;
	if (t->config & T_32BIT)
		t->value = (uint32_t)t->value;
	comparator_arm(t);
	if (timer_deadline(t->timer) >= 0 && timer_deadline(t->timer) < clock_now(h->clock) + MIN_PERIOD_NS &&
	    t->period * TICK_NS < MIN_PERIOD_NS)
		timer_arm(t->timer, clock_now(h->clock) + MIN_PERIOD_NS);
}

/* ---- registers ---- */

static uint64_t merge(uint64_t old, uint64_t value, unsigned shift, unsigned len)
{
	uint64_t mask = mask_bytes(len) << shift;

	return (old & ~mask) | (value << shift & mask);
}

static void config_write(struct hpet *h, uint64_t v)
{
	uint64_t old = h->config;

	v &= CONFIG_ENABLE | CONFIG_LEGACY;
	if ((old & ~v) & CONFIG_ENABLE)
		h->count = counter(h);
	if ((v & ~old) & CONFIG_ENABLE)
		h->since = clock_now(h->clock);
	if ((v & ~old) & CONFIG_LEGACY) {
		irq_set(&h->lines[0], false);
		irq_set(&h->lines[8], false);
	}
	h->config = v;
	levels_update(h);
	if ((old & ~v) & CONFIG_LEGACY) {
		irq_set(&h->lines[0], h->legacy_in[0]);
		irq_set(&h->lines[8], h->legacy_in[1]);
	}
	for (unsigned n = 0; (old ^ v) & CONFIG_ENABLE && n < TIMERS; n++)
		comparator_arm(&h->timer[n]);
}

static void value_write(struct comparator *t, unsigned shift, unsigned len, uint64_t v)
{
	if (!(t->config & T_PERIODIC) || (t->config & T_SET))
		t->value = merge(t->value, v, shift, len);
	if (t->config & T_PERIODIC)
		t->period = merge(t->period, v, shift, len);
	if (t->config & T_32BIT) {
		t->value = (uint32_t)t->value;
		t->period = (uint32_t)t->period;
	}
	t->config &= ~T_SET;
	comparator_arm(t);
}

static void timer_write(struct hpet *h, unsigned n, unsigned offset, unsigned len, uint64_t v)
{
	struct comparator *t = &h->timer[n];
	unsigned shift = 8 * (offset & 4);

	if (offset < 8 && !shift) {
		t->config = (uint32_t)(v & T_WRITABLE) | T_CAN_PERIODIC | T_CAN_64;
		if (t->config & T_32BIT) {
			t->value = (uint32_t)t->value;
			t->period = (uint32_t)t->period;
		}
		if (!(t->config & T_LEVEL))
			h->status &= ~(UINT64_C(1) << n);
		levels_update(h);
		comparator_arm(t);
	} else if (offset >= 8 && offset < 16) {
		value_write(t, shift, len, v);
	}
}

static uint64_t timer_read(struct hpet *h, unsigned n, unsigned offset)
{
	struct comparator *t = &h->timer[n];

	switch (offset & ~7u) {
	case 0: return t->config | ROUTES << 32;
	case 8: return t->value;
	default: return 0; /* no message delivery */
	}
}

static uint64_t hpet_read(void *o, uint64_t offset, unsigned len)
{
	struct hpet *h = o;
	unsigned at = (unsigned)offset & ~7u;
	uint64_t v = 0;

	switch (at) {
	case REG_CAP: v = CAPABILITIES; break;
	case REG_CONFIG: v = h->config; break;
	case REG_ISR: v = h->status; break;
	case REG_COUNTER: v = counter(h); break;
	default:
		if (at >= REG_TIMER0 && at < REG_TIMER0 + 0x20 * TIMERS)
			v = timer_read(h, (at - REG_TIMER0) / 0x20, at & 0x1f);
		break;
	}
	return v >> (8 * (offset & 4)) & mask_bytes(len);
}

static void hpet_write(void *o, uint64_t offset, unsigned len, uint64_t v)
{
	struct hpet *h = o;
	unsigned at = (unsigned)offset, shift = 8 * (at & 4);

	switch (at & ~7u) {
	case REG_CONFIG:
		if (!shift)
			config_write(h, v);
		break;
	case REG_ISR:
		if (!shift)
			h->status &= ~v;
		levels_update(h);
		break;
	case REG_COUNTER:
		/* Meant to be written while halted; a running one takes it over at once. */
		if (h->config & CONFIG_ENABLE)
			device_guest_error(&h->device, "write to the running counter");
		h->count = merge(counter(h), v, shift, len);
		h->since = clock_now(h->clock);
		for (unsigned n = 0; n < TIMERS; n++)
			comparator_arm(&h->timer[n]);
		break;
	default:
		if (at >= REG_TIMER0 && at < REG_TIMER0 + 0x20 * TIMERS)
			timer_write(h, (at - REG_TIMER0) / 0x20, at & 0x1f, len, v);
		else
			device_guest_error(&h->device, "write to 0x%x", at);
		break;
	}
}

/* ---- the contract ---- */

static void hpet_reset(struct device *d)
{
	struct hpet *h = (struct hpet *)d;

	config_write(h, 0);
	h->status = h->count = 0;
	h->since = clock_now(h->clock);
	for (unsigned n = 0; n < TIMERS; n++) {
		struct comparator *t = &h->timer[n];

		timer_cancel(t->timer);
		t->config = T_CAN_PERIODIC | T_CAN_64;
		t->value = UINT64_MAX;
		t->period = 0;
	}
	levels_update(h);
}

static int hpet_state(struct device *d, struct state *s)
{
	struct hpet *h = (struct hpet *)d;

	state_u64(s, "config", &h->config);
	state_u64(s, "status", &h->status);
	state_u64(s, "count", &h->count);
	state_i64(s, "since", &h->since);
	state_bool(s, "legacy-pit", &h->legacy_in[0]);
	state_bool(s, "legacy-rtc", &h->legacy_in[1]);
	for (unsigned n = 0; n < TIMERS; n++) {
		state_u32(s, "timer-config", &h->timer[n].config);
		state_u64(s, "value", &h->timer[n].value);
		state_u64(s, "period", &h->timer[n].period);
	}
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	if ((h->config & ~UINT64_C(3)) || h->status >> TIMERS || h->since < 0 || h->since > clock_now(h->clock))
		state_fail(s, "an HPET register is out of range");
	for (unsigned n = 0; n < TIMERS; n++)
		if ((h->timer[n].config & ~(T_WRITABLE | T_CAN_PERIODIC | T_CAN_64)))
			state_fail(s, "HPET timer %u: configuration out of range", n);
	if (state_error(s)) {
		hpet_reset(d);
		return state_error(s);
	}
	levels_update(h);
	for (unsigned n = 0; n < TIMERS; n++)
		comparator_arm(&h->timer[n]);
	return 0;
}

static void hpet_destroy(struct device *d)
{
	struct hpet *h = (struct hpet *)d;

	for (unsigned n = 0; n < TIMERS; n++)
		timer_free(h->timer[n].timer);
	region_destroy(h->region);
	g_free(h);
}

static const struct device_ops ops = { "hpet", 1, hpet_reset, hpet_state, hpet_destroy };

struct hpet *hpet_create(struct space *mmio, uint64_t base, struct clock *clock, const struct irq lines[24])
{
	static const struct region_ops region_ops = { hpet_read, hpet_write, 4, 8 };
	struct hpet *h = g_new0(struct hpet, 1);

	h->device = (struct device){ .ops = &ops, .id = "hpet" };
	h->clock = clock;
	for (unsigned i = 0; i < 24; i++)
		h->lines[i] = lines[i];
	for (unsigned n = 0; n < TIMERS; n++) {
		h->timer[n].hpet = h;
		h->timer[n].timer = timer_new(clock, comparator_due, &h->timer[n]);
	}
	h->region = space_add(mmio, "hpet", base, HPET_SIZE, &region_ops, h);
	hpet_reset(&h->device);
	return h;
}

struct device *hpet_device(struct hpet *h)
{
	return &h->device;
}
