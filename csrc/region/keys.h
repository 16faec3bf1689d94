/* keys.h: the keys of a region with RT_RIGHT_PER_PEER_KEYS, one for each peer; and the memory that
 * a handle leads to. All with device->lock held unless it says otherwise. */
#ifndef RT_REGION_KEYS_H
#define RT_REGION_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "region/region.h"

typedef struct rt_plink rt_plink;

/* The key of the channel's peer, made for its links on the first request. RT_E_AGAIN: it is being
 * made; poll the channel's queues and ask again. `key_out` has room for RT_MEMORY_KEY_SIZE_MAX
 * bytes. */
int rt_key_for(rt_region *region, const rt_channel *channel, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
               uint8_t *size_out, rt_detail *detail);

/* The region's memory is being released, or the channel's links are shut: the provider ends the
 * keys, and these functions forget them. */
void rt_keys_forget_region(rt_region *region);
void rt_keys_forget_channel(const rt_device *device, const rt_channel *channel);

/* The address at which the registration of a handle starts when its device lives in this process,
 * or 0; with it, overlapping ends of a copy are found. Takes the lock of that device. */
uint64_t rt_device_alias(const rt_handle *handle);

#endif
