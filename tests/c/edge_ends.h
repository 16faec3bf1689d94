/* edge_ends.h: an edge between the two devices of core_ends.h, the sender at the near one. For the tests of edges in core. */
#ifndef RT_TESTS_EDGE_ENDS_H
#define RT_TESTS_EDGE_ENDS_H

#include "core_ends.h"
#include "edge/admit.h"
#include "edge/ask.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/credit.h"
#include "edge/dynamic.h"
#include "edge/edge.h"
#include "edge/fetch.h"
#include "edge/handler.h"
#include "edge/immediate.h"
#include "edge/post.h"
#include "edge/quick.h"
#include "edge/quiet.h"
#include "edge/report.h"
#include "edge/round.h"
#include "edge/send.h"
#include "edge/slot.h"
#include "edge/source.h"
#include "edge/stage.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"
#include "proto/edge_close.h"
#include "proto/edge_mode.h"
#include "proto/edge_plan.h"

/* Where edges are tested: a provider, with its promises where they can be chosen, and the mode that they must lead to. */
typedef struct edge_place {
    const char *name, *provider, *promises;
    uint32_t ordering; /* asked for by name, or 0 */
    uint32_t mode;     /* what comes of it */
} edge_place;

static const edge_place edge_places[] = {
    {"shm", "shm", NULL, 0, RT_EDGE_CHAINED},
    {"shm, immediate", "shm", NULL, RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE},
    {"sim", "sim", NULL, 0, RT_EDGE_CHAINED},
    {"sim, nothing inline", "sim", "&inline_max=0", 0, RT_EDGE_CHAINED},
    {"sim, one segment", "sim", "&segments_max=1&work_depth=2", 0, RT_EDGE_CHAINED},
    {"sim, immediate", "sim", NULL, RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE},
    {"sim, unordered", "sim", "&orders_writes=0&receive_depth=4096", 0, RT_EDGE_IMMEDIATE},
    {"sim, tail", "sim", "&orders_bytes=1", RT_EDGE_TAIL, RT_EDGE_TAIL},
#if __has_include(<infiniband/verbs.h>)
    {"verbs", "verbs", NULL, 0, RT_EDGE_CHAINED},
    {"verbs, immediate", "verbs", NULL, RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE},
#endif
};

#define EDGE_EACH_PLACE(place)                                                                                                   \
    for (const edge_place *place = edge_places; place < edge_places + sizeof edge_places / sizeof edge_places[0]; place++)

typedef struct edge_ends {
    core_ends core;
    const edge_place *place;
    rt_edge *sender, *receiver;
    rt_detail detail;
} edge_ends;

static inline void edge_begin(edge_ends *ends, const edge_place *place, uint32_t qps)
{
    core_begin(&ends->core, &(core_setup){.provider = place->provider,
                                          .promises = place->promises,
                                          .short_messages = true,
                                          .qps = qps,
                                          .size = 4 << 20,
                                          .rights = CORE_BOTH});
    ends->place = place;
    ends->sender = ends->receiver = NULL;
    ends->detail.text[0] = 0;
}

/* Says what a call on an edge ended with. */
static inline void edge_explain(edge_ends *ends, rt_edge *edge, int status)
{
    rt_edge_explain(edge, status, &ends->detail);
    printf("%s: %s\n", ends->place->name, ends->detail.text);
    core_check_words(&ends->detail);
}

static inline rt_edge_options edge_options(const char *name)
{
    return (rt_edge_options){.name = name, .kind = RT_EDGE_STATIC, .flow = RT_EDGE_FLOW_CREDIT, .slots = 2, .qp = -1};
}

static inline int edge_wait_open(edge_ends *ends)
{
    int status, tries = 0;
    do
        status = rt_edge_wait_open(ends->sender, RT_SLICE_NS, &ends->detail);
    while (status == RT_E_AGAIN && ++tries < 6000);
    return status;
}

/* Makes and opens the edge. */
static inline void edge_join(edge_ends *ends, const edge_place *place, const rt_edge_options *options)
{
    rt_edge_options given = *options;
    given.ordering = place->ordering;
    int status = rt_edge_create(ends->core.far, &given, NULL, &ends->receiver, &ends->detail);
    if (status == RT_OK)
        status = rt_edge_open(ends->core.channel, &given, RT_NS_PER_S, &ends->sender, &ends->detail);
    if (status == RT_OK)
        status = edge_wait_open(ends);
    if (status != RT_OK)
        printf("%s: %s\n", place->name, ends->detail.text);
    CHECK_INT(status, RT_OK);
}

static inline void edge_end(edge_ends *ends)
{
    core_check_words(&ends->detail);
    if (ends->sender != NULL)
        rt_edge_drop(ends->sender);
    if (ends->receiver != NULL)
        rt_edge_drop(ends->receiver);
    core_end(&ends->core);
}

/* Sends, and waits until the bytes may change again where that is asked for. */
static inline int edge_send(edge_ends *ends, const rt_edge_tensor *tensor, bool wait)
{
    int64_t sequence;
    int tries = 0;
    do
        sequence = rt_edge_send_tensor(ends->sender, tensor, RT_SLICE_NS);
    while (sequence == RT_E_AGAIN && ++tries < 6000);
    int status = sequence < 0 ? (int)sequence : sequence == 0 || !wait ? RT_OK : RT_E_AGAIN;
    while (sequence > 0 && status == RT_E_AGAIN && ++tries < 6000)
        status = rt_edge_wait_sent(ends->sender, (uint64_t)sequence, RT_SLICE_NS);
    if (status != RT_OK)
        edge_explain(ends, ends->sender, status);
    return status;
}

static inline int edge_receive(edge_ends *ends, rt_edge_arrival *arrival_out)
{
    int status, tries = 0;
    do
        status = rt_edge_receive(ends->receiver, RT_SLICE_NS, arrival_out);
    while (status == RT_E_AGAIN && ++tries < 6000);
    if (status != RT_OK)
        edge_explain(ends, ends->receiver, status);
    return status;
}

static inline int edge_fetch(edge_ends *ends, uint64_t sequence, rt_region *region, uint64_t offset)
{
    int status, tries = 0;
    do
        status = rt_edge_fetch(ends->receiver, sequence, region, offset, RT_SLICE_NS);
    while (status == RT_E_AGAIN && ++tries < 6000);
    return status;
}

static inline rt_edge_tensor edge_bytes(const void *address, uint64_t size)
{
    rt_edge_tensor tensor = {.address = (uint64_t)(uintptr_t)address, .dtype = RT_DTYPE_UINT8, .rank = 1};
    tensor.dims[0] = size;
    return tensor;
}

/* Takes every operation of the link that is free, behind those that were taken before. */
static inline uint32_t edge_take_operations(rt_link *link, rt_op **ops_out, uint32_t count)
{
    rt_turn_take(&link->turn);
    for (rt_op *op; (op = rt_op_take(link)) != NULL;)
        ops_out[count++] = op;
    rt_turn_leave(&link->turn);
    return count;
}

static inline void edge_give_operations(rt_link *link, rt_op *const *ops, uint32_t count)
{
    rt_turn_take(&link->turn);
    while (count > 0)
        rt_op_give(link, ops[--count]);
    rt_turn_leave(&link->turn);
}

#endif
