/* ACPI tables and loader commands, image detection, and what linux_load leaves in guest RAM. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "base/bytes.h"
#include "fw/acpi.h"
#include "fw/detect.h"
#include "fw/linux.h"
#include "fw/video_init.h"

#define RAM_SIZE (UINT64_C(64) << 20)

static struct mem *ram_new(struct ram **ram)
{
	struct mem *m = mem_create();

	*ram = ram_create("test", RAM_SIZE, NULL);
	g_assert_nonnull(*ram);
	g_assert_cmpint(mem_map(m, 0, RAM_SIZE, *ram, 0, false), >=, 0);
	return m;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* An iasl run over the DSDT, where there is one. */
static void dsdt_disassemble(const uint8_t *p, uint32_t len)
{
	g_autofree char *dir = g_dir_make_tmp("guise-fw-XXXXXX", NULL), *iasl = g_find_program_in_path("iasl");
	g_autofree char *file = g_build_filename(dir, "dsdt.aml", NULL), *dsl = g_build_filename(dir, "dsdt.dsl", NULL);
	g_autofree char *out = NULL, *err = NULL, *text = NULL;
	char *argv[] = { iasl, "-d", file, NULL };
	int status;

	g_assert_true(g_file_set_contents(file, (const char *)p, len, NULL));
	if (iasl) {
		g_assert_true(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, &err, &status, NULL));
		g_assert_cmpint(status, ==, 0);
		g_assert_null(strstr(err, "Error"));
		g_assert_true(g_file_get_contents(dsl, &text, NULL, NULL));
		g_assert_nonnull(strstr(text, "_S5, Package"));
		g_unlink(dsl);
	}
	g_unlink(file);
	g_rmdir(dir);
}

static void test_acpi(void)
{
	struct acpi_config c = { .cpus = 2, .low_size = RAM_SIZE, .hole = 0xc0000000, .pm_base = 0x600, .hpet = true, .serial = 1 };
	uint64_t gpa = RAM_SIZE - BOOT_ACPI_SIZE, rsdp;
	struct acpi_tables t;
	struct ram *ram;
	struct mem *m = ram_new(&ram);
	uint32_t xsdt, len;

	acpi_build(&t, &c);
	g_assert_cmpuint(t.loader->len % 128, ==, 0);
	for (guint i = 0; i < t.loader->len; i += 128) {
		g_assert_cmpuint(ld32le(t.loader->data + i), >=, 1);
		g_assert_cmpuint(ld32le(t.loader->data + i), <=, 3);
	}
	g_assert_true(acpi_install(&t, m, gpa, BOOT_ACPI_SIZE, &rsdp, NULL));
	g_assert_cmpmem(ram->host + rsdp, 8, "RSD PTR ", 8);
	g_assert_cmpuint(sum(ram->host + rsdp, 20), ==, 0);
	g_assert_cmpuint(sum(ram->host + rsdp, 36), ==, 0);
	xsdt = (uint32_t)ld64le(ram->host + rsdp + 24);
	len = ld32le(ram->host + xsdt + 4);
	g_assert_cmpuint(sum(ram->host + xsdt, len), ==, 0);
	g_assert_cmpuint(len, ==, 36 + 3 * 8);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *p = ram->host + ld64le(ram->host + xsdt + 36 + 8 * i);

		g_assert_cmpuint(sum(p, ld32le(p + 4)), ==, 0);
		if (!memcmp(p, "FACP", 4)) {
			const uint8_t *dsdt = ram->host + ld32le(p + 40);

			g_assert_cmpmem(dsdt, 4, "DSDT", 4);
			g_assert_cmpuint(sum(dsdt, ld32le(dsdt + 4)), ==, 0);
			g_assert_cmpuint(ld32le(p + 36) % 64, ==, 0);
			dsdt_disassemble(dsdt, ld32le(dsdt + 4));
		}
	}
	acpi_finish(&t);
	mem_destroy(m);
	ram_destroy(ram);
}

static void detect_one(size_t size, size_t at, const void *magic, size_t len, int want)
{
	g_autofree char *dir = g_dir_make_tmp("guise-fw-XXXXXX", NULL), *file = g_build_filename(dir, "image", NULL);
	g_autofree char *bytes = g_malloc0(size + 1);
	GError *error = NULL;
	enum image_kind kind;
	bool ok;

	memcpy(bytes + at, magic, len);
	g_assert_true(g_file_set_contents(file, bytes, (gssize)size, NULL));
	ok = image_detect(file, &kind, &error);
	g_assert_true(ok == (want >= 0));
	g_assert_true(ok == !error);
	if (ok)
		g_assert_cmpint(kind, ==, want);
	g_clear_error(&error);
	g_assert_false(image_detect(dir, &kind, &error));
	g_clear_error(&error);
	g_unlink(file);
	g_rmdir(dir);
}

static void test_detect(void)
{
	detect_one(40000, 32769, "CD001", 5, IMAGE_ISO);
	detect_one(4096, 0x202, "HdrS", 4, IMAGE_BZIMAGE);
	detect_one(4096, 0, "\x7f" "ELF", 4, IMAGE_ELF);
	detect_one(4096, 0, "QFI\xfb", 4, IMAGE_QCOW2);
	detect_one(4096, 510, "\x55\xaa", 2, IMAGE_DISK);
	detect_one(4096, 0, "", 0, -1);
	detect_one(0, 0, "", 0, -1);
}

static void test_linux(void)
{
	g_autofree char *dir = g_dir_make_tmp("guise-fw-XXXXXX", NULL), *file = g_build_filename(dir, "k", NULL);
	struct linux_boot b = { .kernel = file, .initrd = file, .cmdline = "quiet", .low_size = RAM_SIZE };
	uint8_t image[8192] = { 0 };
	struct cpu_state s;
	struct ram *ram;
	struct mem *m = ram_new(&ram);
	GError *error = NULL;
	const uint8_t *p;

	image[0x1f1] = 4;
	st16le(image + 0x1fe, 0xaa55);
	image[0x201] = 0x66;
	memcpy(image + 0x202, "HdrS", 4);
	st16le(image + 0x206, 0x20f);
	image[0x211] = 1;
	st32le(image + 0x22c, 0x7fffffff);
	st32le(image + 0x238, 2047);
	memset(image + 2560, 0x5a, sizeof(image) - 2560);
	g_assert_true(g_file_set_contents(file, (char *)image, sizeof(image), NULL));
	g_assert_true(linux_load(m, &b, &s, &error));
	g_assert_cmphex(s.rip, ==, 0x100000);
	g_assert_cmphex(s.cr0 & (CR0_PE | CR0_PG), ==, CR0_PE);
	p = ram->host + s.gpr[RSI];
	g_assert_cmpstr((char *)ram->host + ld32le(p + 0x228), ==, "quiet");
	g_assert_cmpuint(ld32le(p + 0x21c), ==, sizeof(image));
	g_assert_cmpmem(ram->host + ld32le(p + 0x218), 4096, image, 4096);
	g_assert_cmpmem(ram->host + 0x100000, 5632, image + 2560, 5632);
	g_assert_cmpuint(p[0x1e8], >, 3);
	g_assert_cmpuint(ld32le(p + 0x2d0 + 16), ==, E820_RAM);

	/* Through the video BIOS: real mode, and from there to the same entry with the same registers. */
	g_assert_true(video_init_boot(m, "rom", 4, 0x10, &s, &error));
	g_assert_cmphex(s.cr0 & CR0_PE, ==, 0);
	g_assert_cmpstr((char *)ram->host + 0xc0000, ==, "rom");
	p = ram->host + s.seg[SEG_CS].base + s.rip;
	g_assert_cmphex(ld16le(p + 9), ==, 0x10);
	g_assert_cmphex((uint32_t)(p + 107 - ram->host) + ld32le(p + 103), ==, 0x100000);

	st16le(image + 0x206, 0x200);
	g_assert_true(g_file_set_contents(file, (char *)image, sizeof(image), NULL));
	g_assert_false(linux_load(m, &b, &s, &error));
	g_assert_nonnull(error);
	g_clear_error(&error);
	g_unlink(file);
	g_rmdir(dir);
	mem_destroy(m);
	ram_destroy(ram);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/fw/acpi", test_acpi);
	g_test_add_func("/fw/detect", test_detect);
	g_test_add_func("/fw/linux", test_linux);
	return g_test_run();
}
