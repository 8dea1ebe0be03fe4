/* The 8259A pair: priorities, edge and level inputs, special modes (Intel 8259A datasheet). */
#include "dev/pic.h"

#include <glib.h>

#define CASCADE 2
#define ICW1_INIT 0x10
#define ICW1_ICW4 0x01
#define ICW1_SINGLE 0x02
#define ICW4_AUTO_EOI 0x02
#define ICW4_NESTED 0x10
#define OCW3 0x08

struct chip {
	uint8_t lines;    /* input levels */
	uint8_t irr, imr, isr;
	uint8_t elcr, elcr_mask;
	uint8_t base;     /* vector of input 0 */
	uint8_t priority; /* input of the highest priority */
	uint8_t init;     /* the ICW that is awaited; 0 outside of initialisation */
	bool single, icw4, auto_eoi, rotate_auto_eoi, nested, special_mask, read_isr, poll;
	bool output;
};

struct pic {
	struct device device; /* must be first */
	struct chip chip[2];
	struct irq intr;
	struct region *region[3];
};

/* Inputs in order of priority: 0 is the highest; 8 when there is none. */
static unsigned rank_of(const struct chip *c, uint8_t mask)
{
	unsigned rank = 0;

	while (rank < 8 && !(mask >> ((rank + c->priority) & 7) & 1))
		rank++;
	return rank;
}

/* The input to serve now, or -1. */
static int chip_pending(const struct chip *c, bool master)
{
	unsigned rank = rank_of(c, c->irr & ~c->imr);
	uint8_t busy = c->isr;
	unsigned current;

	if (rank == 8)
		return -1;
	if (c->special_mask)
		busy &= (uint8_t)~c->imr;
	/* In special fully nested mode the slave's further requests are not held off by itself. */
	if (c->nested && master)
		busy &= (uint8_t)~(1 << CASCADE);
	current = rank_of(c, busy);
	return rank < current ? (int)((rank + c->priority) & 7) : -1;
}

static void pic_update(struct pic *p)
{
	struct chip *m = &p->chip[0];
	bool slave = chip_pending(&p->chip[1], false) >= 0;

	if (slave)
		m->irr |= 1 << CASCADE;
	else
		m->irr &= (uint8_t)~(1 << CASCADE);
	p->chip[1].output = slave;
	m->output = chip_pending(m, true) >= 0;
	irq_set(&p->intr, m->output);
}

void pic_set_irq(struct pic *p, int line, bool level)
{
	struct chip *c = &p->chip[line >> 3 & 1];
	uint8_t bit = (uint8_t)(1 << (line & 7));

	if (level) {
		if ((c->elcr & bit) || !(c->lines & bit))
			c->irr |= bit;
		c->lines |= bit;
	} else {
		c->lines &= (uint8_t)~bit;
		/* An edge input's request is withdrawn as well when the line falls before the acknowledge. */
		c->irr &= (uint8_t)~bit;
	}
	pic_update(p);
}

static void chip_take(struct chip *c, int input)
{
	uint8_t bit = (uint8_t)(1 << input);

	if (!(c->elcr & bit))
		c->irr &= (uint8_t)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto_eoi)
		c->priority = (uint8_t)((input + 1) & 7);
}

int pic_ack(struct pic *p)
{
	int input = chip_pending(&p->chip[0], true), vector;

	if (input < 0) {
		vector = p->chip[0].base + 7;
	} else if (input == CASCADE) {
		int second = chip_pending(&p->chip[1], false);

		vector = p->chip[1].base + (second < 0 ? 7 : second);
		if (second >= 0)
			chip_take(&p->chip[1], second);
		chip_take(&p->chip[0], CASCADE);
	} else {
		vector = p->chip[0].base + input;
		chip_take(&p->chip[0], input);
	}
	pic_update(p);
	return vector;
}

/* ---- registers ---- */

static void write_icw1(struct chip *c, uint8_t value)
{
	uint8_t elcr = c->elcr, mask = c->elcr_mask, lines = c->lines;

	*c = (struct chip){ .elcr = elcr, .elcr_mask = mask, .lines = lines, .init = 2 };
	/* Level inputs that are up ask again; edges are forgotten. */
	c->irr = lines & elcr;
	c->single = value & ICW1_SINGLE;
	c->icw4 = value & ICW1_ICW4;
}

static void write_ocw2(struct chip *c, uint8_t value)
{
	unsigned command = value >> 5, input = value & 7;

	switch (command) {
	case 0:
	case 4:
		c->rotate_auto_eoi = command == 4;
		break;
	case 1: /* non-specific EOI */
	case 5: {
		unsigned rank = rank_of(c, c->isr);

		if (rank == 8)
			break;
		input = (rank + c->priority) & 7;
		c->isr &= (uint8_t)~(1 << input);
		if (command == 5)
			c->priority = (uint8_t)((input + 1) & 7);
		break;
	}
	case 3: /* specific EOI */
	case 7:
		c->isr &= (uint8_t)~(1 << input);
		if (command == 7)
			c->priority = (uint8_t)((input + 1) & 7);
		break;
	case 6:
		c->priority = (uint8_t)((input + 1) & 7);
		break;
	default:
		break;
	}
}

static void write_command(struct chip *c, uint8_t value)
{
	if (value & ICW1_INIT) {
		write_icw1(c, value);
	} else if (value & OCW3) {
		c->poll = value & 4;
		if (value & 2)
			c->read_isr = value & 1;
		if (value & 0x40)
			c->special_mask = value & 0x20;
	} else {
		write_ocw2(c, value);
	}
}

static void write_data(struct chip *c, uint8_t value)
{
	switch (c->init) {
	case 2:
		c->base = value & 0xf8;
		c->init = c->single ? (c->icw4 ? 4 : 0) : 3;
		break;
	case 3:
		c->init = c->icw4 ? 4 : 0;
		break;
	case 4:
		c->auto_eoi = value & ICW4_AUTO_EOI;
		c->nested = value & ICW4_NESTED;
		c->init = 0;
		break;
	default:
		c->imr = value;
		break;
	}
}

static void chip_write(struct pic *p, unsigned n, uint64_t offset, uint64_t value)
{
	if (offset == 0)
		write_command(&p->chip[n], (uint8_t)value);
	else
		write_data(&p->chip[n], (uint8_t)value);
	pic_update(p);
}

static uint64_t chip_read(struct pic *p, unsigned n, uint64_t offset)
{
	struct chip *c = &p->chip[n];

	if (c->poll) {
		int input = chip_pending(c, n == 0);

		c->poll = false;
		if (input < 0)
			return 0;
		chip_take(c, input);
		pic_update(p);
		return 0x80 | (uint8_t)input;
	}
	if (offset)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static uint64_t master_read(void *o, uint64_t offset, unsigned len) { return chip_read(o, 0, offset); }
static uint64_t slave_read(void *o, uint64_t offset, unsigned len) { return chip_read(o, 1, offset); }
static void master_write(void *o, uint64_t offset, unsigned len, uint64_t v) { chip_write(o, 0, offset, v); }
static void slave_write(void *o, uint64_t offset, unsigned len, uint64_t v) { chip_write(o, 1, offset, v); }

static uint64_t elcr_read(void *o, uint64_t offset, unsigned len)
{
	return ((struct pic *)o)->chip[offset & 1].elcr;
}

static void elcr_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct chip *c = &((struct pic *)o)->chip[offset & 1];

	c->elcr = (uint8_t)value & c->elcr_mask;
}

/* ---- the contract ---- */

static void pic_reset(struct device *d)
{
	struct pic *p = (struct pic *)d;

	/* The timer, the keyboard, the cascade, the clock and the coprocessor are edges always. */
	p->chip[0] = (struct chip){ .elcr_mask = 0xf8, .lines = p->chip[0].lines };
	p->chip[1] = (struct chip){ .elcr_mask = 0xde, .lines = p->chip[1].lines };
	pic_update(p);
}

static void chip_state(struct state *s, struct chip *c)
{
	state_u8(s, "lines", &c->lines);
	state_u8(s, "irr", &c->irr);
	state_u8(s, "imr", &c->imr);
	state_u8(s, "isr", &c->isr);
	state_u8(s, "elcr", &c->elcr);
	state_u8(s, "base", &c->base);
	state_u8(s, "priority", &c->priority);
	state_u8(s, "init", &c->init);
	state_bool(s, "single", &c->single);
	state_bool(s, "icw4", &c->icw4);
	state_bool(s, "auto-eoi", &c->auto_eoi);
	state_bool(s, "rotate-auto-eoi", &c->rotate_auto_eoi);
	state_bool(s, "nested", &c->nested);
	state_bool(s, "special-mask", &c->special_mask);
	state_bool(s, "read-isr", &c->read_isr);
	state_bool(s, "poll", &c->poll);
	if (state_loading(s) && (c->priority > 7 || c->init > 4 || c->init == 1 || (c->base & 7) || (c->elcr & ~c->elcr_mask)))
		state_fail(s, "an 8259A register is out of range");
}

static int pic_state(struct device *d, struct state *s)
{
	struct pic *p = (struct pic *)d;

	chip_state(s, &p->chip[0]);
	chip_state(s, &p->chip[1]);
	if (state_loading(s) && !state_error(s))
		pic_update(p);
	return state_error(s);
}

static void pic_destroy(struct device *d)
{
	struct pic *p = (struct pic *)d;

	for (unsigned i = 0; i < 3; i++)
		region_destroy(p->region[i]);
	g_free(p);
}

static const struct device_ops pic_ops = { "i8259", 1, pic_reset, pic_state, pic_destroy };

struct pic *pic_create(struct space *ports, struct irq intr)
{
	static const struct region_ops master = { master_read, master_write, 1, 1 };
	static const struct region_ops slave = { slave_read, slave_write, 1, 1 };
	static const struct region_ops elcr = { elcr_read, elcr_write, 1, 1 };
	struct pic *p = g_new0(struct pic, 1);

	p->device.ops = &pic_ops;
	p->device.id = "pic";
	p->intr = intr;
	p->region[0] = space_add(ports, "pic-master", 0x20, 2, &master, p);
	p->region[1] = space_add(ports, "pic-slave", 0xa0, 2, &slave, p);
	p->region[2] = space_add(ports, "elcr", 0x4d0, 2, &elcr, p);
	pic_reset(&p->device);
	return p;
}

struct device *pic_device(struct pic *p)
{
	return &p->device;
}
