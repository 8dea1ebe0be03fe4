/* The host's time stamp counter against its monotonic clock, read so that a busy host spoils neither. */
#ifndef HOST_TSC_H
#define HOST_TSC_H

#include <stdint.h>

/* Both at one moment, to about a tenth of a microsecond. */
struct host_moment {
	uint64_t tsc;
	int64_t ns;
};

/* By CLOCK_MONOTONIC. */
struct host_moment host_moment_now(void);
/* By a clock that follows it. */
struct host_moment host_moment_of(int64_t (*clock)(void *opaque), void *opaque);
/* Ticks a second, to some millionths. Takes ten milliseconds. */
uint64_t host_tsc_hz(void);

#endif
