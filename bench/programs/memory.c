/*
 * libc's memcpy and memset in the sizes that programs use.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { BUFFER = 8 << 20 };

static uint8_t *from, *to;

static void buffers_prepare(void)
{
	from = aligned_alloc(4096, BUFFER);
	to = aligned_alloc(4096, BUFFER);
	if (!from || !to)
		bench_fail("memory");
	for (size_t i = 0; i < BUFFER; i++)
		from[i] = (uint8_t)(i * 11 + (i >> 8));
	memset(to, 1, BUFFER);
}

static uint64_t copy(uint64_t n, size_t size)
{
	uint64_t sum = 0;
	size_t span = size * 8 < BUFFER ? size * 8 : BUFFER;

	for (uint64_t i = 0; i < n; i++) {
		size_t at = i * size % span;

		memcpy(to + at, from + (span - size - at), size);
		sum += to[at + i % size];
	}
	return sum;
}

static uint64_t fill(uint64_t n, size_t size)
{
	uint64_t sum = 0;
	size_t span = size * 8 < BUFFER ? size * 8 : BUFFER;

	for (uint64_t i = 0; i < n; i++) {
		size_t at = i * size % span;

		memset(to + at, (int)(i & 0xff), size);
		sum += to[at + i % size];
	}
	return sum;
}

static uint64_t copy_64_run(uint64_t n) { return copy(n, 64); }
static uint64_t copy_4k_run(uint64_t n) { return copy(n, 4096); }
static uint64_t copy_1m_run(uint64_t n) { return copy(n, 1 << 20); }
static uint64_t fill_64_run(uint64_t n) { return fill(n, 64); }
static uint64_t fill_4k_run(uint64_t n) { return fill(n, 4096); }
static uint64_t fill_1m_run(uint64_t n) { return fill(n, 1 << 20); }

const struct bench_case memory_cases[] = {
	{ "memcpy-64", "copy", 0.08, buffers_prepare, copy_64_run },
	{ "memcpy-4k", "copy", 0.08, buffers_prepare, copy_4k_run },
	{ "memcpy-1m", "copy", 0.08, buffers_prepare, copy_1m_run },
	{ "memset-64", "fill", 0.08, buffers_prepare, fill_64_run },
	{ "memset-4k", "fill", 0.08, buffers_prepare, fill_4k_run },
	{ "memset-1m", "fill", 0.08, buffers_prepare, fill_1m_run },
	{ NULL },
};
