/* The board: an i440FX/PIIX PC. pc.c says what is plugged in where. */
#ifndef MACHINE_PC_H
#define MACHINE_PC_H

#include <glib.h>

#include "bus/device.h"
#include "bus/pci.h"
#include "bus/space.h"
#include "display/input.h"
#include "display/surface.h"
#include "machine/config.h"
#include "x86/cpu_state.h"

struct vm;
struct lapic_bus;
struct netdev;
struct file;

#define PC_MAX_DEVICES 64

/* PCI slots that firmware hears of by other ways too. */
#define PC_VIRTIO_DISK_SLOT 4
#define PC_AHCI_SLOT 15
#define PC_NIC_SLOT 16

enum pc_drive_kind { PC_DISK, PC_CDROM, PC_FLOPPY };

struct pc_drive {
	struct pc *pc;
	char id[16];	 /* "ide1-cd0", "virtio0" */
	struct blk *blk; /* NULL: empty */
	enum pc_drive_kind kind;
	enum disk_bus bus; /* of a disk or CD-ROM drive */
	unsigned unit;	   /* of its controller */
	unsigned boot_index;
	enum blk_on_error on_read_error, on_write_error;
	struct blk_failure failure[2]; /* the last read and write that failed and are yet to be told; error 0: none */
	struct virtio_blk *virtio;     /* a virtio disk */
	bool tray_moved_open; /* the last time */
	unsigned tray_moves;  /* yet to be told */
};

struct pc {
	struct vm *vm;
	struct space *ports, *mmio;
	struct pci_bus *pci;
	struct ram *ram_low, *ram_high;
	struct ram *rom;	 /* BIOS, or UEFI's code */
	struct ram *flash_vars;	 /* UEFI's variables, or NULL */
	struct file *vars_store; /* where they are kept; NULL: nowhere */
	uint8_t *video_rom; /* the VGA BIOS */
	size_t video_rom_len;
	int pam_slot[13];
	struct irq_lines *lines;
	struct lapic_bus *lapics;
	struct pic *pic;
	struct piix3 *piix3;
	struct ioapic *ioapic;
	struct acpi_pm *pm;
	struct i8042 *i8042;
	struct coprocessor *coprocessor;
	struct vga *vga;
	struct ide *ide;
	struct ahci *ahci; /* NULL without SATA disks */
	struct fdc *fdc;   /* NULL without floppy drives */
	struct dma8237 *dma;
	struct fw_cfg *fw_cfg;
	struct rtc *rtc;
	struct virtio_balloon *balloon;
	struct usb_tablet *tablet;
	struct device *devices[PC_MAX_DEVICES]; /* in reset order */
	unsigned device_count;
	struct chardev *serial[4], *console, *debugcon;
	struct pc_drive drive[12];
	unsigned drives;
	struct netdev *net[VM_MAX_NICS];
	char net_id[VM_MAX_NICS][8]; /* "net0" */
	uint64_t low_size, high_size;
	uint64_t irq_count[24];
	struct input_sink input;
};

/* Lock held. Sets vm->pc at once; on failure (NULL) what was made so far stays there for pc_destroy. */
struct pc *pc_create(struct vm *vm, GError **error);
/* Without the lock; vCPU threads have ended. NULL accepted. */
void pc_destroy(struct pc *pc);
/* Resets every device, reloads firmware and kernel; fills the boot CPU's state. Lock held. */
bool pc_reset(struct pc *pc, struct cpu_state *boot, GError **error);
void pc_power_button(struct pc *pc);
const struct display_source *pc_display(struct pc *pc);
/* Network card `i` with its back end and its boot ROM (pc_net.c); NULL on failure. */
struct device *pc_nic_create(struct pc *pc, unsigned i, unsigned devfn, GError **error);
/* No frames move by the kernel's hand while no vCPU runs. */
void pc_net_pause(struct pc *pc, bool paused);
/* Guest memory is laid out anew; slot `leaving` is about to go (MEM_MAX_SLOTS: none). */
void pc_net_layout(struct pc *pc, unsigned leaving);
/* The cable of card "net0" and so on, in or out. Without the lock. */
bool pc_net_set_link(struct pc *pc, const char *id, bool up, GError **error);
/* A line for each card; with the lock. */
void pc_net_info(struct pc *pc, GString *out);
/* UEFI (pc_flash.c): the two banks' contents, and the chips over them. */
bool pc_is_uefi(const struct pc *pc);
bool pc_flash_load(struct pc *pc, GError **error);
struct device *pc_flash_create(struct pc *pc, bool vars);
void pc_flash_close(struct pc *pc);
/* Firmware, tables, kernels (pc_boot.c). */
uint16_t pc_pm_base(const struct pc *pc);
/* Tells the firmware the boot order (pc_bootorder.c). */
void pc_boot_order(struct pc *pc);
bool pc_boot_prepare(struct pc *pc, GError **error);
bool pc_boot_reset(struct pc *pc, struct cpu_state *boot, GError **error);

#endif
