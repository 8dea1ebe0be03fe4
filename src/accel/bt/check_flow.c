/*
 * The checker's view of jumps, calls and returns: each goes to an instruction of the block, to another block's
 * entry or to a stub, and only where the translator sends it: a test's failure to the helper for just that test.
 */
#include "accel/bt/check_state.h"

enum { PUSH_SIZE = 5, JUMP_BYTES = 5, CALL_BACK_BYTES = 3, LITERAL_BYTES = 10, LOOK_UP_BYTES = 18 };

static uint32_t next_at(const struct checker *c) { return c->block->host + c->at + c->in.length; }

static uint32_t target_of(const struct checker *c)
{
	return next_at(c) + (uint32_t)c->op[0].imm.value.s;
}

static uint32_t disp32(const struct checker *c, uint32_t at)
{
	uint32_t v;

	memcpy(&v, c->b->rw + at, 4);
	return v;
}

/* The exit whose jump's displacement stands at `site`, or -1. */
static int32_t exit_at(const struct checker *c, uint32_t site)
{
	for (unsigned i = 0; i < c->block->exits; i++) {
		if (c->block->host + c->b->exits[c->block->first_exit + i].site == site)
			return (int32_t)(c->block->first_exit + i);
	}
	return -1;
}

/* The first exit behind the instruction in hand, or -1. */
static int32_t exit_behind(const struct checker *c)
{
	int32_t best = -1;

	for (unsigned i = 0; i < c->block->exits; i++) {
		uint32_t site = c->b->exits[c->block->first_exit + i].site;

		if (c->block->host + site >= next_at(c) && (best < 0 || site < c->b->exits[best].site))
			best = (int32_t)(c->block->first_exit + i);
	}
	return best;
}

/* The exit whose jump leads to `stub` when it is not linked, or -1. */
static int32_t exit_by_stub(const struct checker *c, uint32_t stub)
{
	for (unsigned i = 0; i < c->block->exits; i++) {
		if (c->block->host + c->b->exits[c->block->first_exit + i].stub == stub)
			return (int32_t)(c->block->first_exit + i);
	}
	return -1;
}

static bool exit_mine(const struct checker *c, int32_t id)
{
	return id >= (int32_t)c->block->first_exit && id < (int32_t)(c->block->first_exit + c->block->exits);
}

/* The block's record of that number, or NULL. */
static const struct bt_rec *rec_mine(const struct checker *c, int32_t id)
{
	uint32_t n = (uint32_t)id - c->first_rec;

	return id >= 0 && n < c->block->recs ? &c->recs[n] : NULL;
}

/* The record of the guest instruction in hand: the last to have begun; with `write` as asked when several have. */
static bool rec_fits(const struct checker *c, int32_t id)
{
	const struct bt_rec *r = rec_mine(c, id);
	uint32_t at = c->at;

	if (!r || r->retry > at)
		return false;
	for (unsigned i = 0; i < c->block->recs; i++) {
		const struct bt_rec *other = &c->recs[i];

		if (other->retry > r->retry && other->retry <= at)
			return false;
	}
	return !r->goes_on || r->next > at;
}

/* The record that bt_rec_at finds by the address behind the instruction in hand, or -1. */
static int32_t rec_called(const struct checker *c)
{
	uint32_t at = c->at + c->in.length;

	for (unsigned i = c->block->recs; i-- > 0;) {
		const struct bt_rec *r = &c->recs[i];

		if (r->retry <= at && at < r->next)
			return (int32_t)(c->first_rec + i);
	}
	return -1;
}

/*
 * What stands behind the block for a failed test: [the branch noted;] [call over; jmp landing;] [push id;] jmp stub; or call
 * stub. A landing has [call back;] [a literal;] jmp stub.
 */
struct way {
	int32_t id; /* or -1 */
	uint32_t stub;
	bool calls;
};

/* call TEMP1 */
static bool call_back_at(const uint8_t *p) { return p[0] == 0x41 && p[1] == 0xff && p[2] == 0xd3; }

static bool way_at(const struct checker *c, uint32_t at, struct way *w)
{
	static const uint8_t note[] = { 0x65, 0xc7, 0x04, 0x25 };
	const uint8_t *p = c->b->rw + at;

	*w = (struct way){ .id = -1 };
	if (!check_inside(c, at) || !c->start[at - c->block->host])
		return false;
	if (!memcmp(p, note, sizeof(note)) && (int32_t)disp32(c, at + sizeof(note)) == GS_OF(branch)) {
		at += sizeof(note) + 8;
		p += sizeof(note) + 8;
	}
	if (call_back_at(p)) {
		at += CALL_BACK_BYTES;
		p += CALL_BACK_BYTES;
	}
	if (p[0] == 0x49 && p[1] == 0xbb) {
		at += LITERAL_BYTES;
		p += LITERAL_BYTES;
	}
	if (p[0] == 0xe8 && disp32(c, at + 1) == JUMP_BYTES && p[5] == 0xe9) {
		w->calls = true;
		at += 5 + JUMP_BYTES;
	} else if (p[0] == 0xe8) {
		w->stub = at + 5 + disp32(c, at + 1);
		w->calls = w->stub != c->b->stub_exit && w->stub != c->b->stub_exit_flags;
		if (!w->calls)
			w->id = exit_by_stub(c, at);
		return true;
	}
	p = c->b->rw + at;
	if (p[0] == 0x68) {
		w->id = (int32_t)disp32(c, at + 1);
		at += PUSH_SIZE;
		p += PUSH_SIZE;
	}
	w->stub = at + 5 + disp32(c, at + 1);
	return p[0] == 0xe9;
}

/* ---- with an id to a stub ---- */

/* Where the helpers go on: the same instruction again, and behind it. */
static bool rec_resumes(struct checker *c, const struct bt_rec *r, const struct state *s)
{
	return check_resume_retry(c, r, s) && (!r->goes_on || check_resume_next(c, r, s));
}

static bool fill_stub(struct checker *c, const struct state *s, const struct bt_rec *r)
{
	const struct value *offset = &s->reg[TEMP0], *index = &s->reg[TEMP1];

	if ((offset->kind != V_OFFSET && offset->kind != V_CHECKED) || index->kind != V_INDEX || offset->origin != index->number ||
	    offset->write != r->write)
		return check_fail(c, "a fill for another access");
	return rec_resumes(c, r, s);
}

/* The ways to another privilege that the block's own may ask for. */
static bool gate_stub(const struct checker *c, uint32_t to)
{
	const struct bt_cpu *b = c->b;

	if (c->block->mode & MODE_CODE32)
		return false;
	return to == b->stub_syscall || (!(c->block->mode & MODE_USER) && (to == b->stub_sysret || to == b->stub_iret));
}

static bool id_stub(struct checker *c, struct state *s, uint32_t to)
{
	const struct bt_cpu *b = c->b;
	int32_t id = s->pushed;

	if (s->expect ? to != s->expect : to != b->stub_insn && to != b->stub_cross && to != b->stub_string && !gate_stub(c, to))
		return check_fail(c, "a helper that nothing has asked for");
	if (to == b->stub_exit || to == b->stub_exit_flags || to == b->stub_poll)
		return exit_mine(c, id) ? true : check_fail(c, "another block's exit");
	if (!rec_mine(c, id))
		return check_fail(c, "another block's record");
	if (to == b->stub_fill)
		return fill_stub(c, s, rec_mine(c, id));
	if (to == b->stub_fp) /* never goes on behind without the unit */
		return check_resume_retry(c, rec_mine(c, id), s);
	if (to == b->stub_fill_lin || to == b->stub_insn || to == b->stub_string || gate_stub(c, to))
		return rec_resumes(c, rec_mine(c, id), s);
	if (to == b->stub_cross)
		return true;
	return check_fail(c, "leads out of the block to where it may not");
}

/* Stubs that take a guest address in TEMP0. */
static bool address_stub(struct checker *c, const struct state *s, uint32_t to)
{
	const struct bt_cpu *b = c->b;
	bool lookup = !s->ac && to == b->stub_lookup[c->block->mode & (MODE_USER | MODE_CODE32)];

	if (to != b->stub_miss && !lookup)
		return check_fail(c, "leads out of the block to where it may not");
	if (!check_readable(&s->reg[TEMP0]))
		return check_fail(c, "no guest address to look up");
	return true;
}

/* ---- exits ---- */

static bool exit_taken(struct checker *c, struct state *s, int32_t id, uint32_t to)
{
	const struct bt_exit *e = &c->b->exits[id];
	uint32_t mode = (c->block->mode & ~(uint32_t)MODE_AC) | (s->ac ? MODE_AC : 0);
	struct state failed;
	const struct bt_block *target = &c->b->blocks[e->target];
	uint64_t lin = bt_exit_lin(c->block, e);
	uint32_t stub = c->block->host + e->stub;
	bool cross = (lin ^ c->block->lin) & ~(uint64_t)(PAGE_SIZE - 1);
	struct way w;

	if (s->landing && (s->test.kind || s->jump != UINT32_MAX))
		return check_fail(c, "a return's address has not been compared");
	if (cross != e->looks || (cross && s->page != id))
		return check_fail(c, "goes to another page without a look where it is");
	if ((e->knows & ~check_known(s)) || (e->knows && s->ac))
		return check_fail(c, "promises what is not known");
	if (e->loops && (lin != c->block->lin || !check_loops(c, s, e->held)))
		return check_fail(c, "goes round without what the loop knows");
	if (lin <= c->block->lin && !s->polled && !s->landing && !c->block->tier2)
		return check_fail(c, "goes back without a look at what waits");
	if (!way_at(c, stub, &w) || w.id != id || (w.stub != c->b->stub_exit && w.stub != c->b->stub_exit_flags))
		return check_fail(c, "an exit without its stub");
	if (e->target) {
		if (target->dead || target->lin != lin || target->mode != mode || to != bt_entry(c->b, e, target))
			return check_fail(c, "leads into another block elsewhere than at its entry");
	} else if (to != stub) {
		return check_fail(c, "an exit that is not linked leads elsewhere");
	}
	failed = *s;
	failed.expect = w.stub;
	return check_reach(c, stub, &failed);
}

/* Behind a call: what came off the guest's stack is in TEMP0. */
static bool call_returns(struct checker *c, const struct state *s)
{
	struct state landing = { .ac = s->ac, .landing = true };

	return check_resume(c, next_at(c), &landing);
}

/* ---- conditional jumps ---- */

/* The number is that of the page of lin at gpa, or of none any more. */
static bool page_is(const struct checker *c, uint32_t id, uint64_t lin, uint64_t gpa)
{
	const struct bt_exec *x = &c->b->exec[id % EXEC_SIZE];
	uint64_t key = (lin & ~(uint64_t)(PAGE_SIZE - 1)) | ((c->block->mode & MODE_USER) != 0);

	if (c->block->mode & MODE_CODE32)
		key &= UINT32_MAX;
	return x->id != id || (x->lin == key && x->gpa == (gpa & ~(uint64_t)(PAGE_SIZE - 1)));
}

static bool exit_page(const struct checker *c, const struct bt_exit *e, uint32_t id)
{
	return !e->target || page_is(c, id, bt_exit_lin(c->block, e), bt_block_page(&c->b->blocks[e->target]));
}

/* The tests of the translator's own, each with the condition and the way that belong to it. */
static bool test_failed(struct checker *c, struct state *s, const struct way *w)
{
	const struct bt_cpu *b = c->b;
	const struct bt_rec *r = rec_mine(c, w->id);
	uint64_t lin = r ? bt_rec_lin(c->block, r) : 0;
	bool unequal = c->in.mnemonic == ZYDIS_MNEMONIC_JNZ, rec = rec_fits(c, w->id);

	switch (s->test.kind) {
	case T_OFFSET:
		return c->in.mnemonic == ZYDIS_MNEMONIC_JNBE && rec && w->stub == b->stub_fill && r->write == s->reg[TEMP0].write &&
		       s->test.imm == PAGE_SIZE - r->size && r->size;
	case T_TAG:
		return unequal && rec && w->stub == b->stub_fill_lin && r->write == s->test.write && r->size &&
		       (lin & ~(uint64_t)(PAGE_SIZE - 1)) == s->test.imm && (lin & (PAGE_SIZE - 1)) + r->size <= PAGE_SIZE;
	case T_LEVEL:
		return c->in.mnemonic == ZYDIS_MNEMONIC_JB && rec && w->stub == b->stub_fp && r->level == s->test.imm;
	case T_BASES: case T_PAUSES:
		return c->in.mnemonic == ZYDIS_MNEMONIC_JZ && rec && w->stub == b->stub_insn;
	case T_IRQ: case T_TSD: case T_CANONICAL: case T_SMALL:
		return unequal && rec && w->stub == b->stub_insn;
	case T_PAGE:
		if (w->stub == b->stub_cross)
			return unequal && rec && c->block->crosses && page_is(c, (uint32_t)s->test.imm, c->block->lin + PAGE_SIZE, bt_block_tail(b, c->block));
		return unequal && w->id >= 0 && w->id == exit_behind(c) && w->stub == b->stub_exit && b->exits[w->id].looks &&
		       (int32_t)(b->exits[w->id].site - LOOK_BEFORE) == s->test.at &&
		       exit_page(c, &b->exits[w->id], (uint32_t)s->test.imm);
	case T_POLL:
		return unequal && (w->id < 0 ? w->stub == b->stub_miss : w->id == exit_behind(c) && w->stub == b->stub_poll);
	case T_LANDING:
		return unequal && w->id < 0 && !w->calls && w->stub == b->stub_lookup[c->block->mode & (MODE_USER | MODE_CODE32)];
	case T_JUMP:
		return unequal && w->id < 0;
	default: return false;
	}
}

static uint16_t small_bit(int host)
{
	int guest = check_guest_register(host);

	return (uint16_t)(guest < 0 ? 0 : 1u << guest);
}

/* What is known when the jump was not taken. */
static void test_passed(struct checker *c, struct state *s, const struct way *w)
{
	const struct bt_rec *r = rec_mine(c, w->id);
	struct test t = s->test;

	s->test = (struct test){ 0 };
	switch (t.kind) {
	case T_OFFSET:
		if (s->reg[TEMP0].kind == V_OFFSET && s->reg[TEMP0].number == t.number) {
			s->reg[TEMP0].kind = V_CHECKED;
			s->reg[TEMP0].end = r->size;
		}
		break;
	case T_TAG:
		s->tag_at = t.at;
		s->tag_write = t.write;
		s->tag_start = bt_rec_lin(c->block, r) & (PAGE_SIZE - 1);
		s->tag_end = (uint16_t)(s->tag_start + r->size);
		break;
	case T_LEVEL: s->level = (uint8_t)t.imm; break;
	case T_TSD: s->no_tsd = true; break;
	case T_BASES: s->bases = true; break;
	case T_SMALL: s->facts.small |= small_bit((int)t.imm); break;
	case T_PAGE:
		if (w->stub == c->b->stub_exit)
			s->page = w->id;
		break;
	case T_POLL: s->polled = true; break;
	case T_LANDING: s->jump = UINT32_MAX; break;
	case T_JUMP: s->jump = t.number; break;
	default: break;
	}
}

/* jz over the one instruction that puts OF among the flags to be pushed. */
static bool over_one(const struct checker *c)
{
	const uint8_t *p = c->code + c->at + c->in.length;

	return c->in.mnemonic == ZYDIS_MNEMONIC_JZ && target_of(c) == next_at(c) + 7 && p[0] == 0x41 && p[1] == 0x81;
}

/* jz over the call of the stub that waits for a lock. */
static bool over_wait(const struct checker *c)
{
	uint32_t call = next_at(c);

	return c->in.mnemonic == ZYDIS_MNEMONIC_JZ && check_inside(c, call + JUMP_BYTES) && target_of(c) == call + JUMP_BYTES &&
	       c->b->rw[call] == 0xe8 && call + JUMP_BYTES + disp32(c, call + 1) == c->b->stub_contended;
}

static bool own_test(struct checker *c, struct state *s)
{
	struct state failed = *s;
	struct way w;

	if (s->test.kind == T_BIT) {
		if (!over_one(c))
			return check_fail(c, "leads elsewhere than over one instruction");
		s->test = (struct test){ 0 };
		return check_reach(c, target_of(c), s) && check_reach(c, next_at(c), s);
	}
	if (s->test.kind == T_GUESS) {
		unsigned guest = (unsigned)s->test.imm;

		/* Around the look-up and the store of its result. */
		if (c->in.mnemonic != ZYDIS_MNEMONIC_JZ || target_of(c) != next_at(c) + LOOK_UP_BYTES)
			return check_fail(c, "leads elsewhere than around a look-up");
		failed.test = s->test = (struct test){ 0 };
		check_guessed(s, guest);
		return check_reach(c, target_of(c), s) && check_reach(c, next_at(c), &failed);
	}
	if (s->test.kind == T_JUMP) {
		uint32_t to = target_of(c);

		/* The way to the look-up takes the salt off first. */
		if (!check_inside(c, to) || c->in.mnemonic != ZYDIS_MNEMONIC_JNZ || to < next_at(c))
			return check_fail(c, "a failed look-up leads elsewhere");
		w = (struct way){ .id = -1 };
	} else if (!way_at(c, target_of(c), &w) || !test_failed(c, s, &w)) {
		return check_fail(c, "a test whose failure does not lead to what it is for");
	}
	if (s->test.kind == T_LANDING) {
		int32_t id = exit_behind(c);

		if (id < 0 || bt_exit_lin(c->block, &c->b->exits[id]) != s->test.imm)
			return check_fail(c, "a return compared with another address");
	}
	failed.test = (struct test){ 0 };
	failed.expect = w.stub;
	if (!check_reach(c, target_of(c), &failed))
		return false;
	test_passed(c, s, &w);
	return check_reach(c, next_at(c), s);
}

/* 32-bit code: an offset near 4 GiB, whose access the interpreter does. */
static bool offset_test(const struct checker *c, const struct state *s, struct way *w)
{
	return s->test.kind == T_LANDING && !s->landing && (c->block->mode & MODE_CODE32) && c->in.mnemonic == ZYDIS_MNEMONIC_JNBE &&
	       way_at(c, target_of(c), w) && w->stub == c->b->stub_insn && w->id >= 0 && rec_fits(c, w->id);
}

static bool conditional(struct checker *c, struct state *s)
{
	int32_t id = exit_at(c, next_at(c) - 4), behind = exit_behind(c);
	bool landing_test = s->test.kind == T_LANDING && s->landing;
	struct state taken;
	struct way w;

	if (landing_test || (s->test.kind && s->test.kind != T_LANDING && s->test.kind != T_BOUND))
		return own_test(c, s);
	if (offset_test(c, s, &w)) {
		struct state failed = *s;

		failed.test = s->test = (struct test){ 0 };
		failed.expect = w.stub;
		return check_reach(c, target_of(c), &failed) && check_reach(c, next_at(c), s);
	}
	taken = *s;
	if (s->test.kind == T_BOUND && (c->in.mnemonic == ZYDIS_MNEMONIC_JB || c->in.mnemonic == ZYDIS_MNEMONIC_JBE) && s->reg[s->test.imm].number == s->test.number)
		taken.facts.small |= small_bit((int)s->test.imm);
	taken.test = s->test = (struct test){ 0 };
	if (over_wait(c))
		return check_reach(c, target_of(c), s) && check_reach(c, next_at(c), s);
	if (c->in.raw.imm[0].size == 32 && id >= 0)
		return exit_taken(c, &taken, id, target_of(c)) && check_reach(c, next_at(c), s);
	if (c->in.mnemonic == ZYDIS_MNEMONIC_LOOP || c->in.mnemonic == ZYDIS_MNEMONIC_LOOPE || c->in.mnemonic == ZYDIS_MNEMONIC_LOOPNE)
		s->reg[RCX] = check_data(c, 1), s->facts.home &= ~2, s->facts.small &= ~2;
	/* Around the way out that follows. */
	if (behind < 0 || target_of(c) != c->block->host + c->b->exits[behind].site + 4)
		return check_fail(c, "leads elsewhere than around a way out");
	return check_reach(c, target_of(c), s) && check_reach(c, next_at(c), s);
}

/* ---- jumps, calls ---- */

/* The address behind the block's one call. */
static bool is_landing(const struct checker *c, uint32_t at)
{
	return check_inside(c, at) && c->root[at - c->block->host].landing && at < c->block->host + c->at;
}

/* In case that its target is not canonical: a return that has landed elsewhere is noted by whoever returned, when called. */
static bool branch_known(struct checker *c, const struct state *s)
{
	return s->noted || (c->block->mode & MODE_CODE32) || check_fail(c, "looks up the target of an unknown branch");
}

static bool jump(struct checker *c, struct state *s)
{
	uint32_t to = target_of(c);
	int32_t id = exit_at(c, next_at(c) - 4);

	if (c->in.raw.imm[0].size != 32)
		return check_fail(c, "leads elsewhere than out of the block");
	if (s->pushed >= 0)
		return id_stub(c, s, to);
	if (id >= 0)
		return exit_taken(c, s, id, to);
	/* Behind the entries of who knows: the flags have been moved. */
	if (c->block->needs && to == c->block->host + MAX(c->block->known_direct, c->block->known_indirect))
		return check_reach(c, to, s);
	if (s->landing && is_landing(c, to))
		return s->reg[TEMP0].kind == V_DATA && check_resume(c, to, s);
	return branch_known(c, s) && address_stub(c, s, to);
}

/* Probes, and moves of the flags, that the block has called; then on behind. */
static bool call_probe(struct checker *c, struct state *s, unsigned size, bool write, bool fold)
{
	int32_t id = rec_called(c);
	const struct bt_rec *r = rec_mine(c, id);
	struct value v = check_data(c, 0);

	if (!r || r->size != size || r->write != write || !check_readable(&s->reg[TEMP0]))
		return check_fail(c, "a probe for another access");
	if (!rec_resumes(c, r, s))
		return false;
	v.kind = fold ? V_HOST : V_CHECKED;
	v.write = write;
	v.end = (uint16_t)size;
	s->reg[TEMP0] = v;
	s->reg[TEMP1] = (struct value){ .kind = fold ? V_NOTHING : V_PAGE, .origin = v.number, .number = check_data(c, 1).number };
	return true;
}

static bool call_stub(struct checker *c, struct state *s, uint32_t to, bool *handled)
{
	const struct bt_cpu *b = c->b;
	enum mmu_view view = mode_view((c->block->mode & ~(uint32_t)MODE_AC) | (s->ac ? MODE_AC : 0));

	*handled = true;
	s->test = (struct test){ 0 };
	s->facts.rax = 0;
	if (to == b->stub_flags_save || to == b->stub_flags_load) {
		s->reg[TEMP1] = check_data(c, 1);
		return check_reach(c, next_at(c), s);
	}
	for (int guest = 0; guest < 16 && view < VIEW_SUPERVISOR_AC; guest++) {
		if (to && to == b->stub_home[view][guest])
			return check_home_set(c, s, guest) && check_reach(c, next_at(c), s);
	}
	for (unsigned size = 1; size <= 64; size++) {
		for (unsigned n = 0; bt_probe_size(size) >= 0 && n < 4; n++) {
			if (to == b->stub_probe[bt_probe(size, n & 1, view, n & 2)])
				return call_probe(c, s, size, n & 1, n & 2) && check_reach(c, next_at(c), s);
		}
	}
	*handled = false;
	return true;
}

/* The end of what a landing has called: all is as unknown() in check.c has numbered it there. */
static bool goes_back(struct checker *c, const struct state *s)
{
	uint32_t base = s->reg[RAX].number;
	bool same = base >= 0x80000000u;

	for (unsigned i = 0; i < 16; i++)
		same &= i == RSP || i == TEMP1 || s->reg[i].number == base + i;
	for (unsigned i = 0; i < SLOTS; i++)
		same &= s->slot[i].number == base + 16 + i;
	return same || check_fail(c, "comes back to a landing with another value");
}

static bool call(struct checker *c, struct state *s)
{
	uint32_t to = target_of(c);
	int32_t id = exit_at(c, next_at(c) - 4);
	bool called = false;

	if (s->back && to == c->b->stub_returned) {
		s->noted = true;
		return check_reach(c, next_at(c), s);
	}
	if (s->back && to != c->b->stub_flags_save)
		return check_fail(c, "calls what it may not");
	if (id >= 0)
		return exit_taken(c, s, id, to) && call_returns(c, s);
	if (to == c->b->stub_exit || to == c->b->stub_exit_flags)
		return (s->expect == to && exit_by_stub(c, c->block->host + c->at) >= 0) || check_fail(c, "an exit that nothing leads to");
	if (!call_stub(c, s, to, &called) || called)
		return called;
	if (to == next_at(c) + JUMP_BYTES && c->code[c->at + 5] == 0xe9)
		return check_reach(c, to, s) && call_returns(c, s);
	/* Touches nothing. */
	if (to == c->b->stub_contended)
		return check_reach(c, next_at(c), s);
	if (to != c->b->stub_miss && to != c->b->stub_lookup[c->block->mode & (MODE_USER | MODE_CODE32)])
		return check_fail(c, "calls what it may not");
	return branch_known(c, s) && address_stub(c, s, to) && call_returns(c, s);
}

/* A landing calls whoever returned, who changes nothing but TEMP1. */
static bool call_back(struct checker *c, struct state *s)
{
	if (!s->landing || check_register(c->op[0].reg.value) != TEMP1 || s->reg[TEMP1].kind != V_BACK)
		return check_fail(c, "calls what it may not");
	s->reg[TEMP1] = (struct value){ .kind = V_NOTHING };
	s->noted = true;
	return check_reach(c, next_at(c), s);
}

static bool rsp_known(struct checker *c, const struct state *s)
{
	return !c->b->windows || (c->block->mode & MODE_CODE32) || known_bit(check_known(s), RSP) || check_fail(c, "goes on without a home of RSP");
}

/* By the jump cache. */
static bool through_cache(struct checker *c, struct state *s, bool calls)
{
	const ZydisDecodedOperand *m = &c->op[0];

	if (m->type != ZYDIS_OPERAND_TYPE_MEMORY || m->mem.segment != ZYDIS_REGISTER_GS || m->mem.base != ZYDIS_REGISTER_NONE ||
	    m->mem.index != ZYDIS_REGISTER_R11 || m->mem.scale != 8 || m->mem.disp.value != c->table + (int32_t)offsetof(struct bt_jumps, target) ||
	    m->size != 64 || s->reg[TEMP1].kind != V_MASKED || s->jump != s->reg[TEMP1].number)
		return check_fail(c, "goes by an entry whose tag has not been compared");
	if (!s->polled && !c->block->tier2)
		return check_fail(c, "goes on without a look at what waits");
	if (!rsp_known(c, s))
		return false;
	return !calls || call_returns(c, s);
}

bool check_flow(struct checker *c, struct state *s, bool *handled)
{
	bool relative = c->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	*handled = true;
	if (s->pushed >= 0 && !(c->in.mnemonic == ZYDIS_MNEMONIC_JMP && relative))
		return check_fail(c, "something is left on the host's stack");
	if (s->back && (c->in.meta.category == ZYDIS_CATEGORY_PUSH || c->in.meta.category == ZYDIS_CATEGORY_COND_BR || c->in.meta.category == ZYDIS_CATEGORY_UNCOND_BR))
		return check_fail(c, "goes elsewhere than back to a landing");
	switch (c->in.meta.category) {
	case ZYDIS_CATEGORY_PUSH:
		if (c->in.opcode != 0x68 || c->in.length != PUSH_SIZE)
			return check_fail(c, "pushes what is no id");
		s->pushed = (int32_t)c->op[0].imm.value.u;
		if (s->pushed < 0)
			return check_fail(c, "pushes what is no id");
		return check_reach(c, next_at(c), s);
	case ZYDIS_CATEGORY_COND_BR: return conditional(c, s);
	case ZYDIS_CATEGORY_UNCOND_BR: return relative ? jump(c, s) : through_cache(c, s, false);
	case ZYDIS_CATEGORY_CALL:
		if (relative)
			return call(c, s);
		return c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER ? call_back(c, s) : through_cache(c, s, true);
	case ZYDIS_CATEGORY_RET:
		if (s->back)
			return c->in.opcode == 0xc3 && c->in.length == 1 && branch_known(c, s) && goes_back(c, s);
		if (c->in.opcode != 0xc3 || c->in.length != 1 || !check_readable(&s->reg[TEMP0]))
			return check_fail(c, "returns otherwise than with a guest address");
		if (!rsp_known(c, s))
			return false;
		return s->reg[TEMP1].kind == V_BACK || check_fail(c, "returns without a way back to it");
	default:
		*handled = false;
		return true;
	}
}
