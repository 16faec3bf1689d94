/* source.c: the registrations of peers that this process maps, for reading only, to help them with
 * their WRITEs. A helper looks them up and says which one it misses; the service asks the peer for
 * it (remote.c), and removes those that have ended. HELP.md has the rights. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <sys/mman.h>
#include <unistd.h>

const shm_mapped *shm_source_find(const shm_peer *peer, const shm_terms *terms)
{
    for (uint32_t place = 0; place < SHM_SOURCES_MAX && terms->source_generation != 0; place++) {
        const shm_mapped *mapped = &peer->mapped[place];
        /* Pairs with shm_source_granted. */
        if (atomic_load_explicit(&mapped->generation, memory_order_acquire) == terms->source_generation &&
            mapped->index == terms->source_index)
            return mapped;
    }
    return NULL;
}

/* A place that is free, or whose registration has ended; NULL: all are in use. */
static shm_mapped *mapped_find_free(shm_peer *peer)
{
    for (uint32_t place = 0; place < SHM_SOURCES_MAX; place++) {
        shm_mapped *mapped = &peer->mapped[place];
        uint32_t generation = atomic_load_explicit(&mapped->generation, memory_order_acquire);
        if (generation == 0 || atomic_load_explicit(&peer->board->exports[mapped->index], memory_order_relaxed) != generation)
            return mapped;
    }
    return NULL;
}

void shm_source_wish(shm_device *device, shm_peer *peer, const shm_terms *terms, const uint64_t *token)
{
    const uint64_t one = 1;
    bool refused = atomic_load_explicit(&peer->refused_generation, memory_order_relaxed) == terms->source_generation &&
                   atomic_load_explicit(&peer->refused_index, memory_order_relaxed) == terms->source_index;
    if (refused || terms->source_index >= SHM_EXPORTS_MAX || terms->source_generation == 0 || mapped_find_free(peer) == NULL)
        return;
    if (atomic_load_explicit(&peer->wish, memory_order_acquire) != SHM_WISH_NONE) /* pairs with wish_end */
        return;
    peer->wish_token[0] = token[0];
    peer->wish_token[1] = token[1];
    peer->wish_index = terms->source_index;
    peer->wish_generation = terms->source_generation;
    atomic_store_explicit(&peer->wish, SHM_WISH_MADE, memory_order_release); /* pairs with shm_sources_ask */
    (void)!write(device->unmapped.descriptor, &one, sizeof one);
}

static void wish_end(shm_peer *peer)
{
    atomic_store_explicit(&peer->wish, SHM_WISH_NONE, memory_order_release); /* pairs with shm_source_wish */
}

void shm_source_refused(shm_peer *peer)
{
    atomic_store_explicit(&peer->refused_index, peer->wish_index, memory_order_relaxed);
    atomic_store_explicit(&peer->refused_generation, peer->wish_generation, memory_order_relaxed);
    wish_end(peer);
}

static void mapped_clear(shm_device *device, shm_mapped *mapped)
{
    if (atomic_load_explicit(&mapped->generation, memory_order_relaxed) == 0)
        return;
    atomic_store_explicit(&mapped->generation, 0, memory_order_relaxed);
    rt_fence_full(); /* pairs with the entry of shm_memory_help: it does not find the mapping, or we see it inside */
    shm_helper_wait_out(device);
    munmap((void *)(uintptr_t)mapped->address, mapped->mapped_size);
}

void shm_source_granted(shm_peer *peer, const shm_reply *reply, int descriptor)
{
    rt_detail ignored;
    void *address;
    uint64_t mapped_size;
    shm_mapped *mapped = mapped_find_free(peer);
    bool fits = mapped != NULL && reply->value == RT_ACCESS_REMOTE_READ && reply->index == peer->wish_index &&
                reply->generation == peer->wish_generation && reply->size != 0;
    if (!fits || shm_map(descriptor, reply->size, false, &address, &mapped_size, &ignored) != RT_OK) {
        shm_source_refused(peer);
        return;
    }
    mapped_clear(peer->device, mapped);
    mapped->index = reply->index;
    mapped->address = address;
    mapped->size = reply->size;
    mapped->mapped_size = mapped_size;
    atomic_store_explicit(&mapped->generation, reply->generation, memory_order_release); /* pairs with shm_source_find */
    wish_end(peer);
}

void shm_sources_free(shm_peer *peer)
{
    for (uint32_t place = 0; place < SHM_SOURCES_MAX; place++)
        mapped_clear(peer->device, &peer->mapped[place]);
}
