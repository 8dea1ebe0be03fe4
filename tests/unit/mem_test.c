/* Guest memory: slots, access across them, read-only ones, host vectors, dirty pages, the code listener. */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/uio.h>

#include "mem/mem.h"

static uint64_t code_gpa, code_len;

static void code_written(void *opaque, uint64_t gpa, size_t len)
{
	code_gpa = gpa;
	code_len += len;
}

static void test_memory(void)
{
	struct mem *m = mem_create();
	struct ram *r = ram_create("test", 4 * PAGE_SIZE, NULL), *rom = ram_create("rom", PAGE_SIZE, NULL);
	uint64_t generation = mem_generation(m);
	uint8_t out[64], in[64] = { 0 };
	struct iovec iov[4];
	int low, high;

	/* The two halves of one RAM, swapped and side by side. */
	low = mem_map(m, 0x10000, 2 * PAGE_SIZE, r, 2 * PAGE_SIZE, false);
	high = mem_map(m, 0x12000, 2 * PAGE_SIZE, r, 0, false);
	g_assert_cmpint(low, >=, 0);
	g_assert_cmpint(high, >=, 0);
	g_assert_cmpuint(mem_generation(m), ==, generation + 2);
	g_assert_cmpint(mem_map(m, 0x13000, PAGE_SIZE, rom, 0, true), ==, -EINVAL);
	g_assert_cmpint(mem_map(m, 0x20010, PAGE_SIZE, rom, 0, true), ==, -EINVAL);
	g_assert_cmpint(mem_map(m, 0x20000, 2 * PAGE_SIZE, rom, 0, true), ==, -EINVAL);
	g_assert_cmpint(mem_map(m, -(uint64_t)PAGE_SIZE, 2 * PAGE_SIZE, r, 0, false), ==, -EINVAL);
	g_assert_cmpint(mem_map(m, 0x14000, PAGE_SIZE, rom, 0, true), >=, 0);
	mem_set_code_listener(m, code_written, NULL);
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i + 1);
	/* Across the slots. */
	g_assert_true(mem_write(m, 0x12000 - 32, out, 64));
	g_assert_true(mem_read(m, 0x12000 - 32, in, 64));
	g_assert_cmpmem(in, 64, out, 64);
	g_assert_cmpmem(r->host + 4 * PAGE_SIZE - 32, 32, out, 32);
	g_assert_cmpmem(r->host, 32, out + 32, 32);
	g_assert_cmpuint(code_len, ==, 64);
	g_assert_cmphex(code_gpa, ==, 0x12000);
	/* All or nothing, also where addresses wrap. */
	g_assert_false(mem_write(m, 0x15000 - 32, out, 64));
	g_assert_false(mem_read(m, 0xf000, in, 64));
	g_assert_false(mem_read(m, UINT64_MAX - 8, in, 64));
	/* Writes to ROM are dropped. */
	g_assert_true(mem_write(m, 0x14000, out, 8));
	g_assert_cmphex(mem_read32(m, 0x14000), ==, 0);
	/* Vectors: as many pieces as slots; ROM is not for writing. */
	g_assert_cmpint(mem_iovec(m, 0x12000 - 32, 64, true, iov, 4), ==, 2);
	g_assert_true(iov[1].iov_base == r->host && iov[1].iov_len == 32);
	g_assert_cmpint(mem_iovec(m, 0x12000 - 32, 64, true, iov, 1), ==, -EFAULT);
	g_assert_cmpint(mem_iovec(m, 0x14000, 64, true, iov, 4), ==, -EFAULT);
	g_assert_cmpint(mem_iovec(m, 0x14000, 64, false, iov, 4), ==, 1);
	/* Dirty pages by client. */
	g_assert_true(ram_test_clear_dirty(r, 0, PAGE_SIZE, DIRTY_VGA));
	g_assert_false(ram_test_clear_dirty(r, 0, PAGE_SIZE, DIRTY_VGA));
	g_assert_true(ram_test_clear_dirty(r, 0, PAGE_SIZE, DIRTY_SNAPSHOT));
	g_assert_false(ram_test_clear_dirty(r, PAGE_SIZE, PAGE_SIZE, DIRTY_VGA));
	g_assert_false(ram_test_clear_dirty(r, 0, 100 * PAGE_SIZE, DIRTY_VGA));
	/* Gone is gone. */
	mem_unmap(m, low);
	g_assert_null(mem_find(m, 0x10000));
	g_assert_nonnull(mem_find(m, 0x12fff));
	g_assert_false(mem_read(m, 0x12000 - 32, in, 64));
	mem_unmap(m, low);
	mem_destroy(m);
	ram_destroy(r);
	ram_destroy(rom);
}

/* What was never touched has no memory of the host's, and looking for what has takes none. */
static void test_present(void)
{
	struct ram *r = ram_create("test", 16 * PAGE_SIZE, NULL);

	g_assert_cmpuint(ram_next_present(r, 0), ==, 16 * PAGE_SIZE);
	r->host[5 * PAGE_SIZE + 17] = 1;
	r->host[6 * PAGE_SIZE] = 1;
	r->host[15 * PAGE_SIZE] = 1;
	g_assert_cmpuint(ram_next_present(r, 0), ==, 5 * PAGE_SIZE);
	g_assert_cmpuint(ram_next_present(r, 6 * PAGE_SIZE), ==, 6 * PAGE_SIZE);
	g_assert_cmpuint(ram_next_present(r, 7 * PAGE_SIZE), ==, 15 * PAGE_SIZE);
	g_assert_cmpuint(ram_next_present(r, 16 * PAGE_SIZE), ==, 16 * PAGE_SIZE);
	ram_destroy(r);
}

/* Regions of 2 MiB: contents stay whatever the host's pages are; what is given back counts as untouched. */
static void test_huge(void)
{
	struct mem *m = mem_create();
	struct ram *r = ram_create("huge", 3 * RAM_REGION + 5 * PAGE_SIZE, NULL);
	const uint64_t last = 3 * RAM_REGION + 4 * PAGE_SIZE;
	struct iovec iov;

	g_assert_cmpuint((uintptr_t)r->host % RAM_REGION, ==, 0);
	g_assert_cmpint(mem_map(m, 0, r->size, r, 0, false), >=, 0);
	memset(r->host + PAGE_SIZE, 0x5a, PAGE_SIZE);
	ram_use_huge(r);
	ram_touch(r, RAM_REGION - 1);
	g_assert_cmphex(r->host[PAGE_SIZE], ==, 0x5a);
	g_assert_cmphex(r->host[2 * PAGE_SIZE], ==, 0);
	/* Across two of them, and where there is none. */
	g_assert_true(mem_write(m, 2 * RAM_REGION - 2, "abcd", 4));
	g_assert_true(mem_write(m, last, "efgh", 4));
	g_assert_true(r->region[0] && r->region[1] && r->region[2]);
	g_assert_cmpmem(r->host + 2 * RAM_REGION - 2, 4, "abcd", 4);
	g_assert_cmpmem(r->host + last, 4, "efgh", 4);
	/* All of the second, parts of its neighbours. */
	g_assert_cmpuint(mem_discard(m, PAGE_SIZE, 2 * RAM_REGION), ==, 2 * RAM_REGION);
	g_assert_true(r->region[0]);
	g_assert_cmphex(mem_read16(m, PAGE_SIZE), ==, 0);
	g_assert_cmpmem(r->host + last, 4, "efgh", 4);
	g_assert_cmpint(mem_iovec(m, RAM_REGION, PAGE_SIZE, true, &iov, 1), ==, 1);
	memset(iov.iov_base, 0x33, iov.iov_len);
	g_assert_true(r->region[1]);
	g_assert_cmphex(mem_read32(m, RAM_REGION + PAGE_SIZE - 4), ==, 0x33333333);
	mem_destroy(m);
	ram_destroy(r);
	/* Too small to have any. */
	r = ram_create("small", PAGE_SIZE, NULL);
	ram_use_huge(r);
	ram_touch(r, 0);
	ram_destroy(r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/mem/present", test_present);
	g_test_add_func("/mem/all", test_memory);
	g_test_add_func("/mem/huge", test_huge);
	return g_test_run();
}
