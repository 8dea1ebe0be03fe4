/* A file in memory for image tests: it can log what changes it, and fail on purpose. */
#ifndef TESTS_UNIT_MEMORY_FILE_H
#define TESTS_UNIT_MEMORY_FILE_H

#include "block/file.h"

/* One change, in order. */
struct change {
	enum { CHANGE_WRITE, CHANGE_ZERO, CHANGE_TRUNCATE, CHANGE_SYNC } kind;
	uint64_t offset, len;
	uint8_t *bytes; /* CHANGE_WRITE */
};

struct memory_file {
	struct file file;
	uint8_t *bytes;
	uint64_t size, room;
	uint64_t limit;   /* no file of ours grows beyond */
	GArray *log;      /* struct change, or NULL */
	unsigned calls;   /* writes, zeros, truncations and syncs so far */
	unsigned fail_at; /* the call that fails first, from 1 on; 0: none */
	bool fail_on;     /* all calls after it fail too */
	int error;        /* what it fails with, negative */
};

/* Starts with a copy of the bytes. `path` names it, and where it looks for backing files. */
struct memory_file *memory_file_new(const char *path, const void *bytes, uint64_t size);
void memory_file_log(struct memory_file *m);
/* The caller's from now on. */
GArray *memory_file_take_log(struct memory_file *m);
void change_log_free(GArray *log);
/* Does one change to a plain buffer file. `keep_sector` (NULL: all) says which sectors of it arrive. */
void memory_file_apply(struct memory_file *m, const struct change *c, bool (*keep_sector)(void *opaque), void *opaque);

#endif
