/* handler.c: the functions by which the RPC calls edges: for messages, deadlines and immediates. */
#include <stdlib.h>

#include "channel/channel.h"
#include "edge/attend.h"
#include "edge/handler.h"
#include "edge/immediate.h"
#include "edge/round.h"
#include "proto/rpc_message.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"

static int edges_open(rt_rpc *rpc, rt_detail *detail)
{
    rt_edges *edges = calloc(1, sizeof *edges);
    if (edges == NULL || !rt_table_begin(&edges->numbers)) {
        free(edges);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the edges of a channel");
    }
    rt_list_init(&edges->list);
    rt_list_init(&edges->busy);
    rt_list_init(&edges->closing);
    rt_list_init(&edges->asking);
    rt_list_init(&edges->awaiting);
    rpc->edges = edges;
    return RT_OK;
}

static void edges_closed(rt_channel *channel)
{
    rt_edges *edges = rt_edges_of(channel);
    rt_edges_channel_closed(channel);
    channel->rpc->edges = NULL;
    rt_table_end(&edges->numbers);
    free(edges);
}

static uint32_t edges_outstanding(const rt_channel *channel)
{
    return rt_edges_of(channel)->asked;
}

static uint32_t edges_pending(const rt_channel *channel)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        count += rt_edges_of(channel)->requests[index].active;
    return count;
}

const rt_rpc_handler rt_edges_handler = {
    .open = edges_open,
    .first = RT_RPC_MISSING + 1,
    .last = UINT8_MAX,
    .received = rt_edges_received,
    .run = rt_edges_run,
    .next_deadline = rt_edges_next_deadline,
    .outstanding = edges_outstanding,
    .pending = edges_pending,
    .immediate = rt_edge_immediate,
    .closed = edges_closed,
};
