/* SMBIOS 2.8 tables (DMTF DSP0134 6.2, 7.1 to 7.33): system, chassis, processors and memory. */
#include "fw/smbios.h"

#include <string.h>

#include "base/bytes.h"

struct builder {
	GByteArray *out;
	uint16_t count, largest;
};

/* Appends one structure: body (from offset 4) and its strings, NULL-terminated. */
static void structure_add(struct builder *b, uint8_t type, uint16_t handle, const uint8_t *body, size_t len,
			  const char *const *strings)
{
	uint8_t head[4] = { type, (uint8_t)(len + 4) };
	guint start = b->out->len;

	st16le(head + 2, handle);
	g_byte_array_append(b->out, head, 4);
	g_byte_array_append(b->out, body, (guint)len);
	for (unsigned i = 0; strings && strings[i]; i++)
		g_byte_array_append(b->out, (const uint8_t *)strings[i], (guint)strlen(strings[i]) + 1);
	g_byte_array_append(b->out, (const uint8_t *)"\0", strings ? 1 : 2);
	b->count++;
	b->largest = (uint16_t)MAX(b->largest, b->out->len - start);
}

static void system_add(struct builder *b, const struct smbios_config *c)
{
	static const char *const bios[] = { "guise", GUISE_VERSION, "01/01/2026", NULL };
	static const char *const sys[] = { "guise", "Standard PC (i440FX + PIIX)", GUISE_VERSION, NULL };
	static const char *const chassis[] = { "guise", NULL };
	uint8_t t0[0x14] = { 1, 2, 0x00, 0xe8, 3, 0, 0x08 };
	uint8_t t1[0x17] = { 1, 2, 3, 0 };
	uint8_t t3[0x12] = { 1, 1, 0, 0, 0, 3, 3, 3, 2 };

	t0[0x13 - 4] = 0x14; /* this is a virtual machine; targeted content */
	t0[0x10] = t0[0x11] = 0;
	t0[0x12] = t0[0x13] = 0xff;
	if (c->uuid)
		memcpy(t1 + 4, c->uuid, 16);
	t1[0x18 - 4] = 6; /* woken by the power switch */
	structure_add(b, 0, 0x0000, t0, sizeof(t0), bios);
	structure_add(b, 1, 0x0100, t1, sizeof(t1), sys);
	structure_add(b, 3, 0x0300, t3, sizeof(t3), chassis);
}

static void processors_add(struct builder *b, unsigned cpus)
{
	static const char *const strings[] = { "CPU", "guise", NULL };
	uint8_t t4[0x26] = { 1, 3, 1, 2 };

	t4[0x18 - 4] = 0x41; /* populated, enabled */
	t4[0x19 - 4] = 1;
	st16le(t4 + 0x14 - 4, 2000);
	st16le(t4 + 0x16 - 4, 2000);
	memset(t4 + 0x1a - 4, 0xff, 6); /* no cache handles */
	t4[0x23 - 4] = t4[0x24 - 4] = t4[0x25 - 4] = 1;
	st16le(t4 + 0x26 - 4, 4); /* 64-bit */
	st16le(t4 + 0x28 - 4, 1);
	for (unsigned i = 0; i < cpus; i++)
		structure_add(b, 4, (uint16_t)(0x400 + i), t4, sizeof(t4), strings);
}

static void range_add(struct builder *b, uint16_t handle, uint64_t start, uint64_t size)
{
	uint8_t t19[0x1b] = { 0 };

	if (!size)
		return;
	st32le(t19, (uint32_t)(start >> 10));
	st32le(t19 + 4, (uint32_t)((start + size - 1) >> 10));
	st16le(t19 + 8, 0x1000);
	t19[10] = 1;
	structure_add(b, 19, handle, t19, sizeof(t19), NULL);
}

static void memory_add(struct builder *b, const struct smbios_config *c)
{
	static const char *const strings[] = { "DIMM 0", "guise", NULL };
	uint64_t total = c->low_size + c->high_size, mib = total >> 20;
	uint8_t t16[0x13] = { 1, 3, 6 }; /* on board, system memory, multi-bit ECC */
	uint8_t t17[0x24] = { 0 };

	if (total >> 10 < 0x80000000)
		st32le(t16 + 3, (uint32_t)(total >> 10));
	else
		st32le(t16 + 3, 0x80000000);
	st16le(t16 + 7, 0xfffe);
	st16le(t16 + 9, 1);
	if (total >> 10 >= 0x80000000)
		st64le(t16 + 11, total);
	structure_add(b, 16, 0x1000, t16, sizeof(t16), NULL);

	st16le(t17, 0x1000);
	st16le(t17 + 2, 0xfffe);
	st16le(t17 + 4, 0xffff);
	st16le(t17 + 6, 0xffff);
	st16le(t17 + 8, (uint16_t)MIN(mib, (uint64_t)0x7fff));
	if (mib >= 0x7fff)
		st32le(t17 + 0x1c - 4, (uint32_t)mib);
	t17[10] = 9; /* DIMM */
	t17[12] = 1;
	t17[14] = 7; /* RAM */
	st16le(t17 + 15, 2);
	t17[19] = 2;
	structure_add(b, 17, 0x1100, t17, sizeof(t17), strings);
	range_add(b, 0x1300, 0, c->low_size);
	range_add(b, 0x1301, UINT64_C(0x100000000), c->high_size);
}

void smbios_build(GByteArray *anchor, GByteArray *tables, const struct smbios_config *c)
{
	static const uint8_t boot[7] = { 0 };
	struct builder b = { .out = tables };
	uint8_t a[31] = "_SM_";

	system_add(&b, c);
	processors_add(&b, c->cpus);
	memory_add(&b, c);
	structure_add(&b, 32, 0x2000, boot, sizeof(boot), NULL);
	structure_add(&b, 127, 0x7f00, boot, 0, NULL);
	a[5] = sizeof(a);
	a[6] = 2;
	a[7] = 8;
	st16le(a + 8, b.largest);
	memcpy(a + 16, "_DMI_", 5);
	st16le(a + 22, (uint16_t)tables->len);
	st16le(a + 28, b.count);
	a[30] = 0x28;
	g_byte_array_append(anchor, a, sizeof(a));
}
