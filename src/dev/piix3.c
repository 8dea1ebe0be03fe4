/*
 * The PCI-to-ISA bridge of the 82371SB (8086:7000): PIRQ route control.
 * Intel 82371FB/82371SB data sheet, 2.2.
 */
#include "dev/piix3.h"

#include <string.h>

#define PIRQRC 0x60

struct piix3 {
	struct pci_dev pci;
	struct irq isa[16];
	bool pirq[4];
	uint16_t driven; /* ISA lines held high by PCI */
};

static void route(struct piix3 *p)
{
	uint16_t now = 0, changed;

	for (unsigned i = 0; i < 4; i++) {
		uint8_t r = p->pci.config[PIRQRC + i];

		if (p->pirq[i] && !(r & 0x80))
			now |= 1u << (r & 15);
	}
	now &= 0xdef8; /* 0, 1, 2, 8 and 13 are reserved */
	changed = now ^ p->driven;
	p->driven = now;
	for (unsigned i = 0; i < 16; i++)
		if (changed >> i & 1)
			irq_set(&p->isa[i], now >> i & 1);
}

static void pirq_set(void *opaque, int line, bool level)
{
	struct piix3 *p = opaque;

	p->pirq[line & 3] = level;
	route(p);
}

struct irq piix3_pirq(struct piix3 *p, unsigned line)
{
	return (struct irq){ pirq_set, p, (int)(line & 3) };
}

static void config_written(struct pci_dev *pci, unsigned offset, unsigned len)
{
	if (offset < PIRQRC + 4 && offset + len > PIRQRC)
		route((struct piix3 *)pci);
}

static void set_defaults(struct piix3 *p)
{
	uint8_t *c = p->pci.config;

	c[4] = 0x07;
	c[7] = 0x02;
	c[0x4c] = 0x4d;
	c[0x4e] = 0x03;
	c[0x69] = 0x02;
	c[0x70] = 0x80;
	memset(&c[PIRQRC], 0x80, 4);
}

static void piix3_reset(struct device *d)
{
	struct piix3 *p = (struct piix3 *)d;

	pci_dev_reset(&p->pci);
	set_defaults(p);
	route(p);
}

static int piix3_state(struct device *d, struct state *s)
{
	struct piix3 *p = (struct piix3 *)d;

	pci_dev_state(&p->pci, s);
	for (unsigned i = 0; i < 4; i++)
		state_bool(s, "pirq", &p->pirq[i]);
	if (state_loading(s) && !state_error(s))
		route(p);
	return state_error(s);
}

static void piix3_destroy(struct device *d)
{
	struct piix3 *p = (struct piix3 *)d;

	if (p->pci.bus)
		pci_dev_finish(&p->pci);
	g_free(p);
}

static const struct device_ops ops = { "piix3", 1, piix3_reset, piix3_state, piix3_destroy };

struct piix3 *piix3_create(const struct irq isa[16])
{
	struct piix3 *p = g_new0(struct piix3, 1);

	p->pci.device = (struct device){ .ops = &ops, .id = "piix3" };
	memcpy(p->isa, isa, sizeof(p->isa));
	memset(&p->pci.config[PIRQRC], 0x80, 4);
	return p;
}

int piix3_plug(struct piix3 *p, struct pci_bus *bus, unsigned devfn)
{
	static const struct pci_ids ids = { 0x8086, 0x7000, 0x1af4, 0x1100, 0x060100, 0 };
	int err = pci_dev_init(&p->pci, bus, devfn, &ids, 0);

	if (err) {
		p->pci.bus = NULL;
		return err;
	}
	p->pci.config_written = config_written;
	p->pci.config[0x0e] = 0x80; /* multi-function: IDE is function 1 */
	memset(&p->pci.wmask[PIRQRC], 0x8f, 4);
	p->pci.wmask[0x4c] = 0xff;
	p->pci.wmask[0x4e] = 0xff;
	p->pci.wmask[0x4f] = 0xff;
	p->pci.wmask[0x69] = 0xff;
	p->pci.wmask[0x6a] = 0xff;
	p->pci.wmask[0x82] = 0xff;
	set_defaults(p);
	return 0;
}

struct device *piix3_device(struct piix3 *p)
{
	return &p->pci.device;
}
