/* aside.c: remotes whose last reference was released on the data path, under turns, where
 * device->lock must not be waited for: they are deferred on a list, and the next thread that holds
 * the lock detaches them. */
#include "channel/remote.h"
#include "device/device.h"
#include "device/service.h"

static void remote_put_aside(rt_device *device, rt_remote *remote)
{
    remote->next_detached = atomic_load(&device->detached);
    while (!atomic_compare_exchange_weak(&device->detached, &remote->next_detached, remote))
        continue;
}

/* Takes device->lock. The deferred remote may hold the last reference that keeps the device, hence
 * the reference here. */
void rt_remote_settle(rt_device *device, rt_remote *remote)
{
    rt_device_reference(device);
    remote_put_aside(device, remote);
    pthread_mutex_lock(&device->lock);
    device->upcalls->settle(device);
    pthread_mutex_unlock(&device->lock);
    rt_service_kick(device); /* a channel that has ended may have waited for it */
    rt_device_unreference(device);
}

/* Any thread, under any turn. On a closed device no turn is taken any more and no service runs, so
 * the remote is settled here. */
void rt_remote_unreference(rt_remote *remote)
{
    rt_device *device = remote->channel->device;
    if (atomic_fetch_sub_explicit(&remote->references, 1, memory_order_acq_rel) != 1)
        return;
    if (atomic_load_explicit(&device->closed, memory_order_acquire)) {
        rt_remote_settle(device, remote);
        return;
    }
    remote_put_aside(device, remote);
    rt_service_kick(device);
}
