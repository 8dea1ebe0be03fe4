/*
 * The host CPU as the oracle: random instructions run natively in a thunk in the low 2 GiB (so that it can
 * reach its data without a register), with all registers set and read back, faults included.
 */
#ifndef TESTS_CPU_ORACLE_H
#define TESTS_CPU_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

#define ORACLE_AREA 8192u   /* the memory operands' playground, followed by a page without access */
#define ORACLE_PAGES 16u    /* of the whole mapping; it does not cross a 2 MiB boundary */
#define ORACLE_CODE 1024u   /* bytes of instructions under test */

/* Registers before, and after or at the fault. The XSAVE image (standard form) is used when the oracle was set up for
 * it; afterwards all components are there, whatever its header says. */
struct oracle_cpu {
	uint8_t xstate[832] __attribute__((aligned(64)));
	uint64_t gpr[16], flags;
	uint64_t rip;      /* at a fault */
	int fault;         /* vector, or -1 */
	uint32_t error;    /* #PF: the error code */
	uint64_t cr2;      /* #PF */
	unsigned exit;     /* which exit was reached, see oracle_end */
};

struct oracle {
	uint8_t *base;     /* of the mapping */
	uint8_t *area;     /* ORACLE_AREA bytes, page-aligned */
	uint8_t *spare;    /* 4 zeroed pages for the test's own use */
	uint8_t *code;     /* where the instructions under test go */
};

/* Maps the memory and builds the thunk. False, with errno, when that fails. */
bool oracle_init(struct oracle *o, bool vector);
/* Writes jumps to the thunk's two exits (0, then 1) at `at` in the code. Five bytes each. */
void oracle_end(struct oracle *o, unsigned at);
/* Runs the code from its start. Signals that are not the code's own go to the handlers found at oracle_init. */
void oracle_run(struct oracle *o, struct oracle_cpu *cpu);

void oracle_seed(uint64_t seed);
uint64_t rnd(void);
unsigned pick(unsigned n);
/* Edge values are as likely as random ones. */
uint64_t operand(void);

#endif
