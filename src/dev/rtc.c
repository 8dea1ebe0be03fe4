/*
 * MC146818A. The time of day is computed from the host's wall clock plus an offset when looked at;
 * flags are brought up to date when register C is read, and timers run only for enabled interrupts.
 */
#include "dev/rtc.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#define CMOS_SIZE 128

enum reg {
	REG_SECONDS, REG_SECONDS_ALARM, REG_MINUTES, REG_MINUTES_ALARM, REG_HOURS, REG_HOURS_ALARM,
	REG_WEEKDAY, REG_DAY, REG_MONTH, REG_YEAR, REG_A, REG_B, REG_C, REG_D,
	REG_CENTURY = 0x32,     /* as the FADT says */
	REG_CENTURY_PS2 = 0x37, /* the same, where the PS/2 had it */
};

#define A_RATE 0x0f
#define A_DIVIDER 0x70
#define A_DIVIDER_RESET 0x60 /* 6 and 7 hold the divider at zero */
#define A_UIP 0x80

#define B_24H 0x02
#define B_BINARY 0x04
#define B_UIE 0x10
#define B_AIE 0x20
#define B_PIE 0x40
#define B_SET 0x80

#define C_UF 0x10
#define C_AF 0x20
#define C_PF 0x40
#define C_IRQF 0x80
#define C_FLAGS 0x70

#define D_VALID 0x80

#define HZ 32768
/* The update takes 1984 us, and is announced 244 us before (data sheet, table 5). */
#define UPDATE_NS 2228000
#define DAY_SECONDS 86400

struct rtc {
	struct device device; /* must be first */
	struct irq irq;
	struct clock *clock;
	struct timer *periodic, *update;
	struct region *region;
	uint8_t index;
	uint8_t cmos[CMOS_SIZE]; /* time registers are good only while time stands still */
	int64_t offset;          /* the guest's seconds minus the host's */
	uint32_t phase;          /* ns the guest's seconds begin before the host's, below one second */
	int64_t seen;            /* flags are up to date up to this second of the guest's time */
	int64_t periodic_start;  /* when the divider began to count, clock ns */
	int64_t periodic_seen;   /* periods since then that have set PF */
	uint8_t weekday_shift;   /* what the guest set its weekday apart from its date */
	bool irq_level;
};

struct civil {
	int year;
	int month, day, hour, minute, second; /* month and day from 1 */
};

/* ---- calendar ---- */

/* Days since 1970-01-01 of the proleptic Gregorian calendar; months and days may overflow. */
static int64_t civil_days(const struct civil *c)
{
	int64_t y = c->year - (c->month <= 2), era = (y >= 0 ? y : y - 399) / 400;
	int64_t yoe = y - era * 400, doy = (153 * (c->month + (c->month > 2 ? -3 : 9)) + 2) / 5 + c->day - 1;

	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int64_t civil_seconds(const struct civil *c)
{
	return civil_days(c) * DAY_SECONDS + c->hour * 3600 + c->minute * 60 + c->second;
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static void civil_from_seconds(int64_t seconds, struct civil *c)
{
	int64_t days = floor_div(seconds, DAY_SECONDS), rest = seconds - days * DAY_SECONDS;
	int64_t z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

	c->day = (int)(doy - (153 * mp + 2) / 5 + 1);
	c->month = (int)(mp < 10 ? mp + 3 : mp - 9);
	c->year = (int)(yoe + era * 400 + (c->month <= 2));
	c->hour = (int)(rest / 3600);
	c->minute = (int)(rest / 60 % 60);
	c->second = (int)(rest % 60);
}

/* 1 is Sunday. */
static unsigned weekday(int64_t seconds)
{
	int64_t day = floor_div(seconds, DAY_SECONDS) + 4; /* 1970-01-01 was a Thursday */

	return (unsigned)(day - floor_div(day, 7) * 7) + 1;
}

/* ---- registers and numbers ---- */

static uint8_t encode(const struct rtc *r, int v)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : (v / 10) << 4 | v % 10);
}

static int decode(const struct rtc *r, uint8_t v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return (uint8_t)(encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static int decode_hour(const struct rtc *r, uint8_t v)
{
	int hour;

	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	hour = decode(r, v & 0x7f) % 12;
	return v & 0x80 ? hour + 12 : hour;
}

static bool time_stands(const struct rtc *r)
{
	return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* Nanoseconds whose whole seconds are the host's seconds as the guest's are cut. */
static int64_t shifted_ns(const struct rtc *r)
{
	return clock_wall_ns(r->clock) + r->phase;
}

static int64_t guest_seconds(const struct rtc *r)
{
	return floor_div(shifted_ns(r), NS_PER_SEC) + r->offset;
}

static int64_t ns_into_second(const struct rtc *r)
{
	int64_t ns = shifted_ns(r);

	return ns - floor_div(ns, NS_PER_SEC) * NS_PER_SEC;
}

/* Brings the time registers up to date, as each update cycle does. */
static void time_to_registers(struct rtc *r)
{
	int64_t now = guest_seconds(r);
	struct civil c;

	civil_from_seconds(now, &c);
	r->cmos[REG_SECONDS] = encode(r, c.second);
	r->cmos[REG_MINUTES] = encode(r, c.minute);
	r->cmos[REG_HOURS] = encode_hour(r, c.hour);
	r->cmos[REG_WEEKDAY] = encode(r, (int)((weekday(now) - 1 + r->weekday_shift) % 7 + 1));
	r->cmos[REG_DAY] = encode(r, c.day);
	r->cmos[REG_MONTH] = encode(r, c.month);
	r->cmos[REG_YEAR] = encode(r, (int)(c.year - floor_div(c.year, 100) * 100));
	/* A saved state may have a time long before the common era. */
	r->cmos[REG_CENTURY] = encode(r, (int)((floor_div(c.year, 100) % 100 + 100) % 100));
}

/* Takes over what the guest has set, as the time at `phase` ns into its second. */
static void registers_to_time(struct rtc *r, int64_t phase)
{
	struct civil c = {
		.year = decode(r, r->cmos[REG_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]),
		.month = CLAMP(decode(r, r->cmos[REG_MONTH]), 1, 12),
		.day = decode(r, r->cmos[REG_DAY]),
		.hour = decode_hour(r, r->cmos[REG_HOURS]),
		.minute = decode(r, r->cmos[REG_MINUTES]),
		.second = decode(r, r->cmos[REG_SECONDS]),
	};
	int64_t wall = clock_wall_ns(r->clock), seconds = civil_seconds(&c);
	int64_t fraction = wall - floor_div(wall, NS_PER_SEC) * NS_PER_SEC;

	r->phase = (uint32_t)((phase - fraction + NS_PER_SEC) % NS_PER_SEC);
	r->offset = 0;
	r->offset = seconds - guest_seconds(r);
	r->weekday_shift = (uint8_t)((decode(r, r->cmos[REG_WEEKDAY]) + 7 - (int)weekday(seconds)) % 7);
	r->seen = seconds;
}

/* ---- flags and interrupts ---- */

static bool alarm_field(uint8_t alarm, uint8_t now)
{
	return (alarm & 0xc0) == 0xc0 || alarm == now;
}

/* The registers are compared, not the numbers: both are in the same format. */
static bool alarm_at(const struct rtc *r, int64_t second)
{
	int64_t of_day = second - floor_div(second, DAY_SECONDS) * DAY_SECONDS;

	return alarm_field(r->cmos[REG_SECONDS_ALARM], encode(r, (int)(of_day % 60))) &&
	       alarm_field(r->cmos[REG_MINUTES_ALARM], encode(r, (int)(of_day / 60 % 60))) &&
	       alarm_field(r->cmos[REG_HOURS_ALARM], encode_hour(r, (int)(of_day / 3600)));
}

/* 32768 Hz ticks in one period; 0: none. */
static unsigned periodic_ticks(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate || (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET)
		return 0;
	return rate <= 2 ? 1u << (rate + 6) : 1u << (rate - 1);
}

static int64_t periods_now(const struct rtc *r)
{
	int64_t ns = clock_now(r->clock) - r->periodic_start;

	return (int64_t)((__int128)ns * HZ / NS_PER_SEC) / periodic_ticks(r);
}

static void update_irq(struct rtc *r)
{
	uint8_t *c = &r->cmos[REG_C];
	bool level;

	/* Flags and their enables sit in the same bits. */
	*c = (uint8_t)((*c & C_FLAGS) | (*c & r->cmos[REG_B] & C_FLAGS ? C_IRQF : 0));
	level = *c & C_IRQF;
	if (level == r->irq_level)
		return;
	r->irq_level = level;
	irq_set(&r->irq, level);
}

/* Sets the flags of everything that has happened since last time. */
static void catch_up(struct rtc *r)
{
	if (periodic_ticks(r)) {
		int64_t periods = periods_now(r);

		if (periods > r->periodic_seen)
			r->cmos[REG_C] |= C_PF;
		r->periodic_seen = periods;
	}
	if (!time_stands(r)) {
		int64_t now = guest_seconds(r), first = r->seen + 1;

		if (now >= first)
			r->cmos[REG_C] |= C_UF;
		/* An alarm comes once a day at least, if it comes at all. */
		if (now - first >= DAY_SECONDS)
			first = now - DAY_SECONDS + 1;
		for (int64_t s = first; s <= now && !(r->cmos[REG_C] & C_AF); s++) {
			if (alarm_at(r, s))
				r->cmos[REG_C] |= C_AF;
		}
		r->seen = now;
	}
	update_irq(r);
}

/* Timers run for enabled interrupts only. */
static void arm_timers(struct rtc *r)
{
	unsigned ticks = periodic_ticks(r);

	if (ticks && (r->cmos[REG_B] & B_PIE)) {
		int64_t tick = (periods_now(r) + 1) * ticks;

		timer_arm(r->periodic, r->periodic_start + (int64_t)(((__int128)tick * NS_PER_SEC + HZ - 1) / HZ));
	} else {
		timer_cancel(r->periodic);
	}
	if ((r->cmos[REG_B] & (B_UIE | B_AIE)) && !time_stands(r))
		timer_arm(r->update, clock_now(r->clock) + NS_PER_SEC - ns_into_second(r));
	else
		timer_cancel(r->update);
}

static void timer_due(void *opaque)
{
	catch_up(opaque);
	arm_timers(opaque);
}

/* ---- register access ---- */

static bool is_time(unsigned index)
{
	return index == REG_CENTURY || index == REG_SECONDS || index == REG_MINUTES || index == REG_HOURS ||
	       (index >= REG_WEEKDAY && index <= REG_YEAR);
}

static void write_time(struct rtc *r, unsigned index, uint8_t value)
{
	if (time_stands(r)) {
		r->cmos[index] = value;
		return;
	}
	/* While the clock runs, a write sets it at once. */
	catch_up(r);
	time_to_registers(r);
	r->cmos[index] = value;
	registers_to_time(r, ns_into_second(r));
	arm_timers(r);
}

/* Registers A and B may stop and start time. */
static void write_control(struct rtc *r, unsigned index, uint8_t value)
{
	bool stood = time_stands(r), divider_held = (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
	uint8_t old_a = r->cmos[REG_A];
	int64_t phase = ns_into_second(r);

	catch_up(r);
	if (!stood)
		time_to_registers(r);
	if (index == REG_A)
		r->cmos[REG_A] = value & ~A_UIP;
	else
		r->cmos[REG_B] = value & B_SET ? value & ~B_UIE : value;
	/* The first update comes half a second after the divider is let go. */
	if (divider_held && (r->cmos[REG_A] & A_DIVIDER_RESET) != A_DIVIDER_RESET)
		phase = NS_PER_SEC / 2;
	if (stood && !time_stands(r))
		registers_to_time(r, phase);
	/* A new rate counts from now. */
	if (index == REG_A && ((old_a ^ value) & (A_RATE | A_DIVIDER))) {
		r->periodic_start = clock_now(r->clock);
		r->periodic_seen = 0;
	}
	update_irq(r);
	arm_timers(r);
}

static uint8_t read_reg(struct rtc *r, unsigned index)
{
	uint8_t value;

	if (is_time(index) && !time_stands(r))
		time_to_registers(r);
	switch (index) {
	case REG_A:
		return r->cmos[REG_A] | (!time_stands(r) && ns_into_second(r) >= NS_PER_SEC - UPDATE_NS ? A_UIP : 0);
	case REG_C:
		catch_up(r);
		value = r->cmos[REG_C];
		r->cmos[REG_C] = 0;
		update_irq(r);
		return value;
	default:
		return r->cmos[index];
	}
}

static void write_reg(struct rtc *r, unsigned index, uint8_t value)
{
	if (is_time(index)) {
		write_time(r, index, value);
		return;
	}
	switch (index) {
	case REG_A:
	case REG_B:
		write_control(r, index, value);
		break;
	case REG_SECONDS_ALARM:
	case REG_MINUTES_ALARM:
	case REG_HOURS_ALARM:
		/* What has passed was compared with the old alarm. */
		catch_up(r);
		r->cmos[index] = value;
		break;
	case REG_C:
	case REG_D:
		device_guest_error(&r->device, "write of %02x to a read-only register", value);
		break;
	default:
		r->cmos[index] = value;
		break;
	}
}

static unsigned selected(const struct rtc *r)
{
	return r->index == REG_CENTURY_PS2 ? REG_CENTURY : r->index;
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned len)
{
	struct rtc *r = opaque;

	/* The index port cannot be read back. */
	return offset ? read_reg(r, selected(r)) : 0xff;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct rtc *r = opaque;

	/* Bit 7 of the index port masks NMI, of which this board has no source. */
	if (offset)
		write_reg(r, selected(r), (uint8_t)value);
	else
		r->index = value & (CMOS_SIZE - 1);
}

void rtc_set_cmos(struct rtc *r, unsigned index, uint8_t value)
{
	if (index > REG_D && index < CMOS_SIZE && index != REG_CENTURY)
		r->cmos[index] = value;
}

/* ---- the contract ---- */

/* The battery keeps time, alarm and memory; the reset pin clears enables and flags. */
static void rtc_reset(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	catch_up(r);
	r->index = 0;
	r->cmos[REG_B] &= (uint8_t)~(B_PIE | B_AIE | B_UIE | 0x08);
	r->cmos[REG_C] = 0;
	update_irq(r);
	arm_timers(r);
}

static void power_on(struct rtc *r)
{
	memset(r->cmos, 0, sizeof(r->cmos));
	r->cmos[REG_A] = 0x26; /* 32768 Hz, 1024 periods a second */
	r->cmos[REG_B] = B_24H;
	r->cmos[REG_D] = D_VALID;
	r->offset = 0;
	r->phase = 0;
	r->weekday_shift = 0;
	r->seen = guest_seconds(r);
	r->periodic_start = clock_now(r->clock);
	r->periodic_seen = 0;
	rtc_reset(&r->device);
}

/* Far enough for any date that two registers can say. */
static bool state_plausible(const struct rtc *r)
{
	const int64_t far = INT64_C(1) << 40;

	return r->index < CMOS_SIZE && r->phase < NS_PER_SEC && r->weekday_shift < 7 && r->offset > -far && r->offset < far &&
	       r->seen > -far && r->seen < far && r->periodic_start >= 0 && !(r->cmos[REG_A] & A_UIP) &&
	       !(r->cmos[REG_C] & ~(C_FLAGS | C_IRQF)) && r->cmos[REG_D] == D_VALID;
}

static int rtc_state(struct device *d, struct state *s)
{
	struct rtc *r = (struct rtc *)d;

	if (!state_loading(s) && !time_stands(r))
		time_to_registers(r);
	state_u8(s, "index", &r->index);
	state_bytes(s, "cmos", r->cmos, sizeof(r->cmos));
	state_i64(s, "offset", &r->offset);
	state_u32(s, "phase", &r->phase);
	state_i64(s, "seen", &r->seen);
	state_i64(s, "periodic-start", &r->periodic_start);
	state_i64(s, "periodic-seen", &r->periodic_seen);
	state_u8(s, "weekday-shift", &r->weekday_shift);
	if (!state_loading(s))
		return state_error(s);
	if (!state_error(s) && !state_plausible(r))
		state_fail(s, "an MC146818 register is out of range");
	if (state_error(s)) {
		power_on(r);
		return -EINVAL;
	}
	update_irq(r);
	arm_timers(r);
	return 0;
}

static void rtc_destroy(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	timer_free(r->periodic);
	timer_free(r->update);
	region_destroy(r->region);
	g_free(r);
}

static const struct device_ops rtc_ops = { "mc146818", 1, rtc_reset, rtc_state, rtc_destroy };

struct rtc *rtc_create(struct space *ports, struct irq irq, struct clock *clock)
{
	static const struct region_ops ops = { rtc_read, rtc_write, 1, 1 };
	struct rtc *r = g_new0(struct rtc, 1);

	r->device.ops = &rtc_ops;
	r->device.id = "rtc";
	r->irq = irq;
	r->clock = clock;
	r->periodic = timer_new(clock, timer_due, r);
	r->update = timer_new(clock, timer_due, r);
	r->region = space_add(ports, "rtc", 0x70, 2, &ops, r);
	power_on(r);
	return r;
}

struct device *rtc_device(struct rtc *r)
{
	return &r->device;
}
