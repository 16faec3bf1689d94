/* device.c: a device's clock, references, and how others learn that something has changed. */
#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#include "device/device.h"
#include "device/fork.h"

void rt_event_signal(int event_fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(event_fd, &one, sizeof one); /* a full eventfd is readable already */
    (void)ignored;
}

void rt_event_drain(int event_fd)
{
    uint64_t value;
    ssize_t ignored = read(event_fd, &value, sizeof value); /* an empty eventfd needs no draining */
    (void)ignored;
}

int64_t rt_device_time(const rt_device *device)
{
    return device->limits.virtual_time ? device->provider->clock->now_ns(device->pdevice) : rt_clock_now_ns();
}

void rt_device_changed(rt_device *device)
{
    atomic_fetch_add_explicit(&device->change, 1, memory_order_release);
    if (!device->limits.virtual_time)
        rt_futex_wake(&device->change, INT_MAX, false);
}

int rt_device_wait_change(rt_device *device, uint32_t seen, int64_t deadline_ns)
{
    for (;;) {
        int64_t left = deadline_ns - rt_device_time(device);
        if (atomic_load_explicit(&device->change, memory_order_acquire) != seen)
            return RT_OK;
        if (left <= 0)
            return RT_E_AGAIN;
        int status = device->limits.virtual_time ? device->provider->clock->advance(device->pdevice, deadline_ns)
                                                 : rt_futex_sleep(&device->change, seen, left, false);
        if (status == RT_E_INTERRUPTED)
            return status;
    }
}

void rt_device_reference(rt_device *device)
{
    atomic_fetch_add_explicit(&device->references, 1, memory_order_relaxed);
}

void rt_device_unreference(rt_device *device)
{
    if (atomic_fetch_sub_explicit(&device->references, 1, memory_order_acq_rel) != 1)
        return;
    assert(device->closed);
    free(device->service);
    rt_mutex_end(&device->lock);
    free((void *)device->links);
    free(device->queues);
    free(device->anywhere);
    rt_table_end(&device->edges);
    free(device);
    rt_fork_leave();
}

void rt_device_tell(rt_device *device)
{
    atomic_fetch_add(&device->news, 1);
    if (atomic_load(&device->armed) != 0 && atomic_exchange(&device->armed, 0) != 0)
        rt_event_signal(device->loop_event_fd);
}

int64_t rt_device_now_ns(rt_device *device)
{
    return rt_forked() ? 0 : rt_device_time(device);
}
