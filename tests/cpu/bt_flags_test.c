/*
 * Flags over indirect jumps, calls and returns, translator against interpreter: what sets them, what is moved in between,
 * how control gets on, whether they are read there. In loops, so that all ways are linked, and looked up by the jump cache.
 *
 *	bt_flags_test [cases [seed]]
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include <inttypes.h>

#define LOOPS 12
#define FUNCTION 0x400u /* where it stands, from CODE */
#define OTHER 0x600u

static uint8_t *out;

static void emit_bytes(unsigned n, const uint8_t *bytes)
{
	memcpy(out, bytes, n);
	out += n;
}
#define PUT(...) emit_bytes(sizeof((const uint8_t[]){ __VA_ARGS__ }), (const uint8_t[]){ __VA_ARGS__ })

static void put32(uint32_t v)
{
	memcpy(out, &v, 4);
	out += 4;
}

static bool code64;

/* RAX, RDX, RBX, RSI, R8, R9 or R11: the others hold the loop, the targets and the sum. */
static unsigned some(void)
{
	static const uint8_t regs[] = { RAX, RDX, RBX, RSI, R8, R9, R11 };

	return regs[pick(code64 ? 7 : 4)];
}

/* An instruction with two registers, or one and the extension in `reg`. */
static void put_rr(unsigned op, unsigned size, unsigned reg, unsigned rm)
{
	unsigned rex = (size == 8 ? 8u : 0) | (reg >> 3) << 2 | rm >> 3;

	if (size == 2)
		PUT(0x66);
	if (code64 && (rex || size == 1))
		PUT((uint8_t)(0x40 | rex));
	PUT((uint8_t)(size == 1 ? op & ~1u : op), (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static void put_imm(unsigned size, bool byte)
{
	uint32_t v = pick(3) ? (uint32_t)rnd() : pick(2) ? 0 : 0x7fff;

	if (size == 1 || byte)
		PUT((uint8_t)v);
	else if (size == 2)
		PUT((uint8_t)v, (uint8_t)(v >> 8));
	else
		put32(v);
}

/* Of 32-bit code only bytes that have no other names there. */
static unsigned some_of(unsigned size)
{
	unsigned r = some();

	return size == 1 && !code64 && r >= 4 ? RBX : r;
}

static void put_value(unsigned reg)
{
	if (code64) {
		PUT((uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7)));
		put32((uint32_t)rnd());
	} else {
		PUT((uint8_t)(0xb8 | reg));
	}
	put32(pick(3) ? (uint32_t)rnd() : 0);
}

/* Something that sets flags: most of it can be made again. */
static void put_setter(void)
{
	static const uint8_t sizes[] = { 1, 2, 4, 4, 8, 8 };
	unsigned size = sizes[pick(code64 ? 6 : 4)], a, b, group;

	a = some_of(size);
	b = some_of(size);
	switch (pick(9)) {
	case 0: case 1: put_rr(pick(8) << 3 | 1, size, b, a); break;
	case 2: put_rr(pick(8) << 3 | 3, size, b, a); break;
	case 3: case 4:
		group = pick(8);
		put_rr(0x81, size, group, a);
		put_imm(size, false);
		break;
	case 5:
		group = pick(8);
		size = size == 1 ? 4 : size;
		put_rr(0x83, size, group, a);
		put_imm(size, true);
		break;
	case 6: put_rr(0x85, size, b, a); break;
	case 7:
		put_rr(0xf7, size, 0, a);
		put_imm(size, false);
		break;
	default:
		switch (pick(3)) {
		case 0: put_rr(0xff, size == 1 ? 4 : size, pick(2), a); break; /* inc, dec */
		case 1: put_rr(0xf7, size, 3, a); break; /* neg */
		default:
			put_rr(0xc1, size, 4 + pick(2), a); /* shl, shr */
			PUT((uint8_t)(1 + pick(5)));
		}
	}
}

/* Something that sets none, and may move what did. */
static void put_mover(void)
{
	unsigned a = some(), b = some();

	switch (pick(7)) {
	case 0:
		put_rr(0x8b, code64 ? 8 : 4, a, b);
		break;
	case 1: /* lea a, [a + disp8] */
		if (code64)
			PUT((uint8_t)(0x48 | (a >> 3) << 2 | a >> 3));
		PUT(0x8d, (uint8_t)(0x40 | (a & 7) << 3 | (a & 7)), (uint8_t)rnd());
		break;
	case 2: /* push a; pop b */
		if (a >= 8)
			PUT(0x41);
		PUT((uint8_t)(0x50 | (a & 7)));
		if (b >= 8)
			PUT(0x41);
		PUT((uint8_t)(0x58 | (b & 7)));
		break;
	case 3: /* lea rsp, [rsp - 16]; lea rsp, [rsp + 16] */
		if (code64)
			PUT(0x48);
		PUT(0x8d, 0x64, 0x24, 0xf0);
		if (code64)
			PUT(0x48);
		PUT(0x8d, 0x64, 0x24, 0x10);
		break;
	case 4: put_rr(0x87, 4, a, b); break; /* xchg */
	default: PUT(0x90);
	}
}

static void put_movers(void)
{
	for (unsigned n = pick(3); n; n--)
		put_mover();
}

/* Whether flags are looked at, or set before that. RBP is a sum of all that was seen. */
static void put_reader(void)
{
	put_movers();
	if (!pick(3))
		put_setter();
	PUT(0x9c, 0x5f); /* pushf; pop rdi */
	if (code64)
		PUT(0x48, 0xc1, 0xc5, 0x05, 0x48, 0x01, 0xfd); /* rol rbp, 5; add rbp, rdi */
	else
		PUT(0xc1, 0xc5, 0x05, 0x01, 0xfd);
}

static void put_target(unsigned reg, uint32_t to)
{
	if (reg >= 8)
		PUT(0x41);
	PUT((uint8_t)(0xb8 | (reg & 7)));
	put32(to);
}

/* add rsp, n */
static void put_release(unsigned n)
{
	if (code64)
		PUT(0x48);
	PUT(0x83, 0xc4, (uint8_t)n);
}

/* With the setter in it, or something that leaves the stack; perhaps it returns to where the caller's target is. */
static void put_function(struct machine *m, uint32_t elsewhere)
{
	unsigned word = code64 ? 8 : 4;

	out = m->ram->host + CODE + FUNCTION;
	if (elsewhere) { /* mov [rsp], elsewhere */
		if (code64)
			PUT(0x48);
		PUT(0xc7, 0x04, 0x24);
		put32(elsewhere);
	}
	if (pick(2))
		put_setter();
	put_movers();
	if (pick(2)) {
		PUT(0x53); /* push rbx */
		put_release(word);
		if (pick(2))
			PUT(0x53, 0x5b);
	}
	PUT(0xc3);
}

static uint32_t here(const struct machine *m) { return (uint32_t)(out - m->ram->host); }

static void make_loop(struct machine *m)
{
	unsigned kind = pick(4), count = 2 + pick(2);
	uint8_t *loop, *elsewhere = NULL;

	memset(m->ram->host + CODE, 0xf4, 0x1000);
	out = m->ram->host + CODE;
	for (unsigned i = 0; i < 4; i++)
		put_value(some());
	PUT(0x31, 0xed); /* xor ebp, ebp */
	loop = out;
	for (; count; count--) {
		put_target(RDI, CODE + OTHER);
		put_setter();
		if (kind == 3) { /* the way on */
			elsewhere = out + 1;
			put_target(RDI, 0);
		}
		put_movers();
		switch (kind) {
		case 0: PUT(0xff, 0xd7); break; /* call rdi */
		case 1: case 2:
			PUT(0xe8);
			put32(CODE + FUNCTION - (here(m) + 4));
			break;
		default: PUT(0xff, 0xe7); /* jmp rdi */
		}
		if (elsewhere) {
			uint32_t to = here(m);

			memcpy(elsewhere, &to, 4);
		}
		put_reader();
	}
	PUT(0xff, 0xc9, 0x0f, 0x85); /* dec ecx; jnz loop */
	put32((uint32_t)(loop - (out + 4)));
	PUT(0xf4);
	/* The function returns as it should, or to the last target, whose call is released. */
	put_function(m, kind == 2 ? CODE + OTHER + 0x80 : 0);
	out = m->ram->host + CODE + OTHER;
	put_reader();
	PUT(0xc3);
	out = m->ram->host + CODE + OTHER + 0x80;
	put_reader();
	PUT(0xff, 0xc9, 0x0f, 0x85);
	put32((uint32_t)(loop - (out + 4)));
	PUT(0xf4);
}

static bool agrees(struct machine *in, struct machine *bt)
{
	struct cpu_state start;
	struct compared o;

	code64 = pick(3);
	code_at = CODE;
	make_tables(in, code64);
	make_gates(in, code64);
	start_state(&start, code64);
	start.rflags = 2;
	start.gpr[RCX] = LOOPS;
	make_loop(in);
	mem_write(bt->mem, 0, in->ram->host, 0x220000);
	mem_write(in->mem, CODE, in->ram->host + CODE, 0x1000);
	run_both(in, bt, &start, &o);
	if (o.ea.kind == o.eb.kind && !different(&o.a, &o.b, false))
		return true;
	printf("# exits %d %d, %u bits\n", o.ea.kind, o.eb.kind, code64 ? 64 : 32);
	show(&o.a, &o.b, in, 128);
	return false;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	unsigned cases = argc > 1 ? (unsigned)atoi(argv[1]) : 3000, bad = 0;
	uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	struct machine in, bt;

	sigaction(SIGVTALRM, &sa, NULL);
	machine_make(&in, &accel_interp_ops);
	machine_make(&bt, &accel_bt_ops);
	for (unsigned i = 0; i < cases && bad < 5; i++) {
		seed = (first + i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
		if (!agrees(&in, &bt)) {
			printf("# case %" PRIu64 "\n", first + i);
			bad++;
		}
	}
	machine_free(&in);
	machine_free(&bt);
	printf("%s 1 - flags over indirect jumps and returns\n1..1\n", bad ? "not ok" : "ok");
	return bad != 0;
}
