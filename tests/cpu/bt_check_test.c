/*
 * The translator's checker: it accepts whatever the translator makes of cpu-bt's random sequences, as made and as
 * linked, and rejects every mutation of it that could do harm. A mutation is left out only by the written rules
 * below (the functions harmless_*): never because the checker has let it pass.
 *
 *	bt-check [cases [seed]]
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/bt/check.h"

#define LINES 4096

struct line {
	uint32_t at; /* in the cache */
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

enum mutation { M_BASE, M_WIDEN, M_DROP, M_RETARGET, M_GS, M_SWAP, M_STORED, M_FORBIDDEN, M_UNPROVEN, M_KINDS };
static const char *const kind_name[M_KINDS] = {
	"address register", "widened", "test dropped", "jump elsewhere", "gs offset", "store into load", "stored register", "forbidden instruction", "proof dropped",
};

struct suite {
	struct bt_cpu *b;
	const struct bt_block *block;
	struct line line[LINES];
	unsigned lines, tried[M_KINDS], passed[M_KINDS];
};

static bool decode_at(const struct bt_cpu *b, uint32_t at, struct line *l)
{
	ZydisDecoder decoder;

	l->at = at;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, b->rw + at, 15, &l->in, l->op));
}

static void decode_block(struct suite *s)
{
	s->lines = 0;
	for (uint32_t at = s->block->host; at < s->block->host + s->block->size && s->lines < LINES; at += s->line[s->lines++].in.length) {
		if (!decode_at(s->b, at, &s->line[s->lines]))
			return;
	}
}

static ZydisDecodedOperand *operand(struct line *l, bool gs)
{
	for (unsigned i = 0; i < l->in.operand_count_visible; i++) {
		if (l->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && l->op[i].mem.type == ZYDIS_MEMOP_TYPE_MEM &&
		    (l->op[i].mem.segment == ZYDIS_REGISTER_GS) == gs)
			return &l->op[i];
	}
	return NULL;
}

/* Puts `bytes` at `at`, asks the checker, puts things back. */
static void try_bytes(struct suite *s, enum mutation kind, const struct line *l, uint32_t at, const uint8_t *bytes, unsigned n)
{
	g_autoptr(GString) why = g_string_new(NULL);
	uint8_t was[32];

	memcpy(was, s->b->rw + at, n);
	if (!memcmp(was, bytes, n))
		return;
	memcpy(s->b->rw + at, bytes, n);
	s->tried[kind]++;
	if (bt_check_block(s->b, s->block, why)) {
		if (s->passed[kind]++ < 3) {
			printf("# passed: %s, block %lx+%#x %s:", kind_name[kind], s->block->lin, l->at - s->block->host,
			       ZydisMnemonicGetString(l->in.mnemonic));
			for (unsigned i = 0; i < n; i++)
				printf(" %02x", bytes[i]);
			printf(", was");
			for (unsigned i = 0; i < n; i++)
				printf(" %02x", was[i]);
			printf("\n");
		}
	}
	memcpy(s->b->rw + at, was, n);
}

/* What an instruction with changed bytes is; false when it is none, or of another length. */
static bool decode_changed(struct suite *s, const struct line *l, const uint8_t *bytes, struct line *changed)
{
	uint8_t was[15];
	bool ok;

	memcpy(was, s->b->rw + l->at, l->in.length);
	memcpy(s->b->rw + l->at, bytes, l->in.length);
	ok = decode_at(s->b, l->at, changed);
	memcpy(s->b->rw + l->at, was, l->in.length);
	return ok && changed->in.length == l->in.length;
}

/* ---- the mutations ---- */

/* Another base register in a guest memory operand: never the same address but by chance. */
static void change_base(struct suite *s, struct line *l)
{
	uint8_t bytes[15];
	struct line changed;
	uint32_t at = l->in.raw.sib.offset ? l->in.raw.sib.offset : l->in.raw.modrm.offset;
	ZydisDecodedOperand *m = operand(l, false), *now;

	if (!m || !at)
		return;
	for (unsigned flip = 1; flip < 8; flip++) {
		memcpy(bytes, s->b->rw + l->at, l->in.length);
		bytes[at] ^= (uint8_t)flip;
		if (!decode_changed(s, l, bytes, &changed) || !(now = operand(&changed, false)) || now->mem.base == m->mem.base)
			continue;
		try_bytes(s, M_BASE, l, l->at, bytes, l->in.length);
	}
}

/* Rule: what still lies within the bytes that the instruction's record was probed for is no harm. */
static bool harmless_size(const struct suite *s, const struct line *l, int64_t disp, unsigned size)
{
	struct bt_rec recs[RECS_MAX];

	bt_recs_unpack(s->b, s->block, recs);
	for (unsigned i = 0; i < s->block->recs; i++) {
		const struct bt_rec *r = &recs[i];
		int64_t from = disp - (r->frame == FRAME_NONE ? (int64_t)(bt_rec_lin(s->block, r) & (PAGE_SIZE - 1)) : 0);
		uint32_t at = l->at - s->block->host;

		if (r->retry <= at && (!r->goes_on || at < r->next) && from >= 0 && from + size <= r->size)
			return true;
	}
	return false;
}

/* A larger operand: REX.W set, or the operand size prefix made one without effect. */
static void widen(struct suite *s, struct line *l)
{
	uint8_t bytes[15];
	struct line changed;
	ZydisDecodedOperand *m = operand(l, false), *now;

	if (!m || l->in.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return;
	for (unsigned how = 0; how < 2; how++) {
		memcpy(bytes, s->b->rw + l->at, l->in.length);
		if (how == 0 && l->in.raw.rex.W == 0 && (l->in.attributes & ZYDIS_ATTRIB_HAS_REX))
			bytes[l->in.raw.rex.offset] |= 8;
		else if (how == 1 && bytes[0] == 0x66)
			bytes[0] = 0x3e;
		else
			continue;
		if (!decode_changed(s, l, bytes, &changed) || !(now = operand(&changed, false)) || now->size <= m->size ||
		    harmless_size(s, l, now->mem.disp.value, now->size / 8))
			continue;
		try_bytes(s, M_WIDEN, l, l->at, bytes, l->in.length);
	}
}

static uint32_t branch_to(const struct line *l) { return l->at + l->in.length + (uint32_t)l->op[0].imm.value.s; }

static bool is_branch(const struct line *l)
{
	return l->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
	       (l->in.meta.category == ZYDIS_CATEGORY_COND_BR || l->in.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
		l->in.meta.category == ZYDIS_CATEGORY_CALL);
}

/* The stub behind a push of an id at `at`, or 0. */
static uint32_t stub_behind(const struct suite *s, uint32_t at)
{
	const uint8_t *p = s->b->rw + at;
	uint32_t disp;

	if (at < s->block->host || at + 10 > s->block->host + s->block->size || p[0] != 0x68 || p[5] != 0xe9)
		return 0;
	memcpy(&disp, p + 6, 4);
	return at + 10 + disp;
}

/* A probe's comparison, and its branch, become nothing. */
static void drop_test(struct suite *s, struct line *l)
{
	static const uint8_t nops[15] = { 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
	uint32_t stub;

	if (l == s->line || l->in.meta.category != ZYDIS_CATEGORY_COND_BR)
		return;
	stub = stub_behind(s, branch_to(l));
	if (!stub || (stub != s->b->stub_fill && stub != s->b->stub_fill_lin && stub != s->b->stub_fp))
		return;
	try_bytes(s, M_DROP, l, l->at, nops, l->in.length);
	try_bytes(s, M_DROP, l - 1, l[-1].at, nops, l[-1].in.length);
}

/*
 * Rule: the two exit stubs differ only in where they take the guest's flags from; a look-up ends in the miss stub
 * when the jump cache does not know; a crossing block's instruction is interpreted either way.
 */
static bool harmless_target(const struct bt_cpu *b, uint32_t was, uint32_t to)
{
	bool exits = (was == b->stub_exit || was == b->stub_exit_flags) && (to == b->stub_exit || to == b->stub_exit_flags);
	bool insns = (was == b->stub_insn || was == b->stub_cross) && (to == b->stub_insn || to == b->stub_cross);
	bool misses = was == b->stub_miss, looks = to == b->stub_miss;

	for (unsigned i = 0; i < 4; i++) {
		misses |= was == b->stub_lookup[i];
		looks |= to == b->stub_lookup[i];
	}
	bool flags = (was == b->stub_flags_save || was == b->stub_flags_load) && (to == b->stub_flags_save || to == b->stub_flags_load);
	return was == to || exits || insns || flags || (misses && looks);
}

/* Rule: a conditional jump may lead around the way out that follows it: that is less, not more. */
static bool around_exit(const struct suite *s, const struct line *l, uint32_t to)
{
	uint32_t first = UINT32_MAX;

	for (unsigned i = 0; i < s->block->exits; i++) {
		uint32_t site = s->block->host + s->b->exits[s->block->first_exit + i].site;

		if (site > l->at && site < first)
			first = site;
	}
	return l->in.meta.category == ZYDIS_CATEGORY_COND_BR && l->in.raw.imm[0].size == 8 && to == first + 4;
}

static void retarget(struct suite *s, struct line *l)
{
	const struct bt_cpu *b = s->b;
	const uint32_t stubs[] = { b->stub_enter, b->stub_fill, b->stub_fill_lin, b->stub_insn, b->stub_fp, b->stub_exit, b->stub_exit_flags,
				   b->stub_poll, b->stub_miss, b->stub_cross, b->stub_bottom, b->stub_reload, b->stub_lookup[0], b->stub_flags_load,
				   b->stub_probe[pick(PROBES)], b->stub_probe[pick(PROBES)], b->stub_probe[0] };
	unsigned imm = l->in.raw.imm[0].size / 8;

	if (!is_branch(l))
		return;
	for (unsigned i = 0; i < 6; i++) {
		const struct line *other = &s->line[pick(s->lines)];
		uint32_t to = i < 2 ? other->at : i == 2 ? other->at + 1 : i == 3 ? b->code_start + pick(b->at - b->code_start) :
			      i == 4 ? stubs[pick(G_N_ELEMENTS(stubs))] : l->at + l->in.length;
		int32_t disp = (int32_t)(to - (l->at + l->in.length));

		if (harmless_target(b, branch_to(l), to) || around_exit(s, l, to) || (imm == 1 && disp != (int8_t)disp) || (i == 2 && other->in.length == 1))
			continue;
		try_bytes(s, M_RETARGET, l, l->at + l->in.raw.imm[0].offset, (const uint8_t *)&disp, imm);
	}
}

/* To members that no translated code has to do with, or one byte aside. */
static void change_gs(struct suite *s, struct line *l)
{
	const int32_t members[] = { GS_OF(c_rsp), GS_OF(return_sp), GS_OF(resume), GS_OF(lookup), GS_OF(rw), GS_OF(blocks), GS_OF(cpu.s.lstar),
				    GS_OF(cpu.s.efer), GS_OF(cpu.s.gpr) + RSP * 8, GS_OF(stats), (int32_t)sizeof(struct bt_cpu), -4096 };
	ZydisDecodedOperand *m = operand(l, true);

	if (!m || l->in.raw.disp.size != 32)
		return;
	for (unsigned i = 0; i < 3; i++) {
		int32_t disp = i < 2 ? members[pick(G_N_ELEMENTS(members))] : (int32_t)m->mem.disp.value + (pick(2) ? 1 : -1);

		try_bytes(s, M_GS, l, l->at + l->in.raw.disp.offset, (const uint8_t *)&disp, 4);
	}
}

/* op memory, register becomes op register, memory. */
static void swap_store(struct suite *s, struct line *l)
{
	uint8_t bytes[15];
	struct line changed;
	ZydisDecodedOperand *m = operand(l, false);
	unsigned op = l->in.opcode, last = l->in.raw.modrm.offset - 1;

	if (!m || l->in.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || !(m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
	    !((op < 0x38 && (op & 7) < 2) || op == 0x88 || op == 0x89) || (l->in.attributes & ZYDIS_ATTRIB_HAS_LOCK))
		return;
	memcpy(bytes, s->b->rw + l->at, l->in.length);
	bytes[last] ^= 2;
	if (decode_changed(s, l, bytes, &changed))
		try_bytes(s, M_SWAP, l, l->at, bytes, l->in.length);
}

/* The host's stack pointer, or the probe's own address, is stored. */
static void change_stored(struct suite *s, struct line *l)
{
	uint8_t bytes[15];
	struct line changed;
	ZydisDecodedOperand *m = operand(l, false);

	if (!m || l->in.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || (l->in.opcode != 0x89 && l->in.opcode != 0x01) ||
	    !(l->in.attributes & ZYDIS_ATTRIB_HAS_REX))
		return;
	for (unsigned i = 0; i < 2; i++) {
		memcpy(bytes, s->b->rw + l->at, l->in.length);
		bytes[l->in.raw.rex.offset] = (uint8_t)((bytes[l->in.raw.rex.offset] & ~4) | (i ? 4 : 0));
		bytes[l->in.raw.modrm.offset] = (uint8_t)((bytes[l->in.raw.modrm.offset] & ~0x38) | (i ? 2 : 4) << 3);
		/* Rule: before the page is added, TEMP0 is an offset of the guest's. */
		if (i && l->op[0].mem.index != ZYDIS_REGISTER_NONE)
			continue;
		if (decode_changed(s, l, bytes, &changed))
			try_bytes(s, M_STORED, l, l->at, bytes, l->in.length);
	}
}

static void forbid(struct suite *s, struct line *l)
{
	static const uint8_t code[][5] = {
		{ 0xf3, 0x48, 0x0f, 0xae, 0xd8 }, /* wrgsbase rax */ { 0x0f, 0x05, 0x90, 0x90, 0x90 }, /* syscall */
		{ 0x0f, 0xa2, 0x90, 0x90, 0x90 }, /* cpuid */        { 0x48, 0x89, 0xc4, 0x90, 0x90 }, /* mov rsp, rax */
		{ 0x0f, 0x01, 0xf8, 0x90, 0x90 }, /* swapgs */       { 0x8e, 0xe8, 0x90, 0x90, 0x90 }, /* mov gs, eax */
		{ 0x0f, 0x01, 0xef, 0x90, 0x90 }, /* wrpkru */       { 0x48, 0x8b, 0x00, 0x90, 0x90 }, /* mov rax, [rax] */
		{ 0x58, 0x50, 0x90, 0x90, 0x90 }, /* pop; push */    { 0xfd, 0x90, 0x90, 0x90, 0x90 }, /* std */
		{ 0xcd, 0x80, 0x90, 0x90, 0x90 }, /* int 80h */      { 0x49, 0xff, 0xe2, 0x90, 0x90 }, /* jmp r10 */
	};
	uint8_t bytes[15];

	if (l->in.length < 5 || l->in.meta.category == ZYDIS_CATEGORY_PUSH)
		return;
	memset(bytes, 0x90, sizeof(bytes));
	memcpy(bytes, code[pick(G_N_ELEMENTS(code))], 5);
	try_bytes(s, M_FORBIDDEN, l, l->at, bytes, l->in.length);
}

static bool register_is(const struct line *l, unsigned n, ZydisRegister reg)
{
	return l->op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && l->op[n].reg.value == reg;
}

/*
 * A guessed delta is not compared; an index without a bound is taken for one that has it; a return leads its landing elsewhere.
 */
static void drop_proof(struct suite *s, struct line *l)
{
	static const uint8_t nops[15] = { 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
	bool compares = l->in.mnemonic == ZYDIS_MNEMONIC_CMP && register_is(l, 0, ZYDIS_REGISTER_R10);
	const ZydisDecodedOperand *m = operand(l, true);

	if (compares && m && m->mem.index == ZYDIS_REGISTER_R11 && m->mem.disp.value >= GS_OF(delta) && m->mem.disp.value < GS_OF(home))
		try_bytes(s, M_UNPROVEN, l, l->at, nops, l->in.length);
	if (compares && l->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && l[1].in.mnemonic == ZYDIS_MNEMONIC_JNZ &&
	    stub_behind(s, branch_to(l + 1)) == s->b->stub_insn) {
		try_bytes(s, M_UNPROVEN, l, l->at, nops, l->in.length);
		try_bytes(s, M_UNPROVEN, l + 1, l[1].at, nops, l[1].in.length);
	}
	if (l->in.mnemonic == ZYDIS_MNEMONIC_LEA && register_is(l, 0, ZYDIS_REGISTER_R11) && l->op[1].mem.base == ZYDIS_REGISTER_RIP) {
		for (unsigned i = 0; i < 8; i++) {
			int32_t disp = (int32_t)(s->line[pick(s->lines)].at - (l->at + l->in.length)) + (pick(3) == 0);

			if (disp != (int32_t)l->op[1].mem.disp.value)
				try_bytes(s, M_UNPROVEN, l, l->at + l->in.raw.disp.offset, (const uint8_t *)&disp, 4);
		}
	}
}

static void mutate_block(struct suite *s)
{
	decode_block(s);
	for (unsigned i = 0; i < s->lines; i++) {
		struct line *l = &s->line[i];

		change_base(s, l);
		widen(s, l);
		drop_test(s, l);
		swap_store(s, l);
		change_stored(s, l);
		drop_proof(s, l);
		if (pick(4) == 0) {
			retarget(s, l);
			change_gs(s, l);
			forbid(s, l);
		}
	}
}

/* ---- the tests ---- */

/* All blocks there are, linked as they are. Returns how many are not accepted. */
static unsigned check_all(struct bt_cpu *b, unsigned *blocks)
{
	unsigned bad = 0;

	for (uint32_t i = 1; i < b->block_count; i++) {
		g_autoptr(GString) why = g_string_new(NULL);

		if (!bt_check_block(b, &b->blocks[i], why) && bad++ < 5)
			printf("# block %lx mode %x: %s\n", b->blocks[i].lin, b->blocks[i].mode, why->str);
	}
	*blocks += b->block_count - 1;
	return bad;
}

/* No mapping of the process may be written and executed. */
static bool write_xor_execute(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char text[512], rights[8];
	bool ok = f, executable_cache = false;

	while (f && fgets(text, sizeof(text), f)) {
		if (sscanf(text, "%*s %7s", rights) != 1)
			continue;
		executable_cache |= rights[2] == 'x' && strstr(text, "guise-bt");
		if (rights[1] == 'w' && rights[2] == 'x') {
			printf("# writable and executable: %s", text);
			ok = false;
		}
	}
	if (f)
		fclose(f);
	return ok && executable_cache;
}

static bool maps_ok = true;
static unsigned maps_seen;

/* The guest reads a port while translated code runs: a look at the process from within the engine. */
static uint64_t look(void *opaque, unsigned cpu, uint16_t port, unsigned len)
{
	maps_seen++;
	maps_ok &= write_xor_execute();
	return 0;
}

static void run_sequence(struct machine *m, const struct cpu_state *start)
{
	struct vcpu_exit exit;

	put64(m, COUNTER, 1 + pick(3));
	mem_write(m->mem, CODE, m->ram->host + CODE, 0x2000);
	accel_bt_ops.set_state(m->vcpu, start);
	run(m->vcpu, &exit);
}

static void port_sequence(struct machine *m, const struct accel_host *with_look)
{
	static const uint8_t code[] = { 0xec, 0x90, 0xec, 0xf4 }; /* in al, dx; nop; in al, dx; hlt */
	struct cpu_state start;
	struct bt *bt = (struct bt *)m->accel;
	const struct accel_host *was = bt->outer;

	code_at = CODE;
	make_tables(m, true);
	make_gates(m, true);
	start_state(&start, true);
	memcpy(m->ram->host + CODE, code, sizeof(code));
	bt->outer = with_look;
	run_sequence(m, &start);
	bt->outer = was;
}

/* A program that takes a lock: xor eax, eax; mov ecx, 1; lock cmpxchg [rbx], ecx; jne; hlt, which it may not. */
static void lock_sequence(struct machine *m)
{
	static const uint8_t code[] = { 0x31, 0xc0, 0xb9, 1, 0, 0, 0, 0xf0, 0x0f, 0xb1, 0x0b, 0x75, 0xf3, 0xf4 };
	struct cpu_state start;

	code_at = CODE;
	make_tables(m, true);
	make_gates(m, true);
	start_state(&start, true);
	start.seg[SEG_CS] = (struct x86_segment){ 0, UINT32_MAX, 0x1b, 0xafb };
	start.seg[SEG_SS] = (struct x86_segment){ 0, UINT32_MAX, 0x23, 0xcf3 };
	put64(m, start.gpr[RBX], 0);
	memcpy(m->ram->host + CODE, code, sizeof(code));
	run_sequence(m, &start);
}

/* Loops along a chain of pointers, and by an index with a bound; a call, a return and a jump with flags that are made again. */
static void fixed_sequence(struct machine *m, const uint8_t *code, unsigned length)
{
	struct cpu_state start;

	code_at = CODE;
	make_tables(m, true);
	make_gates(m, true);
	start_state(&start, true);
	put64(m, start.gpr[RBX], start.gpr[RBX]);
	start.gpr[RAX] = 0;
	start.gpr[RCX] = DATA;
	start.gpr[RDX] = 7;
	memcpy(m->ram->host + CODE, code, length);
	run_sequence(m, &start);
}

static unsigned fixed_sequences(struct suite *s, struct machine *m, unsigned *blocks)
{
	static const struct { unsigned length; uint8_t code[32]; } fixed[] = {
		{ 12, { 0x48, 0x8b, 0x1b, 0x48, 0x03, 0x43, 0x08, 0xff, 0xc9, 0x75, 0xf5, 0xf4 } },
		{ 16, { 0xc6, 0x04, 0x01, 0x01, 0x48, 0x01, 0xd0, 0x48, 0x3d, 0xff, 0x0f, 0, 0, 0x76, 0xf1, 0xf4 } },
		/* call over; test eax, eax; hlt; over: add rax, 8; ret. And mov edi, on; add rax, 8; jmp rdi; on: test eax, eax; hlt */
		{ 14, { 0xe8, 0x04, 0, 0, 0, 0x85, 0xc0, 0xf4, 0x90, 0x48, 0x83, 0xc0, 0x08, 0xc3 } },
		{ 14, { 0xbf, 0x0b, 0, 0x10, 0, 0x48, 0x83, 0xc0, 0x08, 0xff, 0xe7, 0x85, 0xc0, 0xf4 } },
	};
	unsigned bad = 0;

	for (unsigned n = 0; n < G_N_ELEMENTS(fixed); n++) {
		fixed_sequence(m, fixed[n].code, fixed[n].length);
		bad += check_all(s->b, blocks) + (s->b->block_count < 2);
		for (unsigned i = 1; i < s->b->block_count && i < 8; i++) {
			s->block = &s->b->blocks[i];
			mutate_block(s);
		}
		bt_cache_flush(s->b);
	}
	return bad;
}

static bool waits_for_lock(const struct bt_cpu *b, const struct bt_block *block)
{
	static struct suite s;
	bool found = false;

	s.b = (struct bt_cpu *)(uintptr_t)b;
	s.block = block;
	decode_block(&s);
	for (unsigned i = 0; i < s.lines; i++)
		found |= s.line[i].in.mnemonic == ZYDIS_MNEMONIC_CALL && branch_to(&s.line[i]) == b->stub_contended;
	return found;
}

static unsigned report(const struct suite *s, unsigned *tried)
{
	unsigned passed = 0;

	for (unsigned i = 0; i < M_KINDS; i++) {
		printf("# %s: %u, not rejected %u\n", kind_name[i], s->tried[i], s->passed[i]);
		passed += s->passed[i] + !s->tried[i];
		*tried += s->tried[i];
	}
	return passed;
}

int main(int argc, char **argv)
{
	unsigned cases = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 400, bad = 0, blocks = 0, tried = 0, passed;
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	struct accel_host with_look = host;
	static struct suite s;
	struct machine m;

	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x6a09e667f3bcc909;
	sigaction(SIGVTALRM, &sa, NULL);
	g_setenv("GUISE_BT_CHECK", "1", TRUE);
	machine_cpus = 2;
	machine_make(&m, &accel_bt_ops);
	s.b = (struct bt_cpu *)m.vcpu;
	for (unsigned n = 0; n < cases; n++) {
		static struct cpu_state start;
		bool wide = pick(3);

		code_at = pick(2) ? CODE : CODE_LATE;
		make_tables(&m, wide);
		make_gates(&m, wide);
		start_state(&start, wide);
		make_sequence(&m, wide);
		run_sequence(&m, &start);
		bad += check_all(s.b, &blocks);
		if (n % 10 == 0 && s.b->block_count > 1) {
			s.block = &s.b->blocks[1 + pick(s.b->block_count - 1)];
			mutate_block(&s);
		}
		bt_cache_flush(s.b);
	}
	bad += fixed_sequences(&s, &m, &blocks);
	lock_sequence(&m);
	bad += check_all(s.b, &blocks);
	bad += s.b->block_count < 2 || !waits_for_lock(s.b, &s.b->blocks[1]);
	for (unsigned i = 0; s.b->block_count > 1 && i < 40; i++) {
		s.block = &s.b->blocks[1];
		mutate_block(&s);
	}
	bt_cache_flush(s.b);
	with_look.port_read = look;
	port_sequence(&m, &with_look);
	printf("# %u sequences, %u blocks\n", cases, blocks);
	passed = report(&s, &tried);
	machine_free(&m);
	printf("1..3\n%s 1 - %u blocks accepted\n", bad || !blocks ? "not ok" : "ok", blocks);
	printf("%s 2 - %u mutations rejected\n", passed || tried < 1000 ? "not ok" : "ok", tried);
	printf("%s 3 - nothing is writable and executable\n", maps_ok && maps_seen ? "ok" : "not ok");
	return bad || !blocks || passed || tried < 1000 || !maps_ok || !maps_seen;
}
