/*
 * Command line of the benchmark programs: `bench CASE N` runs one case, `bench calibrate CASE` finds
 * how many operations the host does in the case's time, `bench list` names them all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct bench_case *const lists[] = {
	integer_cases, float_cases, memory_cases, os_cases, thread_cases,
};

uint64_t wall_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t usage_time(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u
	       + (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

uint64_t cpu_time(void)
{
	return usage_time(RUSAGE_SELF) + usage_time(RUSAGE_CHILDREN);
}

void bench_fail(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const struct bench_case *case_find(const char *name)
{
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		for (const struct bench_case *c = lists[i]; c->name; c++)
			if (!strcmp(c->name, name))
				return c;
	fprintf(stderr, "bench: no case %s\n", name);
	exit(2);
}

static int list_cases(void)
{
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		for (const struct bench_case *c = lists[i]; c->name; c++)
			printf("%s\t%s\n", c->name, c->operation);
	return 0;
}

/* Two significant digits: a figure that people can type again. */
static uint64_t round_amount(double n)
{
	uint64_t scale = 1;

	while (n / (double)scale >= 100)
		scale *= 10;
	uint64_t rounded = (uint64_t)(n / (double)scale) * scale;
	return rounded ? rounded : 1;
}

static int calibrate(const struct bench_case *c, double factor)
{
	double want = c->seconds * factor * 1e9;

	if (c->prepare)
		c->prepare();
	for (uint64_t n = 1;; n *= 2) {
		uint64_t start = cpu_time();
		c->run(n);
		double took = (double)(cpu_time() - start);
		if (took >= want / 4 || n > UINT64_MAX / 4) {
			printf("%llu\n", (unsigned long long)round_amount((double)n * want / took));
			return 0;
		}
	}
}

static int run_case(const struct bench_case *c, uint64_t n)
{
	if (c->prepare)
		c->prepare();
	struct region r = region_begin();
	uint64_t sum = c->run(n);
	region_end(&r);
	printf("%s %llu %016llx\n", c->name, (unsigned long long)n, (unsigned long long)sum);
	return 0;
}

int main(int argc, char **argv)
{
	if (getpid() == 1)
		return serve_guest();
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	if (argc == 2 && !strcmp(argv[1], "list"))
		return list_cases();
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "calibrate"))
		return calibrate(case_find(argv[2]), atof(argv[3]));
	if (argc == 5 && !strcmp(argv[1], "scale"))
		return scale_main(atoi(argv[2]), strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
	if (argc == 3)
		return run_case(case_find(argv[1]), strtoull(argv[2], NULL, 0));
	fprintf(stderr, "usage: bench CASE N | calibrate CASE FACTOR | scale PROCESSES TURNS MIB | serve DIR | list\n");
	return 2;
}
