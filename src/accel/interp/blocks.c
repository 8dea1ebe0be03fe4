/*
 * The decoded-block cache of one vCPU, keyed by physical address and code size. A block remembers
 * how often stores to its pages had been noticed; when that has changed it is compared with memory
 * and either used on or decoded anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "accel/interp/core.h"

#define HASH_SIZE 65536
#define JUMP_SIZE 16384
#define BLOCKS_LIMIT 65536 /* about 100 MiB at the most; then everything is dropped */

struct jump {
	uint64_t lin, epoch;
	const struct block *block;
};

struct blocks {
	struct block *hash[HASH_SIZE];
	struct jump jump[JUMP_SIZE];
	unsigned count;
	uint64_t decoded;
	uint64_t fetch_page; /* one-entry fetch TLB: linear page | view, with its epoch */
	uint64_t fetch_epoch;
	struct mmu_target fetch;
};

int blocks_init(struct icpu *cpu)
{
	cpu->blocks = calloc(1, sizeof(*cpu->blocks));
	return cpu->blocks ? 0 : -ENOMEM;
}

static void drop_all(struct blocks *b)
{
	for (unsigned i = 0; i < HASH_SIZE; i++) {
		while (b->hash[i]) {
			struct block *next = b->hash[i]->next;

			free(b->hash[i]);
			b->hash[i] = next;
		}
	}
	memset(b->jump, 0, sizeof(b->jump));
	b->count = 0;
}

void blocks_finish(struct icpu *cpu)
{
	if (cpu->blocks)
		drop_all(cpu->blocks);
	free(cpu->blocks);
}

uint64_t blocks_decoded(const struct icpu *cpu)
{
	return cpu->blocks->decoded;
}

/* ---- fetching ---- */

static void fetch_target(struct icpu *cpu, uint64_t lin, struct mmu_target *t)
{
	struct blocks *b = cpu->blocks;
	enum mmu_view view = cpu->cpl == 3 ? VIEW_USER : VIEW_SUPERVISOR;
	uint64_t page = (lin & ~(uint64_t)(PAGE_SIZE - 1)) | view | 0x800;

	if (b->fetch_page != page || b->fetch_epoch != cpu->mmu->map_epoch) {
		mmu_translate(cpu, lin, ACCESS_EXEC, view, &b->fetch); /* a fault names the very address */
		b->fetch.gpa -= lin & (PAGE_SIZE - 1);
		if (b->fetch.host)
			b->fetch.host -= lin & (PAGE_SIZE - 1);
		b->fetch_page = page;
		b->fetch_epoch = cpu->mmu->map_epoch;
	}
	*t = b->fetch;
	t->gpa += lin & (PAGE_SIZE - 1);
	if (t->host)
		t->host += lin & (PAGE_SIZE - 1);
}

static void poke_others(struct icpu *cpu)
{
	struct interp *in = cpu->interp;

	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		if (in->cpus[i] && in->cpus[i] != cpu)
			icpu_poke(in->cpus[i]);
	}
}

uint32_t blocks_watch_page(struct icpu *cpu, uint64_t gpa, uint32_t *epoch)
{
	struct interp *in = cpu->interp;
	uint64_t page = gpa >> PAGE_SHIFT;
	uint32_t written;
	bool first;

	*epoch = atomic_load(&in->code_epoch);
	if (page >= in->pages)
		return 0;
	/* First: a page that is released behind this has another `written` then. */
	written = atomic_load(&in->written[page]);
	g_mutex_lock(&in->code_lock);
	first = !atomic_exchange(&in->code[page], CODE_PAGE_PATIENCE);
	if (first)
		atomic_fetch_add(&in->code_epoch, 1);
	*epoch = atomic_load(&in->code_epoch);
	g_mutex_unlock(&in->code_lock);
	if (first)
		poke_others(cpu);
	/* Even when another vCPU was first: this one's own stores are noticed from here on. */
	mmu_sync_stores(cpu);
	return written;
}

bool blocks_settled(const struct icpu *cpu, uint32_t epoch)
{
	const struct interp *in = cpu->interp;

	for (unsigned i = 0; i < in->cfg.cpus; i++) {
		const struct icpu *other = in->cpus[i];

		if (other && other != cpu && !atomic_load(&other->away) && (int32_t)(atomic_load(&other->stores_epoch) - epoch) < 0)
			return false;
	}
	return true;
}

static uint32_t page_written(const struct icpu *cpu, uint64_t gpa)
{
	uint64_t page = gpa >> PAGE_SHIFT;

	return page < cpu->interp->pages ? atomic_load_explicit(&cpu->interp->written[page], memory_order_relaxed) : 0;
}

/* ---- blocks ---- */

static unsigned hash_of(uint64_t gpa, unsigned bits)
{
	return (unsigned)((gpa * UINT64_C(0x9e3779b97f4a7c15) >> 40) + bits) % HASH_SIZE;
}

/* Whether memory still holds what was decoded. */
static bool unchanged(const struct block *b, const uint8_t *host, const uint8_t *host2)
{
	unsigned done = 0, first = PAGE_SIZE - (b->gpa & (PAGE_SIZE - 1));

	for (unsigned i = 0; i < b->count; i++) {
		for (unsigned k = 0; k < b->insn[i].length; k++, done++) {
			uint8_t now = done < first ? host[done] : host2[done - first];

			if (b->insn[i].bytes[k] != now)
				return false;
		}
	}
	return true;
}

/* A block that crossed into a second page does so still only if the bytes before the crossing are what they were:
 * otherwise that page must not be looked for, since its absence would be a fault that the new code has not. */
static bool start_unchanged(const struct block *b, const uint8_t *host)
{
	return host && !memcmp(b->insn[0].bytes, host, PAGE_SIZE - (b->gpa & (PAGE_SIZE - 1)));
}

/* Decodes from `t` up to the end of the page; an instruction that crosses it is a block of its own. */
static struct block *decode_block(struct icpu *cpu, uint64_t lin, const struct mmu_target *t)
{
	struct insn insns[BLOCK_MAX];
	unsigned room = PAGE_SIZE - (lin & (PAGE_SIZE - 1)), count = 0, used = 0;
	uint8_t bytes[15];
	uint64_t gpa2 = 0;
	struct block *b;

	memset(bytes, 0xff, sizeof(bytes));
	while (count < BLOCK_MAX && used < room) {
		bool need_more;
		unsigned left = room - used < 15 ? room - used : 15;

		/* Decoded from a copy: memory may change between one look of the decoder's and the next. */
		if (t->host)
			memcpy(bytes, t->host + used, left);
		if (!insn_decode(cpu, bytes, left, &insns[count], &need_more)) {
			struct mmu_target second;
			uint8_t joined[15];

			if (count)
				break;
			fetch_target(cpu, cpu->code_bits == 64 ? lin + room : (uint32_t)(lin + room), &second);
			memset(joined, 0xff, sizeof(joined));
			memcpy(joined, bytes, left);
			if (second.host)
				memcpy(joined + left, second.host, 15 - left);
			gpa2 = second.gpa | 1;
			insn_decode(cpu, joined, 15, &insns[0], &need_more);
			insns[0].flags |= INSN_ENDS_BLOCK;
		}
		used += insns[count].length;
		if (insns[count++].flags & INSN_ENDS_BLOCK)
			break;
	}
	b = malloc(sizeof(*b) + count * sizeof(struct insn));
	if (!b)
		return NULL;
	memcpy(b->insn, insns, count * sizeof(struct insn));
	b->gpa = t->gpa;
	b->gpa2 = gpa2;
	b->length = (uint16_t)used;
	b->count = (uint8_t)count;
	b->bits = cpu->code_bits;
	return b;
}

static struct block **find_place(struct blocks *bs, uint64_t gpa, unsigned bits)
{
	struct block **p = &bs->hash[hash_of(gpa, bits)];

	while (*p && ((*p)->gpa != gpa || (*p)->bits != bits))
		p = &(*p)->next;
	return p;
}

/* Marks a page of a block's: the `written` at which the bytes, looked at from now on, are good without another look. */
static uint32_t watch_bytes(struct icpu *cpu, uint64_t gpa)
{
	uint32_t epoch, written = blocks_watch_page(cpu, gpa, &epoch);

	return blocks_settled(cpu, epoch) ? written : written - 1;
}

/* The block for a physical place, verified against memory. */
static const struct block *block_at(struct icpu *cpu, uint64_t lin, const struct mmu_target *t)
{
	struct blocks *bs = cpu->blocks;
	struct block **place = find_place(bs, t->gpa, cpu->code_bits), *b = *place;

	if (b) {
		struct mmu_target second = { 0 };
		uint64_t gpa2 = 0;
		uint32_t w, w2 = 0;

		if (b->gpa2 && start_unchanged(b, t->host)) {
			unsigned room = PAGE_SIZE - (lin & (PAGE_SIZE - 1));

			fetch_target(cpu, cpu->code_bits == 64 ? lin + room : (uint32_t)(lin + room), &second);
			gpa2 = second.gpa | 1;
		}
		if (gpa2 == b->gpa2 && b->written == page_written(cpu, b->gpa) &&
		    (!b->gpa2 || b->written2 == page_written(cpu, b->gpa2)))
			return b;
		w = watch_bytes(cpu, b->gpa);
		if (b->gpa2)
			w2 = watch_bytes(cpu, b->gpa2);
		if (gpa2 == b->gpa2 && t->host && (!b->gpa2 || second.host) && unchanged(b, t->host, second.host)) {
			b->written = w;
			b->written2 = w2;
			return b;
		}
		cpu->mmu->map_epoch++; /* look-ups may still name it */
		*place = b->next;
		free(b);
		bs->count--;
	}
	if (bs->count >= BLOCKS_LIMIT)
		drop_all(bs);
	{
		uint32_t w = watch_bytes(cpu, t->gpa);

		b = decode_block(cpu, lin, t);
		if (!b)
			return NULL;
		b->written = w;
		b->written2 = 0;
		if (b->gpa2) {
			/* The second page is watched from here on: verified at the next look-up. */
			b->written2 = watch_bytes(cpu, b->gpa2) - 1;
		}
	}
	place = &bs->hash[hash_of(b->gpa, b->bits)];
	b->next = *place;
	*place = b;
	bs->count++;
	bs->decoded++;
	return b;
}

const struct block *blocks_lookup(struct icpu *cpu)
{
	struct blocks *bs = cpu->blocks;
	uint64_t lin = cpu->s.rip;
	struct mmu_target t;
	struct jump *j;
	uint64_t key;

	if (cpu->code_bits != 64) {
		if ((uint32_t)lin > cpu->s.seg[SEG_CS].limit)
			cpu_raise_error(cpu, EXC_GP, 0);
		lin = (uint32_t)(lin + cpu->s.seg[SEG_CS].base);
	} else if ((uint64_t)((int64_t)(lin << 16) >> 16) != lin) {
		cpu_raise_error(cpu, EXC_GP, 0);
	}
	key = lin ^ (uint64_t)cpu->code_bits << 56 ^ (uint64_t)(cpu->cpl == 3) << 63;
	j = &bs->jump[(lin ^ lin >> 12) % JUMP_SIZE];
	if (j->block && j->lin == key && j->epoch == cpu->mmu->map_epoch && !j->block->gpa2 &&
	    j->block->written == page_written(cpu, j->block->gpa))
		return j->block;
	fetch_target(cpu, lin, &t);
	j->block = block_at(cpu, lin, &t);
	j->lin = key;
	j->epoch = cpu->mmu->map_epoch;
	return j->block;
}
