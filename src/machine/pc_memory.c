/*
 * The board's memory map: RAM below and above the PCI hole, the BIOS ROM, and the PAM segments
 * between 0xc0000 and 0xfffff (82441FX 4.1.8).
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "machine/pc_memory.h"
#include "machine/vm.h"

#define LOW_MAX (UINT64_C(3) << 30)
#define HIGH_BASE (UINT64_C(4) << 30)
#define VGA_WINDOW 0xa0000
#define EXTENDED 0x100000

struct pam_segment {
	uint32_t base, size;
};

/* Segment 0 is the system BIOS area, the others climb from 0xc0000 in steps of 16 KiB. */
static struct pam_segment pam_segment(unsigned n)
{
	if (n == 0)
		return (struct pam_segment){ 0xf0000, 0x10000 };
	return (struct pam_segment){ 0xc0000 + (n - 1) * 0x4000, 0x4000 };
}

static uint32_t rom_shadow_base(const struct pc *pc)
{
	uint64_t shown = pc->rom->size < 0x20000 ? pc->rom->size : 0x20000;

	return EXTENDED - (uint32_t)shown;
}

void pc_memory_pam(struct pc *pc, unsigned segment, bool read_ram, bool write_ram)
{
	struct pam_segment s = pam_segment(segment);
	uint32_t shadow = rom_shadow_base(pc);

	if (segment >= 13)
		return;
	if (pc->pam_slot[segment] >= 0)
		mem_unmap(pc->vm->mem, pc->pam_slot[segment]);
	pc->pam_slot[segment] = -1;
	/* Reading the ROM while writing the RAM below it is offered as ROM: firmware copies from the
	 * image below 4 GiB. */
	if (read_ram)
		pc->pam_slot[segment] = mem_map(pc->vm->mem, s.base, s.size, pc->ram_low, s.base, !write_ram);
	else if (s.base >= shadow)
		pc->pam_slot[segment] = mem_map(pc->vm->mem, s.base, s.size, pc->rom,
						pc->rom->size - (EXTENDED - s.base), true);
}

static bool load_rom(struct pc *pc, GError **error)
{
	const char *path = pc->vm->config.firmware;
	g_autofree char *data = NULL;
	struct stat st;
	gsize len;

	if (!strcmp(path, "bios"))
		path = "/usr/share/seabios/bios-256k.bin";
	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "firmware %s: not a regular file", path);
		return false;
	}
	if (!g_file_get_contents(path, &data, &len, error)) {
		g_prefix_error(error, "firmware: ");
		if (!strcmp(pc->vm->config.firmware, "bios"))
			g_prefix_error(error, "install it with `sudo apt-get install seabios`: ");
		return false;
	}
	if (!len || len % 0x10000 || len > 16 << 20) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    "firmware %s: %" G_GSIZE_FORMAT " bytes; a BIOS image is a multiple of 64 KiB, up to 16 MiB", path, len);
		return false;
	}
	pc->rom = ram_create("bios", len, error);
	if (!pc->rom)
		return false;
	memcpy(pc->rom->host, data, len);
	return true;
}

uint64_t pc_memory_end(uint64_t memory)
{
	return memory <= LOW_MAX ? HIGH_BASE : HIGH_BASE + (memory - LOW_MAX);
}

bool pc_memory_create(struct pc *pc, GError **error)
{
	uint64_t memory = pc->vm->config.memory;
	struct mem *m = pc->vm->mem;

	for (unsigned i = 0; i < 13; i++)
		pc->pam_slot[i] = -1;
	pc->low_size = memory < LOW_MAX ? memory : LOW_MAX;
	pc->high_size = memory - pc->low_size;
	pc->ram_low = ram_create("ram-low", pc->low_size < EXTENDED ? EXTENDED : pc->low_size, error);
	if (pc->ram_low && !pc->vm->config.small_pages)
		ram_use_huge(pc->ram_low);
	if (!pc->ram_low || !(pc_is_uefi(pc) ? pc_flash_load(pc, error) : load_rom(pc, error)))
		return false;
	mem_map(m, 0, VGA_WINDOW, pc->ram_low, 0, false);
	if (pc->low_size > EXTENDED)
		mem_map(m, EXTENDED, pc->low_size - EXTENDED, pc->ram_low, EXTENDED, false);
	if (pc->high_size) {
		pc->ram_high = ram_create("ram-high", pc->high_size, error);
		if (!pc->ram_high)
			return false;
		if (!pc->vm->config.small_pages)
			ram_use_huge(pc->ram_high);
		mem_map(m, HIGH_BASE, pc->high_size, pc->ram_high, 0, false);
	}
	/* A flash bank maps itself. */
	if (!pc_is_uefi(pc))
		mem_map(m, HIGH_BASE - pc->rom->size, pc->rom->size, pc->rom, 0, true);
	for (unsigned i = 0; i < 13; i++)
		pc_memory_pam(pc, i, false, false);
	return true;
}

void pc_memory_destroy(struct pc *pc)
{
	for (int i = 0; i < MEM_MAX_SLOTS; i++)
		mem_unmap(pc->vm->mem, i);
	ram_destroy(pc->ram_low);
	ram_destroy(pc->ram_high);
	ram_destroy(pc->rom);
	ram_destroy(pc->flash_vars);
}
