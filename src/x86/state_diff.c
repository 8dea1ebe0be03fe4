/* Where two architectural states differ, as text: for tests of engines against each other, and diffrun. */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "x86/cpu_state.h"

static void diff_u64(GString *d, const char *name, uint64_t a, uint64_t b)
{
	if (a != b)
		g_string_append_printf(d, "%s %lx %lx\n", name, (unsigned long)a, (unsigned long)b);
}

/* Hardware keeps bits of no effect differently: what counts is what the architecture shows. */
static void diff_segment(GString *d, const char *name, const struct x86_segment *a, const struct x86_segment *b)
{
	bool out_a = (a->attr & SEG_UNUSABLE) || !(a->attr & SEG_ATTR_P);
	bool out_b = (b->attr & SEG_UNUSABLE) || !(b->attr & SEG_ATTR_P);
	uint16_t mask = SEG_ATTR_S | SEG_ATTR_L | SEG_ATTR_DB | (3 << 5) | SEG_ATTR_TYPE;

	if (a->selector != b->selector || out_a != out_b)
		g_string_append_printf(d, "%s %x/%x %x/%x\n", name, a->selector, a->attr, b->selector, b->attr);
	if (out_a || out_b)
		return;
	if (a->base != b->base || a->limit != b->limit || ((a->attr ^ b->attr) & mask))
		g_string_append_printf(d, "%s %lx+%x %x, %lx+%x %x\n", name, (unsigned long)a->base, a->limit, a->attr,
				       (unsigned long)b->base, b->limit, b->attr);
}

static void diff_arrays(GString *d, const char *name, const uint64_t *a, const uint64_t *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		g_autofree char *one = g_strdup_printf("%s[%u]", name, i);

		diff_u64(d, one, a[i], b[i]);
	}
}

char *cpu_state_diff(const struct cpu_state *a, const struct cpu_state *b)
{
	static const char *const segments[] = { "es", "cs", "ss", "ds", "fs", "gs" };
	GString *d = g_string_new(NULL);

#define DIFF(field) diff_u64(d, #field, a->field, b->field)
	diff_arrays(d, "gpr", a->gpr, b->gpr, 16);
	DIFF(rip), DIFF(rflags);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		diff_segment(d, segments[i], &a->seg[i], &b->seg[i]);
	diff_segment(d, "ldtr", &a->ldtr, &b->ldtr);
	diff_segment(d, "tr", &a->tr, &b->tr);
	DIFF(gdtr.base), DIFF(gdtr.limit), DIFF(idtr.base), DIFF(idtr.limit);
	DIFF(cr0), DIFF(cr2), DIFF(cr3), DIFF(cr4), DIFF(xcr0), DIFF(dr6), DIFF(dr7);
	diff_arrays(d, "dr", a->dr, b->dr, 4);
	DIFF(efer), DIFF(star), DIFF(lstar), DIFF(cstar), DIFF(fmask), DIFF(kernel_gs_base);
	DIFF(sysenter_cs), DIFF(sysenter_esp), DIFF(sysenter_eip), DIFF(pat), DIFF(misc_enable), DIFF(mtrr_def_type);
	diff_arrays(d, "mtrr-fixed", a->mtrr_fixed, b->mtrr_fixed, 11);
	diff_arrays(d, "mtrr-base", a->mtrr_base, b->mtrr_base, MTRR_VARIABLE_COUNT);
	diff_arrays(d, "mtrr-mask", a->mtrr_mask, b->mtrr_mask, MTRR_VARIABLE_COUNT);
	DIFF(kvm_wall_clock), DIFF(kvm_system_time), DIFF(kvm_steal_time), DIFF(kvm_eoi);
	DIFF(mp_state), DIFF(nmi_masked), DIFF(nmi_pending), DIFF(interrupt_shadow), DIFF(event_pending);
	DIFF(event_vector), DIFF(event_kind), DIFF(event_has_error), DIFF(event_error);
#undef DIFF
	/* Control word, status, tags; MXCSR; then registers. */
	if (memcmp(a->xsave, b->xsave, 5) || memcmp(a->xsave + 24, b->xsave + 24, 4))
		g_string_append_printf(d, "fpu control %08x %02x mxcsr %08x, %08x %02x mxcsr %08x\n", ld32le(a->xsave),
				       a->xsave[4], ld32le(a->xsave + 24), ld32le(b->xsave), b->xsave[4], ld32le(b->xsave + 24));
	for (unsigned i = 0; i < 24; i++) {
		unsigned at = 32 + 16 * i, len = i < 8 ? 10 : 16;

		if (memcmp(a->xsave + at, b->xsave + at, len))
			g_string_append_printf(d, "%s%u differs\n", i < 8 ? "st" : "xmm", i < 8 ? i : i - 8);
	}
	return g_string_free(d, FALSE);
}
