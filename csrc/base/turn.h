/* turn.h: whose turn it is on an object that one thread at a time may drive (a link's send queue, a completion queue).
 *
 * Uncontended it is one compare-and-swap to take and one exchange to leave. Under contention the taker sleeps, so that a
 * holder which was scheduled away gets its core back (RDMA-RULES 26 is about exactly this). Not recursive. */
#ifndef RT_BASE_TURN_H
#define RT_BASE_TURN_H

#include "base/futex.h"
#include "base/order.h"

enum { RT_TURN_FREE = 0, RT_TURN_HELD = 1, RT_TURN_WANTED = 2, RT_TURN_SPINS = 64 };

typedef struct rt_turn {
    _Atomic uint32_t state;
} rt_turn;

/* Takes the turn if it is free. Sequentially consistent, as is leaving: who leaves a wish, tries and fails is sure that the
 * holder finds the wish when it has left. */
static inline bool rt_turn_try(rt_turn *turn)
{
    uint32_t expected = RT_TURN_FREE;
    return atomic_compare_exchange_strong(&turn->state, &expected, RT_TURN_HELD);
}

/* Takes the turn, waiting for it; holders keep it for microseconds. */
static inline void rt_turn_take(rt_turn *turn)
{
    for (int spin = 0; spin < RT_TURN_SPINS; spin++) {
        if (rt_turn_try(turn))
            return;
        rt_pause();
    }
    while (atomic_exchange_explicit(&turn->state, RT_TURN_WANTED, memory_order_acquire) != RT_TURN_FREE)
        rt_futex_sleep(&turn->state, RT_TURN_WANTED, 10 * RT_NS_PER_MS, false);
}

/* Leaves the turn and wakes one waiter if there is any. Pairs with the acquire of the next taker. */
static inline void rt_turn_leave(rt_turn *turn)
{
    if (atomic_exchange(&turn->state, RT_TURN_FREE) == RT_TURN_WANTED)
        rt_futex_wake(&turn->state, 1, false);
}

#endif
