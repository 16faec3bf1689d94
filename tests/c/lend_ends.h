/* lend_ends.h: loans of the edges of edge_ends.h: taken, sent, and seen to arrive. */
#ifndef RT_TESTS_LEND_ENDS_H
#define RT_TESTS_LEND_ENDS_H

#include "edge_ends.h"

enum { LEND_SIZE = 1000, LEND_EAGER = 512, LEND_OWN = (4 << 20) + 64 /* bytes that have a registration of their own */ };
static const uint64_t lend_dims[] = {LEND_SIZE};

/* shm, where the slots are mapped. */
static const edge_place *const here = &edge_places[0];

static inline rt_edge_options static_edge(const char *name, const uint64_t *size)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = size;
    return options;
}

static inline rt_edge_options dynamic_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = LEND_EAGER;
    return options;
}

static inline rt_edge_stats stats_of(rt_edge *edge)
{
    rt_edge_stats stats;
    rt_edge_get_stats(edge, &stats);
    return stats;
}

static inline bool is_shm(const edge_place *place)
{
    return strcmp(place->provider, "shm") == 0;
}

static inline uint8_t *slot_of(edge_ends *ends, uint64_t sequence)
{
    rt_edge_info info;
    rt_edge_get_info(ends->receiver, &info);
    return (uint8_t *)(uintptr_t)(info.slots_address + sequence % info.slots * info.slot_stride);
}

/* Takes a loan: the ticket, and the place. */
static inline int64_t lend(edge_ends *ends, const rt_edge_tensor *tensor, uint8_t **place_out)
{
    int64_t ticket;
    uint64_t address = 0;
    int tries = 0;
    do
        ticket = rt_edge_lend(ends->sender, tensor, RT_SLICE_NS, &address);
    while (ticket == RT_E_AGAIN && ++tries < 6000);
    if (ticket < 0)
        edge_explain(ends, ends->sender, (int)ticket);
    *place_out = (uint8_t *)(uintptr_t)address;
    return ticket;
}

static inline int64_t lend_at_once(edge_ends *ends, const rt_edge_tensor *tensor, uint8_t **place_out)
{
    uint64_t address = 0;
    int64_t ticket = rt_edge_lend_at_once(ends->sender, tensor, &address);
    *place_out = (uint8_t *)(uintptr_t)address;
    return ticket;
}

/* The same where it must succeed: the service may have a turn for a moment. */
static inline int64_t lend_again(edge_ends *ends, const rt_edge_tensor *tensor, uint8_t **place_out)
{
    int64_t ticket;
    int tries = 0;
    do
        ticket = lend_at_once(ends, tensor, place_out);
    while (ticket == RT_E_AGAIN && ++tries < 1000000);
    return ticket;
}

static inline int64_t send_lent_again(edge_ends *ends, int64_t ticket)
{
    int64_t sequence;
    int tries = 0;
    do
        sequence = rt_edge_send_lent_at_once(ends->sender, (uint64_t)ticket);
    while (sequence == RT_E_AGAIN && ++tries < 1000000);
    return sequence;
}

/* Sends the loan, and waits until the bytes of its memory have gone. */
static inline int send_lent(edge_ends *ends, int64_t ticket)
{
    int64_t sequence;
    int tries = 0;
    do
        sequence = rt_edge_send_lent(ends->sender, (uint64_t)ticket, RT_SLICE_NS);
    while (sequence == RT_E_AGAIN && ++tries < 6000);
    if (sequence < 0)
        edge_explain(ends, ends->sender, (int)sequence);
    if (sequence <= 0 || ends->sender->terms.edge_kind == RT_EDGE_DYNAMIC)
        return (int)(sequence < 0 ? sequence : RT_OK);
    int status;
    do
        status = rt_edge_wait_sent(ends->sender, (uint64_t)sequence, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 6000);
    return status;
}

/* Receives the tensor of this number, which has these bytes, and releases it. */
static inline void check_taken(edge_ends *ends, uint64_t sequence, const uint8_t *bytes, uint64_t size)
{
    rt_edge_arrival arrival;
    int status = edge_receive(ends, &arrival);
    CHECK_INT(status, RT_OK);
    CHECK_INT(arrival.sequence, sequence);
    CHECK_INT(arrival.size, size);
    if (arrival.address != 0) {
        CHECK_BYTES((const void *)(uintptr_t)arrival.address, bytes, size);
        CHECK_INT(rt_edge_release(ends->receiver, sequence), RT_OK);
        return;
    }
    memset(ends->core.there, 0, size);
    CHECK_INT(edge_fetch(ends, sequence, ends->core.target, 0), RT_OK);
    CHECK_BYTES(ends->core.there, bytes, size);
    while (rt_edge_wait_released(ends->sender, sequence, RT_SLICE_NS) == RT_E_AGAIN)
        rt_device_progress(ends->core.near);
}

static inline void drop_ends(edge_ends *ends)
{
    rt_edge_drop(ends->sender);
    rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
}

#endif
