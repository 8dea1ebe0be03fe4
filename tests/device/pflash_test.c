/* The flash bank: detection as OVMF does it, programming, erasing, buffered writes, query, and what is kept. */
#include "dev/pflash.h"
#include "harness.h"

#define BASE UINT64_C(0xffc00000)
#define SIZE (8 * PFLASH_BLOCK)

struct rig {
	struct space *mmio;
	struct mem *mem;
	struct ram *ram;
	struct device *d;
	uint8_t kept[SIZE];
	unsigned writes, syncs;
	int error; /* what the store answers */
	uint64_t stale_from, stale_to;
};

static int keep_write(void *opaque, uint64_t offset, const void *data, size_t len)
{
	struct rig *r = opaque;

	g_assert_cmpuint(offset + len, <=, SIZE);
	r->writes++;
	if (!r->error)
		memcpy(r->kept + offset, data, len);
	return r->error;
}

static int keep_sync(void *opaque)
{
	((struct rig *)opaque)->syncs++;
	return 0;
}

static void code_written(void *opaque, uint64_t gpa, size_t len)
{
	struct rig *r = opaque;

	r->stale_from = gpa;
	r->stale_to = gpa + len;
}

static void rig_init(struct rig *r, bool readonly)
{
	const struct pflash_store store = { keep_write, keep_sync, r };

	memset(r, 0, sizeof(*r));
	r->mmio = space_create("mmio", UINT64_MAX);
	r->mem = mem_create();
	r->ram = ram_create("flash", SIZE, NULL);
	for (unsigned i = 0; i < SIZE; i++)
		r->ram->host[i] = (uint8_t)(i * 7 + 3);
	memcpy(r->kept, r->ram->host, SIZE);
	mem_set_code_listener(r->mem, code_written, r);
	r->d = pflash_device(pflash_create(r->mmio, r->mem, BASE, r->ram, readonly, &store, "flash"));
}

static void rig_finish(struct rig *r)
{
	r->d->ops->destroy(r->d);
	g_assert_null(mem_find(r->mem, BASE));
	mem_destroy(r->mem);
	ram_destroy(r->ram);
	space_destroy(r->mmio);
}

static uint8_t get(struct rig *r, uint64_t offset) { return (uint8_t)space_read(r->mmio, BASE + offset, 1); }
static void put(struct rig *r, uint64_t offset, uint8_t v) { space_write(r->mmio, BASE + offset, 1, v); }
static bool in_array(struct rig *r) { return mem_find(r->mem, BASE) != NULL; }

/* A write of one byte as a driver does it; the status it finds. */
static uint8_t program(struct rig *r, uint64_t offset, uint8_t v)
{
	uint8_t status;

	put(r, offset, 0x50);
	put(r, offset, 0x10);
	put(r, offset, v);
	status = get(r, offset);
	put(r, offset, 0xff);
	return status;
}

static uint8_t erase(struct rig *r, uint64_t offset)
{
	uint8_t status;

	put(r, offset, 0x50);
	put(r, offset, 0x20);
	put(r, offset, 0xd0);
	status = get(r, offset);
	put(r, offset, 0xff);
	return status;
}

/* OVMF clears the status, reads the array unchanged, asks for the status and finds zero: neither RAM nor ROM. */
static void test_detection(void)
{
	struct rig r;
	uint8_t before;

	rig_init(&r, false);
	before = r.ram->host[1];
	g_assert_true(in_array(&r));
	put(&r, 1, 0x50);
	g_assert_true(in_array(&r));
	g_assert_cmphex(r.ram->host[1], ==, before);
	put(&r, 1, 0x70);
	g_assert_false(in_array(&r));
	g_assert_cmphex(get(&r, 1), ==, 0);
	put(&r, 1, 0xff);
	g_assert_true(in_array(&r));
	g_assert_cmpuint(r.writes + r.syncs, ==, 0);
	rig_finish(&r);
}

static void test_program(void)
{
	struct rig r;

	rig_init(&r, false);
	g_assert_cmphex(erase(&r, 5000), ==, 0x80);
	for (unsigned i = 0; i < SIZE; i++) {
		bool erased = i >= PFLASH_BLOCK && i < 2 * PFLASH_BLOCK;

		g_assert_cmphex(r.ram->host[i], ==, erased ? 0xff : (uint8_t)(i * 7 + 3));
	}
	g_assert_cmphex(r.stale_from, ==, BASE + PFLASH_BLOCK);
	g_assert_cmphex(r.stale_to, ==, BASE + 2 * PFLASH_BLOCK);
	g_assert_cmphex(program(&r, 5000, 0x5a), ==, 0x80);
	g_assert_cmphex(r.ram->host[5000], ==, 0x5a);
	/* Programming takes bits away and brings none back. */
	program(&r, 5000, 0xf0);
	g_assert_cmphex(r.ram->host[5000], ==, 0x50);
	/* A word in one cycle. */
	put(&r, 5002, 0x40);
	space_write(r.mmio, BASE + 5002, 2, 0x1234);
	g_assert_cmpuint(r.syncs, ==, 3);
	put(&r, 5002, 0xff);
	g_assert_cmphex(ld16le(r.ram->host + 5002), ==, 0x1234);
	g_assert_cmpuint(r.syncs, ==, 4);
	g_assert_cmpmem(r.kept, SIZE, r.ram->host, SIZE);
	g_assert_cmpuint(r.d->guest_errors, ==, 0);
	rig_finish(&r);
}

static void test_buffer(void)
{
	struct rig r;

	rig_init(&r, false);
	erase(&r, 0);
	put(&r, 0x210, 0xe8);
	g_assert_cmphex(get(&r, 0x210), ==, 0x80);
	put(&r, 0x210, 3);
	for (unsigned i = 0; i < 4; i++)
		put(&r, 0x2fc + i, (uint8_t)(0xa0 + i));
	g_assert_cmphex(r.ram->host[0x2fc], ==, 0xff);
	put(&r, 0x210, 0xd0);
	g_assert_cmphex(get(&r, 0), ==, 0x80);
	put(&r, 0, 0xff);
	g_assert_cmphex(ld32le(r.ram->host + 0x2fc), ==, 0xa3a2a1a0);
	g_assert_cmphex(r.ram->host[0x2fb], ==, 0xff);
	g_assert_cmphex(r.ram->host[0x300], ==, 0xff);
	/* Past the end of the buffer: a sequence error, nothing written. */
	put(&r, 0x400, 0xe8);
	put(&r, 0x400, 1);
	put(&r, 0x4ff, 1);
	put(&r, 0x500, 2);
	g_assert_cmphex(get(&r, 0), ==, 0xb0);
	put(&r, 0, 0xff);
	g_assert_cmphex(r.ram->host[0x4ff], ==, 0xff);
	g_assert_cmpuint(r.d->guest_errors, ==, 1);
	g_assert_cmpmem(r.kept, SIZE, r.ram->host, SIZE);
	rig_finish(&r);
}

static void test_query_and_id(void)
{
	struct rig r;

	rig_init(&r, true);
	put(&r, 0x55, 0x98);
	g_assert_cmphex(get(&r, 0x10), ==, 'Q');
	g_assert_cmphex(get(&r, 0x11), ==, 'R');
	g_assert_cmphex(get(&r, 0x12), ==, 'Y');
	g_assert_cmphex(get(&r, 0x13), ==, 1);
	g_assert_cmpuint(1u << get(&r, 0x27), ==, SIZE);
	g_assert_cmpuint(get(&r, 0x2a), ==, 8);
	g_assert_cmpuint(get(&r, 0x2c), ==, 1);
	g_assert_cmpuint(space_read(r.mmio, BASE + 0x2d, 2) + 1, ==, SIZE / PFLASH_BLOCK);
	g_assert_cmpuint(space_read(r.mmio, BASE + 0x2f, 2) * 256, ==, PFLASH_BLOCK);
	g_assert_cmphex(get(&r, 0x31), ==, 'P');
	put(&r, 0, 0x90);
	g_assert_cmphex(get(&r, 0), ==, 0x89);
	g_assert_cmphex(get(&r, 1), ==, 0x18);
	g_assert_cmphex(get(&r, 2), ==, 1);
	put(&r, 0, 0xff);
	rig_finish(&r);
}

static void test_readonly(void)
{
	struct rig r;
	uint8_t before;

	rig_init(&r, true);
	before = r.ram->host[9];
	g_assert_cmphex(program(&r, 9, 0), ==, 0x92);
	g_assert_cmphex(erase(&r, 9), ==, 0xa2);
	g_assert_cmphex(r.ram->host[9], ==, before);
	g_assert_cmpuint(r.writes + r.syncs, ==, 0);
	rig_finish(&r);
}

/* A disk that is full: the guest is told, then and at every later try. */
static void test_store_fails(void)
{
	struct rig r;

	rig_init(&r, false);
	r.error = -28;
	g_assert_cmphex(erase(&r, 0), ==, 0xa0);
	r.error = 0;
	g_assert_cmphex(program(&r, 0, 0), ==, 0x90);
	g_assert_cmpuint(r.writes, ==, 1);
	rig_finish(&r);
}

static void test_state(void)
{
	struct rig r;
	GByteArray *saved;

	rig_init(&r, false);
	erase(&r, 0);
	put(&r, 0, 0xe8);
	put(&r, 0, 1);
	put(&r, 0x20, 0x11);
	saved = device_save(r.d);
	put(&r, 0x21, 0x22);
	put(&r, 0, 0xd0);
	put(&r, 0, 0xff);
	g_assert_cmphex(ld16le(r.ram->host + 0x20), ==, 0x2211);
	/* Back in the middle of the write, whose changes the file forgets as well. */
	device_check_restore(r.d, saved);
	g_assert_false(in_array(&r));
	g_assert_cmphex(ld16le(r.ram->host + 0x20), ==, 0xffff);
	g_assert_cmpmem(r.kept, SIZE, r.ram->host, SIZE);
	put(&r, 0x21, 0x33);
	put(&r, 0, 0xd0);
	r.d->ops->reset(r.d);
	g_assert_true(in_array(&r));
	g_assert_cmphex(ld16le(r.ram->host + 0x20), ==, 0x3311);
	g_assert_cmpmem(r.kept, SIZE, r.ram->host, SIZE);
	rig_finish(&r);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pflash/detection", test_detection);
	g_test_add_func("/pflash/program", test_program);
	g_test_add_func("/pflash/buffer", test_buffer);
	g_test_add_func("/pflash/query-and-id", test_query_and_id);
	g_test_add_func("/pflash/readonly", test_readonly);
	g_test_add_func("/pflash/store-fails", test_store_fails);
	g_test_add_func("/pflash/state", test_state);
	return g_test_run();
}
