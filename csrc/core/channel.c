/* channel.c: the life of a channel: connecting, ready, failed or closed, freed; and what is said of it. How it is connected is in
 * control.c, its links are in link.c, its copies in copy.c. */
#include <stdlib.h>
#include <string.h>

#include "core/copy.h"

#define RT_FAILURE_PATIENCE_NS (20 * RT_NS_PER_MS)

int rt_channel_create(rt_device *device, uint32_t link_count, rt_channel **channel_out, rt_detail *detail)
{
    rt_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a channel");
    channel->device = device;
    memcpy(channel->peer, "an unknown peer", sizeof "an unknown peer");
    rt_list_init(&channel->node);
    atomic_init(&channel->references, 2);
    atomic_init(&channel->state, RT_CHANNEL_CONNECTING);
    int status = rt_links_create(channel, link_count, detail);
    if (status != RT_OK) {
        if (channel->links != NULL)
            rt_links_free(channel);
        free(channel);
        return status;
    }
    rt_device_reference(device);
    rt_list_append(&device->channels, &channel->node);
    *channel_out = channel;
    return RT_OK;
}

void rt_channel_reference(rt_channel *channel)
{
    atomic_fetch_add_explicit(&channel->references, 1, memory_order_relaxed);
}

void rt_channel_unreference(rt_channel *channel)
{
    if (atomic_fetch_sub_explicit(&channel->references, 1, memory_order_acq_rel) != 1)
        return;
    assert(rt_list_empty(&channel->node) && channel->links_gone);
    rt_device *device = channel->device;
    rt_links_free(channel);
    free(channel);
    rt_device_unreference(device);
}

void rt_channel_ready(rt_channel *channel)
{
    int32_t expected = RT_CHANNEL_CONNECTING;
    atomic_compare_exchange_strong_explicit(&channel->state, &expected, RT_CHANNEL_READY, memory_order_release,
                                            memory_order_relaxed);
    rt_device_changed(channel->device);
}

/* Failures that concern the peer or the device concern every call on the channel; failures of one operation are that
 * operation's, and all others were dropped because of it. */
static bool of_one_operation(int status)
{
    return status == RT_E_REMOTE_ACCESS || status == RT_E_LOCAL_ACCESS || status == RT_E_FLUSHED;
}

void rt_channel_fail(rt_channel *channel, const rt_detail *why)
{
    rt_device *device = channel->device;
    if ((why->status == RT_E_PEER_LOST || why->status == RT_E_FLUSHED) && !atomic_load(&channel->ending))
        rt_control_last_words(channel);
    if (atomic_exchange(&channel->ending, true))
        return;
    bool from_peer = why->status == RT_E_PEER_LOST || why->status == RT_E_PEER_CLOSED || why->status == RT_E_FLUSHED;
    channel->failure = from_peer && rt_channel_refused(channel) ? channel->refusal : *why; /* its word on a refusal confirms it */
    why = &channel->failure;
    atomic_store_explicit(&channel->shut_wanted, true, memory_order_relaxed);
    /* Pairs with the acquire of every call that looks at the state before it reads `failure`. */
    atomic_store_explicit(&channel->state, why->status == RT_E_CLOSED ? RT_CHANNEL_CLOSED : RT_CHANNEL_FAILED,
                          memory_order_release);
    rt_links_fail_starved(channel, of_one_operation(why->status) ? RT_E_FLUSHED : why->status);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue_tell(&device->queues[index]); /* before the kick: a leader that it wakes too early does not sleep again */
        rt_queue_kick(&device->queues[index]);
    }
    rt_device_tell(device);
    device->provider->memory_wake(device->pdevice);
    rt_device_changed(device);
    rt_service_kick(device);
}

void rt_link_fail(rt_link *link, int status, const char *doing)
{
    rt_detail detail;
    rt_fail(&detail, status, 0, "%s on qp %u to %s failed (%s)", doing, link->index, link->channel->peer, rt_status_name(status));
    rt_channel_fail(link->channel, &detail);
}

int rt_channel_refuse(rt_channel *channel, rt_detail *detail)
{
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    switch ((enum rt_channel_state)state) {
    case RT_CHANNEL_CONNECTING: return rt_fail(detail, RT_E_BUSY, 0, "the channel is not connected yet");
    case RT_CHANNEL_READY: return rt_fail(detail, RT_E_BUSY, 0, "the channel to %s is busy", channel->peer);
    case RT_CHANNEL_CLOSED: return rt_fail(detail, RT_E_CLOSED, 0, "the channel to %s was closed on this side", channel->peer);
    case RT_CHANNEL_FAILED: break;
    }
    if (of_one_operation(channel->failure.status))
        return rt_fail(detail, RT_E_FLUSHED, 0, "the channel is down, connect again; it failed because %.400s",
                       channel->failure.text);
    if (detail != NULL)
        *detail = channel->failure;
    return channel->failure.status;
}

void rt_channel_await_failure(const rt_channel *channel)
{
    rt_device *device = channel->device;
    int64_t end_ns = rt_clock_now_ns() + RT_FAILURE_PATIENCE_NS;
    while (!device->limits.virtual_time && rt_clock_now_ns() < end_ns) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        if (rt_channel_state(channel) != RT_CHANNEL_READY)
            return;
        rt_futex_sleep(&device->change, seen, RT_NS_PER_MS, false);
    }
}

int rt_channel_explain(rt_channel *channel, int status, rt_detail *detail)
{
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    if (state == RT_CHANNEL_READY || state == RT_CHANNEL_CONNECTING)
        return rt_fail(detail, status, 0, "the operation ended: %s", rt_status_name(status));
    if (status == RT_E_REMOTE_ACCESS && rt_channel_refused(channel)) {
        if (detail != NULL)
            *detail = channel->refusal;
        return status;
    }
    if (status == channel->failure.status) {
        if (detail != NULL)
            *detail = channel->failure;
        return status;
    }
    /* A link that the peer shut looks lost; whether it died or closed is what its control connection said. */
    if (status == RT_E_FLUSHED || status == RT_E_PEER_LOST)
        return rt_channel_refuse(channel, detail);
    return rt_fail(detail, status, 0, "the operation ended with %s; the channel failed because %.400s", rt_status_name(status),
                   channel->failure.text);
}

int rt_channel_failure(rt_channel *channel, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the channel is its parent's");
    rt_detail_clear(detail);
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    if (state == RT_CHANNEL_READY || state == RT_CHANNEL_CONNECTING)
        return RT_OK;
    if (detail != NULL)
        *detail = channel->failure;
    return channel->failure.status;
}

int rt_channel_wait_ready(rt_channel *channel, int64_t timeout_ns, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: open a device of its own");
    rt_device *device = channel->device;
    int64_t slice = timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS;
    int64_t end = rt_device_time(device) + slice;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
        if (state == RT_CHANNEL_READY)
            return RT_OK;
        if (state != RT_CHANNEL_CONNECTING)
            return rt_channel_failure(channel, detail);
        int status = rt_service_wait(device, seen, end);
        if (status != RT_OK)
            return rt_fail(detail, status, 0, "still connecting");
    }
}

void rt_channel_close(rt_channel *channel)
{
    if (rt_forked())
        return;
    rt_device *device = channel->device;
    rt_detail why;
    rt_fail(&why, RT_E_CLOSED, 0, "the channel to %s was closed on this side", channel->peer);
    rt_channel_fail(channel, &why);
    /* Before this returns, the peer is told and can reach nothing through the links: what the caller closes next is not
     * missed by the peer's copies. While another thread still writes the failure, the service does it. */
    pthread_mutex_lock(&device->lock);
    if (rt_channel_state(channel) != RT_CHANNEL_READY && rt_channel_state(channel) != RT_CHANNEL_CONNECTING) {
        rt_control_end(channel, &channel->failure);
        if (atomic_exchange(&channel->shut_wanted, false))
            rt_links_shut(channel);
    }
    pthread_mutex_unlock(&device->lock);
    if (device->limits.virtual_time)
        rt_service_run(device);
}

void rt_channel_drop(rt_channel *channel)
{
    if (rt_forked())
        return;
    rt_channel_close(channel);
    rt_channel_unreference(channel);
}

int rt_channel_state(const rt_channel *channel)
{
    return atomic_load_explicit(&channel->state, memory_order_acquire);
}

uint32_t rt_channel_qps(const rt_channel *channel)
{
    return channel->link_count;
}

uint32_t rt_channel_queue_of(const rt_channel *channel, uint32_t qp)
{
    return qp < channel->link_count ? channel->links[qp].queue->index : UINT32_MAX;
}

void rt_channel_peer_id(const rt_channel *channel, uint8_t id_out[16])
{
    memcpy(id_out, channel->peer_id, RT_DEVICE_ID_SIZE);
}

const char *rt_channel_peer(const rt_channel *channel)
{
    return channel->peer;
}

void rt_channel_get_stats(rt_channel *channel, rt_channel_stats *stats_out)
{
    memset(stats_out, 0, sizeof *stats_out);
    for (uint32_t index = 0; index < channel->link_count && !rt_forked(); index++) {
        rt_link *link = &channel->links[index];
        rt_turn_take(&link->turn);
        stats_out->writes += link->stats.writes;
        stats_out->reads += link->stats.reads;
        stats_out->bytes_written += link->stats.bytes_written;
        stats_out->bytes_read += link->stats.bytes_read;
        stats_out->work_items += link->stats.work_items;
        stats_out->doorbells += link->stats.doorbells;
        stats_out->failures += link->stats.failures;
        stats_out->deadlines += link->stats.deadlines;
        stats_out->waits += link->stats.waits;
        rt_turn_leave(&link->turn);
    }
}
