/* Multiboot 1 kernels: EAX holds the magic, EBX the information structure. */
#include "fw/multiboot.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define HEADER_SEARCH 8192
#define FLAG_ADDRESSES (1u << 16)
#define INFO_MEMORY 1u
#define INFO_CMDLINE 4u
#define INFO_MODULES 8u
#define INFO_MAP 0x40u
#define INFO_NAME 0x200u

/* The ACPI root pointer is looked for in the EBDA, which a word of the BIOS data area points at (ACPI 6.4, 5.2.5.1). */
#define BDA_EBDA 0x40eu
#define EBDA_RSDP (BOOT_EBDA + 16)
#define RSDP_SIZE 36

#define MB_INFO 0x6000u
#define MB_MODULE 0x6100u
#define MB_NAME 0x6200u
#define MB_MAP 0x6300u
#define MB_CMDLINE 0x7000u
#define MB_CMDLINE_ROOM 0x1000u

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name, apm_table;
} __attribute__((packed));

struct map_entry {
	uint32_t size; /* of the rest */
	uint64_t address, length;
	uint32_t type;
} __attribute__((packed));

struct module {
	uint32_t start, end, string, reserved;
} __attribute__((packed));

/* The header's offset, or -1. */
static int64_t find_header(const uint8_t *data, size_t len)
{
	for (size_t at = 0; at + 12 <= len && at + 12 <= HEADER_SEARCH; at += 4) {
		if (ld32le(data + at) == HEADER_MAGIC &&
		    (uint32_t)(ld32le(data + at) + ld32le(data + at + 4) + ld32le(data + at + 8)) == 0)
			return (int64_t)at;
	}
	return -1;
}

bool multiboot_check(const uint8_t *data, size_t len)
{
	return find_header(data, len) >= 0;
}

/* The addresses in the header itself (the "a.out kludge"). */
static bool load_flat(struct mem *mem, const uint8_t *data, size_t len, size_t at, const char *path,
		      struct elf_image *out, GError **error)
{
	const uint8_t *h = data + at;
	uint32_t header_addr, load_addr, load_end, bss_end;
	uint64_t offset, size;

	if (at + 32 > len)
		goto bad;
	header_addr = ld32le(h + 12);
	load_addr = ld32le(h + 16);
	load_end = ld32le(h + 20);
	bss_end = ld32le(h + 24);
	if (header_addr < load_addr || header_addr - load_addr > at)
		goto bad;
	offset = at - (header_addr - load_addr);
	size = load_end ? (uint64_t)load_end - load_addr : len - offset;
	if ((load_end && load_end < load_addr) || size > len - offset)
		goto bad;
	if (!boot_write(mem, load_addr, data + offset, (size_t)size, path, error))
		return false;
	if (bss_end > load_addr + size && !elf_zero_fill(mem, load_addr + size, bss_end - (load_addr + size), error))
		return false;
	*out = (struct elf_image){ .entry = ld32le(h + 28), .low = load_addr, .high = MAX(load_addr + size, bss_end) };
	return true;
bad:
	g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: its multiboot header names bytes that are not in the file", path);
	return false;
}

static bool put_map(struct mem *mem, const struct linux_boot *b, struct info *info, GError **error)
{
	struct e820_entry e820[E820_MAX];
	struct map_entry map[E820_MAX];
	unsigned n = e820_build(e820, b->low_size, b->high_size, b->rsdp != 0);

	for (unsigned i = 0; i < n; i++)
		map[i] = (struct map_entry){ sizeof(map[i]) - 4, e820[i].addr, e820[i].len, e820[i].type };
	info->mmap_addr = MB_MAP;
	info->mmap_length = (uint32_t)(n * sizeof(map[0]));
	return boot_write(mem, MB_MAP, map, info->mmap_length, "the memory map", error);
}

static bool put_module(struct mem *mem, const struct linux_boot *b, uint64_t floor, struct info *info, GError **error)
{
	struct module m = { .string = MB_NAME };
	uint64_t gpa, size;

	if (!b->initrd)
		return true;
	if (!boot_place_high(mem, b->initrd, floor, b->low_size - BOOT_ACPI_SIZE, &gpa, &size, error))
		return false;
	m.start = (uint32_t)gpa;
	m.end = (uint32_t)(gpa + size);
	info->flags |= INFO_MODULES;
	info->mods_count = 1;
	info->mods_addr = MB_MODULE;
	return boot_write(mem, MB_MODULE, &m, sizeof(m), "the module list", error);
}

static bool put_rsdp(struct mem *mem, const struct linux_boot *b, GError **error)
{
	const uint8_t segment[2] = { BOOT_EBDA >> 4 & 0xff, BOOT_EBDA >> 12 }, kib = 1;
	uint8_t rsdp[RSDP_SIZE];

	if (!b->rsdp)
		return true;
	if (!mem_read(mem, b->rsdp, rsdp, sizeof(rsdp))) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "the ACPI root pointer at 0x%" PRIx64 " is not in memory", b->rsdp);
		return false;
	}
	return boot_write(mem, BDA_EBDA, segment, sizeof(segment), "the BIOS data area", error) &&
	       boot_write(mem, BOOT_EBDA, &kib, sizeof(kib), "the EBDA", error) &&
	       boot_write(mem, EBDA_RSDP, rsdp, sizeof(rsdp), "the ACPI root pointer", error);
}

bool multiboot_load(struct mem *mem, const struct linux_boot *b, const uint8_t *data, size_t len, struct cpu_state *out,
		    GError **error)
{
	static const char name[] = "guise";
	int64_t at = find_header(data, len);
	struct info info = { .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_NAME, .mem_lower = 639 };
	g_autofree char *cmdline = g_strdup_printf("%s%s%s", b->kernel, b->cmdline ? " " : "", b->cmdline ? b->cmdline : "");
	struct elf_image image;
	struct cpu_state state;

	if (at < 0 || strlen(cmdline) >= MB_CMDLINE_ROOM) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    at < 0 ? "%s: no multiboot header" : "%s: the command line is too long for it", b->kernel);
		return false;
	}
	if (ld32le(data + at + 4) & FLAG_ADDRESSES) {
		if (!load_flat(mem, data, len, (size_t)at, b->kernel, &image, error))
			return false;
	} else if (!elf_load(mem, data, len, b->kernel, &image, error)) {
		return false;
	}
	info.mem_upper = (uint32_t)((b->low_size - (1 << 20)) >> 10);
	info.cmdline = MB_CMDLINE;
	info.boot_loader_name = MB_NAME;
	if (!boot_write(mem, MB_CMDLINE, cmdline, strlen(cmdline) + 1, "the command line", error) ||
	    !boot_write(mem, MB_NAME, name, sizeof(name), "the loader's name", error) ||
	    !put_map(mem, b, &info, error) || !put_module(mem, b, image.high, &info, error) || !put_rsdp(mem, b, error) ||
	    !boot_write(mem, MB_INFO, &info, sizeof(info), "the multiboot information", error) ||
	    !boot_cpu_32(mem, &state, (uint32_t)image.entry, error))
		return false;
	state.gpr[RAX] = LOADER_MAGIC;
	state.gpr[RBX] = MB_INFO;
	*out = state;
	return true;
}
