/* channel.c: the life of a channel: connecting, ready, failed or closed, freed; and its reports.
 * Connecting is in control/, its links are in link.c, its copies in copy.c. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/queue.h"
#include "device/service.h"

#define RT_FAILURE_PATIENCE_NS (20 * RT_NS_PER_MS)

int rt_channel_create(rt_device *device, uint32_t link_count, bool any_user, rt_channel **channel_out, rt_detail *detail)
{
    rt_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a channel");
    channel->device = device;
    channel->any_user = any_user;
    memcpy(channel->peer, "an unknown peer", sizeof "an unknown peer");
    rt_list_init(&channel->node);
    rt_list_init(&channel->remotes);
    rt_list_init(&channel->names.list);
    rt_list_init(&channel->called);
    rt_turn_rank(&channel->calls_turn, RT_RANK_LAST);
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
    channel->was_ready |= atomic_compare_exchange_strong_explicit(&channel->state, &expected, RT_CHANNEL_READY,
                                                                  memory_order_release, memory_order_relaxed);
    rt_device_changed(channel->device);
}

/* Failures that concern the peer or the device concern every call on the channel. A failure of one
 * operation belongs to that operation, and all other operations were dropped because of it. */
static bool status_of_one_operation(int status)
{
    return status == RT_E_REMOTE_ACCESS || status == RT_E_LOCAL_ACCESS || status == RT_E_FLUSHED;
}

/* Whether an operation was refused and the refusal stands: the peer is not known to be dead. */
static bool channel_refused(const rt_channel *channel)
{
    /* pairs with the release in rt_channel_doubt: `refusal` is visible */
    return atomic_load_explicit(&channel->doubt, memory_order_acquire) == RT_DOUBT_OPEN && !atomic_load(&channel->died);
}

void rt_channel_fail(rt_channel *channel, const rt_detail *why)
{
    rt_device *device = channel->device;
    if ((why->status == RT_E_PEER_LOST || why->status == RT_E_FLUSHED) && !atomic_load(&channel->ending))
        device->upcalls->hear_peer(channel);
    if (atomic_exchange(&channel->ending, true))
        return;
    bool from_peer = why->status == RT_E_PEER_LOST || why->status == RT_E_PEER_CLOSED || why->status == RT_E_FLUSHED;
    channel->failure = from_peer && channel_refused(channel) ? channel->refusal : *why; /* its word confirms a refusal */
    why = &channel->failure;
    atomic_store_explicit(&channel->shut_wanted, true, memory_order_relaxed);
    /* Pairs with the acquire in every call that checks the state before it reads `failure`. */
    atomic_store_explicit(&channel->state, why->status == RT_E_CLOSED ? RT_CHANNEL_CLOSED : RT_CHANNEL_FAILED,
                          memory_order_release);
    rt_links_fail_starved(channel, status_of_one_operation(why->status) ? RT_E_FLUSHED : why->status);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue_tell(&device->queues[index]); /* before the kick: a leader that is woken too early does not sleep again */
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
    if (status_of_one_operation(channel->failure.status))
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
        rt_device_wait_change(device, seen, end_ns);
    }
}

int rt_channel_explain(rt_channel *channel, int status, rt_detail *detail)
{
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    if (state == RT_CHANNEL_READY || state == RT_CHANNEL_CONNECTING)
        return rt_fail(detail, status, 0, "the operation ended: %s", rt_status_name(status));
    if (status == RT_E_REMOTE_ACCESS && channel_refused(channel)) {
        if (detail != NULL)
            *detail = channel->refusal;
        return status;
    }
    if (status == channel->failure.status) {
        if (detail != NULL)
            *detail = channel->failure;
        return status;
    }
    /* A link that the peer shut looks lost; the peer's control connection has told whether it died
     * or closed. */
    if (status == RT_E_FLUSHED || status == RT_E_PEER_LOST)
        return rt_channel_refuse(channel, detail);
    return rt_fail(detail, status, 0, "the operation ended with %s; the channel failed because %.400s", rt_status_name(status),
                   channel->failure.text);
}

int rt_channel_failure(rt_channel *channel, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
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
        return rt_fork_refuse(detail);
    rt_device *device = channel->device;
    int64_t end = rt_device_slice_end(device, timeout_ns);
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

int rt_channel_state(const rt_channel *channel)
{
    return atomic_load_explicit(&channel->state, memory_order_acquire);
}

int rt_channel_unanswered(const rt_channel *channel)
{
    return rt_channel_state(channel) == RT_CHANNEL_FAILED && channel->unanswered;
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
