/*
 * The guest's x87, SSE and AVX state in the host's own registers while translated code uses them. It stays in
 * memory while an exception is unmasked: such code is the interpreter's.
 */
#include "accel/bt/bt.h"

enum {
	AT_FCW = 0, AT_FOP = 6, AT_FIP = 8, AT_FDP = 16, AT_MXCSR = 24, AT_MXCSR_MASK = 28,
	AT_FCS = 464, AT_FDS = 466, AT_BV = 512, /* the selectors as the interpreter keeps them */
};
#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_MASKS 0x1f80u
#define FCW_MASKS 0x3fu

unsigned bt_fp_load(struct bt_cpu *b)
{
	struct icpu *cpu = &b->cpu;
	uint8_t *x = cpu->s.xsave;

	if (b->fp_level)
		return b->fp_level;
	if ((cpu->s.cr0 & (CR0_EM | CR0_TS)) || !(cpu->s.cr4 & CR4_OSFXSR) || (ld32le(x + AT_MXCSR) & MXCSR_MASKS) != MXCSR_MASKS ||
	    (ld16le(x + AT_FCW) & FCW_MASKS) != FCW_MASKS)
		return 0;
	b->xsave_bv = x[AT_BV];
	b->x87_last = REC_NONE;
	b->x87_segment = SEG_COUNT;
	__asm__ volatile("xrstor64 %0" : : "m"(*x), "a"(7), "d"(0) : "memory");
	b->fp_level = bt_of(b)->avx && (cpu->s.cr4 & CR4_OSXSAVE) && (cpu->s.xcr0 & 6) == 6 ? 2 : 1;
	b->stats.fp_loads++;
	return b->fp_level;
}

/* The x87's pointers, from the last instruction that translated code has noted. */
static void note_x87(struct bt_cpu *b, uint8_t *x)
{
	const struct bt_rec read = bt_rec_read(b, b->x87_last), *rec = &read;
	const struct x86_segment *seg = b->cpu.s.seg;
	const struct bt_block *k = bt_rec_block(b, rec);
	uint64_t lin = k->lin + rec->guest;

	st16le(x + AT_FOP, rec->x87);
	st64le(x + AT_FIP, k->mode & MODE_CODE32 ? (uint32_t)lin : lin);
	st16le(x + AT_FCS, seg[SEG_CS].selector);
	/* Instructions without an operand leave these. */
	if (b->x87_segment < SEG_COUNT) {
		st64le(x + AT_FDP, b->x87_data);
		st16le(x + AT_FDS, seg[b->x87_segment].selector);
	}
}

void bt_fp_save(struct bt_cpu *b)
{
	static const uint32_t mxcsr = MXCSR_DEFAULT;
	uint8_t *x = b->cpu.s.xsave;
	uint16_t fop = ld16le(x + AT_FOP);
	uint64_t fip = ld64le(x + AT_FIP), fdp = ld64le(x + AT_FDP);

	__asm__ volatile("xsave64 %0" : "+m"(*x) : "a"(7), "d"(0) : "memory");
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	if (bt_of(b)->avx)
		__asm__ volatile("vzeroupper" : : : "memory");
	x[AT_BV] = b->xsave_bv;
	st32le(x + AT_MXCSR_MASK, 0xffff);
	/* The unit's own are addresses of the host, if any. */
	st16le(x + AT_FOP, fop);
	st64le(x + AT_FIP, fip);
	st64le(x + AT_FDP, fdp);
	if (b->x87_last != REC_NONE)
		note_x87(b, x);
	b->fp_level = 0;
	b->stats.fp_saves++;
}

/*
 * In builds with AddressSanitizer every helper is called through this. Its runtime uses vector registers where the compiler
 * was told not to: at each raised fault (what leaves a function without returning), in memcpy. The checks in the code
 * itself do not, so that the state can be saved and loaded here. Whatever is between is as without the unit in use.
 */
uint8_t *bt_help_sanitized(struct bt_cpu *b, uint64_t id, uint64_t temp0, uint64_t temp1, bt_helper *helper)
{
	bool fp = b->fp_level;
	uint8_t *to;

	if (fp)
		bt_fp_save(b);
	to = helper(b, id, temp0, temp1);
	if (to && fp)
		bt_fp_load(b);
	return to;
}
