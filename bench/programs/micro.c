/*
 * The small measurements of the engine bench: each prints its name and nanoseconds per round. Static, no
 * arguments needed; names as arguments choose some. The same program runs natively and in every guest.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ---- integer ---- */

static uint32_t rotr(uint32_t v, int n) { return v >> n | v << (32 - n); }

static void sha256(unsigned rounds)
{
	static uint32_t k[64], h[8], w[64];

	for (unsigned i = 0; i < 64; i++)
		k[i] = i * 0x9e3779b9u;
	while (rounds--) {
		uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], hh = h[7];

		for (unsigned i = 0; i < 16; i++)
			w[i] = h[i & 7] + i;
		for (unsigned i = 16; i < 64; i++)
			w[i] = w[i - 16] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
			       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
		for (unsigned i = 0; i < 64; i++) {
			uint32_t t1 = hh + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
			uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

			hh = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
		}
		h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += hh;
	}
	sink += h[0];
}

static __attribute__((noinline)) unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static void run_fib(unsigned rounds) { while (rounds--) sink += fib(20); }

static int compare(const void *a, const void *b) { return *(const int *)a < *(const int *)b ? -1 : *(const int *)a > *(const int *)b; }
static void run_qsort(unsigned rounds)
{
	static int v[2000];

	while (rounds--) {
		uint32_t s = 1;

		for (unsigned i = 0; i < 2000; i++)
			v[i] = (int)(s = s * 1664525 + 1013904223);
		qsort(v, 2000, sizeof(int), compare);
		sink += (uint64_t)v[1000];
	}
}

static void walk(unsigned rounds, size_t bytes)
{
	size_t n = bytes / 64, at = 0;
	uint64_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < n; i++)
		m[i * 8] = (i * 40503 + 12345) % n * 8;
	while (rounds--)
		at = m[at];
	sink += at;
	munmap(m, bytes);
}
static void walk_small(unsigned rounds) { walk(rounds, 256 << 10); }
static void walk_large(unsigned rounds) { walk(rounds, 64 << 20); }

static void bytecode(unsigned rounds)
{
	static const uint8_t program[] = { 0, 1, 2, 3, 1, 0, 4, 2, 1, 5 };
	uint64_t acc = 1, other = 3;

	while (rounds--) {
		for (const uint8_t *p = program;; p++) {
			switch (*p) {
			case 0: acc += other; continue;
			case 1: other ^= acc; continue;
			case 2: acc = acc << 3 | acc >> 61; continue;
			case 3: other -= 7; continue;
			case 4: acc *= 3; continue;
			default: break;
			}
			break;
		}
	}
	sink += acc;
}

static void crc(unsigned rounds)
{
	static uint32_t table[256];
	static uint8_t data[4096];
	uint32_t c = 0;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (unsigned k = 0; k < 8; k++)
			v = v & 1 ? v >> 1 ^ 0xedb88320 : v >> 1;
		table[i] = v;
	}
	while (rounds--) {
		for (unsigned i = 0; i < sizeof(data); i++)
			c = table[(c ^ data[i]) & 255] ^ c >> 8;
	}
	sink += c;
}

/* ---- floating point ---- */

static void matrix(unsigned rounds)
{
	static double a[64][64], b[64][64], c[64][64];

	for (unsigned i = 0; i < 64; i++) {
		for (unsigned k = 0; k < 64; k++)
			a[i][k] = i + k, b[i][k] = i * 0.5 - k;
	}
	while (rounds--) {
		for (unsigned i = 0; i < 64; i++) {
			for (unsigned j = 0; j < 64; j++) {
				double s = 0;

				for (unsigned k = 0; k < 64; k++)
					s += a[i][k] * b[k][j];
				c[i][j] = s;
			}
		}
		a[1][2] = c[3][4] * 1e-9;
	}
	sink += (uint64_t)c[5][6];
}

__attribute__((target("avx2,fma"), optimize("O3,fast-math"))) static void vectors(unsigned rounds)
{
	static float x[4096], y[4096];

	while (rounds--) {
		for (unsigned i = 0; i < 4096; i++)
			y[i] = y[i] * 0.999f + x[i] * 1.5f + 1.0f;
	}
	sink += (uint64_t)y[7];
}

static void copy(unsigned rounds)
{
	static uint8_t from[65536], to[65536];

	while (rounds--) {
		memcpy(to, from, sizeof(to));
		__asm__ volatile("" : : "r"(to), "r"(from) : "memory");
	}
}

/* ---- the system ---- */

static void null_call(unsigned rounds) { while (rounds--) syscall(SYS_getppid); }

static void touch(unsigned rounds)
{
	while (rounds) {
		unsigned n = rounds < 1024 ? rounds : 1024;
		uint8_t *m = mmap(NULL, n * 4096ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (unsigned i = 0; i < n; i++)
			m[i * 4096ul] = 1;
		munmap(m, n * 4096ul);
		rounds -= n;
	}
}

static void fork_exit(unsigned rounds)
{
	while (rounds--) {
		pid_t p = fork();

		if (!p)
			_exit(0);
		waitpid(p, NULL, 0);
	}
}

static const char *self;
static void fork_exec(unsigned rounds)
{
	while (rounds--) {
		pid_t p = fork();

		if (!p) {
			execl(self, self, "nothing", (char *)NULL);
			_exit(1);
		}
		waitpid(p, NULL, 0);
	}
}

static void pipes(unsigned rounds)
{
	int a[2], b[2];
	char c = 0;
	pid_t p;

	if (pipe(a) || pipe(b))
		exit(1);
	p = fork();
	if (!p) {
		for (unsigned i = 0; i < rounds; i++) {
			if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	for (unsigned i = 0; i < rounds; i++) {
		if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1)
			exit(1);
	}
	waitpid(p, NULL, 0);
}

static void read_zero(unsigned rounds)
{
	static char buf[4096];
	int fd = open("/dev/zero", O_RDONLY);

	while (rounds--)
		sink += (uint64_t)read(fd, buf, sizeof(buf));
	close(fd);
}

static const struct {
	const char *name;
	void (*run)(unsigned rounds);
	unsigned rounds;
} tests[] = {
	{ "sha256", sha256, 20000 }, { "crc", crc, 3000 }, { "fib", run_fib, 400 }, { "qsort", run_qsort, 150 }, { "walk-256K", walk_small, 3000000 },
	{ "walk-64M", walk_large, 400000 }, { "bytecode", bytecode, 600000 }, { "matrix", matrix, 100 }, { "avx", vectors, 30000 },
	{ "memcpy-64K", copy, 10000 }, { "syscall", null_call, 200000 }, { "touch", touch, 16384 }, { "fork", fork_exit, 300 },
	{ "exec", fork_exec, 100 }, { "pipe", pipes, 10000 }, { "read-zero", read_zero, 100000 },
};

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		bool wanted = argc < 2;
		double best = 0;

		for (int k = 1; k < argc; k++)
			wanted |= !strcmp(argv[k], tests[i].name);
		if (!wanted)
			continue;
		for (unsigned r = 0; r < 3; r++) {
			double start = now(), took;

			tests[i].run(tests[i].rounds);
			took = (now() - start) / tests[i].rounds;
			if (!r || took < best)
				best = took;
		}
		printf("bench %s %.1f\n", tests[i].name, best);
		fflush(stdout);
	}
	return 0;
}
