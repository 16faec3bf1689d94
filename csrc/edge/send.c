/* send.c: turns a tensor into copies of operations. HOT: no lock but turns, no system call or log
 * for a tensor that lies where the provider can take it from; the memory for the copies of a
 * gathered tensor grows once. Staging is in stage.c, proto/edge_plan.c decides the WRITEs, and
 * proto/edge_flow.c when a tensor may be sent. */
#include <stdlib.h>

#include "channel/op.h"
#include "channel/start.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/copies.h"
#include "edge/credit.h"
#include "edge/dynamic.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/quick.h"
#include "edge/send.h"
#include "edge/source.h"
#include "edge/stage.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"
#include "region/region.h"

enum {
    GATHER_RUNS_MAX = 4096,    /* runs of a strided tensor that are sent from their place; more are packed first, … */
    GATHER_RUN_SIZE_MIN = 256, /* … and so are runs shorter than this, where a NIC would fetch each of them */
};

typedef struct sending {
    rt_edge *edge;
    rt_edge_tensor plain; /* for a contiguous tensor */
    const rt_edge_tensor *tensor;
    uint64_t size, item_size;
    uint64_t sequence;
    int64_t end_ns;
    rt_edge_together *together; /* for many sends, else NULL */
    bool waited;
} sending;

/* ---- when a tensor may be sent ---- */

/* RT_OK: the edge's turn is held and the next sequence may be sent. */
static int send_credit_look(void *object)
{
    sending *send = object;
    return rt_edge_look_credit(send->edge, send->end_ns, &send->sequence, &send->waited);
}

/* ---- copies ---- */

/* Makes the copies of bytes [from, from + size) of a tensor in `region`, run by run, to the start
 * of its stripe in the slot. */
static uint32_t payload_copies(const sending *send, rt_region *region, uint64_t from, uint64_t size, uint64_t remote_offset,
                               rt_piece *copies_out)
{
    uint64_t run_size, start = (uint64_t)(uintptr_t)region->address;
    uint32_t count = 0;
    rt_edge_runs(send->tensor, send->item_size, &run_size);
    while (size != 0) {
        uint64_t within = from % run_size, part = run_size - within < size ? run_size - within : size;
        uint64_t address = rt_edge_run_address(send->tensor, send->item_size, run_size, from / run_size) + within;
        copies_out[count++] = (rt_piece){.region = region,
                                         .region_offset = address - start,
                                         .remote = send->edge->slots_remote,
                                         .remote_offset = remote_offset,
                                         .size = part,
                                         .direction = RT_WRITE,
                                         .flags = part < size ? RT_PIECE_JOINED : 0};
        from += part;
        size -= part;
        remote_offset += part;
    }
    return count;
}

static uint32_t crc_of(const sending *send, uint64_t from, uint64_t size)
{
    uint64_t run_size;
    uint32_t crc = 0;
    rt_edge_runs(send->tensor, send->item_size, &run_size);
    while (size != 0) {
        uint64_t within = from % run_size, part = run_size - within < size ? run_size - within : size;
        uint64_t address = rt_edge_run_address(send->tensor, send->item_size, run_size, from / run_size) + within;
        crc = rt_crc32c(crc, (const void *)(uintptr_t)address, part);
        from += part;
        size -= part;
    }
    return rt_edge_crc(crc, send->sequence);
}

/* ---- static edges ---- */

/* Room for the copies of a tensor of `runs` runs. */
static rt_piece *copies_for(rt_edge_sent *sent, uint64_t runs, uint32_t stripes)
{
    uint64_t wanted = (runs + RT_EDGE_COPIES) * stripes;
    if (wanted > sent->copies_max) {
        rt_piece *grown = realloc(sent->copies, wanted * sizeof *grown); /* the operations of the old copies are over */
        if (grown == NULL)
            return NULL;
        sent->copies = grown;
        sent->copies_max = (uint32_t)wanted;
    }
    return sent->copies;
}

/* Posts a tensor that lies in a region, or with NULL in its slot already, stripe by stripe. edge->turn held. */
static int64_t static_post(const sending *send, rt_region *region, uint64_t runs)
{
    rt_edge *edge = send->edge;
    bool joins = send->together != NULL && !edge->device->limits.completes_in_post && edge->wiring.layout.stripes == 1 &&
                 runs <= 1 && send->size <= RT_UNTIMED_MAX;
    const rt_edge_layout *layout = &edge->wiring.layout;
    rt_edge_sent *sent = &edge->sent[send->sequence % edge->tx.slots];
    rt_piece *copies = copies_for(sent, 2 * runs, layout->stripes); /* a run at a stripe's border counts twice */
    rt_op *ops[RT_EDGE_STRIPES_MAX];
    bool pending = false;
    sent->plain = false;
    int status = copies == NULL ? RT_E_NO_MEMORY : joins ? RT_OK : rt_edge_reserve(edge->links, layout->stripes, ops);
    if (status != RT_OK)
        return status;
    sent->sequence = send->sequence;
    for (uint32_t stripe = 0; stripe < layout->stripes; stripe++) {
        uint64_t from, size = rt_edge_stripe(layout, send->size, stripe, &from);
        uint32_t crc = edge->wiring.verify ? crc_of(send, from, size) : 0;
        rt_edge_plan plan;
        rt_edge_plan_make(&edge->wiring, send->sequence, stripe, from, size, crc, &plan);
        uint64_t slot_offset = rt_edge_slot_offset(layout, rt_edge_slot(layout, send->sequence));
        rt_piece *payload = copies + RT_EDGE_COPIES; /* behind the room for the copies that go first; copied forwards */
        uint32_t parts = region == NULL ? 0 : payload_copies(send, region, from, size, slot_offset + from, payload);
        uint32_t count = rt_edge_copies_of(edge, &plan, send->sequence, stripe, crc, payload, parts, copies);
        int64_t end_ns = size > RT_UNTIMED_MAX || !edge->device->limits.completes_in_post ? send->end_ns : INT64_MAX;
        int posted = joins ? rt_edge_together_add(send->together, edge->links[0], copies, count, &sent->ops[0])
                           : rt_edge_post_reserved(edge->links[stripe], ops[stripe], copies, count, end_ns, &sent->ops[stripe]);
        status = posted != RT_OK ? posted : status; /* the channel has ended */
        pending = pending || sent->ops[stripe] != 0;
        copies += RT_EDGE_COPIES + parts;
    }
    if (status != RT_OK)
        return status;
    rt_edge_count_sent(edge, send->sequence, send->size);
    return pending ? (int64_t)send->sequence : 0;
}

int64_t rt_edge_post_lent(rt_edge *edge, uint64_t sequence, uint64_t address, rt_region *region, int64_t end_ns)
{
    uint64_t size = edge->wiring.layout.payload_size;
    sending send = {.edge = edge, .size = size, .item_size = 1, .sequence = sequence, .end_ns = end_ns};
    send.plain = (rt_edge_tensor){.address = address, .rank = 1, .dims = {size}};
    send.tensor = &send.plain;
    return static_post(&send, region, size == 0 || region == NULL ? 0 : 1);
}

/* Whether a strided tensor is sent from its place. */
static bool edge_gathers(const rt_edge *edge, uint64_t runs, uint64_t run_size)
{
    if (runs == 1)
        return true;
    if (rt_edge_counts_pieces(&edge->wiring) || runs > GATHER_RUNS_MAX)
        return false;
    return edge->device->limits.local_anywhere || run_size >= GATHER_RUN_SIZE_MIN;
}

static int64_t staged_send(sending *send)
{
    rt_edge *edge = send->edge;
    int status = rt_edge_stage_begin(edge, send->tensor, send->size, send->sequence);
    if (status == RT_E_NOT_FOUND) {
        rt_turn_leave(&edge->turn);
        status = rt_edge_stage_prepare(edge, NULL);
        rt_turn_take(&edge->turn);
        status = status == RT_OK ? rt_edge_may_send(edge, &send->sequence) : status;
        if (status == RT_OK)
            status = rt_edge_stage_begin(edge, send->tensor, send->size, send->sequence);
    }
    if (status != RT_OK)
        return status;
    status = rt_edge_stage_run(edge, send->end_ns);
    return status == RT_OK ? 0 : status == RT_E_AGAIN ? (int64_t)send->sequence : status;
}

/* edge->turn held on entry, left on return. */
static int64_t static_send(sending *send)
{
    rt_edge *edge = send->edge;
    uint64_t address = send->tensor->address, span = send->size, run_size;
    uint64_t runs = send->size == 0 ? 1 : rt_edge_runs(send->tensor, send->item_size, &run_size);
    bool left = false;
    rt_region *region = edge->lines.region; /* an empty tensor needs no bytes from it */
    if (send->size != 0) {
        rt_edge_span(send->tensor, send->item_size, &address, &span);
        region =
            edge->staging_wanted || !edge_gathers(edge, runs, run_size) ? NULL : rt_edge_region_of(edge, address, span, &left);
    }
    int64_t result = left ? rt_edge_may_send(edge, &send->sequence) : RT_OK;
    bool plain = result == RT_OK && region != NULL && runs == 1 && send->size <= RT_UNTIMED_MAX &&
                 rt_edge_post_plain(edge, send->sequence, send->tensor->address, send->size, region, false, &result);
    if (result == RT_OK && !plain)
        result = region != NULL ? static_post(send, region, send->size == 0 ? 0 : runs) : staged_send(send);
    bool owed = edge->stage_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return result == RT_E_BUSY ? RT_E_AGAIN : result;
}

/* ---- the calls ---- */

/* Sends when there is credit. The sends gathered for one doorbell are posted before this waits,
 * because they may bring the credit. */
static int64_t due_send(sending *send, int64_t end_ns)
{
    int status = send_credit_look(send);
    if (status == RT_E_AGAIN && send->together != NULL)
        rt_edge_together_flush(send->together);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(send->edge->device, send_credit_look, send, end_ns);
    return status == RT_OK ? static_send(send) : status;
}

static int64_t tensor_send(rt_edge *edge, const rt_edge_tensor *tensor, int64_t end_ns, rt_edge_together *together)
{
    int status = rt_edge_check_sender(edge);
    uint64_t size = 0;
    if (status == RT_OK)
        status = rt_edge_check_tensor(edge, tensor, &size, NULL);
    if (status != RT_OK)
        return status;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        if (together != NULL) /* the gathered sends may bring the credit that this one waits for */
            rt_edge_together_flush(together);
        return rt_edge_send_dynamic(edge, tensor, size, end_ns);
    }
    sending send = {.edge = edge, .tensor = tensor, .size = size, .end_ns = end_ns, .together = together};
    send.item_size = rt_dtype_size(tensor->dtype);
    return due_send(&send, end_ns);
}

int64_t rt_edge_send_tensor(rt_edge *edge, const rt_edge_tensor *tensor, int64_t timeout_ns)
{
    return rt_forked() ? RT_E_FORKED : tensor_send(edge, tensor, rt_device_slice_end(edge->device, timeout_ns), NULL);
}

/* Prepares the send of a contiguous tensor of a static edge. */
static int plain_prepare(sending *send, uint64_t address)
{
    rt_edge *edge = send->edge;
    int status = rt_edge_check_sender(edge);
    if (status != RT_OK)
        return status;
    if (edge->terms.edge_kind != RT_EDGE_STATIC || send->size != edge->wiring.layout.payload_size)
        return RT_E_INVALID;
    send->item_size = 1;
    send->plain.address = address;
    send->plain.rank = 1;
    send->plain.dims[0] = send->size;
    send->tensor = &send->plain;
    return RT_OK;
}

int64_t rt_edge_send_one(const rt_edge_sending *one, int64_t end_ns, rt_edge_together *together)
{
    rt_edge *edge = (rt_edge *)(uintptr_t)one->edge;
    const rt_edge_tensor *tensor = (const rt_edge_tensor *)(uintptr_t)one->tensor;
    if (tensor != NULL)
        return tensor_send(edge, tensor, end_ns, together);
    sending send = {.edge = edge, .size = one->size, .end_ns = end_ns, .together = together};
    int status = plain_prepare(&send, one->address);
    return status == RT_OK ? due_send(&send, end_ns) : status;
}

int64_t rt_edge_send(rt_edge *edge, uint64_t address, uint64_t size, int64_t timeout_ns)
{
    sending send = {.edge = edge, .size = size};
    int status = plain_prepare(&send, address);
    if (status != RT_OK)
        return status;
    status = send_credit_look(&send); /* the usual case does not read the clock */
    bool timed = status == RT_E_AGAIN || size > RT_UNTIMED_MAX || !edge->device->limits.completes_in_post;
    send.end_ns = timed ? rt_device_slice_end(edge->device, timeout_ns) : INT64_MAX;
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, send_credit_look, &send, send.end_ns);
    return status == RT_OK ? static_send(&send) : status;
}
