/* names.c: names of ranges that peers may ask for: a device's table of them. device->lock held.
 *
 * An entry is found by the hash of its name; one that is published to one peer, by the hash of the
 * name and the channel. So a thousand channels may each have an entry of the same name. */
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "region/names.h"

static uint64_t name_hash(const char *name, const rt_channel *only)
{
    return rt_hash_text(name) ^ rt_hash_u64((uint64_t)(uintptr_t)only);
}

rt_name *rt_name_of(const rt_device *device, const char *name, const rt_channel *only)
{
    RT_TABLE_EACH(node, &device->names, name_hash(name, only))
    {
        rt_name *entry = RT_TABLE_ENTRY(node, rt_name, node);
        if (entry->only == only && strcmp(entry->name, name) == 0)
            return entry;
    }
    return NULL;
}

rt_name *rt_name_find(const rt_device *device, const char *name, const rt_channel *channel)
{
    rt_name *entry = rt_name_of(device, name, channel); /* it was published first, or it would have been refused */
    return entry != NULL || channel == NULL ? entry : rt_name_of(device, name, NULL);
}

uint32_t rt_name_count(const rt_device *device, const rt_private_names *own)
{
    return device->names.count - device->private_names + own->count;
}

bool rt_name_add(rt_device *device, rt_name *entry)
{
    if (!rt_table_add(&device->names, &entry->node, name_hash(entry->name, entry->only)))
        return false;
    rt_list_append(&entry->region->names, &entry->region_node);
    if (entry->only_names != NULL) {
        rt_list_append(&entry->only_names->list, &entry->only_node);
        entry->only_names->count++;
        device->private_names++;
    }
    return true;
}

void rt_name_forget(rt_device *device, rt_name *entry)
{
    rt_table_remove(&device->names, &entry->node);
    rt_list_remove(&entry->region_node);
    rt_list_remove(&entry->only_node);
    if (entry->only_names != NULL) {
        device->private_names--;
        entry->only_names->count--;
    }
    free(entry);
}

void rt_names_forget(const rt_region *region)
{
    RT_LIST_EACH_SAFE(node, &region->names)
        rt_name_forget(region->device, RT_LIST_ENTRY(node, rt_name, region_node));
}

void rt_names_forget_private(rt_device *device, const rt_private_names *names)
{
    RT_LIST_EACH_SAFE(node, &names->list)
        rt_name_forget(device, RT_LIST_ENTRY(node, rt_name, only_node));
}

void rt_names_end(rt_device *device)
{
    rt_table_node *node;
    for (uint32_t chain = 0; (node = rt_table_take(&device->names, &chain)) != NULL;) {
        rt_name *entry = RT_TABLE_ENTRY(node, rt_name, node);
        rt_list_remove(&entry->region_node);
        free(entry);
    }
    rt_table_end(&device->names);
}
