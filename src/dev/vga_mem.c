/*
 * The CPU's view of video memory at 0xa0000-0xbffff: the graphics controller's read and write
 * modes, odd/even and chain-4 addressing (IBM VGA technical reference; FreeVGA "Accessing
 * VGA Memory"), and the banked window of VBE modes.
 */
#include "dev/vga_internal.h"

#include "base/bytes.h"

/* All ones in byte n where bit n of a plane mask is set. */
static uint32_t planes(unsigned mask)
{
	return (mask & 1 ? 0xffu : 0) | (mask & 2 ? 0xff00u : 0) | (mask & 4 ? 0xff0000u : 0) | (mask & 8 ? 0xff000000u : 0);
}

static uint32_t all_planes(uint8_t byte)
{
	return byte * 0x01010101u;
}

/* Offset into the memory that the window shows, -1 where it shows nothing. */
static int64_t window_offset(const struct vga *v, uint64_t offset)
{
	switch (v->gfx[6] >> 2 & 3) {
	case 0:
		return (int64_t)offset;
	case 1:
		return offset < 0x10000 ? (int64_t)offset : -1;
	case 2:
		return offset >= 0x10000 && offset < 0x18000 ? (int64_t)offset - 0x10000 : -1;
	default:
		return offset >= 0x18000 ? (int64_t)offset - 0x18000 : -1;
	}
}

static bool chain4(const struct vga *v) { return v->seq[4] & 8; }

/* In VBE's packed modes the window is plain memory, one bank of it. */
static bool linear(const struct vga *v)
{
	return vga_vbe_on(v) && v->vbe[VBE_BPP] != 4 && chain4(v);
}

static uint32_t bank_base(const struct vga *v)
{
	return vga_vbe_on(v) ? (uint32_t)v->vbe[VBE_BANK] << 16 : 0;
}

/* Below that many accesses a device call each costs less than telling the engines about a new memory map. */
#define WINDOW_USES 512
#define WINDOW_BASE 0xa0000
#define WINDOW_BANK 0x10000u

void vga_window_changed(struct vga *v)
{
	if (v->window_slot >= 0)
		pci_unmap_ram(&v->pci, v->window_slot);
	v->window_slot = -1;
	v->window_uses = 0;
}

/* A bank of plain memory that is used much becomes memory for the CPUs. */
static void window_used(struct vga *v)
{
	if (!linear(v) || v->gfx[6] & 8 || v->window_slot >= 0 || ++v->window_uses < WINDOW_USES)
		return;
	v->window_uses = 0;
	v->window_slot = pci_map_ram(&v->pci, WINDOW_BASE, WINDOW_BANK, v->ram, bank_base(v) & (VGA_RAM_SIZE - 1));
}

/* The address within a plane; odd/even and chain-4 take the low bits for the plane. */
static uint32_t plane_address(const struct vga *v, uint32_t at, bool odd_even)
{
	if (vga_vbe_on(v))
		return (bank_base(v) + at) & (VGA_RAM_SIZE / 4 - 1);
	if (chain4(v))
		at &= ~3u;
	else if (odd_even)
		at = (at & ~1u) | (v->gfx[6] & 0x0c ? 0 : at >> 16 & 1);
	return at & VGA_PLANE_MASK;
}

static uint8_t byte_read(struct vga *v, uint64_t offset)
{
	int64_t window = window_offset(v, offset);
	bool odd_even = v->gfx[5] & 0x10;
	uint32_t at, diff;
	unsigned plane;

	if (window < 0)
		return 0xff;
	at = (uint32_t)window;
	if (linear(v))
		return v->ram->host[(bank_base(v) + at) & (VGA_RAM_SIZE - 1)];
	v->latch = ld32le(v->ram->host + (size_t)plane_address(v, at, odd_even) * 4);
	if (chain4(v))
		return (uint8_t)(v->latch >> (8 * (at & 3)));
	if (v->gfx[5] & 8) {
		/* Read mode 1: ones where all planes that matter have the wanted colour. */
		diff = (v->latch ^ planes(v->gfx[2])) & planes(v->gfx[7]);
		diff |= diff >> 16;
		diff |= diff >> 8;
		return (uint8_t)~diff;
	}
	plane = odd_even ? (v->gfx[4] & 2) | (at & 1) : v->gfx[4] & 3;
	return (uint8_t)(v->latch >> (8 * plane));
}

static uint8_t rotate(const struct vga *v, uint8_t value)
{
	unsigned n = v->gfx[3] & 7;

	return (uint8_t)(value >> n | value << (8 - n));
}

/* What the graphics controller makes of a byte, for all four planes. */
static uint32_t combine(const struct vga *v, uint8_t value)
{
	uint32_t data, bits = all_planes(v->gfx[8]), enable;

	switch (v->gfx[5] & 3) {
	case 1:
		return v->latch;
	case 0:
		enable = planes(v->gfx[1]);
		data = (all_planes(rotate(v, value)) & ~enable) | (planes(v->gfx[0]) & enable);
		break;
	case 2:
		data = planes(value & 15);
		break;
	default:
		bits = all_planes(rotate(v, value) & v->gfx[8]);
		data = planes(v->gfx[0]);
		break;
	}
	switch (v->gfx[3] >> 3 & 3) {
	case 1:
		data &= v->latch;
		break;
	case 2:
		data |= v->latch;
		break;
	case 3:
		data ^= v->latch;
		break;
	}
	return (data & bits) | (v->latch & ~bits);
}

static void byte_write(struct vga *v, uint64_t offset, uint8_t value)
{
	int64_t window = window_offset(v, offset);
	bool odd_even = !(v->seq[4] & 4);
	unsigned mask = v->seq[2] & 15;
	uint32_t at, address, keep;
	uint8_t *p;

	if (window < 0)
		return;
	at = (uint32_t)window;
	if (linear(v)) {
		at = (bank_base(v) + at) & (VGA_RAM_SIZE - 1);
		v->ram->host[at] = value;
		ram_mark_dirty(v->ram, at, 1);
		return;
	}
	if (chain4(v))
		mask &= 1u << (at & 3);
	else if (odd_even)
		mask &= at & 1 ? 0xa : 0x5;
	address = plane_address(v, at, odd_even) * 4;
	p = v->ram->host + address;
	keep = ~planes(mask);
	st32le(p, (ld32le(p) & keep) | (combine(v, value) & ~keep));
	ram_mark_dirty(v->ram, address, 4);
}

static uint64_t window_read(void *opaque, uint64_t offset, unsigned len)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < len; i++)
		value |= (uint64_t)byte_read(opaque, offset + i) << (8 * i);
	window_used(opaque);
	return value;
}

static void window_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	for (unsigned i = 0; i < len; i++)
		byte_write(opaque, offset + i, (uint8_t)(value >> (8 * i)));
	window_used(opaque);
}

const struct region_ops vga_window_ops = { window_read, window_write, 1, 8 };
