/*
 * The ACPI tables of the board (ACPI 6.4 chapter 5; IA-PC HPET 1.0a 3.2.4), and the commands by
 * which firmware places them (QEMU's table loader protocol: allocate, add pointer, add checksum).
 * A kernel started without firmware gets them by the same commands, run here.
 */
#include "fw/acpi.h"

#include <gio/gio.h>
#include <string.h>

#include "base/bytes.h"
#include "fw/aml.h"

#define COMMAND 128
#define FILE_NAME 56
#define RSDP_LEN 36

enum { LINK_ALLOCATE = 1, LINK_POINTER = 2, LINK_CHECKSUM = 3 };
enum { GPE_BASE = 0xafe0, SCI = 9 };

static uint8_t *command_add(GByteArray *loader, uint32_t kind)
{
	guint at = loader->len;

	g_byte_array_set_size(loader, at + COMMAND);
	memset(loader->data + at, 0, COMMAND);
	st32le(loader->data + at, kind);
	return loader->data + at + 4;
}

void linker_allocate(GByteArray *loader, const char *file, uint32_t align, bool fseg)
{
	uint8_t *c = command_add(loader, LINK_ALLOCATE);

	g_strlcpy((char *)c, file, FILE_NAME);
	st32le(c + FILE_NAME, align);
	c[FILE_NAME + 4] = fseg ? 2 : 1;
}

void linker_pointer(GByteArray *loader, const char *dest, const char *src, uint32_t offset, uint8_t size)
{
	uint8_t *c = command_add(loader, LINK_POINTER);

	g_strlcpy((char *)c, dest, FILE_NAME);
	g_strlcpy((char *)c + FILE_NAME, src, FILE_NAME);
	st32le(c + 2 * FILE_NAME, offset);
	c[2 * FILE_NAME + 4] = size;
}

void linker_checksum(GByteArray *loader, const char *file, uint32_t result, uint32_t start, uint32_t len)
{
	uint8_t *c = command_add(loader, LINK_CHECKSUM);

	g_strlcpy((char *)c, file, FILE_NAME);
	st32le(c + FILE_NAME, result);
	st32le(c + FILE_NAME + 4, start);
	st32le(c + FILE_NAME + 8, len);
}

static void put_le(GByteArray *a, unsigned len, uint64_t v)
{
	uint8_t b[8];

	st64le(b, v);
	aml_bytes(a, b, len);
}

static guint table_open(GByteArray *a, const char *signature, uint8_t revision)
{
	guint at = a->len;

	aml_bytes(a, signature, 4);
	put_le(a, 4, 0); /* length */
	aml_byte(a, revision);
	aml_byte(a, 0); /* checksum */
	aml_bytes(a, "GUISE ", 6);
	aml_bytes(a, "GUISEPC ", 8);
	put_le(a, 4, 1);
	aml_bytes(a, "GUIS", 4);
	put_le(a, 4, 1);
	return at;
}

static void table_close(struct acpi_tables *t, guint at)
{
	uint32_t len = t->tables->len - at;

	st32le(t->tables->data + at + 4, len);
	linker_checksum(t->loader, ACPI_FILE_TABLES, at + 9, at, len);
}

/* An offset at `at`, which the loader turns into an address. */
static void pointer_set(struct acpi_tables *t, guint at, uint8_t size, uint64_t offset)
{
	st_le(t->tables->data + at, size, offset);
	linker_pointer(t->loader, ACPI_FILE_TABLES, ACPI_FILE_TABLES, at, size);
}

/* A generic address: space 1 (I/O), width in bits. */
static void gas_set(uint8_t *p, uint8_t width, uint64_t address)
{
	p[0] = 1;
	p[1] = width;
	p[2] = 0;
	p[3] = 0;
	st64le(p + 4, address);
}

static guint facs_build(GByteArray *a)
{
	guint at = a->len; /* first, so 64-byte aligned */
	uint8_t facs[64] = "FACS";

	st32le(facs + 4, sizeof(facs));
	facs[32] = 1;
	aml_bytes(a, facs, sizeof(facs));
	return at;
}

static guint fadt_build(struct acpi_tables *t, uint16_t pm_base, guint facs, guint dsdt)
{
	guint at = table_open(t->tables, "FACP", 3);
	uint8_t *p;

	g_byte_array_set_size(t->tables, at + 244);
	p = t->tables->data + at;
	memset(p + 36, 0, 244 - 36);
	p[44] = 1; /* dual PIC model, for ACPI 1.0 readers */
	st16le(p + 46, SCI);
	st32le(p + 48, 0xb2);
	p[52] = 0xf1;
	p[53] = 0xf0;
	st32le(p + 56, pm_base);
	st32le(p + 64, pm_base + 4);
	st32le(p + 76, pm_base + 8);
	st32le(p + 80, GPE_BASE);
	p[88] = 4; /* PM1 event length */
	p[89] = 2; /* PM1 control length */
	p[91] = 4; /* PM timer length */
	p[92] = 4; /* GPE0 length */
	st16le(p + 96, 0xfff); /* no C2 */
	st16le(p + 98, 0xfff); /* no C3 */
	p[108] = 0x32; /* century in CMOS */
	st16le(p + 109, 0x3); /* legacy devices, i8042 */
	/* WBINVD, PROC_C1, SLP_BUTTON (no fixed sleep button), RTC wake fixed off, reset register. */
	st32le(p + 112, 1u << 0 | 1u << 2 | 1u << 5 | 1u << 7 | 1u << 10);
	gas_set(p + 116, 8, 0xcf9);
	p[128] = 0x0f;
	gas_set(p + 148, 32, pm_base);
	gas_set(p + 172, 16, pm_base + 4);
	gas_set(p + 208, 32, pm_base + 8);
	gas_set(p + 220, 32, GPE_BASE);
	pointer_set(t, at + 36, 4, facs);
	pointer_set(t, at + 40, 4, dsdt);
	pointer_set(t, at + 132, 8, facs);
	pointer_set(t, at + 140, 8, dsdt);
	table_close(t, at);
	return at;
}

static guint madt_build(struct acpi_tables *t, unsigned cpus)
{
	static const uint8_t level[] = { 5, 9, 10, 11 };
	GByteArray *a = t->tables;
	guint at = table_open(a, "APIC", 3);

	put_le(a, 4, 0xfee00000);
	put_le(a, 4, 1); /* a dual 8259 is there too */
	for (unsigned i = 0; i < cpus; i++) {
		aml_bytes(a, (const uint8_t[]){ 0, 8, (uint8_t)i, (uint8_t)i }, 4);
		put_le(a, 4, 1);
	}
	aml_bytes(a, (const uint8_t[]){ 1, 12, 0, 0 }, 4);
	put_le(a, 4, 0xfec00000);
	put_le(a, 4, 0);
	aml_bytes(a, (const uint8_t[]){ 2, 10, 0, 0, 2, 0, 0, 0, 0, 0 }, 10); /* the timer is on input 2 */
	for (unsigned i = 0; i < ARRAY_LEN(level); i++) /* 0x0d: active high, level */
		aml_bytes(a, (const uint8_t[]){ 2, 10, 0, level[i], level[i], 0, 0, 0, 0x0d, 0 }, 10);
	aml_bytes(a, (const uint8_t[]){ 4, 6, 0xff, 0, 0, 1 }, 6); /* NMI on LINT1, every processor */
	table_close(t, at);
	return at;
}

static guint hpet_build(struct acpi_tables *t)
{
	GByteArray *a = t->tables;
	guint at = table_open(a, "HPET", 1);

	put_le(a, 4, 0x8086a201);
	aml_bytes(a, (const uint8_t[]){ 0, 0, 0, 0 }, 4); /* system memory */
	put_le(a, 8, 0xfed00000);
	aml_byte(a, 0);
	put_le(a, 2, 0);
	aml_byte(a, 0);
	table_close(t, at);
	return at;
}

static guint root_build(struct acpi_tables *t, bool wide, const guint *table, unsigned count)
{
	guint at = table_open(t->tables, wide ? "XSDT" : "RSDT", 1);
	unsigned size = wide ? 8 : 4;

	g_byte_array_set_size(t->tables, at + 36 + count * size);
	for (unsigned i = 0; i < count; i++)
		pointer_set(t, at + 36 + i * size, (uint8_t)size, table[i]);
	table_close(t, at);
	return at;
}

void acpi_build(struct acpi_tables *t, const struct acpi_config *c)
{
	guint facs, dsdt, rsdt, xsdt, table[3];
	uint8_t rsdp[RSDP_LEN] = "RSD PTR ";
	unsigned count = 0;

	t->tables = g_byte_array_new();
	t->rsdp = g_byte_array_new();
	t->loader = g_byte_array_new();
	linker_allocate(t->loader, ACPI_FILE_RSDP, 16, true);
	linker_allocate(t->loader, ACPI_FILE_TABLES, 64, false);

	facs = facs_build(t->tables);
	dsdt = table_open(t->tables, "DSDT", 1);
	dsdt_build(t->tables, c);
	table_close(t, dsdt);
	table[count++] = fadt_build(t, c->pm_base, facs, dsdt);
	table[count++] = madt_build(t, c->cpus);
	if (c->hpet)
		table[count++] = hpet_build(t);
	rsdt = root_build(t, false, table, count);
	xsdt = root_build(t, true, table, count);

	memcpy(rsdp + 9, "GUISE ", 6);
	rsdp[15] = 2;
	st32le(rsdp + 16, rsdt);
	st32le(rsdp + 20, RSDP_LEN);
	st64le(rsdp + 24, xsdt);
	aml_bytes(t->rsdp, rsdp, sizeof(rsdp));
	linker_pointer(t->loader, ACPI_FILE_RSDP, ACPI_FILE_TABLES, 16, 4);
	linker_pointer(t->loader, ACPI_FILE_RSDP, ACPI_FILE_TABLES, 24, 8);
	linker_checksum(t->loader, ACPI_FILE_RSDP, 8, 0, 20);
	linker_checksum(t->loader, ACPI_FILE_RSDP, 32, 0, RSDP_LEN);
}

void acpi_finish(struct acpi_tables *t)
{
	g_byte_array_free(t->tables, TRUE);
	g_byte_array_free(t->rsdp, TRUE);
	g_byte_array_free(t->loader, TRUE);
}

static void commands_run(const GByteArray *loader, uint8_t *tables, uint8_t *rsdp, uint64_t gpa)
{
	for (guint at = 0; at < loader->len; at += COMMAND) {
		const uint8_t *c = loader->data + at + 4;
		uint8_t *file = strcmp((const char *)c, ACPI_FILE_RSDP) ? tables : rsdp;

		switch (ld32le(loader->data + at)) {
		case LINK_POINTER: {
			uint8_t *p = file + ld32le(c + 2 * FILE_NAME);
			uint8_t size = c[2 * FILE_NAME + 4];

			st_le(p, size, ld_le(p, size) + gpa);
			break;
		}
		case LINK_CHECKSUM: {
			const uint8_t *p = file + ld32le(c + FILE_NAME + 4);
			uint8_t *result = file + ld32le(c + FILE_NAME);
			uint8_t sum = 0;

			*result = 0;
			for (uint32_t i = 0; i < ld32le(c + FILE_NAME + 8); i++)
				sum += p[i];
			*result = (uint8_t)-sum;
			break;
		}
		}
	}
}

bool acpi_install(const struct acpi_tables *t, struct mem *mem, uint64_t gpa, uint64_t room, uint64_t *rsdp,
		  GError **error)
{
	g_autofree uint8_t *tables = g_memdup2(t->tables->data, t->tables->len);
	uint64_t root = (gpa + t->tables->len + 15) & ~UINT64_C(15);
	uint8_t pointer[RSDP_LEN];

	memcpy(pointer, t->rsdp->data, RSDP_LEN);
	commands_run(t->loader, tables, pointer, gpa);
	if (root + RSDP_LEN > gpa + room || !mem_write(mem, gpa, tables, t->tables->len) ||
	    !mem_write(mem, root, pointer, RSDP_LEN)) {
		g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
				    "ACPI tables do not fit into the guest's RAM; give it more with --memory");
		return false;
	}
	mem_write(mem, 0xe0000, pointer, RSDP_LEN);
	*rsdp = root;
	return true;
}
