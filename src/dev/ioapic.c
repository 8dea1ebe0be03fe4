/* The 82093AA: redirection table, edge and level pins, remote IRR (Intel 82093AA datasheet). */
#include "dev/ioapic.h"

#include <glib.h>
#include <string.h>

#define PINS_MASK ((1u << IOAPIC_PINS) - 1)
#define ENTRY_VECTOR(e) ((uint8_t)(e))
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL (UINT64_C(1) << 15)
#define ENTRY_MASKED (UINT64_C(1) << 16)
#define ENTRY_READONLY (UINT64_C(1) << 12 | ENTRY_REMOTE_IRR)
#define ENTRY_RESERVED UINT64_C(0x00fffffffffe0000)

struct ioapic {
	struct device device; /* must be first */
	uint64_t entry[IOAPIC_PINS];
	uint32_t lines; /* levels */
	uint32_t edges; /* edges that came while masked */
	uint8_t select;
	uint8_t id;
	struct msi_sink sink;
	struct region *region;
	void (*route)(void *opaque, unsigned pin, uint64_t address, uint32_t data);
	void *route_opaque;
};

static uint64_t entry_address(uint64_t e)
{
	return UINT64_C(0xfee00000) | (e >> 56) << 12 | (e >> 11 & 1) << 2;
}

static uint32_t entry_data(uint64_t e)
{
	return ENTRY_VECTOR(e) | (uint32_t)(e & 0x700) | (e & ENTRY_LEVEL ? 0xc000 : 0);
}

static void send(struct ioapic *a, unsigned pin)
{
	a->sink.send(a->sink.opaque, entry_address(a->entry[pin]), entry_data(a->entry[pin]));
}

static void tell_route(struct ioapic *a, unsigned pin)
{
	if (a->route)
		a->route(a->route_opaque, pin, entry_address(a->entry[pin]), entry_data(a->entry[pin]));
}

void ioapic_set_route_listener(struct ioapic *a, void (*fn)(void *opaque, unsigned pin, uint64_t address, uint32_t data),
			       void *opaque)
{
	a->route = fn;
	a->route_opaque = opaque;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		tell_route(a, i);
}

static void service(struct ioapic *a, unsigned pin)
{
	uint64_t *e = &a->entry[pin];
	uint32_t bit = 1u << pin;

	if (*e & ENTRY_MASKED)
		return;
	if (*e & ENTRY_LEVEL) {
		if ((a->lines & bit) && !(*e & ENTRY_REMOTE_IRR)) {
			/* Fixed and lowest-priority interrupts only are ended by an EOI. */
			if ((*e >> 8 & 7) < 2)
				*e |= ENTRY_REMOTE_IRR;
			send(a, pin);
		}
	} else if (a->edges & bit) {
		a->edges &= ~bit;
		send(a, pin);
	}
}

void ioapic_set_irq(struct ioapic *a, int pin, bool level)
{
	uint32_t bit;

	if (pin < 0 || pin >= IOAPIC_PINS)
		return;
	bit = 1u << pin;
	if (level) {
		if (!(a->lines & bit))
			a->edges |= bit;
		a->lines |= bit;
	} else {
		a->lines &= ~bit;
	}
	/* An edge on a masked pin is lost, as on the chip; level pins have none. */
	if (a->entry[pin] & (ENTRY_MASKED | ENTRY_LEVEL))
		a->edges &= ~bit;
	service(a, (unsigned)pin);
}

void ioapic_eoi(struct ioapic *a, uint8_t vector)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		if ((a->entry[i] & ENTRY_REMOTE_IRR) && ENTRY_VECTOR(a->entry[i]) == vector) {
			a->entry[i] &= ~ENTRY_REMOTE_IRR;
			service(a, i);
		}
	}
}

static uint32_t read_indirect(const struct ioapic *a)
{
	unsigned pin = (unsigned)(a->select - 0x10) / 2;

	switch (a->select) {
	case 0:
	case 2:
		return (uint32_t)a->id << 24;
	case 1:
		return 0x20u | (IOAPIC_PINS - 1) << 16;
	default:
		break;
	}
	if (a->select < 0x10 || pin >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(a->entry[pin] >> (a->select & 1 ? 32 : 0));
}

static void write_indirect(struct ioapic *a, uint32_t value)
{
	unsigned pin = (unsigned)(a->select - 0x10) / 2;
	uint64_t *e, keep;

	if (a->select == 0) {
		a->id = value >> 24 & 15;
		return;
	}
	if (a->select < 0x10 || pin >= IOAPIC_PINS) {
		device_guest_error(&a->device, "write of %x to register %x", value, a->select);
		return;
	}
	e = &a->entry[pin];
	if (a->select & 1) {
		*e = (*e & 0xffffffff) | ((uint64_t)value << 32 & ~ENTRY_RESERVED);
		tell_route(a, pin);
		return;
	}
	keep = *e & (UINT64_C(0xffffffff00000000) | ENTRY_READONLY);
	*e = keep | (value & ~ENTRY_READONLY & ~ENTRY_RESERVED);
	/* Turned into an edge pin: nothing will be ended. */
	if (!(*e & ENTRY_LEVEL))
		*e &= ~ENTRY_REMOTE_IRR;
	else
		a->edges &= ~(1u << pin);
	tell_route(a, pin);
	service(a, pin);
}

static uint64_t ioapic_read(void *o, uint64_t offset, unsigned len)
{
	struct ioapic *a = o;

	switch (offset) {
	case 0: return a->select;
	case 0x10: return read_indirect(a);
	default: return 0;
	}
}

static void ioapic_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct ioapic *a = o;

	switch (offset) {
	case 0:
		a->select = (uint8_t)value;
		break;
	case 0x10:
		write_indirect(a, (uint32_t)value);
		break;
	case 0x40:
		ioapic_eoi(a, (uint8_t)value);
		break;
	default:
		break;
	}
}

static void ioapic_reset(struct device *d)
{
	struct ioapic *a = (struct ioapic *)d;

	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		a->entry[i] = ENTRY_MASKED;
		tell_route(a, i);
	}
	a->edges = 0;
	a->select = a->id = 0;
}

static int ioapic_state(struct device *d, struct state *s)
{
	struct ioapic *a = (struct ioapic *)d;

	state_bytes(s, "entry", a->entry, sizeof(a->entry));
	state_u32(s, "lines", &a->lines);
	state_u32(s, "edges", &a->edges);
	state_u8(s, "select", &a->select);
	state_u8(s, "id", &a->id);
	a->lines &= PINS_MASK;
	a->edges &= PINS_MASK;
	a->id &= 15;
	if (state_loading(s) && !state_error(s)) {
		for (unsigned i = 0; i < IOAPIC_PINS; i++) {
			if (a->entry[i] & ENTRY_RESERVED)
				state_fail(s, "redirection entry %u has reserved bits", i);
		}
		for (unsigned i = 0; i < IOAPIC_PINS && !state_error(s); i++)
			tell_route(a, i);
	}
	return state_error(s);
}

static void ioapic_destroy(struct device *d)
{
	struct ioapic *a = (struct ioapic *)d;

	region_destroy(a->region);
	g_free(a);
}

static const struct device_ops ioapic_ops = { "ioapic", 1, ioapic_reset, ioapic_state, ioapic_destroy };

struct ioapic *ioapic_create(struct space *mmio, uint64_t base, const struct msi_sink *sink)
{
	static const struct region_ops ops = { ioapic_read, ioapic_write, 4, 4 };
	struct ioapic *a = g_new0(struct ioapic, 1);

	a->device.ops = &ioapic_ops;
	a->device.id = "ioapic";
	a->sink = *sink;
	a->region = space_add(mmio, "ioapic", base, 0x1000, &ops, a);
	ioapic_reset(&a->device);
	return a;
}

struct device *ioapic_device(struct ioapic *a)
{
	return &a->device;
}
