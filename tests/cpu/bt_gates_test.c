/*
 * The translator's own ways between privileges (SYSCALL, SYSRET, IRETQ, page faults of user and of supervisor code)
 * against the interpreter's. A small system goes round through all of them until everything is known to the soft TLB;
 * then something changes that the ways hang on: a descriptor, a gate, a register, a frame. Registers, segments, memory
 * and the number of the fault must be the interpreter's.
 *
 *	bt_gates_test [cases [seed]]
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include "accel/bt/bt.h"

#define TSS_AT 0xb000u
#define KERNEL 0x110000u /* up to USER: supervisor pages */
#define ON_CALL (KERNEL + 0x100u)
#define ON_FAULT (KERNEL + 0x200u)
#define ON_INTERRUPT (KERNEL + 0x300u)
#define VECTOR 0x40u
#define FAULT_STACK 0x118f00u
#define CALL_STACK 0x119f00u
#define IST_STACK 0x11af00u
#define FRAME 0x11c000u
#define LAPS 0x11d000u
#define USER 0x130000u
#define USER_STACK 0x140f00u
#define USER_DATA (DATA + 0x10u)
#define CHANGE_AT 3 /* laps before the end */

enum { K_CODE = 0x08, K_DATA = 0x10, U_BASE = 0x18, U_DATA = 0x20, U_CODE = 0x28, TSS_SELECTOR = 0x30 };

#define ADDRESS(v) (v) & 0xff, (v) >> 8 & 0xff, (v) >> 16 & 0xff, (v) >> 24

static const uint8_t start_code[] = { 0x48, 0xc7, 0xc4, ADDRESS(FRAME), 0x48, 0xcf }; /* mov rsp, FRAME; iretq */
static const uint8_t user_code[] = {
	0x48, 0x83, 0xc3, 1, 0x0f, 0x05,                   /* add rbx, 1; syscall */
	0x48, 0x83, 0xc6, 0x7f, 0x88, 0x07,                /* add rsi, 127; mov [rdi], al: a fault */
	0x9c, 0x8f, 0x04, 0x25, ADDRESS(USER_DATA),        /* pushfq; pop [USER_DATA] */
	0xeb, 0xea,                                        /* and again */
};
static const uint8_t call_code[] = {
	0x48, 0x89, 0xe0, 0x48, 0xc7, 0xc4, ADDRESS(CALL_STACK),  /* mov rax, rsp; mov rsp, CALL_STACK */
	0x48, 0x83, 0xc2, 0x11, 0x88, 0x07, 0x9c, 0x41, 0x58,     /* add rdx, 17; mov [rdi], al: a fault; pushfq; pop r8 */
	0x48, 0x89, 0xc4,                                         /* mov rsp, rax */
	0x83, 0x3c, 0x25, ADDRESS(LAPS), CHANGE_AT, 0x75, 2, 0xe6, 0x99, /* cmp [LAPS], CHANGE_AT; jne; out 0x99, al */
	0xff, 0x0c, 0x25, ADDRESS(LAPS), 0x74, 3,                 /* dec [LAPS]; jz */
	0x48, 0x0f, 0x07, 0xf4,                                   /* sysretq; hlt */
};
static const uint8_t fault_code[] = {
	0x48, 0x83, 0xc5, 1, 0x48, 0x83, 0xc4, 8,          /* add rbp, 1; add rsp, 8 */
	0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf,             /* add qword [rsp], 2: behind the store; iretq */
};

/* By the same frame to the same place again, until all laps are done: how many frames had RF is counted in R12. */
static const uint8_t interrupt_code[] = {
	0xf7, 0x44, 0x24, 16, ADDRESS(RFLAGS_RF), 0x74, 4, 0x49, 0x83, 0xc4, 1, /* test dword [rsp + 16], RF; jz; add r12, 1 */
	0x48, 0xc7, 0xc4, ADDRESS(FRAME),                  /* mov rsp, FRAME */
	0xff, 0x0c, 0x25, ADDRESS(LAPS), 0x74, 2,          /* dec [LAPS]; jz */
	0x48, 0xcf, 0xf4,                                  /* iretq; hlt */
};

static struct machine machine[2]; /* interpreter, translator */
static uint64_t quiet, quiet_gates; /* cases in which nothing changes, and how often they went through a gate */
static struct change { unsigned kind; uint64_t value, seed; } change;

/* ---- what changes ---- */

enum { C_NOTHING, C_FMASK, C_STAR, C_LSTAR, C_SCE, C_DESCRIPTOR, C_GDT_LIMIT, C_GATE, C_IDT_LIMIT, C_RSP0, C_TSS_LIMIT, C_FRAME_RIP, C_FRAME_CS,
       C_FRAME_FLAGS, C_FRAME_SS, C_NT, C_SEGMENTS, C_RCX, C_R11, C_RDI, C_RSP, C_KINDS };
static const char *const change_name[C_KINDS] = { "nothing", "FMASK", "STAR", "LSTAR", "EFER.SCE", "a descriptor", "the GDT's limit", "the gate",
						 "the IDT's limit", "RSP0", "the TSS' limit", "the handler's return address", "the handler's CS",
						 "the handler's flags", "the handler's SS", "NT", "data segments", "RCX", "R11", "the faulting address",
						 "the user's stack" };

static uint64_t odd_address(void)
{
	static const uint64_t some[] = { UINT64_C(0x800000000000), UINT64_C(0x7ffffffffffe), HOLE, READ_ONLY + 0x800, USER_STACK - 3, KERNEL + 0x3005,
					 UINT64_C(0xffff800000000000), 0, FAULT_STACK - 8 };

	return pick(4) ? some[pick(G_N_ELEMENTS(some))] : rnd();
}

static uint64_t odd_flags(void)
{
	static const uint64_t bits[] = { RFLAGS_TF, RFLAGS_IF, RFLAGS_DF, RFLAGS_NT, RFLAGS_RF, RFLAGS_AC, RFLAGS_IOPL, RFLAGS_VM, RFLAGS_STATUS };
	uint64_t v = 0;

	for (unsigned n = 1 + pick(3); n--;)
		v |= bits[pick(G_N_ELEMENTS(bits))];
	return v;
}

static uint16_t odd_selector(void)
{
	static const uint16_t some[] = { 0, 3, K_CODE, K_CODE | 3, K_DATA, K_DATA | 3, U_CODE, U_CODE | 3, U_DATA, U_DATA | 3, U_BASE | 3, TSS_SELECTOR,
					 0x44, 0x58, U_CODE | 4, 1, 2 };

	return some[pick(G_N_ELEMENTS(some))];
}

/* The frame that the page fault's handler returns by is on one of two stacks: both may be changed beforehand only by the
 * handler; so its code is changed to write what is wanted. mov dword [rsp + offset], imm32 in the place of the ADD. */
static void frame_change(struct machine *m, unsigned offset, uint32_t v)
{
	uint8_t code[24] = { 0x48, 0x83, 0xc5, 1, 0x48, 0x83, 0xc4, 8, 0x48, 0x83, 0x04, 0x24, 2 };
	unsigned n = 13;

	code[n++] = 0xc7, code[n++] = 0x44, code[n++] = 0x24, code[n++] = (uint8_t)offset;
	st32le(code + n, v);
	n += 4;
	code[n++] = 0x48, code[n++] = 0xcf;
	mem_write(m->mem, ON_FAULT, code, n);
}

static void descriptor_change(struct machine *m)
{
	static const uint8_t which[] = { K_CODE, K_DATA, U_DATA, U_CODE, U_CODE };
	uint8_t *d = m->ram->host + GDT + which[pick(5)];

	switch (pick(8)) {
	case 0: d[5] &= 0x7f; break;                        /* not present */
	case 1: d[5] &= 0xfe; break;                        /* not accessed */
	case 2: d[5] ^= 0x60; break;                        /* the other privilege */
	case 3: d[5] ^= 0x04; break;                        /* conforming, expand-down */
	case 4: d[5] ^= 0x02; break;                        /* readable, writable */
	case 5: d[5] ^= 0x08; break;                        /* code or data */
	case 6: d[6] ^= (uint8_t)(pick(2) ? 0x20 : 0x40); break; /* L, D */
	default: d[7] = (uint8_t)rnd(); break;              /* a base */
	}
}

static void gate_change(struct machine *m)
{
	uint8_t *g = m->ram->host + IDT + EXC_PF * 16;

	switch (pick(7)) {
	case 0: g[4] = 1; break;                            /* a stack of its own */
	case 1: g[5] ^= 1; break;                           /* trap gate */
	case 2: g[5] ^= (uint8_t)(1 << pick(8)); break;
	case 3: st16le(g + 2, odd_selector()); break;
	case 4: st32le(g + 8, (uint32_t)rnd()); break;
	case 5: g[5] |= 0x60; break;
	default: st16le(g, ON_FAULT & 0xffff ? (uint16_t)(ON_FAULT + 4) : 0); break;
	}
}

static void segments_change(struct cpu_state *s)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	struct x86_segment *seg = &s->seg[data[pick(4)]];

	switch (pick(4)) {
	case 0: *seg = (struct x86_segment){ 0, UINT32_MAX, K_DATA, 0xc93 }; break;
	case 1: *seg = (struct x86_segment){ 0, 0, (uint16_t)pick(4), SEG_UNUSABLE }; break;
	case 2: *seg = (struct x86_segment){ 0x1234, UINT32_MAX, U_DATA | 3, 0xcf3 }; break;
	default: *seg = (struct x86_segment){ 0, UINT32_MAX, K_CODE, 0xa9f }; break; /* conforming code */
	}
}

static void apply(struct machine *m)
{
	struct icpu *cpu = (struct icpu *)m->vcpu;
	struct cpu_state *s = &cpu->s;
	uint64_t kept = seed;

	seed = change.seed;
	switch (change.kind) {
	case C_FMASK: s->fmask = odd_flags(); break;
	case C_STAR: s->star = (uint64_t)odd_selector() << 48 | (uint64_t)odd_selector() << 32; break;
	case C_LSTAR: s->lstar = pick(2) ? ON_CALL + 3 : HANDLERS; break;
	case C_SCE: s->efer &= ~(uint64_t)EFER_SCE; break;
	case C_DESCRIPTOR: descriptor_change(m); break;
	case C_GDT_LIMIT: s->gdtr.limit = (uint16_t)pick(0x40); break;
	case C_GATE: gate_change(m); break;
	case C_IDT_LIMIT: s->idtr.limit = (uint16_t)(EXC_PF * 16 + pick(32) - 8); break;
	case C_RSP0: st64le(m->ram->host + TSS_AT + 4, odd_address()); break;
	case C_TSS_LIMIT: s->tr.limit = pick(16); break;
	case C_FRAME_RIP: frame_change(m, pick(2) ? 4 : 0, pick(2) ? 0x8000 : (uint32_t)rnd()); break;
	case C_FRAME_CS: frame_change(m, 8, odd_selector()); break;
	case C_FRAME_FLAGS: frame_change(m, 16, (uint32_t)odd_flags()); break;
	case C_FRAME_SS: frame_change(m, 32, odd_selector()); break;
	case C_NT: s->rflags |= RFLAGS_NT; break;
	case C_SEGMENTS: segments_change(s); break;
	case C_RCX: s->gpr[RCX] = odd_address(); break;
	case C_R11: s->gpr[R11] = odd_flags() | (pick(2) ? rnd() & UINT32_MAX : 0); break;
	case C_RDI: s->gpr[RDI] = odd_address(); break;
	case C_RSP: s->gpr[RSP] = odd_address(); break;
	default: break;
	}
	seed = kept;
}

static void port_write(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value) { apply(opaque); }

/* ---- the small system ---- */

static void prepare(struct machine *m, struct cpu_state *s)
{
	uint8_t *ram = m->ram->host;

	make_tables(m, true);
	for (uint64_t page = 0; page < USER; page += 0x1000)
		ram[0x4000 + 8 * (page >> 12)] &= (uint8_t)~4;
	make_gates(m, true);
	put64(m, IDT + EXC_PF * 16, (ON_FAULT & 0xffff) | (uint64_t)K_CODE << 16 | UINT64_C(0x8e00) << 32 | (uint64_t)(ON_FAULT & 0xffff0000) << 32);
	put64(m, GDT + U_BASE, 0x00cffb000000ffff);
	put64(m, GDT + U_DATA, 0x00cff3000000ffff);
	put64(m, GDT + U_CODE, 0x00affb000000ffff);
	put64(m, GDT + TSS_SELECTOR, UINT64_C(0x00008b0000000067) | (uint64_t)TSS_AT << 16);
	put64(m, GDT + TSS_SELECTOR + 8, 0);
	memset(ram + TSS_AT, 0, 0x68);
	st64le(ram + TSS_AT + 4, FAULT_STACK);
	st64le(ram + TSS_AT + 0x24, IST_STACK);
	memset(ram + KERNEL, 0, 0x40000);
	memset(ram + DATA, 0, 0x6000);
	memcpy(ram + KERNEL, start_code, sizeof(start_code));
	memcpy(ram + ON_CALL, call_code, sizeof(call_code));
	memcpy(ram + ON_FAULT, fault_code, sizeof(fault_code));
	memcpy(ram + USER, user_code, sizeof(user_code));
	st64le(ram + FRAME, USER);
	st64le(ram + FRAME + 8, U_CODE | 3);
	st64le(ram + FRAME + 16, 2 | RFLAGS_IF);
	st64le(ram + FRAME + 24, USER_STACK - 8 * pick(2));
	st64le(ram + FRAME + 32, U_DATA | 3);
	st32le(ram + LAPS, CHANGE_AT + 3);
	start_state(s, true);
	s->rip = KERNEL;
	s->cr4 |= pick(3) ? 0 : CR4_SMAP;
	s->gdtr = (struct x86_dtable){ GDT, 0x3f };
	s->tr = (struct x86_segment){ TSS_AT, 0x67, TSS_SELECTOR, SEG_ATTR_P | 0xb };
	s->star = (uint64_t)U_BASE << 48 | (uint64_t)K_CODE << 32;
	s->lstar = ON_CALL;
	s->fmask = RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_DF | RFLAGS_NT;
	s->gpr[RDI] = HOLE + 0x123;
	s->seg[SEG_ES] = s->seg[SEG_DS] = (struct x86_segment){ 0, UINT32_MAX, U_DATA | 3, 0xcf3 };
	s->seg[SEG_FS] = s->seg[SEG_GS] = (struct x86_segment){ .attr = SEG_UNUSABLE };
}

static const char *state_different(const struct cpu_state *a, const struct cpu_state *b)
{
	if (a->rip != b->rip)
		return "rip";
	if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)))
		return "registers";
	/* A fault's status flags may be stale, when nobody would have read them. */
	if ((a->rflags ^ b->rflags) & ~(uint64_t)RFLAGS_STATUS)
		return "flags";
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		if (a->seg[i].base != b->seg[i].base || a->seg[i].limit != b->seg[i].limit || a->seg[i].selector != b->seg[i].selector ||
		    a->seg[i].attr != b->seg[i].attr)
			return "segments";
	}
	return a->cr2 != b->cr2 || a->dr6 != b->dr6 || a->nmi_masked != b->nmi_masked ? "other registers" : NULL;
}

/* Pages may have been looked at ahead; the flags of a frame may be stale. */
static unsigned memory_first_different(void)
{
	for (unsigned i = TABLES; i < 0x220000; i++) {
		bool stack = (i > KERNEL + 0x8000 && i < FRAME) || (i > USER_STACK - 0x100 && i < USER_STACK);
		uint8_t mask = i < IDT ? 0xdf : stack && !(i & 7) ? (uint8_t)~RFLAGS_STATUS : stack && (i & 7) == 1 ? 0xf7 : 0xff;

		if ((machine[0].ram->host[i] ^ machine[1].ram->host[i]) & mask)
			return i;
	}
	return 0;
}

static bool case_agrees(unsigned n, uint64_t was)
{
	static struct cpu_state s, end[2];
	struct vcpu_exit exit[2];
	const char *what;
	uint64_t gates = ((struct bt_cpu *)machine[1].vcpu)->stats.gates;
	unsigned where;

	change = (struct change){ pick(C_KINDS), 0, rnd() | 1 };
	prepare(&machine[0], &s);
	mem_write(machine[1].mem, 0, machine[0].ram->host, 0x220000);
	mem_write(machine[0].mem, KERNEL, machine[0].ram->host + KERNEL, 0x40000);
	for (unsigned i = 0; i < 2; i++) {
		struct vcpu *v = machine[i].vcpu;

		v->ops->set_state(v, &s);
		run(v, &exit[i]);
		v->ops->get_state(v, &end[i]);
	}
	if (exit[0].kind == VCPU_EXIT_KICKED || exit[1].kind == VCPU_EXIT_KICKED)
		return true;
	if (change.kind == C_NOTHING) {
		quiet++;
		quiet_gates += ((struct bt_cpu *)machine[1].vcpu)->stats.gates - gates;
	}
	what = exit[0].kind != exit[1].kind ? "exit" : state_different(&end[0], &end[1]);
	where = memory_first_different();
	if (!what && !where)
		return true;
	printf("# case %u seed %#lx, %s changed: %s, memory at %x, exits %d %d\n", n, was, change_name[change.kind], what ? what : "-", where,
	       exit[0].kind, exit[1].kind);
	show(&end[0], &end[1], &machine[0], 0);
	return false;
}

/* ---- RF ---- */

static int take_interrupt(void *opaque, unsigned cpu) { return VECTOR; }

/* An interrupt waits each time that IRETQ enables them: its frame has RF as IRETQ loaded it, since no instruction came between. */
static bool interrupt_has_rf(struct machine *m, bool rf)
{
	struct cpu_state s;
	struct vcpu_exit exit;

	prepare(m, &s);
	s.cr4 &= ~(uint64_t)CR4_SMAP;
	s.gpr[R12] = 0;
	put64(m, IDT + VECTOR * 16, (ON_INTERRUPT & 0xffff) | (uint64_t)K_CODE << 16 | UINT64_C(0x8e00) << 32 | (uint64_t)(ON_INTERRUPT & 0xffff0000) << 32);
	st64le(m->ram->host + FRAME + 16, 2 | RFLAGS_IF | (rf ? RFLAGS_RF : 0));
	memcpy(m->ram->host + ON_INTERRUPT, interrupt_code, sizeof(interrupt_code));
	mem_write(m->mem, KERNEL, m->ram->host + KERNEL, 0x40000);
	m->vcpu->ops->set_state(m->vcpu, &s);
	m->vcpu->ops->set_irq(m->vcpu, VCPU_INTR, true);
	run(m->vcpu, &exit);
	m->vcpu->ops->set_irq(m->vcpu, VCPU_INTR, false);
	m->vcpu->ops->get_state(m->vcpu, &s);
	if (exit.kind == VCPU_EXIT_HALT && s.rip == ON_INTERRUPT + sizeof(interrupt_code) && s.gpr[R12] == (rf ? CHANGE_AT + 3 : 0))
		return true;
	printf("# %s, %d: exit %d at %lx, RF %lu times\n", m->accel->ops->name, rf, exit.kind, s.rip, s.gpr[R12]);
	return false;
}

int main(int argc, char **argv)
{
	unsigned cases = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 1000, bad = 0;
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	struct accel_host hosts[2] = { host, host };
	bool few, rf = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15;
	sigaction(SIGVTALRM, &sa, NULL);
	limit_us = 100000;
	for (unsigned i = 0; i < 2; i++) {
		hosts[i].opaque = &machine[i];
		hosts[i].port_write = port_write;
		hosts[i].interrupt_ack = take_interrupt;
		machine_host = &hosts[i];
		machine_make(&machine[i], i ? &accel_bt_ops : &accel_interp_ops);
	}
	for (unsigned n = 0; n < cases && bad < 5; n++)
		bad += !case_agrees(n, seed);
	printf("# %u cases, %.1f times through a gate without a change\n", cases, (double)quiet_gates / (double)MAX(quiet, 1));
	printf("%s 1 - ways between privileges are the interpreter's\n", bad ? "not ok" : "ok");
	/* Five laps of six ways each, when all is known. */
	few = quiet_gates < quiet * 28;
	printf("%s 2 - nearly all of them without it\n", few ? "not ok" : "ok");
	for (unsigned i = 0; i < 4; i++)
		rf &= interrupt_has_rf(&machine[i / 2], i % 2);
	printf("%s 3 - an interrupt's frame has RF as IRETQ loaded it\n", rf ? "ok" : "not ok");
	printf("1..3\n");
	machine_free(&machine[0]);
	machine_free(&machine[1]);
	return bad || few || !rf;
}
