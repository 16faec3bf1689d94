/* team_ends.h: teams of devices of this process over shm, or two over the fake libibverbs, each member run by a thread. For the tests
 * of csrc/team.
 *
 * Threads never CHECK: they report by values. */
#ifndef RT_TESTS_TEAM_ENDS_H
#define RT_TESTS_TEAM_ENDS_H

#include "core_ends.h"
#include "proto/edge_layout.h"
#include "team/agree.h"
#include "team/attached.h"
#include "team/call.h"
#include "team/copy.h"
#include "team/direct.h"
#include "team/direct_run.h"
#include "team/ending.h"
#include "team/lane.h"
#include "team/pair.h"
#include "team/reduce.h"
#include "team/run.h"
#include "team/team.h"
#include "team/transfer_run.h"
#include "team/transfer_state.h"
#include "team/wait.h"
#include "team/word.h"

enum { TEAM_MAX = 3, TEAM_CHUNK = 64 << 10, TEAM_CHUNKS = 8, TEAM_MEMORY = 24 << 20 };

static const char *team_provider = "shm";
static uint32_t team_overtakes; /* over the fake libibverbs, not 0: later WRITEs are placed before earlier ones, by this seed */

/* Where a member's tensors lie. */
enum team_memory { TEAM_ORDINARY, TEAM_READABLE, TEAM_WRITABLE };

typedef struct team_member {
    uint32_t rank, size;
    rt_device *device;
    rt_listener *listener;
    rt_region *words, *tensors;  /* the team's, and the tensors' or NULL */
    rt_region *shared[TEAM_MAX]; /* with each peer: the pair's part, then the team's block */
    uint8_t *bytes;              /* TEAM_MEMORY of them: for tensors */
    rt_channel *channels[TEAM_MAX];
    rt_remote *remotes[TEAM_MAX], *blocks[TEAM_MAX]; /* the pair's part of the peer; the same and its block */
    rt_pair *pairs[TEAM_MAX];
    rt_team *team;
    rt_detail detail;
    int64_t timeout_ns;
    /* of the thread */
    pthread_t thread;
    void (*program)(struct team_member *self);
    int status;     /* of the first call that failed */
    uint64_t wrong; /* bytes or elements that are not what they should be */
} team_member;

typedef struct team_ends {
    uint32_t size;
    team_member members[TEAM_MAX];
} team_ends;

/* Loads the fake libibverbs, or lets it go, where it is needed. */
static inline void team_fake(bool load)
{
#if __has_include(<infiniband/verbs.h>)
    if (strcmp(team_provider, "verbs") == 0)
        load ? begin() : end();
    for (int number = 0; number < 2 && load && team_overtakes != 0; number++) {
        faked.fake_make_infiniband(number);
        faked.fake_overtake(number, team_overtakes + (uint32_t)number);
    }
#endif
    (void)load;
}

static inline rt_team_options team_options(uint32_t rank, uint32_t size)
{
    return (rt_team_options){.rank = rank, .size = size, .chunk = TEAM_CHUNK, .slots = 8, .spins = 0};
}

static inline void team_member_begin(team_member *member, uint32_t rank, uint32_t size, enum team_memory memory)
{
    const core_setup setup = {.provider = team_provider};
    const uint32_t rights = memory == TEAM_READABLE ? RT_RIGHT_REMOTE_READ : CORE_BOTH;
    rt_team_options options = team_options(rank, size);
    *member = (team_member){.rank = rank, .size = size, .timeout_ns = CORE_PATIENCE_NS};
    member->device = core_device(&setup, "", rank == 0);
    bool maps = member->device->limits.maps_remote;
    CHECK_INT(rt_listener_open(member->device, "127.0.0.1:0", NULL, 0, &member->listener, &member->detail), RT_OK);
    member->words = core_region(member->device, rt_team_words_size(&options), 0);
    for (uint32_t peer = 0; peer < size; peer++)
        if (peer != rank)
            member->shared[peer] =
                core_region(member->device, rt_pair_size(TEAM_CHUNK, TEAM_CHUNKS, maps) + rt_team_block_size(&options, maps),
                            CORE_BOTH);
    if (memory != TEAM_ORDINARY)
        member->tensors = core_region(member->device, TEAM_MEMORY, rights);
    member->bytes = memory == TEAM_ORDINARY ? malloc(TEAM_MEMORY) : (uint8_t *)(uintptr_t)rt_region_address(member->tensors);
    CHECK(member->bytes != NULL);
    CHECK_INT(rt_team_create(member->device, member->words, 0, &options, &member->team, &member->detail), RT_OK);
}

/* Like rt_attach, which returns RT_E_AGAIN when the peer gave no answer within a slice. */
static inline int team_attach_told(rt_attachments *table, rt_channel *channel, const rt_announcement *told, uint64_t size,
                                   rt_attached **attached_out)
{
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    int status = RT_E_AGAIN;
    while (status == RT_E_AGAIN && rt_clock_now_ns() < end)
        status = rt_attach(table, channel, told, size, RT_SLICE_NS, attached_out);
    return status;
}

/* A range of the peer's memory. */
static inline rt_remote *team_attach(rt_channel *channel, rt_region *region, uint64_t offset, uint64_t size)
{
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t handle_size;
    rt_remote *remote = NULL;
    rt_detail detail;
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    CHECK_INT(rt_region_handle(region, offset, size, handle, &handle_size, &detail), RT_OK);
    int status = RT_E_AGAIN;
    while (status == RT_E_AGAIN && rt_clock_now_ns() < end)
        status = rt_remote_attach(channel, handle, handle_size, RT_SLICE_NS, &remote, &detail);
    CHECK_INT(status, RT_OK);
    return remote;
}

static inline void team_member_join(team_member *member, team_member *other)
{
    uint32_t peer = other->rank;
    rt_channel *channel = member->channels[peer];
    rt_team_options options = team_options(member->rank, member->size);
    bool maps = member->device->limits.maps_remote;
    uint64_t part = rt_pair_size(TEAM_CHUNK, TEAM_CHUNKS, maps), block = rt_team_block_size(&options, maps);
    member->remotes[peer] = team_attach(channel, other->shared[member->rank], 0, part);
    member->blocks[peer] = team_attach(channel, other->shared[member->rank], 0, part + block);
    CHECK_INT(rt_pair_create(channel, member->shared[peer], 0, member->remotes[peer], TEAM_CHUNK, TEAM_CHUNKS,
                             &member->pairs[peer], &member->detail),
              RT_OK);
    const rt_team_place place = {member->blocks[peer], part, block};
    CHECK_INT(rt_team_join(member->team, peer, member->pairs[peer], member->shared[peer], part, &place, &member->detail), RT_OK);
}

static inline void team_begin(team_ends *ends, uint32_t size, const enum team_memory *memory)
{
    ends->size = size;
    team_fake(true);
    for (uint32_t rank = 0; rank < size; rank++)
        team_member_begin(&ends->members[rank], rank, size, memory[rank]);
    for (uint32_t high = 1; high < size; high++) {
        for (uint32_t low = 0; low < high; low++) {
            team_member *from = &ends->members[high], *to = &ends->members[low];
            core_ends joined = {.near = from->device, .far = to->device, .listener = to->listener};
            core_join(&joined, &from->channels[low], &to->channels[high]);
        }
    }
    for (uint32_t rank = 0; rank < size; rank++)
        for (uint32_t peer = 0; peer < size; peer++)
            if (peer != rank)
                team_member_join(&ends->members[rank], &ends->members[peer]);
}

/* Keeps the status of the member's first call that failed. */
static inline void team_note(team_member *self, int status)
{
    if (self->status == RT_OK)
        self->status = status;
}

static inline void *team_main(void *argument)
{
    team_member *self = argument;
    self->program(self);
    return NULL;
}

/* Runs a program for each member, and waits for all. */
static inline void team_run(team_ends *ends, void (*const *programs)(team_member *))
{
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        ends->members[rank].program = programs[rank];
        CHECK_INT(pthread_create(&ends->members[rank].thread, NULL, team_main, &ends->members[rank]), 0);
    }
    for (uint32_t rank = 0; rank < ends->size; rank++)
        CHECK_INT(pthread_join(ends->members[rank].thread, NULL), 0);
}

static inline void team_run_alike(team_ends *ends, void (*program)(team_member *))
{
    void (*programs[TEAM_MAX])(team_member *) = {program, program, program};
    team_run(ends, programs);
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        if (ends->members[rank].status != RT_OK)
            printf("rank %u: %s\n", rank, ends->members[rank].detail.text);
        CHECK_INT(ends->members[rank].status, RT_OK);
        CHECK_INT(ends->members[rank].wrong, 0);
    }
}

static inline rt_team_stats team_stats(team_ends *ends, uint32_t rank)
{
    rt_team_stats stats;
    rt_team_get_stats(ends->members[rank].team, &stats);
    return stats;
}

/* Drops a member's references to the objects that it stands on. */
static inline void team_member_let_go(team_member *member)
{
    for (uint32_t peer = 0; peer < member->size; peer++) {
        if (peer == member->rank)
            continue;
        rt_pair_drop(member->pairs[peer]);
        rt_remote_drop(member->blocks[peer]);
        rt_remote_drop(member->remotes[peer]);
        rt_channel_drop(member->channels[peer]);
    }
    rt_listener_close(member->listener);
}

static inline void team_member_end(team_member *member)
{
    core_check_words(&member->detail);
    rt_device_close(member->device);
    rt_region_drop(member->words);
    for (uint32_t peer = 0; peer < member->size; peer++)
        if (peer != member->rank)
            rt_region_drop(member->shared[peer]);
}

static inline void team_end(team_ends *ends)
{
    for (uint32_t rank = 0; rank < ends->size; rank++)
        rt_team_leave(ends->members[rank].team);
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        rt_team_drop(ends->members[rank].team);
        team_member_let_go(&ends->members[rank]);
    }
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        team_member *member = &ends->members[rank];
        team_member_end(member);
        if (member->tensors != NULL)
            rt_region_drop(member->tensors);
        else
            free(member->bytes);
    }
    team_fake(false);
}

#endif
