/* edge_sent.c: what became of a tensor that was sent: whether its bytes may change again, and whether the receiver released it. */
#include "core/edge.h"

typedef struct question {
    rt_edge *edge;
    uint64_t sequence;
    int64_t end_ns;
    bool released; /* asked for: the release, not only the end of the WRITEs */
} question;

/* RT_OK: the tensor is needed no more. */
static int look_sent(void *object)
{
    const question *ask = object;
    rt_edge *edge = ask->edge;
    rt_turn_take(&edge->turn);
    rt_edge_sent *sent = &edge->sent[ask->sequence % edge->tx.slots];
    int status = RT_OK;
    if (edge->stage != NULL && edge->stage->sequence != 0)
        status = rt_edge_stage_run(edge, ask->end_ns);
    if (status == RT_OK && sent->sequence == ask->sequence)
        status = rt_edge_collect(edge->channel, sent->ops, edge->wiring.layout.stripes);
    if (status == RT_OK && edge->stage != NULL && edge->stage->given_up == ask->sequence)
        status = edge->tx.failure; /* the receiver gets none of it */
    int credit = rt_edge_take_credit(edge);
    bool by_release = edge->terms.flow == RT_EDGE_FLOW_CREDIT && (ask->released || edge->terms.edge_kind == RT_EDGE_DYNAMIC);
    if (status == RT_OK && by_release && ask->sequence > edge->tx.released) {
        status = credit != RT_OK ? credit : edge->tx.state == RT_EDGE_OVER ? edge->tx.failure : RT_E_AGAIN;
        bool quiet = edge->tx.state == RT_EDGE_OVER || credit == RT_OK;
        status = quiet ? status : RT_E_AGAIN; /* the peer may still read it until the links are shut */
    }
    rt_turn_leave(&edge->turn);
    return status;
}

static int wait_for(rt_edge *edge, uint64_t sequence, bool released, int64_t timeout_ns)
{
    int status = rt_edge_check_sender(edge);
    if (status != RT_OK)
        return status;
    if (sequence == 0)
        return RT_OK;
    question ask = {.edge = edge, .sequence = sequence, .released = released};
    ask.end_ns = rt_edge_slice_end(edge->device, timeout_ns);
    return rt_wait_memory(edge->device, look_sent, &ask, ask.end_ns);
}

int rt_edge_wait_sent(rt_edge *edge, uint64_t sequence, int64_t timeout_ns)
{
    return wait_for(edge, sequence, false, timeout_ns);
}

int rt_edge_wait_released(rt_edge *edge, uint64_t sequence, int64_t timeout_ns)
{
    return wait_for(edge, sequence, true, timeout_ns);
}
