/* receive.c: turns flags into tensors, and released tensors into credit. HOT: no lock but turns, no
 * allocation, system call or log on the way of a tensor that has arrived. proto/edge_flow.c decides
 * the meaning of a flag; records are in fetch.c. */
#include <string.h>

#include "base/waiter.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/edge.h"
#include "edge/fetch.h"
#include "edge/slot.h"
#include "proto/crc32c.h"

/* ---- receiving ---- */

typedef struct receiving {
    rt_edge *edge;
    rt_edge_arrival *arrival; /* NULL for a static edge, whose tensors are all alike */
    uint64_t sequence;
    bool waited;
} receiving;

static int crc_check(const rt_edge *edge, uint64_t sequence, rt_detail *detail)
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

/* Takes the tensor that has arrived; edge->turn held. A tensor that does not match its CRC is
 * released at once. */
static inline int tensor_take(receiving *receive, rt_detail *detail)
{
    rt_edge *edge = receive->edge;
    uint64_t sequence = receive->sequence;
    int status;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        status = rt_edge_take_record(edge, sequence, receive->arrival, detail);
    } else {
        status = edge->wiring.verify ? crc_check(edge, sequence, detail) : RT_OK;
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

static int tensor_look(void *object)
{
    receiving *receive = object;
    rt_edge *edge = receive->edge;
    if (!rt_edge_joined(edge))
        return edge->device->closed || edge->close_wanted ? RT_E_CLOSED : RT_E_AGAIN;
    rt_detail detail = {.status = RT_OK};
    rt_turn_take(&edge->turn);
    bool over = edge->rx.state == RT_EDGE_OVER; /* then the cause is recorded already, with a better text */
    int status = rt_edge_look_once(edge, &receive->sequence, &detail);
    if (status == RT_OK)
        status = tensor_take(receive, &detail);
    if (status != RT_OK && status != RT_E_AGAIN && status != RT_E_BUSY && !over)
        rt_edge_fail(edge, &detail);
    if (status == RT_E_AGAIN && !receive->waited) {
        edge->stats.waits++;
        receive->waited = true;
    }
    bool owed = status == RT_E_CORRUPT && edge->credit_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status;
}

static int receiver_check(const rt_edge *edge)
{
    return rt_forked() ? RT_E_FORKED : edge->sender ? RT_E_INVALID : RT_OK;
}

int64_t rt_edge_receive_static(rt_edge *edge, int64_t timeout_ns)
{
    receiving receive = {.edge = edge};
    int status = receiver_check(edge);
    if (status == RT_OK && edge->terms.edge_kind != RT_EDGE_STATIC)
        status = RT_E_INVALID;
    if (status == RT_OK)
        status = tensor_look(&receive);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, tensor_look, &receive, rt_device_slice_end(edge->device, timeout_ns));
    return status == RT_OK ? (int64_t)receive.sequence : status;
}

int rt_edge_receive(rt_edge *edge, int64_t timeout_ns, rt_edge_arrival *arrival_out)
{
    rt_edge_arrival arrival = {.sequence = 0};
    receiving receive = {.edge = edge, .arrival = &arrival};
    int status = receiver_check(edge);
    if (status == RT_OK && edge->terms.edge_kind == RT_EDGE_STATIC) {
        const rt_tensor_shape *shape = &edge->terms.shape;
        rt_tensor_bytes(shape, &arrival.size, NULL);
        arrival.dtype = shape->dtype;
        arrival.rank = shape->rank;
        memcpy(arrival.dims, shape->dims, sizeof shape->dims);
    }
    if (status == RT_OK)
        status = tensor_look(&receive);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, tensor_look, &receive, rt_device_slice_end(edge->device, timeout_ns));
    if (status != RT_OK)
        return status;
    arrival.sequence = receive.sequence;
    if (edge->terms.edge_kind == RT_EDGE_STATIC)
        arrival.address = (uint64_t)(uintptr_t)rt_edge_slot_address(edge, rt_edge_slot(&edge->wiring.layout, receive.sequence));
    *arrival_out = arrival;
    return RT_OK;
}

/* ---- records, for a caller that wants a tensor where it lies ---- */

/* Borrows a tensor that was taken, or leaves it to be READ. edge->turn held. */
static int tensor_borrow(rt_edge *edge, rt_edge_arrival *arrival, rt_detail *detail)
{
    if (arrival->address != 0)
        return RT_OK;
    int status = rt_edge_borrow_held(edge, arrival->sequence, &arrival->borrowed, detail);
    if (status == RT_OK)
        arrival->remote = (uint64_t)(uintptr_t)edge->remotes[edge->got[arrival->sequence % edge->rx.slots].record.key];
    return status == RT_E_CORRUPT ? status : RT_OK;
}

int rt_edge_receive_record_at_once(rt_edge *edge, uint32_t looks, int borrow, rt_edge_arrival *arrival_out)
{
    if (looks == 0 || receiver_check(edge) != RT_OK || !rt_edge_joined(edge) || edge->terms.edge_kind != RT_EDGE_DYNAMIC)
        return RT_E_AGAIN;
    if (edge->verify || !rt_turn_try(&edge->turn))
        return RT_E_AGAIN;
    rt_edge_arrival arrival = {.sequence = rt_edge_receiver_expects(&edge->rx)};
    receiving receive = {.edge = edge, .arrival = &arrival};
    const uint8_t *line = rt_edge_line_address(edge, rt_edge_slot(&edge->wiring.layout, arrival.sequence), 0);
    const uint64_t *flag = (const uint64_t *)(const void *)(line + RT_EDGE_LINE_FLAG);
    looks = rt_wait_mode_checks(&edge->device->wait, looks);
    uint32_t left = looks;
    bool found;
    do
        found = rt_load_acquire_u64(flag) == arrival.sequence;
    while (!found && rt_spin_again(&left));
    rt_detail detail = {.status = RT_OK};
    bool over = edge->rx.state == RT_EDGE_OVER;
    int status = found && rt_edge_may_hand_over(edge, arrival.sequence, borrow != 0) ? RT_OK : RT_E_AGAIN;
    if (status == RT_OK)
        status = rt_edge_look_once(edge, &receive.sequence, &detail);
    if (status == RT_OK)
        status = tensor_take(&receive, &detail);
    if (status == RT_OK && borrow != 0)
        status = tensor_borrow(edge, &arrival, &detail);
    edge->stats.waits += status == RT_OK && left != looks;
    if (status == RT_OK)
        *arrival_out = arrival;
    else if (status != RT_E_AGAIN && status != RT_E_BUSY && !over)
        rt_edge_fail(edge, &detail);
    rt_turn_leave(&edge->turn);
    return status == RT_E_BUSY ? RT_E_AGAIN : status;
}

int rt_edge_receive_borrowed(rt_edge *edge, int64_t timeout_ns, rt_edge_arrival *arrival_out)
{
    rt_detail detail = {.status = RT_OK};
    int status = rt_edge_receive(edge, timeout_ns, arrival_out);
    if (status != RT_OK || edge->terms.edge_kind != RT_EDGE_DYNAMIC)
        return status;
    rt_turn_take(&edge->turn);
    status = tensor_borrow(edge, arrival_out, &detail);
    bool owed = status == RT_E_CORRUPT && edge->credit_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status;
}

/* ---- release and credit ---- */

int rt_edge_release(rt_edge *edge, uint64_t sequence)
{
    int status = receiver_check(edge);
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

/* ---- many edges ---- */

/* Whether a receive would return at once. The check changes nothing except that the edge may learn
 * of its channel's end. */
static bool edge_ready(rt_edge *edge)
{
    if (!rt_edge_joined(edge))
        return edge->device->closed || edge->close_wanted;
    rt_turn_take(&edge->turn);
    rt_edge_hear(edge);
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
    return receiver_check(edge) == RT_OK && edge_ready(edge);
}

typedef struct any {
    rt_edge *const *edges;
    uint64_t count, capacity, found;
    uint32_t *ready_out;
} any;

static int edges_look(void *object)
{
    any *wait = object;
    wait->found = 0;
    for (uint64_t index = 0; index < wait->count && wait->found < wait->capacity; index++) {
        if (edge_ready(wait->edges[index]))
            wait->ready_out[wait->found++] = (uint32_t)index;
    }
    return wait->found != 0 ? RT_OK : RT_E_AGAIN;
}

int64_t rt_edges_wait_any(rt_edge *const *edges, uint64_t count, int64_t timeout_ns, uint32_t *ready_out, uint64_t capacity)
{
    if (count == 0 || count > UINT32_MAX || capacity == 0)
        return RT_E_INVALID;
    for (uint64_t index = 0; index < count; index++) {
        int status = receiver_check(edges[index]);
        if (status == RT_OK && edges[index]->device != edges[0]->device)
            status = RT_E_INVALID;
        if (status != RT_OK)
            return status;
    }
    any wait = {.edges = edges, .count = count, .capacity = capacity, .ready_out = ready_out};
    int status = edges_look(&wait);
    if (status == RT_E_AGAIN && timeout_ns > 0)
        status = rt_wait_memory(edges[0]->device, edges_look, &wait, rt_device_slice_end(edges[0]->device, timeout_ns));
    return status == RT_OK ? (int64_t)wait.found : status;
}
