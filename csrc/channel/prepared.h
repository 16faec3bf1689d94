/* prepared.h: copies that were checked once, to be run often. */
#ifndef RT_CHANNEL_PREPARED_H
#define RT_CHANNEL_PREPARED_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "channel/op.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;

struct rt_prepared {
    rt_channel *channel;
    rt_link *link;
    _Atomic uint32_t references; /* the caller's, and one per operation that runs it */
    uint64_t count;
    uint64_t bytes;
    rt_piece pieces[];
};

static inline void rt_prepared_reference(rt_prepared *prepared)
{
    atomic_fetch_add_explicit(&prepared->references, 1, memory_order_relaxed);
}

/* The last reference may go under a turn, when an operation ends after its prepared copies were dropped. */
static inline void rt_prepared_unreference(rt_prepared *prepared)
{
    if (atomic_fetch_sub_explicit(&prepared->references, 1, memory_order_acq_rel) == 1)
        free(prepared);
}

#endif
