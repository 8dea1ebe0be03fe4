/*
 * Local APICs and the I/O APIC together: priorities and ends of interrupts, destinations in every mode, IPIs, x2APIC,
 * the timer's modes, level-triggered pins (SDM 3A chapter 11; 82093AA data sheet).
 */
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "harness.h"

#define CPUS 3
#define TSC_HZ 2000000000
#define IOAPIC 0xfec00000

enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100, TMR = 0x180,
       IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR2 = 0x310, LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_ERROR = 0x370,
       TIMER_INIT = 0x380, TIMER_NOW = 0x390, TIMER_DIVIDE = 0x3e0 };

struct bench {
	struct space *mmio;
	struct clock *clock;
	struct lapic_bus *l;
	struct ioapic *io;
	bool intr[CPUS];
	unsigned nmis[CPUS], inits[CPUS], sipis[CPUS], eois;
	uint8_t sipi_vector, eoi_vector;
	uint64_t tsc_adjust;
};

static void set_intr(void *o, unsigned cpu, bool level) { ((struct bench *)o)->intr[cpu] = level; }
static void nmi(void *o, unsigned cpu) { ((struct bench *)o)->nmis[cpu]++; }
static void init(void *o, unsigned cpu) { ((struct bench *)o)->inits[cpu]++; }
static int extint_ack(void *o) { return 0x77; }

static uint64_t tsc_now(void *o, unsigned cpu)
{
	struct bench *b = o;

	return (uint64_t)clock_now(b->clock) * 2 + b->tsc_adjust;
}

static void send_msi(void *o, uint64_t address, uint32_t data) { lapic_bus_deliver_msi(((struct bench *)o)->l, address, data); }

static void sipi(void *o, unsigned cpu, uint8_t vector)
{
	struct bench *b = o;

	b->sipis[cpu]++;
	b->sipi_vector = vector;
}

static void eoi(void *o, uint8_t vector)
{
	struct bench *b = o;

	b->eois++;
	b->eoi_vector = vector;
	ioapic_eoi(b->io, vector);
}

static uint32_t rd(struct bench *b, unsigned cpu, uint32_t reg) { return lapic_mmio_read(b->l, cpu, reg); }
static void wr(struct bench *b, unsigned cpu, uint32_t reg, uint32_t v) { lapic_mmio_write(b->l, cpu, reg, v); }

/* All APICs on, with flat logical IDs 1, 2, 4. */
static void bench_init(struct bench *b)
{
	const struct lapic_callbacks cb = { set_intr, nmi, init, sipi, eoi, extint_ack, tsc_now, b };
	const struct msi_sink sink = { send_msi, b };

	*b = (struct bench){ .mmio = space_create("mmio", UINT64_MAX), .clock = clock_create_manual() };
	b->l = lapic_bus_create(CPUS, b->clock, TSC_HZ, &cb);
	b->io = ioapic_create(b->mmio, IOAPIC, &sink);
	for (unsigned i = 0; i < CPUS; i++) {
		wr(b, i, SVR, 0x1ff);
		wr(b, i, LDR, 1u << (24 + i));
	}
	wr(b, 0, LVT_LINT0, 0x10000);
}

static void bench_finish(struct bench *b)
{
	ioapic_device(b->io)->ops->destroy(ioapic_device(b->io));
	lapic_bus_device(b->l)->ops->destroy(lapic_bus_device(b->l));
	clock_destroy(b->clock);
	space_destroy(b->mmio);
}

static void ipi(struct bench *b, unsigned from, uint32_t dest, uint32_t low)
{
	wr(b, from, ICR2, dest << 24);
	wr(b, from, ICR, low);
}

/* A bit per CPU that asks for attention; each is acknowledged and ended. */
static unsigned take_all(struct bench *b, int vector)
{
	unsigned who = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		if (!b->intr[i])
			continue;
		who |= 1u << i;
		g_assert_cmpint(lapic_ack(b->l, i), ==, vector);
		wr(b, i, EOI, 0);
	}
	return who;
}

static void test_priorities(void)
{
	struct bench b;

	bench_init(&b);
	ipi(&b, 1, 0, 0x4031);
	g_assert_true(b.intr[0]);
	ipi(&b, 1, 0, 0x4045);
	ipi(&b, 1, 0, 0x4041);
	g_assert_cmphex(rd(&b, 0, IRR + 0x20), ==, 0x22);
	g_assert_cmphex(rd(&b, 0, IRR + 0x10), ==, 0x20000);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x45);
	g_assert_cmphex(rd(&b, 0, PPR), ==, 0x40);
	/* The same class waits, a higher one does not. */
	g_assert_false(b.intr[0]);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, -1);
	ipi(&b, 1, 0, 0x4050);
	g_assert_true(b.intr[0]);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x50);
	g_assert_cmphex(rd(&b, 0, ISR + 0x20), ==, 0x10020);
	/* Ends go from the highest down. */
	wr(&b, 0, EOI, 0);
	g_assert_cmphex(rd(&b, 0, ISR + 0x20), ==, 0x20);
	wr(&b, 0, EOI, 0);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x41);
	wr(&b, 0, EOI, 0);
	/* The task priority holds off its class and all below. */
	wr(&b, 0, TPR, 0x30);
	g_assert_false(b.intr[0]);
	g_assert_cmphex(lapic_cr8_read(b.l, 0), ==, 3);
	lapic_cr8_write(b.l, 0, 2);
	g_assert_cmphex(rd(&b, 0, TPR), ==, 0x20);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x31);
	wr(&b, 0, EOI, 0);
	wr(&b, 0, EOI, 0);
	g_assert_cmpuint(b.eois, ==, 0);
	/* Software-disabled: nothing is accepted and LVT entries stay masked. */
	wr(&b, 0, SVR, 0xff);
	ipi(&b, 1, 0, 0x4060);
	g_assert_false(b.intr[0]);
	wr(&b, 0, LVT_TIMER, 0x40);
	g_assert_cmphex(rd(&b, 0, LVT_TIMER), ==, 0x10040);
	bench_finish(&b);
}

static void test_destinations(void)
{
	struct bench b;

	bench_init(&b);
	/* Physical: one, all; nobody has ID 5. */
	ipi(&b, 0, 2, 0x4040);
	g_assert_cmphex(take_all(&b, 0x40), ==, 4);
	ipi(&b, 0, 0xff, 0x4040);
	g_assert_cmphex(take_all(&b, 0x40), ==, 7);
	ipi(&b, 0, 5, 0x4040);
	g_assert_cmphex(take_all(&b, 0x40), ==, 0);
	/* Logical, flat: any of the bits. */
	ipi(&b, 0, 6, 0x4841);
	g_assert_cmphex(take_all(&b, 0x41), ==, 6);
	ipi(&b, 0, 0xff, 0x4841);
	g_assert_cmphex(take_all(&b, 0x41), ==, 7);
	/* Logical, clusters: 0 holds CPUs 0 and 1, 1 holds CPU 2. */
	for (unsigned i = 0; i < CPUS; i++) {
		wr(&b, i, DFR, 0x0fffffff);
		wr(&b, i, LDR, (i == 2 ? 0x11u : 1u << i) << 24);
	}
	ipi(&b, 0, 0x03, 0x4842);
	g_assert_cmphex(take_all(&b, 0x42), ==, 3);
	ipi(&b, 0, 0x11, 0x4842);
	g_assert_cmphex(take_all(&b, 0x42), ==, 4);
	ipi(&b, 0, 0x12, 0x4842);
	g_assert_cmphex(take_all(&b, 0x42), ==, 0);
	/* Shorthands: self, all, all but self. */
	ipi(&b, 1, 0, 0x44043);
	g_assert_cmphex(take_all(&b, 0x43), ==, 2);
	ipi(&b, 1, 0, 0x84043);
	g_assert_cmphex(take_all(&b, 0x43), ==, 7);
	ipi(&b, 1, 0, 0xc4043);
	g_assert_cmphex(take_all(&b, 0x43), ==, 5);
	/* Who has switched his APIC off hears nothing. */
	g_assert_true(lapic_msr_write(b.l, 2, 0x1b, 0xfee00000));
	ipi(&b, 0, 0, 0x84044);
	g_assert_cmphex(take_all(&b, 0x44), ==, 3);
	bench_finish(&b);
}

static void test_lowest(void)
{
	struct bench b;
	unsigned count[CPUS] = { 0 };

	bench_init(&b);
	/* Equals take turns; the busier ones are spared. */
	for (int i = 0; i < 9; i++) {
		unsigned who;

		ipi(&b, 0, 7, 0x4940);
		who = take_all(&b, 0x40);
		g_assert_true(who == 1 || who == 2 || who == 4);
		count[who >> 1]++;
	}
	for (unsigned i = 0; i < CPUS; i++)
		g_assert_cmpuint(count[i], ==, 3);
	wr(&b, 0, TPR, 0x20);
	wr(&b, 2, TPR, 0x20);
	for (int i = 0; i < 3; i++) {
		ipi(&b, 0, 7, 0x4940);
		g_assert_cmphex(take_all(&b, 0x40), ==, 2);
	}
	bench_finish(&b);
}

static void test_special_ipis(void)
{
	struct bench b;

	bench_init(&b);
	ipi(&b, 0, 1, 0x4400);
	g_assert_cmpuint(b.nmis[1], ==, 1);
	/* The start of other processors as firmware does it: INIT, its end, two start-ups, to all but self. */
	ipi(&b, 0, 0, 0xcc500);
	ipi(&b, 0, 0, 0xc8500);
	ipi(&b, 0, 0, 0xc4612);
	ipi(&b, 0, 0, 0xc4612);
	for (unsigned i = 0; i < CPUS; i++) {
		g_assert_cmpuint(b.inits[i], ==, i ? 1 : 0);
		g_assert_cmpuint(b.sipis[i], ==, i ? 2 : 0);
	}
	g_assert_cmphex(b.sipi_vector, ==, 0x12);
	/* Vectors below 16 are errors, at both ends. */
	wr(&b, 0, LVT_ERROR, 0xe0);
	ipi(&b, 0, 1, 0x4005);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0xe0);
	wr(&b, 0, EOI, 0);
	g_assert_cmphex(rd(&b, 0, ESR), ==, 0);
	wr(&b, 0, ESR, 0);
	g_assert_cmphex(rd(&b, 0, ESR), ==, 0x20);
	wr(&b, 0, ESR, 0);
	g_assert_cmphex(rd(&b, 0, ESR), ==, 0);
	lapic_bus_deliver_msi(b.l, 0xfee00000, 0x03);
	wr(&b, 0, ESR, 0);
	g_assert_cmphex(rd(&b, 0, ESR), ==, 0x40);
	wr(&b, 0, VERSION, 0);
	wr(&b, 0, ESR, 0);
	g_assert_cmphex(rd(&b, 0, ESR), ==, 0x80);
	bench_finish(&b);
}

static void test_timer(void)
{
	struct bench b;
	struct device *d;

	/* One tick a nanosecond, undivided. */
	bench_init(&b);
	wr(&b, 0, TIMER_DIVIDE, 0xb);
	wr(&b, 0, LVT_TIMER, 0x40);
	wr(&b, 0, TIMER_INIT, 100000);
	clock_advance(b.clock, 40000);
	g_assert_cmpuint(rd(&b, 0, TIMER_NOW), ==, 60000);
	/* Another divider: the rest goes on at its rate. */
	wr(&b, 0, TIMER_DIVIDE, 0x0);
	clock_advance(b.clock, 60000);
	g_assert_cmpuint(rd(&b, 0, TIMER_NOW), ==, 30000);
	g_assert_cmphex(take_all(&b, 0x40), ==, 0);
	clock_advance(b.clock, 60000);
	g_assert_cmphex(take_all(&b, 0x40), ==, 1);
	g_assert_cmpuint(rd(&b, 0, TIMER_NOW), ==, 0);
	/* An ended count stays ended: over a change of the mode, and over a saved state. */
	wr(&b, 0, LVT_TIMER, 0x20040);
	wr(&b, 0, LVT_TIMER, 0x40);
	d = lapic_bus_device(b.l);
	device_check_restore(d, device_save(d));
	clock_advance(b.clock, 10000000);
	g_assert_cmphex(take_all(&b, 0x40), ==, 0);
	/* Periodic; masked it counts on in silence. */
	wr(&b, 0, TIMER_DIVIDE, 0xb);
	wr(&b, 0, LVT_TIMER, 0x20041);
	wr(&b, 0, TIMER_INIT, 1000000);
	for (int i = 0; i < 3; i++) {
		clock_advance(b.clock, 1000000);
		g_assert_cmphex(take_all(&b, 0x41), ==, 1);
	}
	wr(&b, 0, LVT_TIMER, 0x30041);
	clock_advance(b.clock, 1500000);
	g_assert_cmphex(take_all(&b, 0x41), ==, 0);
	g_assert_cmpuint(rd(&b, 0, TIMER_NOW), ==, 500000);
	wr(&b, 0, LVT_TIMER, 0x20041);
	device_check_restore(d, device_save(d));
	clock_advance(b.clock, 500000);
	g_assert_cmphex(take_all(&b, 0x41), ==, 1);
	wr(&b, 0, TIMER_INIT, 0);
	clock_advance(b.clock, 5000000);
	g_assert_cmphex(take_all(&b, 0x41), ==, 0);
	bench_finish(&b);
}

static void test_deadline(void)
{
	struct bench b;
	uint64_t v;

	bench_init(&b);
	/* Without its mode the deadline is not kept. */
	g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, 1000));
	g_assert_true(lapic_msr_read(b.l, 0, 0x6e0, &v));
	g_assert_cmpuint(v, ==, 0);
	wr(&b, 0, LVT_TIMER, 0x40042);
	wr(&b, 0, TIMER_INIT, 1000);
	g_assert_cmpuint(rd(&b, 0, TIMER_NOW), ==, 0);
	g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, 2000000));
	clock_advance(b.clock, 999999);
	g_assert_cmphex(take_all(&b, 0x42), ==, 0);
	g_assert_true(lapic_msr_read(b.l, 0, 0x6e0, &v));
	g_assert_cmpuint(v, ==, 2000000);
	clock_advance(b.clock, 2);
	g_assert_cmphex(take_all(&b, 0x42), ==, 1);
	g_assert_true(lapic_msr_read(b.l, 0, 0x6e0, &v));
	g_assert_cmpuint(v, ==, 0);
	/* In the past: at once. Zero: not at all. */
	g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, 1));
	clock_advance(b.clock, 1);
	g_assert_cmphex(take_all(&b, 0x42), ==, 1);
	g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, 8000000));
	g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, 0));
	clock_advance(b.clock, 10000000);
	g_assert_cmphex(take_all(&b, 0x42), ==, 0);
	/* The guest sets its TSC: past the deadline, then back before it. */
	for (unsigned i = 0; i < 2; i++) {
		uint64_t now = tsc_now(&b, 0);

		g_assert_true(lapic_msr_write(b.l, 0, 0x6e0, now + 2000000));
		b.tsc_adjust += i ? UINT64_C(-2000000) : 2000000;
		lapic_tsc_changed(b.l, 0);
		clock_advance(b.clock, i ? 1999999 : 1);
		g_assert_cmphex(take_all(&b, 0x42), ==, !i);
		clock_advance(b.clock, 2);
		g_assert_cmphex(take_all(&b, 0x42), ==, i);
	}
	bench_finish(&b);
}

static void test_x2apic(void)
{
	struct bench b;
	uint64_t v;

	bench_init(&b);
	g_assert_false(lapic_msr_read(b.l, 1, 0x802, &v));
	/* x2APIC needs the APIC on; the way back leads through off. */
	g_assert_false(lapic_msr_write(b.l, 1, 0x1b, 0xfee00400));
	for (unsigned i = 0; i < CPUS; i++)
		g_assert_true(lapic_msr_write(b.l, i, 0x1b, 0xfee00c00));
	g_assert_false(lapic_msr_write(b.l, 1, 0x1b, 0xfee00800));
	g_assert_true(lapic_msr_read(b.l, 0, 0x1b, &v));
	g_assert_cmphex(v, ==, 0xfee00d00);
	g_assert_true(lapic_msr_read(b.l, 1, 0x1b, &v));
	g_assert_cmphex(v, ==, 0xfee00c00);
	g_assert_true(lapic_msr_read(b.l, 2, 0x802, &v));
	g_assert_cmphex(v, ==, 2);
	g_assert_true(lapic_msr_read(b.l, 2, 0x80d, &v));
	g_assert_cmphex(v, ==, 4);
	/* The page is gone; so are some registers; others cannot be written. */
	g_assert_cmphex(rd(&b, 1, VERSION), ==, 0xffffffff);
	g_assert_false(lapic_msr_read(b.l, 1, 0x80e, &v));
	g_assert_false(lapic_msr_read(b.l, 1, 0x831, &v));
	g_assert_false(lapic_msr_write(b.l, 1, 0x80d, 0xff000000));
	g_assert_false(lapic_msr_write(b.l, 1, 0x80e, 0));
	g_assert_false(lapic_msr_write(b.l, 1, 0x802, 0));
	g_assert_false(lapic_msr_write(b.l, 1, 0x808, 0x100));
	g_assert_false(lapic_msr_write(b.l, 1, 0x80b, 1));
	g_assert_false(lapic_msr_write(b.l, 1, 0x80f, UINT64_C(1) << 32));
	/* A 64-bit ICR; physical, logical, self. */
	g_assert_true(lapic_msr_write(b.l, 0, 0x830, UINT64_C(2) << 32 | 0x4050));
	g_assert_cmpint(lapic_ack(b.l, 2), ==, 0x50);
	g_assert_true(lapic_msr_write(b.l, 2, 0x80b, 0));
	g_assert_true(lapic_msr_write(b.l, 0, 0x830, UINT64_C(6) << 32 | 0x4851));
	g_assert_false(b.intr[0]);
	g_assert_cmpint(lapic_ack(b.l, 1), ==, 0x51);
	g_assert_cmpint(lapic_ack(b.l, 2), ==, 0x51);
	g_assert_true(lapic_msr_write(b.l, 0, 0x830, UINT64_C(0xffffffff) << 32 | 0x4060));
	g_assert_true(b.intr[0] && b.intr[1] && b.intr[2]);
	g_assert_true(lapic_msr_write(b.l, 0, 0x83f, 0x70));
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x70);
	g_assert_false(lapic_msr_read(b.l, 0, 0x83f, &v));
	/* What failed has changed nothing: back in xAPIC mode the logical ID is the old one. */
	g_assert_true(lapic_msr_write(b.l, 1, 0x1b, 0xfee00000));
	g_assert_true(lapic_msr_write(b.l, 1, 0x1b, 0xfee00800));
	g_assert_cmphex(rd(&b, 1, LDR), ==, 0x02000000);
	bench_finish(&b);
}

static void test_extint(void)
{
	struct bench b;

	/* Virtual wire: the PIC reaches the boot processor through LINT0, and past an APIC that is off. */
	bench_init(&b);
	lapic_set_extint(b.l, true);
	g_assert_false(b.intr[0]);
	wr(&b, 0, LVT_LINT0, 0x700);
	g_assert_true(b.intr[0]);
	g_assert_false(b.intr[1]);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x77);
	g_assert_cmphex(rd(&b, 0, ISR + 0x30), ==, 0);
	lapic_set_extint(b.l, false);
	g_assert_false(b.intr[0]);
	lapic_set_extint(b.l, true);
	wr(&b, 0, LVT_LINT0, 0x10700);
	g_assert_false(b.intr[0]);
	g_assert_true(lapic_msr_write(b.l, 0, 0x1b, 0xfee00000));
	g_assert_true(b.intr[0]);
	bench_finish(&b);
}

static void redirect(struct bench *b, unsigned pin, uint32_t low, uint32_t dest)
{
	space_write(b->mmio, IOAPIC, 4, 0x11 + 2 * pin);
	space_write(b->mmio, IOAPIC + 0x10, 4, dest << 24);
	space_write(b->mmio, IOAPIC, 4, 0x10 + 2 * pin);
	space_write(b->mmio, IOAPIC + 0x10, 4, low);
}

static uint32_t entry(struct bench *b, unsigned pin)
{
	space_write(b->mmio, IOAPIC, 4, 0x10 + 2 * pin);
	return (uint32_t)space_read(b->mmio, IOAPIC + 0x10, 4);
}

static void test_ioapic(void)
{
	struct bench b;

	bench_init(&b);
	space_write(b.mmio, IOAPIC, 1, 1);
	g_assert_cmphex(space_read(b.mmio, IOAPIC + 0x10, 4), ==, 0x00170020);
	g_assert_cmphex(entry(&b, 5), ==, 0x10000);
	/* Edges: one message each; masked ones are lost. */
	ioapic_set_irq(b.io, 5, true);
	redirect(&b, 5, 0x55, 1);
	g_assert_cmphex(take_all(&b, 0x55), ==, 0);
	ioapic_set_irq(b.io, 5, false);
	ioapic_set_irq(b.io, 5, true);
	ioapic_set_irq(b.io, 5, true);
	g_assert_cmphex(take_all(&b, 0x55), ==, 2);
	g_assert_cmpuint(b.eois, ==, 0);
	/* Levels: remote IRR until the end, and again while the line is up. */
	redirect(&b, 10, 0xa060, 2);
	ioapic_set_irq(b.io, 10, true);
	g_assert_cmphex(entry(&b, 10), ==, 0xe060);
	g_assert_cmpint(lapic_ack(b.l, 2), ==, 0x60);
	g_assert_cmphex(rd(&b, 2, TMR + 0x30), ==, 1);
	g_assert_false(b.intr[2]);
	wr(&b, 2, EOI, 0);
	g_assert_cmpuint(b.eois, ==, 1);
	g_assert_cmphex(b.eoi_vector, ==, 0x60);
	g_assert_true(b.intr[2]);
	g_assert_cmpint(lapic_ack(b.l, 2), ==, 0x60);
	ioapic_set_irq(b.io, 10, false);
	g_assert_cmphex(entry(&b, 10), ==, 0xe060);
	wr(&b, 2, EOI, 0);
	g_assert_cmphex(entry(&b, 10), ==, 0xa060);
	g_assert_false(b.intr[2]);
	/* Masked while up: comes when unmasked. The read-only bits cannot be written. */
	redirect(&b, 10, 0x1f060, 2);
	g_assert_cmphex(entry(&b, 10), ==, 0x1a060);
	ioapic_set_irq(b.io, 10, true);
	g_assert_false(b.intr[2]);
	redirect(&b, 10, 0xa060, 2);
	g_assert_true(b.intr[2]);
	ioapic_set_irq(b.io, 10, false);
	/* The EOI register ends without a processor. */
	space_write(b.mmio, IOAPIC + 0x40, 4, 0x60);
	g_assert_cmphex(entry(&b, 10), ==, 0xa060);
	/* Logical destinations and NMI. */
	redirect(&b, 6, 0x0866, 5);
	ioapic_set_irq(b.io, 6, true);
	g_assert_cmpint(lapic_ack(b.l, 0), ==, 0x66);
	redirect(&b, 7, 0x400, 1);
	ioapic_set_irq(b.io, 7, true);
	g_assert_cmpuint(b.nmis[1], ==, 1);
	bench_finish(&b);
}

static void test_state(void)
{
	struct bench b;
	struct device *l, *io;
	GByteArray *ls, *ios;

	bench_init(&b);
	l = lapic_bus_device(b.l);
	io = ioapic_device(b.io);
	redirect(&b, 10, 0xa060, 2);
	ioapic_set_irq(b.io, 10, true);
	ipi(&b, 0, 1, 0x4070);
	lapic_ack(b.l, 1);
	ls = device_save(l);
	ios = device_save(io);
	l->ops->reset(l);
	io->ops->reset(io);
	g_assert_false(b.intr[2]);
	device_check_restore(l, ls);
	device_check_restore(io, ios);
	g_assert_true(b.intr[2]);
	g_assert_cmphex(rd(&b, 1, ISR + 0x30), ==, 0x10000);
	g_assert_cmpint(lapic_ack(b.l, 2), ==, 0x60);
	wr(&b, 2, EOI, 0);
	g_assert_true(b.intr[2]);
	bench_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/apic/priorities", test_priorities);
	g_test_add_func("/apic/destinations", test_destinations);
	g_test_add_func("/apic/lowest", test_lowest);
	g_test_add_func("/apic/special-ipis", test_special_ipis);
	g_test_add_func("/apic/timer", test_timer);
	g_test_add_func("/apic/deadline", test_deadline);
	g_test_add_func("/apic/x2apic", test_x2apic);
	g_test_add_func("/apic/extint", test_extint);
	g_test_add_func("/apic/ioapic", test_ioapic);
	g_test_add_func("/apic/state", test_state);
	return g_test_run();
}
