/* publish.c: publishes names, to every peer or to one. A peer that asked before the name existed is
 * answered at once. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "proto/handle.h"
#include "proto/rpc_message.h"
#include "region/names.h"
#include "region/region.h"
#include "rpc/carrier.h"

/* Answers the peers that may see the name and may have asked for it already. */
static void waiting_answer(const rt_name *entry)
{
    if (entry->only != NULL) {
        rt_rpc_run(entry->only);
        return;
    }
    RT_LIST_EACH(node, &entry->region->device->channels)
        rt_rpc_run(RT_LIST_ENTRY(node, rt_channel, node));
}

/* device->lock held. */
static int name_add(rt_device *device, rt_name *entry, rt_detail *detail)
{
    if (entry->region->device != device)
        return rt_fail(detail, RT_E_CLOSED, 0, "cannot publish '%s': its region was closed", entry->name);
    if (entry->only != NULL && (rt_channel_state(entry->only) != RT_CHANNEL_READY || entry->only->rpc == NULL))
        return rt_channel_refuse(entry->only, detail);
    if (rt_name_find(device, entry->name, entry->only) != NULL)
        return rt_fail(detail, RT_E_EXISTS, 0, "'%s' is published already: unpublish it first, or choose another name",
                       entry->name);
    if (!rt_name_add(device, entry))
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to publish '%s'", entry->name);
    waiting_answer(entry);
    return RT_OK;
}

static int name_publish(rt_device *device, rt_channel *only, const char *name, rt_region *region, uint64_t offset, uint64_t size,
                        rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
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
    entry->only = only;
    entry->only_names = only != NULL ? &only->names : NULL;
    rt_list_init(&entry->region_node);
    rt_list_init(&entry->only_node);
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
        status = name_add(device, entry, detail);
        pthread_mutex_unlock(&device->lock);
    }
    if (status != RT_OK)
        free(entry);
    return status;
}

int rt_device_publish(rt_device *device, const char *name, rt_region *region, uint64_t offset, uint64_t size, rt_detail *detail)
{
    return name_publish(device, NULL, name, region, offset, size, detail);
}

int rt_channel_publish(rt_channel *channel, const char *name, rt_region *region, uint64_t offset, uint64_t size,
                       rt_detail *detail)
{
    return name_publish(channel->device, channel, name, region, offset, size, detail);
}

static int name_unpublish(rt_device *device, const rt_channel *only, const char *name, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = name == NULL ? rt_fail(detail, RT_E_INVALID, 0, "no name to unpublish") : rt_rpc_check_name(name, detail);
    if (status != RT_OK)
        return status;
    pthread_mutex_lock(&device->lock);
    rt_name *entry = rt_name_of(device, name, only);
    if (entry != NULL)
        rt_name_forget(device, entry);
    else
        status =
            rt_fail(detail, RT_E_NOT_FOUND, 0, "'%s' is not published by this %s", name, only == NULL ? "device" : "channel");
    pthread_mutex_unlock(&device->lock);
    return status;
}

int rt_device_unpublish(rt_device *device, const char *name, rt_detail *detail)
{
    return name_unpublish(device, NULL, name, detail);
}

int rt_channel_unpublish(rt_channel *channel, const char *name, rt_detail *detail)
{
    return name_unpublish(channel->device, channel, name, detail);
}
