/*
 * Virtual time in nanoseconds and timers on it. The VM's clock follows CLOCK_MONOTONIC and
 * stands still while the VM is paused; a manual clock moves only when a test says so.
 * Timer callbacks run with the VM lock held, on the clock's own thread (the manual clock:
 * in clock_advance). clock_now is safe from any thread; the rest needs the VM lock.
 */
#ifndef HOST_CLOCK_H
#define HOST_CLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define NS_PER_SEC INT64_C(1000000000)

struct clock;
struct timer;

/* `lock` is taken around every callback and must outlive the clock. Starts paused at 0. */
struct clock *clock_create(pthread_mutex_t *lock);
struct clock *clock_create_manual(void);
/* All timers must have been destroyed. Call without the lock. */
void clock_destroy(struct clock *c);

int64_t clock_now(struct clock *c);
/* At the moment, a time of CLOCK_MONOTONIC that has just been, so that other clocks can be stopped and started at the same. */
void clock_pause(struct clock *c, int64_t moment);
void clock_resume(struct clock *c, int64_t moment);
/* Moves now to `ns` (loading a snapshot). */
void clock_set(struct clock *c, int64_t ns);
/* Manual clock: moves on by ns, firing what is due, in order. */
void clock_advance(struct clock *c, int64_t ns);
/* Wall-clock nanoseconds since 1970 (for the RTC); a manual clock answers a fixed date + now. */
int64_t clock_wall_ns(struct clock *c);

struct timer *timer_new(struct clock *c, void (*fire)(void *opaque), void *opaque);
/* NULL is accepted. */
void timer_free(struct timer *t);
/* Fires once when now >= deadline; replaces an earlier deadline. */
void timer_arm(struct timer *t, int64_t deadline);
void timer_cancel(struct timer *t);
/* -1 when not armed. */
int64_t timer_deadline(const struct timer *t);

#endif
