/*
 * Faults of translated code on the host: a misaligned vector operand, a division, the end of the return stack.
 * The GS base of a thread in translated code leads to its vCPU.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "accel/bt/bt.h"
#include "accel/bt/tier.h"
#include "accel/interp/flags.h"

static const int faults[BT_FAULTS] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

#define ALT_STACK (64u << 10)
/* Of the return stack when it overflows: some may lead back into the middle of a landing. */
#define RETURNS_KEPT 8u

static struct bt_cpu *thread_cpu(void)
{
	uint64_t base = 0;

	if (syscall(SYS_arch_prctl, ARCH_GET_GS, &base) || !base)
		return NULL;
	return (struct bt_cpu *)(base - offsetof(struct bt_cpu, mmu));
}

/* Whether the fault is translated code's; if so the context is made to go on. */
static bool resume(struct bt_cpu *b, const siginfo_t *info, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;
	uint8_t *rip = (uint8_t *)r[REG_RIP], *at = info->si_addr;
	struct bt_rec *rec;

	if (rip < b->rx || rip >= b->rx + b->code_size)
		return false;
	if (info->si_signo == SIGSEGV && at >= b->return_stack && at < b->return_stack + 2 * RETURN_SPACE) {
		/* The oldest entries are forgotten: their returns are looked up. */
		uint64_t last[RETURNS_KEPT];

		memcpy(last, (const void *)r[REG_RSP], sizeof(last));
		bt_returns_forget(b, b->returns_user);
		b->return_sp -= sizeof(last);
		memcpy((void *)b->return_sp, last, sizeof(last));
		r[REG_RSP] = (greg_t)b->return_sp;
		return true;
	}
	rec = bt_rec_at(b, rip);
	if (!rec)
		return false;
	if (rec->flags_host)
		b->flags = flags_ax((uint64_t)r[REG_EFL]);
	r[REG_RSP] -= 8;
	*(uint64_t *)r[REG_RSP] = rec->id;
	if (rec->window && info->si_signo == SIGSEGV) {
		r[REG_RIP] = (greg_t)(b->rx + b->stub_window);
	} else {
		b->stats.native_faults++;
		r[REG_RIP] = (greg_t)(b->rx + b->stub_insn);
	}
	return true;
}

/* In a stub that a block has called, and that returns to it. */
static bool is_called(const struct bt_cpu *b, const uint8_t *rip) { return rip >= b->rx + b->stub_called && rip < b->rx + b->code_start; }

/*
 * `poll` is set and this thread may be in code that does not look at it. Translated code leaves nothing half done that
 * links of blocks could be part of, so they may be taken away here; in C the stub does it on the way back.
 */
static void leave_soon(struct bt_cpu *b, const greg_t *r)
{
	const struct bt_jumps *table = &b->jump[b->mode & (MODE_USER | MODE_CODE32)];
	const uint8_t *rip = (const uint8_t *)r[REG_RIP];

	/* For the next time that C is left: this may be the way into it. */
	atomic_store_explicit(&b->poked, 1, memory_order_seq_cst);
	if (rip >= b->rx + b->code_start && rip < b->rx + b->code_size) {
		bt_unchain(b, rip, (const uint64_t *)r[REG_RSP]);
	} else if (is_called(b, rip)) {
		const uint64_t *sp = (const uint64_t *)r[REG_RSP];

		bt_unchain(b, (const uint8_t *)*sp, sp + 1);
	} else if (rip >= b->rx && rip < b->rx + b->code_start) {
		/* In a stub, on the way to here or there. */
		bt_unchain(b, (const uint8_t *)r[REG_RAX], (const uint64_t *)b->return_sp);
		bt_unchain(b, (const uint8_t *)b->resume, (const uint64_t *)r[REG_RSP]);
	} else {
		return;
	}
	/* It may be an indirect jump that has looked at `poll` already: where the address in TEMP0, salted or not, would lead. */
	bt_unchain(b, table->target[bt_jump_index((uint64_t)r[REG_R10])], (const uint64_t *)r[REG_RSP]);
}

static void on_poke(int sig, siginfo_t *info, void *context)
{
	struct bt_cpu *b = thread_cpu();

	if (b && atomic_load_explicit(&b->in_code, memory_order_relaxed))
		leave_soon(b, ((ucontext_t *)context)->uc_mcontext.gregs);
}

void bt_poked(struct icpu *cpu)
{
	struct bt_cpu *b = (struct bt_cpu *)cpu;

	if (!b->windows || !atomic_load_explicit(&b->in_code, memory_order_seq_cst))
		return;
	if (pthread_equal(pthread_self(), b->thread))
		atomic_store_explicit(&b->poked, 1, memory_order_seq_cst);
	else
		syscall(SYS_tgkill, getpid(), b->tid, BT_POKE_SIGNAL);
}

/* Where translated code is just now. */
static void on_sample(int sig, siginfo_t *info, void *context)
{
	struct bt_cpu *b = thread_cpu();
	const uint8_t *rip = (const uint8_t *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	uint32_t n;

	if (b && is_called(b, rip))
		rip = *(const uint8_t *const *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RSP];
	if (!b || rip < b->rx + b->code_start || rip >= b->rx + b->code_size)
		return;
	n = atomic_load_explicit(&b->heat.count, memory_order_relaxed);
	if (n == HEAT_SAMPLES)
		return;
	b->heat.sample[n] = (uint32_t)(rip - b->rx);
	atomic_store_explicit(&b->heat.count, n + 1, memory_order_release);
	atomic_store_explicit(&b->cpu.poll, 1, memory_order_release);
	leave_soon(b, ((ucontext_t *)context)->uc_mcontext.gregs);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	struct bt_cpu *b = thread_cpu();
	struct sigaction plain = { .sa_handler = SIG_DFL };

	if (b && resume(b, info, context))
		return;
	if (b) {
		const struct sigaction *old = NULL;

		for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
			if (faults[i] == sig)
				old = &bt_of(b)->old_action[i];
		}
		if (old && (old->sa_flags & SA_SIGINFO) && old->sa_sigaction) {
			old->sa_sigaction(sig, info, context);
			return;
		}
	}
	sigaction(sig, &plain, NULL);
}

int bt_signals_init(struct bt *bt)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	struct sigaction sample = { .sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

	/* What comes meanwhile finds translated code again, not this handler, from which nothing leads to a link. */
	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, BT_SAMPLE_SIGNAL);
	sigaddset(&sa.sa_mask, BT_POKE_SIGNAL);
	sigfillset(&sample.sa_mask);
	if (sigaction(BT_SAMPLE_SIGNAL, &sample, &bt->old_sample))
		return -errno;
	sample.sa_sigaction = on_poke;
	if (sigaction(BT_POKE_SIGNAL, &sample, &bt->old_poke))
		return -errno;
	for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
		if (sigaction(faults[i], &sa, &bt->old_action[i]))
			return -errno;
	}
	return 0;
}

void bt_signals_finish(struct bt *bt)
{
	for (unsigned i = 0; i < ARRAY_LEN(faults); i++)
		sigaction(faults[i], &bt->old_action[i], NULL);
	sigaction(BT_SAMPLE_SIGNAL, &bt->old_sample, NULL);
	sigaction(BT_POKE_SIGNAL, &bt->old_poke, NULL);
}

void bt_thread_enter(struct bt_cpu *b)
{
	stack_t now;

	if (!b->entered)
		syscall(SYS_arch_prctl, ARCH_GET_GS, &b->outer_gs);
	b->entered = true;
	syscall(SYS_arch_prctl, ARCH_SET_GS, &b->mmu);
	if (!sigaltstack(NULL, &now) && (now.ss_flags & SS_DISABLE)) {
		stack_t mine = { .ss_sp = b->alt_stack, .ss_size = ALT_STACK };

		sigaltstack(&mine, NULL);
	}
	if (!b->tid || !pthread_equal(b->thread, pthread_self())) {
		b->thread = pthread_self();
		b->tid = (pid_t)syscall(SYS_gettid);
	}
	tier_thread_enter(b);
}

void bt_thread_leave(struct bt_cpu *b)
{
	const stack_t none = { .ss_flags = SS_DISABLE };
	stack_t now;

	tier_thread_leave(b);
	if (thread_cpu() == b)
		syscall(SYS_arch_prctl, ARCH_SET_GS, b->outer_gs);
	if (!sigaltstack(NULL, &now) && now.ss_sp == b->alt_stack)
		sigaltstack(&none, NULL);
}

int bt_thread_init(struct bt_cpu *b)
{
	b->alt_stack = malloc(ALT_STACK);
	return b->alt_stack ? 0 : -ENOMEM;
}
