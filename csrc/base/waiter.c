/* waiter.c: how long a waiter spins, yields and naps.
 *
 * A blocked thread costs nothing and a spinning one costs its core, which is a disaster where the
 * peer needs that core (RDMA-RULES 26). A wake-up, though, takes tens of microseconds. In a
 * ping-pong, one preempted peer makes both sleep: each wake-up takes longer than the other spins,
 * so every later round sleeps too. After a short sleep a mode is therefore patient: while nobody
 * takes the core that they yield, its next waits spin for up to PATIENCE_NS. A long sleep (an idle
 * receiver) ends that. If sched_yield comes back late, another thread is computing on this core:
 * block, because the scheduler favours a woken thread over one that yielded. */
#include <sched.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/waiter.h"

enum {
    SPINS_PER_CLOCK = 64,  /* checks between two readings of the clock while spinning … */
    YIELDS_PER_CLOCK = 16, /* … and while yielding; a yield is a system call */
    PATIENCE_NS = 100000,  /* a patient wait spins for this long */
    SHORT_NS = 200000,     /* a sleep that ended within this was short */
    TAKEN_NS = 5000,       /* a yield that took this long: another thread used the core … */
    BUSY_NS = 500000,      /* … and this long: another thread computes on it */
};

/* A nap lasts up to 2 ms, which keeps an idle waiter under 1 % of a core, and at most a fourth of
 * the time slept so far, so that no waiter oversleeps by much. */
static const rt_backoff_curve naps = {.first_ns = 20 * RT_NS_PER_US, .last_ns = 2 * RT_NS_PER_MS, .share = 4};

/* Yields the core, and reads the clock now and then. */
static rt_wait_step core_yield(rt_waiter *waiter)
{
    sched_yield();
    return waiter->checks % YIELDS_PER_CLOCK == 0 && rt_clock_now_ns() >= waiter->end_ns ? RT_STEP_END : RT_STEP_CHECK;
}

/* Yields the core, and times it: whether anyone used the core says whether patience is of use. */
static rt_wait_step core_yield_timed(rt_waiter *waiter)
{
    int64_t before_ns = rt_clock_now_ns();
    sched_yield();
    int64_t after_ns = rt_clock_now_ns(), took_ns = after_ns - before_ns;
    if (waiter->spun_ns == 0)
        waiter->spun_ns = before_ns;
    waiter->taken = waiter->taken || took_ns >= TAKEN_NS;
    return took_ns >= BUSY_NS ? RT_STEP_SLEEP : after_ns >= waiter->end_ns ? RT_STEP_END : RT_STEP_CHECK;
}

/* After the mode's yields: whether to go on, spinning most of the time. */
static rt_wait_step waiter_be_patient(rt_waiter *waiter)
{
    const rt_wait_mode *mode = &waiter->mode;
    if (waiter->taken || waiter->blocked_ns != 0 || !atomic_load_explicit(mode->patient, memory_order_relaxed))
        return RT_STEP_SLEEP;
    if (waiter->checks % SPINS_PER_CLOCK != 0) {
        rt_pause();
        return RT_STEP_CHECK;
    }
    return rt_clock_now_ns() - waiter->spun_ns < PATIENCE_NS ? core_yield_timed(waiter) : RT_STEP_SLEEP;
}

rt_wait_step rt_waiter_pause(rt_waiter *waiter)
{
    const rt_wait_mode *mode = &waiter->mode;
    uint32_t checks = ++waiter->checks;
    if (checks <= mode->spins) {
        rt_pause();
        return checks % SPINS_PER_CLOCK == 0 && rt_clock_now_ns() >= waiter->end_ns ? RT_STEP_END : RT_STEP_CHECK;
    }
    bool yields = checks - mode->spins <= mode->yields;
    if (mode->patient == NULL)
        return yields ? core_yield(waiter) : RT_STEP_SLEEP;
    return yields ? core_yield_timed(waiter) : waiter_be_patient(waiter);
}

void rt_waiter_sleeps(rt_waiter *waiter)
{
    if (waiter->mode.patient != NULL && waiter->blocked_ns == 0)
        waiter->blocked_ns = rt_clock_now_ns();
}

void rt_waiter_end(const rt_waiter *waiter, bool found)
{
    _Atomic bool *patient = waiter->mode.patient;
    if (waiter->blocked_ns == 0)
        return; /* a wait that never slept must not change whether the next one is patient */
    int64_t begin_ns = waiter->spun_ns != 0 ? waiter->spun_ns : waiter->blocked_ns;
    bool was_short = found && rt_clock_now_ns() - begin_ns < SHORT_NS;
    if (atomic_load_explicit(patient, memory_order_relaxed) != was_short)
        atomic_store_explicit(patient, was_short, memory_order_relaxed);
}

int64_t rt_waiter_nap_ns(rt_waiter *waiter, int64_t left_ns)
{
    int64_t nap_ns = rt_backoff_next(&waiter->naps, &naps);
    nap_ns = nap_ns < left_ns ? nap_ns : left_ns;
    return nap_ns > 0 ? nap_ns : 1;
}

int rt_waiter_nap(rt_waiter *waiter, int64_t left_ns)
{
    struct timespec nap = {.tv_nsec = rt_waiter_nap_ns(waiter, left_ns)}; /* naps are shorter than a second */
    return nanosleep(&nap, NULL) != 0 ? RT_E_INTERRUPTED : RT_OK;
}

int rt_waiter_idle(rt_waiter *waiter)
{
    rt_wait_step step = rt_waiter_pause(waiter);
    if (step == RT_STEP_SLEEP) {
        int64_t left_ns = waiter->end_ns - rt_clock_now_ns();
        if (left_ns > 0)
            return rt_waiter_nap(waiter, left_ns);
        step = RT_STEP_END;
    }
    return step == RT_STEP_END ? RT_E_AGAIN : RT_OK;
}
