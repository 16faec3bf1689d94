/* round.c: one round over everything that the control plane has to do, with device->lock held and
 * without waiting: provider events, listeners, connections, messages, channels that are ending, and
 * the time of the next round. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "assembly/round.h"
#include "channel/channel.h"
#include "channel/doubt.h"
#include "channel/link.h"
#include "channel/poll.h"
#include "channel/remote.h"
#include "control/connection.h"
#include "control/listener.h"
#include "device/device.h"
#include "device/queue.h"
#include "device/service.h"
#include "edge/round.h"
#include "region/pool.h"
#include "rpc/buffers.h"
#include "rpc/carrier.h"

/* Events that a provider may report in one round, so that a flood does not delay other work. */
enum { RT_EVENTS_PER_ROUND = 256 };

/* An ending channel is checked again after this, then at growing intervals. */
static const rt_backoff_curve ending = {.first_ns = RT_NS_PER_MS, .last_ns = 50 * RT_NS_PER_MS, .share = 1};
/* How long its links may take to flush. Retries end earlier; a later flush will not come. */
#define RT_FLUSH_BOUND_NS RT_NS_PER_S

/* ---- events of the provider ---- */

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

static void link_lose(const rt_device *device, const rt_event *event)
{
    rt_channel *channel = channel_of(device, event->link);
    if (channel == NULL)
        return; /* it is gone already */
    rt_detail why;
    rt_fail(&why, event->detail.status != RT_OK ? event->detail.status : RT_E_PEER_LOST, 0, "a link to %s was lost: %.300s",
            channel->peer, event->detail.text);
    rt_channel_fail(channel, &why);
}

/* The device cannot be used any more: fails all its channels. */
static void device_lose(rt_device *device, const char *text)
{
    if (device->lost)
        return;
    rt_fail(&device->failure, RT_E_DEVICE_LOST, 0, "device %s failed: %.400s", device->pdevice->name, text);
    device->lost = true;
    RT_LIST_EACH(node, &device->channels)
        rt_channel_fail(RT_LIST_ENTRY(node, rt_channel, node), &device->failure);
    rt_device_changed(device);
}

/* Appends a line; removes the oldest lines to make room for it. */
static void notice_take(rt_device *device, const char *text)
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

static bool events_take(rt_device *device)
{
    for (int count = 0; count < RT_EVENTS_PER_ROUND; count++) {
        rt_event event = {.kind = RT_EVENT_NONE};
        device->provider->service(device->pdevice, &event);
        switch (event.kind) {
        case RT_EVENT_NONE: return count > 0;
        case RT_EVENT_PROGRESS: rt_device_changed(device); break;
        case RT_EVENT_LINK_LOST: link_lose(device, &event); break;
        case RT_EVENT_DEVICE_LOST: device_lose(device, event.detail.text); break;
        case RT_EVENT_NOTICE: notice_take(device, event.detail.text); break;
        }
    }
    return true;
}

/* ---- the service queue, which takes RECVs ---- */

/* Polls the service queue. Returns the number of completions it took, or a negative status. */
static int receives_take(rt_device *device)
{
    rt_completion completions[RT_POLL_BATCH];
    rt_queue *queue = &device->queues[device->queue_count];
    rt_turn_take(&queue->turn);
    int count = device->provider->poll(device->pdevice, queue->index, completions, RT_POLL_BATCH);
    rt_turn_leave(&queue->turn);
    if (count < 0)
        device_lose(device, "the completion queue of its receives cannot be polled any more");
    for (int index = 0; index < count; index++) {
        const rt_completion *completion = &completions[index];
        rt_link *link = rt_link_of_token(device, completion->token);
        if (link == NULL || (completion->token & RT_TOKEN_RECEIVE) == 0)
            continue; /* for a link that was removed before its flush came */
        uint32_t slot = (uint32_t)(completion->token & (RT_TOKEN_RECEIVE - 1));
        if (completion->status == RT_OK)
            rt_rpc_received(link, completion);
        else
            rt_rpc_flushed(link, slot);
    }
    return count;
}

bool rt_round_arm(rt_device *device)
{
    rt_queue *queue = &device->queues[device->queue_count];
    rt_turn_take(&queue->turn);
    int status = device->provider->arm(device->pdevice, queue->index);
    rt_turn_leave(&queue->turn);
    pthread_mutex_lock(&device->lock);
    if (status != RT_OK)
        device_lose(device, "the completion queue of its receives cannot be slept on any more");
    int count = receives_take(device);
    pthread_mutex_unlock(&device->lock);
    return count <= 0;
}

/* ---- channels that end ---- */

/* Returns true once every queue's turn was free after the channel's links left the table: no poller
 * can hold a pointer to them. Never blocks. */
static bool channel_passed_queues(rt_channel *channel)
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

static void channel_count_lost(rt_channel *channel)
{
    int32_t status = channel->failure.status;
    if (!channel->was_ready || channel->counted_lost || status == RT_E_CLOSED || status == RT_E_PEER_CLOSED)
        return;
    channel->counted_lost = true;
    channel->device->channels_lost++;
}

/* Destroys the links of a channel whose flush does not come: destroying a queue pair stops the
 * hardware. No thread may poll meanwhile, because it might be handling a late completion. False:
 * some thread does. */
static bool flush_give_up(rt_channel *channel)
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

/* Takes the channel one step nearer to its end; it may be freed. Sets *again_out when a timer must
 * check it again. */
static bool channel_end(rt_channel *channel, bool *again_out)
{
    rt_device *device = channel->device;
    bool moved = false;
    channel_count_lost(channel);
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
        while (receives_take(device) > 0) /* tensors placed before the end are reported before the end is */
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
            if (!rt_list_empty(&channel->remotes))
                return moved; /* the last rt_remote_drop kicks the service */
            rt_rpc_close(channel);
            rt_links_destroy(channel, 0);
        } else if (!flush_is_late(channel) || !flush_give_up(channel)) {
            *again_out = true;
            return moved;
        }
        moved = true;
    }
    if (atomic_load(&channel->word_waiters) != 0 ||
        !channel_passed_queues(channel)) { /* threads that wait for a word leave soon */
        *again_out = true;
        return moved;
    }
    rt_list_remove(&channel->node);
    rt_device_changed(device);
    rt_channel_unreference(channel);
    return true;
}

/* ---- the round ---- */

static int64_t time_earlier(int64_t left, int64_t right)
{
    return left < right ? left : right;
}

static void service_set_due(rt_device *device, bool again)
{
    rt_service *service = device->service;
    int64_t due = rt_rpc_next_deadline(device);
    RT_LIST_EACH(node, &device->listeners)
        due = time_earlier(due, rt_listener_deadline(RT_LIST_ENTRY(node, rt_listener, node)));
    RT_LIST_EACH(node, &device->channels) {
        const rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        if (channel->control != NULL)
            due = time_earlier(due, channel->control->deadline_ns);
        due = time_earlier(due, rt_doubt_deadline(channel));
    }
    if (again) {
        due = time_earlier(due, rt_device_time(device) + rt_backoff_next(&service->looks, &ending));
    } else {
        service->looks = (rt_backoff){0};
    }
    atomic_store(&service->due_ns, due);
}

/* device->lock held. */
static bool device_look_at_all(rt_device *device)
{
    bool moved = rt_remotes_settle(device), again = false;
    moved |= events_take(device);
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
            moved |= channel_end(channel, &again);
        }
    }
    moved |= receives_take(device) > 0;
    service_set_due(device, again);
    return moved;
}

bool rt_round_run(rt_device *device)
{
    pthread_mutex_lock(&device->lock);
    bool moved = device_look_at_all(device);
    pthread_mutex_unlock(&device->lock);
    bool grown = rt_rpc_grow(device);
    grown |= rt_pools_run(device);
    return moved || grown;
}
