/* fw_cfg: what firmware reads by port and by DMA, and the state's round trip. */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/fw_cfg.h"
#include "device_state.h"

struct rig {
	struct space *ports;
	struct mem *mem;
	struct ram *ram;
	struct fw_cfg *fw;
};

static void rig_init(struct rig *r)
{
	r->ports = space_create("ports", 0xffff);
	r->mem = mem_create();
	r->ram = ram_create("test", 1 << 20, NULL);
	mem_map(r->mem, 0, 1 << 20, r->ram, 0, false);
	r->fw = fw_cfg_create(r->ports, r->mem);
	g_assert_cmpint(fw_cfg_add_file(r->fw, "opt/b", "bravo", 5), ==, 0);
	g_assert_cmpint(fw_cfg_add_writable(r->fw, "opt/a", "alpha", 5, NULL, NULL), ==, 0);
}

static void rig_finish(struct rig *r)
{
	struct device *d = fw_cfg_device(r->fw);

	d->ops->destroy(d);
	mem_destroy(r->mem);
	ram_destroy(r->ram);
	space_destroy(r->ports);
}

static void data_in(struct rig *r, uint16_t key, void *buf, size_t len)
{
	uint8_t *p = buf;

	space_write(r->ports, FW_CFG_PORT, 2, key);
	while (len--)
		*p++ = (uint8_t)space_read(r->ports, FW_CFG_PORT + 1, 1);
}

static uint32_t dma(struct rig *r, uint32_t control, uint32_t len, uint64_t address)
{
	uint8_t desc[16];

	st32be(desc, control);
	st32be(desc + 4, len);
	st64be(desc + 8, address);
	mem_write(r->mem, 0x1000, desc, sizeof(desc));
	space_write(r->ports, FW_CFG_DMA_PORT, 4, 0);
	space_write(r->ports, FW_CFG_DMA_PORT + 4, 4, __builtin_bswap32(0x1000));
	return ld32be(r->ram->host + 0x1000);
}

static void test_ports(void)
{
	struct rig r;
	uint8_t b[4 + 128];

	rig_init(&r);
	data_in(&r, FW_CFG_SIGNATURE, b, 5);
	g_assert_cmpmem(b, 5, "QEMU\0", 5);
	data_in(&r, FW_CFG_ID, b, 4);
	g_assert_cmpuint(ld32le(b), ==, 3);
	data_in(&r, FW_CFG_FILE_DIR, b, sizeof(b));
	g_assert_cmpuint(ld32be(b), ==, 2);
	g_assert_cmpstr((char *)b + 12, ==, "opt/a");
	g_assert_cmpuint(ld16be(b + 8), ==, 0x21);
	data_in(&r, 0x20, b, 6);
	g_assert_cmpmem(b, 6, "bravo\0", 6);
	g_assert_cmphex(space_read(r.ports, FW_CFG_DMA_PORT, 4), ==, ld32le("QEMU"));
	rig_finish(&r);
}

static void test_dma(void)
{
	struct rig r;

	rig_init(&r);
	g_assert_cmpuint(dma(&r, 0x20u << 16 | 8 | 2, 5, 0x2000), ==, 0);
	g_assert_cmpmem(r.ram->host + 0x2000, 5, "bravo", 5);
	g_assert_cmpuint(dma(&r, 0x20u << 16 | 8 | 16, 5, 0x2000), ==, 1);
	g_assert_cmpuint(dma(&r, 0x21u << 16 | 8 | 16, 5, 0x2000), ==, 0);
	g_assert_cmpuint(dma(&r, 0x21u << 16 | 8 | 16, 6, 0x2000), ==, 1);
	g_assert_cmpuint(dma(&r, 0x20u << 16 | 8 | 2, 0xffffffff, UINT64_MAX - 3), ==, 1);
	g_assert_cmpuint(dma(&r, 0x20u << 16 | 8 | 2, 5, 1 << 20), ==, 1);
	rig_finish(&r);
}

static void test_state(void)
{
	struct rig a, b;
	g_autoptr(GByteArray) saved = NULL;
	uint8_t rest[3];
	size_t len;

	rig_init(&a);
	rig_init(&b);
	memcpy(a.ram->host + 0x2000, "OTHER", 5);
	dma(&a, 0x21u << 16 | 8 | 16, 5, 0x2000);
	data_in(&a, 0x20, rest, 2);
	saved = device_save(fw_cfg_device(a.fw));
	g_assert_cmpint(device_restore(fw_cfg_device(b.fw), saved), ==, 0);
	for (unsigned i = 0; i < 3; i++)
		rest[i] = (uint8_t)space_read(b.ports, FW_CFG_PORT + 1, 1);
	g_assert_cmpmem(rest, 3, "avo", 3);
	g_assert_cmpmem(fw_cfg_file(b.fw, "opt/a", &len), 5, "OTHER", 5);
	rig_finish(&a);
	rig_finish(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/fw_cfg/ports", test_ports);
	g_test_add_func("/fw_cfg/dma", test_dma);
	g_test_add_func("/fw_cfg/state", test_state);
	return g_test_run();
}
