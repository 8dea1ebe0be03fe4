/*
 * The firmware configuration channel: a selector, a byte-wide data window and a DMA register.
 * Interface: QEMU docs/specs/fw_cfg. Selector keys of files are handed out in the order of
 * adding, the directory lists them by name.
 */
#include "dev/fw_cfg.h"

#include <errno.h>
#include <glib.h>

#include "base/bytes.h"
#include "base/log.h"

#define ITEM_COUNT 0x20
#define LOCAL_BIT 0x8000 /* architecture-specific items */
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */
#define ID_TRADITIONAL 1
#define ID_DMA 2
#define DIR_ENTRY 64

enum dma_bits {
	DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16,
};

struct item {
	char name[FW_CFG_MAX_NAME + 1]; /* files only */
	uint8_t *data;
	uint32_t len;
	bool writable;
	void (*written)(void *opaque, const void *data, size_t len);
	void *opaque;
};

struct fw_cfg {
	struct device dev;
	struct mem *mem;
	struct region *selector_region, *dma_region;
	struct item classic[ITEM_COUNT], local[ITEM_COUNT], file[FW_CFG_MAX_FILES];
	unsigned files;
	uint16_t key;
	uint32_t offset;
	uint32_t dma_high;
};

static struct item *item_find(struct fw_cfg *fw, uint16_t key)
{
	unsigned index = key & 0x3fff; /* bit 14 is the old write channel */

	if (key & LOCAL_BIT)
		return index < ITEM_COUNT ? &fw->local[index] : NULL;
	if (index < ITEM_COUNT)
		return &fw->classic[index];
	index -= FW_CFG_FILE_FIRST;
	return index < fw->files ? &fw->file[index] : NULL;
}

static void item_set(struct item *it, const void *data, size_t len)
{
	g_free(it->data);
	it->data = g_memdup2(data, len);
	it->len = (uint32_t)len;
}

static uint8_t data_read(struct fw_cfg *fw)
{
	const struct item *it = item_find(fw, fw->key);

	if (!it || fw->offset >= it->len)
		return 0;
	return it->data[fw->offset++];
}

static void key_select(struct fw_cfg *fw, uint16_t key)
{
	fw->key = key;
	fw->offset = 0;
	if (!item_find(fw, key))
		trace(TRACE_DEV, "fw_cfg: no item 0x%x\n", key);
}

/* Copies from the item to the guest; past the end reads zero. */
static bool dma_read(struct fw_cfg *fw, const struct item *it, uint64_t gpa, uint32_t len)
{
	static const uint8_t zero[PAGE_SIZE];
	uint32_t have = it && fw->offset < it->len ? it->len - fw->offset : 0;
	uint32_t n = MIN(have, len);
	uint64_t end;

	if (!checked_add(gpa, len, &end))
		return false;
	if (n && !mem_write(fw->mem, gpa, it->data + fw->offset, n))
		return false;
	fw->offset += n;
	gpa += n;
	for (len -= n; len; len -= n, gpa += n) {
		n = MIN(len, (uint32_t)PAGE_SIZE);
		if (!mem_write(fw->mem, gpa, zero, n))
			return false;
	}
	return true;
}

static bool dma_write(struct fw_cfg *fw, struct item *it, uint64_t gpa, uint32_t len)
{
	if (!it || !it->writable || fw->offset > it->len || len > it->len - fw->offset)
		return false;
	if (!mem_read(fw->mem, gpa, it->data + fw->offset, len))
		return false;
	fw->offset += len;
	if (it->written)
		it->written(it->opaque, it->data, it->len);
	return true;
}

/* Runs the descriptor at gpa: { be32 control, be32 length, be64 address }. */
static void dma_run(struct fw_cfg *fw, uint64_t gpa)
{
	uint8_t desc[16], status[4];
	uint32_t control, len;
	uint64_t address;
	struct item *it;
	bool ok = true;

	if (!mem_read(fw->mem, gpa, desc, sizeof(desc))) {
		device_guest_error(&fw->dev, "DMA descriptor outside RAM");
		return;
	}
	control = ld32be(desc);
	len = ld32be(desc + 4);
	address = ld64be(desc + 8);
	if (control & DMA_SELECT)
		key_select(fw, control >> 16);
	it = item_find(fw, fw->key);
	if (control & DMA_READ) {
		ok = dma_read(fw, it, address, len);
	} else if (control & DMA_WRITE) {
		ok = dma_write(fw, it, address, len);
	} else if (control & DMA_SKIP) {
		uint32_t have = it && fw->offset < it->len ? it->len - fw->offset : 0;

		fw->offset += MIN(have, len);
	}
	if (!ok)
		device_guest_error(&fw->dev, "DMA on item 0x%x failed", fw->key);
	st32be(status, ok ? 0 : DMA_ERROR);
	mem_write(fw->mem, gpa, status, sizeof(status));
}

/* Port base + 0: 16-bit selector (little-endian); + 1: data, reads only. */
static uint64_t port_read(void *opaque, uint64_t offset, unsigned len)
{
	struct fw_cfg *fw = opaque;

	if (offset == 1 && len == 1)
		return data_read(fw);
	return mask_bytes(len);
}

static void port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct fw_cfg *fw = opaque;

	/* Data writes were dropped from the interface long ago; they are ignored. */
	if (offset == 0)
		key_select(fw, (uint16_t)value);
}

static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned len)
{
	uint8_t bytes[16] = { 0 };

	st64be(bytes, DMA_SIGNATURE);
	return ld_le(bytes + (offset & 7), len);
}

/* A big-endian 64-bit address; writing the low half (at + 4) starts the transfer. */
static void dma_port_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct fw_cfg *fw = opaque;

	if (len == 8 && offset == 0) {
		fw->dma_high = 0;
		dma_run(fw, __builtin_bswap64(value));
	} else if (len == 4 && offset == 0) {
		fw->dma_high = __builtin_bswap32((uint32_t)value);
	} else if (len == 4 && offset == 4) {
		uint64_t gpa = (uint64_t)fw->dma_high << 32 | __builtin_bswap32((uint32_t)value);

		fw->dma_high = 0;
		dma_run(fw, gpa);
	} else {
		device_guest_error(&fw->dev, "DMA register written with %u bytes at %u", len, (unsigned)offset);
	}
}

static const struct region_ops port_ops = { .read = port_read, .write = port_write, .min_len = 1, .max_len = 2 };
static const struct region_ops dma_ops = { .read = dma_port_read, .write = dma_port_write, .min_len = 1, .max_len = 8 };

static void fw_cfg_reset(struct device *d)
{
	struct fw_cfg *fw = (struct fw_cfg *)d;

	key_select(fw, FW_CFG_SIGNATURE);
	fw->dma_high = 0;
}

/* Which items exist follows from the board; only what the guest can change is state. */
static int fw_cfg_state(struct device *d, struct state *s)
{
	struct fw_cfg *fw = (struct fw_cfg *)d;

	state_u16(s, "key", &fw->key);
	state_u32(s, "offset", &fw->offset);
	state_u32(s, "dma-high", &fw->dma_high);
	for (unsigned i = 0; i < fw->files; i++) {
		struct item *it = &fw->file[i];
		uint32_t len = it->len;

		if (!it->writable)
			continue;
		state_u32(s, "file-length", &len);
		if (state_loading(s) && !state_error(s) && len != it->len)
			state_fail(s, "file %s is %u bytes here, %u in the snapshot", it->name, it->len, len);
		state_bytes(s, "file", it->data, it->len);
	}
	return state_error(s);
}

static void items_free(struct item *it, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		g_free(it[i].data);
}

static void fw_cfg_destroy(struct device *d)
{
	struct fw_cfg *fw = (struct fw_cfg *)d;

	if (!fw)
		return;
	region_destroy(fw->selector_region);
	region_destroy(fw->dma_region);
	items_free(fw->classic, ITEM_COUNT);
	items_free(fw->local, ITEM_COUNT);
	items_free(fw->file, fw->files);
	g_free(fw);
}

static const struct device_ops fw_cfg_ops = {
	.name = "fw_cfg", .version = 1, .reset = fw_cfg_reset, .state = fw_cfg_state, .destroy = fw_cfg_destroy,
};

int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *data, size_t len)
{
	struct item *it;

	if ((key & 0x7fff) >= ITEM_COUNT || key == FW_CFG_FILE_DIR)
		return -EINVAL;
	if (len > UINT32_MAX)
		return -EFBIG;
	it = item_find(fw, key);
	item_set(it, data, len);
	return 0;
}

int fw_cfg_add_u16(struct fw_cfg *fw, uint16_t key, uint16_t value)
{
	return fw_cfg_add_item(fw, key, &value, sizeof(value));
}

int fw_cfg_add_u32(struct fw_cfg *fw, uint16_t key, uint32_t value)
{
	return fw_cfg_add_item(fw, key, &value, sizeof(value));
}

int fw_cfg_add_u64(struct fw_cfg *fw, uint16_t key, uint64_t value)
{
	return fw_cfg_add_item(fw, key, &value, sizeof(value));
}

static int name_compare(gconstpointer a, gconstpointer b, gpointer opaque)
{
	const struct fw_cfg *fw = opaque;

	return strcmp(fw->file[*(const unsigned *)a].name, fw->file[*(const unsigned *)b].name);
}

/* The directory: be32 count, then { be32 size, be16 selector, be16 0, char name[56] }. */
static void directory_build(struct fw_cfg *fw)
{
	unsigned order[FW_CFG_MAX_FILES];
	size_t len = 4 + (size_t)fw->files * DIR_ENTRY;
	g_autofree uint8_t *dir = g_malloc0(len);

	for (unsigned i = 0; i < fw->files; i++)
		order[i] = i;
	g_qsort_with_data(order, (int)fw->files, sizeof(order[0]), name_compare, fw);
	st32be(dir, fw->files);
	for (unsigned i = 0; i < fw->files; i++) {
		const struct item *it = &fw->file[order[i]];
		uint8_t *e = dir + 4 + (size_t)i * DIR_ENTRY;

		st32be(e, it->len);
		st16be(e + 4, (uint16_t)(FW_CFG_FILE_FIRST + order[i]));
		memcpy(e + 8, it->name, strlen(it->name));
	}
	item_set(&fw->classic[FW_CFG_FILE_DIR], dir, len);
}

static struct item *file_find(struct fw_cfg *fw, const char *name)
{
	for (unsigned i = 0; i < fw->files; i++)
		if (!strcmp(fw->file[i].name, name))
			return &fw->file[i];
	return NULL;
}

static int file_add(struct fw_cfg *fw, const char *name, const void *data, size_t len, struct item **out)
{
	struct item *it = file_find(fw, name);

	if (strlen(name) > FW_CFG_MAX_NAME)
		return -ENAMETOOLONG;
	if (len > UINT32_MAX)
		return -EFBIG;
	if (!it) {
		if (fw->files == FW_CFG_MAX_FILES)
			return -ENOSPC;
		it = &fw->file[fw->files++];
		g_strlcpy(it->name, name, sizeof(it->name));
	}
	item_set(it, data, len);
	it->writable = false;
	it->written = NULL;
	directory_build(fw);
	*out = it;
	return 0;
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, size_t len)
{
	struct item *it;

	return file_add(fw, name, data, len, &it);
}

int fw_cfg_add_writable(struct fw_cfg *fw, const char *name, const void *data, size_t len,
			void (*written)(void *opaque, const void *data, size_t len), void *opaque)
{
	struct item *it;
	int ret = file_add(fw, name, data, len, &it);

	if (ret)
		return ret;
	it->writable = true;
	it->written = written;
	it->opaque = opaque;
	return 0;
}

const void *fw_cfg_file(struct fw_cfg *fw, const char *name, size_t *len)
{
	const struct item *it = file_find(fw, name);

	if (!it)
		return NULL;
	*len = it->len;
	return it->data;
}

struct device *fw_cfg_device(struct fw_cfg *fw)
{
	return &fw->dev;
}

struct fw_cfg *fw_cfg_create(struct space *ports, struct mem *mem)
{
	struct fw_cfg *fw = g_new0(struct fw_cfg, 1);

	fw->dev.ops = &fw_cfg_ops;
	fw->dev.id = "fw_cfg";
	fw->mem = mem;
	fw_cfg_add_item(fw, FW_CFG_SIGNATURE, "QEMU", 4);
	fw_cfg_add_u32(fw, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	fw_cfg_add_item(fw, FW_CFG_UUID, (const uint8_t[16]){ 0 }, 16);
	fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, 0);
	fw_cfg_add_u16(fw, FW_CFG_NOGRAPHIC, 0);
	fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, 1);
	fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, 1);
	fw_cfg_add_u16(fw, FW_CFG_BOOT_DEVICE, 0);
	fw_cfg_add_u16(fw, FW_CFG_BOOT_MENU, 0);
	fw_cfg_add_u64(fw, FW_CFG_NUMA, 0);
	directory_build(fw);
	fw->selector_region = space_add(ports, "fw_cfg", FW_CFG_PORT, 2, &port_ops, fw);
	fw->dma_region = space_add(ports, "fw_cfg-dma", FW_CFG_DMA_PORT, 8, &dma_ops, fw);
	return fw;
}
