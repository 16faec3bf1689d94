/* edge_memory.c: registered memory of edges: flag lines, credit lines, slots, staging. Small blocks of many edges share few regions
 * of the device; a large one has a region of its own, which ends with it. Registering is slow and done here, without a lock, when an
 * edge is made: never while tensors travel, except for a larger staging buffer, which is counted. */
#include <stdlib.h>
#include <string.h>

#include "core/edge.h"

enum {
    POOL_FIRST_SIZE = 1 << 20, /* of the first pooled region of a kind; each further one is twice as large, … */
    POOL_SIZE_MAX = 64 << 20,  /* … up to this */
    OWN_SIZE_MIN = 4 << 20,    /* from here on a block has a region of its own */
    ANYWHERE_START = 4096,
};

static uint32_t kind_of(uint32_t rights)
{
    return rights == RT_RIGHT_REMOTE_WRITE ? 0 : 1;
}

/* A block of a region of ours. The device's lock may be held. */
static int64_t allocate(rt_region *region, uint64_t size, uint64_t alignment)
{
    int64_t block = rt_arena_allocate(region->arena, size, alignment);
    if (block != RT_E_NO_MEMORY)
        return block;
    rt_region_settle_now(region);
    return rt_arena_allocate(region->arena, size, alignment);
}

/* Takes a block of a region, which it references. */
static bool take_block(rt_region *region, int64_t block, uint64_t size, rt_edge_memory *memory_out)
{
    uint64_t offset, capacity;
    if (block < 0 || rt_arena_range(region->arena, block, &offset, &capacity) != RT_OK)
        return false;
    rt_region_reference(region);
    *memory_out =
        (rt_edge_memory){.region = region, .block = block, .offset = offset, .size = size, .address = region->address + offset};
    return true;
}

/* The pooled region with this number, or NULL. The list only grows, so a number stays what it is. */
static rt_region *pooled(rt_device *device, uint32_t kind, uint32_t index)
{
    pthread_mutex_lock(&device->lock);
    struct rt_edge_pool *pool = device->edge_pool;
    rt_region *region = pool != NULL && index < pool->counts[kind] ? pool->regions[kind][index] : NULL;
    pthread_mutex_unlock(&device->lock);
    return region;
}

/* Gives a new region to the pool; false when it is full or gone: the region stays the caller's. */
static bool pool_region(rt_device *device, uint32_t kind, rt_region *region)
{
    pthread_mutex_lock(&device->lock);
    struct rt_edge_pool *pool = device->edge_pool;
    bool room = pool != NULL && pool->counts[kind] < RT_EDGE_POOL_REGIONS_MAX;
    if (room)
        pool->regions[kind][pool->counts[kind]++] = region;
    pthread_mutex_unlock(&device->lock);
    return room;
}

static uint64_t pool_size(uint32_t count, uint64_t size, uint64_t alignment)
{
    uint64_t wanted = (uint64_t)POOL_FIRST_SIZE << (count < 16 ? count : 16);
    wanted = wanted < POOL_SIZE_MAX ? wanted : POOL_SIZE_MAX;
    return wanted > size + alignment ? wanted : size + alignment;
}

int rt_edge_memory_take(rt_device *device, uint32_t rights, uint64_t size, uint64_t alignment, rt_edge_memory *memory_out,
                        bool *registered_out, rt_detail *detail)
{
    uint32_t kind = kind_of(rights), count = 0;
    bool own = size >= OWN_SIZE_MIN;
    rt_region *region = NULL;
    for (; !own && (region = pooled(device, kind, count)) != NULL; count++) {
        if (take_block(region, allocate(region, size, alignment), size, memory_out)) {
            memset(memory_out->address, 0, size);
            return RT_OK;
        }
    }
    own = own || count == RT_EDGE_POOL_REGIONS_MAX;
    uint64_t wanted = own ? size + (alignment > 4096 ? alignment : 0) : pool_size(count, size, alignment);
    int status = rt_region_create(device, wanted, rights, RT_HUGE_AUTO, &region, detail);
    if (status != RT_OK)
        return status;
    *registered_out = true;
    if (!take_block(region, allocate(region, size, alignment), size, memory_out)) {
        rt_region_close(region, NULL);
        rt_region_drop(region);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no room for %llu bytes in a region made for them", (unsigned long long)size);
    }
    memory_out->own = own || !pool_region(device, kind, region);
    return RT_OK;
}

int rt_edge_memory_take_from(rt_region *region, uint64_t size, uint64_t alignment, rt_edge_memory *memory_out, rt_detail *detail)
{
    atomic_fetch_add_explicit(&region->bound, 1, memory_order_relaxed);
    if (!take_block(region, rt_region_allocate(region, size, alignment), size, memory_out)) {
        atomic_fetch_sub_explicit(&region->bound, 1, memory_order_release);
        rt_region_stats stats;
        rt_region_get_stats(region, &stats);
        return rt_fail(detail, region->device == NULL ? RT_E_CLOSED : RT_E_NO_MEMORY, 0,
                       "no room for slots of %llu bytes in the region given: its largest free range has %llu",
                       (unsigned long long)size, (unsigned long long)stats.largest_free_bytes);
    }
    memory_out->bound = true;
    memset(memory_out->address, 0, size);
    return RT_OK;
}

void rt_edge_memory_give(rt_edge_memory *memory)
{
    rt_region *region = memory->region;
    if (region == NULL)
        return;
    rt_region_free(region, memory->block);
    if (memory->bound)
        atomic_fetch_sub_explicit(&region->bound, 1, memory_order_release);
    if (memory->own) {
        if (region->device != NULL)
            rt_region_close(region, NULL); /* while something still uses it, its device's close will */
        rt_region_drop(region);            /* the maker's reference */
    }
    rt_region_unreference(region);
    *memory = (rt_edge_memory){.region = NULL};
}

int rt_edges_device_open(rt_device *device, rt_detail *detail)
{
    device->edge_pool = calloc(1, sizeof *device->edge_pool);
    device->anywhere = calloc(1, sizeof *device->anywhere);
    rt_pmemory *memory = calloc(1, sizeof *memory);
    if (device->edge_pool == NULL || device->anywhere == NULL || memory == NULL) {
        free(memory);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the edges of a device");
    }
    /* All addresses but the first page, which no tensor lies in. */
    rt_region *anywhere = device->anywhere;
    anywhere->address = (uint8_t *)(uintptr_t)ANYWHERE_START;
    anywhere->size = (uint64_t)INT64_MAX - ANYWHERE_START;
    anywhere->device = device;
    anywhere->memory = memory;
    *memory = (rt_pmemory){.address = anywhere->address, .size = anywhere->size, .access = RT_ACCESS_LOCAL_WRITE};
    atomic_init(&anywhere->references, 1);
    return RT_OK;
}

void rt_edges_device_close(rt_device *device)
{
    struct rt_edge_pool *pool = device->edge_pool;
    if (pool == NULL)
        return;
    for (uint32_t kind = 0; kind < RT_EDGE_POOL_RIGHTS; kind++) {
        for (uint32_t index = 0; index < pool->counts[kind]; index++)
            rt_region_drop(pool->regions[kind][index]); /* its registration goes with the device's others */
    }
    device->edge_pool = NULL;
    free(pool);
}
