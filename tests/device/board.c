/* A board with one device of the catalog, and what the bytes make happen to it. */
#include "catalog.h"

#include <string.h>

#include "base/bytes.h"
#include "fake_blk.h"
#include "harness.h"

#define SLOW_SAVES 3 /* within a board's life, of a device with megabytes to look through */

/* ---- the board ---- */

static void board_line(void *opaque, int line, bool level)
{
	struct board *b = opaque;

	g_assert_true(line >= 0 && line < 24);
	b->lines = level ? b->lines | 1u << line : b->lines & ~(1u << line);
}

struct irq board_irq(struct board *b, int line) { return (struct irq){ board_line, b, line }; }

static void ignore_msi(void *opaque, uint64_t address, uint32_t data) { }
const struct msi_sink board_no_msi = { ignore_msi, NULL };
static void ignore_frame(void *opaque, const uint8_t *frame, size_t len) { }

struct board *board_create(const struct catalog_entry *e)
{
	struct board *b = g_new0(struct board, 1);
	struct irq intx[4];

	b->entry = e;
	b->ports = space_create("ports", 0xffff);
	b->mmio = space_create("mmio", UINT64_MAX);
	b->mem = mem_create();
	b->ram = ram_create("ram", BOARD_RAM, NULL);
	g_assert_cmpint(mem_map(b->mem, 0, BOARD_RAM, b->ram, 0, false), >=, 0);
	b->clock = clock_create_manual();
	b->cd = chardev_memory_new();
	for (int i = 0; i < 4; i++)
		intx[i] = board_irq(b, 16 + i);
	b->pci = pci_bus_create(b->ports, b->mmio, b->mem, intx, &board_no_msi);
	for (unsigned i = 0; i < 2; i++)
		b->image[i] = e->sectors[i] ? fake_blk_new(e->sectors[i], (uint8_t)(0x11 + i)) : NULL;
	b->nd = netdev_memory_new(ignore_frame, NULL);
	b->devfn = BOARD_DEVFN;
	e->make(b);
	g_assert_nonnull(b->device);
	return b;
}

void board_destroy(struct board *b)
{
	for (unsigned i = 0; i < 2; i++)
		if (b->image[i])
			blk_drain(b->image[i]);
	b->device->ops->destroy(b->device);
	if (b->helper)
		b->helper->ops->destroy(b->helper);
	for (unsigned i = 0; i < 2; i++)
		blk_close(b->image[i]);
	netdev_destroy(b->nd);
	pci_bus_destroy(b->pci);
	chardev_destroy(b->cd);
	clock_destroy(b->clock);
	mem_destroy(b->mem);
	ram_destroy(b->ram);
	ram_destroy(b->flash);
	space_destroy(b->ports);
	space_destroy(b->mmio);
	g_free(b);
}

/* ---- what happens ---- */

enum step { STEP_READ, STEP_WRITE, STEP_CONFIG, STEP_POKE, STEP_TIME, STEP_MEMORY, STEP_RESET, STEP_RESTORE, STEP_HOSTILE,
	    STEP_BAR, STEP_DRIVER, STEPS };

struct ranges {
	struct {
		bool port;
		uint64_t base, size;
	} range[64];
	unsigned n;
	bool port;
};

static void add_range(void *opaque, const char *name, uint64_t base, uint64_t size)
{
	struct ranges *r = opaque;

	/* The bus's own configuration ports would only find empty slots. */
	if (r->n == ARRAY_LEN(r->range) || (r->port && base >= 0xcf8 && base < 0xd00 && base != 0xcf9))
		return;
	r->range[r->n].port = r->port;
	r->range[r->n].base = base;
	r->range[r->n++].size = size;
}

/* An access to one of the places where the device can be reached now. */
static void step_access(struct board *b, struct bytes *in, bool write)
{
	static const uint8_t lengths[] = { 1, 2, 4, 8 };
	struct ranges r = { .port = true };
	uint8_t head = (uint8_t)bytes_take(in, 1);
	uint64_t where = bytes_take(in, 2), addr, value = 0;
	unsigned len = lengths[head >> 6], i;
	struct space *s;

	space_walk(b->ports, add_range, &r);
	r.port = false;
	space_walk(b->mmio, add_range, &r);
	if (!r.n)
		return;
	i = (head & 63) % r.n;
	addr = r.range[i].base + where % r.range[i].size;
	s = r.range[i].port ? b->ports : b->mmio;
	if (r.range[i].port && len == 8)
		len = 4;
	if (!write) {
		space_read(s, addr, len);
		return;
	}
	value = bytes_take(in, len);
	space_write(s, addr, len, value);
}

/* Maps the device's BARs and lets it work. */
static void step_bars(struct board *b, struct bytes *in)
{
	uint8_t command = (uint8_t)bytes_take(in, 1);

	board_map_bars(b, command & 0x80 ? command & 7 : 7);
}

static void step_config(struct board *b, struct bytes *in)
{
	uint8_t offset = (uint8_t)bytes_take(in, 1), len = (uint8_t)(1 << (bytes_take(in, 1) % 3));

	pci_config_read(b->pci, b->devfn, offset & ~(len - 1u), len);
	pci_config_write(b->pci, b->devfn, offset & ~(len - 1u), len, (uint32_t)bytes_take(in, len));
}

/* Time passes: up to a quarter of an hour, but not so far that a fast timer would take long to catch up. */
static void step_time(struct board *b, struct bytes *in)
{
	uint16_t v = (uint16_t)bytes_take(in, 2);

	clock_advance(b->clock, (int64_t)(v & 0xfff) << (v >> 12));
}

static void step_memory(struct board *b, struct bytes *in)
{
	uint64_t at = bytes_take(in, 2) * 4, value = bytes_take(in, 8);

	mem_write(b->mem, at, &value, sizeof(value));
}

GByteArray *board_save(struct board *b)
{
	if (b->entry->settle)
		b->entry->settle(b);
	return device_save(b->device);
}

void board_check_restore(struct board *b, GByteArray *saved)
{
	if (b->entry->settle)
		b->entry->settle(b);
	device_check_restore(b->device, saved);
}

static GByteArray *save_now_and_then(struct board *b)
{
	return b->entry->slow_state && b->saves++ >= SLOW_SAVES ? NULL : board_save(b);
}

static void step_restore(struct board *b)
{
	GByteArray *saved = save_now_and_then(b);

	if (saved)
		board_check_restore(b, saved);
}

/* Loads a saved state with some bytes changed; it is taken or refused. Either way the device goes on. */
static void step_hostile(struct board *b, struct bytes *in)
{
	GByteArray *saved = save_now_and_then(b);
	unsigned changes = 1 + (unsigned)(bytes_take(in, 1) & 7);

	if (!saved)
		return;
	for (unsigned i = 0; i < changes && saved->len; i++) {
		uint64_t at = bytes_take(in, 2);

		saved->data[at % saved->len] = (uint8_t)bytes_take(in, 1);
	}
	if (changes == 8)
		g_byte_array_set_size(saved, saved->len / 2);
	device_restore_bytes(b->device, saved->data, saved->len, NULL);
	g_byte_array_unref(saved);
}

void board_run(struct board *b, const uint8_t *data, size_t len)
{
	struct bytes in = { data, len };

	while (in.left) {
		switch ((enum step)(bytes_take(&in, 1) % STEPS)) {
		case STEP_READ: step_access(b, &in, false); break;
		case STEP_WRITE: step_access(b, &in, true); break;
		case STEP_CONFIG: step_config(b, &in); break;
		case STEP_POKE:
			if (b->entry->poke)
				b->entry->poke(b, (uint32_t)bytes_take(&in, 4));
			break;
		case STEP_TIME: step_time(b, &in); break;
		case STEP_MEMORY: step_memory(b, &in); break;
		case STEP_RESET: b->device->ops->reset(b->device); break;
		case STEP_RESTORE: step_restore(b); break;
		case STEP_HOSTILE: step_hostile(b, &in); break;
		case STEP_BAR: step_bars(b, &in); break;
		case STEP_DRIVER:
			if (b->entry->hostile)
				b->entry->hostile(b, &in);
			break;
		case STEPS: break;
		}
	}
}
