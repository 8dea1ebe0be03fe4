/*
 * From guest bytes to a block of host code: decode up to the block's end, find which flags matter where,
 * emit. There is no intermediate form.
 */
#include "accel/bt/check.h"
#include "accel/bt/tier.h"
#include "accel/bt/translate.h"

#include "base/log.h"

/* What cannot be translated as it stands goes to the interpreter. */
static void to_interp(struct guest_insn *g)
{
	g->kind = G_INTERP;
	g->ops &= GO_ENDS;
	g->flags_read = GF_ALL;
	g->flags_written = 0;
	g->flags_touched = true;
}

static bool segment_usable(const struct tr *t, const struct guest_insn *g)
{
	return !t->code32 || (t->mode & MODE_SEG << guest_segment(g));
}

/* A constant offset in FS or GS from which the access leads past 4 GiB. */
static bool wraps(const struct tr *t, const struct guest_insn *g)
{
	return t->code32 && (g->seg == SEG_FS || g->seg == SEG_GS) && g->base < 0 && g->index < 0 && g->mem_size &&
	       (uint32_t)g->disp > (uint32_t)-g->mem_size;
}

static bool stack_usable(const struct tr *t) { return !t->code32 || (t->mode & MODE_SEG << SEG_SS); }

/* A branch to an address that is not canonical: the fault is its own. */
static bool leads_out(const struct tr *t, const struct guest_insn *g, uint64_t lin)
{
	bool direct = g->kind == G_JCC || g->kind == G_LOOP || g->kind == G_JMP || g->kind == G_CALL;
	uint64_t to = lin + g->length + g->imm;

	/* Nor are those too far from the block that leads there: bt_exit. */
	return direct && !t->code32 && (!bt_canonical(to) || (int64_t)(to - t->block->lin) != (int32_t)(to - t->block->lin));
}

/* All but INS and OUTS, in the address size of the code and flat segments. */
static bool string_helped(const struct tr *t, const struct guest_insn *g)
{
	bool from = string_reads_rsi(g), to = string_uses_rdi(g);

	if (g->addrsize != word(t) || g->lock)
		return false;
	if (t->code32)
		return (!to || (t->mode & MODE_SEG << SEG_ES)) && (!from || ((g->seg < 0 || g->seg == SEG_DS) && (t->mode & MODE_SEG << SEG_DS)));
	return !from || (g->seg != SEG_FS && g->seg != SEG_GS);
}

/*
 * Whether the host may be given the encoding: one that the interpreter's decoder knows as well. Only those are asked
 * about of which the tables do not say all: VEX, and what LOCK may stand before. Outside of 64-bit code VEX.W says nothing
 * about general registers, on the host it would.
 */
static bool encoding_known(const struct tr *t, const struct guest_insn *g, const uint8_t *bytes)
{
	const uint32_t general = GO_RM_GPR | GO_REG_GPR | GO_VVVV_R | GO_VVVV_W;
	ZydisDecodedInstruction zi;
	ZydisDecoder decoder;

	if (!g->vex && !g->lock)
		return true;
	/* VZEROUPPER and VZEROALL leave the registers alone that this code cannot name. */
	if (t->code32 && g->vex && g->map == 1 && g->op == 0x77)
		return false;
	if (t->code32 && g->vex && (g->rex & 8) && (g->ops & general))
		return false;
	if (t->code32)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, g->length, &zi)) && zi.length == g->length;
}

/* With several vCPUs PAUSE is more than an instruction of the host's. */
static bool gives_way(const struct tr *t, const struct guest_insn *g)
{
	return g->kind == G_PLAIN && !g->map && !g->vex && g->op == 0x90 && g->rep == 0xf3 && (g->ops & GO_ACC) && t->b->cpu.interp->cfg.cpus > 1;
}

static void judge(const struct tr *t, struct guest_insn *g, const uint8_t *bytes)
{
	bool supervisor = !(t->mode & MODE_USER), ok = true;

	if (guest_mem(g) && g->kind != G_LEA && g->kind != G_NOP && (!segment_usable(t, g) || wraps(t, g)))
		ok = false;
	switch (g->kind) {
	case G_PLAIN: ok &= plain_supported(g) && encoding_known(t, g, bytes); break;
	case G_LEA: ok &= g->mod != 3 && g->opsize != 2; break;
	case G_BIT_STRING: ok &= g->opsize != 2 && !(t->code32 && g->seg >= SEG_FS) && encoding_known(t, g, bytes); break;
	case G_PUSH_MEM: ok &= g->opsize == word(t) && stack_usable(t); break;
	case G_PUSH_REG: case G_PUSH_IMM: case G_POP_REG: case G_LEAVE: case G_CALL: case G_RET: case G_CALL_IND:
		ok &= stack_usable(t);
		break;
	case G_PUSHF: ok &= stack_usable(t) && supervisor; break;
	case G_CLI: case G_STI: case G_STAC: case G_CLAC: ok &= supervisor; break;
	case G_SWAPGS: ok &= supervisor && !t->code32; break;
	case G_READ_BASE: case G_WRITE_BASE: ok &= !t->code32; break;
	case G_SYSCALL: ok &= !t->code32; break;
	case G_SYSRET: case G_IRET: ok &= supervisor && !t->code32 && (g->rex & 8); break;
	case G_STRING: ok &= string_helped(t, g); break;
	case G_READ_CR: ok &= supervisor; break;
	default: break;
	}
	if (g->lock && g->kind != G_PLAIN && g->kind != G_BIT_STRING)
		ok = false;
	if (!ok)
		to_interp(g);
	else if (gives_way(t, g))
		g->kind = G_PAUSE;
}

/*
 * Whether what follows a branch that is not taken is a block already: programs are large, and not all of their code has to be
 * there twice. Rather twice than that a loop comes round by two blocks.
 */
static bool goes_on_elsewhere(const struct tr *t, unsigned used)
{
	struct bt_cpu *b = t->b;
	uint64_t lin = t->block->lin + used, gpa = bt_block_gpa(t->block) + used;

	if (!t->block->small)
		return false;
	for (const struct bt_block *k = bt_block_first(b, gpa, t->block->mode); k; k = bt_block_next(b, k)) {
		bool loops = false;

		if (k->lin != lin)
			continue;
		for (unsigned i = 0; i < k->exits; i++)
			loops |= k->lin + (uint64_t)(int64_t)b->exits[k->first_exit + i].ahead == t->block->lin;
		return !loops;
	}
	return false;
}

/* A block is cut, but for one that leads back to its beginning from further on. */
static unsigned count_max(const struct tr *t)
{
	int end = t->count > BLOCK_USUAL ? known_loop_end(t) : -1;

	return t->count <= BLOCK_USUAL ? t->count : end >= (int)BLOCK_USUAL ? (unsigned)end + 1 : BLOCK_USUAL;
}

static void decode(struct tr *t, const uint8_t *code, unsigned room)
{
	unsigned used = 0;

	while (t->count < (t->tier2 ? BLOCK_INSNS : BLOCK_USUAL)) {
		struct guest_insn *g = &t->insn[t->count];

		t->offset[t->count] = (uint16_t)used;
		if (used >= room || !guest_decode(g, code + used, room - used, t->code32 ? 32 : 64))
			return;
		judge(t, g, code + used);
		if (leads_out(t, g, t->block->lin + used))
			to_interp(g);
		t->count++;
		used += g->length;
		t->offset[t->count] = (uint16_t)used;
		if (t->tier2 && g->kind == G_JCC && !t->b->cpu.stepping) {
			if (goes_on_elsewhere(t, used))
				return;
			continue;
		}
		if ((g->ops & GO_ENDS) || !g->length)
			return;
		/* Time stamps are the host's: who steps has to see them before they are used. */
		if (g->kind == G_RDTSC && t->b->cpu.stepping)
			return;
	}
}

static void find_live(struct tr *t)
{
	const struct guest_insn *last;
	uint64_t next = t->block->lin + t->offset[t->count];
	uint8_t live = GF_ALL;

	t->live[0] = live;
	if (!t->count)
		return;
	last = &t->insn[t->count - 1];
	if (last->kind == G_JMP || last->kind == G_CALL)
		live = live_at(t, next + last->imm);
	else if (!(last->ops & GO_ENDS) && last->length)
		live = live_at(t, next);
	t->live[t->count] = live;
	for (unsigned i = t->count; i-- > 0;) {
		const struct guest_insn *g = &t->insn[i];

		if (jcc_inside(t, g))
			live |= live_at(t, branch_target_at(t, i));
		live = (uint8_t)((live & ~g->flags_written) | g->flags_read);
		t->live[i] = live;
	}
}

/* Whether the instruction's code destroys the flags register before it reads it. */
static bool clobbers_first(const struct guest_insn *g, bool tier2)
{
	switch (g->kind) {
	case G_PLAIN: return (guest_mem(g) && !tier2) || (g->ops & (GO_X87 | GO_SIMD));
	case G_NOP: case G_LEA: case G_JCC: case G_LOOP: case G_JMP: return false;
	case G_SWAPGS: case G_READ_SEG: case G_READ_CR: return false;
	case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_POP_REG: case G_LEAVE: return !tier2;
	default: return true;
	}
}

static bool reads_first(const struct guest_insn *g, bool tier2)
{
	return g->kind == G_JCC || g->kind == G_LOOP || (g->kind == G_PLAIN && (tier2 || !guest_mem(g)) && g->flags_touched) || g->flags_read;
}

/* The entries that find the homes good follow those that set them. */
static void emit_entries_of(struct tr *t, bool any, bool save, uint8_t *direct, uint8_t *indirect)
{
	*direct = *indirect = (uint8_t)code_at(t);
	if (!any)
		return;
	if (save) {
		emit_save(t);
		*indirect = (uint8_t)code_at(t);
	} else {
		emit_load(t);
		*direct = (uint8_t)code_at(t);
	}
}

/* The vector unit is the guest's from here on. Destroys the flags. */
static void emit_level(struct tr *t)
{
	struct bt_rec *rec;
	uint32_t id;

	t->lin = t->block->lin;
	rec = rec_new(t, &id);
	rec->level = known_level(t->block->needs) & 3;
	emit_cmp_gs8(&t->e, GS_OF(fp_level), rec->level);
	later_add(t, LATER_FP, emit_jcc(&t->e, CC_B, 0), id, 0, 0);
	t->block->uses_fp = true;
}

/* Two entries: flags in the register, flags in the image; and two for who knows the homes. */
static void emit_entries(struct tr *t)
{
	bool save = !t->count; /* the interpreter's: flags in the image */
	struct bt_block *k = t->block;
	uint32_t over = 0;

	t->flags = FLAGS_IMAGE;
	for (unsigned i = 0; i < t->count; i++) {
		if (clobbers_first(&t->insn[i], t->tier2)) {
			save = true;
			break;
		}
		if (reads_first(&t->insn[i], t->tier2))
			break;
	}
	save |= known_level(k->needs) > 0;
	emit_entries_of(t, t->live[0], save, &k->direct, &k->indirect);
	if (k->needs) {
		emit_homes(t, k->needs & 1u << RSP);
		if (known_level(k->needs))
			emit_level(t);
		emit_homes(t, k->needs & ~(1u << RSP));
		if (t->live[0])
			over = emit_jmp(&t->e, 0);
		emit_entries_of(t, t->live[0], save, &k->known_direct, &k->known_indirect);
		if (over)
			emit_patch(t->e.base, over, k->host + (save ? k->known_indirect : k->known_direct));
	} else {
		k->known_direct = k->direct;
		k->known_indirect = k->indirect;
	}
	if (t->live[0] && !save)
		t->flags = FLAGS_HOST;
}

static bool serves(const struct tr *t, unsigned i)
{
	const struct guest_insn *g = &t->insn[i];

	if (!t->tier2 || (t->mode & MODE_AC))
		return false;
	if (tier_is_cold(t->b, bt_block_gpa(t->block) + t->offset[i])) {
		t->block->refused = true;
		return false;
	}
	switch (g->kind) {
	case G_PLAIN: return guest_mem(g) && plain_windowed(g);
	case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_POP_REG: case G_LEAVE: case G_PUSHF:
	case G_CALL: case G_CALL_IND: case G_JMP_IND: case G_RET:
		return true;
	default: return false;
	}
}

/* Kinds whose code says so when it uses a scratch register. */
static bool keeps_temps(const struct guest_insn *g)
{
	switch (g->kind) {
	case G_PLAIN: case G_NOP: case G_LEA: case G_JCC: case G_PUSH_REG: case G_PUSH_IMM: case G_PUSH_MEM: case G_POP_REG: case G_LEAVE:
	case G_CALL: case G_RET:
		return true;
	default: return false;
	}
}

static void emit_insn(struct tr *t)
{
	const struct guest_insn *g = &t->insn[t->at];

	if (!keeps_temps(g))
		temps_used(t);
	t->window = window_serves(t, t->at);
	switch (g->kind) {
	case G_INTERP: emit_interp(t, (g->ops & GO_ENDS) || !g->length); break;
	case G_PLAIN: emit_plain(t, g); break;
	case G_NOP: break;
	case G_LEA: emit_lea_insn(t, g); break;
	case G_BIT_STRING: emit_bit_string(t, g); break;
	case G_PUSH_REG: case G_PUSH_IMM: t->at += emit_push_run(t) - 1; break;
	case G_POP_REG: t->at += emit_pop_run(t) - 1; break;
	case G_PUSH_MEM: emit_push_mem(t, g); break;
	case G_PUSHF: emit_pushf(t); break;
	case G_LEAVE: emit_leave(t); break;
	default:
		if (!emit_system(t, g))
			emit_control(t, g);
		if (!keeps_temps(g))
			temps_used(t);
		break;
	}
}

static bool ends_here(const struct tr *t)
{
	const struct guest_insn *g = &t->insn[t->at < t->count ? t->at : t->count - 1];

	return (g->ops & GO_ENDS) && !jcc_inside(t, g);
}

static void emit_body(struct tr *t)
{
	uint64_t next;

	for (t->at = 0; t->at < t->count; t->at++) {
		unsigned first = t->at;

		t->lin = t->block->lin + t->offset[t->at];
		emit_insn(t);
		for (unsigned i = first; i <= t->at; i++)
			known_step(t, &t->insn[i]);
		if (t->laters > BLOCK_LATER - 8 || ends_here(t)) {
			t->at++;
			break;
		}
	}
	t->block->insns = (uint8_t)t->at;
	t->block->length = t->offset[t->at];
	if (t->at && (((t->insn[t->at - 1].ops & GO_ENDS) && !jcc_inside(t, &t->insn[t->at - 1])) || !t->insn[t->at - 1].length)) {
		if (!t->insn[t->at - 1].length)
			t->block->length = (uint16_t)(t->offset[t->at - 1] + 15);
		return;
	}
	next = t->block->lin + t->offset[t->at];
	t->lin = next - 1; /* a way forward: never polled */
	emit_exit(t, t->code32 ? (uint32_t)next : next, false, t->live[t->at]);
}

/* Decodes an instruction that crosses into the next page, when that page is known; it is a block of its own. */
static void decode_crossing(struct tr *t, const uint8_t *code, unsigned room, const struct bt_exec *next)
{
	uint8_t joined[15];
	const uint8_t *more;

	if (!next || next->gpa >= BLOCK_GPA_MAX || room >= sizeof(joined) || !(more = bt_code_page(t->b, next->gpa, next->host)))
		return;
	memcpy(joined, code, room);
	memcpy(joined + room, more, sizeof(joined) - room);
	if (!guest_decode(&t->insn[0], joined, sizeof(joined), t->code32 ? 32 : 64))
		return;
	judge(t, &t->insn[0], joined);
	if (leads_out(t, &t->insn[0], t->block->lin))
		to_interp(&t->insn[0]);
	t->count = 1;
	t->offset[1] = t->insn[0].length;
	t->block->crosses = true;
}

/* The second page may have become another one since. */
static void emit_tail_check(struct tr *t, const struct bt_exec *next)
{
	struct emit *e = &t->e;
	uint32_t id;

	t->lin = t->block->lin;
	flags_clobber(t);
	rec_new(t, &id)->disp = (int32_t)(uint32_t)(next->gpa >> PAGE_SHIFT);
	e1(e, 0x65), e1(e, 0x81);
	emit_modrm_mem(e, 7, (struct host_mem){ -1, -1, 0, GS_OF(mapped) + (int32_t)(next->id % EXEC_SIZE * 4) });
	e4(e, next->id);
	t->block->fixed = true;
	later_add(t, LATER_CROSS, emit_jcc(e, CC_NE, 0), id, 0, 0);
}

/* The same while the next page is not known. */
static void emit_crossing(struct tr *t)
{
	uint32_t id;

	t->lin = t->block->lin;
	rec_new(t, &id);
	e1(&t->e, 0x68);
	e4(&t->e, id);
	emit_jmp(&t->e, t->b->stub_cross);
	t->block->fixed = true;
	t->block->insns = 1;
	t->block->length = (uint16_t)(PAGE_SIZE - (t->block->lin & (PAGE_SIZE - 1)));
}

static void push_id_jump(struct emit *e, uint32_t id, uint32_t to)
{
	e1(e, 0x68);
	e4(e, id);
	emit_jmp(e, to);
}

/* A call that could not be made at once still leaves its landing on the return stack. */
static void call_landing(struct emit *e, const struct later *l)
{
	if (!l->back)
		return;
	emit_call(e, emit_at(e) + 10);
	emit_jmp(e, l->back);
}

/* An indirect jump, to what the jump cache did not show: from here on the flags are saved. */
static void emit_missed(struct tr *t, const struct later *l)
{
	unsigned mode = t->block->mode & (MODE_USER | MODE_CODE32);
	bool salted = l->kind == LATER_SALTED || l->kind == LATER_CALL_SALTED;
	struct emit *e = &t->e;
	uint32_t to;

	if (salted) {
		emit_op_gs(e, true, 0x33, TEMP0, GS_OF(salt) + (mode & MODE_USER ? 8 : 0));
		if (t->remake.kind) {
			emit_remake(t, &t->remake);
			emit_call(e, t->b->stub_flags_save);
		}
	}
	if (!t->code32)
		emit_note(t, GS_OF(branch), l->id);
	to = salted ? t->b->stub_lookup[mode] : t->b->stub_miss;
	if (l->kind == LATER_MISS || l->kind == LATER_SALTED) {
		emit_jmp(e, to);
		return;
	}
	emit_call(e, to);
	emit_jmp(e, l->back);
}

/* A landing of another return's: to where that leads. The literal that was compared stands here as an operand. */
static void emit_landed_elsewhere(struct tr *t, const struct later *l)
{
	struct emit *e = &t->e;

	if (!l->id)
		emit_call_reg(e, TEMP1);
	if (l->lin) {
		emit_imm(e, TEMP1, l->lin);
		emit_patch(e->base, l->back, emit_at(e) - 8);
		reloc_add(t, RELOC_LIN, 8);
	}
	emit_jmp(e, t->b->stub_lookup[t->block->mode & (MODE_USER | MODE_CODE32)]);
}

/* Called by a landing. */
static void emit_returned(struct tr *t)
{
	if (t->remake.kind) {
		emit_remake(t, &t->remake);
		emit_call(&t->e, t->b->stub_flags_save);
	}
	if (!t->code32)
		emit_call(&t->e, t->b->stub_returned);
	e1(&t->e, 0xc3);
}

static void emit_later(struct tr *t, const struct later *l)
{
	struct bt_cpu *b = t->b;
	struct emit *e = &t->e;
	uint32_t here = emit_at(e);

	switch (l->kind) {
	case LATER_FILL: push_id_jump(e, l->id, b->stub_fill); break;
	case LATER_FILL_LIN: push_id_jump(e, l->id, b->stub_fill_lin); break;
	case LATER_INSN: push_id_jump(e, l->id, b->stub_insn); break;
	case LATER_CROSS: push_id_jump(e, l->id, b->stub_cross); break;
	case LATER_FP: push_id_jump(e, l->id, b->stub_fp); break;
	case LATER_POLL:
		call_landing(e, l);
		push_id_jump(e, l->id, b->stub_poll);
		break;
	case LATER_EXIT:
	case LATER_EXIT_FLAGS:
		emit_call(e, l->kind == LATER_EXIT ? b->stub_exit : b->stub_exit_flags);
		b->exits[l->id].stub = (uint16_t)(here - t->block->host);
		break;
	case LATER_PAGE:
		/* A jump to where the exit's own leads when it is not linked; a call has to leave its landing. */
		if (!l->back)
			return;
		call_landing(e, l);
		push_id_jump(e, l->id, b->stub_exit);
		break;
	case LATER_MISS: case LATER_CALL_MISS: case LATER_SALTED: case LATER_CALL_SALTED: emit_missed(t, l); break;
	case LATER_LANDING: emit_landed_elsewhere(t, l); break;
	case LATER_RETURNED: emit_returned(t); break;
	}
	emit_patch(e->base, l->site, here);
}

/* The first record of a loop is none of an instruction: it tells of what is known there. */
static void rec_loop(struct tr *t)
{
	struct bt_rec *rec;
	uint32_t id;

	t->lin = t->block->lin;
	rec = rec_new(t, &id);
	rec->retry = rec->next = 0;
	rec->held[0] = t->loop_held;
	rec->value_retry = t->loop_value & 3;
	rec->disp = bt_pair_pack(&t->pair[0]) | bt_pair_pack(&t->pair[1]) << 16;
}

struct bt_block *bt_translate(struct bt_cpu *b, uint64_t lin, const struct bt_exec *page)
{
	unsigned offset = (unsigned)(lin & (PAGE_SIZE - 1));
	const struct bt_exec *next = NULL;
	uint64_t start = __builtin_ia32_rdtsc();
	uint32_t body;
	struct tr t;
	bool small;

	bt_cache_reserve(b);
	memset(&t, 0, offsetof(struct tr, insn));
	t.b = b;
	t.mode = b->mode;
	t.code32 = b->mode & MODE_CODE32;
	t.bmi2 = bt_of(b)->bmi2;
	t.tier2 = tier_is_hot(b, page->gpa + offset, b->mode);
	small = t.tier2 && tier_is_small(b, page->gpa + offset, b->mode);
	if (t.tier2 && (b->mode & MODE_USER) && b->heat.fast_left)
		b->heat.fast_left--;
	/* What runs much begins where the host fetches. */
	if (t.tier2 && !small)
		b->at = (b->at + 15) & ~15u;
	t.e = (struct emit){ b->rw + b->at, b->rw };
	t.block = &b->blocks[b->block_count++];
	*t.block = (struct bt_block){ .lin = lin, .page = (uint32_t)(page->gpa >> PAGE_SHIFT), .mode = (uint16_t)b->mode, .host = b->at, .first_exit = b->exit_count, .first_reloc = b->reloc_count };
	t.block->small = small;
	decode(&t, page->host + offset, PAGE_SIZE - offset);
	t.count = count_max(&t);
	if (!t.count) {
		t.tier2 = false;
		next = bt_exec_known(b, t.code32 ? (uint32_t)(lin + PAGE_SIZE - offset) : lin + PAGE_SIZE - offset);
		decode_crossing(&t, page->host + offset, PAGE_SIZE - offset, next);
	}
	t.block->tier2 = t.tier2;
	t.block->small &= t.tier2;
	/* User code of tier 1 runs little, and there is much of it. */
	t.calls = tier_may_come(b, t.mode) && !t.tier2 && (t.mode & MODE_USER);
	find_live(&t);
	for (unsigned i = 0; i < t.count; i++)
		t.serves[i] = serves(&t, i);
	t.homes = t.tier2 && !t.code32;
	known_look(&t);
	t.block->needs = t.homes ? known_needs(&t) & KNOWN_ALL : 0;
	known_loop(&t);
	if (t.loop)
		rec_loop(&t);
	known_begin(&t);
	emit_entries(&t);
	if (t.loop)
		emit_loop(&t);
	if (t.block->crosses)
		emit_tail_check(&t, next);
	if (t.count)
		emit_body(&t);
	else
		emit_crossing(&t);
	body = emit_at(&t.e);
	for (unsigned i = 0; i < t.laters; i++)
		emit_later(&t, &t.later[i]);
	for (unsigned i = 0; i < t.laters; i++) {
		if (t.later[i].kind == LATER_PAGE && !t.later[i].back)
			emit_patch(t.e.base, t.later[i].site, t.block->host + b->exits[t.later[i].id].stub);
	}
	t.block->size = code_at(&t);
	if (t.block->fixed) { /* it stays where it is */
		b->reloc_count = t.block->first_reloc;
		t.block->relocs = 0;
	}
	b->at = emit_at(&t.e);
	b->stats.blocks++;
	b->stats.guest_bytes += t.block->length;
	b->stats.host_bytes += t.block->size;
	b->stats.later_bytes += emit_at(&t.e) - body;
	bt_recs_pack(b, t.block, t.rec);
	bt_block_add(b, t.block);
	b->stats.records += t.block->recs;
	b->stats.ways_out += t.block->exits;
	b->stats.translate_tsc += __builtin_ia32_rdtsc() - start;
	if (bt_of(b)->check)
		bt_check_emitted(b, t.block, page->host + offset);
	if (trace_on(TRACE_BT))
		bt_trace_block(b, t.block, page->host + offset);
	return t.block;
}
