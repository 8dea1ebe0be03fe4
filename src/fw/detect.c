/* Recognises images by their magic numbers: ECMA-119 8.4, Linux boot.rst, ELF, the multiboot 1
 * specification 3.1, qcow2's header. */
#include "fw/detect.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"

#define HEAD 8192
#define MULTIBOOT_MAGIC 0x1badb002u

static bool fail(GError **error, int code, const char *path, const char *why)
{
	g_set_error(error, G_IO_ERROR, code, "%s: %s", path, why);
	return false;
}

static bool has_multiboot(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i + 12 <= len; i += 4)
		if (ld32le(p + i) == MULTIBOOT_MAGIC && !(ld32le(p + i) + ld32le(p + i + 4) + ld32le(p + i + 8)))
			return true;
	return false;
}

static bool content_detect(int fd, const char *path, enum image_kind *kind, GError **error)
{
	uint8_t head[HEAD], volume[6];
	ssize_t len = pread(fd, head, sizeof(head), 0);

	if (len < 0)
		return fail(error, (int)g_io_error_from_errno(errno), path, g_strerror(errno));
	if (!len)
		return fail(error, G_IO_ERROR_INVALID_DATA, path, "the file is empty");
	if (pread(fd, volume, 5, 32769) == 5 && !memcmp(volume, "CD001", 5))
		*kind = IMAGE_ISO;
	else if (len >= 4 && !memcmp(head, "QFI\xfb", 4))
		*kind = IMAGE_QCOW2;
	else if (len >= 0x206 && !memcmp(head + 0x202, "HdrS", 4))
		*kind = IMAGE_BZIMAGE;
	else if ((len >= 52 && !memcmp(head, "\x7f" "ELF", 4)) || has_multiboot(head, (size_t)len))
		*kind = IMAGE_ELF;
	else if (len >= 512 && head[510] == 0x55 && head[511] == 0xaa)
		*kind = IMAGE_DISK;
	else
		return fail(error, G_IO_ERROR_INVALID_DATA, path,
			    "not an image that can be booted: no ISO, kernel, qcow2 or boot sector; "
			    "give an empty disk as --disk and an installation CD beside it");
	return true;
}

bool image_detect(const char *path, enum image_kind *kind, GError **error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	bool ok;

	if (fd < 0)
		return fail(error, (int)g_io_error_from_errno(errno), path, g_strerror(errno));
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		ok = fail(error, G_IO_ERROR_IS_DIRECTORY, path, "is a directory; give an image file");
	else
		ok = content_detect(fd, path, kind, error);
	close(fd);
	return ok;
}
