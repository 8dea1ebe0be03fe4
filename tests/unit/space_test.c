/* Address spaces: overlaps, widths, holes, and regions that come and go. */
#include <glib.h>

#include "bus/space.h"

struct probe {
	uint8_t data[16];
	unsigned reads, writes, last_len;
	uint64_t last_offset;
};

static uint64_t probe_read(void *o, uint64_t offset, unsigned len)
{
	struct probe *p = o;
	uint64_t v = 0;

	p->reads++;
	p->last_offset = offset;
	p->last_len = len;
	for (unsigned i = 0; i < len; i++)
		v |= (uint64_t)p->data[offset + i] << (8 * i);
	return v;
}

static void probe_write(void *o, uint64_t offset, unsigned len, uint64_t value)
{
	struct probe *p = o;

	p->writes++;
	p->last_offset = offset;
	p->last_len = len;
	for (unsigned i = 0; i < len; i++)
		p->data[offset + i] = (uint8_t)(value >> (8 * i));
}

static const struct region_ops any = { probe_read, probe_write, 0, 0 };
static const struct region_ops bytes = { probe_read, probe_write, 1, 1 };
static const struct region_ops words = { probe_read, probe_write, 4, 4 };

static void test_widths(void)
{
	struct space *s = space_create("test", UINT64_MAX);
	struct probe a = { 0 }, b = { 0 }, c = { 0 };

	space_add(s, "any", 0x1000, 16, &any, &a);
	space_add(s, "bytes", 0x1010, 16, &bytes, &b);
	space_add(s, "words", 0x1020, 16, &words, &c);
	space_write(s, 0x1000, 8, 0x1122334455667788);
	g_assert_cmpuint(a.writes, ==, 1);
	g_assert_cmphex(space_read(s, 0x1004, 4), ==, 0x11223344);
	g_assert_cmpuint(a.last_offset, ==, 4);
	/* Split for a narrow device, in order. */
	space_write(s, 0x1010, 4, 0xaabbccdd);
	g_assert_cmpuint(b.writes, ==, 4);
	g_assert_cmphex(b.data[0], ==, 0xdd);
	g_assert_cmphex(space_read(s, 0x1010, 2), ==, 0xccdd);
	/* Widened for a wide one: a byte changes only itself. */
	space_write(s, 0x1020, 4, 0x44332211);
	space_write(s, 0x1021, 1, 0xee);
	g_assert_cmphex(space_read(s, 0x1020, 4), ==, 0x4433ee11);
	g_assert_cmphex(space_read(s, 0x1022, 1), ==, 0x33);
	g_assert_cmpuint(c.last_len, ==, 4);
	/* Across the edge of two regions, and into a hole. */
	space_write(s, 0x100e, 4, 0x04030201);
	g_assert_cmphex(a.data[15], ==, 0x02);
	g_assert_cmphex(b.data[0], ==, 0x03);
	g_assert_cmphex(space_read(s, 0x102e, 4) >> 16, ==, 0xffff);
	g_assert_cmphex(space_read(s, 0x5000, 8), ==, UINT64_MAX);
	space_write(s, 0x5000, 8, 1);
	space_destroy(s);
}

static void count_piece(void *opaque, const char *name, uint64_t base, uint64_t size)
{
	(*(unsigned *)opaque)++;
}

static void test_overlaps(void)
{
	struct space *s = space_create("test", 0xffff);
	struct probe low = { .data = { [0 ... 15] = 1 } }, high = { .data = { [0 ... 15] = 2 } };
	struct region *r, *over;
	unsigned pieces = 0;

	r = space_add(s, "low", 0x100, 16, &bytes, &low);
	over = space_add(s, "high", 0x104, 4, &bytes, &high);
	g_assert_cmphex(space_read(s, 0x102, 4), ==, 0x02020101);
	g_assert_cmphex(space_read(s, 0x106, 4), ==, 0x01010202);
	space_walk(s, count_piece, &pieces);
	g_assert_cmpuint(pieces, ==, 3);
	/* The part behind keeps its offsets. */
	space_write(s, 0x10c, 1, 9);
	g_assert_cmphex(low.data[12], ==, 9);
	/* Mapped last wins: the lower one on top hides the other. */
	region_unmap(r);
	g_assert_false(region_mapped(r));
	g_assert_false(space_covers(s, 0x100));
	region_map(r, 0x100);
	g_assert_cmphex(space_read(s, 0x104, 1), ==, 1);
	region_map(over, 0x200);
	g_assert_cmphex(region_base(over), ==, 0x200);
	g_assert_cmphex(space_read(s, 0x200, 1), ==, 2);
	region_destroy(over);
	g_assert_cmphex(space_read(s, 0x200, 1), ==, 0xff);
	/* The end of the space. */
	region_map(r, 0xfff8);
	g_assert_cmphex(space_read(s, 0xffff, 1), ==, 1);
	g_assert_cmphex(space_read(s, 0x10000, 1), ==, 0xff);
	space_destroy(s);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/space/widths", test_widths);
	g_test_add_func("/space/overlaps", test_overlaps);
	return g_test_run();
}
