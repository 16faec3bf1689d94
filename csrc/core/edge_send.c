/* edge_send.c: where a tensor becomes copies of operations. HOT: no lock but turns, no system call or log on the way of a tensor that
 * lies where the provider can take it from; memory for the copies of a gathered tensor grows once. Staging is edge_stage.c, what
 * the WRITEs are is proto/edge_plan.c, when one may be sent proto/edge_flow.c. */
#include <stdlib.h>
#include <string.h>

#include "core/edge.h"

enum {
    UNTIMED_MAX = 65536,       /* bytes that are sent without looking at the clock where posting is copying */
    GATHER_RUNS_MAX = 4096,    /* runs of a strided tensor that are sent from where they lie; more are packed first, … */
    GATHER_RUN_SIZE_MIN = 256, /* … and so are runs shorter than this, where a NIC would fetch each of them */
};

typedef struct sending {
    rt_edge *edge;
    rt_edge_tensor plain; /* of a contiguous one */
    const rt_edge_tensor *tensor;
    uint64_t size, item_size;
    uint64_t sequence;
    int64_t end_ns;
    rt_edge_together *together; /* of many sends, or NULL */
    bool waited;
} sending;

/* ---- when one may be sent ---- */

/* Slots whose tensors were released give back what they kept. edge->turn held. */
static void let_go(rt_edge *edge, uint64_t before)
{
    for (uint64_t sequence = before + 1; edge->terms.edge_kind == RT_EDGE_DYNAMIC && sequence <= edge->tx.released; sequence++) {
        rt_edge_sent *sent = &edge->sent[sequence % edge->tx.slots];
        if (sent->sequence != sequence || sent->kept == NULL)
            continue;
        atomic_fetch_sub_explicit(&sent->kept->operations, 1, memory_order_release);
        sent->kept = NULL;
    }
}

/* Nobody reads tensors of the edge any more. edge->turn held. */
static void let_go_all(rt_edge *edge)
{
    for (uint32_t slot = 0; slot < edge->tx.slots; slot++) {
        rt_region *kept = edge->sent[slot].kept;
        edge->sent[slot].kept = NULL;
        if (kept != NULL)
            atomic_fetch_sub_explicit(&kept->operations, 1, memory_order_release);
    }
}

/* Looks at the credit and at the channel. edge->turn held. */
int rt_edge_take_credit(rt_edge *edge)
{
    rt_detail detail;
    uint64_t before = edge->tx.released;
    int status = RT_OK;
    if (atomic_load_explicit(&edge->channel->state, memory_order_acquire) != RT_CHANNEL_READY) {
        status = rt_channel_refuse(edge->channel, NULL);
        if (!rt_edge_lost(edge))
            return status;
        rt_edge_sender_end(&edge->tx, status);
        let_go_all(edge);
        return status;
    }
    if (edge->tx.state == RT_EDGE_OVER && edge->tx.failure == RT_E_PEER_CLOSED)
        let_go_all(edge); /* it closes when it reads nothing any more */
    if (edge->terms.flow == RT_EDGE_FLOW_CREDIT) {
        /* Pairs with the release store, or the device's WRITE, of the receiver's credit. */
        uint64_t word = rt_load_acquire_u64((const uint64_t *)(const void *)edge->credit_line.address);
        status = rt_edge_sender_credit(&edge->tx, word, &detail);
        if (status != RT_OK)
            return rt_edge_fail(edge, &detail);
        let_go(edge, before);
    }
    return RT_OK;
}

int rt_edge_may_send(rt_edge *edge, uint64_t *sequence_out)
{
    /* While credit is left, the line of a static edge stays with the receiver, who then writes it without fetching it first. */
    bool dynamic = edge->terms.edge_kind == RT_EDGE_DYNAMIC;
    bool up = atomic_load_explicit(&edge->channel->state, memory_order_acquire) == RT_CHANNEL_READY;
    int status = !dynamic && up ? rt_edge_sender_next(&edge->tx, sequence_out) : RT_E_AGAIN;
    if (status == RT_E_AGAIN) {
        status = rt_edge_take_credit(edge);
        status = status == RT_OK ? rt_edge_sender_next(&edge->tx, sequence_out) : status;
    }
    if (status != RT_OK)
        return status;
    if (edge->stage != NULL && edge->stage->sequence != 0)
        return RT_E_AGAIN; /* an earlier tensor is still being staged: rt_edge_wait_sent moves it */
    if (edge->stage != NULL && rt_edge_pending(edge->channel, edge->stage->ops, RT_EDGE_STAGES))
        return RT_E_AGAIN;
    rt_edge_sent *sent = &edge->sent[*sequence_out % edge->tx.slots];
    status = sent->sequence == 0 ? RT_OK : rt_edge_collect(edge->channel, sent->ops, edge->wiring.layout.stripes);
    bool posts = edge->device->limits.completes_in_post || rt_edge_may_post(edge->links, edge->wiring.layout.stripes);
    return status == RT_OK && !posts ? RT_E_AGAIN : status;
}

/* Takes the edge's turn and keeps it when it may send. */
static int look_credit(void *object)
{
    sending *send = object;
    rt_edge *edge = send->edge;
    rt_turn_take(&edge->turn);
    if (edge->stage != NULL && edge->stage->sequence != 0)
        rt_edge_stage_run(edge, send->end_ns);
    int status = rt_edge_may_send(edge, &send->sequence);
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN && !send->waited) {
        edge->stats.waits++;
        send->waited = true;
    }
    rt_turn_leave(&edge->turn);
    return status;
}

/* ---- copies ---- */

static uint64_t source_stride(const rt_edge *edge)
{
    if (edge->terms.edge_kind == RT_EDGE_STATIC)
        return RT_EDGE_SOURCE_SIZE;
    return RT_EDGE_SOURCE_EAGER + edge->eager_size;
}

uint64_t rt_edge_source_span(const rt_edge *edge, uint32_t slots, uint32_t stripes)
{
    return (uint64_t)slots * stripes * source_stride(edge);
}

uint8_t *rt_edge_source_of(const rt_edge *edge, uint32_t slot, uint32_t stripe)
{
    return edge->lines.address + ((uint64_t)slot * edge->wiring.layout.stripes + stripe) * source_stride(edge);
}

/* A copy from the edge's own memory. */
static rt_copy own_copy(const rt_edge *edge, const uint8_t *from, rt_remote *remote, uint64_t remote_offset, uint64_t size)
{
    return (rt_copy){.region = (uint64_t)(uintptr_t)edge->lines.region,
                     .region_offset = edge->lines.offset + (uint64_t)(from - edge->lines.address),
                     .remote = (uint64_t)(uintptr_t)remote,
                     .remote_offset = remote_offset,
                     .size = size,
                     .direction = RT_WRITE};
}

static uint32_t word_place(uint8_t part)
{
    return part == RT_EDGE_PART_BEGUN ? RT_EDGE_LINE_BEGUN : part == RT_EDGE_PART_NOTE ? RT_EDGE_LINE_NOTE : RT_EDGE_LINE_FLAG;
}

/* The copies of the payload: those given, with the immediate, or what joins them to a trailer. */
static uint32_t add_payload(const rt_edge *edge, const rt_edge_write *write, const rt_edge_plan *plan, uint8_t *source,
                            const rt_copy *payload, uint32_t payload_count, rt_copy *copies_out)
{
    uint64_t spoken = (uint64_t)plan->immediate << RT_COPY_IMMEDIATE_SHIFT;
    uint32_t count = 0;
    for (; count < payload_count; count++) {
        copies_out[count] = payload[count];
        if (write->every_piece)
            copies_out[count].direction |= RT_COPY_EVERY_PIECE | spoken;
    }
    if (count == 0 && write->immediate)
        copies_out[count++] = own_copy(edge, source, edge->slots_remote, write->remote_offset, 0);
    if (write->immediate)
        copies_out[count - 1].direction |= (write->every_piece ? RT_COPY_EVERY_PIECE : RT_COPY_IMMEDIATE) | spoken;
    if (write->trailer_size != 0) {
        if (count != 0)
            copies_out[count - 1].direction |= RT_COPY_JOINED;
        copies_out[count++] = own_copy(edge, source + RT_EDGE_SOURCE_SIZE - write->trailer_size, edge->slots_remote,
                                       write->remote_offset + write->size, write->trailer_size);
    }
    return count;
}

uint32_t rt_edge_copies_of(const rt_edge *edge, const rt_edge_plan *plan, uint64_t sequence, uint32_t stripe, uint32_t crc,
                           const rt_copy *payload, uint32_t payload_count, rt_copy *copies_out)
{
    uint8_t *source = rt_edge_source_of(edge, rt_edge_slot(&edge->wiring.layout, sequence), stripe);
    uint8_t *line = source + RT_EDGE_SOURCE_LINE;
    rt_remote *lines = edge->lines_remote != NULL ? edge->lines_remote : edge->slots_remote;
    uint32_t count = 0;
    if (edge->wiring.mode == RT_EDGE_TAIL)
        rt_edge_line_fill(&edge->wiring, sequence, crc, line);
    for (uint32_t index = 0; index < plan->count; index++) {
        const rt_edge_write *write = &plan->writes[index];
        if (write->part == RT_EDGE_PART_PAYLOAD) {
            count += add_payload(edge, write, plan, source, payload, payload_count, copies_out + count);
            continue;
        }
        uint8_t *word = line + word_place(write->part);
        memcpy(word, &write->word, sizeof write->word);
        copies_out[count] = own_copy(edge, word, lines, write->remote_offset, sizeof write->word);
        if (write->every_piece)
            copies_out[count].direction |= RT_COPY_EVERY_PIECE | (uint64_t)plan->immediate << RT_COPY_IMMEDIATE_SHIFT;
        count++;
    }
    return count;
}

/* The copies of bytes [from, from + size) of a tensor that lies in `region`, run by run, to the start of its stripe in the slot. */
static uint32_t payload_copies(const sending *send, const rt_region *region, uint64_t from, uint64_t size, uint64_t remote_offset,
                               rt_copy *copies_out)
{
    uint64_t run_size, start = (uint64_t)(uintptr_t)region->address;
    uint32_t count = 0;
    rt_edge_runs(send->tensor, send->item_size, &run_size);
    while (size != 0) {
        uint64_t within = from % run_size, part = run_size - within < size ? run_size - within : size;
        uint64_t address = rt_edge_run_address(send->tensor, send->item_size, run_size, from / run_size) + within;
        copies_out[count++] = (rt_copy){.region = (uint64_t)(uintptr_t)region,
                                        .region_offset = address - start,
                                        .remote = (uint64_t)(uintptr_t)send->edge->slots_remote,
                                        .remote_offset = remote_offset,
                                        .size = part,
                                        .direction = RT_WRITE | (part < size ? RT_COPY_JOINED : 0u)};
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
static rt_copy *copies_for(rt_edge_sent *sent, uint64_t runs, uint32_t stripes)
{
    uint64_t wanted = (runs + RT_EDGE_COPIES) * stripes;
    if (wanted > sent->copies_max) {
        rt_copy *grown = realloc(sent->copies, wanted * sizeof *grown); /* its operations are over */
        if (grown == NULL)
            return NULL;
        sent->copies = grown;
        sent->copies_max = (uint32_t)wanted;
    }
    return sent->copies;
}

/* Posts a tensor that lies in a region, stripe by stripe. edge->turn held. */
static int64_t post_static(const sending *send, const rt_region *region, uint64_t runs)
{
    rt_edge *edge = send->edge;
    bool joins = send->together != NULL && !edge->device->limits.completes_in_post && edge->wiring.layout.stripes == 1 &&
                 runs <= 1 && send->size <= UNTIMED_MAX;
    const rt_edge_layout *layout = &edge->wiring.layout;
    rt_edge_sent *sent = &edge->sent[send->sequence % edge->tx.slots];
    rt_copy *copies = copies_for(sent, 2 * runs, layout->stripes); /* a run at a stripe's border counts twice */
    rt_op *ops[RT_EDGE_STRIPES_MAX];
    bool pending = false;
    sent->plain_address = 0;
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
        rt_copy *payload = copies + RT_EDGE_COPIES; /* behind the room for those that go first; copied forwards */
        uint32_t parts = payload_copies(send, region, from, size, slot_offset + from, payload);
        uint32_t count = rt_edge_copies_of(edge, &plan, send->sequence, stripe, crc, payload, parts, copies);
        int64_t end_ns = size > UNTIMED_MAX || !edge->device->limits.completes_in_post ? send->end_ns : INT64_MAX;
        int posted = joins ? rt_edge_together_add(send->together, edge->links[0], copies, count, &sent->ops[0])
                           : rt_edge_post_reserved(edge->links[stripe], ops[stripe], copies, count, end_ns, &sent->ops[stripe]);
        status = posted != RT_OK ? posted : status; /* the channel is at its end */
        pending = pending || sent->ops[stripe] != 0;
        copies += RT_EDGE_COPIES + parts;
    }
    if (status != RT_OK)
        return status;
    rt_edge_count_sent(edge, send->sequence, send->size);
    return pending ? (int64_t)send->sequence : 0;
}

/* Whether a strided tensor is sent from where it lies. */
static bool gathers(const rt_edge *edge, uint64_t runs, uint64_t run_size)
{
    if (runs == 1)
        return true;
    if (!edge->wiring.orders_writes || runs > GATHER_RUNS_MAX)
        return false;
    return edge->device->limits.local_anywhere || run_size >= GATHER_RUN_SIZE_MIN;
}

static int64_t send_staged(sending *send)
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
static int64_t send_static(sending *send)
{
    rt_edge *edge = send->edge;
    uint64_t address = send->tensor->address, span = send->size, run_size;
    uint64_t runs = send->size == 0 ? 1 : rt_edge_runs(send->tensor, send->item_size, &run_size);
    bool left = false;
    rt_region *region = edge->lines.region; /* of an empty tensor nothing is taken */
    if (send->size != 0) {
        rt_edge_span(send->tensor, send->item_size, &address, &span);
        region = edge->staging_wanted || !gathers(edge, runs, run_size) ? NULL : rt_edge_region_of(edge, address, span, &left);
    }
    int64_t result = left ? rt_edge_may_send(edge, &send->sequence) : RT_OK;
    bool plain = result == RT_OK && region != NULL && runs == 1 && send->size <= UNTIMED_MAX &&
                 rt_edge_post_plain(edge, send->sequence, send->tensor->address, send->size, region, false, &result);
    if (result == RT_OK && !plain)
        result = region != NULL ? post_static(send, region, send->size == 0 ? 0 : runs) : send_staged(send);
    bool owed = edge->stage_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return result == RT_E_BUSY ? RT_E_AGAIN : result;
}

/* ---- the calls ---- */

int rt_edge_check_sender(const rt_edge *edge)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (!edge->sender)
        return RT_E_INVALID;
    if (!rt_edge_joined(edge))
        return atomic_load(&edge->phase) == RT_EDGE_PHASE_REFUSED ? edge->failure.status : RT_E_BUSY;
    return RT_OK;
}

/* Sends when there is credit. What was gathered for one doorbell goes before this waits: it may be what brings the credit. */
static int64_t send_when_due(sending *send, int64_t end_ns)
{
    int status = look_credit(send);
    if (status == RT_E_AGAIN && send->together != NULL)
        rt_edge_together_flush(send->together);
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(send->edge->device, look_credit, send, end_ns);
    return status == RT_OK ? send_static(send) : status;
}

static int64_t send_tensor(rt_edge *edge, const rt_edge_tensor *tensor, int64_t end_ns, rt_edge_together *together)
{
    int status = rt_edge_check_sender(edge);
    uint64_t size = 0;
    if (status == RT_OK)
        status = rt_edge_check_tensor(edge, tensor, &size, NULL);
    if (status != RT_OK)
        return status;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        if (together != NULL) /* what was gathered may be what brings the credit that this one waits for */
            rt_edge_together_flush(together);
        return rt_edge_send_dynamic(edge, tensor, size, end_ns);
    }
    sending send = {.edge = edge, .tensor = tensor, .size = size, .end_ns = end_ns, .together = together};
    send.item_size = rt_dtype_size(tensor->dtype);
    return send_when_due(&send, end_ns);
}

int64_t rt_edge_send_tensor(rt_edge *edge, const rt_edge_tensor *tensor, int64_t timeout_ns)
{
    return rt_forked() ? RT_E_FORKED : send_tensor(edge, tensor, rt_edge_slice_end(edge->device, timeout_ns), NULL);
}

/* A contiguous tensor of a static edge. */
static int prepare_plain(sending *send, uint64_t address)
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
        return send_tensor(edge, tensor, end_ns, together);
    sending send = {.edge = edge, .size = one->size, .end_ns = end_ns, .together = together};
    int status = prepare_plain(&send, one->address);
    return status == RT_OK ? send_when_due(&send, end_ns) : status;
}

int64_t rt_edge_send(rt_edge *edge, uint64_t address, uint64_t size, int64_t timeout_ns)
{
    sending send = {.edge = edge, .size = size};
    int status = prepare_plain(&send, address);
    if (status != RT_OK)
        return status;
    status = look_credit(&send); /* the usual case costs no look at the clock */
    bool timed = status == RT_E_AGAIN || size > UNTIMED_MAX || !edge->device->limits.completes_in_post;
    send.end_ns = timed ? rt_edge_slice_end(edge->device, timeout_ns) : INT64_MAX;
    if (status == RT_E_AGAIN)
        status = rt_wait_memory(edge->device, look_credit, &send, send.end_ns);
    return status == RT_OK ? send_static(&send) : status;
}
