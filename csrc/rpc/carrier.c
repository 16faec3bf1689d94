/* carrier.c: messages over SEND and RECV of a channel's last link, where no copy of the default goes
 * before them: keeps receives posted, gives arrived messages to their handlers, and watches over SENDs. device->lock held, except where it
 * says otherwise. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/message.h"
#include "channel/poll.h"
#include "channel/receives.h"
#include "device/device.h"
#include "rpc/buffers.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"

/* SENDs whose completions nobody polls for are polled by the service, first after 1 ms, then at
 * growing intervals. */
static const rt_backoff_curve reaping = {.first_ns = RT_NS_PER_MS, .last_ns = 100 * RT_NS_PER_MS, .share = 1};

_Static_assert(RT_RPC_RECEIVES <= 32 && RT_RPC_SENDS <= 32, "a bit for each slot");

/* ---- set-up ---- */

/* The handlers of the device, in order; NULL ends them. */
static const rt_rpc_handler *const *handlers_of(const rt_channel *channel)
{
    return channel->device->rpc_pool->handlers;
}

/* Copies whose link nobody chooses take the first one (copy.c). Both ends have the same links here: they have joined. */
static rt_link *carrier_link(const rt_channel *channel)
{
    return &channel->links[channel->link_count - 1];
}

static int receive_post(rt_channel *channel, uint32_t slot, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    rt_segment segment = rt_rpc_receive_slot(rpc, slot);
    int status = rt_link_receive(carrier_link(channel), &segment, slot, detail);
    if (status == RT_OK)
        rpc->receives |= 1u << slot;
    return status;
}

/* Only one handler has something to make. */
static int handlers_open(const rt_channel *channel, rt_rpc *rpc, rt_detail *detail)
{
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++) {
        if ((*handler)->open != NULL)
            return (*handler)->open(rpc, detail);
    }
    return RT_OK;
}

int rt_rpc_open(rt_channel *channel, rt_detail *detail)
{
    rt_rpc *rpc = calloc(1, sizeof *rpc);
    if (rpc == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the RPC of a channel");
    int status = rt_rpc_take_buffers(channel->device, rpc, detail);
    if (status != RT_OK) {
        free(rpc);
        return status;
    }
    status = handlers_open(channel, rpc, detail);
    if (status != RT_OK) {
        rt_rpc_give_buffers(rpc);
        free(rpc);
        return status;
    }
    rpc->reap_ns = INT64_MAX;
    channel->pools.open = true;
    channel->rpc = rpc; /* from here on rt_rpc_close ends it, after the receives were flushed */
    for (uint32_t slot = 0; slot < RT_RPC_RECEIVES && status == RT_OK; slot++)
        status = receive_post(channel, slot, detail);
    return status;
}

void rt_rpc_close(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    if (rpc == NULL)
        return;
    assert(rt_list_empty(&channel->remotes));
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++)
        (*handler)->closed(channel);
    channel->rpc = NULL;
    rt_rpc_give_buffers(rpc);
    free(rpc);
    rt_device_changed(channel->device);
}

bool rt_rpc_quiet(const rt_channel *channel)
{
    const rt_rpc *rpc = channel->rpc;
    for (uint32_t index = 0; rpc != NULL && index < channel->link_count; index++) {
        if (rt_receives_outstanding(&channel->links[index]) != 0)
            return false;
    }
    return rpc == NULL || (rpc->receives == 0 && atomic_load_explicit(&carrier_link(channel)->sends, memory_order_acquire) == 0);
}

/* ---- sending ---- */

static bool slot_find_free(const rt_link *link, uint32_t *slot_out)
{
    uint32_t taken = atomic_load_explicit(&link->sends, memory_order_acquire);
    for (uint32_t slot = 0; slot < RT_RPC_SENDS; slot++) {
        if ((taken & 1u << slot) == 0) {
            *slot_out = slot;
            return true;
        }
    }
    return false;
}

bool rt_rpc_send(rt_channel *channel, const uint8_t *bytes, size_t size)
{
    rt_rpc *rpc = channel->rpc;
    uint32_t slot;
    rt_link *link = carrier_link(channel);
    if (!slot_find_free(link, &slot))
        return false;
    rt_segment segment = rt_rpc_send_slot(rpc, slot, size);
    memcpy(segment.address, bytes, size);
    atomic_fetch_or_explicit(&link->sends, 1u << slot, memory_order_relaxed);
    rt_detail detail;
    int status = rt_link_send(link, &segment, slot, &detail);
    if (status == RT_OK)
        return true;
    rt_link_sent(link, slot);
    rpc->blocked = status == RT_E_AGAIN;
    if (status != RT_E_AGAIN)
        rt_channel_fail(channel, &detail);
    return false;
}

uint32_t rt_rpc_outstanding(const rt_channel *channel)
{
    uint32_t count = 0;
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++)
        count += (*handler)->outstanding(channel);
    return count;
}

uint32_t rt_rpc_pending(const rt_channel *channel)
{
    uint32_t count = 0;
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++)
        count += (*handler)->pending(channel);
    return count;
}

/* Whether SENDs wait for completions, their own or those of the items that fill the send queue, or
 * whether a key for the peer is being made. */
static bool sends_unreaped(const rt_channel *channel)
{
    const rt_rpc *rpc = channel->rpc;
    return rpc->blocked || rpc->keying || atomic_load_explicit(&carrier_link(channel)->sends, memory_order_acquire) != 0;
}

/* Polls for completions when nobody else does, so that slots come back and a failure is noticed. */
static void sends_reap(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    int64_t now = rt_device_time(channel->device);
    if (sends_unreaped(channel) && (rpc->reap_ns == INT64_MAX || now >= rpc->reap_ns)) {
        rt_queue_step(carrier_link(channel)->queue);
        for (uint32_t index = 0; rpc->keying && index < channel->link_count; index++)
            rt_queue_step(channel->links[index].queue);
        rpc->reap_ns = now + rt_backoff_next(&rpc->reaps, &reaping);
    }
    if (!sends_unreaped(channel)) {
        rpc->reap_ns = INT64_MAX;
        rpc->reaps = (rt_backoff){0};
    }
}

bool rt_rpc_run(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    if (rpc == NULL || rt_channel_state(channel) != RT_CHANNEL_READY)
        return false;
    bool moved = false;
    sends_reap(channel);
    rpc->blocked = rpc->keying = false;
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++)
        moved |= (*handler)->run(channel);
    sends_reap(channel);
    return moved;
}

/* ---- receiving ---- */

/* Takes the bytes of one message, of any kind. They are the caller's copy. */
static int message_bytes_take(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail)
{
    uint8_t kind = size != 0 ? bytes[0] : 0;
    for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++) {
        if (kind >= (*handler)->first && kind <= (*handler)->last)
            return (*handler)->received(channel, bytes, size, detail);
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "a message of unknown kind %u", kind);
}

static int message_immediate_take(rt_link *link, uint32_t immediate, rt_detail *detail)
{
    for (const rt_rpc_handler *const *handler = handlers_of(link->channel); *handler != NULL; handler++) {
        if ((*handler)->immediate != NULL)
            return (*handler)->immediate(link, immediate, detail);
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "an immediate that no edge expects");
}

/* Posts again the RECV that ended. */
static int receive_repost(rt_link *link, uint32_t slot, rt_detail *detail)
{
    return slot < RT_RPC_RECEIVES ? receive_post(link->channel, slot, detail)
                                  : rt_receives_post(link, slot - RT_RPC_RECEIVES, detail);
}

void rt_rpc_received(rt_link *link, const rt_completion *completion)
{
    rt_channel *channel = link->channel;
    rt_rpc *rpc = channel->rpc;
    int32_t state = rt_channel_state(channel);
    uint32_t slot = (uint32_t)(completion->token & (RT_TOKEN_RECEIVE - 1));
    rt_rpc_flushed(link, slot);
    bool extra = slot >= RT_RPC_RECEIVES;
    if (rpc == NULL || (extra && slot - RT_RPC_RECEIVES >= rt_receives_count(link)))
        return;
    if (state != RT_CHANNEL_CONNECTING && state != RT_CHANNEL_READY) {
        if (completion->has_immediate) /* its tensor was placed before the channel ended, and is whole */
            message_immediate_take(link, completion->immediate, NULL);
        return;
    }
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    size_t size = completion->has_immediate ? 0 : completion->size;
    rt_segment segment = extra ? rt_receives_slot(link, slot - RT_RPC_RECEIVES) : rt_rpc_receive_slot(rpc, slot);
    assert(size <= sizeof bytes);
    memcpy(bytes, segment.address, size);
    rt_detail detail;
    int status = receive_repost(link, slot, &detail); /* before the answer: the peer counts on the RECV */
    if (status == RT_OK && completion->has_immediate)
        status = message_immediate_take(link, completion->immediate, &detail);
    else if (status == RT_OK)
        status = message_bytes_take(channel, bytes, size, &detail);
    if (status == RT_OK && completion->has_immediate)
        return;
    if (status == RT_OK) {
        rt_rpc_run(channel);
        return;
    }
    rt_detail why;
    rt_fail(&why, status, 0, "the channel to %s failed while exchanging addresses: %.350s", channel->peer, detail.text);
    rt_channel_fail(channel, &why);
}

void rt_rpc_flushed(rt_link *link, uint32_t slot)
{
    if (slot >= RT_RPC_RECEIVES)
        rt_receives_flushed(link);
    else if (link->channel->rpc != NULL)
        link->channel->rpc->receives &= ~(1u << slot);
}

int64_t rt_rpc_next_deadline(const rt_device *device)
{
    int64_t due = INT64_MAX;
    RT_LIST_EACH(node, &device->channels) {
        const rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        const rt_rpc *rpc = channel->rpc;
        if (rpc == NULL || rt_channel_state(channel) != RT_CHANNEL_READY)
            continue;
        due = rpc->reap_ns < due ? rpc->reap_ns : due;
        for (const rt_rpc_handler *const *handler = handlers_of(channel); *handler != NULL; handler++) {
            int64_t next = (*handler)->next_deadline(channel);
            due = next < due ? next : due;
        }
    }
    return due;
}
