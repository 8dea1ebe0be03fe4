/*
 * The thunks' memory: one pool for each vCPU, written through one mapping and executed through another, never
 * both; equal thunks are kept once. When it is full it is emptied, and instructions bound before bind themselves anew.
 */
#include <errno.h>
#include <signal.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "accel/interp/core.h"
#include "accel/interp/vec.h"

#define POOL_CODE (4u << 20)
#define POOL_OPS 32768u
#define POOL_HASH 65536u

struct vec {
	struct vec_pool_head head; /* must be first */
	struct vec_op *ops;
	uint32_t *lengths;         /* of each op's code */
	uint32_t *hash;            /* op index + 1 */
	uint32_t count, used;      /* ops; bytes of code */
	uint32_t base;             /* bytes of code that stay: the trap exit */
	uint8_t *writable, *executable;
	struct cpu_model offered;  /* only its feature words: what the engine can execute here */
};

/* The vCPU whose thunk runs on this thread with exceptions unmasked: what the signal handler goes by. */
static _Thread_local const struct vec *trapping;
static struct sigaction previous_fpe;
static pthread_once_t fpe_once = PTHREAD_ONCE_INIT;

/* A thunk trapped: it goes on at the pool's trap exit. Anything else is for whoever was there before. */
static void on_fpe(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	const struct vec *v = trapping;

	if (v && rip - (uintptr_t)v->executable < POOL_CODE) {
		uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)v->executable;
	} else if (previous_fpe.sa_flags & SA_SIGINFO) {
		previous_fpe.sa_sigaction(sig, info, context);
	} else if (previous_fpe.sa_handler != SIG_DFL && previous_fpe.sa_handler != SIG_IGN) {
		previous_fpe.sa_handler(sig);
	} else {
		signal(SIGFPE, SIG_DFL);
	}
}

static void install_fpe(void)
{
	struct sigaction sa = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	sigaction(SIGFPE, &sa, &previous_fpe);
}

int vec_call_unmasked(struct icpu *cpu, const struct vec_op *op, void *mem)
{
	int trapped;

	trapping = cpu->vec;
	trapped = op->thunk(&cpu->s, mem);
	trapping = NULL;
	return trapped;
}

static bool map_code(struct vec *v)
{
	int fd = memfd_create("guise-thunks", MFD_CLOEXEC);

	if (fd < 0)
		return false;
	if (!ftruncate(fd, POOL_CODE)) {
		v->writable = mmap(NULL, POOL_CODE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		v->executable = mmap(NULL, POOL_CODE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	close(fd);
	return v->writable && v->executable && v->writable != MAP_FAILED && v->executable != MAP_FAILED;
}

static void unmap(uint8_t *p)
{
	if (p && p != MAP_FAILED)
		munmap(p, POOL_CODE);
}

int vector_init(struct icpu *cpu)
{
	struct vec *v = calloc(1, sizeof(*v));
	struct code exit = { 0 };

	if (!v)
		return -ENOMEM;
	cpu->vec = v;
	v->ops = calloc(POOL_OPS, sizeof(*v->ops));
	v->lengths = calloc(POOL_OPS, sizeof(*v->lengths));
	v->hash = calloc(POOL_HASH, sizeof(*v->hash));
	if (!v->ops || !v->lengths || !v->hash || !map_code(v)) {
		vector_finish(cpu);
		return -ENOMEM;
	}
	interp_supported_words(v->offered.features);
	v->head.ops = v->ops;
	v->head.generation = 1;
	v->head.xsavec = vec_feature(cpu, "xsavec");
	emit_trap_exit(&exit, cpu_model_has(&v->offered, "avx"));
	memcpy(v->writable, exit.b, exit.n);
	v->base = v->used = (exit.n + 15) & ~15u;
	pthread_once(&fpe_once, install_fpe);
	vector_load_state(cpu);
	return 0;
}

void vector_finish(struct icpu *cpu)
{
	struct vec *v = cpu->vec;

	if (!v)
		return;
	unmap(v->writable);
	unmap(v->executable);
	free(v->ops);
	free(v->lengths);
	free(v->hash);
	free(v);
	cpu->vec = NULL;
}

bool vec_feature(struct icpu *cpu, const char *name)
{
	const struct vec *v = cpu->vec;

	return cpu_model_has(&v->offered, name) && (!cpu->model || cpu_model_has(cpu->model, name));
}

static uint32_t hash_code(const struct code *c)
{
	uint32_t h = 2166136261u;

	for (unsigned i = 0; i < c->n; i++)
		h = (h ^ c->b[i]) * 16777619u;
	return h ^ h >> 15;
}

static void empty_pool(struct vec *v)
{
	memset(v->hash, 0, POOL_HASH * sizeof(*v->hash));
	v->count = 0;
	v->used = v->base;
	v->head.generation++;
}

static bool same_op(const struct vec *v, uint32_t i, const struct code *c, const struct vec_op *op)
{
	const struct vec_op *have = &v->ops[i];

	/* What else an op holds follows from the code. */
	return v->lengths[i] == c->n && !memcmp((const uint8_t *)(uintptr_t)have->thunk, c->b, c->n) && have->fop == op->fop &&
	       have->flags == op->flags && have->mem_size == op->mem_size && have->align == op->align;
}

uint32_t vec_pool_add(struct icpu *cpu, const struct code *c, const struct vec_op *op)
{
	struct vec *v = cpu->vec;
	uint32_t h = hash_code(c), i;

	for (; (i = v->hash[h % POOL_HASH]); h++) {
		if (same_op(v, i - 1, c, op))
			return i - 1;
	}
	if (v->count == POOL_OPS || v->used + c->n > POOL_CODE) {
		empty_pool(v);
		h = hash_code(c);
	}
	memcpy(v->writable + v->used, c->b, c->n);
	i = v->count++;
	v->ops[i] = *op;
	v->ops[i].thunk = (vec_thunk *)(uintptr_t)(v->executable + v->used);
	v->lengths[i] = c->n;
	v->used += (c->n + 15) & ~15u;
	v->hash[h % POOL_HASH] = i + 1;
	return i;
}

uint64_t vec_pool_handle(struct icpu *cpu, uint32_t index)
{
	return (uint64_t)((struct vec *)cpu->vec)->head.generation << 32 | index;
}

const struct vec_op *vec_op_again(struct icpu *cpu, const struct insn *in)
{
	struct insn fresh;
	bool need_more;

	insn_decode(cpu, in->bytes, in->length, &fresh, &need_more);
	/* Handlers get their instruction as constant, but it lies where the decoder wrote it. */
	((struct insn *)(uintptr_t)in)->aux = fresh.aux;
	return &((struct vec *)cpu->vec)->ops[(uint32_t)fresh.aux];
}
