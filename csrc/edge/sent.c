/* sent.c: the fate of a sent tensor: whether its bytes may change again, and whether the receiver
 * released it. */
#include "channel/wait.h"
#include "device/device.h"
#include "edge/credit.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/stage.h"

typedef struct question {
    rt_edge *edge;
    uint64_t sequence;
    int64_t end_ns;
    bool released; /* wait for the release, not only for the end of the WRITEs */
} question;

/* RT_OK: the edge needs the tensor no more. */
static int sent_look(void *object)
{
    const question *ask = object;
    rt_edge *edge = ask->edge;
    rt_turn_take(&edge->turn);
    rt_edge_sent *sent = &edge->sent[ask->sequence % edge->tx.slots];
    int status = RT_OK;
    if (edge->stage != NULL)
        status = rt_edge_stage_run(edge, ask->end_ns);
    if (status == RT_OK && sent->sequence == ask->sequence)
        status = rt_edge_collect(edge->channel, sent->ops, edge->wiring.layout.stripes);
    if (status == RT_OK && edge->stage != NULL && edge->stage->chunks.given_up == ask->sequence)
        status = edge->tx.failure; /* the receiver gets none of it */
    int credit = rt_edge_take_credit(edge);
    bool in_place = edge->terms.edge_kind == RT_EDGE_DYNAMIC && sent->sequence == ask->sequence && sent->in_place;
    bool by_release = edge->terms.flow == RT_EDGE_FLOW_CREDIT && (ask->released || in_place);
    if (status == RT_OK && by_release && ask->sequence > edge->tx.released) {
        status = credit != RT_OK ? credit : edge->tx.state == RT_EDGE_OVER ? edge->tx.failure : RT_E_AGAIN;
        bool quiet = edge->tx.state == RT_EDGE_OVER || credit == RT_OK;
        status = quiet ? status : RT_E_AGAIN; /* the peer may still read the tensor until the links are shut */
    }
    rt_turn_leave(&edge->turn);
    return status;
}

static int sent_wait(rt_edge *edge, uint64_t sequence, bool released, int64_t timeout_ns)
{
    int status = rt_edge_check_sender(edge);
    if (status != RT_OK)
        return status;
    if (sequence == 0)
        return RT_OK;
    question ask = {.edge = edge, .sequence = sequence, .released = released};
    ask.end_ns = rt_device_slice_end(edge->device, timeout_ns);
    return rt_wait_memory(edge->device, sent_look, &ask, ask.end_ns);
}

int rt_edge_wait_sent(rt_edge *edge, uint64_t sequence, int64_t timeout_ns)
{
    return sent_wait(edge, sequence, false, timeout_ns);
}

int rt_edge_wait_released(rt_edge *edge, uint64_t sequence, int64_t timeout_ns)
{
    return sent_wait(edge, sequence, true, timeout_ns);
}
