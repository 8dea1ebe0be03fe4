/* Unaligned little- and big-endian access, bit helpers and overflow-checked sizes. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline uint16_t ld16le(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t ld32le(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t ld64le(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void st16le(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void st32le(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void st64le(void *p, uint64_t v) { memcpy(p, &v, 8); }
static inline uint16_t ld16be(const void *p) { return __builtin_bswap16(ld16le(p)); }
static inline uint32_t ld32be(const void *p) { return __builtin_bswap32(ld32le(p)); }
static inline uint64_t ld64be(const void *p) { return __builtin_bswap64(ld64le(p)); }
static inline void st16be(void *p, uint16_t v) { st16le(p, __builtin_bswap16(v)); }
static inline void st32be(void *p, uint32_t v) { st32le(p, __builtin_bswap32(v)); }
static inline void st64be(void *p, uint64_t v) { st64le(p, __builtin_bswap64(v)); }

/* The low `len` bytes (1, 2, 4 or 8) at p as a little-endian number, and back. */
static inline uint64_t ld_le(const void *p, unsigned len) { uint64_t v = 0; memcpy(&v, p, len <= 8 ? len : 8); return v; }
static inline void st_le(void *p, unsigned len, uint64_t v) { memcpy(p, &v, len <= 8 ? len : 8); }

/* All ones in the low `len` bytes. */
static inline uint64_t mask_bytes(unsigned len) { return len >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * len)) - 1; }

/* True and *sum set unless a + b overflows. */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum) { return !__builtin_add_overflow(a, b, sum); }
static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product) { return !__builtin_mul_overflow(a, b, product); }

#endif
