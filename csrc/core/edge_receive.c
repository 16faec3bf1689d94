/* edge_receive.c: flags become tensors, released tensors become credit. HOT: no lock but turns, no allocation, system call or log on
 * the way of a tensor that is there. What a flag means is proto/edge_flow.c's to say; records are edge_fetch.c's. */
#include <string.h>

#include "core/edge.h"

uint8_t *rt_edge_slot_address(const rt_edge *edge, uint32_t slot)
{
    return edge->slots.address + rt_edge_slot_offset(&edge->wiring.layout, slot);
}

uint8_t *rt_edge_line_address(const rt_edge *edge, uint32_t slot, uint32_t stripe)
{
    uint8_t *base = edge->wiring.layout.tail ? edge->slots.address : edge->lines.address + RT_EDGE_LINE_SIZE;
    return base + rt_edge_line_offset(&edge->wiring.layout, slot, stripe);
}

/* Loads one word of the flag lines of a slot. Pairs with the release store, or the device's WRITE, of the sender. */
static void load_words(const rt_edge *edge, uint32_t slot, uint32_t place, uint64_t *words_out)
{
    for (uint32_t stripe = 0; stripe < edge->wiring.layout.stripes; stripe++)
        words_out[stripe] =
            rt_load_acquire_u64((const uint64_t *)(const void *)(rt_edge_line_address(edge, slot, stripe) + place));
}

/* The channel has failed and its links are shut: nothing more is placed, so what has not arrived never will. */
static void hear(rt_edge *edge)
{
    if (atomic_load_explicit(&edge->channel->state, memory_order_acquire) != RT_CHANNEL_READY && rt_edge_lost(edge))
        rt_edge_receiver_end(&edge->rx, rt_channel_refuse(edge->channel, NULL));
}

static int check_crc(const rt_edge *edge, uint64_t sequence, rt_detail *detail)
{
    const rt_edge_layout *layout = &edge->wiring.layout;
    uint32_t slot = rt_edge_slot(layout, sequence);
    for (uint32_t stripe = 0; stripe < layout->stripes; stripe++) {
        uint64_t from, size = rt_edge_stripe(layout, layout->payload_size, stripe, &from), note;
        memcpy(&note, rt_edge_line_address(edge, slot, stripe) + RT_EDGE_LINE_NOTE, sizeof note);
        uint32_t crc = rt_edge_crc(rt_crc32c(0, rt_edge_slot_address(edge, slot) + from, size), sequence);
        int status = rt_edge_note_check(note, sequence, crc, detail);
        if (status != RT_OK)
            return status;
    }
    return RT_OK;
}

int rt_edge_look_once(rt_edge *edge, uint64_t *sequence_out, rt_detail *detail)
{
    uint64_t flags[RT_EDGE_STRIPES_MAX], begun[RT_EDGE_STRIPES_MAX];
    hear(edge);
    uint32_t slot = rt_edge_slot(&edge->wiring.layout, rt_edge_receiver_expects(&edge->rx));
    load_words(edge, slot, RT_EDGE_LINE_FLAG, flags);
    if (edge->rx.loop_check)
        load_words(edge, slot, RT_EDGE_LINE_BEGUN, begun);
    return rt_edge_receiver_look(&edge->rx, flags, edge->rx.loop_check ? begun : NULL, sequence_out, detail);
}

/* ---- receiving ---- */

typedef struct receiving {
    rt_edge *edge;
    rt_edge_arrival *arrival; /* NULL: of a static edge, whose tensors are all alike */
    uint64_t sequence;
    bool waited;
} receiving;

/* Takes the tensor that has arrived; edge->turn held. What does not fit its CRC is released at once. */
static int take(receiving *receive, rt_detail *detail)
{
    rt_edge *edge = receive->edge;
    uint64_t sequence = receive->sequence;
    int status;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        status = rt_edge_take_record(edge, sequence, receive->arrival, detail);
    } else {
        status = edge->wiring.verify ? check_crc(edge, sequence, detail) : RT_OK;
        if (status == RT_OK)
            status = rt_edge_receiver_event(&edge->rx, sequence, RT_SLOT_USE);
    }
    if (status == RT_E_CORRUPT) {
        edge->stats.corrupt++;
        rt_edge_release_held(edge, sequence, NULL);
        return status;
    }
    if (status == RT_OK) {
        edge->stats.transfers++;
        edge->stats.bytes += receive->arrival != NULL ? receive->arrival->size : edge->wiring.layout.payload_size;
    }
    return status;
}

static int look(void *object)
{
    receiving *receive = object;
    rt_edge *edge = receive->edge;
    if (!rt_edge_joined(edge))
        return edge->device->closed || edge->close_wanted ? RT_E_CLOSED : RT_E_AGAIN;
    rt_detail detail = {.status = RT_OK};
    rt_turn_take(&edge->turn);
    int status = rt_edge_look_once(edge, &receive->sequence, &detail);
    if (status == RT_OK)
        status = take(receive, &detail);
    if (status != RT_OK && status != RT_E_AGAIN && status != RT_E_BUSY)
        rt_edge_fail(edge, &detail);
    if (status == RT_E_AGAIN && !receive->waited) {
        edge->stats.waits++;
        receive->waited = true;
    }
    rt_turn_leave(&edge->turn);
    return status;
}

static int check_receiver(const rt_edge *edge)
{
    return rt_forked() ? RT_E_FORKED : edge->sender ? RT_E_INVALID : RT_OK;
}

int64_t rt_edge_receive_static(rt_edge *edge, int64_t timeout_ns)
{
    receiving receive = {.edge = edge};
    int status = check_receiver(edge);
    if (status == RT_OK && edge->terms.edge_kind != RT_EDGE_STATIC)
        status = RT_E_INVALID;
    if (status == RT_OK)
        status = look(&receive);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, look, &receive, rt_edge_slice_end(edge->device, timeout_ns));
    return status == RT_OK ? (int64_t)receive.sequence : status;
}

int rt_edge_receive(rt_edge *edge, int64_t timeout_ns, rt_edge_arrival *arrival_out)
{
    receiving receive = {.edge = edge, .arrival = arrival_out};
    int status = check_receiver(edge);
    memset(arrival_out, 0, sizeof *arrival_out);
    if (status == RT_OK && edge->terms.edge_kind == RT_EDGE_STATIC) {
        const rt_tensor_shape *shape = &edge->terms.shape;
        rt_tensor_bytes(shape, &arrival_out->size, NULL);
        arrival_out->dtype = shape->dtype;
        arrival_out->rank = shape->rank;
        memcpy(arrival_out->dims, shape->dims, sizeof shape->dims);
    }
    if (status == RT_OK)
        status = look(&receive);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, look, &receive, rt_edge_slice_end(edge->device, timeout_ns));
    if (status != RT_OK)
        return status;
    arrival_out->sequence = receive.sequence;
    if (edge->terms.edge_kind == RT_EDGE_STATIC)
        arrival_out->address =
            (uint64_t)(uintptr_t)rt_edge_slot_address(edge, rt_edge_slot(&edge->wiring.layout, receive.sequence));
    return RT_OK;
}

/* ---- release and credit ---- */

void rt_edge_give_credit(rt_edge *edge)
{
    rt_edge_receiver *rx = &edge->rx;
    uint64_t word;
    if (edge->credit_op != 0 && rt_edge_collect(edge->channel, &edge->credit_op, 1) != RT_E_AGAIN)
        rt_edge_receiver_credit_done(rx);
    if (edge->credit_op != 0 && !rx->credits_serial && rt_op_posted(edge->channel, edge->credit_op)) {
        rt_op_forget(edge->channel, edge->credit_op);
        edge->credit_op = 0;
    }
    edge->credit_owed = edge->credit_op != 0;
    if (edge->credit_op != 0 || edge->credit_remote == NULL || !rt_edge_receiver_credit_due(rx, &word))
        return; /* without a remote the edge is closed at both ends: nobody looks at credits */
    int64_t number = 0;
    rt_store_release_u64((uint64_t *)(void *)edge->lines.address, word);
    int64_t end_ns = edge->device->limits.completes_in_post ? INT64_MAX : 0;
    bool small =
        edge->device->limits.completes_in_post && rt_edge_post_small(edge->links[0], &edge->credit_copy, 1, false, &number);
    if (!small && rt_edge_post(edge->links[0], &edge->credit_copy, 1, end_ns, &number) != RT_OK) {
        edge->credit_owed = rt_channel_state(edge->channel) == RT_CHANNEL_READY;
        return;
    }
    rt_edge_receiver_credit_posted(rx, word);
    edge->stats.credits++;
    if (number == 0)
        rt_edge_receiver_credit_done(rx);
    else if (!rx->credits_serial && rt_op_posted(edge->channel, number))
        rt_op_forget(edge->channel, number);
    else
        edge->credit_op = number;
    edge->credit_owed = edge->credit_op != 0;
}

int rt_edge_release_held(rt_edge *edge, uint64_t sequence, rt_detail *detail)
{
    uint64_t begun[RT_EDGE_STRIPES_MAX];
    if (edge->rx.loop_check)
        load_words(edge, rt_edge_slot(&edge->wiring.layout, sequence), RT_EDGE_LINE_BEGUN, begun);
    int status = rt_edge_receiver_release(&edge->rx, sequence, edge->rx.loop_check ? begun : NULL, detail);
    if (status != RT_E_INVALID && edge->got != NULL) {
        rt_edge_got *got = &edge->got[sequence % edge->rx.slots];
        edge->borrowed -= got->borrowed;
        got->decoded = got->borrowed = false;
    }
    rt_edge_give_credit(edge);
    return status;
}

int rt_edge_release(rt_edge *edge, uint64_t sequence)
{
    int status = check_receiver(edge);
    if (status != RT_OK)
        return status;
    if (!rt_edge_joined(edge) || sequence == 0)
        return RT_E_INVALID;
    rt_detail detail = {.status = RT_OK};
    rt_turn_take(&edge->turn);
    status = rt_edge_release_held(edge, sequence, &detail);
    if (status == RT_E_OVERRUN || status == RT_E_PROTOCOL)
        rt_edge_fail(edge, &detail);
    bool owed = edge->credit_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status;
}

/* ---- one of many ---- */

/* Whether a receive would return at once; a look that changes nothing but what the channel's end is known of. */
static bool ready(rt_edge *edge)
{
    if (!rt_edge_joined(edge))
        return edge->device->closed || edge->close_wanted;
    rt_turn_take(&edge->turn);
    hear(edge);
    uint64_t sequence = rt_edge_receiver_expects(&edge->rx), flag = 0;
    bool whole = edge->rx.slot_state[sequence % edge->rx.slots] == RT_SLOT_EMPTY;
    bool over = edge->rx.state == RT_EDGE_OVER || edge->rx.lost != RT_OK ||
                (edge->rx.received == edge->rx.final && edge->rx.fetching == 0);
    for (uint32_t stripe = 0; whole && stripe < edge->wiring.layout.stripes; stripe++) {
        const uint8_t *line = rt_edge_line_address(edge, rt_edge_slot(&edge->wiring.layout, sequence), stripe);
        flag = rt_load_acquire_u64((const uint64_t *)(const void *)(line + RT_EDGE_LINE_FLAG));
        whole = flag == sequence;
    }
    bool ahead = edge->rx.flags_whole && flag > sequence;
    rt_turn_leave(&edge->turn);
    return whole || over || ahead;
}

int rt_edge_ready(rt_edge *edge)
{
    return check_receiver(edge) == RT_OK && ready(edge);
}

typedef struct any {
    rt_edge *const *edges;
    uint64_t count, capacity, found;
    uint32_t *ready_out;
} any;

static int look_any(void *object)
{
    any *wait = object;
    wait->found = 0;
    for (uint64_t index = 0; index < wait->count && wait->found < wait->capacity; index++) {
        if (ready(wait->edges[index]))
            wait->ready_out[wait->found++] = (uint32_t)index;
    }
    return wait->found != 0 ? RT_OK : RT_E_AGAIN;
}

int64_t rt_edges_wait_any(rt_edge *const *edges, uint64_t count, int64_t timeout_ns, uint32_t *ready_out, uint64_t capacity)
{
    if (count == 0 || count > UINT32_MAX || capacity == 0)
        return RT_E_INVALID;
    for (uint64_t index = 0; index < count; index++) {
        int status = check_receiver(edges[index]);
        if (status == RT_OK && edges[index]->device != edges[0]->device)
            status = RT_E_INVALID;
        if (status != RT_OK)
            return status;
    }
    any wait = {.edges = edges, .count = count, .capacity = capacity, .ready_out = ready_out};
    int status = look_any(&wait);
    if (status == RT_E_AGAIN && timeout_ns > 0)
        status = rt_wait_memory(edges[0]->device, look_any, &wait, rt_edge_slice_end(edges[0]->device, timeout_ns));
    return status == RT_OK ? (int64_t)wait.found : status;
}
