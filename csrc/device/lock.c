/* lock.c: takes the device's lock with a deadline. By design the lock is held for microseconds.
 * Should a thread hold it for longer, a call with a deadline still keeps that deadline, and a call
 * without one fails with a reason instead of waiting for ever. */
#include "device/device.h"

/* The least time that a call waits for the lock even when its deadline is nearer, and the time that
 * a call without a deadline waits: on a busy machine the holder may not have run for a while. */
#define RT_LOCK_GRACE_NS (20 * RT_NS_PER_MS)
#define RT_LOCK_PATIENCE_NS (5 * RT_NS_PER_S)

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / RT_NS_PER_S), .tv_nsec = (long)(ns % RT_NS_PER_S)};
}

/* Waits by the wall clock: a wait by the monotonic clock needs glibc 2.30. If the wall clock is set
 * meanwhile, the wait becomes that much shorter or longer, so it is cut into slices. */
static bool mutex_lock_for(pthread_mutex_t *lock, int64_t left_ns)
{
    for (int64_t end = rt_clock_now_ns() + left_ns; left_ns > 0; left_ns = end - rt_clock_now_ns()) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t slice = left_ns < RT_SLICE_NS ? left_ns : RT_SLICE_NS;
        struct timespec until = timespec_of((int64_t)now.tv_sec * RT_NS_PER_S + now.tv_nsec + slice);
        if (pthread_mutex_timedlock(lock, &until) == 0)
            return true;
    }
    return false;
}

int rt_device_lock_until(rt_device *device, int64_t deadline_ns, rt_detail *detail)
{
    if (pthread_mutex_trylock(&device->lock) == 0)
        return RT_OK;
    if (device->limits.virtual_time) { /* virtual time does not pass while a thread computes */
        pthread_mutex_lock(&device->lock);
        return RT_OK;
    }
    rt_order_check(&device->lock, RT_RANK_DEVICE);
    int64_t left_ns = deadline_ns - rt_device_time(device);
    if (mutex_lock_for(&device->lock, left_ns > RT_LOCK_GRACE_NS ? left_ns : RT_LOCK_GRACE_NS))
        return RT_OK;
    return rt_fail(detail, RT_E_AGAIN, 0, "another thread holds the lock of device %s", device->pdevice->name);
}

int rt_device_lock_patiently(rt_device *device, rt_detail *detail)
{
    if (rt_device_lock_until(device, rt_device_time(device) + RT_LOCK_PATIENCE_NS, NULL) == RT_OK)
        return RT_OK;
    return rt_fail(detail, RT_E_DEADLINE, 0, "another thread has held the lock of device %s for %d s; dump() tells more",
                   device->pdevice->name, (int)(RT_LOCK_PATIENCE_NS / RT_NS_PER_S));
}
