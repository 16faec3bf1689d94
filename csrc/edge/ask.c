/* ask.c: sends this end's requests, each after those before it, and has the peers' requests that
 * wait for a name checked again. */
#include "edge/ask.h"
#include "channel/channel.h"
#include "device/device.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "rpc/carrier.h"

void rt_edge_want_answer(rt_edge *edge)
{
    edge->ask.state = RT_ASK_NEW;
    rt_list_append(&rt_edges_of(edge->channel)->asking, &edge->ask_node);
}

int rt_edge_ask(rt_edge *edge, const rt_edge_message *message)
{
    if (edge->ask.state != RT_ASK_NONE)
        return RT_E_BUSY;
    edge->ask.message = *message;
    rt_edge_want_answer(edge);
    rt_rpc_run(edge->channel);
    return RT_OK;
}

void rt_edges_changed(rt_device *device)
{
    RT_LIST_EACH(node, &device->channels)
        rt_rpc_run(RT_LIST_ENTRY(node, rt_channel, node));
}
