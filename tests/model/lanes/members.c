/* members.c: two members with a pair and two lanes, their programs, and the WRITEs under way between them. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lanes.h"
#include "region/region.h"
#include "team/block.h"
#include "team/lane.h"
#include "team/pair.h"
#include "team/team.h"

enum { MEMORY = 16 << 10 };

/* A WRITE under way: its bytes are read at some moment, and placed at a later one. */
typedef struct ln_write {
    const uint8_t *from;
    uint8_t *to, bytes[RT_TEAM_SLOT];
    uint64_t size;
    bool read;
} ln_write;

typedef struct ln_member {
    rt_team team;
    rt_peer peers[2];
    rt_pair pair;
    rt_region block, words, part;
    uint8_t block_bytes[MEMORY], word_bytes[MEMORY], part_bytes[MEMORY];
    ln_write writes[LN_WRITES];
    uint32_t under_way;
    uint8_t sent[2], taken[2];
    const uint8_t *holds[2]; /* a payload that is being used */
} ln_member;

static ln_member members[2];
static const ln_model *model;
static ln_violation violation;

static void complain(ln_violation what)
{
    if (violation == LN_NONE)
        violation = what;
}

static rt_lane *lane_of(uint32_t rank, uint32_t kind)
{
    return &members[rank].peers[1 - rank].lanes[kind];
}

/* ---- WRITEs ---- */

int64_t __wrap_rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                               rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns);
int __wrap_rt_op_posted(rt_channel *channel, int64_t number);
void __wrap_rt_op_release(rt_channel *channel, int64_t number, rt_detail *detail);

static void read_now(ln_write *write)
{
    if (!write->read)
        memcpy(write->bytes, write->from, write->size);
    write->read = true;
}

static void place(ln_member *member, uint32_t index)
{
    ln_write *write = &member->writes[index];
    read_now(write);
    memcpy(write->to, write->bytes, write->size);
    member->under_way--;
    memmove(write, write + 1, (member->under_way - index) * sizeof *write);
}

/* The channel is the member's rank, plus one; a remote is the address of the memory. */
int64_t __wrap_rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                               rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns)
{
    ln_member *member = &members[(uintptr_t)channel - 1];
    (void)qp;
    (void)timeout_ns;
    if (direction == RT_READ) { /* served after all WRITEs before it, which are placed last to first here */
        while (member->under_way > 0)
            place(member, member->under_way - 1);
        return 0;
    }
    uint8_t *to = (uint8_t *)remote + remote_offset;
    const uint8_t *from = region->address + region_offset;
    if (model->maps) {
        memcpy(to, from, size);
        return 0;
    }
    assert(member->under_way < LN_WRITES && size <= RT_TEAM_SLOT);
    member->writes[member->under_way++] = (ln_write){.from = from, .to = to, .size = size};
    return 1;
}

int __wrap_rt_op_posted(rt_channel *channel, int64_t number)
{
    (void)channel;
    (void)number;
    return 1;
}

void __wrap_rt_op_release(rt_channel *channel, int64_t number, rt_detail *detail)
{
    (void)channel;
    (void)number;
    (void)detail;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now_out);

/* A lane that finds no chunk twice has been short of one for long. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *now_out)
{
    static time_t now;
    (void)clock;
    *now_out = (struct timespec){.tv_sec = ++now};
    return 0;
}

/* ---- the members ---- */

static void lane_open(ln_member *member, uint32_t kind)
{
    uint32_t rank = member->team.rank;
    rt_peer *peer = &member->peers[1 - rank];
    rt_lane *lane = &peer->lanes[kind];
    const rt_team_options *options = &member->team.options;
    *lane = (rt_lane){.team = &member->team, .peer = 1 - rank, .kind = (enum rt_lane_kind)kind, .slots = options->slots};
    lane->out = member->block_bytes + rt_block_slots_at(options, kind, false);
    lane->arrived = (const uint64_t *)(const void *)(member->block_bytes + rt_block_word_at(RT_BLOCK_ARRIVED, kind));
    lane->acked = (const uint64_t *)(const void *)(member->block_bytes + rt_block_word_at(RT_BLOCK_ACKED, kind));
    lane->heads = rt_words_lane_at(options, 1 - rank, kind);
    lane->tails = lane->heads + options->slots * sizeof(uint64_t);
    lane->in = model->maps ? members[1 - rank].block_bytes + rt_block_slots_at(options, kind, false)
                           : member->block_bytes + rt_block_slots_at(options, kind, true);
    rt_list_append(&peer->pair->lanes, &lane->in_pair);
}

static void begin_pair(ln_member *member, ln_member *other)
{
    uint64_t records = rt_pair_size(LN_CHUNK, 0, true);
    rt_pair *pair = &member->pair;
    *pair = (rt_pair){.channel = member->peers[1 - member->team.rank].channel,
                      .remote = (rt_remote *)other->part_bytes,
                      .region = &member->part,
                      .maps = model->maps,
                      .chunk = LN_CHUNK,
                      .first = model->chunks,
                      .count = model->chunks,
                      .extents = 1,
                      .failed_to_grow = true};
    rt_list_init(&pair->lanes);
    pair->own[0].bytes = member->part_bytes + records;
    pair->theirs[0].bytes = model->maps ? other->part_bytes + records : pair->own[0].bytes + (uint64_t)LN_CHUNK * model->chunks;
    assert(rt_pair_size(LN_CHUNK, model->chunks, model->maps) <= MEMORY);
}

static void begin_member(uint32_t rank)
{
    ln_member *member = &members[rank], *other = &members[1 - rank];
    rt_peer *peer = &member->peers[1 - rank];
    rt_team *team = &member->team;
    team->options = (rt_team_options){.rank = rank, .size = 2, .chunk = LN_CHUNK, .slots = model->slots};
    team->rank = rank;
    team->size = 2;
    team->maps = model->maps;
    team->fences = model->fences;
    team->words = &member->words;
    team->peers = member->peers;
    member->block.address = member->block_bytes;
    member->words.address = member->word_bytes;
    member->part.address = member->part_bytes;
    assert(rt_team_block_size(&team->options, model->maps) <= MEMORY && rt_team_words_size(&team->options) <= MEMORY);
    peer->channel = (rt_channel *)(uintptr_t)(rank + 1);
    peer->region = &member->block;
    peer->remote = (rt_remote *)other->block_bytes;
    peer->pair = &member->pair;
    begin_pair(member, other);
    for (uint32_t kind = 0; kind < 2; kind++)
        lane_open(member, kind);
}

void members_begin(const ln_model *given)
{
    model = given;
    violation = LN_NONE;
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t kind = 0; kind < 2; kind++)
            rt_lane_free(lane_of(rank, kind));
    }
    memset(members, 0, sizeof members);
    for (uint32_t rank = 0; rank < 2; rank++)
        begin_member(rank);
}

static uint8_t size_of(uint32_t sender, uint32_t kind, uint32_t number)
{
    return number < LN_MESSAGES ? model->sizes[sender][kind][number] : 0;
}

static uint8_t content(uint32_t sender, uint32_t kind, uint32_t number)
{
    return (uint8_t)(1 + sender + 2 * kind + 4 * number);
}

static void send_next(uint32_t rank, uint32_t kind)
{
    ln_member *member = &members[rank];
    uint32_t number = member->sent[kind];
    uint64_t size = size_of(rank, kind, number);
    uint8_t *payload = rt_lane_room(lane_of(rank, kind), size);
    if (payload == NULL)
        return;
    memset(payload, content(rank, kind, number), size);
    rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = size, .number = number};
    if (rt_lane_push(lane_of(rank, kind), &message) != RT_OK)
        complain(LN_BLAMED);
    member->sent[kind]++;
}

/* Whether the payload is that of the next message due. */
static void check(uint32_t rank, uint32_t kind, const uint8_t *payload)
{
    uint32_t number = members[rank].taken[kind];
    const rt_message *message = &lane_of(rank, kind)->message;
    if (message->number != number || message->size != size_of(1 - rank, kind, number))
        return complain(LN_TORN);
    for (uint64_t at = 0; at < message->size; at++) {
        if (payload[at] != content(1 - rank, kind, number))
            return complain(LN_TORN);
    }
}

static void look(uint32_t rank, uint32_t kind)
{
    int status;
    const uint8_t *payload = rt_lane_peek(lane_of(rank, kind), &status);
    if (status != RT_OK)
        complain(LN_BLAMED);
    if (payload == NULL)
        return;
    members[rank].holds[kind] = payload;
    check(rank, kind, payload);
    if (model->mutant == LN_TAKE_FIRST)
        rt_lane_take(lane_of(rank, kind));
}

static void take(uint32_t rank, uint32_t kind)
{
    ln_member *member = &members[rank];
    check(rank, kind, member->holds[kind]);
    member->holds[kind] = NULL;
    member->taken[kind]++;
    if (model->mutant != LN_TAKE_FIRST)
        rt_lane_take(lane_of(rank, kind));
    if (size_of(1 - rank, kind, member->taken[kind]) == 0 && model->mutant != LN_NO_SETTLE)
        rt_lane_settle(lane_of(rank, kind)); /* the call ends */
}

/* ---- the world ---- */

static void offer(search_step *actions, uint32_t *count, uint8_t kind, uint32_t member, uint32_t other)
{
    assert(*count < SEARCH_STEPS_MAX);
    actions[(*count)++] = (search_step){kind, (uint8_t)member, (uint8_t)other};
}

uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX])
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < 2; rank++) {
        const ln_member *member = &members[rank];
        for (uint32_t kind = 0; kind < 2; kind++) {
            if (size_of(rank, kind, member->sent[kind]) != 0)
                offer(actions_out, &count, LN_SEND, rank, kind);
            if (rt_lane_flushes(lane_of(rank, kind)))
                offer(actions_out, &count, LN_FLUSH, rank, kind);
            if (member->holds[kind] != NULL)
                offer(actions_out, &count, LN_TAKE, rank, kind);
            else if (size_of(1 - rank, kind, member->taken[kind]) != 0)
                offer(actions_out, &count, LN_LOOK, rank, kind);
        }
        for (uint32_t index = 0; index < member->under_way && !member->writes[index].read; index++)
            offer(actions_out, &count, LN_READ, rank, index), index = LN_WRITES;
        for (uint32_t index = 0; index < member->under_way && (index == 0 || (model->disorder && index < 3)); index++)
            offer(actions_out, &count, LN_PLACE, rank, index);
    }
    return count;
}

void members_do(search_step action)
{
    ln_member *member = &members[action.first];
    switch (action.kind) {
    case LN_SEND: send_next(action.first, action.second); break;
    case LN_LOOK: look(action.first, action.second); break;
    case LN_TAKE: take(action.first, action.second); break;
    case LN_FLUSH:
        if (rt_lane_flush(lane_of(action.first, action.second)) != RT_OK)
            complain(LN_BLAMED);
        break;
    case LN_READ: read_now(&member->writes[action.second]); break;
    default: place(member, action.second); break;
    }
}

ln_violation members_violation(void)
{
    return violation;
}

ln_violation members_settled(void)
{
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t kind = 0; kind < 2; kind++) {
            if (size_of(rank, kind, members[rank].sent[kind]) != 0 || members[1 - rank].taken[kind] != members[rank].sent[kind])
                return LN_DEADLOCK;
        }
    }
    return LN_NONE;
}

static uint64_t mix_parts(uint64_t hash, const rt_parts *parts)
{
    uint64_t words[] = {parts->size, parts->done, parts->head.number};
    hash = search_mix(hash, words, sizeof words);
    return parts->bytes == NULL ? hash : search_mix(hash, parts->bytes, parts->size > parts->done ? parts->size : parts->done);
}

static uint64_t mix_lane(uint64_t hash, const rt_lane *lane)
{
    uint64_t words[] = {lane->sent,       lane->taken,       lane->told,        lane->untold_chunks,
                        lane->room_place, lane->parts_first, lane->parts_count, lane->short_since_ns != 0};
    hash = search_mix(hash, words, sizeof words);
    for (uint32_t index = 0; index < lane->parts_count; index++)
        hash = mix_parts(hash, &lane->out_parts[(lane->parts_first + index) % RT_LANE_PARTS]);
    hash = mix_parts(hash, &lane->in_parts);
    hash = search_mix(hash, lane->places, sizeof lane->places);
    return search_mix(hash, lane->place_sequences, sizeof lane->place_sequences);
}

uint64_t members_digest(void)
{
    uint64_t hash = 1;
    for (uint32_t rank = 0; rank < 2; rank++) {
        const ln_member *member = &members[rank];
        for (uint32_t kind = 0; kind < 2; kind++)
            hash = mix_lane(hash, lane_of(rank, kind));
        uint64_t words[] = {member->sent[0],          member->sent[1],          member->taken[0], member->taken[1],
                            member->holds[0] != NULL, member->holds[1] != NULL, member->under_way};
        hash = search_mix(hash, words, sizeof words);
        hash = search_mix(hash, member->pair.busy, sizeof member->pair.busy);
        hash = search_mix(hash, member->block_bytes, rt_team_block_size(&member->team.options, model->maps));
        hash = search_mix(hash, member->word_bytes, rt_team_words_size(&member->team.options));
        hash = search_mix(hash, member->part_bytes, rt_pair_size(LN_CHUNK, model->chunks, model->maps));
        for (uint32_t index = 0; index < member->under_way; index++)
            hash = search_mix(hash, &member->writes[index], sizeof member->writes[index]);
    }
    return hash;
}

/* ---- in words ---- */

void members_describe(search_step action, char text_out[SEARCH_TEXT])
{
    const ln_member *member = &members[action.first];
    const char *const verbs[] = {[LN_SEND] = "sends, if there is room,",
                                 [LN_LOOK] = "looks for",
                                 [LN_TAKE] = "takes",
                                 [LN_FLUSH] = "sends parts that are left, before"};
    if (action.kind == LN_READ)
        snprintf(text_out, SEARCH_TEXT, "rank %u: a WRITE under way is read, number %u", action.first, action.second);
    else if (action.kind == LN_PLACE)
        snprintf(text_out, SEARCH_TEXT, "rank %u: a WRITE of %llu bytes is placed, number %u", action.first,
                 (unsigned long long)member->writes[action.second].size, action.second);
    else
        snprintf(text_out, SEARCH_TEXT, "rank %u: %s message %u of lane %u", action.first, verbs[action.kind],
                 action.kind == LN_SEND || action.kind == LN_FLUSH ? member->sent[action.second] : member->taken[action.second],
                 action.second);
}
