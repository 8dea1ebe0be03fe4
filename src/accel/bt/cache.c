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
/* Bytes of code for which one block, record, exit, relocation, page is provided. */
#define BYTES_PER_BLOCK 160u
#define BYTES_PER_REC 88u
#define BYTES_PER_EXIT 88u
#define BYTES_PER_RELOC 128u
#define BYTES_PER_PAGE 1024u
#define CODE_MIN (1u << 20)

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

/* How much code goes with its share of everything else into so many bytes. */
static size_t code_share(size_t bytes)
{
	const size_t each = 1024 + 1024 / BYTES_PER_BLOCK * (sizeof(struct bt_block) + 2 * sizeof(struct bt_block *)) +
			    1024 / BYTES_PER_REC * sizeof(struct bt_rec) + 1024 / BYTES_PER_EXIT * sizeof(struct bt_exit) +
			    1024 / BYTES_PER_RELOC * sizeof(struct bt_reloc) + 1024 / BYTES_PER_PAGE * sizeof(struct bt_page);
	size_t code = bytes * 1024 / each;

	return (code < CODE_MIN ? CODE_MIN : code) & ~(size_t)(PAGE_SIZE - 1);
}

static uint32_t part(uint32_t all, unsigned i) { return (uint32_t)((uint64_t)all * i / REGIONS); }

static void lay_out_regions(struct bt_cpu *b)
{
	uint32_t room = (uint32_t)b->code_size - b->code_start;

	for (unsigned i = 0; i <= REGIONS; i++)
		b->region[i] = (struct bt_region){ (b->code_start + part(room, i)) & ~63u, part(b->block_max, i), part(b->rec_max, i),
						   part(b->exit_max, i), part(b->reloc_max, i), 0 };
}

int bt_cache_init(struct bt_cpu *b, size_t bytes)
{
	b->code_size = code_share(bytes);
	b->block_max = (uint32_t)(b->code_size / BYTES_PER_BLOCK);
	b->rec_max = (uint32_t)(b->code_size / BYTES_PER_REC);
	b->exit_max = (uint32_t)(b->code_size / BYTES_PER_EXIT);
	b->reloc_max = (uint32_t)(b->code_size / BYTES_PER_RELOC);
	b->page_max = (uint32_t)(b->code_size / BYTES_PER_PAGE);
	for (b->hash_size = 1; b->hash_size < b->block_max;)
		b->hash_size *= 2;
	b->blocks = reserve(b->block_max * sizeof(*b->blocks));
	b->recs = reserve(b->rec_max * sizeof(*b->recs));
	b->exits = reserve(b->exit_max * sizeof(*b->exits));
	b->relocs = reserve(b->reloc_max * sizeof(*b->relocs));
	b->pages = reserve(b->page_max * sizeof(*b->pages));
	b->hash = reserve(b->hash_size * sizeof(*b->hash));
	b->page_hash = reserve(PAGE_HASH_SIZE * sizeof(*b->page_hash));
	if (!b->blocks || !b->recs || !b->exits || !b->relocs || !b->pages || !b->hash || !b->page_hash || !map_code(b) || !map_returns(b))
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

static void free_insns(struct bt_cpu *b, unsigned i)
{
	struct bt_region r = region_now(b, i);

	for (uint32_t n = r.block; n < r.block + r.blocks; n++) {
		const struct bt_block *k = &b->blocks[n];

		for (unsigned m = 0; k->decoded && m < k->recs; m++)
			free(b->recs[k->first_rec + m].insn);
	}
}

/* The region is empty, and the next to be filled. */
static void region_begin(struct bt_cpu *b, unsigned i)
{
	struct bt_region *r = &b->region[i];

	r->blocks = 0;
	b->filling = i;
	b->at = r->code;
	b->block_count = r->block;
	b->rec_count = r->rec;
	b->exit_count = r->exit;
	b->reloc_count = r->reloc;
}

void bt_cache_finish(struct bt_cpu *b)
{
	for (unsigned i = 0; b->recs && i < REGIONS; i++)
		free_insns(b, i);
	release(b->rw, b->code_size);
	release(b->rx, b->code_size);
	release(b->blocks, b->block_max * sizeof(*b->blocks));
	release(b->recs, b->rec_max * sizeof(*b->recs));
	release(b->exits, b->exit_max * sizeof(*b->exits));
	release(b->relocs, b->reloc_max * sizeof(*b->relocs));
	release(b->pages, b->page_max * sizeof(*b->pages));
	release(b->hash, b->hash_size * sizeof(*b->hash));
	release(b->page_hash, PAGE_HASH_SIZE * sizeof(*b->page_hash));
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
	for (unsigned i = 0; i < REGIONS; i++) {
		free_insns(b, i);
		b->region[i].blocks = 0;
	}
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

static struct bt_block **hash_place(struct bt_cpu *b, uint64_t gpa, uint32_t mode)
{
	uint64_t h = (gpa ^ (uint64_t)mode << 40) * UINT64_C(0xff51afd7ed558ccd);

	return &b->hash[(unsigned)(h >> 32) & (b->hash_size - 1)];
}

struct bt_block *bt_block_chain(struct bt_cpu *b, uint64_t gpa, uint32_t mode) { return *hash_place(b, gpa, mode); }

struct bt_block *bt_block_find(struct bt_cpu *b, uint64_t lin, uint64_t gpa, uint32_t mode)
{
	struct bt_block *k = *hash_place(b, gpa, mode);

	while (k && (k->lin != lin || k->gpa != gpa || k->mode != mode))
		k = k->hash_next;
	return k;
}

static struct bt_page **page_place(struct bt_cpu *b, uint64_t gpa)
{
	struct bt_page **p = &b->page_hash[(gpa >> PAGE_SHIFT) % PAGE_HASH_SIZE];

	while (*p && (*p)->gpa != gpa)
		p = &(*p)->next;
	return p;
}

struct bt_block *bt_page_blocks(struct bt_cpu *b, uint64_t gpa)
{
	const struct bt_page *p = *page_place(b, gpa);

	return p ? p->blocks : NULL;
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

void bt_block_add(struct bt_cpu *b, struct bt_block *block)
{
	struct bt_block **place = hash_place(b, block->gpa, block->mode);
	struct bt_page *p = page_get(b, block->gpa & ~(uint64_t)(PAGE_SIZE - 1));

	block->hash_next = *place;
	*place = block;
	p->lines |= lines_of((unsigned)(block->gpa & (PAGE_SIZE - 1)), block->length);
	block->page_next = p->blocks;
	p->blocks = block;
	if (block->tail) {
		p = page_get(b, block->tail & ~UINT64_C(1));
		p->lines |= 1;
		block->tail_next = p->tails;
		p->tails = block;
	}
}

struct bt_block *bt_block_at(struct bt_cpu *b, const uint8_t *host)
{
	uint32_t at, low, high;
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
	low = r.block;
	high = r.block + r.blocks;
	while (high - low > 1) {
		uint32_t mid = (low + high) / 2;

		if (b->blocks[mid].host <= at)
			low = mid;
		else
			high = mid;
	}
	return &b->blocks[low];
}

struct bt_rec *bt_rec_at(struct bt_cpu *b, const uint8_t *host)
{
	const struct bt_block *k = bt_block_at(b, host);
	uint32_t at = (uint32_t)(host - b->rx);

	/* An instruction with two accesses has two records; the second's code is within the first's. */
	for (unsigned i = k ? k->recs : 0; i-- > 0;) {
		struct bt_rec *r = &b->recs[k->first_rec + i];

		if (r->retry <= at && at < (r->next ? r->next : r->end))
			return r;
	}
	return NULL;
}

/* ---- jumps between blocks ---- */

/* The page that the target is in must be where it is now. */
static void link_page(struct bt_cpu *b, const struct bt_exit *e, const struct bt_block *target)
{
	const struct bt_exec *x = bt_exec_known(b, target->lin);
	uint32_t id = x ? x->id : BT_NO_EXEC, disp = (uint32_t)GS_OF(mapped) + id % EXEC_SIZE * 4, now;

	memcpy(&now, b->rw + e->page_site + 4, 4);
	if (now == id)
		return;
	memcpy(b->rw + e->page_site, &disp, 4);
	memcpy(b->rw + e->page_site + 4, &id, 4);
}

void bt_link(struct bt_cpu *b, struct bt_exit *e, struct bt_block *target)
{
	if (e->block->dead)
		return;
	if (e->page_site)
		link_page(b, e, target);
	if (e->target == target)
		return;
	if (e->target) {
		struct bt_exit **p = &e->target->incoming;

		while (*p != e)
			p = &(*p)->next;
		*p = e->next;
	}
	emit_patch(b->rw, e->site, bt_entry(e, target));
	e->target = target;
	e->next = target->incoming;
	target->incoming = e;
}

void bt_jump_set(struct bt_cpu *b, const struct bt_block *block)
{
	struct bt_jumps *j = &b->jump[block->mode & (MODE_USER | MODE_CODE32)];
	unsigned i = bt_jump_index(block->lin);

	if (block->mode & MODE_AC)
		return;
	j->tag[i] = block->lin ^ b->salt[block->mode & MODE_USER ? 1 : 0];
	j->target[i] = b->rx + block->indirect;
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
	emit_patch(b->rw, e->site, e->stub);
	e->target = NULL;
}

static void unchain_block(struct bt_cpu *b, const uint8_t *at)
{
	struct bt_block *k = bt_block_at(b, at);

	for (unsigned i = 0; k && i < k->exits; i++) {
		struct bt_exit *e = &b->exits[k->first_exit + i], **p;

		if (!e->target)
			continue;
		for (p = &e->target->incoming; *p != e;)
			p = &(*p)->next;
		*p = e->next;
		unlink_exit(b, e);
	}
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

	if (j->target[i] == b->rx + block->indirect)
		j->tag[i] = bt_jump_empty(i);
}

void bt_block_unlink(struct bt_cpu *b, struct bt_block *block)
{
	while (block->incoming) {
		struct bt_exit *e = block->incoming;

		block->incoming = e->next;
		unlink_exit(b, e);
	}
	for (unsigned i = 0; i < block->exits; i++) {
		struct bt_exit *e = &b->exits[block->first_exit + i];

		if (e->target) {
			struct bt_exit **q = &e->target->incoming;

			while (*q != e)
				q = &(*q)->next;
			*q = e->next;
			unlink_exit(b, e);
		}
	}
	drop_jump(b, block);
}

void bt_block_kill(struct bt_cpu *b, struct bt_block *block)
{
	struct bt_block **p = hash_place(b, block->gpa, block->mode);

	if (block->dead)
		return;
	while (*p != block)
		p = &(*p)->hash_next;
	*p = block->hash_next;
	bt_block_unlink(b, block);
	block->dead = true;
	b->stats.invalidated++;
}

/* ---- changes of code ---- */

static void page_changed(struct bt_cpu *b, struct bt_page *page, unsigned offset, unsigned len)
{
	struct bt_block **p = &page->blocks;

	if (!(page->lines & lines_of(offset, len)))
		return;
	page->lines = 0;
	while (*p) {
		struct bt_block *k = *p;
		unsigned first = (unsigned)(k->gpa & (PAGE_SIZE - 1));

		if (first < offset + len && offset < first + k->length) {
			*p = k->page_next;
			bt_block_kill(b, k);
		} else {
			page->lines |= lines_of(first, k->length);
			p = &k->page_next;
		}
	}
	/* A tail is at most 14 bytes. */
	if (offset < 64) {
		for (struct bt_block *k = page->tails; k; k = k->tail_next)
			bt_block_kill(b, k);
		page->tails = NULL;
	} else if (page->tails) {
		page->lines |= 1;
	}
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

static bool in_region(const struct bt_cpu *b, const struct bt_region *r, const struct bt_block *k)
{
	uint32_t i = (uint32_t)(k - b->blocks);

	return i >= r->block && i < r->block + r->blocks;
}

/* Nothing leads to the block any more. */
static void forget_block(struct bt_cpu *b, struct bt_block *k)
{
	struct bt_block **p = hash_place(b, k->gpa, k->mode);

	while (*p != k)
		p = &(*p)->hash_next;
	*p = k->hash_next;
	for (struct bt_exit *e = k->incoming; e; e = e->next)
		unlink_exit(b, e);
	k->incoming = NULL;
	drop_jump(b, k);
	k->dead = true;
}

/* Of the jumps to a block elsewhere, those from the region go: all at once, since there may be many. */
static void forget_incoming(const struct bt_cpu *b, const struct bt_region *r, struct bt_block *target)
{
	struct bt_exit **p = &target->incoming;

	while (*p) {
		struct bt_exit *e = *p;

		if (in_region(b, r, e->block)) {
			*p = e->next;
			e->target = NULL;
		} else {
			p = &e->next;
		}
	}
}

/* The same for a page's blocks. */
static void forget_page(struct bt_cpu *b, const struct bt_region *r, uint64_t gpa)
{
	struct bt_page **place = page_place(b, gpa), *page = *place;
	struct bt_block **p;

	if (!page || page->seen == b->stats.evictions)
		return;
	page->seen = b->stats.evictions;
	page->lines = 0;
	for (p = &page->blocks; *p;) {
		struct bt_block *k = *p;

		if (k->dead || in_region(b, r, k)) {
			*p = k->page_next;
			continue;
		}
		page->lines |= lines_of((unsigned)(k->gpa & (PAGE_SIZE - 1)), k->length);
		p = &k->page_next;
	}
	for (p = &page->tails; *p;) {
		if ((*p)->dead || in_region(b, r, *p))
			*p = (*p)->tail_next;
		else
			p = &(*p)->tail_next;
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

	b->stats.evictions++;
	for (uint32_t n = r.block; n < r.block + r.blocks; n++) {
		if (!b->blocks[n].dead)
			forget_block(b, &b->blocks[n]);
	}
	for (uint32_t n = r.block; n < r.block + r.blocks; n++) {
		const struct bt_block *k = &b->blocks[n];

		for (unsigned x = 0; x < k->exits; x++) {
			if (b->exits[k->first_exit + x].target)
				forget_incoming(b, &r, b->exits[k->first_exit + x].target);
		}
		forget_page(b, &r, k->gpa & ~(uint64_t)(PAGE_SIZE - 1));
		if (k->tail)
			forget_page(b, &r, k->tail & ~UINT64_C(1));
	}
	free_insns(b, i);
	/* Landings of calls. */
	bt_returns_forget(b, false);
	bt_returns_forget(b, true);
}

static bool region_full(const struct bt_cpu *b)
{
	const struct bt_region *end = &b->region[b->filling + 1];

	return b->at + BLOCK_CODE_MAX > end->code || b->block_count + 1 >= end->block || b->rec_count + 3 * BLOCK_INSNS >= end->rec ||
	       b->exit_count + BLOCK_LATER >= end->exit || b->reloc_count + BLOCK_RELOCS >= end->reloc;
}

/*
 * A program that is larger than the cache and is run again would find nothing of itself if the oldest region always
 * went: so it is any, once all are full.
 */
static unsigned region_next(const struct bt_cpu *b)
{
	unsigned next = (b->filling + 1) % REGIONS;

	if (!b->region[next].blocks)
		return next;
	return (next + (unsigned)(b->stats.evictions * UINT64_C(0x9e3779b97f4a7c15) >> 40) % (REGIONS - 1)) % REGIONS;
}

void bt_cache_reserve(struct bt_cpu *b)
{
	if (b->page_max - b->page_count + b->page_free < 3)
		bt_cache_flush(b);
	if (region_full(b)) {
		unsigned next = region_next(b);

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
			bytes += b->blocks[r.block + r.blocks - 1].host_end - r.code;
	}
	return bytes;
}
