/* region.h: registered memory with an arena inside.
 *
 * The functions of rdmatensor.h that create, adopt, close and free take device->lock: call them without it. Allocating
 * and freeing take the arena's turn only, as long as no operation uses the region. */
#ifndef RT_REGION_REGION_H
#define RT_REGION_REGION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "provider/provider.h"
#include "rdmatensor.h"

typedef struct rt_arena rt_arena;
typedef struct rt_handle rt_handle;

struct rt_region {
    rt_device *device;  /* NULL once the region is closed */
    rt_list node;       /* in device->regions */
    rt_pmemory *memory; /* NULL once closed */
    uint8_t *address;
    uint64_t size;
    uint64_t mapped_size; /* of memory this library mapped; 0 for adopted memory */
    int descriptor;
    uint32_t rights;
    bool readonly; /* this process cannot write it: only the source of copies */
    uint32_t born; /* rt_fork_number when it was made */
    bool huge_pages;
    int64_t registering_ns;
    rt_list peer_keys;               /* of rt_peer_key.node, with RT_RIGHT_PER_PEER_KEYS: keys.c; device->lock */
    rt_list names;                   /* of rt_name.region_node: names.c; device->lock */
    _Atomic uint32_t references;     /* the caller's, that of the registration while it is open, one per prepared
                                      * copy, pool block, loan, edge, pair and team */
    _Atomic uint32_t operations;     /* copies in flight, loans, unreleased dynamic tensors; close returns RT_E_BUSY meanwhile */
    _Atomic uint32_t bound;          /* prepared copies, and memory of edges; likewise */
    rt_arena *arena;                 /* NULL for adopted memory */
    _Atomic uint32_t deferred_count; /* quarantined blocks, in the arena */
    pthread_mutex_t settling;        /* one thread at a time decides about quarantined blocks; taken before device->lock */
};

/* Whether these bytes lie in the region, and it is open. */
static inline bool rt_region_holds(const rt_region *region, uint64_t address, uint64_t size)
{
    uint64_t start = (uint64_t)(uintptr_t)region->address;
    return region->memory != NULL && address >= start && size <= region->size && address - start <= region->size - size;
}

void rt_region_reference(rt_region *region);
void rt_region_unreference(rt_region *region);
bool rt_region_foreign(const rt_region *region);

/* Frees quarantined blocks that no operation uses any more. Called without locks. The call is
 * optional: asking for the region's statistics, running out of memory, freeing when nothing is in
 * flight, and closing do it too. */
void rt_region_settle(rt_region *region);
/* The same, unless another thread is settling now. A thread that has device->lock, as the control
 * plane when it frees an edge's memory, must not wait for a thread that settles, since that takes
 * device->lock. rt_region_free does no more than this. */
void rt_region_settle_now(rt_region *region);

/* Fills in a handle of this range, all but its key. RT_E_CLOSED, RT_E_ACCESS, RT_E_INVALID,
 * RT_E_BOUNDS. */
int rt_region_describe(const rt_region *region, uint64_t offset, uint64_t size, rt_handle *handle_out, rt_detail *detail);

/* Closes all regions of a device that is being closed; no operation is left. Memory of created regions stays until drop.
 * Called without device->lock. */
void rt_region_close_all(rt_device *device);

#endif
