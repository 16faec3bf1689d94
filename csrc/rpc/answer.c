/* answer.c: address distribution: sends our lookups, and answers those of the peer, at once or when
 * the name appears or their time is up. The messages are in proto/rpc_message.c, their carrier in
 * carrier.c, the callers of a lookup in lookup.c. device->lock held. */
#include <assert.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "device/device.h"
#include "proto/handle.h"
#include "proto/rpc_message.h"
#include "region/keys.h"
#include "region/names.h"
#include "region/region.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"
#include "rpc/lookup.h"

/* True when it was sent; false when it must be tried again. */
static bool message_send(rt_channel *channel, const rt_rpc_message *message)
{
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    int64_t size = rt_rpc_encode(message, bytes, sizeof bytes);
    assert(size > 0);
    return rt_rpc_send(channel, bytes, (size_t)size);
}

static bool lookup_send(rt_channel *channel, rt_lookup *lookup)
{
    if (rt_rpc_outstanding(channel) >= RT_RPC_REQUESTS_MAX)
        return false; /* the peer takes this many at most; an answer makes room */
    rt_rpc_message message = {.kind = RT_RPC_LOOKUP, .request = lookup->request, .wait_ms = lookup->wait_ms};
    message.name_size = (uint8_t)strlen(lookup->name);
    memcpy(message.name, lookup->name, (size_t)message.name_size + 1);
    if (!message_send(channel, &message))
        return false;
    lookup->state = RT_LOOKUP_SENT;
    return true;
}

static int handle_for_peer(rt_region *region, uint64_t offset, uint64_t size, const rt_channel *channel, uint8_t *handle_out,
                           size_t *size_out, rt_detail *detail)
{
    rt_handle handle;
    rt_plink *links[RT_MEMORY_KEY_LINKS_MAX];
    assert((region->rights & RT_RIGHT_PER_PEER_KEYS) != 0);
    assert(channel->link_count <= RT_MEMORY_KEY_LINKS_MAX); /* larger channels are refused such regions */
    int status = rt_region_describe(region, offset, size, &handle, detail);
    if (status != RT_OK)
        return status;
    for (uint32_t index = 0; index < channel->link_count; index++)
        links[index] = channel->links[index].plink;
    status = rt_key_for(region, channel, links, channel->link_count, handle.key, &handle.key_size, detail);
    if (status != RT_OK)
        return status;
    int64_t encoded = rt_handle_encode(&handle, handle_out, RT_HANDLE_SIZE_MAX);
    explicit_bzero(&handle, sizeof handle);
    assert(encoded > 0);
    *size_out = (size_t)encoded;
    return RT_OK;
}

/* The handle that the peer gets for a name. RT_E_AGAIN: not available yet. */
static int handle_of(rt_channel *channel, const rt_name *name, rt_rpc_message *message, rt_detail *detail)
{
    size_t size = name->handle_size;
    if (size != 0) {
        memcpy(message->handle, name->handle, size);
    } else {
        int status = handle_for_peer(name->region, name->offset, name->size, channel, message->handle, &size, detail);
        if (status != RT_OK)
            return status;
    }
    message->kind = RT_RPC_FOUND;
    message->handle_size = (uint8_t)size;
    return RT_OK;
}

/* Answers a lookup of the peer when its name is published or its time is up. */
static bool lookup_answer(rt_channel *channel, rt_request *request)
{
    rt_device *device = channel->device;
    const rt_name *name = rt_name_find(device, request->name, channel);
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
        message.published_count = rt_name_count(device, &channel->names);
    } else {
        return false;
    }
    if (!message_send(channel, &message))
        return false;
    request->active = false;
    return true;
}

static int lookup_request_take(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX && rt_rpc_pending(channel) < RT_RPC_REQUESTS_MAX; index++) {
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

static int message_take(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    switch ((enum rt_rpc_kind)message->kind) {
    case RT_RPC_LOOKUP: return lookup_request_take(channel, message, detail);
    case RT_RPC_FOUND:
    case RT_RPC_MISSING: return rt_lookup_answered(channel, message, detail);
    }
    return RT_E_PROTOCOL;
}

static int names_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail)
{
    rt_rpc_message message;
    int status = rt_rpc_decode(bytes, size, &message, detail);
    return status == RT_OK ? message_take(channel, &message, detail) : status;
}

static bool names_run(rt_channel *channel)
{
    rt_rpc *rpc = channel->rpc;
    bool moved = false;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        if (rpc->requests[index].active)
            moved |= lookup_answer(channel, &rpc->requests[index]);
        if (rpc->lookups[index].state == RT_LOOKUP_NEW)
            moved |= lookup_send(channel, &rpc->lookups[index]);
    }
    return moved;
}

static int64_t names_next_deadline(const rt_channel *channel)
{
    const rt_request *requests = channel->rpc->requests;
    int64_t due = INT64_MAX;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        if (requests[index].active && requests[index].deadline_ns < due)
            due = requests[index].deadline_ns;
    }
    return due;
}

static uint32_t names_outstanding(const rt_channel *channel)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        count += channel->rpc->lookups[index].state == RT_LOOKUP_SENT;
    return count;
}

static uint32_t names_pending(const rt_channel *channel)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++)
        count += channel->rpc->requests[index].active;
    return count;
}

static void names_closed(rt_channel *channel)
{
    rt_keys_forget_channel(channel->device, channel);
    rt_names_forget_private(channel->device, &channel->names);
}

const rt_rpc_handler rt_names_handler = {
    .first = 0,
    .last = RT_RPC_MISSING,
    .received = names_received,
    .run = names_run,
    .next_deadline = names_next_deadline,
    .outstanding = names_outstanding,
    .pending = names_pending,
    .closed = names_closed,
};
