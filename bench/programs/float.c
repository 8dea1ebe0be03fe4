/*
 * Floating-point and vector cases. Only operations with one right answer are used (no libm), so that
 * the checksums of all machines agree to the last bit.
 */
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static uint64_t double_bits(double d)
{
	uint64_t bits;

	memcpy(&bits, &d, sizeof bits);
	return bits;
}

enum { MATRIX = 96 };

static uint64_t matmul_run(uint64_t n)
{
	static double a[MATRIX][MATRIX], b[MATRIX][MATRIX], c[MATRIX][MATRIX];
	uint64_t seed = 5, sum = 0;

	for (int i = 0; i < MATRIX; i++)
		for (int j = 0; j < MATRIX; j++) {
			a[i][j] = (double)(random_next(&seed) >> 40) / 16777216 - 0.5;
			b[i][j] = (double)(random_next(&seed) >> 40) / 16777216 - 0.5;
		}
	for (uint64_t round = 0; round < n; round++) {
		for (int i = 0; i < MATRIX; i++)
			for (int j = 0; j < MATRIX; j++) {
				double dot = 0;

				for (int k = 0; k < MATRIX; k++)
					dot += a[i][k] * b[k][j];
				c[i][j] = dot;
			}
		a[round % MATRIX][0] = c[0][round % MATRIX] / 8;
		sum = mix(sum, double_bits(c[round % MATRIX][17]));
	}
	return sum;
}

enum { FFT_BITS = 12, FFT_SIZE = 1 << FFT_BITS };

struct complex {
	double re, im;
};

/* Roots of unity by halving angles: only square roots and products. */
static void fft_roots(struct complex roots[FFT_BITS])
{
	roots[0] = (struct complex){ -1, 0 };
	roots[1] = (struct complex){ 0, -1 };
	for (int i = 2; i < FFT_BITS; i++) {
		double re = sqrt((1 + roots[i - 1].re) / 2);

		roots[i] = (struct complex){ re, roots[i - 1].im / (2 * re) };
	}
}

static void fft(struct complex *x, const struct complex roots[FFT_BITS])
{
	for (size_t i = 1, j = 0; i < FFT_SIZE; i++) {
		size_t bit = FFT_SIZE >> 1;

		for (; j & bit; bit >>= 1)
			j ^= bit;
		j ^= bit;
		if (i < j) {
			struct complex t = x[i];
			x[i] = x[j];
			x[j] = t;
		}
	}
	for (int level = 0; level < FFT_BITS; level++) {
		size_t half = (size_t)1 << level;

		for (size_t start = 0; start < FFT_SIZE; start += 2 * half) {
			struct complex w = { 1, 0 };

			for (size_t k = start; k < start + half; k++) {
				struct complex *p = &x[k], *q = &x[k + half];
				struct complex t = { q->re * w.re - q->im * w.im, q->re * w.im + q->im * w.re };

				*q = (struct complex){ p->re - t.re, p->im - t.im };
				*p = (struct complex){ p->re + t.re, p->im + t.im };
				w = (struct complex){ w.re * roots[level].re - w.im * roots[level].im,
						      w.re * roots[level].im + w.im * roots[level].re };
			}
		}
	}
}

static uint64_t fft_run(uint64_t n)
{
	static struct complex x[FFT_SIZE];
	struct complex roots[FFT_BITS];
	uint64_t seed = 6, sum = 0;

	fft_roots(roots);
	for (uint64_t round = 0; round < n; round++) {
		for (size_t i = 0; i < FFT_SIZE; i++)
			x[i] = (struct complex){ (double)(random_next(&seed) >> 40), 0 };
		fft(x, roots);
		sum = mix(sum, double_bits(x[round % FFT_SIZE].re));
	}
	return sum;
}

/* Scalar double with a data-dependent end of each loop. */
static uint64_t mandelbrot_run(uint64_t n)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++) {
		double cr = (double)(i % 97) / 40 - 2, ci = (double)(i % 89) / 40 - 1.1, zr = 0, zi = 0;
		int step = 0;

		for (; step < 100 && zr * zr + zi * zi < 4; step++) {
			double next = zr * zr - zi * zi + cr;

			zi = 2 * zr * zi + ci;
			zr = next;
		}
		sum += (uint64_t)step;
	}
	return sum;
}

/* Square roots and divisions: bodies that attract each other. */
static uint64_t nbody_run(uint64_t n)
{
	double p[5][3], v[5][3] = { 0 };

	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 3; k++)
			p[i][k] = (i * 7 + k * 3) % 11 - 5 + 0.25 * i;
	for (uint64_t round = 0; round < n; round++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d[3], square = 0.01;

				for (int k = 0; k < 3; k++) {
					d[k] = p[i][k] - p[j][k];
					square += d[k] * d[k];
				}
				double pull = 0.001 / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					v[i][k] -= d[k] * pull;
					v[j][k] += d[k] * pull;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				p[i][k] += 0.001 * v[i][k];
	}
	return double_bits(p[0][0]) ^ double_bits(p[4][2]);
}

/* Old-style x87 arithmetic. */
static uint64_t x87_run(uint64_t n)
{
	volatile long double step = 1.0L / 3;
	long double x = 1, y = 2;

	for (uint64_t i = 0; i < n; i++) {
		x = x * 0.9999L + step;
		y = y / 1.0001L + x;
	}
	return double_bits((double)x) ^ double_bits((double)y);
}

/* Distances, 8 floats at a time, in L1; y swings around x, so that no number ever gets denormal. */
__attribute__((target("avx2,fma"))) static uint64_t avx_float_loop(uint64_t n)
{
	static _Alignas(32) float x[2048], y[2048];
	__m256 sum = _mm256_setzero_ps(), scale = _mm256_set1_ps(0.999f);
	float parts[8];
	uint64_t result = 0;

	for (int i = 0; i < 2048; i++) {
		x[i] = (float)(i % 61) / 64;
		y[i] = (float)(i % 67) / 64;
	}
	for (uint64_t round = 0; round < n; round++)
		for (int i = 0; i < 2048; i += 8) {
			__m256 a = _mm256_load_ps(x + i), b = _mm256_load_ps(y + i);
			__m256 d = _mm256_sub_ps(a, b);

			sum = _mm256_fmadd_ps(d, d, sum);
			sum = _mm256_mul_ps(sum, scale);
			_mm256_store_ps(y + i, _mm256_add_ps(a, d));
		}
	_mm256_storeu_ps(parts, sum);
	for (int i = 0; i < 8; i++)
		result = mix(result, double_bits((double)parts[i]));
	return result;
}

/* Integer vectors: sums of absolute differences and shuffles over bytes. */
__attribute__((target("avx2"))) static uint64_t avx_int_loop(uint64_t n)
{
	static _Alignas(32) uint8_t x[8192], y[8192];
	const __m256i reverse = _mm256_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8,
						9, 10, 11, 12, 13, 14, 15);
	__m256i sum = _mm256_setzero_si256();
	uint64_t parts[4];

	for (int i = 0; i < 8192; i++) {
		x[i] = (uint8_t)(i * 7);
		y[i] = (uint8_t)(i * 13);
	}
	for (uint64_t round = 0; round < n; round++)
		for (int i = 0; i < 8192; i += 32) {
			__m256i a = _mm256_load_si256((__m256i *)(x + i)), b = _mm256_load_si256((__m256i *)(y + i));

			sum = _mm256_add_epi64(sum, _mm256_sad_epu8(a, b));
			_mm256_store_si256((__m256i *)(y + i), _mm256_add_epi8(_mm256_shuffle_epi8(b, reverse), a));
		}
	_mm256_storeu_si256((__m256i *)parts, sum);
	return parts[0] + parts[1] + parts[2] + parts[3];
}

static void avx_prepare(void)
{
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
		exit(BENCH_UNSUPPORTED);
}

const struct bench_case float_cases[] = {
	{ "matmul", "product of 96 x 96", 0.08, NULL, matmul_run },
	{ "fft", "4096 points", 0.08, NULL, fft_run },
	{ "mandelbrot", "point", 0.08, NULL, mandelbrot_run },
	{ "nbody", "step of 5 bodies", 0.08, NULL, nbody_run },
	{ "x87", "iteration", 0.05, NULL, x87_run },
	{ "avx-float", "2048 floats", 0.04, avx_prepare, avx_float_loop },
	{ "avx-int", "8192 bytes", 0.04, avx_prepare, avx_int_loop },
	{ NULL },
};
