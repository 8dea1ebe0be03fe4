/* A mutex that goes to the thread that has waited longest. */
#ifndef BASE_FAIR_LOCK_H
#define BASE_FAIR_LOCK_H

#include <pthread.h>

/*
 * A mutex of the plain kind goes to whoever is there when it is free. A thread that takes it again as soon as it has let go
 * of it has it back before the one that it woke is running, and may do so for seconds. Those that inherit priority are
 * handed over by the kernel, to the first that waits (futex(2), "priority-inheritance futexes").
 */
static inline void fair_lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;
	int error;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	error = pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
	/* A kernel may have been built without. */
	if (error)
		pthread_mutex_init(lock, NULL);
}

#endif
