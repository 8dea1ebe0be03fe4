/* The firmware configuration channel: how firmware and kernels learn what the board holds.
 * Interface: QEMU docs/specs/fw_cfg; ports 0x510 to 0x51b. */
#ifndef DEV_FW_CFG_H
#define DEV_FW_CFG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/device.h"
#include "bus/space.h"
#include "mem/mem.h"

struct fw_cfg;

#define FW_CFG_PORT 0x510
#define FW_CFG_DMA_PORT 0x514

/* Classic items, by selector. */
enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_UUID = 0x02,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_MACHINE_ID = 0x06,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_KERNEL_CMDLINE = 0x09,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_DEVICE = 0x0c,
	FW_CFG_NUMA = 0x0d,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
	FW_CFG_X86_IRQ0_OVERRIDE = 0x8002,
};

#define FW_CFG_MAX_FILES 96
#define FW_CFG_MAX_NAME 55

/* Starts with signature, ID, an empty directory and zero for the classic numbers. `mem` is
 * where DMA goes. The embedded device is fw_cfg_device(). */
struct fw_cfg *fw_cfg_create(struct space *ports, struct mem *mem);
struct device *fw_cfg_device(struct fw_cfg *fw);

/* Sets a classic item (key below 0x20, or 0x8000 to 0x801f), replacing what was there.
 * The bytes are copied. -EINVAL for any other key. */
int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *data, size_t len);
int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value);
int fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value);
int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value);

/* Adds a read-only file, or replaces one of that name (its selector stays). The bytes are
 * copied. -ENAMETOOLONG, -ENOSPC or -EFBIG. The directory is sorted by name. */
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len);
/* A file the guest may write by DMA, within its length; `written` (may be NULL) hears of it. */
int fw_cfg_add_writable(struct fw_cfg *fw, const char *name, const void *data, size_t len,
			void (*written)(void *opaque, const void *data, size_t len), void *opaque);
/* The bytes of a file as they are now, or NULL. Owned by fw_cfg. */
const void *fw_cfg_file(struct fw_cfg *fw, const char *name, size_t *len);

#endif
