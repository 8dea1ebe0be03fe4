/*
 * The Linux boot protocol, 32-bit and 64-bit entries (Documentation/arch/x86/boot.rst): the
 * kernel goes to 1 MiB, boot_params and the command line to low memory, the initrd as high as
 * the kernel allows.
 */
#include "fw/linux.h"

#include <gio/gio.h>

#include "base/bytes.h"

#define PARAMS_GPA 0x10000u
#define CMDLINE_GPA 0x20000u
#define CMDLINE_ROOM 0x10000u
#define KERNEL_GPA 0x100000u

/* Offsets in boot_params; the setup header lies at the same offsets as in the file. */
enum {
	P_ACPI_RSDP = 0x070, P_EXT_INITRD = 0x0c0, P_EXT_CMDLINE = 0x0c8, P_E820_COUNT = 0x1e8,
	P_SETUP_SECTS = 0x1f1, P_SYSSIZE = 0x1f4, P_BOOT_FLAG = 0x1fe, P_JUMP = 0x200, P_MAGIC = 0x202, P_VERSION = 0x206,
	P_LOADER = 0x210, P_LOADFLAGS = 0x211, P_CODE32 = 0x214, P_INITRD = 0x218, P_INITRD_SIZE = 0x21c,
	P_HEAP_END = 0x224, P_CMDLINE = 0x228, P_INITRD_MAX = 0x22c, P_RELOCATABLE = 0x234,
	P_VIDEO_MODE = 6, P_VIDEO_COLUMNS = 7, P_VIDEO_LINES = 14, P_VIDEO_IS_VGA = 15, P_VIDEO_POINTS = 16,
	P_CMDLINE_SIZE = 0x238, P_PREF = 0x258, P_INIT_SIZE = 0x260, P_E820 = 0x2d0,
};

#define LOADED_HIGH 0x01
#define CAN_USE_HEAP 0x80

struct image {
	uint8_t *data;
	size_t len;
	size_t setup; /* bytes before the protected-mode part */
	uint16_t version;
};

static bool refuse(GError **error, const char *path, const char *why)
{
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "%s: %s", path, why);
	return false;
}

static bool image_check(struct image *im, const char *path, GError **error)
{
	unsigned sects;

	if (im->len < 0x268 || memcmp(im->data + P_MAGIC, "HdrS", 4) || ld16le(im->data + P_BOOT_FLAG) != 0xaa55)
		return refuse(error, path, "not a Linux kernel (no \"HdrS\" header); give a bzImage, often named vmlinuz");
	im->version = ld16le(im->data + P_VERSION);
	if (im->version < 0x202)
		return refuse(error, path, "a kernel older than boot protocol 2.02; boot it from a disk image instead");
	if (!(im->data[P_LOADFLAGS] & LOADED_HIGH))
		return refuse(error, path, "a zImage, which loads low; boot it from a disk image instead");
	sects = im->data[P_SETUP_SECTS] ? im->data[P_SETUP_SECTS] : 4;
	im->setup = (sects + 1) * 512;
	if (im->setup >= im->len)
		return refuse(error, path, "truncated: no protected-mode kernel after the setup code");
	/* In paragraphs, 32 bits of them since 2.04; rounded up. What follows, a signature, is no part of it. */
	if (im->version >= 0x204 && ld32le(im->data + P_SYSSIZE) > (im->len - im->setup + 15) / 16)
		return refuse(error, path, "truncated: the kernel is longer than the file");
	return true;
}

/* Copies the setup header, whose end its jump instruction tells, into a fresh boot_params. */
static void params_start(uint8_t params[PAGE_SIZE], const struct image *im)
{
	size_t end = P_MAGIC + im->data[P_JUMP + 1];

	memset(params, 0, PAGE_SIZE);
	end = MIN(MIN(end, im->len), (size_t)P_E820 - 0x40);
	if (end > P_SETUP_SECTS)
		memcpy(params + P_SETUP_SECTS, im->data + P_SETUP_SECTS, end - P_SETUP_SECTS);
	params[P_LOADER] = 0xff; /* no registered loader number */
	if (im->version >= 0x201) {
		params[P_LOADFLAGS] |= CAN_USE_HEAP;
		st16le(params + P_HEAP_END, 0xfe00);
	}
	st32le(params + P_CODE32, KERNEL_GPA);
}

/* The text mode that the video BIOS has set (Linux Documentation/x86/zero-page). */
static void params_screen(uint8_t *params)
{
	params[P_VIDEO_MODE] = 3;
	params[P_VIDEO_COLUMNS] = 80;
	params[P_VIDEO_LINES] = 25;
	params[P_VIDEO_IS_VGA] = 1;
	st16le(params + P_VIDEO_POINTS, 16);
}

static bool params_cmdline(struct mem *mem, uint8_t *params, const struct image *im, const char *cmdline, GError **error)
{
	size_t len = cmdline ? strlen(cmdline) : 0;
	size_t max = im->version >= 0x206 ? ld32le(im->data + P_CMDLINE_SIZE) : 255;

	max = MIN(max, (size_t)CMDLINE_ROOM - 1);
	if (len > max) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
			    "kernel command line: %zu bytes, but this kernel takes %zu; shorten it", len, max);
		return false;
	}
	st32le(params + P_CMDLINE, CMDLINE_GPA);
	return boot_write(mem, CMDLINE_GPA, cmdline ? cmdline : "", len + 1, "kernel command line", error);
}

/* The end of what the kernel needs free for unpacking itself. */
static uint64_t kernel_end(const struct image *im)
{
	uint64_t end = KERNEL_GPA + (im->len - im->setup);

	if (im->version >= 0x20a) {
		uint64_t pref = ld64le(im->data + P_PREF), room;

		if (pref >= KERNEL_GPA && checked_add(pref, ld32le(im->data + P_INIT_SIZE), &room))
			end = MAX(end, room);
	}
	return (end + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
}

static bool params_initrd(struct mem *mem, uint8_t *params, const struct image *im, const struct linux_boot *b,
			  GError **error)
{
	uint64_t max = im->version >= 0x203 ? (uint64_t)ld32le(im->data + P_INITRD_MAX) + 1 : 0x38000000;
	uint64_t top = b->low_size - (b->rsdp ? BOOT_ACPI_SIZE : 0);
	uint64_t gpa, size;

	if (!b->initrd || !*b->initrd)
		return true;
	if (!boot_place_high(mem, b->initrd, kernel_end(im), MIN(max, top), &gpa, &size, error))
		return false;
	st32le(params + P_INITRD, (uint32_t)gpa);
	st32le(params + P_INITRD_SIZE, (uint32_t)size);
	return true;
}

static bool image_boot(struct mem *mem, const struct linux_boot *b, const struct image *im, struct cpu_state *out,
		       GError **error)
{
	struct e820_entry map[E820_MAX];
	uint8_t params[PAGE_SIZE];
	struct cpu_state s;
	unsigned count;

	params_start(params, im);
	params_screen(params);
	count = e820_build(map, b->low_size, b->high_size, b->rsdp != 0);
	memcpy(params + P_E820, map, count * sizeof(map[0]));
	params[P_E820_COUNT] = (uint8_t)count;
	st64le(params + P_ACPI_RSDP, b->rsdp);
	/* Old kernels size memory by these two when there is no e820: KiB above 1 MiB. */
	st16le(params + 0x002, (uint16_t)MIN((b->low_size - 0x100000) >> 10, (uint64_t)0xfc00));
	st32le(params + 0x1e0, (uint32_t)((b->low_size - 0x100000) >> 10));
	if (!params_cmdline(mem, params, im, b->cmdline, error) || !params_initrd(mem, params, im, b, error) ||
	    !boot_write(mem, KERNEL_GPA, im->data + im->setup, im->len - im->setup, b->kernel, error) ||
	    !boot_write(mem, PARAMS_GPA, params, sizeof(params), "boot_params", error))
		return false;
	if (!boot_cpu_32(mem, &s, KERNEL_GPA, error))
		return false;
	s.gpr[RSI] = PARAMS_GPA;
	*out = s;
	return true;
}

bool linux_load(struct mem *mem, const struct linux_boot *b, struct cpu_state *out, GError **error)
{
	struct image im = { 0 };
	bool ok;

	if (b->low_size < 0x400000)
		return refuse(error, b->kernel, "a kernel needs at least 4 MiB of memory; give more with --memory");
	if (!boot_read_file(b->kernel, &im.data, &im.len, error))
		return false;
	ok = image_check(&im, b->kernel, error) && image_boot(mem, b, &im, out, error);
	g_free(im.data);
	return ok;
}
