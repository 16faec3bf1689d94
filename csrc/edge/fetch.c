/* fetch.c: tensors of dynamic edges at the receiver: the record is copied out of its slot and
 * checked, and the tensor is used in the slot, read in place at the sender, or fetched by READ
 * (EDGES.md section 7). */
#include <string.h>

#include "channel/link.h"
#include "channel/remote.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "edge/edge.h"
#include "edge/fetch.h"
#include "edge/post.h"
#include "edge/slot.h"
#include "proto/crc32c.h"
#include "region/region.h"

enum { FETCH_STRIPED_MIN = 1 << 20 }; /* from this size on several QPs share a READ, where there are several */

static rt_edge_got *got_of(rt_edge *edge, uint64_t sequence)
{
    return &edge->got[sequence % edge->rx.slots];
}

static int payload_check(const rt_edge_record *record, const uint8_t *bytes, rt_detail *detail)
{
    if (!record->verified)
        return RT_OK;
    uint32_t crc = rt_edge_crc(rt_crc32c(0, bytes, record->size), record->sequence);
    return rt_edge_note_check(rt_edge_note(record->sequence, record->payload_crc), record->sequence, crc, detail);
}

/* Ends the edge for a malformed record, with which the sender broke the rules. */
static int record_refuse(rt_edge *edge, int status)
{
    rt_edge_receiver_end(&edge->rx, status);
    return status;
}

int rt_edge_take_record(rt_edge *edge, uint64_t sequence, rt_edge_arrival *arrival_out, rt_detail *detail)
{
    rt_edge_got *got = got_of(edge, sequence);
    const uint8_t *slot = rt_edge_slot_address(edge, rt_edge_slot(&edge->wiring.layout, sequence));
    uint8_t bytes[RT_EDGE_RECORD_SIZE]; /* a copy: in the slot, the peer could change the bytes after they were checked */
    memcpy(bytes, slot + rt_edge_record_offset(edge->eager_size), sizeof bytes);
    const rt_edge_expected expected = {.dtype = edge->terms.shape.dtype,
                                       .rank = edge->terms.shape.rank,
                                       .verify = edge->verify,
                                       .sequence = sequence,
                                       .eager_size = edge->eager_size,
                                       .key_count = edge->key_numbers.count,
                                       .key_sizes = edge->key_sizes};
    int status = rt_edge_record_decode(bytes, &expected, &got->record, detail);
    if (status != RT_OK)
        return status == RT_E_CORRUPT ? status : record_refuse(edge, status);
    const uint8_t *eager = slot + rt_edge_eager_offset(edge->eager_size, got->record.eager ? got->record.size : 0);
    if (got->record.eager)
        status = payload_check(&got->record, eager, detail);
    if (status == RT_OK && got->record.eager)
        status = rt_edge_receiver_event(&edge->rx, sequence, RT_SLOT_USE);
    if (status != RT_OK)
        return status;
    got->decoded = true;
    got->fetching = got->borrowed = false;
    edge->stats.eager += got->record.eager;
    arrival_out->size = got->record.size;
    arrival_out->address = got->record.eager ? (uint64_t)(uintptr_t)eager : 0;
    arrival_out->dtype = got->record.shape.dtype;
    arrival_out->rank = got->record.shape.rank;
    memcpy(arrival_out->dims, got->record.shape.dims, sizeof arrival_out->dims);
    return RT_OK;
}

/* ---- READ ---- */

typedef struct fetching {
    rt_edge *edge;
    uint64_t sequence;
    rt_region *region;
    uint64_t offset;
    int64_t end_ns;
} fetching;

/* RT_OK: the tensor waits at the sender, and this thread may fetch it. After the close only READs
 * that were posted before it go on: the sender learns of the close when they have ended, and may
 * change its tensors then. edge->turn held. */
static int fetch_check(rt_edge *edge, uint64_t sequence)
{
    if (edge->terms.edge_kind != RT_EDGE_DYNAMIC || sequence == 0)
        return RT_E_INVALID;
    const rt_edge_got *got = got_of(edge, sequence);
    if (!got->decoded || got->record.sequence != sequence || got->record.eager)
        return RT_E_INVALID;
    return edge->close_wanted && !got->fetching ? RT_E_CLOSED : RT_OK;
}

/* Posts the READs, over several QPs when the tensor is large. edge->turn held. */
static int fetch_begin(const fetching *fetch)
{
    rt_edge *edge = fetch->edge;
    rt_edge_got *got = got_of(edge, fetch->sequence);
    uint64_t size = got->record.size, links = edge->channel->link_count;
    if (fetch->offset > fetch->region->size || size > fetch->region->size - fetch->offset)
        return RT_E_BOUNDS;
    if (fetch->region->memory == NULL)
        return RT_E_CLOSED;
    links = size < FETCH_STRIPED_MIN ? 1 : links < RT_EDGE_STRIPES_MAX ? links : RT_EDGE_STRIPES_MAX;
    uint64_t part = (size / links + RT_EDGE_LINE_SIZE) & ~(uint64_t)(RT_EDGE_LINE_SIZE - 1);
    if (rt_edge_receiver_event(&edge->rx, fetch->sequence, RT_SLOT_FETCH) != RT_OK)
        return RT_E_INVALID;
    got->fetching = true;
    got->failed = RT_OK;
    got->unposted = 0;
    got->op_count = 0;
    for (uint64_t from = 0; from < size; from += part) {
        uint32_t index = got->op_count++;
        got->copies[index] = (rt_piece){.region = fetch->region,
                                        .region_offset = fetch->offset + from,
                                        .remote = edge->remotes[got->record.key],
                                        .remote_offset = got->record.offset + from,
                                        .size = size - from < part ? size - from : part,
                                        .direction = RT_READ};
        got->unposted |= 1u << index;
    }
    return RT_OK;
}

int rt_edge_fetched(const rt_edge *edge, rt_edge_got *got)
{
    bool pending = false;
    for (uint32_t index = 0; index < RT_EDGE_STRIPES_MAX; index++) {
        int ended = rt_edge_collect(edge->channel, &got->ops[index], 1);
        pending = pending || ended == RT_E_AGAIN;
        if (ended != RT_OK && ended != RT_E_AGAIN && got->failed == RT_OK)
            got->failed = ended;
    }
    return pending ? RT_E_AGAIN : got->failed;
}

/* Posts the parts that are not posted yet, and collects those that have ended. edge->turn held. */
static int fetch_move(const fetching *fetch)
{
    rt_edge *edge = fetch->edge;
    rt_edge_got *got = got_of(edge, fetch->sequence);
    uint32_t first = edge->links[0]->index;
    if (edge->close_wanted && got->unposted != 0) {
        got->unposted = 0;
        got->failed = RT_E_CLOSED;
    }
    for (uint32_t index = 0; index < got->op_count; index++) {
        if ((got->unposted & 1u << index) == 0)
            continue;
        rt_link *link = &edge->channel->links[(first + index) % edge->channel->link_count];
        int status = rt_edge_post(link, &got->copies[index], 1, fetch->end_ns, &got->ops[index]);
        if (status != RT_OK)
            return status == RT_E_BUSY ? RT_E_AGAIN : status;
        got->unposted &= ~(1u << index);
    }
    return rt_edge_fetched(edge, got);
}

/* The READ has ended well: its bytes are valid now (RDMA-RULES 9), and the sender may reuse its
 * tensor. edge->turn held. */
static int fetch_end(const fetching *fetch, rt_detail *detail)
{
    rt_edge *edge = fetch->edge;
    rt_edge_got *got = got_of(edge, fetch->sequence);
    int status = payload_check(&got->record, fetch->region->address + fetch->offset, detail);
    rt_edge_receiver_event(&edge->rx, fetch->sequence, RT_SLOT_FETCHED);
    edge->stats.fetched++;
    edge->stats.corrupt += status == RT_E_CORRUPT;
    rt_edge_release_held(edge, fetch->sequence, NULL);
    return status;
}

static int fetch_look(void *object)
{
    const fetching *fetch = object;
    rt_edge *edge = fetch->edge;
    rt_detail detail = {.status = RT_OK};
    rt_turn_take(&edge->turn);
    int status = fetch_check(edge, fetch->sequence);
    if (status == RT_OK && !got_of(edge, fetch->sequence)->fetching)
        status = fetch_begin(fetch);
    if (status == RT_OK)
        status = fetch_move(fetch);
    if (status == RT_OK)
        status = fetch_end(fetch, &detail);
    if (status == RT_E_CORRUPT)
        rt_edge_fail(edge, &detail);
    bool owed = edge->credit_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status;
}

/* Sets the destination of the caller as region and offset. */
static int fetch_prepare(fetching *fetch, rt_region *region, uint64_t offset)
{
    const rt_device *device = fetch->edge->device;
    if (rt_forked())
        return RT_E_FORKED;
    if (fetch->edge->sender || !rt_edge_joined(fetch->edge))
        return RT_E_INVALID;
    if (region != NULL && region->device != device)
        return region->device == NULL ? RT_E_CLOSED : RT_E_INVALID;
    if (region == NULL && !device->limits.local_anywhere)
        return RT_E_UNSUPPORTED;
    fetch->region = region != NULL ? region : device->anywhere;
    fetch->offset = region != NULL ? offset : offset - (uint64_t)(uintptr_t)fetch->region->address;
    return RT_OK;
}

int rt_edge_fetch(rt_edge *edge, uint64_t sequence, rt_region *region, uint64_t region_offset, int64_t timeout_ns)
{
    fetching fetch = {.edge = edge, .sequence = sequence};
    int status = fetch_prepare(&fetch, region, region_offset);
    if (status != RT_OK)
        return status;
    fetch.end_ns = rt_device_slice_end(edge->device, timeout_ns);
    return rt_wait_memory(edge->device, fetch_look, &fetch, fetch.end_ns);
}

typedef struct fetching_many {
    rt_edge_fetching *fetches;
    uint64_t count, pending, first; /* fetches before `first` have ended */
    int64_t end_ns;
} fetching_many;

/* Begins the fetches that have not begun, and moves all on. */
static int fetches_look(void *object)
{
    fetching_many *many = object;
    many->pending = 0;
    for (uint64_t index = many->first; index < many->count; index++) {
        rt_edge_fetching *item = &many->fetches[index];
        if (item->status != RT_E_AGAIN)
            continue;
        fetching fetch = {.edge = (rt_edge *)(uintptr_t)item->edge, .sequence = item->sequence, .end_ns = many->end_ns};
        int status = fetch_prepare(&fetch, (rt_region *)(uintptr_t)item->region, item->offset);
        item->status = status == RT_OK ? fetch_look(&fetch) : status;
        if (item->status == RT_E_AGAIN && many->pending++ == 0)
            many->first = index;
    }
    return many->pending == 0 ? RT_OK : RT_E_AGAIN;
}

uint64_t rt_edges_fetch_many(rt_edge_fetching *fetches, uint64_t count, int64_t timeout_ns)
{
    for (uint64_t index = 0; index < count && rt_forked(); index++)
        fetches[index].status = RT_E_FORKED;
    if (count == 0 || rt_forked())
        return 0;
    rt_device *device = ((rt_edge *)(uintptr_t)fetches[0].edge)->device;
    fetching_many many = {.fetches = fetches, .count = count, .end_ns = rt_device_slice_end(device, timeout_ns)};
    if (fetches_look(&many) == RT_E_AGAIN)
        (void)rt_wait_memory(device, fetches_look, &many, many.end_ns);
    return many.pending;
}

int rt_edge_borrow_held(rt_edge *edge, uint64_t sequence, uint64_t *address_out, rt_detail *detail)
{
    int status = edge->close_wanted ? RT_E_CLOSED : fetch_check(edge, sequence);
    if (status != RT_OK)
        return status;
    rt_edge_got *got = got_of(edge, sequence);
    uint64_t start = rt_remote_address(edge->remotes[got->record.key]);
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)(start + got->record.offset);
    status = start == 0 ? RT_E_UNSUPPORTED : payload_check(&got->record, bytes, detail);
    if (status == RT_OK)
        status = rt_edge_receiver_event(&edge->rx, sequence, RT_SLOT_USE);
    if (status == RT_OK) {
        *address_out = (uint64_t)(uintptr_t)bytes;
        edge->stats.borrowed++;
        edge->borrowed++;
        got->borrowed = true;
    } else if (status == RT_E_CORRUPT) {
        edge->stats.corrupt++;
        rt_edge_fail(edge, detail);
        rt_edge_release_held(edge, sequence, NULL);
    }
    return status;
}

int rt_edge_borrow(rt_edge *edge, uint64_t sequence, uint64_t *address_out)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (edge->sender || !rt_edge_joined(edge))
        return RT_E_INVALID;
    rt_detail detail = {.status = RT_OK};
    rt_turn_take(&edge->turn);
    int status = rt_edge_borrow_held(edge, sequence, address_out, &detail);
    bool owed = status == RT_E_CORRUPT && edge->credit_owed;
    rt_turn_leave(&edge->turn);
    if (owed)
        rt_service_kick(edge->device);
    return status;
}

bool rt_edge_may_hand_over(const rt_edge *edge, uint64_t sequence, bool borrow)
{
    const uint8_t *slot = rt_edge_slot_address(edge, rt_edge_slot(&edge->wiring.layout, sequence));
    bool eager = rt_edge_record_looks_eager(slot + rt_edge_record_offset(edge->eager_size));
    return eager || (borrow && edge->device->limits.maps_remote);
}

rt_remote *rt_edge_borrowed(rt_edge *edge, uint64_t sequence)
{
    rt_remote *remote = NULL;
    if (rt_forked() || edge->sender || edge->terms.edge_kind != RT_EDGE_DYNAMIC || !rt_edge_joined(edge))
        return NULL;
    rt_turn_take(&edge->turn);
    const rt_edge_got *got = got_of(edge, sequence);
    if (got->borrowed && got->record.sequence == sequence) {
        remote = edge->remotes[got->record.key];
        rt_remote_reference(remote);
    }
    rt_turn_leave(&edge->turn);
    return remote;
}
