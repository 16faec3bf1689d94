/* pool.c: registered memory in pools, so that a registration serves many blocks. Memory that the
 * peer of a channel may write lies in a pool of that channel alone, memory that the peer may read
 * in another one, and memory that only this end uses in the device's pool, which gives peers no
 * right: a peer that writes wherever it can reaches its own channel's blocks and nothing else. A
 * registration that one peer had is never given to another: it ends with its channel and the last
 * block of it, since a peer may keep a mapping of it for longer.
 *
 * A large block has a registration of its own, and so may be made before its channel is known.
 * Registering is slow and done without a lock, by the caller or, for the control plane, by the
 * service between two rounds. */
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "device/service.h"
#include "memory/arena.h"
#include "region/pool.h"
#include "region/region.h"

enum {
    LOCAL_FIRST_SIZE = 256 << 10, /* of the first registration of the device's pool … */
    CHANNEL_FIRST_SIZE =
        64 << 10, /* … and of a channel's, of which there may be a thousand; each further one is twice as large, … */
    POOL_SIZE_MAX = 64 << 20, /* … up to this */
    ANYWHERE_START = 4096,
};

/* The registrations that blocks of one use are taken from. device->lock. */
typedef struct rt_pool {
    rt_region **regions;
    uint32_t count, capacity;
    uint64_t wanted;   /* the size of a block that the service shall make room for; 0: none */
    rt_detail failure; /* why it could not; taken by the next caller */
} rt_pool;

struct rt_pools {
    rt_pool pools[RT_POOL_COUNT];
    uint32_t growing; /* threads that register for one of its pools, without device->lock: the struct stays meanwhile */
    bool left;        /* its channel is gone */
    rt_list wanting;  /* in rt_service.pools_wanting */
    rt_pools *next;   /* in rt_service.pools_left */
};

static uint32_t rights_of(rt_pool_use use)
{
    return use == RT_POOL_WRITTEN ? (uint32_t)RT_RIGHT_REMOTE_WRITE : use == RT_POOL_READ ? RT_RIGHT_REMOTE_READ : 0;
}

/* A block of a region of ours. The device's lock may be held. */
static int64_t block_allocate(rt_region *region, uint64_t size, uint64_t alignment)
{
    int64_t block = rt_arena_allocate(region->arena, size, alignment);
    if (block != RT_E_NO_MEMORY)
        return block;
    rt_region_settle_now(region);
    return rt_arena_allocate(region->arena, size, alignment);
}

/* Takes a block of a region, which it references. */
static bool block_take(rt_region *region, int64_t block, uint64_t size, rt_pool_block *memory_out)
{
    uint64_t offset, capacity;
    if (block < 0 || rt_arena_range(region->arena, block, &offset, &capacity) != RT_OK)
        return false;
    rt_region_reference(region);
    *memory_out =
        (rt_pool_block){.region = region, .block = block, .offset = offset, .size = size, .address = region->address + offset};
    return true;
}

/* ---- pools; device->lock held ---- */

static rt_pools *pools_new(void)
{
    rt_pools *pools = calloc(1, sizeof *pools);
    if (pools != NULL)
        rt_list_init(&pools->wanting);
    return pools;
}

/* The pool of this use: the device's, or the peer's, which is made with its first block. NULL with
 * the detail on failure. */
static rt_pool *pool_find(rt_device *device, rt_peer_pools *peer, rt_pool_use use, rt_detail *detail)
{
    if (device->pools == NULL) {
        rt_fail(detail, RT_E_CLOSED, 0, "the device is closed");
        return NULL;
    }
    if (use == RT_POOL_LOCAL)
        return &device->pools->pools[use];
    if (!peer->open) { /* its pools were left, or will never be open */
        rt_fail(detail, RT_E_CLOSED, 0, "the channel has ended");
        return NULL;
    }
    if (peer->pools == NULL)
        peer->pools = pools_new();
    if (peer->pools == NULL) {
        rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the edges of a channel");
        return NULL;
    }
    return &peer->pools->pools[use];
}

static bool pooled_block_take(rt_device *device, const rt_pool *pool, uint64_t size, uint64_t alignment,
                              rt_pool_block *memory_out)
{
    for (uint32_t index = 0; index < pool->count; index++) {
        if (block_take(pool->regions[index], block_allocate(pool->regions[index], size, alignment), size, memory_out)) {
            memory_out->pooled = device;
            return true;
        }
    }
    return false;
}

/* Gives a new region to the pool. False when there is no memory for its entry: then the region
 * stays the caller's. */
static bool region_add(rt_pool *pool, rt_region *region)
{
    if (pool->count == pool->capacity) {
        uint32_t capacity = pool->capacity == 0 ? 4 : 2 * pool->capacity;
        rt_region **regions = realloc((void *)pool->regions, capacity * sizeof *regions);
        if (regions == NULL)
            return false;
        pool->regions = regions;
        pool->capacity = capacity;
    }
    pool->regions[pool->count++] = region;
    return true;
}

static uint64_t region_size_next(const rt_pool *pool, rt_pool_use use, uint64_t wanted)
{
    uint64_t size = (uint64_t)(use == RT_POOL_LOCAL ? LOCAL_FIRST_SIZE : CHANNEL_FIRST_SIZE)
                    << (pool->count < 16 ? pool->count : 16);
    size = size < POOL_SIZE_MAX ? size : POOL_SIZE_MAX;
    return size > wanted ? size : wanted;
}

/* ---- taking and giving ---- */

static int own_region_take(rt_device *device, uint32_t rights, uint64_t size, uint64_t alignment, rt_pool_block *memory_out,
                           rt_detail *detail)
{
    rt_region *region = NULL;
    int status = rt_region_create(device, size + (alignment > 4096 ? alignment : 0), rights, RT_HUGE_AUTO, &region, detail);
    if (status != RT_OK)
        return status;
    if (!block_take(region, block_allocate(region, size, alignment), size, memory_out)) {
        rt_region_close(region, NULL);
        rt_region_drop(region);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no room for %llu bytes in a region made for them", (unsigned long long)size);
    }
    memory_out->own = true;
    return RT_OK;
}

int rt_pool_take_own(rt_device *device, rt_pool_use use, bool relaxed, uint64_t size, uint64_t alignment,
                     rt_pool_block *memory_out, rt_detail *detail)
{
    uint32_t order = relaxed ? (uint32_t)RT_RIGHT_RELAXED_ORDER : 0;
    return own_region_take(device, rights_of(use) | order, size, alignment, memory_out, detail);
}

int rt_pool_take(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                 rt_pool_block *memory_out, bool *registered_out, rt_detail *detail)
{
    rt_detail unasked;
    detail = detail != NULL ? detail : &unasked;
    if (size >= RT_POOL_OWN_SIZE_MIN) {
        int status = own_region_take(device, rights_of(use), size, alignment, memory_out, detail);
        *registered_out = *registered_out || status == RT_OK;
        return status;
    }
    if (rt_device_lock_patiently(device, detail) != RT_OK)
        return detail->status;
    rt_pool *pool = pool_find(device, peer, use, detail);
    bool taken = pool != NULL && pooled_block_take(device, pool, size, alignment, memory_out);
    uint64_t wanted = pool != NULL ? region_size_next(pool, use, size + alignment) : 0;
    pthread_mutex_unlock(&device->lock);
    if (taken) {
        memset(memory_out->address, 0, size);
        return RT_OK;
    }
    if (wanted == 0)
        return detail->status;
    rt_region *region = NULL;
    int status = rt_region_create(device, wanted, rights_of(use), RT_HUGE_AUTO, &region, detail);
    if (status != RT_OK)
        return status;
    *registered_out = true;
    if (!block_take(region, block_allocate(region, size, alignment), size, memory_out)) {
        rt_region_close(region, NULL);
        rt_region_drop(region);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no room for %llu bytes in a region made for them", (unsigned long long)size);
    }
    pthread_mutex_lock(&device->lock);
    pool = pool_find(device, peer, use, NULL);
    memory_out->own = pool == NULL || !region_add(pool, region); /* the channel ended meanwhile */
    memory_out->pooled = memory_out->own ? NULL : device;
    pthread_mutex_unlock(&device->lock);
    return RT_OK;
}

int rt_pool_take_ready(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                       rt_pool_block *memory_out, rt_detail *detail)
{
    rt_pool *pool = pool_find(device, peer, use, detail);
    if (pool == NULL)
        return detail->status;
    if (pooled_block_take(device, pool, size, alignment, memory_out)) {
        memset(memory_out->address, 0, size);
        return RT_OK;
    }
    if (pool->failure.status != RT_OK) {
        int status = rt_detail_pass(detail, &pool->failure);
        rt_detail_clear(&pool->failure);
        return status;
    }
    pool->wanted = pool->wanted > size + alignment ? pool->wanted : size + alignment;
    rt_pools *pools = use == RT_POOL_LOCAL ? device->pools : peer->pools;
    if (rt_list_empty(&pools->wanting))
        rt_list_append(&device->service->pools_wanting, &pools->wanting);
    atomic_store(&device->service->pools_wanted, true);
    rt_service_kick(device);
    return RT_E_AGAIN;
}

int rt_pool_take_from(rt_region *region, uint64_t size, uint64_t alignment, rt_pool_block *memory_out, rt_detail *detail)
{
    atomic_fetch_add_explicit(&region->bound, 1, memory_order_relaxed);
    if (!block_take(region, rt_region_allocate(region, size, alignment), size, memory_out)) {
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

void rt_pool_give(rt_pool_block *memory)
{
    rt_region *region = memory->region;
    if (region == NULL)
        return;
    rt_region_free(region, memory->block);
    if (memory->bound)
        atomic_fetch_sub_explicit(&region->bound, 1, memory_order_release);
    if (memory->own) {
        if (region->device != NULL)
            rt_region_close(region, NULL); /* if it is still in use, its device's close ends it */
        rt_region_drop(region);            /* the maker's reference */
    } else if (memory->pooled != NULL && atomic_load(&memory->pooled->service->pools_left) != NULL) {
        rt_service_kick(memory->pooled); /* it may have been the last block of a channel that has ended */
    }
    rt_region_unreference(region);
    *memory = (rt_pool_block){.region = NULL};
}

/* ---- the service's part ---- */

/* Whether blocks of it are in use, or in quarantine. device->lock held. */
static bool region_in_use(rt_region *region)
{
    rt_arena_stats stats;
    rt_region_settle_now(region);
    rt_arena_get_stats(region->arena, &stats);
    return stats.allocations != 0 || stats.deferred != 0;
}

static void pools_free(rt_pools *pools)
{
    for (uint32_t use = 0; use < RT_POOL_COUNT; use++)
        free((void *)pools->pools[use].regions);
    free(pools);
}

/* Takes a region of which no block is in use out of pools that were left; frees the pools when it
 * was their last. device->lock held. */
static rt_region *unused_region_next(rt_device *device)
{
    rt_pools *before = NULL, *pools = atomic_load(&device->service->pools_left);
    while (pools != NULL) {
        rt_pools *next = pools->next;
        rt_region *unused = NULL;
        uint32_t left = 0;
        for (uint32_t use = 0; use < RT_POOL_COUNT; use++) {
            rt_pool *pool = &pools->pools[use];
            for (uint32_t index = 0; index < pool->count && unused == NULL; index++) {
                if (region_in_use(pool->regions[index]))
                    continue;
                unused = pool->regions[index];
                pool->regions[index] = pool->regions[--pool->count];
            }
            left += pool->count;
        }
        if (left == 0 && pools->growing == 0) {
            if (before == NULL)
                atomic_store(&device->service->pools_left, next);
            else
                before->next = next;
            pools_free(pools);
        } else {
            before = pools;
        }
        if (unused != NULL)
            return unused;
        pools = next;
    }
    return NULL;
}

/* Ends registrations of channels that have ended, once no block of them is in use. */
static void unused_regions_close(rt_device *device)
{
    rt_region *region;
    do {
        pthread_mutex_lock(&device->lock);
        region = unused_region_next(device);
        pthread_mutex_unlock(&device->lock);
        if (region != NULL) {
            rt_region_close(region, NULL); /* if it is still in use, its device's close ends it */
            rt_region_drop(region);
        }
    } while (region != NULL);
}

/* Registers the memory that a pool wants. The pools are held. */
static void pool_grow(rt_device *device, rt_pools *pools, rt_pool_use use)
{
    rt_detail failure = {.status = RT_OK};
    rt_pool *pool = &pools->pools[use];
    pthread_mutex_lock(&device->lock);
    uint64_t wanted = pool->wanted == 0 || pools->left ? 0 : region_size_next(pool, use, pool->wanted);
    pool->wanted = 0;
    pthread_mutex_unlock(&device->lock);
    if (wanted == 0)
        return;
    rt_region *region = NULL;
    rt_region_create(device, wanted, rights_of(use), RT_HUGE_AUTO, &region, &failure);
    pthread_mutex_lock(&device->lock);
    bool added = !pools->left && region != NULL && region_add(pool, region);
    if (!added) {
        if (region != NULL)
            rt_fail(&failure, RT_E_NO_MEMORY, 0, "no memory for the edges of a channel");
        pool->failure = failure;
    }
    pthread_mutex_unlock(&device->lock);
    if (region != NULL && !added) {
        rt_region_close(region, NULL);
        rt_region_drop(region);
    }
}

/* Pools that want memory, held; NULL: none. */
static rt_pools *wanting_pools_next(rt_device *device)
{
    rt_pools *found = NULL;
    pthread_mutex_lock(&device->lock);
    rt_list *wanting = &device->service->pools_wanting;
    if (!rt_list_empty(wanting)) {
        found = RT_LIST_ENTRY(wanting->next, rt_pools, wanting);
        rt_list_remove(&found->wanting);
        found->growing++;
    }
    pthread_mutex_unlock(&device->lock);
    return found;
}

bool rt_pools_run(rt_device *device)
{
    if (atomic_load(&device->service->pools_left) != NULL)
        unused_regions_close(device);
    if (!atomic_exchange(&device->service->pools_wanted, false))
        return false;
    for (rt_pools *pools; (pools = wanting_pools_next(device)) != NULL;) {
        for (uint32_t use = 0; use < RT_POOL_COUNT; use++)
            pool_grow(device, pools, (rt_pool_use)use);
        pthread_mutex_lock(&device->lock);
        pools->growing--; /* if the pools were left meanwhile, the next run frees them */
        pthread_mutex_unlock(&device->lock);
    }
    return true;
}

/* ---- with the channel, with the device ---- */

void rt_pools_leave(rt_device *device, rt_peer_pools *peer)
{
    rt_pools *pools = peer->pools;
    peer->open = false;
    if (pools == NULL)
        return;
    peer->pools = NULL;
    pools->left = true;
    rt_list_remove(&pools->wanting);
    pools->next = atomic_load(&device->service->pools_left);
    atomic_store(&device->service->pools_left, pools);
    rt_service_kick(device);
}

/* A region and its memory in one block, freed with the struct of the device. */
typedef struct rt_anywhere {
    rt_region region; /* first */
    rt_pmemory memory;
} rt_anywhere;

int rt_pools_open(rt_device *device, rt_detail *detail)
{
    device->pools = pools_new();
    rt_anywhere *made = calloc(1, sizeof *made);
    if (device->pools == NULL || made == NULL) {
        free(made);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the edges of a device");
    }
    /* Covers all addresses but the first page, in which no tensor lies. It is never registered, so
     * no peer can reach through it. */
    rt_region *anywhere = &made->region;
    rt_pmemory *memory = &made->memory;
    device->anywhere = anywhere;
    anywhere->address = (uint8_t *)(uintptr_t)ANYWHERE_START;
    anywhere->size = (uint64_t)INT64_MAX - ANYWHERE_START;
    anywhere->device = device;
    anywhere->memory = memory;
    *memory = (rt_pmemory){.address = anywhere->address, .size = anywhere->size, .access = RT_ACCESS_LOCAL_WRITE};
    atomic_init(&anywhere->references, 1);
    return RT_OK;
}

static void pools_drop(rt_pools *pools)
{
    for (uint32_t use = 0; use < RT_POOL_COUNT; use++) {
        for (uint32_t index = 0; index < pools->pools[use].count; index++)
            rt_region_drop(pools->pools[use].regions[index]); /* the device ends its registration with the others */
    }
    pools_free(pools);
}

void rt_pools_close(rt_device *device)
{
    rt_pools *left = device->service != NULL ? atomic_exchange(&device->service->pools_left, NULL) : NULL;
    while (left != NULL) {
        rt_pools *next = left->next;
        pools_drop(left);
        left = next;
    }
    if (device->pools != NULL)
        pools_drop(device->pools);
    device->pools = NULL;
}
