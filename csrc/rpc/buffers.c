/* buffers.c: registered memory for RPC messages: a few regions of the device, cut into one block
 * per channel. The first is made when the first channel needs it; registering is slow, so the
 * service does it between rounds, without the lock. */
#include <stdlib.h>

#include "channel/remote.h"
#include "device/device.h"
#include "memory/arena.h"
#include "region/names.h"
#include "region/region.h"
#include "rpc/buffers.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"

int rt_rpc_device_open(rt_device *device, const rt_rpc_handler *const *handlers, rt_detail *detail)
{
    device->rpc_pool = calloc(1, sizeof *device->rpc_pool);
    if (device->rpc_pool == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the RPC of a device");
    device->rpc_pool->handlers = handlers;
    return RT_OK;
}

void rt_rpc_device_close(rt_device *device)
{
    rt_remotes_settle(device);
    rt_names_end(device);
    for (uint32_t index = 0; index < device->rpc_pool->region_count; index++)
        rt_region_drop(device->rpc_pool->regions[index]);
    free(device->rpc_pool);
    device->rpc_pool = NULL;
}

int rt_rpc_take_buffers(rt_device *device, rt_rpc *rpc, rt_detail *detail)
{
    rt_rpc_pool *pool = device->rpc_pool;
    for (uint32_t index = 0; index < pool->region_count; index++) {
        rt_region *region = pool->regions[index];
        int64_t block = rt_arena_allocate(region->arena, RT_RPC_BUFFER_SIZE, RT_RPC_MESSAGE_MAX);
        uint64_t offset, size;
        if (block < 0 || rt_arena_range(region->arena, block, &offset, &size) != RT_OK)
            continue;
        rpc->region = region;
        rpc->block = block;
        rpc->buffers = region->address + offset;
        return RT_OK;
    }
    if (pool->failure.status != RT_OK) {
        int status = rt_detail_pass(detail, &pool->failure);
        rt_detail_clear(&pool->failure);
        return status;
    }
    pool->wanted = true;
    return RT_E_AGAIN;
}

void rt_rpc_give_buffers(rt_rpc *rpc)
{
    rt_arena_free(rpc->region->arena, rpc->block);
    rpc->region = NULL;
    rpc->buffers = NULL;
}

bool rt_rpc_grow(rt_device *device)
{
    rt_rpc_pool *pool = device->rpc_pool;
    pthread_mutex_lock(&device->lock);
    bool wanted = pool->wanted;
    uint32_t count = pool->region_count;
    pool->wanted = false;
    pthread_mutex_unlock(&device->lock);
    if (!wanted)
        return false;
    rt_region *region = NULL;
    rt_detail failure = {.status = RT_OK};
    if (count == RT_RPC_REGIONS_MAX)
        rt_fail(&failure, RT_E_BUSY, 0, "the device has no room for the messages of another channel: close some");
    else
        rt_region_create(device, (uint64_t)(RT_RPC_FIRST_CHANNELS * RT_RPC_BUFFER_SIZE) << count, 0, RT_HUGE_OFF, &region,
                         &failure);
    pthread_mutex_lock(&device->lock);
    if (region != NULL)
        pool->regions[pool->region_count++] = region;
    else
        pool->failure = failure;
    pthread_mutex_unlock(&device->lock);
    return true;
}

static rt_segment buffer_at(const rt_rpc *rpc, uint32_t index, uint64_t size)
{
    return (
        rt_segment){.memory = rpc->region->memory, .address = rpc->buffers + (size_t)index * RT_RPC_MESSAGE_MAX, .size = size};
}

rt_segment rt_rpc_receive_slot(const rt_rpc *rpc, uint32_t slot)
{
    return buffer_at(rpc, slot, RT_RPC_MESSAGE_MAX);
}

rt_segment rt_rpc_send_slot(const rt_rpc *rpc, uint32_t slot, uint64_t size)
{
    return buffer_at(rpc, RT_RPC_RECEIVES + slot, size);
}
