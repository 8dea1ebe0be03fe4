/* What the board starts with: firmware with its configuration channel, or a kernel started directly. */
#include <string.h>

#include "dev/fw_cfg.h"
#include "dev/i440fx.h"
#include "dev/rtc.h"
#include "dev/vga.h"
#include "fw/acpi.h"
#include "fw/boot.h"
#include "fw/linux.h"
#include "fw/multiboot.h"
#include "fw/pvh.h"
#include "fw/smbios.h"
#include "fw/video_init.h"
#include "machine/pc.h"
#include "machine/pc_drives.h"
#include "machine/vm.h"

#define CMOS_BOOT_HIGH 0x38
#define CMOS_BOOT_LOW 0x3d

/* Where each firmware expects the PM registers on this board. */
uint16_t pc_pm_base(const struct pc *pc)
{
	return pc_is_uefi(pc) ? 0xb000 : 0x600;
}

static struct acpi_config acpi_config(const struct pc *pc)
{
	/* OVMF places PCI memory from 2 GiB on where RAM leaves room there, SeaBIOS from 3 GiB on. */
	struct acpi_config c = { .cpus = pc->vm->cpus, .low_size = pc->low_size, .high_size = pc->high_size, .hpet = true,
				.floppy = pc->fdc != NULL, .hole = pc_is_uefi(pc) ? 0x80000000 : 0xc0000000,
				.pm_base = pc_pm_base(pc) };

	for (unsigned i = 0; i < VM_MAX_SERIAL; i++)
		c.serial |= pc->serial[i] ? 1u << i : 0;
	return c;
}

static void cmos_u16(struct pc *pc, unsigned index, uint64_t value)
{
	rtc_set_cmos(pc->rtc, index, (uint8_t)value);
	rtc_set_cmos(pc->rtc, index + 1, (uint8_t)(value >> 8));
}

/* Three nibbles, first to last: 1 floppy, 2 hard disk, 3 CD, 4 network. Bit 0 of the high byte: no floppy checks. */
static void fill_boot_order(struct pc *pc)
{
	const char *usual = pc->vm->config.floppies ? "cd,disk,floppy" : "cd,disk,net";
	const char *order = pc->vm->config.boot ? pc->vm->config.boot : usual;
	g_auto(GStrv) part = g_strsplit(order, ",", -1);
	unsigned nibble[3] = { 0 };

	for (unsigned i = 0; i < 3 && part[i]; i++)
		nibble[i] = part[i][0] == 'f' ? 1 : part[i][0] == 'd' ? 2 : part[i][0] == 'c' ? 3 : 4;
	rtc_set_cmos(pc->rtc, CMOS_BOOT_LOW, (uint8_t)(nibble[1] << 4 | nibble[0]));
	rtc_set_cmos(pc->rtc, CMOS_BOOT_HIGH, (uint8_t)(nibble[2] << 4 | 1));
}

/* Memory sizes and the boot order where PC firmware looks for them. */
static void fill_cmos(struct pc *pc)
{
	uint64_t low = pc->low_size, above_1m = low > 1 << 20 ? (low - (1 << 20)) >> 10 : 0;

	cmos_u16(pc, 0x15, 640);
	cmos_u16(pc, 0x17, MIN(above_1m, 0xffff));
	cmos_u16(pc, 0x30, MIN(above_1m, 0xffff));
	cmos_u16(pc, 0x34, low > 16 << 20 ? (low - (16 << 20)) >> 16 : 0);
	rtc_set_cmos(pc->rtc, 0x5b, (uint8_t)(pc->high_size >> 16));
	rtc_set_cmos(pc->rtc, 0x5c, (uint8_t)(pc->high_size >> 24));
	rtc_set_cmos(pc->rtc, 0x5d, (uint8_t)(pc->high_size >> 32));
	rtc_set_cmos(pc->rtc, 0x5f, (uint8_t)(pc->vm->cpus - 1));
	fill_boot_order(pc);
	pc_drives_fill_cmos(pc);
}

bool pc_boot_prepare(struct pc *pc, GError **error)
{
	const struct acpi_config ac = acpi_config(pc);
	const struct smbios_config sc = { .cpus = ac.cpus, .low_size = ac.low_size, .high_size = ac.high_size };
	struct e820_entry map[E820_MAX];
	struct acpi_tables t;
	g_autoptr(GByteArray) anchor = g_byte_array_new();
	g_autoptr(GByteArray) smbios = g_byte_array_new();
	unsigned entries;

	acpi_build(&t, &ac);
	fw_cfg_add_file(pc->fw_cfg, "etc/acpi/tables", t.tables->data, t.tables->len);
	fw_cfg_add_file(pc->fw_cfg, "etc/acpi/rsdp", t.rsdp->data, t.rsdp->len);
	fw_cfg_add_file(pc->fw_cfg, "etc/table-loader", t.loader->data, t.loader->len);
	acpi_finish(&t);
	smbios_build(anchor, smbios, &sc);
	fw_cfg_add_file(pc->fw_cfg, "etc/smbios/smbios-anchor", anchor->data, anchor->len);
	fw_cfg_add_file(pc->fw_cfg, "etc/smbios/smbios-tables", smbios->data, smbios->len);
	entries = e820_firmware(map, pc->low_size, pc->high_size);
	fw_cfg_add_file(pc->fw_cfg, "etc/e820", map, entries * sizeof(map[0]));
	fw_cfg_add_u64(pc->fw_cfg, FW_CFG_RAM_SIZE, pc->vm->config.memory);
	fw_cfg_add_u16(pc->fw_cfg, FW_CFG_NB_CPUS, (uint16_t)pc->vm->cpus);
	fw_cfg_add_u16(pc->fw_cfg, FW_CFG_MAX_CPUS, (uint16_t)pc->vm->cpus);
	fw_cfg_add_u16(pc->fw_cfg, FW_CFG_BOOT_MENU, 0);
	pc_boot_order(pc);
	return true;
}

/* What the file is decides the protocol: multiboot, PVH, or Linux's own. */
static bool load_kernel(struct mem *mem, const struct linux_boot *b, struct cpu_state *boot, GError **error)
{
	g_autofree uint8_t *data = NULL;
	struct elf_image image;
	size_t len;

	if (!boot_read_file(b->kernel, &data, &len, error))
		return false;
	if (!elf_check(data, len))
		return linux_load(mem, b, boot, error);
	if (multiboot_check(data, len))
		return multiboot_load(mem, b, data, len, boot, error);
	if (!elf_load(mem, data, len, b->kernel, &image, error))
		return false;
	if (!image.has_pvh) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
			    "%s: an ELF file without a PVH note or a multiboot header; it cannot be booted directly", b->kernel);
		return false;
	}
	return pvh_start(mem, b, &image, boot, error);
}

static bool boot_kernel(struct pc *pc, struct cpu_state *boot, GError **error)
{
	const struct vm_config *c = &pc->vm->config;
	struct linux_boot b = { .kernel = c->kernel, .initrd = c->initrd, .cmdline = c->append,
				.low_size = pc->low_size, .high_size = pc->high_size };
	const struct acpi_config ac = acpi_config(pc);
	struct acpi_tables t;
	bool ok;

	acpi_build(&t, &ac);
	ok = acpi_install(&t, pc->vm->mem, pc->low_size - BOOT_ACPI_SIZE, BOOT_ACPI_SIZE, &b.rsdp, error);
	acpi_finish(&t);
	if (!ok || !load_kernel(pc->vm->mem, &b, boot, error))
		return false;
	/* What firmware does before: RAM instead of PCI from 0xc0000 to 0xcffff, for the video BIOS. */
	pci_config_write(pc->pci, 0, I440FX_PAM + 1, 2, 0x3333);
	return video_init_boot(pc->vm->mem, pc->video_rom, pc->video_rom_len, vga_pci(pc->vga)->devfn, boot, error);
}

bool pc_boot_reset(struct pc *pc, struct cpu_state *boot, GError **error)
{
	fill_cmos(pc);
	cpu_state_reset(boot, true);
	return !pc->vm->config.kernel || boot_kernel(pc, boot, error);
}
