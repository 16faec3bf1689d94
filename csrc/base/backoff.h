/* backoff.h: the one curve by which pauses grow between two checks for something that no event
 * announces. A pause is a share of the time that the waiter has paused so far, between the two
 * bounds of its place. With share 1 pauses double, which suits work in the background. A greater
 * share checks more often: what is awaited is then found late by no more than that share. */
#ifndef RT_BASE_BACKOFF_H
#define RT_BASE_BACKOFF_H

#include <stdint.h>

/* The bounds of one place, constant. */
typedef struct rt_backoff_curve {
    int64_t first_ns, last_ns;
    int64_t share;
} rt_backoff_curve;

/* One wait's way along a curve; all zero at first. Setting it to zero begins anew. */
typedef struct rt_backoff {
    int64_t paused_ns; /* the sum of all pauses so far */
} rt_backoff;

/* Returns the length of the next pause, and counts it as made. */
static inline int64_t rt_backoff_next(rt_backoff *backoff, const rt_backoff_curve *curve)
{
    int64_t pause_ns = (backoff->paused_ns + curve->first_ns) / curve->share;
    pause_ns = pause_ns < curve->first_ns ? curve->first_ns : pause_ns < curve->last_ns ? pause_ns : curve->last_ns;
    backoff->paused_ns += pause_ns;
    return pause_ns;
}

#endif
