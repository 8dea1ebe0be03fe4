/*
 * Watchdog timer of the Intel 6300ESB ICH: two stages of 20 bits; registers in BAR 0 behind an unlock
 * sequence, configuration and lock in configuration space (data sheet 300641, chapter 17). The first
 * stage's interrupt is not wired.
 */
#include "dev/i6300esb.h"

#include <glib.h>

#include "base/bytes.h"

#define CONFIG 0x60 /* 16 bits */
#define CONFIG_FAST 0x04
#define CONFIG_NO_REBOOT 0x20
#define LOCK 0x68
#define LOCK_LOCKED 0x01
#define LOCK_ENABLE 0x02
#define LOCK_FREE_RUN 0x04

#define REG_TIMER1 0x00
#define REG_TIMER2 0x04
#define REG_STATUS 0x08
#define REG_RELOAD 0x0c
#define RELOAD_PING 0x100
#define RELOAD_TIMED_OUT 0x200

#define PRELOAD_MAX 0xfffff
#define PCI_HZ 33000000
#define SHORTEST (NS_PER_SEC / 1000) /* a guest cannot keep the host busy with stages of nothing */

struct i6300esb {
	struct pci_dev pci; /* must be first */
	struct clock *clock;
	struct timer *timer;
	void (*expired)(void *opaque);
	void *opaque;
	uint32_t preload[2];
	uint8_t unlock; /* how much of 0x80, 0x86 has been written to the reload register */
	uint8_t stage;  /* 0 or 1 */
	bool enabled, first_passed;
	bool timed_out; /* survives the reset it causes, so that the guest can tell why */
};

static void start_stage(struct i6300esb *w, unsigned stage)
{
	unsigned divider = w->pci.config[CONFIG] & CONFIG_FAST ? 1 << 5 : 1 << 15;
	int64_t ns = (int64_t)((__int128)w->preload[stage] * divider * NS_PER_SEC / PCI_HZ);

	w->stage = (uint8_t)stage;
	timer_arm(w->timer, clock_now(w->clock) + MAX(ns, SHORTEST));
}

static void stage_over(void *opaque)
{
	struct i6300esb *w = opaque;
	bool reboot = !(w->pci.config[CONFIG] & CONFIG_NO_REBOOT);

	if (w->stage == 0) {
		w->first_passed = true;
		start_stage(w, 1);
		return;
	}
	w->timed_out = true;
	if (w->pci.config[LOCK] & LOCK_FREE_RUN)
		start_stage(w, 0);
	if (reboot)
		w->expired(w->opaque);
}

/* ---- registers ---- */

static uint64_t esb_read(void *opaque, uint64_t offset, unsigned len)
{
	const struct i6300esb *w = opaque;

	if (offset == REG_STATUS)
		return w->first_passed;
	if (offset == REG_RELOAD)
		return w->timed_out ? RELOAD_TIMED_OUT : 0;
	return 0;
}

/* Every write but those of the sequence itself needs the sequence before it. */
static void esb_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct i6300esb *w = opaque;
	bool unlocked = w->unlock == 2;

	if (offset == REG_STATUS && (value & 1)) {
		w->first_passed = false;
		return;
	}
	if (!unlocked) {
		bool next = offset == REG_RELOAD && value == (w->unlock ? 0x86 : 0x80);

		w->unlock = next ? w->unlock + 1 : 0;
		return;
	}
	w->unlock = 0;
	switch (offset) {
	case REG_TIMER1:
	case REG_TIMER2:
		w->preload[offset / 4] = value & PRELOAD_MAX;
		break;
	case REG_RELOAD:
		if (value & RELOAD_TIMED_OUT)
			w->timed_out = false;
		if ((value & RELOAD_PING) && w->enabled)
			start_stage(w, 0);
		break;
	}
}

static void update_enable(struct i6300esb *w)
{
	bool enabled = w->pci.config[LOCK] & LOCK_ENABLE;

	if (enabled == w->enabled)
		return;
	w->enabled = enabled;
	if (enabled)
		start_stage(w, 0);
	else
		timer_cancel(w->timer);
}

static void config_written(struct pci_dev *p, unsigned offset, unsigned len)
{
	struct i6300esb *w = (struct i6300esb *)p;

	if (offset > LOCK || offset + len <= LOCK)
		return;
	/* Locked, it cannot be stopped or unlocked until reset. */
	if (p->config[LOCK] & LOCK_LOCKED)
		p->wmask[LOCK] = 0;
	update_enable(w);
}

/* ---- life ---- */

static void set_power_on(struct i6300esb *w)
{
	timer_cancel(w->timer);
	w->preload[0] = w->preload[1] = PRELOAD_MAX;
	w->unlock = w->stage = 0;
	w->enabled = w->first_passed = false;
	st16le(&w->pci.config[CONFIG], 0);
	w->pci.config[LOCK] = 0;
	st16le(&w->pci.wmask[CONFIG], 0x27);
	w->pci.wmask[LOCK] = LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN;
}

static void esb_reset(struct device *d)
{
	struct i6300esb *w = (struct i6300esb *)d;

	pci_dev_reset(&w->pci);
	set_power_on(w);
}

static int esb_state(struct device *d, struct state *s)
{
	struct i6300esb *w = (struct i6300esb *)d;
	int64_t deadline = timer_deadline(w->timer);

	/* What a locked register holds is not the guest's to write, but it is ours to load. */
	if (state_loading(s))
		w->pci.wmask[LOCK] = LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN;
	pci_dev_state(&w->pci, s);
	state_u32(s, "preload1", &w->preload[0]);
	state_u32(s, "preload2", &w->preload[1]);
	state_u8(s, "unlock", &w->unlock);
	state_u8(s, "stage", &w->stage);
	state_bool(s, "first_passed", &w->first_passed);
	state_bool(s, "timed_out", &w->timed_out);
	state_i64(s, "deadline", &deadline);
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	if (w->preload[0] > PRELOAD_MAX || w->preload[1] > PRELOAD_MAX || w->unlock > 2 || w->stage > 1) {
		state_fail(s, "watchdog: register out of range");
		set_power_on(w);
		return state_error(s);
	}
	w->enabled = w->pci.config[LOCK] & LOCK_ENABLE;
	if (w->pci.config[LOCK] & LOCK_LOCKED)
		w->pci.wmask[LOCK] = 0;
	if (w->enabled && deadline >= 0)
		timer_arm(w->timer, deadline);
	else
		timer_cancel(w->timer);
	return 0;
}

static void esb_destroy(struct device *d)
{
	struct i6300esb *w = (struct i6300esb *)d;

	timer_free(w->timer);
	pci_dev_finish(&w->pci);
	g_free(w);
}

static const struct device_ops ops = { "i6300esb", 1, esb_reset, esb_state, esb_destroy };

struct i6300esb *i6300esb_create(struct pci_bus *bus, unsigned devfn, struct clock *clock,
				 void (*expired)(void *opaque), void *opaque)
{
	static const struct pci_ids ids = { 0x8086, 0x25ab, 0x1af4, 0x1100, 0x088000, 0 };
	static const struct region_ops region_ops = { esb_read, esb_write, 1, 4 };
	struct i6300esb *w = g_new0(struct i6300esb, 1);

	w->pci.device = (struct device){ .ops = &ops, .id = "watchdog0" };
	if (pci_dev_init(&w->pci, bus, devfn, &ids, 0)) {
		g_free(w);
		return NULL;
	}
	w->clock = clock;
	w->expired = expired;
	w->opaque = opaque;
	w->timer = timer_new(clock, stage_over, w);
	w->pci.config_written = config_written;
	pci_bar_mmio(&w->pci, 0, "i6300esb", 16, false, false, &region_ops, w);
	set_power_on(w);
	return w;
}

struct device *i6300esb_device(struct i6300esb *w)
{
	return &w->pci.device;
}
