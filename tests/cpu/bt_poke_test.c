/*
 * A vCPU that spins in translated code is stopped by another thread's kick, and takes interrupts, however tight its
 * loop: blocks that jump to themselves, indirect jumps, calls and returns, other pages, long string moves, code without
 * polls (GUISE_BT_TIER2=always). What has been counted in a register and in memory must fit where it was stopped.
 */
#define main random_sequences_main
#include "bt_test.c"
#undef main

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 40u
#define PATIENCE_S 30 /* a machine that is busy with other things takes its time */
#define TOP CODE
#define OTHER_PAGE (CODE + 0x1000u)
#define VECTOR 0x40u
#define ON_INTERRUPT (HANDLERS + 0x400u)
#define TAKEN 0x211010u

struct loop {
	const char *name;
	const uint8_t *code, *other;
	unsigned length, other_length;
	bool memory; /* COUNTER goes up before RAX */
	bool user;   /* a program's, and not interrupted */
};

#define BYTES(...) (const uint8_t[]){ __VA_ARGS__ }
#define CODE_OF(...) .code = BYTES(__VA_ARGS__), .length = sizeof(BYTES(__VA_ARGS__))
#define OTHER(...) .other = BYTES(__VA_ARGS__), .other_length = sizeof(BYTES(__VA_ARGS__))
#define INC_RAX 0x48, 0xff, 0xc0

static const struct loop loops[] = {
	{ "a jump to itself", CODE_OF(0xeb, 0xfe) },
	{ "a count", CODE_OF(INC_RAX, 0xeb, 0xfb) },
	{ "a count in memory", CODE_OF(0x48, 0xff, 0x04, 0x25, 0x00, 0x10, 0x21, 0x00, INC_RAX, 0xeb, 0xf3), .memory = true },
	{ "a conditional branch", CODE_OF(INC_RAX, 0x48, 0x85, 0xc0, 0x75, 0xf8) },
	{ "two branches", CODE_OF(INC_RAX, 0xa8, 0x01, 0x74, 0xf9, 0xeb, 0xf7) },
	{ "an indirect jump", CODE_OF(0x48, 0xc7, 0xc1, 0x07, 0x00, 0x10, 0x00, INC_RAX, 0xff, 0xe1) },
	{ "a call and its return", CODE_OF(0xe8, 0x05, 0, 0, 0, INC_RAX, 0xeb, 0xf6, 0xc3) },
	{ "calls that nothing returns from", CODE_OF(0xe8, 0, 0, 0, 0, INC_RAX, 0x48, 0x83, 0xc4, 0x08, 0xeb, 0xf2) },
	{ "a return as a jump", CODE_OF(0x68, 0x00, 0x00, 0x10, 0x00, INC_RAX, 0xc3) },
	{ "two pages", CODE_OF(INC_RAX, 0xe9, 0xf8, 0x0f, 0, 0), OTHER(0xe9, 0xfb, 0xef, 0xff, 0xff) },
	{ "LOOP", CODE_OF(INC_RAX, 0xb9, 0xff, 0xff, 0xff, 0x7f, 0xe2, 0xfe, 0xeb, 0xf4) },
	{ "a long REP STOSB", CODE_OF(0xbf, 0x00, 0x00, 0x40, 0x00, 0xb9, 0x00, 0x00, 0xb0, 0x00, 0xf3, 0xaa, INC_RAX, 0xeb, 0xef) },
	{ "vector code", CODE_OF(0xf2, 0x0f, 0x58, 0xc1, INC_RAX, 0xeb, 0xf7) },
	/* mov rcx, rax; xor eax, eax; lock cmpxchg [COUNTER + 8], ecx; lea rax, [rcx + 1]; jmp */
	{ "a lock that is taken", CODE_OF(0x48, 0x89, 0xc1, 0x31, 0xc0, 0xf0, 0x0f, 0xb1, 0x0c, 0x25, 0x08, 0x10, 0x21, 0x00, 0x48, 0x8d, 0x41, 0x01,
					  0xeb, 0xec), .user = true },
	{ "pushes and pops", CODE_OF(0x50, 0x52, 0x5a, 0x59, INC_RAX, 0xeb, 0xf7) },
};

static struct machine bt;
static sem_t go, back, taken;
static struct vcpu_exit last;
static bool ended;

static int take_interrupt(void *opaque, unsigned cpu)
{
	bt.vcpu->ops->set_irq(bt.vcpu, VCPU_INTR, false);
	sem_post(&taken);
	return VECTOR;
}

static void *run_vcpu(void *unused)
{
	for (;;) {
		sem_wait(&go);
		if (ended)
			return NULL;
		bt.vcpu->ops->run(bt.vcpu, &last);
		sem_post(&back);
	}
}

static void nap(unsigned us)
{
	const struct timespec t = { .tv_nsec = 1000 * (long)us };

	nanosleep(&t, NULL);
}

/* False when it does not come. */
static bool wait_for(sem_t *s)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += PATIENCE_S;
	while (sem_timedwait(s, &end)) {
		if (errno != EINTR)
			return false;
	}
	return true;
}

static void prepare(const struct loop *l)
{
	/* lock inc dword [TAKEN]; iretq */
	static const uint8_t handler[] = { 0xf0, 0xff, 0x04, 0x25, TAKEN & 0xff, TAKEN >> 8 & 0xff, TAKEN >> 16, 0, 0x48, 0xcf };
	uint8_t page[0x1000];
	struct cpu_state s;

	make_tables(&bt, true);
	make_gates(&bt, true);
	put64(&bt, IDT + VECTOR * 16, (ON_INTERRUPT & 0xffff) | (uint64_t)0x08 << 16 | UINT64_C(0x8e00) << 32);
	put64(&bt, IDT + VECTOR * 16 + 8, 0);
	put64(&bt, TAKEN, 0);
	put64(&bt, COUNTER, 0);
	put64(&bt, COUNTER + 8, UINT64_MAX);
	mem_write(bt.mem, ON_INTERRUPT, handler, sizeof(handler));
	memset(page, 0xf4, sizeof(page));
	memcpy(page, l->code, l->length);
	mem_write(bt.mem, TOP, page, sizeof(page));
	memset(page, 0xf4, sizeof(page));
	if (l->other)
		memcpy(page, l->other, l->other_length);
	mem_write(bt.mem, OTHER_PAGE, page, sizeof(page));
	start_state(&s, true);
	s.gpr[RAX] = 0;
	s.rflags = 2 | RFLAGS_IF;
	if (l->user) {
		s.seg[SEG_CS] = (struct x86_segment){ 0, UINT32_MAX, 0x1b, 0xafb };
		s.seg[SEG_SS] = (struct x86_segment){ 0, UINT32_MAX, 0x23, 0xcf3 };
	}
	bt.vcpu->ops->set_state(bt.vcpu, &s);
}

static bool fits(const struct loop *l, uint64_t before)
{
	struct cpu_state s;
	uint64_t count = ld64le(bt.ram->host + COUNTER);

	bt.vcpu->ops->get_state(bt.vcpu, &s);
	if (last.kind != VCPU_EXIT_KICKED || s.rip < TOP || s.rip >= TOP + 0x2000 || s.gpr[RAX] < before)
		return false;
	return !l->memory || count - s.gpr[RAX] == (s.rip == TOP + 8);
}

/* NULL, or what went wrong. */
static const char *kicked(const struct loop *l)
{
	struct cpu_state s;

	for (unsigned n = 0; n < ROUNDS; n++) {
		bt.vcpu->ops->get_state(bt.vcpu, &s);
		sem_post(&go);
		nap(pick(n % 4 ? 60 : 3000));
		bt.vcpu->ops->kick(bt.vcpu);
		if (!wait_for(&back))
			return "not stopped";
		if (!fits(l, s.gpr[RAX]))
			return "stopped at the wrong place";
	}
	return NULL;
}

static const char *interrupted(const struct loop *l)
{
	sem_post(&go);
	for (unsigned n = 0; n < ROUNDS; n++) {
		nap(pick(n % 4 ? 60 : 3000));
		bt.vcpu->ops->set_irq(bt.vcpu, VCPU_INTR, true);
		if (!wait_for(&taken))
			return "interrupt not taken";
	}
	nap(1000);
	bt.vcpu->ops->kick(bt.vcpu);
	if (!wait_for(&back))
		return "not stopped after interrupts";
	/* The last one's handler may not have got so far. */
	return ld32le(bt.ram->host + TAKEN) + 1 < ROUNDS ? "interrupts lost" : NULL;
}

int main(void)
{
	struct accel_host with_interrupts = host;
	unsigned bad = 0;
	pthread_t thread;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = 1;
	code_at = TOP;
	with_interrupts.interrupt_ack = take_interrupt;
	machine_host = &with_interrupts;
	machine_cpus = 2;
	machine_make(&bt, &accel_bt_ops);
	sem_init(&go, 0, 0);
	sem_init(&back, 0, 0);
	sem_init(&taken, 0, 0);
	pthread_create(&thread, NULL, run_vcpu, NULL);
	for (unsigned i = 0; i < G_N_ELEMENTS(loops); i++) {
		const char *wrong;

		prepare(&loops[i]);
		wrong = kicked(&loops[i]);
		if (!wrong && !loops[i].user)
			wrong = interrupted(&loops[i]);
		printf("%s %u - %s%s%s\n", wrong ? "not ok" : "ok", i + 1, loops[i].name, wrong ? ": " : "", wrong ? wrong : "");
		bad += wrong != NULL;
		/* A vCPU that does not stop cannot be taken back. */
		if (wrong && strncmp(wrong, "stopped", 7) && strncmp(wrong, "interrupts", 10)) {
			printf("Bail out!\n");
			_exit(1);
		}
	}
	ended = true;
	sem_post(&go);
	pthread_join(thread, NULL);
	printf("1..%u\n", (unsigned)G_N_ELEMENTS(loops));
	machine_free(&bt);
	return bad != 0;
}
