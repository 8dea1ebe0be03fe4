/*
 * The architectural state after power-up and after INIT: Intel SDM 3A table 10-1.
 */
#include "x86/cpu_state.h"

#include <string.h>

static struct x86_segment real_segment(uint16_t selector, uint64_t base, uint16_t type)
{
	return (struct x86_segment){
		.base = base, .limit = 0xffff, .selector = selector, .attr = (uint16_t)(SEG_ATTR_P | SEG_ATTR_S | type)
	};
}

/* What power-up and INIT have in common. */
static void registers_reset(struct cpu_state *s, bool boot_processor)
{
	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RDX] = 0x600; /* family 6; the model and stepping are CPUID's */
	s->rip = 0xfff0;
	s->rflags = 2;
	for (int i = 0; i < SEG_COUNT; i++)
		s->seg[i] = real_segment(0, 0, 3);
	s->seg[SEG_CS] = real_segment(0xf000, 0xffff0000, 0xb);
	s->ldtr = (struct x86_segment){ .limit = 0xffff, .attr = SEG_ATTR_P | 2 };
	s->tr = (struct x86_segment){ .limit = 0xffff, .attr = SEG_ATTR_P | 0xb };
	s->gdtr = s->idtr = (struct x86_dtable){ .limit = 0xffff };
	s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
	memset(s->dr, 0, sizeof(s->dr));
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->mp_state = boot_processor ? MP_RUNNING : MP_WAIT_SIPI;
	s->nmi_masked = s->nmi_pending = s->interrupt_shadow = false;
	s->event_pending = s->event_has_error = false;
	s->event_vector = s->event_kind = 0;
	s->event_error = 0;
}

void cpu_state_reset(struct cpu_state *s, bool boot_processor)
{
	memset(s, 0, sizeof(*s));
	registers_reset(s, boot_processor);
	s->cr0 = CR0_CD | CR0_NW | CR0_ET;
	s->xcr0 = 1;
	s->pat = UINT64_C(0x0007040600070406);
	s->apic_base = 0xfee00800u | (boot_processor ? 0x100u : 0);
	s->misc_enable = 1;
	s->kvm_poll_control = 1;
	s->xsave[0] = 0x40; /* FCW; the abridged tag says all valid (+0.0) */
	s->xsave[4] = 0xff;
	s->xsave[24] = 0x80; /* MXCSR 0x1f80 */
	s->xsave[25] = 0x1f;
}

void cpu_state_init(struct cpu_state *s, bool boot_processor)
{
	uint64_t cache = s->cr0 & (CR0_CD | CR0_NW); /* INIT leaves the caches as they are */

	registers_reset(s, boot_processor);
	s->cr0 = cache | CR0_ET;
}
