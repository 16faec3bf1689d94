/* connect.c: the connecting end of a channel: checks that the address may be connected to, and
 * begins. Also how either end closes it. */
#include <stdio.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "control/connection.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "stream/stream.h"

/* Without a secret the kernel identifies the process at the other end, and it knows only this
 * machine's. */
static int stream_reach_check(const rt_device *device, const void *stream, const char *address, size_t secret_size,
                              rt_detail *detail)
{
    if (device->provider->streams != NULL || secret_size != 0 || rt_socket_loopback(stream))
        return RT_OK;
    return rt_fail(detail, RT_E_AUTH, 0,
                   "will not connect to %s without a secret: it may be another machine; give both ends the same "
                   "secret (secret= or RDMATENSOR_SECRET)",
                   address);
}

/* Makes the channel around a stream that has begun to connect, and takes the stream. device->lock
 * held. */
static int connection_begin(rt_device *device, const rt_stream_ops *ops, void *stream, const char *address, const uint8_t *secret,
                            size_t secret_size, rt_channel **channel_out, rt_detail *detail)
{
    rt_control *control;
    int status = device->lost ? rt_detail_pass(detail, &device->failure)
                              : stream_reach_check(device, stream, address, secret_size, detail);
    if (status == RT_OK)
        status = rt_control_open(device, RT_ROLE_CONNECTOR, ops, stream, address, secret, secret_size, &control, detail);
    if (status != RT_OK) {
        ops->close(stream);
        return status;
    }
    status = rt_channel_create(device, device->links_per_peer, control->secret, &control->channel, detail);
    if (status != RT_OK) {
        rt_control_free(control);
        return status;
    }
    snprintf(control->channel->peer, sizeof control->channel->peer, "the peer at %.70s", address);
    control->channel->control = control;
    *channel_out = control->channel;
    return RT_OK;
}

int rt_channel_connect(rt_device *device, const char *address, const uint8_t *secret, size_t secret_size,
                       rt_channel **channel_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    if (device == NULL || address == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "no %s to connect", device == NULL ? "device" : "address");
    if (secret_size > RT_SECRET_SIZE_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a secret of %zu bytes is too long: at most %d", secret_size, RT_SECRET_SIZE_MAX);
    bool is_socket = device->provider->streams == NULL;
    const rt_stream_ops *ops = is_socket ? &rt_socket_ops : device->provider->streams;
    void *stream = NULL;
    int status = RT_OK;
    if (is_socket) /* may resolve a name: without the lock */
        status = ops->connect(device->pdevice, address, &stream, detail);
    if (status != RT_OK)
        return status;
    status = rt_device_lock_until(device, rt_device_time(device) + RT_SLICE_NS, detail);
    if (status != RT_OK) {
        if (stream != NULL)
            ops->close(stream);
        return status;
    }
    if (!is_socket)
        status = ops->connect(device->pdevice, address, &stream, detail);
    if (status == RT_OK)
        status = connection_begin(device, ops, stream, address, secret, secret_size, channel_out, detail);
    pthread_mutex_unlock(&device->lock);
    if (status == RT_OK) {
        rt_service_kick(device);
        if (device->limits.virtual_time)
            rt_service_run(device);
    }
    return status;
}

void rt_channel_close(rt_channel *channel)
{
    if (rt_forked())
        return;
    rt_device *device = channel->device;
    rt_detail why;
    rt_fail(&why, RT_E_CLOSED, 0, "the channel to %s was closed on this side", channel->peer);
    rt_channel_fail(channel, &why);
    /* Before this returns, the peer is told and can reach nothing through the links: memory that
     * the caller releases next is not touched by the peer's copies. While another thread still
     * writes the failure, the service does this instead. */
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
