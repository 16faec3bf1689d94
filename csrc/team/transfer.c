/* transfer.c: the calls that start, match, wait for and give up sends and receives. transfer_run.c
 * moves them.
 *
 * A send of up to a chunk travels at once, and is kept at the receiver until a receive asks for it,
 * as long as the receiver keeps less than RT_TEAM_KEPT_MAX from this peer. Any other send is
 * offered first, and its bytes come when a receive has accepted, directly into place, or are read
 * in place. Matching is by source and tag, in the order of the calls; sends from one member stay in
 * order. The waiting thread drives the transfers; all under the team's lock. */
#include <stdlib.h>

#include "device/fork.h"
#include "team/ending.h"
#include "team/team.h"
#include "team/transfer_run.h"
#include "team/transfer_state.h"
#include "team/wait.h"

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

/* Checks common to every start: whether the transfer can be started at all. */
static int transfer_start_check(rt_team *team, int32_t peer, bool any, rt_detail *detail)
{
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
static int transfer_started(rt_team *team, rt_team_transfer *transfer, rt_team_transfer **transfer_out, int32_t *source_out,
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
    if (rt_forked())
        return rt_fork_refuse(detail);
    pthread_mutex_lock(&team->lock);
    int status = transfer_start_check(team, (int32_t)peer, false, detail);
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
    return transfer_started(team, transfer, transfer_out, NULL, detail);
}

static rt_unexpected *unexpected_find(rt_team *team, int32_t source, uint64_t tag)
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
    if (rt_forked())
        return rt_fork_refuse(detail);
    pthread_mutex_lock(&team->lock);
    int status = transfer_start_check(team, source, true, detail);
    rt_team_transfer *transfer = status == RT_OK ? transfer_new(team, false, source, tag, dtype, bytes, size) : NULL;
    if (transfer == NULL) {
        pthread_mutex_unlock(&team->lock);
        return status != RT_OK ? status : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a receive");
    }
    team->stats.receives++;
    atomic_fetch_add(&team->pending, 1);
    rt_list_append(&team->receives, &transfer->node);
    rt_unexpected *waiting = unexpected_find(team, source, tag);
    if (waiting != NULL) {
        rt_transfer_unkeep(team, waiting);
        rt_transfer_meet(team, transfer, waiting->peer, &waiting->message, waiting->payload);
        free(waiting);
    }
    return transfer_started(team, transfer, transfer_out, source_out, detail);
}

/* Moves everything once, for a waiting thread. It waits for the lock: so a thread that sleeps
 * afterwards has seen everything that others took before, and later arrivals wake it. */
static uint32_t transfers_look(rt_team *team)
{
    pthread_mutex_lock(&team->lock);
    uint32_t moved = rt_transfers_move(team);
    pthread_mutex_unlock(&team->lock);
    return moved;
}

/* Ends the transfers of one peer, or of all, when the event that ended a wait requires it. */
static int transfer_give_up(rt_team *team, const rt_team_transfer *transfer, rt_team_waiter *waiter)
{
    int status = waiter->status;
    if (status == RT_E_DEADLINE)
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
        return rt_fork_refuse(detail);
    rt_team_waiter waiter;
    rt_team_waiter_begin(&waiter, team, timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS, NULL);
    waiter.transfers = true;
    if (timeout_ns <= 0)
        waiter.wait.mode = (rt_wait_mode){0}; /* checks once, without spinning */
    int status = RT_OK;
    while (atomic_load_explicit(&transfer->status, memory_order_acquire) == RT_E_AGAIN && status == RT_OK) {
        if (transfers_look(team) > 0) {
            rt_team_waiter_moved(&waiter);
            continue;
        }
        if (atomic_load_explicit(&transfer->status, memory_order_acquire) != RT_E_AGAIN)
            break;
        waiter.needed = transfer->peer;
        status = rt_team_waiter_idle(&waiter);
        if (status != RT_OK)
            status = transfer_give_up(team, transfer, &waiter);
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
    /* A send that is not announced, or a receive that is not matched, simply disappears. A transfer
     * that the peer counts on continues without memory: arriving bytes are discarded, and the peer
     * is told that bytes due to it will not come. */
    transfer->dropped = true;
    transfer->bytes = NULL;
    if (transfer->sends && (transfer->offered || transfer->partner != 0))
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
    waiter.wait.mode.spins = 0; /* no caller waits for a particular transfer */
    while (atomic_load(&team->pending) != 0) {
        if (transfers_look(team) > 0) {
            rt_team_waiter_moved(&waiter);
            continue;
        }
        int status = rt_team_waiter_idle(&waiter);
        if (status != RT_OK) {
            transfer_give_up(team, NULL, &waiter);
            break;
        }
    }
    rt_team_waiter_end(&waiter);
    return (int)atomic_load(&team->pending);
}
