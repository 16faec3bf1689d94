/* devices.c: all open devices of this process. */
#include "device/devices.h"
#include "device/device.h"

RT_STATIC_MUTEX(all_devices_lock, RT_RANK_DEVICES);
static rt_device *all_devices;

void rt_devices_each(void (*visit)(rt_device *device, void *argument), void *argument)
{
    pthread_mutex_lock(&all_devices_lock);
    for (rt_device *device = all_devices; device != NULL; device = device->next)
        visit(device, argument);
    pthread_mutex_unlock(&all_devices_lock);
}

void rt_devices_add(rt_device *device)
{
    pthread_mutex_lock(&all_devices_lock);
    device->next = all_devices;
    all_devices = device;
    pthread_mutex_unlock(&all_devices_lock);
}

void rt_devices_remove(rt_device *device)
{
    pthread_mutex_lock(&all_devices_lock);
    for (rt_device **at = &all_devices; *at != NULL; at = &(*at)->next) {
        if (*at == device) {
            *at = device->next;
            break;
        }
    }
    pthread_mutex_unlock(&all_devices_lock);
}
