/* What a user asks for: one virtual machine, as plain data. */
#ifndef MACHINE_CONFIG_H
#define MACHINE_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/blk.h"
#include "net/netdev.h"
#include "x86/cpuid.h"

#define VM_MAX_DISKS 8
#define VM_MAX_FLOPPIES 2
#define VM_MAX_SERIAL 4
#define VM_MAX_CPUS 64
#define VM_MAX_NICS 8
#define VM_MAX_BOOT_INDEX 10000

enum disk_bus { DISK_IDE, DISK_VIRTIO, DISK_SATA };

struct vm_disk {
	char *path;
	enum disk_bus bus;
	enum blk_format format; /* BLK_AUTO: nobody named it (blk.h says what that means) */
	bool readonly, snapshot;
	enum blk_on_error on_read_error, on_write_error;
	unsigned boot_index; /* firmware tries the smallest first; 0: as its kind's place in `boot` says */
};

enum nic_model { NIC_VIRTIO, NIC_E1000, NIC_RTL8139 };

struct vm_nic {
	struct net_config net;
	enum nic_model model;
	uint8_t mac[6];
	bool mac_given;
	char *capture; /* pcap file, or NULL */
	unsigned boot_index; /* as a disk's */
};

enum panic_action { PANIC_POWEROFF, PANIC_PAUSE, PANIC_RESET, PANIC_IGNORE };

struct vm_config {
	char *name;
	char *engine;    /* "auto", "kvm", "bt", "interp" */
	char *cpu;       /* model spec */
	unsigned cpus;
	uint64_t memory; /* bytes */
	bool small_pages; /* not in the host's huge pages */
	uint64_t bt_cache; /* bytes; 0: the translator's own choice */
	char *kernel, *initrd, *append;
	struct vm_disk cdrom; /* path NULL: an empty drive */
	struct vm_disk disk[VM_MAX_DISKS];
	unsigned disks;
	struct vm_disk floppy[VM_MAX_FLOPPIES];
	unsigned floppies;
	struct vm_nic nic[VM_MAX_NICS];
	unsigned nics;
	char *boot;     /* of "cd,disk,net"; NULL: all of them in this order */
	char *firmware; /* "bios", "uefi" or a path */
	char *uefi_vars; /* file of UEFI's variables; NULL: they end with the machine */
	char *serial[VM_MAX_SERIAL]; /* chardev specs; NULL: absent for 1..3, "none" for 0 */
	char *console;  /* of the virtio console: chardev spec, or NULL for none */
	char *debugcon; /* chardev spec or NULL */
	bool debug_exit;
	bool test_device;
	bool tablet; /* a USB tablet, for displays whose pointer is where it points */
	bool no_reboot;
	enum panic_action on_panic;
	bool paused; /* start stopped */
	/* Deterministic, for comparing engines: time moves by clock_advance alone, no thread runs vCPUs, the APIC is
	 * ours, and CPU features are among cpu_limit. */
	bool stepped;
	uint32_t cpu_limit[CPUID_WORDS];
};

/* Frees what it points to, not itself. */
void vm_config_finish(struct vm_config *c);

#endif
