/* message.c: SENDs and RECVs of a link, which carry the messages of the RPC and immediates. */
#include "channel/message.h"
#include "channel/channel.h"
#include "channel/link.h"

int rt_link_send(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail)
{
    const rt_provider *provider = link->channel->device->provider;
    rt_posted posted = {0, 0};
    int status = RT_E_AGAIN;
    rt_turn_take(&link->turn);
    if (!link->shut && link->head - link->tail < link->depth) {
        rt_work work = {.opcode = RT_WORK_SEND, .flags = RT_WORK_SIGNALED, .segment_count = 1, .segments = segment};
        work.token = rt_token(link, link->head & (uint32_t)(RT_TOKEN_RECEIVE - 1));
        status = provider->post(link->plink, &work, 1, &posted);
        link->last_posted += posted.accepted;
        link->last_completed += posted.completed;
        if (posted.accepted == 1 && posted.completed == 0) {
            link->ring[link->head++ & link->ring_mask] = (rt_inflight){.op = NULL, .opcode = RT_WORK_SEND, .slot = slot};
            link->unsignaled = 0;
        }
        if (status == RT_OK && posted.accepted == 0)
            status = RT_E_AGAIN;
    }
    rt_turn_leave(&link->turn);
    if (posted.completed == 1)
        rt_link_sent(link, slot);
    if (status != RT_OK && status != RT_E_AGAIN)
        return rt_fail(detail, status, 0, "cannot post a send on qp %u to %s", link->index, link->channel->peer);
    return status;
}

int rt_link_receive(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail)
{
    rt_work work = {.opcode = RT_WORK_RECV, .segment_count = 1, .segments = segment};
    work.token = rt_token(link, (uint32_t)RT_TOKEN_RECEIVE | slot);
    rt_posted posted = {0, 0};
    rt_turn_take(&link->turn);
    int status = link->shut ? RT_E_FLUSHED : link->channel->device->provider->post(link->plink, &work, 1, &posted);
    rt_turn_leave(&link->turn);
    if (status == RT_OK && posted.accepted == 1)
        return RT_OK;
    return rt_fail(detail, status == RT_OK ? RT_E_BUSY : status, 0, "cannot post a receive on qp %u to %s", link->index,
                   link->channel->peer);
}
