/*
 * Where guest code is: the pages it is fetched from, and what the translator has concluded from the map, which
 * flushes make stale. Compiled without vector registers, since they may hold the guest's.
 */
#include "accel/bt/tier.h"
#include "accel/bt/window.h"

static uint64_t exec_key(const struct bt_cpu *b, uint64_t lin)
{
	return (lin & ~(uint64_t)(PAGE_SIZE - 1)) | (b->cpu.cpl == 3);
}

static bool exec_holds(const struct bt_cpu *b, const struct bt_exec *x)
{
	return b->mapped[x->id % EXEC_SIZE] == x->id;
}

/* By the page alone, so that INVLPG finds both privileges'. */
static struct bt_exec **exec_place(struct bt_cpu *b, uint64_t key)
{
	uint64_t page = key >> PAGE_SHIFT;

	return &b->exec_hash[(page ^ page >> 12 ^ page >> 24) % EXEC_SIZE];
}

static struct bt_exec **exec_recent(struct bt_cpu *b, uint64_t key)
{
	return &b->exec_recent[((key >> PAGE_SHIFT) ^ (key & 1) << 9) % EXEC_RECENT];
}

static void exec_drop(struct bt_cpu *b, struct bt_exec *x)
{
	struct bt_exec **p = exec_place(b, x->lin);

	while (*p != x)
		p = &(*p)->next;
	*p = x->next;
	p = exec_recent(b, x->lin);
	if (*p == x)
		*p = NULL;
}

/* A place for another page: the oldest that does not hold now. Numbers are never given twice. */
static struct bt_exec *exec_new(struct bt_cpu *b)
{
	struct bt_exec *x;

	for (unsigned tries = 0;; tries++) {
		if (++b->exec_last == BT_NO_EXEC)
			b->exec_last = EXEC_SIZE;
		x = &b->exec[b->exec_last % EXEC_SIZE];
		if (!x->id || !exec_holds(b, x) || tries >= EXEC_SIZE)
			break;
	}
	if (x->id)
		exec_drop(b, x);
	b->mapped[b->exec_last % EXEC_SIZE] = 0;
	x->id = b->exec_last;
	return x;
}

static struct bt_exec *exec_get(struct bt_cpu *b, uint64_t key, uint64_t gpa)
{
	struct bt_exec **place = exec_place(b, key), *x = *place;

	while (x && (x->lin != key || x->gpa != gpa))
		x = x->next;
	if (x)
		return x;
	x = exec_new(b);
	x->lin = key;
	x->gpa = gpa;
	x->next = *place;
	*place = x;
	return x;
}

static unsigned region_bit(uint64_t lin)
{
	uint64_t region = lin >> 22; /* large pages of 2 and of 4 MiB alike */

	return (unsigned)(region ^ region >> 9) & 511;
}

static struct bt_space *space_now(struct bt_cpu *b) { return &b->space[b->mmu.space_now]; }

/* Noted for the flush that ends it. */
static void exec_hold(struct bt_cpu *b, struct bt_exec *x)
{
	struct bt_exec_log *log = x->global ? &b->exec_global : &space_now(b)->held;

	if (exec_holds(b, x))
		return;
	b->mapped[x->id % EXEC_SIZE] = x->id;
	if (log->count < EXEC_LOG)
		log->id[log->count++] = x->id;
	else
		log->overflow = true;
}

static struct bt_exec *take_page(struct bt_cpu *b, uint64_t lin)
{
	struct mmu_target t;
	struct bt_exec *x;

	mmu_translate(&b->cpu, lin, ACCESS_EXEC, b->cpu.cpl == 3 ? VIEW_USER : VIEW_SUPERVISOR, &t);
	x = exec_get(b, exec_key(b, lin), t.gpa & ~(uint64_t)(PAGE_SIZE - 1));
	x->host = t.host ? t.host - (lin & (PAGE_SIZE - 1)) : NULL;
	if (x->global != t.global)
		b->mapped[x->id % EXEC_SIZE] = 0;
	x->global = t.global;
	x->large = t.level > 1;
	if (t.level > 2)
		b->exec_huge = true;
	else if (t.level > 1)
		b->exec_large[region_bit(lin) / 64] |= UINT64_C(1) << (region_bit(lin) % 64);
	if (!t.global && b->cpu.cpl != 3)
		space_now(b)->supervisor = true;
	exec_hold(b, x);
	b->stats.pages++;
	return x;
}

const struct bt_exec *bt_exec_page(struct bt_cpu *b, uint64_t lin)
{
	uint64_t key = exec_key(b, lin);
	struct bt_exec **recent = exec_recent(b, key);

	if (!*recent || (*recent)->lin != key || !exec_holds(b, *recent))
		*recent = take_page(b, lin);
	return *recent;
}

const struct bt_exec *bt_exec_known(struct bt_cpu *b, uint64_t lin)
{
	uint64_t key = exec_key(b, lin);
	const struct bt_exec *x = *exec_recent(b, key);

	return x && x->lin == key && exec_holds(b, x) && x->host ? x : NULL;
}

const uint8_t *bt_exec_peek(struct bt_cpu *b, uint64_t lin)
{
	const struct bt_exec *x = bt_exec_known(b, lin);

	return x ? x->host + (lin & (PAGE_SIZE - 1)) : NULL;
}

/* ---- flushes ---- */

/* A salt no tag was made with yet: its upper bits make linear addresses of before differ. */
static void new_salt(struct bt_cpu *b, unsigned which)
{
	uint64_t s = (b->salt_last[which] >> 48) + 1;

	if (s >> 16) {
		s = 1;
		for (unsigned n = 0; n < SPACES; n++)
			b->space[n].salt = 0;
		bt_jumps_forget(b);
	}
	b->salt[which] = b->salt_last[which] = s << 48;
}

void bt_forget_jumps(struct bt_cpu *b, bool user)
{
	new_salt(b, user);
	bt_returns_forget(b, user);
}

/* All pages of the log, and what it has no room for. */
static void let_go(struct bt_cpu *b, struct bt_exec_log *log, bool global)
{
	if (log->overflow) {
		for (unsigned i = 0; i < EXEC_SIZE; i++) {
			if (b->exec[i].global == global)
				b->mapped[i] = 0;
		}
	}
	for (unsigned i = 0; i < log->count; i++) {
		if (b->exec[log->id[i] % EXEC_SIZE].global == global)
			b->mapped[log->id[i] % EXEC_SIZE] = 0;
	}
	log->count = 0;
	log->overflow = false;
}

static void flush_local(struct bt_cpu *b)
{
	struct bt_space *s = space_now(b);

	let_go(b, &s->held, false);
	bt_forget_jumps(b, true);
	if (s->supervisor)
		bt_forget_jumps(b, false);
	s->supervisor = false;
}

static void space_forget(struct bt_space *s)
{
	s->held.count = 0;
	s->held.overflow = s->supervisor = false;
	s->salt = 0;
}

static void flush_all(struct bt_cpu *b)
{
	let_go(b, &b->exec_global, true);
	let_go(b, &space_now(b)->held, false);
	for (unsigned n = 0; n < SPACES; n++)
		space_forget(&b->space[n]);
	bt_forget_jumps(b, true);
	bt_forget_jumps(b, false);
	b->exec_huge = false;
	for (unsigned i = 0; i < ARRAY_LEN(b->exec_large); i++)
		b->exec_large[i] = 0;
}

/* Its pages hold no longer; those that have held until now are noted. */
static void space_leave(struct bt_cpu *b, struct bt_space *s)
{
	unsigned n = 0;

	s->salt = s->held.overflow ? 0 : b->salt[1];
	if (s->held.overflow)
		let_go(b, &s->held, false);
	for (unsigned i = 0; i < s->held.count; i++) {
		uint32_t id = s->held.id[i];

		if (b->mapped[id % EXEC_SIZE] != id || b->exec[id % EXEC_SIZE].global)
			continue;
		b->mapped[id % EXEC_SIZE] = 0;
		s->held.id[n++] = id;
	}
	s->held.count = n;
}

/* A number that has gone to another page since tells of nothing; nor would INVLPG find the jumps into its page. */
static void space_enter(struct bt_cpu *b, struct bt_space *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->held.count; i++) {
		uint32_t id = s->held.id[i];
		const struct bt_exec *x = &b->exec[id % EXEC_SIZE];

		if (x->id != id || x->global)
			continue;
		b->mapped[id % EXEC_SIZE] = id;
		s->held.id[n++] = id;
	}
	if (n < s->held.count)
		s->salt = 0;
	s->held.count = n;
}

void bt_switched(struct icpu *cpu, unsigned from, unsigned to, bool kept)
{
	struct bt_cpu *b = (struct bt_cpu *)cpu;
	bool supervisor = b->space[from].supervisor;

	if (b->windows)
		windows_switch(b, from, to);
	space_leave(b, &b->space[from]);
	if (kept)
		space_enter(b, &b->space[to]);
	else
		space_forget(&b->space[to]);
	if (b->space[to].salt)
		b->salt[1] = b->space[to].salt;
	else
		new_salt(b, 1);
	bt_returns_forget(b, true);
	if (supervisor)
		bt_forget_jumps(b, false);
}

void bt_dropped(struct icpu *cpu, unsigned space)
{
	struct bt_cpu *b = (struct bt_cpu *)cpu;

	if (b->windows)
		windows_drop_space(b, space);
	space_forget(&b->space[space]);
}

static void let_page_go(struct bt_cpu *b, const struct bt_exec *x)
{
	if (!exec_holds(b, x))
		return;
	b->mapped[x->id % EXEC_SIZE] = 0;
	bt_forget_jumps(b, x->lin & 1);
}

static void flush_page(struct bt_cpu *b, uint64_t lin)
{
	unsigned bit = region_bit(lin);

	for (struct bt_exec *x = *exec_place(b, lin); x; x = x->next) {
		if (!((x->lin ^ lin) >> PAGE_SHIFT))
			let_page_go(b, x);
	}
	if (!b->exec_huge && !(b->exec_large[bit / 64] >> (bit % 64) & 1))
		return;
	/* It may be any of a large page's pieces. */
	for (unsigned i = 0; i < EXEC_SIZE; i++) {
		struct bt_exec *x = &b->exec[i];

		if (x->large && (b->exec_huge || !((x->lin ^ lin) >> 22)))
			let_page_go(b, x);
	}
}

void bt_flushed(struct icpu *cpu, enum flush_kind kind, uint64_t lin)
{
	struct bt_cpu *b = (struct bt_cpu *)cpu;

	if (b->windows)
		windows_flush(b, kind, lin);
	switch (kind) {
	case FLUSH_ALL: flush_all(b); break;
	case FLUSH_LOCAL: flush_local(b); break;
	case FLUSH_PAGE: flush_page(b, lin); break;
	}
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
		mode |= MODE_USER | (tier_lasts(b, cpu->s.cr3) ? MODE_LASTING : 0);
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
		bt_returns_switch(b);
	b->lookup = b->rx + (mode & MODE_AC ? b->stub_miss : b->stub_lookup[mode & (MODE_USER | MODE_CODE32)]);
}
