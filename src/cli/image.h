/* `guise image`: making, looking at and changing disk images. */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "block/qcow2.h"

/* What the command line said. */
struct image_options {
	const char *file[3]; /* the arguments without dashes */
	unsigned files;
	enum blk_format format;        /* --format: of the (first) image */
	enum blk_format to;            /* --to: of the second */
	enum blk_format backing_format;
	const char *backing;
	struct qcow2_create create;
	bool compress, force, shrink, strict, quiet, json, repair_leaks, repair_all;
};

/* argv[0] is what follows "image". Returns the exit status. */
int image_command(int argc, char **argv);

/* image_copy.c: each returns an exit status, with *error set where that is 1. */
int image_convert(const struct image_options *o, GError **error);
int image_commit(const struct image_options *o, GError **error);
int image_compare(const struct image_options *o, GError **error);
/* Makes an empty image of a format; `c` says the rest. */
bool image_make(const char *path, enum blk_format format, const struct qcow2_create *c, bool force, GError **error);

#endif
