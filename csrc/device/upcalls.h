/* upcalls.h: calls from devices, regions and channels to the layers above them. assembly/open.c
 * fills the table in; no other call goes upwards. */
#ifndef RT_DEVICE_UPCALLS_H
#define RT_DEVICE_UPCALLS_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatensor.h"

typedef struct rt_device_upcalls {
    /* Whether an unfinished operation uses local bytes of this range. Takes device->lock and link turns. */
    bool (*range_busy)(rt_region *region, uint64_t offset, uint64_t size);
    /* A link of the channel failed in the way a link does when its peer is gone: fails the channel
     * with the reason that the peer gave on its control connection, if it gave one. Takes
     * device->lock (which its owner may take again) for at most 5 ms; no link's turn held. */
    void (*hear_peer)(rt_channel *channel);
    /* Detaches and frees remotes whose last reference was dropped where the lock could not be
     * taken. True when there were any. device->lock held. */
    bool (*settle)(rt_device *device);
    /* The service: one look at everything. True when something moved. Takes device->lock. */
    bool (*round)(rt_device *device);
    /* The service is about to sleep: true when the provider will announce the next receive, false when one came meanwhile. */
    bool (*arm)(rt_device *device);
} rt_device_upcalls;

#endif
