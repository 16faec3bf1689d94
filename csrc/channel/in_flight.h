/* in_flight.h: the ranges that operations use now. */
#ifndef RT_CHANNEL_IN_FLIGHT_H
#define RT_CHANNEL_IN_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatensor.h"

/* Whether an unfinished operation of the device uses local bytes of this range. Takes device->lock and link turns. */
bool rt_region_range_busy(rt_region *region, uint64_t offset, uint64_t size);

#endif
