/* names.h: names under which ranges of regions are published. All with device->lock held. */
#ifndef RT_REGION_NAMES_H
#define RT_REGION_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "proto/limits.h"
#include "region/region.h"

typedef struct rt_name rt_name;

/* The names that are published to the peer of one channel alone, and end with the channel. */
typedef struct rt_private_names {
    rt_list list; /* of rt_name.only_node */
    uint32_t count;
} rt_private_names;

struct rt_name {
    rt_table_node node;  /* in device->names */
    rt_list region_node; /* in region->names */
    rt_list only_node;   /* in only_names->list */
    rt_region *region;
    rt_channel *only;             /* the channel whose peer may ask for it, without a reference. NULL: every peer, … */
    rt_private_names *only_names; /* … and then NULL too */
    uint64_t offset, size;
    size_t handle_size; /* 0: each peer gets a handle of its own */
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    char name[RT_NAME_MAX + 1];
};

/* The entry that is published to this channel alone, or, with NULL, to every peer. */
rt_name *rt_name_of(const rt_device *device, const char *name, const rt_channel *only);
/* The entry that the channel's peer finds under the name, or, with NULL, every peer. */
rt_name *rt_name_find(const rt_device *device, const char *name, const rt_channel *channel);
/* The number of names that a peer finds, given those published to it alone. */
uint32_t rt_name_count(const rt_device *device, const rt_private_names *own);
/* False: there is no memory. */
bool rt_name_add(rt_device *device, rt_name *entry);
/* Removes the entry from the table and frees it. */
void rt_name_forget(rt_device *device, rt_name *entry);
/* The region is being closed: forgets its names. */
void rt_names_forget(const rt_region *region);
/* The channel ends: forgets the names that are published to its peer alone. */
void rt_names_forget_private(rt_device *device, const rt_private_names *names);
/* The device ends: forgets every name. */
void rt_names_end(rt_device *device);

#endif
