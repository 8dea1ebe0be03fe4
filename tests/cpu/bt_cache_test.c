/*
 * A program larger than the translator's cache: what is left of it after evictions does the same as ever, changed
 * code is noticed, and one address space's jumps are not another's.
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/bt/bt.h"

#define PROGRAM 0x400000u
#define LINE 16u         /* bytes from block to block */
#define BLOCKS 12000u
#define CALLS_EVERY 32u
#define LAPS 3u
#define SUBROUTINE (PROGRAM - 64u)
#define OTHER_TOP 0x6000u /* tables of another address space */

static void put_rel32(uint8_t *p, uint32_t from, uint32_t to)
{
	st32le(p, to - (from + 4));
}

/* Each block counts in RAX, some call what counts in RDX; RCX counts laps. */
static void write_program(struct machine *m)
{
	static const uint8_t block[LINE] = { 0x48, 0xff, 0xc0, 0xeb, 0x0b }, subroutine[] = { 0x48, 0xff, 0xc2, 0xc3 };
	static const uint8_t lap[] = { 0x48, 0xff, 0xc9, 0x0f, 0x85, 0, 0, 0, 0, 0xf4 };
	uint8_t *p = m->ram->host + PROGRAM;

	memcpy(m->ram->host + SUBROUTINE, subroutine, sizeof(subroutine));
	for (uint32_t i = 0; i < BLOCKS; i++) {
		memcpy(p + i * LINE, block, LINE);
		if (i % CALLS_EVERY == 0) {
			p[i * LINE + 3] = 0xe8;
			put_rel32(p + i * LINE + 4, PROGRAM + i * LINE + 4, SUBROUTINE);
			p[i * LINE + 8] = 0xeb;
			p[i * LINE + 9] = LINE - 10;
		}
	}
	memcpy(p + BLOCKS * LINE, lap, sizeof(lap));
	put_rel32(p + BLOCKS * LINE + 5, PROGRAM + BLOCKS * LINE + 5, PROGRAM);
}

static bool run_program(struct machine *m, uint64_t rax, uint64_t rdx)
{
	struct cpu_state s;
	struct vcpu_exit exit;

	start_state(&s, true);
	s.rip = PROGRAM;
	s.rflags = 2;
	s.gpr[RAX] = s.gpr[RDX] = 0;
	s.gpr[RCX] = LAPS;
	accel_bt_ops.set_state(m->vcpu, &s);
	for (unsigned n = 0; n < 60; n++) {
		run(m->vcpu, &exit);
		if (exit.kind != VCPU_EXIT_KICKED) /* by the alarm: the checker takes its time */
			break;
	}
	accel_bt_ops.get_state(m->vcpu, &s);
	if (exit.kind == VCPU_EXIT_HALT && s.gpr[RAX] == rax && s.gpr[RDX] == rdx)
		return true;
	printf("# exit %d, rax %lu of %lu, rdx %lu of %lu\n", exit.kind, s.gpr[RAX], rax, s.gpr[RDX], rdx);
	return false;
}

/* Every jump leads to a block that is there, and that knows of it. */
static bool links_agree(const struct bt_cpu *b)
{
	for (uint32_t h = 0; h < b->hash_size; h++) {
		for (uint32_t link = b->hash[h]; link; link = b->blocks[link & LINK_BLOCK].hash_next) {
			uint32_t n = link & LINK_BLOCK;
			const struct bt_block *k = &b->blocks[n];

			for (uint32_t i = k->incoming; i; i = b->exits[i].next) {
				if (b->exits[i].target != n || b->blocks[b->exits[i].block].dead || k->dead)
					return false;
			}
			if (bt_block_at((struct bt_cpu *)b, b->rx + k->host) != k)
				return false;
		}
	}
	return true;
}

/* Two address spaces run code at one linear address, in pages of their own, and call what is in a third page. */
static bool spaces_apart(struct machine *m)
{
	static const uint8_t near[] = { 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xf4 }, first[] = { 0x83, 0xc0, 0x01, 0xc3 },
			     second[] = { 0x83, 0xc0, 0x10, 0xc3 };
	uint32_t at = 0x150000, far = 0x160000;
	uint8_t *ram = m->ram->host;
	struct vcpu_exit exit;
	struct cpu_state s;

	memcpy(ram + at, near, sizeof(near));
	put_rel32(ram + at + 1, at + 1, far);
	put_rel32(ram + at + 6, at + 6, far);
	memcpy(ram + far, first, sizeof(first));
	memcpy(ram + far + 0x1000, second, sizeof(second));
	/* The other space's tables: as the first's, but for the page at `far`. */
	memcpy(ram + OTHER_TOP, ram + 0x1000, 0x1000);
	memcpy(ram + PROGRAM - 0x10000, ram + 0x2000, 0x1000);
	memcpy(ram + PROGRAM - 0xf000, ram + 0x3000, 0x1000);
	memcpy(ram + PROGRAM - 0xe000, ram + 0x4000, 0x1000);
	put64(m, OTHER_TOP, (PROGRAM - 0x10000) | 7);
	put64(m, PROGRAM - 0x10000, (PROGRAM - 0xf000) | 7);
	put64(m, PROGRAM - 0xf000, (PROGRAM - 0xe000) | 7);
	put64(m, PROGRAM - 0xe000 + 8 * (far >> 12), (far + 0x1000) | 7);
	for (unsigned n = 0; n < 64; n++) {
		start_state(&s, true);
		s.rip = at;
		s.rflags = 2;
		s.gpr[RAX] = 0;
		s.gpr[RBX] = n & 1 ? OTHER_TOP : 0x1000;
		/* mov cr3, rbx; jmp at */
		memcpy(ram + at - 16, (const uint8_t[]){ 0x0f, 0x22, 0xdb, 0xeb, 11 }, 5);
		if (n) {
			/* By the instruction alone: set_state would flush everything. */
			struct icpu *cpu = (struct icpu *)m->vcpu;

			cpu->s.gpr[RAX] = 0;
			cpu->s.gpr[RBX] = s.gpr[RBX];
			cpu->s.rip = at - 16;
			cpu->s.mp_state = MP_RUNNING;
		} else {
			accel_bt_ops.set_state(m->vcpu, &s);
		}
		run(m->vcpu, &exit);
		accel_bt_ops.get_state(m->vcpu, &s);
		if (exit.kind != VCPU_EXIT_HALT || s.gpr[RAX] != (n & 1 ? 0x20 : 2)) {
			printf("# turn %u: exit %d, rax %lx\n", n, exit.kind, s.gpr[RAX]);
			return false;
		}
	}
	return true;
}

static unsigned tests, failures;

static void check(bool ok, const char *name)
{
	printf("%s %u - %s\n", ok ? "ok" : "not ok", ++tests, name);
	failures += !ok;
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	const uint64_t calls = (BLOCKS + CALLS_EVERY - 1) / CALLS_EVERY;
	struct machine m;
	struct bt_cpu *b;
	uint64_t relinks;

	sigaction(SIGVTALRM, &sa, NULL);
	g_setenv("GUISE_BT_CHECK", "1", TRUE);
	cache_size = 1 << 20;
	machine_make(&m, &accel_bt_ops);
	b = (struct bt_cpu *)m.vcpu;
	make_tables(&m, true);
	make_gates(&m, true);
	write_program(&m);
	check(run_program(&m, LAPS * (uint64_t)BLOCKS, LAPS * calls), "a program larger than the cache");
	check(b->stats.evictions > REGIONS && !b->stats.flushes, "was translated by evictions");
	check(links_agree(b), "links lead to blocks that are there");
	mem_write(m.mem, PROGRAM + 7 * LINE, (const uint8_t[]){ 0x48, 0xff, 0xc2 }, 3);
	mem_write(m.mem, PROGRAM + (BLOCKS - 9) * LINE, (const uint8_t[]){ 0x48, 0xff, 0xc2 }, 3);
	check(run_program(&m, LAPS * (BLOCKS - 2ul), LAPS * (calls + 2)), "changed code is noticed");
	check(links_agree(b), "and links still agree");
	bt_cache_flush(b);
	check(spaces_apart(&m), "two address spaces at one address");
	relinks = b->stats.relinks;
	check(spaces_apart(&m) && b->stats.relinks > relinks, "and again, by links that are there");
	machine_free(&m);
	printf("1..%u\n", tests);
	return failures != 0;
}
