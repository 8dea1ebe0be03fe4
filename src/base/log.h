/*
 * Debug messages and traces by category. Guest mistakes and device chatter go here, never to
 * the user's terminal unless asked for with --trace. The sink is set once, at start-up.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdio.h>

enum trace_kind {
	TRACE_EXEC = 1 << 0, /* each instruction (interp) or block (bt) */
	TRACE_INT = 1 << 1,  /* interrupts and exceptions delivered */
	TRACE_IO = 1 << 2,   /* port accesses */
	TRACE_MMIO = 1 << 3, /* MMIO accesses */
	TRACE_IRQ = 1 << 4,  /* interrupt lines and controllers */
	TRACE_CPU = 1 << 5,  /* register state at each exec event */
	TRACE_BT = 1 << 6,   /* translated blocks */
	TRACE_DEV = 1 << 7,  /* guest mistakes and odd use of devices */
};

/* Parses "exec,int,irq" into a mask. Returns -EINVAL for an unknown word (outputs untouched). */
int trace_parse(const char *list, unsigned *mask);
void trace_open(unsigned mask, FILE *sink);
unsigned trace_mask(void);
static inline bool trace_on(enum trace_kind kind);
void trace_printf(enum trace_kind kind, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

extern unsigned trace_enabled_mask; /* written only by trace_open, before any vCPU runs */
static inline bool trace_on(enum trace_kind kind) { return __builtin_expect(trace_enabled_mask & kind, 0); }

#define trace(kind, ...) do { if (trace_on(kind)) trace_printf(kind, __VA_ARGS__); } while (0)

#endif
