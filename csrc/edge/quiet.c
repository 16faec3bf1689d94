/* quiet.c: whether an edge may end: nothing that this end posted for it is under way, and nothing
 * is read in place, or written. */
#include "edge/quiet.h"
#include "edge/edge.h"
#include "edge/fetch.h"
#include "edge/post.h"

bool rt_edge_quiet(rt_edge *edge)
{
    bool quiet = true;
    rt_turn_take(&edge->turn);
    for (uint32_t slot = 0; edge->sent != NULL && slot < edge->tx.slots; slot++)
        quiet = !rt_edge_pending(edge->channel, edge->sent[slot].ops, RT_EDGE_STRIPES_MAX) && quiet;
    if (edge->stage != NULL)
        quiet = !rt_edge_pending(edge->channel, edge->stage->ops, RT_EDGE_STAGES) && quiet;
    for (uint32_t slot = 0; edge->got != NULL && slot < edge->rx.slots; slot++)
        quiet = rt_edge_fetched(edge, &edge->got[slot]) != RT_E_AGAIN && quiet;
    if (!edge->sender && edge->credit_op != 0)
        quiet = !rt_edge_pending(edge->channel, &edge->credit_op, 1) && quiet;
    bool written = edge->loan != NULL && edge->loan->ticket != 0 && edge->loan->in_place;
    quiet = quiet && edge->borrowed == 0 && !written;
    rt_turn_leave(&edge->turn);
    return quiet;
}

rt_edge_closing rt_edge_closing_of(const rt_edge *edge)
{
    return (rt_edge_closing){.sender = edge->sender,
                             .joined = rt_edge_joined(edge),
                             .wanted = edge->close_wanted,
                             .told = edge->close_told,
                             .peer_knows = edge->peer_knows,
                             .asking = edge->ask.state != RT_ASK_NONE};
}
