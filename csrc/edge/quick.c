/* quick.c: the usual case: a small contiguous tensor of a static edge, its flag, its release, where
 * posting is copying. HOT: no lock but turns, no allocation, system call or log.
 *
 * The calls that end in `at_once` never wait, not even for a turn: their callers hold the
 * interpreter's lock. In any other than the usual case they return RT_E_AGAIN and change nothing:
 * the call without `at_once` does the work, or reports why not. */
#include <assert.h>
#include <string.h>

#include "base/waiter.h"
#include "channel/link.h"
#include "channel/wait.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/attend.h"
#include "edge/copies.h"
#include "edge/credit.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/quick.h"
#include "edge/slot.h"
#include "region/region.h"

void rt_edge_count_sent(rt_edge *edge, uint64_t sequence, uint64_t size)
{
    rt_edge_sender_sent(&edge->tx, sequence);
    edge->stats.transfers++;
    edge->stats.bytes += size;
}

bool rt_edge_post_plain(rt_edge *edge, uint64_t sequence, uint64_t address, uint64_t size, rt_region *region, bool at_once,
                        int64_t *result_out)
{
    const rt_edge_wiring *wiring = &edge->wiring;
    if (!edge->plain || size == 0)
        return false;
    uint32_t slot = rt_edge_slot(&wiring->layout, sequence);
    rt_edge_sent *sent = &edge->sent[slot];
    uint64_t offset = address - (uint64_t)(uintptr_t)region->address;
    const rt_piece *last = &sent->copies[0];
    /* Compares the source that the copy reads from, so that a new region at the address of an
     * earlier one is told apart. */
    if (sent->plain && last->region == region && last->region_offset == offset && last->size == size) {
        memcpy(rt_edge_source_of(edge, slot, 0) + RT_EDGE_SOURCE_LINE + RT_EDGE_LINE_FLAG, &sequence, sizeof sequence);
    } else {
        rt_edge_plan plan;
        rt_edge_plan_make(wiring, sequence, 0, 0, size, 0, &plan);
        const rt_piece payload = {.region = region,
                                  .region_offset = offset,
                                  .remote = edge->slots_remote,
                                  .remote_offset = rt_edge_slot_offset(&wiring->layout, slot),
                                  .size = size,
                                  .direction = RT_WRITE};
        uint32_t count = rt_edge_copies_of(edge, &plan, sequence, 0, 0, &payload, 1, sent->copies);
        assert(count == 2);
        sent->plain = true;
    }
    rt_link *link = edge->links[0];
    if (!at_once)
        rt_turn_take(&link->turn);
    else if (!rt_turn_try(&link->turn))
        return false;
    if (!rt_edge_post_small(link, sent->copies, 2, &sent->ops[0]))
        return false;
    sent->sequence = sequence;
    rt_edge_count_sent(edge, sequence, size);
    *result_out = sent->ops[0] == 0 ? 0 : (int64_t)sequence;
    return true;
}

int64_t rt_edge_send_at_once(rt_edge *edge, uint64_t address, uint64_t size)
{
    if (rt_edge_check_sender(edge) != RT_OK || !edge->plain || edge->staging_wanted || edge->stage != NULL)
        return RT_E_AGAIN;
    bool fits = edge->terms.edge_kind == RT_EDGE_STATIC && size == edge->wiring.layout.payload_size;
    if (!fits || !edge->device->limits.local_anywhere || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    uint64_t sequence;
    int64_t result = RT_E_AGAIN;
    bool collected = edge->sent[(edge->tx.sent + 1) % edge->tx.slots].ops[0] == 0;
    if (collected && rt_edge_may_send(edge, &sequence) == RT_OK)
        (void)rt_edge_post_plain(edge, sequence, address, size, edge->device->anywhere, true, &result);
    rt_turn_leave(&edge->turn);
    return result;
}

int64_t rt_edge_receive_at_once(rt_edge *edge, uint32_t looks)
{
    if (looks == 0 || rt_forked() || edge->sender || !rt_edge_joined(edge) || edge->terms.edge_kind != RT_EDGE_STATIC)
        return RT_E_AGAIN;
    if (edge->wiring.verify || edge->rx.loop_check || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    uint64_t sequence = rt_edge_receiver_expects(&edge->rx);
    const uint8_t *line = rt_edge_line_address(edge, rt_edge_slot(&edge->wiring.layout, sequence), 0);
    const uint64_t *flag = (const uint64_t *)(const void *)(line + RT_EDGE_LINE_FLAG);
    looks = rt_wait_mode_checks(&edge->device->wait, looks);
    uint32_t left = looks;
    uint32_t helps = RT_HELPS_AT_ONCE;
    bool found;
    do
        found = rt_load_acquire_u64(flag) == sequence;
    while (!found && (rt_wait_help_briefly(edge->device, &helps) || rt_spin_again(&left)));
    rt_detail detail = {.status = RT_OK};
    bool over = edge->rx.state == RT_EDGE_OVER;
    int status = found ? rt_edge_look_once(edge, &sequence, &detail) : RT_E_AGAIN;
    if (status == RT_OK)
        status = rt_edge_receiver_event(&edge->rx, sequence, RT_SLOT_USE);
    if (status == RT_OK) {
        edge->stats.transfers++;
        edge->stats.bytes += edge->wiring.layout.payload_size;
        edge->stats.waits += left != looks;
    } else if (status != RT_E_AGAIN && status != RT_E_BUSY && !over) {
        rt_edge_fail(edge, &detail);
    }
    rt_turn_leave(&edge->turn);
    return status == RT_OK ? (int64_t)sequence : RT_E_AGAIN;
}

/* Posts the credit that is due; false: it is not posted, and still due. Both turns held; leaves that of the link. */
static bool credit_post_at_once(rt_edge *edge, rt_link *link)
{
    uint64_t word;
    int64_t number = 0;
    if (edge->credit_op != 0 || edge->credit_remote == NULL || !rt_edge_receiver_credit_due(&edge->rx, &word)) {
        rt_turn_leave(&link->turn);
        return edge->credit_op == 0;
    }
    rt_store_release_u64((uint64_t *)(void *)edge->credit_line.address, word);
    if (!rt_edge_post_small(link, &edge->credit_copy, 1, &number))
        return false;
    rt_edge_credit_posted(edge, word, number);
    return number == 0;
}

int rt_edge_release_at_once(rt_edge *edge, uint64_t sequence)
{
    if (rt_forked() || edge->sender || !rt_edge_joined(edge) || sequence == 0)
        return RT_E_AGAIN;
    rt_link *link = edge->links[0];
    if (edge->rx.loop_check || !edge->device->limits.completes_in_post || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    int status = RT_E_AGAIN;
    bool owed = false;
    if (rt_turn_try(&link->turn)) {
        status = rt_edge_receiver_release(&edge->rx, sequence, NULL, NULL);
        if (status == RT_OK && edge->got != NULL)
            rt_edge_forget(edge, sequence);
        if (status == RT_OK)
            owed = !credit_post_at_once(edge, link);
        else
            rt_turn_leave(&link->turn);
    }
    edge->credit_owed = edge->credit_owed || owed;
    if (owed)
        rt_edge_call(edge);
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status == RT_OK ? RT_OK : RT_E_AGAIN;
}
