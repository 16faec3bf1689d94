/* credit.h: whether a sender may send. */
#ifndef RT_EDGE_CREDIT_H
#define RT_EDGE_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "device/fork.h"
#include "edge/edge.h"
#include "edge/stage.h"

/* RT_OK: this end of the edge may send. */
static inline int rt_edge_check_sender(const rt_edge *edge)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (!edge->sender)
        return RT_E_INVALID;
    if (!rt_edge_joined(edge))
        return atomic_load(&edge->phase) == RT_EDGE_PHASE_REFUSED ? edge->failure.status : RT_E_BUSY;
    return RT_OK;
}

/* Checks the credit and the channel: RT_OK, or the status because of which nothing more can be
 * sent. edge->turn held. */
int rt_edge_take_credit(rt_edge *edge);
/* RT_OK: the next sequence may be sent, and its slot's operations are over. edge->turn held. */
int rt_edge_may_send(rt_edge *edge, uint64_t *sequence_out);

/* The same, where that needs no turn of a link. edge->turn held. */
bool rt_edge_may_send_at_once(rt_edge *edge, uint64_t *sequence_out);

/* Looks whether the next tensor may be sent, for rt_wait_memory: RT_OK keeps edge->turn, which is taken here. A staged
 * tensor is moved on first. *waited: the wait is counted already. */
static inline int rt_edge_look_credit(rt_edge *edge, int64_t end_ns, uint64_t *sequence_out, bool *waited)
{
    rt_turn_take(&edge->turn);
    if (edge->stage != NULL)
        rt_edge_stage_run(edge, end_ns);
    int status = rt_edge_may_send(edge, sequence_out);
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN && edge->tx.state == RT_EDGE_LENT)
        edge->loan->awaited = true;
    if (status == RT_E_AGAIN && !*waited) {
        edge->stats.waits++;
        *waited = true;
    }
    rt_turn_leave(&edge->turn);
    return status;
}

#endif
