/* lookup.c: asking a peer for a name: the callers' side of answer.c. Once a lookup was released,
 * its number finds nothing any more. */
#include <inttypes.h>
#include <string.h>

#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "proto/rpc_message.h"
#include "rpc/carrier.h"
#include "rpc/lookup.h"

enum { RT_LOOKUP_INDEX_BITS = 4 };
_Static_assert(RT_RPC_REQUESTS_MAX <= 1 << RT_LOOKUP_INDEX_BITS, "the number of a lookup has room for its index");

/* device->lock held. NULL: it was released, or the channel has ended. */
static rt_lookup *lookup_find(rt_channel *channel, int64_t number)
{
    int64_t index = number & ((1 << RT_LOOKUP_INDEX_BITS) - 1);
    if (channel->rpc == NULL || number <= 0 || index >= RT_RPC_REQUESTS_MAX)
        return NULL;
    rt_lookup *lookup = &channel->rpc->lookups[index];
    bool current = lookup->state != RT_LOOKUP_FREE && !lookup->abandoned && lookup->generation == number >> RT_LOOKUP_INDEX_BITS;
    return current ? lookup : NULL;
}

/* device->lock held. */
static int64_t lookup_start(rt_channel *channel, const char *name, int64_t wait_ns, rt_detail *detail)
{
    rt_rpc *rpc = channel->rpc;
    if (rt_channel_state(channel) != RT_CHANNEL_READY || rpc == NULL)
        return rt_channel_refuse(channel, detail);
    for (int64_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        rt_lookup *lookup = &rpc->lookups[index];
        if (lookup->state != RT_LOOKUP_FREE)
            continue;
        uint32_t generation = lookup->generation + 1;
        memset(lookup, 0, sizeof *lookup);
        lookup->generation = generation != 0 ? generation : 1;
        lookup->state = RT_LOOKUP_NEW;
        lookup->request = rpc->next_request++;
        lookup->wait_ms = rt_ms_of_wait(wait_ns);
        memcpy(lookup->name, name, strlen(name));
        rt_rpc_run(channel);
        return (int64_t)lookup->generation << RT_LOOKUP_INDEX_BITS | index;
    }
    return rt_fail(detail, RT_E_BUSY, 0, "cannot look up '%s' yet: %d lookups at %s are outstanding", name, RT_RPC_REQUESTS_MAX,
                   channel->peer);
}

int64_t rt_lookup_start(rt_channel *channel, const char *name, int64_t wait_ns, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = name == NULL ? rt_fail(detail, RT_E_INVALID, 0, "no name to look up") : rt_rpc_check_name(name, detail);
    if (status != RT_OK)
        return status;
    status = rt_device_lock_until(channel->device, rt_device_time(channel->device) + RT_SLICE_NS, detail);
    if (status != RT_OK)
        return status;
    int64_t number = lookup_start(channel, name, wait_ns, detail);
    pthread_mutex_unlock(&channel->device->lock);
    if (number > 0)
        rt_service_kick(channel->device); /* the service keeps the deadlines of requests that were not sent yet */
    return number;
}

int rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        rt_lookup *lookup = &channel->rpc->lookups[index];
        if (lookup->state != RT_LOOKUP_SENT || lookup->request != message->request)
            continue;
        lookup->state = lookup->abandoned ? RT_LOOKUP_FREE : RT_LOOKUP_DONE;
        lookup->abandoned = false;
        lookup->status = message->kind == RT_RPC_FOUND ? RT_OK : RT_E_NOT_FOUND;
        lookup->published_count = message->published_count;
        lookup->handle_size = message->handle_size;
        memcpy(lookup->handle, message->handle, message->handle_size);
        rt_device_changed(channel->device);
        return RT_OK;
    }
    return rt_fail(detail, RT_E_PROTOCOL, 0, "a reply to lookup %u, which is not outstanding", message->request);
}

/* RT_E_AGAIN: not answered yet. device->lock held. */
static int lookup_look(rt_channel *channel, int64_t number, uint8_t *handle_out, size_t *size_out, rt_detail *detail)
{
    const rt_lookup *lookup = lookup_find(channel, number);
    if (lookup != NULL && lookup->state == RT_LOOKUP_DONE) {
        if (lookup->status != RT_OK)
            return rt_fail(detail, RT_E_NOT_FOUND, 0,
                           "'%s' is not published by %s, which has %u other names; waited %.1f s for it", lookup->name,
                           channel->peer, lookup->published_count, lookup->wait_ms / 1000.0);
        memcpy(handle_out, lookup->handle, lookup->handle_size);
        *size_out = lookup->handle_size;
        return RT_OK;
    }
    if (rt_channel_state(channel) != RT_CHANNEL_READY)
        return rt_channel_refuse(channel, detail);
    if (lookup == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "lookup %" PRId64 " was released", number);
    return rt_fail(detail, RT_E_AGAIN, 0, "%s has not answered the lookup of '%s' yet", channel->peer, lookup->name);
}

int rt_lookup_wait(rt_channel *channel, int64_t number, int64_t timeout_ns, uint8_t *handle_out, size_t *size_out,
                   rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    rt_device *device = channel->device;
    int64_t end = rt_device_slice_end(device, timeout_ns);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        int status = rt_device_lock_until(device, end, detail);
        if (status != RT_OK)
            return status;
        status = lookup_look(channel, number, handle_out, size_out, detail);
        pthread_mutex_unlock(&device->lock);
        if (status != RT_E_AGAIN)
            return status;
        status = rt_service_wait(device, seen, end);
        if (status == RT_E_INTERRUPTED)
            return rt_fail(detail, status, 0, "a signal ended the wait for a lookup");
        if (status != RT_OK)
            return status;
    }
}

void rt_lookup_release(rt_channel *channel, int64_t number)
{
    if (rt_forked())
        return;
    pthread_mutex_lock(&channel->device->lock);
    rt_lookup *lookup = lookup_find(channel, number);
    if (lookup != NULL && lookup->state == RT_LOOKUP_SENT)
        lookup->abandoned = true; /* the peer will still answer */
    else if (lookup != NULL)
        lookup->state = RT_LOOKUP_FREE;
    pthread_mutex_unlock(&channel->device->lock);
}
