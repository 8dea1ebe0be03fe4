/*
 * Readings of the time stamp counter and the clock that belong together. A thread is put aside for milliseconds on a busy
 * host, between any two instructions; so each reading of the clock stands between two of the counter, and the closest of
 * several attempts counts.
 */
#include "base/tsc.h"

#include <stddef.h>
#include <time.h>

#define ATTEMPTS 50
#define CLOSE 400 /* ticks: what an undisturbed reading takes */
#define MEASURE_NS 10000000

static int64_t monotonic_ns(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

struct host_moment host_moment_of(int64_t (*clock)(void *opaque), void *opaque)
{
	struct host_moment m = { 0 };
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < ATTEMPTS && least > CLOSE; i++) {
		uint64_t before = __builtin_ia32_rdtsc();
		int64_t ns = clock(opaque);
		uint64_t apart = __builtin_ia32_rdtsc() - before;

		if (apart >= least)
			continue;
		least = apart;
		m = (struct host_moment){ before + apart / 2, ns };
	}
	return m;
}

struct host_moment host_moment_now(void)
{
	return host_moment_of(monotonic_ns, NULL);
}

uint64_t host_tsc_hz(void)
{
	const struct timespec wait = { .tv_nsec = MEASURE_NS };
	struct host_moment start = host_moment_now(), end;

	do {
		nanosleep(&wait, NULL);
		end = host_moment_now();
	} while (end.ns - start.ns < MEASURE_NS);
	return (uint64_t)((unsigned __int128)(end.tsc - start.tsc) * 1000000000 / (uint64_t)(end.ns - start.ns));
}
