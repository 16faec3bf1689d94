/* rpc.c: address distribution over SEND and RECV of a channel's first link: keeps receives posted, answers the peer's lookups now
 * or when the name appears or their time is up, sends ours. The messages are in proto/rpc_message.c; the callers of a
 * lookup are in lookup.c. device->lock held, except where it says otherwise. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/edge.h"

/* SENDs whose completion nobody polls for are looked after by the service, first after 1 ms, then less and less often. */
#define RT_REAP_MIN_NS RT_NS_PER_MS
#define RT_REAP_MAX_NS (100 * RT_NS_PER_MS)

_Static_assert(RT_RPC_RECEIVES <= 32 && RT_RPC_SENDS <= 32, "a bit for each slot");

/* ---- set-up ---- */

static int post_receive(rt_channel *channel, uint32_t slot, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    rt_segment segment = rt_rpc_receive_slot(rpc, slot);
    int status = rt_link_receive(&channel->links[0], &segment, slot, detail);
    if (status == RT_OK)
        rpc->receives |= 1u << slot;
    return status;
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
    rpc->reap_ns = INT64_MAX;
    rt_list_init(&rpc->remotes);
    rt_list_init(&rpc->edges);
    channel->rpc = rpc; /* from here on rt_rpc_close ends it, after the receives were flushed */
    for (uint32_t slot = 0; slot < RT_RPC_RECEIVES && status == RT_OK; slot++)
        status = post_receive(channel, slot, detail);
    return status;
}

void rt_rpc_close(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    if (rpc == NULL)
        return;
    assert(rt_list_empty(&rpc->remotes));
    rt_edges_channel_closed(channel);
    rt_keys_forget_channel(channel);
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
    return rpc == NULL || (rpc->receives == 0 && atomic_load_explicit(&rpc->sends, memory_order_acquire) == 0);
}

/* ---- sending ---- */

/* Under a queue's turn, without device->lock. Pairs with the acquire in rt_rpc_quiet and free_slot. */
void rt_rpc_sent(rt_channel *channel, uint32_t slot)
{
    atomic_fetch_and_explicit(&channel->rpc->sends, ~(1u << slot), memory_order_release);
}

static bool free_slot(const rt_rpc *rpc, uint32_t *slot_out)
{
    uint32_t taken = atomic_load_explicit(&rpc->sends, memory_order_acquire);
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
    if (!free_slot(rpc, &slot))
        return false;
    rt_segment segment = rt_rpc_send_slot(rpc, slot, size);
    memcpy(segment.address, bytes, size);
    atomic_fetch_or_explicit(&rpc->sends, 1u << slot, memory_order_relaxed);
    rt_detail detail;
    int status = rt_link_send(&channel->links[0], &segment, slot, &detail);
    if (status == RT_OK)
        return true;
    rt_rpc_sent(channel, slot);
    rpc->blocked = status == RT_E_AGAIN;
    if (status != RT_E_AGAIN)
        rt_channel_fail(channel, &detail);
    return false;
}

/* True when it was sent; false when it must be tried again. */
static bool send_message(rt_channel *channel, const rt_rpc_message *message)
{
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    int64_t size = rt_rpc_encode(message, bytes, sizeof bytes);
    assert(size > 0);
    return rt_rpc_send(channel, bytes, (size_t)size);
}

uint32_t rt_rpc_outstanding(const rt_rpc *rpc)
{
    uint32_t count = rpc->asked;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        count += rpc->lookups[index].state == RT_LOOKUP_SENT;
    return count;
}

uint32_t rt_rpc_pending(const rt_rpc *rpc)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        count += rpc->requests[index].active + rpc->edge_requests[index].active;
    return count;
}

static bool send_lookup(rt_channel *channel, rt_lookup *lookup)
{
    if (rt_rpc_outstanding(channel->rpc) >= RT_RPC_REQUESTS_MAX)
        return false; /* the peer takes so many; an answer makes room */
    rt_rpc_message message = {.kind = RT_RPC_LOOKUP, .request = lookup->request, .wait_ms = lookup->wait_ms};
    message.name_size = (uint8_t)strlen(lookup->name);
    memcpy(message.name, lookup->name, (size_t)message.name_size + 1);
    if (!send_message(channel, &message))
        return false;
    lookup->state = RT_LOOKUP_SENT;
    return true;
}

/* The handle that the peer gets for a name. RT_E_AGAIN: not yet. */
static int handle_of(rt_channel *channel, const rt_name *name, rt_rpc_message *message, rt_detail *detail)
{
    size_t size = name->handle_size;
    if (size != 0) {
        memcpy(message->handle, name->handle, size);
    } else {
        int status = rt_region_handle_for(name->region, name->offset, name->size, channel, message->handle, &size, detail);
        if (status != RT_OK)
            return status;
    }
    message->kind = RT_RPC_FOUND;
    message->handle_size = (uint8_t)size;
    return RT_OK;
}

/* Answers a lookup of the peer when its name is there or its time is up. */
static bool answer(rt_channel *channel, rt_request *request)
{
    rt_device *device = channel->device;
    const rt_name *name = rt_name_find(device, request->name);
    rt_rpc_message message = {.request = request->request};
    if (name != NULL) {
        rt_detail detail;
        int status = handle_of(channel, name, &message, &detail);
        channel->rpc->keying |= status == RT_E_AGAIN;
        if (status != RT_OK && status != RT_E_AGAIN)
            rt_channel_fail(channel, &detail);
        if (status != RT_OK)
            return false;
    } else if (rt_device_time(device) >= request->deadline_ns) {
        message.kind = RT_RPC_MISSING;
        message.published_count = rt_name_count(device);
    } else {
        return false;
    }
    if (!send_message(channel, &message))
        return false;
    request->active = false;
    return true;
}

/* Whether SENDs wait for completions, their own or those of what fills the send queue, or keys for those of their making. */
static bool unreaped(const rt_rpc *rpc)
{
    return rpc->blocked || rpc->keying || atomic_load_explicit(&rpc->sends, memory_order_acquire) != 0;
}

/* Polls for completions when nobody else does, so that slots come back and a failure is noticed. */
static void reap(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    int64_t now = rt_device_time(channel->device);
    if (unreaped(rpc) && (rpc->reap_ns == INT64_MAX || now >= rpc->reap_ns)) {
        for (uint32_t index = 0; index < (rpc->keying ? channel->link_count : 1); index++)
            rt_queue_step(channel->links[index].queue);
        rpc->reap_nap_ns = rpc->reap_nap_ns == 0 ? RT_REAP_MIN_NS : 2 * rpc->reap_nap_ns;
        rpc->reap_nap_ns = rpc->reap_nap_ns < RT_REAP_MAX_NS ? rpc->reap_nap_ns : RT_REAP_MAX_NS;
        rpc->reap_ns = now + rpc->reap_nap_ns;
    }
    if (!unreaped(rpc)) {
        rpc->reap_ns = INT64_MAX;
        rpc->reap_nap_ns = 0;
    }
}

bool rt_rpc_run(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    if (rpc == NULL || rt_channel_state(channel) != RT_CHANNEL_READY)
        return false;
    bool moved = false;
    reap(channel);
    rpc->blocked = rpc->keying = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        if (rpc->requests[index].active)
            moved |= answer(channel, &rpc->requests[index]);
        if (rpc->lookups[index].state == RT_LOOKUP_NEW)
            moved |= send_lookup(channel, &rpc->lookups[index]);
    }
    moved |= rt_edges_run(channel);
    reap(channel);
    return moved;
}

/* ---- receiving ---- */

static int take_request(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX && rt_rpc_pending(rpc) < RT_RPC_REQUESTS_MAX; index++) {
        rt_request *request = &rpc->requests[index];
        if (request->active)
            continue;
        request->active = true;
        request->request = message->request;
        request->deadline_ns = rt_device_time(channel->device) + message->wait_ms * RT_NS_PER_MS;
        memcpy(request->name, message->name, sizeof request->name);
        return RT_OK;
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "%s has more than %d requests outstanding", channel->peer, RT_RPC_REQUESTS_MAX);
}

static int take_message(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    switch ((enum rt_rpc_kind)message->kind) {
    case RT_RPC_LOOKUP: return take_request(channel, message, detail);
    case RT_RPC_FOUND:
    case RT_RPC_MISSING: return rt_lookup_answered(channel, message, detail);
    }
    return RT_E_PROTOCOL;
}

/* Takes the bytes of one message, of either kind. They are the caller's copy. */
static int take_bytes(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail)
{
    if (size != 0 && bytes[0] > RT_RPC_MISSING)
        return rt_edges_received(channel, bytes, size, detail);
    rt_rpc_message message;
    int status = rt_rpc_decode(bytes, size, &message, detail);
    return status == RT_OK ? take_message(channel, &message, detail) : status;
}

/* Posts again the RECV that ended. */
static int repost(rt_link *link, uint32_t slot, rt_detail *detail)
{
    return slot < RT_RPC_RECEIVES ? post_receive(link->channel, slot, detail)
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
            rt_edge_immediate(link, completion->immediate, NULL);
        return;
    }
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    size_t size = completion->has_immediate ? 0 : completion->size;
    rt_segment segment = extra ? rt_receives_slot(link, slot - RT_RPC_RECEIVES) : rt_rpc_receive_slot(rpc, slot);
    assert(size <= sizeof bytes);
    memcpy(bytes, segment.address, size);
    rt_detail detail;
    int status = repost(link, slot, &detail); /* before the answer: the peer counts on it */
    if (status == RT_OK && completion->has_immediate)
        status = rt_edge_immediate(link, completion->immediate, &detail);
    else if (status == RT_OK)
        status = take_bytes(channel, bytes, size, &detail);
    if (status == RT_OK && completion->has_immediate)
        return;
    if (status == RT_OK) {
        rt_rpc_run(channel);
        return;
    }
    rt_detail why;
    rt_fail(&why, status, 0, "the channel to %s broke while distributing addresses: %.350s", channel->peer, detail.text);
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
        int64_t edges = rt_edges_next_deadline(channel);
        due = edges < due ? edges : due;
        for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
            if (rpc->requests[index].active && rpc->requests[index].deadline_ns < due)
                due = rpc->requests[index].deadline_ns;
        }
    }
    return due;
}
