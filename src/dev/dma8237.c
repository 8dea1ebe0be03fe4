/*
 * Two cascaded 8237A controllers and the page registers of the AT: Intel 8237A data sheet; IBM PC AT
 * Technical Reference, "DMA". A channel moves its data when the chip on it asks, as in demand mode.
 */
#include "dev/dma8237.h"

#include <string.h>

#include "base/bytes.h"

#define MODE_TYPE 0x0c
#define MODE_WRITE 0x04 /* to memory */
#define MODE_READ 0x08
#define MODE_AUTO 0x10
#define MODE_DOWN 0x20

#define COMMAND_OFF 0x04

struct channel {
	uint16_t base_addr, base_count;
	uint16_t addr, count;
	uint8_t mode;
};

struct controller {
	struct dma8237 *dma;
	unsigned index; /* 1: words, registers at every second port */
	struct channel channel[4];
	uint8_t command, mask, status, request, temporary;
	bool high; /* the flip-flop: the high byte comes next */
};

struct client {
	void (*ready)(void *opaque);
	void *opaque;
};

struct dma8237 {
	struct device device;
	struct mem *mem;
	struct region *registers[2], *pages_region;
	struct controller controller[2];
	struct client client[8];
	uint8_t pages[16]; /* ports 0x80 to 0x8f */
};

/* Which page register a channel has; channel 4 is the cascade. */
static const uint8_t page_of[8] = { 0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa };

/* ---- moving data ---- */

static void tell_ready(struct dma8237 *d, unsigned channel)
{
	struct controller *c = &d->controller[channel / 4];

	if (!(c->mask >> (channel & 3) & 1) && !(c->command & COMMAND_OFF) && d->client[channel].ready)
		d->client[channel].ready(d->client[channel].opaque);
}

static uint64_t address(const struct dma8237 *d, unsigned channel)
{
	const struct channel *ch = &d->controller[channel / 4].channel[channel & 3];
	uint64_t page = d->pages[page_of[channel]];

	/* The word controller's addresses are those of words; the page never changes. */
	return channel < 4 ? page << 16 | ch->addr : (page & 0xfe) << 16 | (uint64_t)ch->addr << 1;
}

/* One byte or word more is done. True at the end of the count. */
static bool count_down(struct controller *c, unsigned n)
{
	struct channel *ch = &c->channel[n];

	ch->addr = (uint16_t)(ch->mode & MODE_DOWN ? ch->addr - 1 : ch->addr + 1);
	if (ch->count--)
		return false;
	c->status |= 1u << n;
	if (ch->mode & MODE_AUTO) {
		ch->addr = ch->base_addr;
		ch->count = ch->base_count;
	} else {
		c->mask |= 1u << n;
	}
	return true;
}

static size_t move(struct dma8237 *d, unsigned channel, uint8_t *p, size_t len, uint8_t type, bool *end)
{
	struct controller *c = &d->controller[channel / 4];
	const struct channel *ch = &c->channel[channel & 3];
	unsigned unit = channel < 4 ? 1 : 2;
	size_t done = 0;

	*end = false;
	if (d->controller[1].command & COMMAND_OFF || (channel < 4 && (d->controller[1].mask & 1)))
		return 0;
	while (done + unit <= len && !*end && !(c->mask >> (channel & 3) & 1) && !(c->command & COMMAND_OFF)) {
		uint8_t mode = ch->mode & MODE_TYPE;
		bool ok = true;

		if (mode == MODE_WRITE && type == MODE_WRITE)
			ok = mem_write(d->mem, address(d, channel), p + done, unit);
		else if (mode == MODE_READ && type == MODE_READ)
			ok = mem_read(d->mem, address(d, channel), p + done, unit);
		else if (mode != 0)
			break; /* the other direction: nobody answers */
		if (!ok)
			memset(p + done, 0xff, unit);
		*end = count_down(c, channel & 3);
		done += unit;
	}
	return done;
}

size_t dma8237_to_memory(struct dma8237 *d, unsigned channel, const void *p, size_t len, bool *end)
{
	return move(d, channel & 7, (uint8_t *)p, len, MODE_WRITE, end);
}

size_t dma8237_from_memory(struct dma8237 *d, unsigned channel, void *p, size_t len, bool *end)
{
	return move(d, channel & 7, p, len, MODE_READ, end);
}

void dma8237_attach(struct dma8237 *d, unsigned channel, void (*ready)(void *opaque), void *opaque)
{
	d->client[channel & 7] = (struct client){ ready, opaque };
}

/* ---- registers ---- */

static void controller_clear(struct controller *c)
{
	c->command = c->status = c->request = c->temporary = 0;
	c->mask = 15;
	c->high = false;
}

static void set_mask(struct controller *c, uint8_t mask)
{
	uint8_t opened = c->mask & ~mask;

	c->mask = mask & 15;
	for (unsigned i = 0; i < 4; i++)
		if (opened >> i & 1)
			tell_ready(c->dma, c->index * 4 + i);
	/* The word controller's channel 0 lets the other one through. */
	if (c->index == 1 && (opened & 1))
		for (unsigned i = 0; i < 4; i++)
			tell_ready(c->dma, i);
}

static uint8_t read_half(struct controller *c, uint16_t v)
{
	uint8_t half = (uint8_t)(c->high ? v >> 8 : v);

	c->high = !c->high;
	return half;
}

static uint16_t write_half(struct controller *c, uint16_t old, uint8_t v)
{
	uint16_t whole = (uint16_t)(c->high ? (old & 0x00ff) | v << 8 : (old & 0xff00) | v);

	c->high = !c->high;
	return whole;
}

static void write_channel(struct controller *c, unsigned reg, uint8_t v)
{
	struct channel *ch = &c->channel[reg >> 1];

	if (reg & 1)
		ch->base_count = ch->count = write_half(c, ch->base_count, v);
	else
		ch->base_addr = ch->addr = write_half(c, ch->base_addr, v);
}

static uint64_t controller_read(void *opaque, uint64_t offset, unsigned len)
{
	struct controller *c = opaque;
	unsigned reg = (unsigned)offset >> c->index;
	uint8_t v;

	if (reg < 8)
		return read_half(c, reg & 1 ? c->channel[reg >> 1].count : c->channel[reg >> 1].addr);
	switch (reg) {
	case 0x8:
		v = (uint8_t)(c->status | c->request << 4);
		c->status = 0;
		return v;
	case 0xd: return c->temporary;
	case 0xf: return c->mask | 0xf0;
	default: return 0xff;
	}
}

static void controller_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct controller *c = opaque;
	unsigned reg = (unsigned)offset >> c->index;
	uint8_t v = (uint8_t)value, bit = (uint8_t)(1u << (v & 3));

	if (reg < 8) {
		write_channel(c, reg, v);
		return;
	}
	switch (reg) {
	case 0x8: c->command = v; break;
	case 0x9: c->request = (uint8_t)(v & 4 ? c->request | bit : c->request & ~bit); break;
	case 0xa: set_mask(c, (uint8_t)(v & 4 ? c->mask | bit : c->mask & ~bit)); break;
	case 0xb: c->channel[v & 3].mode = v & 0xfc; break;
	case 0xc: c->high = false; break;
	case 0xd: controller_clear(c); break;
	case 0xe: set_mask(c, 0); break;
	case 0xf: set_mask(c, v); break;
	}
}

static uint64_t pages_read(void *opaque, uint64_t offset, unsigned len)
{
	return ((struct dma8237 *)opaque)->pages[offset & 15];
}

static void pages_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	((struct dma8237 *)opaque)->pages[offset & 15] = (uint8_t)value;
}

static const struct region_ops controller_ops = { controller_read, controller_write, 1, 1 };
static const struct region_ops pages_ops = { pages_read, pages_write, 1, 1 };

/* ---- life ---- */

static void dma8237_reset(struct device *dev)
{
	struct dma8237 *d = (struct dma8237 *)dev;

	memset(d->pages, 0, sizeof(d->pages));
	for (unsigned i = 0; i < 2; i++) {
		memset(d->controller[i].channel, 0, sizeof(d->controller[i].channel));
		controller_clear(&d->controller[i]);
	}
	/* The cascade lets the byte channels through, as after firmware: a kernel may be started without any. */
	d->controller[1].channel[0].mode = 0xc0;
	d->controller[1].mask = 0x0e;
}

static int dma8237_state(struct device *dev, struct state *s)
{
	struct dma8237 *d = (struct dma8237 *)dev;

	state_bytes(s, "pages", d->pages, sizeof(d->pages));
	for (unsigned i = 0; i < 2; i++) {
		struct controller *c = &d->controller[i];

		for (unsigned n = 0; n < 4; n++) {
			state_u16(s, "base_addr", &c->channel[n].base_addr);
			state_u16(s, "base_count", &c->channel[n].base_count);
			state_u16(s, "addr", &c->channel[n].addr);
			state_u16(s, "count", &c->channel[n].count);
			state_u8(s, "mode", &c->channel[n].mode);
		}
		state_u8(s, "command", &c->command);
		state_u8(s, "mask", &c->mask);
		state_u8(s, "status", &c->status);
		state_u8(s, "request", &c->request);
		state_bool(s, "high", &c->high);
	}
	return state_error(s);
}

static void dma8237_destroy(struct device *dev)
{
	struct dma8237 *d = (struct dma8237 *)dev;

	region_destroy(d->registers[0]);
	region_destroy(d->registers[1]);
	region_destroy(d->pages_region);
	g_free(d);
}

static const struct device_ops ops = { "dma8237", 1, dma8237_reset, dma8237_state, dma8237_destroy };

struct dma8237 *dma8237_create(struct space *ports, struct mem *mem)
{
	struct dma8237 *d = g_new0(struct dma8237, 1);

	d->device = (struct device){ .ops = &ops, .id = "dma" };
	d->mem = mem;
	for (unsigned i = 0; i < 2; i++) {
		d->controller[i].dma = d;
		d->controller[i].index = i;
	}
	d->registers[0] = space_add(ports, "dma-bytes", 0x00, 0x10, &controller_ops, &d->controller[0]);
	d->registers[1] = space_add(ports, "dma-words", 0xc0, 0x20, &controller_ops, &d->controller[1]);
	d->pages_region = space_add(ports, "dma-pages", 0x80, 0x10, &pages_ops, d);
	dma8237_reset(&d->device);
	return d;
}

struct device *dma8237_device(struct dma8237 *d)
{
	return &d->device;
}
