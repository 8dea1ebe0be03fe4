/* Operand sizes and roles of x87, MMX, SSE and AVX instructions. Each takes an instruction with its opcode and ModRM read. */
#ifndef ACCEL_BT_GUEST_SIMD_H
#define ACCEL_BT_GUEST_SIMD_H

#include "accel/bt/guest.h"

/* Whether an opcode of the 0F map belongs here. */
bool guest_is_simd(uint8_t op);
void guest_simd(struct guest_insn *g);       /* 0F map, legacy encoding */
void guest_three_byte(struct guest_insn *g); /* 0F38 and 0F3A, legacy encoding */
void guest_vex(struct guest_insn *g);
void guest_x87(struct guest_insn *g);

#endif
