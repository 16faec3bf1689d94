/* attend.c: the lists of edges that the service has to check. An edge that is open and owes nothing
 * is in none of them, so it costs a round nothing, however many there are:
 *
 *   channel->called   edges that threads put here, under a turn, for work the service continues
 *   edges->busy       edges for the next round, and for later ones while they owe something
 *   edges->closing    edges that close and wait for what no event announces; all are checked
 *                     together, at growing intervals
 *   edges->asking     edges whose request waits to be sent, in order
 *   edges->awaiting   edges whose request waits for its answer, at most RT_RPC_REQUESTS_MAX
 *
 * device->lock held, unless it says otherwise. */
#include "edge/attend.h"
#include "channel/channel.h"
#include "device/device.h"
#include "edge/edge.h"

/* How soon to check again for something no event announces; the interval grows for closing
 * edges. */
static const rt_backoff_curve look_again = {.first_ns = RT_NS_PER_MS, .last_ns = 50 * RT_NS_PER_MS, .share = 1};

/* ---- the channel's edges ---- */

static uint64_t edge_hash(uint16_t number, bool sender)
{
    return rt_hash_u64((uint64_t)number << 1 | sender);
}

rt_edge *rt_edge_of_number(const rt_channel *channel, uint16_t number, bool sender)
{
    rt_edges *edges = rt_edges_of(channel);
    RT_TABLE_EACH(node, &edges->numbers, edge_hash(number, sender))
    {
        rt_edge *edge = RT_TABLE_ENTRY(node, rt_edge, number_node);
        edges->looks++;
        if (edge->number == number && edge->sender == sender)
            return edge;
    }
    return NULL;
}

void rt_edge_list(rt_edge *edge)
{
    rt_channel *channel = edge->channel;
    rt_edge_reference(edge);
    rt_list_append(&rt_edges_of(channel)->list, &edge->node);
    rt_turn_take(&channel->calls_turn);
    edge->listed = true;
    rt_turn_leave(&channel->calls_turn);
}

void rt_edge_take_number(rt_edge *edge, uint16_t number)
{
    edge->number = number;
    if (number != 0 && !rt_list_empty(&edge->node))
        rt_table_add(&rt_edges_of(edge->channel)->numbers, &edge->number_node, edge_hash(number, edge->sender));
}

void rt_edge_unlist(rt_edge *edge)
{
    rt_channel *channel = edge->channel;
    rt_turn_take(&channel->calls_turn);
    edge->listed = false;
    rt_list_remove(&edge->call_node);
    rt_turn_leave(&channel->calls_turn);
    rt_table_remove(&rt_edges_of(channel)->numbers, &edge->number_node);
    rt_list_remove(&edge->ask_node);
    rt_list_remove(&edge->work_node);
    rt_list_remove(&edge->node);
}

/* ---- which edges are checked ---- */

void rt_edge_call(rt_edge *edge)
{
    rt_channel *channel = edge->channel;
    rt_turn_take(&channel->calls_turn);
    if (edge->listed && rt_list_empty(&edge->call_node))
        rt_list_append(&channel->called, &edge->call_node);
    rt_turn_leave(&channel->calls_turn);
}

void rt_edge_attend(rt_edge *edge)
{
    if (rt_list_empty(&edge->node))
        return;
    rt_list_remove(&edge->work_node);
    rt_list_append(&rt_edges_of(edge->channel)->busy, &edge->work_node);
}

void rt_edge_settle(rt_edge *edge)
{
    rt_edges *edges = rt_edges_of(edge->channel);
    if (edge->credit_owed || edge->stage_owed || edge->record_owed) {
        rt_edge_attend(edge);
    } else if (edge->close_wanted && edge->ask.state == RT_ASK_NONE) {
        rt_list_remove(&edge->work_node);
        rt_list_append(&edges->closing, &edge->work_node);
        if (!edge->lingers) { /* what it waits for may come soon */
            edges->closing_looks = (rt_backoff){0};
            edges->closing_ns = rt_device_time(edge->device) + rt_backoff_next(&edges->closing_looks, &look_again);
        }
        edge->lingers = true;
    }
}

/* Moves all entries of a list to the end of another. */
static void list_move_all(rt_list *from, rt_list *to)
{
    if (rt_list_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    rt_list_init(from);
}

bool rt_edges_gather(rt_channel *channel, bool all, rt_list *due_out)
{
    rt_edges *edges = rt_edges_of(channel);
    rt_turn_take(&channel->calls_turn);
    while (!rt_list_empty(&channel->called)) {
        rt_edge *edge = RT_LIST_ENTRY(channel->called.next, rt_edge, call_node);
        rt_list_remove(&edge->call_node);
        rt_edge_attend(edge);
    }
    rt_turn_leave(&channel->calls_turn);
    int64_t now = rt_list_empty(&edges->closing) ? 0 : rt_device_time(channel->device);
    bool late = !rt_list_empty(&edges->closing) && (all || now >= edges->closing_ns);
    if (late) {
        edges->closing_ns = now + rt_backoff_next(&edges->closing_looks, &look_again);
        list_move_all(&edges->closing, &edges->busy);
    }
    rt_list_init(due_out);
    list_move_all(&edges->busy, due_out);
    return late;
}

rt_edge *rt_edge_next_due(rt_list *due)
{
    if (rt_list_empty(due))
        return NULL;
    rt_edge *edge = RT_LIST_ENTRY(due->next, rt_edge, work_node);
    rt_list_remove(&edge->work_node);
    rt_edges_of(edge->channel)->looks++;
    return edge;
}

int64_t rt_edges_next_deadline(const rt_channel *channel)
{
    const rt_edges *edges = rt_edges_of(channel);
    int64_t soon = rt_device_time(channel->device) + look_again.first_ns;
    int64_t due = !rt_list_empty(&edges->busy) ? soon : INT64_MAX;
    if (!rt_list_empty(&edges->closing) && edges->closing_ns < due)
        due = edges->closing_ns;
    for (uint32_t index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
        const rt_edge_request *request = &edges->requests[index];
        int64_t at = request->message.kind == RT_EDGE_OPEN_EDGE && !request->answered ? request->deadline_ns : soon;
        due = request->active && at < due ? at : due;
    }
    return due;
}
