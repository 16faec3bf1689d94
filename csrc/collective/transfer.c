/* transfer.c: sends and receives as calls: starting, matching, waiting, giving up. What moves them is in transfer_run.c.
 *
 * A send of up to a chunk travels at once, and is kept at the receiver until a receive asks for it. A larger one is offered
 * first, and its bytes come when a receive has accepted, straight into place, or are read where they lie. Matching is by source and tag, in the order of
 * the calls; from one member the order of sends is kept. Whoever waits drives; all under the team's lock. */
#include "collective/collective.h"

#include <stdlib.h>
#include <string.h>

void rt_transfer_finish(rt_team_transfer *transfer, int status, const rt_detail *detail)
{
    rt_list_remove(&transfer->node);
    rt_transfer_let_go(transfer);
    atomic_fetch_sub(&transfer->team->pending, 1);
    if (detail != NULL)
        transfer->detail = *detail;
    bool dropped = transfer->dropped;
    atomic_store_explicit(&transfer->status, status, memory_order_release); /* from here on it is the caller's to free */
    if (dropped)
        free(transfer);
}

static rt_team_transfer *transfer_new(rt_team *team, bool sends, int32_t peer, uint64_t tag, uint32_t dtype, const void *bytes,
                                      uint64_t size)
{
    rt_team_transfer *transfer = calloc(1, sizeof *transfer);
    if (transfer == NULL)
        return NULL;
    transfer->team = team;
    transfer->sends = sends;
    atomic_init(&transfer->status, RT_E_AGAIN);
    transfer->peer = peer;
    transfer->tag = tag;
    transfer->dtype = dtype;
    transfer->bytes = (uint8_t *)(uintptr_t)bytes;
    transfer->size = size;
    transfer->number = team->next_number++;
    rt_list_init(&transfer->node);
    return transfer;
}

/* What every start has in common: whether it can be started at all. */
static int check_start(rt_team *team, int32_t peer, bool any, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the group is its parent's");
    if (peer >= (int32_t)team->size || (peer < 0 && !any) || peer == (int32_t)team->rank)
        return rt_fail(detail, RT_E_INVALID, 0, "rank %d is not another member of this group of %u", peer, team->size);
    if (peer >= 0 && team->peers[peer].refused.status != RT_OK) {
        rt_detail_pass(detail, &team->peers[peer].refused);
        int status = team->peers[peer].refused.status;
        rt_detail_clear(&team->peers[peer].refused);
        return status;
    }
    return RT_OK;
}

/* Gives the caller its result, or the transfer when it goes on. team->lock held; it is left. */
static int started(rt_team *team, rt_team_transfer *transfer, rt_team_transfer **transfer_out, int32_t *source_out,
                   rt_detail *detail)
{
    rt_transfers_move(team);
    int status = atomic_load_explicit(&transfer->status, memory_order_acquire);
    pthread_mutex_unlock(&team->lock);
    if (status == RT_E_AGAIN) {
        *transfer_out = transfer;
        return status;
    }
    if (source_out != NULL)
        *source_out = transfer->peer;
    if (status != RT_OK)
        rt_detail_pass(detail, &transfer->detail);
    *transfer_out = NULL;
    free(transfer);
    return status;
}

int rt_team_send(rt_team *team, uint32_t peer, uint64_t tag, uint32_t dtype, const void *bytes, uint64_t size,
                 rt_team_transfer **transfer_out, rt_detail *detail)
{
    pthread_mutex_lock(&team->lock);
    int status = check_start(team, (int32_t)peer, false, detail);
    if (status == RT_OK)
        status = rt_team_trouble(team, (int32_t)peer, true, detail);
    rt_team_transfer *transfer = status == RT_OK ? transfer_new(team, true, (int32_t)peer, tag, dtype, bytes, size) : NULL;
    if (transfer == NULL) {
        pthread_mutex_unlock(&team->lock);
        return status != RT_OK ? status : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a send");
    }
    team->stats.sends++;
    atomic_fetch_add(&team->pending, 1);
    rt_list_append(&team->peers[peer].queue, &transfer->node);
    return started(team, transfer, transfer_out, NULL, detail);
}

static rt_unexpected *find_unexpected(rt_team *team, int32_t source, uint64_t tag)
{
    RT_LIST_EACH(node, &team->unexpected) {
        rt_unexpected *waiting = RT_LIST_ENTRY(node, rt_unexpected, node);
        if (waiting->message.tag == tag && (source < 0 || source == (int32_t)waiting->peer))
            return waiting;
    }
    return NULL;
}

int rt_team_receive(rt_team *team, int32_t source, uint64_t tag, uint32_t dtype, void *bytes, uint64_t size,
                    rt_team_transfer **transfer_out, int32_t *source_out, rt_detail *detail)
{
    pthread_mutex_lock(&team->lock);
    int status = check_start(team, source, true, detail);
    rt_team_transfer *transfer = status == RT_OK ? transfer_new(team, false, source, tag, dtype, bytes, size) : NULL;
    if (transfer == NULL) {
        pthread_mutex_unlock(&team->lock);
        return status != RT_OK ? status : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a receive");
    }
    team->stats.receives++;
    atomic_fetch_add(&team->pending, 1);
    rt_list_append(&team->receives, &transfer->node);
    rt_unexpected *waiting = find_unexpected(team, source, tag);
    if (waiting != NULL) {
        rt_list_remove(&waiting->node);
        rt_transfer_meet(team, transfer, waiting->peer, &waiting->message, waiting->payload);
        free(waiting);
    }
    return started(team, transfer, transfer_out, source_out, detail);
}

/* One look at everything, for whoever waits. The lock is waited for: so whoever sleeps after a look has seen all that others
 * took before it, and what arrives later wakes. */
static uint32_t look(rt_team *team)
{
    pthread_mutex_lock(&team->lock);
    uint32_t moved = rt_transfers_move(team);
    pthread_mutex_unlock(&team->lock);
    return moved;
}

/* What ended a wait may end the transfers of one peer, or of all. */
static int give_up(rt_team *team, const rt_team_transfer *transfer, rt_team_waiter *waiter)
{
    int status = waiter->status;
    if (status == RT_E_DEADLINE || status == RT_E_INTERRUPTED)
        return status;
    pthread_mutex_lock(&team->lock);
    bool one = status == RT_E_PEER_CLOSED;
    rt_transfers_move(team);
    rt_transfers_fail(team, one && transfer != NULL ? transfer->peer : -1, &waiter->detail);
    pthread_mutex_unlock(&team->lock);
    return RT_OK;
}

int rt_team_transfer_wait(rt_team_transfer *transfer, int64_t timeout_ns, int32_t *source_out, rt_detail *detail)
{
    rt_team *team = transfer->team;
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the group is its parent's");
    rt_team_waiter waiter;
    rt_team_waiter_begin(&waiter, team, timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS, NULL);
    waiter.transfers = true;
    waiter.looks = timeout_ns > 0 ? 0 : UINT32_MAX / 2; /* a question, not a wait */
    int status = RT_OK;
    while (atomic_load_explicit(&transfer->status, memory_order_acquire) == RT_E_AGAIN && status == RT_OK) {
        if (look(team) > 0) {
            rt_team_waiter_moved(&waiter);
            continue;
        }
        if (atomic_load_explicit(&transfer->status, memory_order_acquire) != RT_E_AGAIN)
            break;
        waiter.needed = transfer->peer;
        status = rt_team_waiter_idle(&waiter);
        if (status != RT_OK)
            status = give_up(team, transfer, &waiter);
    }
    rt_team_waiter_end(&waiter);
    int result = atomic_load_explicit(&transfer->status, memory_order_acquire);
    if (result == RT_E_AGAIN)
        return result;
    if (source_out != NULL)
        *source_out = transfer->peer;
    if (result != RT_OK)
        rt_detail_pass(detail, &transfer->detail);
    return result;
}

void rt_team_transfer_drop(rt_team_transfer *transfer)
{
    rt_team *team = transfer->team;
    if (rt_forked())
        return;
    pthread_mutex_lock(&team->lock);
    if (atomic_load(&transfer->status) != RT_E_AGAIN) {
        pthread_mutex_unlock(&team->lock);
        free(transfer);
        return;
    }
    /* A send not announced, or a receive not met, is as if it had never been. What the peer counts on goes on without memory:
     * bytes that come are thrown away, and of bytes that are due the peer hears that they do not come. */
    transfer->dropped = true;
    transfer->bytes = NULL;
    if (transfer->sends && transfer->partner != 0)
        rt_transfer_refuse_rest(team, transfer);
    if (transfer->sends || transfer->partner == 0)
        rt_transfer_finish(transfer, RT_E_CLOSED, NULL);
    pthread_mutex_unlock(&team->lock);
}

int rt_team_progress(rt_team *team, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    rt_team_waiter waiter;
    rt_team_waiter_begin(&waiter, team, timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS, NULL);
    waiter.transfers = true;
    while (atomic_load(&team->pending) != 0) {
        if (look(team) > 0) {
            rt_team_waiter_moved(&waiter);
            continue;
        }
        waiter.looks += team->options.spins; /* nobody waits for this: no spinning */
        int status = rt_team_waiter_idle(&waiter);
        if (status != RT_OK) {
            give_up(team, NULL, &waiter);
            break;
        }
    }
    rt_team_waiter_end(&waiter);
    return (int)atomic_load(&team->pending);
}
