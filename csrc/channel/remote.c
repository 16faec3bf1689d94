/* remote.c: a peer's range made usable through a channel. A remote whose last reference is released
 * under a turn is handled in aside.c. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "channel/remote.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "proto/handle.h"
#include "region/keys.h"

_Static_assert((int)RT_RIGHT_REMOTE_WRITE == (int)RT_ACCESS_REMOTE_WRITE &&
                   (int)RT_RIGHT_REMOTE_READ == (int)RT_ACCESS_REMOTE_READ,
               "rights and access are the same bits");

/* ---- attaching ---- */

static int handle_check(const rt_channel *channel, const rt_handle *handle, rt_detail *detail)
{
    const char *provider = channel->device->provider->name;
    if (strcmp(handle->provider, provider) != 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "this handle is of provider %s and the channel of %s: open both ends with the same provider",
                       handle->provider, provider);
    if (memcmp(handle->device_id, channel->peer_id, sizeof handle->device_id) != 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "this handle belongs to another device: the channel leads to %s, whose handles alone it "
                       "can attach",
                       channel->peer);
    return RT_OK;
}

/* RT_E_AGAIN: ask the provider again after its next event. device->lock held. */
static int handle_attach(rt_channel *channel, const rt_handle *handle, rt_remote *remote, rt_detail *detail)
{
    if (rt_channel_state(channel) != RT_CHANNEL_READY || channel->rpc == NULL)
        return rt_channel_refuse(channel, detail);
    int status = handle_check(channel, handle, detail);
    if (status != RT_OK)
        return status;
    status = channel->device->provider->remote_attach(channel->links[0].plink, handle->key, handle->key_size,
                                                      handle->registration_size, handle->rights, &remote->premote, detail);
    if (status != RT_OK)
        return status;
    rt_list_append(&channel->remotes, &remote->node);
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

static int handle_attach_until(rt_channel *channel, const rt_handle *handle, rt_remote *remote, int64_t end_ns, rt_detail *detail)
{
    rt_device *device = channel->device;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        int status = rt_device_lock_until(device, end_ns, detail);
        if (status != RT_OK)
            return status;
        status = handle_attach(channel, handle, remote, detail);
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
        return rt_fork_refuse(detail);
    rt_handle handle;
    int status = rt_handle_decode(handle_bytes, size, &handle, detail);
    if (status != RT_OK)
        return status;
    rt_remote *remote = remote_new(channel, &handle, rt_device_alias(&handle));
    if (remote == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a remote region");
    int64_t end = rt_device_slice_end(channel->device, timeout_ns);
    status = handle_attach_until(channel, &handle, remote, end, detail);
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
                            : handle_attach(channel, &handle, remote, detail);
    explicit_bzero(&handle, sizeof handle);
    if (status == RT_OK)
        *remote_out = remote;
    else
        free(remote);
    return status;
}

/* ---- letting go ---- */

/* device->lock held. */
static void remote_end(rt_remote *remote)
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
    RT_LIST_EACH_SAFE(node, &channel->remotes)
        remote_end(RT_LIST_ENTRY(node, rt_remote, node));
}

bool rt_remotes_settle(rt_device *device)
{
    rt_remote *remote = atomic_exchange(&device->detached, NULL);
    bool any = remote != NULL;
    while (remote != NULL) {
        rt_remote *next = remote->next_detached;
        rt_channel *channel = remote->channel;
        remote_end(remote);
        free(remote);
        rt_channel_unreference(channel);
        remote = next;
    }
    return any;
}

/* The caller holds no lock or turn, so this can take device->lock and end the use now. */
void rt_remote_drop(rt_remote *remote)
{
    if (rt_forked())
        return;
    if (atomic_fetch_sub_explicit(&remote->references, 1, memory_order_acq_rel) == 1)
        rt_remote_settle(remote->channel->device, remote);
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
