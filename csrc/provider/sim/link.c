/* link.c: one end of a queue pair: creating, joining, destroying and describing it. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/number.h"
#include "provider/sim/sim.h"

static const uint32_t address_magic = 0x4c4d4953; /* "SIML" */

/* The rings, and in one block the segments and inline bytes of their entries. */
static int rings_allocate(sim_link *link, const rt_limits *limits)
{
    uint32_t sends = rt_power_of_two(limits->work_depth), receives = rt_power_of_two(limits->receive_depth);
    size_t segments = ((size_t)sends + receives) * limits->segments_max;
    link->items = calloc(sends, sizeof *link->items);
    link->receives = calloc(receives, sizeof *link->receives);
    link->storage = calloc(1, segments * sizeof(rt_segment) + (size_t)sends * limits->inline_size_max);
    if (link->items == NULL || link->receives == NULL || link->storage == NULL) {
        free(link->items);
        free(link->receives);
        free(link->storage);
        return RT_E_NO_MEMORY;
    }
    link->mask = sends - 1;
    link->receive_mask = receives - 1;
    rt_segment *segment = link->storage;
    uint8_t *inline_bytes = (uint8_t *)(segment + segments);
    for (uint32_t index = 0; index < sends; index++) {
        link->items[index].link = link;
        link->items[index].event.fire = rt_sim_item_fire;
        link->items[index].segments = segment + (size_t)index * limits->segments_max;
        link->items[index].inline_bytes = inline_bytes + (size_t)index * limits->inline_size_max;
    }
    for (uint32_t index = 0; index < receives; index++)
        link->receives[index].segments = segment + ((size_t)sends + index) * limits->segments_max;
    return RT_OK;
}

/* Reserves room in the completion queues, the heap and the table of links. On failure nothing is
 * held. */
static int link_reserve(sim_link *link, sim_world *world)
{
    sim_device *device = link->device;
    const rt_limits *limits = &device->base.limits;
    if (rt_sim_queue_reserve(device, link->base.send_queue, limits->work_depth) != RT_OK)
        return RT_E_NO_MEMORY;
    if (rt_sim_queue_reserve(device, link->base.receive_queue, limits->receive_depth) != RT_OK)
        goto unreserve_send;
    if (rt_sim_heap_reserve(&world->heap, limits->work_depth + 1) != RT_OK)
        goto unreserve_receive;
    if (rt_sim_table_add(&world->links, link, &link->self.slot) != RT_OK)
        goto unreserve_heap;
    return RT_OK;
unreserve_heap:
    rt_sim_heap_unreserve(&world->heap, limits->work_depth + 1);
unreserve_receive:
    rt_sim_queue_unreserve(device, link->base.receive_queue, limits->receive_depth);
unreserve_send:
    rt_sim_queue_unreserve(device, link->base.send_queue, limits->work_depth);
    return RT_E_NO_MEMORY;
}

static void rings_free(sim_link *link)
{
    free(link->items);
    free(link->receives);
    free(link->storage);
}

int rt_sim_link_create(rt_pdevice *pdevice, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out,
                       uint8_t *address_out, size_t *address_size_out, rt_detail *detail)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    int status = rt_sim_refused(device, SIM_CALL_LINK_CREATE, "create a link", detail);
    if (status != RT_OK)
        return status;
    assert(send_queue < device->queue_count && receive_queue < device->queue_count);
    if (device->link_count >= device->base.limits.link_count_max)
        return rt_fail(detail, RT_E_BUSY, 0, "cannot create a link on '%s': it has %u, as many as its limit", device->base.name,
                       device->link_count);
    sim_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot create a link on '%s': no memory", device->base.name);
    link->base = (rt_plink){.device = pdevice, .send_queue = send_queue, .receive_queue = receive_queue};
    link->device = device;
    if (rings_allocate(link, &device->base.limits) != RT_OK)
        goto free_link;
    if (link_reserve(link, world) != RT_OK)
        goto free_rings;
    link->self.nonce = rt_sim_random(&world->random) | 1;
    link->id = world->link_next++;
    link->flush.fire = rt_sim_link_flush_fire;
    rt_list_init(&link->lost_node);
    rt_list_append(&device->links, &link->node);
    device->link_count++;
    rt_sim_reference_write(address_out, address_magic, world, device->id, link->self);
    *address_size_out = SIM_REFERENCE_SIZE;
    *link_out = &link->base;
    return RT_OK;
free_rings:
    rings_free(link);
free_link:
    free(link);
    return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot create a link on '%s': no memory", device->base.name);
}

int rt_sim_link_connect(rt_plink *plink, const uint8_t *peer_address, size_t size, rt_detail *detail)
{
    sim_link *link = (sim_link *)plink;
    sim_device *device = link->device;
    int status = rt_sim_refused(device, SIM_CALL_LINK_CONNECT, "join a link", detail);
    if (status != RT_OK)
        return status;
    if (link->state != SIM_LINK_NEW)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot join a link of '%s': it is joined or was shut", device->base.name);
    uint32_t party = 0;
    sim_reference peer;
    if (!rt_sim_reference_read(peer_address, size, address_magic, device->world, &party, &peer))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "cannot join a link of '%s': the %zu bytes are not a link address of this fabric", device->base.name,
                       size);
    if (peer.slot == link->self.slot && peer.nonce == link->self.nonce)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "cannot join a link of '%s': the address is its own", device->base.name);
    if (device->hesitates && !link->hesitated && rt_sim_random_below(&device->world->random, 4) == 0) {
        link->hesitated = true;
        rt_sim_nudge(device, device->world->now_ns + rt_sim_latency(device->world, device, NULL), true);
        return rt_fail(detail, RT_E_AGAIN, 0, "joining a link of '%s' goes on", device->base.name);
    }
    link->peer = peer;
    link->peer_device = party;
    link->state = SIM_LINK_JOINED;
    return RT_OK;
}

void rt_sim_link_destroy(rt_plink *plink)
{
    sim_link *link = (sim_link *)plink;
    sim_device *device = link->device;
    sim_world *world = device->world;
    for (; link->retired != link->posted; link->retired++) /* a caller that could not wait for the flush stops it here */
        rt_sim_cancel(&world->heap, &rt_sim_item_at(link, link->retired)->event);
    rt_sim_cancel(&world->heap, &link->flush);
    rt_sim_windows_end(device, NULL, link);
    rt_sim_queue_forget(device, link->base.send_queue, link);
    rt_sim_queue_forget(device, link->base.receive_queue, link);
    rt_sim_heap_unreserve(&world->heap, device->base.limits.work_depth + 1);
    rt_sim_queue_unreserve(device, link->base.send_queue, device->base.limits.work_depth);
    rt_sim_queue_unreserve(device, link->base.receive_queue, device->base.limits.receive_depth);
    rt_sim_table_remove(&world->links, link->self.slot);
    rt_list_remove(&link->node);
    rt_list_remove(&link->lost_node);
    device->link_count--;
    rings_free(link);
    free(link);
}

int rt_sim_link_describe(rt_plink *plink, char *text_out, size_t capacity)
{
    static const char *const states[] = {"not joined", "joined", "in error"};
    const sim_link *link = (const sim_link *)plink;
    const sim_item *oldest = rt_sim_item_at(link, link->retired);
    bool blocked = link->retired != link->posted && oldest->blocked_since_ns != SIM_NEVER;
    long long blocked_ns = blocked ? (long long)(link->device->world->now_ns - oldest->blocked_since_ns) : 0;
    return snprintf(
        text_out, capacity,
        "sim link %u to party %u: %s, posted %u started %u retired %u polled %u, reads %u, receives %u, blocked for %lld ns",
        link->id, link->peer_device, states[link->state], link->posted, link->started, link->retired, link->released, link->reads,
        link->receive_head - link->receive_tail, blocked_ns);
}
