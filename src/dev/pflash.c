/*
 * A parallel NOR flash bank as a PC's firmware hub has it: byte-wide, common flash interface (JEDEC JESD68.01), Intel
 * basic command set (Intel AP-646 and the 28F640J3 data sheet). While the array is read it is ROM to the engines; a
 * command takes it out of the memory map until the guest goes back to the array.
 */
#include "dev/pflash.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

enum { CMD_PROGRAM = 0x10, CMD_ERASE = 0x20, CMD_PROGRAM_ALT = 0x40, CMD_CLEAR_STATUS = 0x50, CMD_LOCK = 0x60,
       CMD_READ_STATUS = 0x70, CMD_READ_ID = 0x90, CMD_QUERY = 0x98, CMD_SUSPEND = 0xb0, CMD_CONFIRM = 0xd0,
       CMD_BUFFER = 0xe8, CMD_READ_ARRAY = 0xff };
enum { STATUS_READY = 0x80, STATUS_ERASE_ERROR = 0x20, STATUS_PROGRAM_ERROR = 0x10, STATUS_LOCKED = 0x02, STATUS_BITS = 0xb2 };
enum { ID_MANUFACTURER = 0x89, ID_DEVICE = 0x18 };

enum view { VIEW_ARRAY, VIEW_STATUS, VIEW_ID, VIEW_QUERY, VIEWS };
/* What the next write is. */
enum expect { EXPECT_COMMAND, EXPECT_DATA, EXPECT_ERASE_CONFIRM, EXPECT_LOCK, EXPECT_COUNT, EXPECT_BUFFER,
	      EXPECT_BUFFER_CONFIRM, EXPECTS };

struct pflash {
	struct device device; /* must be first */
	struct mem *mem;
	struct ram *ram;
	struct region *region;
	uint64_t base;
	bool readonly;
	struct pflash_store store;
	bool store_failed; /* the host could not keep a change: no later one succeeds */
	int slot;	   /* mem slot in array mode, else -1 */
	uint64_t changed_from, changed_to; /* since the array was last in view */

	uint8_t view, expect, status;
	uint32_t buffer_base;
	uint16_t buffer_left; /* cycles that the guest still owes */
	bool buffer_placed;   /* the first of them has said which part of the array is meant */
	uint8_t buffer[PFLASH_BUFFER];
};

/* ---- the memory map, and what follows from changes ---- */

/* The array is in view again, and with it what was changed: engines may have decoded code from there, and the guest
 * takes it as done. */
static void changes_settle(struct pflash *f)
{
	if (f->changed_from == f->changed_to)
		return;
	mem_mark_written(f->mem, f->base + f->changed_from, f->changed_to - f->changed_from);
	f->changed_from = f->changed_to = 0;
	if (f->store.sync && f->store.sync(f->store.opaque))
		f->store_failed = true;
}

static void view_set(struct pflash *f, enum view view)
{
	f->view = (uint8_t)view;
	if (view == VIEW_ARRAY) {
		if (f->slot < 0)
			f->slot = mem_map(f->mem, f->base, f->ram->size, f->ram, 0, true);
		changes_settle(f);
	} else if (f->slot >= 0) {
		mem_unmap(f->mem, f->slot);
		f->slot = -1;
	}
}

static void array_return(struct pflash *f)
{
	f->expect = EXPECT_COMMAND;
	view_set(f, VIEW_ARRAY);
}

/* False when the host could not keep the change. */
static bool change_keep(struct pflash *f, uint64_t offset, size_t len)
{
	bool first = f->changed_from == f->changed_to;

	f->changed_from = first ? offset : MIN(f->changed_from, offset);
	f->changed_to = MAX(f->changed_to, offset + len);
	if (!f->store.write)
		return true;
	if (!f->store_failed && f->store.write(f->store.opaque, offset, f->ram->host + offset, len))
		f->store_failed = true;
	return !f->store_failed;
}

/* Programming only clears bits; erasing sets them. */
static void program(struct pflash *f, uint64_t offset, const uint8_t *data, size_t len)
{
	f->status |= STATUS_READY;
	if (f->readonly) {
		f->status |= STATUS_PROGRAM_ERROR | STATUS_LOCKED;
		return;
	}
	for (size_t i = 0; i < len; i++)
		f->ram->host[offset + i] &= data[i];
	if (!change_keep(f, offset, len))
		f->status |= STATUS_PROGRAM_ERROR;
}

static void erase(struct pflash *f, uint64_t offset)
{
	offset -= offset % PFLASH_BLOCK;
	f->status |= STATUS_READY;
	if (f->readonly) {
		f->status |= STATUS_ERASE_ERROR | STATUS_LOCKED;
		return;
	}
	memset(f->ram->host + offset, 0xff, PFLASH_BLOCK);
	if (!change_keep(f, offset, PFLASH_BLOCK))
		f->status |= STATUS_ERASE_ERROR;
}

/* Both error bits together say that the sequence of commands was wrong. */
static void sequence_error(struct pflash *f, const char *what, unsigned value)
{
	f->status |= STATUS_READY | STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;
	f->expect = EXPECT_COMMAND;
	device_guest_error(&f->device, "%s: 0x%x", what, value);
}

/* ---- reading ---- */

/* The query structure, at 0x10. Times and voltages are those of a typical chip; sizes are ours. */
static uint8_t query_byte(const struct pflash *f, unsigned at)
{
	static const uint8_t table[0x3c - 0x10] = {
		'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00, 0x00, 0x00, 0x00, 0x00, /* Intel set, its table at 0x31 */
		0x45, 0x55, 0x00, 0x00,					     /* Vcc 4.5 to 5.5 V, no Vpp */
		0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00,	/* typical and largest times, as powers of two */
		0, 0x00, 0x00, 8, 0x00, 1,				     /* size, x8, buffer 2^8, one kind of block */
		0, 0, 0, 0,
		'P', 'R', 'I', '1', '0',
	};
	uint64_t blocks = f->ram->size / PFLASH_BLOCK;

	switch (at) {
	case 0x27: return (uint8_t)(64 - __builtin_clzll(f->ram->size - 1));
	case 0x2d: return (uint8_t)(blocks - 1);
	case 0x2e: return (uint8_t)((blocks - 1) >> 8);
	case 0x2f: return (uint8_t)(PFLASH_BLOCK / 256);
	case 0x30: return (uint8_t)(PFLASH_BLOCK / 256 >> 8);
	default: return at >= 0x10 && at < 0x10 + sizeof(table) ? table[at - 0x10] : 0;
	}
}

static uint8_t id_byte(const struct pflash *f, unsigned at)
{
	switch (at) {
	case 0: return ID_MANUFACTURER;
	case 1: return ID_DEVICE;
	case 2: return f->readonly; /* the block's lock */
	default: return 0;
	}
}

static uint8_t byte_read(const struct pflash *f, uint64_t offset)
{
	switch (f->view) {
	case VIEW_STATUS: return f->status;
	case VIEW_ID: return id_byte(f, (unsigned)(offset & 0xff));
	case VIEW_QUERY: return query_byte(f, (unsigned)(offset & 0xff));
	default: return f->ram->host[offset];
	}
}

static uint64_t flash_read(void *opaque, uint64_t offset, unsigned len)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < len; i++)
		value |= (uint64_t)byte_read(opaque, offset + i) << (8 * i);
	return value;
}

/* ---- commands ---- */

static void command(struct pflash *f, uint8_t cmd)
{
	static const struct {
		uint8_t cmd, view, expect;
	} table[] = {
		{ CMD_PROGRAM, VIEW_STATUS, EXPECT_DATA },	   { CMD_PROGRAM_ALT, VIEW_STATUS, EXPECT_DATA },
		{ CMD_ERASE, VIEW_STATUS, EXPECT_ERASE_CONFIRM },  { CMD_LOCK, VIEW_STATUS, EXPECT_LOCK },
		{ CMD_READ_STATUS, VIEW_STATUS, EXPECT_COMMAND },  { CMD_READ_ID, VIEW_ID, EXPECT_COMMAND },
		{ CMD_QUERY, VIEW_QUERY, EXPECT_COMMAND },	   { CMD_BUFFER, VIEW_STATUS, EXPECT_COUNT },
		{ CMD_SUSPEND, VIEW_STATUS, EXPECT_COMMAND },	   { CMD_CONFIRM, VIEW_STATUS, EXPECT_COMMAND },
	};

	if (cmd == CMD_READ_ARRAY || cmd == CMD_CLEAR_STATUS) {
		/* Cleared, the ready bit reads as zero until something was done: by this OVMF knows a flash from a ROM. */
		if (cmd == CMD_CLEAR_STATUS)
			f->status = 0;
		array_return(f);
		return;
	}
	for (unsigned i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].cmd != cmd)
			continue;
		f->expect = table[i].expect;
		if (cmd == CMD_BUFFER || cmd == CMD_SUSPEND || cmd == CMD_CONFIRM)
			f->status |= STATUS_READY;
		view_set(f, table[i].view);
		return;
	}
	device_guest_error(&f->device, "command 0x%02x", cmd);
	array_return(f);
}

/* One bus cycle of a buffered write: it stays within one aligned piece of the array. */
static void buffer_fill(struct pflash *f, uint64_t offset, unsigned len, uint64_t value)
{
	if (!f->buffer_placed) {
		f->buffer_base = (uint32_t)(offset - offset % PFLASH_BUFFER);
		f->buffer_placed = true;
	}
	if (offset < f->buffer_base || offset + len > (uint64_t)f->buffer_base + PFLASH_BUFFER || len > f->buffer_left) {
		sequence_error(f, "buffered write outside its buffer", (unsigned)offset);
		return;
	}
	for (unsigned i = 0; i < len; i++)
		f->buffer[offset - f->buffer_base + i] = (uint8_t)(value >> (8 * i));
	f->buffer_left = (uint16_t)(f->buffer_left - len);
	if (!f->buffer_left)
		f->expect = EXPECT_BUFFER_CONFIRM;
}

static void flash_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct pflash *f = opaque;
	enum expect expect = f->expect;
	uint8_t low = (uint8_t)value, data[8];

	if (expect == EXPECT_COMMAND) {
		command(f, low);
		return;
	}
	if (expect == EXPECT_BUFFER) {
		buffer_fill(f, offset, len, value);
		return;
	}
	f->expect = EXPECT_COMMAND;
	if (expect == EXPECT_DATA) {
		st64le(data, value);
		program(f, offset, data, len);
	} else if (expect == EXPECT_COUNT) {
		f->buffer_left = (uint16_t)(low + 1);
		f->buffer_placed = false;
		memset(f->buffer, 0xff, sizeof(f->buffer));
		f->expect = EXPECT_BUFFER;
	} else if (expect == EXPECT_LOCK) {
		/* Blocks have no locks of their own; setting and clearing them is taken. */
		if (low != 0x01 && low != 0x03 && low != CMD_CONFIRM)
			sequence_error(f, "block lock", low);
		else
			f->status |= STATUS_READY;
	} else if (low != CMD_CONFIRM) {
		sequence_error(f, "confirmation", low);
	} else if (expect == EXPECT_ERASE_CONFIRM) {
		erase(f, offset);
	} else {
		program(f, f->buffer_base, f->buffer, PFLASH_BUFFER);
	}
}

/* ---- the contract ---- */

static void pflash_reset(struct device *d)
{
	struct pflash *f = (struct pflash *)d;

	f->status = 0;
	f->buffer_base = f->buffer_left = 0;
	f->buffer_placed = false;
	memset(f->buffer, 0xff, sizeof(f->buffer));
	array_return(f);
}

static bool state_sane(const struct pflash *f)
{
	bool filling = f->expect == EXPECT_BUFFER;

	return f->view < VIEWS && f->expect < EXPECTS && !(f->status & ~STATUS_BITS) &&
	       (f->expect == EXPECT_COMMAND || f->view == VIEW_STATUS) && f->buffer_left <= PFLASH_BUFFER &&
	       (!filling || f->buffer_left) && f->buffer_base % PFLASH_BUFFER == 0 && f->buffer_base < f->ram->size;
}

/* A writable bank's contents belong to the machine's state: a snapshot brings its variables back. */
static int pflash_state(struct device *d, struct state *s)
{
	struct pflash *f = (struct pflash *)d;

	state_u8(s, "view", &f->view);
	state_u8(s, "expect", &f->expect);
	state_u8(s, "status", &f->status);
	state_u32(s, "buffer-base", &f->buffer_base);
	state_u16(s, "buffer-left", &f->buffer_left);
	state_bool(s, "buffer-placed", &f->buffer_placed);
	state_bytes(s, "buffer", f->buffer, sizeof(f->buffer));
	if (state_loading(s) && !state_error(s) && !state_sane(f))
		state_fail(s, "no flash chip is in that state");
	if (!f->readonly)
		state_bytes(s, "contents", f->ram->host, f->ram->size);
	if (!state_loading(s) || state_error(s))
		return state_error(s);
	if (!f->readonly)
		change_keep(f, 0, f->ram->size);
	view_set(f, f->view);
	return state_error(s);
}

static void pflash_destroy(struct device *d)
{
	struct pflash *f = (struct pflash *)d;

	array_return(f);
	mem_unmap(f->mem, f->slot);
	region_destroy(f->region);
	g_free(f);
}

static const struct device_ops pflash_ops = { "pflash", 1, pflash_reset, pflash_state, pflash_destroy };

struct pflash *pflash_create(struct space *mmio, struct mem *mem, uint64_t base, struct ram *ram, bool readonly,
			     const struct pflash_store *store, const char *id)
{
	static const struct region_ops ops = { flash_read, flash_write, 1, 8 };
	struct pflash *f = g_new0(struct pflash, 1);

	f->device = (struct device){ .ops = &pflash_ops, .id = id };
	f->mem = mem;
	f->base = base;
	f->ram = ram;
	f->readonly = readonly;
	if (store)
		f->store = *store;
	f->slot = -1;
	f->region = space_add(mmio, id, base, ram->size, &ops, f);
	pflash_reset(&f->device);
	return f;
}

struct device *pflash_device(struct pflash *f)
{
	return &f->device;
}
