/*
 * VGA registers: sequencer, CRT, graphics and attribute controllers, DAC (IBM VGA technical
 * reference, XGA part 2; FreeVGA). Memory access, VBE and rendering are in vga_*.c.
 */
#include "dev/vga_internal.h"

#include <string.h>

#include "base/bytes.h"

#define PORT_BASE 0x3b0

unsigned vga_crtc_lines(const struct vga *v)
{
	unsigned lines = (v->crtc[0x12] | (v->crtc[7] & 2) << 7 | (v->crtc[7] & 0x40) << 3) + 1u;

	return v->crtc[0x17] & 4 ? lines * 2 : lines;
}

/* Nanoseconds per scanline and lines per frame as programmed; a plain 60 Hz where nonsense is. */
static void timing(const struct vga *v, int64_t *line_ns, unsigned *total)
{
	static const unsigned clock_khz[4] = { 25175, 28322, 25175, 28322 };
	unsigned chars = v->crtc[0] + 5u;
	unsigned dots = chars * (v->seq[1] & 1 ? 8 : 9) * (v->seq[1] & 8 ? 2 : 1);

	*total = (v->crtc[6] | (v->crtc[7] & 1) << 8 | (v->crtc[7] & 0x20) << 4) + 2u;
	*line_ns = (int64_t)dots * 1000000 / clock_khz[v->misc >> 2 & 3];
	if (vga_vbe_on(v) || *total < 100 || *line_ns < 5000) {
		*total = 525;
		*line_ns = 31746;
	}
}

/* 0x3da: bit 0 outside the picture, bit 3 vertical retrace. */
static uint8_t input_status(struct vga *v)
{
	int64_t line_ns, now = clock_now(v->clock);
	unsigned total, line, visible, retrace;
	bool border;

	timing(v, &line_ns, &total);
	line = (unsigned)(now / line_ns % total);
	visible = vga_vbe_on(v) ? 480 : vga_crtc_lines(v);
	/* Guests that wait for an edge must see one, whatever they programmed. */
	if (visible >= total - 4)
		visible = total - 4;
	retrace = v->crtc[0x10] | (v->crtc[7] & 4) << 6 | (v->crtc[7] & 0x80) << 2;
	if (vga_vbe_on(v) || retrace < visible || retrace >= total - 2)
		retrace = visible;
	/* The last fifth of a line is its horizontal blanking. */
	border = line >= visible || now % line_ns * 5 >= line_ns * 4;
	/* Longer than the two lines of hardware: an emulated guest polls more slowly. */
	return (border ? 1 : 0) | (line >= retrace && line < retrace + 12 ? 8 : 0);
}

static void crtc_write(struct vga *v, uint8_t value)
{
	unsigned i = v->crtc_index;

	if (i >= VGA_CRTC_REGS)
		return;
	if ((v->crtc[0x11] & 0x80) && i <= 7) {
		/* Write protection leaves the line compare bit open. */
		if (i == 7)
			v->crtc[7] = (v->crtc[7] & ~0x10) | (value & 0x10);
		return;
	}
	v->crtc[i] = value;
}

static void attr_write(struct vga *v, uint8_t value)
{
	static const uint8_t mask[5] = { 0xef, 0xff, 0x3f, 0x0f, 0x0f };
	unsigned i = v->attr_index & 0x1f;

	v->attr_data = !v->attr_data;
	if (v->attr_data) {
		v->attr_index = value & 0x3f;
		return;
	}
	if (i < 16)
		v->attr[i] = value & 0x3f;
	else if (i < VGA_ATTR_REGS)
		v->attr[i] = value & mask[i - 16];
}

static void dac_write(struct vga *v, uint8_t value)
{
	v->dac_latch[v->dac_sub] = v->vbe[VBE_ENABLE] & VBE_8BIT_DAC ? value : value & 0x3f;
	if (++v->dac_sub < 3)
		return;
	v->dac_sub = 0;
	memcpy(&v->dac[v->dac_write * 3], v->dac_latch, 3);
	v->dac_write++;
}

static uint8_t dac_read(struct vga *v)
{
	uint8_t value = v->dac[v->dac_read * 3 + v->dac_sub];

	if (++v->dac_sub == 3) {
		v->dac_sub = 0;
		v->dac_read++;
	}
	return value;
}

/* The CRTC and status ports live at 0x3bx or 0x3dx, as bit 0 of the misc register says. */
static bool decoded(const struct vga *v, unsigned port)
{
	return port >= 0x3c0 && port < 0x3d0 ? true : port >= 0x3d0 ? v->misc & 1 : !(v->misc & 1);
}

static uint8_t crtc_port_read(struct vga *v, unsigned port)
{
	switch (port & 15) {
	case 0x4:
		return v->crtc_index;
	case 0x5:
		if (v->crtc_index == 0x22)
			return (uint8_t)(v->latch >> (8 * (v->gfx[4] & 3)));
		if (v->crtc_index == 0x24)
			return v->attr_data ? 0x80 : 0;
		return v->crtc_index < VGA_CRTC_REGS ? v->crtc[v->crtc_index] : 0;
	case 0xa:
		v->attr_data = false;
		return input_status(v);
	default:
		return 0xff;
	}
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
	if (!decoded(v, port))
		return 0xff;
	switch (port) {
	case 0x3c0:
		return v->attr_data ? 0 : v->attr_index;
	case 0x3c1:
		return (v->attr_index & 0x1f) < VGA_ATTR_REGS ? v->attr[v->attr_index & 0x1f] : 0;
	case 0x3c2:
		return 0x10; /* switch sense: a colour monitor */
	case 0x3c4:
		return v->seq_index;
	case 0x3c5:
		return v->seq[v->seq_index];
	case 0x3c6:
		return v->dac_mask;
	case 0x3c7:
		return v->dac_state;
	case 0x3c8:
		return v->dac_write;
	case 0x3c9:
		return dac_read(v);
	case 0x3ca:
		return v->feature;
	case 0x3cc:
		return v->misc;
	case 0x3ce:
		return v->gfx_index;
	case 0x3cf:
		return v->gfx[v->gfx_index];
	default:
		return port >= 0x3c0 && port < 0x3d0 ? 0xff : crtc_port_read(v, port);
	}
}

static void crtc_port_write(struct vga *v, unsigned port, uint8_t value)
{
	switch (port & 15) {
	case 0x4:
		v->crtc_index = value;
		break;
	case 0x5:
		crtc_write(v, value);
		break;
	case 0xa:
		v->feature = value & 0x10;
		break;
	}
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
	static const uint8_t seq_mask[8] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff };
	static const uint8_t gfx_mask[16] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };

	if (!decoded(v, port))
		return;
	v->registers_written = true;
	switch (port) {
	case 0x3c0:
	case 0x3c1: /* the same register on hardware that decodes a word */
		attr_write(v, value);
		break;
	case 0x3c2:
		v->misc = value & ~0x10;
		break;
	case 0x3c4:
		v->seq_index = value & 7;
		break;
	case 0x3c5:
		v->seq[v->seq_index] = value & seq_mask[v->seq_index];
		if (v->seq_index == 4)
			vga_window_changed(v);
		break;
	case 0x3c6:
		v->dac_mask = value;
		break;
	case 0x3c7:
		v->dac_read = value;
		v->dac_sub = 0;
		v->dac_state = VGA_DAC_READ;
		break;
	case 0x3c8:
		v->dac_write = value;
		v->dac_sub = 0;
		v->dac_state = VGA_DAC_WRITE;
		break;
	case 0x3c9:
		dac_write(v, value);
		break;
	case 0x3ce:
		v->gfx_index = value & 15;
		break;
	case 0x3cf:
		v->gfx[v->gfx_index] = value & gfx_mask[v->gfx_index];
		if (v->gfx_index == 6)
			vga_window_changed(v);
		break;
	default:
		if (port < 0x3c0 || port >= 0x3d0)
			crtc_port_write(v, port, value);
	}
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned len)
{
	return vga_port_read(opaque, PORT_BASE + (unsigned)offset);
}

static void ports_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	vga_port_write(opaque, PORT_BASE + (unsigned)offset, (uint8_t)value);
}

/* Word accesses (index and data in one) arrive as two bytes. */
static const struct region_ops port_ops = { ports_read, ports_write, 1, 1 };

static void registers_reset(struct vga *v)
{
	v->misc = v->feature = 0;
	v->seq_index = v->gfx_index = v->attr_index = v->crtc_index = 0;
	v->attr_data = false;
	memset(v->seq, 0, sizeof(v->seq));
	memset(v->gfx, 0, sizeof(v->gfx));
	v->gfx[8] = 0xff;
	memset(v->attr, 0, sizeof(v->attr));
	memset(v->crtc, 0, sizeof(v->crtc));
	v->dac_mask = 0xff;
	v->dac_state = v->dac_read = v->dac_write = v->dac_sub = 0;
	memset(v->dac_latch, 0, sizeof(v->dac_latch));
	memset(v->dac, 0, sizeof(v->dac));
	v->latch = 0;
	v->registers_written = true;
	vga_vbe_reset(v);
}

static void vga_reset(struct device *d)
{
	struct vga *v = (struct vga *)d;

	pci_dev_reset(&v->pci);
	registers_reset(v);
	vga_window_changed(v);
}

static bool page_used(const uint8_t *page)
{
	return page[0] || memcmp(page, page + 1, PAGE_SIZE - 1) != 0;
}

/* Looking at memory that was never touched would have the host find some. */
static void find_used(const struct vga *v, uint8_t *used)
{
	for (uint64_t at = 0; (at = ram_next_present(v->ram, at)) < VGA_RAM_SIZE; at += PAGE_SIZE)
		if (page_used(v->ram->host + at))
			used[at / PAGE_SIZE / 8] |= 1u << at / PAGE_SIZE % 8;
}

/* A bitmap of the pages that are not all zero, then these pages. */
static void memory_state(struct vga *v, struct state *s)
{
	uint8_t used[VGA_RAM_SIZE / PAGE_SIZE / 8] = { 0 }, before[sizeof(used)] = { 0 };

	if (state_loading(s))
		find_used(v, before);
	else
		find_used(v, used);
	state_bytes(s, "pages", used, sizeof(used));
	if (state_error(s))
		return;
	for (unsigned i = 0; i < VGA_RAM_SIZE / PAGE_SIZE; i++) {
		uint8_t *page = v->ram->host + (size_t)i * PAGE_SIZE;

		if (used[i / 8] >> i % 8 & 1)
			state_bytes(s, "page", page, PAGE_SIZE);
		else if (before[i / 8] >> i % 8 & 1)
			memset(page, 0, PAGE_SIZE);
	}
	if (state_loading(s))
		ram_mark_dirty(v->ram, 0, VGA_RAM_SIZE);
}

static int vga_state(struct device *d, struct state *s)
{
	struct vga *v = (struct vga *)d;

	pci_dev_state(&v->pci, s);
	state_u8(s, "misc", &v->misc);
	state_u8(s, "feature", &v->feature);
	state_u8(s, "seq_index", &v->seq_index);
	state_bytes(s, "seq", v->seq, sizeof(v->seq));
	state_u8(s, "gfx_index", &v->gfx_index);
	state_bytes(s, "gfx", v->gfx, sizeof(v->gfx));
	state_u8(s, "attr_index", &v->attr_index);
	state_bytes(s, "attr", v->attr, sizeof(v->attr));
	state_bool(s, "attr_data", &v->attr_data);
	state_u8(s, "crtc_index", &v->crtc_index);
	state_bytes(s, "crtc", v->crtc, sizeof(v->crtc));
	state_u8(s, "dac_mask", &v->dac_mask);
	state_u8(s, "dac_state", &v->dac_state);
	state_u8(s, "dac_read", &v->dac_read);
	state_u8(s, "dac_write", &v->dac_write);
	state_u8(s, "dac_sub", &v->dac_sub);
	state_bytes(s, "dac_latch", v->dac_latch, sizeof(v->dac_latch));
	state_bytes(s, "dac", v->dac, sizeof(v->dac));
	state_u32(s, "latch", &v->latch);
	state_u16(s, "vbe_index", &v->vbe_index);
	for (unsigned i = 0; i < VBE_REGS; i++)
		state_u16(s, "vbe", &v->vbe[i]);
	if (state_loading(s)) {
		if (v->seq_index > 7 || v->gfx_index > 15 || v->attr_index > 0x3f || v->dac_sub > 2)
			state_fail(s, "vga: an index is out of range");
		/* Whatever was said, nothing may index beyond its table from here on. */
		v->seq_index &= 7;
		v->gfx_index &= 15;
		v->attr_index &= 0x3f;
		v->dac_sub = v->dac_sub > 2 ? 0 : v->dac_sub;
		vga_vbe_fix(v);
		vga_window_changed(v);
		v->registers_written = true;
	}
	memory_state(v, s);
	return state_error(s);
}

static void vga_destroy(struct device *d)
{
	struct vga *v = (struct vga *)d;

	region_destroy(v->window);
	region_destroy(v->ports);
	region_destroy(v->vbe_ports);
	vga_window_changed(v);
	if (v->pci.bus)
		pci_dev_finish(&v->pci);
	ram_destroy(v->ram);
	g_free(v);
}

static void watch(void *opaque)
{
	struct vga *v = opaque;

	v->rewatch(v->rewatch_opaque, v->ram);
	vga_changed(v);
}

void vga_set_log(struct vga *v, void (*rewatch)(void *opaque, struct ram *ram), void *opaque)
{
	v->rewatch = rewatch;
	v->rewatch_opaque = opaque;
	v->display.watch = watch;
	v->display.changed = vga_changed;
}

static const struct device_ops ops = { "vga", 1, vga_reset, vga_state, vga_destroy };

struct vga *vga_create(struct pci_bus *bus, unsigned devfn, struct space *ports, struct space *mmio,
		       struct clock *clock, GError **error)
{
	static const struct pci_ids ids = { 0x1234, 0x1111, 0x1af4, 0x1100, 0x030000, 2 };
	struct ram *ram = ram_create("vga", VGA_RAM_SIZE, error);
	struct vga *v;

	if (!ram)
		return NULL;
	v = g_new0(struct vga, 1);
	v->pci.device = (struct device){ .ops = &ops, .id = "vga" };
	v->ram = ram;
	v->clock = clock;
	v->window_slot = -1;
	v->display = (struct display_source){ vga_render, vga_text, v, NULL, NULL };
	if (pci_dev_init(&v->pci, bus, devfn, &ids, 0)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_EXIST, "PCI slot %x.%u of the VGA is taken by another device",
			    devfn >> 3, devfn & 7);
		ram_destroy(ram);
		g_free(v);
		return NULL;
	}
	vga_edid_fill(v->edid);
	pci_bar_ram(&v->pci, 0, ram, true);
	pci_bar_mmio(&v->pci, 2, "vga-mmio", PAGE_SIZE, false, false, &vga_bar_ops, v);
	v->window = space_add(mmio, "vga-window", 0xa0000, 0x20000, &vga_window_ops, v);
	v->ports = space_add(ports, "vga", PORT_BASE, 0x30, &port_ops, v);
	v->vbe_ports = space_add(ports, "vbe", 0x1ce, 4, &vga_vbe_port_ops, v);
	registers_reset(v);
	return v;
}

const struct display_source *vga_display(struct vga *v)
{
	return &v->display;
}

struct pci_dev *vga_pci(struct vga *v)
{
	return &v->pci;
}

struct device *vga_device(struct vga *v)
{
	return &v->pci.device;
}
