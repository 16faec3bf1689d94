/* members.c: members that make the calls of their programs, one after the other, each in a coroutine; and what must hold. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include "calls.h"
#include "proto/dtype.h"
#include "team/direct.h"

enum { STACK = 512 << 10, BLOCK = TC_LARGE / 8 }; /* a block in elements */

enum tc_state { READY, WAITING, DONE };

typedef struct tc_member {
    rt_team team;
    rt_peer peers[TC_MEMBERS];
    rt_direct directs[TC_MEMBERS];
    int64_t input[TC_MEMBERS * BLOCK], output[TC_MEMBERS * BLOCK];
    ucontext_t context;
    enum tc_state state;
    uint8_t call, interrupts, times;
    bool woken, inside; /* inside: its tensors are those of a call that goes on */
    int status[TC_CALLS];
    uint64_t seen_last;         /* the signature when it began to wait */
    uint64_t history;           /* of all that has decided what it does */
    int64_t clock_ns, scribble; /* scribble: what its caller has written over its tensors */
} tc_member;

static tc_member members[TC_MEMBERS];
static uint8_t stacks[TC_MEMBERS][STACK];
static ucontext_t scheduler;
static const tc_model *model;
static tc_violation violation;
static int32_t running = -1;
static bool disturbed; /* a member was interrupted, so calls may fail */

static void complain(tc_violation what)
{
    if (violation == TC_NONE)
        violation = what;
}

/* ---- for wires.c ---- */

int32_t members_running(void)
{
    return running;
}

int32_t members_owner(const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (int32_t rank = 0; rank < model->members; rank++) {
        uintptr_t from = (uintptr_t)members[rank].input, to = (uintptr_t)(members[rank].output + TC_MEMBERS * BLOCK);
        if (at >= from && at < to)
            return rank;
    }
    return -1;
}

static void give_way(enum tc_state state)
{
    tc_member *member = &members[running];
    member->state = state;
    swapcontext(&member->context, &scheduler);
}

void members_saw(const void *bytes, uint64_t size)
{
    members[running].history = search_mix(members[running].history, bytes, size);
}

void members_point(void)
{
    members_saw("point", 5); /* so that no two points are taken for one */
    give_way(READY);
}

int members_wait(void)
{
    tc_member *member = &members[running];
    member->seen_last = wires_signature((uint32_t)running);
    give_way(WAITING);
    bool interrupted = member->interrupts == 1;
    member->interrupts += interrupted;
    member->woken = false;
    return interrupted ? RT_E_INTERRUPTED : RT_OK;
}

int64_t members_time(void)
{
    return RT_NS_PER_S + (running < 0 ? 0 : members[running].clock_ns);
}

/* ---- a member's tensors ---- */

static uint64_t elements_of(const tc_call *call)
{
    return call->bytes / sizeof(int64_t);
}

static int64_t value(uint32_t rank, uint32_t call, uint64_t block, uint64_t index)
{
    return (int64_t)((call + 1) * 64 + rank * 16 + block * 4 + index % 3);
}

static void fill(tc_member *member, uint32_t rank)
{
    const tc_call *call = &model->calls[rank][member->call];
    for (uint64_t block = 0; block < model->members; block++) {
        for (uint64_t index = 0; index < elements_of(call); index++) {
            member->input[block * BLOCK + index] = value(rank, member->call, block, index);
            member->output[block * BLOCK + index] = 0;
        }
    }
    for (uint64_t index = 0; index < elements_of(call) && call->kind == 'b' && call->root == (int8_t)rank; index++)
        member->output[index] = value(rank, member->call, 0, index);
}

/* The value that an element of the member's output must have after the call; false where the output is not touched. */
static bool result(uint32_t rank, uint32_t number, uint64_t block, uint64_t index, int64_t *wanted_out)
{
    const tc_call *call = &model->calls[rank][number];
    int64_t sum = 0;
    for (uint32_t from = 0; from < model->members; from++)
        sum += value(from, number, call->kind == 's' ? rank : 0, index);
    switch (call->kind) {
    case 'a':
    case 's': *wanted_out = sum; return block == 0;
    case 'r': *wanted_out = sum; return block == 0 && call->root == (int8_t)rank;
    case 'g': *wanted_out = value((uint32_t)block, number, 0, index); return true;
    case 'b': *wanted_out = value((uint32_t)call->root, number, 0, index); return block == 0;
    case 'x': *wanted_out = value((uint32_t)block, number, rank, index); return true;
    default: return false;
    }
}

/* Whether the members make the same call here. */
static bool agreed(uint32_t number)
{
    for (uint32_t rank = 1; rank < model->members; rank++) {
        const tc_call *first = &model->calls[0][number], *other = &model->calls[rank][number];
        if (first->kind != other->kind || first->bytes != other->bytes || first->root != other->root)
            return false;
    }
    return true;
}

static void examine(const tc_member *member, uint32_t rank)
{
    const tc_call *call = &model->calls[rank][member->call];
    if (member->status[member->call] != RT_OK) {
        if (!disturbed && !model->alone)
            complain(TC_BLAMED);
        return;
    }
    for (uint64_t block = 0; block < model->members && agreed(member->call); block++) {
        for (uint64_t index = 0; index < elements_of(call); index++) {
            int64_t wanted;
            if (result(rank, member->call, block, index, &wanted) && member->output[block * BLOCK + index] != wanted)
                complain(TC_VALUE);
        }
    }
}

/* The caller goes on, and uses its memory for something else. */
static void use_again(tc_member *member)
{
    member->scribble--;
    for (uint64_t index = 0; index < (uint64_t)TC_MEMBERS * BLOCK; index++)
        member->input[index] = member->output[index] = member->scribble;
}

static bool is_untouched(const tc_member *member)
{
    for (uint64_t index = 0; index < (uint64_t)TC_MEMBERS * BLOCK; index++) {
        if (member->input[index] != member->scribble || member->output[index] != member->scribble)
            return false;
    }
    return true;
}

/* ---- a member's program ---- */

static int make_call(tc_member *member, const tc_call *call)
{
    rt_detail detail = {.status = RT_OK};
    const rt_team_call terms = {.dtype = RT_DTYPE_INT64,
                                .reduction = call->kind == 'x' ? RT_TEAM_ALL_TO_ALL : RT_TEAM_SUM,
                                .root = call->root,
                                .timeout_ns = INT64_MAX,
                                .detail = &detail};
    rt_team *team = &member->team;
    const void *inputs[TC_MEMBERS];
    void *outputs[TC_MEMBERS];
    rt_team_piece sends[TC_MEMBERS], receives[TC_MEMBERS];
    for (uint32_t rank = 0; rank < TC_MEMBERS; rank++) {
        inputs[rank] = &member->input[rank * BLOCK];
        outputs[rank] = &member->output[rank * BLOCK];
        sends[rank] = (rt_team_piece){&member->input[rank * BLOCK], call->bytes};
        receives[rank] = (rt_team_piece){outputs[rank], call->bytes};
    }
    switch (call->kind) {
    case 'a':
    case 'r': return rt_team_reduce(team, &terms, member->input, member->output, elements_of(call));
    case 's': return rt_team_reduce_scatter(team, &terms, inputs, member->output, elements_of(call));
    case 'g': return rt_team_gather_all(team, &terms, member->input, outputs, call->bytes);
    case 'b': return rt_team_broadcast(team, &terms, member->output, call->bytes);
    case 'x': return rt_team_exchange(team, &terms, sends, receives);
    default: return rt_team_barrier(team, &terms);
    }
}

static void live(void)
{
    uint32_t rank = (uint32_t)running;
    tc_member *member = &members[rank];
    for (; member->call < TC_CALLS && model->calls[rank][member->call].kind != 0; member->call++) {
        members_point();
        member->times = 0;
        member->inside = true;
        fill(member, rank);
        member->status[member->call] = make_call(member, &model->calls[rank][member->call]);
        members_saw(&member->status[member->call], sizeof(int));
        examine(member, rank);
        use_again(member);
        member->inside = false;
        members_point();
    }
    give_way(DONE);
}

/* ---- the world ---- */

static void begin_member(uint32_t rank)
{
    tc_member *member = &members[rank];
    rt_team *team = &member->team;
    uint32_t chunk = model->large ? TC_CHUNK_LARGE : TC_CHUNK;
    memset(team, 0, sizeof *team);
    memset(member->peers, 0, sizeof member->peers);
    memset(member->directs, 0, sizeof member->directs);
    memset(member->status, 0, sizeof member->status);
    member->state = READY;
    member->call = member->interrupts = member->times = 0;
    member->woken = member->inside = false;
    member->seen_last = 0;
    member->history = rank + 1;
    member->clock_ns = member->scribble = 0;
    use_again(member);
    team->options = (rt_team_options){.rank = rank, .size = model->members, .chunk = chunk, .slots = model->slots};
    team->rank = rank;
    team->size = model->members;
    team->maps = model->maps;
    team->terms = rt_way_terms_of(model->members, chunk, model->maps);
    team->peers = member->peers;
    team->directs = member->directs;
    for (uint32_t other = 0; other < model->members; other++) {
        member->peers[other].channel = (rt_channel *)(uintptr_t)(1 + rank * TC_MEMBERS + other); /* never looked into */
        member->peers[other].lanes[RT_LANE_COLLECTIVE] = (rt_lane){.team = team, .peer = other, .kind = RT_LANE_COLLECTIVE};
    }
    getcontext(&member->context);
    member->context.uc_stack.ss_sp = stacks[rank];
    member->context.uc_stack.ss_size = STACK;
    member->context.uc_link = NULL;
    makecontext(&member->context, live, 0);
}

static void resume(uint32_t rank)
{
    running = (int32_t)rank;
    swapcontext(&scheduler, &members[rank].context);
    running = -1;
}

void members_begin(const tc_model *given)
{
    model = given;
    violation = TC_NONE;
    disturbed = false;
    wires_begin(model);
    for (uint32_t rank = 0; rank < model->members; rank++)
        begin_member(rank);
    for (uint32_t rank = 0; rank < model->members; rank++)
        resume(rank); /* up to its first call */
}

static bool may_run(uint32_t rank)
{
    const tc_member *member = &members[rank];
    return member->state == READY || (member->state == WAITING && (member->woken || wires_signature(rank) != member->seen_last));
}

static void offer(search_step *actions, uint32_t *count, uint8_t kind, uint32_t member, uint32_t other)
{
    assert(*count < SEARCH_STEPS_MAX);
    actions[(*count)++] = (search_step){kind, (uint8_t)member, (uint8_t)other};
}

uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX])
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < model->members; rank++) {
        const tc_member *member = &members[rank];
        bool waits = member->state == WAITING && !member->woken;
        if (may_run(rank))
            offer(actions_out, &count, TC_RUN, rank, 0);
        if (waits && model->alone && member->times < TC_TIMES)
            offer(actions_out, &count, TC_TIME, rank, 0);
        if (waits && model->gives_up == rank + 1 && member->interrupts == 0)
            offer(actions_out, &count, TC_INTERRUPT, rank, 0);
        for (uint32_t other = 0; other < model->members; other++) {
            const tc_wire *wire = wires_wire(rank, other);
            if (wire->arrived < wire->sent)
                offer(actions_out, &count, TC_ARRIVE, rank, other);
        }
    }
    return count;
}

void members_do(search_step action)
{
    tc_member *member = &members[action.first];
    switch (action.kind) {
    case TC_RUN: resume(action.first); break;
    case TC_ARRIVE: wires_wire(action.first, action.second)->arrived++; break;
    case TC_TIME:
        member->times++;
        member->clock_ns += RT_NS_PER_S / 5;
        member->woken = true;
        break;
    default:
        member->interrupts = 1;
        member->woken = disturbed = true;
        break;
    }
    for (uint32_t rank = 0; rank < model->members; rank++) {
        if (!disturbed && !model->alone && !members[rank].inside && !is_untouched(&members[rank]))
            complain(TC_TOUCHED);
    }
}

tc_violation members_violation(void)
{
    return violation;
}

tc_violation members_settled(void)
{
    for (uint32_t rank = 0; rank < model->members; rank++) {
        if (members[rank].state != DONE)
            return TC_DEADLOCK;
    }
    return TC_NONE;
}

uint64_t members_digest(void)
{
    uint64_t hash = 1;
    for (uint32_t rank = 0; rank < model->members; rank++) {
        const tc_member *member = &members[rank];
        uint64_t words[] = {(uint64_t)member->state, member->call,   member->interrupts, member->times,
                            member->woken,           member->inside, member->history,    may_run(rank)};
        hash = search_mix(hash, words, sizeof words);
        for (uint64_t block = 0; block < model->members && member->inside; block++) {
            uint64_t used = model->calls[rank][member->call].bytes;
            hash = search_mix(hash, &member->input[block * BLOCK], used);
            hash = search_mix(hash, &member->output[block * BLOCK], used);
        }
        for (uint32_t other = 0; other < model->members; other++) {
            const tc_wire *wire = wires_wire(rank, other);
            hash = search_mix(hash, wire, sizeof wire->sent * 3);
        }
    }
    return hash;
}

/* ---- in words ---- */

void members_describe(search_step action, char text_out[SEARCH_TEXT])
{
    const tc_member *member = &members[action.first];
    switch (action.kind) {
    case TC_RUN:
        snprintf(text_out, SEARCH_TEXT, "rank %u: goes on in its call %u (%c)", action.first, member->call,
                 model->calls[action.first][member->call % TC_CALLS].kind);
        break;
    case TC_ARRIVE:
        snprintf(text_out, SEARCH_TEXT, "network: a message of rank %u arrives at rank %u", action.first, action.second);
        break;
    case TC_TIME: snprintf(text_out, SEARCH_TEXT, "rank %u: has waited for long", action.first); break;
    default: snprintf(text_out, SEARCH_TEXT, "rank %u: is interrupted", action.first); break;
    }
}
