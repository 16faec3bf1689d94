/* offer.c: the initiator's part of a large WRITE: it offers the WRITE to the peer, copies pieces of
 * it, and waits for those that the peer's helpers have claimed. HELP.md has the protocol. HOT like
 * post.c, but for waits that take long: those yield the core, which is a system call. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <sched.h>
#include <string.h>

#include "base/clock.h"

enum {
    SHM_HELPER_SPINS = 4096,      /* some 100 us: as long as a helper that runs takes for its last piece */
    SHM_PATIENCE_NS = 8000000,    /* then yields, for as long as a scheduler lets another thread run in its place */
    SHM_REST_MIN_NS = 50000000,   /* no offer for this long after a long wait, so that few waits are long … */
    SHM_REST_MAX_NS = 1600000000, /* … at most: a long wait soon after a rest doubles the next one */
    SHM_REST_SOON = 8,            /* within this many times the rest */
    SHM_CACHED_MAX = 4 << 20,     /* up to here the initiator's share stays in a cache that the reader reaches */
};

/* One WRITE, in the initiator's hands. */
typedef struct shm_writing {
    shm_link *link;
    uint8_t *to;
    const uint8_t *from;
    shm_terms terms;
} shm_writing;

/* Copies without help: as one end does it. */
static void write_alone(shm_link *link, uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size < RT_LARGE_SIZE_MIN)
        memcpy(to, from, size);
    else
        rt_large_copy(shm_device_of(link->base.device)->write_paces, to, from, size);
}

/* Fills in the registration at this place of the board if the source lies in it and peers may read it. */
static bool source_is_at(const shm_device *device, uint32_t index, const uint8_t *from, uint64_t size, shm_terms *terms)
{
    const _Atomic uint32_t *live = &device->board->exports[index];
    const shm_exported *exported = &device->exported[index];
    uint32_t generation = atomic_load_explicit(live, memory_order_acquire); /* pairs with export_publish in memory.c */
    uint64_t offset = (uint64_t)(uintptr_t)from - atomic_load_explicit(&exported->address, memory_order_relaxed);
    uint64_t room = atomic_load_explicit(&exported->size, memory_order_relaxed);
    uint32_t access = atomic_load_explicit(&exported->access, memory_order_relaxed);
    for (int word = 0; word < 2; word++)
        terms->source_token[word] = atomic_load_explicit(&exported->source_token[word], memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire); /* the numbers belong together if the generation is still the same */
    if (generation == 0 || atomic_load_explicit(live, memory_order_relaxed) != generation)
        return false;
    if ((access & RT_ACCESS_REMOTE_READ) == 0 || offset >= room || size > room - offset)
        return false;
    terms->source_index = index;
    terms->source_generation = generation;
    terms->source_offset = offset;
    return true;
}

/* Finds the registration that the source lies in, where it was the last time or near the front of the board. */
static bool source_locate(shm_link *link, const uint8_t *from, uint64_t size, shm_terms *terms)
{
    const shm_device *device = shm_device_of(link->base.device);
    if (source_is_at(device, link->source_index, from, size, terms))
        return true;
    uint32_t high = atomic_load_explicit(&device->export_high, memory_order_relaxed);
    for (uint32_t index = 0; index < high && index < SHM_SOURCES_SCANNED; index++) {
        if (source_is_at(device, index, from, size, terms)) {
            link->source_index = index;
            return true;
        }
    }
    return false;
}

/* Describes the WRITE. False: it cannot be offered, or shall not be now. */
static bool offer_describe(shm_link *link, const shm_remote *remote, uint64_t offset, const uint8_t *from, uint64_t size,
                           shm_terms *terms_out)
{
    if (link->rest_end_ns != 0 && rt_clock_now_ns() < link->rest_end_ns)
        return false;
    if (!source_locate(link, from, size, terms_out))
        return false;
    const shm_window *window = remote->window;
    terms_out->target_offset = offset;
    terms_out->target_index = window->index;
    terms_out->target_generation = window->generation;
    memcpy(terms_out->target_token, window->token, sizeof terms_out->target_token);
    terms_out->size = (uint32_t)size;
    terms_out->piece = shm_piece_size(terms_out->size);
    return true;
}

static uint64_t offered_piece_copy(const shm_writing *writing, const rt_large_run *run, uint32_t piece)
{
    uint64_t at = (uint64_t)piece * writing->terms.piece, left = writing->terms.size - at;
    uint64_t size = left < writing->terms.piece ? left : writing->terms.piece;
    if (run != NULL)
        rt_large_part(run, writing->to + at, writing->from + at, size);
    else
        memcpy(writing->to + at, writing->from + at, size);
    return size;
}

/* Copies pieces from the front until none is left. *bytes_out: how many bytes; link->helped_pieces:
 * how many pieces are the helpers'. */
static enum shm_outcome pieces_copy(const shm_writing *writing, const rt_large_run *run, uint64_t *bytes_out)
{
    shm_link *link = writing->link;
    uint32_t count = shm_piece_count(&writing->terms), first = 1, last = count;
    uint64_t bytes = offered_piece_copy(writing, run, 0);
    enum shm_claim claim;
    while ((claim = shm_offer_claim_first(&link->out->offer, link->sequence, first, &last)) == SHM_CLAIMED)
        bytes += offered_piece_copy(writing, run, first++);
    link->helped_pieces = count - last;
    *bytes_out = bytes;
    return claim == SHM_CLAIMS_BROKEN ? SHM_RING_BROKEN : SHM_DONE;
}

/* Whether all pieces are copied; SHM_FULL: not yet. */
static enum shm_outcome pieces_check(const shm_link *link)
{
    uint32_t done = shm_offer_done(&link->out->offer);
    if (done > link->helped_pieces)
        return SHM_RING_BROKEN;
    return done == link->helped_pieces ? SHM_DONE : SHM_FULL;
}

static void link_rest(shm_link *link)
{
    int64_t now = rt_clock_now_ns();
    bool soon = link->rest_end_ns != 0 && now - link->rest_end_ns < SHM_REST_SOON * link->rest_ns;
    int64_t rest = soon ? 2 * link->rest_ns : SHM_REST_MIN_NS;
    link->rest_ns = rest < SHM_REST_MAX_NS ? rest : SHM_REST_MAX_NS;
    link->rest_end_ns = now + link->rest_ns;
}

/* Waits for the helpers' pieces. SHM_FULL: for longer than it may. */
static enum shm_outcome helpers_await(shm_link *link)
{
    enum shm_outcome outcome = pieces_check(link);
    for (uint32_t spin = 0; outcome == SHM_FULL && spin < SHM_HELPER_SPINS; spin++) {
        rt_pause();
        outcome = pieces_check(link);
    }
    if (outcome != SHM_FULL)
        return outcome;
    int64_t end_ns = rt_clock_now_ns() + SHM_PATIENCE_NS;
    while (outcome == SHM_FULL && rt_clock_now_ns() < end_ns) {
        sched_yield();
        outcome = pieces_check(link);
    }
    link_rest(link);
    return outcome;
}

/* The link accepts nothing until the helpers have finished; unless it has failed meanwhile, which is for ever. */
static void link_be_late(shm_link *link)
{
    uint32_t joined = SHM_LINK_JOINED;
    atomic_compare_exchange_strong_explicit(&link->state, &joined, SHM_LINK_LATE, memory_order_relaxed, memory_order_relaxed);
}

bool shm_link_caught_up(shm_link *link)
{
    uint32_t late = SHM_LINK_LATE;
    enum shm_outcome outcome = pieces_check(link);
    if (outcome == SHM_RING_BROKEN)
        shm_link_fail(link, SHM_RING_BROKEN);
    return outcome == SHM_DONE && atomic_compare_exchange_strong_explicit(&link->state, &late, SHM_LINK_JOINED,
                                                                          memory_order_relaxed, memory_order_relaxed);
}

/* The pieces, with the way of copying that suits the size and what the peer did last time. */
static enum shm_outcome pieces_run(const shm_writing *writing)
{
    shm_link *link = writing->link;
    shm_device *device = shm_device_of(link->base.device);
    uint64_t size = writing->terms.size, bytes = 0;
    bool learns = size >= RT_LARGE_SIZE_MIN && !(link->helped && size <= SHM_CACHED_MAX), was_helped = link->helped;
    rt_large_run run;
    if (learns)
        rt_large_begin(&run, was_helped ? device->helped_paces : device->write_paces, size);
    enum shm_outcome outcome = pieces_copy(writing, learns ? &run : NULL, &bytes);
    link->helped = link->helped_pieces != 0;
    if (outcome == SHM_DONE && link->helped)
        outcome = helpers_await(link);
    if (learns && outcome == SHM_DONE && was_helped == link->helped)
        rt_large_end(&run, size);
    if (outcome == SHM_DONE)
        shm_count(&link->bytes_helped, size - bytes);
    else if (outcome == SHM_FULL)
        link_be_late(link);
    return outcome;
}

enum shm_outcome shm_write_large(shm_link *link, const shm_remote *remote, uint64_t offset, const uint8_t *from, uint64_t size)
{
    shm_writing writing = {.link = link, .to = remote->address + offset, .from = from};
    if (!offer_describe(link, remote, offset, from, size, &writing.terms)) {
        write_alone(link, writing.to, from, size);
        return SHM_DONE;
    }
    _Atomic uint32_t *hint = &link->doorbell->offer;
    shm_offer_open(&link->out->offer, ++link->sequence, &writing.terms);
    atomic_store_explicit(hint, link->out_index + 1, memory_order_relaxed);
    enum shm_outcome outcome = pieces_run(&writing);
    if (atomic_load_explicit(hint, memory_order_relaxed) == link->out_index + 1)
        atomic_store_explicit(hint, 0, memory_order_relaxed);
    return outcome;
}
