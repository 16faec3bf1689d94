/* lock_order.h: the order in which one thread may take locks, asserted in builds with
 * RT_DEBUG_LOCKS (the C tests under sanitizers); in other builds everything here compiles to
 * nothing. A lock gets its rank where it is made. A lock that a thread waits for must have a higher
 * rank than every lock that the thread holds. A lock that a thread only tries, or gives up after a
 * time, may be taken against the order, since the thread does not wait for it. A thread leaves only
 * locks that it has taken. csrc/README.md gives the order in words. */
#ifndef RT_BASE_LOCK_ORDER_H
#define RT_BASE_LOCK_ORDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum rt_rank {
    RT_RANK_NONE = 0, /* not checked */
    RT_RANK_TEAM,     /* a team's transfers */
    RT_RANK_FAILING,  /* the failure of a team */
    RT_RANK_PAIR,     /* a pair's turn */
    RT_RANK_DEVICES,  /* the process's list of devices */
    RT_RANK_SETTLING, /* a region's quarantine */
    RT_RANK_DEVICE,
    RT_RANK_EDGE,  /* an edge's turn */
    RT_RANK_QUEUE, /* a queue's turn; a thread that closes a device takes all of them */
    RT_RANK_LINKS, /* a queue's list of links */
    RT_RANK_LINK,
    RT_RANK_PROVIDER, /* a provider's own locks */
    RT_RANK_STREAM,   /* the process's sockets, its lookups; fork's handlers take both, in the order of their first use */
    RT_RANK_LAST,     /* an arena's turn, the service's turn, that of a channel's calls, descriptors to be closed */
} rt_rank;

#ifdef RT_DEBUG_LOCKS
/* Give a mutex its rank, and forget it before its memory is freed. */
void rt_order_name(const void *mutex, rt_rank rank);
void rt_order_forget(const void *mutex);
/* The thread is about to wait for a lock: aborts, with both ranks, if the order forbids it. */
void rt_order_check(const void *lock, uint32_t rank);
void rt_order_taken(const void *lock, uint32_t rank);
/* Aborts if this thread has not taken the lock. */
void rt_order_left(const void *lock, uint32_t rank);
int rt_order_mutex_lock(pthread_mutex_t *mutex);
int rt_order_mutex_trylock(pthread_mutex_t *mutex);
int rt_order_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until);
int rt_order_mutex_unlock(pthread_mutex_t *mutex);
#else
static inline void rt_order_name(const void *mutex, rt_rank rank)
{
    (void)mutex, (void)rank;
}
static inline void rt_order_forget(const void *mutex)
{
    (void)mutex;
}
static inline void rt_order_check(const void *lock, uint32_t rank)
{
    (void)lock, (void)rank;
}
static inline void rt_order_taken(const void *lock, uint32_t rank)
{
    (void)lock, (void)rank;
}
static inline void rt_order_left(const void *lock, uint32_t rank)
{
    (void)lock, (void)rank;
}
#endif

/* A mutex of the process, with a rank. */
#ifdef RT_DEBUG_LOCKS
#define RT_STATIC_MUTEX(name, rank)                                                                                              \
    static pthread_mutex_t name;                                                                                                 \
    __attribute__((constructor)) static void name##_begin(void)                                                                  \
    {                                                                                                                            \
        rt_order_name(&name, rank);                                                                                              \
    }                                                                                                                            \
    static pthread_mutex_t name = PTHREAD_MUTEX_INITIALIZER
#else
#define RT_STATIC_MUTEX(name, rank) static pthread_mutex_t name = PTHREAD_MUTEX_INITIALIZER
#endif

/* Make and destroy a mutex with a rank. */
static inline void rt_mutex_begin(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes, rt_rank rank)
{
    pthread_mutex_init(mutex, attributes);
    rt_order_name(mutex, rank);
}
static inline void rt_mutex_end(pthread_mutex_t *mutex)
{
    rt_order_forget(mutex);
    pthread_mutex_destroy(mutex);
}

#if defined(RT_DEBUG_LOCKS) && !defined(RT_LOCK_ORDER_ITSELF)
#define pthread_mutex_lock(mutex) rt_order_mutex_lock(mutex)
#define pthread_mutex_trylock(mutex) rt_order_mutex_trylock(mutex)
#define pthread_mutex_timedlock(mutex, until) rt_order_mutex_timedlock(mutex, until)
#define pthread_mutex_unlock(mutex) rt_order_mutex_unlock(mutex)
#endif

#endif
