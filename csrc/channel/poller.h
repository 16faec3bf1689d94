/* poller.h: threads that poll data queues. */
#ifndef RT_CHANNEL_POLLER_H
#define RT_CHANNEL_POLLER_H

#include "rdmatensor.h"

int rt_pollers_start(rt_device *device, rt_detail *detail);
void rt_pollers_stop(rt_device *device);

#endif
