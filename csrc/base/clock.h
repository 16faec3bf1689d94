/* clock.h: the real clock. Protocol code never reads it; core asks the provider first, which may have a virtual one. */
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

enum {
    RT_NAP_MIN_NS = 20000,   /* where nobody can wake who waits: naps from 20 us … */
    RT_NAP_MAX_NS = 2000000, /* … to 2 ms, which keep an idle waiter under 1 % of a core; between them … */
    RT_NAP_SHARE = 4,        /* … a fourth of what was slept so far, so that nobody sleeps much longer than it must */
};

/* How long the next nap is; *napped_ns, 0 at first, is the sum of all. */
static inline int64_t rt_nap_next_ns(int64_t *napped_ns)
{
    int64_t nap = *napped_ns / RT_NAP_SHARE;
    nap = nap < RT_NAP_MIN_NS ? RT_NAP_MIN_NS : nap < RT_NAP_MAX_NS ? nap : RT_NAP_MAX_NS;
    *napped_ns += nap;
    return nap;
}

#endif
