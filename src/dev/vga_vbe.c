/*
 * Bochs VBE display interface 0xb0c5 (Bochs "vbe_display_api.txt"), the register BAR of the
 * PCI adapter, and the monitor's EDID (VESA E-EDID 1.4, base block).
 */
#include <string.h>

#include "base/bytes.h"
#include "dev/vga_internal.h"

#define VBE_ID0 0xb0c0
#define VBE_ID5 0xb0c5
#define MAX_WIDTH 4096u
#define MAX_HEIGHT 4096u
#define QEXT_SIZE 0x600   /* "this many bytes of extension registers" */
#define QEXT_ENDIAN 0x604 /* byte order of the framebuffer */
#define ENDIAN_LITTLE 0x1e1e1e1eu

static bool valid_bpp(unsigned bpp)
{
	return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Bits of video memory per pixel. */
static unsigned pixel_bits(unsigned bpp)
{
	return bpp == 15 ? 16 : bpp;
}

void vga_vbe_reset(struct vga *v)
{
	memset(v->vbe, 0, sizeof(v->vbe));
	v->vbe_index = 0;
	v->vbe[VBE_ID] = VBE_ID5;
	v->vbe[VBE_BPP] = 8;
	v->vbe[VBE_MEMORY_64K] = VGA_RAM_SIZE >> 16;
}

void vga_vbe_fix(struct vga *v)
{
	uint16_t *r = v->vbe;
	unsigned line, lines;

	if (r[VBE_ID] < VBE_ID0 || r[VBE_ID] > VBE_ID5)
		r[VBE_ID] = VBE_ID5;
	r[VBE_MEMORY_64K] = VGA_RAM_SIZE >> 16;
	r[VBE_BANK] &= (VGA_RAM_SIZE >> 16) - 1;
	if (!valid_bpp(r[VBE_BPP]))
		r[VBE_BPP] = 8;
	if (!vga_vbe_on(v))
		return;
	r[VBE_XRES] = (uint16_t)CLAMP(r[VBE_XRES] & ~7u, 8, MAX_WIDTH);
	r[VBE_VIRT_WIDTH] = (uint16_t)CLAMP(r[VBE_VIRT_WIDTH] & ~7u, r[VBE_XRES], 4 * MAX_WIDTH);
	line = r[VBE_VIRT_WIDTH] * pixel_bits(r[VBE_BPP]) / 8;
	lines = VGA_RAM_SIZE / line;
	r[VBE_YRES] = (uint16_t)CLAMP(r[VBE_YRES], 1, MIN(MAX_HEIGHT, lines));
	r[VBE_VIRT_HEIGHT] = (uint16_t)MIN(lines, 0xffff);
	r[VBE_X_OFFSET] = MIN(r[VBE_X_OFFSET], r[VBE_VIRT_WIDTH] - r[VBE_XRES]);
	r[VBE_Y_OFFSET] = (uint16_t)MIN(r[VBE_Y_OFFSET], lines - r[VBE_YRES]);
}

void vga_vbe_mode(const struct vga *v, struct vbe_mode *m)
{
	const uint16_t *r = v->vbe;

	m->width = r[VBE_XRES];
	m->height = r[VBE_YRES];
	m->bpp = r[VBE_BPP];
	m->line = r[VBE_VIRT_WIDTH] * pixel_bits(m->bpp) / 8;
	m->pan = m->bpp == 4 ? r[VBE_X_OFFSET] & 7 : 0;
	/* Four planes side by side: eight pixels take four bytes. */
	m->start = r[VBE_Y_OFFSET] * m->line +
		   (m->bpp == 4 ? r[VBE_X_OFFSET] / 8 * 4u : r[VBE_X_OFFSET] * (pixel_bits(m->bpp) / 8));
}

/* DAC entries keep the width they were written in: both widths must show the same colours. */
static void dac_width(struct vga *v, bool was8, bool now8)
{
	if (was8 == now8)
		return;
	for (unsigned i = 0; i < sizeof(v->dac); i++)
		v->dac[i] = now8 ? (uint8_t)(v->dac[i] << 2 | v->dac[i] >> 4) : v->dac[i] >> 2;
}

static void enable_write(struct vga *v, uint16_t value)
{
	bool was = vga_vbe_on(v);
	struct vbe_mode m;
	uint32_t used;

	dac_width(v, v->vbe[VBE_ENABLE] & VBE_8BIT_DAC, value & VBE_8BIT_DAC);
	v->vbe[VBE_ENABLE] = value & (VBE_ENABLED | VBE_GETCAPS | VBE_8BIT_DAC | VBE_LFB | VBE_NOCLEARMEM);
	if (!vga_vbe_on(v)) {
		v->vbe[VBE_BANK] = 0;
		return;
	}
	if (was)
		return;
	v->vbe[VBE_VIRT_WIDTH] = v->vbe[VBE_XRES];
	v->vbe[VBE_X_OFFSET] = v->vbe[VBE_Y_OFFSET] = 0;
	vga_vbe_fix(v);
	if (value & VBE_NOCLEARMEM)
		return;
	vga_vbe_mode(v, &m);
	used = m.line * m.height;
	memset(v->ram->host, 0, used);
	ram_mark_dirty(v->ram, 0, used);
}

static void vbe_write(struct vga *v, unsigned index, uint16_t value)
{
	v->registers_written = true;
	switch (index) {
	case VBE_ID:
		if (value >= VBE_ID0 && value <= VBE_ID5)
			v->vbe[VBE_ID] = value;
		break;
	case VBE_ENABLE:
		enable_write(v, value);
		break;
	case VBE_BPP:
		if (value == 0)
			value = 8; /* as revision 0xb0c0 had it */
		if (!valid_bpp(value)) {
			device_guest_error(&v->pci.device, "VBE: %u bits per pixel", value);
			break;
		}
		v->vbe[VBE_BPP] = value;
		break;
	case VBE_XRES:
	case VBE_YRES:
	case VBE_BANK:
	case VBE_VIRT_WIDTH:
	case VBE_X_OFFSET:
	case VBE_Y_OFFSET:
		v->vbe[index] = value;
		break;
	case VBE_VIRT_HEIGHT: /* follows from the width */
	case VBE_MEMORY_64K:
		break;
	default:
		device_guest_error(&v->pci.device, "VBE: write to register %u", index);
		return;
	}
	vga_vbe_fix(v);
	if (index == VBE_ENABLE || index == VBE_BPP || index == VBE_BANK)
		vga_window_changed(v);
}

static uint16_t vbe_read(struct vga *v, unsigned index)
{
	if (index >= VBE_REGS)
		return 0;
	if (v->vbe[VBE_ENABLE] & VBE_GETCAPS) {
		switch (index) {
		case VBE_XRES:
			return MAX_WIDTH;
		case VBE_YRES:
			return MAX_HEIGHT;
		case VBE_BPP:
			return 32;
		}
	}
	return v->vbe[index];
}

/* Index at 0x1ce; data at 0x1cf, and at 0x1d0 for those who want it aligned. */
static uint64_t vbe_port_read(void *opaque, uint64_t offset, unsigned len)
{
	struct vga *v = opaque;

	if (offset == 0)
		return v->vbe_index;
	return offset <= 2 ? vbe_read(v, v->vbe_index) : 0xffff;
}

static void vbe_port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct vga *v = opaque;

	if (len != 2)
		return; /* the registers are words */
	if (offset == 0)
		v->vbe_index = (uint16_t)value;
	else if (offset <= 2)
		vbe_write(v, v->vbe_index, (uint16_t)value);
}

const struct region_ops vga_vbe_port_ops = { vbe_port_read, vbe_port_write, 1, 2 };

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned len)
{
	struct vga *v = opaque;
	uint64_t value = 0;

	if (offset + len <= sizeof(v->edid))
		return ld_le(&v->edid[offset], len);
	if (offset >= 0x400 && offset + len <= 0x420) {
		for (unsigned i = 0; i < len; i++)
			value |= (uint64_t)vga_port_read(v, 0x3c0 + (unsigned)offset - 0x400 + i) << (8 * i);
		return value;
	}
	if (offset >= 0x500 && offset + len <= 0x500 + 2 * VBE_REGS) {
		value = vbe_read(v, (unsigned)(offset - 0x500) / 2);
		if (len == 4)
			value |= (uint64_t)vbe_read(v, (unsigned)(offset - 0x500) / 2 + 1) << 16;
		return offset & 1 ? value >> 8 : value;
	}
	if (offset == QEXT_SIZE)
		return 8;
	if (offset == QEXT_ENDIAN)
		return ENDIAN_LITTLE;
	return 0;
}

static void bar_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct vga *v = opaque;

	if (offset >= 0x400 && offset + len <= 0x420) {
		for (unsigned i = 0; i < len; i++)
			vga_port_write(v, 0x3c0 + (unsigned)offset - 0x400 + i, (uint8_t)(value >> (8 * i)));
	} else if (offset >= 0x500 && offset + len <= 0x500 + 2 * VBE_REGS && !(offset & 1) && len >= 2) {
		vbe_write(v, (unsigned)(offset - 0x500) / 2, (uint16_t)value);
		if (len == 4)
			vbe_write(v, (unsigned)(offset - 0x500) / 2 + 1, (uint16_t)(value >> 16));
	} else {
		device_guest_error(&v->pci.device, "write of %u bytes to BAR 2 + 0x%x", len, (unsigned)offset);
	}
}

const struct region_ops vga_bar_ops = { bar_read, bar_write, 1, 4 };

/* 1280x800 at 60 Hz with reduced blanking (VESA CVT): 71 MHz, 1440 x 823 in all. */
static const uint8_t preferred_timing[18] = {
	7100 & 0xff, 7100 >> 8,
	1280 & 0xff, 160, 1280 >> 8 << 4 | 0,
	800 & 0xff, 23, 800 >> 8 << 4 | 0,
	48, 32, 3 << 4 | 6, 0,     /* sync offsets and widths */
	310 & 0xff, 194, 1 << 4 | 0, /* millimetres */
	0, 0,
	0x1a, /* digital separate sync, horizontal positive */
};

static void edid_descriptor(uint8_t *d, uint8_t tag, const char *text)
{
	size_t n = strlen(text);

	memset(d, 0, 5);
	d[3] = tag;
	memset(d + 5, ' ', 13);
	memcpy(d + 5, text, n);
	if (n < 13)
		d[5 + n] = '\n';
}

void vga_edid_fill(uint8_t edid[256])
{
	static const uint8_t header[8] = { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };
	/* sRGB primaries and white point. */
	static const uint8_t colour[10] = { 0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54 };
	/* 1920x1080, 1680x1050, 1600x1200, 1440x900, 1280x1024, 1280x960, 1280x720, 1024x768 at 60 Hz. */
	static const uint8_t standard[16] = { 0xd1, 0xc0, 0xb3, 0x00, 0xa9, 0x40, 0x95, 0x00,
					      0x81, 0x80, 0x81, 0x40, 0x81, 0xc0, 0x61, 0x40 };
	/* 50-125 Hz vertical, 30-160 kHz horizontal, up to 300 MHz. */
	static const uint8_t range[18] = { 0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 30, 0, '\n', ' ', ' ', ' ', ' ', ' ', ' ' };
	uint8_t sum = 0;

	memset(edid, 0, 256);
	memcpy(edid, header, 8);
	st16be(edid + 8, ('G' - '@') << 10 | ('S' - '@') << 5 | ('E' - '@'));
	st16le(edid + 10, 0x1111);
	edid[17] = 34; /* model of 2024 */
	edid[18] = 1;
	edid[19] = 4;
	edid[20] = 0xa5; /* digital, 8 bits a colour, DisplayPort */
	edid[21] = 31;
	edid[22] = 19;
	edid[23] = 120; /* gamma 2.2 */
	edid[24] = 0x06; /* sRGB, preferred timing is native */
	memcpy(edid + 25, colour, 10);
	edid[35] = 0x21; /* 640x480, 800x600 at 60 Hz */
	edid[36] = 0x08; /* 1024x768 at 60 Hz */
	memcpy(edid + 38, standard, 16);
	memcpy(edid + 54, preferred_timing, 18);
	memcpy(edid + 72, range, 18);
	edid_descriptor(edid + 90, 0xfc, "guise");
	edid_descriptor(edid + 108, 0xff, "1");
	for (unsigned i = 0; i < 127; i++)
		sum += edid[i];
	edid[127] = (uint8_t)-sum;
}
