/*
 * The 8254: three counters that are computed from the clock when looked at; only counter 0's output
 * edges are timed, for its interrupt. Port 0x61 gates counter 2 and shows outputs.
 */
#include "dev/pit.h"

#include <glib.h>

#define PIT_HZ 1193182

enum access_mode { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct counter {
	uint16_t reload;      /* as programmed; 0 means 65536 (BCD: 10000) */
	int64_t start;        /* when counting began, ns */
	uint16_t latched;
	uint8_t status;       /* latched by read-back */
	uint8_t mode;         /* 0..5 */
	uint8_t access;       /* enum access_mode */
	uint8_t write_low;    /* the first byte of two */
	bool bcd, gate, loaded;
	bool write_high_next, read_high_next, count_latched, status_latched;
};

struct pit {
	struct device device; /* must be first */
	struct counter counter[3];
	struct clock *clock;
	struct timer *timer; /* next edge of counter 0 */
	struct irq irq0;
	bool speaker;
	bool irq_level;
	struct region *region[2];
};

static int64_t ticks_to_ns(int64_t ticks)
{
	return (int64_t)((__int128)ticks * NS_PER_SEC / PIT_HZ);
}

static int64_t ns_to_ticks(int64_t ns)
{
	return (int64_t)((__int128)ns * PIT_HZ / NS_PER_SEC);
}

static unsigned from_bcd(uint16_t v)
{
	return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

static uint16_t to_bcd(unsigned v)
{
	return (uint16_t)((v / 1000 % 10) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | v % 10);
}

static int64_t period(const struct counter *c)
{
	unsigned n = c->bcd ? from_bcd(c->reload) : c->reload;

	return n ? n : c->bcd ? 10000 : 65536;
}

static int64_t elapsed(const struct pit *p, const struct counter *c)
{
	return ns_to_ticks(clock_now(p->clock) - c->start);
}

static bool counter_out(const struct pit *p, const struct counter *c)
{
	int64_t t = elapsed(p, c), n = period(c);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
	case 1: return t >= n;
	case 2: return !c->gate || t % n != n - 1;
	case 3: return !c->gate || t % n < (n + 1) / 2;
	default: return t != n;
	}
}

static uint16_t counter_value(const struct pit *p, const struct counter *c)
{
	int64_t t = elapsed(p, c), n = period(c), wrap = c->bcd ? 10000 : 65536, left;

	if (!c->loaded)
		return c->reload;
	switch (c->mode) {
	case 2:
		left = n - t % n;
		break;
	case 3:
		/* Counts down by two, twice a period. */
		left = n - (2 * t) % n;
		left &= ~INT64_C(1);
		break;
	default:
		left = ((n - t) % wrap + wrap) % wrap;
		break;
	}
	return c->bcd ? to_bcd((unsigned)left) : (uint16_t)left;
}

/* The tick at which counter 0's output changes next, or -1. */
static int64_t next_edge(const struct pit *p, const struct counter *c)
{
	int64_t t = elapsed(p, c), n = period(c), phase = t % n;

	if (!c->loaded)
		return -1;
	switch (c->mode) {
	case 0:
	case 1: return t < n ? n : -1;
	case 2: return phase < n - 1 ? t - phase + n - 1 : t + 1;
	case 3: return phase < (n + 1) / 2 ? t - phase + (n + 1) / 2 : t - phase + n;
	default: return t < n ? n : t == n ? n + 1 : -1;
	}
}

static void update_irq(struct pit *p)
{
	struct counter *c = &p->counter[0];
	bool out = counter_out(p, c);
	int64_t edge;

	if (out != p->irq_level) {
		p->irq_level = out;
		irq_set(&p->irq0, out);
	}
	edge = next_edge(p, c);
	if (edge < 0)
		timer_cancel(p->timer);
	else
		timer_arm(p->timer, c->start + ticks_to_ns(edge) + 1);
}

/* An edge that was slept through still interrupts: the pulse of mode 2 is one tick long. */
static void edge_due(void *opaque)
{
	struct pit *p = opaque;
	struct counter *c = &p->counter[0];

	if (c->mode == 2 || c->mode == 3) {
		int64_t now_phase = elapsed(p, c) / period(c);

		irq_set(&p->irq0, false);
		irq_set(&p->irq0, true);
		p->irq_level = true;
		/* One interrupt a period: the next is due when the output rises again. */
		timer_arm(p->timer, c->start + ticks_to_ns((now_phase + 1) * period(c)) + 1);
		return;
	}
	update_irq(p);
}

static void start_counter(struct pit *p, unsigned n)
{
	struct counter *c = &p->counter[n];

	c->start = clock_now(p->clock);
	c->loaded = true;
	if (n != 0)
		return;
	if (c->mode == 2 || c->mode == 3) {
		p->irq_level = true;
		irq_set(&p->irq0, true);
		timer_arm(p->timer, c->start + ticks_to_ns(period(c)) + 1);
	} else {
		update_irq(p);
	}
}

/* ---- registers ---- */

static void latch_count(struct pit *p, struct counter *c)
{
	if (c->count_latched)
		return;
	c->latched = counter_value(p, c);
	c->count_latched = true;
}

static void latch_status(struct pit *p, struct counter *c)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(counter_out(p, c) << 7 | !c->loaded << 6 | c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static void read_back(struct pit *p, uint8_t value)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(value >> (i + 1) & 1))
			continue;
		if (!(value & 0x20))
			latch_count(p, &p->counter[i]);
		if (!(value & 0x10))
			latch_status(p, &p->counter[i]);
	}
}

static void write_control(struct pit *p, uint8_t value)
{
	unsigned n = value >> 6;
	struct counter *c;

	if (n == 3) {
		read_back(p, value);
		return;
	}
	c = &p->counter[n];
	if (!(value & 0x30)) {
		latch_count(p, c);
		return;
	}
	c->access = value >> 4 & 3;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode &= 3;
	c->bcd = value & 1;
	c->loaded = false;
	c->write_high_next = c->read_high_next = c->count_latched = c->status_latched = false;
	if (n == 0)
		update_irq(p);
}

static void write_count(struct pit *p, unsigned n, uint8_t value)
{
	struct counter *c = &p->counter[n];

	switch (c->access) {
	case ACCESS_LOW: c->reload = value; break;
	case ACCESS_HIGH: c->reload = (uint16_t)(value << 8); break;
	default:
		if (!c->write_high_next) {
			c->write_low = value;
			c->write_high_next = true;
			return;
		}
		c->write_high_next = false;
		c->reload = (uint16_t)(value << 8 | c->write_low);
		break;
	}
	/* Modes 1 and 5 wait for the gate; 2 and 3 take a new count over at once, which differs from
	 * the chip by less than a period. */
	if (c->mode != 1 && c->mode != 5)
		start_counter(p, n);
}

static uint8_t read_count(struct pit *p, struct counter *c)
{
	uint16_t value;
	bool high;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	value = c->count_latched ? c->latched : counter_value(p, c);
	high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high_next);
	if (c->access == ACCESS_BOTH)
		c->read_high_next = !c->read_high_next;
	if (c->access != ACCESS_BOTH || high)
		c->count_latched = false;
	return high ? (uint8_t)(value >> 8) : (uint8_t)value;
}

static uint64_t pit_read(void *o, uint64_t offset, unsigned len)
{
	struct pit *p = o;

	return offset < 3 ? read_count(p, &p->counter[offset]) : 0xff;
}

static void pit_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	if (offset < 3)
		write_count(o, (unsigned)offset, (uint8_t)value);
	else
		write_control(o, (uint8_t)value);
}

static uint64_t port61_read(void *o, uint64_t offset, unsigned len)
{
	struct pit *p = o;
	/* The memory refresh request toggles about every 15 microseconds. */
	bool refresh = clock_now(p->clock) / 15085 & 1;

	return (uint64_t)(p->counter[2].gate | p->speaker << 1 | refresh << 4 | counter_out(p, &p->counter[2]) << 5);
}

static void port61_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct pit *p = o;
	bool gate = value & 1, rises = gate && !p->counter[2].gate;

	p->speaker = value & 2;
	p->counter[2].gate = gate;
	/* A rising gate starts, or starts over, every mode but 0 and 4. */
	if (rises && p->counter[2].mode != 0 && p->counter[2].mode != 4)
		start_counter(p, 2);
}

/* ---- the contract ---- */

static void pit_reset(struct device *d)
{
	struct pit *p = (struct pit *)d;

	timer_cancel(p->timer);
	for (unsigned i = 0; i < 3; i++)
		p->counter[i] = (struct counter){ .mode = 3, .access = ACCESS_BOTH, .gate = i != 2, .start = clock_now(p->clock) };
	p->speaker = false;
	p->irq_level = false;
	irq_set(&p->irq0, false);
}

static void counter_state(struct state *s, struct counter *c)
{
	state_u16(s, "reload", &c->reload);
	state_i64(s, "start", &c->start);
	state_u16(s, "latched", &c->latched);
	state_u8(s, "status", &c->status);
	state_u8(s, "mode", &c->mode);
	state_u8(s, "access", &c->access);
	state_u8(s, "write-low", &c->write_low);
	state_bool(s, "bcd", &c->bcd);
	state_bool(s, "gate", &c->gate);
	state_bool(s, "loaded", &c->loaded);
	state_bool(s, "write-high-next", &c->write_high_next);
	state_bool(s, "read-high-next", &c->read_high_next);
	state_bool(s, "count-latched", &c->count_latched);
	state_bool(s, "status-latched", &c->status_latched);
	if (state_loading(s) && (c->mode > 5 || c->access > 3 || c->start < 0))
		state_fail(s, "an 8254 register is out of range");
}

static int pit_state(struct device *d, struct state *s)
{
	struct pit *p = (struct pit *)d;
	int64_t deadline = timer_deadline(p->timer);

	for (unsigned i = 0; i < 3; i++)
		counter_state(s, &p->counter[i]);
	state_bool(s, "speaker", &p->speaker);
	state_bool(s, "irq-level", &p->irq_level);
	state_i64(s, "deadline", &deadline);
	if (state_loading(s) && !state_error(s)) {
		timer_cancel(p->timer);
		if (deadline >= 0)
			timer_arm(p->timer, deadline);
		irq_set(&p->irq0, p->irq_level);
	}
	return state_error(s);
}

static void pit_destroy(struct device *d)
{
	struct pit *p = (struct pit *)d;

	timer_free(p->timer);
	region_destroy(p->region[0]);
	region_destroy(p->region[1]);
	g_free(p);
}

static const struct device_ops pit_ops = { "i8254", 1, pit_reset, pit_state, pit_destroy };

struct pit *pit_create(struct space *ports, struct irq irq0, struct clock *clock)
{
	static const struct region_ops counters = { pit_read, pit_write, 1, 1 };
	static const struct region_ops port61 = { port61_read, port61_write, 1, 1 };
	struct pit *p = g_new0(struct pit, 1);

	p->device.ops = &pit_ops;
	p->device.id = "pit";
	p->clock = clock;
	p->irq0 = irq0;
	p->timer = timer_new(clock, edge_due, p);
	p->region[0] = space_add(ports, "pit", 0x40, 4, &counters, p);
	p->region[1] = space_add(ports, "port61", 0x61, 1, &port61, p);
	pit_reset(&p->device);
	return p;
}

struct device *pit_device(struct pit *p)
{
	return &p->device;
}
