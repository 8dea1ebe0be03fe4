/*
 * Address spaces by PCID, as guests see them: random loads of CR3 that keep and that do not, INVLPG, INVPCID and changes
 * of page tables. What is read and executed at an address must be what the tables of the present space lead to, or have
 * led to since that space was last flushed there. And what is kept is used again. Last, a page table that is code: the
 * accessed bit that a load sets in an entry makes an ADD there an AND.
 *
 *	spaces_test [cases [seed]]
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/interp/core.h"

#define SPACE_COUNT 12u          /* more than are kept */
#define TOPS 0x400000u           /* a page each: the top, and two tables below it */
#define PAGES 0x600000u          /* number n says n */
#define PAGE_COUNT 16u
#define NOTES 0x700000u          /* what was read, and what came back */
#define DESCRIPTORS 0x7f0000u
#define LOCAL UINT64_C(0x40000000) /* a page of each space's own */
#define GLOBAL UINT64_C(0x40001000)
#define CODE_SIZE 0x80000u
#define STEPS 400u


struct step {
	uint32_t allowed; /* pages that may be seen, a bit each */
};

/* What may still be known somewhere: of each space, and of the global page. */
struct model {
	unsigned now;
	unsigned local[SPACE_COUNT], global;
	uint32_t stale[SPACE_COUNT], stale_global;
};

static uint8_t *at_code;
static struct step step[STEPS];

static void emit(const char *bytes, unsigned n) { memcpy(at_code, bytes, n), at_code += n; }
#define EMIT(s) emit(s, sizeof(s) - 1)
static void emit_n(uint64_t v, unsigned n)
{
	for (; n; n--, v >>= 8)
		*at_code++ = (uint8_t)v;
}

static uint64_t top_of(unsigned space) { return TOPS + space * 0x4000; }
static uint64_t entry_of(unsigned space, uint64_t lin) { return top_of(space) + 0x3000 + (lin >> 12 & 511) * 8; }

/* Each space: the low 16 MiB as they are, and one page table at 1 GiB. */
static void space_make(struct machine *m, unsigned space)
{
	uint64_t top = top_of(space);

	memset(m->ram->host + top, 0, 0x4000);
	put64(m, top, (top + 0x1000) | 7);
	put64(m, top + 0x1000, 0x3000 | 7);
	put64(m, top + 0x1008, (top + 0x2000) | 7);
	put64(m, top + 0x2000, (top + 0x3000) | 7);
}

static void emit_store(uint64_t at, uint32_t v) { EMIT("\x48\xc7\x04\x25"), emit_n(at, 4), emit_n(v, 4); }

static void change(struct model *m, unsigned space, uint64_t lin)
{
	unsigned page = pick(PAGE_COUNT);

	if (lin == GLOBAL) {
		for (unsigned i = 0; i < SPACE_COUNT; i++)
			emit_store(entry_of(i, GLOBAL), (PAGES + page * PAGE_SIZE) | 0x103);
		m->global = page;
		m->stale_global |= 1u << page;
	} else {
		emit_store(entry_of(space, LOCAL), (PAGES + page * PAGE_SIZE) | 3);
		m->local[space] = page;
		m->stale[space] |= 1u << page;
	}
}

static void flush_space(struct model *m, unsigned space) { m->stale[space] = 1u << m->local[space]; }
static void flush_global(struct model *m) { m->stale_global = 1u << m->global; }

static void load_cr3(struct model *m, unsigned space, bool keep)
{
	EMIT("\x48\xb8"), emit_n(top_of(space) | (space + 1) | (uint64_t)keep << 63, 8), EMIT("\x0f\x22\xd8");
	m->now = space;
	if (!keep)
		flush_space(m, space);
}

static void invpcid(struct model *m)
{
	unsigned type = pick(4), space = pick(2) ? m->now : pick(SPACE_COUNT);

	emit_store(DESCRIPTORS, type < 2 ? space + 1 : 0);
	emit_store(DESCRIPTORS + 8, (uint32_t)LOCAL);
	EMIT("\xb8"), emit_n(type, 4), EMIT("\x66\x0f\x38\x82\x04\x25"), emit_n(DESCRIPTORS, 4);
	if (type < 2)
		flush_space(m, space);
	for (unsigned i = 0; i < SPACE_COUNT && type >= 2; i++)
		flush_space(m, i);
	if (type == 2)
		flush_global(m);
}

static void invlpg(struct model *m, uint64_t lin)
{
	EMIT("\x0f\x01\x3c\x25"), emit_n(lin, 4);
	if (lin == GLOBAL)
		flush_global(m);
	else
		flush_space(m, m->now);
}

/* What a load and a call find there. A page: mov eax, n; ret. */
static void look(struct model *m, unsigned n)
{
	uint64_t lin = pick(3) ? LOCAL : GLOBAL;

	step[n].allowed = lin == LOCAL ? m->stale[m->now] : m->stale_global;
	EMIT("\x8b\x0c\x25"), emit_n(lin + 1, 4), EMIT("\x89\x0c\x25"), emit_n(NOTES + n * 8, 4);
	EMIT("\xb9"), emit_n(lin, 4), EMIT("\xff\xd1\x89\x04\x25"), emit_n(NOTES + n * 8 + 4, 4);
}

static void sequence(struct machine *m)
{
	struct model model = { 0 };

	make_tables(m, true);
	make_gates(m, true);
	for (unsigned i = 0; i < PAGE_COUNT; i++) {
		uint8_t *page = m->ram->host + PAGES + i * PAGE_SIZE;

		page[0] = 0xb8, page[1] = (uint8_t)i, page[2] = page[3] = page[4] = 0, page[5] = 0xc3;
	}
	for (unsigned i = 0; i < SPACE_COUNT; i++)
		space_make(m, i);
	at_code = m->ram->host + CODE;
	for (unsigned i = 0; i < SPACE_COUNT; i++)
		change(&model, i, LOCAL);
	change(&model, 0, GLOBAL);
	for (unsigned i = 0; i < SPACE_COUNT; i++)
		flush_space(&model, i);
	flush_global(&model);
	load_cr3(&model, 0, false);
	for (unsigned n = 0; n < STEPS; n++) {
		/* Two spaces more often than the others, as when two processes talk. */
		for (unsigned k = pick(3); k-- > 0;) {
			switch (pick(8)) {
			case 0: change(&model, pick(SPACE_COUNT), LOCAL); break;
			case 1: change(&model, 0, pick(3) ? LOCAL : GLOBAL); break;
			case 2: invlpg(&model, pick(2) ? LOCAL : GLOBAL); break;
			case 3: invpcid(&model); break;
			default: load_cr3(&model, pick(3) ? pick(2) : pick(SPACE_COUNT), pick(4)); break;
			}
		}
		look(&model, n);
	}
	EMIT("\xf4");
}

static bool seen_is_allowed(const struct machine *m)
{
	for (unsigned n = 0; n < STEPS; n++) {
		uint32_t loaded = ld32le(m->ram->host + NOTES + n * 8), called = ld32le(m->ram->host + NOTES + n * 8 + 4);

		if (loaded < 32 && called < 32 && (step[n].allowed >> loaded & 1) && (step[n].allowed >> called & 1))
			continue;
		printf("# look %u: loaded %u, called %u, allowed %x\n", n, loaded, called, step[n].allowed);
		return false;
	}
	return true;
}

static bool one_case(struct machine *m)
{
	static struct cpu_state s;
	struct vcpu_exit exit;

	code_at = CODE;
	memset(m->ram->host + NOTES, 0xff, STEPS * 8);
	sequence(m);
	g_assert(at_code < m->ram->host + CODE + CODE_SIZE);
	mem_write(m->mem, CODE, m->ram->host + CODE, CODE_SIZE);
	mem_write(m->mem, PAGES, m->ram->host + PAGES, PAGE_COUNT * PAGE_SIZE);
	start_state(&s, true);
	s.cr4 |= CR4_PGE | CR4_PCIDE;
	m->vcpu->ops->set_state(m->vcpu, &s);
	run(m->vcpu, &exit);
	m->vcpu->ops->get_state(m->vcpu, &s);
	if (exit.kind == VCPU_EXIT_HALT && s.rip == CODE + (uint64_t)(at_code - (m->ram->host + CODE)) && seen_is_allowed(m))
		return true;
	printf("# exit %d at %lx, cr2 %lx\n", exit.kind, s.rip, s.cr2);
	return false;
}

/*
 * The entry of LOCAL is add eax, ecx; nop; ret until it is accessed, and then begins with and eax, ecx. It leads to where
 * no memory is. The code behind calls it before and after.
 */
#define ENTRY_CODE UINT64_C(0xc390c103)

static bool table_is_code(struct machine *m, unsigned times)
{
	uint64_t entry = entry_of(0, LOCAL);
	static struct cpu_state s;
	struct vcpu_exit exit;

	space_make(m, 0);
	mem_write(m->mem, 0, m->ram->host, CODE);
	mem_write(m->mem, TOPS, m->ram->host + TOPS, 0x4000);
	at_code = m->ram->host + CODE;
	EMIT("\xbb"), emit_n(entry, 4);      /* mov ebx, entry */
	EMIT("\xbe"), emit_n(LOCAL, 4);      /* mov esi, LOCAL */
	EMIT("\xbf"), emit_n(times, 4);      /* mov edi, times */
	EMIT("\xb9\x02\0\0\0");             /* mov ecx, 2 */
	EMIT("\x31\xd2");                    /* 1: xor edx, edx */
	EMIT("\xc7\x03"), emit_n(ENTRY_CODE, 4);
	EMIT("\x0f\x01\x3e");                /* invlpg [rsi] */
	EMIT("\xb8\x01\0\0\0\xff\xd3");     /* mov eax, 1; call rbx */
	EMIT("\x01\xc2");                    /* add edx, eax */
	EMIT("\x8a\x2e");                    /* mov ch, [rsi] */
	EMIT("\xb5\x00");                    /* mov ch, 0 */
	EMIT("\xb8\x07\0\0\0\xff\xd3");     /* mov eax, 7; call rbx */
	EMIT("\xc1\xe0\x08\x01\xc2");        /* shl eax, 8; add edx, eax */
	EMIT("\x81\xfa\x03\x02\0\0");        /* cmp edx, 3 and 2 */
	EMIT("\x75\x04\xff\xcf\x75");        /* jne 2f; dec edi; jnz 1b */
	emit_n((uint64_t)(m->ram->host + CODE + 20 - (at_code + 1)), 1);
	EMIT("\xf4");                        /* 2: hlt */
	mem_write(m->mem, CODE, m->ram->host + CODE, 128);
	code_at = CODE;
	start_state(&s, true);
	s.cr3 = top_of(0);
	m->vcpu->ops->set_state(m->vcpu, &s);
	run(m->vcpu, &exit);
	m->vcpu->ops->get_state(m->vcpu, &s);
	if (exit.kind == VCPU_EXIT_HALT && !s.gpr[RDI] && s.gpr[RDX] == 0x203)
		return true;
	printf("# exit %d at %lx, cr2 %lx: %lx times left, %lx\n", exit.kind, s.rip, s.cr2, s.gpr[RDI], s.gpr[RDX]);
	return false;
}

static bool engine(const struct accel_ops *ops, unsigned cases)
{
	const struct mmu *mmu;
	struct machine m;

	machine_make(&m, ops);
	for (unsigned n = 0; n < cases; n++) {
		uint64_t was = seed;

		if (one_case(&m))
			continue;
		printf("# %s, case %u, seed %#lx\n", ops->name, n, was);
		return false;
	}
	if (!table_is_code(&m, 1000)) {
		printf("# %s: a table that is code\n", ops->name);
		return false;
	}
	mmu = ((struct icpu *)m.vcpu)->mmu;
	printf("# %s: %lu switches, %lu of them to a space that was known\n", ops->name, mmu->switches, mmu->kept);
	return mmu->kept > mmu->switches / 3;
}

int main(int argc, char **argv)
{
	unsigned cases = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 200;
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	bool interp, bt;

	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15;
	sigaction(SIGVTALRM, &sa, NULL);
	interp = engine(&accel_interp_ops, cases);
	printf("%s 1 - interp\n", interp ? "ok" : "not ok");
	bt = engine(&accel_bt_ops, cases);
	printf("%s 2 - bt\n1..2\n", bt ? "ok" : "not ok");
	return !(interp && bt);
}
