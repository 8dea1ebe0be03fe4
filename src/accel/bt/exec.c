/*
 * Where guest code is: the pages it is fetched from, and what the translator has concluded from the map, which
 * flushes make stale. Compiled without vector registers, since they may hold the guest's.
 */
#include "accel/bt/bt.h"
#include "accel/bt/window.h"

static unsigned seen_bit(uint64_t lin)
{
	uint64_t page = lin >> PAGE_SHIFT;

	return (unsigned)(page ^ page >> 12) & 4095;
}

static struct bt_exec *exec_slot(struct bt_cpu *b, uint64_t lin)
{
	return &b->exec[(lin >> PAGE_SHIFT) % EXEC_SIZE];
}

static bool exec_valid(const struct bt_cpu *b, const struct bt_exec *x, uint64_t key)
{
	return x->lin == key && x->epoch == b->epoch[x->global ? EPOCH_GLOBAL : EPOCH_LOCAL];
}

static uint64_t exec_key(const struct bt_cpu *b, uint64_t lin)
{
	return (lin & ~(uint64_t)(PAGE_SIZE - 1)) | (b->cpu.cpl == 3);
}

static void take_page(struct bt_cpu *b, uint64_t lin, struct bt_exec *x)
{
	struct mmu_target t;
	unsigned bit = seen_bit(lin);

	mmu_translate(&b->cpu, lin, ACCESS_EXEC, b->cpu.cpl == 3 ? VIEW_USER : VIEW_SUPERVISOR, &t);
	x->lin = exec_key(b, lin);
	x->gpa = t.gpa & ~(uint64_t)(PAGE_SIZE - 1);
	x->host = t.host ? t.host - (lin & (PAGE_SIZE - 1)) : NULL;
	x->global = t.global;
	x->epoch = b->epoch[t.global ? EPOCH_GLOBAL : EPOCH_LOCAL];
	b->exec_seen[t.global][bit / 64] |= UINT64_C(1) << (bit % 64);
}

const struct bt_exec *bt_exec_page(struct bt_cpu *b, uint64_t lin)
{
	struct bt_exec *x = exec_slot(b, lin);

	if (!exec_valid(b, x, exec_key(b, lin)))
		take_page(b, lin, x);
	return x;
}

const struct bt_exec *bt_exec_known(struct bt_cpu *b, uint64_t lin)
{
	const struct bt_exec *x = exec_slot(b, lin);

	return exec_valid(b, x, exec_key(b, lin)) && x->host ? x : NULL;
}

const uint8_t *bt_exec_peek(struct bt_cpu *b, uint64_t lin)
{
	const struct bt_exec *x = bt_exec_known(b, lin);

	return x ? x->host + (lin & (PAGE_SIZE - 1)) : NULL;
}

/* ---- epochs ---- */

/* A salt no tag was made with yet: its upper bits make linear addresses of another epoch differ. */
static void new_salt(struct bt_cpu *b, unsigned which)
{
	uint64_t s = (b->salt[which] >> 48) + 1;

	if (s >> 16) {
		s = 1;
		for (unsigned m = 0; m < 4; m++) {
			for (unsigned i = 0; i < JUMP_SIZE; i++)
				b->jump[m][i].tag = bt_jump_empty(i);
		}
	}
	b->salt[which] = s << 48;
}

static void new_epoch(struct bt_cpu *b, bool global)
{
	unsigned which = global ? EPOCH_GLOBAL : EPOCH_LOCAL;

	b->epoch[which]++;
	for (unsigned i = 0; i < 64; i++)
		b->exec_seen[which][i] = 0;
	new_salt(b, 1);
	if (global || b->supervisor_local) {
		new_salt(b, 0);
		b->supervisor_local = false;
	}
	bt_returns_reset(b);
}

void bt_flushed(struct icpu *cpu, enum flush_kind kind, uint64_t lin)
{
	struct bt_cpu *b = (struct bt_cpu *)cpu;
	unsigned bit = seen_bit(lin);

	if (kind == FLUSH_ALL || (kind == FLUSH_PAGE && (b->exec_seen[1][bit / 64] >> (bit % 64) & 1)))
		new_epoch(b, true);
	if (b->windows)
		windows_flush(b, kind, lin);
	if (kind != FLUSH_PAGE || (b->exec_seen[0][bit / 64] >> (bit % 64) & 1))
		new_epoch(b, false);
}

/* ---- modes ---- */

static bool flat(const struct x86_segment *s, bool data)
{
	return s->base == 0 && s->limit == UINT32_MAX && (s->attr & SEG_ATTR_P) && !(s->attr & SEG_UNUSABLE) &&
	       (!data || (s->attr & 0xa) == 2) && (s->attr & 0xc) != 4;
}

static bool based(const struct x86_segment *s)
{
	struct x86_segment z = *s;

	z.base = 0;
	return flat(&z, true);
}

static uint32_t mode_32(const struct icpu *cpu)
{
	const struct x86_segment *seg = cpu->s.seg;
	uint32_t mode = MODE_CODE32;

	if (cpu->code_bits != 32 || seg[SEG_CS].base || seg[SEG_CS].limit != UINT32_MAX || !(cpu->s.cr0 & CR0_PE) ||
	    (cpu->s.rflags & RFLAGS_VM))
		return MODE_NONE;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		bool ok = i == SEG_FS || i == SEG_GS ? based(&seg[i]) : flat(&seg[i], i != SEG_CS);

		if (i == SEG_SS)
			ok &= cpu->stack_bits == 32;
		if (ok && i != SEG_CS)
			mode |= MODE_SEG << i;
	}
	return mode;
}

uint32_t bt_mode_now(struct bt_cpu *b)
{
	const struct icpu *cpu = &b->cpu;
	uint32_t mode = cpu->code_bits == 64 ? 0 : mode_32(cpu);

	if (mode & MODE_NONE)
		return mode;
	if (cpu->cpl == 3) {
		mode |= MODE_USER;
		if ((cpu->s.rflags & RFLAGS_AC) && (cpu->s.cr0 & CR0_AM))
			return MODE_NONE; /* alignment is checked */
	} else if (cpu->cpl) {
		return MODE_NONE;
	}
	if (cpu->s.cr4 & CR4_SMAP) {
		mode |= MODE_SMAP;
		if (!(mode & MODE_USER) && (cpu->s.rflags & RFLAGS_AC))
			mode |= MODE_AC;
	}
	return mode;
}

void bt_mode_update(struct bt_cpu *b)
{
	uint32_t mode = bt_mode_now(b), change = mode ^ b->mode;

	if (!change)
		return;
	b->mode = mode;
	if (change & ~(uint32_t)MODE_AC)
		bt_returns_reset(b);
	b->lookup = b->rx + (mode & MODE_AC ? b->stub_miss : b->stub_lookup[mode & (MODE_USER | MODE_CODE32)]);
}
