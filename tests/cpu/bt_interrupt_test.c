/*
 * Interrupts at random points of translated code, against the interpreter: random sequences in loops, as in bt_test.c.
 * Where an interrupt is taken the state is kept; the interpreter then goes there by single instructions, has to have the
 * same state, to the last flag and vector register, and takes the interrupt as well. Handlers use the vector unit, change
 * the page tables, reload CR3 and take the unit away as at a task switch; page faults are repaired.
 *
 *	bt_interrupt_test [cases [seed]]
 *
 * The points are single host instructions. When the engine is about to enter its code, that is not executable; what
 * faults there goes on with the host's trap flag for a random number of instructions, and then the interrupt comes.
 * In half of the cases the loop becomes hot while it runs.
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "accel/bt/bt.h"

#define FP_AREA 0x212000u
#define SEEN 0x211010u
#define REPAIRS 0x211018u /* faults that have been returned from */
#define SERVICE (HANDLERS + 0x400u) /* the interrupts' handlers */
#define SERVICE_SIZE 0x80u
#define FIRST_VECTOR 0x30u
#define TRAP_FLAG 0x100
#define POINTS 3
#define PROGRESS 20000

enum service { JUST_RETURN, COUNT, USE_SSE, USE_AVX, RELOAD_CR3, TAKE_UNIT, UNMAP, SERVICES, MAP_PAGE = SERVICES, GIVE_UNIT };

/* An interrupt that is to come: after so many host instructions of translated code, and so many ways to C. */
struct point {
	unsigned after, visits;
	enum service service;
	bool in_c; /* the last of these ways is met by it */
};

/* One that has come. */
struct delivery {
	struct cpu_state s;
	uint32_t count, repairs;
	uint8_t vector;
};

static struct machine in, bt;
static struct bt_cpu *translator; /* bt's vCPU */

static struct {
	struct point point[POINTS];
	unsigned points, next; /* of them, and which comes next */
	bool promote;
	volatile bool armed, stepping, pending;
	unsigned left, visits;
	struct delivery delivery[POINTS];
	unsigned deliveries, replayed;
	uint64_t total, in_code, promoted; /* of all cases */
} plan;

/* ---- when they come ---- */

static struct sigaction engine_fault;

static bool in_translated(const void *p) { return (const uint8_t *)p >= translator->rx && (const uint8_t *)p < translator->rx + translator->code_size; }
static void code_access(int prot) { mprotect(translator->rx, translator->code_size, prot); }

static void arm(void)
{
	const struct point *p = &plan.point[plan.next];

	if (plan.armed || plan.pending || plan.next >= plan.points)
		return;
	plan.left = p->after;
	plan.visits = p->visits;
	plan.armed = true;
	code_access(PROT_NONE);
}

static void disarm(void)
{
	if (plan.armed && !plan.stepping)
		code_access(PROT_READ | PROT_EXEC);
	plan.armed = plan.stepping = false;
}

static void fire(ucontext_t *uc)
{
	bool code = in_translated((const void *)uc->uc_mcontext.gregs[REG_RIP]);

	uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	plan.armed = plan.stepping = false;
	plan.pending = true;
	plan.total++;
	plan.in_code += code;
	translator->cpu.vcpu.ops->set_irq(&translator->cpu.vcpu, VCPU_INTR, true);
	/* As another thread would. */
	if (code)
		syscall(SYS_tgkill, getpid(), translator->tid, BT_POKE_SIGNAL);
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	bool code = in_translated((const void *)uc->uc_mcontext.gregs[REG_RIP]);

	if (!plan.stepping) {
		uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	} else if (code) {
		if (!plan.left--)
			fire(uc);
	} else if (plan.visits-- || !plan.point[plan.next].in_c) {
		/* In C: from where it comes back. */
		if (plan.visits > 64)
			plan.visits = 0;
		uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
		plan.stepping = false;
		code_access(PROT_NONE);
	} else {
		fire(uc);
	}
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	if (plan.armed && !plan.stepping && in_translated(info->si_addr) && (greg_t)info->si_addr == uc->uc_mcontext.gregs[REG_RIP]) {
		code_access(PROT_READ | PROT_EXEC);
		plan.stepping = true;
		uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
		return;
	}
	engine_fault.sa_sigaction(sig, info, context);
}

static void catch_signals(void)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	sigaction(SIGSEGV, &sa, &engine_fault);
	sa.sa_sigaction = on_trap;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigfillset(&sa.sa_mask);
	sigaction(SIGTRAP, &sa, NULL);
}

/* ---- the machines' side ---- */

/* What the engine's timer would find if the loop went on for long. */
static void make_hot(void)
{
	struct bt_heat *h = &translator->heat;
	unsigned n = 0;

	for (uint32_t i = translator->block_count; n < HEAT_SAMPLES && i-- > translator->region[translator->filling].block;) {
		const struct bt_block *k = &translator->blocks[i];

		if (k->dead || k->tier2 || k->lin < CODE || k->lin >= CODE + 0x2000)
			continue;
		h->sample[n++] = k->host;
	}
	plan.promoted += n > 1;
	atomic_store(&h->count, n);
	atomic_store(&translator->cpu.poll, 1);
}

static void bt_port(void *opaque, unsigned cpu, uint16_t port, unsigned len, uint64_t value)
{
	if (plan.promote)
		make_hot();
	arm();
}

static int bt_ack(void *opaque, unsigned cpu)
{
	struct delivery *d = &plan.delivery[plan.deliveries++];

	translator->cpu.vcpu.ops->set_irq(&translator->cpu.vcpu, VCPU_INTR, false);
	plan.pending = false;
	d->s = translator->cpu.s;
	d->count = ld32le(bt.ram->host + COUNTER);
	d->repairs = ld32le(bt.ram->host + REPAIRS);
	d->vector = (uint8_t)(FIRST_VECTOR + plan.point[plan.next++].service);
	arm();
	return d->vector;
}

static int in_ack(void *opaque, unsigned cpu)
{
	in.vcpu->ops->set_irq(in.vcpu, VCPU_INTR, false);
	return plan.delivery[plan.replayed].vector;
}

/* ---- handlers ---- */

static void put_bytes(uint8_t **p, const void *bytes, unsigned n)
{
	memcpy(*p, bytes, n);
	*p += n;
}
#define PUT(...) put_bytes(&p, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
#define ADDRESS(v) (v) & 0xff, (v) >> 8 & 0xff, (v) >> 16 & 0xff, (v) >> 24

static void put_return(uint8_t **at, bool wide)
{
	uint8_t *p = *at;

	if (wide)
		PUT(0x48);
	PUT(0xcf);
	*at = p;
}

static void make_service(enum service which, bool wide)
{
	uint8_t *p = in.ram->host + SERVICE + which * SERVICE_SIZE;

	switch (which) {
	case COUNT: PUT(0xf0, 0xff, 0x04, 0x25, ADDRESS(SEEN)); break;
	case USE_SSE: /* fxsave; fninit; fld1; fldpi; xorps xmm0..; addss; fxrstor */
		PUT(0x0f, 0xae, 0x04, 0x25, ADDRESS(FP_AREA));
		PUT(0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb, 0x0f, 0x57, 0xc0, 0x0f, 0x57, 0xdb, 0xf3, 0x0f, 0x58, 0xca);
		PUT(0x0f, 0xae, 0x0c, 0x25, ADDRESS(FP_AREA));
		break;
	case USE_AVX: /* push rax; push rdx; mov eax, 7; xor edx, edx; xsave; vzeroall; fld1; xrstor; pop rdx; pop rax */
		PUT(0x50, 0x52, 0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x24, 0x25, ADDRESS(FP_AREA));
		PUT(0xc5, 0xfc, 0x77, 0xd9, 0xe8, 0x0f, 0xae, 0x2c, 0x25, ADDRESS(FP_AREA), 0x5a, 0x58);
		break;
	case RELOAD_CR3: PUT(0x50, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x58); break;
	case TAKE_UNIT: PUT(0x50, 0x0f, 0x20, 0xc0, 0x0c, 0x08, 0x0f, 0x22, 0xc0, 0x58); break;
	case UNMAP: /* mov dword [entry], 0; invlpg [HOLE] */
		PUT(0xc7, 0x04, 0x25, ADDRESS(page_entry_at(HOLE)), 0, 0, 0, 0, 0x0f, 0x01, 0x3c, 0x25, ADDRESS(HOLE));
		break;
	default: break;
	}
	put_return(&p, wide);
}

/* The page is mapped or the unit given back, and the instruction done again. The frame's status flags may be stale, so
 * there are none. RF goes as well, which translated code does not keep up to an interrupt that comes at once. */
static void make_repair(enum service which, bool wide)
{
	uint8_t *p = in.ram->host + SERVICE + which * SERVICE_SIZE;
	uint8_t word = wide ? 8 : 4, error = which == MAP_PAGE ? word : 0;

	if (which == MAP_PAGE)
		PUT(0xc7, 0x04, 0x25, ADDRESS(page_entry_at(HOLE)), ADDRESS(HOLE | 7u), 0xc7, 0x04, 0x25, ADDRESS(page_entry_at(READ_ONLY)), ADDRESS(READ_ONLY | 7u));
	else
		PUT(0x0f, 0x06); /* clts */
	/* inc dword [REPAIRS]; cmp dword [REPAIRS], 40; jb +1; hlt: it may be another page that is missing */
	PUT(0xff, 0x04, 0x25, ADDRESS(REPAIRS), 0x83, 0x3c, 0x25, ADDRESS(REPAIRS), 40, 0x72, 1, 0xf4);
	PUT(0x81, 0x64, 0x24, (uint8_t)(2 * word + error), ADDRESS(~(uint32_t)(RFLAGS_STATUS | RFLAGS_RF)));
	if (wide)
		PUT(0x48);
	PUT(0x83, 0xc4, error); /* add rsp, error */
	put_return(&p, wide);
}

static void put_gate(unsigned vector, uint32_t at, bool wide)
{
	put64(&in, IDT + vector * (wide ? 16 : 8), (at & 0xffff) | (uint64_t)0x08 << 16 | UINT64_C(0x8e00) << 32 | (uint64_t)(at & 0xffff0000) << 32);
	if (wide)
		put64(&in, IDT + vector * 16 + 8, 0);
}

static void make_services(bool wide, bool repair)
{
	for (unsigned i = 0; i < SERVICES; i++) {
		make_service((enum service)i, wide);
		put_gate(FIRST_VECTOR + i, SERVICE + i * SERVICE_SIZE, wide);
	}
	make_repair(MAP_PAGE, wide);
	make_repair(GIVE_UNIT, wide);
	put_gate(EXC_NM, SERVICE + GIVE_UNIT * SERVICE_SIZE, wide);
	if (repair)
		put_gate(EXC_PF, SERVICE + MAP_PAGE * SERVICE_SIZE, wide);
}

/* ---- going there with the interpreter ---- */

/* What differs, or NULL. */
static const char *point_different(const struct cpu_state *a, const struct cpu_state *b)
{
	if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)))
		return "registers";
	if (a->rflags != b->rflags)
		return "flags";
	if (a->cr0 != b->cr0 || a->cr2 != b->cr2 || a->cr3 != b->cr3)
		return "control registers";
	if (memcmp(a->xsave, b->xsave, 24) || memcmp(a->xsave + 32, b->xsave + 32, 128))
		return "x87";
	if (memcmp(a->xsave + 24, b->xsave + 24, 4))
		return "mxcsr";
	if (memcmp(a->xsave + 160, b->xsave + 160, 256) || memcmp(a->xsave + 576, b->xsave + 576, 256))
		return "vector registers";
	return memcmp(a->seg, b->seg, sizeof(a->seg)) ? "segments" : NULL;
}

static bool is_there(const struct delivery *d)
{
	const struct cpu_state *s = &((struct icpu *)in.vcpu)->s;

	return s->rip == d->s.rip && s->gpr[RCX] == d->s.gpr[RCX] && ld32le(in.ram->host + COUNTER) == d->count &&
	       ld32le(in.ram->host + REPAIRS) == d->repairs;
}

/* NULL, or what is wrong. */
static const char *replay(struct vcpu_exit *exit)
{
	struct icpu *cpu = (struct icpu *)in.vcpu;
	const char *wrong = NULL;
	unsigned steps = 0;

	*exit = (struct vcpu_exit){ .kind = VCPU_EXIT_DEBUG };
	in.vcpu->ops->set_step(in.vcpu, true);
	cpu->debug_on = true; /* a repeated instruction does one element at a time */
	for (plan.replayed = 0; plan.replayed < plan.deliveries && !wrong; plan.replayed++) {
		const struct delivery *d = &plan.delivery[plan.replayed];

		while (!is_there(d)) {
			if (exit->kind != VCPU_EXIT_DEBUG || ++steps > 400000)
				return "never got there";
			in.vcpu->ops->run(in.vcpu, exit);
			cpu->debug_on = true;
		}
		wrong = point_different(&cpu->s, &d->s);
		in.vcpu->ops->set_irq(in.vcpu, VCPU_INTR, true);
		in.vcpu->ops->run(in.vcpu, exit);
		cpu->debug_on = true;
	}
	in.vcpu->ops->set_step(in.vcpu, false);
	cpu->debug_on = false;
	if (!wrong && exit->kind == VCPU_EXIT_DEBUG)
		run(in.vcpu, exit);
	return wrong;
}

/* ---- cases ---- */

static void make_plan(unsigned *count)
{
	*count = 2 + pick(10);
	port_at = 1 + pick(*count);
	plan.points = 1 + pick(POINTS);
	plan.next = plan.deliveries = 0;
	plan.pending = false;
	plan.promote = pick(2);
	for (unsigned i = 0; i < plan.points; i++) {
		plan.point[i] = (struct point){ .after = pick(8) ? pick(16) : pick(120), .visits = pick(3) ? pick(6) : 0, .in_c = pick(4) == 0,
						.service = (enum service)pick(SERVICES) };
	}
}

/* Nothing is known to be hot or cold. */
static void cool(void)
{
	memset(translator->heat.hot, 0, sizeof(translator->heat.hot));
	memset(translator->heat.cold, 0, sizeof(translator->heat.cold));
	memset(translator->heat.page, 0, sizeof(translator->heat.page));
}

struct outcome {
	struct cpu_state a, b;
	struct vcpu_exit ea, eb;
	bool faulted;
	const char *wrong;
	int state, where;
	unsigned length;
};

static bool case_run(struct outcome *o, bool all)
{
	static struct cpu_state start;
	bool wide = pick(3), first = pick(2);
	unsigned count;

	code_at = pick(2) ? CODE : CODE_LATE;
	make_tables(&in, wide);
	make_gates(&in, wide);
	make_services(wide, pick(2));
	start_state(&start, wide);
	start.rflags |= RFLAGS_IF;
	for (unsigned i = 0; i < 0x12000; i += 8)
		put64(&in, DATA + i, rnd());
	memset(in.ram->host + FP_AREA, 0, 0x400);
	make_plan(&count);
	o->length = make_sequence(&in, wide);
	put64(&in, COUNTER, count);
	put64(&in, SEEN, 0);
	put64(&in, REPAIRS, 0);
	copy_world(&in, &bt, FP_AREA + 0x400, all);
	keep_tables(&in);
	if (pick(2))
		cool();
	accel_interp_ops.set_state(in.vcpu, &start);
	accel_bt_ops.set_state(bt.vcpu, &start);
	if (first)
		arm();
	run(bt.vcpu, &o->eb);
	disarm();
	bt.vcpu->ops->set_irq(bt.vcpu, VCPU_INTR, false);
	if (o->eb.kind == VCPU_EXIT_KICKED)
		return false;
	o->wrong = replay(&o->ea);
	accel_interp_ops.get_state(in.vcpu, &o->a);
	accel_bt_ops.get_state(bt.vcpu, &o->b);
	if (tables_changed(&in))
		return false;
	o->faulted = o->a.rip < CODE || o->ea.kind != VCPU_EXIT_HALT;
	o->state = o->wrong ? 0 : different(&o->a, &o->b, o->faulted);
	o->where = o->wrong ? 0 : memory_different(&in, &bt, o->faulted);
	return true;
}

static void show_case(unsigned n, uint64_t was, const struct outcome *o)
{
	printf("# case %u seed %#lx: exit %d %d, state %d, memory at %x\n", n, was, o->ea.kind, o->eb.kind, o->state, o->where);
	if (o->wrong) {
		const struct delivery *d = &plan.delivery[plan.replayed ? plan.replayed - 1 : 0];

		printf("# %s at interrupt %u of %u, vector %x, count %u\n", o->wrong, plan.replayed, plan.deliveries, d->vector, d->count);
		show(&((struct icpu *)in.vcpu)->s, &d->s, &in, o->length);
	} else {
		show(&o->a, &o->b, &in, o->length);
	}
}

int main(int argc, char **argv)
{
	unsigned cases = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 400, n, bad = 0, faults = 0, skipped = 0;
	struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	struct accel_host in_host = host, bt_host = host;
	static struct outcome o;
	bool ended = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x9e3779b97f4a7c15;
	cache_size = 4u << 20;
	sigaction(SIGVTALRM, &sa, NULL);
	in_host.interrupt_ack = in_ack;
	bt_host.interrupt_ack = bt_ack;
	bt_host.port_write = bt_port;
	machine_host = &in_host;
	machine_make(&in, &accel_interp_ops);
	machine_host = &bt_host;
	machine_make(&bt, &accel_bt_ops);
	translator = (struct bt_cpu *)bt.vcpu;
	catch_signals();
	clocked = false;
	limit_us = 50000;
	for (n = 0; n < cases && bad < 5; n++) {
		uint64_t was = seed;

		if (n && n % PROGRESS == 0)
			printf("# %u cases so far, %lu interrupts\n", n, plan.total);
		ended = case_run(&o, !ended || n % 256 == 0);
		if (!ended) {
			skipped++;
			continue;
		}
		faults += o.faulted;
		if (o.wrong || o.ea.kind != o.eb.kind || o.state || o.where) {
			show_case(n, was, &o);
			bad++;
		}
	}
	printf("# %u cases, %u ended in a fault, %u say nothing; %lu interrupts, %lu of them in translated code; %lu loops made hot\n", n, faults,
	       skipped, plan.total, plan.in_code, plan.promoted);
	printf("1..1\n%s 1 - interrupts in random sequences\n", bad ? "not ok" : "ok");
	machine_free(&in);
	machine_free(&bt);
	return bad ? 1 : 0;
}
