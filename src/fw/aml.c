/* A small builder of AML and of resource descriptors (ACPI 6.4 chapters 20 and 6.4). */
#include "fw/aml.h"

#include <string.h>

#include "base/bytes.h"

void aml_byte(GByteArray *a, uint8_t v)
{
	g_byte_array_append(a, &v, 1);
}

void aml_bytes(GByteArray *a, const void *p, guint len)
{
	g_byte_array_append(a, p, len);
}

static void put_le(GByteArray *a, unsigned len, uint64_t v)
{
	uint8_t b[8];

	st64le(b, v);
	aml_bytes(a, b, len);
}

void aml_int(GByteArray *a, uint64_t v)
{
	if (v <= 1) {
		aml_byte(a, (uint8_t)v);
	} else if (v <= 0xff) {
		aml_byte(a, 0x0a);
		put_le(a, 1, v);
	} else if (v <= 0xffff) {
		aml_byte(a, 0x0b);
		put_le(a, 2, v);
	} else if (v <= 0xffffffff) {
		aml_byte(a, 0x0c);
		put_le(a, 4, v);
	} else {
		aml_byte(a, 0x0e);
		put_le(a, 8, v);
	}
}

void aml_string(GByteArray *a, const char *s)
{
	aml_byte(a, 0x0d);
	aml_bytes(a, s, (guint)strlen(s) + 1);
}

void aml_path(GByteArray *a, const char *path)
{
	unsigned count = 1;

	for (; *path == '\\' || *path == '^'; path++)
		aml_byte(a, (uint8_t)*path);
	if (!*path) {
		aml_byte(a, 0);
		return;
	}
	for (const char *p = path; *p; p++)
		count += *p == '.';
	if (count == 2) {
		aml_byte(a, 0x2e);
	} else if (count > 2) {
		aml_byte(a, 0x2f);
		aml_byte(a, (uint8_t)count);
	}
	while (count--) {
		unsigned i;

		for (i = 0; i < 4 && *path && *path != '.'; i++)
			aml_byte(a, (uint8_t)*path++);
		for (; i < 4; i++)
			aml_byte(a, '_');
		path += *path == '.';
	}
}

void aml_eisaid(GByteArray *a, const char *id)
{
	uint32_t v = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 | (uint32_t)(id[2] - 0x40) << 16;

	for (unsigned i = 3; i < 7; i++)
		v |= (uint32_t)g_ascii_xdigit_value(id[i]) << (4 * (6 - i));
	aml_byte(a, 0x0c);
	put_le(a, 4, __builtin_bswap32(v));
}

void aml_name(GByteArray *a, const char *name)
{
	aml_byte(a, 0x08);
	aml_path(a, name);
}

void aml_name_int(GByteArray *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

void aml_name_eisaid(GByteArray *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisaid(a, id);
}

/* The length is not known yet: it is inserted at the close, in as few bytes as it takes. */
static struct aml_mark mark_here(GByteArray *a)
{
	return (struct aml_mark){ a->len };
}

void aml_close(GByteArray *a, struct aml_mark mark)
{
	guint len = a->len - mark.at;
	unsigned extra = len + 1 < 0x40 ? 0 : len + 2 < 0x1000 ? 1 : 2;
	uint8_t b[3];

	len += extra + 1;
	b[0] = extra ? (uint8_t)(extra << 6 | (len & 0xf)) : (uint8_t)len;
	b[1] = (uint8_t)(len >> 4);
	b[2] = (uint8_t)(len >> 12);
	g_byte_array_set_size(a, a->len + extra + 1);
	memmove(a->data + mark.at + extra + 1, a->data + mark.at, a->len - mark.at - extra - 1);
	memcpy(a->data + mark.at, b, extra + 1);
}

static struct aml_mark open_op(GByteArray *a, uint8_t prefix, uint8_t op)
{
	if (prefix)
		aml_byte(a, prefix);
	aml_byte(a, op);
	return mark_here(a);
}

struct aml_mark aml_scope(GByteArray *a, const char *path)
{
	struct aml_mark m = open_op(a, 0, 0x10);

	aml_path(a, path);
	return m;
}

struct aml_mark aml_device(GByteArray *a, const char *path)
{
	struct aml_mark m = open_op(a, 0x5b, 0x82);

	aml_path(a, path);
	return m;
}

struct aml_mark aml_method(GByteArray *a, const char *path, unsigned args)
{
	struct aml_mark m = open_op(a, 0, 0x14);

	aml_path(a, path);
	aml_byte(a, (uint8_t)args);
	return m;
}

struct aml_mark aml_package(GByteArray *a, unsigned count)
{
	struct aml_mark m = open_op(a, 0, 0x12);

	aml_byte(a, (uint8_t)count);
	return m;
}

struct aml_mark aml_processor(GByteArray *a, const char *path, uint8_t id)
{
	struct aml_mark m = open_op(a, 0x5b, 0x83);

	aml_path(a, path);
	aml_byte(a, id);
	put_le(a, 4, 0); /* no processor control block */
	aml_byte(a, 0);
	return m;
}

void aml_op_region(GByteArray *a, const char *name, uint8_t space, uint64_t offset, uint64_t len)
{
	aml_bytes(a, "\x5b\x80", 2);
	aml_path(a, name);
	aml_byte(a, space);
	aml_int(a, offset);
	aml_int(a, len);
}

struct aml_mark aml_field(GByteArray *a, const char *region, uint8_t flags)
{
	struct aml_mark m = open_op(a, 0x5b, 0x81);

	aml_path(a, region);
	aml_byte(a, flags);
	return m;
}

void aml_field_entry(GByteArray *a, const char *name, unsigned bits)
{
	aml_path(a, name);
	aml_byte(a, (uint8_t)bits); /* < 64 */
}

void aml_buffer(GByteArray *a, const void *p, guint len)
{
	struct aml_mark m = open_op(a, 0, 0x11);

	aml_int(a, len);
	aml_bytes(a, p, len);
	aml_close(a, m);
}

void aml_resources(GByteArray *a, GByteArray *res)
{
	aml_bytes(res, "\x79\0", 2); /* checksum 0: not used */
	aml_buffer(a, res->data, res->len);
	g_byte_array_free(res, TRUE);
}

void res_io(GByteArray *r, uint16_t base, uint8_t len)
{
	aml_bytes(r, "\x47\x01", 2);
	put_le(r, 2, base);
	put_le(r, 2, base);
	aml_byte(r, 1);
	aml_byte(r, len);
}

void res_irq(GByteArray *r, unsigned irq)
{
	aml_byte(r, 0x22);
	put_le(r, 2, 1u << irq);
}

void res_dma(GByteArray *r, unsigned channel)
{
	aml_byte(r, 0x2a);
	aml_byte(r, (uint8_t)(1u << channel));
	aml_byte(r, 0); /* 8 bits, compatible timing */
}

/* An address space descriptor of 2, 4 or 8 byte width. */
static void res_window(GByteArray *r, uint8_t tag, unsigned width, uint8_t type, uint8_t specific,
		       uint64_t first, uint64_t last)
{
	aml_byte(r, tag);
	put_le(r, 2, 3 + 5 * width);
	aml_byte(r, type);
	aml_byte(r, 0x0c); /* minimum and maximum fixed, positive decode, producer */
	aml_byte(r, specific);
	put_le(r, width, 0);
	put_le(r, width, first);
	put_le(r, width, last);
	put_le(r, width, 0);
	put_le(r, width, last - first + 1);
}

void res_bus(GByteArray *r, uint16_t first, uint16_t last)
{
	res_window(r, 0x88, 2, 2, 0, first, last);
}

void res_ports(GByteArray *r, uint16_t first, uint16_t last)
{
	res_window(r, 0x88, 2, 1, 3, first, last);
}

void res_memory(GByteArray *r, uint32_t first, uint32_t last, bool cacheable)
{
	res_window(r, 0x87, 4, 0, cacheable ? 3 : 1, first, last);
}

void res_memory64(GByteArray *r, uint64_t first, uint64_t last)
{
	res_window(r, 0x8a, 8, 0, 3, first, last);
}

void res_memory_fixed(GByteArray *r, uint32_t base, uint32_t len)
{
	aml_byte(r, 0x86);
	put_le(r, 2, 9);
	aml_byte(r, 1);
	put_le(r, 4, base);
	put_le(r, 4, len);
}

void res_interrupts(GByteArray *r, uint32_t allowed)
{
	unsigned count = (unsigned)__builtin_popcount(allowed);

	aml_byte(r, 0x89);
	put_le(r, 2, 2 + 4 * count);
	aml_byte(r, 0x09); /* consumer, level, active high, shared */
	aml_byte(r, (uint8_t)count);
	for (unsigned i = 0; i < 32; i++)
		if (allowed & 1u << i)
			put_le(r, 4, i);
}
