/*
 * UEFI firmware in two flash banks below 4 GiB, as OVMF for the PC has it: the code on top, its variables under it, the
 * latter kept in a file of the machine.
 */
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "block/file.h"
#include "dev/pflash.h"
#include "machine/pc.h"
#include "machine/vm.h"

#define TOP (UINT64_C(4) << 30)
#define MAX_BANK (8u << 20)

/* A variable store belongs to code built for its size. The larger is what distributions build today. */
static const struct image {
	const char *code, *vars;
} images[] = {
	{ "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd" },
	{ "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd" },
};

static bool fail(GError **error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(GError **error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		*error = g_error_new_valist(G_FILE_ERROR, G_FILE_ERROR_FAILED, fmt, ap);
	va_end(ap);
	return false;
}

bool pc_is_uefi(const struct pc *pc)
{
	return !strcmp(pc->vm->config.firmware, "uefi");
}

static struct ram *bank_create(const char *name, const void *data, size_t len, GError **error)
{
	struct ram *r = ram_create(name, len, error);

	if (r)
		memcpy(r->host, data, len);
	return r;
}

/* The pair whose variables have the size of those that exist already; the first installed one for a new machine. */
static const struct image *image_choose(uint64_t vars_size)
{
	for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
		GStatBuf st;

		if (g_access(images[i].code, R_OK) || g_stat(images[i].vars, &st))
			continue;
		if (!vars_size || (uint64_t)st.st_size == vars_size)
			return &images[i];
	}
	return NULL;
}

/* The store appears complete or not at all, and never over one that another machine has just made. */
static bool store_make(const char *path, const char *template, size_t len, GError **error)
{
	g_autofree char *dir = g_path_get_dirname(path), *draft = g_strdup_printf("%s.%d.new", path, (int)getpid());
	struct file *f;
	int r;

	if (g_mkdir_with_parents(dir, 0700))
		return fail(error, "UEFI variables: %s: %s", dir, g_strerror(errno));
	f = file_create_host(draft, true, error);
	if (!f)
		return false;
	r = file_write(f, 0, template, len);
	if (!r)
		r = f->ops->sync(f);
	file_close(f);
	if (!r && link(draft, path) && errno != EEXIST)
		r = -errno;
	g_unlink(draft);
	return !r || fail(error, "UEFI variables: %s: %s", path, g_strerror(-r));
}

static bool vars_load(struct pc *pc, const struct image *image, GError **error)
{
	const char *path = pc->vm->config.uefi_vars;
	g_autofree char *data = NULL;
	gsize len;
	int r;

	if (!g_file_get_contents(image->vars, &data, &len, error))
		return false;
	if (path) {
		if (g_access(path, F_OK) && !store_make(path, data, len, error))
			return false;
		pc->vars_store = file_open_host(path, false, error);
		if (!pc->vars_store) {
			g_prefix_error(error, "UEFI variables: ");
			return false;
		}
		r = file_read(pc->vars_store, 0, data, len);
		if (r)
			return fail(error, "UEFI variables: %s: %s", path, g_strerror(-r));
	}
	pc->flash_vars = bank_create("uefi-vars", data, len, error);
	return pc->flash_vars != NULL;
}

bool pc_flash_load(struct pc *pc, GError **error)
{
	const char *path = pc->vm->config.uefi_vars;
	const struct image *image;
	g_autofree char *code = NULL;
	GStatBuf st = { 0 };
	gsize len;

	if (path && !g_stat(path, &st) && !st.st_size)
		return fail(error, "UEFI variables: %s: is empty; remove it, and it is made anew", path);
	image = image_choose((uint64_t)st.st_size);
	if (!image && st.st_size)
		return fail(error, "UEFI variables: %s: %" G_GINT64_FORMAT " bytes, a size that no installed firmware has", path,
			    (gint64)st.st_size);
	if (!image)
		return fail(error, "firmware: UEFI is missing; install it with `sudo apt-get install ovmf`");
	if (!g_file_get_contents(image->code, &code, &len, error))
		return false;
	if (len < 0x20000 || len % PFLASH_BLOCK || len > MAX_BANK)
		return fail(error, "firmware: %s: %" G_GSIZE_FORMAT " bytes cannot be a flash bank", image->code, len);
	pc->rom = bank_create("uefi-code", code, len, error);
	return pc->rom && vars_load(pc, image, error);
}

static int store_write(void *opaque, uint64_t offset, const void *data, size_t len)
{
	return file_write(opaque, offset, data, len);
}

static int store_sync(void *opaque)
{
	struct file *f = opaque;

	return f->ops->sync(f);
}

struct device *pc_flash_create(struct pc *pc, bool vars)
{
	const struct pflash_store store = { store_write, store_sync, pc->vars_store };
	uint64_t code = TOP - pc->rom->size;

	if (!vars)
		return pflash_device(pflash_create(pc->mmio, pc->vm->mem, code, pc->rom, true, NULL, "uefi-code"));
	return pflash_device(pflash_create(pc->mmio, pc->vm->mem, code - pc->flash_vars->size, pc->flash_vars, false,
					   pc->vars_store ? &store : NULL, "uefi-vars"));
}

void pc_flash_close(struct pc *pc)
{
	file_close(pc->vars_store);
}
