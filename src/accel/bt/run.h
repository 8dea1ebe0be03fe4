/* Between translated code, the interpreter and the run loop. */
#ifndef ACCEL_BT_RUN_H
#define ACCEL_BT_RUN_H

#include "accel/bt/bt.h"
#include "accel/interp/flags.h"

/* While translated code runs: all of RFLAGS, from the image and the register in memory, and back. */
static inline uint64_t bt_flags(const struct bt_cpu *b) { return flags_merge(b->cpu.s.rflags, b->flags); }
static inline void bt_flags_set(struct bt_cpu *b, uint64_t v)
{
	b->flags = flags_ax(v);
	b->cpu.s.rflags = (v & ~(uint64_t)(RFLAGS_STATUS | RFLAGS_RF)) | 2;
}
/* Whether something waits that is to be taken now. */
static inline bool bt_interrupted(const struct bt_cpu *b)
{
	uint32_t irq = atomic_load_explicit(&b->cpu.irq, memory_order_relaxed);

	return irq && (irq != VCPU_INTR || (b->cpu.s.rflags & RFLAGS_IF));
}
static inline uint64_t bt_rip_of(const struct bt_cpu *b, const struct bt_rec *rec)
{
	uint64_t rip = bt_rec_block(b, rec)->lin + rec->guest;

	return b->cpu.code_bits == 64 ? rip : (uint32_t)rip;
}

/* Lets the interpreter do the record's instructions; where to go on, as the stubs' helpers. */
uint8_t *bt_interp_rec(struct bt_cpu *b, struct bt_rec *rec);
/* Delivers the page fault of the record's access at lin; where to go on. */
uint8_t *bt_page_fault(struct bt_cpu *b, struct bt_rec *rec, uint64_t lin, uint32_t error);
/* Translated code at cs:rip; NULL when there is none. */
uint8_t *bt_find_code(struct bt_cpu *b);
/* Where to go on at cs:rip; NULL to leave translated code. */
uint8_t *bt_continue(struct bt_cpu *b);
/* Translates at cs:rip; NULL when it is not code for us. */
struct bt_block *bt_make(struct bt_cpu *b);

#endif
