/* link.c: set-up and teardown of links, and the SEND and RECV items of the RPC. The hot path of a
 * link is in post.c and poll.c. */
#include <assert.h>
#include <stdlib.h>

#include "base/number.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "channel/op.h"
#include "channel/receives.h"
#include "device/device.h"

/* Allocates the memory of a link, which is kept until its channel is freed. */
static int link_allocate(rt_link *link, uint32_t depth)
{
    uint32_t ring_size = rt_power_of_two(depth);
    link->ring = calloc(ring_size, sizeof *link->ring);
    link->ops = calloc(RT_OPS_PER_LINK, sizeof *link->ops);
    if (link->ring == NULL || link->ops == NULL)
        return RT_E_NO_MEMORY;
    link->ring_mask = ring_size - 1;
    link->depth = depth;
    rt_list_init(&link->queue_node);
    rt_list_init(&link->doubted_ops);
    rt_list_init(&link->starved_ops);
    rt_list_init(&link->free_ops);
    for (uint32_t index = 0; index < RT_OPS_PER_LINK; index++) {
        link->ops[index].index = index;
        link->ops[index].generation = 1;
        rt_list_append(&link->free_ops, &link->ops[index].node);
    }
    return RT_OK;
}

static void link_free(rt_link *link)
{
    rt_receives_free(link);
    free(link->ring);
    free(link->ops);
    link->ring = NULL;
    link->ops = NULL;
}

void rt_links_free(rt_channel *channel)
{
    for (uint32_t index = 0; index < channel->link_capacity; index++)
        link_free(&channel->links[index]);
    free(channel->links);
    channel->links = NULL;
}

static int link_id_take(rt_device *device, uint32_t *id_out)
{
    for (uint32_t id = 0; id < device->link_capacity; id++) {
        if (atomic_load_explicit(&device->links[id], memory_order_relaxed) == NULL) {
            *id_out = id;
            return RT_OK;
        }
    }
    return RT_E_BUSY;
}

static int link_create(rt_channel *channel, uint32_t index, rt_detail *detail)
{
    rt_device *device = channel->device;
    rt_link *link = &channel->links[index];
    if (link_id_take(device, &link->id) != RT_OK)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "device %s has no room for another qp: all %u are taken; close channels or ask for fewer qps",
                       device->pdevice->name, device->link_capacity);
    if (link_allocate(link, device->limits.work_depth) != RT_OK)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a qp of %u work items", device->limits.work_depth);
    link->channel = channel;
    link->index = index;
    link->queue = &device->queues[device->next_queue++ % device->queue_count];
    size_t address_size = 0;
    int status = device->provider->link_create(device->pdevice, link->queue->index, device->queue_count, &link->plink,
                                               channel->link_addresses[index], &address_size, detail);
    if (status != RT_OK)
        return status;
    assert(address_size <= RT_LINK_ADDRESS_SIZE_MAX);
    link->plink->index = index;
    link->plink->any_user = channel->any_user;
    channel->link_address_sizes[index] = (uint8_t)address_size;
    rt_turn_rank(&link->turn, RT_RANK_LINK);
    rt_turn_take(&link->queue->links_turn);
    rt_list_append(&link->queue->links, &link->queue_node);
    rt_turn_leave(&link->queue->links_turn);
    atomic_store_explicit(&device->links[link->id], link, memory_order_release);
    return RT_OK;
}

static void link_destroy(rt_link *link)
{
    rt_device *device = link->channel->device;
    if (link->plink == NULL)
        return;
    rt_turn_take(&link->queue->links_turn);
    rt_list_remove(&link->queue_node);
    rt_turn_leave(&link->queue->links_turn);
    rt_turn_take(&link->turn);
    link->shut = true;
    rt_turn_leave(&link->turn);
    atomic_store_explicit(&device->links[link->id], NULL, memory_order_release);
    device->provider->link_shut(link->plink);
    device->provider->link_destroy(link->plink);
    link->plink = NULL;
}

int rt_links_create(rt_channel *channel, uint32_t count, rt_detail *detail)
{
    assert(count >= 1 && count <= RT_LINKS_PER_CHANNEL_MAX);
    channel->links = calloc(count, sizeof *channel->links);
    if (channel->links == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a channel of %u qps", count);
    channel->link_capacity = count;
    for (uint32_t index = 0; index < count; index++) {
        int status = link_create(channel, index, detail);
        if (status != RT_OK) {
            rt_links_destroy(channel, 0);
            return status;
        }
        channel->link_count = index + 1;
    }
    return RT_OK;
}

void rt_links_destroy(rt_channel *channel, uint32_t keep)
{
    for (uint32_t index = keep; index < channel->link_count; index++)
        link_destroy(&channel->links[index]);
    if (keep == 0) {
        channel->links_gone = true;
        atomic_store_explicit(&channel->links_shut, true, memory_order_release);
    } else {
        channel->link_count = keep < channel->link_count ? keep : channel->link_count;
    }
}

int32_t rt_doubt_status(const rt_channel *channel, int32_t status)
{
    return status == RT_E_REMOTE_ACCESS && atomic_load(&channel->died) ? RT_E_PEER_LOST : status;
}

bool rt_doubt_hold(rt_link *link, rt_op *op)
{
    const rt_channel *channel = link->channel;
    if (op->status == RT_OK || channel->device->limits.virtual_time || !rt_channel_is_ready(channel))
        return false;
    link->doubted = link->doubted || op->status == RT_E_REMOTE_ACCESS;
    if (link->doubted)
        rt_list_append(&link->doubted_ops, &op->node);
    return link->doubted;
}

/* The channel has failed: ends the held operations. Link turn held. */
static void doubt_release(rt_link *link)
{
    RT_LIST_EACH_SAFE(node, &link->doubted_ops) {
        rt_op *op = RT_LIST_ENTRY(node, rt_op, node);
        rt_list_remove(node);
        op->status = rt_doubt_status(link->channel, op->status);
        rt_op_end(link, op);
    }
    link->doubted = false;
}

/* Ends every operation that has nothing posted or was held, and cancels the unposted rest of the
 * others. */
static void starved_fail(rt_link *link, int status)
{
    rt_turn_take(&link->turn);
    doubt_release(link);
    RT_LIST_EACH_SAFE(node, &link->starved_ops) {
        rt_op *op = RT_LIST_ENTRY(node, rt_op, node);
        rt_list_remove(node);
        op->cancelled = true;
        if (op->status == RT_OK)
            op->status = status;
        if (op->outstanding == 0)
            rt_op_end(link, op);
    }
    rt_op_fed(link);
    rt_turn_leave(&link->turn);
}

void rt_links_fail_starved(rt_channel *channel, int status)
{
    for (uint32_t index = 0; index < channel->link_count; index++)
        starved_fail(&channel->links[index], status);
}

void rt_links_shut(rt_channel *channel)
{
    for (uint32_t index = 0; index < channel->link_count && !channel->links_gone; index++) {
        rt_link *link = &channel->links[index];
        rt_turn_take(&link->turn);
        bool first = !link->shut;
        link->shut = true;
        rt_turn_leave(&link->turn);
        starved_fail(link, RT_E_FLUSHED);
        if (first)
            channel->device->provider->link_shut(link->plink);
    }
    /* Pairs with the acquire of edges: whatever they check after this has been placed, or never
     * will be. */
    atomic_store_explicit(&channel->links_shut, true, memory_order_release);
    channel->device->provider->memory_wake(channel->device->pdevice);
    rt_device_changed(channel->device);
}

bool rt_links_quiet(rt_channel *channel)
{
    for (uint32_t index = 0; index < channel->link_count; index++) {
        rt_link *link = &channel->links[index];
        rt_turn_take(&link->turn);
        bool quiet = link->head == link->tail && rt_list_empty(&link->starved_ops);
        rt_turn_leave(&link->turn);
        if (!quiet)
            return false;
    }
    return true;
}

/* Ends the remaining operations of links whose provider links are gone: the hardware cannot touch a
 * buffer any more. */
void rt_links_abandon(rt_channel *channel)
{
    assert(channel->links_gone);
    rt_links_fail_starved(channel, RT_E_FLUSHED);
    for (uint32_t index = 0; index < channel->link_count; index++) {
        rt_link *link = &channel->links[index];
        rt_turn_take(&link->turn);
        for (; link->tail != link->head; link->tail++) {
            rt_op *op = link->ring[link->tail & link->ring_mask].op;
            if (op == NULL || --op->outstanding != 0)
                continue;
            if (op->status == RT_OK)
                op->status = RT_E_FLUSHED;
            rt_op_end(link, op);
        }
        rt_turn_leave(&link->turn);
    }
}
