/*
 * Integer cases: loops, hashes, pointer walks, an interpreter, recursion, indirect calls, sorting.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* Data-dependent branches and short dependencies: the longest of many "3n+1" sequences. */
static uint64_t collatz_run(uint64_t n)
{
	uint64_t longest = 0;

	for (uint64_t start = 1; start <= n; start++) {
		uint64_t steps = 0;

		for (uint64_t x = start % 100000 + 1; x != 1; steps++)
			x = x & 1 ? 3 * x + 1 : x / 2;
		longest = steps > longest ? steps : longest;
	}
	return longest;
}

/* Arithmetic without memory: multiplications, rotations, shifts, one division. */
static uint64_t arith_run(uint64_t n)
{
	uint64_t a = 1, b = 2, c = 3;

	for (uint64_t i = 0; i < n; i++) {
		a = a * 6364136223846793005u + 1442695040888963407u;
		b ^= a >> 33;
		b = b << 13 | b >> 51;
		c += b / ((a & 0xffff) | 1);
	}
	return a ^ b ^ c;
}

/* Bytes and bits of an array: the sieve of Eratosthenes up to 64 Ki. */
static uint64_t sieve_run(uint64_t n)
{
	static uint8_t composite[65536];
	uint64_t primes = 0;

	for (uint64_t round = 0; round < n; round++) {
		memset(composite, 0, sizeof composite);
		for (size_t i = 2; i < sizeof composite; i++) {
			if (composite[i])
				continue;
			primes++;
			for (size_t j = 2 * i; j < sizeof composite; j += i)
				composite[j] = 1;
		}
	}
	return primes;
}

/* FIPS 180-4. */
static const uint32_t sha256_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t state[8], const uint8_t data[64])
{
	uint32_t w[64], v[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16 | (uint32_t)data[4 * i + 2] << 8
		       | data[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	memcpy(v, state, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t s1 = rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
		uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha256_k[i] + w[i];
		uint32_t s0 = rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
		uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof *v);
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += v[i];
}

static uint64_t sha256_run(uint64_t n)
{
	uint32_t state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	uint8_t data[64] = "abc";

	/* One block alone is the standard's own example: its digest starts with ba7816bf 8f01cfea. */
	data[3] = 0x80;
	data[63] = 24;
	for (uint64_t i = 0; i < n; i++) {
		sha256_block(state, data);
		data[i & 31] ^= (uint8_t)state[0];
	}
	return (uint64_t)state[0] << 32 | state[1];
}

static uint64_t crc32_run(uint64_t n)
{
	static uint32_t table[256];
	static uint8_t data[65536];
	uint64_t seed = 7;
	uint32_t crc = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
		table[i] = c;
	}
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)random_next(&seed);
	for (uint64_t done = 0; done < n; done++)
		for (size_t i = 0; i < 1024; i++)
			crc = crc >> 8 ^ table[(crc ^ data[(done * 1024 + i) % sizeof data]) & 0xff];
	return ~crc;
}

/* Walks: a single cycle through all elements in random order (Sattolo's shuffle), one cache line each. */
struct node {
	uint32_t next, key;
	uint64_t value[7];
};

static struct node *nodes;
static size_t node_count;

static void walk_prepare(size_t bytes)
{
	uint64_t seed = 88172645463325252u;

	node_count = bytes / sizeof *nodes;
	nodes = aligned_alloc(4096, node_count * sizeof *nodes);
	if (!nodes)
		bench_fail("memory");
	for (size_t i = 0; i < node_count; i++)
		nodes[i] = (struct node){ .next = (uint32_t)i, .key = (uint32_t)random_next(&seed) };
	for (size_t i = node_count - 1; i > 0; i--) {
		size_t j = random_next(&seed) % i;
		uint32_t other = nodes[i].next;

		nodes[i].next = nodes[j].next;
		nodes[j].next = other;
	}
}

static void list_l2_prepare(void)
{
	walk_prepare(256 << 10);
}

static void list_64m_prepare(void)
{
	walk_prepare(64 << 20);
}

static uint64_t list_run(uint64_t n)
{
	uint64_t sum = 0;
	uint32_t at = 0;

	for (uint64_t i = 0; i < n; i++) {
		sum += nodes[at].key;
		at = nodes[at].next;
	}
	return sum;
}

/* Hash tables: independent look-ups, so that misses overlap, and an update of each entry found. */
static uint64_t hash_run(uint64_t n)
{
	uint64_t sum = 0, key = 1;

	for (uint64_t i = 0; i < n; i++) {
		key = key * 6364136223846793005u + 1442695040888963407u;
		struct node *found = &nodes[(key >> 32) % node_count];
		found->value[key >> 61 & 3] += key;
		sum += found->value[0] ^ found->key;
	}
	return sum;
}

/* A byte-code machine with threaded dispatch; its program counts primes by trial division. */
enum opcode { OP_SET, OP_MOVE, OP_ADD, OP_MUL, OP_MOD, OP_JUMP_ZERO, OP_JUMP_LESS, OP_JUMP, OP_END };

static uint64_t bytecode_run(uint64_t n)
{
	struct step {
		uint8_t op, a, b, target;
	};
	/* r0 limit, r1 candidate, r2 divisor, r3 scratch, r4 primes, r5 one; targets are indices */
	static const struct step program[] = {
		{ OP_SET, 5, 1, 0 }, { OP_SET, 1, 2, 0 },
		{ OP_SET, 2, 2, 0 },				/* 2 */
		{ OP_MOVE, 3, 2, 0 }, { OP_MUL, 3, 2, 0 },	/* 3 */
		{ OP_JUMP_LESS, 1, 3, 10 },
		{ OP_MOVE, 3, 1, 0 }, { OP_MOD, 3, 2, 0 }, { OP_JUMP_ZERO, 3, 0, 11 },
		{ OP_JUMP, 0, 0, 14 },
		{ OP_ADD, 4, 5, 0 },				/* 10 */
		{ OP_ADD, 1, 5, 0 },				/* 11 */
		{ OP_JUMP_LESS, 1, 0, 2 }, { OP_END, 0, 0, 0 },
		{ OP_ADD, 2, 5, 0 }, { OP_JUMP, 0, 0, 3 },	/* 14 */
	};
	static const void *const handlers[] = { &&set, &&move, &&add, &&mul, &&mod, &&jump_zero, &&jump_less, &&jump, &&end };
	uint64_t r[8] = { n };
	const struct step *pc = program;
	#define NEXT goto *handlers[pc->op]

	NEXT;
set:	r[pc->a] = pc->b; pc++; NEXT;
move:	r[pc->a] = r[pc->b]; pc++; NEXT;
add:	r[pc->a] += r[pc->b]; pc++; NEXT;
mul:	r[pc->a] *= r[pc->b]; pc++; NEXT;
mod:	r[pc->a] %= r[pc->b]; pc++; NEXT;
jump_zero: pc = r[pc->a] ? pc + 1 : program + pc->target; NEXT;
jump_less: pc = r[pc->a] < r[pc->b] ? program + pc->target : pc + 1; NEXT;
jump:	pc = program + pc->target; NEXT;
end:
	return r[4];
}

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t fib_run(uint64_t n)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += fib(16 + (i & 7));
	return sum;
}

/* Objects of four classes in random order, called through their tables. */
struct shape;

struct shape_class {
	uint64_t (*area)(const struct shape *);
	void (*grow)(struct shape *);
};

struct shape {
	const struct shape_class *class;
	uint64_t a, b;
};

static uint64_t square_area(const struct shape *s) { return s->a * s->a; }
static uint64_t box_area(const struct shape *s) { return s->a * s->b; }
static uint64_t triangle_area(const struct shape *s) { return s->a * s->b / 2; }
static uint64_t ring_area(const struct shape *s) { return s->a * s->a - s->b * s->b; }
static void grow_a(struct shape *s) { s->a++; }
static void grow_b(struct shape *s) { s->b++; }
static void grow_both(struct shape *s) { s->a++; s->b++; }

static const struct shape_class shape_classes[4] = {
	{ square_area, grow_a }, { box_area, grow_b }, { triangle_area, grow_both }, { ring_area, grow_a },
};

static uint64_t vcall_run(uint64_t n)
{
	static struct shape shapes[256];
	uint64_t seed = 99, sum = 0;

	for (size_t i = 0; i < 256; i++)
		shapes[i] = (struct shape){ &shape_classes[random_next(&seed) >> 62], i + 2, i + 1 };
	for (uint64_t i = 0; i < n; i++) {
		struct shape *s = &shapes[i & 255];

		sum += s->class->area(s);
		s->class->grow(s);
	}
	return sum;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t qsort_run(uint64_t n)
{
	static uint32_t data[16384];
	uint64_t seed = 4711, sum = 0;

	for (uint64_t round = 0; round < n; round++) {
		for (size_t i = 0; i < 16384; i++)
			data[i] = (uint32_t)random_next(&seed);
		qsort(data, 16384, sizeof *data, compare);
		for (size_t i = 0; i < 16384; i += 997)
			sum = mix(sum, data[i]);
	}
	return sum;
}

/* libc's string functions on short strings. */
static uint64_t strings_run(uint64_t n)
{
	char text[256], word[32];
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof text - 1; i++)
		text[i] = (char)('a' + i * 7 % 26);
	text[sizeof text - 1] = 0;
	for (uint64_t i = 0; i < n; i++) {
		size_t at = i * 31 % 200;

		memcpy(word, text + at, 12);
		word[12] = 0;
		sum += strlen(text + at) + (uint64_t)(strstr(text, word) - text) + (uint64_t)(strchr(word, text[at + 11]) - word);
		sum += (uint64_t)(strcmp(text + at, word) > 0);
	}
	return sum;
}

const struct bench_case integer_cases[] = {
	{ "collatz", "sequence", 0.1, NULL, collatz_run },
	{ "arith", "iteration", 0.1, NULL, arith_run },
	{ "sieve", "sieve of 64 Ki", 0.1, NULL, sieve_run },
	{ "sha256", "64-byte block", 0.15, NULL, sha256_run },
	{ "crc32", "KiB", 0.1, NULL, crc32_run },
	{ "list-l2", "step", 0.1, list_l2_prepare, list_run },
	{ "list-64m", "step", 0.3, list_64m_prepare, list_run },
	{ "hash-l2", "look-up", 0.1, list_l2_prepare, hash_run },
	{ "hash-64m", "look-up", 0.2, list_64m_prepare, hash_run },
	{ "bytecode", "number tested", 0.15, NULL, bytecode_run },
	{ "fib", "fib(16..23)", 0.15, NULL, fib_run },
	{ "vcall", "two virtual calls", 0.1, NULL, vcall_run },
	{ "qsort", "16384 numbers", 0.15, NULL, qsort_run },
	{ "strings", "round of str*", 0.1, NULL, strings_run },
	{ NULL },
};
