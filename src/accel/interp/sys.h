/* What the system family's files share: descriptors, control transfers, task switches. */
#ifndef ACCEL_INTERP_SYS_H
#define ACCEL_INTERP_SYS_H

#include "accel/interp/cpu.h"

typedef bool sys_bind_fn(struct icpu *cpu, struct insn *in, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops);
sys_bind_fn sys_segment_bind, sys_far_bind, sys_call_bind, sys_control_bind, sys_flags_bind, sys_msr_bind, sys_io_bind,
	sys_table_bind;

/* A descriptor as read from the GDT or LDT (SDM 3A 3.4.5). */
struct descriptor {
	uint64_t address; /* linear, for the accessed and busy bits */
	uint32_t low, high;
	uint64_t base;
	uint32_t limit;  /* scaled */
	uint16_t attr;   /* as in struct x86_segment */
};
#define DESC_TYPE(d) ((d)->attr & SEG_ATTR_TYPE)
#define DESC_DPL(d) SEG_ATTR_DPL((d)->attr)
static inline bool desc_system(const struct descriptor *d) { return !(d->attr & SEG_ATTR_S); }
static inline bool desc_present(const struct descriptor *d) { return d->attr & SEG_ATTR_P; }
static inline bool desc_code(const struct descriptor *d) { return (d->attr & SEG_ATTR_S) && (d->attr & 8); }
static inline bool desc_conforming(const struct descriptor *d) { return desc_code(d) && (d->attr & 4); }
static inline bool desc_writable_data(const struct descriptor *d) { return (d->attr & (SEG_ATTR_S | 0xa)) == (SEG_ATTR_S | 2); }

enum system_type {
	SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK_GATE = 5, SYS_INT16 = 6, SYS_TRAP16 = 7,
	SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15,
};

/* Its address alone; false when the selector lies outside of its table. */
bool desc_find(const struct icpu *cpu, uint16_t selector, struct descriptor *d);
/* The rest, from its eight bytes. */
void desc_parse(struct descriptor *d, uint64_t raw);
/* Reads it; false when the selector lies outside of its table. Null is the caller's business. */
bool desc_read(struct icpu *cpu, uint16_t selector, struct descriptor *d);
/* The upper half of a 16-byte system descriptor's base (long mode). */
uint64_t desc_base_high(struct icpu *cpu, const struct descriptor *d);
void desc_set_accessed(struct icpu *cpu, struct descriptor *d);
void desc_to_segment(const struct descriptor *d, uint16_t selector, struct x86_segment *s);

static inline bool in_protected_mode(const struct icpu *cpu)
{
	return (cpu->s.cr0 & CR0_PE) && !(cpu->s.rflags & RFLAGS_VM);
}
static inline bool in_v8086(const struct icpu *cpu) { return cpu->s.rflags & RFLAGS_VM; }
static inline unsigned cpu_iopl(const struct icpu *cpu) { return (unsigned)(cpu->s.rflags >> 12) & 3; }
static inline bool is_canonical(uint64_t v) { return (uint64_t)((int64_t)(v << 16) >> 16) == v; }
_Noreturn static inline void raise_gp(struct icpu *cpu, uint32_t error) { cpu_raise_error(cpu, EXC_GP, error); }
/* Error codes name a selector without its RPL. */
_Noreturn static inline void raise_selector(struct icpu *cpu, enum x86_vector v, uint16_t selector)
{
	cpu_raise_error(cpu, v, selector & 0xfffcu);
}
static inline void require_cpl0(struct icpu *cpu)
{
	if (cpu->cpl)
		raise_gp(cpu, 0);
}

/* The stack that a transfer to privilege `dpl` uses, from the TSS (SDM 3A 6.8, 7.2); faults are #TS. */
struct new_stack {
	struct x86_segment ss;
	uint64_t sp;
	bool user, inner; /* inner: not the current one */
};
void stack_from_tss(struct icpu *cpu, unsigned dpl, struct new_stack *out);
/* Pushes onto a stack that is not the current one yet. */
void new_stack_push(struct icpu *cpu, struct new_stack *st, unsigned len, uint64_t value);
/* Writes sp into RSP by the width of the segment it belongs to. */
void set_stack_pointer(struct icpu *cpu, uint64_t sp);

/* A real-mode or v8086 segment: base = selector << 4, 64 KiB. */
void segment_set_real(struct x86_segment *s, uint16_t selector, bool v8086);
/* What SYSCALL and its kin load without looking into a table. */
#define FLAT_DATA (SEG_ATTR_P | SEG_ATTR_S | 3 | SEG_ATTR_DB | SEG_ATTR_G)
#define FLAT_CODE32 (SEG_ATTR_P | SEG_ATTR_S | 0xb | SEG_ATTR_DB | SEG_ATTR_G)
#define FLAT_CODE64 (SEG_ATTR_P | SEG_ATTR_S | 0xb | SEG_ATTR_L | SEG_ATTR_G)
static inline struct x86_segment segment_flat(uint16_t selector, uint16_t attr)
{
	return (struct x86_segment){ .base = 0, .limit = 0xffffffff, .selector = selector, .attr = attr };
}
/* Checks an offset as the new instruction pointer for a code segment: #GP(0). */
void check_new_rip(struct icpu *cpu, const struct x86_segment *cs, uint64_t rip);
/* Takes over a code segment and all that hangs on it. */
void set_cs(struct icpu *cpu, const struct x86_segment *cs, unsigned cpl, uint64_t rip);

enum task_source { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* Hardware task switch (SDM 3A 7.3). The outgoing task resumes at `resume_rip`. Sets rip; the caller leaves. */
void task_switch(struct icpu *cpu, uint16_t selector, enum task_source source, uint64_t resume_rip, bool has_error,
		 uint32_t error);

/* The flags that SYSRET loads from R11. */
#define SYSRET_FLAGS UINT64_C(0x3c7fd7)
/* The flags that IRET changes in 64-bit and 32-bit code of ring 0. */
#define IRET_FLAGS_USER (RFLAGS_STATUS | RFLAGS_RF | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID)
#define IRET_FLAGS_SYSTEM (IRET_FLAGS_USER | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_VIF | RFLAGS_VIP)

/* Leaves the handler with a software interrupt to deliver. */
_Noreturn void raise_soft(struct icpu *cpu, uint8_t vector);

#endif
