/*
 * The same physical code at two linear addresses that take turns: the translator moves its blocks to and fro, and must
 * do what the interpreter does. The code looks at its own address in all ways that code can, and each of its two places
 * has a data page of its own. The checker proves each block that has been moved, and must reject it with any one
 * of its relocations left out.
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/bt/bt.h"
#include "accel/bt/check.h"

#define TABLES_MORE 0x400000u
#define PHYSICAL 0x500000u      /* two pages of code */
#define PHYSICAL_DATA 0x510000u /* a page of data for each place */
#define PAGES 2u
#define DEPTH 9u
#define TURNS 8u

/* The second place's data are in another slot of 512 GiB than its code. */
static const uint64_t places[2][2] = { { 0x9800000, 0x8000000 }, { UINT64_C(0x7f12345fd000), UINT64_C(0x557fffffe000) } };

/* In RCX how often it calls its other place, which is in R13 (EDI); its own is in R12 (ESI). */
__asm__(".section .rodata\n.intel_syntax noprefix\n.balign 64\n"
	"code64:\n"
	"	in al, dx\n"
	"	lea rbx, [rip + code64]\n"
	"	add [rip + data64], rbx\n"
	"	mov rsi, [rip + data64 + 8]\n"
	"	lea rdi, [rip + far64]\n"
	"	lea r10, [rip + near64]\n"
	"	lea r11d, [rip + near64]\n"
	"	add r8, rbx\n"
	"	xor r9, rsi\n"
	"	add r9, r11\n"
	"	call near64\n"
	"	call far64\n"
	"	call tail64\n"
	"	push qword ptr [rip + data64 + 16]\n"
	"	pop rbp\n"
	"	fild qword ptr [rip + data64 + 8]\n"
	"	fnstenv [rip + data64 + 64]\n"
	"	fistp qword ptr [rip + data64 + 24]\n"
	"	movups xmm0, [rip + data64]\n"
	"	paddq xmm1, xmm0\n"
	"	mov eax, 5\n"
	"	bts [rip + data64 + 32], rax\n"
	"	cmp rsi, rbx\n"
	"	jmp cross64\n"
	"back64:\n"
	"	setb al\n"
	"	movzx eax, al\n"
	"	add r14, rax\n"
	"	mov r10d, 3\n"
	"1:	add r15, r10\n"
	"	dec r10d\n"
	"	jnz 1b\n"
	"	dec ecx\n"
	"	jz 2f\n"
	"	xchg r12, r13\n"
	"	call r12\n"
	"	in al, dx\n"
	"	add r8, [rip + data64]\n"
	"	mov [rip + data64 + 40], r8\n"
	"2:	ret\n"
	"near64:\n"
	"	adc r14, 1\n"
	"	ret\n"
	"	.org code64 + 4096 - 3\n"
	"tail64:\n"
	"	add r15, [rip + data64]\n"
	"	ret\n"
	"cross64:\n"
	"	jb back64\n"
	"	add rsi, 1\n"
	"	stc\n"
	"	jmp back64\n"
	"far64:\n"
	"	add r15, [rip + data64 + 32]\n"
	"	lea r11, [rip + near64]\n"
	"	call r11\n"
	"	call [rip + data64 + 48]\n"
	"	ret\n"
	"	.org code64 + 8192\n"
	"data64:\n"
	".code32\n"
	"code32:\n"
	"	in al, dx\n"
	"	call 1f\n"
	"1:	pop eax\n"
	"	add ebx, eax\n"
	"	add [eax + 8192 - 6], ebx\n"
	"	call near32\n"
	"	call far32\n"
	"	call tail32\n"
	"	cmp ebx, eax\n"
	"	jmp cross32\n"
	"back32:\n"
	"	setb al\n"
	"	movzx eax, al\n"
	"	add ebp, eax\n"
	"	dec ecx\n"
	"	jz 2f\n"
	"	xchg esi, edi\n"
	"	call esi\n"
	"	in al, dx\n"
	"2:	ret\n"
	"near32:\n"
	"	adc ebp, 1\n"
	"	ret\n"
	"	.org code32 + 4096 - 2\n"
	"tail32:\n"
	"	add ebp, [esp + 4]\n"
	"	ret\n"
	"cross32:\n"
	"	jb back32\n"
	"	stc\n"
	"	jmp back32\n"
	"far32:\n"
	"	add ebp, [esp]\n"
	"	call near32\n"
	"	ret\n"
	"	.org code32 + 8192\n"
	"data32:\n"
	".code64\n.att_syntax\n.text\n");
extern const uint8_t code64[], data64[], near64[], code32[], data32[];

static struct bt_cpu *watched;

/* The guest reads a port when it is at a new place: then enough time has passed. */
static uint64_t age(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	for (uint32_t i = 0; watched && i < watched->block_count; i++)
		watched->blocks[i].moved = 0;
	return 0x5a;
}

/* ---- the two places ---- */

static uint64_t next_table;

static uint64_t table_below(struct machine *m, uint64_t entry)
{
	uint64_t v = ld64le(m->ram->host + entry);

	if (v & 1 && !(v & 0x80))
		return v & ~UINT64_C(0xfff);
	put64(m, entry, next_table | 7);
	next_table += 0x1000;
	return next_table - 0x1000;
}

static void map_page(struct machine *m, bool wide, uint64_t lin, uint64_t gpa)
{
	uint64_t at = wide ? table_below(m, 0x1000 + 8 * (lin >> 39 & 511)) : 0x2000;

	at = table_below(m, at + 8 * (lin >> 30 & 511));
	at = table_below(m, at + 8 * (lin >> 21 & 511));
	put64(m, at + 8 * (lin >> 12 & 511), gpa | 7);
}

static void prepare(struct machine *m, struct cpu_state *s, bool wide)
{
	make_tables(m, wide);
	make_gates(m, wide);
	next_table = TABLES_MORE;
	memset(m->ram->host + TABLES_MORE, 0, PHYSICAL - TABLES_MORE);
	memcpy(m->ram->host + PHYSICAL, wide ? code64 : code32, PAGES * PAGE_SIZE);
	for (unsigned p = 0; p < 2; p++) {
		uint64_t data = PHYSICAL_DATA + p * PAGE_SIZE;

		for (unsigned i = 0; i < PAGES; i++)
			map_page(m, wide, places[wide][p] + i * PAGE_SIZE, PHYSICAL + i * PAGE_SIZE);
		map_page(m, wide, places[wide][p] + PAGES * PAGE_SIZE, data);
		for (unsigned i = 0; i < 64; i += 8)
			put64(m, data + i, (i + 1) * UINT64_C(0x0123456789abcdef) >> 1);
		put64(m, data + 48, places[wide][p] + (uint64_t)(near64 - code64));
	}
	start_state(s, wide);
	s->rflags = 2;
	s->gpr[RCX] = DEPTH;
}

/* Enters one of the places; it returns to a HLT. */
static void turn(struct machine *m, const struct accel_ops *ops, struct cpu_state *s, bool wide, unsigned place)
{
	struct vcpu_exit exit;
	uint64_t sp = STACK - 0x800;

	s->rip = places[wide][place];
	s->gpr[wide ? R12 : RSI] = places[wide][place];
	s->gpr[wide ? R13 : RDI] = places[wide][!place];
	s->gpr[RCX] = DEPTH;
	s->gpr[RSP] = sp;
	s->mp_state = MP_RUNNING;
	if (wide)
		put64(m, sp, HANDLERS);
	else
		st32le(m->ram->host + sp, HANDLERS);
	age(NULL, 0, 0, 0);
	ops->set_state(m->vcpu, s);
	for (unsigned n = 0; n < 60; n++) {
		run(m->vcpu, &exit);
		if (exit.kind != VCPU_EXIT_KICKED)
			break;
	}
	ops->get_state(m->vcpu, s);
}

static bool same(const struct machine *in, const struct machine *bt, const struct cpu_state *a, const struct cpu_state *b)
{
	const unsigned from[] = { STACK - 0x2000, PHYSICAL_DATA }, bytes[] = { 0x2000, 2 * PAGE_SIZE };

	for (unsigned i = 0; i < 2; i++) {
		for (unsigned at = from[i]; at < from[i] + bytes[i]; at++) {
			if (in->ram->host[at] != bt->ram->host[at]) {
				printf("# memory at %x: %02x %02x\n", at, in->ram->host[at], bt->ram->host[at]);
				return false;
			}
		}
	}
	return !different(a, b, false);
}

/* Each turn begins at the other place. */
static bool agree(struct machine *in, struct machine *bt, bool wide)
{
	static struct cpu_state a, b;

	code_at = PHYSICAL;
	prepare(in, &a, wide);
	b = a;
	mem_write(bt->mem, 0, in->ram->host, 0x600000);
	mem_write(in->mem, PHYSICAL, in->ram->host + PHYSICAL, PAGES * PAGE_SIZE);
	for (unsigned n = 0; n < TURNS; n++) {
		turn(in, &accel_interp_ops, &a, wide, n & 1);
		turn(bt, &accel_bt_ops, &b, wide, n & 1);
		if (a.rip != HANDLERS + 1 || !same(in, bt, &a, &b)) {
			printf("# turn %u\n", n);
			show(&a, &b, in, 16);
			return false;
		}
	}
	return true;
}

/* ---- relocations left out ---- */

static bool rejected(struct bt_cpu *b, const struct bt_block *k, uint8_t *at, const void *bytes, unsigned n)
{
	g_autoptr(GString) why = g_string_new(NULL);
	uint8_t was[8];
	bool ok;

	memcpy(was, at, n);
	memcpy(at, bytes, n);
	ok = !bt_check_block(b, k, why);
	memcpy(at, was, n);
	if (!ok)
		printf("# passed: block %lx+%#lx\n", k->lin, (unsigned long)(at - b->rw) - k->host);
	return ok;
}

/* A landing's comparison, a tag, an address in a window: what only becomes the guest's data is no harm. */
static bool matters(const struct bt_cpu *b, const struct bt_block *k, unsigned i)
{
	static const uint8_t compare[] = { 0x4d, 0x39, 0xda }, compare32[] = { 0x41, 0x81, 0xfa };
	const struct bt_reloc *r = &b->relocs[k->first_reloc + i];
	const uint8_t *p = b->rw + k->host + r->at;

	if (r->kind == RELOC_LIN32)
		return !memcmp(p - 3, compare32, 3);
	if (r->kind != RELOC_LIN)
		return true;
	return !memcmp(p + 8, compare, 3) || (i + 1u < k->relocs && (r[1].kind == RELOC_ENTRY || r[1].kind == RELOC_SLOT) && r[1].at - r->at < 20);
}

static unsigned kinds_tried;

static bool all_rejected(struct bt_cpu *b, unsigned *tried)
{
	bool ok = true;

	for (uint32_t n = 1; n < b->block_count; n++) {
		const struct bt_block *k = &b->blocks[n];

		for (unsigned i = 0; !k->dead && !k->fixed && i < k->relocs; i++) {
			const struct bt_reloc *r = &b->relocs[k->first_reloc + i];
			uint8_t *p = b->rw + k->host + r->at;
			uint64_t wide = ld64le(p) + (UINT64_C(1) << 40);
			uint32_t v = ld32le(p) + (r->kind == RELOC_ENTRY ? (uint32_t)sizeof(struct tlb_entry) : 8);

			if (!matters(b, k, i))
				continue;
			kinds_tried |= 1u << r->kind;
			ok &= rejected(b, k, p, r->kind == RELOC_LIN ? (void *)&wide : (void *)&v, r->kind == RELOC_LIN ? 8 : 4);
			++*tried;
		}
	}
	return ok;
}

static unsigned tests, failures;

static void check(bool ok, const char *name)
{
	printf("%s %u - %s\n", ok ? "ok" : "not ok", ++tests, name);
	failures += !ok;
}

int main(void)
{
	static const unsigned kinds[] = { [TIER2_OFF] = 0x7, [TIER2_AUTO] = 0x7, [TIER2_ALWAYS] = 0xb };
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	struct machine in, bt;
	unsigned tried = 0;
	uint64_t moved;
	bool ok;

	sigaction(SIGVTALRM, &sa, NULL);
	g_setenv("GUISE_BT_CHECK", "1", TRUE);
	seed = 1;
	machine_make(&in, &accel_interp_ops);
	machine_make(&bt, &accel_bt_ops);
	watched = (struct bt_cpu *)bt.vcpu;
	((struct bt *)bt.accel)->outer = &(struct accel_host){
		.port_read = age, .port_write = none_write, .mmio_read = mmio_read, .mmio_write = mmio_write, .interrupt_ack = no_interrupt,
		.apic_msr_read = no_msr, .apic_msr_write = no_msr_write, .tpr_read = no_tpr, .tpr_write = no_tpr_write, .clock_ns = no_clock,
		.ioapic_eoi = no_eoi,
	};
	check(agree(&in, &bt, true), "64-bit code at two places");
	moved = watched->stats.moved;
	printf("# %lu moved, %lu made\n", moved, watched->stats.blocks);
	check(moved > DEPTH * TURNS, "was moved");
	ok = all_rejected(watched, &tried);
	check(agree(&in, &bt, false), "32-bit code at two places");
	moved = watched->stats.moved - moved;
	printf("# %lu moved, %lu made\n", moved, watched->stats.blocks);
	check(moved > DEPTH * TURNS, "was moved");
	ok &= all_rejected(watched, &tried);
	printf("# %u tried, kinds %x\n", tried, kinds_tried);
	check(ok && tried > 20 && kinds_tried == kinds[((struct bt *)bt.accel)->tier2], "relocations left out are noticed");
	printf("1..%u\n", tests);
	machine_free(&in);
	machine_free(&bt);
	return failures != 0;
}
