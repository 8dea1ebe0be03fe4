/*
 * Code that others may still write to unnoticed, since its page became code a moment ago (accel/interp/core.h, "Pages
 * become code"). Such a page is translated from a copy. The copy's lines that hold translated code are compared with
 * memory when an instruction has serialized, between chains of blocks, and once more when every other vCPU has come to the
 * epoch; what differs has been changed. Compiled without vector registers: the guest's may be in them.
 */
#include "accel/bt/run.h"
#include "accel/bt/window.h"

static void copy_page(uint8_t *to, const uint8_t *from)
{
	uint64_t n = PAGE_SIZE;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static struct bt_fresh *find(struct bt_cpu *b, uint64_t gpa)
{
	for (unsigned i = 0; i < b->fresh_count; i++) {
		if (b->fresh[i].gpa == gpa)
			return &b->fresh[i];
	}
	return NULL;
}

bool bt_fresh(const struct bt_cpu *b, uint64_t gpa)
{
	return b->fresh_count && find((struct bt_cpu *)b, gpa);
}

/* Takes up what has changed in the lines of `lines`, a bit for each 64 bytes. */
static void compare(struct bt_cpu *b, struct bt_fresh *f, uint64_t lines)
{
	for (; lines; lines &= lines - 1) {
		unsigned line = (unsigned)__builtin_ctzll(lines);

		for (unsigned at = line * 64; at < line * 64 + 64; at += 8) {
			uint64_t now = __atomic_load_n((const uint64_t *)(f->host + at), __ATOMIC_ACQUIRE), was = ld64le(f->bytes + at);

			if (now == was)
				continue;
			st64le(f->bytes + at, now);
			bt_code_changed(b, f->gpa + at, 8);
		}
	}
}

/* To be poked at the last of the epochs that are waited for. */
static void wait_for_all(struct bt_cpu *b)
{
	uint32_t last = 0;

	for (unsigned i = 0; i < b->fresh_count; i++) {
		if (!i || (int32_t)(b->fresh[i].epoch - last) > 0)
			last = b->fresh[i].epoch;
	}
	atomic_store(&b->cpu.waits_for, last);
}

static void look(struct bt_cpu *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->fresh_count; i++) {
		struct bt_fresh *f = &b->fresh[i];
		/* First: then nothing comes after the comparison. */
		bool settled = blocks_settled(&b->cpu, f->epoch);

		compare(b, f, bt_page_lines(b, f->gpa));
		if (settled)
			continue;
		if (n != i) {
			b->fresh[n].gpa = f->gpa;
			b->fresh[n].host = f->host;
			b->fresh[n].epoch = f->epoch;
			copy_page(b->fresh[n].bytes, f->bytes);
		}
		n++;
	}
	b->fresh_count = n;
}

/* The memory map has changed: the pages may be elsewhere, or nowhere. */
static void forget_all(struct bt_cpu *b)
{
	for (unsigned i = 0; i < b->fresh_count; i++)
		bt_code_changed(b, b->fresh[i].gpa, PAGE_SIZE);
	b->fresh_count = 0;
}

void bt_fresh_look(struct bt_cpu *b)
{
	if (!b->fresh_count)
		return;
	if (mem_generation(b->cpu.mem) != b->mmu.generation)
		forget_all(b);
	look(b);
	wait_for_all(b);
	/* Whoever was last may have come before it was told. */
	if (b->fresh_count && blocks_settled(&b->cpu, atomic_load(&b->cpu.waits_for))) {
		look(b);
		wait_for_all(b);
	}
}

const uint8_t *bt_code_page(struct bt_cpu *b, uint64_t gpa, const uint8_t *host)
{
	struct bt_fresh *f;
	uint32_t epoch;

	blocks_watch_page(&b->cpu, gpa, &epoch);
	windows_protect(bt_of(b), gpa);
	f = find(b, gpa);
	if (!f && blocks_settled(&b->cpu, epoch))
		return host;
	if (!f && b->fresh_count == FRESH_PAGES) {
		bt_fresh_look(b);
		if (b->fresh_count == FRESH_PAGES)
			return NULL;
	}
	if (!f) {
		f = &b->fresh[b->fresh_count++];
		f->gpa = gpa;
		f->host = host;
		copy_page(f->bytes, host);
	}
	f->epoch = epoch;
	compare(b, f, UINT64_MAX);
	wait_for_all(b);
	/* The last one may have come there before it could see that it is waited for. */
	if (blocks_settled(&b->cpu, epoch))
		icpu_poke(&b->cpu);
	return f->bytes;
}
