/* connect.c: the connecting end of a channel: checks who may be connected to, and begins. */
#include <stdio.h>

#include "core/control.h"

/* Without a secret the kernel says who is at the other end, and it knows only this machine. */
static int check_reach(const rt_device *device, const void *stream, const char *address, size_t secret_size, rt_detail *detail)
{
    if (device->provider->streams != NULL || secret_size != 0 || rt_socket_loopback(stream))
        return RT_OK;
    return rt_fail(detail, RT_E_AUTH, 0,
                   "will not connect to %s without a secret: it may be another machine; give both ends the same "
                   "secret (secret= or RDMATENSOR_SECRET)",
                   address);
}

/* Makes the channel around a stream that has begun to connect, and takes the stream. device->lock held. */
static int begin(rt_device *device, const rt_stream_ops *ops, void *stream, const char *address, const uint8_t *secret,
                 size_t secret_size, rt_channel **channel_out, rt_detail *detail)
{
    rt_control *control;
    int status =
        device->lost ? rt_detail_pass(detail, &device->failure) : check_reach(device, stream, address, secret_size, detail);
    if (status == RT_OK)
        status = rt_control_open(device, RT_ROLE_CONNECTOR, ops, stream, address, secret, secret_size, &control, detail);
    if (status != RT_OK) {
        ops->close(stream);
        return status;
    }
    status = rt_channel_create(device, device->links_per_peer, &control->channel, detail);
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
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: open a device of its own");
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
    pthread_mutex_lock(&device->lock);
    if (!is_socket)
        status = ops->connect(device->pdevice, address, &stream, detail);
    if (status == RT_OK)
        status = begin(device, ops, stream, address, secret, secret_size, channel_out, detail);
    pthread_mutex_unlock(&device->lock);
    if (status == RT_OK) {
        rt_service_kick(device);
        if (device->limits.virtual_time)
            rt_service_run(device);
    }
    return status;
}
