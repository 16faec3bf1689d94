/* post.c: work items, executed by who posts them. HOT: no allocation, no lock, no log, and no system call but the one that
 * wakes a sleeper (wait.c). Receiving is in poll.c.
 *
 * WRITE and READ are finished when post returns. SEND and WRITE_IMM fill a slot of the peer's ring; without room the post
 * takes a prefix. An item that fails completes with its reason, everything after it with "flushed". */
#include "provider/shm/shm.h"

#include <assert.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

/* How large copies are made. Measured with two processes on two cores of an EPYC 7003 under KVM (32 MiB L3), glibc 2.36,
 * GB/s, medians; "read" is with the peer reading all of it after each copy:
 *                          1 MiB   4 MiB   8 MiB   16 MiB   256 MiB in one   256 MiB by 16 MiB
 *     memcpy                30.5    28.7    16.7      7.7             11.0                 6.4
 *     rep movsb             21.9                      7.9              9.0                 6.9
 *     non-temporal SSE2     19.1    19.2    19.1     17.1             10.4                11.7
 *     memcpy, read           2.8     4.1     3.3      3.6              5.7                 4.2
 *     non-temporal, read     6.8     7.8     6.2      5.6              6.0                 6.3
 * memcpy turns to non-temporal stores at three quarters of the cache it believes in (192 MiB there), which items of 16 MiB
 * never reach; so we turn at a quarter of the last cache (open.c), where both ends fill half of it and non-temporal stores win
 * even when nobody reads. Below, a peer that reads at once would be served better by them too, one that does not would be served
 * worse. Where the cache is said to be larger (a Xeon under KVM: 480 MiB, of which others use most), memcpy is ahead up to 16 MiB
 * and behind at 64 MiB, so that items of the largest size are always copied so. */

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

#if defined(__x86_64__)
enum { STREAM_PAGE = 4096, STREAM_PAGES = 4, STREAM_AHEAD = 512, STREAM_LINE = 64 };

static inline void stream_line(uint8_t *to, const uint8_t *from)
{
    const __m128i *source = (const __m128i *)(const void *)from;
    __m128i *target = (__m128i *)(void *)to;
    __m128i first = _mm_loadu_si128(source), second = _mm_loadu_si128(source + 1);
    __m128i third = _mm_loadu_si128(source + 2), fourth = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, first);
    _mm_stream_si128(target + 1, second);
    _mm_stream_si128(target + 2, third);
    _mm_stream_si128(target + 3, fourth);
}

/* Copies past the cache, four pages side by side, which keeps more of the memory's banks busy: a tenth faster than one after the
 * other at 16 MiB, a third at 256 MiB. The fence makes the stores visible before any later one, as ordinary stores are. */
static void copy_streaming(uint8_t *to, const uint8_t *from, uint64_t size)
{
    uint64_t at = (64 - ((uintptr_t)to & 63)) & 63;
    memcpy(to, from, at);
    for (; size - at >= STREAM_PAGES * STREAM_PAGE; at += STREAM_PAGES * STREAM_PAGE) {
        for (uint64_t line = at; line < at + STREAM_PAGE; line += STREAM_LINE) {
            for (uint64_t page = 0; page < STREAM_PAGES; page++)
                _mm_prefetch((const char *)from + line + page * STREAM_PAGE + STREAM_AHEAD, _MM_HINT_T0);
            for (uint64_t page = 0; page < STREAM_PAGES; page++)
                stream_line(to + line + page * STREAM_PAGE, from + line + page * STREAM_PAGE);
        }
    }
    for (; size - at >= STREAM_LINE; at += STREAM_LINE)
        stream_line(to + at, from + at);
    _mm_sfence();
    memcpy(to + at, from + at, size - at);
}
#else
static void copy_streaming(uint8_t *to, const uint8_t *from, uint64_t size)
{
    memcpy(to, from, size);
}
#endif

/* Copies of this size and above go up and down in turn, a block at a time. */
#define SHM_SWEEP_SIZE_MIN ((uint64_t)256 << 10)
#define SHM_SWEEP_BLOCK ((uint64_t)64 << 10)

/* What the last copy touched last is what is left of it in the cache, and a source is often sent again at once: a parameter to
 * one worker after the other. A copy that begins there finds it; one that always begins at the front has thrown away, by the
 * time it comes to what was left, what it came for. The same source and target again, GB/s, on a Xeon with 2 MiB of L2:
 *                            512 KiB   1 MiB   2 MiB   4 MiB   8 MiB
 *     always upwards            52       29      14     13.4    13
 *     up and down in turn       53       37      21     16.4    14.7
 * With nothing in the cache the direction makes no difference. */
static void copy_sweeping(shm_link *link, uint8_t *to, const uint8_t *from, uint64_t size)
{
    link->sweeps_down = !link->sweeps_down;
    if (!link->sweeps_down) {
        memcpy(to, from, size);
        return;
    }
    for (uint64_t end = size, start; end > 0; end = start) {
        start = (end - 1) / SHM_SWEEP_BLOCK * SHM_SWEEP_BLOCK;
        memcpy(to + start, from + start, end - start);
    }
}

/* Copies one piece. Eight bytes are one load and one release store where they are aligned: limits.places_words_whole. */
static inline void place(shm_link *link, uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size == sizeof(uint64_t)) {
        uint64_t word;
        if (((uintptr_t)from & 7) == 0)
            word = rt_load_acquire_u64((const uint64_t *)(const void *)from); /* pairs with a release store like the next */
        else
            memcpy(&word, from, sizeof word);
        if (((uintptr_t)to & 7) == 0)
            rt_store_release_u64((uint64_t *)(void *)to, word); /* pairs with the acquire load of who waits for the word */
        else
            memcpy(to, &word, sizeof word);
    } else if (__builtin_expect(size < SHM_SWEEP_SIZE_MIN, 1)) {
        if (size != 0)
            memcpy(to, from, size);
    } else if (size < link->stream_size_min) {
        copy_sweeping(link, to, from, size);
    } else {
        copy_streaming(to, from, size);
    }
}

/* The bytes of all segments, or more than `most`. */
static inline uint64_t total_size(const rt_work *item, uint64_t most)
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

static void gather(shm_link *link, uint8_t *to, const rt_work *item)
{
    for (uint32_t index = 0; index < item->segment_count; index++) {
        place(link, to, item->segments[index].address, item->segments[index].size);
        to += item->segments[index].size;
    }
}

static void scatter(shm_link *link, const rt_work *item, const uint8_t *from)
{
    for (uint32_t index = 0; index < item->segment_count; index++) {
        place(link, item->segments[index].address, from, item->segments[index].size);
        from += item->segments[index].size;
    }
}

/* What a NIC at the peer would check. */
static inline enum shm_outcome check_remote(const shm_remote *remote, uint64_t offset, uint64_t size, uint32_t right)
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

static inline enum shm_outcome execute_write(shm_link *link, const rt_work *item)
{
    const shm_remote *remote = (const shm_remote *)(const void *)item->remote;
    uint64_t size = total_size(item, SHM_MESSAGE_SIZE_MAX);
    assert(size <= SHM_MESSAGE_SIZE_MAX);
    enum shm_outcome outcome = check_remote(remote, item->remote_offset, size, RT_ACCESS_REMOTE_WRITE);
    if (outcome != SHM_DONE)
        return outcome;
    uint8_t *target = remote->address + item->remote_offset;
    rt_fence_release(); /* a later WRITE is placed after an earlier one; pairs with the acquire load of who reads the later */
    if (item->segment_count == 1) {
        place(link, target, item->segments[0].address, size);
    } else if (size == sizeof(uint64_t)) {
        _Alignas(8) uint8_t word[sizeof(uint64_t)]; /* so that a gathered word is placed whole too */
        gather(link, word, item);
        place(link, target, word, sizeof word);
    } else {
        gather(link, target, item);
    }
    shm_count(&link->writes, 1);
    shm_count(&link->bytes_written, size);
    return SHM_DONE;
}

static inline enum shm_outcome execute_read(shm_link *link, const rt_work *item)
{
    const shm_remote *remote = (const shm_remote *)(const void *)item->remote;
    uint64_t size = total_size(item, SHM_MESSAGE_SIZE_MAX);
    assert(size <= SHM_MESSAGE_SIZE_MAX);
    enum shm_outcome outcome = check_remote(remote, item->remote_offset, size, RT_ACCESS_REMOTE_READ);
    if (outcome != SHM_DONE)
        return outcome;
    scatter(link, item, remote->address + item->remote_offset);
    shm_count(&link->reads, 1);
    shm_count(&link->bytes_read, size);
    return SHM_DONE;
}

/* Whether the peer's ring has a free slot. Its tail is the peer's word: one that was never reached is nonsense. */
static inline enum shm_outcome check_ring(const shm_link *link)
{
    uint32_t used =
        link->out_head - atomic_load_explicit(&link->out->tail, memory_order_acquire); /* pairs with take_slot in poll.c */
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
    atomic_store_explicit(&link->out->head, link->out_head, memory_order_release); /* pairs with take_slot in poll.c */
}

static enum shm_outcome execute_write_immediate(shm_link *link, const rt_work *item)
{
    enum shm_outcome outcome = check_ring(link);
    if (outcome == SHM_DONE)
        outcome = execute_write(link, item);
    if (outcome == SHM_DONE)
        ring_publish(link, SHM_SLOT_IMMEDIATE, (uint32_t)total_size(item, SHM_MESSAGE_SIZE_MAX), item->immediate);
    return outcome;
}

static enum shm_outcome execute_send(shm_link *link, const rt_work *item)
{
    uint64_t size = total_size(item, SHM_SEND_SIZE_MAX);
    if (size > SHM_SEND_SIZE_MAX)
        return SHM_SEND_TOO_LONG;
    enum shm_outcome outcome = check_ring(link);
    if (outcome != SHM_DONE)
        return outcome;
    gather(link, link->out->slots[link->out_head % SHM_RING_SLOTS].bytes, item);
    ring_publish(link, SHM_SLOT_SEND, (uint32_t)size, 0);
    shm_count(&link->sends, 1);
    return SHM_DONE;
}

/* RECVs are kept in private memory until a slot comes. */
static uint32_t post_receives(shm_link *link, const rt_work *items, uint32_t count)
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
        shm_bell_ring(device->queues[link->base.receive_queue].bell.ring_end); /* they are flushed at once */
    return taken;
}

/* Lets items complete with a failure: the first with `outcome`, the others as flushed. Returns for how many there was room. */
static uint32_t post_failed(shm_link *link, const rt_work *items, uint32_t count, enum shm_outcome outcome)
{
    shm_queue *queue = &shm_device_of(link->base.device)->queues[link->base.send_queue];
    uint32_t head = atomic_load_explicit(&link->failure_head, memory_order_relaxed), taken = 0;
    for (; taken < count; taken++, head++) {
        /* Pairs with the release of take_failures in poll.c. */
        if (head - atomic_load_explicit(&link->failure_tail, memory_order_acquire) == SHM_WORK_DEPTH)
            break;
        link->failures[head % SHM_WORK_DEPTH] = (shm_failure){.token = items[taken].token, .outcome = outcome};
        outcome = SHM_FLUSHED;
    }
    if (taken == 0)
        return 0;
    atomic_store_explicit(&link->failure_head, head, memory_order_release); /* pairs with take_failures */
    atomic_fetch_add_explicit(&queue->failures, taken, memory_order_release);
    shm_bell_ring(queue->bell.ring_end);
    return taken;
}

static inline enum shm_outcome execute(shm_link *link, const rt_work *item)
{
    switch ((enum rt_opcode)item->opcode) {
    case RT_WORK_WRITE: return execute_write(link, item);
    case RT_WORK_READ: return execute_read(link, item);
    case RT_WORK_WRITE_IMM: return execute_write_immediate(link, item);
    case RT_WORK_SEND: return execute_send(link, item);
    case RT_WORK_RECV: break;
    }
    assert(false && "a RECV among other items, or no opcode at all");
    return SHM_FLUSHED;
}

/* Why nothing may be executed now. */
static enum shm_outcome refusal(shm_link *link)
{
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
        posted_out->accepted = post_receives(link, items, count);
        return RT_OK;
    }
    enum shm_outcome outcome = SHM_DONE;
    uint32_t done = 0;
    unsigned seen = 0;                                                         /* opcodes executed */
    uint32_t state = atomic_load_explicit(&link->state, memory_order_acquire); /* pairs with shm_link_granted */
    assert(state != SHM_LINK_CREATED);
    if (__builtin_expect(state != SHM_LINK_JOINED, 0))
        outcome = refusal(link);
    while (outcome == SHM_DONE && done < count) {
        /* Looked at for each item, so that a peer that shut its end gets one more item at most. */
        bool shut = atomic_load_explicit(&link->out->shut, memory_order_relaxed) != 0;
        outcome = __builtin_expect(shut, 0) ? refusal(link) : execute(link, &items[done]);
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
    posted_out->accepted += post_failed(link, items + done, count - done, outcome);
    return RT_OK;
}
