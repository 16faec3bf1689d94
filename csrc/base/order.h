/* order.h: the only place where memory order is spelled. Each use names its counterpart.
 *
 * C11 atomics, and helpers for words in shared or registered memory that a peer or a device also touches. */
#ifndef RT_BASE_ORDER_H
#define RT_BASE_ORDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Loads a word that a peer stores with rt_store_release_u64, or that a device writes: bytes placed
 * before the word are visible after this load. */
static inline uint64_t rt_load_acquire_u64(const uint64_t *word)
{
    uint64_t value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
#if defined(__aarch64__)
    __asm__ volatile("dmb oshld" ::: "memory"); /* a device's writes are in the outer shareable domain */
#endif
    return value;
}

/* Publishes all earlier stores. Pairs with rt_load_acquire_u64. */
static inline void rt_store_release_u64(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Orders an earlier store before a later load (the Dekker pattern of every sleep and wake). */
static inline void rt_fence_full(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Orders earlier loads and stores before later stores. Pairs with an acquire load that sees one of the later stores. */
static inline void rt_fence_release(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Tells the CPU that this loop spins. */
static inline void rt_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
