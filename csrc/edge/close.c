/* close.c: the user closes and drops an edge. The round (round.c) does the rest. */
#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "edge/stage.h"
#include "rpc/carrier.h"

void rt_edge_close(rt_edge *edge)
{
    if (rt_forked())
        return;
    rt_device *device = edge->device;
    pthread_mutex_lock(&device->lock);
    bool first = !edge->close_wanted;
    edge->close_wanted = true;
    rt_table_remove(&device->edges, &edge->name_node);
    if (first && rt_edge_joined(edge)) {
        rt_turn_take(&edge->turn);
        if (edge->sender) {
            rt_edge_stage_give_up(edge); /* after this its tensor may be gone */
            rt_edge_sender_close(&edge->tx);
        } else {
            rt_edge_receiver_end(&edge->rx, RT_E_CLOSED);
        }
        rt_turn_leave(&edge->turn);
    }
    rt_channel *channel = edge->channel;
    rt_edge_attend(edge);
    if (!device->closed && channel != NULL)
        rt_rpc_run(channel);
    bool alone = rt_list_empty(&edge->node);
    if (!device->closed) {
        device->provider->memory_wake(device->pdevice);
        rt_device_changed(device);
    }
    pthread_mutex_unlock(&device->lock);
    if (alone)
        rt_edge_let_go(edge);
    if (!device->closed)
        rt_service_kick(device);
}

void rt_edge_drop(rt_edge *edge)
{
    if (rt_forked())
        return;
    rt_edge_close(edge);
    rt_edge_unreference(edge);
}
