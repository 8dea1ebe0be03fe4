/*
 * The boot order as firmware reads it: fw_cfg's file "bootorder" with one Open Firmware path a line (QEMU docs/specs/fw_cfg,
 * SeaBIOS docs/Runtime_config; OVMF matches the same paths).
 */
#include <string.h>

#include "dev/fw_cfg.h"
#include "machine/pc.h"
#include "machine/pc_drives.h"
#include "machine/vm.h"

#define UNLISTED 100000

struct entry {
	unsigned rank; /* the smallest comes first */
	unsigned added;
	char *path;
};

/* The place in --boot of what begins with this letter; UNLISTED: not there. */
static unsigned class_rank(const struct pc *pc, char letter)
{
	g_auto(GStrv) part = g_strsplit(pc->vm->config.boot ? pc->vm->config.boot : "", ",", -1);

	for (unsigned i = 0; part[i]; i++)
		if (part[i][0] == letter)
			return VM_MAX_BOOT_INDEX + i;
	return UNLISTED;
}

/* A device's own index goes before its class. */
static void add(GArray *list, const struct pc *pc, unsigned boot_index, char letter, char *path)
{
	struct entry e = { boot_index ? boot_index - 1 : class_rank(pc, letter), list->len, path };

	if (e.rank == UNLISTED)
		g_free(path);
	else
		g_array_append_val(list, e);
}

static char *drive_path(const struct pc_drive *d)
{
	if (d->kind == PC_FLOPPY)
		return g_strdup_printf("/pci@i0cf8/isa@1/fdc@03f0/floppy@%x", d->unit);
	switch (d->bus) {
	case DISK_IDE: return g_strdup_printf("/pci@i0cf8/ide@1,1/drive@%x/disk@%x", d->unit / 2, d->unit & 1);
	case DISK_SATA: return g_strdup_printf("/pci@i0cf8/pci8086,2922@%x/drive@%x/disk@0", PC_AHCI_SLOT, d->unit);
	case DISK_VIRTIO: break;
	}
	return g_strdup_printf("/pci@i0cf8/scsi@%x/disk@0,0", PC_VIRTIO_DISK_SLOT + d->unit);
}

static int by_rank(gconstpointer a, gconstpointer b)
{
	const struct entry *x = a, *y = b;

	return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1) : x->added < y->added ? -1 : 1;
}

static void entry_clear(gpointer opaque)
{
	g_free(((struct entry *)opaque)->path);
}

void pc_boot_order(struct pc *pc)
{
	static const char letter[] = { [PC_DISK] = 'd', [PC_CDROM] = 'c', [PC_FLOPPY] = 'f' };
	g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(struct entry));
	g_autoptr(GString) text = g_string_new(NULL);

	g_array_set_clear_func(list, entry_clear);
	for (unsigned i = 0; i < pc->drives; i++) {
		const struct pc_drive *d = &pc->drive[i];

		add(list, pc, d->boot_index, letter[d->kind], drive_path(d));
	}
	for (unsigned i = 0; i < pc->vm->config.nics; i++)
		add(list, pc, pc->vm->config.nic[i].boot_index, 'n',
		    g_strdup_printf("/pci@i0cf8/ethernet@%x/ethernet-phy@0", PC_NIC_SLOT + i));
	/* Without a wish UEFI keeps the order that its guest has set, and SeaBIOS the one in CMOS. */
	if (!list->len)
		return;
	g_array_sort(list, by_rank);
	for (unsigned i = 0; i < list->len; i++)
		g_string_append_printf(text, "%s%s", i ? "\n" : "", g_array_index(list, struct entry, i).path);
	fw_cfg_add_file(pc->fw_cfg, "bootorder", text->str, text->len + 1);
}
