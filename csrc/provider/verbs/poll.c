/* poll.c: completions of the device become completions of the seam. HOT: no allocation, lock,
 * system call or log.
 *
 * A completion is matched by its wr_id alone (RDMA-RULES 22): after an error nothing but wr_id,
 * status and vendor error is valid. A completion that belongs to no living link, or to an item that
 * is retired, is dropped; those of binds end here. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <arpa/inet.h>

/* Records that a bind is over: core never sees its completion (window.c). Binds of a link complete
 * in order. */
static void bind_note(verbs_link *link, const struct ibv_wc *wc)
{
    uint32_t position = (uint32_t)wc->wr_id;
    if (position != atomic_load_explicit(&link->binds_done, memory_order_relaxed))
        return;
    if (wc->status != IBV_WC_SUCCESS && atomic_load_explicit(&link->failure, memory_order_relaxed) == 0)
        atomic_store_explicit(&link->failure, wc->status, memory_order_relaxed);
    /* pairs with the acquire in window.c: the failure is visible with it */
    atomic_store_explicit(&link->binds_done, position + 1, memory_order_release);
}

static rt_completion completion_flushed(uint64_t token, bool receive)
{
    return (rt_completion){.token = token,
                           .status = RT_E_FLUSHED,
                           .foreign_status = IBV_WC_WR_FLUSH_ERR,
                           .opcode = receive ? RT_WORK_RECV : 0};
}

/* Records a failure and gives it a status. A flush on a link that was not shut, and of which
 * nothing failed before, means that the device moved the queue pair to error by itself, as rxe does
 * when the network interface is down. */
static int32_t link_fail(verbs_device *device, verbs_link *link, uint32_t wc_status, bool receive)
{
    bool flush = wc_status == IBV_WC_WR_FLUSH_ERR, shut = atomic_load_explicit(&link->shut, memory_order_relaxed);
    uint32_t known = atomic_load_explicit(&link->failure, memory_order_relaxed), none = VERBS_FALL_NONE;
    if (known == 0 || (known == IBV_WC_WR_FLUSH_ERR && !flush))
        atomic_store_explicit(&link->failure, wc_status, memory_order_relaxed);
    if (receive) {
        if (!shut && atomic_compare_exchange_strong_explicit(&link->fall, &none, VERBS_FALL_UNTOLD, memory_order_relaxed,
                                                             memory_order_relaxed))
            atomic_fetch_add_explicit(&device->fallen, 1, memory_order_release); /* pairs with the acquire in service */
        return verbs_completion_status(wc_status);
    }
    bool first = !atomic_exchange_explicit(&link->send_failed, true, memory_order_relaxed);
    return flush && first && !shut ? RT_E_PEER_LOST : verbs_completion_status(wc_status);
}

/* Translates one completion; false when it belongs to no item. */
static bool completion_translate(verbs_device *device, const struct ibv_wc *wc, rt_completion *completion_out)
{
    uint32_t index = VERBS_WR_INDEX(wc->wr_id), position = (uint32_t)wc->wr_id;
    bool receive = (wc->wr_id & VERBS_WR_RECEIVE) != 0;
    if (index >= device->base.limits.link_count_max)
        return false;
    /* pairs with the release when the link was entered */
    verbs_link *link = atomic_load_explicit(&device->links[index], memory_order_acquire);
    if (link == NULL || link->tag != VERBS_WR_TAG(wc->wr_id))
        return false;
    if ((wc->wr_id & VERBS_WR_BIND) != 0) {
        bind_note(link, wc);
        return false;
    }
    verbs_ring *ring = receive ? &link->receive : &link->send;
    if (position - atomic_load_explicit(&ring->retired, memory_order_relaxed) >= ring->depth)
        return false;
    uint64_t token = ring->tokens[position & ring->mask];
    *completion_out = (rt_completion){.token = token, .opcode = receive ? RT_WORK_RECV : 0};
    if (wc->status != IBV_WC_SUCCESS) {
        bool first = position == 0 && atomic_load_explicit(&link->receive.retired, memory_order_relaxed) == 0;
        completion_out->status = link_fail(device, link, wc->status, receive);
        completion_out->foreign_status =
            wc->status == IBV_WC_RETRY_EXC_ERR && !receive && first ? VERBS_NEVER_REACHED : wc->status;
        completion_out->vendor_error = wc->vendor_err;
    } else if (receive) {
        completion_out->size = wc->byte_len;
        completion_out->has_immediate = (wc->wc_flags & IBV_WC_WITH_IMM) != 0;
        completion_out->immediate = completion_out->has_immediate ? ntohl(wc->imm_data) : 0;
    }
    /* pairs with the acquire in post: the slot may be reused; and with the acquire in `link_fell`: the
     * reason for the failure is recorded before the item retires */
    atomic_store_explicit(&ring->retired, position + 1, memory_order_release);
    return true;
}

/* Flushes one direction of an orphan in place of the device. */
static uint32_t ring_flush(verbs_ring *ring, bool receive, rt_completion *completions_out, uint32_t capacity)
{
    uint32_t posted = atomic_load_explicit(&ring->posted, memory_order_acquire); /* pairs with the release in post */
    uint32_t retired = atomic_load_explicit(&ring->retired, memory_order_relaxed), count = 0;
    for (; retired != posted && count < capacity; retired++)
        completions_out[count++] = completion_flushed(ring->tokens[retired & ring->mask], receive);
    atomic_store_explicit(&ring->retired, retired, memory_order_release);
    return count;
}

/* Not hot: runs only while the queue has links whose device was lost. */
static uint32_t orphans_flush(verbs_device *device, uint32_t queue, rt_completion *completions_out, uint32_t capacity)
{
    uint32_t count = 0;
    rt_turn_take(&device->orphans_turn);
    for (uint32_t index = 0; index < device->base.limits.link_count_max && count < capacity; index++) {
        verbs_link *link = atomic_load_explicit(&device->links[index], memory_order_acquire);
        if (link == NULL || !atomic_load_explicit(&link->orphaned, memory_order_acquire)) /* pairs with the release in link.c */
            continue;
        if (link->base.send_queue == queue)
            count += ring_flush(&link->send, false, completions_out + count, capacity - count);
        if (link->base.receive_queue == queue)
            count += ring_flush(&link->receive, true, completions_out + count, capacity - count);
    }
    rt_turn_leave(&device->orphans_turn);
    return count;
}

int verbs_poll(rt_pdevice *base, uint32_t queue_index, rt_completion *completions_out, uint32_t capacity)
{
    verbs_device *device = verbs_device_of(base);
    verbs_queue *queue = &device->queues[queue_index];
    struct ibv_wc wcs[VERBS_POLL_BATCH];
    uint32_t wanted = capacity < VERBS_POLL_BATCH ? capacity : VERBS_POLL_BATCH, count = 0;
    int taken;
    do {
        taken = ibv_poll_cq(queue->cq, (int)wanted, wcs);
        for (int index = 0; index < taken; index++)
            count += completion_translate(device, &wcs[index], &completions_out[count]);
    } while (taken == (int)wanted && count == 0 && wanted != 0);
    if (taken < 0)
        atomic_store_explicit(&device->lost, true, memory_order_release); /* pairs with the acquire in link_shut */
    if (count == 0 && atomic_load_explicit(&queue->orphans, memory_order_acquire) != 0)
        count = orphans_flush(device, queue_index, completions_out, capacity);
    return count == 0 && taken < 0 ? RT_E_DEVICE_LOST : (int)count;
}

#endif
