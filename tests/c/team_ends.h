/* team_ends.h: teams of devices of this process over shm, or two over the fake libibverbs, each member run by a thread. For the tests
 * of csrc/collective.
 *
 * Threads never CHECK: they report by values. */
#ifndef RT_TESTS_TEAM_ENDS_H
#define RT_TESTS_TEAM_ENDS_H

#include "collective/direct.h"
#include "core_ends.h"

enum { TEAM_MAX = 3, TEAM_CHUNK = 64 << 10, TEAM_MEMORY = 24 << 20 };

static const char *team_provider = "shm";

/* Where a member's tensors lie. */
enum team_memory { TEAM_ORDINARY, TEAM_READABLE, TEAM_WRITABLE };

typedef struct team_member {
    uint32_t rank, size;
    rt_device *device;
    rt_listener *listener;
    rt_region *region, *tensors; /* the team's, and the tensors' or NULL */
    uint8_t *bytes;              /* TEAM_MEMORY of them: for tensors */
    rt_channel *channels[TEAM_MAX];
    rt_remote *remotes[TEAM_MAX];
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
#endif
    (void)load;
}

static inline void team_member_begin(team_member *member, uint32_t rank, uint32_t size, enum team_memory memory)
{
    const core_setup setup = {.provider = team_provider};
    const uint32_t rights = memory == TEAM_READABLE ? RT_RIGHT_REMOTE_READ : CORE_BOTH;
    rt_team_options options = {.rank = rank, .size = size, .chunk = TEAM_CHUNK, .slots = 8, .spins = 0};
    *member = (team_member){.rank = rank, .size = size, .timeout_ns = CORE_PATIENCE_NS};
    member->device = core_device(&setup, "", rank == 0);
    CHECK_INT(rt_listener_open(member->device, "127.0.0.1:0", NULL, 0, &member->listener, &member->detail), RT_OK);
    member->region = core_region(member->device, rt_team_region_size(&options, member->device->limits.maps_remote), CORE_BOTH);
    if (memory != TEAM_ORDINARY)
        member->tensors = core_region(member->device, TEAM_MEMORY, rights);
    member->bytes = memory == TEAM_ORDINARY ? malloc(TEAM_MEMORY) : (uint8_t *)(uintptr_t)rt_region_address(member->tensors);
    CHECK(member->bytes != NULL);
    CHECK_INT(rt_team_create(member->device, member->region, &options, &member->team, &member->detail), RT_OK);
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
    for (uint32_t rank = 0; rank < size; rank++) {
        team_member *member = &ends->members[rank];
        for (uint32_t peer = 0; peer < size; peer++) {
            if (peer == rank)
                continue;
            member->remotes[peer] = core_attach(member->channels[peer], ends->members[peer].region);
            CHECK_INT(rt_team_join(member->team, peer, member->channels[peer], member->remotes[peer], &member->detail), RT_OK);
        }
    }
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

static inline void team_end(team_ends *ends)
{
    for (uint32_t rank = 0; rank < ends->size; rank++)
        rt_team_leave(ends->members[rank].team);
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        team_member *member = &ends->members[rank];
        rt_team_drop(member->team);
        for (uint32_t peer = 0; peer < ends->size; peer++) {
            if (peer == rank)
                continue;
            rt_remote_drop(member->remotes[peer]);
            rt_channel_drop(member->channels[peer]);
        }
        rt_listener_close(member->listener);
    }
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        team_member *member = &ends->members[rank];
        rt_device_close(member->device);
        rt_region_drop(member->region);
        if (member->tensors != NULL)
            rt_region_drop(member->tensors);
        else
            free(member->bytes);
    }
    team_fake(false);
}

#endif
