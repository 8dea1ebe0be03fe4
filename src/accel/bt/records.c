/*
 * Records of a block's instructions, packed: they are many and seldom asked for. Each is told by what differs from the
 * one before it, and is unpacked when C has to do with its instruction. Those that were needed last are kept: what
 * is only counted, and whether something has been decoded, is known of these alone.
 *
 * Compiled without vector registers, since they may hold the guest's.
 */
#include <string.h>

#include "accel/bt/emit.h"

/* Which members follow the lower bytes of `retry` and `next`. */
enum {
	HAS_GUEST = 1 << 0, HAS_SIZE = 1 << 1, HAS_HELD = 1 << 2, HAS_HELD_NEXT = 1 << 3, HAS_BITS = 1 << 4, HAS_VALUES = 1 << 5,
	HAS_DISP8 = 1 << 6, HAS_MORE = 1 << 7, /* in a second byte: */
	HAS_DISP = 1 << 0, HAS_FAR = 1 << 1, HAS_STRING = 1 << 2, HAS_X87 = 1 << 3,
};
_Static_assert(REC_BYTES_MAX >= 2 + 2 + 1 + 1 + 2 + 2 + 1 + 4 + 3 + 1 + 2, "all members");

static void put1(uint8_t **p, unsigned v) { *(*p)++ = (uint8_t)v; }
static void put2(uint8_t **p, unsigned v) { put1(p, v & 0xff), put1(p, v >> 8); }
static unsigned get1(const uint8_t **p) { return *(*p)++; }
static unsigned get2(const uint8_t **p) { unsigned low = get1(p); return low | get1(p) << 8; }

static unsigned values_of(const struct bt_rec *r) { return r->goes_on | (unsigned)r->value_retry << 1 | (unsigned)r->value_next << 3 | (unsigned)r->is_jump << 5 | (unsigned)r->is_call << 6; }
static unsigned bits_of(const struct bt_rec *r)
{
	return r->count | r->level << 4 | r->frame << 6 | r->write << 8 | r->window << 9 | r->flags_host << 10 | r->is_return << 11 |
	       r->constant << 12 | r->moves << 13 | r->narrow << 14;
}

static void bits_set(struct bt_rec *r, unsigned v)
{
	r->count = v & 15;
	r->level = v >> 4 & 3;
	r->frame = v >> 6 & 3;
	r->write = v >> 8 & 1;
	r->window = v >> 9 & 1;
	r->flags_host = v >> 10 & 1;
	r->is_return = v >> 11 & 1;
	r->constant = v >> 12 & 1;
	r->moves = v >> 13 & 1;
	r->narrow = v >> 14 & 1;
}

/* How far its places are from where they are expected. */
static unsigned retry_from(const struct bt_rec *r, const struct bt_rec *last) { return (uint16_t)(r->retry - last->retry); }
static unsigned length_of(const struct bt_rec *r) { return (uint16_t)(r->next - r->retry); }
static unsigned guest_from(const struct bt_rec *r, const struct bt_rec *last) { return (uint16_t)(r->guest - last->guest); }

static uint8_t *pack(uint8_t *p, const struct bt_rec *r, const struct bt_rec *last)
{
	unsigned retry = retry_from(r, last), length = length_of(r), guest = guest_from(r, last);
	bool far = (retry | length | guest) > 0xff, small = r->disp == (int8_t)r->disp;
	unsigned more = (small ? 0 : HAS_DISP) | (far ? HAS_FAR : 0) | (r->string != last->string ? HAS_STRING : 0) | (r->x87 ? HAS_X87 : 0);
	unsigned has = (guest ? HAS_GUEST : 0) | (r->size != last->size ? HAS_SIZE : 0) | (r->held[0] != last->held[1] ? HAS_HELD : 0) |
		       (r->held[1] != r->held[0] ? HAS_HELD_NEXT : 0) | (bits_of(r) != bits_of(last) ? HAS_BITS : 0) |
		       (values_of(r) != values_of(last) ? HAS_VALUES : 0) | (small && r->disp ? HAS_DISP8 : 0) | (more ? HAS_MORE : 0);

	put1(&p, has);
	if (more)
		put1(&p, more);
	put1(&p, retry & 0xff);
	put1(&p, length & 0xff);
	if (guest)
		put1(&p, guest & 0xff);
	if (has & HAS_SIZE)
		put1(&p, r->size);
	if (has & HAS_HELD)
		put1(&p, r->held[0]);
	if (has & HAS_HELD_NEXT)
		put1(&p, r->held[1]);
	if (has & HAS_BITS)
		put2(&p, bits_of(r));
	if (has & HAS_VALUES)
		put1(&p, values_of(r));
	if (has & HAS_DISP8)
		put1(&p, (uint8_t)r->disp);
	if (more & HAS_DISP)
		put2(&p, (uint32_t)r->disp & 0xffff), put2(&p, (uint32_t)r->disp >> 16);
	if (far)
		put1(&p, retry >> 8), put1(&p, length >> 8), put1(&p, guest >> 8);
	if (more & HAS_STRING)
		put1(&p, r->string);
	if (more & HAS_X87)
		put2(&p, r->x87);
	return p;
}

/* The one that follows *r, in its place. */
static void unpack(const uint8_t **p, struct bt_rec *r)
{
	unsigned has = get1(p), more = has & HAS_MORE ? get1(p) : 0, retry = get1(p), length = get1(p), guest = has & HAS_GUEST ? get1(p) : 0;
	unsigned values;

	r->id++;
	if (has & HAS_SIZE)
		r->size = (uint8_t)get1(p);
	r->held[0] = has & HAS_HELD ? (uint8_t)get1(p) : r->held[1];
	r->held[1] = has & HAS_HELD_NEXT ? (uint8_t)get1(p) : r->held[0];
	if (has & HAS_BITS)
		bits_set(r, get2(p));
	if (has & HAS_VALUES) {
		values = get1(p);
		r->goes_on = values & 1;
		r->value_retry = values >> 1 & 3;
		r->value_next = values >> 3 & 3;
		r->is_jump = values >> 5 & 1;
		r->is_call = values >> 6 & 1;
	}
	r->disp = has & HAS_DISP8 ? (int8_t)get1(p) : 0;
	if (more & HAS_DISP) {
		uint32_t low = get2(p);

		r->disp = (int32_t)(low | get2(p) << 16);
	}
	if (more & HAS_FAR)
		retry |= get1(p) << 8, length |= get1(p) << 8, guest |= get1(p) << 8;
	if (more & HAS_STRING)
		r->string = (uint8_t)get1(p);
	r->x87 = more & HAS_X87 ? (uint16_t)get2(p) : 0;
	r->retry = (uint16_t)(r->retry + retry);
	r->next = (uint16_t)(r->retry + length);
	r->guest = (uint16_t)(r->guest + guest);
}

void bt_recs_pack(struct bt_cpu *b, struct bt_block *k, const struct bt_rec *recs)
{
	static const struct bt_rec none;
	uint8_t *p = b->recs + b->rec_at;

	k->first_rec = b->rec_at;
	for (unsigned i = 0; i < k->recs; i++)
		p = pack(p, &recs[i], i ? &recs[i - 1] : &none);
	b->rec_at = (uint32_t)(p - b->recs);
}

/* Before the first. */
static struct bt_rec rec_before(const struct bt_cpu *b, const struct bt_block *k)
{
	return (struct bt_rec){ .id = bt_rec_first(b, k) - 1 };
}

void bt_recs_unpack(const struct bt_cpu *b, const struct bt_block *k, struct bt_rec *recs)
{
	const uint8_t *p = b->recs + k->first_rec;
	struct bt_rec r = rec_before(b, k);

	for (unsigned i = 0; i < k->recs; i++) {
		unpack(&p, &r);
		recs[i] = r;
	}
}

struct bt_rec bt_rec_read(const struct bt_cpu *b, uint32_t id)
{
	const struct bt_block *k = &b->blocks[id >> REC_SHIFT];
	const uint8_t *p = b->recs + k->first_rec;
	struct bt_rec r = rec_before(b, k);

	do
		unpack(&p, &r);
	while (r.id != id);
	return r;
}

/* ---- those that were needed last ---- */

void bt_recs_forget(struct bt_cpu *b)
{
	for (unsigned i = 0; i < RECS_OPEN; i++)
		b->open[i].id = REC_NONE;
}

static struct bt_rec *rec_open(struct bt_cpu *b, uint32_t id)
{
	struct bt_rec *r = &b->open[(id ^ id >> REC_SHIFT << 2) % RECS_OPEN];

	if (r->id != id)
		*r = bt_rec_read(b, id);
	return r;
}

struct bt_rec *bt_rec_at(struct bt_cpu *b, const uint8_t *host)
{
	const struct bt_block *k = bt_block_at(b, host);
	uint32_t at = k ? (uint32_t)(host - b->rx) - k->host : 0, found = REC_NONE;
	const uint8_t *p;
	struct bt_rec r;

	if (!k)
		return NULL;
	p = b->recs + k->first_rec;
	r = rec_before(b, k);
	/* An instruction with two accesses has two records; the second's code is within the first's. */
	for (unsigned i = 0; i < k->recs; i++) {
		unpack(&p, &r);
		if (r.retry <= at && at < r.next)
			found = r.id;
	}
	return found == REC_NONE ? NULL : rec_open(b, found);
}

struct bt_rec *bt_rec_of(struct bt_cpu *b, uint64_t id)
{
	return id <= UINT32_MAX ? rec_open(b, (uint32_t)id) : bt_rec_at(b, (const uint8_t *)id);
}

struct bt_rec *bt_rec_returned(struct bt_cpu *b, uint64_t from)
{
	const struct bt_block *k = bt_block_at(b, (const uint8_t *)from - CALL_BYTES);
	struct bt_rec recs[RECS_MAX];
	unsigned n = k->recs;

	bt_recs_unpack(b, k, recs);
	while (!recs[--n].is_return)
		;
	return rec_open(b, recs[n].id);
}
