/* Inside of the VGA: shared by its register, memory, VBE and rendering files only. */
#ifndef DEV_VGA_INTERNAL_H
#define DEV_VGA_INTERNAL_H

#include "dev/vga.h"

/* Linux's driver takes no mode that needs more than half of it: 2560x1600 and 32 bits are 16 MiB. */
#define VGA_RAM_SIZE (32u << 20)
#define VGA_PLANE_MASK 0xffffu /* the classic VGA has 64 KiB in each of its four planes */
#define VGA_CRTC_REGS 25
#define VGA_ATTR_REGS 21
#define VGA_DAC_WRITE 0
#define VGA_DAC_READ 3

enum vbe_index {
	VBE_ID, VBE_XRES, VBE_YRES, VBE_BPP, VBE_ENABLE, VBE_BANK, VBE_VIRT_WIDTH, VBE_VIRT_HEIGHT,
	VBE_X_OFFSET, VBE_Y_OFFSET, VBE_MEMORY_64K, VBE_REGS
};

#define VBE_ENABLED 0x01
#define VBE_GETCAPS 0x02
#define VBE_8BIT_DAC 0x20
#define VBE_LFB 0x40
#define VBE_NOCLEARMEM 0x80

/*
 * Video memory holds the planes interleaved: byte `address * 4 + plane`. Linear (VBE) modes
 * use the same bytes in order.
 */
struct vga {
	struct pci_dev pci;
	struct display_source display;
	struct clock *clock;
	struct ram *ram;
	struct region *window, *ports, *vbe_ports;
	uint8_t edid[256];

	uint8_t misc, feature;
	uint8_t seq_index, seq[8];
	uint8_t gfx_index, gfx[16];
	uint8_t attr_index, attr[VGA_ATTR_REGS]; /* index with bit 5: palette address source */
	bool attr_data;                          /* the flip-flop: 0x3c0 takes data next */
	uint8_t crtc_index, crtc[VGA_CRTC_REGS];
	uint8_t dac_mask, dac_state, dac_read, dac_write, dac_sub;
	uint8_t dac_latch[3];
	uint8_t dac[768];
	uint32_t latch; /* plane n in byte n */
	uint16_t vbe_index, vbe[VBE_REGS];
	int window_slot;      /* where the bank is mapped, or -1 */
	/* For who watches the picture. */
	void (*rewatch)(void *opaque, struct ram *ram);
	void *rewatch_opaque;
	bool registers_written;
	int64_t phase;
	unsigned window_uses; /* by accesses that came here, since the window shows what it shows */
};

/* A VBE mode as it is in force: always inside video memory. */
struct vbe_mode {
	unsigned width, height, bpp;
	uint32_t line;  /* bytes of video memory per line */
	uint32_t start; /* byte of the first visible pixel (bpp 4: of its group of 8) */
	unsigned pan;   /* bpp 4: pixels into that group */
};

static inline bool vga_vbe_on(const struct vga *v) { return v->vbe[VBE_ENABLE] & VBE_ENABLED; }
static inline bool vga_graphics(const struct vga *v) { return vga_vbe_on(v) || (v->gfx[6] & 1); }
static inline bool vga_blanked(const struct vga *v)
{
	return !(v->attr_index & 0x20) || (!vga_vbe_on(v) && (v->seq[1] & 0x20));
}
/* Visible scanlines and characters of the CRTC. */
unsigned vga_crtc_lines(const struct vga *v);
static inline unsigned vga_crtc_chars(const struct vga *v) { return v->crtc[1] + 1u; }

/* vga.c */
uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);

/* vga_mem.c: the legacy window, offsets from 0xa0000. */
extern const struct region_ops vga_window_ops;
/* What the window shows may have changed. */
void vga_window_changed(struct vga *v);

/* vga_vbe.c */
extern const struct region_ops vga_vbe_port_ops, vga_bar_ops;
void vga_vbe_reset(struct vga *v);
/* Clamps what a guest or a snapshot said to what fits. */
void vga_vbe_fix(struct vga *v);
void vga_vbe_mode(const struct vga *v, struct vbe_mode *m);
void vga_edid_fill(uint8_t edid[256]);

/* vga_render.c */
void vga_render(void *opaque, struct surface *s);
void vga_text(void *opaque, struct text_screen *t);
enum display_change vga_changed(void *opaque);

#endif
