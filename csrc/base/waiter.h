/* waiter.h: the one way in which a thread here waits for something that it has to check for. It
 * checks; spins while a core is free to spin on; yields the core between checks; then sleeps, or
 * naps where no event would end a sleep. A wait mode says how long each part is; a waiter is one
 * wait. The caller decides what it checks, and how it sleeps:
 *
 *     rt_waiter waiter;
 *     rt_waiter_begin(&waiter, &mode, end_ns);
 *     while (!found() && (step = rt_waiter_pause(&waiter)) != RT_STEP_END)
 *         if (step == RT_STEP_SLEEP) … sleep on an event, or rt_waiter_nap(&waiter, …)
 *
 * waiter.c has the policy. Locks are not waited for in this way: a turn (turn.h) sleeps on its own
 * word. */
#ifndef RT_BASE_WAITER_H
#define RT_BASE_WAITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/backoff.h"
#include "base/order.h"

/* How long to spin and to yield before a sleep. Mode 0 sleeps at once. */
typedef struct rt_wait_mode {
    uint32_t spins;        /* checks with the core kept, … */
    uint32_t yields;       /* … then checks with the core yielded in between; UINT32_MAX of either: for ever */
    _Atomic bool *patient; /* whether the owner's last sleep was short; NULL: the mode never is patient. waiter.c */
} rt_wait_mode;

/* One wait. Used by one thread. */
typedef struct rt_waiter {
    rt_wait_mode mode;
    int64_t end_ns;     /* by rt_clock_now_ns */
    uint32_t checks;    /* that found nothing, since one last found something */
    bool taken;         /* another thread used the core while it was yielded */
    int64_t spun_ns;    /* when it first yielded the core, or 0 */
    int64_t blocked_ns; /* when it first slept, or 0; both only where the mode can be patient */
    rt_backoff naps;
} rt_waiter;

typedef enum rt_wait_step {
    RT_STEP_CHECK, /* check again */
    RT_STEP_SLEEP, /* sleep, then check again */
    RT_STEP_END,   /* the end has passed: one last check */
} rt_wait_step;

static inline void rt_waiter_begin(rt_waiter *waiter, const rt_wait_mode *mode, int64_t end_ns)
{
    *waiter = (rt_waiter){.mode = *mode, .end_ns = end_ns};
}

/* A check found something, but not all that is waited for: the next checks are quick again. */
static inline void rt_waiter_moved(rt_waiter *waiter)
{
    waiter->checks = 0;
    waiter->naps = (rt_backoff){0};
}

/* Called after a check that found nothing: spins or yields for a moment, and returns what to do
 * next. Never sleeps. */
rt_wait_step rt_waiter_pause(rt_waiter *waiter);
/* Called before a sleep on an event: it counts in the waiter's patience. */
void rt_waiter_sleeps(rt_waiter *waiter);
/* The wait is over; `found`: what it waited for has come. Sets whether the next one is patient. */
void rt_waiter_end(const rt_waiter *waiter, bool found);
/* Sleeps for the waiter's next nap, at most left_ns. RT_OK, RT_E_INTERRUPTED. */
int rt_waiter_nap(rt_waiter *waiter, int64_t left_ns);
/* The length of that nap, where time is not the clock's. */
int64_t rt_waiter_nap_ns(rt_waiter *waiter, int64_t left_ns);
/* The whole pause of a wait whose end no event announces: as rt_waiter_pause, and it naps instead
 * of asking for a sleep. RT_OK: check again. RT_E_AGAIN: the end has passed. RT_E_INTERRUPTED. */
int rt_waiter_idle(rt_waiter *waiter);

/* For waits that never yield or sleep, as those that hold the interpreter's lock or wait a few
 * nanoseconds for a turn: pauses between two of *checks checks; false after the last. */
static inline bool rt_spin_again(uint32_t *checks)
{
    if (*checks <= 1)
        return false;
    --*checks;
    rt_pause();
    return true;
}

/* How many of `checks` checks such a wait may make: one where the mode has no core to spin on. */
static inline uint32_t rt_wait_mode_checks(const rt_wait_mode *mode, uint32_t checks)
{
    return mode->spins != 0 || checks == 0 ? checks : 1;
}

#endif
