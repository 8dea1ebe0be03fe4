/* Parts shared by the direct loaders: memory map, file placement, initial processor state
 * (Intel SDM 3A 3.4, 4.5; ACPI 6.4 15). Low memory below 0x8000 holds what they need. */
#include "fw/boot.h"

#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"

#define GDT_GPA 0x5f00u
#define STACK_GPA 0x5f00u

static unsigned e820_add(struct e820_entry *e, unsigned n, uint64_t addr, uint64_t end, uint32_t type)
{
	if (end <= addr)
		return n;
	e[n] = (struct e820_entry){ .addr = addr, .len = end - addr, .type = type };
	return n + 1;
}

unsigned e820_build(struct e820_entry out[E820_MAX], uint64_t low_size, uint64_t high_size, bool acpi)
{
	uint64_t top = low_size - (acpi ? BOOT_ACPI_SIZE : 0);
	unsigned n = 0;

	n = e820_add(out, n, 0, BOOT_EBDA, E820_RAM);
	n = e820_add(out, n, BOOT_EBDA, 0xa0000, E820_RESERVED);
	n = e820_add(out, n, 0xe0000, 0x100000, E820_RESERVED);
	n = e820_add(out, n, 0x100000, top, E820_RAM);
	n = e820_add(out, n, top, low_size, E820_ACPI);
	n = e820_add(out, n, 0xfffc0000, 0x100000000, E820_RESERVED);
	return e820_add(out, n, BOOT_HIGH_BASE, BOOT_HIGH_BASE + high_size, E820_RAM);
}

unsigned e820_firmware(struct e820_entry out[E820_MAX], uint64_t low_size, uint64_t high_size)
{
	unsigned n = e820_add(out, 0, 0, low_size, E820_RAM);

	return e820_add(out, n, BOOT_HIGH_BASE, BOOT_HIGH_BASE + high_size, E820_RAM);
}

bool boot_write(struct mem *mem, uint64_t gpa, const void *data, size_t len, const char *what, GError **error)
{
	if (!len || mem_write(mem, gpa, data, len))
		return true;
	g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
		    "%s (%zu bytes at 0x%" G_GINT64_MODIFIER "x) does not fit into the guest's RAM; give it more with --memory",
		    what, len, gpa);
	return false;
}

bool boot_read_file(const char *path, uint8_t **data, size_t *len, GError **error)
{
	gchar *bytes;
	gsize size;
	struct stat st;

	/* A pipe would be waited for, a device might never end. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: not a regular file; copy its content into one", path);
		return false;
	}
	if (!g_file_get_contents(path, &bytes, &size, error))
		return false;
	*data = (uint8_t *)bytes;
	*len = size;
	return true;
}

bool boot_place_high(struct mem *mem, const char *path, uint64_t floor, uint64_t limit, uint64_t *gpa,
		     uint64_t *size, GError **error)
{
	g_autofree uint8_t *data = NULL;
	uint64_t base;
	size_t len;

	if (!boot_read_file(path, &data, &len, error))
		return false;
	if (len > limit || ((limit - len) & ~(uint64_t)(PAGE_SIZE - 1)) < floor) {
		g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
			    "%s: %zu bytes do not fit into the guest's RAM; give it more with --memory", path, len);
		return false;
	}
	base = (limit - len) & ~(uint64_t)(PAGE_SIZE - 1);
	if (!boot_write(mem, base, data, len, path, error))
		return false;
	*gpa = base;
	*size = len;
	return true;
}

static struct x86_segment flat_segment(uint16_t selector, uint16_t attr)
{
	return (struct x86_segment){ .base = 0, .limit = 0xffffffff, .selector = selector, .attr = attr };
}

/* Null, null, code, data and a task segment, at the selectors Linux asks for. */
static bool gdt_write(struct mem *mem, struct cpu_state *s, GError **error)
{
	uint64_t gdt[6] = {
		0, 0,
		UINT64_C(0x00cf9b000000ffff), UINT64_C(0x00cf93000000ffff),
		UINT64_C(0x00008b0000000067), 0,
	};
	const uint16_t code = SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G | SEG_ATTR_DB | 0xb;
	const uint16_t data = SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G | SEG_ATTR_DB | 0x3;

	if (!boot_write(mem, GDT_GPA, gdt, sizeof(gdt), "boot GDT", error))
		return false;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = flat_segment(0x18, data);
	s->seg[SEG_CS] = flat_segment(0x10, code);
	s->tr = (struct x86_segment){ .limit = 0x67, .selector = 0x20, .attr = SEG_ATTR_P | 0xb };
	s->ldtr = (struct x86_segment){ .attr = SEG_UNUSABLE };
	s->gdtr = (struct x86_dtable){ .base = GDT_GPA, .limit = sizeof(gdt) - 1 };
	s->idtr = (struct x86_dtable){ 0 };
	return true;
}

static void cpu_prepare(struct cpu_state *s, uint64_t entry)
{
	cpu_state_reset(s, true);
	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RSP] = STACK_GPA;
	s->rip = entry;
	s->rflags = 2;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE;
}

bool boot_cpu_32(struct mem *mem, struct cpu_state *out, uint32_t entry, GError **error)
{
	struct cpu_state s;

	cpu_prepare(&s, entry);
	if (!gdt_write(mem, &s, error))
		return false;
	*out = s;
	return true;
}
