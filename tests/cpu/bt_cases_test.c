/*
 * Single instructions that the translator once got wrong, against the interpreter: every register, the x87's pointers,
 * memory and the dirty bits of its pages. And the jump cache's empty entries, which no address may hit.
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/bt/bt.h"

#define BEYOND UINT64_C(0xaa0f223fafd79e95) /* not canonical */
#define LAST_PAGE UINT64_C(0x7ffffffff000)  /* of the lower half */

struct one {
	const char *name;
	const uint8_t *code;
	unsigned length;
	uint64_t rax;
	bool narrow; /* 32-bit code */
	bool last;   /* at the end of the last page of the lower half */
	unsigned crossing; /* bytes before the end of a page that the first physical one follows */
	bool hole;         /* or none */
	unsigned compat;   /* where its 32-bit code begins, that JMP FAR [RBX] leads to */
	bool chain;        /* RBX leads to a chain of pointers in two windows' slots by turns */
};

#define BYTES(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

#define QUAD(v) (uint8_t)(v), (uint8_t)((v) >> 8), (uint8_t)((v) >> 16), (uint8_t)((v) >> 24), (uint8_t)(UINT64_C(v) >> 32), \
	(uint8_t)(UINT64_C(v) >> 40), (uint8_t)(UINT64_C(v) >> 48), (uint8_t)(UINT64_C(v) >> 56)
/* mov rcx, base; mov rdx, step; again: mov byte [rcx + rax], 1; add rax, rdx; cmp rax, 0xfff; jbe again; hlt */
#define BOUNDED(base, step) BYTES(0x48, 0xb9, QUAD(base), 0x48, 0xba, QUAD(step), 0xc6, 0x04, 0x01, 0x01, 0x48, 0x01, 0xd0, 0x48, 0x3d, 0xff, 0x0f, 0, 0, \
	0x76, 0xf1, 0xf4)

static const struct one cases[] = {
	{ "SHA1NEXTE, misaligned", BYTES(0x0f, 0x38, 0xc8, 0x4b, 0x08) },
	{ "SHA256MSG2, misaligned", BYTES(0x0f, 0x38, 0xcd, 0x4b, 0x01) },
	{ "SHA1RNDS4, misaligned", BYTES(0x0f, 0x3a, 0xcc, 0x4b, 0x08, 0x01) },
	{ "SHA1RNDS4, misaligned, 32-bit", BYTES(0x0f, 0x3a, 0xcc, 0x4b, 0x08, 0x01), .narrow = true },
	{ "FADDP, FNSTENV", BYTES(0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc1, 0xd9, 0x33) },
	{ "FADDP, FNSTENV, 32-bit", BYTES(0xd9, 0xe8, 0xd9, 0xeb, 0xde, 0xc1, 0xd9, 0x33), .narrow = true },
	{ "FLD m64, FNSAVE", BYTES(0xdd, 0x43, 0x10, 0xdd, 0x33) },
	{ "FLD m64, FDIV ST, FNSAVE", BYTES(0xdd, 0x43, 0x10, 0xdc, 0xf0, 0xdd, 0x33) },
	{ "FLD m64, FDIV ST, FNSAVE, 32-bit", BYTES(0xdd, 0x43, 0x10, 0xdc, 0xf0, 0xdd, 0x33), .narrow = true },
	{ "FLD fs:m64, FDIV ST, FNSAVE, 32-bit", BYTES(0x64, 0xdd, 0x43, 0x10, 0xdc, 0xf0, 0xdd, 0x33), .narrow = true },
	{ "FIADD fs:m16, FXSAVE64", BYTES(0xd9, 0xee, 0x64, 0xde, 0x04, 0x25, 0x20, 0, 0, 0, 0x48, 0x0f, 0xae, 0x03) },
	{ "FLD m32, FXSAVE, 32-bit", BYTES(0xd9, 0x44, 0x24, 0x10, 0x0f, 0xae, 0x03), .narrow = true },
	{ "FLD1, FNSTCW, FNSTSW, FNSTENV", BYTES(0xd9, 0xe8, 0xd9, 0x7b, 0x40, 0xdf, 0xe0, 0xdd, 0x7b, 0x44, 0xd9, 0x33) },
	{ "FLD1, FNINIT, FNSTENV", BYTES(0xd9, 0xe8, 0xdb, 0xe3, 0xd9, 0x33) },
	{ "FLD1, FLDZ, FDIVP, FNCLEX, FNSTENV", BYTES(0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdb, 0xe2, 0xd9, 0x33) },
	{ "REPNE SCASB over pages", BYTES(0xb8, 0x01, 0, 0, 0, 0xbf, 0xf0, 0x1f, 0x20, 0, 0xb9, 0x40, 0, 0, 0, 0xf2, 0xae) },
	{ "FNSTENV alone", BYTES(0xd9, 0x33) },
	{ "an x87 encoding that does not exist", BYTES(0xd9, 0xe8, 0xd9, 0xd7) },
	{ "RET, not canonical", BYTES(0x50, 0xc3), .rax = BEYOND },
	{ "RET imm16, not canonical", BYTES(0x50, 0xc2, 0x30, 0x00), .rax = BEYOND },
	{ "RET of a call, not canonical", BYTES(0xe8, 0, 0, 0, 0, 0x48, 0x89, 0x04, 0x24, 0xc2, 0xf0, 0xff), .rax = BEYOND },
	{ "JMP register, not canonical", BYTES(0xff, 0xe0), .rax = BEYOND },
	{ "JMP memory, not canonical", BYTES(0x48, 0x89, 0x03, 0xff, 0x23), .rax = BEYOND },
	{ "CALL register, not canonical", BYTES(0xff, 0xd0), .rax = UINT64_C(0x800000000000) },
	{ "CALL memory, not canonical", BYTES(0x48, 0x89, 0x03, 0xff, 0x13), .rax = BEYOND },
	/* The fault's frame leaves a gap where the return address would be. */
	{ "PUSH, CALL register, not canonical", BYTES(0x50, 0xff, 0xd0), .rax = BEYOND },
	{ "PUSH, CALL memory, not canonical", BYTES(0x48, 0x89, 0x03, 0x50, 0xff, 0x13), .rax = BEYOND },
	{ "CMP, PUSH, CALL register, not canonical", BYTES(0x39, 0xc8, 0x50, 0xff, 0xd0), .rax = BEYOND },
	{ "JMP over the edge", BYTES(0xe9, 0, 0x10, 0, 0), .last = true },
	{ "CALL over the edge", BYTES(0xe8, 0, 0x10, 0, 0), .last = true },
	{ "JCC over the edge", BYTES(0x31, 0xc0, 0x0f, 0x84, 0, 0x10, 0, 0), .last = true },
	{ "FS, then a segment that counts for nothing", BYTES(0x64, 0x36, 0x48, 0x8b, 0x0c, 0x25, 0x20, 0, 0, 0) },
	{ "LOCK MOV of a high byte", BYTES(0xf0, 0x88, 0x2b) },
	{ "TPAUSE", BYTES(0x66, 0x0f, 0xae, 0xf0) },
	{ "a loop that goes on in physical page 0", BYTES(0xb8, 0x01, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4), .crossing = 2 },
	{ "an opcode that does not exist, before a hole", BYTES(0x2e, 0x0f, 0x38, 0xf4), .crossing = 4, .hole = true },
	{ "half an instruction before a hole", BYTES(0x66, 0xc7, 0x03, 0x01), .crossing = 4, .hole = true },
	{ "an instruction over a page's end that changes in a loop", BYTES(0xb0, 0x4d, 0xd4, 0x0a, 0x00, 0xe3, 0xfe, 0x05, 0x00, 0x10, 0x10, 0x00, 0x49, 0x75, 0xf1, 0xf4),
	  .narrow = true, .crossing = 3 },
	{ "VZEROALL, 32-bit", BYTES(0xc5, 0xfc, 0x77), .narrow = true },
	{ "VZEROUPPER, 32-bit", BYTES(0xc5, 0xf8, 0x77), .narrow = true },
	{ "a VEX encoding with a prefix that it has not", BYTES(0xc5, 0x7f, 0x66, 0xc0) },
	{ "VEX with an operand where there is none", BYTES(0xc5, 0xd2, 0xf4, 0xf4) },
	{ "VZEROUPPER with vvvv", BYTES(0xc4, 0xe1, 0xf0, 0x77) },
	{ "VZEROUPPER with vvvv, 32-bit", BYTES(0xc4, 0xe1, 0xf0, 0x77), .narrow = true },
	{ "ANDN with W, 32-bit", BYTES(0xc4, 0xe2, 0xf0, 0xf2, 0xd3), .narrow = true },
	{ "LOCK RCL", BYTES(0xf0, 0xd0, 0x13) },
	{ "LOCK RCL, 32-bit", BYTES(0xf0, 0xd0, 0x13), .narrow = true },
	{ "MOVSXD to 16 bits at a page's end", BYTES(0xbe, 0xfe, 0x2f, 0x20, 0, 0x66, 0x63, 0x0e) },
	{ "MOVNTPS, misaligned", BYTES(0x0f, 0x2b, 0x83, 0x08, 0x20, 0, 0) },
	{ "MOVNTDQ, misaligned", BYTES(0x66, 0x0f, 0xe7, 0x83, 0x08, 0x20, 0, 0) },
	{ "MOVAPS, misaligned", BYTES(0x0f, 0x29, 0x83, 0x01, 0x20, 0, 0) },
	{ "MOVDQA, misaligned", BYTES(0x66, 0x0f, 0x7f, 0x83, 0x04, 0x20, 0, 0) },
	{ "VMOVAPS, misaligned", BYTES(0xc5, 0xfc, 0x29, 0x83, 0x10, 0x20, 0, 0) },
	{ "MOVDQU, misaligned", BYTES(0xf3, 0x0f, 0x7f, 0x83, 0x04, 0x20, 0, 0) },
	{ "a jump to code that reads a flag after it has changed", BYTES(0xb9, 2, 0, 0, 0, 0xeb, 0, 0x39, 0xcb, 0x89, 0x13, 0xeb, 0, 0x31, 0xd2, 0x90, 0x90,
	  0xc7, 0x04, 0x25, 0x0d, 0x00, 0x10, 0x00, 0x0f, 0x94, 0xc2, 0x90, 0xff, 0xc9, 0x75, 0xe7, 0xf4) },
	{ "a jump to a jump to code that reads a flag after it has changed", BYTES(0xb9, 2, 0, 0, 0, 0xeb, 0, 0x39, 0xcb, 0x89, 0x13, 0xeb, 0, 0xe9, 0x6e, 0, 0, 0,
	  [0x80] = 0x31, 0xd2, 0x90, 0x90, 0xc7, 0x04, 0x25, 0x80, 0x00, 0x10, 0x00, 0x0f, 0x94, 0xc2, 0x90, 0xff, 0xc9, 0x0f, 0x85, 0x70, 0xff, 0xff, 0xff, 0xf4) },
	{ "a return to code that reads a flag since the callee has changed it", BYTES(0xb9, 3, 0, 0, 0, 0xeb, 0, 0xe8, 0x74, 0, 0, 0, 0x31, 0xd2, 0x90, 0x90, 0xff, 0xc9, 0x75, 0xf3, 0xf4,
	  [0x80] = 0x83, 0xf9, 0x01, 0x75, 0x0b, 0xc7, 0x04, 0x25, 0x0c, 0x00, 0x10, 0x00, 0x0f, 0x94, 0xc2, 0x90, 0x39, 0xcb, 0x89, 0x13, 0xc3) },
	{ "NOT fs:m32 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0xf7, 0x53, 0xff), .narrow = true },
	{ "NOT fs:m8 up to 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0xf6, 0x53, 0xff), .narrow = true },
	{ "MOV fs:m32 up to 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0x8b, 0x43, 0xfc), .narrow = true },
	{ "MOVDQU fs:m128 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0xf3, 0x0f, 0x6f, 0x43, 0xf1), .narrow = true },
	{ "MOVDQU fs:m128 up to 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0xf3, 0x0f, 0x6f, 0x43, 0xf0), .narrow = true },
	{ "MOV fs:moffs over 4 GiB, 32-bit", BYTES(0x64, 0xa1, 0xfd, 0xff, 0xff, 0xff), .narrow = true },
	{ "ADD fs:disp32 over 4 GiB, 32-bit", BYTES(0x64, 0x01, 0x1d, 0xfe, 0xff, 0xff, 0xff), .narrow = true },
	{ "CMP fs:disp32 up to 4 GiB, 32-bit", BYTES(0x64, 0x39, 0x1d, 0xfc, 0xff, 0xff, 0xff), .narrow = true },
	{ "PUSH fs:m32 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x64, 0xff, 0x73, 0xfe), .narrow = true },
	{ "BTS fs:m32 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x31, 0xc0, 0x64, 0x0f, 0xab, 0x43, 0xfe), .narrow = true },
	{ "flags across fs:m32, 32-bit", BYTES(0x31, 0xdb, 0x39, 0xd8, 0x64, 0x8b, 0x4b, 0x20, 0x64, 0x13, 0x4b, 0x24, 0x74, 0x01, 0x40), .narrow = true },
	{ "flags across MOV fs:m32 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0xf9, 0x64, 0x8b, 0x4b, 0xfd, 0x72, 0x01, 0x40), .narrow = true },
	{ "MOV ds:m32 over 4 GiB, 32-bit", BYTES(0x31, 0xdb, 0x8b, 0x43, 0xfe), .narrow = true },
	{ "MOV ds:m32 over 4 GiB below 64-bit data", BYTES(0x48, 0xb8, 0, 0, 0, 0, 1, 0, 0, 0, 0x48, 0x8b, 0x08, 0xff, 0x2b, 0x31, 0xdb, 0x8b, 0x43, 0xfe),
	  .compat = 15 },
	{ "a loop along pointers into two slots", BYTES(0x48, 0x8b, 0x1b, 0x48, 0x03, 0x43, 0x08, 0xff, 0xc9, 0x75, 0xf5, 0xf4), .chain = true },
	{ "a loop by an index with a bound", BOUNDED(0x200000, 7) },
	{ "a loop by an index that begins beyond its bound", BOUNDED(0xfffffffe00200000, 0x100000000), .rax = UINT64_C(0x200000000) },
	{ "a loop by an index that begins below 0", BOUNDED(0x201000, 16), .rax = UINT64_C(0xfffffffffffffff8) },
	{ "a loop by an index that gets beyond its bound once", BOUNDED(0x200000, 0x300000000), .rax = 1 },
};

/* The page that shows the code's is the last one below the hole in the address space. */
static void map_last(struct machine *m)
{
	put64(m, 0x1000 + 8 * 255, 0x2000 | 7);
	put64(m, 0x2000 + 8 * 511, 0x3000 | 7);
	put64(m, 0x3000 + 8 * 511, 0x4000 | 7);
	put64(m, 0x4000 + 8 * 511, CODE | 7);
}

/* Pages below and above 4 GiB, and a segment for 32-bit code of a 64-bit system. */
static void map_compat(struct machine *m, unsigned offset)
{
	put64(m, 0x2000 + 8 * 3, 0x3000 | 7);
	put64(m, 0x2000 + 8 * 4, 0x3000 | 7);
	put64(m, 0x3000 + 8 * 511, 0x200000 | 0x87);
	put64(m, GDT + 0x18, 0x00cf9b000000ffff);
	put64(m, DATA + 0x1000, UINT64_C(0x18) << 32 | (code_at + offset));
}

/* Eight nodes, seen at two addresses 512 GiB apart; three of one slot, then one of the other. */
static void make_chain(struct machine *m, struct cpu_state *s)
{
	uint64_t first = s->gpr[RBX] = DATA + 0x1000;

	memcpy(m->ram->host + 0x1008, m->ram->host + 0x1000, 8);
	for (unsigned i = 0; i < 8; i++) {
		put64(m, first + 16 * i, first + 16 * ((i + 1) % 8) + ((i & 3) == 3 ? UINT64_C(1) << 39 : 0));
		put64(m, first + 16 * i + 8, i * 7 + 1);
	}
	s->gpr[RCX] = 100;
}

static void prepare(struct machine *m, struct cpu_state *s, const struct one *c)
{
	uint8_t *code;

	code_at = c->last ? CODE + 0xf00 : c->crossing ? CODE + 0x1000 - c->crossing : CODE;
	code = m->ram->host + code_at;
	make_tables(m, !c->narrow);
	make_gates(m, !c->narrow);
	start_state(s, !c->narrow);
	s->gpr[RAX] = c->rax;
	s->rflags = 2;
	if (c->last) {
		map_last(m);
		s->rip = LAST_PAGE + 0xf00;
	}
	memset(m->ram->host + DATA, 0, STACK - DATA);
	if (c->compat) {
		map_compat(m, c->compat);
		s->gdtr.limit = 0x1f;
	}
	if (c->chain)
		make_chain(m, s);
	memset(code, 0xf4, 256);
	memcpy(code, c->code, c->length);
	if (c->crossing) {
		put64(m, 0x4000 + 8 * (CODE / 0x1000 + 1), c->hole ? 0 : 7);
		memcpy(m->ram->host, c->code + c->crossing, c->length - c->crossing);
		s->gpr[RCX] = 3;
	}
}

/* The first byte of memory that differs; pages may have been looked at ahead. */
static unsigned memory_first(const struct machine *a, const struct machine *b)
{
	for (unsigned i = TABLES; i < 0x220000; i++) {
		uint8_t mask = i < IDT ? 0xdf : 0xff;

		if ((a->ram->host[i] & mask) != (b->ram->host[i] & mask))
			return i;
	}
	return 0;
}

static bool case_agrees(struct machine *in, struct machine *bt, const struct one *c)
{
	static struct cpu_state start;
	static struct compared o;
	unsigned where;

	prepare(in, &start, c);
	mem_write(bt->mem, 0, in->ram->host, 0x220000);
	mem_write(in->mem, CODE, in->ram->host + CODE, 0x2000);
	run_both(in, bt, &start, &o);
	where = memory_first(in, bt);
	if (o.ea.kind == o.eb.kind && !where && !different(&o.a, &o.b, false) && !memcmp(o.a.xsave, o.b.xsave, 24) &&
	    !memcmp(o.a.xsave + 32, o.b.xsave + 32, 128))
		return true;
	printf("# exits %d %d, memory at %x\n", o.ea.kind, o.eb.kind, where);
	show(&o.a, &o.b, in, 16);
	return false;
}

/* ---- the jump cache ---- */

static bool empty_entries_missed(const struct bt_cpu *b)
{
	for (unsigned m = 0; m < 4; m++) {
		for (unsigned i = 0; i < JUMP_SIZE; i++) {
			if (bt_jump_index(b->jump[m].tag[i]) == i || bt_jump_index(b->jump[m].tag[i] ^ JUMP_FLAGS) == i)
				return false;
		}
	}
	return true;
}

/* Jumps to where an empty entry's tag would lead, under the salts to come: each is a #GP. */
static bool salted_jumps_fault(struct machine *m)
{
	const struct one jump = { "", BYTES(0xff, 0xe0) };
	struct bt_cpu *b = (struct bt_cpu *)m->vcpu;
	struct cpu_state s;
	struct vcpu_exit exit;

	for (uint64_t n = 0; n < 8; n++) {
		prepare(m, &s, &jump);
		s.gpr[RAX] = ~(b->salt[0] + ((n & 3) << 48));
		mem_write(m->mem, CODE, m->ram->host + CODE, 64);
		accel_bt_ops.set_state(m->vcpu, &s);
		run(m->vcpu, &exit);
		accel_bt_ops.get_state(m->vcpu, &s);
		if (exit.kind != VCPU_EXIT_HALT || s.rip != HANDLERS + 13 * 16 + 1)
			return false;
	}
	return true;
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	struct machine in, bt;
	unsigned n = 0, bad = 0;
	bool ok;

	sigaction(SIGVTALRM, &sa, NULL);
	g_setenv("GUISE_BT_CHECK", "1", TRUE);
	seed = 1;
	machine_make(&in, &accel_interp_ops);
	machine_make(&bt, &accel_bt_ops);
	for (; n < G_N_ELEMENTS(cases); n++) {
		ok = case_agrees(&in, &bt, &cases[n]);
		bad += !ok;
		printf("%s %u - %s\n", ok ? "ok" : "not ok", n + 1, cases[n].name);
	}
	ok = salted_jumps_fault(&bt);
	bad += !ok;
	printf("%s %u - jumps by an empty entry of the jump cache\n", ok ? "ok" : "not ok", ++n);
	bt_cache_flush((struct bt_cpu *)bt.vcpu);
	ok = empty_entries_missed((struct bt_cpu *)bt.vcpu);
	bad += !ok;
	printf("%s %u - no address leads to an empty entry\n", ok ? "ok" : "not ok", ++n);
	machine_free(&in);
	machine_free(&bt);
	printf("1..%u\n", n);
	return bad != 0;
}
