/* turn.h: a turn, the lock on an object that one thread at a time may drive (a link's send queue, a
 * completion queue).
 *
 * Uncontended, it takes one compare-and-swap to take and one exchange to leave. Under contention
 * the taker sleeps, so that a holder that was preempted gets its core back (RDMA-RULES 26 is about
 * exactly this). Not recursive. */
#ifndef RT_BASE_TURN_H
#define RT_BASE_TURN_H

#include <assert.h>

#include "base/futex.h"
#include "base/lock_order.h"
#include "base/waiter.h"

enum { RT_TURN_FREE = 0, RT_TURN_HELD = 1, RT_TURN_WANTED = 2, RT_TURN_SPINS = 64 };

typedef struct rt_turn {
    _Atomic uint32_t state;
#ifdef RT_DEBUG_LOCKS
    _Atomic uint32_t rank; /* rt_rank */
#endif
} rt_turn;

/* Sets the turn's rank in the order of locks. */
static inline void rt_turn_rank(rt_turn *turn, rt_rank rank)
{
#ifdef RT_DEBUG_LOCKS
    atomic_store_explicit(&turn->rank, rank, memory_order_relaxed);
#else
    (void)turn, (void)rank;
#endif
}

static inline uint32_t rt_turn_rank_of(const rt_turn *turn)
{
#ifdef RT_DEBUG_LOCKS
    return atomic_load_explicit(&turn->rank, memory_order_relaxed);
#else
    (void)turn;
    return RT_RANK_NONE;
#endif
}

/* Takes the turn if it is free. Sequentially consistent, as is leaving it: if a thread sets a
 * request flag, then tries and fails, the holder is sure to see the flag once it has left. */
static inline bool rt_turn_try(rt_turn *turn)
{
    uint32_t expected = RT_TURN_FREE;
    bool taken = atomic_compare_exchange_strong(&turn->state, &expected, RT_TURN_HELD);
    if (taken)
        rt_order_taken(turn, rt_turn_rank_of(turn));
    return taken;
}

/* Takes the turn, waiting for it; holders keep it for microseconds. It has no waiter: after a short
 * spin it sleeps on its own word, which the holder wakes. */
static inline void rt_turn_take(rt_turn *turn)
{
    rt_order_check(turn, rt_turn_rank_of(turn));
    uint32_t spins = RT_TURN_SPINS;
    do {
        if (rt_turn_try(turn))
            return;
    } while (rt_spin_again(&spins));
    while (atomic_exchange_explicit(&turn->state, RT_TURN_WANTED, memory_order_acquire) != RT_TURN_FREE)
        rt_futex_sleep(&turn->state, RT_TURN_WANTED, 10 * RT_NS_PER_MS, false);
    rt_order_taken(turn, rt_turn_rank_of(turn));
}

/* Leaves the turn and wakes one waiter if there is any. Pairs with the acquire of the next taker. */
static inline void rt_turn_leave(rt_turn *turn)
{
    rt_order_left(turn, rt_turn_rank_of(turn));
    uint32_t before = atomic_exchange(&turn->state, RT_TURN_FREE);
    assert(before != RT_TURN_FREE); /* somebody holds it */
    if (before == RT_TURN_WANTED)
        rt_futex_wake(&turn->state, 1, false);
}

/* Takes the turn for good: a later taker finds it taken. */
static inline void rt_turn_keep(rt_turn *turn)
{
    rt_turn_take(turn);
    rt_order_left(turn, rt_turn_rank_of(turn));
}

#endif
