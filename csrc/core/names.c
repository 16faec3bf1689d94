/* names.c: what this device has published. Who asked before it was there is answered at once. */
#include <stdlib.h>
#include <string.h>

#include "core/control.h"

rt_name *rt_name_find(const rt_device *device, const char *name)
{
    RT_LIST_EACH(node, &device->names) {
        rt_name *entry = RT_LIST_ENTRY(node, rt_name, node);
        if (strcmp(entry->name, name) == 0)
            return entry;
    }
    return NULL;
}

uint32_t rt_name_count(const rt_device *device)
{
    uint32_t count = 0;
    RT_LIST_EACH(node, &device->names)
        count++;
    return count;
}

void rt_names_forget(const rt_region *region)
{
    RT_LIST_EACH_SAFE(node, &region->device->names) {
        rt_name *entry = RT_LIST_ENTRY(node, rt_name, node);
        if (entry->region != region)
            continue;
        rt_list_remove(node);
        free(entry);
    }
}

/* device->lock held. */
static int add(rt_device *device, rt_name *entry, rt_detail *detail)
{
    if (entry->region->device != device)
        return rt_fail(detail, RT_E_CLOSED, 0, "cannot publish '%s': its region was closed", entry->name);
    if (rt_name_find(device, entry->name) != NULL)
        return rt_fail(detail, RT_E_EXISTS, 0, "'%s' is published already: unpublish it first, or choose another name",
                       entry->name);
    rt_list_append(&device->names, &entry->node);
    RT_LIST_EACH(node, &device->channels)
        rt_rpc_run(RT_LIST_ENTRY(node, rt_channel, node));
    return RT_OK;
}

int rt_device_publish(rt_device *device, const char *name, rt_region *region, uint64_t offset, uint64_t size, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the device is its parent's");
    if (name == NULL || region == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "no %s to publish", name == NULL ? "name" : "region");
    int status = rt_rpc_check_name(name, detail);
    if (status != RT_OK)
        return status;
    if (region->device != device)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot publish '%s': its region %s", name,
                       region->device == NULL ? "was closed" : "belongs to another device");
    rt_name *entry = calloc(1, sizeof *entry);
    if (entry == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to publish '%s'", name);
    entry->region = region;
    entry->offset = offset;
    entry->size = size;
    memcpy(entry->name, name, strlen(name));
    rt_handle unkeyed;
    if ((region->rights & RT_RIGHT_PER_PEER_KEYS) != 0)
        status = rt_region_describe(region, offset, size, &unkeyed, detail);
    else
        status = rt_region_handle(region, offset, size, entry->handle, &entry->handle_size, detail);
    if (status == RT_OK) {
        pthread_mutex_lock(&device->lock);
        status = add(device, entry, detail);
        pthread_mutex_unlock(&device->lock);
    }
    if (status != RT_OK)
        free(entry);
    return status;
}

int rt_device_unpublish(rt_device *device, const char *name, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the device is its parent's");
    int status = name == NULL ? rt_fail(detail, RT_E_INVALID, 0, "no name to unpublish") : rt_rpc_check_name(name, detail);
    if (status != RT_OK)
        return status;
    pthread_mutex_lock(&device->lock);
    rt_name *entry = rt_name_find(device, name);
    if (entry != NULL) {
        rt_list_remove(&entry->node);
        free(entry);
    } else {
        status = rt_fail(detail, RT_E_NOT_FOUND, 0, "'%s' is not published by this device", name);
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}
