/* make.c: makes an edge: a receiving one with its name, or a sending one that asks the peer for
 * it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/ask.h"
#include "edge/attend.h"
#include "edge/edge.h"
#include "proto/dtype.h"
#include "proto/edge_mode.h"
#include "proto/rpc_message.h"
#include "region/pool.h"
#include "region/region.h"

static int edge_options_check(const rt_device *device, const rt_edge_options *options, bool sender, rt_detail *detail)
{
    const char *name = options->name;
    if (device->closed)
        return rt_fail(detail, RT_E_CLOSED, 0, "the device is closed");
    int status = name == NULL ? rt_fail(detail, RT_E_INVALID, 0, "an edge needs a name") : rt_rpc_check_name(name, detail);
    if (status != RT_OK)
        return status;
    bool is_static = options->kind == RT_EDGE_STATIC;
    if (!is_static && options->kind != RT_EDGE_DYNAMIC)
        return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" of kind %u: 1 is static, 2 dynamic", name, options->kind);
    if (options->flow != RT_EDGE_FLOW_CREDIT && (options->flow != RT_EDGE_FLOW_LOOP || !is_static))
        return rt_fail(detail, RT_E_INVALID, 0,
                       "edge \"%s\" with flow %u: it is credit (1), or for static edges loop (2): the sender of a dynamic tensor "
                       "must learn when it may change",
                       name, options->flow);
    if (options->stripes > RT_EDGE_STRIPES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" of %u stripes: at most %d share a tensor", name, options->stripes,
                       RT_EDGE_STRIPES_MAX);
    if (!sender && (options->slots == 0 || options->slots > RT_EDGE_SLOTS_MAX))
        return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" with %u slots: 1 to %d are possible", name, options->slots,
                       RT_EDGE_SLOTS_MAX);
    if (options->eager_size > RT_EDGE_EAGER_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" with %" PRIu64 " eager bytes: at most %d fit in front of a record",
                       name, options->eager_size, RT_EDGE_EAGER_MAX);
    if (options->alignment > 2u << 20 || (options->alignment & (options->alignment - 1)) != 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "slots of edge \"%s\" aligned to %" PRIu64 ": the alignment must be a power of two up to 2 MiB", name,
                       options->alignment);
    return RT_OK;
}

static int shape_take(const rt_edge_options *options, rt_tensor_shape *shape_out, uint64_t *size_out, rt_detail *detail)
{
    bool is_static = options->kind == RT_EDGE_STATIC;
    bool any_rank = !is_static && options->rank == RT_EDGE_RANK_ANY;
    if (options->dtype >= RT_DTYPE_COUNT || (options->rank > RT_EDGE_RANK_MAX && !any_rank))
        return rt_fail(detail, RT_E_INVALID, 0,
                       "edge \"%s\" of dtype code %u and %u dimensions: the codes of dtypes go up to %d, dimensions up to %d",
                       options->name, options->dtype, options->rank, RT_DTYPE_COUNT - 1, RT_EDGE_RANK_MAX);
    *shape_out = (rt_tensor_shape){.dtype = (uint8_t)options->dtype, .rank = (uint8_t)options->rank};
    if (is_static && options->rank > 0)
        memcpy(shape_out->dims, options->dims, options->rank * sizeof shape_out->dims[0]);
    *size_out = 0;
    return is_static ? rt_tensor_bytes(shape_out, size_out, detail) : RT_OK;
}

static uint8_t log_of(uint64_t alignment)
{
    uint8_t log = 6;
    while (1ull << log < alignment)
        log++;
    return log;
}

/* Takes the ordering promises of this end, and the sentence that states them. */
static int ordering_take(const rt_device *device, uint32_t wanted, bool relaxed, uint8_t *modes_out, bool *trusting_out,
                         char reason_out[RT_EDGE_REASON_SIZE], rt_detail *detail)
{
    const rt_edge_promises promises = {.orders_writes = device->limits.orders_writes,
                                       .orders_bytes_within_a_write = device->limits.orders_bytes_within_a_write,
                                       .places_words_whole = device->limits.places_words_whole,
                                       .carries_immediate = device->limits.carries_immediate,
                                       .relaxed_payload = relaxed,
                                       .order_reason = device->order_reason};
    uint32_t modes = 0;
    int status = rt_edge_mode_offer(&promises, wanted, &modes, trusting_out, reason_out, detail);
    *modes_out = (uint8_t)modes;
    return status;
}

static int edge_new(rt_device *device, const rt_edge_options *options, bool sender, bool relaxed, rt_edge **edge_out,
                    uint64_t *size_out, rt_detail *detail)
{
    int status = edge_options_check(device, options, sender, detail);
    if (status != RT_OK)
        return status;
    rt_edge *edge = calloc(1, sizeof *edge);
    if (edge == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for an edge");
    edge->device = device;
    edge->sender = sender;
    edge->qp = options->qp;
    edge->staging_wanted = options->staging != 0;
    rt_list_init(&edge->node);
    rt_list_init(&edge->work_node);
    rt_list_init(&edge->ask_node);
    rt_list_init(&edge->call_node);
    rt_turn_rank(&edge->turn, RT_RANK_EDGE);
    atomic_init(&edge->references, 1);
    memcpy(edge->name, options->name, strlen(options->name));
    edge->terms = (rt_edge_terms){.edge_kind = (uint8_t)options->kind,
                                  .flow = (uint8_t)options->flow,
                                  .verify = options->verify != 0,
                                  .loop_check = options->loop_check != 0,
                                  .stripes = (uint8_t)(options->stripes == 0 ? 1 : options->stripes),
                                  .slots = (uint8_t)options->slots,
                                  .alignment_log = log_of(options->alignment),
                                  .eager_size = (uint32_t)((options->eager_size + 63) & ~(uint64_t)63)};
    status = shape_take(options, &edge->terms.shape, size_out, detail);
    if (status == RT_OK)
        status = ordering_take(device, options->ordering, relaxed, &edge->terms.modes, &edge->trusting, edge->ordering, detail);
    if (status != RT_OK) {
        free(edge);
        return status;
    }
    rt_device_reference(device);
    *edge_out = edge;
    return RT_OK;
}

/* Takes the slots, for the largest layout that may be agreed, where they come from no pool: the
 * pools are those of the channel that opens the edge, so everything else is taken then. A
 * registration made here gets a peer when the edge does, and never another. Only payload lies in it,
 * so where every tensor ends with a completion, which no bus places before what came earlier, its
 * bytes may arrive in any order. */
static int edge_furnish(rt_edge *edge, uint64_t size, rt_region *region, rt_detail *detail)
{
    rt_edge_layout layout;
    bool tail = (edge->terms.modes & 1u << RT_EDGE_TAIL) != 0;
    uint64_t alignment = 1ull << edge->terms.alignment_log;
    if (edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        size = rt_edge_record_slot_size(edge->terms.eager_size);
        edge->got = calloc(edge->terms.slots, sizeof *edge->got);
        if (edge->got == NULL)
            return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the records of an edge");
    }
    int status = rt_edge_lay_out(size, edge->terms.slots, 1, alignment, tail, &layout, detail);
    if (status == RT_OK && region != NULL)
        status = rt_pool_take_from(region, layout.payload_span, alignment, &edge->slots, detail);
    else if (status == RT_OK && layout.payload_span >= RT_POOL_OWN_SIZE_MIN)
        status = rt_pool_take_own(edge->device, RT_POOL_WRITTEN, edge->terms.modes == 1u << RT_EDGE_IMMEDIATE,
                                  layout.payload_span, alignment, &edge->slots, detail);
    return status;
}

/* Makes the edge known under its name. */
static int edge_list(rt_edge *edge, rt_detail *detail)
{
    rt_device *device = edge->device;
    int status = rt_device_lock_patiently(device, detail);
    if (status != RT_OK)
        return status;
    if (rt_edge_of_name(device, edge->name) != NULL)
        status = rt_fail(detail, RT_E_EXISTS, 0, "this device has an edge \"%s\" already: close it first, or choose another name",
                         edge->name);
    else if (!rt_table_add(&device->edges, &edge->name_node, rt_hash_text(edge->name)))
        status = rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the name of an edge");
    if (status == RT_OK)
        rt_edges_changed(device);
    pthread_mutex_unlock(&device->lock);
    if (status == RT_OK)
        rt_service_kick(device);
    return status;
}

int rt_edge_create(rt_device *device, const rt_edge_options *options, rt_region *region, rt_edge **edge_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    if (region != NULL && region->device != device)
        return rt_fail(detail, region->device == NULL ? RT_E_CLOSED : RT_E_INVALID, 0,
                       "the region for the slots of edge \"%s\" %s", options->name == NULL ? "" : options->name,
                       region->device == NULL ? "was closed" : "belongs to another device");
    if (region != NULL && ((region->rights & RT_RIGHT_REMOTE_WRITE) == 0 || (region->rights & RT_RIGHT_PER_PEER_KEYS) != 0))
        return rt_fail(detail, RT_E_ACCESS, 0,
                       "the region for the slots of edge \"%s\" must be one that peers may write to (REMOTE_WRITE, without "
                       "PER_PEER_KEYS)",
                       options->name == NULL ? "" : options->name);
    rt_edge *edge;
    uint64_t size;
    bool relaxed = region != NULL && (region->rights & RT_RIGHT_RELAXED_ORDER) != 0;
    int status = edge_new(device, options, false, relaxed, &edge, &size, detail);
    if (status != RT_OK)
        return status;
    status = edge_furnish(edge, size, region, detail);
    if (status == RT_OK)
        status = edge_list(edge, detail);
    if (status != RT_OK) {
        rt_edge_unreference(edge);
        return status;
    }
    *edge_out = edge;
    return RT_OK;
}

static int handle_encode(rt_region *region, uint64_t offset, uint64_t size, rt_edge_bytes *handle_out, rt_detail *detail)
{
    size_t encoded = 0;
    int status = rt_region_handle(region, offset, size, handle_out->bytes, &encoded, detail);
    handle_out->size = (uint8_t)encoded;
    return status;
}

/* Takes the memory that OPEN_EDGE names: the credit line, and on a dynamic edge its first
 * registration. */
static int memory_name(rt_edge *edge, rt_edge_message *message, rt_detail *detail)
{
    bool registered = false;
    int status = RT_OK;
    if (edge->terms.flow == RT_EDGE_FLOW_CREDIT) {
        status = rt_edge_take(edge->channel, RT_POOL_WRITTEN, RT_EDGE_LINE_SIZE, RT_EDGE_LINE_SIZE, &edge->credit_line,
                              &registered, detail);
        if (status == RT_OK)
            status =
                handle_encode(edge->credit_line.region, edge->credit_line.offset, RT_EDGE_LINE_SIZE, &message->credit, detail);
    }
    if (status == RT_OK && edge->terms.edge_kind == RT_EDGE_DYNAMIC) {
        status =
            rt_edge_take(edge->channel, RT_POOL_READ, RT_EDGE_LINE_SIZE, RT_EDGE_LINE_SIZE, &edge->slots, &registered, detail);
        if (status == RT_OK)
            status = handle_encode(edge->slots.region, 0, edge->slots.region->size, &message->tensors, detail);
    }
    return status;
}

static int edge_ask(rt_edge *edge, rt_edge_message *message, rt_detail *detail)
{
    rt_channel *channel = edge->channel;
    int status = rt_device_lock_patiently(channel->device, detail);
    if (status != RT_OK)
        return status;
    if (rt_channel_state(channel) != RT_CHANNEL_READY || channel->rpc == NULL) {
        status = rt_channel_refuse(channel, detail);
    } else {
        rt_edge_list(edge);
        status = rt_edge_ask(edge, message);
    }
    pthread_mutex_unlock(&channel->device->lock);
    rt_service_kick(channel->device);
    return status;
}

int rt_edge_open(rt_channel *channel, const rt_edge_options *options, int64_t wait_ns, rt_edge **edge_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    if (options->qp >= 0 && (uint32_t)options->qp >= channel->link_count)
        return rt_fail(detail, RT_E_INVALID, 0, "there is no qp %d: the channel has qps 0 to %u", options->qp,
                       channel->link_count - 1);
    rt_edge *edge;
    uint64_t size;
    int status = edge_new(channel->device, options, true, false, &edge, &size, detail);
    if (status != RT_OK)
        return status;
    edge->channel = channel;
    rt_channel_reference(channel);
    if (options->qp >= 0) /* the receiver derives the qps of immediates from the edge's number */
        edge->terms.modes &= (uint8_t) ~(1u << RT_EDGE_IMMEDIATE);
    if (edge->terms.modes == 0) {
        rt_edge_unreference(edge);
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "edge \"%s\" on a qp of your choice and with ordering=\"immediate\": leave one of the two to the library",
                       options->name);
    }
    if (edge->terms.stripes > channel->link_count)
        edge->terms.stripes = (uint8_t)channel->link_count;
    rt_edge_message message = {.kind = RT_EDGE_OPEN_EDGE,
                               .edge_kind = edge->terms.edge_kind,
                               .flow = edge->terms.flow,
                               .verify = edge->terms.verify,
                               .stripes = edge->terms.stripes,
                               .modes = edge->terms.modes,
                               .shape = edge->terms.shape,
                               .name_size = (uint8_t)strlen(edge->name),
                               .wait_ms = rt_ms_of_wait(wait_ns)};
    memcpy(message.name, edge->name, message.name_size);
    status = memory_name(edge, &message, detail);
    if (status == RT_OK)
        status = edge_ask(edge, &message, detail);
    if (status != RT_OK) {
        rt_edge_unreference(edge);
        return status;
    }
    *edge_out = edge;
    return RT_OK;
}
