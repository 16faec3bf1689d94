/* dump.c: reports of a device and a channel: limits, statistics, and the report that answers "who
 * hangs?". */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "assembly/dump.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "control/connection.h"
#include "control/listener.h"
#include "device/device.h"
#include "device/fork.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "edge/report.h"
#include "memory/arena.h"
#include "region/region.h"

typedef struct rt_text {
    char *text;
    size_t capacity, size; /* `size` also counts bytes that were cut off */
} rt_text;

static void __attribute__((format(printf, 2, 3))) text_add(rt_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *at = text->size < text->capacity ? text->text + text->size : NULL;
    int size = vsnprintf(at, at != NULL ? text->capacity - text->size : 0, format, arguments);
    va_end(arguments);
    text->size += size > 0 ? (size_t)size : 0;
}

static const char *channel_state_name(int32_t state)
{
    switch ((enum rt_channel_state)state) {
    case RT_CHANNEL_CONNECTING: return "connecting";
    case RT_CHANNEL_READY: return "ready";
    case RT_CHANNEL_CLOSED: return "closed";
    case RT_CHANNEL_FAILED: return "failed";
    }
    return "?";
}

static void link_dump(rt_text *text, rt_link *link)
{
    char line[256] = "";
    if (!rt_turn_try(&link->turn)) {
        text_add(text, "    qp %u queue %u: a thread is posting on it now\n", link->index, link->queue->index);
        return;
    }
    uint32_t starved = 0;
    RT_LIST_EACH(node, &link->starved_ops)
        starved++;
    text_add(text, "    qp %u queue %u: posted %llu, completed %llu, expected %u more; %u operations not wholly posted%s\n",
             link->index, link->queue->index, (unsigned long long)link->last_posted, (unsigned long long)link->last_completed,
             link->head - link->tail, starved, link->shut ? "; shut" : "");
    if (link->plink != NULL)
        link->channel->device->provider->link_describe(link->plink, line, sizeof line);
    rt_turn_leave(&link->turn);
    if (line[0] != '\0')
        text_add(text, "      %s\n", line);
}

static void edge_dump(rt_text *text, rt_edge *edge)
{
    char line[RT_NAME_MAX + 192];
    if (!rt_turn_try(&edge->turn)) {
        text_add(text, "    edge \"%s\": a thread is at it now\n", edge->name);
        return;
    }
    rt_edge_describe(edge, line, sizeof line);
    rt_turn_leave(&edge->turn);
    text_add(text, "    %s\n", line);
}

/* device->lock held. */
static void listener_dump(rt_text *text, const rt_listener *listener)
{
    text_add(text,
             "  listener at %s: %u of %d channels wait for accept(), %u connections are not channels yet, %llu were refused%s\n",
             listener->address, listener->waiting_count, RT_UNACCEPTED_MAX, listener->pending_count,
             (unsigned long long)listener->refusals_total,
             listener->waiting_count == RT_UNACCEPTED_MAX ? "; no further channel is let in before accept() is called" : "");
}

/* device->lock held. */
static void channel_dump(rt_text *text, rt_channel *channel)
{
    int32_t state = atomic_load_explicit(&channel->state, memory_order_acquire);
    text_add(text, "  channel to %s: %s\n", channel->peer, channel_state_name(state));
    if (state == RT_CHANNEL_FAILED || state == RT_CHANNEL_CLOSED)
        text_add(text, "    because: %s\n", channel->failure.text);
    char line[256] = "";
    if (channel->control != NULL)
        rt_control_describe(channel, line, sizeof line);
    if (line[0] != '\0')
        text_add(text, "    control: %s\n", line);
    uint32_t waiters = atomic_load(&channel->word_waiters);
    if (waiters != 0)
        text_add(text, "    %u waiting for a word: expected %llu, last seen %llu\n", waiters,
                 (unsigned long long)atomic_load(&channel->word_expected), (unsigned long long)atomic_load(&channel->word_seen));
    for (uint32_t index = 0; index < channel->link_count && !channel->links_gone; index++)
        link_dump(text, &channel->links[index]);
    if (channel->rpc == NULL)
        return;
    RT_LIST_EACH(node, &rt_edges_of(channel)->list)
        edge_dump(text, RT_LIST_ENTRY(node, rt_edge, node));
}

/* Takes the lock within a second: a report must come even when the lock is what hangs. */
static bool device_lock_soon(rt_device *device)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    return pthread_mutex_timedlock(&device->lock, &until) == 0;
}

int64_t rt_device_dump(rt_device *device, char *text_out, size_t capacity)
{
    rt_text text = {.text = text_out, .capacity = capacity};
    if (capacity > 0)
        text_out[0] = '\0';
    if (rt_forked() || device->closed)
        return 0;
    if (!device_lock_soon(device)) {
        text_add(&text, "device %s: its set-up lock has been held for over a second\n", device->pdevice->name);
        return (int64_t)text.size;
    }
    text_add(&text, "device %s://%s: %u queues, %u pollers, %llu operations in flight%s%s\n", device->provider->name,
             device->pdevice->name, device->queue_count, device->pollers, (unsigned long long)atomic_load(&device->operations),
             device->lost ? ", LOST: " : "", device->lost ? device->failure.text : "");
    if (device->notices[0] != '\0')
        text_add(&text, "  notices: %s\n", device->notices);
    RT_LIST_EACH(node, &device->listeners)
        listener_dump(&text, RT_LIST_ENTRY(node, rt_listener, node));
    RT_LIST_EACH(node, &device->channels)
        channel_dump(&text, RT_LIST_ENTRY(node, rt_channel, node));
    pthread_mutex_unlock(&device->lock);
    return (int64_t)text.size;
}

int64_t rt_channel_dump(rt_channel *channel, char *text_out, size_t capacity)
{
    rt_text text = {.text = text_out, .capacity = capacity};
    if (capacity > 0)
        text_out[0] = '\0';
    if (rt_forked())
        return 0;
    if (channel->device->closed || !device_lock_soon(channel->device)) {
        text_add(&text, "  channel to %s: %s\n", channel->peer, channel_state_name(rt_channel_state(channel)));
        return (int64_t)text.size;
    }
    channel_dump(&text, channel);
    pthread_mutex_unlock(&channel->device->lock);
    return (int64_t)text.size;
}

/* ---- limits and statistics ---- */

void rt_limits_public(const rt_limits *from, rt_device_limits *out)
{
    *out = (rt_device_limits){
        .message_size_max = from->message_size_max,
        .region_size_max = from->region_size_max,
        .region_count_max = from->region_count_max,
        .link_count_max = from->link_count_max,
        .completion_queue_max = from->completion_queue_max,
        .work_depth = from->work_depth,
        .receive_depth = from->receive_depth,
        .completion_depth = from->completion_depth,
        .read_depth = from->read_depth,
        .segments_max = from->segments_max,
        .inline_size_max = from->inline_size_max,
        .send_size_max = from->send_size_max,
        .completes_in_post = from->completes_in_post,
        .orders_writes = from->orders_writes,
        .orders_bytes_within_a_write = from->orders_bytes_within_a_write,
        .places_words_whole = from->places_words_whole,
        .can_wake_receiver = from->can_wake_receiver,
        .carries_immediate = from->carries_immediate,
        .reaches_gpu_memory = from->reaches_gpu_memory,
        .exposes_caller_memory = from->exposes_caller_memory,
        .pins_memory = from->pins_memory,
        .maps_remote = from->maps_remote,
        .local_anywhere = from->local_anywhere,
        .keys_per_peer = from->keys_per_peer,
        .virtual_time = from->virtual_time,
        .immediate_covers_earlier = from->immediate_covers_earlier,
    };
}

void rt_device_get_limits(const rt_device *device, rt_device_limits *limits_out)
{
    rt_limits_public(&device->limits, limits_out);
}

const char *rt_device_provider(const rt_device *device)
{
    return device->provider->name;
}

const char *rt_device_name(const rt_device *device)
{
    return device->closed ? "" : device->pdevice->name;
}

uint32_t rt_device_queues(const rt_device *device)
{
    return device->queue_count;
}

uint32_t rt_device_qps_per_peer(const rt_device *device)
{
    return device->links_per_peer;
}

void rt_device_id(const rt_device *device, uint8_t id_out[16])
{
    memcpy(id_out, device->id, sizeof device->id);
}

void rt_device_get_stats(rt_device *device, rt_device_stats *stats_out)
{
    memset(stats_out, 0, sizeof *stats_out);
    if (rt_forked())
        return;
    pthread_mutex_lock(&device->lock);
    *stats_out = device->stats;
    RT_LIST_EACH(node, &device->regions) {
        const rt_region *region = RT_LIST_ENTRY(node, rt_region, node);
        rt_arena_stats arena = {.deferred_bytes = 0};
        if (region->arena != NULL)
            rt_arena_get_stats(region->arena, &arena);
        stats_out->quarantined_bytes += arena.deferred_bytes;
    }
    RT_LIST_EACH(node, &device->channels)
        stats_out->channels++;
    RT_LIST_EACH(node, &device->listeners)
        stats_out->unaccepted += RT_LIST_ENTRY(node, rt_listener, node)->waiting_count;
    stats_out->channels_lost = device->channels_lost;
    stats_out->connects_refused = device->connects_refused;
    stats_out->operations_in_flight = atomic_load(&device->operations);
    pthread_mutex_unlock(&device->lock);
}
