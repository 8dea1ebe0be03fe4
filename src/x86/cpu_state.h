/*
 * The architectural state of one x86-64 logical processor, complete: registers cross between
 * engines, snapshots and the monitor only as this whole. Intel SDM volume 3.
 */
#ifndef X86_CPU_STATE_H
#define X86_CPU_STATE_H

#include <stdbool.h>
#include <stdint.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum x86_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* A segment register with its hidden part. attr holds the access bits of the descriptor's high
 * doubleword: type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11 (the limit bits are squeezed out),
 * and SEG_UNUSABLE. limit is in bytes, already scaled by G. */
struct x86_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint16_t attr;
};
#define SEG_ATTR_TYPE 0x000f
#define SEG_ATTR_S 0x0010
#define SEG_ATTR_DPL(a) (((a) >> 5) & 3)
#define SEG_ATTR_P 0x0080
#define SEG_ATTR_AVL 0x0100
#define SEG_ATTR_L 0x0200
#define SEG_ATTR_DB 0x0400
#define SEG_ATTR_G 0x0800
#define SEG_UNUSABLE 0x1000 /* null selector loaded */

struct x86_dtable {
	uint64_t base;
	uint16_t limit;
};

#define RFLAGS_CF 0x0001u
#define RFLAGS_PF 0x0004u
#define RFLAGS_AF 0x0010u
#define RFLAGS_ZF 0x0040u
#define RFLAGS_SF 0x0080u
#define RFLAGS_TF 0x0100u
#define RFLAGS_IF 0x0200u
#define RFLAGS_DF 0x0400u
#define RFLAGS_OF 0x0800u
#define RFLAGS_IOPL 0x3000u
#define RFLAGS_NT 0x4000u
#define RFLAGS_RF 0x10000u
#define RFLAGS_VM 0x20000u
#define RFLAGS_AC 0x40000u
#define RFLAGS_VIF 0x80000u
#define RFLAGS_VIP 0x100000u
#define RFLAGS_ID 0x200000u
#define RFLAGS_STATUS 0x08d5u /* CF PF AF ZF SF OF */

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_VME 0x1u
#define CR4_PVI 0x2u
#define CR4_TSD 0x4u
#define CR4_DE 0x8u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_MCE 0x40u
#define CR4_PGE 0x80u
#define CR4_PCE 0x100u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP 0x800u
#define CR4_FSGSBASE 0x10000u
#define CR4_PCIDE 0x20000u
#define CR4_OSXSAVE 0x40000u
#define CR4_SMEP 0x100000u
#define CR4_SMAP 0x200000u

#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u
#define EFER_AIBRSE 0x200000u

enum x86_vector {
	EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7,
	EXC_DF = 8, EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16,
	EXC_AC = 17, EXC_MC = 18, EXC_XM = 19,
};

/* SDM 3A 12.11: variable ranges offered. */
#define MTRR_VARIABLE_COUNT 8

enum x86_mp_state { MP_RUNNING, MP_HALTED, MP_WAIT_SIPI, MP_SHUTDOWN };

struct cpu_state {
	/* XSAVE standard format, 512 legacy + header + AVX; fxsave image first. All components are complete:
	 * the header is not looked at. */
	uint8_t xsave[1024] __attribute__((aligned(64)));

	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags; /* bit 1 always set */
	struct x86_segment seg[SEG_COUNT], ldtr, tr;
	struct x86_dtable gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
	uint64_t dr[4], dr6, dr7;

	uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, apic_base, misc_enable, tsc_aux, xss, debugctl, mcg_status, ucode_rev;
	uint64_t spec_ctrl;
	uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
	uint64_t tsc_adjust; /* IA32_TSC_ADJUST: the part of it that the guest has made since reset */
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[MTRR_VARIABLE_COUNT], mtrr_mask[MTRR_VARIABLE_COUNT];
	uint64_t kvm_wall_clock, kvm_system_time, kvm_async_pf, kvm_steal_time, kvm_eoi, kvm_poll_control,
		kvm_async_pf_int;

	uint8_t mp_state;      /* enum x86_mp_state */
	bool nmi_masked;       /* until IRET */
	bool nmi_pending;
	bool interrupt_shadow; /* after STI, MOV SS, POP SS: one instruction */
	/* An exception or interrupt chosen but not delivered yet (saved mid-way by KVM). */
	bool event_pending, event_has_error;
	uint8_t event_vector, event_kind; /* kind as in VMX: 0 external, 2 NMI, 3 exception, 4 soft int */
	uint32_t event_error;
};

/* Power-up state (SDM 3A table 10-1): real mode at f000:fff0 (base 0xffff0000); the boot
 * processor runs, the others wait for a start-up IPI. */
void cpu_state_reset(struct cpu_state *s, bool boot_processor);
/* After INIT: as reset, but FPU, MTRRs, TSC and most MSRs stay. */
void cpu_state_init(struct cpu_state *s, bool boot_processor);

/* The differences that the architecture shows, one a line ("rip 1000 1002"); empty when equal. Free it. */
char *cpu_state_diff(const struct cpu_state *a, const struct cpu_state *b);

static inline unsigned cpu_cpl(const struct cpu_state *s) { return SEG_ATTR_DPL(s->seg[SEG_SS].attr); }

#endif
