/* attend.h: the edges of a channel, and the lists of those that need the service. device->lock
 * held, except in rt_edge_call. */
#ifndef RT_EDGE_ATTEND_H
#define RT_EDGE_ATTEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/backoff.h"
#include "base/list.h"
#include "base/table.h"
#include "channel/channel.h"
#include "edge/edge.h"
#include "proto/edge_message.h"
#include "rdmatensor.h"
#include "region/pool.h"
#include "rpc/carrier.h"

/* A request of the peer's about an edge that waits here: for the name, for a key to be attached,
 * for memory, or for its answer to be sent. */
typedef struct rt_edge_request {
    bool active, answered; /* `answer` is made */
    int64_t deadline_ns;
    rt_remote *credit, *tensors;             /* attached so far … */
    rt_pool_block slots, lines, credit_line; /* … and taken from the channel's pools, until the edge owns them */
    rt_edge_message message, answer;
} rt_edge_request;

/* The edges of a channel, and the work that its service has with them. Made and ended with its RPC.
 * device->lock. */
typedef struct rt_edges {
    rt_list list;             /* of rt_edge.node: joined, opening or closing through this channel */
    rt_list busy, closing;    /* of rt_edge.work_node … */
    rt_list asking, awaiting; /* … and of rt_edge.ask_node: attend.c explains the lists */
    int64_t closing_ns;       /* when the closing edges are checked again … */
    rt_backoff closing_looks; /* … at growing intervals */
    rt_table numbers;         /* of rt_edge.number_node */
    uint64_t looks;           /* edges that were checked, in rounds and for messages: tests count them */
    bool told;                /* the edges were told that the channel is over */
    uint32_t asked;           /* requests of edges that the peer has not answered */
    uint16_t next_number;     /* of a receiving edge */
    rt_edge_request requests[RT_RPC_REQUESTS_MAX];
} rt_edges;

/* For a channel that has its RPC. */
static inline rt_edges *rt_edges_of(const rt_channel *channel)
{
    return channel->rpc->edges;
}

/* The edge belongs to its channel, which references it, until it is unlisted. */
void rt_edge_list(rt_edge *edge);
void rt_edge_unlist(rt_edge *edge);
/* Gives the edge its number, by which its channel finds it while it is listed. */
void rt_edge_take_number(rt_edge *edge, uint16_t number);
rt_edge *rt_edge_of_number(const rt_channel *channel, uint16_t number, bool sender);
/* Has the next round check the edge; nothing when it is not listed. */
void rt_edge_attend(rt_edge *edge);
/* As rt_edge_attend from any thread, also under edge->turn: the edge owes something. The caller
 * kicks the service, without a turn. */
void rt_edge_call(rt_edge *edge);
/* Called after a check: the edge is checked again while it owes something or closes. */
void rt_edge_settle(rt_edge *edge);
/* Collects the edges that a round checks, which are then taken one by one. `all`: includes the
 * closing edges before their time. True when the closing edges are included. */
bool rt_edges_gather(rt_channel *channel, bool all, rt_list *due_out);
rt_edge *rt_edge_next_due(rt_list *due);
/* When the channel's edges need the next check, or INT64_MAX. */
int64_t rt_edges_next_deadline(const rt_channel *channel);

#endif
