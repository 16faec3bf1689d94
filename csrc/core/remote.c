/* remote.c: a peer's range made usable through a channel. Its last reference may go on the data path, under turns, where the
 * device's lock may not be waited for: such remotes are put aside and detached by whoever has the lock next. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/control.h"

_Static_assert((int)RT_RIGHT_REMOTE_WRITE == (int)RT_ACCESS_REMOTE_WRITE &&
                   (int)RT_RIGHT_REMOTE_READ == (int)RT_ACCESS_REMOTE_READ,
               "rights and access are the same bits");

/* ---- attaching ---- */

static int check_handle(const rt_channel *channel, const rt_handle *handle, rt_detail *detail)
{
    const char *provider = channel->device->provider->name;
    if (strcmp(handle->provider, provider) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "this handle is of provider %s and the channel of %s", handle->provider,
                       provider);
    if (memcmp(handle->device_id, channel->peer_id, sizeof handle->device_id) != 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "this handle belongs to another device: the channel leads to %s, whose handles alone it "
                       "can attach",
                       channel->peer);
    return RT_OK;
}

/* RT_E_AGAIN: the provider wants to be asked again after its next event. device->lock held. */
static int attach(rt_channel *channel, const rt_handle *handle, rt_remote *remote, rt_detail *detail)
{
    if (rt_channel_state(channel) != RT_CHANNEL_READY || channel->rpc == NULL)
        return rt_channel_refuse(channel, detail);
    int status = check_handle(channel, handle, detail);
    if (status != RT_OK)
        return status;
    status = channel->device->provider->remote_attach(channel->links[0].plink, handle->key, handle->key_size,
                                                      handle->registration_size, handle->rights, &remote->premote, detail);
    if (status != RT_OK)
        return status;
    rt_list_append(&channel->rpc->remotes, &remote->node);
    rt_channel_reference(channel);
    return RT_OK;
}

static rt_remote *remote_new(rt_channel *channel, const rt_handle *handle, uint64_t alias_address)
{
    rt_remote *remote = calloc(1, sizeof *remote);
    if (remote == NULL)
        return NULL;
    remote->channel = channel;
    remote->offset = handle->offset;
    remote->size = handle->size;
    remote->rights = handle->rights;
    remote->alias_address = alias_address;
    atomic_init(&remote->references, 1);
    rt_list_init(&remote->node);
    return remote;
}

static int attach_until(rt_channel *channel, const rt_handle *handle, rt_remote *remote, int64_t end_ns, rt_detail *detail)
{
    rt_device *device = channel->device;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        pthread_mutex_lock(&device->lock);
        int status = attach(channel, handle, remote, detail);
        pthread_mutex_unlock(&device->lock);
        if (status != RT_E_AGAIN)
            return status;
        status = rt_service_wait(device, seen, end_ns);
        if (status != RT_OK)
            return rt_fail(detail, status, 0, "%s has not let its memory be attached yet", channel->peer);
    }
}

int rt_remote_attach(rt_channel *channel, const uint8_t *handle_bytes, size_t size, int64_t timeout_ns, rt_remote **remote_out,
                     rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the channel is its parent's");
    rt_handle handle;
    int status = rt_handle_decode(handle_bytes, size, &handle, detail);
    if (status != RT_OK)
        return status;
    rt_remote *remote = remote_new(channel, &handle, rt_device_alias(&handle));
    if (remote == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a remote region");
    int64_t end = rt_device_time(channel->device) + (timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS);
    status = attach_until(channel, &handle, remote, end, detail);
    explicit_bzero(&handle, sizeof handle);
    if (status == RT_OK)
        *remote_out = remote;
    else
        free(remote);
    return status;
}

int rt_remote_attach_now(rt_channel *channel, const uint8_t *handle_bytes, size_t size, rt_remote **remote_out, rt_detail *detail)
{
    rt_handle handle;
    int status = rt_handle_decode(handle_bytes, size, &handle, detail);
    if (status != RT_OK)
        return status;
    rt_remote *remote = remote_new(channel, &handle, 0);
    status = remote == NULL ? rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a remote region")
                            : attach(channel, &handle, remote, detail);
    explicit_bzero(&handle, sizeof handle);
    if (status == RT_OK)
        *remote_out = remote;
    else
        free(remote);
    return status;
}

/* ---- letting go ---- */

/* device->lock held. */
static void detach(rt_remote *remote)
{
    if (remote->premote == NULL)
        return;
    const rt_channel *channel = remote->channel;
    assert(!channel->links_gone);
    channel->device->provider->remote_detach(channel->links[0].plink, remote->premote);
    remote->premote = NULL;
    rt_list_remove(&remote->node);
}

void rt_remotes_detach(rt_channel *channel)
{
    if (channel->rpc == NULL || channel->links_gone)
        return;
    RT_LIST_EACH_SAFE(node, &channel->rpc->remotes)
        detach(RT_LIST_ENTRY(node, rt_remote, node));
}

bool rt_remotes_settle(rt_device *device)
{
    rt_remote *remote = atomic_exchange(&device->detached, NULL);
    bool any = remote != NULL;
    while (remote != NULL) {
        rt_remote *next = remote->next_detached;
        rt_channel *channel = remote->channel;
        detach(remote);
        free(remote);
        rt_channel_unreference(channel);
        remote = next;
    }
    return any;
}

static void put_aside(rt_device *device, rt_remote *remote)
{
    remote->next_detached = atomic_load(&device->detached);
    while (!atomic_compare_exchange_weak(&device->detached, &remote->next_detached, remote))
        continue;
}

void rt_remote_reference(rt_remote *remote)
{
    atomic_fetch_add_explicit(&remote->references, 1, memory_order_relaxed);
}

/* Takes device->lock. What is put aside may hold the last reference that keeps the device. */
static void settle_now(rt_device *device, rt_remote *remote)
{
    rt_device_reference(device);
    put_aside(device, remote);
    pthread_mutex_lock(&device->lock);
    rt_remotes_settle(device);
    pthread_mutex_unlock(&device->lock);
    rt_service_kick(device); /* a channel that has ended may have waited for it */
    rt_device_unreference(device);
}

/* Any thread, under any turn. Of a device that is closed no turn is taken any more, and no service comes by. */
void rt_remote_unreference(rt_remote *remote)
{
    rt_device *device = remote->channel->device;
    if (atomic_fetch_sub_explicit(&remote->references, 1, memory_order_acq_rel) != 1)
        return;
    if (atomic_load_explicit(&device->closed, memory_order_acquire)) {
        settle_now(device, remote);
        return;
    }
    put_aside(device, remote);
    rt_service_kick(device);
}

/* The caller holds nothing, so it can take the lock and end the use now. */
void rt_remote_drop(rt_remote *remote)
{
    if (rt_forked())
        return;
    if (atomic_fetch_sub_explicit(&remote->references, 1, memory_order_acq_rel) == 1)
        settle_now(remote->channel->device, remote);
}

uint64_t rt_remote_size(const rt_remote *remote)
{
    return remote->size;
}

uint32_t rt_remote_rights(const rt_remote *remote)
{
    return remote->rights;
}

uint64_t rt_remote_address(const rt_remote *remote)
{
    if (rt_forked() || remote->premote == NULL || !remote->channel->device->limits.maps_remote)
        return 0;
    const uint8_t *start = remote->channel->device->provider->remote_map(remote->premote);
    return start == NULL ? 0 : (uint64_t)(uintptr_t)(start + remote->offset);
}
