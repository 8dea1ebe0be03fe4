/* A progress line on standard error, where that is a terminal. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what;
	bool shown; /* standard error is a terminal */
	int64_t started, drawn; /* µs, monotonic */
};

void progress_begin(struct progress *p, const char *what);
/* Draws at most ten times a second. */
void progress_update(struct progress *p, uint64_t done, uint64_t total);
/* Removes the line. */
void progress_end(struct progress *p);

#endif
