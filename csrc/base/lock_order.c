/* lock_order.c: the checks that lock_order.h declares. Only in builds with RT_DEBUG_LOCKS. */
#define RT_LOCK_ORDER_ITSELF
#include "base/lock_order.h"

#ifdef RT_DEBUG_LOCKS

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { HELD_MAX = 64, NAMED_MAX = 32768 };

typedef struct held {
    const void *lock;
    uint32_t rank;
} held;

static _Thread_local held stack[HELD_MAX];
static _Thread_local uint32_t depth;

/* The mutexes and their ranks: a hash table keyed by the mutex's address, with linear probing. */
static _Atomic(const void *) named[NAMED_MAX];
static _Atomic uint32_t ranks[NAMED_MAX];

static uint32_t mutex_slot(const void *mutex)
{
    return (uint32_t)(((uintptr_t)mutex >> 4) * 2654435761u) % NAMED_MAX;
}

void rt_order_name(const void *mutex, rt_rank rank)
{
    for (uint32_t tries = 0, slot = mutex_slot(mutex); tries < NAMED_MAX; tries++, slot = (slot + 1) % NAMED_MAX) {
        const void *expected = NULL;
        if (atomic_load(&named[slot]) == mutex || atomic_compare_exchange_strong(&named[slot], &expected, mutex)) {
            atomic_store(&ranks[slot], rank);
            return;
        }
    }
    abort(); /* more mutexes than any test makes */
}

/* The slot stays, without a rank: other mutexes may have probed past it. */
void rt_order_forget(const void *mutex)
{
    rt_order_name(mutex, RT_RANK_NONE);
}

static uint32_t mutex_rank(const void *mutex)
{
    for (uint32_t tries = 0, slot = mutex_slot(mutex); tries < NAMED_MAX; tries++, slot = (slot + 1) % NAMED_MAX) {
        const void *found = atomic_load(&named[slot]);
        if (found == mutex)
            return atomic_load(&ranks[slot]);
        if (found == NULL)
            break;
    }
    return RT_RANK_NONE;
}

/* Whether a thread may wait for a lock while it has others of the same rank. */
static bool rank_is_of_many(uint32_t rank)
{
    return rank == RT_RANK_QUEUE || rank == RT_RANK_STREAM;
}

void rt_order_check(const void *lock, uint32_t rank)
{
    for (uint32_t index = 0; rank != RT_RANK_NONE && index < depth; index++) {
        if (stack[index].lock == lock)
            return; /* a recursive mutex that the thread holds; taking a turn that it holds would hang here, and be seen */
    }
    for (uint32_t index = 0; rank != RT_RANK_NONE && index < depth; index++) {
        if (stack[index].rank < rank || (stack[index].rank == rank && rank_is_of_many(rank)))
            continue;
        fprintf(stderr, "lock order: a thread that has a lock of rank %u waits for one of rank %u (base/lock_order.h)\n",
                stack[index].rank, rank);
        abort();
    }
}

void rt_order_taken(const void *lock, uint32_t rank)
{
    if (rank == RT_RANK_NONE)
        return;
    if (depth == HELD_MAX)
        abort();
    stack[depth++] = (held){lock, rank};
}

void rt_order_left(const void *lock, uint32_t rank)
{
    for (uint32_t index = depth; index > 0; index--) {
        if (stack[index - 1].lock != lock)
            continue;
        for (; index < depth; index++)
            stack[index - 1] = stack[index];
        depth--;
        return;
    }
    if (rank == RT_RANK_NONE)
        return;
    fprintf(stderr, "lock order: a thread leaves a lock of rank %u that it has not taken (base/lock_order.h)\n", rank);
    abort();
}

int rt_order_mutex_lock(pthread_mutex_t *mutex)
{
    uint32_t rank = mutex_rank(mutex);
    rt_order_check(mutex, rank);
    int status = pthread_mutex_lock(mutex);
    rt_order_taken(mutex, rank);
    return status;
}

int rt_order_mutex_trylock(pthread_mutex_t *mutex)
{
    int status = pthread_mutex_trylock(mutex);
    if (status == 0)
        rt_order_taken(mutex, mutex_rank(mutex));
    return status;
}

int rt_order_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until)
{
    int status = pthread_mutex_timedlock(mutex, until);
    if (status == 0)
        rt_order_taken(mutex, mutex_rank(mutex));
    return status;
}

int rt_order_mutex_unlock(pthread_mutex_t *mutex)
{
    rt_order_left(mutex, mutex_rank(mutex));
    return pthread_mutex_unlock(mutex);
}

#else
typedef int rt_order_nothing; /* C does not allow an empty file */
#endif
