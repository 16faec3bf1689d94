/* post.c: work items, executed by the thread that posts them (large WRITEs with the peer's help: offer.c). HOT: no allocation, no lock, no log,
 * and no system call but the one that wakes a sleeper (wait.c). Receiving is in poll.c.
 *
 * WRITE and READ are finished when post returns. SEND and WRITE_IMM fill a slot of the peer's ring;
 * without room the post takes a prefix. An item that fails completes with its reason, every later
 * one with "flushed". */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    int status;
} outcomes[SHM_OUTCOME_COUNT] = {
    [SHM_DONE] = {"SHM_DONE", RT_OK},
    [SHM_FULL] = {"SHM_FULL", RT_E_AGAIN},
    [SHM_FLUSHED] = {"SHM_FLUSHED", RT_E_FLUSHED},
    [SHM_PEER_SHUT] = {"SHM_PEER_SHUT (the peer's end of the link is closed or failed)", RT_E_PEER_LOST},
    [SHM_REMOTE_BOUNDS] = {"SHM_REMOTE_BOUNDS (outside the peer's region)", RT_E_REMOTE_ACCESS},
    [SHM_REMOTE_RIGHT] = {"SHM_REMOTE_RIGHT (the peer did not give this right)", RT_E_REMOTE_ACCESS},
    [SHM_REMOTE_RELEASED] = {"SHM_REMOTE_RELEASED (the peer closed the region)", RT_E_REMOTE_ACCESS},
    [SHM_SEND_TOO_LONG] = {"SHM_SEND_TOO_LONG (a SEND longer than send_size_max)", RT_E_LOCAL_ACCESS},
    [SHM_RECV_TOO_SHORT] = {"SHM_RECV_TOO_SHORT (a SEND longer than the RECV posted for it)", RT_E_LOCAL_ACCESS},
    [SHM_RING_BROKEN] = {"SHM_RING_BROKEN (the peer wrote impossible numbers into the ring)", RT_E_PROTOCOL},
};

const char *shm_completion_name(uint32_t foreign_status)
{
    return foreign_status < SHM_OUTCOME_COUNT ? outcomes[foreign_status].name : "unknown shm status";
}

int shm_outcome_status(enum shm_outcome outcome)
{
    return outcomes[outcome].status;
}

/* Copies eight bytes: one load and one release store where they are aligned (limits.places_words_whole). */
static inline void word_copy(uint8_t *to, const uint8_t *from)
{
    uint64_t word;
    if (((uintptr_t)from & 7) == 0)
        word = rt_load_acquire_u64((const uint64_t *)(const void *)from); /* pairs with a release store like the next */
    else
        memcpy(&word, from, sizeof word);
    if (((uintptr_t)to & 7) == 0)
        rt_store_release_u64((uint64_t *)(void *)to, word); /* pairs with the acquire load of the word's waiter */
    else
        memcpy(to, &word, sizeof word);
}

/* Copies one piece. */
static inline void piece_copy(rt_large_pace *paces, uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size == sizeof(uint64_t)) {
        word_copy(to, from);
    } else if (__builtin_expect(size < RT_LARGE_SIZE_MIN, 1)) {
        if (size != 0)
            memcpy(to, from, size);
    } else {
        rt_large_copy(paces, to, from, size);
    }
}

/* The bytes of all segments, or more than `most`. */
static inline uint64_t item_size(const rt_work *item, uint64_t most)
{
    uint64_t total = 0;
    for (uint32_t index = 0; index < item->segment_count; index++) {
        uint64_t size = item->segments[index].size;
        if (size > most || total > most - size)
            return most + 1;
        total += size;
    }
    return total;
}

static void item_gather(rt_large_pace *paces, uint8_t *to, const rt_work *item)
{
    for (uint32_t index = 0; index < item->segment_count; index++) {
        piece_copy(paces, to, item->segments[index].address, item->segments[index].size);
        to += item->segments[index].size;
    }
}

static void item_scatter(rt_large_pace *paces, const rt_work *item, const uint8_t *from)
{
    for (uint32_t index = 0; index < item->segment_count; index++) {
        piece_copy(paces, item->segments[index].address, from, item->segments[index].size);
        from += item->segments[index].size;
    }
}

/* Makes the checks that a NIC at the peer would make. */
static inline enum shm_outcome remote_check(const shm_remote *remote, uint64_t offset, uint64_t size, uint32_t right)
{
    if (__builtin_expect(offset > remote->base.size || size > remote->base.size - offset, 0))
        return SHM_REMOTE_BOUNDS;
    if (__builtin_expect((remote->base.access & right) == 0, 0))
        return SHM_REMOTE_RIGHT;
    /* Pairs with the store of shm_memory_release. */
    if (__builtin_expect(atomic_load_explicit(remote->live, memory_order_relaxed) != remote->generation, 0))
        return SHM_REMOTE_RELEASED;
    return SHM_DONE;
}

/* Copies one segment; the outcome is not SHM_DONE only for those that the peer may help with. */
static inline enum shm_outcome segment_write(shm_link *link, const rt_work *item, uint8_t *target, uint64_t size)
{
    const uint8_t *from = item->segments[0].address;
    if (size == sizeof(uint64_t)) {
        word_copy(target, from);
    } else if (__builtin_expect(size < SHM_HELP_SIZE_MIN, 1)) {
        if (size != 0)
            memcpy(target, from, size);
    } else {
        return shm_write_large(link, (const shm_remote *)(const void *)item->remote, item->remote_offset, from, size);
    }
    return SHM_DONE;
}

static inline enum shm_outcome item_write(shm_link *link, const rt_work *item)
{
    const shm_remote *remote = (const shm_remote *)(const void *)item->remote;
    uint64_t size = item_size(item, SHM_MESSAGE_SIZE_MAX);
    assert(size <= SHM_MESSAGE_SIZE_MAX);
    enum shm_outcome outcome = remote_check(remote, item->remote_offset, size, RT_ACCESS_REMOTE_WRITE);
    if (outcome != SHM_DONE)
        return outcome;
    uint8_t *target = remote->address + item->remote_offset;
    rt_large_pace *paces = shm_device_of(link->base.device)->write_paces;
    rt_fence_release(); /* a later WRITE is placed after an earlier one; pairs with the acquire load of the later one's reader */
    if (item->segment_count == 1) {
        outcome = segment_write(link, item, target, size);
        if (__builtin_expect(outcome != SHM_DONE, 0))
            return outcome;
    } else if (size == sizeof(uint64_t)) {
        _Alignas(8) uint8_t word[sizeof(uint64_t)]; /* so that a gathered word is placed whole too */
        item_gather(paces, word, item);
        piece_copy(paces, target, word, sizeof word);
    } else {
        item_gather(paces, target, item);
    }
    shm_count(&link->writes, 1);
    shm_count(&link->bytes_written, size);
    return SHM_DONE;
}

static inline enum shm_outcome item_read(shm_link *link, const rt_work *item)
{
    const shm_remote *remote = (const shm_remote *)(const void *)item->remote;
    uint64_t size = item_size(item, SHM_MESSAGE_SIZE_MAX);
    assert(size <= SHM_MESSAGE_SIZE_MAX);
    enum shm_outcome outcome = remote_check(remote, item->remote_offset, size, RT_ACCESS_REMOTE_READ);
    if (outcome != SHM_DONE)
        return outcome;
    item_scatter(shm_device_of(link->base.device)->read_paces, item, remote->address + item->remote_offset);
    shm_count(&link->reads, 1);
    shm_count(&link->bytes_read, size);
    return SHM_DONE;
}

/* Whether the peer's ring has a free slot. The peer writes its tail: a tail that was never reached
 * is invalid. */
static inline enum shm_outcome ring_check(const shm_link *link)
{
    uint32_t used =
        link->out_head - atomic_load_explicit(&link->out->tail, memory_order_acquire); /* pairs with ring_slot_take in poll.c */
    if (used > SHM_RING_SLOTS)
        return SHM_RING_BROKEN;
    return used == SHM_RING_SLOTS ? SHM_FULL : SHM_DONE;
}

static void ring_publish(shm_link *link, enum shm_slot_kind kind, uint32_t size, uint32_t immediate)
{
    shm_slot *slot = &link->out->slots[link->out_head % SHM_RING_SLOTS];
    atomic_store_explicit(&slot->kind, kind, memory_order_relaxed);
    atomic_store_explicit(&slot->size, size, memory_order_relaxed);
    atomic_store_explicit(&slot->immediate, immediate, memory_order_relaxed);
    link->out_head++;
    atomic_store_explicit(&link->out->head, link->out_head, memory_order_release); /* pairs with ring_slot_take in poll.c */
}

static enum shm_outcome item_write_immediate(shm_link *link, const rt_work *item)
{
    enum shm_outcome outcome = ring_check(link);
    if (outcome == SHM_DONE)
        outcome = item_write(link, item);
    if (outcome == SHM_DONE)
        ring_publish(link, SHM_SLOT_IMMEDIATE, (uint32_t)item_size(item, SHM_MESSAGE_SIZE_MAX), item->immediate);
    return outcome;
}

static enum shm_outcome item_send(shm_link *link, const rt_work *item)
{
    uint64_t size = item_size(item, SHM_SEND_SIZE_MAX);
    if (size > SHM_SEND_SIZE_MAX)
        return SHM_SEND_TOO_LONG;
    enum shm_outcome outcome = ring_check(link);
    if (outcome != SHM_DONE)
        return outcome;
    item_gather(shm_device_of(link->base.device)->write_paces, link->out->slots[link->out_head % SHM_RING_SLOTS].bytes, item);
    ring_publish(link, SHM_SLOT_SEND, (uint32_t)size, 0);
    shm_count(&link->sends, 1);
    return SHM_DONE;
}

/* RECVs are kept in private memory until a slot comes. */
static uint32_t shm_receives_post(shm_link *link, const rt_work *items, uint32_t count)
{
    shm_device *device = shm_device_of(link->base.device);
    uint32_t head = atomic_load_explicit(&link->receive_head, memory_order_relaxed), taken = 0;
    for (; taken < count; taken++, head++) {
        const rt_work *item = &items[taken];
        assert(item->opcode == RT_WORK_RECV && item->segment_count <= SHM_SEGMENTS_MAX);
        /* Both pair with the release of receive_retire in poll.c. */
        uint32_t tail = atomic_load_explicit(&link->receive_tail, memory_order_acquire);
        uint32_t segments = link->segment_head - atomic_load_explicit(&link->segment_tail, memory_order_acquire);
        if (head - tail == SHM_RECEIVE_DEPTH || segments + item->segment_count > SHM_RECEIVE_SEGMENTS)
            break;
        link->receives[head % SHM_RECEIVE_DEPTH] =
            (shm_receive){.token = item->token, .first = link->segment_head, .count = item->segment_count};
        for (uint32_t index = 0; index < item->segment_count; index++)
            link->segments[link->segment_head++ % SHM_RECEIVE_SEGMENTS] = item->segments[index];
    }
    atomic_store_explicit(&link->receive_head, head, memory_order_release); /* pairs with the poller's acquire */
    if (atomic_load_explicit(&link->state, memory_order_relaxed) == SHM_LINK_ERROR)
        shm_bell_ring(device->queues[link->base.receive_queue].bell.ring_end); /* the posted RECVs are flushed at once */
    return taken;
}

/* Completes items with a failure: the first with `outcome`, the others as flushed. Returns how many
 * there was room for. */
static uint32_t items_fail(shm_link *link, const rt_work *items, uint32_t count, enum shm_outcome outcome)
{
    shm_queue *queue = &shm_device_of(link->base.device)->queues[link->base.send_queue];
    uint32_t head = atomic_load_explicit(&link->failure_head, memory_order_relaxed), taken = 0;
    for (; taken < count; taken++, head++) {
        /* Pairs with the release of failures_take in poll.c. */
        if (head - atomic_load_explicit(&link->failure_tail, memory_order_acquire) == SHM_WORK_DEPTH)
            break;
        link->failures[head % SHM_WORK_DEPTH] = (shm_failure){.token = items[taken].token, .outcome = outcome};
        outcome = SHM_FLUSHED;
    }
    if (taken == 0)
        return 0;
    atomic_store_explicit(&link->failure_head, head, memory_order_release); /* pairs with failures_take */
    atomic_fetch_add_explicit(&queue->failures, taken, memory_order_release);
    shm_bell_ring(queue->bell.ring_end);
    return taken;
}

static inline enum shm_outcome item_execute(shm_link *link, const rt_work *item)
{
    switch ((enum rt_opcode)item->opcode) {
    case RT_WORK_WRITE: return item_write(link, item);
    case RT_WORK_READ: return item_read(link, item);
    case RT_WORK_WRITE_IMM: return item_write_immediate(link, item);
    case RT_WORK_SEND: return item_send(link, item);
    case RT_WORK_RECV: break;
    }
    assert(false && "a RECV among other items, or no opcode at all");
    return SHM_FLUSHED;
}

/* The reason why no item may be executed now; SHM_DONE: the helper of a LATE link has finished. */
static enum shm_outcome link_refusal(shm_link *link, uint32_t state)
{
    bool shut = atomic_load_explicit(&link->out->shut, memory_order_relaxed) != 0;
    if (state == SHM_LINK_LATE && !shut && atomic_load_explicit(&link->state, memory_order_acquire) != SHM_LINK_ERROR)
        return shm_link_caught_up(link) ? SHM_DONE : SHM_FULL;
    if (atomic_load_explicit(&link->state, memory_order_acquire) == SHM_LINK_ERROR)
        return atomic_exchange_explicit(&link->cause, SHM_FLUSHED, memory_order_relaxed);
    return SHM_PEER_SHUT;
}

int shm_post(rt_plink *plink, const rt_work *items, uint32_t count, rt_posted *posted_out)
{
    shm_link *link = shm_link_of(plink);
    *posted_out = (rt_posted){0, 0};
    if (count == 0)
        return RT_OK;
    if (items[0].opcode == RT_WORK_RECV) {
        posted_out->accepted = shm_receives_post(link, items, count);
        return RT_OK;
    }
    enum shm_outcome outcome = SHM_DONE;
    uint32_t done = 0;
    unsigned seen = 0;                                                         /* opcodes executed */
    uint32_t state = atomic_load_explicit(&link->state, memory_order_acquire); /* pairs with shm_link_granted */
    assert(state != SHM_LINK_CREATED);
    if (__builtin_expect(state != SHM_LINK_JOINED, 0))
        outcome = link_refusal(link, state);
    while (outcome == SHM_DONE && done < count) {
        /* Checked for each item, so that a peer that shut its end gets one more item at most. */
        bool shut = atomic_load_explicit(&link->out->shut, memory_order_relaxed) != 0;
        outcome = __builtin_expect(shut, 0) ? link_refusal(link, state) : item_execute(link, &items[done]);
        if (outcome == SHM_DONE)
            seen |= 1u << items[done++].opcode;
    }
    if ((seen & (1u << RT_WORK_WRITE | 1u << RT_WORK_WRITE_IMM)) != 0)
        shm_wake_memory(link);
    if ((seen & (1u << RT_WORK_SEND | 1u << RT_WORK_WRITE_IMM)) != 0)
        shm_wake_queue(link);
    posted_out->accepted = posted_out->completed = done;
    if (__builtin_expect(outcome == SHM_DONE || outcome == SHM_FULL, 1))
        return RT_OK;
    shm_link_fail(link, SHM_FLUSHED);
    posted_out->accepted += items_fail(link, items + done, count - done, outcome);
    return RT_OK;
}
