/* See oracle.h. */
#include "oracle.h"

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <ucontext.h>

#define PAGE 4096u
#define CODE_AT PAGE
#define THUNK_ROOM 512u
#define AREA_AT (2 * PAGE)
#define SPARE_AT (AREA_AT + ORACLE_AREA + PAGE)
#define HUGE 0x200000u

/* At the start of the mapping. */
struct data {
	uint8_t xstate[1024] __attribute__((aligned(64)));
	uint64_t gpr[16], flags, host_rsp, taken;
	uint32_t host_mxcsr;
};

static struct data *data;
static uint8_t *exits[2];
static bool with_vector;
static uint64_t state = 1;
static sigjmp_buf fault_exit;
static struct oracle_cpu *fault_cpu; /* set while code under test runs */
static struct sigaction previous[32];

/* ---- random values ---- */

void oracle_seed(uint64_t seed) { state = seed | !seed; }

uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dull;
}

unsigned pick(unsigned n) { return (unsigned)((rnd() >> 33) % n); }

uint64_t operand(void)
{
	static const uint64_t edge[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000,
					 0xffffffff, INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 1, 31, 32, 63, 64 };
	switch (pick(4)) {
	case 0: return edge[pick(ARRAY_LEN(edge))];
	case 1: return rnd() >> pick(64);
	case 2: return ~(rnd() >> pick(64));
	default: return rnd();
	}
}

/* ---- the thunk ---- */

static uint8_t *put32(uint8_t *p, uint64_t v) { st32le(p, (uint32_t)v); return p + 4; }

static uint8_t *put_bytes(uint8_t *p, const uint8_t *bytes, unsigned n) { memcpy(p, bytes, n); return p + n; }
#define PUT(p, ...) put_bytes(p, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* mov between a register and an absolute address: opcode 8b loads, 89 stores. */
static uint8_t *put_mov(uint8_t *p, uint8_t opcode, unsigned reg, const void *at)
{
	p = PUT(p, (uint8_t)(0x48 | (reg >> 3) << 2), opcode, (uint8_t)(4 | (reg & 7) << 3), 0x25);
	return put32(p, (uintptr_t)at);
}

static uint8_t *put_rsp(uint8_t *p, const void *v) { return put32(PUT(p, 0x48, 0xc7, 0xc4), (uintptr_t)v); }

/* 0f ae or 48 0f ae with an absolute operand. */
static uint8_t *put_0fae(uint8_t *p, bool wide, unsigned ext, const void *at)
{
	if (wide)
		*p++ = 0x48;
	p = PUT(p, 0x0f, 0xae, (uint8_t)(4 | ext << 3), 0x25);
	return put32(p, (uintptr_t)at);
}

/* All components in (5) or out (4): edx:eax = 7. */
static uint8_t *put_xstate(uint8_t *p, unsigned ext)
{
	p = PUT(p, 0xb8, 7, 0, 0, 0, 0x31, 0xd2);
	return put_0fae(p, true, ext, data->xstate);
}

static uint8_t *thunk_enter(uint8_t *p)
{
	p = PUT(p, 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* pushes */
	p = put_mov(p, 0x89, 4, &data->host_rsp);
	if (with_vector)
		p = put_xstate(p, 5);
	p = put_rsp(p, &data->flags);
	*p++ = 0x9d; /* popfq */
	for (unsigned r = 0; r < 16; r++)
		p = put_mov(p, 0x8b, r, &data->gpr[r]);
	return p;
}

static uint8_t *thunk_leave(uint8_t *p, unsigned which)
{
	for (unsigned r = 0; r < 16; r++)
		p = put_mov(p, 0x89, r, &data->gpr[r]);
	p = put_rsp(p, &data->flags + 1);
	p = PUT(p, 0x9c, 0x48, 0xc7, 0x04, 0x25); /* pushfq; mov qword [taken], which */
	p = put32(put32(p, (uintptr_t)&data->taken), which);
	p = put_mov(p, 0x8b, 4, &data->host_rsp);
	p = PUT(p, 0x6a, 0x02, 0x9d); /* push 2; popfq: no alignment checks any more */
	if (with_vector) {
		p = put_xstate(p, 4);
		p = PUT(p, 0xdb, 0xe3, 0xc5, 0xf8, 0x77); /* fninit; vzeroupper */
		p = put_0fae(p, false, 2, &data->host_mxcsr);
	}
	return PUT(p, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xfc, 0xc3); /* pops; cld; ret */
}

void oracle_end(struct oracle *o, unsigned at)
{
	for (unsigned i = 0; i < 2; i++, at += 5) {
		o->code[at] = 0xe9;
		st32le(o->code + at + 1, (uint32_t)(exits[i] - (o->code + at + 5)));
	}
}

/* ---- faults ---- */

static void take_fault(const ucontext_t *uc)
{
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					   REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	const greg_t *g = uc->uc_mcontext.gregs;
	struct oracle_cpu *cpu = fault_cpu;

	for (unsigned r = 0; r < 16; r++)
		cpu->gpr[r] = (uint64_t)g[order[r]];
	cpu->flags = (uint64_t)g[REG_EFL];
	cpu->rip = (uint64_t)g[REG_RIP];
	cpu->fault = (int)g[REG_TRAPNO];
	cpu->error = (uint32_t)g[REG_ERR];
	cpu->cr2 = (uint64_t)g[REG_CR2];
	if (with_vector)
		memcpy(cpu->xstate, uc->uc_mcontext.fpregs, sizeof(cpu->xstate));
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

	__asm__ volatile("push $2\n\tpopf" : : : "memory", "cc"); /* AC stays set in a handler */
	if (!fault_cpu || rip - (uintptr_t)data >= ORACLE_PAGES * PAGE) {
		if (previous[sig].sa_flags & SA_SIGINFO)
			previous[sig].sa_sigaction(sig, info, context);
		else
			signal(sig, SIG_DFL);
		return;
	}
	take_fault(uc);
	siglongjmp(fault_exit, 1);
}

void oracle_run(struct oracle *o, struct oracle_cpu *cpu)
{
	memcpy(data->gpr, cpu->gpr, sizeof(data->gpr));
	data->flags = cpu->flags;
	if (with_vector) {
		memcpy(data->xstate, cpu->xstate, sizeof(cpu->xstate));
	}
	cpu->fault = -1;
	cpu->rip = cpu->cr2 = cpu->error = 0;
	fault_cpu = cpu;
	if (!sigsetjmp(fault_exit, 0)) {
		((void (*)(void))(uintptr_t)(data + 1))();
		memcpy(cpu->gpr, data->gpr, sizeof(data->gpr));
		cpu->flags = data->flags;
		cpu->exit = (unsigned)data->taken;
		if (with_vector)
			memcpy(cpu->xstate, data->xstate, sizeof(cpu->xstate));
	}
	fault_cpu = NULL;
}

/* ---- set-up ---- */

static bool catch_faults(void)
{
	static const int signals[] = { SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP };
	static uint8_t stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	if (sigaltstack(&ss, NULL))
		return false;
	for (unsigned i = 0; i < ARRAY_LEN(signals); i++) {
		if (sigaction(signals[i], &sa, &previous[signals[i]]))
			return false;
	}
	return true;
}

bool oracle_init(struct oracle *o, bool vector)
{
	uint8_t *p = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (p == MAP_FAILED || !catch_faults())
		return false;
	p = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	data = (struct data *)p;
	data->host_mxcsr = 0x1f80;
	with_vector = vector;
	*o = (struct oracle){ .base = p, .area = p + AREA_AT, .spare = p + SPARE_AT, .code = p + CODE_AT };
	if (mprotect(p + AREA_AT + ORACLE_AREA, PAGE, PROT_NONE))
		return false;
	/* Entry right after the data, falling into the code by a jump; the exits after it. */
	{
		uint8_t *q = thunk_enter((uint8_t *)(data + 1));

		*q++ = 0xe9;
		put32(q, (uint64_t)(o->code - (q + 4)));
		exits[0] = o->code + ORACLE_CODE;
		exits[1] = o->code + ORACLE_CODE + THUNK_ROOM;
		thunk_leave(exits[0], 0);
		thunk_leave(exits[1], 1);
	}
	return true;
}
