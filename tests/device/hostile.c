/* See hostile.h. Register numbers are from the documents that the devices' own files name. */
#include "catalog.h"

#include <string.h>

#include "base/bytes.h"

#define MMIO_BAR(n) (UINT64_C(0xe0000000) + 0x2000000u * (n))
#define PORT_BAR(n) (0xc000u + 0x400u * (n))
#define BUFFERS 0x8000u  /* what descriptors point at, 1 KiB each */
#define RINGS 0x10000u   /* rings, 16 KiB each */
#define TABLES 0x30000u  /* indirect tables and their like */

uint64_t bytes_take(struct bytes *in, unsigned len)
{
	uint64_t v = 0;

	len = (unsigned)MIN(len, in->left);
	memcpy(&v, in->at, len);
	in->at += len;
	in->left -= len;
	return v;
}

void board_map_bars(struct board *b, unsigned command)
{
	for (unsigned i = 0; i < 6; i++) {
		uint32_t type = pci_config_read(b->pci, b->devfn, 0x10 + 4 * i, 4);

		pci_config_write(b->pci, b->devfn, 0x10 + 4 * i, 4, type & 1 ? PORT_BAR(i) : (uint32_t)MMIO_BAR(i));
		if ((type & 7) == 4)
			pci_config_write(b->pci, b->devfn, 0x10 + 4 * ++i, 4, 0);
	}
	pci_config_write(b->pci, b->devfn, 4, 2, command);
}

static void poke(struct board *b, uint64_t gpa, uint64_t value, unsigned len)
{
	uint8_t raw[8];

	st64le(raw, value);
	mem_write(b->mem, gpa, raw, len);
}

static void mmio(struct board *b, uint64_t addr, unsigned len, uint64_t value) { space_write(b->mmio, addr, len, value); }
static void port(struct board *b, uint64_t addr, unsigned len, uint64_t value) { space_write(b->ports, addr, len, value); }

/* A length: the ones that programs get wrong, or any. */
static uint32_t take_length(struct bytes *in, unsigned code)
{
	static const uint32_t lengths[] = { 0, 1, 13, 16, 64, 512, 4096 };

	return code < ARRAY_LEN(lengths) ? lengths[code] : (uint32_t)bytes_take(in, 4);
}

/* ---- virtio ---- */

enum { COMMON = 0, NOTIFY = 0x3000, STATUS = 0x14, QUEUE_SELECT = 0x16, QUEUE_SIZE = 0x18, QUEUE_ENABLE = 0x1c, QUEUE_DESC = 0x20,
       QUEUE_DRIVER = 0x28, QUEUE_DEVICE = 0x30, QUEUE_RESET = 0x3a };

static const uint64_t virtio_regs = MMIO_BAR(4);

static uint64_t ring(unsigned q) { return RINGS + 0x4000u * q; }

static void virtio_queue(struct board *b, unsigned q, uint16_t size)
{
	struct hostile *h = &b->hostile;
	static const uint8_t zeros[0x4000];

	mem_write(b->mem, ring(q), zeros, sizeof(zeros));
	h->avail[q] = 0;
	h->wrapped[q] = false;
	h->size[q] = size;
	mmio(b, virtio_regs + QUEUE_SELECT, 2, q);
	mmio(b, virtio_regs + QUEUE_SIZE, 2, size);
	for (unsigned part = 0; part < 3; part++) {
		mmio(b, virtio_regs + QUEUE_DESC + 8 * part, 4, ring(q) + (part ? 0x1000 + 0x1000 * part : 0));
		mmio(b, virtio_regs + QUEUE_DESC + 8 * part + 4, 4, 0);
	}
	mmio(b, virtio_regs + QUEUE_ENABLE, 2, 1);
}

/* Up to DRIVER_OK, as an honest driver does it: with all features but some, and rings of some size. */
static void virtio_start(struct board *b, struct bytes *in)
{
	static const uint16_t sizes[] = { 256, 1, 2, 4, 8, 16, 64, 128 };
	uint8_t what = (uint8_t)bytes_take(in, 1);
	uint64_t refused = what & 0x80 ? bytes_take(in, 8) & ~(UINT64_C(1) << 32) : what & 0x40 ? 0 : UINT64_C(1) << 34;

	board_map_bars(b, 7);
	mmio(b, virtio_regs + STATUS, 1, 0);
	mmio(b, virtio_regs + STATUS, 1, 3);
	b->hostile.features = 0;
	for (unsigned half = 0; half < 2; half++) {
		mmio(b, virtio_regs + 0x00, 4, half);
		mmio(b, virtio_regs + 0x08, 4, half);
		b->hostile.features |= (space_read(b->mmio, virtio_regs + 0x04, 4) << 32 * half) & ~refused;
		mmio(b, virtio_regs + 0x0c, 4, b->hostile.features >> 32 * half & UINT32_MAX);
	}
	mmio(b, virtio_regs + STATUS, 1, 0x0b);
	for (unsigned q = 0; q < HOSTILE_QUEUES; q++)
		virtio_queue(b, q, sizes[what & 7]);
	mmio(b, virtio_regs + STATUS, 1, 0x0f);
}

/* One descriptor; returns its flags. */
static unsigned virtio_desc(struct board *b, struct bytes *in, uint64_t at, unsigned i, unsigned wrap_flags, bool last)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	uint32_t len = take_length(in, what >> 5);
	uint64_t gpa = BUFFERS + 0x400u * i;
	unsigned next = i + 1, flags = (what & 1 ? 2 : 0) | (what & 2 ? 4 : 0) | (last ? 0 : 1) | wrap_flags;
	uint16_t contents = (uint16_t)bytes_take(in, 2);

	if (what & 2)
		gpa = TABLES;
	/* Back to one of the first, where loops are, or out of the table. */
	if (what & 4) {
		next = (unsigned)bytes_take(in, 1);
		next = next & 0x80 ? next : next & 7;
		flags |= 1;
	}
	if (what & 8)
		gpa = bytes_take(in, 4) & (what & 16 ? UINT32_MAX : BOARD_RAM - 1);
	if ((what & 0x1c) == 0x10)
		flags ^= 1;
	/* Requests begin with a type and, mostly, a place. */
	poke(b, gpa, contents & 0xff, 8);
	poke(b, gpa + 8, contents >> 8, 8);
	poke(b, at, gpa, 8);
	poke(b, at + 8, len, 4);
	poke(b, at + 12, wrap_flags ? i : flags, 2);
	poke(b, at + 14, wrap_flags ? flags : next, 2);
	return flags;
}

/* A chain of descriptors becomes available, in a table of its own too. */
static void virtio_chain(struct board *b, struct bytes *in)
{
	struct hostile *h = &b->hostile;
	uint8_t what = (uint8_t)bytes_take(in, 1);
	unsigned q = what & 7, n = 1 + (what >> 3 & 7), size = h->size[q];
	bool packed = h->features >> 34 & 1;

	if (!size)
		return;
	if (what & 0x40)
		for (unsigned i = 0; i < n; i++)
			virtio_desc(b, in, TABLES + 16 * i, i, 0, i + 1 == n);
	for (unsigned i = 0; i < n; i++) {
		unsigned at = (packed ? h->avail[q] + i : i) % size, wrap = h->wrapped[q] ^ (packed && h->avail[q] + i >= size);

		virtio_desc(b, in, ring(q) + 16 * at, i, packed ? (wrap ? 0x8000 : 0x80) : 0, i + 1 == n);
	}
	if (packed) {
		h->wrapped[q] ^= h->avail[q] + n >= size;
		h->avail[q] = (uint16_t)((h->avail[q] + n) % size);
	} else {
		poke(b, ring(q) + 0x2004 + 2 * (h->avail[q] % size), what & 0x80 ? bytes_take(in, 1) : 0, 2);
		poke(b, ring(q) + 0x2002, ++h->avail[q], 2);
	}
	mmio(b, virtio_regs + NOTIFY + 4 * q, 4, q);
}

/* A running queue keeps its size, whatever the driver writes. */
static void virtio_resize(struct board *b, uint16_t size)
{
	uint64_t enabled = space_read(b->mmio, virtio_regs + QUEUE_ENABLE, 2), before = space_read(b->mmio, virtio_regs + QUEUE_SIZE, 2);

	mmio(b, virtio_regs + QUEUE_SIZE, 2, size);
	if (enabled == 1)
		g_assert_cmpuint(space_read(b->mmio, virtio_regs + QUEUE_SIZE, 2), ==, before);
}

/* What may not be done to a queue that runs. */
static void virtio_meddle(struct board *b, struct bytes *in)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	unsigned q = what & 7;

	mmio(b, virtio_regs + QUEUE_SELECT, 2, what & 0x80 ? bytes_take(in, 2) : q);
	switch (what >> 3 & 7) {
	case 0: virtio_resize(b, (uint16_t)bytes_take(in, 2)); break;
	case 1: mmio(b, virtio_regs + QUEUE_DESC + 4 * (bytes_take(in, 1) % 6), 4, bytes_take(in, 4)); break;
	case 2: mmio(b, virtio_regs + QUEUE_ENABLE, 2, bytes_take(in, 1) & 1); break;
	case 3: mmio(b, virtio_regs + QUEUE_RESET, 2, 1); break;
	case 4: b->hostile.avail[q] += (uint16_t)bytes_take(in, 2); break;
	case 5: poke(b, ring(q) + 0x2000, bytes_take(in, 4), 4); break;
	case 6: mmio(b, virtio_regs + STATUS, 1, bytes_take(in, 1)); break;
	default: virtio_queue(b, q, (uint16_t)bytes_take(in, 2)); break;
	}
	mmio(b, virtio_regs + NOTIFY + 4 * q, 4, q);
}

void hostile_virtio(struct board *b, struct bytes *in)
{
	switch (bytes_take(in, 1) & 3) {
	case 0: virtio_start(b, in); break;
	case 1: virtio_meddle(b, in); break;
	default: virtio_chain(b, in); break;
	}
}

/* ---- network cards ---- */

/* Legacy, context and data descriptors; a ring of some length; head and tail anywhere. */
void hostile_e1000(struct board *b, struct bytes *in)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	unsigned n = 1 + (what & 7);
	uint64_t regs = MMIO_BAR(0), dma = what & 8 ? regs + 0x2800 : regs + 0x3800;

	board_map_bars(b, 7);
	for (unsigned i = 0; i < n; i++) {
		uint8_t kind = (uint8_t)bytes_take(in, 1);
		bool context = (kind & 3) == 3;

		poke(b, RINGS + 16 * i, kind & 4 || context ? bytes_take(in, 8) : BUFFERS + 0x400 * i, 8);
		/* The length and the command; DEXT and the type tell the formats apart. */
		poke(b, RINGS + 16 * i + 8, (take_length(in, kind >> 5) & 0xfffff) | (uint64_t)(kind & 3 ? 0x20 : 0) << 24 |
		     (uint64_t)(kind & 2 ? 0 : 1) << 20 | bytes_take(in, 1) << 24, 4);
		poke(b, RINGS + 16 * i + 12, bytes_take(in, 4), 4);
	}
	mmio(b, regs, 4, 0x40000041);
	mmio(b, dma, 4, RINGS);
	mmio(b, dma + 4, 4, 0);
	mmio(b, dma + 8, 4, what & 0x10 ? bytes_take(in, 4) : 0x100);
	mmio(b, dma + 0x10, 4, what & 0x20 ? bytes_take(in, 2) : 0);
	mmio(b, regs + 0x100, 4, what & 0x40 ? bytes_take(in, 4) : 0x801a);
	mmio(b, regs + 0x400, 4, 0x0a);
	mmio(b, dma + 0x18, 4, what & 0x80 ? bytes_take(in, 2) : n);
}

/* Both ways of sending, a receive ring of either kind, and frames that arrive. */
void hostile_rtl8139(struct board *b, struct bytes *in)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	unsigned regs = PORT_BAR(0), n = 1 + (what & 3);

	board_map_bars(b, 7);
	port(b, regs + 0x37, 1, 0x0c);
	port(b, regs + 0xe0, 2, what & 4 ? 0x03 : 0);
	port(b, regs + 0x44, 4, what & 8 ? bytes_take(in, 4) : 0x0f);
	port(b, regs + 0x30, 4, what & 0x10 ? bytes_take(in, 4) : TABLES);
	port(b, regs + 0x38, 2, what & 0x20 ? bytes_take(in, 2) : 0);
	if (!(what & 4)) {
		for (unsigned i = 0; i < n; i++) {
			port(b, regs + 0x20 + 4 * i, 4, BUFFERS);
			port(b, regs + 0x10 + 4 * i, 4, bytes_take(in, 4) & ~UINT32_C(0x2000));
		}
		return;
	}
	port(b, regs + 0xe4, 4, TABLES);
	port(b, regs + 0xe8, 4, 0);
	port(b, regs + 0x20, 4, RINGS);
	port(b, regs + 0x24, 4, 0);
	for (unsigned i = 0; i < n; i++) {
		uint32_t command = (uint32_t)bytes_take(in, 4) | UINT32_C(1) << 31;

		poke(b, RINGS + 16 * i, command, 4);
		poke(b, RINGS + 16 * i + 4, bytes_take(in, 4), 4);
		poke(b, TABLES + 16 * i, command, 4);
		poke(b, RINGS + 16 * i + 8, BUFFERS, 8);
		poke(b, TABLES + 16 * i + 8, BUFFERS, 8);
	}
	port(b, regs + 0xd9, 1, 0x40);
}

/* ---- disks ---- */

/* A descriptor table for the bus master or AHCI: address and count each. */
static void write_table(struct board *b, struct bytes *in, uint64_t at, unsigned entry, unsigned n)
{
	for (unsigned i = 0; i < n; i++, at += entry) {
		uint8_t what = (uint8_t)bytes_take(in, 1);
		uint32_t len = take_length(in, what & 7);

		poke(b, at, what & 8 ? bytes_take(in, 4) : BUFFERS, 4);
		poke(b, at + entry - 4, len | (entry == 8 && i + 1 == n && !(what & 0x10) ? UINT32_C(1) << 31 : 0), 4);
	}
}

/* A command with its registers, for a disk or (by PACKET) the CD drive, by PIO or the bus master. */
void hostile_ide(struct board *b, struct bytes *in)
{
	static const uint8_t commands[] = { 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0xa0, 0xa1, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8,
					    0xca, 0xec, 0xef, 0x06, 0x2f, 0x42, 0x60 };
	uint8_t what = (uint8_t)bytes_take(in, 1), command = (uint8_t)bytes_take(in, 1);
	unsigned task = what & 1 ? 0x170 : 0x1f0, bm = PORT_BAR(4) + (what & 1 ? 8 : 0), n = 1 + (what >> 5 & 3);
	uint64_t regs = bytes_take(in, 6);

	board_map_bars(b, 7);
	write_table(b, in, TABLES, 8, n);
	port(b, bm + 4, 4, TABLES);
	for (unsigned i = 1; i < 7; i++)
		port(b, task + i, 1, regs >> 8 * (i - 1) & 0xff & (i == 6 && !(what & 2) ? 0xef : 0xff));
	command = what & 4 ? command : commands[command % sizeof(commands)];
	port(b, task + 7, 1, what & 1 && !(what & 4) ? 0xa0 : command);
	if (what & 8)
		port(b, bm, 1, what & 0x10 ? 9 : 1);
	/* A packet, or the first bytes of what is written. */
	for (unsigned i = 0; i < 6; i++)
		port(b, task, 2, bytes_take(in, 2));
	for (unsigned i = 0; i < (what & 0x80 ? 300u : 4u); i++)
		space_read(b->ports, task, 2);
}

/* A command slot of each port: header, FIS, packet and region table. */
void hostile_ahci(struct board *b, struct bytes *in)
{
	static const uint8_t commands[] = { 0x25, 0x35, 0x60, 0x61, 0xa0, 0xec, 0xa1, 0xea, 0xb0, 0x06, 0x2f, 0xc8, 0xca, 0xef, 0x47, 0x29 };
	uint8_t what = (uint8_t)bytes_take(in, 1), command = (uint8_t)bytes_take(in, 1), fis[20] = { 0x27, 0x80 };
	unsigned which = what & 3, slot = what >> 2 & 1 ? 31 : 0, n = 1 + (what >> 3 & 3);
	uint64_t hba = MMIO_BAR(5), regs = hba + 0x100 + 0x80 * which, header = RINGS + 32 * slot;

	board_map_bars(b, 7);
	fis[2] = what & 0x20 ? command : commands[command % sizeof(commands)];
	for (unsigned i = 4; i < 14; i++)
		fis[i] = (uint8_t)bytes_take(in, 1);
	if (what & 0x40)
		fis[bytes_take(in, 1) % 4] = (uint8_t)bytes_take(in, 1);
	mem_write(b->mem, TABLES, fis, sizeof(fis));
	poke(b, TABLES + 0x40, bytes_take(in, 8), 8);
	write_table(b, in, TABLES + 0x80, 16, n);
	poke(b, header, 5 | (fis[2] == 0xa0 ? 0x20 : 0) | bytes_take(in, 1) << 6 | (uint64_t)(what & 0x80 ? bytes_take(in, 2) : n) << 16, 8);
	poke(b, header + 8, TABLES, 8);
	mmio(b, hba + 4, 4, UINT32_C(1) << 31 | 2);
	mmio(b, regs + 0x00, 4, RINGS);
	mmio(b, regs + 0x04, 4, 0);
	mmio(b, regs + 0x08, 4, RINGS + 0x1000);
	mmio(b, regs + 0x0c, 4, 0);
	mmio(b, regs + 0x18, 4, 0x10);
	mmio(b, regs + 0x18, 4, 0x11);
	if (fis[2] == 0x60 || fis[2] == 0x61)
		mmio(b, regs + 0x34, 4, UINT32_C(1) << slot);
	mmio(b, regs + 0x38, 4, UINT32_C(1) << slot);
}

/* A command with parameters for the floppy controller, its DMA channel set up. */
void hostile_fdc(struct board *b, struct bytes *in)
{
	static const uint8_t commands[] = { 0x46, 0x45, 0x42, 0x4a, 0x4d, 0x0f, 0x07, 0x08, 0x03, 0x13, 0x10, 0x0e, 0x49, 0x4c, 0x51, 0x56 };
	uint8_t what = (uint8_t)bytes_take(in, 1), command = (uint8_t)bytes_take(in, 1);
	unsigned n = what & 15;

	port(b, 0x0c, 1, 0);
	port(b, 0x0b, 1, what & 0x10 ? 0x46 : 0x4a);
	for (unsigned i = 0; i < 2; i++)
		port(b, 0x05, 1, what & 0x20 ? bytes_take(in, 1) : 0xff);
	port(b, 0x0a, 1, 2);
	port(b, 0x3f2, 1, what & 0x40 ? 0x14 : 0x1c);
	port(b, 0x3f5, 1, what & 0x80 ? command : commands[command % sizeof(commands)]);
	for (unsigned i = 0; i < n; i++)
		port(b, 0x3f5, 1, bytes_take(in, 1));
	clock_advance(b->clock, (int64_t)bytes_take(in, 1) << 20);
	for (unsigned i = 0; i < 16; i++)
		space_read(b->ports, 0x3f5, 1);
}

/* ---- others ---- */

/* Frame list, queue heads and transfer descriptors that point at each other as they like. */
void hostile_uhci(struct board *b, struct bytes *in)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	unsigned n = 1 + (what & 7), regs = PORT_BAR(4);

	board_map_bars(b, 7);
	for (unsigned i = 0; i < n; i++) {
		uint64_t at = TABLES + 32 * i;
		uint16_t links = (uint16_t)bytes_take(in, 2);

		/* Terminate, queue head or breadth first, and one of the entries. */
		poke(b, at, (links & 7) | (TABLES + 32u * (links >> 3 & 7)), 4);
		poke(b, at + 4, links & 0x800 ? (links >> 8 & 7) | (TABLES + 32u * (links >> 12 & 7)) : UINT32_C(0x00800000) | bytes_take(in, 4), 4);
		poke(b, at + 8, what & 0x10 ? bytes_take(in, 4) : (links & 0x1000 ? 0x00e0002d : links & 0x2000 ? 0x07e00069 : 0x07e000e1), 4);
		poke(b, at + 12, BUFFERS + 64 * i, 4);
		poke(b, BUFFERS + 64 * i, bytes_take(in, 8), 8);
	}
	for (unsigned i = 0; i < 1024; i++)
		poke(b, RINGS + 4 * i, (TABLES + 32u * (i % n)) | (what >> 5 & 2), 4);
	port(b, regs + 0x10, 2, what & 8 ? 0x200 : 0x04);
	port(b, regs + 8, 4, RINGS);
	port(b, regs + 4, 2, 0x0f);
	port(b, regs, 2, what & 0x80 ? 0x81 : 0x01);
	clock_advance(b->clock, (int64_t)(1 + bytes_take(in, 1)) << 17);
}

/* A DMA request: items, lengths and places. */
void hostile_fw_cfg(struct board *b, struct bytes *in)
{
	uint8_t what = (uint8_t)bytes_take(in, 1);
	uint32_t control = (uint32_t)(what & 0x1f) | (uint32_t)(bytes_take(in, 1) & (what & 0x20 ? 0xff : 0x3f)) << 16;
	uint64_t at = what & 0x40 ? bytes_take(in, 4) : TABLES;

	poke(b, at, GUINT32_TO_BE(control), 4);
	poke(b, at + 4, GUINT32_TO_BE(take_length(in, (unsigned)bytes_take(in, 1) & 7)), 4);
	poke(b, at + 8, GUINT64_TO_BE(what & 0x80 ? bytes_take(in, 8) : BUFFERS), 8);
	port(b, 0x514, 4, 0);
	port(b, 0x518, 4, GUINT32_TO_BE((uint32_t)at));
}
