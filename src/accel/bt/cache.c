/*
 * The code cache of a vCPU: blocks by address, the guest pages they stand on, the jumps between them.
 * Compiled without vector registers, since they may hold the guest's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "accel/bt/translate.h"

#define PAGE_HASH_SIZE 16384u
/* Bytes of code for which there is room for one block, byte of records, exit, relocation, page: more than there will be. */
#define BYTES_PER_BLOCK 100u
#define BYTES_PER_REC 4u
#define BYTES_PER_EXIT 45u
#define BYTES_PER_RELOC 48u
#define BYTES_PER_PAGE 2048u
#define CODE_MIN (1u << 20)
/* What one find counts, and what part of a region's finds (2^-n) is forgotten with each that fills up. */
#define FIND 32u
#define FORGET 3u
/* A region where less than this part of the average has been found is of no use any more. */
#define USELESS_PART 2u
_Static_assert(sizeof(struct bt_block) == 64 && sizeof(struct bt_exit) == 24, "what a cache holds");

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

static bool map_code(struct bt_cpu *b)
{
	int fd = memfd_create("guise-bt", MFD_CLOEXEC);
	void *rw, *rx;

	if (fd < 0)
		return false;
	if (ftruncate(fd, (off_t)b->code_size) < 0) {
		close(fd);
		return false;
	}
	rw = mmap(NULL, b->code_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	rx = mmap(NULL, b->code_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	b->rw = rw == MAP_FAILED ? NULL : rw;
	b->rx = rx == MAP_FAILED ? NULL : rx;
	return b->rw && b->rx;
}

static bool map_returns(struct bt_cpu *b)
{
	b->return_stack = reserve(2 * RETURN_SPACE);
	return b->return_stack && !mprotect(b->return_stack, PAGE_SIZE, PROT_NONE) &&
	       !mprotect(b->return_stack + RETURN_SPACE, PAGE_SIZE, PROT_NONE);
}

/* There is room for so much of each kind that something else fills up first; what is not used is no memory. */
static size_t code_room(size_t bytes)
{
	size_t code = bytes * 5 / 8;

	return (code < CODE_MIN ? CODE_MIN : code) & ~(size_t)(PAGE_SIZE - 1);
}

static uint32_t part(uint32_t all, unsigned i) { return (uint32_t)((uint64_t)all * i / REGIONS); }

static void lay_out_regions(struct bt_cpu *b)
{
	uint32_t room = (uint32_t)b->code_size - b->code_start;

	/* Block 0 and exit 0 are nobody's. */
	for (unsigned i = 0; i <= REGIONS; i++)
		b->region[i] = (struct bt_region){ (b->code_start + part(room, i)) & ~(HINT - 1), 1 + part(b->block_max - 1, i), part(b->rec_max, i),
						   1 + part(b->exit_max - 1, i), part(b->reloc_max, i), 0, 0 };
	b->region[0].code = (b->code_start + HINT - 1) & ~(HINT - 1);
}

int bt_cache_init(struct bt_cpu *b, size_t bytes)
{
	b->code_size = code_room(bytes);
	b->block_max = (uint32_t)MIN(b->code_size / BYTES_PER_BLOCK, BLOCKS_MAX);
	b->rec_max = (uint32_t)(b->code_size / BYTES_PER_REC);
	b->exit_max = (uint32_t)(b->code_size / BYTES_PER_EXIT);
	b->reloc_max = (uint32_t)(b->code_size / BYTES_PER_RELOC);
	b->page_max = (uint32_t)(b->code_size / BYTES_PER_PAGE);
	for (b->hash_size = 1; b->hash_size * 2 < b->block_max;)
		b->hash_size *= 2;
	b->region_bytes = MAX(bytes - MIN(bytes, b->hash_size * sizeof(*b->hash)), 2 * CODE_MIN) / REGIONS;
	b->blocks = reserve(b->block_max * sizeof(*b->blocks));
	b->recs = reserve(b->rec_max);
	b->exits = reserve(b->exit_max * sizeof(*b->exits));
	b->relocs = reserve(b->reloc_max * sizeof(*b->relocs));
	b->pages = reserve(b->page_max * sizeof(*b->pages));
	b->hash = reserve(b->hash_size * sizeof(*b->hash));
	b->page_hash = reserve(PAGE_HASH_SIZE * sizeof(*b->page_hash));
	b->block_hint = reserve((b->code_size / HINT + 1) * sizeof(*b->block_hint));
	b->decoded = reserve(DECODED * sizeof(*b->decoded));
	b->gone = reserve(GONE_WORDS * sizeof(*b->gone));
	if (!b->block_hint || !b->decoded || !b->gone || !b->blocks || !b->recs || !b->exits || !b->relocs || !b->pages || !b->hash || !b->page_hash || !map_code(b) || !map_returns(b))
		return -ENOMEM;
	bt_stubs_make(b);
	lay_out_regions(b);
	bt_cache_flush(b);
	b->stats.flushes = b->stats.evictions = 0;
	return 0;
}

/* What of a region is in use. */
static struct bt_region region_now(const struct bt_cpu *b, unsigned i)
{
	struct bt_region r = b->region[i];

	if (i == b->filling)
		r.blocks = b->block_count - r.block;
	return r;
}

/* The region is empty, and the next to be filled. */
static void region_begin(struct bt_cpu *b, unsigned i)
{
	struct bt_region *r = &b->region[i];

	r->blocks = 0;
	r->used = 0;
	b->filling = i;
	b->made = b->again = 0;
	b->at = r->code;
	b->block_count = r->block;
	b->rec_at = r->rec;
	bt_recs_forget(b);
	b->exit_count = r->exit;
	b->reloc_count = r->reloc;
}

void bt_cache_finish(struct bt_cpu *b)
{
	release(b->rw, b->code_size);
	release(b->rx, b->code_size);
	release(b->blocks, b->block_max * sizeof(*b->blocks));
	release(b->recs, b->rec_max);
	release(b->exits, b->exit_max * sizeof(*b->exits));
	release(b->relocs, b->reloc_max * sizeof(*b->relocs));
	release(b->pages, b->page_max * sizeof(*b->pages));
	release(b->hash, b->hash_size * sizeof(*b->hash));
	release(b->page_hash, PAGE_HASH_SIZE * sizeof(*b->page_hash));
	release(b->block_hint, (b->code_size / HINT + 1) * sizeof(*b->block_hint));
	release(b->decoded, DECODED * sizeof(*b->decoded));
	release(b->gone, GONE_WORDS * sizeof(*b->gone));
	release(b->return_stack, 2 * RETURN_SPACE);
}

void bt_returns_forget(struct bt_cpu *b, bool user)
{
	uint64_t *top = (uint64_t *)(b->return_stack + (user ? RETURN_SPACE : 0) + PAGE_SIZE + RETURN_STACK);

	*top = (uint64_t)(b->rx + b->stub_bottom);
	*(user == b->returns_user ? &b->return_sp : &b->returns_sp[user]) = (uint64_t)top;
}

void bt_returns_switch(struct bt_cpu *b)
{
	bool user = b->mode & MODE_USER;
	uint32_t mode = b->mode & ~(uint32_t)MODE_AC;

	if (user != b->returns_user) {
		b->returns_sp[!user] = b->return_sp;
		b->return_sp = b->returns_sp[user];
		b->returns_user = user;
	}
	/* A landing goes on in the mode of its call. */
	if (b->returns_mode[user] != mode)
		bt_returns_forget(b, user);
	b->returns_mode[user] = mode;
}

void bt_cache_flush(struct bt_cpu *b)
{
	for (unsigned i = 0; i < REGIONS; i++)
		b->region[i].blocks = 0;
	memset(b->hash, 0, b->hash_size * sizeof(*b->hash));
	memset(b->page_hash, 0, PAGE_HASH_SIZE * sizeof(*b->page_hash));
	bt_jumps_forget(b);
	region_begin(b, 0);
	b->page_count = b->page_free = 0;
	b->free_pages = NULL;
	bt_returns_forget(b, false);
	bt_returns_forget(b, true);
	b->stats.flushes++;
	b->stats.evictions++;
}

/* ---- look-up ---- */

static uint64_t block_hash(uint64_t gpa, uint32_t mode) { return (gpa ^ (uint64_t)mode << 40) * UINT64_C(0xff51afd7ed558ccd); }
static uint32_t *hash_place(struct bt_cpu *b, uint64_t hash) { return &b->hash[(unsigned)(hash >> 32) & (b->hash_size - 1)]; }
static uint32_t link_bits(uint64_t hash) { return (uint32_t)hash & ~LINK_BLOCK; }
static bool is_for(const struct bt_block *k, uint64_t gpa, uint32_t mode) { return k->mode == mode && bt_block_gpa(k) == gpa; }

/* The first block behind the link, itself included, that is for gpa and mode. */
static struct bt_block *chain_find(struct bt_cpu *b, uint32_t link, uint64_t gpa, uint32_t mode)
{
	uint32_t bits = link_bits(block_hash(gpa, mode));

	for (; link; link = b->blocks[link & LINK_BLOCK].hash_next) {
		struct bt_block *k = &b->blocks[link & LINK_BLOCK];

		if ((link & ~LINK_BLOCK) == bits && is_for(k, gpa, mode))
			return k;
	}
	return NULL;
}

struct bt_block *bt_block_first(struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	return chain_find(b, *hash_place(b, block_hash(gpa, mode)), gpa, mode);
}

struct bt_block *bt_block_next(struct bt_cpu *b, const struct bt_block *k) { return chain_find(b, k->hash_next, bt_block_gpa(k), k->mode); }

struct bt_block *bt_block_find(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode)
{
	for (struct bt_block *k = bt_block_first(b, gpa, mode); k; k = bt_block_next(b, k)) {
		if (k->lin != lin)
			continue;
		bt_block_used(b, k);
		return k;
	}
	return NULL;
}

static struct bt_page **page_place(struct bt_cpu *b, uint64_t gpa)
{
	struct bt_page **p = &b->page_hash[(gpa >> PAGE_SHIFT) % PAGE_HASH_SIZE];

	while (*p && (*p)->gpa != gpa)
		p = &(*p)->next;
	return p;
}

uint32_t bt_page_blocks(struct bt_cpu *b, uint64_t gpa)
{
	const struct bt_page *p = *page_place(b, gpa);

	return p ? p->blocks : 0;
}

/* The 64-byte lines of a page that hold [offset, offset + len). */
static uint64_t lines_of(unsigned offset, unsigned len)
{
	unsigned first = offset / 64, last = (offset + len - 1) / 64;

	if (last > 63)
		last = 63;
	return (~UINT64_C(0) >> (63 - (last - first))) << first;
}

static struct bt_page *page_get(struct bt_cpu *b, uint64_t gpa)
{
	struct bt_page **p = page_place(b, gpa);

	if (*p)
		return *p;
	if (b->free_pages) {
		*p = b->free_pages;
		b->free_pages = (*p)->next;
		b->page_free--;
	} else {
		*p = &b->pages[b->page_count++];
	}
	**p = (struct bt_page){ .gpa = gpa };
	return *p;
}

/*
 * What of the flags matters behind a way out that leads to the block's own page, and by what bytes there, when not all were
 * found to matter: the block stands on these bytes as well. False when that is not so.
 */
static bool look_ahead(struct bt_cpu *b, const struct bt_block *k, const struct bt_exit *e, struct bt_look *look, uint8_t *live)
{
	uint64_t lin = bt_exit_lin(k, e);
	const struct mem_slot *slot;

	look->count = 0;
	*live = GF_ALL;
	if (e->live == GF_ALL || (lin ^ k->lin) >> PAGE_SHIFT)
		return false;
	if (b->fp_level)
		bt_fp_save(b);
	slot = mem_find(b->cpu.mem, bt_block_page(k));
	if (slot)
		*live = bt_live_on_page(mem_slot_host(slot, bt_block_page(k)), (unsigned)(lin & (PAGE_SIZE - 1)), k->mode & MODE_CODE32, look);
	return true;
}

static uint64_t block_lines(struct bt_cpu *b, const struct bt_block *k)
{
	uint64_t lines = lines_of((unsigned)(k->lin & (PAGE_SIZE - 1)), k->length);

	for (unsigned i = 0; i < k->exits; i++) {
		struct bt_exit *e = &b->exits[k->first_exit + i];
		struct bt_look look;
		uint8_t live;

		look_ahead(b, k, e, &look, &live);
		e->stands = 0;
		for (unsigned n = 0; n < look.count; n++) {
			unsigned first = look.at[n], last = look.at[n] + look.length[n] - 1u;

			lines |= lines_of(first, look.length[n]);
			e->stands |= (1u << last / LOOK_PART | 1u << first / LOOK_PART) & 15;
		}
	}
	return lines;
}

/* Whether more flags matter behind the block's ways out than when it was made, since bytes on its page have changed. */
static bool more_matters(struct bt_cpu *b, const struct bt_block *k, unsigned offset, unsigned len)
{
	for (unsigned i = 0; i < k->exits; i++) {
		const struct bt_exit *e = &b->exits[k->first_exit + i];
		struct bt_look look;
		uint8_t live;

		for (unsigned part = offset / LOOK_PART; part <= (offset + len - 1) / LOOK_PART; part++) {
			if (!(e->stands >> part & 1))
				continue;
			if (look_ahead(b, k, e, &look, &live) && (live & ~e->live))
				return true;
			break;
		}
	}
	return false;
}

/* The block's bit in the set of those that went. */
static uint64_t gone_bit(const struct bt_block *k, unsigned *word)
{
	uint64_t h = (bt_block_gpa(k) ^ (uint64_t)k->mode << 48) * UINT64_C(0x9e3779b97f4a7c15);

	*word = (unsigned)(h >> 40) % GONE_WORDS;
	return UINT64_C(1) << (h >> 34 & 63);
}

static void link_in(struct bt_cpu *b, struct bt_block *block)
{
	uint64_t hash = block_hash(bt_block_gpa(block), block->mode);
	uint32_t *place = hash_place(b, hash), n = bt_number(b, block);
	struct bt_page *p = page_get(b, bt_block_page(block));

	block->hash_next = *place;
	*place = n | link_bits(hash);
	p->lines |= block_lines(b, block);
	block->page_next = p->blocks;
	p->blocks = n;
	if (block->crosses) {
		p = page_get(b, bt_block_tail(b, block));
		p->lines |= 1;
		block->tail_next = p->tails;
		p->tails = n;
	}
	for (uint32_t at = (block->host + HINT - 1) / HINT; at * HINT < b->at; at++)
		b->block_hint[at] = n;
}

void bt_block_add(struct bt_cpu *b, struct bt_block *block)
{
	unsigned word;
	uint64_t bit = gone_bit(block, &word);

	b->made++;
	b->again += (b->gone[word] & bit) != 0;
	link_in(b, block);
}

struct bt_block *bt_block_at(struct bt_cpu *b, const uint8_t *host)
{
	uint32_t at, n, end;
	struct bt_region r;
	unsigned i = 0;

	if (host < b->rx + b->region[0].code || host >= b->rx + b->code_size)
		return NULL;
	at = (uint32_t)(host - b->rx);
	while (i < REGIONS - 1 && at >= b->region[i + 1].code)
		i++;
	r = region_now(b, i);
	if (!r.blocks)
		return NULL;
	n = b->block_hint[at / HINT];
	end = r.block + r.blocks;
	/* Behind what the region holds, what it held before is left. */
	if (n < r.block || n >= end)
		return NULL;
	if (b->blocks[n].host > at)
		return NULL;
	while (n + 1 < end && b->blocks[n + 1].host <= at)
		n++;
	return &b->blocks[n];
}

struct bt_exit *bt_exit_of(struct bt_cpu *b, uint64_t id)
{
	const uint8_t *stub = (const uint8_t *)id - CALL_BYTES;
	const struct bt_block *k;
	unsigned i = 0;

	if (id <= UINT32_MAX)
		return &b->exits[id];
	k = bt_block_at(b, stub);
	while (bt_code(b, k, b->exits[k->first_exit + i].stub) != stub)
		i++;
	return &b->exits[k->first_exit + i];
}

/* ---- jumps between blocks ---- */

/* The page that the target is in must be where it is now. */
static void link_page(struct bt_cpu *b, const struct bt_exit *e, const struct bt_block *target)
{
	const struct bt_exec *x = bt_exec_known(b, target->lin);
	uint32_t id = x ? x->id : BT_NO_EXEC, disp = (uint32_t)GS_OF(mapped) + id % EXEC_SIZE * 4, now;

	uint8_t *site = b->rw + b->blocks[e->block].host + e->site - LOOK_BEFORE;

	memcpy(&now, site + 4, 4);
	if (now == id)
		return;
	memcpy(site, &disp, 4);
	memcpy(site + 4, &id, 4);
}

/* Takes the exit out of its target's list. */
static void target_forget(struct bt_cpu *b, const struct bt_exit *e)
{
	uint32_t *p = &b->blocks[e->target].incoming;

	while (&b->exits[*p] != e)
		p = &b->exits[*p].next;
	*p = e->next;
}

void bt_link(struct bt_cpu *b, struct bt_exit *e, struct bt_block *target)
{
	struct bt_block *from = &b->blocks[e->block];

	if (from->dead)
		return;
	if (e->looks)
		link_page(b, e, target);
	if (e->target == bt_number(b, target))
		return;
	if (e->target)
		target_forget(b, e);
	emit_patch(b->rw, from->host + e->site, bt_entry(b, e, target));
	e->target = bt_number(b, target);
	e->next = target->incoming;
	target->incoming = (uint32_t)(e - b->exits);
}

void bt_jump_set(struct bt_cpu *b, const struct bt_block *block)
{
	struct bt_jumps *j = &b->jump[block->mode & (MODE_USER | MODE_CODE32)];
	unsigned i = bt_jump_index(block->lin);

	if (block->mode & MODE_AC)
		return;
	j->tag[i] = block->lin ^ b->salt[block->mode & MODE_USER ? 1 : 0] ^ (block->direct == block->indirect ? 0 : JUMP_FLAGS);
	j->target[i] = bt_jump_entry(b, block);
}

/* What was never used is not even touched. */
void bt_jumps_forget(struct bt_cpu *b)
{
	for (unsigned m = 0; m < 4; m++) {
		for (unsigned i = 0; i < JUMP_SIZE; i++) {
			if (b->jump[m].tag[i] != bt_jump_empty(i))
				b->jump[m].tag[i] = bt_jump_empty(i);
		}
	}
}

static void unlink_exit(struct bt_cpu *b, struct bt_exit *e)
{
	uint32_t host = b->blocks[e->block].host;

	emit_patch(b->rw, host + e->site, host + e->stub);
	e->target = 0;
}

static void unlink_exits(struct bt_cpu *b, const struct bt_block *k)
{
	for (unsigned i = 0; i < k->exits; i++) {
		struct bt_exit *e = &b->exits[k->first_exit + i];

		if (!e->target)
			continue;
		target_forget(b, e);
		unlink_exit(b, e);
	}
}

/* The JNE behind an indirect jump's comparison, as it is and diverted: NOP, JMP. */
static const uint8_t leaves_if[] = { 0x0f, 0x85 }, leaves[] = { 0x90, 0xe9 };

static uint8_t *indirect_jump(struct bt_cpu *b, const struct bt_block *k)
{
	struct bt_rec recs[RECS_MAX];

	bt_recs_unpack(b, k, recs);
	for (unsigned i = k->recs; i-- > 0;) {
		if (recs[i].is_jump)
			return b->rw + k->host + recs[i].leaves;
	}
	return NULL;
}

/* Its indirect jump finds nothing in the jump cache. */
static void divert(struct bt_cpu *b, const struct bt_block *k)
{
	uint8_t *at = k->tier2 ? indirect_jump(b, k) : NULL;

	if (!at || memcmp(at, leaves_if, sizeof(leaves_if)))
		return;
	memcpy(at, leaves, sizeof(leaves));
	/* One too many would stay so: it does what it should, by a longer way. */
	if (b->diverted_count < DIVERTED)
		b->diverted[b->diverted_count++] = bt_number(b, k);
}

void bt_rechain(struct bt_cpu *b)
{
	while (b->diverted_count) {
		uint8_t *at = indirect_jump(b, &b->blocks[b->diverted[--b->diverted_count]]);

		if (at && !memcmp(at, leaves, sizeof(leaves)))
			memcpy(at, leaves_if, sizeof(leaves_if));
	}
}

static void unchain_block(struct bt_cpu *b, const uint8_t *at)
{
	struct bt_block *k = bt_block_at(b, at);

	if (!k)
		return;
	unlink_exits(b, k);
	divert(b, k);
}

void bt_unchain(struct bt_cpu *b, const uint8_t *at, const uint64_t *return_sp)
{
	uint64_t place = (uint64_t)((const uint8_t *)return_sp - b->return_stack);

	unchain_block(b, at);
	/* A block that ends with a return goes on there. */
	if (place < 2 * RETURN_SPACE && place % RETURN_SPACE >= PAGE_SIZE && place % RETURN_SPACE <= PAGE_SIZE + RETURN_STACK)
		unchain_block(b, (const uint8_t *)*return_sp);
}

static void drop_jump(struct bt_cpu *b, const struct bt_block *block)
{
	unsigned i = bt_jump_index(block->lin);
	struct bt_jumps *j = &b->jump[block->mode & (MODE_USER | MODE_CODE32)];

	if (j->target[i] == bt_jump_entry(b, block))
		j->tag[i] = bt_jump_empty(i);
}

void bt_block_unlink(struct bt_cpu *b, struct bt_block *block)
{
	while (block->incoming) {
		struct bt_exit *e = &b->exits[block->incoming];

		block->incoming = e->next;
		unlink_exit(b, e);
	}
	unlink_exits(b, block);
	drop_jump(b, block);
}

static void hash_forget(struct bt_cpu *b, const struct bt_block *k)
{
	uint32_t *p = hash_place(b, block_hash(bt_block_gpa(k), k->mode));

	while (&b->blocks[*p & LINK_BLOCK] != k)
		p = &b->blocks[*p & LINK_BLOCK].hash_next;
	*p = k->hash_next;
}

void bt_block_kill(struct bt_cpu *b, struct bt_block *block)
{
	if (block->dead)
		return;
	hash_forget(b, block);
	bt_block_unlink(b, block);
	block->dead = true;
	b->landings_gone = true;
	b->stats.invalidated++;
}

/* ---- changes of code ---- */

static void lines_changed(struct bt_cpu *b, struct bt_page *page, unsigned offset, unsigned len)
{
	uint32_t *p = &page->blocks;

	page->lines = 0;
	while (*p) {
		struct bt_block *k = &b->blocks[*p];
		unsigned first = (unsigned)(k->lin & (PAGE_SIZE - 1));

		if (!k->dead && ((first < offset + len && offset < first + k->length) || more_matters(b, k, offset, len))) {
			*p = k->page_next;
			bt_block_kill(b, k);
		} else if (k->dead) {
			*p = k->page_next;
		} else {
			page->lines |= block_lines(b, k);
			p = &k->page_next;
		}
	}
	/* A tail is at most 14 bytes. */
	if (offset < 64) {
		for (uint32_t n = page->tails; n; n = b->blocks[n].tail_next)
			bt_block_kill(b, &b->blocks[n]);
		page->tails = 0;
	} else if (page->tails) {
		page->lines |= 1;
	}
}

static void page_changed(struct bt_cpu *b, struct bt_page *page, unsigned offset, unsigned len)
{
	if (page->lines & lines_of(offset, len))
		lines_changed(b, page, offset, len);
	/* A return may lead to a block that is gone, and that knew of the code behind its call what is no longer true. */
	if (b->landings_gone) {
		bt_returns_forget(b, false);
		bt_returns_forget(b, true);
		b->landings_gone = false;
	}
}

uint64_t bt_page_lines(struct bt_cpu *b, uint64_t gpa)
{
	const struct bt_page *page = *page_place(b, gpa);

	return page ? page->lines : 0;
}

void bt_code_changed(struct bt_cpu *b, uint64_t gpa, uint64_t len)
{
	while (len) {
		unsigned offset = (unsigned)(gpa & (PAGE_SIZE - 1));
		uint64_t here = PAGE_SIZE - offset < len ? PAGE_SIZE - offset : len;
		struct bt_page *page = *page_place(b, gpa - offset);

		if (page)
			page_changed(b, page, offset, (unsigned)here);
		gpa += here;
		len -= here;
	}
}

/* ---- room ---- */

static bool in_region(const struct bt_region *r, uint32_t block) { return block >= r->block && block < r->block + r->blocks; }

/* Nothing leads to the block any more. */
static void forget_block(struct bt_cpu *b, struct bt_block *k)
{
	hash_forget(b, k);
	for (uint32_t n = k->incoming; n; n = b->exits[n].next)
		unlink_exit(b, &b->exits[n]);
	k->incoming = 0;
	drop_jump(b, k);
	k->dead = true;
}

/* Of the jumps to a block elsewhere, those from the region go: all at once, since there may be many. */
static void forget_incoming(const struct bt_cpu *b, const struct bt_region *r, struct bt_block *target)
{
	uint32_t *p = &target->incoming;

	while (*p) {
		struct bt_exit *e = &b->exits[*p];

		if (in_region(r, e->block)) {
			*p = e->next;
			e->target = 0;
		} else {
			p = &e->next;
		}
	}
}

/* The same for a page's blocks. */
static void forget_page(struct bt_cpu *b, const struct bt_region *r, uint64_t gpa)
{
	struct bt_page **place = page_place(b, gpa), *page = *place;
	uint32_t *p;

	if (!page || page->seen == b->stats.evictions)
		return;
	page->seen = b->stats.evictions;
	page->lines = 0;
	for (p = &page->blocks; *p;) {
		struct bt_block *k = &b->blocks[*p];

		if (k->dead || in_region(r, *p)) {
			*p = k->page_next;
			continue;
		}
		page->lines |= block_lines(b, k);
		p = &k->page_next;
	}
	for (p = &page->tails; *p;) {
		if (b->blocks[*p].dead || in_region(r, *p))
			*p = b->blocks[*p].tail_next;
		else
			p = &b->blocks[*p].tail_next;
	}
	if (page->tails)
		page->lines |= 1;
	if (page->blocks || page->tails)
		return;
	*place = page->next;
	page->next = b->free_pages;
	b->free_pages = page;
	b->page_free++;
}

static void region_evict(struct bt_cpu *b, unsigned i)
{
	const struct bt_region r = region_now(b, i);

	if (++b->stats.evictions % GONE_EVICTIONS == 0)
		memset(b->gone, 0, GONE_WORDS * sizeof(*b->gone));
	for (uint32_t n = r.block; n < r.block + r.blocks; n++) {
		unsigned word;
		uint64_t bit = gone_bit(&b->blocks[n], &word);

		if (b->blocks[n].dead)
			continue;
		b->gone[word] |= bit;
		forget_block(b, &b->blocks[n]);
	}
	for (uint32_t n = r.block; n < r.block + r.blocks; n++) {
		const struct bt_block *k = &b->blocks[n];

		for (unsigned x = 0; x < k->exits; x++) {
			if (b->exits[k->first_exit + x].target)
				forget_incoming(b, &r, &b->blocks[b->exits[k->first_exit + x].target]);
		}
		forget_page(b, &r, bt_block_page(k));
		if (k->crosses)
			forget_page(b, &r, bt_block_tail(b, k));
	}
	/* Landings of calls. */
	bt_returns_forget(b, false);
	bt_returns_forget(b, true);
}

/* What the region that is being filled takes. */
static size_t bytes_used(const struct bt_cpu *b)
{
	const struct bt_region *r = &b->region[b->filling];

	return b->at - r->code + (b->block_count - r->block) * sizeof(*b->blocks) + b->rec_at - r->rec + (b->exit_count - r->exit) * sizeof(*b->exits) +
	       (b->reloc_count - r->reloc) * sizeof(*b->relocs);
}

static bool region_full(const struct bt_cpu *b)
{
	const struct bt_region *end = &b->region[b->filling + 1];

	return bytes_used(b) >= b->region_bytes || b->at + BLOCK_CODE_MAX > end->code || b->block_count + 1 >= end->block || b->rec_at + RECS_MAX * REC_BYTES_MAX >= end->rec ||
	       b->exit_count + BLOCK_LATER >= end->exit || b->reloc_count + BLOCK_RELOCS >= end->reloc;
}

void bt_block_used(struct bt_cpu *b, const struct bt_block *block)
{
	uint64_t i = (uint64_t)(bt_number(b, block) - 1) * REGIONS / (b->block_max - 1);

	b->region[i].used += FIND;
}

/*
 * The one in which least has been found lately. But when most of what has been made had been there before, a program
 * comes round that is larger than the cache and would find nothing of itself: then, unless one of them is of no use, most
 * of the cache stays as it is and the rest passes through the region that is full now.
 */
static unsigned region_next(struct bt_cpu *b)
{
	unsigned next = (b->filling + 1) % REGIONS, least = next;
	uint64_t all = 0;

	if (!b->region[next].blocks)
		return next;
	for (unsigned i = 0; i < REGIONS; i++) {
		struct bt_region *r = &b->region[i];

		r->used -= r->used >> FORGET;
		all += r->used;
		if (i != b->filling && r->used < b->region[least].used)
			least = i;
	}
	return b->again > b->made / 2 && b->region[least].used > all / REGIONS / USELESS_PART ? b->filling : least;
}

/* The whole pages in [from, to) are given back. */
static void trim(uint8_t *from, uint8_t *to, int how)
{
	uintptr_t first = ((uintptr_t)from + PAGE_SIZE - 1) & ~(uintptr_t)(PAGE_SIZE - 1), end = (uintptr_t)to & ~(uintptr_t)(PAGE_SIZE - 1);

	if (first < end)
		madvise((void *)first, end - first, how);
}

/* What it held before may have been more of one kind. */
static void region_trim(struct bt_cpu *b)
{
	const struct bt_region *end = &b->region[b->filling + 1];

	trim(b->rw + b->at, b->rw + end->code, MADV_REMOVE);
	trim((uint8_t *)&b->blocks[b->block_count], (uint8_t *)&b->blocks[end->block], MADV_DONTNEED);
	trim(b->recs + b->rec_at, b->recs + end->rec, MADV_DONTNEED);
	trim((uint8_t *)&b->exits[b->exit_count], (uint8_t *)&b->exits[end->exit], MADV_DONTNEED);
	trim((uint8_t *)&b->relocs[b->reloc_count], (uint8_t *)&b->relocs[end->reloc], MADV_DONTNEED);
}

void bt_cache_reserve(struct bt_cpu *b)
{
	if (b->page_max - b->page_count + b->page_free < 3)
		bt_cache_flush(b);
	if (region_full(b)) {
		unsigned next = region_next(b);

		region_trim(b);
		b->region[b->filling] = region_now(b, b->filling);
		region_evict(b, next);
		region_begin(b, next);
	}
}

uint64_t bt_cache_bytes(const struct bt_cpu *b)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < REGIONS; i++) {
		struct bt_region r = region_now(b, i);

		if (r.blocks)
			bytes += b->blocks[r.block + r.blocks - 1].host + b->blocks[r.block + r.blocks - 1].size - r.code;
	}
	return bytes;
}
