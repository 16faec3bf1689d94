/* help.c: the part of a waiting thread in a large WRITE of a peer: it claims a piece, and copies it
 * from the peer's memory into its own. HELP.md has the protocol, and what a peer can make it do.
 * HOT: no allocation, no lock, no log; a system call once for each source that is not mapped. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <string.h>

/* Finds the registration that peers may write and that the offer names, with the token that proves
 * the peer's right. NULL: there is none, or the bytes lie outside. */
static uint8_t *target_of(const shm_device *device, const shm_terms *terms)
{
    if (terms->target_index >= SHM_EXPORTS_MAX || terms->target_generation == 0)
        return NULL;
    const _Atomic uint32_t *live = &device->board->exports[terms->target_index];
    const shm_exported *exported = &device->exported[terms->target_index];
    if (atomic_load_explicit(live, memory_order_acquire) != terms->target_generation) /* pairs with export_publish in memory.c */
        return NULL;
    uint64_t address = atomic_load_explicit(&exported->address, memory_order_relaxed);
    uint64_t size = atomic_load_explicit(&exported->size, memory_order_relaxed);
    uint64_t wrong = 0;
    for (int word = 0; word < 2; word++)
        wrong |= atomic_load_explicit(&exported->token[word], memory_order_relaxed) ^ terms->target_token[word];
    bool may_write = (atomic_load_explicit(&exported->access, memory_order_relaxed) & RT_ACCESS_REMOTE_WRITE) != 0;
    atomic_thread_fence(memory_order_acquire); /* the numbers belong together if the generation is still the same */
    if (atomic_load_explicit(live, memory_order_relaxed) != terms->target_generation || wrong != 0 || !may_write)
        return NULL;
    if (terms->target_offset > size || terms->size > size - terms->target_offset)
        return NULL;
    return (uint8_t *)(uintptr_t)(address + terms->target_offset);
}

/* The source's bytes as this process maps them, or NULL; if they only are not mapped yet, they will be. */
static const uint8_t *mapped_source_of(shm_device *device, const shm_link *link, const shm_terms *terms)
{
    const shm_mapped *mapped = shm_source_find(link->peer, terms);
    if (mapped == NULL) {
        const shm_offer *offer = &link->in->offer;
        const uint64_t token[2] = {atomic_load_explicit(&offer->source_token[0], memory_order_relaxed),
                                   atomic_load_explicit(&offer->source_token[1], memory_order_relaxed)};
        shm_source_wish(device, link->peer, terms, token);
        return NULL;
    }
    if (terms->source_offset > mapped->size || terms->size > mapped->size - terms->source_offset)
        return NULL;
    return mapped->address + terms->source_offset;
}

/* Copies a piece of the offer in the ring of this link, if there is one and it is right. */
static bool link_help(shm_device *device, shm_link *link)
{
    shm_terms terms;
    uint32_t state = atomic_load_explicit(&link->state, memory_order_acquire); /* pairs with shm_link_granted */
    if ((state != SHM_LINK_JOINED && state != SHM_LINK_LATE) || !shm_offer_look(&link->in->offer, &terms))
        return false;
    uint64_t at = (uint64_t)(shm_claims_last(terms.claims) - 1) * terms.piece;
    if (terms.size > SHM_MESSAGE_SIZE_MAX || terms.piece > SHM_PIECE_MAX || at >= terms.size)
        return false;
    uint8_t *to = target_of(device, &terms);
    const uint8_t *from = to != NULL ? mapped_source_of(device, link, &terms) : NULL;
    uint32_t piece;
    if (from == NULL || !shm_offer_claim_last(&link->in->offer, &terms, &piece))
        return false;
    uint64_t left = terms.size - at;
    memcpy(to + at, from + at, left < terms.piece ? left : terms.piece);
    shm_offer_did(&link->in->offer);
    return true;
}

/* One thread at a time is inside. */
static __attribute__((noinline)) bool device_help(shm_device *device, uint32_t hint)
{
    uint32_t sequence = atomic_load_explicit(&device->helping, memory_order_relaxed);
    if (hint > SHM_LINKS_MAX || (sequence & 1) != 0 ||
        !atomic_compare_exchange_strong_explicit(&device->helping, &sequence, sequence + 1, memory_order_acquire,
                                                 memory_order_relaxed))
        return false;
    /* Pairs with shm_link_shut, shm_link_destroy, shm_memory_release and the end of a mapping: we do
     * not find what they end, or they see us inside. */
    rt_fence_full();
    shm_link *link = atomic_load_explicit(&device->links[hint - 1], memory_order_acquire); /* pairs with shm_link_create */
    bool helped = link != NULL && link_help(device, link);
    atomic_store_explicit(&device->helping, sequence + 2, memory_order_release); /* pairs with shm_helper_wait_out */
    return helped;
}

bool shm_memory_help(rt_pdevice *pdevice)
{
    shm_device *device = shm_device_of(pdevice);
    uint32_t hint = atomic_load_explicit(&device->doorbell->offer, memory_order_relaxed);
    return __builtin_expect(hint != 0, 0) && device_help(device, hint);
}
