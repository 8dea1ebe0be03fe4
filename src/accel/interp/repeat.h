/* The host's own repeated string instructions, for runs upwards within what has been checked. No vector registers. */
#ifndef ACCEL_INTERP_REPEAT_H
#define ACCEL_INTERP_REPEAT_H

#include <stdbool.h>
#include <stdint.h>

/* n elements of 1, 2, 4 or 8 bytes from s to d, lowest first, as they overlap. */
static inline void host_movs(void *d, const void *s, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
	case 2: __asm__ volatile("rep movsw" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
	case 4: __asm__ volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
	default: __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
	}
}

/* n elements of v. */
static inline void host_stos(void *d, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
	}
}

/*
 * REPE or REPNE CMPS and SCAS of at most n elements, n not 0; how many were compared. *ax gets the flags of the last
 * one as LAHF and SETO AL leave them.
 */
#define HOST_COMPARE(insn)                                                                             \
	static inline uint64_t host_##insn(const void *s, const void *d, uint64_t n, bool unequal, uint32_t *ax) \
	{                                                                                                  \
		uint64_t left = n;                                                                         \
		if (unequal)                                                                               \
			__asm__ volatile("repne " #insn "\n\tlahf\n\tseto %%al" : "+S"(s), "+D"(d), "+c"(left), "=a"(*ax) : : "memory", "cc"); \
		else                                                                                       \
			__asm__ volatile("repe " #insn "\n\tlahf\n\tseto %%al" : "+S"(s), "+D"(d), "+c"(left), "=a"(*ax) : : "memory", "cc"); \
		return n - left;                                                                           \
	}
#define HOST_SCAN(insn)                                                                                \
	static inline uint64_t host_##insn(uint64_t v, const void *d, uint64_t n, bool unequal, uint32_t *ax) \
	{                                                                                                  \
		uint64_t left = n;                                                                         \
		if (unequal)                                                                               \
			__asm__ volatile("repne " #insn "\n\tlahf\n\tseto %%al" : "+D"(d), "+c"(left), "+a"(v) : : "memory", "cc"); \
		else                                                                                       \
			__asm__ volatile("repe " #insn "\n\tlahf\n\tseto %%al" : "+D"(d), "+c"(left), "+a"(v) : : "memory", "cc"); \
		*ax = (uint32_t)v;                                                                         \
		return n - left;                                                                           \
	}
HOST_COMPARE(cmpsb)
HOST_COMPARE(cmpsw)
HOST_COMPARE(cmpsl)
HOST_COMPARE(cmpsq)
HOST_SCAN(scasb)
HOST_SCAN(scasw)
HOST_SCAN(scasl)
HOST_SCAN(scasq)

static inline uint64_t host_cmps(const void *s, const void *d, uint64_t n, unsigned size, bool unequal, uint32_t *ax)
{
	switch (size) {
	case 1: return host_cmpsb(s, d, n, unequal, ax);
	case 2: return host_cmpsw(s, d, n, unequal, ax);
	case 4: return host_cmpsl(s, d, n, unequal, ax);
	default: return host_cmpsq(s, d, n, unequal, ax);
	}
}

static inline uint64_t host_scas(uint64_t v, const void *d, uint64_t n, unsigned size, bool unequal, uint32_t *ax)
{
	switch (size) {
	case 1: return host_scasb(v, d, n, unequal, ax);
	case 2: return host_scasw(v, d, n, unequal, ax);
	case 4: return host_scasl(v, d, n, unequal, ax);
	default: return host_scasq(v, d, n, unequal, ax);
	}
}

#endif
