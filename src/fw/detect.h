/* What kind of image a file is, by its content. */
#ifndef FW_DETECT_H
#define FW_DETECT_H

#include <glib.h>
#include <stdbool.h>

enum image_kind {
	IMAGE_ISO,     /* ISO 9660, hybrid ones too */
	IMAGE_BZIMAGE, /* Linux, memtest86+ */
	IMAGE_ELF,     /* a kernel with a PVH note or a multiboot header (an a.out-style one too) */
	IMAGE_DISK,    /* raw, with a boot sector */
	IMAGE_QCOW2,
};

/* False, with a message for people, for what is missing, empty, a directory or unknown. */
bool image_detect(const char *path, enum image_kind *kind, GError **error);

#endif
