/* Which registers' homes are good where in a block. See known.h. */
#include "accel/bt/translate.h"

#define ALL 0xffffu
#define BIT(r) (uint16_t)(1u << (r))

static unsigned opcode_register(const struct guest_insn *g) { return (g->op & 7u) | (g->rex & 1u) << 3; }

/* A byte register's number may mean AH and its like. */
static uint16_t register_bit(const struct guest_insn *g, unsigned reg, bool byte)
{
	return byte && !g->has_rex && !g->vex && reg >= 4 && reg < 8 ? BIT(reg - 4) : BIT(reg);
}

static uint16_t implied(const struct guest_insn *g)
{
	if (g->ops & GO_X87)
		return BIT(RAX);
	if (g->vex)
		return g->map == 3 && (g->op & 0xfc) == 0x60 ? BIT(RCX) : 0;
	switch (g->map) {
	case 0:
		if (g->ops & GO_ACC)
			return g->op == 0x99 ? BIT(RDX) : BIT(RAX);
		if ((g->op & 0xfe) == 0xf6)
			return (g->reg & 7) >= 4 ? BIT(RAX) | BIT(RDX) : 0;
		return (g->op & 0xf8) == 0x90 ? BIT(RAX) : 0;
	case 1: return g->op == 0xb0 || g->op == 0xb1 ? BIT(RAX) : g->op == 0xc7 ? BIT(RAX) | BIT(RDX) : 0;
	default: return g->map == 3 && (g->op & 0xfc) == 0x60 ? BIT(RCX) : 0;
	}
}

/* General registers that the instruction may change, RSP as the stack's pointer apart. */
static uint16_t written(const struct guest_insn *g)
{
	uint16_t set = 0;

	switch (g->kind) {
	case G_PLAIN:
		if ((g->ops & GO_REG_W) && (g->ops & GO_REG_GPR))
			set |= register_bit(g, g->reg, g->ops & GO_BYTE);
		if (!guest_mem(g) && (g->ops & GO_RM_W) && (g->ops & (GO_RM_GPR | GO_OPREG)))
			set |= register_bit(g, g->ops & GO_OPREG ? opcode_register(g) : g->rm, g->ops & GO_BYTE);
		if (g->ops & GO_VVVV_W)
			set |= BIT(g->vvvv);
		return set | implied(g);
	case G_LEA: return BIT(g->reg);
	case G_POP_REG: return BIT(opcode_register(g));
	case G_LEAVE: return BIT(RSP) | BIT(RBP);
	case G_LOOP: return BIT(RCX);
	case G_RDTSC: return BIT(RAX) | BIT(RDX) | BIT(RCX);
	case G_READ_SEG: case G_READ_CR: case G_READ_BASE: return BIT(g->rm);
	case G_NOP: case G_JCC: case G_JMP: case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_PUSHF: case G_BIT_STRING:
	case G_CLI: case G_STI: case G_CLD: case G_STD: case G_STAC: case G_CLAC: case G_SWAPGS: case G_WRITE_BASE: case G_PAUSE:
		return 0;
	default: return ALL;
	}
}

bool known_writes(const struct guest_insn *g, unsigned guest) { return known_bit(written(g), guest); }

bool known_adds(const struct guest_insn *g, unsigned *reg, int64_t *by)
{
	if (g->kind == G_LEA && g->opsize == 8 && g->addrsize == 8 && g->base == g->reg && g->index < 0) {
		*reg = g->reg;
		*by = g->disp;
		return true;
	}
	if (g->kind != G_PLAIN || g->map || g->vex || guest_mem(g) || g->opsize != 8)
		return false;
	*reg = g->rm;
	if ((g->op == 0x83 || g->op == 0x81) && (g->reg & 7) == 0)
		*by = (int64_t)g->imm;
	else if ((g->op == 0x83 || g->op == 0x81) && (g->reg & 7) == 5)
		*by = -(int64_t)g->imm;
	else if (g->op == 0xff && (g->reg & 7) < 2)
		*by = g->reg & 7 ? -1 : 1;
	else
		return false;
	return true;
}

void known_look(struct tr *t)
{
	for (unsigned i = 0; t->tier2 && i < t->count; i++) {
		unsigned reg;
		int64_t by;

		t->writes[i] = t->changes[i] = written(&t->insn[i]);
		if (known_adds(&t->insn[i], &reg, &by))
			t->changes[i] &= (uint16_t)~BIT(reg);
	}
}

/* Of what it writes, whether the results are numbers of 32 bits. */
static bool results_small(const struct guest_insn *g)
{
	bool general = !(g->ops & (GO_X87 | GO_SIMD | GO_BYTE)) && !g->vex;

	if (g->kind == G_LEA)
		return g->opsize == 4;
	if (g->kind != G_PLAIN || !general || g->map > 1)
		return false;
	if (g->map == 0 && (g->op == 0x63 || (g->op == 0x98 && g->opsize == 8)))
		return true;
	if (g->map == 1 && (g->op == 0xb6 || g->op == 0xb7))
		return g->opsize >= 4;
	/* BSF and BSR of nothing leave the register as it is, but not TZCNT and LZCNT, and CMPXCHG may do so. */
	return g->opsize == 4 && !(g->map == 1 && (((g->op == 0xbc || g->op == 0xbd) && g->rep != 0xf3) || g->op == 0xb1 || g->op == 0xc7));
}

static void drift(struct known *k, unsigned home, uint64_t by)
{
	uint64_t far = by + k->drift[home];

	if (far > KNOWN_FAR)
		k->home &= (uint16_t)~BIT(home);
	else
		k->drift[home] = (uint32_t)far;
}

void known_drift(struct tr *t, unsigned guest, int64_t by)
{
	uint64_t far = by < 0 ? -(uint64_t)by : (uint64_t)by;

	drift(&t->known, guest, far);
	for (unsigned n = 0; n < PAIRS; n++) {
		if (t->pair[n].base == (int)guest)
			t->known.home &= (uint16_t)~BIT(PAIR_HOME + n);
		else if (t->pair[n].used && !t->pair[n].bounded && t->pair[n].index == (int)guest)
			drift(&t->known, PAIR_HOME + n, MIN(far, KNOWN_FAR + 1) << t->pair[n].scale);
	}
}

void known_pairs_lose(struct tr *t, unsigned guest)
{
	for (unsigned n = 0; n < PAIRS; n++) {
		if (t->pair[n].used && (t->pair[n].base == (int)guest || (t->pair[n].index == (int)guest && !t->pair[n].bounded)))
			t->known.home &= (uint16_t)~BIT(PAIR_HOME + n);
	}
}

void known_step(struct tr *t, const struct guest_insn *g)
{
	uint16_t gone = t->homes ? t->writes[g - t->insn] : 0;
	unsigned reg;
	int64_t by;

	if (!t->homes)
		return;
	for (unsigned n = 0; n < 16; n++) {
		if (known_bit(gone, n) && !known_adds(g, &reg, &by))
			known_pairs_lose(t, n);
	}
	gone &= gone == ALL ? ALL : (uint16_t)~PAIR_HOMES;
	if (known_adds(g, &reg, &by)) {
		known_drift(t, reg, by);
		t->known.small &= (uint16_t)~BIT(reg);
		return;
	}
	t->known.home &= (uint16_t)~gone;
	if (results_small(g))
		t->known.small |= gone;
	else
		t->known.small &= (uint16_t)~gone;
}

void known_landing(struct tr *t)
{
	t->known.home = t->homes ? BIT(RSP) : 0;
	t->known.drift[RSP] = KNOWN_NEAR;
	t->known.small = 0;
	temps_used(t);
	t->fp_checked = 0;
}

void known_touch(struct tr *t, unsigned guest, int32_t disp)
{
	uint32_t near = (disp < 0 ? -(uint32_t)disp : (uint32_t)disp) + 64;

	if (t->known.drift[guest] > near)
		t->known.drift[guest] = near;
}

void known_set(struct tr *t, unsigned guest)
{
	t->known.home |= BIT(guest);
	t->known.drift[guest] = 0;
}

static uint32_t level_bits(unsigned level) { return level > 1 ? KNOWN_FP | KNOWN_AVX : level ? KNOWN_FP : 0; }

uint32_t known_here(const struct tr *t)
{
	uint32_t set;

	if (!t->homes || t->mode != t->block->mode)
		return 0;
	set = level_bits(t->fp_checked);
	for (unsigned r = 0; r < 16; r++) {
		if (known_bit(t->known.home & ~PAIR_HOMES, r) && t->known.drift[r] <= KNOWN_NEAR)
			set |= BIT(r);
	}
	return set;
}

/* The branch that is instruction i is taken when the register is below a constant of 31 bits. */
static bool bounds(const struct tr *t, unsigned i, unsigned guest)
{
	const struct guest_insn *g = &t->insn[i], *cmp = g - 1;

	if (!i || g->kind != G_JCC || ((g->op & 15) != 2 && (g->op & 15) != 6))
		return false;
	if (cmp->kind != G_PLAIN || cmp->map || cmp->vex || cmp->opsize != 8 || (int64_t)cmp->imm < 0)
		return false;
	return cmp->op == 0x3d ? guest == RAX : (cmp->op == 0x81 || cmp->op == 0x83) && (cmp->reg & 7) == 7 && cmp->mod == 3 && cmp->rm == guest;
}

bool known_loops(const struct tr *t)
{
	if (!t->block->loop || (t->block->needs & ~known_here(t)))
		return false;
	for (unsigned n = 0; n < PAIRS; n++) {
		if (t->pair[n].used && (!known_bit(t->known.home, PAIR_HOME + n) || t->known.drift[PAIR_HOME + n] > KNOWN_NEAR))
			return false;
		if (t->pair[n].bounded && !bounds(t, t->at, (unsigned)t->pair[n].index))
			return false;
	}
	return true;
}

/* ---- looking ahead ---- */

/* The registers that its accesses count from by way of their homes, when those indices are small. */
static uint16_t used(const struct tr *t, unsigned i, uint16_t small)
{
	const struct guest_insn *g = &t->insn[i];
	uint16_t set = 0;

	if (!window_serves(t, i))
		return 0;
	if (guest_mem(g) && g->base >= 0 && (g->index < 0 || (host_register((unsigned)g->index) >= 0 && known_bit(small, (unsigned)g->index))) && g->addrsize == 8 && g->seg != SEG_FS && g->seg != SEG_GS && host_register((unsigned)g->base) >= 0)
		set |= BIT(g->base);
	switch (g->kind) {
	case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_POP_REG: case G_PUSHF: case G_CALL: case G_CALL_IND: case G_RET:
		return set | BIT(RSP);
	case G_LEAVE: return BIT(RBP);
	default: return set;
	}
}

/* Otherwise than by a constant. */
static bool changes(const struct tr *t, unsigned i, unsigned guest) { return known_bit(t->changes[i], guest); }

int known_loop_end(const struct tr *t)
{
	int end = -1;

	for (unsigned i = 0; i < t->count; i++) {
		if ((t->insn[i].kind == G_JCC || t->insn[i].kind == G_JMP) && branch_target_at(t, i) == t->block->lin)
			end = (int)i;
	}
	return end;
}

/* The level that the block surely needs, or needs in each round of a loop. */
static unsigned level_needed(const struct tr *t, bool loop)
{
	unsigned level = 0;

	for (unsigned i = 0; i < t->count && (loop || t->insn[i].kind != G_JCC); i++) {
		if (t->insn[i].kind == G_PLAIN && (t->insn[i].ops & (GO_X87 | GO_SIMD)))
			level = MAX(level, t->insn[i].ops & GO_AVX ? 2u : 1u);
	}
	return level;
}

uint32_t known_needs(const struct tr *t)
{
	unsigned uses[16] = { 0 };
	uint16_t changed = 0, small = 0;
	int end = known_loop_end(t);
	bool loop = end >= 0;
	unsigned count = loop ? (unsigned)end + 1 : t->count;
	uint32_t set = level_bits(level_needed(t, loop));

	for (unsigned i = 0; i < count; i++) {
		uint16_t here = used(t, i, small) & (uint16_t)~changed;

		if (results_small(&t->insn[i]))
			small |= t->writes[i];
		else
			small &= (uint16_t)~t->writes[i];
		for (unsigned r = 0; here >> r; r++)
			uses[r] += known_bit(here, r);
		changed |= t->changes[i];
	}
	for (unsigned r = 0; r < 16; r++) {
		/* What a loop changes it cannot promise itself, and then it would have to set all the others again. */
		bool kept = !loop || !known_bit(changed, r);

		if (kept && (uses[r] > 1 || (uses[r] && (loop || r == RSP))))
			set |= BIT(r);
	}
	/* It has to be known there, and is known to all who come by the jump cache. */
	if (t->count && t->insn[t->count - 1].kind == G_JMP_IND && !known_bit(changed, RSP))
		set |= BIT(RSP);
	return set;
}

void known_begin(struct tr *t)
{
	t->known.home = (uint16_t)(t->block->needs & KNOWN_REGISTERS & ~PAIR_HOMES);
	t->fp_checked = known_level(t->block->needs);
	t->known.small = 0;
	for (unsigned r = 0; r < 16; r++)
		t->known.drift[r] = KNOWN_NEAR;
}

/* ---- loops ---- */

/* The sum that the instruction's access counts from. */
static bool sum_of(const struct tr *t, unsigned i, struct bt_pair *p)
{
	const struct guest_insn *g = &t->insn[i];

	*p = (struct bt_pair){ g->base, g->index, g->scale, true };
	/* Of two that are alike, the one that changes is the index. */
	if (g->base >= 0 && g->base != RSP && g->index >= 0 && !g->scale && known_bit(t->loop_writes, (unsigned)g->base))
		*p = (struct bt_pair){ g->index, g->base, 0, true };
	return window_serves(t, i) && guest_mem(g) && g->index >= 0 && g->addrsize == 8 && g->seg != SEG_FS && g->seg != SEG_GS &&
	       host_register((unsigned)p->index) >= 0 && p->base != RSP;
}

/* Through the loop the base stays as it is, and the index changes by constants. */
static bool lasts(const struct tr *t, int end, const struct bt_pair *p)
{
	for (int i = 0; i <= end; i++) {
		if ((p->base >= 0 && known_bit(t->writes[i], (unsigned)p->base)) || changes(t, (unsigned)i, (unsigned)p->index))
			return false;
	}
	return true;
}

static bool same_sum(const struct bt_pair *a, const struct bt_pair *b)
{
	return a->used && b->used && a->base == b->base && a->index == b->index && a->scale == b->scale;
}

static unsigned uses_of(const struct tr *t, int end, const struct bt_pair *p)
{
	unsigned n = 0;

	for (int i = 0; i <= end; i++) {
		struct bt_pair q;

		n += sum_of(t, (unsigned)i, &q) && same_sum(p, &q);
	}
	return n;
}

int known_pair(const struct tr *t, unsigned i)
{
	struct bt_pair q;

	if (!sum_of(t, i, &q))
		return -1;
	for (unsigned n = 0; n < PAIRS; n++) {
		if (same_sum(&t->pair[n], &q) && known_bit(t->known.home, PAIR_HOME + n) && (!t->pair[n].bounded || known_bit(t->known.small, (unsigned)q.index)))
			return (int)n;
	}
	return -1;
}

static void choose_pairs(struct tr *t, int end, unsigned uses[16])
{
	for (int i = 0; i <= end; i++) {
		unsigned least = uses[PAIR_HOME] > uses[PAIR_HOME + 1], n;
		struct bt_pair q;

		if (!sum_of(t, (unsigned)i, &q) || same_sum(&t->pair[0], &q) || same_sum(&t->pair[1], &q))
			continue;
		if (!lasts(t, end, &q)) {
			q.bounded = true;
			if (q.base < 0 || known_bit(t->loop_writes, (unsigned)q.base) || !bounds(t, (unsigned)end, (unsigned)q.index))
				continue;
		}
		n = uses_of(t, end, &q);
		if (n <= uses[PAIR_HOME + least])
			continue;
		t->pair[least] = q;
		uses[PAIR_HOME + least] = n;
	}
}

/* Registers in memory that the instruction names: bits by enum bt_value. */
static unsigned values_of(const struct guest_insn *g)
{
	unsigned set = 0;

	if (g->base >= 0)
		set |= 1u << value_of((unsigned)g->base);
	if (g->index >= 0)
		set |= 1u << value_of((unsigned)g->index);
	if ((g->ops & GO_REG_GPR) || g->kind == G_LEA)
		set |= 1u << value_of(g->reg);
	if (!guest_mem(g) && (g->ops & GO_RM_GPR))
		set |= 1u << value_of(g->rm);
	if (g->ops & GO_OPREG)
		set |= 1u << value_of(opcode_register(g));
	return set;
}

/* The register in memory that the loop names most often. */
static unsigned value_wanted(const struct tr *t, int end)
{
	unsigned uses[4] = { 0 }, best = VALUE_NONE;

	for (int i = 0; i <= end; i++) {
		for (unsigned v = VALUE_R10; v <= VALUE_R15; v++)
			uses[v] += values_of(&t->insn[i]) >> v & 1;
	}
	for (unsigned v = VALUE_R10; v <= VALUE_R15; v++)
		best = uses[v] > (best ? uses[best] : 0) ? v : best;
	return best;
}

void known_loop(struct tr *t)
{
	unsigned uses[16] = { 0 };
	int end = t->homes && !t->live[0] && !t->b->cpu.stepping ? known_loop_end(t) : -1;

	t->loop_held = t->loop_value = 0;
	t->loop = end >= 0;
	if (end < 0)
		return;
	for (int i = 0; i <= end; i++)
		t->loop_writes |= t->writes[i];
	choose_pairs(t, end, uses);
	for (int i = 0; i <= end; i++) {
		uint16_t set = used(t, (unsigned)i, t->known.small) & t->block->needs;
		struct bt_pair q;
		bool paired = sum_of(t, (unsigned)i, &q) && (same_sum(&t->pair[0], &q) || same_sum(&t->pair[1], &q));

		for (unsigned r = 0; r < 16; r++)
			uses[r] += known_bit(set, r) && !paired;
	}
	t->loop_value = (uint8_t)value_wanted(t, end);
	for (unsigned temp = 0; temp < (t->loop_value ? 1 : 2); temp++) {
		unsigned best = 0;

		for (unsigned r = 1; r < 16; r++)
			best = uses[r] > uses[best] ? r : best;
		if (!uses[best])
			break;
		t->loop_held |= (uint8_t)((best + 1) << (4 * temp));
		uses[best] = 0;
	}
	t->loop = t->pair[0].used || t->pair[1].used || t->loop_held || t->loop_value;
}

bool known_used_later(const struct tr *t, unsigned guest)
{
	/* In the next round. */
	if (known_bit(PAIR_HOMES, guest) || (t->loop && ((t->loop_held & 15) == guest + 1 || t->loop_held >> 4 == guest + 1)))
		return true;
	for (unsigned i = t->at; i < t->count; i++) {
		if (i > t->at && known_bit(used(t, i, t->known.small), guest))
			return true;
		if (changes(t, i, guest))
			return false;
	}
	return false;
}

bool known_wanted(const struct tr *t, unsigned guest)
{
	unsigned uses = 0;

	if (t->insn[t->at].kind == G_RET)
		return true;
	if (changes(t, t->at, guest))
		return false;
	for (unsigned i = t->at + 1; i < t->count; i++) {
		uses += known_bit(used(t, i, t->known.small), guest);
		/* A pointer that leads to the next: once more by way of memory would take longer than to look up. */
		if (changes(t, i, guest))
			return uses > 1 || (uses && !known_bit(used(t, i, t->known.small), guest));
	}
	if (uses)
		return true;
	return known_bit(t->block->needs, guest) && known_loop_end(t) >= 0;
}

bool known_chased(const struct tr *t, unsigned guest)
{
	int end = known_loop_end(t);

	for (int i = 0; i <= end; i++) {
		const struct guest_insn *g = &t->insn[i];

		if (g->kind == G_PLAIN && !g->map && !g->vex && (g->op == 0x8b || g->op == 0x63) && guest_mem(g) && g->opsize >= 4 && g->reg == guest && g->base == (int)guest)
			return true;
	}
	return false;
}
