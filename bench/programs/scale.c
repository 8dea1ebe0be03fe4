/*
 * The load of bench/scale: processes in a ring hand a token around; whoever holds it runs a fixed number of
 * instructions over its own pages. With a spread, the first of them also owns that much memory and its
 * pages lie all over it. The instructions are counted by construction, so that the cost of one can be told.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum {
	OWN_BYTES = 32 << 10,		/* what each process works on */
	PASSES = 64,			/* loop passes in one turn */
	STRIDE = 4096 + 64,
	SPREAD_PAGES = 2048,		/* pages of the spread that are visited in turn */
};

/* Ten instructions a pass, with a load and a store; `at` wraps within the power of two. */
static uint64_t work(uint8_t *memory, uint64_t at, uint64_t wrap, uint64_t stride, uint64_t passes)
{
	uint64_t sum = 0, value;

	__asm__ volatile("1:\n\t"
			 "mov (%[memory],%[at]), %[value]\n\t"
			 "add %[value], %[sum]\n\t"
			 "lea 1(%[value]), %[value]\n\t"
			 "mov %[value], (%[memory],%[at])\n\t"
			 "add %[stride], %[at]\n\t"
			 "and %[wrap], %[at]\n\t"
			 "rol $7, %[sum]\n\t"
			 "xor %[at], %[sum]\n\t"
			 "dec %[passes]\n\t"
			 "jnz 1b"
			 : [sum] "+&r"(sum), [at] "+&r"(at), [passes] "+&r"(passes), [value] "=&r"(value)
			 : [memory] "r"(memory), [stride] "r"(stride), [wrap] "r"(wrap)
			 : "memory", "cc");
	return sum + at;
}

static uint8_t *memory_get(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		bench_fail("mmap");
	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (uint64_t at = 0; at < bytes; at += 4096)
		p[at] = 1;
	return p;
}

static void process_run(int in, int out)
{
	uint8_t *memory = memory_get(OWN_BYTES);
	uint64_t at = 0;
	char token;

	while (read(in, &token, 1) == 1) {
		work(memory, at, OWN_BYTES - 64, STRIDE, PASSES);
		at = (at + PASSES * (uint64_t)STRIDE) & (OWN_BYTES - 64);
		if (write(out, &token, 1) != 1)
			break;
	}
	_exit(0);
}

/* Processor time of children that still run: rusage knows only those that have been waited for. */
static uint64_t ring_time(const pid_t *pids, int processes)
{
	uint64_t sum = 0;

	for (int i = 0; i < processes; i++) {
		struct timespec ts;
		clockid_t clock;

		if (clock_getcpuclockid(pids[i], &clock) || clock_gettime(clock, &ts))
			bench_fail("clock");
		sum += (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	}
	return sum;
}

static void ring_create(pid_t *pids, int processes, int *in, int *out)
{
	int first[2], before, next[2];

	if (pipe(first))
		bench_fail("pipe");
	before = first[0];
	for (int i = 0; i < processes; i++) {
		if (pipe(next))
			bench_fail("pipe");
		pid_t pid = fork();
		if (pid < 0)
			bench_fail("fork");
		if (pid == 0) {
			close(first[1]);
			close(next[0]);
			process_run(before, next[1]);
		}
		pids[i] = pid;
		close(before);
		close(next[1]);
		before = next[0];
	}
	*in = before;
	*out = first[1];
}

/* Power of two, so that the walk wraps with one AND. */
static uint64_t spread_size(uint64_t mib)
{
	uint64_t bytes = 1 << 20;

	while (bytes * 2 <= mib << 20)
		bytes *= 2;
	return bytes;
}

/* The token once around the ring. */
static void ring_turn(int in, int out)
{
	char token = 0;

	if (write(out, &token, 1) != 1 || read(in, &token, 1) != 1)
		bench_fail("ring");
}

int scale_main(int processes, uint64_t turns, uint64_t spread_mib)
{
	uint64_t bytes = spread_size(spread_mib), stride = bytes / SPREAD_PAGES + 4096 + 64;
	uint64_t sum = 0, wrap = bytes - 64;
	uint8_t *spread = spread_mib ? memory_get(bytes) : NULL;
	pid_t *pids = calloc((size_t)processes + 1, sizeof *pids);
	int in = -1, out = -1;

	if (!pids)
		bench_fail("memory");
	if (processes) {
		ring_create(pids, processes, &in, &out);
		ring_turn(in, out);
	}
	uint64_t before = ring_time(pids, processes);
	struct region r = region_begin();
	for (uint64_t done = 0; done < turns;) {
		if (spread)
			sum = mix(sum, work(spread, sum & wrap & ~(uint64_t)7, wrap, stride & ~(uint64_t)63, PASSES));
		if (processes)
			ring_turn(in, out);
		done += processes ? (uint64_t)processes : 1;
	}
	r.cpu -= ring_time(pids, processes) - before;
	region_end(&r);
	if (processes)
		close(out);
	while (wait(NULL) > 0)
		;
	free(pids);
	printf("scale %d %llu %016llx\n", processes, (unsigned long long)turns, (unsigned long long)sum);
	return 0;
}
