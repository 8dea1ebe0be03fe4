/*
 * Random vector and x87 programs for vec_test: encodings, and registers and memory such that their operands lie where
 * the test watches.
 */
#ifndef TESTS_CPU_VEC_GEN_H
#define TESTS_CPU_VEC_GEN_H

#include <Zydis/Zydis.h>

#include "accel/interp/core.h"
#include "accel/interp/vec.h"
#include "oracle.h"

#define PROGRAM_MAX 6    /* instructions in a sequence */
#define MIDDLE 4096u     /* offset in the area where its two pages meet */
#define WINDOW 2048u     /* bytes around it that are watched */
#define TAIL 256u        /* and at the area's end */

struct step {
	struct insn in;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	unsigned at; /* offset in the code */
	uint64_t to; /* where the memory operand was placed */
};
struct program {
	struct step step[PROGRAM_MAX];
	unsigned count, length;
};
struct outcome {
	struct oracle_cpu cpu;
	uint8_t window[WINDOW], tail[TAIL];
};

extern struct oracle host;
extern struct icpu *cpu;
extern ZydisDecoder decoder;

/* Its state is enabled: XCR0 bits 5 to 7 (SDM 1, 13.3). The tests need a host with AVX, so there is XGETBV. */
static inline bool host_has_avx512(void)
{
	uint32_t low, high;

	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (low & 0xe0) == 0xe0;
}

/* One instruction, or several, placed in the host's code. */
void program_make(struct program *p);
/* Registers and the memory around the operands; false when no registers can make such a program's operands lie in
 * the area. Memory elsewhere keeps what fill_memory wrote. */
bool program_prepare(struct program *p, struct outcome *start);
void fill_memory(struct outcome *o);
/* 16 bytes that need not be an instruction. */
void random_encoding(uint8_t bytes[32]);
/* Whether it is an instruction that this test is about. */
bool wanted(const ZydisDecodedInstruction *zi);

bool is_xsave_family(const struct step *s);
bool is_fxsave(const struct step *s);
bool is_restore(const struct step *s);

#endif
