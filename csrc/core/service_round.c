/* service_round.c: one look at everything that the control plane has to do, with device->lock held and without waiting: provider
 * events, listeners, connections, messages, channels that are ending, and when to look again. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/edge.h"

/* A channel that is ending is looked at again after this, then less and less often. */
#define RT_ENDING_NAP_MIN_NS RT_NS_PER_MS
#define RT_ENDING_NAP_MAX_NS (50 * RT_NS_PER_MS)
/* How long its links may take to flush. Retries end before; what is later will not come. */
#define RT_FLUSH_BOUND_NS RT_NS_PER_S

/* ---- what the provider reports ---- */

static rt_channel *channel_of(const rt_device *device, const rt_plink *plink)
{
    RT_LIST_EACH(node, &device->channels) {
        rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        for (uint32_t index = 0; index < channel->link_count; index++) {
            if (channel->links[index].plink == plink)
                return channel;
        }
    }
    return NULL;
}

static void lose_link(const rt_device *device, const rt_event *event)
{
    rt_channel *channel = channel_of(device, event->link);
    if (channel == NULL)
        return; /* it is gone already */
    rt_detail why;
    rt_fail(&why, event->detail.status != RT_OK ? event->detail.status : RT_E_PEER_LOST, 0, "a link to %s was lost: %.300s",
            channel->peer, event->detail.text);
    rt_channel_fail(channel, &why);
}

void rt_service_lose_device(rt_device *device, const char *text)
{
    if (device->lost)
        return;
    rt_fail(&device->failure, RT_E_DEVICE_LOST, 0, "device %s failed: %.400s", device->pdevice->name, text);
    device->lost = true;
    RT_LIST_EACH(node, &device->channels)
        rt_channel_fail(RT_LIST_ENTRY(node, rt_channel, node), &device->failure);
    rt_device_changed(device);
}

/* Appends a line; the oldest make room for it. */
static void take_notice(rt_device *device, const char *text)
{
    char line[256];
    int size = snprintf(line, sizeof line, "%.254s\n", text);
    size_t used = strlen(device->notices), added = (size_t)size;
    while (used + added >= sizeof device->notices) {
        const char *end = strchr(device->notices, '\n');
        assert(end != NULL);
        size_t oldest = (size_t)(end - device->notices) + 1;
        memmove(device->notices, device->notices + oldest, used - oldest + 1);
        used -= oldest;
    }
    memcpy(device->notices + used, line, added + 1);
}

static bool take_events(rt_device *device)
{
    for (int count = 0; count < RT_EVENTS_PER_ROUND; count++) {
        rt_event event = {.kind = RT_EVENT_NONE};
        device->provider->service(device->pdevice, &event);
        switch (event.kind) {
        case RT_EVENT_NONE: return count > 0;
        case RT_EVENT_PROGRESS: rt_device_changed(device); break;
        case RT_EVENT_LINK_LOST: lose_link(device, &event); break;
        case RT_EVENT_DEVICE_LOST: rt_service_lose_device(device, event.detail.text); break;
        case RT_EVENT_NOTICE: take_notice(device, event.detail.text); break;
        }
    }
    return true;
}

/* ---- channels that end ---- */

/* Waits, without waiting, until nobody who polls a queue can still hold a pointer to a link of the channel: each queue's turn
 * was free once after the links were taken out of the table. */
static bool passed_all_queues(rt_channel *channel)
{
    rt_device *device = channel->device;
    for (; channel->queues_passed < device->queue_count; channel->queues_passed++) {
        rt_queue *queue = &device->queues[channel->queues_passed];
        if (!rt_turn_try(&queue->turn)) {
            rt_queue_kick(queue);
            return false;
        }
        rt_queue_leave(queue);
    }
    return true;
}

static void count_lost(rt_channel *channel)
{
    int32_t status = channel->failure.status;
    if (channel->counted_lost || status == RT_E_CLOSED || status == RT_E_PEER_CLOSED)
        return;
    channel->counted_lost = true;
    channel->device->channels_lost++;
}

/* Takes the links away from a channel whose flush does not come: destroying a queue pair stops the hardware. Nobody polls
 * meanwhile, who might be at a late completion; false: somebody does. */
static bool give_up_flush(rt_channel *channel)
{
    rt_device *device = channel->device;
    uint32_t held = 0;
    while (held < device->queue_count && rt_turn_try(&device->queues[held].turn))
        held++;
    bool alone = held == device->queue_count;
    if (alone) {
        rt_remotes_detach(channel);
        rt_links_destroy(channel, 0);
        rt_links_abandon(channel);
        rt_rpc_close(channel);
    } else {
        rt_queue_kick(&device->queues[held]);
    }
    while (held > 0)
        rt_queue_leave(&device->queues[--held]);
    return alone;
}

static bool flush_is_late(rt_channel *channel)
{
    int64_t now = rt_device_time(channel->device);
    if (channel->ending_ns == 0)
        channel->ending_ns = now;
    return now - channel->ending_ns > RT_FLUSH_BOUND_NS;
}

/* Takes the channel one step nearer to its end; it may be freed. Sets *again_out when a timer must look after it. */
static bool end_channel(rt_channel *channel, bool *again_out)
{
    rt_device *device = channel->device;
    bool moved = false;
    count_lost(channel);
    if (channel->control != NULL) {
        rt_control_end(channel, &channel->failure);
        moved = true;
    }
    for (uint32_t index = 0; index < channel->link_count && !channel->links_gone; index++)
        rt_queue_step(channel->links[index].queue);
    if (atomic_load(&channel->shut_wanted) && !rt_channel_settled(channel)) {
        *again_out = true;
        return moved;
    }
    if (atomic_exchange(&channel->shut_wanted, false)) {
        while (rt_service_receive(device) > 0) /* what was placed before the end is told before the end is */
            continue;
        rt_links_shut(channel);
        moved = true;
    }
    if (!channel->links_gone) {
        for (uint32_t index = 0; index < channel->link_count; index++)
            rt_queue_step(channel->links[index].queue);
        if (rt_links_quiet(channel) && rt_rpc_quiet(channel)) {
            if (channel->rpc != NULL)
                rt_edges_channel_ending(channel);
            moved |= rt_remotes_settle(device);
            if (atomic_load(&device->stopping))
                rt_remotes_detach(channel);
            if (channel->rpc != NULL && !rt_list_empty(&channel->rpc->remotes))
                return moved; /* the last rt_remote_drop kicks */
            rt_rpc_close(channel);
            rt_links_destroy(channel, 0);
        } else if (!flush_is_late(channel) || !give_up_flush(channel)) {
            *again_out = true;
            return moved;
        }
        moved = true;
    }
    if (atomic_load(&channel->word_waiters) != 0 || !passed_all_queues(channel)) { /* who waits for a word leaves soon */
        *again_out = true;
        return moved;
    }
    rt_list_remove(&channel->node);
    rt_device_changed(device);
    rt_channel_unreference(channel);
    return true;
}

/* ---- the round ---- */

static int64_t earlier(int64_t left, int64_t right)
{
    return left < right ? left : right;
}

static void set_due(rt_device *device, bool again)
{
    rt_service *service = device->service;
    int64_t due = rt_rpc_next_deadline(device);
    RT_LIST_EACH(node, &device->listeners)
        due = earlier(due, rt_listener_deadline(RT_LIST_ENTRY(node, rt_listener, node)));
    RT_LIST_EACH(node, &device->channels) {
        const rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        if (channel->control != NULL)
            due = earlier(due, channel->control->deadline_ns);
        due = earlier(due, rt_doubt_deadline(channel));
    }
    if (again) {
        service->nap_ns =
            service->nap_ns < RT_ENDING_NAP_MIN_NS ? RT_ENDING_NAP_MIN_NS : earlier(2 * service->nap_ns, RT_ENDING_NAP_MAX_NS);
        due = earlier(due, rt_device_time(device) + service->nap_ns);
    } else {
        service->nap_ns = 0;
    }
    atomic_store(&service->due_ns, due);
}

bool rt_service_round(rt_device *device)
{
    bool moved = rt_remotes_settle(device), again = false;
    moved |= take_events(device);
    RT_LIST_EACH(node, &device->listeners)
        moved |= rt_listener_run(RT_LIST_ENTRY(node, rt_listener, node));
    RT_LIST_EACH_SAFE(node, &device->channels) {
        rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
        if (state == RT_CHANNEL_CONNECTING || state == RT_CHANNEL_READY) {
            moved |= rt_control_run(channel);
            moved |= rt_rpc_run(channel);
            rt_doubt_run(channel);
        } else {
            moved |= end_channel(channel, &again);
        }
    }
    moved |= rt_service_receive(device) > 0;
    set_due(device, again);
    return moved;
}
