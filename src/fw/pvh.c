/* hvm_start_info, its memory map, module list and command line, in low memory. */
#include "fw/pvh.h"

#include <string.h>

#include "base/bytes.h"

#define PVH_INFO 0x6000u
#define PVH_MODULE 0x6100u
#define PVH_MAP 0x6200u
#define PVH_CMDLINE 0x7000u
#define PVH_CMDLINE_ROOM 0x1000u
#define PVH_MAGIC 0x336ec578u
#define INITRD_LIMIT UINT64_C(0x38000000)

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, cmdline, rsdp, memory_map;
	uint32_t map_entries, reserved;
} __attribute__((packed));

struct module_entry {
	uint64_t address, size, cmdline, reserved;
} __attribute__((packed));

struct map_entry {
	uint64_t address, size;
	uint32_t type, reserved;
} __attribute__((packed));

static bool put_map(struct mem *mem, const struct linux_boot *b, struct start_info *info, GError **error)
{
	struct e820_entry e820[E820_MAX];
	struct map_entry map[E820_MAX] = { 0 };
	unsigned n = e820_build(e820, b->low_size, b->high_size, b->rsdp != 0);

	for (unsigned i = 0; i < n; i++)
		map[i] = (struct map_entry){ e820[i].addr, e820[i].len, e820[i].type, 0 };
	info->memory_map = PVH_MAP;
	info->map_entries = n;
	return boot_write(mem, PVH_MAP, map, n * sizeof(map[0]), "the memory map", error);
}

bool pvh_start(struct mem *mem, const struct linux_boot *b, const struct elf_image *image, struct cpu_state *out,
	       GError **error)
{
	struct start_info info = { .magic = PVH_MAGIC, .version = 1, .rsdp = b->rsdp };
	const char *cmdline = b->cmdline ? b->cmdline : "";
	struct cpu_state state;

	if (strlen(cmdline) >= PVH_CMDLINE_ROOM) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "--append: longer than %u bytes", PVH_CMDLINE_ROOM - 1);
		return false;
	}
	if (b->initrd) {
		uint64_t limit = MIN(b->low_size - BOOT_ACPI_SIZE, INITRD_LIMIT), gpa, size;
		struct module_entry module = { 0 };

		if (!boot_place_high(mem, b->initrd, image->high, limit, &gpa, &size, error))
			return false;
		module.address = gpa;
		module.size = size;
		if (!boot_write(mem, PVH_MODULE, &module, sizeof(module), "the module list", error))
			return false;
		info.modules = 1;
		info.module_list = PVH_MODULE;
	}
	info.cmdline = PVH_CMDLINE;
	if (!boot_write(mem, PVH_CMDLINE, cmdline, strlen(cmdline) + 1, "the command line", error) ||
	    !put_map(mem, b, &info, error) ||
	    !boot_write(mem, PVH_INFO, &info, sizeof(info), "the start information", error) ||
	    !boot_cpu_32(mem, &state, image->pvh_entry, error))
		return false;
	state.gpr[RBX] = PVH_INFO;
	*out = state;
	return true;
}
