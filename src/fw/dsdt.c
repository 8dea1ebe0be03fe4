/* The DSDT: what cannot be probed on an i440FX/PIIX board (ACPI 6.4; 82371AB datasheet 4.1.10 for
 * the PIRQ routing registers). */
#include <string.h>

#include "fw/acpi.h"
#include "fw/aml.h"

enum { ARG0 = 0x68, OP_STORE = 0x70, OP_AND = 0x7b, OP_OR = 0x7d, OP_IF = 0xa0, OP_RETURN = 0xa4 };

#define PIRQ_ALLOWED ((1u << 5) | (1u << 10) | (1u << 11))

static void return_int(GByteArray *a, uint64_t v)
{
	aml_byte(a, OP_RETURN);
	aml_int(a, v);
}

static void crs(GByteArray *a, GByteArray *res)
{
	aml_name(a, "_CRS");
	aml_resources(a, res);
}

/* Slot s pin p reaches link (s + p - 1) mod 4: slot 1 pin A is LNKA, as the PIIX is wired. */
static void prt_build(GByteArray *a)
{
	static const char *const link[4] = {
		"\\_SB.PCI0.ISA.LNKA", "\\_SB.PCI0.ISA.LNKB", "\\_SB.PCI0.ISA.LNKC", "\\_SB.PCI0.ISA.LNKD",
	};
	struct aml_mark all, one;

	aml_name(a, "_PRT");
	all = aml_package(a, 128);
	for (unsigned i = 0; i < 128; i++) {
		unsigned slot = i / 4, pin = i % 4;

		one = aml_package(a, 4);
		aml_int(a, (uint64_t)slot << 16 | 0xffff);
		aml_int(a, pin);
		/* The PIIX4's function 3 raises the SCI on pin A of its slot: IRQ 9, fixed. */
		if (slot == 1 && pin == 0)
			aml_path(a, "\\_SB.PCI0.ISA.LNKS");
		else
			aml_path(a, link[(slot + pin + 3) & 3]);
		aml_int(a, 0);
		aml_close(a, one);
	}
	aml_close(a, all);
}

static void windows_build(GByteArray *a, const struct acpi_config *c)
{
	GByteArray *r = g_byte_array_new();
	uint64_t hole = MAX(c->low_size, c->hole);

	res_bus(r, 0, 0xff);
	res_io(r, 0xcf8, 8);
	res_ports(r, 0, 0xcf7);
	res_ports(r, 0xd00, 0xffff);
	res_memory(r, 0xa0000, 0xbffff, true);
	res_memory(r, (uint32_t)hole, 0xfebfffff, false);
	if (c->high_size) {
		uint64_t base = UINT64_C(0x100000000) + c->high_size;

		base = (base + 0x3fffffff) & ~UINT64_C(0x3fffffff);
		res_memory64(r, base, base + UINT64_C(0x7ffffffff));
	}
	crs(a, r);
}

/* One link device over its PIRQ register: bit 7 disables, bits 3:0 are the IRQ. */
static void link_build(GByteArray *a, unsigned index)
{
	char device[] = "LNKA", field[] = "PRQA";
	struct aml_mark dev, m, branch;
	GByteArray *r = g_byte_array_new();

	device[3] = field[3] = (char)('A' + index);
	dev = aml_device(a, device);
	aml_name_eisaid(a, "_HID", "PNP0C0F");
	aml_name_int(a, "_UID", index);
	res_interrupts(r, PIRQ_ALLOWED);
	aml_name(a, "_PRS");
	aml_resources(a, r);

	m = aml_method(a, "_STA", 0); /* If (PRQx & 0x80) Return (9); Return (0x0b) */
	aml_byte(a, OP_IF);
	branch = (struct aml_mark){ a->len };
	aml_byte(a, OP_AND);
	aml_path(a, field);
	aml_int(a, 0x80);
	aml_byte(a, 0); /* no target */
	return_int(a, 0x09);
	aml_close(a, branch);
	return_int(a, 0x0b);
	aml_close(a, m);

	m = aml_method(a, "_DIS", 0); /* PRQx |= 0x80 */
	aml_byte(a, OP_OR);
	aml_path(a, field);
	aml_int(a, 0x80);
	aml_path(a, field);
	aml_close(a, m);

	m = aml_method(a, "_CRS", 0); /* A template with the number put in, 0 when disabled */
	aml_name(a, "TMPL");
	r = g_byte_array_new();
	res_interrupts(r, 1);
	aml_resources(a, r);
	aml_bytes(a, "\x8a", 1); /* CreateDWordField (TMPL, 5, IRQN) */
	aml_path(a, "TMPL");
	aml_int(a, 5);
	aml_path(a, "IRQN");
	aml_byte(a, OP_IF);
	branch = (struct aml_mark){ a->len };
	aml_bytes(a, "\x92", 1); /* LNot */
	aml_byte(a, OP_AND);
	aml_path(a, field);
	aml_int(a, 0x80);
	aml_byte(a, 0);
	aml_byte(a, OP_AND);
	aml_path(a, field);
	aml_int(a, 0x0f);
	aml_path(a, "IRQN");
	aml_close(a, branch);
	aml_byte(a, OP_RETURN);
	aml_path(a, "TMPL");
	aml_close(a, m);

	m = aml_method(a, "_SRS", 1);
	aml_byte(a, 0x8a); /* CreateDWordField (Arg0, 5, IRQN) */
	aml_byte(a, ARG0);
	aml_int(a, 5);
	aml_path(a, "IRQN");
	aml_byte(a, OP_STORE);
	aml_path(a, "IRQN");
	aml_path(a, field);
	aml_close(a, m);
	aml_close(a, dev);
}

/* The SCI's own link: IRQ 9 and nothing else. */
static void link_sci_build(GByteArray *a)
{
	struct aml_mark dev = aml_device(a, "LNKS"), m;

	aml_name_eisaid(a, "_HID", "PNP0C0F");
	aml_name_int(a, "_UID", 4);
	for (unsigned i = 0; i < 2; i++) {
		GByteArray *r = g_byte_array_new();

		aml_name(a, i ? "_CRS" : "_PRS");
		res_interrupts(r, 1u << 9);
		aml_resources(a, r);
	}
	aml_name_int(a, "_STA", 0x0b);
	m = aml_method(a, "_DIS", 0);
	aml_close(a, m);
	m = aml_method(a, "_SRS", 1);
	aml_close(a, m);
	aml_close(a, dev);
}

static void isa_device(GByteArray *a, const char *name, const char *hid, int uid, GByteArray *res)
{
	struct aml_mark dev = aml_device(a, name);

	aml_name_eisaid(a, "_HID", hid);
	if (uid >= 0)
		aml_name_int(a, "_UID", (unsigned)uid);
	aml_name_int(a, "_STA", 0x0f);
	crs(a, res);
	aml_close(a, dev);
}

/* The panic port: Linux and Windows look for it by this name. */
static void panic_build(GByteArray *a)
{
	struct aml_mark dev = aml_device(a, "PEVT");
	GByteArray *r = g_byte_array_new();

	aml_name(a, "_HID");
	aml_string(a, "QEMU0001");
	aml_name_int(a, "_STA", 0x0f);
	res_io(r, 0x505, 1);
	crs(a, r);
	aml_close(a, dev);
}

static void serial_build(GByteArray *a, unsigned present)
{
	static const struct { uint16_t port; uint8_t irq; } com[4] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

	for (unsigned i = 0; i < 4; i++) {
		char name[] = "COM1";
		GByteArray *r;

		if (!(present & 1u << i))
			continue;
		name[3] = (char)('1' + i);
		r = g_byte_array_new();
		res_io(r, com[i].port, 8);
		res_irq(r, com[i].irq);
		isa_device(a, name, "PNP0501", (int)i + 1, r);
	}
}

static void floppy_build(GByteArray *a)
{
	GByteArray *r = g_byte_array_new();

	res_io(r, 0x3f2, 4);
	res_io(r, 0x3f7, 1);
	res_irq(r, 6);
	res_dma(r, 2);
	isa_device(a, "FDC0", "PNP0700", -1, r);
}

static void isa_build(GByteArray *a, const struct acpi_config *c)
{
	struct aml_mark isa = aml_device(a, "ISA"), field;
	GByteArray *r;

	aml_name_int(a, "_ADR", 0x00010000);
	aml_op_region(a, "P40C", 2, 0x60, 4);
	field = aml_field(a, "P40C", 1); /* byte access */
	aml_field_entry(a, "PRQA", 8);
	aml_field_entry(a, "PRQB", 8);
	aml_field_entry(a, "PRQC", 8);
	aml_field_entry(a, "PRQD", 8);
	aml_close(a, field);

	r = g_byte_array_new();
	res_io(r, 0x70, 2);
	res_irq(r, 8);
	isa_device(a, "RTC", "PNP0B00", -1, r);
	r = g_byte_array_new();
	res_io(r, 0x60, 1);
	res_io(r, 0x64, 1);
	res_irq(r, 1);
	isa_device(a, "KBD", "PNP0303", -1, r);
	r = g_byte_array_new();
	res_irq(r, 12);
	isa_device(a, "MOU", "PNP0F13", -1, r);
	serial_build(a, c->serial);
	if (c->floppy)
		floppy_build(a);
	panic_build(a);
	for (unsigned i = 0; i < 4; i++)
		link_build(a, i);
	link_sci_build(a);
	aml_close(a, isa);
}

static void processors_build(GByteArray *a, unsigned cpus)
{
	for (unsigned i = 0; i < cpus; i++) {
		char *name = g_strdup_printf("C%03X", i);
		struct aml_mark p = aml_processor(a, name, (uint8_t)i);

		aml_close(a, p);
		g_free(name);
	}
}

/* _S5: sleep type 0, which this board's PM1 control takes for soft off. */
static void sleep_build(GByteArray *a)
{
	struct aml_mark m;

	aml_name(a, "\\_S5");
	m = aml_package(a, 4);
	for (unsigned i = 0; i < 4; i++)
		aml_int(a, 0);
	aml_close(a, m);
}

void dsdt_build(GByteArray *a, const struct acpi_config *c)
{
	struct aml_mark sb = aml_scope(a, "\\_SB"), pci, hpet;
	GByteArray *r;

	pci = aml_device(a, "PCI0");
	aml_name_eisaid(a, "_HID", "PNP0A03");
	aml_name_int(a, "_ADR", 0);
	aml_name_int(a, "_UID", 0);
	windows_build(a, c);
	isa_build(a, c);
	prt_build(a);
	aml_close(a, pci);
	if (c->hpet) {
		hpet = aml_device(a, "HPET");
		aml_name_eisaid(a, "_HID", "PNP0103");
		aml_name_int(a, "_UID", 0);
		r = g_byte_array_new();
		res_memory_fixed(r, 0xfed00000, 0x400);
		crs(a, r);
		aml_close(a, hpet);
	}
	processors_build(a, c->cpus);
	aml_close(a, sb);
	sleep_build(a);
}
