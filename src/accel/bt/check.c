/*
 * The checker's frame: takes the block apart, follows every way through it, and joins what is known where ways meet.
 * Code is judged as it stands in the cache, jumps linked or not.
 */
#include <stdio.h>
#include <stdlib.h>

#include "accel/bt/check_state.h"

bool check_fail(struct checker *c, const char *what)
{
	if (c->why->len)
		return false;
	g_string_append_printf(c->why, "+%#x", c->at);
	if (c->in.length) {
		ZydisFormatter formatter;
		char text[128];

		ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
		ZydisFormatterFormatInstruction(&formatter, &c->in, c->op, c->in.operand_count_visible, text, sizeof(text), c->at, NULL);
		g_string_append_printf(c->why, " %s", text);
	}
	g_string_append_printf(c->why, ": %s", what);
	return false;
}

bool check_inside(const struct checker *c, uint32_t at)
{
	return at >= c->block->host && at < c->block->host + c->block->size;
}

/* ---- joining ---- */

static void value_join(struct value *into, const struct value *v, uint32_t number)
{
	if (!memcmp(into, v, sizeof(*v)))
		return;
	if (check_readable(into) && check_readable(v))
		*into = (struct value){ .kind = V_DATA, .number = number };
	else
		*into = (struct value){ .kind = V_NOTHING };
}

static void facts_join(struct facts *into, const struct facts *f)
{
	into->home &= f->home;
	into->small &= f->small;
	for (unsigned i = 0; i < 16; i++)
		into->drift[i] = MAX(into->drift[i], f->drift[i]);
	if (into->rax != f->rax || into->rax_home != f->rax_home || into->rax_small != f->rax_small)
		into->rax = 0;
}

static void state_join(struct state *into, const struct state *s, uint32_t at)
{
	uint32_t number = 0x80000000u | at * 32;

	for (unsigned i = 0; i < 16; i++)
		value_join(&into->reg[i], &s->reg[i], number + i);
	for (unsigned i = 0; i < SLOTS; i++)
		value_join(&into->slot[i], &s->slot[i], number + 16 + i);
	facts_join(&into->facts, &s->facts);
	check_homes_gone(into, (uint16_t)~into->facts.home);
	into->polled &= s->polled;
	into->no_tsd &= s->no_tsd;
	into->bases &= s->bases;
	into->noted &= s->noted;
	into->landing |= s->landing;
	into->back |= s->back;
	if (into->level > s->level)
		into->level = s->level;
	if (into->page != s->page)
		into->page = -1;
	if (into->jump != s->jump)
		into->jump = 0;
	if (memcmp(&into->test, &s->test, sizeof(s->test)))
		into->test = (struct test){ 0 };
	if (memcmp(&into->sum, &s->sum, sizeof(s->sum)))
		memset(&into->sum, 0, sizeof(into->sum));
	if (into->tag_at != s->tag_at || into->tag_write != s->tag_write || into->tag_start != s->tag_start || into->tag_end != s->tag_end)
		into->tag_at = -1;
}

bool check_reach(struct checker *c, uint32_t at, const struct state *s)
{
	uint32_t offset = at - c->block->host;
	struct state *into = &c->state[offset];

	if (!check_inside(c, at) || !c->start[offset] || offset <= c->at)
		return check_fail(c, "leads to where it may not");
	if (!into->seen) {
		*into = *s;
		into->seen = true;
		return true;
	}
	if (into->ac != s->ac || into->pushed != s->pushed || into->expect != s->expect)
		return check_fail(c, "ways meet with different stacks or privilege");
	state_join(into, s, offset);
	return true;
}

/* At an entry: guest registers hold the guest's data, the others anything. */
static struct state unknown(const struct checker *c, uint32_t at, const struct root *r)
{
	struct state s = {
		.seen = true, .ac = r->ac, .level = r->level, .landing = r->landing, .back = r->back, .pushed = -1, .page = -1, .tag_at = -1,
	};
	uint32_t number = 0x80000000u | at * 32;

	for (unsigned i = 0; i < 16; i++) {
		if (i != RSP && (i != TEMP0 || r->landing || r->back) && i != TEMP1)
			s.reg[i] = (struct value){ .kind = V_DATA, .number = number + i };
	}
	if (r->landing)
		s.reg[TEMP1].kind = V_BACK;
	for (unsigned i = 0; i < SLOTS; i++)
		s.slot[i] = (struct value){ .kind = V_DATA, .number = number + 16 + i };
	s.facts.home = r->knows & KNOWN_REGISTERS & ~PAIR_HOMES;
	for (unsigned i = 0; i < 16; i++)
		s.facts.drift[i] = KNOWN_NEAR;
	for (unsigned n = 0; r->loop && n < PAIRS; n++) {
		struct bt_pair p;

		if (check_pair(c, n, &p))
			s.facts.home |= (uint16_t)(1u << (PAIR_HOME + n));
		if (check_pair(c, n, &p) && p.bounded)
			s.facts.small |= (uint16_t)(1u << p.index);
	}
	return s;
}

bool check_resume(struct checker *c, uint32_t at, const struct state *s)
{
	uint32_t offset = at - c->block->host;
	struct root *r = &c->root[offset], was;

	if (!check_inside(c, at) || !c->start[offset])
		return check_fail(c, "goes on where no instruction of the block starts");
	was = *r;
	if (!r->seen)
		*r = (struct root){ .seen = true, .ac = s->ac, .landing = s->landing, .back = s->back, .level = s->level };
	if (r->ac != s->ac || r->landing != s->landing || r->back != s->back)
		return check_fail(c, "ways meet with different privilege, or a return with none");
	if (r->level > s->level)
		r->level = s->level;
	if (r->landing && c->b->windows && !(c->block->mode & MODE_CODE32))
		r->knows = 1u << RSP;
	c->again |= memcmp(r, &was, sizeof(was)) != 0;
	return true;
}

static bool resume_rec(struct checker *c, uint32_t at, uint8_t held, uint8_t value, const struct state *s)
{
	struct root *r = &c->root[at];
	uint8_t was = r->seen ? r->held : held, was_value = r->seen ? r->value : value;

	if (!check_resume(c, c->block->host + at, s))
		return false;
	if (was != held)
		held = 0;
	if (was_value != value)
		value = 0;
	c->again |= r->held != held || r->value != value;
	r->held = held;
	r->value = value;
	return true;
}

bool check_resume_next(struct checker *c, const struct bt_rec *r, const struct state *s) { return resume_rec(c, r->next, r->held[1], r->value_next, s); }
bool check_resume_retry(struct checker *c, const struct bt_rec *r, const struct state *s) { return resume_rec(c, r->retry, r->held[0], r->value_retry, s); }

/* ---- the block ---- */

static bool find_starts(struct checker *c, const ZydisDecoder *decoder)
{
	for (uint32_t i = 0; i < c->size; i += c->in.length) {
		c->at = i;
		c->start[i] = true;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, c->code + i, c->size - i, &c->in, c->op))) {
			c->in.length = 0;
			return check_fail(c, "no instruction");
		}
	}
	return true;
}

/* A host fault anywhere in a record's code goes on behind it. */
static bool reach_by_fault(struct checker *c, const struct state *s)
{
	uint32_t at = c->at;

	if (!check_may_fault(c))
		return true;
	for (unsigned i = 0; i < c->block->recs; i++) {
		const struct bt_rec *r = &c->recs[i];

		if (at < r->retry || at >= r->next)
			continue;
		if ((r->goes_on && !check_resume_next(c, r, s)) || (r->window && !check_resume_retry(c, r, s)))
			return false;
	}
	return true;
}

static bool visit(struct checker *c, const ZydisDecoder *decoder, uint32_t at)
{
	struct state s = c->state[at];
	bool handled = false;

	c->at = at;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, c->code + at, c->size - at, &c->in, c->op)))
		return check_fail(c, "no instruction");
	if (!reach_by_fault(c, &s) || !check_flow(c, &s, &handled))
		return false;
	return handled || (check_insn(c, &s) && check_reach(c, c->block->host + at + c->in.length, &s));
}

/* C has put a home into the scratch register, if it is one that is good. */
static void hold(struct state *s, unsigned reg, unsigned held)
{
	if (held && (s->facts.home >> (held - 1) & 1))
		s->reg[reg] = check_home_value((int)held - 1);
}

/* What a root and the ways from before agree on. */
static bool arrive(struct checker *c, uint32_t at)
{
	struct state *into = &c->state[at], s;

	if (!c->root[at].seen)
		return true;
	s = unknown(c, at, &c->root[at]);
	if (!into->seen) {
		*into = s;
		return true;
	}
	c->at = at;
	c->in.length = 0;
	if (into->ac != s.ac || into->pushed != s.pushed || into->expect != s.expect)
		return check_fail(c, "ways meet with different stacks or privilege");
	/* C does what the instruction before would have done, so what is known of registers' values holds on. */
	if (!c->root[at].entry && !c->root[at].landing && !c->root[at].back)
		s.facts = into->facts;
	hold(&s, TEMP0, c->root[at].held & 15);
	hold(&s, TEMP1, c->root[at].held >> 4);
	if (c->root[at].value)
		s.reg[TEMP1] = (struct value){ .kind = V_DATA, .number = (0x80000000u | at * 32) + 16 + SLOTS };
	state_join(into, &s, at);
	return true;
}

/* All ways but those to roots lead forward, so one pass is enough unless a root turns out to know less. */
static bool follow(struct checker *c, const ZydisDecoder *decoder)
{
	do {
		c->again = false;
		memset(c->state, 0, c->size * sizeof(*c->state));
		for (uint32_t i = 0; i < c->size; i++) {
			if (c->start[i] && (!arrive(c, i) || (c->state[i].seen && !visit(c, decoder, i))))
				return false;
		}
	} while (c->again);
	return true;
}

static bool enter(struct checker *c, uint32_t at, uint32_t knows)
{
	const struct state s = { .ac = c->block->mode & MODE_AC, .level = known_level(knows) };
	struct root *r = &c->root[at];

	if (!check_resume(c, c->block->host + at, &s))
		return false;
	r->knows = r->entry ? r->knows & knows : knows;
	r->entry = true;
	return true;
}

static bool enter_all(struct checker *c)
{
	const struct bt_block *k = c->block;

	if (k->loop) {
		uint32_t behind = k->loop + k->loop_loads * LOOP_LOAD;

		if (!k->recs || behind >= k->size || !enter(c, k->loop, k->needs) || !enter(c, behind, k->needs))
			return false;
		c->root[k->loop].loop = c->root[behind].loop = true;
		c->root[behind].held = c->recs[0].held[0];
		c->root[behind].value = c->recs[0].value_retry;
	}
	return enter(c, k->direct, 0) && enter(c, k->indirect, 0) && (!bt_behind_rsp(k) || enter(c, k->indirect + bt_behind_rsp(k), 1u << RSP)) && enter(c, k->known_direct, k->needs) && enter(c, k->known_indirect, k->needs);
}

/* Code that no way leads to should not be there. */
static bool all_reached(struct checker *c)
{
	for (uint32_t i = 0; i < c->size; i++) {
		c->at = i;
		c->in.length = 0;
		if (c->start[i] && !c->state[i].seen)
			return check_fail(c, "code that nothing leads to");
	}
	return true;
}

bool bt_check_block(const struct bt_cpu *b, const struct bt_block *block, GString *why)
{
	struct bt_rec recs[RECS_MAX];
	struct checker c = { .b = b, .block = block, .recs = recs, .first_rec = bt_rec_first(b, block), .code = b->rw + block->host, .size = block->size, .why = why };
	ZydisDecoder decoder;
	bool ok;

	bt_recs_unpack(b, block, recs);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	c.table = GS_OF(jump) + (int32_t)((block->mode & (MODE_USER | MODE_CODE32)) * sizeof(struct bt_jumps));
	c.state = g_new0(struct state, c.size + 1);
	c.root = g_new0(struct root, c.size + 1);
	c.start = g_new0(bool, c.size + 1);
	ok = find_starts(&c, &decoder) && enter_all(&c) && follow(&c, &decoder) && all_reached(&c);
	g_free(c.state);
	g_free(c.root);
	g_free(c.start);
	return ok;
}

void bt_check_emitted(struct bt_cpu *b, const struct bt_block *block, const uint8_t *guest)
{
	g_autoptr(GString) why = g_string_new(NULL);

	if (bt_check_block(b, block, why))
		return;
	fprintf(stderr, "translated code not as allowed: block %lx mode %x: %s\nguest", (unsigned long)block->lin, block->mode, why->str);
	for (unsigned i = 0; i < block->length; i++)
		fprintf(stderr, " %02x", guest[i]);
	fprintf(stderr, "\nhost");
	for (uint32_t i = 0; i < block->size; i++)
		fprintf(stderr, " %02x", b->rw[block->host + i]);
	fprintf(stderr, "\n");
	abort();
}
