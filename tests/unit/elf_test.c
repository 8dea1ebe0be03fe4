/* PVH and multiboot kernels made by hand: what is loaded where, and what is refused. */
#include <elf.h>
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "fw/multiboot.h"
#include "fw/pvh.h"

#define LOW_SIZE (64u << 20)

struct guest {
	struct mem *mem;
	struct ram *ram;
};

static struct guest guest_new(void)
{
	struct guest g = { mem_create(), ram_create("test", LOW_SIZE, NULL) };

	mem_map(g.mem, 0, LOW_SIZE, g.ram, 0, false);
	return g;
}

static void guest_free(struct guest *g)
{
	mem_destroy(g->mem);
	ram_destroy(g->ram);
}

/* A 32-bit ELF file: one segment of 16 bytes at 1 MiB with 16 more of zeros, one PVH note. */
static size_t make_elf(uint8_t out[512])
{
	Elf32_Ehdr eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 }, .e_machine = EM_386, .e_entry = 0x100004,
			  .e_phoff = 52, .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 2 };
	Elf32_Phdr load = { .p_type = PT_LOAD, .p_offset = 256, .p_vaddr = 0x100000, .p_paddr = 0x100000, .p_filesz = 16, .p_memsz = 32 };
	Elf32_Phdr note = { .p_type = PT_NOTE, .p_offset = 300, .p_filesz = 20, .p_memsz = 20 };

	memset(out, 0, 512);
	memcpy(out, &eh, sizeof(eh));
	memcpy(out + 52, &load, sizeof(load));
	memcpy(out + 52 + sizeof(load), &note, sizeof(note));
	memset(out + 256, 0xab, 16);
	st32le(out + 300, 4);
	st32le(out + 304, 4);
	st32le(out + 308, 18);
	memcpy(out + 312, "Xen", 4);
	st32le(out + 316, 0x100008);
	return 512;
}

static void test_pvh(void)
{
	struct guest g = guest_new();
	struct linux_boot b = { .kernel = "test", .cmdline = "hello", .low_size = LOW_SIZE, .rsdp = 0x1234 };
	struct elf_image image;
	struct cpu_state s;
	uint8_t file[512];
	char text[6];

	memset(g.ram->host + 0x100000, 0x55, 64);
	g_assert_true(elf_load(g.mem, file, make_elf(file), "test", &image, NULL));
	g_assert_true(image.has_pvh);
	g_assert_cmphex(image.pvh_entry, ==, 0x100008);
	g_assert_cmphex(g.ram->host[0x10000f], ==, 0xab);
	g_assert_cmphex(g.ram->host[0x10001f], ==, 0);
	g_assert_cmphex(g.ram->host[0x100020], ==, 0x55);
	g_assert_true(pvh_start(g.mem, &b, &image, &s, NULL));
	g_assert_cmphex(s.rip, ==, 0x100008);
	g_assert_cmphex(mem_read32(g.mem, s.gpr[RBX]), ==, 0x336ec578);
	g_assert_cmphex(mem_read32(g.mem, s.gpr[RBX] + 32), ==, 0x1234);
	g_assert_true(mem_read(g.mem, mem_read32(g.mem, s.gpr[RBX] + 24), text, 6));
	g_assert_cmpstr(text, ==, "hello");
	guest_free(&g);
}

static void test_refused(void)
{
	struct guest g = guest_new();
	struct elf_image image;
	uint8_t file[512];

	/* Every damaged length, offset and count: refused or loaded, never outside of the file. */
	for (unsigned at = 16; at < 120; at++) {
		for (unsigned v = 0; v < 256; v += 5) {
			make_elf(file);
			file[at] = (uint8_t)v;
			elf_load(g.mem, file, 330, "test", &image, NULL);
		}
	}
	make_elf(file);
	g_assert_false(elf_load(g.mem, file, 40, "test", &image, NULL));
	st32le(file + 52 + 4, 500);
	g_assert_false(elf_load(g.mem, file, 512, "test", &image, NULL));
	make_elf(file);
	st32le(file + 52 + 12, 0xfffffff0);
	g_assert_false(elf_load(g.mem, file, 512, "test", &image, NULL));
	guest_free(&g);
}

static void test_multiboot(void)
{
	struct guest g = guest_new();
	struct linux_boot b = { .kernel = "mb", .cmdline = "x=1", .low_size = LOW_SIZE };
	uint8_t file[512];
	struct cpu_state s;
	uint32_t info;

	make_elf(file);
	g_assert_false(multiboot_check(file, sizeof(file)));
	st32le(file + 400, 0x1badb002);
	st32le(file + 404, 3);
	st32le(file + 408, -(0x1badb002u + 3));
	g_assert_true(multiboot_check(file, sizeof(file)));
	g_assert_true(multiboot_load(g.mem, &b, file, sizeof(file), &s, NULL));
	g_assert_cmphex(s.rip, ==, 0x100004);
	g_assert_cmphex(s.gpr[RAX], ==, 0x2badb002);
	info = (uint32_t)s.gpr[RBX];
	g_assert_cmpuint(mem_read32(g.mem, info + 8), ==, (LOW_SIZE - (1u << 20)) >> 10);
	g_assert_cmpstr((char *)g.ram->host + mem_read32(g.mem, info + 16), ==, "mb x=1");
	g_assert_cmpuint(mem_read16(g.mem, 0x40e), ==, 0);
	/* Where a kernel without firmware looks for ACPI. */
	b.rsdp = 0x400000;
	g_assert_true(mem_write(g.mem, b.rsdp, "RSD PTR and more, 36 bytes altogether", 36));
	g_assert_true(multiboot_load(g.mem, &b, file, sizeof(file), &s, NULL));
	g_assert_cmphex(mem_read16(g.mem, 0x40e), ==, 0x9fc0);
	g_assert_cmpmem(g.ram->host + 0x9fc10, 36, "RSD PTR and more, 36 bytes altogether", 36);
	b.rsdp = 0;
	/* The header's own addresses. */
	st32le(file + 404, 1u << 16);
	st32le(file + 408, -(0x1badb002u + (1u << 16)));
	st32le(file + 412, 0x200000 + 400);
	st32le(file + 416, 0x200000);
	st32le(file + 420, 0);
	st32le(file + 424, 0);
	st32le(file + 428, 0x200010);
	g_assert_true(multiboot_load(g.mem, &b, file, sizeof(file), &s, NULL));
	g_assert_cmphex(s.rip, ==, 0x200010);
	g_assert_cmphex(mem_read32(g.mem, 0x200000 + 400), ==, 0x1badb002);
	st32le(file + 416, 0x300000);
	g_assert_false(multiboot_load(g.mem, &b, file, sizeof(file), &s, NULL));
	guest_free(&g);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/fw/pvh", test_pvh);
	g_test_add_func("/fw/elf-refused", test_refused);
	g_test_add_func("/fw/multiboot", test_multiboot);
	return g_test_run();
}
