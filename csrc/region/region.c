/* region.c: regions: memory registered ahead, with rights and an arena inside. Their memory comes
 * from memory/host.c, blocks.c and arena.c serve blocks, and op.c knows which operations use them.
 *
 * Three things end at three moments: the registration at rt_region_close, when no operation uses
 * it; the memory at the last reference; a block that was freed while an operation uses it, when
 * that operation has ended (quarantine, RDMA-RULES 16). */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/device.h"
#include "device/fork.h"
#include "memory/arena.h"
#include "memory/host.h"
#include "proto/handle.h"
#include "region/keys.h"
#include "region/names.h"
#include "region/region.h"

enum {
    REGION_GRANULE = 64,
    REMOTE_RIGHTS = RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ,
    ALL_RIGHTS = REMOTE_RIGHTS | RT_RIGHT_RELAXED_ORDER | RT_RIGHT_PER_PEER_KEYS
};

_Static_assert((int)RT_RIGHT_REMOTE_WRITE == (int)RT_ACCESS_REMOTE_WRITE &&
                   (int)RT_RIGHT_REMOTE_READ == (int)RT_ACCESS_REMOTE_READ &&
                   (int)RT_RIGHT_RELAXED_ORDER == (int)RT_ACCESS_RELAXED_ORDER &&
                   (int)RT_RIGHT_PER_PEER_KEYS == (int)RT_ACCESS_PER_PEER_KEYS,
               "rights of a region are the access bits of the seam");
_Static_assert((int)RT_HUGE_AUTO == (int)RT_HOST_PAGES_AUTO && (int)RT_HUGE_OFF == (int)RT_HOST_PAGES_SMALL &&
                   (int)RT_HUGE_REQUIRE == (int)RT_HOST_PAGES_HUGE,
               "huge pages are asked for by the same numbers");
_Static_assert((int)RT_HANDLE_KEY_MAX == (int)RT_MEMORY_KEY_SIZE_MAX, "a handle carries any key of the seam");

/* ---- making ---- */

/* Whether the device can give each peer a key of its own. */
static int peer_keys_check(const rt_device *device, uint32_t rights, rt_detail *detail)
{
    if ((rights & REMOTE_RIGHTS) == 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "cannot make a region with per-peer keys and no remote right: there would be nothing to give a key for");
    if (!device->limits.keys_per_peer)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "%s (%s) has no key for each peer (limits.keys_per_peer): it has no memory windows of type 2; make the "
                       "region without PER_PEER_KEYS",
                       device->pdevice->name, device->provider->name);
    if (device->links_per_peer > RT_MEMORY_KEY_LINKS_MAX)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "a key for a peer covers at most %d qps, and this device opens channels of %" PRIu32
                       ": open it with qps_per_peer=%d or fewer",
                       RT_MEMORY_KEY_LINKS_MAX, device->links_per_peer, RT_MEMORY_KEY_LINKS_MAX);
    return RT_OK;
}

/* Makes the refusals that are possible before anything is acquired. */
static int request_check(const rt_device *device, uint64_t size, uint32_t rights, rt_detail *detail)
{
    if (device->closed)
        return rt_fail(detail, RT_E_CLOSED, 0, "cannot make a region: the device is closed");
    if ((rights & ~(uint32_t)ALL_RIGHTS) != 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "cannot make a region with rights 0x%x: known are remote write, remote read, relaxed order, per-peer keys",
                       rights);
    if ((rights & RT_RIGHT_PER_PEER_KEYS) != 0) {
        int status = peer_keys_check(device, rights, detail);
        if (status != RT_OK)
            return status;
    }
    if (size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot make a region of size 0");
    uint64_t most = device->limits.region_size_max < INT64_MAX ? device->limits.region_size_max : INT64_MAX;
    if (size > most)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "cannot make a region of %" PRIu64 " bytes: %s registers at most %" PRIu64 " at once", size,
                       device->provider->name, most);
    return RT_OK;
}

/* A region with one reference for the caller and no resources yet; NULL without memory. */
static rt_region *region_new(uint64_t size, uint32_t rights, rt_detail *detail)
{
    rt_region *region = calloc(1, sizeof *region);
    if (region == NULL) {
        rt_fail(detail, RT_E_NO_MEMORY, ENOMEM, "cannot make a region of %" PRIu64 " bytes", size);
        return NULL;
    }
    rt_list_init(&region->node);
    rt_list_init(&region->peer_keys);
    rt_list_init(&region->names);
    rt_mutex_begin(&region->settling, NULL, RT_RANK_SETTLING);
    region->size = size;
    region->rights = rights;
    region->born = rt_fork_number();
    region->descriptor = -1;
    atomic_init(&region->references, 1);
    return region;
}

/* Counts the region before it is registered, so that the limit holds with many threads registering at once. */
static int region_count_in(rt_device *device, const rt_region *region, rt_detail *detail)
{
    int status = rt_device_lock_patiently(device, detail);
    if (status != RT_OK)
        return status;
    if (device->lost) {
        status = rt_detail_pass(detail, &device->failure);
    } else if (device->stats.regions >= device->limits.region_count_max) {
        status =
            rt_fail(detail, RT_E_BUSY, 0, "cannot make another region: %s registers at most %" PRIu32 "; make few large ones",
                    device->provider->name, device->limits.region_count_max);
    } else {
        device->stats.regions++;
        device->stats.region_bytes += region->size;
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}

static void region_count_out(rt_device *device, const rt_region *region)
{
    device->stats.regions--;
    device->stats.region_bytes -= region->size;
}

/* Registers the region's memory and lists it: it is open from here on. `began` is the time at which
 * its making began. */
static int region_open(rt_device *device, rt_region *region, int64_t began, rt_detail *detail)
{
    int status = region_count_in(device, region, detail);
    if (status != RT_OK)
        return status;
    uint32_t access = region->readonly ? region->rights : region->rights | RT_ACCESS_LOCAL_WRITE;
    const rt_memory memory = {.address = region->address,
                              .size = region->size,
                              .descriptor = region->descriptor,
                              .access = access};
    status = device->provider->memory_register(device->pdevice, &memory, &region->memory, detail);
    if (status == RT_OK && region->descriptor >= 0) { /* the provider has its own descriptor, and the mapping needs none */
        close(region->descriptor);
        region->descriptor = -1;
    }

    pthread_mutex_lock(&device->lock);
    if (status == RT_OK) {
        region->device = device;
        region->registering_ns = rt_device_time(device) - began;
        atomic_fetch_add_explicit(&region->references, 1, memory_order_relaxed); /* the registration's */
        rt_list_append(&device->regions, &region->node);
        device->stats.registrations++;
        device->stats.registered_bytes += region->size;
        device->stats.registering_ns += (uint64_t)region->registering_ns;
    } else {
        region_count_out(device, region);
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}

static rt_host_memory host_memory_of(const rt_region *region)
{
    return (rt_host_memory){.address = region->address,
                            .size = region->mapped_size,
                            .descriptor = region->descriptor,
                            .huge = region->huge_pages};
}

static void region_free(rt_region *region)
{
    assert(region->memory == NULL);
    if (region->mapped_size != 0) {
        rt_host_memory memory = host_memory_of(region);
        rt_host_unmap(&memory);
    }
    rt_arena_destroy(region->arena);
    rt_mutex_end(&region->settling);
    free(region);
}

/* Gives the region memory of its own, present to the last page, and an arena. region_free frees
 * what this acquired. */
static int region_furnish(rt_region *region, bool shared, uint32_t huge_pages, rt_detail *detail)
{
    rt_host_memory memory;
    int status = rt_host_map(region->size, shared, (enum rt_host_pages)huge_pages, &memory, detail);
    if (status != RT_OK)
        return status;
    region->address = memory.address;
    region->mapped_size = memory.size;
    region->descriptor = memory.descriptor;
    region->huge_pages = memory.huge;
    if (memory.huge)
        region->size = memory.size; /* a peer that maps part of a huge page could not unmap it */
    status = rt_host_populate(&memory, detail);
    if (status != RT_OK)
        return status;
    status = rt_arena_create(region->size, &region->arena);
    if (status != RT_OK)
        return rt_fail(detail, status, 0, "cannot make the bookkeeping for a region of %" PRIu64 " bytes", region->size);
    return RT_OK;
}

int rt_region_create(rt_device *device, uint64_t size, uint32_t rights, uint32_t huge_pages, rt_region **region_out,
                     rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = request_check(device, size, rights, detail);
    if (status != RT_OK)
        return status;
    if (huge_pages > RT_HUGE_REQUIRE)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot make a region with huge pages %u: it is auto (0), off (1) or require (2)",
                       huge_pages);
    int64_t began = rt_device_time(device);
    rt_region *region = region_new((size + REGION_GRANULE - 1) & ~(uint64_t)(REGION_GRANULE - 1), rights, detail);
    if (region == NULL)
        return RT_E_NO_MEMORY;
    bool shared = device->limits.wants_shared_memory && (rights & REMOTE_RIGHTS) != 0;
    status = region_furnish(region, shared, huge_pages, detail);
    if (status == RT_OK)
        status = region_open(device, region, began, detail);
    if (status != RT_OK) {
        region_free(region);
        return status;
    }
    *region_out = region;
    return RT_OK;
}

int rt_region_adopt(rt_device *device, void *address, uint64_t size, uint32_t rights, rt_region **region_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = request_check(device, size, rights & ~(uint32_t)RT_RIGHT_READ_ONLY, detail);
    if (status != RT_OK)
        return status;
    bool readonly = (rights & RT_RIGHT_READ_ONLY) != 0;
    rights &= ~(uint32_t)RT_RIGHT_READ_ONLY;
    if (readonly && (rights & RT_RIGHT_REMOTE_WRITE) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot let peers WRITE to memory that is read-only");
    if (address == NULL || size > UINTPTR_MAX - (uintptr_t)address)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "cannot register %" PRIu64 " bytes at %p: the range lies outside the address space", size, address);
    if ((rights & REMOTE_RIGHTS) != 0 && !device->limits.exposes_caller_memory)
        return rt_fail(
            detail, RT_E_UNSUPPORTED, 0,
            "%s cannot give peers access to memory of the caller: create a region and copy into it, or register this memory "
            "without remote rights",
            device->provider->name);
    int64_t began = rt_device_time(device);
    rt_region *region = region_new(size, rights, detail);
    if (region == NULL)
        return RT_E_NO_MEMORY;
    region->address = address;
    region->readonly = readonly;
    status = region_open(device, region, began, detail);
    if (status != RT_OK) {
        region_free(region);
        return status;
    }
    *region_out = region;
    return RT_OK;
}

/* ---- ending ---- */

void rt_region_reference(rt_region *region)
{
    atomic_fetch_add_explicit(&region->references, 1, memory_order_relaxed);
}

void rt_region_unreference(rt_region *region)
{
    /* Release, so that every use of the memory comes before its freeing; acquire, in the thread
     * that frees it. */
    if (atomic_fetch_sub_explicit(&region->references, 1, memory_order_acq_rel) == 1)
        region_free(region);
}

/* Ends the registration of a region that no operation uses. */
static void region_end(rt_region *region)
{
    rt_device *device = region->device;
    rt_region_settle(region);
    pthread_mutex_lock(&device->lock);
    rt_keys_forget_region(region);
    rt_names_forget(region); /* names published for it lead nowhere from here on */
    rt_list_remove(&region->node);
    region_count_out(device, region);
    rt_pmemory *memory = region->memory;
    region->memory = NULL;
    region->device = NULL;
    pthread_mutex_unlock(&device->lock);
    device->provider->memory_release(device->pdevice, memory);
    rt_region_unreference(region);
}

int rt_region_close(rt_region *region, rt_detail *detail)
{
    if (rt_region_foreign(region))
        return rt_fork_refuse(detail);
    if (region->device == NULL)
        return rt_fail(detail, RT_E_CLOSED, 0, "the region is closed already");
    uint32_t operations = atomic_load_explicit(&region->operations, memory_order_acquire);
    uint32_t bound = atomic_load_explicit(&region->bound, memory_order_acquire);
    if (operations > 0)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "cannot close a region of %" PRIu64 " bytes: %" PRIu32
                       " operations are using it; wait for them or close the channel",
                       region->size, operations);
    if (bound > 0)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "cannot close a region of %" PRIu64 " bytes: %" PRIu32
                       " prepared copies or edges are bound to it; close them",
                       region->size, bound);
    region_end(region);
    return RT_OK;
}

void rt_region_drop(rt_region *region)
{
    if (rt_region_foreign(region))
        return;
    rt_region_unreference(region);
}

void rt_region_close_all(rt_device *device)
{
    while (!rt_list_empty(&device->regions))
        region_end(RT_LIST_ENTRY(device->regions.next, rt_region, node));
}

/* ---- queries ---- */

uint64_t rt_region_address(const rt_region *region)
{
    return rt_forked() ? 0 : (uint64_t)(uintptr_t)region->address;
}

uint64_t rt_region_size(const rt_region *region)
{
    return rt_forked() ? 0 : region->size;
}

uint32_t rt_region_rights(const rt_region *region)
{
    return rt_forked() ? 0 : region->rights;
}

void rt_region_get_stats(rt_region *region, rt_region_stats *stats_out)
{
    memset(stats_out, 0, sizeof *stats_out);
    if (rt_region_foreign(region))
        return;
    rt_region_settle(region);
    stats_out->size = region->size;
    stats_out->registering_ns = (uint64_t)region->registering_ns;
    stats_out->huge_pages = region->huge_pages ? 1 : 0;
    stats_out->operations_in_flight = atomic_load_explicit(&region->operations, memory_order_relaxed);
    if (region->arena == NULL)
        return;
    rt_arena_stats arena;
    rt_arena_get_stats(region->arena, &arena);
    stats_out->allocated_bytes = arena.allocated_bytes;
    stats_out->allocations = arena.allocations;
    stats_out->peak_bytes = arena.peak_bytes;
    stats_out->largest_free_bytes = arena.largest_free_bytes;
    stats_out->quarantined_bytes = arena.deferred_bytes;
}

int rt_region_describe(const rt_region *region, uint64_t offset, uint64_t size, rt_handle *handle_out, rt_detail *detail)
{
    const rt_device *device = region->device;
    if (device == NULL)
        return rt_fail(detail, RT_E_CLOSED, 0, "cannot make a handle of a closed region");
    if ((region->rights & REMOTE_RIGHTS) == 0)
        return rt_fail(
            detail, RT_E_ACCESS, 0,
            "cannot make a handle: this region gives peers no right; create it with access=Access.REMOTE_WRITE, REMOTE_READ or both");
    if (size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot make a handle of a range of size 0");
    if (offset > region->size || size > region->size - offset)
        return rt_fail(detail, RT_E_BOUNDS, 0,
                       "cannot make a handle of %" PRIu64 " bytes at offset %" PRIu64 ": the region has %" PRIu64, size, offset,
                       region->size);
    *handle_out = (rt_handle){
        .offset = offset,
        .size = size,
        .registration_size = region->size,
        .rights = region->rights & REMOTE_RIGHTS,
    };
    size_t name_size = strlen(device->provider->name);
    assert(name_size < sizeof handle_out->provider);
    memcpy(handle_out->provider, device->provider->name, name_size);
    memcpy(handle_out->device_id, device->id, sizeof handle_out->device_id);
    return RT_OK;
}

int rt_region_handle(rt_region *region, uint64_t offset, uint64_t size, uint8_t *handle_out, size_t *size_out, rt_detail *detail)
{
    rt_handle handle;
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = rt_region_describe(region, offset, size, &handle, detail);
    if (status != RT_OK)
        return status;
    if ((region->rights & RT_RIGHT_PER_PEER_KEYS) != 0)
        return rt_fail(detail, RT_E_ACCESS, 0,
                       "cannot make a handle for whoever has it: this region gives each peer a key of its own (PER_PEER_KEYS); "
                       "publish it under a name, and let peers look that up");
    const rt_device *device = region->device;
    size_t key_size = sizeof handle.key;
    status = device->provider->memory_key(device->pdevice, region->memory, NULL, 0, handle.key, &key_size, detail);
    if (status != RT_OK)
        return status;
    assert(key_size <= sizeof handle.key);
    handle.key_size = (uint8_t)key_size;
    int64_t encoded = rt_handle_encode(&handle, handle_out, RT_HANDLE_SIZE_MAX);
    assert(encoded > 0);
    *size_out = (size_t)encoded;
    return RT_OK;
}
