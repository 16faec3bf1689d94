/* failure.c: how a link ends: its failures, and the flush of its work.
 *
 * A link that fails completes its oldest item with the cause and flushes the rest a little later,
 * as a NIC does: until the flush, pieces that are under way may still touch memory at both ends. */
#include <assert.h>

#include "provider/sim/sim.h"

const char *rt_sim_completion_name(uint32_t cause)
{
    static const char *const names[SIM_CAUSE_COUNT] = {
        [SIM_CAUSE_NONE] = "SIM_SUCCESS",
        [SIM_CAUSE_FLUSH] = "SIM_FLUSHED",
        [SIM_CAUSE_REMOTE_ACCESS] = "SIM_REMOTE_ACCESS_ERROR",
        [SIM_CAUSE_REMOTE_REQUEST] = "SIM_REMOTE_REQUEST_ERROR",
        [SIM_CAUSE_LOCAL_LENGTH] = "SIM_LOCAL_LENGTH_ERROR",
        [SIM_CAUSE_RETRY] = "SIM_RETRY_EXCEEDED",
        [SIM_CAUSE_NO_RECEIVE] = "SIM_RECEIVER_NOT_READY",
        [SIM_CAUSE_DEVICE] = "SIM_DEVICE_KILLED",
    };
    return cause < SIM_CAUSE_COUNT ? names[cause] : "SIM_UNKNOWN";
}

sim_link *rt_sim_link_peer(const sim_link *link)
{
    sim_link *peer = rt_sim_table_get(&link->device->world->links, link->peer.slot);
    if (peer == NULL || peer->self.nonce != link->peer.nonce || peer->device->id != link->peer_device)
        return NULL;
    if (peer->state != SIM_LINK_JOINED || peer->peer.slot != link->self.slot || peer->peer.nonce != link->self.nonce)
        return NULL;
    return peer->device->dead ? NULL : peer;
}

static void item_complete(sim_link *link, int status, uint32_t cause)
{
    sim_item *item = rt_sim_item_at(link, link->retired);
    rt_sim_cancel(&link->device->world->heap, &item->event);
    const sim_entry entry = {
        .completion = {.token = item->token, .status = status, .foreign_status = cause},
        .link = link,
        .position = item->position,
    };
    link->retired++;
    rt_sim_complete(link->device, link->base.send_queue, &entry);
}

void rt_sim_receive_complete(sim_link *link, int status, uint32_t cause, uint32_t size, const uint32_t *immediate)
{
    assert(link->receive_tail != link->receive_head);
    const sim_receive *receive = &link->receives[link->receive_tail++ & link->receive_mask];
    const sim_entry entry = {
        .completion =
            {
                .token = receive->token,
                .status = status,
                .foreign_status = cause,
                .size = size,
                .immediate = immediate != NULL ? *immediate : 0,
                .opcode = RT_WORK_RECV,
                .has_immediate = immediate != NULL,
            },
        .link = link,
    };
    rt_sim_complete(link->device, link->base.receive_queue, &entry);
}

static void items_flush(sim_link *link, int status, uint32_t cause)
{
    while (link->retired != link->posted)
        item_complete(link, status, cause);
    link->started = link->posted;
    link->reads = 0;
    while (link->receive_tail != link->receive_head)
        rt_sim_receive_complete(link, status, cause, 0, NULL);
}

void rt_sim_link_flush_fire(sim_world *world, sim_event *event)
{
    sim_link *link = RT_LIST_ENTRY(event, sim_link, flush);
    rt_sim_trace(world, SIM_TRACE_FLUSH, link->id, link->retired, link->posted);
    items_flush(link, RT_E_FLUSHED, SIM_CAUSE_FLUSH);
}

void rt_sim_link_flush_soon(sim_link *link)
{
    sim_device *device = link->device;
    bool idle = link->retired == link->posted && link->receive_tail == link->receive_head;
    if (!idle && link->flush.place == 0)
        rt_sim_schedule(&device->world->heap, &link->flush, device->world->now_ns + rt_sim_latency(device->world, device, NULL));
}

/* Puts a link in error because of its peer: RT_EVENT_LINK_LOST. */
static void sim_link_lose(sim_link *link, const char *why)
{
    sim_device *device = link->device;
    link->state = SIM_LINK_ERROR;
    rt_fail(&link->loss, RT_E_REMOTE_ACCESS, 0, "a link of '%s' failed: %s", device->base.name, why);
    rt_list_append(&device->lost, &link->lost_node);
    rt_sim_link_flush_soon(link);
    rt_sim_happen(device, true);
}

void rt_sim_link_fail(sim_link *link, int status, uint32_t cause)
{
    sim_world *world = link->device->world;
    rt_sim_trace(world, SIM_TRACE_FAIL, link->id, link->retired, cause);
    sim_link *peer = rt_sim_link_peer(link);
    assert(link->state == SIM_LINK_JOINED && link->retired != link->posted);
    link->state = SIM_LINK_ERROR;
    item_complete(link, status, cause);
    rt_sim_link_flush_soon(link);
    if (peer == NULL)
        return;
    if (cause == SIM_CAUSE_REMOTE_REQUEST && peer->receive_tail != peer->receive_head)
        rt_sim_receive_complete(peer, RT_E_LOCAL_ACCESS, SIM_CAUSE_LOCAL_LENGTH, 0, NULL);
    if (cause == SIM_CAUSE_REMOTE_REQUEST)
        sim_link_lose(peer, "the peer's message is larger than the receive it met");
    else if (cause == SIM_CAUSE_REMOTE_ACCESS)
        sim_link_lose(peer, "the peer used a key that is not valid, went out of bounds or lacked the right");
}

void rt_sim_link_kill(sim_link *link)
{
    link->state = SIM_LINK_ERROR;
    rt_sim_cancel(&link->device->world->heap, &link->flush);
    items_flush(link, RT_E_DEVICE_LOST, SIM_CAUSE_DEVICE);
}

void rt_sim_link_shut(rt_plink *plink)
{
    sim_link *link = (sim_link *)plink;
    link->state = SIM_LINK_ERROR;
    rt_sim_windows_end(link->device, NULL, link);
    rt_sim_link_flush_soon(link);
}
