/* clock.h: the real clock. Protocol code never reads it; core asks the provider first, because the
 * provider's clock may be virtual. */
#ifndef RT_BASE_CLOCK_H
#define RT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define RT_NS_PER_US 1000ll
#define RT_NS_PER_MS 1000000ll
#define RT_NS_PER_S 1000000000ll

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline int64_t rt_clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * RT_NS_PER_S + now.tv_nsec;
}

/* The length of a wait as messages report it: whole milliseconds, rounded up. */
static inline uint32_t rt_ms_of_wait(int64_t wait_ns)
{
    int64_t wait_ms = wait_ns <= 0 ? 0 : wait_ns / RT_NS_PER_MS + (wait_ns % RT_NS_PER_MS != 0);
    return wait_ms < UINT32_MAX ? (uint32_t)wait_ms : UINT32_MAX;
}

#endif
