/* hostile.h: a peer that passed authentication and then does anything: what it does is the table `acts` at the end. A new kind of peer (a
 * member of a team) is another row there, and its own objects in session_begin of test_hostile.c.
 *
 * A program with it is linked with --wrap=rt_edges_received and --wrap=rt_lookup_answered: the victim's answers to what the peer made
 * up must not end the peer's own channel. */
#ifndef RT_TESTS_HOSTILE_H
#define RT_TESTS_HOSTILE_H

#include "edge_ends.h"
#include "proto/dtype.h"
#include "proto/handle.h"
#include "proto/rpc_message.h"

enum {
    LOOT_MAX = 32,
    KINDS = 4, /* of edges: hostile to victim static, dynamic; victim to hostile static, dynamic */
    BAITS = 3, /* edges at the victim that wait for a sender */
    RAW_REQUEST = 0x4000,
    SIZE = 600,
    PART = 1 << 20, /* of the honest regions: sent from the first, fetched into the second */

};

typedef struct loot {
    size_t size;
    uint8_t bytes[RT_HANDLE_SIZE_MAX];
} loot;

typedef struct scene {
    edge_ends ends;                    /* near is honest, far is the victim */
    rt_edge *sent[KINDS], *got[KINDS]; /* honest edges: near to far static, dynamic; far to near static, dynamic */
    uint32_t rounds[KINDS];
    rt_device *device; /* the hostile peer's, … */
    rt_region *source; /* … what it writes from, … */
    rt_channel *channel, *accepted;
    rt_edge *ours[KINDS], *theirs[KINDS], *baits[BAITS]; /* … and its edges, at its own end and at the victim's */
    uint64_t fetching[KINDS];                            /* at the victim: a tensor that is being fetched */
    uint32_t session;
    uint64_t random;
    uint64_t done, broken; /* honest tensors; calls of the victim that found a rule broken */
} scene;

/* Keys and places that the victim told the hostile peer. The peer's device->lock. */
static loot looted[LOOT_MAX];
static uint32_t loot_count;
static _Atomic(rt_device *) hostile_device;

/* ---- chance ---- */

static uint64_t chance(scene *self, uint64_t below)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random % below;
}

static void fill(scene *self, uint8_t *bytes, size_t size)
{
    for (size_t index = 0; index < size; index++)
        bytes[index] = (uint8_t)(chance(self, 3) == 0 ? 0 : chance(self, 256));
}

/* A word that a flag, a credit or a length might be, or might just not. */
static uint64_t word(scene *self)
{
    static const uint64_t words[] =
        {0, 1, 2, 3, 64, 127, 128, 256, 4096, 1u << 31, UINT32_MAX - 1, UINT32_MAX, INT64_MAX, UINT64_MAX - 1, UINT64_MAX};
    return chance(self, 2) == 0 ? chance(self, 40) : words[chance(self, sizeof words / sizeof words[0])];
}

/* ---- what the hostile peer hears ---- */

int __real_rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail);
int __wrap_rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail);
int __real_rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail);
int __wrap_rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail);

static void keep(const rt_edge_bytes *handle)
{
    if (handle->size == 0)
        return;
    loot *place = &looted[loot_count++ % LOOT_MAX];
    place->size = handle->size;
    memcpy(place->bytes, handle->bytes, handle->size);
}

int __wrap_rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail)
{
    rt_edge_message message;
    if (channel->device != atomic_load(&hostile_device) || rt_edge_message_decode(bytes, size, &message, NULL) != RT_OK)
        return __real_rt_edges_received(channel, bytes, size, detail);
    keep(&message.slots_handle);
    keep(&message.flags_handle);
    keep(&message.credit);
    keep(&message.tensors);
    bool asked = message.kind == RT_EDGE_OPEN_EDGE || message.kind == RT_EDGE_ADD_KEY || message.kind == RT_EDGE_CLOSE_EDGE;
    return !asked && message.request >= RAW_REQUEST ? RT_OK : __real_rt_edges_received(channel, bytes, size, detail);
}

int __wrap_rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail)
{
    bool raw = channel->device == atomic_load(&hostile_device) && message->request >= RAW_REQUEST;
    return raw ? RT_OK : __real_rt_lookup_answered(channel, message, detail);
}

/* ---- what it does ---- */

static void say(scene *self, const uint8_t *bytes, size_t size)
{
    pthread_mutex_lock(&self->device->lock);
    if (rt_channel_state(self->channel) == RT_CHANNEL_READY && self->channel->rpc != NULL)
        rt_rpc_send(self->channel, bytes, size);
    pthread_mutex_unlock(&self->device->lock);
}

static loot any_loot(scene *self)
{
    loot found = {0};
    pthread_mutex_lock(&self->device->lock);
    if (loot_count != 0)
        found = looted[chance(self, loot_count < LOOT_MAX ? loot_count : LOOT_MAX)];
    pthread_mutex_unlock(&self->device->lock);
    return found;
}

/* The whole registration that a handle is of, as if the victim had given all of it, and rights that it did not give. */
static rt_remote *forge(scene *self)
{
    loot found = any_loot(self);
    rt_handle handle;
    rt_remote *remote = NULL;
    uint8_t bytes[RT_HANDLE_SIZE_MAX];
    if (found.size == 0 || rt_handle_decode(found.bytes, found.size, &handle, NULL) != RT_OK)
        return NULL;
    handle.offset = 0;
    handle.size = handle.registration_size;
    if (chance(self, 16) == 0)
        handle.rights = RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ;
    int64_t size = rt_handle_encode(&handle, bytes, sizeof bytes);
    if (size > 0)
        rt_remote_attach(self->channel, bytes, (size_t)size, 20 * RT_NS_PER_MS, &remote, &self->ends.detail);
    return remote;
}

static void write_at(scene *self, rt_remote *remote, uint64_t offset, uint64_t size)
{
    int64_t number = rt_channel_copy(self->channel, -1, RT_WRITE, remote, offset, self->source, 0, size, RT_SLICE_NS);
    core_finish(self->channel, number, &self->ends.detail);
}

static void act_writes_anywhere(scene *self)
{
    rt_remote *remote = forge(self);
    if (remote == NULL)
        return;
    for (uint32_t times = 0; times < 4; times++) {
        uint64_t size = 1 + chance(self, chance(self, 4) == 0 ? 65536 : 512), most = rt_remote_size(remote);
        size = size < most ? size : most;
        fill(self, (uint8_t *)(uintptr_t)rt_region_address(self->source), size);
        write_at(self, remote, chance(self, most - size + 1), size);
    }
    rt_remote_drop(remote);
}

static void act_writes_words(scene *self)
{
    rt_remote *remote = forge(self);
    if (remote == NULL)
        return;
    for (uint32_t times = 0; times < 16; times++) {
        uint64_t value = word(self), places = rt_remote_size(remote) / sizeof value;
        uint64_t place = chance(self, 2) == 0 ? chance(self, places) : chance(self, places < 512 ? places : 512);
        memcpy((void *)(uintptr_t)rt_region_address(self->source), &value, sizeof value);
        write_at(self, remote, place * sizeof value, sizeof value);
    }
    rt_remote_drop(remote);
}

/* A record with a CRC that fits and fields that do not, and the flag that makes it count. */
static void act_makes_a_record(scene *self)
{
    rt_edge *edge = self->ours[1];
    if (edge == NULL || !rt_edge_joined(edge) || edge->slots_remote == NULL)
        return;
    uint64_t sequence = edge->tx.sent + 1, at = rt_edge_record_offset(edge->eager_size), size = 1 + chance(self, 64);
    rt_edge_record record = {.sequence = sequence,
                             .size = size,
                             .offset = word(self),
                             .key = (uint32_t)chance(self, 3),
                             .verified = true};
    record.shape = (rt_tensor_shape){.dtype = RT_DTYPE_UINT8, .rank = 1, .dims = {size}};
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(self->source);
    if (rt_edge_record_encode(&record, bytes, NULL) != RT_OK)
        return;
    if (chance(self, 2) == 0) {
        enum { CRC_AT = 40 };
        for (uint64_t changes = 1 + chance(self, 3); changes > 0; changes--)
            bytes[chance(self, RT_EDGE_RECORD_SIZE)] = (uint8_t)word(self);
        uint32_t crc = rt_crc32c(rt_crc32c(0, bytes, CRC_AT), bytes + CRC_AT + 4, RT_EDGE_RECORD_SIZE - CRC_AT - 4);
        memcpy(bytes + CRC_AT, &crc, sizeof crc);
    }
    const rt_edge_layout *layout = &edge->wiring.layout;
    uint32_t slot = rt_edge_slot(layout, sequence);
    write_at(self, edge->slots_remote, rt_edge_slot_offset(layout, slot) + at, RT_EDGE_RECORD_SIZE);
    memcpy(bytes, &sequence, sizeof sequence);
    rt_remote *lines = edge->lines_remote != NULL ? edge->lines_remote : edge->slots_remote;
    write_at(self, lines, rt_edge_line_offset(layout, slot, 0) + RT_EDGE_LINE_FLAG, sizeof sequence);
}

static rt_edge_bytes any_handle(scene *self)
{
    loot found = any_loot(self);
    rt_edge_bytes handle = {.size = (uint8_t)found.size};
    memcpy(handle.bytes, found.bytes, found.size);
    if (chance(self, 4) == 0 && handle.size != 0)
        handle.bytes[chance(self, handle.size)] ^= (uint8_t)(1 + chance(self, 255));
    return handle;
}

static void act_sends_a_message(scene *self)
{
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    rt_edge_message message = {.kind = (uint8_t)(RT_EDGE_OPEN_EDGE + chance(self, 7)),
                               .request = (uint16_t)(RAW_REQUEST + chance(self, RAW_REQUEST)),
                               .edge_kind = (uint8_t)(RT_EDGE_STATIC + chance(self, 2)),
                               .flow = (uint8_t)(RT_EDGE_FLOW_CREDIT + chance(self, 2)),
                               .verify = (uint8_t)chance(self, 2),
                               .stripes = (uint8_t)(1 + chance(self, 4)),
                               .modes = (uint8_t)(2 * (1 + chance(self, 7))),
                               .wait_ms = (uint32_t)chance(self, 3),
                               .slots = (uint8_t)(1 + chance(self, 128)),
                               .alignment_log = (uint8_t)(6 + chance(self, 16)),
                               .eager_size = (uint32_t)(64 * chance(self, 1025)),
                               .number = (uint16_t)(1 + chance(self, 8)),
                               .refusal = (uint8_t)(1 + chance(self, 8)),
                               .by_sender = (uint8_t)chance(self, 2),
                               .final = word(self),
                               .key = (uint16_t)chance(self, 65)};
    const uint64_t size = chance(self, 2) == 0 ? SIZE : word(self);
    message.shape = (rt_tensor_shape){.dtype = RT_DTYPE_UINT8, .rank = 1, .dims = {size}};
    message.name_size =
        (uint8_t)snprintf(message.name, sizeof message.name, chance(self, 2) == 0 ? "bait %u %u" : "honest %.0u%u", self->session,
                          (unsigned)chance(self, 4));
    message.credit = message.flow == RT_EDGE_FLOW_CREDIT ? any_handle(self) : message.credit;
    message.tensors = any_handle(self);
    message.slots_handle = any_handle(self);
    message.flags_handle = any_handle(self);
    if (chance(self, 3) == 0)
        message.request = (uint16_t)chance(self, 8); /* of one that the victim may wait for */
    int64_t encoded = rt_edge_message_encode(&message, bytes, sizeof bytes);
    if (encoded <= 0)
        return;
    size_t sent = (size_t)encoded < RT_RPC_MESSAGE_MAX ? (size_t)encoded : RT_RPC_MESSAGE_MAX;
    if (chance(self, 8) == 0)
        bytes[chance(self, sent)] ^= (uint8_t)(1u << chance(self, 8));
    say(self, bytes, sent);
}

static void act_sends_bytes(scene *self)
{
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    size_t size = 1 + chance(self, sizeof bytes);
    fill(self, bytes, size);
    bytes[0] = (uint8_t)chance(self, 12);
    say(self, bytes, size);
}

static void act_looks_names_up(scene *self)
{
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    rt_rpc_message message = {.kind = RT_RPC_LOOKUP, .request = (uint16_t)(RAW_REQUEST + chance(self, 64))};
    message.wait_ms = (uint32_t)chance(self, 20);
    message.name_size = (uint8_t)snprintf(message.name, sizeof message.name, "name %u", (unsigned)chance(self, 3));
    int64_t size = rt_rpc_encode(&message, bytes, sizeof bytes);
    if (size > 0)
        say(self, bytes, (size_t)size);
}

static void act_sends_immediates(scene *self)
{
    rt_edge *edge = self->ours[0];
    if (!self->device->limits.carries_immediate || edge == NULL || !rt_edge_joined(edge) || edge->slots_remote == NULL)
        return;
    uint64_t immediate = chance(self, 2) == 0 ? word(self) & UINT32_MAX : (uint64_t)edge->number << 16 | chance(self, 1024);
    const rt_piece piece = {.region = self->source,
                            .remote = edge->slots_remote,
                            .size = 8,
                            .direction = RT_WRITE,
                            .flags = RT_PIECE_IMMEDIATE,
                            .immediate = (uint32_t)immediate};
    int64_t number = 0;
    if (rt_edge_post(edge->links[0], &piece, 1, INT64_MAX, &number) == RT_OK && number != 0)
        core_finish(self->channel, number, &self->ends.detail);
}

/* Acts as a peer that keeps the rules, so that the others meet edges in every state. */
static void act_keeps_the_rules(scene *self)
{
    static uint8_t outside[9000];
    uint32_t kind = (uint32_t)chance(self, KINDS);
    rt_edge *edge = self->ours[kind];
    rt_edge_arrival arrival;
    if (edge == NULL)
        return;
    if (edge->sender) {
        rt_edge_tensor tensor = edge_bytes(outside, kind == 0 ? SIZE : 1 + chance(self, sizeof outside));
        (void)rt_edge_send_tensor(edge, &tensor, RT_NS_PER_MS);
    } else if (rt_edge_receive(edge, RT_NS_PER_MS, &arrival) == RT_OK) {
        if (arrival.address == 0)
            (void)rt_edge_fetch(edge, arrival.sequence, self->source, 0, RT_NS_PER_MS);
        (void)rt_edge_release(edge, arrival.sequence);
    }
}

static void act_leaves(scene *self)
{
    uint32_t kind = (uint32_t)chance(self, 4 * KINDS);
    if (kind < KINDS && self->ours[kind] != NULL)
        rt_edge_close(self->ours[kind]);
    else if (kind == KINDS)
        rt_channel_close(self->channel);
}

static const struct {
    void (*act)(scene *self);
    uint32_t weight;
} acts[] = {
    {act_writes_anywhere, 8},  {act_writes_words, 8},     {act_makes_a_record, 8},
    {act_sends_a_message, 6},  {act_sends_bytes, 1},      {act_looks_names_up, 3},
    {act_sends_immediates, 4}, {act_keeps_the_rules, 16}, {act_leaves, 1},
};

static void misbehave(scene *self)
{
    uint32_t total = 0, index = 0;
    for (uint32_t row = 0; row < sizeof acts / sizeof acts[0]; row++)
        total += acts[row].weight;
    uint64_t at = chance(self, total);
    while (at >= acts[index].weight)
        at -= acts[index++].weight;
    acts[index].act(self);
}

#endif
