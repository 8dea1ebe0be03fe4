/*
 * Two CPUs against one: the same work in one thread, in each of two, and two that share a lock.
 */
#include <pthread.h>

#include "bench.h"

struct worker {
	pthread_t thread;
	uint64_t n, sum;
	pthread_mutex_t *lock;
	uint64_t *shared;
};

static void *work_alone(void *arg)
{
	struct worker *w = arg;
	uint64_t state = 88172645463325252u, table[64] = { 0 };

	for (uint64_t i = 0; i < w->n; i++)
		table[random_next(&state) & 63] += state;
	for (int i = 0; i < 64; i++)
		w->sum = mix(w->sum, table[i]);
	return NULL;
}

static void *work_locked(void *arg)
{
	struct worker *w = arg;

	for (uint64_t i = 0; i < w->n; i++) {
		pthread_mutex_lock(w->lock);
		(*w->shared)++;
		pthread_mutex_unlock(w->lock);
	}
	return NULL;
}

static uint64_t run_threads(int count, uint64_t n, void *(*work)(void *))
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct worker workers[2] = { 0 };
	uint64_t shared = 0, sum;

	for (int i = 0; i < count; i++) {
		workers[i] = (struct worker){ .n = n, .lock = &lock, .shared = &shared };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			bench_fail("thread");
	}
	for (int i = 0; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	sum = shared;
	for (int i = 0; i < count; i++)
		sum = mix(sum, workers[i].sum);
	return sum;
}

static uint64_t one_thread_run(uint64_t n) { return run_threads(1, n, work_alone); }
static uint64_t two_threads_run(uint64_t n) { return run_threads(2, n, work_alone); }
static uint64_t two_locked_run(uint64_t n) { return run_threads(2, n, work_locked); }

const struct bench_case thread_cases[] = {
	{ "thread-1", "step in one thread", 0.2, NULL, one_thread_run },
	{ "thread-2", "step in each of two", 0.2, NULL, two_threads_run },
	{ "mutex-2", "lock in each of two", 0.1, NULL, two_locked_run },
	{ NULL },
};
