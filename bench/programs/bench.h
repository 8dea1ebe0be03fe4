/*
 * The benchmark programs: one static binary with a case for each thing that is measured. The same
 * file runs on the host and in the guests.
 */
#pragma once

#include <stdint.h>

/* One measured loop: run(n) does n operations and returns a checksum that depends on nothing else. */
struct bench_case {
	const char *name;
	const char *operation;	/* what one of the n operations is */
	double seconds;		/* what the host should need for a run: the amount is chosen for it */
	void (*prepare)(void);	/* not measured; may be NULL */
	uint64_t (*run)(uint64_t n);
};

/* Each list ends with an entry without a name. */
extern const struct bench_case integer_cases[];
extern const struct bench_case float_cases[];
extern const struct bench_case memory_cases[];
extern const struct bench_case os_cases[];
extern const struct bench_case thread_cases[];

/* Exit status of a case that the CPU cannot run. */
#define BENCH_UNSUPPORTED 77

/* The measured part lies between these two. Both wait for the harness: see serve.c. */
struct region {
	uint64_t wall, cpu;	/* when it began, in nanoseconds */
};

struct region region_begin(void);
void region_end(const struct region *r);

/* Processor time of this process and the children it has waited for, in nanoseconds. */
uint64_t cpu_time(void);
uint64_t wall_time(void);

/* A case that cannot go on: says why and exits. */
__attribute__((noreturn)) void bench_fail(const char *what);

/* Serves commands from standard input; the first process of a guest does the same on its serial line. */
int serve(const char *directory);
int serve_guest(void);

/* The load of bench/scale: turns of work handed around among processes. */
int scale_main(int processes, uint64_t turns, uint64_t spread_mib);

/* xorshift64: the same sequence everywhere. */
static inline uint64_t random_next(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x100000001b3u;
}
