/* devices.h: all open devices of this process. */
#ifndef RT_DEVICE_DEVICES_H
#define RT_DEVICE_DEVICES_H

#include "device/device.h"

void rt_devices_add(rt_device *device);
void rt_devices_remove(rt_device *device);
/* Calls `visit` for each device. The list's lock is held meanwhile, and comes before every device's
 * lock in the order. */
void rt_devices_each(void (*visit)(rt_device *device, void *argument), void *argument);

#endif
